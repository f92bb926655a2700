"""Fixed fields that a network sees beside the state: land mask, orography, position."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
import xarray as xr

from xr_daisi.errors import DaisiTypeError, StateError, problem, raise_problems

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from xr_daisi.state import StateSpec

__all__ = ["static_fields"]


def static_fields(
    static: xr.Dataset | None, spec: StateSpec, *, roll: Sequence[str] = ()
) -> Tensor | None:
    """Return standardised static fields on the grid of a state.

    Parameters
    ----------
    static : xarray.Dataset or None
        Fields on the space dimensions of the state; a variable on some of them only (latitude) is
        repeated along the others. Coordinates must agree with those of the state.
    spec : StateSpec
        The state.
    roll : sequence of str
        Dimensions along which states are shifted in training: fields must not vary there.

    Returns
    -------
    Tensor or None
        ``(field, *space)`` float32, each of mean 0 and deviation 1 (constant fields are 0).

    Raises
    ------
    StateError
        For other dimensions, another grid, values that are not finite, or that vary along `roll`.
    DaisiTypeError
        If `static` is not a Dataset.
    """
    if static is None:
        return None
    if not isinstance(static, xr.Dataset):
        raise DaisiTypeError(
            problem("static", type(static).__name__, "an xarray.Dataset", "use .to_dataset()")
        )
    problems, fields = [], []
    if not static.data_vars:
        problems.append(problem("static", "no variables", "at least one field"))
    for name, da in static.data_vars.items():
        label = f"static variable {name!r}"
        if not set(da.dims) <= set(spec.dims):
            problems.append(
                problem(
                    label,
                    f"dimensions {tuple(da.dims)}",
                    f"some of {spec.dims}",
                    f"select one entry of the others, e.g. .isel({da.dims[0]}=0)",
                )
            )
            continue
        wrong = [
            d
            for d in da.dims
            if da.sizes[d] != spec.coords[str(d)].size
            or (d in da.coords and not _agree(da[d].values, str(d), spec))
        ]
        if wrong:
            problems.append(
                problem(
                    label,
                    f"another grid along {wrong}",
                    "the grid of the state",
                    "select or interpolate it: static.interp_like(ds)",
                )
            )
            continue
        # Without coordinates: a scalar one (a selected latitude) would stand in the way.
        full = (
            da.reset_coords(drop=True)
            .expand_dims({d: spec.coords[d].size for d in spec.dims if d not in da.dims})
            .transpose(*spec.dims)
        )
        values = full.to_numpy().astype(np.float64)
        if not np.isfinite(values).all():
            problems.append(
                problem(
                    label,
                    f"{int((~np.isfinite(values)).sum())} values that are not finite",
                    "finite values",
                    "fill them, e.g. .fillna(0)",
                )
            )
            continue
        shifted = [d for d in roll if np.ptp(values, axis=spec.dims.index(d)).max() > 0]
        if shifted:
            problems.append(
                problem(
                    label,
                    f"values that vary along {shifted}",
                    "a field that is constant where states are shifted",
                    "leave these dimensions out of roll=",
                )
            )
            continue
        spread = values.std()
        fields.append((values - values.mean()) / (spread if spread > 0 else 1.0))
    raise_problems(StateError, problems)
    return torch.from_numpy(np.stack(fields).astype(np.float32))


def _agree(found: np.ndarray, dim: str, spec: StateSpec) -> bool:
    if found.dtype.kind not in "fiu":
        return False
    difference = found - spec.coords[dim]
    if spec.axes[dim] == "longitude":  # 350 is -10
        difference = (difference + 180.0) % 360.0 - 180.0
    return np.allclose(difference, 0.0, atol=1e-4)
