"""Long tables: one row per observed value, as pandas, CSV or Parquet.

Columns ``time, lat, lon, variable, observation``, and as far as there are any ``error``,
``quality``, ``units``, ``pres``, ``elev``, ``station`` and others: the convention of Earth2Studio.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from xr_daisi.dimensions import LATITUDE_NAMES, LEVEL_NAMES, LONGITUDE_NAMES
from xr_daisi.errors import ObservationError, problem, raise_problems
from xr_daisi.formats.discrete_sampling import to_points
from xr_daisi.observation_errors import error_variable
from xr_daisi.observation_quality import companions, flag_variable

__all__ = ["from_table", "is_table", "to_table"]

SYNONYMS = {
    "lat": LATITUDE_NAMES,
    "lon": LONGITUDE_NAMES,
    "time": ("time", "datetime", "date"),
    "variable": ("variable", "variable_name", "parameter"),
    "observation": ("observation", "value", "obs", "obs_value"),
}
REQUIRED = {
    "time": "when each value was observed",
    "lat": "latitude in degrees",
    "lon": "longitude in degrees",
    "variable": "the name of what was observed",
    "observation": "the observed value",
}
VALUES = ("observation", "error", "quality")
VERTICAL = {
    "pres": {"standard_name": "air_pressure", "positive": "down", "axis": "Z"},
    "elev": {"standard_name": "surface_altitude", "long_name": "elevation"},
}
UNITS = {"elev": "m", "lat": "degrees_north", "lon": "degrees_east"}


def is_table(source: object) -> bool:
    """Whether an object is a table of pandas."""
    return isinstance(source, pd.DataFrame)


def from_table(table: pd.DataFrame) -> xr.Dataset:
    """Bring a long table to the labelled form.

    Parameters
    ----------
    table : DataFrame
        One row per value; not modified. Units are in a column ``units``, or in
        ``table.attrs["units"]`` as ``{variable or column: units}``; pressures without are in Pa.

    Returns
    -------
    Dataset
        Each ``variable`` is one of its own along ``obs``, in the order of the rows, NaN in the rows
        of others; its errors and quality are ``<name>_error`` and ``<name>_quality``.

    Raises
    ------
    ObservationError
        Naming all columns that are missing, or hold something else than they should.
    """
    found = _columns(table)
    frame = table.rename(columns=found).reset_index(drop=True)
    problems = [
        problem(f"column {name!r}", f"values such as {_first_text(frame[name])!r}", "numbers")
        for name in ("lat", "lon", *VALUES, *VERTICAL)
        if name in frame and not _is_numeric(frame[name])
    ]
    when = pd.to_datetime(frame["time"], errors="coerce", utc=True)
    wrong = when.isna() & frame["time"].notna()
    if wrong.any():
        example = frame["time"][wrong].iloc[0]
        text = f"{int(wrong.sum())} values such as {example!r}"
        problems.append(problem("column 'time'", text, "dates"))
    if frame["variable"].isna().any():
        text = f"{int(frame['variable'].isna().sum())} rows without name"
        problems.append(problem("column 'variable'", text, "the name of what was observed"))
    raise_problems(ObservationError, problems)
    units: Mapping[str, Any] = table.attrs.get("units", {}) or {}
    coords: dict[str, Any] = {}
    for name in frame.columns:
        if name in ("variable", "units", *VALUES):
            continue
        values = frame[name].to_numpy()
        if name == "time":
            values = when.dt.tz_localize(None).to_numpy(dtype="datetime64[ns]")
        elif name in ("lat", "lon", *VERTICAL):
            values = frame[name].to_numpy(dtype=float)
        attrs = dict(VERTICAL.get(name, {}))
        own = units.get(name, UNITS.get(name, "Pa" if name == "pres" else None))
        coords[str(name)] = ("obs", values, {**attrs, **({"units": own} if own else {})})
    data: dict[str, Any] = {}
    for name in dict.fromkeys(frame["variable"].astype(str)):
        rows = (frame["variable"].astype(str) == name).to_numpy()
        attrs = _variable_attrs(frame, rows, name, units)
        for column, ending in (("observation", ""), ("error", "_error"), ("quality", "_quality")):
            if column not in frame or (ending and not frame[column][rows].notna().any()):
                continue
            values = np.where(rows, frame[column].to_numpy(dtype=float), np.nan)
            own = {"units": attrs["units"]} if ending == "_error" and "units" in attrs else {}
            data[name + ending] = ("obs", values, own if ending else attrs)
    return xr.Dataset(data, coords=coords, attrs={"featureType": "point"})


def _columns(table: pd.DataFrame) -> dict[Any, str]:
    """Names of the columns as this convention has them."""
    twice = sorted({str(c) for c in table.columns[table.columns.duplicated()]})
    problems = []
    if twice:
        problems.append(problem("table", f"columns {twice} twice", "each once"))
    lower = {str(c).lower(): c for c in table.columns}
    found: dict[Any, str] = {}
    for wanted, meaning in REQUIRED.items():
        present = [name for name in SYNONYMS[wanted] if name in lower]
        indexed = [n for n in table.index.names if n is not None and n in SYNONYMS[wanted]]
        if not present and indexed:
            expected = f"a column {wanted!r}"
            text = f"{indexed[0]!r} in the index"
            problems.append(problem("table", text, expected, "table = table.reset_index()"))
        elif not present:
            expected = f"a column {wanted!r}: {meaning}"
            text = f"columns {list(map(str, table.columns))}"
            problems.append(problem("table", text, expected, "rename the columns"))
        else:
            found[lower[present[0]]] = wanted
    raise_problems(ObservationError, problems)
    return found


def _is_numeric(column: pd.Series[Any]) -> bool:
    return bool(pd.api.types.is_numeric_dtype(column)) or bool(column.isna().all())


def _first_text(column: pd.Series[Any]) -> Any:
    numbers = pd.to_numeric(column, errors="coerce")
    odd = column[numbers.isna() & column.notna()]
    return odd.iloc[0] if len(odd) else column.iloc[0]


def _variable_attrs(
    frame: pd.DataFrame, rows: np.ndarray, name: str, units: Mapping[str, Any]
) -> dict[str, Any]:
    if "units" not in frame:
        return {"units": units[name]} if name in units else {}
    own = sorted({str(u) for u in frame["units"][rows].dropna()})
    if len(own) > 1:
        text = f"several units of {name!r}: {own}"
        remedy = "convert the values, or give each its own name"
        raise ObservationError(problem("column 'units'", text, "one for each variable", remedy))
    return {"units": own[0]} if own else {}


def to_table(obs: xr.Dataset) -> pd.DataFrame:
    """Write a labelled Dataset as a long table.

    Parameters
    ----------
    obs : Dataset
        In the labelled form; not modified.

    Returns
    -------
    DataFrame
        A row for each value, with its error, quality, units and all coordinates. Rows without
        value, error and quality are left out.

    Raises
    ------
    ObservationError
        Where a table has no room for something, such as correlated errors.
    """
    points = to_points(obs)
    names = [str(n) for n in points.data_vars]
    extra = {other for name in names for other in companions(points, name)}
    observed = [n for n in names if n not in extra]
    lost = [n for n in extra if n.endswith(("_use", "_footprint"))]
    if lost:
        text = f"the variables {sorted(lost)}"
        remedy = f"obs.drop_vars({sorted(lost)})"
        raise ObservationError(problem("table", text, "values, errors and quality", remedy))
    columns: dict[str, Any] = {}
    renamed = {"latitude": "lat", "longitude": "lon", **dict.fromkeys(LEVEL_NAMES, "pres")}
    units: dict[str, str] = {}
    for name, coordinate in points.coords.items():
        if coordinate.dims not in (("obs",), ()) or name == "obs":
            continue
        key = renamed.get(str(name), str(name))
        if key == "pres" and coordinate.attrs.get("units") is None:
            key = str(name)
        columns[key] = np.broadcast_to(coordinate.values, points.sizes["obs"])
        if "units" in coordinate.attrs:
            units[key] = str(coordinate.attrs["units"])
    frames = []
    for name in observed:
        frame = pd.DataFrame({**columns, "variable": name})
        frame["observation"] = points[name].to_numpy()
        error, quality = error_variable(points, name), flag_variable(points, name)
        for column, other in (("error", error), ("quality", quality)):
            if other is not None:
                values = points[other].variable.set_dims({"obs": points.sizes["obs"]}).values
                frame[column] = np.asarray(values, dtype=float)
        if "units" in points[name].attrs:
            frame["units"] = str(points[name].attrs["units"])
        kept = [c for c in VALUES if c in frame]
        frames.append(frame[frame[kept].notna().any(axis=1)])
    table = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=[*REQUIRED])
    table.attrs["units"] = units
    first = [c for c in (*REQUIRED, "error", "quality", "units") if c in table]
    return table[[*first, *(c for c in table.columns if c not in first)]]
