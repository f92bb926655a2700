"""How a forecast lies on a prior's state: matching, stacking to one array, and back.

Matching is by labels: variables by name or standard name, levels by value, grid points by
coordinate (either direction, -180..180 or 0..360, any order of dimensions), units by conversion.
Values are only reordered, never interpolated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from xr_daisi.dimensions import Dimensions, find_dimensions
from xr_daisi.errors import StateError, UnitsError, problem, raise_problems
from xr_daisi.forecast_matching import (
    match_space,
    match_times,
    match_variable_levels,
    match_variables,
)
from xr_daisi.geolocation import different_places, geolocation_of
from xr_daisi.grid_matching import match_axis
from xr_daisi.space_chunks import warn_of_space_chunks
from xr_daisi.stacking import Piece, Stacking
from xr_daisi.units import IDENTITY, conversion

if TYPE_CHECKING:
    from collections.abc import Mapping

    import xarray as xr

    from xr_daisi.state import StateSpec

__all__ = ["Layout", "layout_of"]


@dataclass(frozen=True, eq=False)
class Layout:
    """A forecast's dimensions in terms of a prior's state.

    Attributes
    ----------
    spec : StateSpec
        The prior's state.
    dims : Dimensions
        Roles of the forecast's dimensions.
    names : tuple of str
        The forecast's variable for each of the state's.
    space : tuple of str
        The forecast's dimension for each of the state's space dimensions.
    order : tuple of ndarray
        Along each space dimension, the forecast's index of each of the state's points.
    levels : tuple of ndarray or None
        For each variable, the forecast's level index of each channel.
    factor, offset : ndarray
        ``(channel, 1, ...)``: forecast units to the prior's.
    members, times : int
        Sizes; 1 without the dimension.
    time_values : ndarray or None
        The forecast's times (datetime64, or cftime objects), None without any.
    dtype : numpy dtype
        In which all variables can be stacked without loss.
    member_values : ndarray or None
        Labels of the members, None without any.
    """

    spec: StateSpec
    dims: Dimensions
    names: tuple[str, ...]
    space: tuple[str, ...]
    order: tuple[np.ndarray, ...]
    levels: tuple[np.ndarray | None, ...]
    factor: np.ndarray
    offset: np.ndarray
    members: int
    times: int
    time_values: np.ndarray | None
    dtype: np.dtype[Any]
    member_values: np.ndarray | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """``(times, members, channels, *space)``."""
        return (self.times, self.members, *self.spec.shape)

    def time_label(self, index: int) -> str:
        """Return the name of a time, which also keys its noise; empty without time."""
        if self.time_values is None:
            return ""
        value = self.time_values[index]
        if isinstance(value, np.datetime64):
            # One text for a time whatever the unit it is stored in.
            text = str(value.astype("datetime64[us]"))
            return text.rstrip("0").rstrip(".") if "." in text else text
        if isinstance(value, np.timedelta64):
            return f"{value / np.timedelta64(1, 's'):g} s"
        return str(value.isoformat()) if hasattr(value, "isoformat") else str(value)

    def stack(self, ds: xr.Dataset) -> Any:
        """Return the state of `ds` as one NumPy or dask array of `shape`, in the forecast's units.

        A dask array keeps its chunks over members and times; a state is always whole.

        Warns
        -----
        SpaceChunksWarning
            Where that takes joining chunks along space.
        """
        warn_of_space_chunks(ds, self.names, self.space)
        take = {d: _as_indexer(o) for d, o in zip(self.space, self.order, strict=True)}
        arrays, pieces = [], []
        for name, index in zip(self.names, self.levels, strict=True):
            level = self.dims.level[name]
            roles = (self.dims.time, self.dims.member, level, *self.space)
            variable = ds[name].variable
            present = tuple(d is not None and d in variable.dims for d in roles)
            dims = [d for d, here in zip(roles, present, strict=True) if here]
            arrays.append(variable.transpose(*dims).data)
            levels = slice(None) if level is None or index is None else _as_indexer(index)
            pieces.append(Piece(present, (levels, *(take[d] for d in self.space))))
        stacking = Stacking(tuple(pieces), self.dtype)
        if any(hasattr(array, "dask") for array in arrays):
            return stacking.lazy(arrays, self.shape)
        return stacking(*arrays)

    def unstack(self, states: Any, ds: xr.Dataset) -> xr.Dataset:
        """Put an array of `shape` back into a copy of `ds`, with its order of everything.

        Variables that are not part of the state come back as they were.
        """
        import xarray as xr

        out = ds.copy()
        take = {d: _as_indexer(np.argsort(o)) for d, o in zip(self.space, self.order, strict=True)}
        for v, name, index in zip(self.spec.variables, self.names, self.levels, strict=True):
            level = self.dims.level[name]
            leading = (self.dims.time, self.dims.member, level)
            data = states[:, :, self.spec.channel_slice(v.name)]
            data = data[tuple(slice(None) if d else 0 for d in leading)]
            variable = xr.Variable([*(d for d in leading if d), *self.space], data).isel(take)
            if level is not None and index is not None:
                variable = variable.isel({level: _as_indexer(np.argsort(index))})
            original = ds[name].variable
            # A dimension that only other variables had is now this one's too: each member of the
            # analysis has its own values.
            extra = [d for d in variable.dims if d not in original.dims]
            variable = variable.transpose(*extra, *original.dims)
            if np.issubdtype(original.dtype, np.floating):
                variable = variable.astype(original.dtype, copy=False)
            encoding = _safe_encoding(original.encoding)
            out[name] = xr.Variable(variable.dims, variable.data, original.attrs, encoding)
        return out


def _as_indexer(index: np.ndarray) -> slice | np.ndarray:
    """Return a slice where the order is plain or reversed: no copy, and cheap for dask."""
    n = index.size
    if np.array_equal(index, np.arange(n)):
        return slice(None)
    if np.array_equal(index, np.arange(n)[::-1]):
        return slice(None, None, -1)
    return index


UNSAFE_ENCODING = {
    # packing: an analysis may leave the range or the precision that the forecast's could hold
    *("scale_factor", "add_offset", "dtype", "_Unsigned", "_FillValue", "missing_value"),
    *("least_significant_digit", "significant_digits", "quantize_mode", "filters", "serializer"),
    # the layout of the file that the forecast came from
    *("chunksizes", "preferred_chunks", "chunks", "shards", "original_shape", "source"),
}


def _safe_encoding(encoding: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in encoding.items() if k not in UNSAFE_ENCODING}


def layout_of(forecast: xr.Dataset, spec: StateSpec) -> Layout:
    """Match a forecast to a prior's state.

    Parameters
    ----------
    forecast : xarray.Dataset
        Fields on the prior's grid, in any order.
    spec : StateSpec
        The prior's state.

    Returns
    -------
    Layout
        How to stack it.

    Raises
    ------
    PriorError
        Where the forecast lacks variables of the prior.
    StateError
        Naming every unit, level, coordinate or time that does not fit, and what to do.
    """
    names = match_variables(forecast, spec)
    dims = find_dimensions(forecast, names)
    problems = [
        problem(f"forecast dimension {d!r}", "a size of 0", "1 or more", "select less strictly")
        for d in (dims.time, dims.member)
        if d is not None and forecast.sizes[d] == 0
    ]
    factor: list[float] = []
    offset: list[float] = []
    levels: list[np.ndarray | None] = []
    for v, name in zip(spec.variables, names, strict=True):
        units = forecast[name].attrs.get("units")
        try:
            change = conversion(units, v.units)
        except UnitsError:
            expected = f"units that convert to {v.units!r}, those of the prior"
            remedy = "correct attrs['units'], or convert the values"
            problems.append(
                problem(f"forecast variable {name!r}", f"units {units!r}", expected, remedy)
            )
            change = IDENTITY
        factor += [change.factor] * v.size
        offset += [change.offset] * v.size
        index, trouble = match_variable_levels(forecast, name, v, dims.level[name])
        levels.append(index)
        problems += trouble
    space, missing = match_space(forecast, spec, dims)
    problems += missing
    order: list[np.ndarray] = []
    if not missing:
        order, trouble = match_axis(forecast, spec, space)
        problems += trouble
    if not problems and spec.geolocation is not None:
        places = geolocation_of(forecast, space)
        if places is not None:
            ordered = [values[np.ix_(*order)] for values in places]
            trouble = [different_places((ordered[0], ordered[1]), spec.geolocation) or ""]
            problems += [text for text in trouble if text]
    time_values, trouble = match_times(forecast, dims.time)
    problems += trouble
    raise_problems(StateError, problems)
    column = (-1, *[1] * len(spec.dims))
    return Layout(
        spec=spec,
        dims=dims,
        names=names,
        space=space,
        order=tuple(order),
        levels=tuple(levels),
        factor=np.asarray(factor).reshape(column),
        offset=np.asarray(offset).reshape(column),
        members=forecast.sizes[dims.member] if dims.member else 1,
        times=forecast.sizes[dims.time] if dims.time else 1,
        time_values=time_values,
        dtype=np.result_type(np.float32, *[_float_type(forecast[n].dtype) for n in names]),
        member_values=forecast.indexes[dims.member].to_numpy()
        if dims.member in forecast.indexes
        else None,
    )


def _float_type(dtype: np.dtype[Any]) -> np.dtype[Any]:
    if np.issubdtype(dtype, np.floating):
        return dtype
    # Integers of more than 24 bits need double precision to come back exactly.
    return np.dtype(np.float32 if dtype.itemsize <= 2 else np.float64)
