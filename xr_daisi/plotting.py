"""Pictures of an analysis: truth, observations, forecast and analysis side by side.

Needs matplotlib: install ``xr_daisi[plot]``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from xr_daisi.dimensions import find_dimensions

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

__all__ = ["plot_analysis"]


def plot_analysis(
    forecast: xr.Dataset,
    analysis: xr.Dataset,
    obs: xr.Dataset,
    truth: xr.Dataset,
    variable: str,
    *,
    title: str | None = None,
) -> Figure:
    """Draw one time and level: truth, observations, ensemble means and their errors.

    Parameters
    ----------
    forecast, analysis : xarray.Dataset
        Ensembles of one time and level: two horizontal dimensions beside the members.
    obs : xarray.Dataset
        Point observations of that time, with the horizontal coordinates of the grid.
    truth : xarray.Dataset
        The true field.
    variable : str
        What to draw.
    title : str, optional
        Above all panels.

    Returns
    -------
    matplotlib.figure.Figure
        Six panels; fields share one colour scale, errors another.
    """
    from matplotlib.figure import Figure

    dims = find_dimensions(forecast, [variable])
    y, x = (str(d) for d in truth[variable].dims[-2:])
    true = truth[variable].transpose(y, x)
    means = {
        name: ds[variable].mean(dims.member).transpose(y, x)
        for name, ds in (("forecast", forecast), ("analysis", analysis))
    }
    errors = {name: mean - true for name, mean in means.items()}
    units = true.attrs.get("units", "")
    low, high = np.percentile(true, [1, 99])
    bound = float(np.percentile(np.abs(errors["forecast"]), 99))
    field: dict[str, Any] = {"vmin": low, "vmax": high, "cmap": "viridis"}
    error: dict[str, Any] = {"vmin": -bound, "vmax": bound, "cmap": "RdBu_r"}
    scores = {name: float(np.sqrt((e**2).mean())) for name, e in errors.items()}

    figure = Figure(figsize=(11.0, 6.6), layout="constrained")
    axes = figure.subplots(2, 3, sharex=True, sharey=True)
    image = _panel(axes[0, 0], true, "truth", field)
    points = axes[1, 0].scatter(
        obs[x], obs[y], c=obs[variable], s=14, edgecolors="black", linewidths=0.3, **field
    )
    del points
    axes[1, 0].set_title(f"observations ({int(obs[variable].notnull().sum())})", fontsize=10)
    _panel(axes[0, 1], means["forecast"], "forecast mean", field)
    _panel(axes[0, 2], means["analysis"], "analysis mean", field)
    for column, name in ((1, "forecast"), (2, "analysis")):
        text = f"{name} error, RMSE {scores[name]:.2f} {units}"
        shown = _panel(axes[1, column], errors[name], text, error)
    figure.colorbar(image, ax=axes[0, :], label=f"{variable} ({units})", shrink=0.9)
    figure.colorbar(shown, ax=axes[1, :], label=f"error ({units})", shrink=0.9)
    for axis in axes[1, :]:
        axis.set_xlabel(_label(true[x]))
    for axis in axes[:, 0]:
        axis.set_ylabel(_label(true[y]))
    if title:
        figure.suptitle(title, fontsize=11)
    return figure


def _panel(axis: Any, field: xr.DataArray, title: str, style: dict[str, Any]) -> Any:
    y, x = field.dims
    image = axis.pcolormesh(field[x], field[y], field, shading="nearest", rasterized=True, **style)
    axis.set_title(title, fontsize=10)
    kinds = {str(d).lower()[:3] for d in field.dims}
    if kinds == {"lat", "lon"}:
        # One degree of longitude is shorter than one of latitude.
        axis.set_aspect(1.0 / np.cos(np.deg2rad(float(field[y].mean()))))
    else:
        axis.set_aspect("equal")
    return image


def _label(coordinate: xr.DataArray) -> str:
    name = str(coordinate.attrs.get("long_name", coordinate.name))
    units = coordinate.attrs.get("units")
    return f"{name} ({units})" if units else name
