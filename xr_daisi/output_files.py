"""Output that is complete or not there: temporary names, moved into place when written."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["replacing"]


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
        If `target` exists and `overwrite` is False.
    """
    check_free(target, overwrite=overwrite, remedy=remedy)
    target.parent.mkdir(parents=True, exist_ok=True)
    room = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        temporary = room / target.name
        yield temporary
        if target.is_dir() and not target.is_symlink():
            # A directory (Zarr) cannot be replaced in one step: the old one steps aside first.
            os.replace(target, room / "replaced")
        os.replace(temporary, target)
    finally:
        shutil.rmtree(room, ignore_errors=True)


def check_free(target: Path, *, overwrite: bool, remedy: str) -> None:
    """Raise if `target` exists and is not to be replaced."""
    if target.exists() and not overwrite:
        raise FileExistsError(
            f"{target}: found an existing file, expected none; {remedy} to replace it"
        )
