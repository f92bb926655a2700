"""Long tables: one row per observed value, as pandas, CSV or Parquet.

Columns ``time, lat, lon, variable, observation``, and as far as there are any ``error``,
``quality``, ``units``, ``pres``, ``depth``, ``height``, ``elev``, ``station`` and others: the
convention of Earth2Studio. Attributes are kept in those of the table; in files that have none, as
columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from xr_daisi.dimensions import LEVEL_NAMES
from xr_daisi.errors import ObservationError, problem, raise_problems
from xr_daisi.formats.points import is_vertical, refuse_unplaced, to_points
from xr_daisi.formats.table_columns import (
    COORDINATES,
    FLAGS,
    LIMITS,
    REQUIRED,
    VALUES,
    columns_of,
    dates,
    not_numbers,
    numbers,
)
from xr_daisi.observation_errors import error_variable
from xr_daisi.observation_identity import find_positions, find_time
from xr_daisi.observation_quality import companions, flag_variable
from xr_daisi.units import conversion, is_pressure, known_units

__all__ = ["from_table", "is_table", "to_csv_table", "to_table"]

ATTRIBUTES = "attributes"
"""Key in the table's attributes: ``{variable or column: attributes}``."""

OF_VALUES = ("units", "standard_name", "footprint", *LIMITS)
LINKS = {"ancillary_variables", "bounds", "coordinates", "grid_mapping", "_FillValue"}
"""Attributes that name other variables, or belong to a file."""


def is_table(source: object) -> bool:
    """Whether an object is a table of pandas."""
    return isinstance(source, pd.DataFrame)


