"""Positions that are given twice: in the coordinates of a projected grid, and in degrees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from xr_daisi.geolocation import in_space
from xr_daisi.grids import grid_of
from xr_daisi.plane import EARTH_RADIUS

if TYPE_CHECKING:
    from xr_daisi.state import StateSpec

__all__ = ["distance_apart"]

MOST_PLACES = 200_000
"""Places that are compared: of more, evenly chosen ones."""

TOLERANCE = 1.0
"""Grid steps within which two positions are one: degrees may be rounded to two decimals."""

Along = tuple[tuple[str, ...], NDArray[Any]]
"""Values and the dimensions that they lie along."""


def distance_apart(own: Sequence[Along], degrees: Sequence[Along], spec: StateSpec) -> float:
    """Say how far two sets of positions are apart.

    Parameters
    ----------
    own : sequence of (dims, values)
        Positions in the coordinates of the grid.
    degrees : sequence of (dims, values)
        Latitude and longitude of the same places.
    spec : StateSpec
        The state, on a grid that has latitude and longitude as fields.

    Returns
    -------
    float
        The largest distance, km; 0 where all of them agree within a step of the grid, or lie
        outside of it either way.
    """
    import xarray as xr

    arrays = xr.broadcast(*[xr.DataArray(values, dims=dims) for dims, values in (*own, *degrees)])
    flat = [np.asarray(a.values, dtype=np.float64).reshape(-1) for a in arrays]
    every = max(1, flat[0].size // MOST_PLACES)
    flat = [x[::every] for x in flat]
    known = np.logical_and.reduce([np.isfinite(x) for x in flat])
    flat = [x[known] for x in flat]
    if spec.geolocation is None or not flat[0].size:
        return 0.0
    first, second = flat[: len(own)], flat[len(own) :]
    nodes = grid_of(spec).points(first)  # a place outside is on the nearest edge
    space = in_space(*spec.geolocation).reshape(-1, 3)
    places = np.einsum("kn,kni->ni", nodes.weight, space[nodes.index])
    places = places / np.linalg.norm(places, axis=1, keepdims=True)
    apart = EARTH_RADIUS * np.linalg.norm(places - in_space(*second), axis=1)
    grid = grid_of(spec, geolocated=True)
    far = np.flatnonzero(apart > TOLERANCE * grid.step())
    outside = far[~nodes.inside[far]]
    inside = grid.points([x[outside] for x in second]).inside
    far = np.setdiff1d(far, outside[~inside])
    return float(apart[far].max(initial=0.0))
