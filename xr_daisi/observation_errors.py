"""Errors of observed values: where a Dataset keeps them, in which units, and if they are sound."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from xr_daisi.coordinate_values import read_coordinate
from xr_daisi.error_structure import ErrorStructure
from xr_daisi.errors import DaisiTypeError, ObservationError, SettingsError, problem
from xr_daisi.interpolation import Ints
from xr_daisi.observation_layout import Layout
from xr_daisi.observation_options import ObservationErrors, ObservationOptions
from xr_daisi.operators import Operator
from xr_daisi.units import conversion

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["INSTRUMENTS", "ancillary", "check_values", "error_variable", "errors_of"]

INSTRUMENTS = (
    *("instrument", "sensor", "platform", "platform_name", "satellite", "source", "network"),
    *("station", "station_id", "station_name", "profile", "trajectory"),
)
"""Names of coordinates and variables that say who measured a value."""

EVERY_OTHER = "*"

AGREEMENT = 0.01
"""Relative difference up to which errors are those of a covariance: files are rounded."""


def error_variable(ds: xr.Dataset, name: str) -> str | None:
    """Name of the variable that holds the errors of another.

    Parameters
    ----------
    ds : Dataset
        Observations.
    name : str
        The observed variable.

    Returns
    -------
    str or None
        From its ``ancillary_variables``, else ``<name>_error``; None where there is none.
    """
    plain = f"{name}_error"
    found = ancillary(ds, name, ("standard_error",))
    return found or (plain if plain in ds.variables else None)


def ancillary(ds: xr.Dataset, name: str, endings: tuple[str, ...]) -> str | None:
    """Name of an ancillary variable by how its standard name ends; None where there is none.

    Parameters
    ----------
    ds : Dataset
        Observations.
    name : str
        The observed variable.
    endings : tuple of str
        Of the standard name.
    """
    variable = ds.variables[name]
    # With decode_coords="all" xarray moves the attribute to the encoding.
    listed = variable.attrs.get("ancillary_variables") or variable.encoding.get(
        "ancillary_variables", ""
    )
    for other in str(listed).split():
        if other in ds.variables:
            kind = str(ds.variables[other].attrs.get("standard_name", ""))
            if kind.strip().endswith(endings):
                return other
    return None


def errors_of(
    ds: xr.Dataset,
    name: str,
    operator: Operator,
    options: ObservationOptions,
    structure: ErrorStructure | None,
    subject: str,
) -> Any:
    """Errors of a variable in its own units.

    Parameters
    ----------
    ds : Dataset
        Observations.
    name : str
        The observed variable.
    operator : Operator
        How it follows from the state.
    options : ObservationOptions
        Errors of variables without any in the Dataset, and the inflation of all.
    structure : ErrorStructure or None
        Correlation of the errors; a covariance brings the standard deviations, too.
    subject : str
        Name for messages.

    Returns
    -------
    xarray.Variable or float
        Standard deviations.

    Raises
    ------
    ObservationError
        Where there are none, or they do not fit the variable.
    """
    inflation = float(options.of_variable("error_inflation", name, 1.0))
    errors = _errors(ds, name, operator, options, structure, subject)
    return errors if inflation == 1.0 else errors * inflation


def _errors(
    ds: xr.Dataset,
    name: str,
    operator: Operator,
    options: ObservationOptions,
    structure: ErrorStructure | None,
    subject: str,
) -> Any:
    import xarray as xr

    other = error_variable(ds, name)
    if other is None and structure is not None and structure.deviation is not None:
        return xr.Variable((structure.dim,), structure.deviation)
    if other is None:
        return _error_setting(ds, name, operator, options.obs_error, subject)
    errors, values = ds.variables[other], ds.variables[name]
    extra = [d for d in errors.dims if d not in values.dims]
    if extra or errors.dtype.kind not in "fiu":
        found = f"dimensions {errors.dims} and type {errors.dtype}"
        expected = f"numbers along some of {values.dims}"
        raise ObservationError(problem(f"{subject}, {other}", found, expected))
    # Errors are differences: the factor alone applies.
    own = errors.attrs.get("units")
    target, label = values.attrs.get("units"), f"{subject}, {other}"
    factor = conversion(target, own, variable=label, difference=True).factor
    errors = errors if factor == 1.0 else errors / factor
    if structure is None or structure.deviation is None:
        return errors
    # Values decide where errors matter. Of dask arrays, all is compared inside the tasks.
    covariance = xr.Variable((structure.dim,), structure.deviation)

    def agreeing(given: NDArray[Any], wanted: NDArray[Any], value: NDArray[Any]) -> NDArray[Any]:
        given, wanted, value = np.broadcast_arrays(given, wanted, value)
        known = ~np.isnan(value) & (given > 0)
        differ = known & (np.abs(given - wanted) > AGREEMENT * wanted)
        if differ.any():
            one = f"the first {given[differ][0]:g} against {wanted[differ][0]:g}"
            found = f"{int(differ.sum())} errors other than those of {name}_error_covariance, {one}"
            remedy = f"drop one of the two, or give {name}_error_correlation instead"
            raise ObservationError(problem(label, found, "the roots of its diagonal", remedy))
        return given.astype(np.float64)

    checked: xr.Variable = xr.apply_ufunc(
        agreeing, errors, covariance, values, dask="parallelized", output_dtypes=[np.float64]
    )
    return checked


def _error_setting(
    ds: xr.Dataset,
    name: str,
    operator: Operator,
    obs_error: ObservationErrors | None,
    subject: str,
) -> Any:
    given: object = obs_error
    if isinstance(obs_error, Mapping):
        keys = [key for key in (name, *operator.variables[:1]) if key in obs_error]
        given = obs_error[keys[0]] if keys else None
    if given is None:
        remedy = f"pass obs_error={{{name!r}: number}}, or add the variable '{name}_error'"
        expected = "a standard deviation for every value"
        raise ObservationError(problem(subject, "no observation error", expected, remedy))
    if isinstance(given, Mapping):
        return _by_instrument(ds, name, given, subject)
    return _number(given, subject)


def _number(given: object, subject: str) -> float:
    if isinstance(given, (bool, np.bool_)) or not isinstance(given, (int, float, np.number)):
        found, expected = f"obs_error {given!r}", "a positive number, or {variable: number}"
        raise DaisiTypeError(problem(subject, found, expected))
    value = float(given)
    if not (np.isfinite(value) and value > 0):
        raise SettingsError(problem(subject, f"obs_error {given!r}", "a positive number"))
    return value


def _by_instrument(
    ds: xr.Dataset, name: str, given: Mapping[Any, Any], subject: str
) -> xr.Variable:
    """Errors looked up by the instrument, platform or station of each value."""
    import xarray as xr

    dims = set(ds[name].dims)
    present = [n for n in INSTRUMENTS if n in ds.variables and set(ds[n].dims) <= dims]
    wanted = {str(key): _number(value, f"{subject} of {key!r}") for key, value in given.items()}
    if not present:
        found = f"errors by instrument, and none of the variables {list(INSTRUMENTS)}"
        remedy = f"obs = obs.assign_coords(instrument=({next(map(str, dims))!r}, [...]))"
        raise ObservationError(problem(subject, found, "who measured each value", remedy))
    labels = {n: np.asarray(read_coordinate(ds.variables[n])).astype(str) for n in present}
    # The identifier that the keys are of, else the first.
    other = max(present, key=lambda n: len(set(wanted) & set(labels[n].reshape(-1).tolist())))
    distinct, number = np.unique(labels[other], return_inverse=True)
    rest = wanted.get(EVERY_OTHER)
    lacking = [label for label in distinct.tolist() if label not in wanted and rest is None]
    if lacking:
        found = f"no error for {len(lacking)} values of {other!r}: {', '.join(lacking[:5])}"
        expected = f"a number for each, or one for {EVERY_OTHER!r}, every other"
        raise ObservationError(problem(subject, found, expected))
    table = np.asarray([wanted.get(label, rest) for label in distinct.tolist()], dtype=float)
    variable = ds.variables[other]
    return xr.Variable(variable.dims, table[number].reshape(variable.shape))


def check_values(
    layout: Layout, subject: str, values: NDArray[Any], errors: Any, rows: Ints, places: Ints
) -> list[str]:
    """Say what is wrong with values and, where there is a value, with their errors.

    Parameters
    ----------
    layout : Layout
        Of the variable.
    subject : str
        Its name for messages.
    values : array, shape (t, p)
        In the observation's units.
    errors : float or array, shape (t, p)
        Standard deviations.
    rows, places : array of int, shapes (t,) and (p,)
        Times and places of the values.

    Returns
    -------
    list of str
        Empty where all is well.
    """

    def first(bad: NDArray[np.bool_]) -> tuple[int, str]:
        row, place = np.nonzero(bad)
        flat = layout.flat_index(rows[row], places[place])
        return flat.size, layout.place_name(int(flat.min()))

    problems = []
    infinite = np.isinf(values)
    if infinite.any():
        count, place = first(infinite)
        found = f"{count} infinite value(s), the first at {place}"
        remedy = "replace them, e.g. obs = obs.where(abs(obs) < float('inf'))"
        problems.append(problem(subject, found, "numbers, or NaN where missing", remedy))
    bad = ~np.isnan(values) & ~(np.isfinite(errors) & (np.asarray(errors) > 0))
    if bad.any():
        count, place = first(bad)
        found = f"{count} observation error(s) that are NaN, zero, negative or infinite, "
        found += f"the first at {place}"
        expected = "a positive standard deviation wherever there is a value"
        remedy = "correct the errors, or set these values to NaN"
        problems.append(problem(subject, found, expected, remedy))
    return problems
