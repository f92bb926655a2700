"""Grid points and levels of a forecast matched to those of a prior, with the line that mends it.

The lines in messages are expressions in ``forecast``, ``prior``, ``xr`` and ``np``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from xr_daisi.errors import UnitsError, problem
from xr_daisi.units import IDENTITY, Conversion, conversion

if TYPE_CHECKING:
    import xarray as xr

    from xr_daisi.state import StateSpec, VariableSpec

__all__ = ["match_axis", "match_level", "match_levels"]

TOLERANCE = 0.01
"""Grid points within this share of a grid step are the same point (single-precision files)."""


@dataclass(frozen=True)
class _Difference:
    """A dimension along which the grids differ: its names, and its values in the prior's units."""

    dim: str
    name: str
    found: np.ndarray
    wanted: np.ndarray
    change: Conversion
    kind: str


def match_axis(
    forecast: xr.Dataset, spec: StateSpec, space: tuple[str, ...]
) -> tuple[list[np.ndarray], list[str]]:
    """Find each of the state's grid points along the forecast's axes.

    Parameters
    ----------
    forecast : xarray.Dataset
        The forecast.
    spec : StateSpec
        The prior's state.
    space : tuple of str
        The forecast's dimension for each of the state's space dimensions.

    Returns
    -------
    list of ndarray of int, list of str
        Index of each point along each axis; what does not fit.
    """
    order: list[np.ndarray] = []
    problems: list[str] = []
    differs: list[_Difference] = []
    for d, name in zip(spec.dims, space, strict=True):
        wanted, size = spec.coords[d], forecast.sizes[name]
        label = f"forecast dimension {name!r}"
        counted = spec.axes[d] == "plain" and np.array_equal(wanted, np.arange(wanted.size))
        change = IDENTITY
        if name in forecast.coords and forecast[name].dtype.kind in "fiu":
            units = forecast[name].attrs.get("units")
            try:
                change = conversion(units, spec.coord_units.get(d))
            except UnitsError:
                expected = f"units that convert to {spec.coord_units.get(d)!r}"
                remedy = "correct the units of the coordinate"
                problems.append(problem(label, f"units {units!r}", expected, remedy))
                continue
            found = change.factor * forecast[name].values.astype(float) + change.offset
        elif name not in forecast.coords and counted:
            found = np.arange(size, dtype=float)
        else:
            expected = f"the prior's {wanted.size} values from {wanted[0]:g} to {wanted[-1]:g}"
            remedy = f"forecast.assign_coords({name}={_values(d)})"
            problems.append(problem(label, "no coordinate of numbers", expected, remedy))
            continue
        index = _find(found, wanted, None)
        if index is None and spec.axes[d] == "longitude":
            index = _find(found, wanted, turn=360.0)  # which takes 0 and 360 for one
        if index is not None and size == wanted.size:
            order.append(index)
        elif counted and size == wanted.size and found.size:
            expected = "none, as in the prior: points are counted there"
            remedy = f"forecast.drop_vars({name!r})"
            problems.append(problem(label, "a coordinate", expected, remedy))
        else:
            differs.append(_Difference(d, name, found, wanted, change, spec.axes[d]))
    if differs:
        problems.append(_other_grid(differs))
    return order, problems


def _find(found: np.ndarray, wanted: np.ndarray, turn: float | None) -> np.ndarray | None:
    """Index into `found` of every value of `wanted`, or None where one is missing."""
    if found.size == 0:
        return None
    slack = TOLERANCE * _step(wanted)
    if turn is not None:
        found, wanted = np.mod(found, turn), np.mod(wanted, turn)
    order = np.argsort(found)
    ranked = found[order]
    last = ranked.size - 1
    place = np.clip(np.searchsorted(ranked, wanted), 0, last)
    # A value next to the seam of the circle may have its partner at the other end.
    candidates = np.stack(
        [np.maximum(place - 1, 0), place, np.zeros_like(place), np.full_like(place, last)]
    )
    gaps = np.abs(ranked[candidates] - wanted)
    if turn is not None:
        gaps = np.minimum(gaps, turn - gaps)
    if not (gaps.min(axis=0) <= slack).all():
        return None
    nearest = np.take_along_axis(candidates, gaps.argmin(axis=0)[None], axis=0)[0]
    index: np.ndarray = order[nearest]
    return index if np.unique(index).size == index.size else None


