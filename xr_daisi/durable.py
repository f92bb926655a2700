"""Files that are on the disk when a call returns, whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

__all__ = ["replace_json", "replace_text", "to_disk"]

THREADS = 16
"""Waiting for a disk for many files at once takes hardly longer than for one."""


def replace_text(path: Path, text: str) -> None:
    """Write or replace a text file in one step.

    Parameters
    ----------
    path : Path
        The file; its folder is made if need be.
    text : str
        Its content.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".writing-", dir=path.parent)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.chmod(name, 0o666 & ~_umask())
    os.replace(name, path)
    _sync(path.parent)


def replace_json(path: Path, content: Any) -> None:
    """Write or replace a JSON file in one step."""
    replace_text(path, json.dumps(content))


def to_disk(paths: Iterable[Path]) -> None:
    """Wait until files and folders are on the disk."""
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(_sync, paths))


def _sync(path: Path) -> None:
    with contextlib.suppress(OSError):  # folders cannot be synchronised everywhere
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
