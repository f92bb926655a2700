"""Where places lie on a regular grid: points, boxes, discs and lines as weighted sums of nodes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Protocol

import numpy as np

from xr_daisi.box_means import interval_means
from xr_daisi.curvilinear import CurvilinearGrid
from xr_daisi.errors import StateError, problem
from xr_daisi.interpolation import Axis, Bools, Floats, Ints, Located, Nodes, locate_nodes
from xr_daisi.longitudes import goes_round

if TYPE_CHECKING:
    from xr_daisi.state import StateSpec

__all__ = ["Grid", "RegularGrid", "grid_of"]


class Grid(Protocol):
    """A grid that places can be located on."""

    def points(self, positions: Sequence[Floats], *, nearest: bool = False) -> Nodes:
        """Locate points by their horizontal coordinates, each of shape (n,)."""
        ...

    def step(self) -> float:
        """Typical distance of nodes, in km on the sphere, else in units of the coordinates."""
        ...


@dataclass(frozen=True, eq=False)
class RegularGrid:
    """A grid with one coordinate for each of its dimensions.

    Parameters
    ----------
    axes : tuple of Axis
        In the order of the dimensions.
    latitude, longitude : int or None
        Which of the axes they are, if any is.
    """

    axes: tuple[Axis, ...]
    latitude: int | None = None
    longitude: int | None = None

    def step(self) -> float:
        """Return the smallest distance of nodes; in km where both axes are angles."""
        smallest = min(float(np.min(np.abs(np.diff(a.nodes)), initial=np.inf)) for a in self.axes)
        on_sphere = self.latitude is not None and self.longitude is not None
        return smallest * 111.2 if on_sphere else smallest

    def points(self, positions: Sequence[Floats], *, nearest: bool = False) -> Nodes:
        """Locate points, bilinearly or at the nearest node.

        Parameters
        ----------
        positions : sequence of array of float, shape (n,)
            Coordinate of each point along each axis.
        nearest : bool
            One node for each point.

        Returns
        -------
        Nodes
            Beyond the last row of a global grid, points are interpolated across the pole.
        """
        positions = [np.asarray(x, dtype=np.float64) for x in positions]
        located = [axis.locate(x) for axis, x in zip(self.axes, positions, strict=True)]
        inside = np.logical_and.reduce([part.inside for part in located])
        beyond = self._beyond_rows(positions)
        if nearest:
            index = locate_nodes(self.axes, [part.nearest for part in located])[None, :]
            ones = np.ones(index.shape)
            return Nodes(index, ones, inside | (beyond if beyond is not None else False))
        corners = itertools.product((False, True), repeat=len(self.axes))
        rows = [_corner(self.axes, located, corner) for corner in corners]
        index, weight = (np.stack(column) for column in zip(*rows, strict=True))
        across = None
        if beyond is not None and beyond.any():
            across = np.zeros(index.shape, dtype=bool)
            polar = self._across_pole([x[beyond] for x in positions])
            index[:, beyond], weight[:, beyond], across[:, beyond] = polar
            inside = inside | beyond
        return _without_empty_rows(Nodes(index, weight, inside, across))

    def boxes(self, lower: Sequence[Floats], upper: Sequence[Floats]) -> Nodes:
        """Means over boxes along the axes, exact for the bilinear field.

        Parameters
        ----------
        lower, upper : sequence of array of float, shape (n,)
            Ends of each box along each axis.

        Returns
        -------
        Nodes
            As many as the largest box needs.
        """
        parts = [
            interval_means(axis, low, high, latitude=number == self.latitude)
            for number, (axis, low, high) in enumerate(zip(self.axes, lower, upper, strict=True))
        ]
        index, weight, inside = parts[0]
        for axis, (other, share, within) in zip(self.axes[1:], parts[1:], strict=True):
            n = index.shape[1]
            index = (index[:, None] * axis.nodes.size + other[None]).reshape(-1, n)
            weight = (weight[:, None] * share[None]).reshape(-1, n)
            inside = inside & within
        return _without_empty_rows(Nodes(index, weight, inside))

    @cached_property
    def _rows(self) -> tuple[float, float] | None:
        """First and last latitude where a global grid stops less than a step short of a pole."""
        if self.latitude is None or self.longitude is None:
            return None
        rows = np.sort(self.axes[self.latitude].nodes)
        if not self.axes[self.longitude].cyclic or rows.size < 2:
            return None
        step = np.diff(rows)
        south = rows[0] if -90.0 < rows[0] <= -90.0 + step[0] else -np.inf
        north = rows[-1] if 90.0 - step[-1] <= rows[-1] < 90.0 else np.inf
        return float(south), float(north)

    def _beyond_rows(self, positions: Sequence[Floats]) -> Bools | None:
        """Where points lie between the last row and its pole; None where that cannot be."""
        if self._rows is None or self.latitude is None or self.longitude is None:
            return None
        south, north = self._rows
        y, x = positions[self.latitude], positions[self.longitude]
        polar = ((y < south) & (y >= -90.0)) | ((y > north) & (y <= 90.0))
        found: Bools = polar & np.isfinite(x)
        return found

    def _across_pole(self, positions: Sequence[Floats]) -> tuple[Ints, Floats, Bools]:
        """Interpolate along the meridian from the last row over the pole to the row again."""
        latitude, longitude = self.latitude or 0, self.longitude or 0
        y, x = positions[latitude], positions[longitude]
        rows = self.axes[latitude].nodes
        row = np.where(y > 0, np.argmax(rows), np.argmin(rows)).astype(np.int64)
        gap = 90.0 - np.abs(rows[row])
        fraction = (np.abs(y) - np.abs(rows[row])) / (2.0 * gap)
        index, weight = [], []
        for turn, share in ((0.0, 1.0 - fraction), (180.0, fraction)):
            column = self.axes[longitude].locate(x + turn)
            for node, part in (
                (column.lower, 1.0 - column.fraction),
                (column.upper, column.fraction),
            ):
                along: list[Ints] = [row, row]
                along[longitude] = node
                index.append(locate_nodes(self.axes, along))
                weight.append(share * part)
        other = np.array([False, False, True, True])
        across = np.broadcast_to(other[:, None], (4, y.size))
        return np.stack(index), np.stack(weight), across


@lru_cache(maxsize=8)
def grid_of(spec: StateSpec, *, geolocated: bool = False) -> Grid:
    """Grid of a state.

    Parameters
    ----------
    spec : StateSpec
        The state.
    geolocated : bool
        Whether positions are latitude and longitude on a grid that has these as fields.

    Raises
    ------
    StateError
        Where a periodic axis is not evenly spaced.
    """
    if geolocated and spec.geolocation is not None:
        return CurvilinearGrid(spec.geolocation, spec.periodic)
    axes = []
    for dim, periodic in zip(spec.dims, spec.periodic, strict=True):
        nodes = np.asarray(spec.coords[dim], dtype=np.float64)
        if spec.axes[dim] == "longitude":
            # Whatever the network makes of its edges, the globe has none.
            axes.append(Axis(nodes, 360.0, periodic or goes_round(nodes, closed=True)))
        elif periodic:
            steps = np.abs(np.diff(nodes))
            if steps.size == 0 or not np.allclose(steps, steps[0], rtol=1e-3):
                found = "periodic, but not evenly spaced"
                raise StateError(problem(dim, found, "one step all the way round"))
            # The mean step: rounding of single nodes must not open or close the circle.
            axes.append(Axis(nodes, float(np.ptp(nodes) * nodes.size / (nodes.size - 1)), True))
        else:
            axes.append(Axis(nodes))
    kinds = [spec.axes[dim] for dim in spec.dims]
    which = {kind: kinds.index(kind) for kind in ("latitude", "longitude") if kind in kinds}
    return RegularGrid(tuple(axes), which.get("latitude"), which.get("longitude"))


def _corner(
    axes: Sequence[Axis], located: Sequence[Located], upper: Sequence[bool]
) -> tuple[Ints, Floats]:
    """Flattened index and weight of one corner of the cell around each point."""
    index = locate_nodes(
        axes, [part.upper if up else part.lower for part, up in zip(located, upper, strict=True)]
    )
    weight = np.ones(located[0].fraction.shape)
    for part, up in zip(located, upper, strict=True):
        weight = weight * (part.fraction if up else 1.0 - part.fraction)
    return index, weight


def _without_empty_rows(nodes: Nodes) -> Nodes:
    """Leave out nodes that no place needs, as for points on the nodes, but keep one."""
    used = np.flatnonzero(np.any(nodes.weight != 0.0, axis=1))
    if used.size in (0, len(nodes.weight)):
        return nodes
    across = None if nodes.across is None else nodes.across[used]
    return Nodes(nodes.index[used], nodes.weight[used], nodes.inside, across)