def _step(values: np.ndarray) -> float:
    return float(np.abs(np.diff(values)).min()) if values.size > 1 else 1.0


def _other_grid(differs: list[_Difference]) -> str:
    """Say how the grids differ, with the line of xarray that makes the forecast fit."""
    line, covered, on_nodes = "forecast", True, True
    for a in differs:
        steps, values = _in_convention_of(a)
        line += steps
        slack = TOLERANCE * _step(a.wanted)
        low, high = (values.min(), values.max()) if values.size else (np.inf, -np.inf)
        covered &= bool(low - slack <= a.wanted.min() and a.wanted.max() <= high + slack)
        on_nodes &= _find(values, a.wanted, None) is not None
    keys = ", ".join(f"{a.name}={_values(a.dim)}" for a in differs)
    if not covered:
        remedy = (
            "the forecast does not cover the prior's area: use a prior for this area, "
            "see xr_daisi.train_prior"
        )
    elif on_nodes:
        remedy = f'select the prior\'s points: {line}.sel({keys}, method="nearest")'
    else:
        remedy = f"interpolate to the prior's points: {line}.interp({keys})"
    found = "; ".join(f"{a.name}: {_describe(a.found)}" for a in differs)
    expected = "; ".join(f"{a.dim}: {_describe(a.wanted)}" for a in differs)
    return problem("grid of the forecast", found, f"the prior's, {expected}", remedy)


def _in_convention_of(a: _Difference) -> tuple[str, np.ndarray]:
    """Methods that bring a coordinate to the prior's units and longitudes, and its values then."""
    line, values = "", a.found
    own = f"forecast.{a.name}.values"
    if not a.change.is_identity:
        own = f"({own} * {a.change.factor!r} + {a.change.offset!r})"
        line = f".assign_coords({a.name}={own})"
    if a.kind != "longitude" or values.size < 2:
        return line, values
    low, high = float(a.wanted.min()), float(a.wanted.max())
    if low < values.min() or high > values.max():
        west = 0.0 if low >= 0.0 else -180.0 if high < 180.0 else np.floor((low + high) / 2 - 180.0)
        turned = (values - west) % 360.0 + west
        new = f"({own} + {-west:g}) % 360 - {-west:g}" if west else f"{own} % 360"
        line = f".assign_coords({a.name}={new})"
        if np.unique(turned).size < turned.size:
            line += f".drop_duplicates({a.name!r})"
        line += f".sortby({a.name!r})"
        values = np.unique(turned)
    gap, step = 360.0 - np.ptp(values), np.median(np.abs(np.diff(values)))
    if (low < values.min() or high > values.max()) and np.isclose(gap, step, rtol=0.01):
        # Round the globe: the points between the last longitude and the first have neighbours.
        line += f'.pad({a.name}=1, mode="wrap")'
        padded = np.concatenate([[values[-1] - 360.0], values, [values[0] + 360.0]])
        ends = f"np.r_[-360, np.zeros({values.size}), 360]"
        line += f".pipe(lambda ds: ds.assign_coords({a.name}=ds.{a.name}.values + {ends}))"
        values = padded
    return line, values


def _values(dim: str) -> str:
    return f"prior.template().{dim}.values"


def _describe(values: np.ndarray) -> str:
    if values.size < 2:
        return f"1 point at {values[0]:g}" if values.size else "no points"
    step = np.median(np.diff(values))
    return f"{values.size} points from {values[0]:g} to {values[-1]:g} (step {step:g})"


