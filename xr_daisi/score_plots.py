"""Pictures of scores: rank histograms, spread and error, spectra, reliability, scores in time.

Needs matplotlib and the verification packages: install ``xr_daisi[plot,verify]``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from xr_daisi.dimensions import find_dimensions
from xr_daisi.errors import SettingsError, problem
from xr_daisi.plot_style import TRUTH, figure_of, label, named, tidy
from xr_daisi.verification_ranks import rank_histogram
from xr_daisi.verification_spectra import power_spectrum

if TYPE_CHECKING:
    from collections.abc import Mapping

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_rank_histogram", "plot_spectrum"]


def plot_rank_histogram(
    ensemble: xr.Dataset,
    truth: xr.Dataset,
    variable: str | None = None,
    *,
    compare: Mapping[str, xr.Dataset] | None = None,
    name: str = "analysis",
    independent: int | None = None,
    regions: Any = None,
    seed: int = 0,
    ax: Axes | None = None,
) -> Figure:
    """Draw how often the truth has each rank among the members.

    Parameters
    ----------
    ensemble, truth, variable, seed
        As in `xr_daisi.verification.rank_histogram`.
    compare : mapping of str to xarray.Dataset, optional
        Other ensembles of as many members, drawn as lines.
    name : str
        What the first one is called.
    independent : int, optional
        How many of the points are as good as independent, for the band in which 95 % of the
        frequencies of a reliable ensemble lie. When None all of them: neighbouring points resemble
        each other, so that the band is then too narrow.
    regions : mapping, optional
        One region, as in `xr_daisi.verification.ensemble_scores`.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure when None.

    Returns
    -------
    matplotlib.figure.Figure
        Bars of the frequency of each rank, over that of a flat histogram.

    Raises
    ------
    SettingsError
        For ensembles of other sizes, or several regions.
    StateError, UnitsError, DaisiTypeError
        As `xr_daisi.verification.rank_histogram`.
    """
    every = named(ensemble, name, compare)
    counts = {}
    for key, (ds, _) in every.items():
        count = rank_histogram(ds, truth, variable, regions=regions, seed=seed).compute()
        if "region" in count.dims:
            count = _one_region(count)
        counts[key] = count
    sizes = {count.sizes["rank"] for count in counts.values()}
    if len(sizes) > 1:
        found = f"{', '.join(str(n - 1) for n in sorted(sizes))} members"
        raise SettingsError(problem("compare", found, "ensembles of the same size"))
    from scipy.stats import binom

    first = counts[name]
    ranks = first.sizes["rank"]
    figure, axis = figure_of(ax, (6.0, 3.8))
    total = independent or int(first.sum())
    low, high = binom.interval(0.95, max(total, 1), 1.0 / ranks)
    scale = ranks / max(total, 1)
    axis.axhspan(
        low * scale,
        high * scale,
        color="0.35",
        alpha=0.25,
        linewidth=0.0,
        zorder=3,
        label=f"95 % of samples of {total:,} independent values",
    )
    axis.axhline(1.0, color=TRUTH, linewidth=1.0, zorder=4, label="reliable ensemble")
    for key, count in counts.items():
        share = count.to_numpy() * ranks / max(1, int(count.sum()))
        color = every[key][1]
        if key == name:
            axis.bar(np.arange(ranks), share, 0.9, color=color, alpha=0.75, label=key, zorder=2)
        else:
            edges = np.arange(ranks + 1) - 0.5
            axis.stairs(share, edges, color=color, linewidth=1.8, label=key, zorder=5)
    tidy(axis)
    axis.set_xlim(-0.6, ranks - 0.4)
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.set_ylim(0.0, 1.35 * axis.get_ylim()[1])
    axis.set_xlabel(f"members below the truth (of {ranks - 1})")
    axis.set_ylabel("frequency over that of a flat histogram")
    axis.set_title(_title(truth, variable, ensemble), fontsize=10)
    axis.legend(fontsize=8, ncols=2, loc="upper center", frameon=False)
    return figure


def plot_spectrum(
    ensemble: xr.Dataset,
    truth: xr.Dataset | None = None,
    variable: str | None = None,
    *,
    compare: Mapping[str, xr.Dataset] | None = None,
    name: str = "analysis",
    slope: float | None = -5.0 / 3.0,
    window: str | None = None,
    detrend: str | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Draw the power spectra of members and truth.

    Parameters
    ----------
    ensemble, truth, variable, window, detrend
        As in `xr_daisi.verification.power_spectrum`; times and levels are averaged. The
        truth is optional.
    compare : mapping of str to xarray.Dataset, optional
        Other ensembles.
    name : str
        What the first one is called.
    slope : float, optional
        Of a dashed line for the eye; none when None.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure when None.

    Returns
    -------
    matplotlib.figure.Figure
        Mean spectra of the members, shaded between the least and the most energetic one, and
        the spectrum of the truth, on logarithmic axes; wavelengths above.

    Raises
    ------
    StateError, SettingsError, DaisiTypeError, ImportError
        As `xr_daisi.verification.power_spectrum`.
    """
    every = named(ensemble, name, compare)
    if variable is None:
        both = [v for v in ensemble.data_vars if truth is None or v in truth.data_vars]
        variable = str(both[0]) if both else None
    figure, axis = figure_of(ax, (6.4, 4.6))
    options: dict[str, Any] = {"window": window, "detrend": detrend}
    drawn = []
    for key, (ds, color) in every.items():
        spectrum = power_spectrum(ds, variable, members=True, **options).compute()
        member = find_dimensions(ds, [variable or str(next(iter(ds.data_vars)))]).member
        kept = ("wavenumber", member)
        spectrum = spectrum.mean([d for d in spectrum.dims if d not in kept], keep_attrs=True)
        k = spectrum["wavenumber"]
        if member is not None:
            limits = spectrum.min(member), spectrum.max(member)
            axis.fill_between(k, *limits, color=color, alpha=0.18, linewidth=0.0)
            spectrum = spectrum.mean(member, keep_attrs=True)
        axis.loglog(k, spectrum, color=color, linewidth=1.8, label=key)
        drawn.append(spectrum)
    if truth is not None:
        true = power_spectrum(truth, variable, **options).compute()
        true = true.mean([d for d in true.dims if d != "wavenumber"], keep_attrs=True)
        axis.loglog(true["wavenumber"], true, color=TRUTH, linewidth=1.4, label="truth")
        drawn.append(true)
    first = drawn[-1]
    if slope is not None:
        _slope(axis, first, slope)
    tidy(axis)
    axis.set_xlabel(label("wavenumber", first["wavenumber"].attrs.get("units")))
    axis.set_ylabel(label("power spectral density", first.attrs.get("units")))
    axis.set_title(
        str(first.attrs["long_name"]).removeprefix("power spectral density of "), fontsize=10
    )
    axis.legend(fontsize=8, frameon=False, loc="lower left")
    _wavelengths(axis, first)
    return figure


