"""How an observation Dataset is laid out: points, station series or fields; places and times.

A variable's dimensions are split into time, where time has a dimension of its own, and places. Each
place has its nodes and weights on the state's grid, or a reason why it has none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from xr_daisi.errors import ObservationError, problem, raise_problems
from xr_daisi.footprints import NODE_DIM
from xr_daisi.interpolation import Floats, Ints, Points
from xr_daisi.observation_places import Geometry, horizontal_positions, locate, spread_over
from xr_daisi.observation_status import Status
from xr_daisi.observation_times import ForecastTimes, TimeMatch, duplicate_time

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

    from xr_daisi.observation_coordinates import Coordinates, Position
    from xr_daisi.state import StateSpec

__all__ = ["Geometry", "Layout", "Status", "build_layout"]


@dataclass(frozen=True, eq=False)
class Layout:
    """Places and times of variables that share their dimensions.

    Parameters
    ----------
    dims : tuple of str
        All dimensions, in the Dataset's order.
    shape : tuple of int
        Their sizes.
    time_dim : str or None
        The dimension of time where time has one of its own.
    place_dims : tuple of str
        The other dimensions.
    points : Points
        Nodes and weights of the p places.
    status : array of int8, shape (p,)
        `Status` of each place, time left aside.
    matched : array of int, shape (t,) or (p,)
        Forecast time of each time or, where time lies along the places, of each place; -1 for none.
    untimed : array of bool, of the same shape
        Where the time is missing.
    along_places : bool
        Whether time lies along the places.
    instants : array, of the shape of `matched`
        The times as numbers, equal for equal times.
    other, fraction : array, of the shape of `matched`
        Forecast time on the other side, and its weight in linear interpolation in time.
    positions : tuple of array of float, shape (p,)
        Horizontal coordinates of the places, one array for each.
    """

    dims: tuple[str, ...]
    shape: tuple[int, ...]
    time_dim: str | None
    place_dims: tuple[str, ...]
    points: Points
    status: NDArray[np.int8]
    matched: Ints
    untimed: NDArray[np.bool_]
    along_places: bool
    instants: NDArray[Any]
    other: Ints
    fraction: Floats
    positions: tuple[Floats, ...]

    @property
    def table_shape(self) -> tuple[int, int]:
        """Number of times (1 where time lies along the places) and of places."""
        return (1 if self.along_places else self.matched.size, len(self.points))

    @property
    def size(self) -> int:
        """Number of values."""
        return int(np.prod(self.shape))

    def flat_index(self, times: Ints, places: Ints) -> Ints:
        """Position in the variable's own C order; `times` and `places` broadcast."""
        strides = np.cumprod((1, *self.shape[:0:-1]))[::-1]
        stride = dict(zip(self.dims, strides.tolist(), strict=False))  # a scalar has no dimension
        sizes = dict(zip(self.dims, self.shape, strict=True))
        index = np.asarray(times * stride[self.time_dim] if self.time_dim else 0 * times)
        rest = places
        for dim in reversed(self.place_dims):
            index = index + (rest % sizes[dim]) * stride[dim]
            rest = rest // sizes[dim]
        return index

    def place_name(self, flat: int) -> str:
        """Where a value stands in its variable, as text."""
        where = np.unravel_index(flat, self.shape) if self.shape else ()
        return ", ".join(f"{d}={int(i)}" for d, i in zip(self.dims, where, strict=True)) or "it"

    def selection(self, time: int) -> tuple[Ints, Ints]:
        """Rows and places that belong to one forecast time and lie on the grid.

        Parameters
        ----------
        time : int
            Number of the forecast time.

        Returns
        -------
        rows, places : array of int
            Their outer product is what belongs there; one row 0 where time lies along the places.
        """
        here = self.status == Status.USED
        if self.along_places:
            return np.zeros(1, dtype=np.int64), np.flatnonzero(here & (self.matched == time))
        return np.flatnonzero(self.matched == time), np.flatnonzero(here)

    def statuses(self) -> NDArray[np.int8]:
        """Status of every value, values left aside, shape (t, p)."""
        when = np.where(self.matched < 0, np.int8(Status.OUTSIDE_TIME), np.int8(Status.USED))
        when = np.where(self.untimed, np.int8(Status.NO_TIME), when)
        along = when[None, :] if self.along_places else when[:, None]
        result = np.where(self.status[None, :] != Status.USED, self.status[None, :], along)
        return np.broadcast_to(result, self.table_shape)


