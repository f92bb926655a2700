"""Observations set aside, so that an analysis can be judged by values that it has not seen."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xr_daisi.coordinate_values import read_coordinate
from xr_daisi.dimensions import axis_kind
from xr_daisi.errors import (
    DaisiTypeError,
    ObservationError,
    SettingsError,
    problem,
    raise_problems,
)
from xr_daisi.observation_identity import (
    find_identifier,
    find_positions,
    find_time,
    identifier_texts,
    is_coordinate,
)

__all__ = ["withhold"]

# Variables that describe others; where values are withheld one by one they stay as they are.
COMPANIONS = ("error", "quality", "qc", "use", "footprint", "error_covariance", "error_correlation")
MATRICES = ("_error_covariance", "_error_correlation")


def withhold(
    obs: xr.Dataset, what: float | str | Iterable[Any], *, seed: int = 0
) -> tuple[xr.Dataset, xr.Dataset]:
    """Split observations into those to assimilate and those to judge the analysis by.

    Whole stations are withheld where there are identifiers (a variable with a ``cf_role``, or
    called ``station``, ``station_id``, ``wmo``...). Else it is one place after the other along the
    dimension of latitude and longitude, with all times of a station series. On fields, whose places
    are a grid, random places become NaN in the one part and all others in the other, at all times
    and levels and in all variables together. Dask-backed data stay lazy.

    Parameters
    ----------
    obs : xarray.Dataset
        Points, station series or fields; not modified.
    what : float, or sequence of str or int
        Which share of the stations or places to withhold, between 0 and 1 (at least one on either
        side), or the identifiers of the stations to withhold.
    seed : int
        The same seed withholds the same stations, in whatever order they are.

    Returns
    -------
    used, withheld : xarray.Dataset
        Together all of `obs`, each in its order.

    Raises
    ------
    DaisiTypeError
        Where `obs` is no Dataset, or `what` neither a fraction nor a list.
    SettingsError
        For a fraction that is not between 0 and 1, or a seed that is not a whole number from 0.
    ObservationError
        Naming stations that are not there; and where one part would be empty.

    Examples
    --------
    >>> obs = xr.Dataset(
    ...     {"t2m": ("station", [280.0, 281.0, 282.0])},
    ...     coords={"station": ["03772", "03882", "03808"]},
    ... )
    >>> used, withheld = withhold(obs, ["03882"])
    >>> withheld.station.values.tolist()
    ['03882']
    """
    if not isinstance(obs, xr.Dataset):
        raise DaisiTypeError(problem("observations", type(obs).__name__, "an xarray.Dataset"))
    if isinstance(seed, bool) or not isinstance(seed, Integral) or seed < 0:
        raise SettingsError(problem("seed", repr(seed), "a whole number from 0"))
    observed = _observed(obs)
    name = find_identifier(obs, "station")
    if name is not None and obs[name].dims[0] not in _dims(obs, observed):
        name = None
    dims = obs[name].dims if name is not None else _place_dims(obs, observed)
    wanted = _wanted(what)
    if len(dims) > 1:
        if not isinstance(wanted, float):
            expected = "a fraction, since places of a grid have no identifiers"
            raise ObservationError(problem("withhold", f"{len(wanted)} stations", expected))
        return _split_field(obs, observed, tuple(map(str, dims)), wanted, int(seed))
    dim = str(dims[0])
    if isinstance(wanted, float):
        chosen = _random_units(obs, name, dim, wanted, int(seed))
    else:
        chosen = _named_units(obs, name, dim, wanted)
    if chosen.all():
        found = "every station" if name else f"all {chosen.size} places along {dim!r}"
        remedy = "withhold fewer of them"
        raise ObservationError(problem("withhold", found, "some left to assimilate", remedy))
    return _select(obs, dim, ~chosen), _select(obs, dim, chosen)


def _wanted(what: Any) -> float | list[Any]:
    if isinstance(what, Real) and not isinstance(what, Integral):  # True is Integral too
        fraction = float(what)
        if not 0.0 < fraction < 1.0:
            expected = "a fraction between 0 and 1, both excluded"
            raise SettingsError(problem("withhold", f"{fraction:g}", expected, "e.g. 0.2"))
        return fraction
    if isinstance(what, (str, bytes)):
        return [what]
    if isinstance(what, Iterable):
        names = list(np.ravel(np.asarray(list(what), dtype=object)))
        if not names:
            remedy = "name stations, or give a fraction such as 0.2"
            raise SettingsError(problem("withhold", "an empty list", "stations", remedy))
        return names
    remedy = "e.g. 0.2, or a list with one station"
    expected = "a fraction between 0 and 1, or a list of stations"
    raise DaisiTypeError(problem("withhold", repr(what), expected, remedy))


def _observed(obs: xr.Dataset) -> list[str]:
    """Names of the variables that hold observed numbers."""
    names = [str(name) for name in obs.data_vars]
    companions = {f"{name}_{word}" for name in names for word in COMPANIONS}
    for name in names:
        companions |= set(str(obs[name].attrs.get("ancillary_variables", "")).split())
    return [
        name
        for name in names
        if obs[name].dtype.kind in "fiu"
        and name not in companions
        and not {"flag_values", "flag_masks"} & set(obs[name].attrs)
        and not is_coordinate(obs, name)
    ]


def _dims(obs: xr.Dataset, names: list[str]) -> list[str]:
    return list(dict.fromkeys(str(d) for name in names for d in obs[name].dims))


def _place_dims(obs: xr.Dataset, observed: list[str]) -> tuple[str, ...]:
    """Return the dimensions along which places lie: one for points, several for fields."""
    own = _dims(obs, observed)
    positions = find_positions(obs)
    if positions:
        found = dict.fromkeys(str(d) for name in positions for d in obs[name].dims)
        dims = tuple(d for d in found if d in own)
    else:
        time = {"time", find_time(obs)}
        dims = tuple(d for d in own if d not in time)
    if not dims:
        found_text = f"variables {observed} on dimensions {own}"
        expected = "a dimension of stations, points or places"
        remedy = "decode ragged arrays with xr_daisi.read_observations(obs) first"
        raise ObservationError(problem("withhold", found_text, expected, remedy))
    return dims


def _random_units(
    obs: xr.Dataset, name: str | None, dim: str, fraction: float, seed: int
) -> NDArray[np.bool_]:
    """Choose stations at random; those without identifier count one by one."""
    order = _canonical(obs, (dim,))
    unit = np.empty(order.size, dtype=np.int64)
    unit[order] = np.arange(order.size)
    if name is not None:
        texts = identifier_texts(obs[name])
        stations, number = np.unique(texts, return_inverse=True)
        alone = texts == ""
        # Stations come first in the alphabet's order, then the values that belong to none.
        unit = np.where(alone, stations.size + unit, number)
    labels, unit = np.unique(unit, return_inverse=True)
    if labels.size < 2:
        found = f"{labels.size} station" if name else f"{labels.size} place along {dim!r}"
        raise ObservationError(problem("withhold", found, "at least two, one for either part"))
    picked: NDArray[np.bool_] = _pick(labels.size, fraction, seed)[unit]
    return picked


def _pick(count: int, fraction: float, seed: int) -> NDArray[np.bool_]:
    picked = np.zeros(count, dtype=bool)
    number = int(np.clip(round(fraction * count), 1, count - 1))
    picked[np.random.default_rng(seed).permutation(count)[:number]] = True
    return picked


def _named_units(
    obs: xr.Dataset, name: str | None, dim: str, wanted: list[Any]
) -> NDArray[np.bool_]:
    if name is None:
        texts = np.arange(obs.sizes[dim]).astype(np.str_)
        remedy = f"obs = obs.assign_coords(station=({dim!r}, identifiers))"
    else:
        texts = identifier_texts(obs[name])
        remedy = ""
    numbers = name is None or obs[name].dtype.kind in "iu"
    asked = [_as_text(one, numbers) for one in wanted]
    known = sorted(set(texts.tolist()) - {""})
    problems = []
    for one in dict.fromkeys(asked):
        if one not in known:
            near = difflib.get_close_matches(one, known, n=3, cutoff=0.5)
            some = ", ".join(near or known[:3]) + ("" if near or len(known) <= 3 else ", ...")
            expected = f"{'one like' if near else 'one of'} {some}"
            problems.append(problem(f"station {one!r}", "no such station", expected, remedy))
    raise_problems(ObservationError, problems)
    chosen: NDArray[np.bool_] = np.isin(texts, asked)
    return chosen


def _as_text(identifier: Any, numbers: bool) -> str:
    if isinstance(identifier, xr.DataArray):
        identifier = identifier.item()
    text = str(identifier_texts(xr.Variable((), np.asarray(identifier, dtype=object))))
    return str(int(text)) if numbers and text.isdecimal() else text


def _canonical(obs: xr.Dataset, dims: tuple[str, ...]) -> NDArray[np.int64]:
    """Order of places that does not depend on how they are sorted in the Dataset."""
    sizes = {d: obs.sizes[d] for d in dims}
    keys = []
    positions = find_positions(obs)
    others = [str(c) for c in obs.coords if c not in positions]
    for name in (*positions, *others):
        variable = obs.variables[name]
        if not variable.ndim or not set(variable.dims) <= set(dims):
            continue
        if variable.dtype.kind not in "fiuM":
            continue
        values = read_coordinate(variable)
        if axis_kind(obs, name) == "longitude":
            values = np.round(values.astype(float) % 360.0, 9)  # -10 and 350 are one place
        spread = xr.Variable(variable.dims, values).set_dims(sizes).transpose(*dims)
        keys.append(spread.values.ravel())
    count = int(np.prod(list(sizes.values())))
    return np.lexsort(keys[::-1]) if keys else np.arange(count)


def _select(obs: xr.Dataset, dim: str, mask: NDArray[np.bool_]) -> xr.Dataset:
    index = np.flatnonzero(mask)
    chosen = obs.isel({dim: index})
    # Covariances of errors lie along the dimension and once more along another of its size.
    for name in obs.variables:
        dims = obs[name].dims
        if str(name).endswith(MATRICES) and len(dims) == 2 and dim in dims:
            other = next((d for d in dims if d != dim), dim)
            if chosen.sizes.get(other) == mask.size and other != dim:
                chosen = chosen.isel({other: index})
    return chosen


def _split_field(
    obs: xr.Dataset, observed: list[str], dims: tuple[str, ...], fraction: float, seed: int
) -> tuple[xr.Dataset, xr.Dataset]:
    shape = tuple(obs.sizes[d] for d in dims)
    if np.prod(shape) < 2:
        raise ObservationError(problem("withhold", "one place", "at least two"))
    picked = np.empty(shape, dtype=bool)
    picked.reshape(-1)[_canonical(obs, dims)] = _pick(picked.size, fraction, seed)
    mask = xr.DataArray(picked, dims=dims)
    split = [name for name in observed if set(dims) <= set(obs[name].dims)]
    parts = []
    for kept, what in ((~mask, "used"), (mask, "withheld")):
        # `where` puts the dimensions of the mask last where they are new, never in between.
        part = obs.assign({n: obs[n].where(kept).transpose(*obs[n].dims) for n in split})
        for name in split:
            part[name].encoding = dict(obs[name].encoding)
        in_memory = all(obs[name].chunks is None for name in split)
        if in_memory and not any(bool(part[name].notnull().any()) for name in split):
            found = f"no values among the {what} ones"
            remedy = "take another fraction or another seed"
            raise ObservationError(problem("withhold", found, "some on both sides", remedy))
        parts.append(part)
    return parts[0], parts[1]
