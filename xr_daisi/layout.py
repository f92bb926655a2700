"""How a forecast lies on a prior's state: matching, stacking to one array, and back.

Matching is by labels: variables by name or standard name, levels by value, grid points by
coordinate (either direction, -180..180 or 0..360, any order of dimensions), units by conversion.
Values are only reordered, never interpolated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from xr_daisi.dimensions import Dimensions, axis_kind, find_dimensions, standard_name
from xr_daisi.errors import PriorError, StateError, UnitsError, problem, raise_problems
from xr_daisi.grid_matching import match_axis, match_levels
from xr_daisi.units import conversion

if TYPE_CHECKING:
    import xarray as xr

    from xr_daisi.state import StateSpec, VariableSpec

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
            return str(value.astype("datetime64[ns]")).rstrip("0").rstrip(".")
        return str(value.isoformat()) if hasattr(value, "isoformat") else str(value)

    def stack(self, ds: xr.Dataset) -> Any:
        """Return the state of `ds` as one NumPy or dask array of `shape`, in the forecast's units.

        A dask array keeps its chunks over members and times; a state is always whole.
        """
        parts = []
        for v, name, index in zip(self.spec.variables, self.names, self.levels, strict=True):
            level = self.dims.level[name]
            variable = ds[name].variable.astype(self.dtype, copy=False)
            wanted = [d for d in (self.dims.time, self.dims.member, level, *self.space) if d]
            missing = {d: ds.sizes[d] for d in wanted if d not in variable.dims}
            variable = variable.set_dims({**missing, **dict(variable.sizes)}).transpose(*wanted)
            take = {d: _as_indexer(o) for d, o in zip(self.space, self.order, strict=True)}
            if level is not None and index is not None:
                take[level] = _as_indexer(index)
            data = variable.isel(take).data
            shape = (self.times, self.members, v.size, *self.spec.space_shape)
            parts.append(data.reshape(shape))
        if len(parts) == 1:
            stacked = parts[0]
        elif any(hasattr(p, "dask") for p in parts):
            import dask.array as da

            stacked = da.concatenate([da.asarray(p) for p in parts], axis=2)
        else:
            stacked = np.concatenate(parts, axis=2)
        if hasattr(stacked, "dask"):
            whole = {axis: -1 for axis in range(2, stacked.ndim)}
            stacked = stacked.rechunk(whole)
        return stacked

    def unstack(self, states: Any, ds: xr.Dataset) -> xr.Dataset:
        """Put an array of `shape` back into a copy of `ds`, with its order of everything.

        Variables that are not part of the state come back as they were.
        """
        import xarray as xr

        out = ds.copy()
        for v, name, index in zip(self.spec.variables, self.names, self.levels, strict=True):
            level = self.dims.level[name]
            data = states[:, :, self.spec.channel_slice(v.name)]
            dims = ["__time", "__member", "__level", *self.space]
            variable = xr.Variable(dims, data)
            back = {d: _as_indexer(np.argsort(o)) for d, o in zip(self.space, self.order, strict=True)}
            if level is not None and index is not None:
                back["__level"] = _as_indexer(np.argsort(index))
            variable = variable.isel(back)
            names = {"__time": self.dims.time, "__member": self.dims.member, "__level": level}
            variable = variable.isel({old: 0 for old, new in names.items() if not new})
            variable = xr.Variable([names.get(str(d), d) for d in variable.dims], variable.data)
            original = ds[name]
            # A dimension that only other variables had is now this one's too: each member of the
            # analysis has its own values.
            extra = [d for d in variable.dims if d not in original.dims]
            variable = variable.transpose(*extra, *original.dims)
            if np.issubdtype(original.dtype, np.floating):
                variable = variable.astype(original.dtype, copy=False)
            out[name] = (variable.dims, variable.data, original.attrs)
            out[name].encoding = _safe_encoding(original.encoding)
        return out


def _as_indexer(index: np.ndarray) -> slice | np.ndarray:
    """Return a slice where the order is plain or reversed: no copy, and cheap for dask."""
    n = index.size
    if np.array_equal(index, np.arange(n)):
        return slice(None)
    if np.array_equal(index, np.arange(n)[::-1]):
        return slice(None, None, -1)
    return index


def _safe_encoding(encoding: dict[str, Any]) -> dict[str, Any]:
    """Drop packing: an analysis may leave the range that the forecast's scale can hold."""
    packing = ("scale_factor", "add_offset", "dtype", "_FillValue", "missing_value", "least_signif")
    dropped = {k for k in encoding if k.startswith(packing)}
    dropped |= {"chunksizes", "preferred_chunks", "chunks", "original_shape", "source"}
    return {k: v for k, v in encoding.items() if k not in dropped}


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
    StateError
        Naming every variable, unit, level or coordinate that does not fit, and what to do.
    """
    names = _match_variables(forecast, spec)
    dims = find_dimensions(forecast, names)
    problems: list[str] = []
    factor, offset, levels = [], [], []
    for v, name in zip(spec.variables, names, strict=True):
        units = forecast[name].attrs.get("units")
        try:
            change = conversion(units, v.units, variable=f"forecast variable {name!r}")
            factor += [change.factor] * v.size
            offset += [change.offset] * v.size
        except UnitsError:
            problems.append(
                problem(
                    f"forecast variable {name!r}",
                    f"units {units!r}",
                    f"units that convert to {v.units!r}, those of the prior",
                    "correct attrs['units']",
                )
            )
        index, trouble = _levels(forecast, name, v, dims.level[name])
        levels.append(index)
        problems += trouble
    space, missing = _match_space(forecast, spec, dims)
    problems += missing
    order = []
    if not missing:
        order, trouble = match_axis(forecast, spec, space)
        problems += trouble
    time_values, trouble = _times(forecast, dims.time)
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
    )


def _float_type(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return dtype if np.issubdtype(dtype, np.floating) else np.dtype(np.float32)


def _match_variables(forecast: xr.Dataset, spec: StateSpec) -> tuple[str, ...]:
    by_standard_name: dict[str, list[str]] = {}
    for name, da in forecast.data_vars.items():
        kind = standard_name(da)
        if kind:
            by_standard_name.setdefault(kind, []).append(str(name))
    names, missing = [], []
    for v in spec.variables:
        if v.name in forecast.data_vars:
            names.append(v.name)
            continue
        candidates = by_standard_name.get(v.standard_name or "", [])
        if len(candidates) == 1:
            names.append(candidates[0])
        else:
            missing.append(v)
    numeric = [str(n) for n in names if forecast[n].dtype.kind not in "fiu"]
    if missing:
        wanted = ", ".join(
            repr(v.name) + (f" ({v.standard_name})" if v.standard_name else "") for v in missing
        )
        found = ", ".join(repr(str(n)) for n in forecast.data_vars) or "none"
        raise PriorError(
            problem(
                "forecast variables",
                found,
                f"{wanted}, which the prior has",
                f"rename yours, e.g. forecast.rename({{'old': {missing[0].name!r}}}), or use a "
                "prior for these variables",
            )
        )
    if numeric:
        raise StateError(
            problem(
                f"forecast variables {', '.join(numeric)}",
                f"type {forecast[numeric[0]].dtype}",
                "numbers",
                "decode or convert them",
            )
        )
    return tuple(names)


def _levels(
    forecast: xr.Dataset, name: str, v: VariableSpec, level_dim: str | None
) -> tuple[np.ndarray | None, list[str]]:
    label = f"forecast variable {name!r}"
    if level_dim is None:
        if v.size == 1:
            return None, []
        return None, [
            problem(
                label,
                "no level dimension",
                f"levels {list(v.levels or ())} along {v.level_dim!r}",
                "give all levels of the prior",
            )
        ]
    if v.levels is None:
        if forecast.sizes[level_dim] == 1:
            return np.zeros(1, dtype=int), []
        return None, [
            problem(
                label,
                f"{forecast.sizes[level_dim]} levels along {level_dim!r}",
                "no levels, as in the prior",
                f"select one: forecast.isel({level_dim}=0)",
            )
        ]
    return match_levels(forecast, label, v, level_dim)


def _match_space(
    forecast: xr.Dataset, spec: StateSpec, dims: Dimensions
) -> tuple[tuple[str, ...], list[str]]:
    left = list(dims.space)
    space, problems = [], []
    for d in spec.dims:
        same_kind = [
            x for x in left if spec.axes[d] != "plain" and axis_kind(forecast, x) == spec.axes[d]
        ]
        choice = d if d in left else same_kind[0] if len(same_kind) == 1 else None
        if choice is None:
            problems.append(
                problem(
                    "horizontal dimensions of the forecast",
                    f"{dims.space}",
                    f"{spec.dims} as in the prior",
                    f"rename them, e.g. forecast.rename({{{left[0]!r}: {d!r}}})"
                    if left
                    else "use a prior for this grid",
                )
            )
            continue
        left.remove(choice)
        space.append(choice)
    if left and not problems:
        problems.append(
            problem(
                "horizontal dimensions of the forecast",
                f"{dims.space}",
                f"{spec.dims} as in the prior",
                f"select one entry of the others: forecast.isel({left[0]}=0)",
            )
        )
    return tuple(space), problems


def _times(forecast: xr.Dataset, dim: str | None) -> tuple[np.ndarray | None, list[str]]:
    name = dim
    if name is None:
        # A single time as a scalar coordinate still tells which observations belong to it.
        name = "time" if "time" in forecast.coords and forecast["time"].ndim == 0 else None
        if name is None:
            return None, []
    if name not in forecast.coords:
        return None, [
            problem(
                f"forecast dimension {name!r}",
                "no coordinate",
                "a time for each state",
                f"assign it: forecast.assign_coords({name}=...)",
            )
        ]
    values = np.atleast_1d(forecast[name].values)
    problems = []
    if len({str(v) for v in values}) < values.size:
        seen: set[str] = set()
        twice = next(str(v) for v in values if str(v) in seen or seen.add(str(v)))  # type: ignore[func-returns-value]
        problems.append(
            problem(
                f"forecast dimension {name!r}",
                f"duplicate times, first {twice}",
                "each time once",
                f"forecast.drop_duplicates({name!r})",
            )
        )
    if values.dtype.kind == "M" and np.isnat(values).any():
        problems.append(
            problem(f"forecast dimension {name!r}", "missing times (NaT)", "a time for each state")
        )
    return values, problems
