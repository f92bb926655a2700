"""Functions of the state as tensors: at the observations' places, or on the grid before these."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from xr_daisi.errors import OperatorError, problem
from xr_daisi.interpolation import LevelKey
from xr_daisi.operators import GridFunction, Group, Operator, PointFunction
from xr_daisi.tensor_interpolation import Interpolations, Part
from xr_daisi.transforms import TRANSFORMS

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["FieldFunction", "PlaceFunction"]


class PlaceFunction:
    """A function of state variables at the places of one group.

    Parameters
    ----------
    group : Group
        The observations.
    tensors : Interpolations
        That bring the variables there.
    function : callable
        Takes ``{state variable: tensor (batch, n)}`` in physical units.
    """

    def __init__(self, group: Group, tensors: Interpolations, function: PointFunction) -> None:
        self._group, self._tensors, self._function = group, tensors, function
        self._variables: dict[str, Part] = {}
        self._worked = False
        # Named operators are checked before any sampling; a function asks for what it likes.
        for name in group.operator.variables:
            self._part(name)

    def __call__(self, flat: Tensor) -> Tensor:
        """Apply it to flattened states ``(batch, channel * space)``; returns (batch, n)."""
        operator, shape = self._group.operator, (len(flat), len(self._group.points))
        subject = f"{operator.observed}, operator {operator.name!r}"
        expected = f"a floating-point tensor of shape {shape}, members by observations"
        result = _checked(lambda: self._function(_PlaceValues(self, flat)), subject, expected, self)
        if tuple(result.shape) != shape:
            found = f"a result of shape {tuple(result.shape)}"
            remedy = "work on each observation separately and keep both dimensions"
            raise OperatorError(problem(subject, found, expected, remedy))
        self._worked = True
        change = operator.conversion
        return result if change.is_identity else change.apply(result)

    def variable(self, name: str, flat: Tensor) -> Tensor:
        """Physical values (batch, n) of one state variable."""
        return self._part(name)(flat)

    def _part(self, name: str) -> Part:
        if name not in self._variables:
            plain = Operator(self._group.operator.observed, "identity", (name,))
            self._variables[name] = self._tensors.of(replace(self._group, operator=plain))
        return self._variables[name]

    def levels(self, name: str) -> Tensor:
        """Vertical coordinate (n,) of the places, in the units of a variable's levels."""
        levels = self._tensors.layout.variables[name][1] or ()
        if levels not in self._group.points.vertical:
            return self._tensors.floats(np.full(len(self._group.points), levels[0]))
        index, share = self._group.points.vertical[levels]
        return self._tensors.floats(place_levels(np.asarray(levels), index, share))

    @property
    def worked(self) -> bool:
        """Whether it has given a result before."""
        return self._worked

    @property
    def names(self) -> tuple[str, ...]:
        """State variables that can be had."""
        return tuple(self._tensors.layout.variables)


class _PlaceValues(Mapping[str, "Tensor"]):
    """``{state variable: tensor (batch, n)}``; each is interpolated when it is asked for."""

    def __init__(self, function: PlaceFunction, flat: Tensor) -> None:
        self._function, self._flat = function, flat

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._function.names:
            raise KeyError(name)
        return self._function.variable(name, self._flat)

    def __iter__(self) -> Iterator[str]:
        return iter(self._function.names)

    def __len__(self) -> int:
        return len(self._function.names)

    def levels(self, name: str) -> Tensor:
        """Vertical coordinate (n,) of the places, in the units of a variable's levels."""
        return self._function.levels(name)


