"""Interpolation as tensors: weighted sums of normalised states, in the observations' units.

Normalisation and change of units are folded into the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from xr_daisi.errors import OperatorError, problem
from xr_daisi.interpolation import Gather, Ints
from xr_daisi.operators import Group, StateLayout
from xr_daisi.transforms import TRANSFORMS
from xr_daisi.units import Conversion

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from xr_daisi.state import Normalization

__all__ = ["Interpolations", "Part"]

FEW_NODES = 16
"""Nodes of interpolation in space, height and time together."""

Part = Callable[["Tensor"], "Tensor"]
"""Flattened normalised states ``(batch, channel * space)`` to observations ``(batch, n)``."""


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


@dataclass(frozen=True, eq=False)
class Interpolations:
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

    def corners(self, group: Group) -> int:
        """Nodes of each observation where H is a weighted sum of the normalised state; else 0.

        Groups of about as many can be put together; a footprint of hundreds would make every
        station as large as itself.
        """
        if group.operator.function is not None or self._inverse(group) is not None:
            return 0
        return max(len(group.points.index), FEW_NODES)

    def of(self, group: Group) -> Part:
        """H of a group that observes one variable."""
        inverse = self._inverse(group)
        if inverse is None:
            return self.linear([group])
        gather = self._gather(group)
        return _Transformed(
            self.indices(gather.index),
            self.floats(gather.weight),
            self.floats(self.at("std", gather.index)),
            self.floats(self.at("mean", gather.index)),
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
            constant = np.sum(weight * self.at("mean", gather.index), axis=0)
            weight = weight * self.at("std", gather.index)
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

    def at(self, name: str, index: Ints) -> NDArray[Any]:
        """Mean or deviation of the normalisation at positions in the flattened state."""
        values = np.asarray(getattr(self.normalization, name), dtype=np.float64)
        if values.size == 1:
            return np.broadcast_to(values.reshape(()), index.shape)
        if values.shape[0] == values.size == self.layout.channels:
            return values.reshape(-1)[index // self.layout.space_size]
        shape = (self.layout.channels, *self.layout.space_shape)
        return np.broadcast_to(values, shape).reshape(-1)[index]
