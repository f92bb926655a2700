"""Chunks along space, which a network that sees whole fields cannot use."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from xr_daisi.errors import SpaceChunksWarning, problem
from xr_daisi.user_warnings import warn_user

if TYPE_CHECKING:
    from collections.abc import Sequence

    import xarray as xr

__all__ = ["warn_of_space_chunks"]


def warn_of_space_chunks(ds: xr.Dataset, names: Sequence[str], space: Sequence[str]) -> None:
    """Warn once where variables have several chunks along space, saying what joining them costs.

    Parameters
    ----------
    ds : xarray.Dataset
        The forecast.
    names : sequence of str
        Its variables of the state.
    space : sequence of str
        Its space dimensions.

    Warns
    -----
    SpaceChunksWarning
        With the bytes that are joined, and the size of the chunks that come of it.
    """
    moved, largest = 0, 0
    pieces: dict[str, int] = {}
    for name in dict.fromkeys(names):
        chunks = ds[name].variable.chunksizes
        here = {d: len(chunks[d]) for d in space if len(chunks.get(d, ())) > 1}
        if not here:
            continue
        pieces |= {d: max(n, pieces.get(d, 0)) for d, n in here.items()}
        whole = [ds.sizes[d] if d in space else max(sizes) for d, sizes in chunks.items()]
        moved += ds[name].nbytes
        largest = max(largest, ds[name].dtype.itemsize * math.prod(whole))
    if not pieces:
        return
    counts = ", ".join(f"{n} along {d!r}" for d, n in pieces.items())
    together = ", ".join(f"{d}=-1" for d in space)
    text = problem(
        f"forecast chunks along {' and '.join(map(repr, pieces))}",
        f"several for each field ({counts})",
        "whole fields, which observations, and a network, see at once",
        f"{_size(moved)} are copied to join them, between workers too, into chunks of up to "
        f"{_size(largest)}; to avoid it, open the store with chunks along members and times alone "
        f"(.chunk({together}) before any other work), or rewrite it so",
    )
    warn_user(SpaceChunksWarning(text))


def _size(count: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            break
        count /= 1000
    return f"{count:.3g} {unit}"
