"""Datasets in files: NetCDF and Zarr, opened by their ending, written whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from xr_daisi.errors import DaisiError, DaisiTypeError, problem
from xr_daisi.output_files import check_free, replacing

if TYPE_CHECKING:
    from collections.abc import Mapping

    import xarray as xr

__all__ = ["check_output", "open_file", "read_observations", "write_file"]

READABLE = "NetCDF (.nc), Zarr (.zarr), or another format that xarray can open"
REMEDY = "pass --overwrite"


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
        Opened, not loaded.

    Raises
    ------
    DaisiError
        If there is no such file, or none that can be read.
    """
    import xarray as xr

    if not path.exists():
        raise DaisiError(problem(str(path), "no such file", READABLE, "check the path"))
    engine = "zarr" if path.is_dir() else None
    try:
        ds = xr.open_dataset(path, engine=engine, chunks=None if chunks is None else {})
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DaisiError(
            problem(str(path), f"a file that cannot be read ({first})", READABLE, "check the file")
        ) from error
    if chunks:
        unknown = [d for d in chunks if d not in ds.dims]
        if unknown:
            raise DaisiError(
                problem("--chunks", ", ".join(unknown), f"dimensions of {path}: {', '.join(map(str, ds.dims))}")
            )
        ds = ds.chunk(chunks)
    return ds


def check_output(path: Path, *, overwrite: bool) -> None:
    """Raise if a path is no place for output, before any work is done.

    Raises
    ------
    DaisiError
        For an ending other than .nc, .nc4 and .zarr.
    FileExistsError
        If it exists and `overwrite` is False.
    """
    if path.suffix not in (".nc", ".nc4", ".zarr"):
        raise DaisiError(problem(str(path), f"ending {path.suffix!r}", ".nc or .zarr", "rename it"))
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
    FileExistsError
        If it exists and `overwrite` is False.
    OSError
        If the disk is full or not writable; nothing is left behind.
    """
    check_output(path, overwrite=overwrite)
    with replacing(path, overwrite=overwrite, remedy=REMEDY) as temporary:
        if path.suffix == ".zarr":
            ds.to_zarr(temporary, mode="w")
        else:
            ds.to_netcdf(temporary)


def read_observations(source: str | Path | xr.Dataset | xr.DataArray) -> xr.Dataset:
    """Return observations as a Dataset that `assimilate` takes.

    Parameters
    ----------
    source : str, Path, xarray.Dataset or xarray.DataArray
        A NetCDF file or Zarr store, or what is in memory already; a DataArray needs a name.

    Returns
    -------
    xarray.Dataset
        Points, station series or fields, as they are in the file.

    Raises
    ------
    DaisiError
        If the file does not exist or cannot be read, or a DataArray has no name.
    DaisiTypeError
        For anything else.

    Examples
    --------
    >>> import xarray as xr, xr_daisi
    >>> stations = xr.DataArray([281.3, 279.9], dims="station", name="t2m")
    >>> list(xr_daisi.read_observations(stations).data_vars)
    ['t2m']
    """
    import xarray as xr

    if isinstance(source, xr.Dataset):
        return source
    if isinstance(source, xr.DataArray):
        if source.name is None:
            raise DaisiError(
                problem("observations", "a DataArray without name", "a name", "use .rename('t2m')")
            )
        return source.to_dataset()
    if isinstance(source, (str, Path)):
        return open_file(Path(source))
    raise DaisiTypeError(
        problem("observations", type(source).__name__, "a path, a Dataset or a DataArray")
    )
