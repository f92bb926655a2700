"""Pictures of scores along time or level, of spread against error, and of reliability.

Needs matplotlib and the verification packages: install ``xr_daisi[plot,verify]``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from xr_daisi.dimensions import find_dimensions
from xr_daisi.errors import SettingsError, problem
from xr_daisi.optional_packages import needed
from xr_daisi.plot_style import TRUTH, coordinate_label, figure_of, label, named, tidy
from xr_daisi.units import is_pressure
from xr_daisi.verification import ensemble_scores
from xr_daisi.verification_pairs import find_variable
from xr_daisi.verification_probabilities import reliability, spread_skill

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_reliability", "plot_scores", "plot_spread_skill"]

SHORT = {
    "rmse": "RMSE",
    "crps": "fair CRPS",
    "ssr": "spread-skill ratio",
    "bias": "bias",
    "spread": "spread",
}


def plot_scores(
    ensemble: xr.Dataset,
    truth: xr.Dataset,
    variable: str | None = None,
    *,
    by: str = "time",
    scores: Sequence[str] = ("rmse", "crps", "ssr"),
    compare: Mapping[str, xr.Dataset] | None = None,
    name: str = "analysis",
    regions: Any = None,
    weights: Any = None,
) -> Figure:
    """Draw scores along time, or as profiles along level.

    Parameters
    ----------
    ensemble, truth, variable, weights
        As in `xr_daisi.verification.ensemble_scores`.
    by : str
        ``"time"``, ``"level"``, or another dimension of the fields.
    scores : sequence of str
        Which ones: ``"rmse"``, ``"crps"``, ``"ssr"``, ``"bias"``, ``"spread"``.
    compare : mapping of str to xarray.Dataset, optional
        Other ensembles.
    name : str
        What the first one is called.
    regions : mapping, optional
        One region.

    Returns
    -------
    matplotlib.figure.Figure
        One panel for each score; a bar for each ensemble where there is a single time.

    Raises
    ------
    SettingsError
        For unknown scores, or several regions.
    StateError, UnitsError, DaisiTypeError, ImportError
        As `xr_daisi.verification.ensemble_scores`.
    """
    unknown = [score for score in scores if score not in SHORT]
    if unknown or not scores or isinstance(scores, str):
        expected = f"a list of {', '.join(map(repr, SHORT))}"
        raise SettingsError(problem("scores", repr(scores), expected))
    every = named(ensemble, name, compare)
    variable = find_variable(ensemble, truth, variable)
    options: dict[str, Any] = {"by": by, "regions": regions, "weights": weights}
    found = {}
    for key, (ds, _) in every.items():
        found[key] = _one_region(ensemble_scores(ds, truth, variable, **options).compute())
    first = found[name]
    along = next(iter(first["rmse"].dims), None)
    upright = along is not None and along == find_dimensions(truth, [variable]).level[variable]
    count = len(scores)
    if upright:
        figure, axes = figure_of(None, (3.0 * count + 0.8, 4.2), 1, count, sharey=True)
    elif along is None or first.sizes[along] == 1:
        figure, axes = figure_of(None, (2.6 * count + 0.6, 3.2), 1, count)
    else:
        figure, axes = figure_of(None, (7.0, 1.9 * count + 0.9), count, 1, sharex=True)
    for axis, score in zip(np.atleast_1d(axes), scores, strict=True):
        text = label(SHORT[score], first[score].attrs.get("units"))
        if score in ("ssr", "bias"):
            perfect = 1.0 if score == "ssr" else 0.0
            line = axis.axvline if upright else axis.axhline
            line(perfect, color=TRUTH, linewidth=1.0, linestyle=":")
        for k, (key, ds) in enumerate(found.items()):
            color = every[key][1]
            if along is None or first.sizes[along] == 1:
                axis.bar(k, float(ds[score].squeeze()), 0.7, color=color, label=key)
                continue
            where = _positions(ds[along] if along in ds.coords else None, ds.sizes[along])
            values = ds[score].to_numpy()
            pair = (values, where) if upright else (where, values)
            marker = "o" if values.size < 40 else ""
            axis.plot(*pair, color=color, linewidth=1.6, marker=marker, markersize=3.5, label=key)
        tidy(axis)
        if upright:
            axis.set_xlabel(text)
            _from_zero(axis.get_xlim, axis.set_xlim, score)
        elif along is None or first.sizes[along] == 1:
            axis.set_title(text, fontsize=10)
            axis.set_xticks([])
        else:
            axis.set_ylabel(text)
            _from_zero(axis.get_ylim, axis.set_ylim, score)
    last = np.atleast_1d(axes)[-1]
    if upright:
        _upright(np.atleast_1d(axes)[0], truth, str(along))
    elif along is not None and first.sizes[along] > 1:
        last.set_xlabel(coordinate_label(first[along]) if along in first.coords else str(along))
        if along in first.coords and first[along].dtype.kind == "M":
            _dates(last)
    handles, texts = last.get_legend_handles_labels()
    figure.legend(
        handles,
        texts,
        loc="outside upper center",
        ncols=6,
        fontsize=9,
        frameon=False,
        title=str(truth[variable].attrs.get("long_name", variable)),
        title_fontsize=10,
    )
    figure.align_ylabels()
    return figure


def _positions(coordinate: xr.DataArray | None, size: int) -> Any:
    """Return what an axis can show: numbers and dates, else the order."""
    if coordinate is None or coordinate.dtype.kind not in "fiuM":
        return np.arange(size)
    return coordinate.to_numpy()


def _from_zero(limits: Any, set_limits: Any, score: str) -> None:
    """Let an axis begin at zero, and show where a spread-skill ratio would be perfect."""
    if score != "bias":
        set_limits(0.0, max(limits()[1], 1.15 if score == "ssr" else 0.0))


def _dates(axis: Axes) -> None:
    dates: Any = needed("matplotlib.dates")
    locator = dates.AutoDateLocator(minticks=3, maxticks=8)
    axis.xaxis.set_major_locator(locator)
    axis.xaxis.set_major_formatter(dates.ConciseDateFormatter(locator))
    axis.set_xlabel("")


def _upright(axis: Axes, truth: xr.Dataset, level: str) -> None:
    if level not in truth.coords:
        axis.set_ylabel(level)
        return
    coordinate = truth[level]
    axis.set_ylabel(coordinate_label(coordinate))
    down = str(coordinate.attrs.get("positive", "")).lower() == "down" or level == "depth"
    if down or is_pressure(coordinate.attrs.get("units")):
        axis.invert_yaxis()


def plot_spread_skill(
    ensemble: xr.Dataset,
    truth: xr.Dataset,
    variable: str | None = None,
    *,
    bins: int = 10,
    compare: Mapping[str, xr.Dataset] | None = None,
    name: str = "analysis",
    regions: Any = None,
    weights: Any = None,
    ax: Axes | None = None,
) -> Figure:
    """Draw the error of the ensemble mean where the spread is small and where it is large.

    Parameters
    ----------
    ensemble, truth, variable, bins, weights
        As in `xr_daisi.verification.spread_skill`.
    compare : mapping of str to xarray.Dataset, optional
        Other ensembles.
    name : str
        What the first one is called.
    regions : mapping, optional
        One region.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure when None.

    Returns
    -------
    matplotlib.figure.Figure
        RMSE over spread (with its finite-ensemble factor) for groups of points; a
        reliable ensemble lies on the diagonal, above it the ensemble is too narrow.

    Raises
    ------
    StateError, UnitsError, SettingsError, DaisiTypeError
        As `xr_daisi.verification.spread_skill`.
    """
    every = named(ensemble, name, compare)
    variable = find_variable(ensemble, truth, variable)
    options: dict[str, Any] = {"bins": bins, "regions": regions, "weights": weights}
    figure, axis = figure_of(ax, (4.8, 4.8))
    top = 0.0
    for key, (ds, color) in every.items():
        out = _one_region(spread_skill(ds, truth, variable, **options).compute())
        axis.plot(out["spread"], out["rmse"], "o-", color=color, markersize=4.5, label=key)
        top = max(top, float(out["spread"].max()), float(out["rmse"].max()))
    line: dict[str, Any] = {"color": TRUTH, "linewidth": 1.0, "label": "reliable ensemble"}
    axis.plot([0.0, 1.08 * top], [0.0, 1.08 * top], **line)
    axis.set_xlim(0.0, 1.08 * top)
    axis.set_ylim(0.0, 1.08 * top)
    axis.set_aspect("equal")
    note: dict[str, Any] = {"transform": axis.transAxes, "fontsize": 8, "color": "0.4"}
    axis.text(0.97, 0.04, "too much spread", ha="right", **note)
    axis.text(0.03, 0.72, "too little spread", ha="left", **note)
    tidy(axis)
    units = truth[variable].attrs.get("units")
    axis.set_xlabel(label("spread", units))
    axis.set_ylabel(label("RMSE of the ensemble mean", units))
    axis.set_title(str(truth[variable].attrs.get("long_name", variable)), fontsize=10)
    axis.legend(fontsize=8, frameon=False, loc="upper left")
    return figure


def plot_reliability(
    ensemble: xr.Dataset,
    truth: xr.Dataset,
    variable: str | None = None,
    *,
    threshold: float | xr.DataArray,
    bins: int | None = None,
    compare: Mapping[str, xr.Dataset] | None = None,
    name: str = "analysis",
    independent: int | None = None,
    regions: Any = None,
    weights: Any = None,
) -> Figure:
    """Draw how often it happened over how probable it was said to be.

    Parameters
    ----------
    ensemble, truth, variable, threshold, bins, weights
        As in `xr_daisi.verification.reliability`.
    compare : mapping of str to xarray.Dataset, optional
        Other ensembles.
    name : str
        What the first one is called.
    independent : int, optional
        How many of the points are as good as independent, for the bars in which 95 % of the
        frequencies of reliable probabilities lie; all when None, which is too many for fields.
    regions : mapping, optional
        One region.

    Returns
    -------
    matplotlib.figure.Figure
        The reliability diagram with the Brier scores, and below how often each probability was
        given.

    Raises
    ------
    StateError, UnitsError, SettingsError, DaisiTypeError, ImportError
        As `xr_daisi.verification.reliability`.
    """
    every = named(ensemble, name, compare)
    variable = find_variable(ensemble, truth, variable)
    options: dict[str, Any] = {"threshold": threshold, "bins": bins}
    options |= {"regions": regions, "weights": weights}
    figure, (upper, lower) = figure_of(
        None, (4.8, 6.0), 2, 1, sharex=True, height_ratios=[3.2, 1.0]
    )
    upper.plot([0.0, 1.0], [0.0, 1.0], color=TRUTH, linewidth=1.0, label="reliable")
    least = 1.0
    for number, (key, (ds, color)) in enumerate(every.items()):
        out = _one_region(reliability(ds, truth, variable, **options).compute())
        probability = out["forecast_probability"].to_numpy()
        frequency, count = out["observed_frequency"].to_numpy(), out["count"].to_numpy()
        total = int(count.sum())
        if number == 0:
            base = float(out["base_rate"])
            line: dict[str, Any] = {"color": "0.5", "linewidth": 1.0, "linestyle": ":"}
            upper.axhline(base, **line, label=f"base rate {base:.2g}")
            _consistency(upper, probability, count * (independent or total) / max(total, 1))
        brier = float(out["brier_score"])
        text = f"{key}, Brier score {brier:.3g}"
        there = count > 0
        style: dict[str, Any] = {"color": color, "markersize": 4.5, "label": text}
        upper.plot(probability[there], frequency[there], "o-", **style)
        share = count / max(total, 1)
        least = min(least, float(share[there].min()) if there.any() else 1.0)
        where = out["bin"].to_numpy()
        lower.plot(where, share, "o-", color=color, markersize=3.5)
    for axis in (upper, lower):
        tidy(axis)
    upper.set_xlim(-0.03, 1.03)
    upper.set_ylim(-0.03, 1.03)
    upper.set_box_aspect(1.0)
    lower.set_box_aspect(0.28)
    upper.set_ylabel("observed frequency")
    event = str(out["observed_frequency"].attrs["long_name"])
    upper.set_title(event.removeprefix("observed frequency of "), fontsize=10)
    upper.legend(fontsize=8, framealpha=0.85, edgecolor="none", loc="lower right")
    lower.set_yscale("log")
    lower.set_ylim(10.0 ** np.floor(np.log10(min(least, 0.1))), 1.0)
    lower.yaxis.set_minor_formatter(needed("matplotlib.ticker").NullFormatter())
    lower.set_ylabel("share of points")
    lower.set_xlabel("forecast probability")
    return figure


def _consistency(axis: Axes, probability: Any, count: Any) -> None:
    """Bars in which the frequencies of reliable probabilities lie."""
    from scipy.stats import binom

    there = count >= 1.0
    p, n = probability[there], np.floor(count[there])
    low, high = binom.interval(0.95, n, np.clip(p, 0.0, 1.0))
    # Certainty leaves no room, and the quantiles of such a distribution start below it.
    low, high = np.maximum(low, 0.0) / n, high / n
    style: dict[str, Any] = {"color": "0.35", "alpha": 0.35, "linewidth": 5.0}
    axis.vlines(p, low, high, **style, label="95 % if reliable and independent")


def _one_region(out: xr.Dataset) -> xr.Dataset:
    if "region" not in out.dims:
        return out
    if out.sizes["region"] > 1:
        found = f"{out.sizes['region']} regions"
        raise SettingsError(problem("regions", found, "one for a picture"))
    return out.isel(region=0, drop=True)
