"""An ensemble at one time: which dimension is which, its labels, and its two forms.

Inside a cycle an ensemble has its time as a dimension of length one, first. Models get it as the
user gave the initial one: so, or with a scalar time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from xr_daisi.dimensions import MEMBER_NAMES, find_dimensions, time_coordinate
from xr_daisi.errors import DaisiTypeError, StateError, problem

__all__ = ["EnsembleForm", "field_names", "form_of", "instant", "member_labels", "time_text"]


@dataclass(frozen=True)
class EnsembleForm:
    """How an ensemble at one time is labelled.

    Attributes
    ----------
    member : str or None
        Its member dimension.
    time : str
        Its time coordinate.
    scalar : bool
        Whether that is a scalar.
    """

    member: str | None
    time: str
    scalar: bool

    def inner(self, ds: xr.Dataset) -> xr.Dataset:
        """Return the Dataset with the time as a dimension of length one, first."""
        out = ds.expand_dims(self.time) if self.time not in ds.dims else ds
        first = [n for n, v in out.data_vars.items() if self.time in v.dims]
        return out.assign({n: out[n].transpose(self.time, ...) for n in first})

    def outer(self, ds: xr.Dataset) -> xr.Dataset:
        """Return the Dataset in the form of the initial ensemble."""
        return ds.isel({self.time: 0}) if self.scalar else ds

    def at(self, ds: xr.Dataset, time: np.datetime64) -> xr.Dataset:
        """Return the Dataset labelled with another time."""
        attrs = ds[self.time].attrs
        value = time.astype(ds[self.time].dtype)
        data = value if ds[self.time].ndim == 0 else [value]
        return ds.assign_coords({self.time: xr.Variable(ds[self.time].dims, data, attrs)})


def field_names(ds: xr.Dataset) -> list[str]:
    """Return the variables that have dimensions of space."""
    others = {*MEMBER_NAMES, "time"}
    return [str(n) for n, v in ds.data_vars.items() if set(v.dims) - others]


def form_of(ensemble: xr.Dataset, what: str = "initial ensemble") -> EnsembleForm:
    """Find out how an ensemble at one time is labelled.

    Parameters
    ----------
    ensemble : xarray.Dataset
        With a time that is scalar, or a dimension of length one.
    what : str
        What it is, for messages.

    Raises
    ------
    StateError
        Without fields, without a time, with several, or with one that is no datetime64.
    DaisiTypeError
        If it is no Dataset.
    """
    if not isinstance(ensemble, xr.Dataset):
        raise DaisiTypeError(problem(what, type(ensemble).__name__, "an xarray.Dataset"))
    names = field_names(ensemble)
    if not names:
        found = f"variables {', '.join(map(str, ensemble.data_vars)) or 'none'}"
        raise StateError(problem(what, found, "fields on a grid"))
    dims = find_dimensions(ensemble, names, what=what)
    if dims.time is not None and ensemble.sizes[dims.time] != 1:
        found = f"{ensemble.sizes[dims.time]} times along {dims.time!r}"
        remedy = f"select one: .isel({dims.time}=[0])"
        raise StateError(problem(what, found, "one time", remedy))
    time = time_coordinate(ensemble, dims.time)
    if time is None or (dims.time is not None and time != dims.time):
        found = "no time" if time is None else f"times {time!r} along the dimension {dims.time!r}"
        expected = "a scalar time, or a dimension of length one with its own coordinate"
        remedy = "label it: ensemble.assign_coords(time=numpy.datetime64('2019-03-01T00'))"
        raise StateError(problem(what, found, expected, remedy))
    if ensemble[time].dtype.kind != "M":
        found = f"times of type {ensemble[time].dtype}"
        remedy = "convert the calendar: ensemble.convert_calendar('standard', use_cftime=False)"
        raise StateError(problem(f"{what}, {time}", found, "datetime64", remedy))
    if np.isnat(np.asarray(ensemble[time].values)).any():
        raise StateError(problem(f"{what}, {time}", "a missing time", "a date"))
    return EnsembleForm(dims.member, time, dims.time is None)


def member_labels(ensemble: xr.Dataset, member: str | None) -> list[Any]:
    """Return the labels of the members, as plain numbers or texts; positions without any."""
    if member is None:
        return [0]
    if member not in ensemble.coords:
        return list(range(ensemble.sizes[member]))
    return [v.item() if isinstance(v, np.generic) else v for v in ensemble[member].values]


def instant(ensemble: xr.Dataset, time: str) -> np.datetime64:
    """Return the time of an ensemble, in microseconds."""
    value: np.datetime64 = ensemble[time].values.reshape(-1)[0].astype("datetime64[us]")
    return value


def time_text(time: np.datetime64) -> str:
    """Return a time as text without needless digits.

    Examples
    --------
    >>> time_text(np.datetime64("2019-03-01T06:00:00.000000"))
    '2019-03-01T06:00'
    """
    text = str(time.astype("datetime64[us]"))
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return text.removesuffix(":00") if text.count(":") == 2 else text