def build_layout(
    dims: tuple[str, ...],
    sizes: Mapping[Hashable, int],
    found: Coordinates,
    level_dims: tuple[str, ...],
    spec: StateSpec,
    times: ForecastTimes,
    subject: str,
    geometry: Geometry | None = None,
) -> Layout:
    """Locate the values of variables with given dimensions.

    Parameters
    ----------
    dims : tuple of str
        Their dimensions.
    sizes : mapping
        Size of each dimension.
    found : Coordinates
        The Dataset's coordinates.
    level_dims : tuple of str
        Vertical dimensions of the state variables observed.
    spec : StateSpec
        The state.
    times : ForecastTimes
        The forecast's times.
    subject : str
        Name for messages.
    geometry : Geometry, optional
        What a value is compared with at its place; bilinear interpolation by default.

    Returns
    -------
    Layout
        Places and times.

    Raises
    ------
    ObservationError
        Where dimensions have no coordinates that say where and when values lie, or times are
        double.
    """
    vertical = {d: found.vertical[d] for d in level_dims if d in found.vertical}
    positions = [*found.horizontal, *vertical.values()]
    located = tuple(dict.fromkeys(d for p in positions for d in p.dims))
    _check_dims(dims, sizes, located, positions, found, subject)

    time_dim, along_places = None, False
    time = found.time if found.time is not None and set(found.time.dims) <= set(dims) else None
    if time is not None and time.dims:
        along_places = len(time.dims) > 1 or time.dims[0] in located
        time_dim = None if along_places else time.dims[0]
    place_dims = tuple(d for d in dims if d != time_dim)
    shape = tuple(sizes[d] for d in place_dims)
    if time_dim is not None and time is not None:
        twice = duplicate_time(time.values)
        if twice is not None:
            remedy = f"obs = obs.drop_duplicates({time_dim!r}), or average them"
            text = problem(f"{subject}, {time.name}", f"{twice} twice", "each time once", remedy)
            raise ObservationError(text)
    if time is None:
        when = _without_time(times, subject)
    else:
        moments = (
            spread_over(time.values, time.dims, place_dims, shape) if along_places else time.values
        )
        when = times.match(np.atleast_1d(moments), f"{subject}, {time.name}")

    points, status = locate(found, vertical, place_dims, shape, spec, geometry or Geometry())
    return Layout(
        dims,
        tuple(sizes[d] for d in dims),
        time_dim,
        place_dims,
        points,
        status,
        when.nearest,
        when.missing,
        along_places,
        when.instants,
        when.other,
        when.fraction,
        horizontal_positions(found, place_dims, shape, points, spec),
    )


def _check_dims(
    dims: tuple[str, ...],
    sizes: Mapping[Hashable, int],
    located: tuple[str, ...],
    positions: list[Position],
    found: Coordinates,
    subject: str,
) -> None:
    """Every dimension needs a coordinate of place or time, and every coordinate the dimension."""
    problems = []
    for position in positions:
        other = [d for d in position.dims if d not in dims and d != NODE_DIM]
        if other:
            text = f"dimensions {dims}, while {position.name!r} lies along {position.dims}"
            remedy = f"give the variable the dimension {other[0]!r}"
            problems.append(problem(subject, text, "a place for every value", remedy))
    timed = found.time.dims if found.time is not None else ()
    for dim in dims:
        if dim in located or dim in timed or sizes[dim] == 1:
            continue
        known = [p.name for p in positions]
        expected = f"dimensions that {known}{' or time' if timed else ''} lie along"
        remedy = f"select one with obs.isel({dim}=...), or give {dim!r} its coordinate"
        problems.append(problem(subject, f"the dimension {dim!r}", expected, remedy))
    raise_problems(ObservationError, problems)


def _without_time(times: ForecastTimes, subject: str) -> TimeMatch:
    if times.count > 1:
        found = f"no time coordinate, while the forecast has {times.count} times"
        remedy = "obs = obs.assign_coords(time=...) or obs.expand_dims(time=[...])"
        raise ObservationError(problem(subject, found, "a time for every value", remedy))
    here = np.zeros(1, dtype=np.int64)
    return TimeMatch(here, np.zeros(1, dtype=bool), here, here, np.zeros(1))
