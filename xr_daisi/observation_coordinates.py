"""Where an observation Dataset keeps its coordinates: position, level and time.

Names come before attributes, and data variables serve where no coordinate was set.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from xr_daisi.coordinate_values import read_coordinate
from xr_daisi.dimensions import LATITUDE_NAMES, LEVEL_NAMES, LONGITUDE_NAMES
from xr_daisi.errors import DaisiError, ObservationError, UnitsError, problem, raise_problems
from xr_daisi.observation_agreement import distance_apart
from xr_daisi.units import conversion
from xr_daisi.verticals import direction_of, is_turned

if TYPE_CHECKING:
    import xarray as xr

    from xr_daisi.state import StateSpec

__all__ = ["Coordinates", "Position", "find_coordinates", "find_time"]

NAMES = {"latitude": LATITUDE_NAMES, "longitude": LONGITUDE_NAMES}


@dataclass(frozen=True, eq=False)
class Position:
    """One coordinate of an observation Dataset.

    Parameters
    ----------
    name : str
        Name in the Dataset.
    dims : tuple of str
        Dimensions it lies along.
    values : array
        Values, in the state's units where they are numbers.
    """

    name: str
    dims: tuple[str, ...]
    values: NDArray[Any]


@dataclass(frozen=True, eq=False)
class Coordinates:
    """Coordinates of an observation Dataset.

    Parameters
    ----------
    horizontal : tuple of Position
        One for each of the state's space dimensions.
    vertical : dict of str to Position
        For each vertical dimension of the state that the Dataset has a coordinate for.
    time : Position or None
        Time.
    geolocated : bool
        Whether the horizontal ones are latitude and longitude, on a grid that has these as fields
        of two dimensions.
    """

    horizontal: tuple[Position, ...]
    vertical: dict[str, Position]
    time: Position | None
    geolocated: bool = False

    @property
    def names(self) -> set[str]:
        """Names in the Dataset."""
        found = {p.name for p in (*self.horizontal, *self.vertical.values())}
        return found | ({self.time.name} if self.time is not None else set())

    def is_field(self, spec: StateSpec) -> bool:
        """Whether every space dimension has a dimension of its own: a field, not points."""
        dims = [p.dims for p in self.horizontal]
        if any(len(along) != 1 for along in dims) or len(set(dims)) < len(dims):
            return False
        # Along one dimension, only the name tells a field from points.
        return len(dims) > 1 or dims[0] == spec.dims


def find_coordinates(ds: xr.Dataset, spec: StateSpec, subject: str) -> Coordinates:
    """Find position, level and time of the values of a Dataset.

    Parameters
    ----------
    ds : Dataset
        Observations. Coordinates are read, in memory or not; data are not touched.
    spec : StateSpec
        The state.
    subject : str
        Name of the Dataset for messages.

    Returns
    -------
    Coordinates
        In the state's units.

    Raises
    ------
    ObservationError
        Where a coordinate is missing, ambiguous, or not numeric.
    """
    problems: list[str] = []
    kinds: dict[str, str] = dict(spec.axes)
    geolocated = _geolocated(ds, spec, subject)
    if geolocated:
        kinds = {"latitude": "latitude", "longitude": "longitude"}
    horizontal = [
        _collect(problems, _horizontal, ds, spec, dim, kind, subject)
        for dim, kind in (kinds.items() if geolocated else ((d, kinds[d]) for d in spec.dims))
    ]
    level_dims = dict.fromkeys(v.level_dim for v in spec.variables if v.level_dim is not None)
    vertical = {
        dim: _collect(problems, _vertical, ds, spec, dim, len(level_dims) == 1, subject)
        for dim in level_dims
    }
    time = _collect(problems, find_time, ds, subject)
    raise_problems(ObservationError, problems)
    return Coordinates(
        tuple(p for p in horizontal if p is not None),
        {dim: p for dim, p in vertical.items() if p is not None},
        time,
        geolocated,
    )


def _geolocated(ds: xr.Dataset, spec: StateSpec, subject: str) -> bool:
    """Whether positions are latitude and longitude although the grid has other coordinates.

    Where a Dataset has both, those of the grid are taken if they say the same. Numbers of rows and
    columns and coordinates of another kind are not the grid's.
    """
    if spec.geolocation is None:
        return False
    both = all(_named(ds, (d,)) is not None for d in spec.dims)
    try:
        there = all(
            _named(ds, NAMES[kind]) or _by_attributes(ds, kind, "coordinates", subject)
            for kind in NAMES
        )
    except ObservationError:
        if both:
            return False
        raise
    if not there or not both:
        return there
    degrees = [_horizontal(ds, spec, kind, kind, subject) for kind in NAMES]
    try:
        own = [_horizontal(ds, spec, dim, spec.axes[dim], subject) for dim in spec.dims]
    except DaisiError:
        return True  # no numbers, or units that do not convert
    one, other = ([(p.dims, p.values) for p in positions] for positions in (own, degrees))
    apart = distance_apart(one, other, spec)
    if apart == 0.0:
        return False
    if all(_is_counted(ds.variables[p.name], p.name) for p in own):
        return True
    names = [p.name for p in (*own, *degrees)]
    found = f"{names[0]}, {names[1]} and {names[2]}, {names[3]} up to {apart:.3g} km apart"
    remedy = f"drop those that are wrong, e.g. obs.drop_vars({names[:2]})"
    raise ObservationError(problem(subject, found, "one position for each value", remedy))


def _is_counted(variable: xr.Variable, name: str) -> bool:
    """Whether a coordinate only numbers the entries of its dimension."""
    if variable.dims != (name,) or variable.attrs.get("units") not in (None, "", "1"):
        return False
    return bool((np.diff(np.asarray(variable.values, dtype=np.float64)) == 1.0).all())


def _collect(problems: list[str], find: Any, *args: Any) -> Position | None:
    """Call a function; note what it raises, so that everything is reported at once."""
    try:
        result: Position | None = find(*args)
    except DaisiError as error:
        problems.append(str(error))
        return None
    return result


def _horizontal(ds: xr.Dataset, spec: StateSpec, dim: str, kind: str, subject: str) -> Position:
    name = _named(ds, (dim, *NAMES.get(kind, ())))
    if name is None and kind != "plain":
        name = _by_attributes(ds, kind, "coordinates", subject)
    nodes = np.asarray(spec.coords.get(dim, ()), dtype=np.float64)
    if name is None and dim in ds.dims and np.array_equal(nodes, np.arange(nodes.size)):
        # Neither side has coordinates: position is counted along the dimension.
        return Position(dim, (dim,), np.arange(ds.sizes[dim], dtype=np.float64))
    if name is None:
        names = " or ".join(repr(n) for n in dict.fromkeys((dim, *NAMES.get(kind, ()))))
        found = f"no coordinate for the state's {dim!r} among {sorted(map(str, ds.variables))}"
        remedy = f"obs = obs.assign_coords({dim}=(dimension, values))"
        raise ObservationError(problem(subject, found, f"one named {names}", remedy))
    target = "degree" if kind != "plain" else spec.coord_units.get(dim)
    return _numeric(ds, name, target, subject)


def _vertical(
    ds: xr.Dataset, spec: StateSpec, level_dim: str, only: bool, subject: str
) -> Position | None:
    variable = next(v for v in spec.variables if v.level_dim == level_dim)
    levels = variable.levels or ()
    name = level_dim if level_dim in ds.variables and level_dim not in spec.names else None
    if name is None and level_dim in ds.dims and levels == tuple(range(len(levels))):
        return Position(level_dim, (level_dim,), np.arange(ds.sizes[level_dim], dtype=np.float64))
    if only:
        # A data variable called z or height is more often a quantity than a coordinate.
        name = name or _named(ds, LEVEL_NAMES, within=ds.coords)
        if name is None:
            name = _by_attributes(ds, "vertical", "coordinates", subject)
            name = name or _by_attributes(ds, "Z", "axes", subject)
        elif _says_nothing(ds.variables[name], levels):
            name = _described(ds, name, variable.level_units, subject) or name
    if name is None:
        return None
    found = _numeric(ds, name, variable.level_units, subject)
    attrs = ds.variables[name].attrs
    turned = is_turned(
        variable.level_positive or direction_of({}, level_dim, np.asarray(levels)),
        direction_of(attrs, name, found.values),
        (variable.level_units, attrs.get("units")),
        (level_dim, str(attrs.get("standard_name", name))),
    )
    return replace(found, values=-found.values) if turned else found


def _says_nothing(variable: xr.Variable, levels: tuple[float, ...]) -> bool:
    """Whether only the name tells that a coordinate is vertical, and it is not the state's own."""
    if any(variable.attrs.get(k) for k in ("units", "standard_name", "axis", "positive")):
        return False
    return variable.dtype.kind not in "fiu" or not np.isin(read_coordinate(variable), levels).all()


