"""Mean and deviation of a prior, from numbers or Datasets to one value per channel or point."""

from __future__ import annotations

from numbers import Real
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from xr_daisi.errors import DaisiTypeError, PriorError, UnitsError, problem, raise_problems
from xr_daisi.units import IDENTITY, conversion

if TYPE_CHECKING:
    from xr_daisi.state import StateSpec, VariableSpec

__all__ = ["statistic"]


def statistic(
    value: float | xr.Dataset, spec: StateSpec, what: str, *, difference: bool
) -> np.ndarray:
    """Bring a number or Dataset of statistics to the channels of a state.

    Parameters
    ----------
    value : float or xarray.Dataset
        One number for all, or a variable for each of the state's, with one value, one per level
        or one per level and grid point. Levels and points are matched by their coordinates where
        it has them; units, where it names them, are converted.
    spec : StateSpec
        The state.
    what : str
        What it is, for messages.
    difference : bool
        Whether it is a difference (a deviation), so that offsets of units do not apply.

    Returns
    -------
    ndarray
        Float64, ``(channel, 1, ...)`` or ``(channel, *space)``.

    Raises
    ------
    DaisiTypeError
        For anything but a number or Dataset.
    PriorError
        Naming every variable that is missing or does not fit.
    """
    ones = (1,) * len(spec.dims)
    if isinstance(value, Real):
        return np.full((spec.channels, *ones), float(value))
    if not isinstance(value, xr.Dataset):
        raise DaisiTypeError(
            problem(what, type(value).__name__, "a number or an xarray.Dataset of them")
        )
    parts: list[np.ndarray] = []
    problems: list[str] = []
    for v in spec.variables:
        try:
            parts.append(_of_variable(value, spec, v, what, difference=difference))
        except (PriorError, UnitsError) as error:
            problems.append(str(error))
    raise_problems(PriorError, problems)
    if len({p.shape[1:] for p in parts}) > 1:
        parts = [np.broadcast_to(p, (p.shape[0], *spec.space_shape)) for p in parts]
    return np.concatenate(parts)


def _of_variable(
    ds: xr.Dataset, spec: StateSpec, v: VariableSpec, what: str, *, difference: bool
) -> np.ndarray:
    label = f"{what} of {v.name!r}"
    if v.name not in ds:
        names = ", ".join(map(str, ds.data_vars)) or "none"
        raise PriorError(problem(what, f"variables {names}", f"{v.name!r} too"))
    da = ds[v.name]
    space = [d for d in spec.dims if d in da.dims]
    if set(da.dims) - {v.level_dim, *spec.dims} or len(space) not in (0, len(spec.dims)):
        raise PriorError(
            problem(
                label,
                f"dimensions {tuple(da.dims)}",
                f"none, the level, or the level and {spec.dims}",
                "reduce over the other dimensions, broadcast along missing ones",
            )
        )
    if v.level_dim in da.dims:
        da = _aligned(da, str(v.level_dim), np.asarray(v.levels), label)
    for d in space:
        period = 360.0 if spec.axes[d] == "longitude" else None
        da = _aligned(da, d, spec.coords[d], label, period)
    values = da.transpose(*(d for d in (v.level_dim, *space) if d in da.dims)).to_numpy()
    values = values.astype(float)
    if v.level_dim not in da.dims:
        values = np.broadcast_to(values, (v.size, *values.shape))
    if not space:
        values = values.reshape(v.size, *(1,) * len(spec.dims))
    own = da.attrs.get("units")
    units = IDENTITY
    if v.units:
        units = conversion(own, v.units, variable=label, difference=difference)
    return units.factor * values + units.offset


def _aligned(
    da: xr.DataArray, dim: str, wanted: np.ndarray, label: str, period: float | None = None
) -> xr.DataArray:
    """Put one dimension in the order of the state; without coordinate it is taken to be so."""
    if dim not in da.coords:
        if da.sizes[dim] == wanted.size:
            return da
        found = f"{da.sizes[dim]} values along {dim!r}"
    else:
        values = da[dim].values
        if values.dtype.kind in "fiu" and values.size:
            distance = np.abs(values[None, :] - wanted[:, None])
            tolerance = 1e-3 * np.abs(np.diff(wanted)).min(initial=1.0)
            if period is not None and (distance.min(axis=1) > tolerance).any():
                # Only where it has to be: it makes the two ends of 0 to 360 one.
                distance = np.minimum(distance % period, -distance % period)
            if (distance.min(axis=1) <= tolerance).all():
                return da.isel({dim: distance.argmin(axis=1)})
        found = f"other values along {dim!r}, {values[:1]} to {values[-1:]}"
    raise PriorError(
        problem(label, found, f"{wanted.size} values, {wanted[0]:g} to {wanted[-1]:g}")
    )
