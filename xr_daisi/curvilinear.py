"""Places on a grid whose points have latitudes and longitudes of their own.

Every cell is two triangles on the sphere. The weights of a point in a triangle are those of its
central projection onto the triangle's plane: nothing is special at a pole or at the date line.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xr_daisi.geolocation import Geolocation, in_space
from xr_daisi.interpolation import Bools, Floats, Ints, Nodes
from xr_daisi.plane import EARTH_RADIUS

__all__ = ["CurvilinearGrid"]

CANDIDATES = (4, 16, 64)
"""Nearest nodes whose cells are searched: few, then more for places that are not found.

On a skewed grid the nearest ones need not be corners of the cell.
"""

AT_ONCE = 100_000
"""Points located at a time: memory."""

INSIDE = -1e-9
"""Least weight inside a triangle: rounding on its edges."""

# Around a node four cells, each of two triangles: offsets of their corners in row and column.
_TRIANGLES = np.array(
    [
        [(r, c), (r, c + 1), (r + 1, c + 1)] if half else [(r, c), (r + 1, c + 1), (r + 1, c)]
        for r in (-1, 0)
        for c in (-1, 0)
        for half in (True, False)
    ]
)


@dataclass(frozen=True, eq=False)
class CurvilinearGrid:
    """A grid with two-dimensional latitude and longitude.

    Parameters
    ----------
    geolocation : tuple of array of float, shape (rows, columns)
        Latitude and longitude in degrees; NaN where the grid has no point.
    periodic : tuple of bool
        Whether rows, and columns, close on themselves.
    """

    geolocation: Geolocation
    periodic: tuple[bool, ...] = (False, False)

    @cached_property
    def _places(self) -> NDArray[np.float64]:
        return in_space(*self.geolocation)

    @cached_property
    def _tree(self) -> tuple[Any, Ints]:
        """Search tree of the points, and their numbers in the flattened grid."""
        from scipy.spatial import KDTree

        flat = self._places.reshape(-1, 3)
        known = np.flatnonzero(np.isfinite(flat).all(axis=1))
        return KDTree(flat[known]), known

    @cached_property
    def _spacing(self) -> Floats:
        """Largest distance of each point to its neighbours, on the unit sphere."""
        spacing = np.zeros(self._places.shape[:2])
        for axis in (0, 1):
            apart = np.linalg.norm(np.diff(self._places, axis=axis), axis=-1)
            apart = np.where(np.isfinite(apart), apart, 0.0)
            for side in (slice(None, -1), slice(1, None)):
                index = [slice(None), slice(None)]
                index[axis] = side
                spacing[tuple(index)] = np.maximum(spacing[tuple(index)], apart)
        return spacing.reshape(-1)

    def step(self) -> float:
        """Return the typical distance of neighbours, km."""
        positive = self._spacing[self._spacing > 0]
        return float(np.median(positive)) * EARTH_RADIUS if positive.size else EARTH_RADIUS

    def points(self, positions: Sequence[Floats], *, nearest: bool = False) -> Nodes:
        """Locate points, in triangles or at the nearest node.

        Parameters
        ----------
        positions : sequence of array of float, shape (n,)
            Latitude and longitude, degrees.
        nearest : bool
            One node for each point, no further away than its neighbours are.

        Returns
        -------
        Nodes
            Points in no triangle are outside.
        """
        latitude, longitude = (np.asarray(x, dtype=np.float64) for x in positions)
        known = np.isfinite(latitude) & np.isfinite(longitude)
        places = in_space(np.where(known, latitude, 0.0), np.where(known, longitude, 0.0))
        tree, numbers = self._tree
        # No place in a triangle is further than this from all of its corners. Without a limit the
        # search for the neighbours of far places, all about as far, takes very long.
        reach = 2.0 * self._spacing.max(initial=0.0) + 1e-12
        distance, found = tree.query(places, distance_upper_bound=reach)
        left = np.flatnonzero(known & np.isfinite(distance))
        index = np.zeros((1 if nearest else 3, len(places)), dtype=np.int64)
        index[:, left] = numbers[found[left]]
        weight = np.zeros(index.shape)
        weight[0] = 1.0
        inside = np.zeros(len(places), dtype=bool)
        if nearest:
            inside[left] = distance[left] <= self._spacing[index[0, left]]
            return Nodes(index, weight, inside)
        for searched, count in pairwise((0, *CANDIDATES)):
            if numbers.size <= searched:
                break
            size = AT_ONCE * CANDIDATES[0] // count
            for part in (left[start : start + size] for start in range(0, left.size, size)):
                corners, share, within = self._in_triangles(places[part], count)
                index[:, part[within]], weight[:, part[within]] = corners, share
                inside[part[within]] = True
            left = left[~inside[left]]
        return Nodes(index, weight, inside)

    def _in_triangles(
        self, places: NDArray[np.float64], candidates: int
    ) -> tuple[Ints, Floats, Bools]:
        """Corners and weights (3, n) of the triangles around places, and which of them have one."""
        tree, numbers = self._tree
        count = min(candidates, numbers.size)
        _, near = tree.query(places, k=count)
        near = numbers[near.reshape(len(places), count)]
        rows, columns = self._places.shape[:2]
        flat = self._places.reshape(-1, 3)
        index = np.zeros((3, len(places)), dtype=np.int64)
        weight = np.zeros((3, len(places)))
        inside = np.zeros(len(places), dtype=bool)
        for rank in range(count):
            todo = np.flatnonzero(~inside)
            if not todo.size:
                break
            row, column = np.divmod(near[todo, rank], columns)
            corner_rows = row[:, None, None] + _TRIANGLES[None, ..., 0]
            corner_columns = column[:, None, None] + _TRIANGLES[None, ..., 1]
            exists = np.ones(corner_rows.shape, dtype=bool)
            for part, size, closed in zip(
                (corner_rows, corner_columns), (rows, columns), self.periodic, strict=True
            ):
                exists &= closed | ((part >= 0) & (part < size))
            corners = (corner_rows % rows) * columns + corner_columns % columns
            share, within = _barycentric(flat[corners], places[todo])
            within &= exists.all(axis=-1)
            best = within.argmax(axis=1)
            found = within.any(axis=1)
            chosen = todo[found]
            pick = np.flatnonzero(found), best[found]
            index[:, chosen] = corners[pick].T
            weight[:, chosen] = share[pick].T
            inside[chosen] = True
        return index[:, inside], weight[:, inside], inside


def _barycentric(
    triangles: NDArray[np.float64], places: NDArray[np.float64]
) -> tuple[Floats, Bools]:
    """Weights (n, t, 3) of places (n, 3) in triangles (n, t, 3, 3), and whether they are inside."""
    a, b, c = (triangles[..., i, :] for i in range(3))
    p = places[:, None, :]

    def volume(x: Any, y: Any, z: Any) -> Any:
        return np.sum(np.cross(x, y) * z, axis=-1)

    weight = np.stack([volume(p, b, c), volume(a, p, c), volume(a, b, p)], axis=-1)
    total = weight.sum(axis=-1, keepdims=True)
    sound = np.isfinite(total) & (np.abs(total) > 1e-30)
    share = weight / np.where(sound, total, 1.0)
    # On this side of the sphere: the place and the triangle look the same way.
    facing = np.sum((a + b + c) * p, axis=-1) > 0
    inside = sound[..., 0] & facing & (share >= INSIDE).all(axis=-1)
    share = np.clip(share, 0.0, None)
    return share / np.where(inside, share.sum(axis=-1), 1.0)[..., None], inside
