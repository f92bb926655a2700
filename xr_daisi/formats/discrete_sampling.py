"""CF discrete sampling geometries: points, stations, profiles and trajectories, ragged or not.

Reading spreads what is known of an instance, such as a station's position, over its values.
"""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np
import xarray as xr

from xr_daisi.errors import ObservationError, problem, raise_problems
from xr_daisi.formats.points import VERTICAL_NAMES, to_points
from xr_daisi.observation_errors import error_variable
from xr_daisi.observation_identity import find_identifier, find_positions, is_coordinate
from xr_daisi.observation_quality import companions

__all__ = [
    "from_discrete_sampling",
    "is_discrete_sampling",
    "to_contiguous",
    "to_indexed",
]

FEATURE_TYPES = {
    *("point", "timeseries", "profile", "trajectory", "timeseriesprofile", "trajectoryprofile"),
}
SAMPLE, INSTANCE = "sample_dimension", "instance_dimension"

PLACE_AND_TIME = {"latitude", "longitude", "time", "surface_altitude"}
"""Standard names of variables that are always coordinates."""


def is_discrete_sampling(ds: xr.Dataset) -> bool:
    """Whether a Dataset says that it is one, or has ragged arrays."""
    ragged = any({SAMPLE, INSTANCE} & {*v.attrs} for v in ds.variables.values())
    return ragged or _feature_type(ds) is not None


def _feature_type(ds: xr.Dataset) -> str | None:
    for name, value in ds.attrs.items():
        if str(name).lower() in ("featuretype", "cf:featuretype"):
            return str(value)
    return None


def from_discrete_sampling(ds: xr.Dataset) -> xr.Dataset:
    """Bring a discrete sampling geometry to the labelled form.

    Parameters
    ----------
    ds : Dataset
        Decoded; not modified.

    Returns
    -------
    Dataset
        Ragged arrays as points along the dimension of their values; coordinates and identifiers
        are coordinates.

    Raises
    ------
    ObservationError
        Where counts or indices do not fit, or positions are missing.
    """
    kind = _feature_type(ds)
    if kind is not None and kind.lower() not in FEATURE_TYPES:
        raise ObservationError(
            problem("featureType", repr(kind), f"one of {sorted(FEATURE_TYPES)}", "correct it")
        )
    positions = find_positions(ds)
    listed = len(positions) == 2 and set(positions) <= set(map(str, ds.coords))
    # Of profiles at stations, first the profiles are spread over values, then the stations.
    for _ in range(3):
        counts = [str(n) for n, v in ds.variables.items() if SAMPLE in v.attrs]
        indices = [str(n) for n, v in ds.variables.items() if INSTANCE in v.attrs]
        if counts:
            ds = _contiguous(ds, counts[0])
        elif indices:
            ds = _indexed(ds, indices[0])
        else:
            break
    profile = (kind or "").lower().endswith("profile")
    ds = ds.set_coords(_coordinates_among(ds, profile=profile, listed=listed))
    _check_positions(ds)
    return ds


def _coordinates_among(ds: xr.Dataset, *, profile: bool, listed: bool) -> list[str]:
    """Names of the data variables that are coordinates.

    Height, depth and pressure are so only where nothing says that they were observed: errors or
    flags of their own; or a file that lists its coordinates, and these not among them. Of a
    profile, flags say no more than that its levels were checked.
    """
    size = max((v.ndim for v in ds.data_vars.values()), default=0)
    always = [str(n) for n in ds.data_vars if is_coordinate(ds, str(n))]
    vertical: list[str] = []
    for label, variable in ds.data_vars.items():
        name, attrs = str(label), variable.attrs
        kind = attrs.get("standard_name")
        if name in always:
            continue
        if kind in PLACE_AND_TIME or "cf_role" in attrs:
            always.append(name)
        elif attrs.get("axis") in ("X", "Y", "Z", "T") or kind in VERTICAL_NAMES:
            stated = "axis" in attrs or "positive" in attrs
            observed = error_variable(ds, name) is not None and not (profile and stated)
            if not (profile or stated):
                about = companions(ds, name) or "ancillary_variables" in attrs
                observed |= bool(about) or (listed and variable.ndim == size)
            vertical += [] if observed else [name]
    numeric = {str(n) for n, v in ds.data_vars.items() if v.dtype.kind in "biuf"}
    about_others = {other for n in numeric for other in companions(ds, n)}
    if len(vertical) == 1 and not numeric - {*always, *vertical, *about_others}:
        return always  # nothing else was observed
    return always + vertical


