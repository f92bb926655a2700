"""Which part of a file cannot be read: the backends' errors do not say."""

from __future__ import annotations

import errno
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xr_daisi.errors import DaisiError, StateError, problem

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["naming_unreadable", "unreadable_part"]

NO_ROOM = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)


@contextmanager
def naming_unreadable(path: Path, ds: xr.Dataset) -> Iterator[None]:
    """Say which chunk of an input is damaged, where an error may come from one.

    Parameters
    ----------
    path : Path
        The file.
    ds : xarray.Dataset
        Opened from it; read again, chunk by chunk, after an error that this package does not know.

    Raises
    ------
    StateError
        Naming variable and chunk.
    """
    try:
        yield
    except Exception as error:
        cause = error.__cause__ or error
        ours = isinstance(cause, (DaisiError, MemoryError, FileExistsError))
        if ours or getattr(cause, "errno", None) in NO_ROOM:
            raise
        text = unreadable_part(path, ds)
        if text is None:
            raise
        raise StateError(text) from error


def unreadable_part(path: Path, ds: xr.Dataset) -> str | None:
    """Read a Dataset chunk by chunk, and return what is wrong with the first that fails.

    Parameters
    ----------
    path : Path
        For the message.
    ds : xarray.Dataset
        Not loaded by this; one chunk is held at a time.

    Returns
    -------
    str or None
        None where everything can be read.
    """
    for name, da in ds.variables.items():
        for part in _chunks(da):
            try:
                _ = da.isel(part).values
            except Exception as error:
                said = str(error).strip().splitlines() or [type(error).__name__]
                where = ", ".join(_place(ds, d, s) for d, s in part.items())
                return problem(
                    str(path),
                    f"variable {str(name)!r} that cannot be read at {where} ({said[0][:160]})",
                    "a file that is whole",
                    "copy it again, or leave this part out",
                )
    return None


def _chunks(variable: xr.Variable) -> Iterator[dict[Any, slice]]:
    """Cut a variable as its file is, else along its first dimension."""
    stored = variable.encoding.get("preferred_chunks") or {}
    ranges = []
    for axis, (d, size) in enumerate(variable.sizes.items()):
        step = stored.get(d, 1 if axis == 0 and not stored else size)
        step = step if isinstance(step, int) else max(step)
        ranges.append([slice(a, min(a + step, size)) for a in range(0, size, max(step, 1))])
    for part in itertools.product(*ranges):
        yield dict(zip(variable.dims, part, strict=True))


def _place(ds: xr.Dataset, d: Any, part: slice) -> str:
    labels = ds.indexes[d][part] if d in ds.indexes else range(part.start, part.stop)
    ends = [str(labels[0])] + ([str(labels[-1])] if len(labels) > 1 else [])
    return f"{d}={' to '.join(ends)}"
