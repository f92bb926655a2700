"""Pictures of an analysis: truth, observations, forecast and analysis side by side; of feedback.

Pictures of scores and maps are in modules of their own and are listed here. Needs matplotlib, and
for scores the verification packages: install ``xr_daisi[plot,verify]``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from xr_daisi.dimensions import axis_kind, find_dimensions
from xr_daisi.errors import StateError, problem
from xr_daisi.feedback_plots import plot_feedback
from xr_daisi.field_plots import plot_increments, plot_map
from xr_daisi.score_plots import plot_rank_histogram, plot_spectrum
from xr_daisi.skill_plots import plot_reliability, plot_scores, plot_spread_skill
from xr_daisi.units import conversion

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "plot_analysis",
    "plot_feedback",
    "plot_increments",
    "plot_map",
    "plot_rank_histogram",
    "plot_reliability",
    "plot_scores",
    "plot_spectrum",
    "plot_spread_skill",
]


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
        Six panels; fields share one colour scale, errors another. Missing values stay white.

    Raises
    ------
    StateError
        For fields that are not of two horizontal dimensions, or observations without the
        coordinates of the grid.
    UnitsError
        For units that do not convert into those of the truth.
    """
    from matplotlib.figure import Figure

    true = truth[variable].squeeze()
    if true.ndim != 2:
        raise StateError(
            problem(
                f"truth {variable!r}",
                f"dimensions {dict(truth[variable].sizes)}",
                "two horizontal ones",
                "select one along each other dimension, e.g. .isel(time=-1)",
            )
        )
    y, x = _vertical_first(truth, (str(true.dims[0]), str(true.dims[1])))
    true = true.transpose(y, x)
    means = {
        name: _in_units(_mean(ds, variable, name), true).transpose(y, x)
        for name, ds in (("forecast", forecast), ("analysis", analysis))
    }
    errors = {name: mean - true for name, mean in means.items()}
    units = true.attrs.get("units", "")
    field: dict[str, Any] = {**_limits(true), "cmap": "viridis"}
    bound = max(1e-30, abs(_limits(abs(errors["forecast"]))["vmax"]))
    error: dict[str, Any] = {"vmin": -bound, "vmax": bound, "cmap": "RdBu_r"}

    figure = Figure(figsize=_size(true), layout="constrained")
    axes = figure.subplots(2, 3, sharex=True, sharey=True)
    image = _panel(axes[0, 0], true, "truth", field)
    _observations(axes[1, 0], obs, variable, true, field)
    _panel(axes[0, 1], means["forecast"], "forecast mean", field)
    _panel(axes[0, 2], means["analysis"], "analysis mean", field)
    for column, (name, difference) in enumerate(errors.items(), start=1):
        rmse = float(np.sqrt((difference**2).mean()))
        text = f"{name} mean \u2212 truth, RMSE {rmse:.2f} {units}".rstrip()
        shown = _panel(axes[1, column], difference, text, error)
    name = str(true.attrs.get("long_name", variable))
    figure.colorbar(image, ax=axes[0, :], label=_with_units(name, units), extend="both")
    figure.colorbar(shown, ax=axes[1, :], label=_with_units("error", units), extend="both")
    for axis in axes[1, :]:
        axis.set_xlabel(_label(true[x]))
    for axis in axes[:, 0]:
        axis.set_ylabel(_label(true[y]))
    if title:
        figure.suptitle(title, fontsize=11)
    return figure


def _vertical_first(ds: xr.Dataset, dims: tuple[str, str]) -> tuple[str, str]:
    """Return the dimensions as (upward, sideways) in a picture."""
    first, second = dims
    sideways = axis_kind(ds, first) == "longitude" or axis_kind(ds, second) == "latitude"
    if sideways or (first, second) == ("x", "y"):
        return second, first
    return first, second


