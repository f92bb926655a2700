"""Pictures of a feedback: maps of departures, their histograms, ranks.

Needs matplotlib: install ``xr_daisi[plot]``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xr_daisi.coordinate_values import read_coordinate
from xr_daisi.dimensions import axis_kind
from xr_daisi.errors import StateError, problem
from xr_daisi.feedback_values import compared, compared_names, with_value_statistics
from xr_daisi.observation_identity import find_positions

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_feedback"]

Floats = NDArray[np.float64]

COLORS = {
    "observation - background": "tab:blue",
    "observation - analysis": "tab:orange",
    "withheld - analysis": "tab:green",
}


def plot_feedback(feedback: xr.Dataset, variable: str, *, title: str | None = None) -> Figure:
    """Draw where, and how far, observations are off from forecast and analysis.

    Parameters
    ----------
    feedback : xarray.Dataset
        From `xr_daisi.feedback`.
    variable : str
        Observed variable.
    title : str, optional
        Above all panels.

    Returns
    -------
    matplotlib.figure.Figure
        Maps of observation minus background and observation minus analysis on one colour scale,
        departures of one place averaged over its times; places where nothing was used are grey
        crosses, those with withheld values diamonds. Below, histograms of both with the same bins,
        and of the ranks of the observations among the members of the forecast, of used and withheld
        values. Without positions there are no maps.

    Raises
    ------
    StateError
        Where the Dataset is no feedback, or not of that variable.
    DaisiTypeError
        Where it is no Dataset.
    """
    from matplotlib.figure import Figure

    names = compared_names(feedback)
    if variable not in names:
        found = f"variables {', '.join(names)}"
        raise StateError(problem("feedback", found, f"{variable!r}", "name one of them"))
    if f"{variable}_rank" not in feedback:
        feedback = with_value_statistics(feedback)
    pair = compared(feedback, variable)
    rank = feedback[f"{variable}_rank"].transpose(*pair.dims).to_numpy()
    known = np.isfinite(pair.o_minus_b + pair.o_minus_a)
    withheld = known & (pair.status == pair.reasons.get("withheld", -1))
    used = known & (pair.status == pair.reasons.get("used", 0))
    departures = {"background": pair.o_minus_b, "analysis": pair.o_minus_a}
    units = pair.units or ""
    name = str(feedback[variable].attrs.get("long_name", variable))
    places = _places(feedback, pair.dims)

    figure = Figure(figsize=(10.5, 7.4 if places else 3.6), layout="constrained")
    lower: Any = figure
    if places:
        rooms: Any = figure.subfigures(2, 1, height_ratios=[1.35, 1.0])
        upper, lower = rooms
        _maps(upper, feedback, places, departures, used, withheld, name, units)
    left, right = lower.subplots(1, 2, width_ratios=[1.4, 1.0])
    shares = {"observation − background": pair.o_minus_b[used | withheld]}
    if used.any() or not withheld.any():
        shares["observation − analysis"] = pair.o_minus_a[used]
    if withheld.any():
        shares["withheld − analysis"] = pair.o_minus_a[withheld]
    _departures(left, shares, units)
    _ranks(right, rank[(used | withheld) & np.isfinite(rank)].astype(np.int64), pair.members)
    if title:
        figure.suptitle(title, fontsize=11)
    return figure


@dataclass(frozen=True, eq=False)
class _Places:
    """Positions, and which values of a variable lie at each."""

    names: tuple[str, ...]
    up: Floats
    sideways: Floats
    number: NDArray[np.int64]

    def mean(self, values: Floats, chosen: NDArray[np.bool_]) -> Floats:
        """Mean of the chosen values at each place; NaN where there are none."""
        at = self.number[chosen.ravel()]
        size = self.up.size
        counts = np.bincount(at, minlength=size)
        sums = np.bincount(at, weights=values[chosen], minlength=size)
        return np.asarray(np.where(counts > 0, sums / np.maximum(counts, 1), np.nan))


def _places(feedback: xr.Dataset, dims: tuple[str, ...]) -> _Places | None:
    names = find_positions(feedback)
    if not names or any(not set(feedback[n].dims) <= set(dims) for n in names):
        return None
    sizes = {d: feedback.sizes[d] for d in dims}
    columns = []
    for name in names:
        variable = feedback.variables[name]
        values = read_coordinate(variable).astype(np.float64)
        if axis_kind(feedback, name) == "longitude":
            values = _unrolled(values)
        full = xr.Variable(variable.dims, values).set_dims(sizes).transpose(*dims)
        columns.append(full.values.ravel())
    places, number = np.unique(np.stack(columns), axis=1, return_inverse=True)
    return _Places(names, places[0], places[1], np.asarray(number).ravel())


def _unrolled(longitudes: Floats) -> Floats:
    """Longitudes within the convention in which they span least: around Greenwich or not."""
    around = (longitudes + 180.0) % 360.0 - 180.0
    finite = around[np.isfinite(around)]
    if not finite.size or np.ptp(finite) <= np.ptp(finite % 360.0):
        return np.asarray(around)
    return np.asarray(longitudes % 360.0)


def _maps(
    figure: Any,
    feedback: xr.Dataset,
    places: _Places,
    departures: dict[str, Floats],
    used: NDArray[np.bool_],
    withheld: NDArray[np.bool_],
    name: str,
    units: str,
) -> None:
    kinds = {"used": (used, "o"), "withheld": (withheld, "D")}
    means = {
        key: {kind: places.mean(values, chosen) for kind, (chosen, _) in kinds.items()}
        for key, values in departures.items()
    }
    sizes = np.abs(np.concatenate([v for one in means.values() for v in one.values()]))
    sizes = sizes[np.isfinite(sizes)]
    bound = float(np.percentile(sizes, 98)) if sizes.size else 1.0
    style: dict[str, Any] = {"vmin": -bound or -1.0, "vmax": bound or 1.0, "cmap": "RdBu_r"}
    axes = figure.subplots(1, 2, sharex=True, sharey=True)
    area = float(np.clip(9000.0 / max(1, places.up.size), 6.0, 60.0))
    nothing = np.isnan(np.stack(list(means["background"].values()))).all(axis=0)
    for axis, (key, parts) in zip(axes, means.items(), strict=True):
        axis.grid(color="0.88", linewidth=0.6)
        axis.set_axisbelow(True)
        where = places.sideways[nothing], places.up[nothing]
        crosses: dict[str, Any] = {"marker": "x", "s": 0.6 * area, "c": "0.6", "linewidths": 0.8}
        # Those far away lie outside of the picture: it shows where something was compared.
        axis.scatter(*where, **crosses, label=f"not used ({nothing.sum():,}, shown where near)")
        for kind, values in parts.items():
            there = np.isfinite(values)
            image = axis.scatter(
                places.sideways[there],
                places.up[there],
                c=values[there],
                s=area,
                marker=kinds[kind][1],
                edgecolors="0.25",
                linewidths=0.4,
                label=f"{kind} ({there.sum():,})",
                **style,
            )
        axis.set_title(f"observation \u2212 {key}", fontsize=10)
        _geography(axis, feedback, places, np.logical_or(~nothing, nothing.all()))
    axes[0].set_ylabel(_coordinate(feedback, places.names[0]))
    several = nothing.any() or np.isfinite(means["background"]["withheld"]).any()
    if several:
        handles, texts = axes[0].get_legend_handles_labels()
        kept = [k for k, text in enumerate(texts) if "(0" not in text]
        legend = figure.legend(
            [handles[k] for k in kept],
            [texts[k] for k in kept],
            loc="outside lower center",
            ncols=3,
            fontsize=8,
            frameon=False,
        )
        for handle in legend.legend_handles:
            if not handle.get_label().startswith("not used"):
                handle.set(facecolor="white", array=None)  # not the colour of some value
    label = "mean departure" if (used | withheld).sum() > (~nothing).sum() else "departure"
    text = f"{name}: {label} ({units})" if units else f"{name}: {label}"
    figure.colorbar(image, ax=axes, label=text, extend="both", shrink=0.9)


def _geography(axis: Axes, feedback: xr.Dataset, places: _Places, shown: NDArray[np.bool_]) -> None:
    up, sideways = places.names
    axis.set_xlabel(_coordinate(feedback, sideways))
    aspect = 1.0
    if axis_kind(feedback, up) == "latitude":
        known = places.up[np.isfinite(places.up)]
        # One degree of longitude is shorter than one of latitude.
        aspect = 1.0 / max(0.2, float(np.cos(np.deg2rad(known.mean())))) if known.size else 1.0
        axis.xaxis.set_major_formatter(lambda x, _: _degrees(x, "E", "W"))
        axis.yaxis.set_major_formatter(lambda y, _: _degrees(y, "N", "S"))
    (left, right), (bottom, top) = _limits(places.sideways[shown]), _limits(places.up[shown])
    # About the shape of the panels.
    wide = max(right - left, 1.3 * aspect * (top - bottom)) - (right - left)
    tall = max(top - bottom, 0.6 * (right - left) / aspect) - (top - bottom)
    axis.set_xlim(left - wide / 2, right + wide / 2)
    axis.set_ylim(bottom - tall / 2, top + tall / 2)
    axis.set_aspect(aspect)
    axis.tick_params(labelsize=8)


def _limits(values: Floats) -> tuple[float, float]:
    known = values[np.isfinite(values)]
    if not known.size:
        return -1.0, 1.0
    margin = 0.06 * float(np.ptp(known)) or 1.0
    return float(known.min()) - margin, float(known.max()) + margin


def _degrees(value: float, above: str, below: str) -> str:
    wrapped = (value + 180.0) % 360.0 - 180.0 if above == "E" else value
    letter = "" if wrapped in (0.0, -180.0) else above if wrapped > 0 else below
    return f"{abs(wrapped):g}°{letter}"


def _coordinate(feedback: xr.Dataset, name: str) -> str:
    attrs = feedback[name].attrs
    text = str(attrs.get("long_name", name))
    units = str(attrs.get("units", ""))
    return f"{text} ({units})" if units and not units.lower().startswith("deg") else text


def _departures(axis: Axes, shares: dict[str, Floats], units: str) -> None:
    every = np.concatenate(list(shares.values()))
    axis.set_title(f"departures of {next(iter(shares.values())).size:,} values", fontsize=10)
    axis.set_xlabel(f"departure ({units})" if units else "departure")
    axis.set_ylabel("number of values")
    axis.locator_params(axis="y", integer=True)
    if not every.size:
        axis.text(0.5, 0.5, "nothing was compared", ha="center", transform=axis.transAxes)
        return
    bound = max(float(np.percentile(np.abs(every), 99.5)), 1e-30)
    count = int(np.clip(2 * np.sqrt(every.size / 2), 8, 60))
    edges = np.linspace(-bound, bound, count + 1 + count % 2).tolist()
    for key, values in shares.items():
        deviation = float(values.std(ddof=1)) if values.size > 1 else 0.0
        text = f"{key}: {values.mean():.2g} ± {deviation:.2g} {units}".rstrip()
        inside = np.clip(values, -bound, bound)  # the few beyond count in the last bins
        color = COLORS[key.replace("−", "-")]
        if not key.startswith("withheld"):
            axis.hist(inside, edges, color=color, alpha=0.3)
        dashes = "--" if key.startswith("withheld") else "-"
        axis.hist(inside, edges, histtype="step", color=color, linestyle=dashes, label=text)
    axis.axvline(0.0, color="0.3", linewidth=0.7)
    axis.set_ylim(0.0, (1.2 + 0.16 * len(shares)) * axis.get_ylim()[1])
    axis.legend(fontsize=8, title="mean ± standard deviation", title_fontsize=8, loc="upper left")


def _ranks(axis: Axes, ranks: NDArray[np.int64], members: int) -> None:
    counts = np.bincount(ranks, minlength=members + 1)
    axis.bar(np.arange(members + 1), counts, width=0.9, color="0.6", zorder=2)
    expected = ranks.size / (members + 1)
    axis.axhline(expected, color="0.1", linewidth=1.0, zorder=3, label="reliable ensemble")
    spread = 2.0 * np.sqrt(expected * (1.0 - 1.0 / (members + 1)))
    band: dict[str, Any] = {"color": "0.2", "alpha": 0.12, "linewidth": 0.0}
    axis.axhspan(max(0.0, expected - spread), expected + spread, **band, label="its sampling noise")
    axis.set_title("rank among the members of the forecast", fontsize=10)
    axis.set_xlabel(f"members below the observation (of {members})")
    axis.set_ylabel("number of values")
    axis.locator_params(axis="y", integer=True)
    axis.set_ylim(0.0, 1.3 * max(counts.max(), expected + spread, 1.0))
    axis.legend(fontsize=8, ncols=2, loc="upper center")
