"""Localisation: how much of an observation reaches a grid point, by distance and by level.

The taper of Gaspari and Cohn is a smooth function of distance that is zero beyond a radius. Pairs
of grid point and observation within it are found by a search tree: on the sphere by great-circle
distance, on a plain grid in its own units, round its periodic dimensions.

References
----------
.. [1] G. Gaspari, S. E. Cohn, "Construction of correlation functions in two and three dimensions",
   Q. J. R. Meteorol. Soc. 125, 723-757, 1999, doi:10.1002/qj.49712555417.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from xr_daisi.ensemble_kalman import LocalWeights
from xr_daisi.interpolation import LevelKey
from xr_daisi.plane import EARTH_RADIUS, PlaneAxes

if TYPE_CHECKING:
    from xr_daisi.state import StateSpec

__all__ = ["FARTHEST", "Places", "gaspari_cohn", "level_groups", "local_weights"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

FARTHEST = 1e12
"""A distance beyond all others, in any unit."""

MOST_PAIRS = 4_000_000
"""Pairs of point and observation at a time: memory."""


def gaspari_cohn(distance: Floats, zero: float) -> Floats:
    """Compute the fifth-order piecewise rational function of Gaspari and Cohn.

    Parameters
    ----------
    distance : array of float
        Not negative.
    zero : float
        Distance from which on it is zero, in the same unit: twice the length scale c of [1]_.

    Returns
    -------
    array of float
        1 at distance zero, 5/24 at half of `zero`, 0 from `zero` on.

    References
    ----------
    doi:10.1002/qj.49712555417, equation 4.10.

    Examples
    --------
    >>> import numpy as np
    >>> gaspari_cohn(np.array([0.0, 1.0, 2.0]), 2.0).round(4)
    array([1.    , 0.2083, 0.    ])
    """
    z = np.asarray(distance, dtype=np.float64) * (2.0 / zero)
    near = 1.0 + z**2 * (-5.0 / 3.0 + z * (5.0 / 8.0 + z * (0.5 - 0.25 * z)))
    w = np.clip(z, 1.0, 2.0)
    far = 4.0 - 5.0 * w + w**2 * (5.0 / 3.0 + w * (5.0 / 8.0 + w * (w / 12.0 - 0.5)))
    far = np.maximum(far - 2.0 / (3.0 * w), 0.0)  # rounding near the radius
    taper: Floats = np.where(z < 1.0, near, np.where(z < 2.0, far, 0.0))
    return taper


@dataclass(frozen=True, eq=False)
class Places:
    """Points of a grid or of observations, and what distances are there.

    Parameters
    ----------
    axes : PlaneAxes
        Sphere or plane, and what is periodic.
    positions : array, shape (d, P)
        Horizontal coordinates, of a grid in the order of its flattened points; NaN for none.
    """

    axes: PlaneAxes
    positions: Floats

    @classmethod
    def of(cls, spec: StateSpec) -> Places:
        """Points of a state's grid."""
        if spec.geolocation is not None:
            positions = np.stack([values.reshape(-1) for values in spec.geolocation])
        else:
            mesh = np.meshgrid(*[spec.coords[d] for d in spec.dims], indexing="ij")
            positions = np.stack([values.reshape(-1) for values in mesh])
        return cls(PlaneAxes.of(spec), positions)

    def __len__(self) -> int:
        return int(self.positions.shape[1])

    @cached_property
    def _finite(self) -> NDArray[np.bool_]:
        finite: NDArray[np.bool_] = np.all(np.isfinite(self.positions), axis=0)
        return finite

    def near(
        self, others: Places, radius: float, part: slice = slice(None)
    ) -> tuple[Ints, Ints, Floats]:
        """Find what lies within a radius of each point.

        Parameters
        ----------
        others : Places
            On the same axes, all of them finite.
        radius : float
            In km on the sphere, in the coordinates' units on a plain grid.
        part : slice
            Which of the points.

        Returns
        -------
        point, other : array of int, shape (k,)
            Numbers of the points within `part`, and of the others.
        distance : array of float, shape (k,)
            Between them.
        """
        here = np.flatnonzero(self._finite[part])
        points = self._searchable(self.positions[:, part][:, here])
        tree, box = others._tree
        found = _pairs(points, tree, self._chord(radius), box)
        distance = found[2]
        if self.axes.on_sphere:
            distance = 2.0 * EARTH_RADIUS * np.arcsin(np.minimum(distance / (2 * EARTH_RADIUS), 1))
        return here[found[0]], found[1], distance

    def spacing(self) -> float:
        """Distance between neighbouring points, of some points the largest; 0 for a single one."""
        here = np.flatnonzero(self._finite)
        some = here[:: max(1, here.size // 256)]
        if here.size < 2:
            return 0.0
        tree, _ = self.at(here)._tree
        apart = tree.query(self._searchable(self.positions[:, some]), k=2)[0][:, 1]
        return float(np.max(apart))

    def share_near(self, others: Places, radius: float) -> float:
        """Estimate the share of all pairs that lie within a radius, from some of the points."""
        some = np.flatnonzero(self._finite)
        some = some[:: max(1, some.size // 256)]
        points = self._searchable(self.positions[:, some])
        tree, _ = others._tree
        counts = tree.query_ball_point(points, self._chord(radius), return_length=True)
        return float(np.mean(counts)) / max(len(others), 1) if some.size else 0.0

    def reached(self, others: Places, radius: float) -> NDArray[np.bool_]:
        """Tell which points lie within a radius of any other."""
        found = np.zeros(len(self), dtype=bool)
        tree, _ = others._tree
        here = np.flatnonzero(self._finite)
        points = self._searchable(self.positions[:, here])
        distance, _ = tree.query(points, distance_upper_bound=self._chord(radius) * (1 + 1e-9))
        found[here] = np.isfinite(distance)
        return found

    def around(self, others: Places, radius: float) -> Ints:
        """Find others that may lie within a radius of any point: all that do, and some more."""
        mine = self.axes.embedded(self.positions[:, self._finite])
        if not len(mine):
            return np.zeros(0, dtype=np.int64)
        theirs = self.axes.embedded(others.positions)
        low, high = mine.min(axis=0) - radius, mine.max(axis=0) + radius
        return np.flatnonzero(((theirs >= low) & (theirs <= high)).all(axis=1))

    def at(self, which: Any) -> Places:
        """Return some of the points, by an index of them."""
        return Places(self.axes, self.positions[:, which])

    def _searchable(self, positions: Floats) -> Floats:
        """Points as the tree has them: in space, or on the plane within its periods."""
        return self.axes.embedded(positions) if self.axes.on_sphere else self._wrapped(positions)

    def _chord(self, radius: float) -> float:
        """Return a distance as the tree measures it."""
        if not self.axes.on_sphere:
            return radius
        angle = min(radius / (2.0 * EARTH_RADIUS), np.pi / 2)
        return 2.0 * EARTH_RADIUS * float(np.sin(angle))

    @cached_property
    def _tree(self) -> tuple[Any, Floats | None]:
        """Search tree, and the periods on a plane; built once, since a million points take long."""
        from scipy.spatial import KDTree

        points = self._searchable(self.positions)
        if self.axes.on_sphere:
            return KDTree(points), None
        box = np.array([period or 0.0 for period in self.axes.periods])
        return KDTree(points, boxsize=box if box.any() else None), box

    def _wrapped(self, positions: Floats) -> Floats:
        columns = []
        for values, period in zip(positions, self.axes.periods, strict=True):
            if period is not None:
                values = np.mod(values, period)
                values = np.where(values >= period, 0.0, values)  # rounding of the remainder
            columns.append(values)
        return np.stack(columns, axis=1)


def _pairs(
    points: Floats, tree: Any, radius: float, box: Floats | None
) -> tuple[Ints, Ints, Floats]:
    """Pairs within a radius by the tree; where that is most of them, all are looked at."""
    counts = tree.query_ball_point(points[:: max(1, len(points) // 64)], radius, return_length=True)
    if len(points) and np.mean(counts) > 0.2 * tree.n:
        apart = np.zeros((len(points), tree.n))
        for axis in range(points.shape[1]):
            step = np.abs(points[:, axis, None] - tree.data[None, :, axis])
            if box is not None and box[axis]:
                step = np.minimum(step, box[axis] - step)
            apart += step**2
        apart = np.sqrt(apart)
        point, other = np.nonzero(apart <= radius)
        return point, other, apart[point, other]
    found = type(tree)(points, boxsize=tree.boxsize).sparse_distance_matrix(
        tree, radius, output_type="ndarray"
    )
    found = found[np.argsort(found["i"], kind="stable")]
    return found["i"].astype(np.int64), found["j"].astype(np.int64), found["v"]


def level_groups(
    spec: StateSpec,
    levels: Mapping[LevelKey, Floats],
    zero: Mapping[LevelKey, float] | None,
    times: int = 1,
) -> list[tuple[list[int], Floats | None]]:
    """Group the channels of a state by what the observations' levels mean for them.

    Parameters
    ----------
    spec : StateSpec
        The state.
    levels : mapping of levels to array, shape (n,)
        Vertical coordinate of each observation in terms of these levels; NaN where it has none.
    zero : mapping of levels to float, or None
        Vertical distance from which on an observation has no influence; None without a limit.
    times : int
        States stacked along the channels.

    Returns
    -------
    list of (channels, array of shape (n,) or None)
        Channels, and the factor of each observation for them; None is 1.
    """
    groups: dict[tuple[LevelKey, float] | None, list[int]] = {}
    for v in spec.variables:
        first = spec.channel_slice(v.name).start
        for number in range(v.size):
            key = None
            if (
                zero is not None
                and v.levels in levels
                and v.levels in zero
                and v.levels is not None
            ):
                key = v.levels, v.levels[number]
            own = [first + number + time * spec.channels for time in range(times)]
            groups.setdefault(key, []).extend(own)
    found: list[tuple[list[int], Floats | None]] = []
    for key, channels in groups.items():
        factor = None
        if key is not None and zero is not None:
            away = np.abs(levels[key[0]] - key[1])
            factor = gaspari_cohn(np.where(np.isnan(away), 0.0, away), zero[key[0]])
        found.append((channels, factor))
    return found


def local_weights(
    places: Places,
    observed: Places,
    radius: float,
    groups: Sequence[tuple[list[int], Floats | None]],
    columns: int,
) -> Iterator[LocalWeights]:
    """Yield the weights of all columns, some at a time.

    Parameters
    ----------
    places : Places
        Points of the grid.
    observed : Places
        Where the observations are.
    radius : float
        Distance at which the taper is zero.
    groups : sequence
        From `level_groups`.
    columns : int
        At most so many at a time.

    Yields
    ------
    LocalWeights
        Columns without any observation are within them, without weights.
    """
    if not len(observed):
        return
    share = places.share_near(observed, radius)
    most = int(MOST_PAIRS / max(1.0, share * len(observed)))
    step = max(1, min(columns, most))
    for first in range(0, len(places), step):
        part = slice(first, min(first + step, len(places)))
        column, observation, distance = places.near(observed, radius, part)
        taper = gaspari_cohn(distance, radius)
        for channels, factor in groups:
            weight = taper if factor is None else taper * factor[observation]
            some = weight > 0.0
            yield LocalWeights(part, channels, column[some], observation[some], weight[some])