def _check_positions(ds: xr.Dataset) -> None:
    problems = []
    there = sorted(map(str, ds.variables))
    for kind in ("latitude", "longitude"):
        known = [
            n
            for n, v in ds.variables.items()
            if str(n).lower() in (kind, kind[:3]) or v.attrs.get("standard_name") == kind
        ]
        if not known and len(find_positions(ds)) < 2:
            expected = f"a variable with standard_name {kind!r}, or of that name"
            problems.append(problem("observations", f"no {kind} among {there}", expected))
    raise_problems(ObservationError, problems)


def _contiguous(ds: xr.Dataset, name: str) -> xr.Dataset:
    """Spread instances over their values, which follow each other."""
    count = ds.variables[name]
    dim = str(count.attrs[SAMPLE])
    _check_dim(ds, name, SAMPLE, dim)
    sizes = _whole(count, name)
    if (sizes < 0).any() or int(sizes.sum()) != ds.sizes[dim]:
        found = f"counts that add up to {int(sizes.sum())}"
        raise ObservationError(problem(name, found, f"{ds.sizes[dim]}, the size of {dim!r}"))
    (instance,) = count.dims
    number = np.repeat(np.arange(sizes.size), sizes)
    return _spread(ds.drop_vars(name), instance, dim, number)


def _indexed(ds: xr.Dataset, name: str) -> xr.Dataset:
    """Spread instances over the values that name them."""
    index = ds.variables[name]
    instance = str(index.attrs[INSTANCE])
    _check_dim(ds, name, INSTANCE, instance)
    number = _whole(index, name)
    size = ds.sizes[instance]
    if number.size and (number.min() < 0 or number.max() >= size):
        found = f"indices from {number.min()} to {number.max()}"
        raise ObservationError(problem(name, found, f"0 to {size - 1}, along {instance!r}"))
    (dim,) = index.dims
    return _spread(ds.drop_vars(name), instance, str(dim), number)


def _check_dim(ds: xr.Dataset, name: str, attribute: str, dim: str) -> None:
    if ds.variables[name].ndim != 1 or dim not in ds.dims:
        found = f"{attribute} {dim!r} and dimensions {ds.variables[name].dims}"
        expected = f"one dimension, and one of {sorted(map(str, ds.dims))} in {attribute}"
        raise ObservationError(problem(name, found, expected))


def _whole(variable: xr.Variable, name: str) -> np.ndarray:
    values = np.asarray(variable.values)
    if values.dtype.kind == "f" and np.isfinite(values).all() and (values % 1 == 0).all():
        values = values.astype(np.int64)
    if values.dtype.kind not in "iu":
        found = f"values of type {values.dtype}, or missing ones"
        raise ObservationError(problem(name, found, "whole numbers"))
    return values.astype(np.int64)


def _spread(ds: xr.Dataset, instance: Hashable, dim: str, number: np.ndarray) -> xr.Dataset:
    """Give variables of instances the dimension of values; they become coordinates."""
    of_instance = [n for n, v in ds.variables.items() if instance in v.dims]
    out = ds.drop_vars(of_instance)
    for name in of_instance:
        variable = ds.variables[name]
        along = variable.dims.index(instance)
        dims = [dim if d == instance else d for d in variable.dims]
        values = np.take(np.asarray(variable.values), number, axis=along)
        target = f"{name}_index" if name == dim else name
        out = out.assign_coords({target: (dims, values, variable.attrs)})
        out[target].encoding = {k: v for k, v in variable.encoding.items() if k == "units"}
    return out


