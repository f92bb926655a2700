"""Values along one dimension, and what has no place there."""

from __future__ import annotations

import numpy as np
import xarray as xr

from xr_daisi.dimensions import LEVEL_NAMES
from xr_daisi.errors import ObservationError, problem
from xr_daisi.observation_identity import find_positions, find_time, is_coordinate

__all__ = ["VERTICAL_NAMES", "is_vertical", "prepared", "refuse_unplaced", "to_points"]

VERTICAL_NAMES = {
    *("altitude", "height", "depth", "air_pressure"),
    *("height_above_mean_sea_level", "height_above_geopotential_datum"),
}
"""Standard names of vertical coordinates, all of which may be observed as well."""

PRESSURE_NAMES = ("pres", "pressure", "air_pressure")
IDENTIFIERS = ("station", "profile", "trajectory")
LIMITS = ("valid_range", "valid_min", "valid_max")
PACKING = ("scale_factor", "add_offset", "dtype", "_FillValue", "missing_value", *LIMITS)


def to_points(obs: xr.Dataset, dim: str = "obs") -> xr.Dataset:
    """Put all values along one dimension.

    Parameters
    ----------
    obs : Dataset
        In the labelled form; not modified.
    dim : str
        Its name.

    Returns
    -------
    Dataset
        With ``featureType`` "point". Missing values stay.

    Raises
    ------
    ObservationError
        Where errors are correlated by a matrix, which has no such form.
    """
    obs = prepared(obs)
    dims = _dims_of_values(obs)
    if dims == (dim,):
        out = obs.copy()
    else:
        numbered = {
            _number_name(obs, d): (d, np.arange(obs.sizes[d]))
            for d in dims
            if d not in obs.variables
        }
        sizes = {d: obs.sizes[d] for d in dims}
        out = xr.Dataset(attrs=obs.attrs)
        for name, variable in obs.assign_coords(numbered).variables.items():
            values = variable.to_base_variable()
            # Nodes of lines and ends of bounds have dimensions of their own.
            rest = {d: n for d, n in variable.sizes.items() if d not in dims}
            if len(rest) == variable.ndim and rest:
                continue  # says nothing about values
            if variable.dims:
                full = values.set_dims({**sizes, **rest}).transpose(*dims, *rest)
                flat = np.asarray(full.values).reshape(-1, *rest.values())
                values = xr.Variable((dim, *rest), flat, variable.attrs)
            out[name] = values
        out = out.set_coords([n for n in out.variables if n in obs.coords or n in numbered])
    out.attrs = {**obs.attrs, "featureType": "point"}
    return out


def _number_name(obs: xr.Dataset, dim: str) -> str:
    """Name for the numbers along a dimension: its own only where nothing else says where it lies.

    Where a position, level or time does, numbers under the name of the dimension would come before
    it, if the state has a dimension of that name.
    """
    where = {*find_positions(obs), find_time(obs), *(n for n in obs.coords if is_vertical(obs[n]))}
    located = any(name is not None and dim in obs[name].dims for name in where)
    return f"{dim}_index" if (located or dim == "time") and dim not in IDENTIFIERS else dim


def is_vertical(coordinate: xr.DataArray) -> bool:
    """Whether a coordinate says at which height, depth or pressure values are.

    Parameters
    ----------
    coordinate : DataArray
        With its name.
    """
    attrs = coordinate.attrs
    return (
        str(coordinate.name).lower() in (*LEVEL_NAMES, *PRESSURE_NAMES)
        or attrs.get("axis") == "Z"
        or "positive" in attrs
        or attrs.get("standard_name") in VERTICAL_NAMES
    )


def prepared(obs: xr.Dataset) -> xr.Dataset:
    """Set positions, times, identifiers and bounds as coordinates; undo packing of valid ranges.

    Parameters
    ----------
    obs : Dataset
        In the labelled form, where data variables may serve as coordinates; not modified.
    """
    both = ({**v.encoding, **v.attrs} for v in obs.variables.values())
    bounds = {attrs.get("bounds") for attrs in both}
    return _unpacked(obs).set_coords(
        [n for n in obs.data_vars if n in bounds or is_coordinate(obs, str(n))]
    )


def _unpacked(obs: xr.Dataset) -> xr.Dataset:
    """Give valid ranges of data that were packed in a file in the units of the data."""
    changed = {}
    for name, variable in obs.data_vars.items():
        encoding = variable.encoding
        scale, offset = (encoding.get(k, d) for k, d in (("scale_factor", 1), ("add_offset", 0)))
        both = {**encoding, **variable.attrs}
        if (scale, offset) == (1, 0) or not {*LIMITS} & {*both}:
            continue
        limits = {k: np.asarray(both[k], dtype=float) * scale + offset for k in LIMITS if k in both}
        if scale < 0:
            swapped = {"valid_min": "valid_max", "valid_max": "valid_min"}
            limits = {swapped.get(k, k): np.sort(v, axis=None) for k, v in limits.items()}
        changed[name] = variable.assign_attrs(
            {k: v if k == "valid_range" else float(v.item()) for k, v in limits.items()}
        )
        changed[name].encoding = {k: v for k, v in encoding.items() if k not in PACKING}
    return obs.assign(changed) if changed else obs


def refuse_unplaced(obs: xr.Dataset, form: str, dims: set[str]) -> None:
    """Raise if something about values has further dimensions, which a form has no place for.

    Parameters
    ----------
    obs : Dataset
        Observations.
    form : str
        Name of the form for the message.
    dims : set of str
        The dimensions that it has.

    Raises
    ------
    ObservationError
        Naming positions with nodes, and bounds of the boxes that values are means over.
    """
    positions = find_positions(obs)
    methods = [str(v.attrs.get("cell_methods", "")) for v in obs.data_vars.values()]
    boxes = any("mean" in m and any(n in m for n in ("area", *positions)) for m in methods)
    unused = {
        {**v.encoding, **v.attrs}.get("bounds")
        for n, v in obs.variables.items()
        if not boxes or n not in positions
    }
    odd = {
        str(n): v.dims
        for n, v in obs.variables.items()
        if set(v.dims) & dims and set(v.dims) - dims and n not in unused
    }
    if odd:
        found = f"the dimensions {odd}"
        remedy = f"write points as NetCDF, or obs.drop_vars({list(odd)})"
        raise ObservationError(problem(form, found, f"{sorted(dims)} alone", remedy))


def _dims_of_values(obs: xr.Dataset) -> tuple[str, ...]:
    matrices = [str(n) for n in obs.variables if str(n).endswith(("_covariance", "_correlation"))]
    if matrices:
        found = f"matrices of correlated errors ({', '.join(matrices)})"
        remedy = f"write NetCDF without conversion, or obs.drop_vars({matrices})"
        raise ObservationError(problem("observations", found, "independent errors", remedy))
    dims: dict[str, None] = {}
    for variable in obs.data_vars.values():
        dims.update(dict.fromkeys(map(str, variable.dims)))
    return tuple(dims)
