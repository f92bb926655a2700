"""Values of coordinates: small, and needed before anything can be matched."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["read_coordinate"]


def read_coordinate(variable: xr.Variable | xr.DataArray) -> NDArray[Any]:
    """Return the values of a coordinate; a dask-backed one is read, its Dataset stays lazy.

    Opening a file in chunks makes all coordinates but indexes lazy. They are read in this thread:
    no pool or cluster is worth its start for them, unless they already lie on a cluster.

    Parameters
    ----------
    variable : xarray.Variable or DataArray
        The coordinate; not modified.

    Returns
    -------
    ndarray
        In the variable's shape.
    """
    if variable.chunks is None:
        return np.asarray(variable.values)
    options = {} if _has_cluster() else {"scheduler": "synchronous"}
    return np.asarray(variable.data.compute(**options))


def _has_cluster() -> bool:
    distributed = sys.modules.get("distributed")
    if distributed is None:
        return False
    try:
        distributed.get_client()
    except ValueError:
        return False
    return True
