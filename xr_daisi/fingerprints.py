"""Checksums of Datasets and descriptions of settings: what makes a run this one and no other."""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

__all__ = ["dataset_sha256", "described", "differences"]


def dataset_sha256(*datasets: xr.Dataset) -> str:
    """Return one checksum of the names, dimensions, units, types and values of Datasets.

    It does not depend on attributes other than units, on chunks, on encodings, or on the order of
    variables.

    Parameters
    ----------
    *datasets : xarray.Dataset
        Dask-backed values are computed, one variable after the other.

    Returns
    -------
    str
        SHA-256, in hexadecimal.
    """
    digest = hashlib.sha256()
    for ds in datasets:
        digest.update(b"dataset")
        for name in sorted(ds.variables, key=str):
            variable = ds.variables[name]
            values = np.asarray(variable.values)
            if values.dtype.kind == "M":
                values = values.astype("datetime64[us]")
            elif values.dtype.kind == "m":
                values = values.astype("timedelta64[us]")
            elif values.dtype.kind in "OSU":
                values = np.asarray([str(v) for v in values.ravel()]).reshape(values.shape)
            units = str(variable.attrs.get("units", ""))
            head = [str(name), list(map(str, variable.dims)), list(values.shape), units]
            digest.update(json.dumps([*head, values.dtype.str]).encode())
            digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


def described(value: Any) -> Any:
    """Return a value in plain JSON types, the same for equal values in every process.

    Functions and objects are told by their names, Datasets and arrays by their checksums; an
    object with a ``configuration`` by that.

    Parameters
    ----------
    value : object
        A setting, a model, or mappings and sequences of such.
    """
    if hasattr(value, "configuration"):
        return described(value.configuration)
    if isinstance(value, Mapping):
        return {str(k): described(v) for k, v in value.items()}
    if isinstance(value, xr.Dataset):
        return {"sha256": dataset_sha256(value)}
    if isinstance(value, xr.DataArray):
        return {"sha256": dataset_sha256(value.to_dataset(name="values"))}
    if isinstance(value, (datetime.timedelta, np.timedelta64)):
        return str(pd.Timedelta(value))
    if isinstance(value, np.generic):
        return described(value.item())
    if isinstance(value, np.ndarray):
        return {
            "sha256": dataset_sha256(
                xr.Dataset({"values": (list("abcdefgh"[: value.ndim]), value)})
            )
        }
    if isinstance(value, (list, tuple)):
        return [described(v) for v in value]
    if isinstance(value, (set, frozenset)):
        return sorted((described(v) for v in value), key=str)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{named.__module__}.{named.__qualname__}"


def differences(there: Any, here: Any, path: str = "") -> Iterable[tuple[str, str, str]]:
    """Yield where two descriptions differ: name, the one and the other.

    Examples
    --------
    >>> list(differences({"seed": 1, "prior": {"name": "a"}}, {"seed": 2, "prior": {"name": "a"}}))
    [('seed', '1', '2')]
    """
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        for key in dict.fromkeys([*there, *here]):
            inner = f"{path}.{key}" if path else str(key)
            yield from differences(there.get(key), here.get(key), inner)
    elif there != here and not (_is_nan(there) and _is_nan(here)):
        yield path, _short(there), _short(here)


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and value != value


def _short(value: Any) -> str:
    if value is None:
        return "none"
    text = json.dumps(value, default=str)
    if isinstance(value, str) and len(value) == 64:
        text = value[:12]
    return text if len(text) <= 120 else f"{text[:117]}..."
