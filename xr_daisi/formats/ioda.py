"""IODA observation files of JEDI: groups on ``Location``, or the flat names of version 1.

``MetaData`` says where and when, ``ObsValue``, ``ObsError`` and ``PreQC`` what and how well. Other
groups are kept as variables ``name@Group``, and written back as groups.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from xr_daisi.errors import ObservationError, problem, raise_problems
from xr_daisi.formats.points import prepared, refuse_unplaced, to_points
from xr_daisi.units import is_pressure

__all__ = ["from_ioda", "from_ioda_v1", "is_ioda", "is_ioda_v1", "to_ioda", "to_ioda_v1"]

Groups = Mapping[str, xr.Dataset]

LOCATION, CHANNEL = "Location", "Channel"
FLAT = {"nlocs": LOCATION, "nchans": CHANNEL}
GROUPS = {"ObsValue": "", "ObsError": "_error", "PreQC": "_quality"}

# IODA name, its older form, standard name, units.
NAMES = (
    ("airTemperature", "air_temperature", "air_temperature", "K"),
    ("virtualTemperature", "virtual_temperature", "virtual_temperature", "K"),
    ("windEastward", "eastward_wind", "eastward_wind", "m s-1"),
    ("windNorthward", "northward_wind", "northward_wind", "m s-1"),
    ("windSpeed", "wind_speed", "wind_speed", "m s-1"),
    ("windDirection", "wind_from_direction", "wind_from_direction", "degree"),
    ("specificHumidity", "specific_humidity", "specific_humidity", "1"),
    ("relativeHumidity", "relative_humidity", "relative_humidity", "1"),
    ("stationPressure", "surface_pressure", "surface_air_pressure", "Pa"),
    ("seaSurfaceTemperature", "sea_surface_temperature", "sea_surface_temperature", "K"),
    ("seaSurfaceSalinity", "sea_surface_salinity", "sea_surface_salinity", "1e-3"),
    ("waterTemperature", "sea_water_temperature", "sea_water_temperature", "degC"),
    ("salinity", "sea_water_salinity", "sea_water_salinity", "1e-3"),
    (
        "absoluteDynamicTopography",
        "obs_absolute_dynamic_topography",
        "sea_surface_height_above_geoid",
        "m",
    ),
    ("seaIceFraction", "sea_ice_area_fraction", "sea_ice_area_fraction", "1"),
    ("brightnessTemperature", "brightness_temperature", "brightness_temperature", "K"),
)
KNOWN = {name: entry[2:] for entry in NAMES for name in entry[:2]}

METADATA = {
    "datetime": "dateTime",
    "time": "dateTime",
    "station_id": "stationIdentification",
    "air_pressure": "pressure",
}
COORDINATES = {
    "latitude": {"standard_name": "latitude", "units": "degrees_north"},
    "longitude": {"standard_name": "longitude", "units": "degrees_east"},
    "pressure": {"standard_name": "air_pressure", "units": "Pa", "positive": "down", "axis": "Z"},
}

# As in PREPBUFR: up to 3 a value is used, from 4 on it is not.
QUALITY = {
    "flag_values": np.arange(16, dtype=np.int32),
    "flag_meanings": " ".join(
        [
            *("good_always_used", "good", "not_checked", "good_used_with_care"),
            *(f"rejected_{n}" for n in range(4, 16)),
        ]
    ),
}

SECONDS = {"seconds": 1, "second": 1, "s": 1, "minutes": 60, "hours": 3600, "days": 86400}

MISSING = 1e30
"""Magnitude from which a floating-point number is a fill value of IODA."""


def is_ioda(source: object) -> bool:
    """Whether groups (a mapping, or a DataTree) are those of an IODA file."""
    names = getattr(source, "children", source)
    if isinstance(source, xr.Dataset) or not isinstance(names, Mapping):
        return False
    return bool({"MetaData", "ObsValue", "DerivedObsValue"} & set(map(str, names)))


def is_ioda_v1(ds: xr.Dataset) -> bool:
    """Whether the variables have names such as ``air_temperature@ObsValue``."""
    return any(str(n).endswith(("@ObsValue", "@MetaData")) for n in ds.variables)


def from_ioda_v1(ds: xr.Dataset) -> xr.Dataset:
    """Bring an IODA Dataset of version 1 to the labelled form; see `from_ioda`."""
    groups: dict[str, dict[str, Any]] = {}
    for full, variable in ds.variables.items():
        name, at, group = str(full).rpartition("@")
        if at:
            dims = [FLAT.get(str(d), str(d)) for d in variable.dims]
            own = xr.Variable(dims, variable.values, variable.attrs)
            groups.setdefault(group, {})[name] = own
    out = from_ioda({group: xr.Dataset(variables) for group, variables in groups.items()})
    out.attrs = {**ds.attrs, **out.attrs}
    return out


def from_ioda(source: Any) -> xr.Dataset:
    """Bring the groups of an IODA file to the labelled form.

    Parameters
    ----------
    source : DataTree or mapping of str to Dataset
        Groups by name; ``/`` holds the attributes of the file, and the numbers of its channels.

    Returns
    -------
    Dataset
        Variables on ``Location``, and ``Channel`` where there are several, with the IODA names,
        standard names and units; errors and quality flags.

    Raises
    ------
    ObservationError
        Naming the groups and variables that are missing.
    """
    groups = _datasets(source)
    problems = []
    values = groups.get("ObsValue") or groups.get("DerivedObsValue")
    meta = groups.get("MetaData")
    if values is None or not len(values.data_vars):
        found = f"groups {sorted(groups)}"
        problems.append(problem("IODA file", found, "a group ObsValue with observed variables"))
    if meta is None:
        found = f"groups {sorted(groups)}"
        problems.append(problem("IODA file", found, "a group MetaData with positions and times"))
    raise_problems(ObservationError, problems)
    meta = (meta if meta is not None else xr.Dataset()).rename(
        {k: v for k, v in METADATA.items() if meta is not None and k in meta and v not in meta}
    )
    lacking = [n for n in ("latitude", "longitude", "dateTime") if n not in meta.variables]
    if lacking:
        found = f"{sorted(map(str, meta.variables))} without {', '.join(lacking)}"
        raise ObservationError(problem("group MetaData", found, "latitude, longitude, dateTime"))
    coords: dict[str, Any] = {}
    for name, variable in meta.variables.items():
        attrs = {**COORDINATES.get(str(name), {}), **variable.attrs}
        dims = tuple(map(str, variable.dims))
        values_of = _dates(variable) if name == "dateTime" else _without_fill(variable)
        if name == "dateTime":
            name, attrs = "time", {"standard_name": "time"}
        if str(name) not in dims or len(dims) == 1:
            coords[str(name)] = (dims, values_of, attrs)
    data: dict[str, Any] = {}
    for group, ds in groups.items():
        if group in ("/", "MetaData"):
            continue
        ending = GROUPS.get(group, GROUPS["ObsValue"] if ds is values else f"@{group}")
        for name, variable in ds.variables.items():
            if str(name) in variable.dims:
                coords.setdefault(str(name), (variable.dims, variable.values, variable.attrs))
                continue
            of_values = values[name].attrs if values is not None and name in values else {}
            attrs = _attrs(group, str(name), variable.attrs, of_values.get("units"))
            data[f"{name}{ending}"] = (variable.dims, _without_fill(variable), attrs)
    root = groups.get("/", xr.Dataset())
    for name, variable in root.variables.items():
        coords.setdefault(str(name), (variable.dims, variable.values, variable.attrs))
    sizes: dict[str, set[int]] = {}
    for dims, array, _ in [*data.values(), *coords.values()]:
        for dim, size in zip(dims, np.shape(array), strict=True):
            sizes.setdefault(str(dim), set()).add(size)
    odd = {dim: sorted(found) for dim, found in sizes.items() if len(found) > 1}
    if odd:
        raise ObservationError(problem("IODA file", f"dimensions of several sizes {odd}", "one"))
    return xr.Dataset(data, coords=coords, attrs=dict(root.attrs))


def _datasets(source: Any) -> dict[str, xr.Dataset]:
    if hasattr(source, "children"):
        found = {str(n): child.to_dataset(inherit=False) for n, child in source.children.items()}
        return {"/": source.to_dataset(inherit=False), **found}
    return {str(name).strip("/") or "/": ds for name, ds in source.items()}


def _attrs(group: str, name: str, own: Mapping[Any, Any], of_values: str | None) -> dict[Any, Any]:
    """Attributes with the standard name and units of what IODA knows.

    Errors without units have those of the values.
    """
    attrs = {k: v for k, v in own.items() if k not in ("_FillValue", "missing_value")}
    standard_name, units = KNOWN.get(name, (None, None))
    if group in ("ObsValue", "DerivedObsValue"):
        if standard_name and "standard_name" not in attrs:
            attrs["standard_name"] = standard_name
        if units:
            attrs.setdefault("units", units)
    elif group == "ObsError" and (of_values or units):
        attrs.setdefault("units", of_values or units)
    elif group == "PreQC":
        attrs = {**QUALITY, **attrs}
    return attrs


def _without_fill(variable: xr.Variable) -> np.ndarray:
    """Values with NaN for fill values, as far as the type has one."""
    values = np.asarray(variable.values)
    fill = variable.attrs.get("_FillValue", variable.attrs.get("missing_value"))
    if values.dtype.kind == "f":
        missing = np.abs(values) > MISSING
        if fill is not None:
            missing |= values == fill
        return np.where(missing, np.array(np.nan, values.dtype), values)
    if fill is not None and values.dtype.kind in "iu" and (values == fill).any():
        return np.where(values == fill, np.nan, values.astype(float))
    return values


def _dates(variable: xr.Variable) -> np.ndarray:
    """Decode seconds since an epoch, or texts."""
    values = np.asarray(variable.values)
    if values.dtype.kind == "M":
        return values
    if values.dtype.kind in "OSU":
        texts = pd.Series([v.decode() if isinstance(v, bytes) else str(v) for v in values.flat])
        missing = texts.str.strip().isin(["", "NaT", "None", "nan"])
        dates = pd.to_datetime(texts.where(~missing), errors="coerce", utc=True, format="ISO8601")
        odd = texts[dates.isna() & ~missing]
        if len(odd):
            expected = "texts such as '2019-03-01T00:00:00Z'"
            raise ObservationError(problem("dateTime", f"the text {odd.iloc[0]!r}", expected))
        return dates.dt.tz_localize(None).to_numpy(dtype="datetime64[ns]").reshape(values.shape)
    units = str(variable.attrs.get("units", ""))
    unit, _, epoch = units.partition(" since ")
    start: Any = pd.to_datetime(pd.Series([epoch.strip()]), errors="coerce", utc=True).iloc[0]
    if pd.isna(start) or unit.strip() not in SECONDS:
        expected = "units such as 'seconds since 1970-01-01T00:00:00Z'"
        raise ObservationError(problem("dateTime", f"units {units!r}", expected))
    numbers = _without_fill(variable)
    step = SECONDS[unit.strip()] * 1_000_000_000
    if numbers.dtype.kind == "f":  # fractions of hours, or missing
        known = np.isfinite(numbers)
        numbers = np.where(known, numbers, 0.0).astype(np.float64)
        whole = np.floor(numbers)
        spans = whole.astype("int64") * step + np.rint((numbers - whole) * step).astype("int64")
        spans = np.where(known, spans, np.iinfo(np.int64).min)  # which is NaT
    else:
        spans = numbers.astype("int64") * step
    begin = np.datetime64(start.tz_localize(None), "ns")
    return np.asarray(begin + spans.astype("timedelta64[ns]"))


# -- writing --------------------------------------------------------------------------------------


def _groups(obs: xr.Dataset) -> dict[str, xr.Dataset]:
    """Distribute the variables of the labelled form over groups."""
    obs = prepared(obs) if LOCATION in obs.dims else to_points(obs, LOCATION)
    dims = {str(d) for v in obs.data_vars.values() for d in v.dims}
    refuse_unplaced(obs, "IODA", dims)
    names = [str(n) for n in obs.data_vars]
    unknown = [
        n for n in names if n.endswith(("_use", "_footprint", "_covariance", "_correlation"))
    ]
    if unknown:
        found, remedy = f"the variables {unknown}", f"obs.drop_vars({unknown})"
        expected = "values, errors and quality flags"
        raise ObservationError(problem("IODA", found, expected, remedy))
    groups: dict[str, dict[str, Any]] = {"MetaData": {}, "ObsValue": {}}
    endings = {ending: group for group, ending in GROUPS.items() if ending}
    for full in names:
        name, at, group = full.rpartition("@")
        if not at:
            base = next((full.removesuffix(e) for e in endings if full.endswith(e)), full)
            ending = full.removeprefix(base) if base in names else ""
            name, group = (base, endings[ending]) if ending else (full, "ObsValue")
        groups.setdefault(group, {})[name] = obs[full].variable
    renamed = {"time": "dateTime", "lat": "latitude", "lon": "longitude", "plev": "pressure"}
    root: dict[str, Any] = {}
    for label, coordinate in obs.coords.items():
        if coordinate.dims == (str(label),):
            root[str(label)] = coordinate.variable
            continue
        key = renamed.get(str(label), str(label))
        if key == "pressure" and not is_pressure(coordinate.attrs.get("units")):
            key = str(label)
        groups["MetaData"][key] = coordinate.variable
    out = {group: xr.Dataset(variables) for group, variables in groups.items()}
    return {"/": xr.Dataset(coords=root, attrs=obs.attrs), **out}


def to_ioda(obs: xr.Dataset) -> xr.DataTree:
    """Write a labelled Dataset as the groups of an IODA file.

    Parameters
    ----------
    obs : Dataset
        Points, or what can be put along one dimension; not modified.

    Returns
    -------
    DataTree
        With MetaData, ObsValue, ObsError and PreQC as far as there are any.

    Raises
    ------
    ObservationError
        For what these have no place for, such as correlated errors.
    """
    return xr.DataTree.from_dict(
        {("/" if name == "/" else f"/{name}"): ds for name, ds in _groups(obs).items()}
    )


def to_ioda_v1(obs: xr.Dataset) -> xr.Dataset:
    """Write a labelled Dataset with the flat names of version 1; see `to_ioda`."""
    groups = _groups(obs)
    root = groups.pop("/")
    back = {new: old for old, new in FLAT.items()}
    variables: dict[str, Any] = {}
    for group, ds in groups.items():
        for name, variable in ds.variables.items():
            dims = [back.get(str(d), str(d)) for d in variable.dims]
            key = "datetime" if name == "dateTime" else str(name)
            if key == "datetime":
                values = _date_texts(np.asarray(variable.values))
                variables[f"{key}@{group}"] = (dims, values, {})
            else:
                variables[f"{key}@{group}"] = (dims, variable.values, variable.attrs)
    for name, variable in root.variables.items():
        dims = [back.get(str(d), str(d)) for d in variable.dims]
        variables[f"{name}@MetaData"] = (dims, variable.values, variable.attrs)
    return xr.Dataset(variables, attrs=root.attrs)


def _date_texts(times: np.ndarray) -> np.ndarray:
    """Dates as texts, empty where missing; with fractions of seconds where there are any."""
    if times.dtype.kind != "M":
        text = f"times of type {times.dtype}"
        remedy = "obs = obs.convert_calendar('proleptic_gregorian', use_cftime=False)"
        raise ObservationError(problem("IODA, time", text, "dates", remedy))
    whole = times.astype("datetime64[s]")
    exact = np.isnat(times) | (whole == times)
    texts = np.datetime_as_string(whole if exact.all() else times)
    return np.where(np.isnat(times), "", np.char.add(texts, "Z")).astype(object)
