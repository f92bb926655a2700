"""Maps of fields: mean and spread of an ensemble, increments. With cartopy where it is installed.

Needs matplotlib: install ``xr_daisi[plot]``.
"""

from __future__ import annotations

import contextlib
import warnings
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from xr_daisi.dimensions import axis_kind, find_dimensions
from xr_daisi.errors import DaisiTypeError, StateError, problem
from xr_daisi.optional_packages import needed
from xr_daisi.plot_style import coordinate_label, written
from xr_daisi.verification_fields import increments

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_increments", "plot_map"]


def plot_map(
    ds: xr.Dataset,
    variable: str | None = None,
    *,
    projection: Any = None,
    coastlines: bool = True,
    title: str | None = None,
) -> Figure:
    """Draw a map of a field; of an ensemble its mean and its spread.

    Parameters
    ----------
    ds : xarray.Dataset
        Fields of one time and level, with or without members; coordinates may be two-dimensional.
    variable : str, optional
        Which one; the first when None.
    projection : cartopy.crs.Projection, optional
        Of the map, where cartopy is installed and there are latitudes and longitudes; that of
        equal degrees when None.
    coastlines : bool
        Draw them with cartopy, where it has them or can fetch them.
    title : str, optional
        Above all panels.

    Returns
    -------
    matplotlib.figure.Figure
        One panel, or two for an ensemble.

    Raises
    ------
    StateError
        For fields that are not of two horizontal dimensions, or a variable that is not there.
    DaisiTypeError
        Where it is no Dataset.
    """
    if not isinstance(ds, xr.Dataset):
        raise DaisiTypeError(problem("fields", type(ds).__name__, "an xarray.Dataset"))
    there = [str(v) for v in ds.data_vars]
    name = variable or (there[0] if there else "")
    if name not in there:
        found = f"variables {', '.join(there) or 'none'}"
        raise StateError(problem("fields", found, repr(name) if name else "at least one"))
    member = find_dimensions(ds, [name], what="fields").member
    text = str(ds[name].attrs.get("long_name", name))
    units = ds[name].attrs.get("units")
    panels = [(f"{text}: mean" if member else text, ds[name], _sequential, "viridis")]
    if member is not None:
        panels[0] = (panels[0][0], ds[name].mean(member), _sequential, "viridis")
        if ds.sizes[member] > 1:
            spread = ds[name].std(member, ddof=1)
            panels.append((f"{text}: spread", spread, _sequential, "cividis"))
    return _maps([(*panel, units) for panel in panels], name, projection, coastlines, title)


def plot_increments(
    analysis: xr.Dataset,
    forecast: xr.Dataset,
    variable: str | None = None,
    *,
    projection: Any = None,
    coastlines: bool = True,
    title: str | None = None,
) -> Figure:
    """Draw what an analysis changed: the mean, and the spread.

    Parameters
    ----------
    analysis, forecast : xarray.Dataset
        Fields of one time and level, as in `xr_daisi.verification.increments`.
    variable : str, optional
        Which one; the first that both have when None.
    projection, coastlines, title
        As in `plot_map`.

    Returns
    -------
    matplotlib.figure.Figure
        Analysis minus forecast of the ensemble mean, and of the ensemble standard deviation where
        there are members.

    Raises
    ------
    StateError, UnitsError, DaisiTypeError
        As `xr_daisi.verification.increments`; for fields that are not of two horizontal dimensions.
    """
    out = increments(analysis, forecast, variable)
    name = variable or str(next(iter(out.data_vars))).removesuffix("_increment")
    text = str(forecast[name].attrs.get("long_name", name))
    units = forecast[name].attrs.get("units")
    panels = [
        (
            f"{text}: increment of the mean",
            out[f"{name}_mean_increment"],
            _symmetric,
            "RdBu_r",
            units,
        )
    ]
    if f"{name}_spread_change" in out:
        field = out[f"{name}_spread_change"]
        panels.append((f"{text}: change of spread", field, _symmetric, "PuOr_r", units))
    return _maps(panels, name, projection, coastlines, title)


