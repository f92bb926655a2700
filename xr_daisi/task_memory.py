"""What a task's memory costs in a worker process of dask.

A nanny starts workers with ``MALLOC_TRIM_THRESHOLD_`` so low that the C library hands every array
of a network's layer back to the system at once, and asks for it again in the next layer: half as
much again on top of the time of a U-Net of a million parameters. What the setting is for, that a
worker does not look full when it is not, is kept by handing everything back after the task.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

__all__ = ["kept_memory"]

# Of mallopt(3), and what the C library has unless told otherwise.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
DEFAULT_MMAP_THRESHOLD = 128 * 1024
# Larger arrays come from the system one by one: this is the most that mallopt takes.
LARGEST = 32 * 1024 * 1024

_lock = threading.Lock()
_active = 0


@contextmanager
def kept_memory() -> Iterator[None]:
    """Keep freed memory for the next arrays of the task, then hand it back.

    Where the process was not told to trim its memory, nothing changes.
    """
    global _active
    library, trim = _c_library(), _told("MALLOC_TRIM_THRESHOLD_")
    if library is None or trim is None:
        yield
        return
    with _lock:
        _active += 1
        if _active == 1:
            library.mallopt(M_MMAP_THRESHOLD, LARGEST)
            library.mallopt(M_TRIM_THRESHOLD, 2**30)
    try:
        yield
    finally:
        with _lock:
            _active -= 1
            if _active == 0:
                mmap = _told("MALLOC_MMAP_THRESHOLD_")
                library.mallopt(M_MMAP_THRESHOLD, DEFAULT_MMAP_THRESHOLD if mmap is None else mmap)
                library.mallopt(M_TRIM_THRESHOLD, trim)
                library.malloc_trim(0)


@lru_cache(maxsize=2)
def _told(variable: str) -> int | None:
    """Return what the process was started with: `os.environ` may have changed without effect.

    A process that starts a cluster gets the variables of its workers.
    """
    with suppress(OSError, ValueError):
        for entry in Path("/proc/self/environ").read_bytes().split(b"\0"):
            name, _, value = entry.partition(b"=")
            if name == variable.encode():
                return int(value)
    return None


@lru_cache(maxsize=1)
def _c_library() -> Any:
    """Return the C library if it is one whose allocator can be set, glibc."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        library = ctypes.CDLL(None)
        found = library.mallopt, library.malloc_trim, library.gnu_get_libc_version
    except (OSError, AttributeError):  # musl
        return None
    return library if all(found) else None
