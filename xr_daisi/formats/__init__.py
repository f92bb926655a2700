"""Observations in the forms they come in, brought to one labelled form, and back.

`read_observations` finds out which form it is. The labelled form is described on the page
"Observation Datasets" of the documentation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from xr_daisi.errors import DaisiError, DaisiTypeError, ObservationError, SettingsError, problem
from xr_daisi.files import check_output, open_file, write_file
from xr_daisi.formats.discrete_sampling import (
    from_discrete_sampling,
    is_discrete_sampling,
    to_contiguous,
    to_indexed,
)
from xr_daisi.formats.ioda import (
    from_ioda,
    from_ioda_v1,
    is_ioda,
    is_ioda_v1,
    to_ioda,
    to_ioda_v1,
)
from xr_daisi.formats.points import to_points
from xr_daisi.formats.tables import from_table, is_table, to_csv_table, to_table
from xr_daisi.formats.torch_assimilate import (
    from_torch_assimilate,
    is_torch_assimilate,
    to_torch_assimilate,
)
from xr_daisi.output_files import replacing

__all__ = ["convert_observations", "read_observations", "write_observations"]

TABLES: dict[str, Callable[..., pd.DataFrame]] = {
    ".csv": pd.read_csv,
    ".parquet": pd.read_parquet,
}

PERIODS = {"seconds": "s", "sec": "s", "minutes": "min", "hours": "h", "days": "D", "h": "h"}

FORMS: dict[str, Callable[..., Any]] = {
    "point": to_points,
    "contiguous": to_contiguous,
    "indexed": to_indexed,
    "table": to_table,
    "ioda": to_ioda,
    "ioda-v1": to_ioda_v1,
    "torch-assimilate": to_torch_assimilate,
}


def read_observations(source: Any, *, variable: str | None = None) -> xr.Dataset:
    """Return observations as a Dataset that `assimilate` takes, whatever form they are in.

    Parameters
    ----------
    source : str, Path, Dataset, DataArray, DataFrame, DataTree or mapping of Datasets
        A file (NetCDF, Zarr, CSV, Parquet), or what is in memory: a discrete sampling geometry of
        CF (points, stations, profiles, trajectories; ragged or not, decoded or not), fields, a long
        table, an IODA file (groups, or names such as ``airTemperature@ObsValue``), a Dataset of
        torch-assimilate; a DataArray needs a name.
    variable : str, optional
        What was observed, where the form has no name for it (torch-assimilate).

    Returns
    -------
    xarray.Dataset
        In the labelled form; a Dataset that is in it already is returned as it is.

    Raises
    ------
    DaisiError
        If the file does not exist or cannot be read, or a DataArray has no name.
    ObservationError
        Naming everything that is missing.
    DaisiTypeError
        For anything else.

    Examples
    --------
    >>> import pandas as pd, xr_daisi
    >>> table = pd.DataFrame(
    ...     {
    ...         "time": ["2019-03-24T00:00", "2019-03-24T00:00"],
    ...         "lat": [51.5, 53.5],
    ...         "lon": [-0.1, -2.2],
    ...         "variable": ["t2m", "t2m"],
    ...         "observation": [281.3, 279.9],
    ...     }
    ... )
    >>> xr_daisi.read_observations(table).t2m.values
    array([281.3, 279.9])
    """
    if isinstance(source, (str, Path)):
        return _read_path(Path(source).expanduser(), variable)
    if isinstance(source, xr.DataArray):
        if source.name is None:
            raise DaisiError(
                problem("observations", "a DataArray without name", "a name", "use .rename('t2m')")
            )
        return source.to_dataset()
    if isinstance(source, xr.Dataset):
        return _from_dataset(source, variable)
    if is_table(source):
        return from_table(source)
    if is_ioda(source):
        return from_ioda(source)
    if isinstance(source, Mapping) or hasattr(source, "children"):
        names = sorted(map(str, getattr(source, "children", source)))
        expected = "those of an IODA file, MetaData and ObsValue"
        raise ObservationError(problem("observations", f"the groups {names}", expected))
    expected = "a path, a Dataset, a DataArray, a DataFrame or a DataTree"
    raise DaisiTypeError(problem("observations", type(source).__name__, expected))


def _read_path(path: Path, variable: str | None) -> xr.Dataset:
    if path.suffix.lower() in TABLES:
        if not path.exists():
            raise DaisiError(problem(str(path), "no such file", "a table", "check the path"))
        try:
            table = TABLES[path.suffix.lower()](path)
        except (OSError, ValueError, ImportError) as error:
            found = f"a file that cannot be read ({str(error).splitlines()[0]})"
            raise DaisiError(problem(str(path), found, "a table", "check the file")) from error
        return from_table(table)
    ds = open_file(path)
    if not len(ds.data_vars):
        groups = _groups_of(path)
        if is_ioda(groups):
            ds.close()
            return from_ioda(groups)
    return _from_dataset(ds, variable)


def _groups_of(path: Path) -> dict[str, xr.Dataset]:
    """Read the groups of a file; none where it has none."""
    try:
        tree = xr.open_datatree(path, engine="zarr" if path.is_dir() else None)
    except Exception:  # every backend has errors of its own for a file without groups
        return {}
    with tree:
        groups = {"/": tree.to_dataset(inherit=False).load()}
        for name, child in tree.children.items():
            groups[str(name)] = child.to_dataset(inherit=False).load()
    return groups


def _from_dataset(ds: xr.Dataset, variable: str | None) -> xr.Dataset:
    if is_ioda_v1(ds):
        return from_ioda_v1(ds)
    if is_torch_assimilate(ds):
        return from_torch_assimilate(ds, variable)
    ds = _with_periods(_decoded(ds))
    return from_discrete_sampling(ds) if is_discrete_sampling(ds) else ds


def _decoded(ds: xr.Dataset) -> xr.Dataset:
    """Decode what was opened without; itself where there is nothing to decode."""
    raw = any(
        {"_FillValue", "scale_factor", "add_offset"} & {*v.attrs}
        or (" since " in str(v.attrs.get("units", "")) and v.dtype.kind in "iuf")
        or v.dtype == np.dtype("S1")
        for v in ds.variables.values()
    )
    if not raw:
        return ds
    try:
        return xr.decode_cf(ds, decode_timedelta=False)
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        reason = str(error).splitlines()[0]
        found = f"what cannot be decoded ({reason})"
        expected = "attributes as the CF conventions have them"
        raise ObservationError(problem("observations", found, expected)) from error


def _with_periods(ds: xr.Dataset) -> xr.Dataset:
    """Undo what decoding made of quantities in seconds, such as the period of waves.

    Coordinates that are durations stay what they are.
    """
    changed = {}
    for name, variable in ds.data_vars.items():
        unit = str(variable.encoding.get("units", ""))
        if variable.dtype.kind == "m" and unit:
            step = np.timedelta64(pd.Timedelta(1, PERIODS.get(unit, unit)))  # type: ignore[arg-type]
            plain = xr.where(variable.isnull(), np.nan, variable / step)
            changed[name] = plain.assign_attrs(variable.attrs).assign_attrs(units=unit)
    return ds.assign(changed) if changed else ds


def convert_observations(obs: xr.Dataset, to: str, **options: Any) -> Any:
    """Write observations in another form.

    Parameters
    ----------
    obs : Dataset
        In the labelled form; not modified.
    to : str
        ``"point"``, ``"contiguous"`` or ``"indexed"``: discrete sampling geometries of CF;
        ``"table"``: a long table; ``"ioda"`` (a DataTree), ``"ioda-v1"``; ``"torch-assimilate"``.
    **options
        ``variable`` for torch-assimilate, ``dim`` for points.

    Returns
    -------
    Dataset, DataFrame or DataTree
        Which `read_observations` reads again.

    Raises
    ------
    SettingsError
        For a form that is not known.
    ObservationError
        Where the form has no place for something.
    """
    if to not in FORMS:
        raise SettingsError(problem("to", repr(to), f"one of {', '.join(map(repr, FORMS))}"))
    if not isinstance(obs, xr.Dataset):
        raise DaisiTypeError(problem("observations", type(obs).__name__, "a Dataset"))
    return FORMS[to](obs, **options)


def write_observations(
    obs: xr.Dataset, path: str | Path, to: str | None = None, *, overwrite: bool = False
) -> None:
    """Write observations to a file, in another form or as they are.

    Parameters
    ----------
    obs : Dataset
        In the labelled form.
    path : str or Path
        Ending in .nc or .zarr, or for tables in .csv or .parquet.
    to : str, optional
        As in `convert_observations`; by default a table for .csv and .parquet, else unchanged.
    overwrite : bool
        Replace what is there.

    Raises
    ------
    FileExistsError
        If it exists and `overwrite` is False.
    ObservationError, SettingsError
        As in `convert_observations`.
    DaisiError
        For an ending that does not fit.
    """
    if not isinstance(obs, xr.Dataset):
        remedy = "xr_daisi.read_observations makes one"
        raise DaisiTypeError(problem("observations", type(obs).__name__, "a Dataset", remedy))
    target = Path(path).expanduser()
    ending = target.suffix.lower()
    to = "table" if to is None and ending in TABLES else to
    if (to == "table") != (ending in TABLES):
        expected = f"one of {sorted(TABLES)}" if to == "table" else ".nc or .zarr"
        raise DaisiError(problem(str(target), f"ending {ending!r}", expected, "rename it"))
    converted = obs if to is None else convert_observations(obs, to)
    if isinstance(converted, pd.DataFrame) and ending == ".csv":
        converted = to_csv_table(converted)
    if isinstance(converted, xr.Dataset):
        write_file(converted, target, overwrite=overwrite)
        return
    if to != "table":
        check_output(target, overwrite=overwrite)
    with replacing(target, overwrite=overwrite, remedy="pass overwrite=True") as temporary:
        if isinstance(converted, pd.DataFrame):
            if ending == ".csv":
                converted.to_csv(temporary, index=False)
            else:
                _to_parquet(converted, temporary, target)
        elif ending == ".zarr":
            converted.to_zarr(temporary, mode="w")
        else:
            converted.to_netcdf(temporary)


def _to_parquet(table: pd.DataFrame, temporary: Path, target: Path) -> None:
    try:
        table.to_parquet(temporary, engine="pyarrow")  # others leave the attributes out
    except ImportError as error:
        found, expected = "no library that writes Parquet", "pyarrow"
        raise DaisiError(
            problem(str(target), found, expected, "install it, or use .csv")
        ) from error