def _mean(ds: xr.Dataset, variable: str, what: str) -> xr.DataArray:
    member = find_dimensions(ds, [variable], what=what).member
    mean = ds[variable] if member is None else ds[variable].mean(member)
    mean = mean.squeeze()
    mean.attrs = dict(ds[variable].attrs)
    if mean.ndim != 2:
        raise StateError(
            problem(
                f"{what} {variable!r}",
                f"dimensions {dict(ds[variable].sizes)}",
                "members and two horizontal dimensions",
                "select one along each other dimension, e.g. .isel(time=-1)",
            )
        )
    return mean


def _in_units(field: xr.DataArray, true: xr.DataArray) -> xr.DataArray:
    units = field.attrs.get("units")
    change = conversion(units, true.attrs.get("units"), variable=str(field.name))
    return field * change.factor + change.offset


def _limits(field: xr.DataArray) -> dict[str, float]:
    """Return limits that a few extreme points do not decide."""
    values = field.to_numpy()
    values = values[np.isfinite(values)]
    if not values.size:
        return {"vmin": 0.0, "vmax": 1.0}
    low, high = np.percentile(values, [1, 99])
    return {"vmin": float(low), "vmax": float(high)}


def _size(field: xr.DataArray) -> tuple[float, float]:
    """Return a size of the figure, inches, in which panels of that shape leave little white."""
    y, x = (np.ptp(field[d].to_numpy().astype(float)) or 1.0 for d in field.dims)
    tall = float(np.clip(y / x * _aspect(field), 0.5, 1.5))
    return 11.5, 2 * 3.2 * tall + 1.1


def _aspect(field: xr.DataArray) -> float:
    y, x = field.dims
    if (axis_kind(field, y), axis_kind(field, x)) == ("latitude", "longitude"):
        # One degree of longitude is shorter than one of latitude.
        return float(1.0 / max(0.2, np.cos(np.deg2rad(float(field[y].mean())))))
    return 1.0


def _panel(axis: Axes, field: xr.DataArray, title: str, style: dict[str, Any]) -> Any:
    y, x = field.dims
    values = np.ma.masked_invalid(field.to_numpy())
    image = axis.pcolormesh(field[x], field[y], values, shading="nearest", rasterized=True, **style)
    axis.set_title(title, fontsize=10)
    axis.set_aspect(_aspect(field))
    return image


def _observations(
    axis: Axes, obs: xr.Dataset, variable: str, true: xr.DataArray, style: dict[str, Any]
) -> None:
    y, x = (str(d) for d in true.dims)
    missing = [name for name in (variable, y, x) if name not in obs.variables]
    if missing:
        raise StateError(
            problem(
                "observations",
                f"variables {', '.join(map(str, obs.variables))}",
                f"{', '.join(missing)} too",
                "rename them with obs.rename({...})",
            )
        )
    import xarray as xr

    places = xr.broadcast(_in_units(obs[variable], true), obs[y], obs[x])
    values, up, sideways = (place.to_numpy().ravel().astype(float) for place in places)
    there = np.isfinite(values)
    if axis_kind(true, x) == "longitude":  # -180..180 or 0..360, as the field has them
        middle = float(true[x].mean())
        sideways = middle + (sideways - middle + 180.0) % 360.0 - 180.0
    axis.scatter(
        sideways[there],
        up[there],
        c=values[there],
        s=float(np.clip(6000.0 / max(1, there.sum()), 8.0, 30.0)),
        edgecolors="black",
        linewidths=0.3,
        **style,
    )
    axis.set_title(f"observations ({there.sum():,})", fontsize=10)
    axis.set_aspect(_aspect(true))


def _label(coordinate: xr.DataArray) -> str:
    name = str(coordinate.attrs.get("long_name", coordinate.name))
    return _with_units(name, coordinate.attrs.get("units", ""))


def _with_units(name: str, units: str) -> str:
    units = {"degrees_north": "°N", "degrees_east": "°E"}.get(units, units)
    return f"{name} ({units})" if units else name
