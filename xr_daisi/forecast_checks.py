"""What a forecast model returned, checked before it goes on in a cycle."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from xr_daisi.ensembles import EnsembleForm, form_of, member_labels, time_text
from xr_daisi.errors import DaisiTypeError, ForecastError, UnitsError, problem, raise_problems
from xr_daisi.units import conversion

__all__ = ["checked_forecast", "failed_members"]

CLOSE = 1e-6
"""Share of a grid's extent within which coordinates agree: files of models round them."""


def checked_forecast(
    forecast: Any, ensemble: xr.Dataset, until: np.datetime64, *, what: str = "forecast"
) -> xr.Dataset:
    """Return a model's forecast in the form of the ensemble that it was made from.

    Variables that the ensemble does not have are left out, dimensions are put in its order,
    members and grid points in that of its labels, units are converted, and the attributes are
    those of the ensemble. Units that the forecast does not name are taken to be unchanged.

    Parameters
    ----------
    forecast : xarray.Dataset
        What the model returned.
    ensemble : xarray.Dataset
        What it was given, at one time.
    until : datetime64
        The time that it was to reach.
    what : str
        What the forecast is, for messages.

    Returns
    -------
    xarray.Dataset
        Variables, dimensions, coordinates, attributes and types of `ensemble`, at time `until`.

    Raises
    ------
    ForecastError
        Naming every variable, member, time, unit or coordinate that is not as expected, or the
        members that are not finite where the ensemble is.
    DaisiTypeError
        If it is no Dataset.
    """
    if not isinstance(forecast, xr.Dataset):
        remedy = "the model has to return one: model(ensemble, until) -> Dataset"
        found = type(forecast).__name__
        raise DaisiTypeError(problem(what, found, "an xarray.Dataset", remedy))
    form = form_of(ensemble)
    here, problems = _at_time(forecast, form, until, what)
    raise_problems(ForecastError, problems)
    target = form.at(form.inner(ensemble), until)
    missing = [str(n) for n in target.data_vars if n not in here.data_vars]
    if missing:
        found = f"variables {', '.join(map(str, here.data_vars)) or 'none'}"
        raise ForecastError(problem(what, found, f"also {', '.join(missing)}"))
    here, problems = _on_labels(here[list(target.data_vars)], target, form, what)
    for name, variable in target.data_vars.items():
        problems += _dimension_problems(here[name], variable, what)
    raise_problems(ForecastError, problems)
    out = {}
    for name, variable in target.data_vars.items():
        given = here[name]
        try:
            units = given.attrs.get("units", variable.attrs.get("units"))
            change = conversion(units, variable.attrs.get("units"), variable=str(name))
        except UnitsError:
            expected = f"units that convert to {variable.attrs.get('units')!r}"
            found = f"units {given.attrs.get('units')!r}"
            problems.append(problem(f"{what} variable {str(name)!r}", found, expected))
            continue
        values = given.variable.transpose(*variable.dims).data
        if not change.is_identity:
            values = values * change.factor + change.offset
        dtype = variable.dtype
        out[name] = variable.copy(data=np.asarray(values).astype(dtype, copy=False))
    raise_problems(ForecastError, problems)
    result = target.assign(out)
    _check_finite(result, target, form, what)
    return form.outer(result)


def _at_time(
    forecast: xr.Dataset, form: EnsembleForm, until: np.datetime64, what: str
) -> tuple[xr.Dataset, list[str]]:
    """Return the forecast with a time dimension of length one, and what is wrong with its time."""
    expected = f"{time_text(until)}, the time that it was to reach"
    if form.time not in forecast.coords:
        remedy = f"label it: .assign_coords({form.time}=until)"
        text = problem(f"{what}, {form.time}", "no such coordinate", expected, remedy)
        return forecast, [text]
    times = np.atleast_1d(forecast[form.time].values)
    if times.dtype.kind != "M":
        return forecast, [problem(f"{what}, {form.time}", f"type {times.dtype}", expected)]
    if times.size != 1 or times[0] != until:
        told = ", ".join(time_text(t) for t in times[:3]) + (", ..." if times.size > 3 else "")
        remedy = f"select it: .sel({form.time}=until)" if until in times else ""
        found = told if times.size == 1 else f"{times.size} times ({told})"
        return forecast, [problem(f"{what}, {form.time}", found, expected, remedy)]
    return form.inner(forecast), []


