"""Datasets in files: NetCDF and Zarr, opened by their ending, written whole or not at all."""

from __future__ import annotations

import json
import os
import warnings
from numbers import Number
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from xr_daisi.errors import DaisiError, problem
from xr_daisi.output_files import check_free, replacing

if TYPE_CHECKING:
    from collections.abc import Mapping

    import xarray as xr

__all__ = ["check_output", "check_place", "open_file", "write_file"]

READABLE = "NetCDF (.nc), Zarr (.zarr), or another format that xarray can open"
REMEDY = "pass --overwrite"

FILE_LAYOUT = (
    # Encodings that describe the file that values came from: they may not fit the new one's chunks
    # or format.
    *("chunks", "preferred_chunks", "chunksizes", "shards", "contiguous", "original_shape"),
    *("compressor", "compressors", "filters", "serializer", "object_codec", "source"),
)


def open_file(path: Path, chunks: Mapping[str, int] | None = None) -> xr.Dataset:
    """Open a Dataset.

    Parameters
    ----------
    path : Path
        A NetCDF file or Zarr store, or what else xarray's backends know.
    chunks : mapping of str to int, optional
        Chunk lengths; the Dataset is then dask-backed.

    Returns
    -------
    xarray.Dataset
        Opened, not loaded; closing it closes the file.

    Raises
    ------
    DaisiError
        If there is no such file, none that can be read, or `chunks` names other dimensions.
    """
    import xarray as xr

    if not path.exists():
        raise DaisiError(problem(str(path), "no such file", READABLE, "check the path"))
    engine = "zarr" if path.is_dir() else None
    try:
        with warnings.catch_warnings():
            # Stores without a summary of their metadata are as good here.
            warnings.filterwarnings("ignore", message="Failed to open Zarr store with consolidated")
            ds = xr.open_dataset(path, engine=engine)
    except Exception as error:  # every backend has errors of its own for a file it cannot read
        found = f"a {'directory' if engine else 'file'} that cannot be read ({_first(error)})"
        raise DaisiError(problem(str(path), found, READABLE, "check the file")) from error
    if not chunks:
        return ds
    unknown = [d for d in chunks if d not in ds.dims]
    if unknown:
        there = f"dimensions of {path}: {', '.join(map(str, ds.dims))}"
        raise DaisiError(problem("--chunks", ", ".join(unknown), there))
    # Not by open_dataset(chunks=...), which takes a dimension that is not named in the pieces of
    # the file: the network wants whole fields.
    chunked = ds.chunk(chunks)
    chunked.set_close(ds.close)
    return chunked


def _first(error: BaseException) -> str:
    """Return the first sentence of an error, short enough for one line."""
    said = error.strerror if isinstance(error, OSError) and error.strerror else error
    text = str(said).strip().splitlines()
    first = text[0].split(". ")[0] if text else type(error).__name__
    return first if len(first) <= 160 else f"{first[:157]}..."


def check_place(path: Path) -> None:
    """Raise if no file can be made at a path, before any work is done.

    Raises
    ------
    DaisiError
        If its folder cannot be made or not be written to.
    """
    folder = path.parent
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir():
        found = f"{str(folder)!r}, which is no folder"
        raise DaisiError(problem(str(path), found, "a folder", "name another path"))
    if not os.access(folder, os.W_OK | os.X_OK):
        found = f"folder {str(folder)!r}, which you may not write to"
        raise DaisiError(problem(str(path), found, "one that you may", "name another path"))


def check_output(path: Path, *, overwrite: bool) -> None:
    """Raise if a path is no place for output, before any work is done.

    Raises
    ------
    DaisiError
        For an ending other than .nc, .nc4 and .zarr, or a folder that cannot be written to.
    FileExistsError
        If it exists and `overwrite` is False.
    """
    if path.suffix not in (".nc", ".nc4", ".zarr"):
        found = f"ending {path.suffix!r}" if path.suffix else "no ending"
        raise DaisiError(problem(str(path), found, ".nc or .zarr", "rename it"))
    check_place(path)
    check_free(path, overwrite=overwrite, remedy=REMEDY)


def write_file(ds: xr.Dataset, path: Path, *, overwrite: bool) -> None:
    """Write a Dataset under a temporary name, then move it into place.

    Parameters
    ----------
    ds : xarray.Dataset
        What to write; a lazy one is computed piece by piece.
    path : Path
        Ending in .nc, .nc4 or .zarr.
    overwrite : bool
        Replace what is there.

    Raises
    ------
    DaisiError
        If the ending is another, or the format cannot hold the Dataset.
    FileExistsError
        If it exists and `overwrite` is False.
    OSError
        If the disk is full or not writable; nothing is left behind.
    """
    check_output(path, overwrite=overwrite)
    with replacing(path, overwrite=overwrite, remedy=REMEDY) as temporary:
        try:
            _write(ds, temporary)
        except DaisiError:  # of a lazy analysis
            raise
        except (OSError, RuntimeError) as error:
            # The NetCDF library has a RuntimeError for a disk that is full.
            if isinstance(error, RuntimeError) and not str(error).startswith("NetCDF"):
                raise
            remedy = "free some space or name another path; nothing was left behind"
            found = f"no way to write it ({_first(error)})"
            raise OSError(problem(str(path), found, "a place with room for it", remedy)) from error
        except (TypeError, ValueError) as error:
            found = f"what cannot be written as {path.suffix} ({_first(error)})"
            raise DaisiError(problem(str(path), found, "numbers, texts and times")) from error


def _write(ds: xr.Dataset, path: Path) -> None:
    out = ds.copy()
    for variable in out.variables.values():
        variable.encoding = {k: v for k, v in variable.encoding.items() if k not in FILE_LAYOUT}
    if path.suffix == ".zarr":
        with warnings.catch_warnings():
            # Of Zarr about itself: its third format has no last word yet on texts and summaries.
            warnings.filterwarnings("ignore", module=r"zarr\.")
            warnings.filterwarnings("ignore", message=".*Zarr.*(format 3|V3).*")
            out.to_zarr(path, mode="w")
        return
    for attrs in (out.attrs, *(v.attrs for v in out.variables.values())):
        attrs.update({k: json.dumps(v, default=str) for k, v in attrs.items() if not _plain(v)})
    out.to_netcdf(path)


def _plain(value: Any) -> bool:
    """Tell whether NetCDF can hold the value of an attribute; Zarr holds any JSON."""
    if isinstance(value, bool):
        return False
    if isinstance(value, (list, tuple)):
        return all(isinstance(v, str) for v in value) or all(_is_number(v) for v in value)
    return isinstance(value, (str, bytes, np.ndarray)) or _is_number(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (Number, np.generic)) and not isinstance(value, bool)
