"""Output that is complete or not there: temporary names, moved into place when written."""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["check_free", "replacing"]

_ZARR_METADATA = ("zarr.json", ".zgroup", ".zmetadata")


@contextmanager
def replacing(target: Path, *, overwrite: bool, remedy: str) -> Iterator[Path]:
    """Give a temporary path beside `target`, which becomes `target` if the block succeeds.

    Parameters
    ----------
    target : Path
        The file or directory to make.
    overwrite : bool
        Replace what is there.
    remedy : str
        What the error for an existing target recommends.

    Yields
    ------
    Path
        Does not exist yet; on the same file system. Whatever stands there after an error is
        removed.

    Raises
    ------
    FileExistsError
        If `target` exists and `overwrite` is False, or is a directory that is not to be replaced.
    """
    check_free(target, overwrite=overwrite, remedy=remedy)
    target.parent.mkdir(parents=True, exist_ok=True)
    # Named before it is made, so that an interruption in between leaves nothing.
    room = target.parent / f".{target.name}.{secrets.token_hex(8)}"
    try:
        room.mkdir(mode=0o700)
        temporary = room / target.name
        yield temporary
        if target.is_dir() and not target.is_symlink():
            if not temporary.is_dir():
                raise _not_replaced(target, "a directory", "a file")
            # A directory cannot be replaced in one step: the old one steps aside first.
            aside = room / f"{target.name}.replaced"
            os.replace(target, aside)
            try:
                os.replace(temporary, target)
            except BaseException:
                os.replace(aside, target)
                raise
        else:
            os.replace(temporary, target)
    except BaseException:
        # Threads of dask that were writing when another failed go on for a moment, and make the
        # folders that they need anew.
        for pause in (0.02, 0.1, 0.4):
            shutil.rmtree(room, ignore_errors=True)
            time.sleep(pause)
        raise
    finally:
        shutil.rmtree(room, ignore_errors=True)


def check_free(target: Path, *, overwrite: bool, remedy: str) -> None:
    """Raise if `target` exists and is not to be replaced, or must not be.

    Parameters
    ----------
    target : Path
        The file or directory to make.
    overwrite : bool
        Replace what is there. Of directories, only Zarr stores are replaced.
    remedy : str
        What the error for an existing target recommends.

    Raises
    ------
    FileExistsError
        If it is in the way.
    """
    if not target.exists():
        return
    if not overwrite:
        kind = "directory" if target.is_dir() else "file"
        raise FileExistsError(
            f"{target}: found an existing {kind}, expected none; {remedy} to replace it"
        )
    if target.is_dir() and not any((target / name).exists() for name in _ZARR_METADATA):
        raise _not_replaced(target, "a directory that is no Zarr store", "a file or Zarr store")


def _not_replaced(target: Path, found: str, expected: str) -> FileExistsError:
    return FileExistsError(f"{target}: found {found}, expected {expected}; name another path")
