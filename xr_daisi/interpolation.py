"""Where observations lie on a grid: nodes and weights of linear interpolation, in NumPy.

An observation at a point is a weighted sum of the nodes around it: two along every axis. This
module finds the nodes; `xr_daisi.operators` applies them to tensors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

__all__ = ["Axis", "Gather", "Located", "Moments", "Nodes", "Points", "locate_nodes"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

LevelKey = tuple[float, ...]


@dataclass(frozen=True)
class Located:
    """Positions along one axis, between the node `lower` and the node `upper`.

    Parameters
    ----------
    lower, upper : array of int, shape (n,)
        Indices of the two nodes; equal where the position is on a node or outside.
    fraction : array of float, shape (n,)
        Weight of the upper node, in [0, 1].
    inside : array of bool, shape (n,)
        Whether the position lies within the axis.
    distance : array of float, shape (n,)
        Distance to the nearest node, in units of the coordinate.
    """

    lower: Ints
    upper: Ints
    fraction: Floats
    inside: Bools
    distance: Floats

    @property
    def nearest(self) -> Ints:
        """Index of the nearest node, shape (n,)."""
        return np.where(self.fraction <= 0.5, self.lower, self.upper)


@dataclass(frozen=True, eq=False)
class Axis:
    """One coordinate axis of the grid.

    Parameters
    ----------
    nodes : array of float, shape (m,)
        Coordinate values in any order.
    period : float, optional
        Positions that differ by a multiple of it are the same: 360 for longitudes.
    cyclic : bool, optional
        Whether the axis closes on itself: no edge between the last node and the first.
    """

    nodes: Floats
    period: float | None = None
    cyclic: bool = False

    @property
    def slack(self) -> float:
        """How far beyond the edge is still rounding (coordinates stored as float32)."""
        finest = np.min(np.diff(np.sort(self.nodes)), initial=np.inf)
        rounding = 4 * float(np.finfo(np.float32).eps) * float(np.max(np.abs(self.nodes)))
        return float(min(rounding, 1e-2 * finest))

    def locate(self, positions: Floats) -> Located:
        """Find the two nodes around each position.

        Parameters
        ----------
        positions : array of float, shape (n,)
            Coordinate values; those that are not finite are outside.

        Returns
        -------
        Located
            Exactly on a node the weight is exactly one.
        """
        order = np.argsort(self.nodes, kind="stable")
        nodes = self.nodes[order]
        finite = np.isfinite(positions)
        x = np.where(finite, positions, nodes[0])
        first, last = nodes[0], nodes[-1]
        if self.period is not None:
            # Whole periods only, so that positions in the grid's own convention stay as they are.
            reference = first if self.cyclic else 0.5 * (first + last) - 0.5 * self.period
            x = x - self.period * np.floor((x - reference) / self.period)
        if self.cyclic and self.period is not None and last - first < self.period - self.slack:
            nodes = np.append(nodes, first + self.period)
            order = np.append(order, order[0])
            last = nodes[-1]
        slack = self.slack
        inside = finite & (x >= first - slack) & (x <= last + slack)
        x = np.clip(x, first, last)
        if nodes.size == 1:
            zero = np.zeros(x.shape, dtype=np.int64)
            offset = np.abs(np.where(finite, positions, np.nan) - first)
            return Located(zero, zero, np.zeros(x.shape), inside, offset)
        cell = np.clip(np.searchsorted(nodes, x, side="right") - 1, 0, nodes.size - 2)
        below, above = nodes[cell], nodes[cell + 1]
        fraction = (x - below) / (above - below)
        # A node with weight zero is not touched at all: it may be a hole in the domain.
        cell = np.where(fraction == 1.0, cell + 1, cell)
        fraction = np.where(fraction == 1.0, 0.0, fraction)
        lower = order[cell].astype(np.int64)
        upper = np.where(fraction == 0.0, lower, order[np.minimum(cell + 1, order.size - 1)])
        return Located(lower, upper, fraction, inside, np.minimum(x - below, above - x))


@dataclass(frozen=True, eq=False)
class Gather:
    """Weighted sums over a flattened state: ``y[i] = sum_k weight[k, i] x[index[k, i]]``.

    Parameters
    ----------
    index : array of int, shape (k, n)
        Positions in the state flattened over channel and space.
    weight : array of float, shape (k, n)
        Interpolation weights; they add up to one over k.
    """

    index: Ints
    weight: Floats


@dataclass(frozen=True, eq=False)
class Nodes:
    """Nodes of a flattened grid, and their weights.

    Parameters
    ----------
    index, weight : array, shape (k, n)
        Weights add up to one over k.
    inside : array of bool, shape (n,)
        Whether the place lies within the grid.
    across : array of bool, shape (k, n), or None
        Nodes on the other side of a pole, where components of vectors have the other sign.
    """

    index: Ints
    weight: Floats
    inside: Bools
    across: Bools | None = None


@dataclass(frozen=True, eq=False)
class Moments:
    """When observations lie between the states of a trajectory, which is stacked along channels.

    Parameters
    ----------
    here, other : array of int, shape (n,)
        Numbers of the two states around each observation; equal for one at a state's time.
    fraction : array of float, shape (n,)
        Weight of `other`.
    channels : int
        Of one state.
    """

    here: Ints
    other: Ints
    fraction: Floats
    channels: int

    def take(self, places: Ints) -> Moments:
        """Pick some of the observations, in the order asked for."""
        chosen = self.here[places], self.other[places], self.fraction[places]
        return Moments(*chosen, self.channels)

    def gather(self, one: Gather, space_size: int) -> Gather:
        """Nodes in the trajectory from those in one state."""
        step = self.channels * space_size
        index = np.concatenate([one.index + self.here * step, one.index + self.other * step])
        weight = np.concatenate([one.weight * (1.0 - self.fraction), one.weight * self.fraction])
        return Gather(*_without_empty_rows(index, weight))


@dataclass(frozen=True, eq=False)
class Points:
    """Nodes and weights of places, horizontally and, for each set of levels, vertically.

    Parameters
    ----------
    index, weight : array, shape (k, n)
        Nodes of the flattened space, and their weights.
    vertical : mapping of levels to a pair of arrays, each of shape (2, n)
        Level numbers and weights for state variables that have these levels.
    moments : Moments, optional
        States of a trajectory that the observations lie between.
    across : array of bool, shape (k, n), optional
        Nodes on the other side of a pole, where components of vectors have the other sign.
    """

    index: Ints
    weight: Floats
    vertical: Mapping[LevelKey, tuple[Ints, Floats]] = field(default_factory=dict)
    moments: Moments | None = None
    across: Bools | None = None

    def __len__(self) -> int:
        return int(self.index.shape[1])

    def take(self, places: Ints) -> Points:
        """Pick some of the places, in the order asked for.

        Parameters
        ----------
        places : array of int, shape (n,)
            Their numbers.

        Returns
        -------
        Points
            With n places.
        """
        vertical = {
            levels: (index[:, places], weight[:, places])
            for levels, (index, weight) in self.vertical.items()
        }
        moments = None if self.moments is None else self.moments.take(places)
        return replace(
            self,
            index=self.index[:, places],
            weight=self.weight[:, places],
            vertical=vertical,
            moments=moments,
            across=None if self.across is None else self.across[:, places],
        )

    def gather(
        self,
        first_channel: int,
        levels: LevelKey | None,
        space_size: int,
        *,
        vector: bool = False,
    ) -> Gather:
        """Nodes of one state variable in the state flattened over channel and space.

        Parameters
        ----------
        first_channel : int
            Channel at which the variable starts.
        levels : tuple of float, optional
            Its levels; None for a variable without.
        space_size : int
            Number of points of the grid.
        vector : bool
            Whether the variable is a component of a horizontal vector.

        Returns
        -------
        Gather
            For these places.

        Raises
        ------
        KeyError
            Where the variable has several levels and no vertical position is known.
        """
        if levels is not None and levels not in self.vertical and len(levels) > 1:
            raise KeyError(levels)
        if vector and self.across is not None:
            turned = replace(self, weight=np.where(self.across, -self.weight, self.weight))
            one = turned._in_state(first_channel, levels, space_size)
        else:
            one = self._in_state(first_channel, levels, space_size)
        return one if self.moments is None else self.moments.gather(one, space_size)

    def _in_state(self, first_channel: int, levels: LevelKey | None, space_size: int) -> Gather:
        if levels is None or levels not in self.vertical:
            return Gather(self.index + first_channel * space_size, self.weight)
        level, share = self.vertical[levels]
        channel = (first_channel + level) * space_size
        index = (channel[:, None, :] + self.index[None]).reshape(-1, len(self))
        weight = (share[:, None, :] * self.weight[None]).reshape(-1, len(self))
        return Gather(*_without_empty_rows(index, weight))


def locate_nodes(axes: Sequence[Axis], nodes: Sequence[Ints]) -> Ints:
    """Flattened index of grid nodes: the outer product of indices along the axes.

    Parameters
    ----------
    axes : sequence of Axis
        The axes of space, in order.
    nodes : sequence of array of int
        Index along each axis; the arrays broadcast against each other.

    Returns
    -------
    array of int
        Of the broadcast shape.
    """
    index: Ints = np.zeros((), dtype=np.int64)
    for axis, along in zip(axes, nodes, strict=True):
        index = index * axis.nodes.size + along
    return index


def _without_empty_rows(index: Ints, weight: Floats) -> tuple[Ints, Floats]:
    """Leave out corners that no point needs, as on the nodes, but keep one."""
    used = np.flatnonzero(np.any(weight != 0.0, axis=1))
    if used.size in (0, len(weight)):
        return index, weight
    return index[used], weight[used]
