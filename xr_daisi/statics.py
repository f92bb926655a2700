"""Fixed fields that a network sees beside the state: land mask, orography, position."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from xr_daisi.errors import StateError, problem, raise_problems

if TYPE_CHECKING:
    import xarray as xr
    from torch import Tensor

    from xr_daisi.state import StateSpec

__all__ = ["static_fields"]


def static_fields(static: xr.Dataset | None, spec: StateSpec) -> Tensor | None:
    """Return standardised static fields on the grid of a state.

    Parameters
    ----------
    static : xarray.Dataset or None
        Fields on the space dimensions of the state; a variable on some of them only (latitude) is
        repeated along the others. Coordinates, where both have them, must agree.
    spec : StateSpec
        The state.

    Returns
    -------
    Tensor or None
        ``(field, *space)`` float32, each of mean 0 and deviation 1 (constant fields are 0).

    Raises
    ------
    StateError
        For other dimensions, another grid, or values that are not finite.
    """
    if static is None:
        return None
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
            or (d in da.coords and not np.allclose(da[d].values, spec.coords[str(d)], atol=1e-4))
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
        full = da.expand_dims(
            {d: spec.coords[d].size for d in spec.dims if d not in da.dims}
        ).transpose(*spec.dims)
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
        spread = values.std()
        fields.append((values - values.mean()) / (spread if spread > 0 else 1.0))
    raise_problems(StateError, problems)
    return torch.from_numpy(np.stack(fields).astype(np.float32))
