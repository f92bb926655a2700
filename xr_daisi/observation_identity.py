"""Who observed a value, where and when, as far as an observation Dataset itself tells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from xr_daisi.coordinate_values import read_coordinate
from xr_daisi.dimensions import LATITUDE_NAMES, LEVEL_NAMES, LONGITUDE_NAMES, axis_kind

if TYPE_CHECKING:
    from collections.abc import Iterable

    import xarray as xr

__all__ = ["find_identifier", "find_positions", "find_time", "identifier_texts", "is_coordinate"]

# In lower case and without underscores: Station_ID, stationId and station_id are one name.
IDENTIFIERS = {
    "station": (
        "station",
        "stationid",
        "stationidentifier",
        "stationidentification",
        "stationname",
        "wmo",
        "wmoid",
        "wmonumber",
    ),
    "instrument": ("instrument", "instrumentid", "sensor", "sensorid", "platform", "platformid"),
}
ROLES = ("timeseries_id", "trajectory_id", "profile_id")
PLANE_NAMES = (("y", "yc"), ("x", "xc"))


def find_identifier(ds: xr.Dataset, kind: str) -> str | None:
    """Name of the variable that says which station or instrument a value comes from.

    Parameters
    ----------
    ds : xarray.Dataset
        Observations, or their feedback.
    kind : str
        ``"station"``, where a ``cf_role`` counts too, or ``"instrument"``.

    Returns
    -------
    str or None
        Of a variable on one dimension; None where there is none.
    """
    lines = {str(name): v for name, v in ds.variables.items() if v.ndim == 1}
    if kind == "station":
        for role in ROLES:
            for name, variable in lines.items():
                if variable.attrs.get("cf_role") == role:
                    return name
    plain = {name.lower().replace("_", ""): name for name in lines}
    return next((plain[word] for word in IDENTIFIERS[kind] if word in plain), None)


def identifier_texts(variable: xr.Variable | xr.DataArray) -> NDArray[np.str_]:
    """Return identifiers as texts: bytes decoded, padding removed, whole numbers without ``.0``.

    Parameters
    ----------
    variable : xarray.Variable or DataArray
        Texts, bytes or numbers.

    Returns
    -------
    ndarray of str
        In the variable's shape; empty where the identifier is missing.
    """
    values = read_coordinate(variable)
    texts = [_text(value) for value in values.ravel().tolist()]
    return np.asarray(texts, dtype=np.str_).reshape(values.shape)


def _text(value: Any) -> str:
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return ""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip("\x00 ")


def find_positions(ds: xr.Dataset) -> tuple[str, ...]:
    """Names of latitude and longitude, or of the two coordinates of a plane.

    Parameters
    ----------
    ds : xarray.Dataset
        Observations, or their feedback.

    Returns
    -------
    tuple of str
        Two names, (upward, sideways); empty where they are not both there.
    """
    for pair in ((LATITUDE_NAMES, LONGITUDE_NAMES), PLANE_NAMES):
        names = [_first(ds, wanted) for wanted in pair]
        if None not in names:
            return tuple(str(name) for name in names)
    kinds = {axis_kind(ds, name): str(name) for name in ds.coords}
    if {"latitude", "longitude"} <= set(kinds):
        return kinds["latitude"], kinds["longitude"]
    projected = {ds[name].attrs.get("standard_name"): str(name) for name in ds.coords}
    names = [projected.get(f"projection_{axis}_coordinate") for axis in "yx"]
    return () if None in names else tuple(str(name) for name in names)


def _first(ds: xr.Dataset, wanted: Iterable[str]) -> str | None:
    present = {str(name).lower(): str(name) for name in ds.variables}
    return next((present[name] for name in wanted if name in present), None)


def find_time(ds: xr.Dataset) -> str | None:
    """Name of the time of the values, None where there is none.

    Parameters
    ----------
    ds : xarray.Dataset
        Observations, or their feedback.
    """
    name = _first(ds, ("time",))
    if name is not None:
        return name
    dated = (n for n in ds.coords if ds[n].dtype.kind == "M" or ds[n].attrs.get("axis") == "T")
    return next((str(n) for n in dated), None)


def is_coordinate(ds: xr.Dataset, name: str) -> bool:
    """Whether a data variable says where or when, or who, instead of what was observed.

    Parameters
    ----------
    ds : xarray.Dataset
        Observations.
    name : str
        One of its variables.
    """
    if name in {*find_positions(ds), find_time(ds), *(find_identifier(ds, k) for k in IDENTIFIERS)}:
        return True
    # A variable called z may be a quantity; with level-like names only numbers on their own
    # dimension are coordinates, and xarray has these among the coordinates already.
    return name.lower() in LEVEL_NAMES and ds[name].attrs.get("axis") == "Z"
