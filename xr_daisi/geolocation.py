"""Grids whose latitude and longitude are fields of their own: projected and curvilinear ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from xr_daisi.dimensions import LATITUDE_NAMES, LONGITUDE_NAMES
from xr_daisi.errors import problem

if TYPE_CHECKING:
    from collections.abc import Sequence

    import xarray as xr

__all__ = ["Geolocation", "different_places", "geolocation_names", "geolocation_of", "in_space"]

Geolocation = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Latitude and longitude in degrees, each on the two dimensions of space."""

NAMES = {
    "latitude": (*LATITUDE_NAMES, "nav_lat", "xlat", "lat_rho", "tlat", "gphit", "geolat", "yc"),
    "longitude": (*LONGITUDE_NAMES, "nav_lon", "xlong", "lon_rho", "tlon", "glamt", "geolon", "xc"),
}

TOLERANCE = 0.01
"""Places within this share of a grid step are the same (single-precision files)."""


def geolocation_names(ds: xr.Dataset, dims: Sequence[str]) -> tuple[str, str] | None:
    """Names of latitude and longitude along two dimensions, by name or standard name.

    Parameters
    ----------
    ds : Dataset
        Any.
    dims : sequence of str
        The two dimensions of space.
    """
    found = []
    for kind, names in NAMES.items():
        there = [
            str(n)
            for n in ds.variables
            if set(ds.variables[n].dims) == set(dims) and ds.variables[n].dtype.kind == "f"
        ]
        chosen = [n for n in there if n.lower() in names]
        chosen = chosen or [n for n in there if ds.variables[n].attrs.get("standard_name") == kind]
        if not chosen:
            return None
        found.append(chosen[0])
    return found[0], found[1]


def geolocation_of(ds: xr.Dataset, dims: Sequence[str]) -> Geolocation | None:
    """Latitude and longitude of the points of a grid; None where it has no such fields.

    Parameters
    ----------
    ds : Dataset
        With coordinates, or variables, of two dimensions.
    dims : sequence of str
        The dimensions of space, in order.
    """
    names = geolocation_names(ds, dims) if len(dims) == 2 else None
    if names is None:
        return None
    latitude, longitude = (
        np.asarray(ds.variables[name].transpose(*dims).values, dtype=np.float64) for name in names
    )
    return latitude, longitude


def different_places(found: Geolocation, wanted: Geolocation) -> str | None:
    """Say how the places of two grids of the same shape differ; None where they do not.

    Parameters
    ----------
    found, wanted : Geolocation
        Of the forecast, in the prior's order, and of the prior.
    """
    one, other = in_space(*found), in_space(*wanted)
    known = np.isfinite(one).all(axis=-1) & np.isfinite(other).all(axis=-1)
    steps = [np.linalg.norm(np.diff(other, axis=axis), axis=-1) for axis in (0, 1)]
    step = min(float(np.nanmin(s, initial=np.inf)) for s in steps)
    apart = np.where(known, np.linalg.norm(one - other, axis=-1), 0.0)
    bad = apart > TOLERANCE * step
    if not bad.any():
        return None
    first = tuple(int(i) for i in np.argwhere(bad)[0])
    return problem(
        "latitude and longitude of the forecast",
        f"{int(bad.sum())} points elsewhere, the first at index {first}: "
        f"{found[0][first]:g}, {found[1][first]:g}",
        f"the places of the prior: {wanted[0][first]:g}, {wanted[1][first]:g}",
        "use a prior for this grid, see xr_daisi.train_prior",
    )


def in_space(latitude: NDArray[np.float64], longitude: NDArray[np.float64]) -> NDArray[np.float64]:
    """Points of the unit sphere, shape (..., 3), from degrees."""
    y, x = np.deg2rad(latitude), np.deg2rad(longitude)
    return np.stack([np.cos(y) * np.cos(x), np.cos(y) * np.sin(x), np.sin(y)], axis=-1)
