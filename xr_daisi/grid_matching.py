"""Grid points and levels of a forecast matched to those of a prior, with the line that mends it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from xr_daisi.errors import UnitsError, problem
from xr_daisi.units import conversion

if TYPE_CHECKING:
    import xarray as xr

    from xr_daisi.state import StateSpec, VariableSpec

__all__ = ["match_axis", "match_levels"]

TOLERANCE = 0.01
"""Grid points within this share of a grid step are the same point (single-precision files)."""


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
    order, problems = [], []
    differs: list[tuple[str, str, np.ndarray, np.ndarray]] = []
    for d, name in zip(spec.dims, space, strict=True):
        wanted = spec.coords[d]
        size = forecast.sizes[name]
        if name in forecast.coords and forecast[name].dtype.kind in "fiu":
            found = forecast[name].values.astype(float)
        elif name not in forecast.coords and np.array_equal(wanted, np.arange(wanted.size)):
            found = np.arange(size, dtype=float)
        else:
            problems.append(
                problem(
                    f"forecast dimension {name!r}",
                    "no coordinate of numbers",
                    f"the {wanted.size} values from {wanted[0]:g} to {wanted[-1]:g} of the prior",
                    f"forecast.assign_coords({name}=prior.template().{d})",
                )
            )
            continue
        try:
            units = forecast[name].attrs.get("units") if name in forecast.coords else None
            change = conversion(units, spec.coord_units.get(d))
            found = change.factor * found + change.offset
        except UnitsError:
            problems.append(
                problem(
                    f"forecast dimension {name!r}",
                    f"units {units!r}",
                    f"units that convert to {spec.coord_units.get(d)!r}",
                    "correct the units of the coordinate",
                )
            )
            continue
        index = _find(found, wanted, turn=360.0 if spec.axes[d] == "longitude" else None)
        if index is None or size != wanted.size:
            differs.append((d, name, found, wanted))
        else:
            order.append(index)
    if differs:
        problems.append(_other_grid(spec, space, differs))
    return order, problems


def _find(found: np.ndarray, wanted: np.ndarray, turn: float | None) -> np.ndarray | None:
    """Index into `found` of every value of `wanted`, or None where one is missing."""
    step = np.abs(np.diff(wanted)).min() if wanted.size > 1 else 1.0
    if turn is not None:
        found, wanted = np.mod(found, turn), np.mod(wanted, turn)
    order = np.argsort(found)
    ranked = found[order]
    place = np.clip(np.searchsorted(ranked, wanted), 1, max(ranked.size - 1, 1))
    place = np.minimum(place, ranked.size - 1)
    before = np.maximum(place - 1, 0)

    def distance(index: np.ndarray) -> np.ndarray:
        gap = np.abs(ranked[index] - wanted)
        return gap if turn is None else np.minimum(gap, turn - gap)

    # A value next to the seam of the circle may have its partner at the other end.
    candidates = np.stack(
        [before, place, np.zeros_like(place), np.full_like(place, ranked.size - 1)]
    )
    gaps = np.stack([distance(c) for c in candidates])
    nearest = np.take_along_axis(candidates, gaps.argmin(axis=0)[None], axis=0)[0]
    if (gaps.min(axis=0) > TOLERANCE * step).any():
        return None
    index: np.ndarray = order[nearest]
    return index if np.unique(index).size == index.size else None


def _other_grid(
    spec: StateSpec,
    space: tuple[str, ...],
    differs: list[tuple[str, str, np.ndarray, np.ndarray]],
) -> str:
    """Say how the grids differ, with the line of xarray that makes the forecast fit."""
    found, expected, covered, on_nodes, shifted = [], [], True, True, []
    for d, name, values, wanted in differs:
        found.append(f"{name}: {_describe(values)}")
        expected.append(f"{d}: {_describe(wanted)}")
        if spec.axes[d] == "longitude" and (wanted.min() < 0) != (values.min() < 0):
            shifted.append((name, "% 360" if wanted.max() > 180 else ""))
            values = np.mod(values, 360.0) if wanted.max() > 180 else (values + 180) % 360 - 180
        step = np.abs(np.diff(wanted)).min() if wanted.size > 1 else 0.0
        slack = TOLERANCE * step
        covered &= bool(values.min() - slack <= wanted.min() and wanted.max() <= values.max() + slack)
        on_nodes &= _find(values, wanted, None) is not None
    keys = ", ".join(f"{name}=template.{d}" for d, name, _, _ in differs)
    line = "template = prior.template(); forecast"
    for name, convention in shifted:
        longitude = f"forecast.{name} % 360" if convention else f"(forecast.{name} + 180) % 360 - 180"
        line += f".assign_coords({name}={longitude}).sortby({name!r})"
    if not covered:
        remedy = (
            "the forecast does not cover the prior's area: use a prior for this area, "
            "see xr_daisi.train_prior"
        )
    elif on_nodes:
        remedy = f'select the prior\'s points: {line}.sel({keys}, method="nearest")'
    else:
        remedy = f"interpolate to the prior's points: {line}.interp({keys})"
    return problem(
        "grid of the forecast", "; ".join(found), f"the prior's, {'; '.join(expected)}", remedy
    )


def _describe(values: np.ndarray) -> str:
    if values.size == 1:
        return f"1 point at {values[0]:g}"
    step = np.median(np.diff(values))
    return f"{values.size} points from {values[0]:g} to {values[-1]:g} (step {step:g})"


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
    if level_dim in forecast.coords and forecast[level_dim].dtype.kind in "fiu":
        found = forecast[level_dim].values.astype(float)
        units = forecast[level_dim].attrs.get("units")
        try:
            change = conversion(units, v.level_units)
            found = change.factor * found + change.offset
        except UnitsError:
            text = f"units {units!r} of {level_dim!r}"
            return None, [
                problem(label, text, f"units that convert to {v.level_units!r}", "correct them")
            ]
    else:
        found = np.arange(size, dtype=float)
    close = np.isclose(found[None, :], wanted[:, None], rtol=1e-5, atol=1e-8)
    if size == wanted.size and (close.sum(axis=1) == 1).all():
        return close.argmax(axis=1), []
    levels = ", ".join(f"{x:g}" for x in wanted)
    remedy = (
        f"select them: forecast.sel({level_dim}=[{levels}])"
        if close.any(axis=1).all()
        else f"interpolate to them: forecast.interp({level_dim}=[{levels}])"
    )
    return None, [
        problem(
            label,
            f"{size} levels along {level_dim!r}: {', '.join(f'{x:g}' for x in found)}",
            f"the prior's levels {levels}",
            remedy,
        )
    ]