# -- writing --------------------------------------------------------------------------------------


def to_contiguous(obs: xr.Dataset) -> xr.Dataset:
    """Write as a contiguous ragged array: values of each station one after the other.

    Parameters
    ----------
    obs : Dataset
        In the labelled form, with identifiers of stations, profiles or trajectories.

    Returns
    -------
    Dataset
        With a count for each instance; values are sorted by instance.

    Raises
    ------
    ObservationError
        Where nothing says which values belong together.
    """
    points, numbers, instances = _by_instance(obs)
    order = np.argsort(numbers, kind="stable")
    points = points.isel(obs=order)
    out, count = _instances(points, numbers[order], instances)
    attrs = {SAMPLE: "obs", "long_name": f"number of values of each {instances}"}
    out["row_size"] = (instances, np.bincount(numbers, minlength=count), attrs)
    return out


def to_indexed(obs: xr.Dataset) -> xr.Dataset:
    """Write as an indexed ragged array: each value names its station; see `to_contiguous`."""
    points, numbers, instances = _by_instance(obs)
    out, _ = _instances(points, numbers, instances)
    attrs = {INSTANCE: instances, "long_name": f"which {instances} each value is of"}
    out[f"{instances}_index"] = ("obs", numbers.astype(np.int32), attrs)
    return out


def _by_instance(obs: xr.Dataset) -> tuple[xr.Dataset, np.ndarray, str]:
    """Points, the number of each one's instance, and the name of the instances' dimension."""
    name = find_identifier(obs, "station")
    if name is None:
        others = [n for n in ("profile", "trajectory") if n in obs.coords]
        name = others[0] if others else None
    if name is None:
        found = f"no identifier among {sorted(map(str, obs.variables))}"
        remedy = "obs = obs.assign_coords(station=(dimension, [...]))"
        expected = "which values belong together"
        raise ObservationError(problem("observations", found, expected, remedy))
    points = to_points(obs)
    values = points[name].values
    _, first, inverse = np.unique(values.astype(str), return_index=True, return_inverse=True)
    # In the order in which they appear.
    rank = np.argsort(np.argsort(first))
    return points, rank[inverse.reshape(-1)], "station" if name != "station" else "instance"


def _instances(points: xr.Dataset, numbers: np.ndarray, dim: str) -> tuple[xr.Dataset, int]:
    """Move what is constant within instances to a dimension of their own."""
    count = int(numbers.max()) + 1 if numbers.size else 0
    first = np.full(count, numbers.size)
    np.minimum.at(first, numbers, np.arange(numbers.size))
    out = points
    for name in list(points.coords):
        variable = points.variables[name]
        if variable.dims != ("obs",) or name == "obs":
            continue
        values = np.asarray(variable.values)
        same = values == values[first][numbers]
        both_missing = _missing(values) & _missing(values[first][numbers])
        if np.all(same | both_missing):
            attrs = dict(variable.attrs)
            if name == find_identifier(points, "station") and "cf_role" not in attrs:
                attrs["cf_role"] = "timeseries_id"
            out = out.drop_vars([name]).assign_coords({name: (dim, values[first], attrs)})
    positions = [n for n in out.coords if str(n).lower() in ("latitude", "lat")]
    moving = any(out[n].dims == ("obs",) for n in positions)
    out.attrs = {**points.attrs, "featureType": "trajectory" if moving else "timeSeries"}
    return out, count


def _missing(values: np.ndarray) -> np.ndarray:
    if values.dtype.kind in "fcmM":
        missing: np.ndarray = np.isnan(values) if values.dtype.kind in "fc" else np.isnat(values)
        return missing
    return np.zeros(values.shape, dtype=bool)