def _on_labels(
    here: xr.Dataset, target: xr.Dataset, form: EnsembleForm, what: str
) -> tuple[xr.Dataset, list[str]]:
    """Bring members and grid points into the order of the ensemble's labels."""
    problems = []
    for d in target.dims:
        if d == form.time or d not in here.dims:
            continue
        label = "members" if d == form.member else f"grid, {str(d)!r}"
        if here.sizes[d] != target.sizes[d]:
            found = f"{here.sizes[d]} along {str(d)!r}"
            problems.append(problem(f"{what}, {label}", found, str(target.sizes[d])))
            continue
        if d not in target.coords or d not in here.coords:
            continue
        wanted, given = target[d].values, here[d].values
        order = _order(given, wanted)
        if order is None:
            different = [str(v) for v in given if v not in wanted][:3] or ["repeated ones"]
            expected = f"those of the ensemble, {wanted[0]} to {wanted[-1]}"
            found = f"other labels ({', '.join(different)})"
            problems.append(problem(f"{what}, {label}", found, expected))
        elif not np.array_equal(order, np.arange(order.size)):
            here = here.isel({d: order})
    return here, problems


def _order(given: np.ndarray, wanted: np.ndarray) -> np.ndarray | None:
    """Positions of the wanted labels among those given; None where they are not the same."""
    if np.array_equal(given, wanted):
        return np.arange(wanted.size)
    if given.dtype.kind in "fiu" and wanted.dtype.kind in "fiu":
        extent = float(np.ptp(wanted)) or max(abs(float(wanted[0])), 1.0)
        slack = CLOSE * extent if "f" in given.dtype.kind + wanted.dtype.kind else 0.0
        distance = np.abs(wanted.astype(float)[:, None] - given.astype(float)[None, :])
        order = np.argmin(distance, axis=1)
        good = np.take_along_axis(distance, order[:, None], axis=1).max() <= slack
    else:
        position = {value: i for i, value in enumerate(given.tolist())}
        order = np.array([position.get(value, -1) for value in wanted.tolist()])
        good = (order >= 0).all()
    return order if good and np.unique(order).size == order.size else None


def _dimension_problems(given: xr.DataArray, wanted: xr.DataArray, what: str) -> list[str]:
    if set(given.dims) == set(wanted.dims):
        return []
    expected = f"{tuple(map(str, wanted.dims))}, as in the ensemble"
    found = f"dimensions {tuple(map(str, given.dims))}"
    return [problem(f"{what} variable {str(wanted.name)!r}", found, expected)]


def failed_members(forecast: xr.Dataset, ensemble: xr.Dataset, member: str | None) -> np.ndarray:
    """Tell which members are not finite where the ensemble is.

    Parameters
    ----------
    forecast, ensemble : xarray.Dataset
        On the same coordinates.
    member : str or None
        Member dimension.

    Returns
    -------
    ndarray of bool
        One entry per member; one in all without members.
    """
    count = 1 if member is None else forecast.sizes[member]
    bad = np.zeros(count, dtype=bool)
    for name, variable in forecast.data_vars.items():
        if variable.dtype.kind != "f":
            continue
        wrong = _lost(variable, ensemble[name])
        kept = [member] if member in variable.dims else []
        bad |= np.asarray(wrong.any([d for d in wrong.dims if d not in kept]))
    return bad


def _lost(variable: xr.DataArray, given: xr.DataArray) -> xr.DataArray:
    """Tell where values are not finite that were."""
    lost: xr.DataArray = given.copy(data=~np.isfinite(variable.values) & np.isfinite(given.values))
    return lost


def _check_finite(result: xr.Dataset, given: xr.Dataset, form: EnsembleForm, what: str) -> None:
    bad = failed_members(result, given, form.member)
    if not bad.any():
        return
    labels = member_labels(given, form.member)
    names = [
        str(n)
        for n, v in result.data_vars.items()
        if v.dtype.kind == "f" and bool(_lost(v, given[n]).any())
    ]
    failed = {labels[i]: "values that are not finite" for i in np.flatnonzero(bad)}
    told = ", ".join(map(str, failed)) if form.member else ""
    found = f"NaN or infinite values of {', '.join(names)}" + (
        f" in members {told}" if told else ""
    )
    expected = "finite values wherever the ensemble has them"
    remedy = "a shorter step of the model may help; on_failure='drop-member' goes on without them"
    survivors = None
    if form.member is not None and not bad.all():
        survivors = form.outer(result.isel({form.member: np.flatnonzero(~bad)}))
    raise ForecastError(problem(what, found, expected, remedy), failed=failed, survivors=survivors)