class FieldFunction:
    """A function of whole fields, interpolated to the places of one group.

    Parameters
    ----------
    group : Group
        The observations.
    tensors : Interpolations
        With the normalisation of the states.
    function : GridFunction
        Takes ``{state variable: tensor (batch, [level,] *space)}`` in physical units.
    """

    def __init__(self, group: Group, tensors: Interpolations, function: GridFunction) -> None:
        import torch

        self._group, self._function, self._layout = group, function, tensors.layout
        layout = tensors.layout
        self._worked = False
        self._fields: dict[str, tuple[slice, tuple[int, ...], Tensor, Tensor, Any]] = {}
        for name, (first, levels) in layout.variables.items():
            size = len(levels or (0,))
            index = np.arange(first * layout.space_size, (first + size) * layout.space_size)
            shape = (*(() if levels is None else (size,)), *layout.space_shape)
            std, mean = (
                tensors.floats(tensors.at(kind, index)).reshape(shape)
                if tensors.normalization is not None
                else torch.tensor(value, dtype=tensors.dtype, device=tensors.device)
                for kind, value in (("std", 1.0), ("mean", 0.0))
            )
            transforms = tensors.normalization.transforms if tensors.normalization else ()
            kind = transforms[first] if transforms else None
            inverse = TRANSFORMS[kind].inverse if kind else None
            self._fields[name] = (slice(first, first + size), shape, std, mean, inverse)
        self._tensors = tensors
        self._gathers: dict[LevelKey | None, tuple[Tensor, Tensor]] = {}

    @property
    def worked(self) -> bool:
        """Whether it has given a result before."""
        return self._worked

    @property
    def names(self) -> tuple[str, ...]:
        """State variables that can be had."""
        return tuple(self._fields)

    def __call__(self, flat: Tensor) -> Tensor:
        """Apply it to flattened states ``(batch, channel * space)``; returns (batch, n)."""
        layout, operator = self._layout, self._group.operator
        subject = f"{operator.observed}, operator {operator.name!r}"
        # States of a trajectory are looked at one by one.
        states = flat.reshape(-1, layout.state_channels, *layout.space_shape)
        fields = {}
        for name, (channels, shape, std, mean, inverse) in self._fields.items():
            physical = states[:, channels].reshape(len(states), *shape) * std + mean
            fields[name] = physical if inverse is None else inverse(physical)
        space = f"*{layout.space_shape}"
        expected = f"a floating-point tensor ({len(states)}, [level,] {space})"
        result = _checked(lambda: self._function(fields), subject, expected, self)
        levels = self._levels_of(tuple(result.shape), len(states))
        if levels is False:
            found = f"a result of shape {tuple(result.shape)}"
            remedy = "keep the dimensions of the fields; levels must be those of a variable"
            raise OperatorError(problem(subject, found, expected, remedy))
        self._worked = True
        index, weight = self._gather(levels)
        values = result.reshape(len(flat), -1)
        observed: Any = operator.conversion.offset
        for row, share in zip(index, weight, strict=True):
            observed = observed + values.index_select(1, row) * share
        found_values: Tensor = observed
        return found_values

    def _levels_of(self, shape: tuple[int, ...], states: int) -> LevelKey | bool | None:
        """Levels of a result of this shape; None without, False where it does not fit."""
        space = self._layout.space_shape
        if shape == (states, *space):
            return None
        for levels in self._group.points.vertical:
            if shape == (states, len(levels), *space):
                return levels
        return False

    def _gather(self, levels: LevelKey | bool | None) -> tuple[Tensor, Tensor]:
        key = None if isinstance(levels, bool) else levels
        if key not in self._gathers:
            points = self._group.points
            if points.moments is not None:
                moments = replace(points.moments, channels=len(key or (0,)))
                points = replace(points, moments=moments)
            gather = points.gather(0, key, self._layout.space_size)
            weight = gather.weight * self._group.operator.conversion.factor
            self._gathers[key] = self._tensors.indices(gather.index), self._tensors.floats(weight)
        return self._gathers[key]


def _checked(
    call: Callable[[], Any],
    subject: str,
    expected: str,
    function: PlaceFunction | FieldFunction,
) -> Tensor:
    """Call a user's function; say what is wrong with it in terms of the observed variable."""
    import torch

    try:
        result: Any = call()
    except OperatorError:
        raise
    except Exception as error:
        # What worked before and now lacks a forward mode is torch's matter, not the user's.
        if function.worked and isinstance(error, (RuntimeError, NotImplementedError)):
            raise
        found = f"{type(error).__name__}: {error}"
        remedy = f"it is given {{state variable: tensor}} for {list(function.names)}"
        raise OperatorError(problem(subject, found, expected, remedy)) from error
    if not isinstance(result, torch.Tensor) or not result.is_floating_point():
        found = f"a result of type {getattr(result, 'dtype', type(result).__name__)}"
        remedy = "use torch functions on the tensors it is given"
        raise OperatorError(problem(subject, found, expected, remedy))
    return result


def place_levels(levels: np.ndarray, index: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Vertical coordinate from level numbers and weights, which are linear in log pressure.

    Parameters
    ----------
    levels : ndarray, shape (m,)
        Pressures.
    index, share : ndarray, shape (k, n)
        Level numbers and weights of n places.

    Returns
    -------
    ndarray, shape (n,)
        Pressures.
    """
    pressures: np.ndarray = np.exp(np.sum(share * np.log(levels)[index], axis=0))
    return pressures