def _slope(axis: Axes, spectrum: xr.DataArray, slope: float) -> None:
    """Draw a power law above the middle of a spectrum."""
    k = spectrum["wavenumber"].to_numpy()
    part = k[(k >= 2.5 * k[0]) & (k <= 0.5 * k[-1])]
    if part.size < 2:
        return
    middle = float(np.sqrt(part[0] * part[-1]))
    level = 2.5 * float(np.exp(np.interp(np.log(middle), np.log(k), np.log(spectrum.to_numpy()))))
    third = round(3.0 * slope)
    text = f"{third}/3" if abs(3.0 * slope - third) < 1e-9 and third % 3 else f"{slope:g}"
    axis.loglog(
        part,
        level * (part / middle) ** slope,
        color="0.45",
        linestyle="--",
        linewidth=1.2,
        label=f"slope {text}".replace("-", "\u2212"),
    )


def _wavelengths(axis: Axes, spectrum: xr.DataArray) -> None:
    unit = str(spectrum["wavenumber"].attrs.get("units", "")).removesuffix("-1").strip("()")

    def inverse(values: Any) -> Any:
        with np.errstate(divide="ignore"):
            return 1.0 / np.asarray(values, dtype=float)

    top = axis.secondary_xaxis("top", functions=(inverse, inverse))
    top.set_xlabel(label("wavelength", unit or None))
    top.tick_params(labelsize=9)
    top.xaxis.set_major_formatter(lambda value, _: f"{value:,.6g}")
    top.xaxis.set_minor_formatter(lambda value, _: "")


def _one_region(values: xr.DataArray) -> xr.DataArray:
    if values.sizes["region"] > 1:
        found = f"{values.sizes['region']} regions"
        raise SettingsError(problem("regions", found, "one for a picture"))
    return values.isel(region=0)


def _title(truth: xr.Dataset, variable: str | None, ensemble: xr.Dataset) -> str:
    name = variable or next((str(v) for v in ensemble.data_vars if v in truth.data_vars), "")
    return str(truth[name].attrs.get("long_name", name)) if name in truth else name
