"""What the pictures have in common: colours, labels, figures."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import xarray as xr

from xr_daisi.errors import DaisiTypeError, SettingsError, problem
from xr_daisi.optional_packages import needed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["COLORS", "TRUTH", "coordinate_label", "figure_of", "label", "named", "tidy", "written"]

# Okabe and Ito's palette, which colour-blind readers can tell apart: https://jfly.uni-koeln.de/color
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
TRUTH = "#222222"


def named(
    ensemble: xr.Dataset, name: str, compare: Mapping[str, xr.Dataset] | None
) -> dict[str, tuple[xr.Dataset, str]]:
    """Return the ensembles of a picture by name, each with its colour.

    Parameters
    ----------
    ensemble : xarray.Dataset
        The first one.
    name : str
        What it is called.
    compare : mapping, optional
        The others.

    Raises
    ------
    DaisiTypeError
        Where `compare` is no mapping of Datasets.
    SettingsError
        For a name given twice, or more ensembles than colours.
    """
    given: Any = compare or {}
    # A Dataset is a mapping too, of variables.
    if isinstance(given, xr.Dataset) or not isinstance(given, Mapping):
        found = type(compare).__name__
        raise DaisiTypeError(problem("compare", found, "{name: Dataset}"))
    others = dict(compare or {})
    if name in others:
        found = f"{name!r}, which is the name of the first"
        raise SettingsError(problem("compare", found, "other names", "name='analysis'"))
    every = {name: ensemble, **{str(key): ds for key, ds in others.items()}}
    if len(every) > len(COLORS):
        raise SettingsError(problem("compare", f"{len(others)}", f"at most {len(COLORS) - 1}"))
    return {key: (ds, COLORS[k]) for k, (key, ds) in enumerate(every.items())}


def figure_of(
    ax: Axes | None, size: tuple[float, float], rows: int = 1, columns: int = 1, **options: Any
) -> tuple[Figure, Any]:
    """Return a figure and its axes: new ones, or those that were given.

    Parameters
    ----------
    ax : matplotlib.axes.Axes or None
        Where to draw.
    size : tuple of float
        Of a new figure, inches.
    rows, columns, **options
        Of new axes.
    """
    if ax is not None:
        return ax.figure, ax  # type: ignore[return-value]
    figure = needed("matplotlib.figure").Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(rows, columns, **options)


def label(name: str, units: str | None) -> str:
    """Put units behind a name; none where there are none or they are 1."""
    text = written(units)
    return f"{name} ({text})" if text else name


def written(units: str | None) -> str:
    """Units as they are printed: km⁻¹ for km-1, nothing for 1.

    Examples
    --------
    >>> written("m s-1"), written("K2 km"), written("1")
    ('m s⁻¹', 'K² km', '')
    """
    known = {"degrees_north": "°N", "degrees_east": "°E", "1": "", "None": ""}
    raised = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
    text = known.get(str(units), str(units))
    return re.sub(r"(?<=[A-Za-z)])-?\d+", lambda found: found[0].translate(raised), text)


def coordinate_label(coordinate: xr.DataArray) -> str:
    """Label of an axis."""
    name = str(coordinate.attrs.get("long_name", coordinate.name))
    return label(name, coordinate.attrs.get("units"))


def tidy(axis: Axes) -> None:
    """Draw a light grid, and no frame at the top and on the right."""
    axis.grid(color="0.9", linewidth=0.7)
    axis.set_axisbelow(True)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    axis.tick_params(labelsize=9)