def from_table(table: pd.DataFrame) -> xr.Dataset:
    """Bring a long table to the labelled form.

    Parameters
    ----------
    table : DataFrame
        One row per value; not modified. Units are in a column ``units``, or in
        ``table.attrs["units"]`` as ``{variable or column: units}``; pressures without are in Pa,
        depths and heights in m. ``table.attrs["attributes"]`` may hold other attributes of each
        variable or column, as `to_table` writes them.

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
    frame = table.rename(columns=columns_of(table)).reset_index(drop=True)
    frame.columns = frame.columns.map(str)
    when, problems = dates(frame["time"])
    numeric = {name: numbers(frame[name]) for name in (*COORDINATES, *VALUES) if name in frame}
    for name, found in numeric.items():
        problems += not_numbers(frame[name], found, name)
    if frame["variable"].isna().any():
        text = f"{int(frame['variable'].isna().sum())} rows without name"
        problems.append(problem("column 'variable'", text, "the name of what was observed"))
    raise_problems(ObservationError, problems)
    observed = frame["variable"].astype(str)
    kept: Mapping[str, Any] = table.attrs.get(ATTRIBUTES) or {}
    units: Mapping[str, Any] = table.attrs.get("units") or {}
    coords: dict[str, Any] = {}
    for name in frame.columns:
        if name in ("variable", *OF_VALUES, *FLAGS, *VALUES):
            continue
        values: Any = frame[name].to_numpy()
        if name == "time":
            values = when
        elif name in COORDINATES:
            values = numeric[name]
        attrs = {**COORDINATES.get(name, {}), **_arrays(kept.get(name, {}))}
        if name in kept and "units" not in kept[name]:
            attrs.pop("units", None)
        coords[name] = ("obs", values, {**attrs, **_own_units(units, name)})
    data: dict[str, Any] = {}
    for name in dict.fromkeys(observed):
        rows = (observed == name).to_numpy()
        own = {**_arrays(kept.get(name, {})), **_own_units(units, name)}
        own |= _constants(problems, frame, rows, name, OF_VALUES)
        of_errors = {k: v for k, v in own.items() if k == "units"}
        for column, full, attrs in (
            ("observation", name, own),
            ("error", f"{name}_error", {**_arrays(kept.get(f"{name}_error", {})), **of_errors}),
            ("quality", f"{name}_quality", _arrays(kept.get(f"{name}_quality", {}))),
        ):
            if column not in numeric or (
                column != "observation" and np.isnan(numeric[column][rows]).all()
            ):
                continue
            if column == "quality":
                attrs |= _constants(problems, frame, rows, name, FLAGS)
            values = np.where(rows, numeric[column], np.nan)
            if full in coords or full in data or full == "obs":
                text = f"the name {full!r} for values and for a column"
                remedy = f"rename one, e.g. table.rename(columns={{{full!r}: '{full}_2'}})"
                problems.append(problem("table", text, "names of their own", remedy))
            data[full] = ("obs", values, attrs)
    raise_problems(ObservationError, problems)
    return xr.Dataset(data, coords=coords, attrs={"featureType": "point"})


def _own_units(units: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {"units": units[name]} if name in units else {}


def _constants(
    problems: list[str],
    frame: pd.DataFrame,
    rows: np.ndarray,
    name: str,
    columns: tuple[str, ...],
) -> dict[str, Any]:
    """Attributes of a variable from columns that hold one value for all of its rows."""
    attrs: dict[str, Any] = {}
    for column in columns:
        if column not in frame:
            continue
        own = frame[column][rows].dropna().unique().tolist()
        if len(own) > 1:
            text = f"several {column} of {name!r}: {sorted(map(str, own))}"
            remedy = "convert the values, or give each its own name"
            problems.append(problem(f"column {column!r}", text, "one for each variable", remedy))
        elif own:
            attrs[column] = own[0] if column in LIMITS else _text(own[0])
    return attrs


# -- writing --------------------------------------------------------------------------------------


def to_table(obs: xr.Dataset) -> pd.DataFrame:
    """Write a labelled Dataset as a long table.

    Parameters
    ----------
    obs : Dataset
        In the labelled form; not modified.

    Returns
    -------
    DataFrame
        A row for each value, with its error, quality, units and all coordinates: errors in the
        units of the values, pressures in Pa as ``pres``, depths and heights in m. Rows without
        value, error and quality are left out. Other attributes are in
        ``table.attrs["attributes"]``.

    Raises
    ------
    ObservationError
        Where a table has no room for something, such as correlated errors.
    """
    points = to_points(obs)
    refuse_unplaced(points, "table", {"obs"})
    names = [str(n) for n in points.data_vars]
    extra = {other for name in names for other in companions(points, name)}
    observed = [n for n in names if n not in extra]
    lost = [n for n in extra if n.endswith(("_use", "_footprint"))]
    problems = []
    if lost:
        text = f"the variables {sorted(lost)}"
        remedy = f"obs.drop_vars({sorted(lost)})"
        problems.append(problem("table", text, "values, errors and quality", remedy))
    attributes: dict[str, dict[str, Any]] = {}
    columns = _coordinate_columns(points, attributes, problems)
    frames = [_rows(points, name, columns, attributes, problems) for name in observed]
    raise_problems(ObservationError, problems)
    table = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=[*REQUIRED])
    table.attrs["units"] = {n: a["units"] for n, a in attributes.items() if "units" in a}
    table.attrs[ATTRIBUTES] = attributes
    first = [c for c in (*REQUIRED, "error", "quality", "units") if c in table]
    return table[[*first, *(c for c in table.columns if c not in first)]]


def _coordinate_columns(
    points: xr.Dataset, attributes: dict[str, dict[str, Any]], problems: list[str]
) -> dict[str, Any]:
    """Columns of positions, levels, times and identifiers; notes their attributes."""
    renamed = _new_names(points)
    columns: dict[str, Any] = {}
    for label, coordinate in points.coords.items():
        name = renamed.get(str(label), str(label))
        if name == "obs" or set(coordinate.dims) - {"obs"}:
            continue  # of these, `refuse_unplaced` has left bounds that nothing depends on
        values, attrs = coordinate.values, _plain(coordinate.attrs)
        if name in columns or name in ("variable", "units", *VALUES):
            text, expected = f"two columns {name!r}", "names of their own"
            problems.append(problem("table", text, expected, f"obs.drop_vars({str(label)!r})"))
            continue
        if name == "pres" and "units" not in attrs:
            remedy = f"obs.{label}.attrs['units'] = 'Pa'"
            problems.append(problem(f"table, {label}", "no units", "units of pressure", remedy))
        if values.dtype.kind == "O" and any(hasattr(t, "calendar") for t in values.flat[:1]):
            remedy = "obs = obs.convert_calendar('proleptic_gregorian', use_cftime=False)"
            text = f"times of the calendar {values.flat[0].calendar!r}"
            problems.append(problem(f"table, {label}", text, "dates", remedy))
        target = COORDINATES.get(name, {}).get("units", "")
        angle = target.startswith("degree")
        if target and "units" in attrs and not (angle and attrs["units"].lower().startswith("deg")):
            wanted = "degree" if angle else target
            change = conversion(attrs["units"], wanted, variable=f"table, {label}")
            if not change.is_identity:
                values = change.apply(np.asarray(values, dtype=float))
            attrs["units"] = target
        columns[name] = np.broadcast_to(values, points.sizes["obs"])
        attributes[name] = attrs
    for name in ("time", "lat", "lon"):
        if name not in columns:
            text = f"no {REQUIRED[name]} among {sorted(map(str, points.coords))}"
            problems.append(problem("table", text, f"a coordinate for the column {name!r}"))
    return columns


def _new_names(points: xr.Dataset) -> dict[str, str]:
    """Names of the convention for position, time and pressure."""
    renamed = dict.fromkeys(filter(None, [find_time(points)]), "time")
    positions = find_positions(points)
    if positions and positions[0].lower() not in ("y", "yc"):
        renamed.update(zip(positions, ("lat", "lon"), strict=True))
    vertical = (c for c in points.coords.values() if is_vertical(c))
    pressures = [str(c.name) for c in vertical if is_pressure(c.attrs.get("units"))]
    pressures.sort(key=lambda n: n.lower() not in LEVEL_NAMES)  # which come first in reading
    return {**renamed, **dict.fromkeys(pressures[:1], "pres")}


def _rows(
    points: xr.Dataset,
    name: str,
    columns: Mapping[str, Any],
    attributes: dict[str, dict[str, Any]],
    problems: list[str],
) -> pd.DataFrame:
    """Rows of one variable; notes its attributes."""
    size = points.sizes["obs"]
    variable = points[name].variable
    frame = pd.DataFrame({**columns, "variable": name})
    frame["observation"] = variable.set_dims({"obs": size}).values
    attributes[name] = _plain(variable.attrs)
    if variable.dtype.kind not in "biuf":
        text, remedy = f"values of type {variable.dtype}", f"obs.set_coords({name!r}), or drop it"
        problems.append(problem(f"table, {name}", text, "numbers", remedy))
    for column, other in (
        ("error", error_variable(points, name)),
        ("quality", flag_variable(points, name)),
    ):
        if other is None:
            continue
        about = points[other].variable
        attrs = _plain(about.attrs)
        values = about.set_dims({"obs": size}).values
        if values.dtype.kind not in "biuf":
            text = f"values of type {values.dtype}"
            problems.append(
                problem(f"table, {other}", text, "numbers", f"obs.drop_vars({other!r})")
            )
            continue
        if column == "error":
            # A row has one column for units, that of its value.
            own = variable.attrs.get("units")
            values = values * conversion(attrs.pop("units", None), own, variable=other).factor
        frame[column] = np.asarray(values, dtype=float)
        attributes[f"{name}_{column}"] = attrs
    if "units" in variable.attrs:
        frame["units"] = str(variable.attrs["units"])
    kept = [c for c in VALUES if c in frame]
    return frame[frame[kept].notna().any(axis=1)]


def to_csv_table(table: pd.DataFrame) -> pd.DataFrame:
    """Put what the analysis reads of a table's attributes into columns.

    Parameters
    ----------
    table : DataFrame
        From `to_table`; not modified.

    Returns
    -------
    DataFrame
        With columns such as ``standard_name`` and ``flag_meanings``, as far as there are any.

    Raises
    ------
    ObservationError
        Naming the vertical coordinates whose meaning would be lost.
    """
    attributes: Mapping[str, Mapping[str, Any]] = table.attrs[ATTRIBUTES]
    problems = []
    for name in table.columns:
        attrs = attributes.get(name, {})
        found = f"units {attrs['units']!r}" if "units" in attrs else "no units"
        if name in ("depth", "height") and "units" not in attrs:
            remedy = f"obs.{name}.attrs['units'] = 'm'"
            problems.append(problem(f"CSV, {name}", found, "units of length", remedy))
        elif name not in COORDINATES and name in attributes and _meaning_is_lost(name, attrs):
            remedy = f"obs.rename({name}='depth') or 'height', or write Parquet or NetCDF"
            expected = "a vertical coordinate that a column can be: pres, depth or height"
            problems.append(problem(f"CSV, {name}", found, expected, remedy))
    raise_problems(ObservationError, problems)
    columns: dict[str, dict[str, Any]] = {}
    for name in table["variable"].unique():
        own = dict(attributes[name])
        limits = own.get("valid_range")
        if isinstance(limits, list) and len(limits) == 2:
            own |= dict(zip(LIMITS, limits, strict=True))
        flags = attributes.get(f"{name}_quality", {})
        for column, attrs in (*((c, own) for c in OF_VALUES[1:]), *((c, flags) for c in FLAGS)):
            if column in attrs:
                value = attrs[column] if column in LIMITS else _text(attrs[column])
                columns.setdefault(column, {})[name] = value
    return table.assign(**{c: table["variable"].map(of) for c, of in columns.items()})


def _meaning_is_lost(name: str, attrs: Mapping[str, Any]) -> bool:
    """Whether a column without attributes would be another vertical coordinate, or none."""
    if not is_vertical(xr.DataArray(0.0, name=name, attrs=attrs)):
        return False
    units = attrs.get("units")
    if name.lower() not in LEVEL_NAMES:
        return True
    return known_units(units) and units != "1"


def _text(value: Any) -> str:
    """Write values of an attribute one after the other, whole numbers without ``.0``."""
    values = value if isinstance(value, list) else [value]
    whole = (int(v) if isinstance(v, float) and v.is_integer() else v for v in values)
    return " ".join(map(str, whole))


def _plain(attrs: Mapping[Any, Any]) -> dict[str, Any]:
    """Attributes that JSON can hold, as Parquet needs them."""
    out: dict[str, Any] = {}
    for key, value in attrs.items():
        if isinstance(value, (np.ndarray, np.generic)):
            value = value.tolist()
        if isinstance(value, tuple):
            value = list(value)
        flat = value if isinstance(value, list) else [value]
        if str(key) not in LINKS and all(isinstance(v, (str, bool, int, float)) for v in flat):
            out[str(key)] = str(value) if key == "units" else value
    return out


def _arrays(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes with arrays for lists, as xarray reads them from files."""
    return {k: np.asarray(v) if isinstance(v, list) else v for k, v in attrs.items()}
