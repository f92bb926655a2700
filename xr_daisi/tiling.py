r"""Large grids: the velocity of a whole field from overlapping tiles of it.

The state stays one whole field. At every evaluation, so at every step of a solver, it is cut into
tiles, the network sees the tiles, and their velocities are blended. Noise, observations and
guidance belong to the whole field and know nothing of tiles; gradients pass through cutting and
blending.

Along each axis all tiles have the same length. The weight of a tile is 1 inside, and falls over an
overlap with a neighbour as the square of a sine; next to the edge, where the network had to guess
what lies beyond, it is 0. At a true edge of the domain it stays 1. The weights are divided by their
sum. A periodic axis is closed: tiles run across its ends. An axis that one tile covers is not cut.

This module knows tensors only.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from xr_daisi.devices import automatic_batch
from xr_daisi.errors import SettingsError, problem, raise_problems
from xr_daisi.flow import Flow
from xr_daisi.inference import Inference

__all__ = ["TileAxis", "TiledFlow", "Tiling"]

OVERLAP = 4
"""An overlap that is not given is this part of the tile: a quarter."""

MARGIN = 0.25
"""Share of an overlap, next to the edge of a tile, where the tile has no weight."""

KEPT_BYTES = 1 << 30
"""What the graphs of all tiles may hold together; beyond that, backwards compute them anew."""


@dataclass(frozen=True)
class Tiling:
    """How a user wants a field to be cut.

    Attributes
    ----------
    tile, overlap : tuple of int
        Grid points along each space dimension.
    """

    tile: tuple[int, ...]
    overlap: tuple[int, ...]

    @classmethod
    def of(cls, tile: object, overlap: object, dimensions: int) -> Tiling | None:
        """Read the keywords `tile` and `overlap`.

        Parameters
        ----------
        tile : int, sequence of int, or None
            Grid points along each space dimension; one number is for all. None is no tiling.
        overlap : int, sequence of int, or None
            Points that neighbours share; None is a quarter of the tile.
        dimensions : int
            Number of space dimensions.

        Returns
        -------
        Tiling or None
            None without tiles.

        Raises
        ------
        SettingsError
            For anything but one number, or one for each dimension; a tile without points; an
            overlap that is negative or more than half a tile; an overlap without tiles.
        """
        if tile is None:
            if overlap is not None:
                expected = "none without tile"
                raise SettingsError(problem("overlap", repr(overlap), expected, "pass tile=..."))
            return None
        expected = "an integer" + (f", or {dimensions} of them" if dimensions > 1 else "")
        tiles = _numbers(tile, dimensions)
        if tiles is None or min(tiles) < 1:
            raise SettingsError(problem("tile", repr(tile), f"{expected}, at least 1"))
        if overlap is None:
            return cls(tiles, tuple(n // OVERLAP for n in tiles))
        overlaps = _numbers(overlap, dimensions)
        if overlaps is None or min(overlaps) < 0:
            raise SettingsError(problem("overlap", repr(overlap), f"{expected}, at least 0"))
        remedy = "use a smaller overlap, or larger tiles"
        problems = [
            problem("overlap", f"{o} of a tile of {n}", f"at most half of it, {n // 2}", remedy)
            for n, o in zip(tiles, overlaps, strict=True)
            if 2 * o > n
        ]
        raise_problems(SettingsError, problems)
        return cls(tiles, overlaps)

    def to_dict(self) -> dict[str, list[int]]:
        """Return the keywords as plain JSON types."""
        return {"tile": list(self.tile), "overlap": list(self.overlap)}

    def tiled(self, flow: Flow, sizes: Sequence[int], periodic: Sequence[bool]) -> Flow:
        """Return a flow that works in tiles; the flow itself where one tile covers all.

        Parameters
        ----------
        flow : Flow
            Of whole fields.
        sizes : sequence of int
            Grid points along each space dimension.
        periodic : sequence of bool
            Which of them are periodic.
        """
        inner = _inner(flow.network)
        stride = inner.stride if hasattr(inner, "with_periodic") else 1
        whole = zip(sizes, self.tile, self.overlap, periodic, strict=True)
        axes = [TileAxis.of(*one, stride=stride) for one in whole]
        return flow if all(axis.is_whole for axis in axes) else TiledFlow(flow, axes, periodic)


def _numbers(given: object, dimensions: int) -> tuple[int, ...] | None:
    """Read one integer for all dimensions, or one for each; None for anything else."""
    entries: tuple[Any, ...] = (
        tuple(given) if isinstance(given, Sequence) else (given,) * dimensions
    )
    if len(entries) != dimensions or any(isinstance(n, bool) for n in entries):
        return None
    try:
        return tuple(operator.index(n) for n in entries)
    except TypeError:
        return None


@dataclass(frozen=True, eq=False)
class TileAxis:
    """Tiles along one axis.

    Attributes
    ----------
    size : int
        Points of the field.
    indices : Tensor
        ``(tile, point)`` int64: where the points of each tile are in the field.
    weights : Tensor
        ``(tile, point)`` float64; those of a point of the field add up to 1.
    """

    size: int
    indices: Tensor
    weights: Tensor

    @property
    def count(self) -> int:
        """Number of tiles."""
        return len(self.indices)

    @property
    def length(self) -> int:
        """Points of a tile."""
        return self.indices.shape[1]

    @property
    def is_whole(self) -> bool:
        """Whether one tile covers the axis."""
        return self.count == 1

    @classmethod
    def of(
        cls, size: int, tile: int, overlap: int, periodic: bool = False, *, stride: int = 1
    ) -> TileAxis:
        """Place tiles evenly.

        Parameters
        ----------
        size : int
            Points of the field.
        tile : int
            Points of a tile, at least; up to two strides are added, so that tiles begin and end
            where the network's coarsest points do.
        overlap : int
            Points that neighbours share, at least.
        periodic : bool
            Whether the axis is closed.
        stride : int
            Of the coarsest resolution of the network, in grid points. A network with strides is the
            same function of a shifted field only where the shift is a multiple of them.
        """
        step = max((tile - overlap) // stride, 1)  # in strides, as all steps here
        length = max(tile, overlap + stride)
        if periodic:
            length += -length % stride + size % stride
            spread = size // stride
            count = -(-spread // step)
            places = [spread * k // count for k in range(count)] if length < size else [0]
        else:
            length += (size - length) % stride
            spread = (size - length) // stride
            count = -(-spread // step)
            places = [spread * k // count for k in range(count + 1)] if length < size else [0]
        if len(places) == 1:
            everywhere = torch.arange(size)[None]
            return cls(size, everywhere, torch.ones(1, size, dtype=torch.float64))
        starts = torch.tensor(places) * stride
        indices = (starts[:, None] + torch.arange(length)) % size
        gaps = torch.diff(starts, append=starts[:1] + size)
        shared = (length - gaps).tolist()
        if not periodic:
            shared[-1] = 0  # the domain ends there
        weights = torch.stack([_ramps(length, shared[k - 1], shared[k]) for k in range(len(gaps))])
        total = torch.zeros(size, dtype=torch.float64)
        total.index_add_(0, indices.flatten(), weights.flatten())
        return cls(size, indices, weights / total[indices])


def _ramps(length: int, before: int, after: int) -> Tensor:
    """Weights of a tile that shares points with the neighbours before and after it."""
    inside = torch.arange(length, dtype=torch.float64) + 0.5
    weights = torch.ones(length, dtype=torch.float64)
    for shared, distance in ((before, inside), (after, length - inside)):
        if shared:
            margin = math.floor(MARGIN * shared)
            rise = ((distance - margin) / (shared - 2 * margin)).clamp(0.0, 1.0)
            weights *= torch.sin(0.5 * math.pi * rise) ** 2
    return weights


class TiledFlow(Flow):
    """A flow of whole fields whose network sees tiles of them.

    A network with the method ``with_periodic(periodic)``, and with ``stride`` and ``static``, as
    `UNet` has them, is asked for itself without wrapping round along the axes that are cut, and is
    given its static fields tile by tile. Another one is called with tiles as if they were fields.

    For gradients, the graphs of all tiles are kept if, judged by the first of them, they hold at
    most `KEPT_BYTES`. Otherwise each backward evaluates the network again, part by part: the graphs
    of the first part and of one more are then in memory, and a backward takes half as long again.

    Parameters
    ----------
    flow : Flow
        The prior.
    axes : sequence of TileAxis
        One for each space dimension.
    periodic : sequence of bool
        Which dimensions of the whole field are periodic.

    Attributes
    ----------
    graph_bytes : int
        What the graph of the last evaluation with gradients needs at a time, about.
    """

    def __init__(self, flow: Flow, axes: Sequence[TileAxis], periodic: Sequence[bool]) -> None:
        super().__init__(flow.network, flow.interpolant)
        self.axes = tuple(axes)
        self.graph_bytes = 0
        self.tile_network: Any = flow.network
        self._static: Tensor | None = None
        inner = _inner(flow.network)
        if hasattr(inner, "with_periodic"):
            wraps = tuple(p and axis.is_whole for p, axis in zip(periodic, axes, strict=True))
            wrapped = flow.network
            asked = wrapped if isinstance(wrapped, Inference) else inner
            self.tile_network = asked.with_periodic(wraps)
            if inner.static.numel():
                self._static = torch.cat(self._cut(inner.static[None]))

    def velocity(self, x: Tensor, t: float) -> Tensor:
        """Evaluate the network once for each tile; see `Flow.velocity`."""
        tiles = self._cut(x)
        rows = torch.cat(tiles)  # tile by tile, the members of each
        size = automatic_batch(math.prod(rows.shape[2:]), rows.device)
        parts = torch.split(rows, size)
        whose = torch.arange(len(rows), device=rows.device) // len(x)
        evaluate = [partial(self._evaluate, t, tile) for tile in torch.split(whose, size)]
        if torch.is_grad_enabled() and x.requires_grad:
            found = self._with_graph(evaluate, parts)
        else:
            found = [one(part) for one, part in zip(evaluate, parts, strict=True)]
        return self._blend(list(torch.split(torch.cat(found), len(x))))

    def _evaluate(self, t: float, tile: Tensor, rows: Tensor) -> Tensor:
        network = self.tile_network
        if self._static is not None:
            network = partial(network, static=self._static[tile.to(self._static.device)])
        return Flow(network, self.interpolant).velocity(rows, t)

    def _with_graph(self, evaluate: Sequence[Any], parts: Sequence[Tensor]) -> list[Tensor]:
        seen: dict[int, int] = {}  # one tensor may be saved more than once

        def count(tensor: Tensor) -> Tensor:
            seen[tensor.data_ptr()] = tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            found = [evaluate[0](parts[0])]
        one = sum(seen.values())
        keep = one * len(parts) <= KEPT_BYTES
        self.graph_bytes = one * (len(parts) if keep else min(len(parts), 2))
        for function, part in zip(evaluate[1:], parts[1:], strict=True):
            again = partial(checkpoint, function, use_reentrant=False)
            found.append(function(part) if keep else again(part))
        return found

    def _cut(self, x: Tensor) -> list[Tensor]:
        """Cut fields ``(batch, channel, *space)``; the last axis runs fastest."""
        parts = [x]
        for dim, axis in enumerate(self.axes, start=2):
            if not axis.is_whole:
                places = axis.indices.to(x.device)
                parts = [p.index_select(dim, place) for p in parts for place in places]
        return parts

    def _blend(self, parts: list[Tensor]) -> Tensor:
        """Put tiles in the order of `_cut` together."""
        for dim, axis in reversed([*enumerate(self.axes, start=2)]):
            if axis.is_whole:
                continue
            places = axis.indices.to(parts[0].device)
            column = [-1, *[1] * (parts[0].ndim - dim - 1)]
            weights = axis.weights.to(parts[0]).reshape(axis.count, *column)
            shape = [*parts[0].shape]
            shape[dim] = axis.size
            joined = []
            for first in range(0, len(parts), axis.count):
                whole = parts[0].new_zeros(shape)
                for k, (place, weight) in enumerate(zip(places, weights, strict=True)):
                    whole = whole.index_add(dim, place, weight * parts[first + k])
                joined.append(whole)
            parts = joined
        return parts[0]


def _inner(network: Any) -> Any:
    """Return the network itself, without what makes it ready for a device."""
    return network.network if isinstance(network, Inference) else network
