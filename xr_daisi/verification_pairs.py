"""Ensemble and truth side by side: common variable, units, points, and what is averaged over."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import xarray as xr

from xr_daisi.dimensions import Dimensions, find_dimensions
from xr_daisi.errors import DaisiTypeError, SettingsError, StateError, problem, raise_problems
from xr_daisi.units import conversion
from xr_daisi.verification_regions import Regions, point_weights, region_masks

__all__ = ["By", "Pair", "Regions", "find_pair", "find_variable", "over_variables", "with_units"]

By: TypeAlias = str | Sequence[str] | None
"""Dimensions that a score keeps."""


@dataclass(frozen=True, eq=False)
class Pair:
    """An ensemble and its truth in the same units on the same points.

    Parameters
    ----------
    name : str
        The variable.
    member : str
        Dimension of the members, at least two.
    members : xarray.DataArray
        The ensemble, in the truth's units.
    truth : xarray.DataArray
        The truth.
    dims : Dimensions
        Roles of the ensemble's dimensions.
    kept : tuple of str
        Dimensions that scores keep.
    weights : xarray.DataArray or None
        Of the points, with a dimension ``region`` where there are regions; without NaN.
    """

    name: str
    member: str
    members: xr.DataArray
    truth: xr.DataArray
    dims: Dimensions
    kept: tuple[str, ...]
    weights: xr.DataArray | None

    @property
    def size(self) -> int:
        """Number of members."""
        return int(self.members.sizes[self.member])

    @property
    def points(self) -> tuple[str, ...]:
        """Dimensions that scores are averaged over."""
        there = (str(d) for d in self.members.dims if d != self.member)
        return tuple(d for d in there if d not in self.kept)

    @property
    def units(self) -> str | None:
        """Units of truth and members."""
        units = self.truth.attrs.get("units")
        return None if units is None else str(units)

    @property
    def long_name(self) -> str:
        """What the variable is called in labels."""
        return str(self.truth.attrs.get("long_name", self.name))

    def valid(self) -> xr.DataArray:
        """Points where neither the truth nor any member is missing."""
        return self.truth.notnull() & self.members.notnull().all(self.member)

    def mean(self, values: xr.DataArray) -> xr.DataArray:
        """Average over the points, NaN left out; weighted, and for each region if there are any."""
        if self.weights is None:
            return values.mean(self.points)
        return values.weighted(self.weights).mean(self.points)

    def count(self, there: xr.DataArray) -> xr.DataArray:
        """Count points that are true, for each region if there are any."""
        if self.weights is None:
            return there.sum(self.points)
        parts = (there & one for one in _inside(self.weights))
        if "region" not in self.weights.dims:
            return next(parts).sum(self.points)
        counts = [part.sum(self.points) for part in parts]
        return xr.concat(counts, dim=self.weights["region"])

    def finished(self, out: xr.Dataset) -> xr.Dataset:
        """Keep the coordinates of dimensions that are left, and put regions first."""
        left = [c for c in out.coords if c not in (*out.dims, "region")]
        out = out.drop_vars(left)
        if "region" in out.dims:  # some versions of xarray lose the attributes on the way
            named = ("region", out["region"].values, {"long_name": "region"})
            out = out.assign_coords(region=named)
        first = [d for d in ("region", *self.kept) if d in out.dims]
        return out.transpose(*first, ...)


def _inside(weights: xr.DataArray) -> Iterable[xr.DataArray]:
    if "region" not in weights.dims:
        yield weights > 0
        return
    for number in range(weights.sizes["region"]):
        yield weights.isel(region=number, drop=True) > 0


def find_pair(
    ensemble: xr.Dataset,
    truth: xr.Dataset,
    variable: str | None = None,
    *,
    by: By = "time",
    regions: Regions = None,
    weights: Any = None,
) -> Pair:
    """Bring ensemble and truth together.

    Parameters
    ----------
    ensemble, truth : xarray.Dataset
        Fields with and without members.
    variable : str, optional
        Which one; the first that both have when None.
    by : str or sequence of str, optional
        Dimensions that scores keep: ``"time"``, ``"level"``, or their own names. The default
        ``"time"`` may be absent.
    regions : mapping, optional
        See `region_masks`.
    weights : optional
        See `point_weights`.

    Raises
    ------
    StateError
        Without common variable or members, or on different dimensions or coordinates.
    UnitsError
        For units that do not convert.
    SettingsError
        For dimensions to keep that are not there, regions or weights that do not fit.
    DaisiTypeError
        If one of the two is no Dataset.
    """
    name = find_variable(ensemble, truth, variable)
    dims = find_dimensions(ensemble, [name], what="ensemble")
    reference = truth[name]
    units = ensemble[name].attrs.get("units")
    change = conversion(units, reference.attrs.get("units"), variable=name)
    members = ensemble[name]
    if not change.is_identity:
        members = members * change.factor + change.offset
    elif members.dtype.kind != "f":
        members = members.astype(np.float64)
    member = _check_pair(members, reference, dims)
    kept = _kept(by, dims, name, [str(d) for d in members.dims if d != member])
    masks = region_masks(reference, regions)
    factors = point_weights(reference, weights, dims.space)
    both = [part for part in (masks, factors) if part is not None]
    product = None if not both else both[0] if len(both) == 1 else both[0] * both[1]
    if product is not None and product.dtype == bool:
        product = product.astype(np.float64)
    return Pair(name, member, members, reference, dims, kept, product)


def find_variable(ensemble: xr.Dataset, truth: xr.Dataset, variable: str | None) -> str:
    """Return the variable to be compared, which both have."""
    for ds, what in ((ensemble, "ensemble"), (truth, "truth")):
        if not isinstance(ds, xr.Dataset):
            raise DaisiTypeError(problem(what, type(ds).__name__, "an xarray.Dataset"))
    common = [str(v) for v in ensemble.data_vars if v in truth.data_vars]
    if variable is None and common:
        return common[0]
    if variable is None or variable not in common:
        both = [", ".join(map(str, ds.data_vars)) or "none" for ds in (ensemble, truth)]
        expected = "a variable of both" if variable is None else f"{variable!r} in both"
        found = f"variables {both[0]} in the ensemble, {both[1]} in the truth"
        raise StateError(problem("scores", found, expected, "rename one of them"))
    return variable


def _check_pair(members: xr.DataArray, reference: xr.DataArray, dims: Dimensions) -> str:
    """Return the member dimension, if the two can be compared."""
    if dims.member is None or members.sizes[dims.member] < 2:
        found = f"dimensions {dict(members.sizes)}"
        raise StateError(problem("ensemble", found, "at least two members"))
    expected = [d for d in members.dims if d != dims.member]
    if set(reference.dims) != set(expected):
        found = f"dimensions {tuple(reference.dims)}"
        remedy = "select the same times and levels of both"
        raise StateError(problem("truth", found, f"{tuple(expected)}, as the ensemble", remedy))
    try:
        xr.align(members, reference, join="exact", copy=False)
    except ValueError as error:
        first = str(error).splitlines()[0]
        remedy = "select the same points of both"
        raise StateError(
            problem("truth", f"other coordinates ({first})", "those of the ensemble", remedy)
        ) from error
    return dims.member


def _kept(by: By, dims: Dimensions, name: str, there: list[str]) -> tuple[str, ...]:
    wanted = [by] if isinstance(by, str) else list(by or ())
    roles = {"time": dims.time, "level": dims.level[name]}
    found, problems = [], []
    for one in wanted:
        dim = one if one in there else roles.get(one)
        if dim in there:
            found.append(str(dim))
        elif by != "time":  # the default: scores of a single time are numbers
            expected = f"'time', 'level' or a dimension of {name!r}: {', '.join(there)}"
            problems.append(problem("by", repr(one), expected))
    raise_problems(SettingsError, problems)
    return tuple(dict.fromkeys(found))


def over_variables(
    variable: str | Sequence[str] | None,
    calculate: Callable[[str | None], xr.Dataset],
) -> xr.Dataset:
    """Calculate a score of one variable, or of several along a dimension ``variable``.

    Parameters
    ----------
    variable : str, sequence of str, or None
        What to score.
    calculate : callable
        Takes a name, or None, and returns a Dataset with units.

    Returns
    -------
    xarray.Dataset
        For several variables with a coordinate ``units`` in place of different attributes.

    Raises
    ------
    SettingsError
        For an empty sequence.
    """
    if variable is None or isinstance(variable, str):
        return calculate(variable)
    names = [str(name) for name in variable]
    if not names:
        raise SettingsError(problem("variable", "an empty sequence", "at least one name"))
    parts = [calculate(name) for name in names]
    units = [next((str(v.attrs["units"]) for v in _with_own(part)), "") for part in parts]
    coords = {
        "variable": ("variable", names, {"long_name": "variable"}),
        "units": ("variable", units, {"long_name": "units of the variable"}),
    }
    joined = xr.concat(parts, dim="variable", join="outer", combine_attrs="drop_conflicts")
    return joined.assign_coords(coords)


def _with_own(part: xr.Dataset) -> list[xr.DataArray]:
    """Variables in the units of what was scored, not in "1"."""
    return [v for v in part.data_vars.values() if v.attrs.get("units", "1") != "1"]


def with_units(values: xr.DataArray, long_name: str, units: str | None) -> xr.DataArray:
    """Replace the attributes by a name and units, the latter where they are known."""
    out = values.copy(deep=False)
    out.attrs = {"long_name": long_name}
    if units is not None:
        out.attrs["units"] = units
    return out
