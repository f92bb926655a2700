"""Whether probabilities, and the spread, are right: reliability and spread against error."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xr_daisi.errors import SettingsError, problem
from xr_daisi.optional_packages import needed
from xr_daisi.verification_pairs import Pair, Regions, find_pair, with_units

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["reliability", "spread_skill"]

Floats = NDArray[np.float64]
MOST_DISTINCT = 20
"""Up to so many members every possible probability has a bin of its own."""


def reliability(
    ensemble: xr.Dataset,
    truth: xr.Dataset,
    variable: str | None = None,
    *,
    threshold: float | xr.DataArray,
    bins: int | None = None,
    regions: Regions = None,
    weights: str | xr.DataArray | None = None,
) -> xr.Dataset:
    """Compare probabilities of exceedance with how often it happened.

    Parameters
    ----------
    ensemble, truth, variable, regions, weights
        As in `ensemble_scores`; all times, levels and points are pooled.
    threshold : float or xarray.DataArray
        The event is a value above it, in the truth's units; a field, such as a climatological
        quantile, has dimensions of the truth.
    bins : int, optional
        Equal intervals of probability. When None, each of the M + 1 possible shares of M members
        has its own, for up to 20 members, else there are ten.

    Returns
    -------
    xarray.Dataset
        On ``bin``: ``forecast_probability`` (mean in the bin), ``observed_frequency`` and
        ``count``; empty bins are NaN. The ``brier_score``, ``brier_score_fair`` (what infinitely
        many members would have, Ferro 2014), and the decomposition ``reliability`` (0 is best)
        minus ``resolution`` plus ``uncertainty``, equal to the Brier score where each
        probability has its own bin. ``base_rate`` is how often the event happened. Lazy where
        the input is.

    Raises
    ------
    StateError, UnitsError, SettingsError, DaisiTypeError, ImportError
        As `ensemble_scores`; also for a threshold or a number of bins out of range.

    References
    ----------
    Murphy (1973), https://doi.org/10.1175/1520-0450(1973)012<0595:ANVPOT>2.0.CO;2, for the
    decomposition; Ferro (2014), https://doi.org/10.1002/qj.2270.
    """
    brier_score = needed("scores.probability").brier_score
    pair = find_pair(ensemble, truth, variable, by=(), regions=regions, weights=weights)
    _check_threshold(pair, threshold)
    number = _number_of_bins(bins, pair.size)
    valid = pair.valid()
    limit = threshold.reset_coords(drop=True) if isinstance(threshold, xr.DataArray) else threshold
    probability = (pair.members > limit).mean(pair.member).where(valid)
    happened = (pair.truth > limit).astype(np.float64).where(valid)
    members = pair.size if bins is None and pair.size <= MOST_DISTINCT else None
    where = _bin_of(probability, number, members)
    every = xr.DataArray(np.arange(number), dims="bin")
    chosen = where == every
    share = pair.mean(chosen.where(valid).astype(np.float64))
    count = pair.count(chosen)
    with_probability = pair.mean(probability.where(chosen))
    frequency = pair.mean(happened.where(chosen))
    base = pair.mean(happened)
    brier = pair.mean(brier_score(probability, happened, preserve_dims="all", check_args=False))
    sampling = pair.mean(probability * (1.0 - probability)) / (pair.size - 1)
    parts = {
        "reliability": (share * (with_probability - frequency) ** 2).sum("bin"),
        "resolution": (share * (frequency - base) ** 2).sum("bin"),
        "uncertainty": base * (1.0 - base),
    }
    event = f"{pair.long_name} above {_said(threshold)}{f' {pair.units}' if pair.units else ''}"
    data = {
        "forecast_probability": (with_probability, f"mean forecast probability of {event}"),
        "observed_frequency": (frequency, f"observed frequency of {event}"),
        "count": (count, "number of points"),
        "brier_score": (brier, f"Brier score of {event}"),
        "brier_score_fair": (brier - sampling, f"fair Brier score of {event}"),
        "reliability": (parts["reliability"], "reliability part of the Brier score"),
        "resolution": (parts["resolution"], "resolution part of the Brier score"),
        "uncertainty": (parts["uncertainty"], "uncertainty part of the Brier score"),
        "base_rate": (base, f"how often there was {event}"),
    }
    labelled = {key: with_units(values, text, "1") for key, (values, text) in data.items()}
    out = pair.finished(xr.Dataset(labelled)).transpose(..., "bin")
    edges = _edges(number, members)
    middle = 0.5 * (edges[1:] + edges[:-1]) if members is None else np.arange(number) / members
    attrs = {"long_name": "forecast probability, nominal", "units": "1"}
    return out.assign_coords(bin=("bin", middle, attrs))


def _check_threshold(pair: Pair, threshold: Any) -> None:
    if isinstance(threshold, xr.DataArray):
        if not set(threshold.dims) <= set(pair.truth.dims):
            expected = f"dimensions of the truth, {tuple(pair.truth.dims)}"
            found = f"dimensions {tuple(threshold.dims)}"
            raise SettingsError(problem("threshold", found, expected))
        try:
            xr.align(pair.truth, threshold, join="exact", copy=False)
        except ValueError as error:
            found = f"other coordinates ({str(error).splitlines()[0]})"
            raise SettingsError(problem("threshold", found, "those of the truth")) from error
        return
    number = isinstance(threshold, (int, float, np.integer, np.floating))
    if not number or isinstance(threshold, bool) or not np.isfinite(threshold):
        expected = "a number in the truth's units, or a DataArray"
        raise SettingsError(problem("threshold", repr(threshold), expected))


def _number_of_bins(bins: int | None, members: int) -> int:
    if bins is None:
        return members + 1 if members <= MOST_DISTINCT else 10
    return _positive(bins)


def _positive(bins: Any) -> int:
    if isinstance(bins, bool) or not isinstance(bins, (int, np.integer)) or bins < 1:
        raise SettingsError(problem("bins", repr(bins), "a number from 1"))
    return int(bins)


def _bin_of(probability: xr.DataArray, number: int, members: int | None) -> xr.DataArray:
    """Return the number of the bin of each probability; NaN where there is none."""
    if members is not None:
        return (probability * members).round()
    # 0.3 * 10 may come out below 3; the last bin includes certainty.
    return (probability * number + 1e-9).clip(max=number - 0.5) // 1.0


def _edges(number: int, members: int | None) -> Floats:
    return np.linspace(0.0, 1.0, number + 1) if members is None else np.arange(number + 1.0)


def _said(threshold: Any) -> str:
    return "a threshold" if isinstance(threshold, xr.DataArray) else f"{float(threshold):g}"


def spread_skill(
    ensemble: xr.Dataset,
    truth: xr.Dataset,
    variable: str | None = None,
    *,
    bins: int = 10,
    regions: Regions = None,
    weights: str | xr.DataArray | None = None,
) -> xr.Dataset:
    """Compare spread and error where the spread is small and where it is large.

    The ratio of `ensemble_scores` can be 1 although the spread is the same everywhere and knows
    nothing of the error of the day.

    Parameters
    ----------
    ensemble, truth, variable, regions, weights
        As in `ensemble_scores`; all times, levels and points are pooled.
    bins : int
        How many groups of the same size the points are put into, from the smallest spread to the
        largest.

    Returns
    -------
    xarray.Dataset
        On ``bin``, and ``region`` where there are regions: ``spread``, the root of ``(M + 1) / M``
        times the mean variance of the M members, and ``rmse`` of the ensemble mean, both in the
        truth's units and equal for a reliable ensemble, and ``count``. Lazy where the
        input is; variances and errors are then brought together in one task.

    Raises
    ------
    StateError, UnitsError, SettingsError, DaisiTypeError
        As `ensemble_scores`; also for a number of bins out of range.

    References
    ----------
    Leutbecher and Palmer (2008), https://doi.org/10.1016/j.jcp.2007.02.014, sect. 3.2
    """
    bins = _positive(bins)
    pair = find_pair(ensemble, truth, variable, by=(), regions=regions, weights=weights)
    squared = (pair.members.mean(pair.member, skipna=False) - pair.truth) ** 2
    variance = pair.members.var(pair.member, ddof=1, skipna=False).where(squared.notnull())
    variance = (pair.size + 1) / pair.size * variance
    weight = squared.notnull().astype(np.float64)
    if pair.weights is not None:
        weight = weight * pair.weights
    points = list(pair.points)
    results = xr.apply_ufunc(
        _binned(bins),
        variance,
        squared,
        weight,
        input_core_dims=[points] * 3,
        output_core_dims=[["bin"]] * 3,
        vectorize=True,
        dask="parallelized",
        output_dtypes=[np.float64] * 3,
        dask_gufunc_kwargs={"output_sizes": {"bin": bins}, "allow_rechunk": True},
    )
    texts = {
        "spread": (
            "root mean variance of the members, with its finite-ensemble factor",
            pair.units,
        ),
        "rmse": ("root mean square error of the ensemble mean", pair.units),
        "count": ("number of points", "1"),
    }
    data = {
        key: with_units(values, *texts[key]) for key, values in zip(texts, results, strict=True)
    }
    attrs = {"long_name": "group of points, from the smallest spread to the largest"}
    out = pair.finished(xr.Dataset(data)).transpose(..., "bin")
    return out.assign_coords(bin=("bin", np.arange(1, bins + 1), attrs))


def _binned(bins: int) -> Callable[[Floats, Floats, Floats], tuple[Floats, Floats, Floats]]:
    """Return the function that sorts points by variance into groups of the same size."""

    def calculate(variance: Floats, squared: Floats, weight: Floats) -> tuple[Floats, ...]:
        there = np.isfinite(variance) & (weight > 0)
        columns = [np.asarray(a[there], dtype=np.float64) for a in (variance, squared, weight)]
        order = np.argsort(columns[0], kind="stable")
        groups = np.array_split(order, bins)
        out = np.full((3, bins), np.nan)
        for number, group in enumerate(groups):
            out[2, number] = group.size
            if group.size:
                share = columns[2][group] / columns[2][group].sum()
                out[0, number] = np.sqrt((share * columns[0][group]).sum())
                out[1, number] = np.sqrt((share * columns[1][group]).sum())
        return out[0], out[1], out[2]

    return calculate  # type: ignore[return-value]