def match_level(da: xr.DataArray, label: str, v: VariableSpec) -> list[str]:
    """Compare the level that a field without vertical dimension may name with the prior's only one.

    Parameters
    ----------
    da : xarray.DataArray
        The forecast's variable.
    label : str
        Its name for messages.
    v : VariableSpec
        The prior's variable.

    Returns
    -------
    list of str
        What does not fit.
    """
    if v.levels is None or v.level_dim not in da.coords or da[v.level_dim].dtype.kind not in "fiu":
        return []
    units = da[v.level_dim].attrs.get("units")
    found = float(da[v.level_dim])
    try:
        change = conversion(units, v.level_units)
    except UnitsError:
        return [_level_units(label, v.level_dim, units, v)]
    if np.isclose(change.factor * found + change.offset, v.levels[0], rtol=1e-5):
        return []
    text = f"{v.level_dim} {found:g} {units or ''}".rstrip()
    expected = f"{v.levels[0]:g} {v.level_units or ''}".rstrip() + ", the level of the prior"
    return [problem(label, text, expected, "select that level, or use a prior for this one")]


def match_levels(
    forecast: xr.Dataset, label: str, v: VariableSpec, level_dim: str
) -> tuple[np.ndarray | None, list[str]]:
    """Find each of a variable's levels along the forecast's vertical dimension.

    Parameters
    ----------
    forecast : xarray.Dataset
        The forecast.
    label : str
        The variable, for messages.
    v : VariableSpec
        The prior's variable, with levels.
    level_dim : str
        The forecast's vertical dimension.

    Returns
    -------
    ndarray of int or None, list of str
        Index of each level; what does not fit.
    """
    wanted = np.asarray(v.levels)
    size = forecast.sizes[level_dim]
    units, change = v.level_units, IDENTITY
    if level_dim in forecast.coords and forecast[level_dim].dtype.kind in "fiu":
        units = forecast[level_dim].attrs.get("units")
        try:
            change = conversion(units, v.level_units)
        except UnitsError:
            return None, [_level_units(label, level_dim, units, v)]
        found = forecast[level_dim].values.astype(float)
    elif size == wanted.size and np.array_equal(wanted, np.arange(size)):
        return np.arange(size), []
    else:
        text = f"{size} levels along {level_dim!r} without a coordinate of numbers"
        remedy = f"forecast.assign_coords({level_dim}=[...])"
        return None, [problem(label, text, f"the prior's levels {_listed(wanted)}", remedy)]
    # In the forecast's own units, so that the line in a message can be run as it is.
    wanted = (wanted - change.offset) / change.factor
    close = np.isclose(found[None, :], wanted[:, None], rtol=1e-5, atol=1e-8)
    if size == wanted.size and (close.sum(axis=1) == 1).all():
        return close.argmax(axis=1), []
    if (close.sum(axis=1) == 1).all():
        chosen = found[close.argmax(axis=1)]
        remedy = f"select them: forecast.sel({level_dim}=[{_listed(chosen)}])"
    elif found.size > 1 and found.min() <= wanted.min() and wanted.max() <= found.max():
        remedy = f"interpolate to them: forecast.interp({level_dim}=[{_listed(wanted)}])"
    else:
        remedy = "give all levels of the prior, each once, or use a prior for these levels"
    own = f" {units}" if units else ""
    text = f"{size} levels along {level_dim!r}: {_listed(found)}{own}"
    return None, [problem(label, text, f"the prior's levels {_listed(wanted)}{own}", remedy)]


def _level_units(label: str, dim: str | None, units: str | None, v: VariableSpec) -> str:
    expected = f"units that convert to {v.level_units!r}"
    return problem(label, f"units {units!r} of {dim!r}", expected, "correct them")


def _listed(values: np.ndarray) -> str:
    """Numbers with the fewest digits that tell them apart from all others."""
    return ", ".join(repr(round(float(x), 9)).removesuffix(".0") for x in values)