def _maps(
    panels: list[tuple[str, xr.DataArray, Any, str, Any]],
    name: str,
    projection: Any,
    coastlines: bool,
    title: str | None,
) -> Figure:
    prepared = [_prepared(field, name) for _, field, _, _, _ in panels]
    field, x, y = prepared[0]
    degrees = axis_kind(field, x) == "longitude" and axis_kind(field, y) == "latitude"
    geographic = degrees and find_spec("cartopy") is not None
    options: dict[str, Any] = {}
    if geographic:
        crs = needed("cartopy.crs")
        middle = _middle(field[x].to_numpy())
        options["subplot_kw"] = {"projection": projection or crs.PlateCarree(middle)}
    figure: Figure = needed("matplotlib.figure").Figure(
        figsize=(
            5.2 * len(panels) + 0.3,
            _height(field, x, y, 1.0 if geographic else _aspect(field, x, y)),
        ),
        layout="constrained",
    )
    axes = np.atleast_1d(figure.subplots(1, len(panels), **options))
    for axis, (text, _, limits, cmap, units), (values, _, _) in zip(
        axes, panels, prepared, strict=True
    ):
        style: dict[str, Any] = {"cmap": cmap, "rasterized": True, **limits(values)}
        if geographic:
            style["transform"] = needed("cartopy.crs").PlateCarree()
        shown = np.ma.masked_invalid(values.to_numpy())
        image = axis.pcolormesh(
            values[x].to_numpy(), values[y].to_numpy(), shown, shading="nearest", **style
        )
        figure.colorbar(image, ax=axis, shrink=0.85, extend="both", label=written(units))
        axis.set_title(text, fontsize=10)
        if geographic:
            _geography(axis, coastlines)
        else:
            axis.set_aspect(_aspect(values, x, y))
            axis.set_xlabel(coordinate_label(values[x]))
            axis.tick_params(labelsize=9)
    if not geographic:
        axes[0].set_ylabel(coordinate_label(field[y]))
    if title:
        figure.suptitle(title, fontsize=11)
    return figure


def _middle(longitudes: Any) -> float:
    """Longitude in the middle of a map: of a region its own, of a globe 0 or 180 degrees."""
    low, high = float(np.nanmin(longitudes)), float(np.nanmax(longitudes))
    if high - low > 180.0:
        return 180.0 if high > 181.0 else 0.0
    return round(0.5 * (low + high), 6)


def _prepared(field: xr.DataArray, name: str) -> tuple[xr.DataArray, str, str]:
    """Return a field of two dimensions with the names of its sideways and upward coordinates."""
    values = field.squeeze(drop=True) if field.ndim > 2 else field
    if values.ndim != 2:
        found = f"dimensions {dict(field.sizes)}"
        expected = "two horizontal ones, and members"
        remedy = "select one along each other dimension, e.g. .isel(time=-1)"
        raise StateError(problem(name, found, expected, remedy))
    kinds = {str(c): axis_kind(values, c) for c in values.coords if values[c].ndim}
    x, y = (
        next((c for c, kind in kinds.items() if kind == wanted), "")
        for wanted in ("longitude", "latitude")
    )
    if x and y:
        if values[x].ndim == 1:
            values = values.transpose(str(values[y].dims[0]), str(values[x].dims[0]))
        return values.compute(), x, y
    up, sideways = map(str, values.dims)
    if (up, sideways) == ("x", "y"):
        up, sideways = sideways, up
    missing = {d: np.arange(values.sizes[d]) for d in (up, sideways) if d not in values.coords}
    return values.transpose(up, sideways).assign_coords(missing).compute(), sideways, up


def _limits(values: xr.DataArray) -> tuple[float, float]:
    known = values.to_numpy()
    known = known[np.isfinite(known)]
    if not known.size:
        return 0.0, 1.0
    low, high = np.percentile(known, [1, 99])
    return float(low), float(high)


def _sequential(values: xr.DataArray) -> dict[str, float]:
    low, high = _limits(values)
    return {"vmin": low, "vmax": high}


def _symmetric(values: xr.DataArray) -> dict[str, float]:
    bound = max(1e-30, _limits(abs(values))[1])
    return {"vmin": -bound, "vmax": bound}


def _aspect(field: xr.DataArray, x: str, y: str) -> float:
    if axis_kind(field, x) == "longitude" and axis_kind(field, y) == "latitude":
        # One degree of longitude is shorter than one of latitude.
        return float(1.0 / max(0.2, np.cos(np.deg2rad(float(field[y].mean())))))
    return 1.0


def _height(field: xr.DataArray, x: str, y: str, aspect: float) -> float:
    """Height of a figure, inches, in which a map of that shape leaves little white."""
    wide, tall = (float(np.ptp(field[c].to_numpy().astype(float))) or 1.0 for c in (x, y))
    return 4.0 * float(np.clip(tall / wide * aspect, 0.45, 1.5)) + 0.9


def _geography(axis: Axes, coastlines: bool) -> None:
    """Draw what cartopy can, and nothing of what it would have to fetch and cannot."""
    geo: Any = axis
    lines = geo.gridlines(draw_labels=True, color="0.6", linewidth=0.4, alpha=0.6)
    lines.top_labels = lines.right_labels = False
    lines.xlabel_style = lines.ylabel_style = {"size": 8}
    if not coastlines:
        return
    reader = needed("cartopy.io.shapereader")
    with warnings.catch_warnings(), contextlib.suppress(Exception):
        warnings.simplefilter("ignore")
        reader.natural_earth(resolution="110m", category="physical", name="coastline")
        geo.coastlines(resolution="110m", color="0.15", linewidth=0.7)
