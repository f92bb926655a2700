"""H and the observations of one time as tensors, for guidance.

Interpolation is a gather and a weighted sum, with normalisation and change of units folded into the
weights; functions get state variables at the observations' places. All of it is differentiable, in
reverse, forward and twice.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from xr_daisi.errors import OperatorError, problem
from xr_daisi.interpolation import Gather, Ints
from xr_daisi.operators import Group, Operator, PointFunction, StateLayout
from xr_daisi.transforms import TRANSFORMS
from xr_daisi.units import Conversion

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from xr_daisi.state import Normalization

__all__ = ["TensorObservations"]


class TensorObservations:
    """Observations of one time as tensors, with the operator H.

    Parameters
    ----------
    values, errors : array of float, shape (n,)
        Observed values and standard deviations of their errors.
    groups : sequence of Group
        Where they lie and what they observe, in the order of the values.
    layout : StateLayout
        The state's variables and grid.
    normalization : Normalization or None
        Of the states.
    device : str or torch.device
        Where the tensors live.
    dtype : torch.dtype or None
        Of the states.

    Attributes
    ----------
    values, error_std : Tensor, shape (n,)
        In the observations' own units.
    """

    def __init__(
        self,
        values: NDArray[np.float64],
        errors: NDArray[np.float64],
        groups: Sequence[Group],
        layout: StateLayout,
        normalization: Normalization | None,
        device: str | torch.device,
        dtype: torch.dtype | None,
    ) -> None:
        import torch

        work = torch.promote_types(dtype or torch.float32, torch.float32)
        tensors = _Tensors(layout, normalization, torch.device(device), work)
        self.values: Tensor = tensors.floats(values)
        self.error_std: Tensor = tensors.floats(errors)
        self._shape = (layout.channels, *layout.space_shape)
        self._parts: list[_Part] = []
        for mergeable, run in itertools.groupby(groups, tensors.is_linear):
            if mergeable:
                self._parts.append(tensors.linear(list(run)))
            else:
                self._parts.extend(tensors.part(group) for group in run)

    def observe(self, x: Tensor, /) -> Tensor:
        """Apply H.

        Parameters
        ----------
        x : Tensor, shape (batch, channel, *space)
            Normalised states.

        Returns
        -------
        Tensor, shape (batch, n)
            In the observations' own units.

        Raises
        ------
        OperatorError
            Where a user's function fails or returns something else than (batch, n).
        """
        import torch

        if tuple(x.shape[1:]) != self._shape:
            found, expected = (
                f"shape {tuple(x.shape)}",
                f"(batch, {', '.join(map(str, self._shape))})",
            )
            raise OperatorError(problem("state", found, expected))
        flat = x.reshape(x.shape[0], -1)
        if not self._parts:
            return flat[:, :0].to(self.values.dtype)
        parts = [part(flat) for part in self._parts]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


_Part = Callable[["Tensor"], "Tensor"]


@dataclass(frozen=True, eq=False)
class _Linear:
    """Weighted sums of a flattened state plus a constant."""

    index: Tensor
    weight: Tensor
    constant: Tensor

    def __call__(self, flat: Tensor) -> Tensor:
        # One gather per corner: index_select has a fast backward, and (batch, n) is all it holds.
        result = self.constant
        for index, weight in zip(self.index, self.weight, strict=True):
            result = result + flat.index_select(1, index) * weight
        return result


@dataclass(frozen=True, eq=False)
class _Transformed:
    """Interpolation of a variable that the prior knows transformed: back first, at every node."""

    index: Tensor
    weight: Tensor
    std: Tensor
    mean: Tensor
    inverse: Callable[[Any], Any]
    conversion: Conversion

    def __call__(self, flat: Tensor) -> Tensor:
        result: Tensor | float = self.conversion.offset
        rows = zip(self.index, self.weight, self.std, self.mean, strict=True)
        for index, weight, std, mean in rows:
            physical = self.inverse(flat.index_select(1, index) * std + mean)
            result = result + physical * (self.conversion.factor * weight)
        return cast("Tensor", result)


class _Function:
    """A function of state variables at the places of one group."""

    def __init__(self, group: Group, tensors: _Tensors, function: PointFunction) -> None:
        self._group, self._tensors, self._function = group, tensors, function
        self._variables: dict[str, _Part] = {}
        self._worked = False
        # Named operators are checked before any sampling; a function asks for what it likes.
        for name in group.operator.variables:
            self._part(name)

    def __call__(self, flat: Tensor) -> Tensor:
        import torch

        operator, shape = self._group.operator, (len(flat), len(self._group.points))
        subject = f"{operator.observed}, operator {operator.name!r}"
        expected = f"a floating-point tensor of shape {shape}, members by observations"
        try:
            result: Any = self._function(_PointValues(self, flat))
        except OperatorError:
            raise
        except Exception as error:
            # What worked before and now lacks a forward mode is torch's matter, not the user's.
            if self._worked and isinstance(error, (RuntimeError, NotImplementedError)):
                raise
            found = f"{type(error).__name__}: {error}"
            remedy = f"it is given {{state variable: tensor}} for {list(self.names)}"
            raise OperatorError(problem(subject, found, expected, remedy)) from error
        if not isinstance(result, torch.Tensor) or not result.is_floating_point():
            found = f"a result of type {getattr(result, 'dtype', type(result).__name__)}"
            remedy = "use torch functions on the tensors it is given"
            raise OperatorError(problem(subject, found, expected, remedy))
        if tuple(result.shape) != shape:
            found = f"a result of shape {tuple(result.shape)}"
            remedy = "work on each observation separately and keep both dimensions"
            raise OperatorError(problem(subject, found, expected, remedy))
        self._worked = True
        return result

    def variable(self, name: str, flat: Tensor) -> Tensor:
        """Physical values (batch, n) of one state variable."""
        return self._part(name)(flat)

    def _part(self, name: str) -> _Part:
        if name not in self._variables:
            plain = Operator(self._group.operator.observed, "identity", (name,))
            self._variables[name] = self._tensors.part(replace(self._group, operator=plain))
        return self._variables[name]

    @property
    def names(self) -> tuple[str, ...]:
        """State variables that can be had."""
        return tuple(self._tensors.layout.variables)


class _PointValues(Mapping[str, "Tensor"]):
    """``{state variable: tensor (batch, n)}``; each is interpolated when it is asked for."""

    def __init__(self, function: _Function, flat: Tensor) -> None:
        self._function, self._flat = function, flat

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._function.names:
            raise KeyError(name)
        return self._function.variable(name, self._flat)

    def __iter__(self) -> Iterator[str]:
        return iter(self._function.names)

    def __len__(self) -> int:
        return len(self._function.names)


@dataclass(frozen=True, eq=False)
class _Tensors:
    """Turns groups into tensors on a device, with normalisation and units folded in."""

    layout: StateLayout
    normalization: Normalization | None
    device: torch.device
    dtype: torch.dtype

    def floats(self, values: NDArray[Any]) -> Tensor:
        """Floating-point tensor on the device."""
        import torch

        return torch.as_tensor(np.array(values, dtype=np.float64)).to(self.device, self.dtype)

    def indices(self, index: Ints) -> Tensor:
        """Index tensor on the device."""
        import torch

        # int64: the backward of index_select is ten times slower with int32
        return torch.as_tensor(np.ascontiguousarray(index)).to(self.device)

    def is_linear(self, group: Group) -> bool:
        """Whether H of a group is a weighted sum of the normalised state, plus a constant."""
        return group.operator.function is None and self._inverse(group) is None

    def part(self, group: Group) -> _Part:
        """H of one group."""
        if group.operator.function is not None:
            return _Function(group, self, group.operator.function)
        inverse = self._inverse(group)
        if inverse is None:
            return self.linear([group])
        gather = self._gather(group)
        return _Transformed(
            self.indices(gather.index),
            self.floats(gather.weight),
            self.floats(self._at("std", gather.index)),
            self.floats(self._at("mean", gather.index)),
            inverse,
            group.operator.conversion,
        )

    def linear(self, groups: Sequence[Group]) -> _Linear:
        """H of several groups in one gather."""
        parts = [self._scaled(group) for group in groups]
        corners = max(len(index) for index, _, _ in parts)
        pads = [((0, corners - len(index)), (0, 0)) for index, _, _ in parts]
        # A node of its own, not the first of the state: that may be NaN, and zero times NaN is NaN.
        index = np.concatenate(
            [np.pad(part[0], pad, mode="edge") for part, pad in zip(parts, pads, strict=True)], 1
        )
        weight = np.concatenate(
            [np.pad(part[1], pad) for part, pad in zip(parts, pads, strict=True)], 1
        )
        constant = np.concatenate([part[2] for part in parts])
        return _Linear(self.indices(index), self.floats(weight), self.floats(constant))

    def _scaled(self, group: Group) -> tuple[Ints, NDArray[np.float64], NDArray[np.float64]]:
        """Index, weight and constant that turn normalised states into the observation's units."""
        gather = self._gather(group)
        weight, constant = gather.weight, np.zeros(gather.weight.shape[1])
        if self.normalization is not None:
            constant = np.sum(weight * self._at("mean", gather.index), axis=0)
            weight = weight * self._at("std", gather.index)
        change = group.operator.conversion
        return gather.index, change.factor * weight, change.factor * constant + change.offset

    def _gather(self, group: Group) -> Gather:
        (variable,) = group.operator.variables
        try:
            return self.layout.gather(variable, group.points)
        except KeyError:
            levels = self.layout.variables[variable][1] or ()
            found = f"no vertical coordinate, while {variable!r} has {len(levels)} levels"
            remedy = "give the observations the vertical coordinate of the state"
            raise OperatorError(
                problem(group.operator.observed, found, "a level for every value", remedy)
            ) from None

    def _inverse(self, group: Group) -> Callable[[Any], Any] | None:
        """Inverse of the transform that the prior applies to the variable; None without one."""
        transforms = () if self.normalization is None else self.normalization.transforms
        if not any(transforms):
            return None
        name = transforms[self.layout.variables[group.operator.variables[0]][0]]
        return TRANSFORMS[name].inverse if name else None

    def _at(self, name: str, index: Ints) -> NDArray[Any]:
        """Mean or deviation of the normalisation at positions in the flattened state."""
        values = np.asarray(getattr(self.normalization, name), dtype=np.float64)
        if values.size == 1:
            return np.broadcast_to(values.reshape(()), index.shape)
        if values.shape[0] == values.size == self.layout.channels:
            return values.reshape(-1)[index // self.layout.space_size]
        shape = (self.layout.channels, *self.layout.space_shape)
        return np.broadcast_to(values, shape).reshape(-1)[index]
