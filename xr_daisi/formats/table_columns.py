"""Columns of long tables: which is which, and the numbers and dates that they hold."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from xr_daisi.dimensions import LATITUDE_NAMES, LONGITUDE_NAMES
from xr_daisi.errors import ObservationError, problem, raise_problems

__all__ = [
    "COORDINATES",
    "FLAGS",
    "LIMITS",
    "REQUIRED",
    "VALUES",
    "columns_of",
    "dates",
    "not_numbers",
    "numbers",
]

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
COORDINATES: dict[str, dict[str, str]] = {
    "lat": {"units": "degrees_north"},
    "lon": {"units": "degrees_east"},
    "pres": {"standard_name": "air_pressure", "units": "Pa", "positive": "down", "axis": "Z"},
    "depth": {"units": "m"},
    "height": {"units": "m"},
    "elev": {"standard_name": "surface_altitude", "long_name": "elevation", "units": "m"},
}
"""Columns with fixed units."""

LIMITS = ("valid_min", "valid_max")
FLAGS = ("flag_values", "flag_masks", "flag_meanings")
OPTIONAL = (
    *("error", "quality", "units", "pres", "depth", "height", "elev", "station"),
    *("standard_name", "footprint", *LIMITS, *FLAGS),
)

NUMBERS = {
    "integer",
    "floating",
    "mixed-integer",
    "mixed-integer-float",
    "decimal",
    "boolean",
    "timedelta",
}
FIRST_YEAR, LAST_YEAR = 1678, 2261
"""What nanoseconds since 1970 reach."""


def columns_of(table: pd.DataFrame) -> dict[Any, str]:
    """Find the columns that this convention knows, in any case of letters.

    Parameters
    ----------
    table : DataFrame
        A long table.

    Returns
    -------
    dict
        The convention's name of each.

    Raises
    ------
    ObservationError
        Naming the columns that are missing, and those of which there are two.
    """
    problems = []
    twice = sorted({str(c) for c in table.columns[table.columns.duplicated()]})
    if twice:
        problems.append(problem("table", f"columns {twice} twice", "each once"))
    lower: dict[str, list[Any]] = {}
    for column in dict.fromkeys(table.columns):
        lower.setdefault(str(column).lower(), []).append(column)
    found: dict[Any, str] = {}
    for wanted in (*REQUIRED, *OPTIONAL):
        names = SYNONYMS.get(wanted, (wanted,))
        present = [column for name in names for column in lower.get(name, [])]
        indexed = [n for n in table.index.names if str(n).lower() in names]
        expected = f"a column {wanted!r}"
        if len(present) > 1:
            remedy = f"table = table.drop(columns={[str(c) for c in present[1:]]})"
            text = f"columns {[str(c) for c in present]} for {wanted!r}"
            problems.append(problem("table", text, "one of them", remedy))
        elif present:
            found[present[0]] = wanted
        elif indexed and wanted in REQUIRED:
            text = f"{indexed[0]!r} in the index"
            problems.append(problem("table", text, expected, "table = table.reset_index()"))
        elif wanted in REQUIRED:
            expected = f"{expected}: {REQUIRED[wanted]}"
            text = f"columns {list(map(str, table.columns))}"
            problems.append(problem("table", text, expected, "rename the columns"))
    raise_problems(ObservationError, problems)
    return found


def numbers(column: pd.Series[Any]) -> NDArray[np.float64]:
    """Values of a column of numbers, NaN where missing or anything else.

    Parameters
    ----------
    column : Series
        Numbers, or objects.
    """
    if not (
        pd.api.types.is_numeric_dtype(column)
        or pd.api.types.is_object_dtype(column)
        or pd.api.types.is_string_dtype(column)
    ):
        return np.full(len(column), np.nan)
    values = pd.to_numeric(column, errors="coerce")
    return np.asarray(values.to_numpy(dtype=float, na_value=np.nan), dtype=np.float64)


def not_numbers(column: pd.Series[Any], values: NDArray[np.float64], name: str) -> list[str]:
    """Say what in a column is no number.

    Parameters
    ----------
    column : Series
        Of a table.
    values : array of float
        What `numbers` made of it.
    name : str
        Its name for messages.

    Returns
    -------
    list of str
        Problems; empty where all is well.
    """
    odd = column[np.isnan(values) & column.notna().to_numpy()]
    if not len(odd):
        return []
    return [problem(f"column {name!r}", f"values such as {odd.iloc[0]!r}", "numbers")]


def dates(column: pd.Series[Any]) -> tuple[NDArray[np.datetime64], list[str]]:
    """Read a column of dates, or of texts that can be read in one way only.

    Parameters
    ----------
    column : Series
        ISO 8601, one zone or several, or such as "1 March 2019 06:00".

    Returns
    -------
    array of datetime64[ns]
        In UTC; NaT where missing.
    list of str
        Problems; empty where all is well.
    """
    present = column.notna()
    if not pd.api.types.is_datetime64_any_dtype(column):
        present &= column.astype(str).str.strip() != ""
    nothing = np.full(len(column), np.datetime64("NaT"), dtype="datetime64[ns]")
    if not present.any():
        return nothing, []
    kind = pd.api.types.infer_dtype(column, skipna=True)
    if kind.removesuffix("64") in NUMBERS:
        remedy = "table['time'] = pd.to_datetime(table['time'], unit='s'), or format='%Y%m%d'"
        text = f"values of type {kind} such as {column[present].iloc[0]}"
        return nothing, [problem("column 'time'", text, "dates", remedy)]
    try:
        when = pd.to_datetime(column, errors="coerce", utc=True, format="ISO8601")
        unread = when.isna() & present
        if unread.any():
            free = _free_dates(column[unread].astype(str)).reindex(column.index)
            when = when.where(~unread, free)
    except (TypeError, ValueError, OverflowError):
        when = pd.Series(nothing, index=column.index).dt.tz_localize("UTC")
    wrong = present & ~when.dt.year.between(FIRST_YEAR, LAST_YEAR)
    if wrong.any():
        text = f"{int(wrong.sum())} values such as {column[wrong].iloc[0]!r}"
        expected = "dates that can be read in one way, such as '2019-03-01 06:00'"
        remedy = "table['time'] = pd.to_datetime(table['time'], format='%d/%m/%Y')"
        return nothing, [problem("column 'time'", text, expected, remedy)]
    return when.dt.tz_localize(None).to_numpy(dtype="datetime64[ns]"), []


def _free_dates(texts: pd.Series[Any]) -> pd.Series[Any]:
    """Dates in other spellings, NaT where day and month could be either, or the year is short."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        first, second = (
            pd.to_datetime(texts, errors="coerce", utc=True, format="mixed", dayfirst=dayfirst)
            for dayfirst in (False, True)
        )
    year_first = texts.str.match(r"\s*\d{4}\D")
    clear = texts.str.contains(r"\b\d{4}\b") & (year_first | (first == second))
    return first.where(clear)
