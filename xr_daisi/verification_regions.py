"""Regions that scores are given for, as boxes or masks, and weights of grid points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import xarray as xr

from xr_daisi.dimensions import axis_kind
from xr_daisi.errors import SettingsError, problem, raise_problems

__all__ = ["Regions", "point_weights", "region_masks"]

Regions: TypeAlias = Mapping[str, Any] | None
"""Boxes ``{coordinate: slice}`` or masks by name."""


def region_masks(field: xr.DataArray, regions: Any) -> xr.DataArray | None:
    """Make masks of named regions.

    Parameters
    ----------
    field : xarray.DataArray
        Has the coordinates.
    regions : mapping, optional
        Name to box or mask. A box is ``{coordinate: slice(first, last)}``, both ends included and
        either of them open with None, or a value or a list of values; coordinates may be one- or
        two-dimensional. Longitudes run eastward from first to last across any meridian:
        ``slice(350, 10)`` is the same as ``slice(-10, 10)``. A mask is a boolean DataArray on
        dimensions of the field.

    Returns
    -------
    xarray.DataArray or None
        Booleans on ``region`` and the dimensions that the regions depend on.

    Raises
    ------
    SettingsError
        For regions that cannot be made, or contain no point; all of them at once.
    """
    if regions is None:
        return None
    if not isinstance(regions, Mapping) or not regions:
        found = type(regions).__name__ if not isinstance(regions, Mapping) else "nothing"
        expected = "{name: {coordinate: slice(first, last)}} or {name: mask}"
        raise SettingsError(problem("regions", found, expected))
    masks, problems = [], []
    for name, region in regions.items():
        try:
            masks.append(_region(field, str(name), region))
        except SettingsError as error:
            problems.append(str(error))
    raise_problems(SettingsError, problems)
    dims = [d for d in field.dims if any(d in mask.dims for mask in masks)]
    full = [
        mask.broadcast_like(field.isel({d: 0 for d in field.dims if d not in dims}, drop=True))
        for mask in masks
    ]
    names = xr.Variable(("region",), [str(n) for n in regions], {"long_name": "region"})
    joined = xr.concat(
        [mask.transpose(*dims).reset_coords(drop=True) for mask in full], dim="region"
    )
    return joined.assign_coords(region=names)


def _region(field: xr.DataArray, name: str, region: Any) -> xr.DataArray:
    subject = f"region {name!r}"
    if isinstance(region, xr.DataArray):
        mask = _mask(field, subject, region)
    elif isinstance(region, Mapping) and region:
        mask = _box(field, subject, region)
    else:
        expected = "{coordinate: slice(first, last)} or a boolean DataArray"
        raise SettingsError(problem(subject, type(region).__name__, expected))
    if mask.chunks is None and not bool(mask.any()):
        raise SettingsError(problem(subject, "no point inside", "points of the ensemble's grid"))
    return mask


def _mask(field: xr.DataArray, subject: str, mask: xr.DataArray) -> xr.DataArray:
    if mask.dtype != bool:
        remedy = "compare it with a number, e.g. mask > 0.5"
        raise SettingsError(problem(subject, f"dtype {mask.dtype}", "booleans", remedy))
    if not set(mask.dims) <= set(field.dims):
        expected = f"dimensions of the truth, {tuple(field.dims)}"
        raise SettingsError(problem(subject, f"dimensions {tuple(mask.dims)}", expected))
    try:
        xr.align(field, mask, join="exact", copy=False)
    except ValueError as error:
        first = str(error).splitlines()[0]
        found, expected = f"other coordinates ({first})", "those of the truth"
        raise SettingsError(problem(subject, found, expected)) from error
    return mask


def _box(field: xr.DataArray, subject: str, box: Mapping[Any, Any]) -> xr.DataArray:
    inside, problems = xr.DataArray(True), []
    for name, wanted in box.items():
        if name not in field.coords or not field.coords[name].ndim:
            expected = f"coordinates of the truth: {', '.join(map(str, field.coords)) or 'none'}"
            problems.append(problem(subject, f"coordinate {str(name)!r}", expected))
            continue
        try:
            inside = inside & _between(field.coords[name], axis_kind(field, name), wanted)
        except (TypeError, ValueError, KeyError) as error:
            expected = "slice(first, last), a value or a list of values of its type"
            found = f"{wanted!r} for {str(name)!r} ({error})"
            problems.append(problem(subject, found, expected))
    raise_problems(SettingsError, problems)
    return inside


def _between(coordinate: xr.DataArray, kind: str, wanted: Any) -> xr.DataArray:
    values = coordinate.reset_coords(drop=True)
    if not isinstance(wanted, slice):
        listed = (
            list(wanted)
            if isinstance(wanted, (Sequence, np.ndarray)) and not isinstance(wanted, str)
            else [wanted]
        )
        if values.dtype.kind == "M":
            listed = [np.datetime64(one) for one in listed]
        return values.isin(np.asarray(listed))
    first, last = wanted.start, wanted.stop
    if kind == "longitude" and first is not None and last is not None:
        if last - first >= 360.0:
            return xr.ones_like(values, dtype=bool)
        east: xr.DataArray = (values - first) % 360.0 <= (last - first) % 360.0
        return east
    if values.dtype.kind in "MO" and values.ndim == 1 and coordinate.name in coordinate.indexes:
        # Text such as "2019-03" stands for a whole month, for its first and for its last moment.
        index = coordinate.to_index()
        order = index.argsort()
        chosen = order[index[order].slice_indexer(first, last)]
        inside = np.zeros(values.size, dtype=bool)
        inside[chosen] = True
        return values.copy(data=inside)
    inside_ = xr.ones_like(values, dtype=bool)
    if first is not None:
        inside_ = inside_ & (values >= first)
    if last is not None:
        inside_ = inside_ & (values <= last)
    return inside_


def point_weights(field: xr.DataArray, weights: Any, space: tuple[str, ...]) -> xr.DataArray | None:
    """Make weights of grid points.

    Parameters
    ----------
    field : xarray.DataArray
        Has the coordinates.
    weights : None, "area" or xarray.DataArray
        None counts every point once. ``"area"`` is the cosine of latitude, which may be
        two-dimensional. Else numbers, not negative, on dimensions of the field.
    space : tuple of str
        Horizontal dimensions of the field.

    Returns
    -------
    xarray.DataArray or None
        The weights, dimensionless.

    Raises
    ------
    SettingsError
        Where there is no latitude, or the weights do not fit.
    """
    if weights is None:
        return None
    if isinstance(weights, str):
        if weights != "area":
            expected = "None, 'area' or a DataArray"
            raise SettingsError(problem("weights", repr(weights), expected))
        return _cosine(field, space)
    if not isinstance(weights, xr.DataArray):
        expected = "None, 'area' or a DataArray"
        raise SettingsError(problem("weights", type(weights).__name__, expected))
    problems = []
    if not set(weights.dims) <= set(field.dims):
        expected = f"dimensions of the truth, {tuple(field.dims)}"
        problems.append(problem("weights", f"dimensions {tuple(weights.dims)}", expected))
    if weights.chunks is None and not bool((weights >= 0).all()):
        problems.append(problem("weights", "negative or missing numbers", "numbers from 0"))
    raise_problems(SettingsError, problems)
    try:
        xr.align(field, weights, join="exact", copy=False)
    except ValueError as error:
        first = str(error).splitlines()[0]
        found, expected = f"other coordinates ({first})", "those of the truth"
        raise SettingsError(problem("weights", found, expected)) from error
    return weights.reset_coords(drop=True)


def _cosine(field: xr.DataArray, space: tuple[str, ...]) -> xr.DataArray:
    names = [n for n in field.coords if axis_kind(field, n) == "latitude"]
    found = [n for n in names if field.coords[n].dims and set(field.coords[n].dims) <= set(space)]
    if not found:
        there = ", ".join(map(str, field.coords)) or "none"
        expected = "a latitude along the horizontal dimensions"
        remedy = "leave weights out, or give them as a DataArray"
        raise SettingsError(problem("weights='area'", f"coordinates {there}", expected, remedy))
    latitude = field.coords[found[0]].reset_coords(drop=True).astype(np.float64)
    radians = str(latitude.attrs.get("units", "")).lower().startswith("rad")
    angle = latitude if radians else latitude * (np.pi / 180.0)
    cosine: xr.DataArray = xr.apply_ufunc(np.cos, angle, dask="allowed")
    return cosine.clip(0.0).fillna(0.0)
