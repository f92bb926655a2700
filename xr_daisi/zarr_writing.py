"""How Datasets of a cycle are written as Zarr: format, chunks, times."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import xarray as xr

__all__ = ["FORMAT", "TIME_ENCODING", "encoding_of", "quiet_zarr"]

TIME_ENCODING = {"units": "microseconds since 1970-01-01", "dtype": "int64"}
CHUNK = 32 * 2**20
"""Largest size of a chunk, bytes, unless a single member is larger."""

# Format 2 of Zarr: every library reads it, and texts have a place in its specification.
FORMAT: dict[str, Any] = {"zarr_format": 2, "consolidated": True}


def encoding_of(ds: xr.Dataset, time: str, member: str | None) -> dict[str, dict[str, Any]]:
    """Chunks of one cycle each, and times as whole microseconds."""
    out: dict[str, dict[str, Any]] = {}
    for name, variable in ds.variables.items():
        entry: dict[str, Any] = dict(TIME_ENCODING) if variable.dtype.kind == "M" else {}
        if variable.ndim and variable.size:
            chunks = dict(zip(variable.dims, variable.shape, strict=True))
            if time in chunks:
                chunks[time] = 1
            if member in chunks:
                one = int(np.prod([n for d, n in chunks.items() if d != member]))
                limit = max(1, CHUNK // max(1, one * variable.dtype.itemsize))
                chunks[member] = min(chunks[member], limit)
            entry["chunks"] = tuple(chunks[d] for d in variable.dims)
        out[str(name)] = entry
    return out


@contextlib.contextmanager
def quiet_zarr() -> Iterator[None]:
    """Keep back what Zarr says about itself."""
    with warnings.catch_warnings():
        # Of Zarr about itself: summaries of metadata are used on purpose.
        warnings.filterwarnings("ignore", module=r"zarr\.")
        warnings.filterwarnings("ignore", message=".*Zarr.*(format 3|V3).*")
        yield
