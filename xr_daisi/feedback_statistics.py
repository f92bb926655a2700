"""Statistics of a feedback: departures, spreads, consistency of the assumed errors, ranks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xr_daisi.coordinate_values import read_coordinate
from xr_daisi.errors import StateError, problem, raise_problems
from xr_daisi.feedback_values import Compared, compared, compared_names, with_value_statistics
from xr_daisi.observation_identity import (
    find_identifier,
    find_positions,
    find_time,
    identifier_texts,
)

__all__ = ["feedback_summary"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

LONG_NAMES = {
    "count": "number of values compared",
    "o_minus_b_mean": "mean of observation minus background",
    "o_minus_b_std": "standard deviation of observation minus background",
    "o_minus_b_rms": "root mean square of observation minus background",
    "o_minus_a_mean": "mean of observation minus analysis",
    "o_minus_a_std": "standard deviation of observation minus analysis",
    "o_minus_a_rms": "root mean square of observation minus analysis",
    "background_spread": "root mean variance of the background's members at the observations",
    "analysis_spread": "root mean variance of the analysis' members at the observations",
    "chi_square": "mean of squared observation minus background over its expected variance",
    "analysis_chi_square": "mean of squared observation minus analysis over its expected variance",
    "error_variance": "mean variance of the observation error as assumed",
    "error_variance_diagnosed": "mean of (observation - analysis)(observation - background)",
    "background_variance": "mean variance of the background's members at the observations",
    "background_variance_diagnosed": "mean of (analysis - background)(observation - background)",
    "analysis_variance": "mean variance of the analysis' members at the observations",
    "analysis_variance_diagnosed": "mean of (analysis - background)(observation - analysis)",
    "rank_histogram": "number of values by rank among the perturbed members of the background",
    "values": "number of values by what became of them",
}
DIMENSIONLESS = {"count", "chi_square", "analysis_chi_square", "rank_histogram", "values"}


def feedback_summary(
    feedback: xr.Dataset | Sequence[xr.Dataset],
    by: str | Sequence[str] | None = None,
    *,
    status: str = "used",
) -> xr.Dataset:
    """Summarise a feedback, as a whole or by station, instrument, time...

    Parameters
    ----------
    feedback : xarray.Dataset or sequence of them
        From `xr_daisi.feedback`.
    by : str or sequence of str, optional
        Group values by ``"station"``, ``"instrument"``, ``"time"``, or any coordinate or dimension
        of the observations; values whose label is missing belong to no group.
    status : str
        What became of the values that are compared: ``"used"``, ``"withheld"``, or another meaning
        of ``v_status``.

    Returns
    -------
    xarray.Dataset
        On ``variable`` and the groups, with the units of each variable as coordinate ``units``
        (variances have their square):

        * ``count``; ``o_minus_b_mean``, ``o_minus_b_std``, ``o_minus_b_rms`` and the same of O-A;
        * ``background_spread`` and ``analysis_spread`` at the observations;
        * ``chi_square``: (O-B)^2 over the variance that it should have, the observation error's
          and, for M members, (M + 1)/M times the background's; 1 is consistent, or up to
          2/(M - 3) more, since the spread of M members is itself uncertain;
        * of used values, ``error_variance``, ``background_variance`` and ``analysis_variance`` in
          observation space as assumed, and ``..._diagnosed`` from departures: both agree where the
          weights of the analysis are optimal;
        * of other values, ``analysis_chi_square``: of O-A, since the analysis did not see them;
        * ``rank_histogram`` on ``rank``: flat for a reliable ensemble;
        * ``values`` on ``reason``: how many were used, or rejected and why.

    Raises
    ------
    StateError
        Where it is no feedback, for groups that it does not have, or an unknown status.
    DaisiTypeError
        Where it is no Dataset.

    References
    ----------
    Desroziers, Berre, Chapnik and Poli (2005), https://doi.org/10.1256/qj.05.108.
    """
    datasets: list[Any] = list(feedback) if isinstance(feedback, (list, tuple)) else [feedback]
    groups = [by] if isinstance(by, str) else list(by or ())
    table = _table(datasets, groups, status)
    data = {key: (table.dims, values.reshape(table.shape)) for key, values in _means(table).items()}
    data["rank_histogram"] = (
        (*table.dims, "rank"),
        table.histogram(table.column(lambda row: row.rank), table.ranks, table.chosen),
    )
    reasons = list(dict.fromkeys(word for row in table.rows for word in row.pair.reasons))
    became = table.column(lambda row: _reason_numbers(row.pair, reasons))
    everything = np.ones(became.size, dtype=bool)
    data["values"] = (
        (*table.dims, "reason"),
        table.histogram(became, len(reasons), everything),
    )
    units = {row.pair.name: row.pair.units or "" for row in table.rows}
    coords: dict[str, Any] = {
        "variable": ("variable", table.variables, {"long_name": "observed variable"}),
        "units": (
            "variable",
            [units[name] for name in table.variables],
            {"long_name": "units of the variable, of its mean departures and spreads"},
        ),
        "rank": (
            "rank",
            np.arange(table.ranks),
            {"long_name": "members below the observation", "units": "1"},
        ),
        "reason": ("reason", reasons, {"long_name": "what became of a value"}),
    }
    for group, labels in table.groups.items():
        coords[group] = (group, labels, _attributes(datasets, group))
    if len(groups) == 1 and len(datasets) == 1:
        coords |= _positions(datasets[0], groups[0], table.groups[groups[0]])
    attrs = {"title": "Summary of a feedback", "status": status}
    out = xr.Dataset(data, coords=coords, attrs=attrs)
    for key in out.data_vars:
        out[key].attrs["long_name"] = LONG_NAMES[str(key)]
        if key in DIMENSIONLESS:
            out[key].attrs["units"] = "1"
    for ds in datasets:  # counts of the state's own values, the same in all of them
        bounds = {n: v.variable for n, v in ds.data_vars.items() if "_at_bound_" in str(n)}
        out = out.assign({name: v for name, v in bounds.items() if not v.ndim})
    return out


@dataclass(frozen=True, eq=False)
class _Rows:
    """One variable of one Dataset: a row for each value, with its label in each group."""

    pair: Compared
    rank: NDArray[Any]
    labels: list[NDArray[Any]]


@dataclass(frozen=True, eq=False)
class _Table:
    """All values of all Datasets in one line, each with its cell: variable and groups."""

    rows: list[_Rows]
    variables: list[str]
    groups: dict[str, NDArray[Any]]
    cell: Ints
    inside: NDArray[np.bool_]
    chosen: NDArray[np.bool_]
    used: bool

    @property
    def dims(self) -> tuple[str, ...]:
        return ("variable", *self.groups)

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.variables), *(labels.size for labels in self.groups.values()))

    @property
    def ranks(self) -> int:
        return max(row.pair.members for row in self.rows) + 1

    @property
    def counts(self) -> Ints:
        size = int(np.prod(self.shape))
        return np.bincount(self.cell[self.chosen], minlength=size)

    def column(self, values: Callable[[_Rows], Any]) -> Floats:
        return np.concatenate(
            [np.asarray(values(row), dtype=np.float64).ravel() for row in self.rows]
        )

    def mean(self, values: Floats) -> Floats:
        """Mean of the chosen values in each cell; NaN where there are none."""
        counts = self.counts
        sums = np.bincount(
            self.cell[self.chosen], weights=values[self.chosen], minlength=counts.size
        )
        with np.errstate(invalid="ignore"):
            return np.asarray(sums / np.where(counts > 0, counts, np.nan))

    def histogram(self, number: Floats, size: int, chosen: NDArray[np.bool_]) -> Ints:
        """Count values by cell and number, which is NaN or from 0 to `size` - 1."""
        there = chosen & self.inside & np.isfinite(number)
        where = self.cell[there] * size + number[there].astype(np.int64)
        cells = int(np.prod(self.shape))
        return np.bincount(where, minlength=cells * size).reshape(*self.shape, size)


def _means(table: _Table) -> dict[str, NDArray[Any]]:
    o_minus_b = table.column(lambda row: row.pair.o_minus_b)
    o_minus_a = table.column(lambda row: row.pair.o_minus_a)
    a_minus_b = table.column(lambda row: row.pair.a_minus_b)
    spread_b = table.mean(table.column(lambda row: row.pair.variance("background")))
    spread_a = table.mean(table.column(lambda row: row.pair.variance("analysis")))
    counts = table.counts
    out: dict[str, NDArray[Any]] = {"count": counts}
    for letter, departure in (("b", o_minus_b), ("a", o_minus_a)):
        center = table.mean(departure)
        spare = counts / np.where(counts > 1, counts - 1, np.nan)
        out[f"o_minus_{letter}_mean"] = center
        squares = table.mean((departure - center[table.cell]) ** 2)
        out[f"o_minus_{letter}_std"] = np.sqrt(spare * squares)
        out[f"o_minus_{letter}_rms"] = np.sqrt(table.mean(departure**2))
    out["background_spread"], out["analysis_spread"] = np.sqrt(spread_b), np.sqrt(spread_a)
    expected = table.column(lambda row: row.pair.departure_variance("background"))
    out["chi_square"] = table.mean(o_minus_b**2 / expected)
    if not table.used:
        expected = table.column(lambda row: row.pair.departure_variance("analysis"))
        out["analysis_chi_square"] = table.mean(o_minus_a**2 / expected)
        return out
    out["error_variance"] = table.mean(table.column(lambda row: row.pair.error) ** 2)
    out["error_variance_diagnosed"] = table.mean(o_minus_a * o_minus_b)
    out["background_variance"] = spread_b
    out["background_variance_diagnosed"] = table.mean(a_minus_b * o_minus_b)
    out["analysis_variance"] = spread_a
    out["analysis_variance_diagnosed"] = table.mean(a_minus_b * o_minus_a)
    return out


def _table(datasets: list[xr.Dataset], groups: list[str], status: str) -> _Table:
    if not datasets:
        raise StateError(problem("feedback", "an empty list", "at least one Dataset"))
    rows = [row for ds in datasets for row in _rows(ds, groups)]
    _check(rows, status)
    variables = list(dict.fromkeys(row.pair.name for row in rows))
    number = np.repeat(
        [variables.index(row.pair.name) for row in rows], [row.pair.status.size for row in rows]
    )
    places = [number]
    labels: dict[str, NDArray[Any]] = {}
    inside = np.ones(number.size, dtype=bool)
    for k, group in enumerate(groups):
        labels[group], place = _unique([row.labels[k] for row in rows])
        if not labels[group].size:
            raise StateError(problem("by", f"{group!r} missing everywhere", "labels of groups"))
        inside &= place >= 0
        places.append(np.maximum(place, 0))
    shape = (len(variables), *(one.size for one in labels.values()))
    chosen = [row.pair.status.ravel() == row.pair.reasons[status] for row in rows]
    compared_ = [np.isfinite(row.pair.o_minus_b + row.pair.o_minus_a).ravel() for row in rows]
    return _Table(
        rows,
        variables,
        labels,
        np.ravel_multi_index(places, shape),
        inside,
        np.concatenate(chosen) & np.concatenate(compared_) & inside,
        status == "used",
    )


def _rows(ds: xr.Dataset, groups: list[str]) -> list[_Rows]:
    names = compared_names(ds)
    if not all(f"{name}_rank" in ds for name in names):
        ds = with_value_statistics(ds)
    found, problems = {}, []
    for group in groups:
        try:
            found[group] = _labels(ds, group)
        except StateError as error:
            problems.append(str(error))
    raise_problems(StateError, problems)
    rows = []
    for name in names:
        sizes = {str(d): int(n) for d, n in ds[name].sizes.items()}
        labels = []
        for group in groups:
            along = found[group]
            if not set(along.dims) <= set(sizes):
                expected = f"groups along dimensions of {name!r}, {tuple(sizes)}"
                text = f"{group!r} along {along.dims}"
                raise StateError(problem("by", text, expected))
            labels.append(along.set_dims(sizes).transpose(*sizes).values.ravel())
        rank = ds[f"{name}_rank"].transpose(*sizes).to_numpy()
        rows.append(_Rows(compared(ds, name), rank, labels))
    return rows


def _check(rows: list[_Rows], status: str) -> None:
    units: dict[str, set[str | None]] = {}
    problems = []
    for row in rows:
        units.setdefault(row.pair.name, set()).add(row.pair.units)
        if status not in row.pair.reasons:
            expected = f"one of {', '.join(map(repr, row.pair.reasons))}"
            problems.append(problem("status", repr(status), expected))
    problems += [
        problem(name, f"units {sorted(map(str, found))}", "the same units in all Datasets")
        for name, found in units.items()
        if len(found) > 1
    ]
    raise_problems(StateError, problems)


def _source(ds: xr.Dataset, group: str) -> str | None:
    """Name of the variable that holds the labels of a group."""
    if group in ds.variables:
        return group
    if group in ("station", "instrument"):
        return find_identifier(ds, group)
    return find_time(ds) if group == "time" else None


def _labels(ds: xr.Dataset, group: str) -> xr.Variable:
    name = _source(ds, group)
    if name is not None:
        variable = ds.variables[name]
        values = read_coordinate(variable)
        if values.dtype.kind in "OSU" and not _is_dates(values):
            values = identifier_texts(variable)
        return xr.Variable(variable.dims, values)
    if group in ds.dims:
        return xr.Variable((group,), np.arange(ds.sizes[group]))
    names = sorted({str(c) for c in ds.coords} | {str(d) for d in ds.dims})
    expected = f"one of {', '.join(names)}"
    remedy = f"obs = obs.assign_coords({group}=(dimension, labels)) before the comparison"
    raise StateError(problem("by", repr(group), expected, remedy))


def _is_dates(values: NDArray[Any]) -> bool:
    return bool(values.size) and hasattr(values.flat[0], "calendar")


def _unique(parts: list[NDArray[Any]]) -> tuple[NDArray[Any], Ints]:
    """Labels in order, and the number of each value's label; -1 where it is missing."""
    if len({part.dtype.kind in "US" for part in parts}) > 1:  # numbers in one Dataset, texts in one
        parts = [identifier_texts(xr.Variable(("row",), part)) for part in parts]
    values = np.concatenate(parts)
    if values.dtype.kind in "fmM":
        known = ~np.isnat(values) if values.dtype.kind in "mM" else ~np.isnan(values)
    else:
        known = values != "" if values.dtype.kind in "US" else np.ones(values.size, dtype=bool)
    labels, number = np.unique(values[known], return_inverse=True)
    place = np.full(values.size, -1, dtype=np.int64)
    place[known] = number
    return labels, place


def _reason_numbers(pair: Compared, reasons: list[str]) -> Floats:
    numbers = np.full(pair.status.shape, np.nan)
    for word, code in pair.reasons.items():
        numbers[pair.status == code] = reasons.index(word)
    return numbers


def _attributes(datasets: list[xr.Dataset], group: str) -> dict[str, Any]:
    for ds in datasets:
        name = _source(ds, group)
        if name is not None:
            return dict(ds[name].attrs)
    return {}


def _positions(ds: xr.Dataset, group: str, labels: NDArray[Any]) -> dict[str, Any]:
    """Latitude and longitude of groups that have one place each, as stations do."""
    found = _labels(ds, group)
    positions = find_positions(ds)
    coords: dict[str, Any] = {}
    if any(ds[name].dims != found.dims or name == group for name in positions):
        return coords
    for name in positions:
        values = read_coordinate(ds.variables[name])
        own = [np.unique(values[found.values == label]) for label in labels]
        if any(one.size != 1 for one in own):
            return {}
        coords[name] = (group, np.concatenate(own), dict(ds[name].attrs))
    return coords