def _described(ds: xr.Dataset, named: str, units: str | None, subject: str) -> str | None:
    """Name of a vertical coordinate by its attributes, with a value wherever another has one."""
    import cf_xarray  # noqa: F401  registers .cf

    names = [*ds.cf.coordinates.get("vertical", []), *ds.cf.axes.get("Z", [])]
    fit = []
    for name in map(str, dict.fromkeys(names)):
        variable = ds.variables[name]
        if name == named or not set(ds.variables[named].dims) <= set(variable.dims):
            continue
        try:
            conversion(units, variable.attrs.get("units"))
        except UnitsError:
            continue
        fit.append(name)
    if len(fit) > 1:
        raise _ambiguous(subject, "the vertical", fit)
    return fit[0] if fit else None


def find_time(ds: xr.Dataset, subject: str) -> Position | None:
    """Return the time coordinate of an observation Dataset, None where there is none.

    Parameters
    ----------
    ds : Dataset
        Observations in the labelled form.
    subject : str
        Name of the Dataset for messages.

    Raises
    ------
    ObservationError
        Where several could be meant, or a time dimension has no dates.
    """
    name = _named(ds, ("time",))
    if name is None:
        name = _by_attributes(ds, "time", "coordinates", subject)
    if name is None:
        name = _by_attributes(ds, "T", "axes", subject)
    if name is None:
        dates = [str(n) for n in ds.coords if _is_date(ds.variables[n])]
        if len(dates) > 1:
            raise _ambiguous(subject, "time", dates)
        name = dates[0] if dates else None
    if name is None and "time" in ds.dims:
        remedy = "obs = obs.assign_coords(time=...)"
        found = "the dimension 'time' without coordinate"
        raise ObservationError(problem(subject, found, "dates along it", remedy))
    if name is None:
        return None
    variable = ds.variables[name]
    return Position(name, tuple(map(str, variable.dims)), read_coordinate(variable))


