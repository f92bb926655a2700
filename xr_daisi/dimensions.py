"""Which dimension is which: member, time, level and space of a Dataset.

Names come before attributes: real files carry misleading attributes (a GRIB decoder gives ``time``
the standard name ``forecast_reference_time``), while their dimension names are dependable.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from xr_daisi.errors import StateError, problem, raise_problems

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    import xarray as xr

__all__ = [
    "LATITUDE_NAMES",
    "LEVEL_NAMES",
    "LONGITUDE_NAMES",
    "MEMBER_NAMES",
    "Dimensions",
    "axis_kind",
    "find_dimensions",
    "other_valid_time",
    "standard_name",
    "time_coordinate",
]

MEMBER_NAMES = ("member", "realization", "ensemble", "number", "sample", "ens")
LEVEL_NAMES = (
    "level",
    "lev",
    "plev",
    "pressure_level",
    "isobaricInhPa",
    "height",
    "depth",
    "z",
    "model_level",
)
LATITUDE_NAMES = ("latitude", "lat")
LONGITUDE_NAMES = ("longitude", "lon")


@dataclass(frozen=True)
class Dimensions:
    """Roles of the dimensions of some variables.

    Attributes
    ----------
    member, time : str or None
        None where there is no such dimension.
    level : dict of str to str or None
        Vertical dimension of each variable.
    space : tuple of str
        One or two horizontal dimensions, in the order of the first variable.
    """

    member: str | None
    time: str | None
    level: dict[str, str | None]
    space: tuple[str, ...]


def standard_name(variable: xr.DataArray | xr.Variable) -> str | None:
    """Return the CF standard name, or None where absent or not meaningful."""
    name = variable.attrs.get("standard_name")
    if not isinstance(name, str) or name.strip().lower() in ("", "unknown", "none"):
        return None
    return name.strip()


def axis_kind(ds: xr.Dataset | xr.DataArray, dim: Hashable) -> str:
    """Return ``"latitude"``, ``"longitude"`` or ``"plain"`` for a space dimension."""
    name = str(dim).lower()
    if name in LATITUDE_NAMES:
        return "latitude"
    if name in LONGITUDE_NAMES:
        return "longitude"
    coord = ds.coords.get(dim)
    if coord is not None:
        kind = standard_name(coord)
        if kind in ("latitude", "longitude"):
            return kind
        units = str(coord.attrs.get("units", "")).lower()
        if units in ("degrees_north", "degree_north", "degrees_n"):
            return "latitude"
        if units in ("degrees_east", "degree_east", "degrees_e"):
            return "longitude"
    return "plain"


def find_dimensions(
    ds: xr.Dataset, variables: Sequence[str], *, what: str = "forecast"
) -> Dimensions:
    """Find the role of every dimension of some variables.

    Parameters
    ----------
    ds : xarray.Dataset
        The data.
    variables : sequence of str
        Names of data variables in it.
    what : str
        What the data are, for messages.

    Returns
    -------
    Dimensions
        The roles.

    Raises
    ------
    StateError
        Where several dimensions could be the member, or the horizontal dimensions are not one or
        two, or differ between variables.
    """
    dims = list(dict.fromkeys(d for v in variables for d in ds[v].dims))
    member = _member(ds, dims, what)
    time = _time(ds, [d for d in dims if d != member])
    levels: dict[str, str | None] = {}
    space: dict[str, tuple[str, ...]] = {}
    problems = []
    for name in variables:
        rest = [d for d in ds[name].dims if d not in (member, time)]
        levels[name] = _level(ds, rest)
        space[name] = tuple(str(d) for d in rest if d != levels[name])
        if len(space[name]) not in (1, 2):
            found = f"dimensions {tuple(ds[name].dims)} with horizontal part {space[name]}"
            # A dimension that is neither latitude nor longitude is the likelier stranger.
            others = [d for d in space[name] if axis_kind(ds, d) == "plain"] or space[name]
            problems.append(
                problem(
                    f"{what} variable {name!r}",
                    found,
                    "one or two horizontal dimensions beside member, time and level",
                    f"rename an ensemble dimension, .rename({others[0]}='member'); of any other "
                    f"select one entry, .isel({others[0]}=0)"
                    if space[name]
                    else "give the fields on a grid, or leave the variable out",
                )
            )
    first = space[variables[0]]
    problems += [
        problem(
            f"{what} variable {name!r}",
            f"horizontal dimensions {space[name]}",
            f"those of {variables[0]!r}, {first}",
            "put all variables on one grid",
        )
        for name in variables
        if len(space[name]) in (1, 2) and set(space[name]) != set(first)
    ]
    raise_problems(StateError, problems)
    return Dimensions(member, time, levels, first)


def _member(ds: xr.Dataset, dims: Sequence[Hashable], what: str) -> str | None:
    candidates = [
        d
        for d in dims
        if d in MEMBER_NAMES or (d in ds.coords and standard_name(ds.coords[d]) == "realization")
    ]
    if len(candidates) > 1:
        names = ", ".join(repr(str(d)) for d in candidates)
        # Stacking needs a name that is not one of the stacked dimensions.
        new = next((n for n in MEMBER_NAMES if n not in ds.dims), "members")
        raise StateError(
            problem(
                f"member dimension of the {what}",
                f"{len(candidates)} candidates: {names}",
                "one",
                f"select one entry of the others, e.g. .isel({candidates[1]}=0), or stack them: "
                f".stack({new}=[{names}]).reset_index({new!r})",
            )
        )
    return str(candidates[0]) if candidates else None


def time_coordinate(ds: xr.Dataset, dim: str | None) -> str | None:
    """Find the coordinate that tells the times of a Dataset.

    Parameters
    ----------
    ds : xarray.Dataset
        The data.
    dim : str or None
        Dimension of time; None where there is a single time at most.

    Returns
    -------
    str or None
        ``time`` or the dimension's own coordinate before what cf-xarray finds, such as the
        ``valid_time`` along the dimension ``step`` of a forecast; None where there is none.
    """
    shape = () if dim is None else (dim,)
    own = "time" if dim is None else dim
    found = [n for n in _cf_times(ds) if n in ds.coords and ds.coords[n].dims == shape]
    has_own = own in ds.coords and ds.coords[own].dims == shape
    if has_own and (own == "time" or _is_time(ds, own) or not found):
        return own
    return str(found[0]) if found else None


def other_valid_time(ds: xr.Dataset, name: str) -> str | None:
    """Find the valid time of a forecast whose `name` says that it is the time of its start.

    Parameters
    ----------
    ds : xarray.Dataset
        The data.
    name : str
        The coordinate taken for the time.

    Returns
    -------
    str or None
        A coordinate with standard_name ``time`` whose values differ; None where all agrees, and
        where telling would mean to compute a dask array.
    """
    time = ds.coords[name]
    if standard_name(time) != "forecast_reference_time":
        return None
    for other in _cf_times(ds):
        valid = ds.coords.get(other)
        if valid is None or valid.dims != time.dims or standard_name(valid) != "time":
            continue
        if valid.chunks is None and not np.array_equal(valid.values, time.values):
            return str(other)
    return None


def _time(ds: xr.Dataset, dims: Sequence[Hashable]) -> str | None:
    if "time" in dims:
        return "time"
    candidates = {ds[name].dims[0] for name in _cf_times(ds) if ds[name].ndim == 1}
    found = [str(d) for d in dims if d in candidates or _is_time(ds, d)]
    return found[0] if found else None


def _cf_times(ds: xr.Dataset) -> list[Hashable]:
    import cf_xarray  # noqa: F401  registers .cf

    names = [*ds.cf.coordinates.get("time", []), *ds.cf.axes.get("T", [])]
    return [name for name in dict.fromkeys(names) if name in ds.variables]


def _is_time(ds: xr.Dataset, dim: Hashable) -> bool:
    if dim not in ds.coords:
        return False
    values = ds.coords[dim]
    if np.issubdtype(values.dtype, np.datetime64):
        return True
    return values.dtype == object and values.size > 0 and hasattr(values.values.flat[0], "calendar")


def _level(ds: xr.Dataset, dims: Sequence[Hashable]) -> str | None:
    named = [d for d in dims if d in LEVEL_NAMES]
    if len(named) == 1:
        return str(named[0])
    import cf_xarray  # noqa: F401  registers .cf

    # A horizontal axis may come without attributes, so an axis is vertical only if CF says so.
    vertical = set(ds.cf.axes.get("Z", [])) | set(ds.cf.coordinates.get("vertical", []))
    found = [d for d in (named or dims) if d in vertical]
    if found:
        return str(found[0])
    return str(named[0]) if named else None