def _named(ds: xr.Dataset, names: Iterable[str], within: Iterable[Any] | None = None) -> str | None:
    """First of several names that the Dataset has, in any case of letters."""
    present = [str(name) for name in (ds.variables if within is None else within)]
    for wanted in names:
        for name in (wanted, *(n for n in present if n.lower() == wanted.lower())):
            if name in present:
                return name
    return None


def _by_attributes(ds: xr.Dataset, key: str, table: str, subject: str) -> str | None:
    """Name of a coordinate that cf-xarray recognises by its attributes."""
    import cf_xarray  # noqa: F401  registers .cf

    names = [str(name) for name in getattr(ds.cf, table).get(key, [])]
    if len(names) > 1:
        raise _ambiguous(subject, key, names)
    return names[0] if names else None


def _ambiguous(subject: str, what: str, names: list[str]) -> ObservationError:
    remedy = f"drop the others, e.g. obs.drop_vars({names[1]!r})"
    return ObservationError(problem(subject, f"{names} for {what}", "one coordinate", remedy))


def _is_date(variable: xr.Variable) -> bool:
    if variable.dtype.kind == "M":
        return True
    if variable.dtype.kind != "O" or variable.size == 0:
        return False
    return hasattr(variable.values.flat[0], "calendar")


def _numeric(ds: xr.Dataset, name: str, units: str | None, subject: str) -> Position:
    """Values of a coordinate as float64, in given units."""
    variable = ds.variables[name]
    if variable.dtype.kind not in "fiu":
        found, remedy = f"values of type {variable.dtype}", "convert them to numbers"
        raise ObservationError(problem(f"{subject}, {name}", found, "numbers", remedy))
    own = variable.attrs.get("units")
    if units == "degree" and str(own or "").strip().lower().startswith("deg"):
        own = units  # degrees north and degrees east are degrees
    change = conversion(units, own, variable=f"{subject}, {name}")
    values = read_coordinate(variable).astype(np.float64)
    if not change.is_identity:
        values = (values - change.offset) / change.factor
    return Position(name, tuple(map(str, variable.dims)), values)
