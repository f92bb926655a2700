"""The forecast of one cycle, and what to do when the model or some members fail."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from xr_daisi.ensembles import form_of, member_labels, time_text
from xr_daisi.errors import DaisiError, ForecastError, problem
from xr_daisi.forecast_checks import checked_forecast
from xr_daisi.user_warnings import warn_user

__all__ = ["next_background"]


def next_background(
    model: Any, ensemble: xr.Dataset, until: np.datetime64, *, drop: bool
) -> tuple[xr.Dataset, dict[Any, str]]:
    """Carry an ensemble on to the next analysis.

    Parameters
    ----------
    model : ForecastModel
        The model.
    ensemble : xarray.Dataset
        The last analysis, in the form that the model knows.
    until : datetime64
        Time of the next.
    drop : bool
        Whether to go on without members that fail.

    Returns
    -------
    xarray.Dataset
        The forecast, checked, of the members left.
    dict
        ``{label: reason}`` of those that failed.

    Raises
    ------
    ForecastError
        If the model fails, or returns what cannot go on.
    """
    try:
        return _run(model, ensemble, until), {}
    except ForecastError as error:
        if not drop:
            raise
        problems = error
    form = form_of(ensemble)
    if problems.failed and problems.survivors is not None:
        labels = member_labels(ensemble, form.member)
        left = [i for i, label in enumerate(labels) if label not in problems.failed]
        given = ensemble.isel({form.member: left})
        forecast = checked_forecast(problems.survivors, given, until)
        failed = dict(problems.failed)
    else:
        forecast, failed = _one_by_one(model, ensemble, until, problems)
    for label, reason in failed.items():
        found = f"a failure on the way to {time_text(until)} ({_first_line(reason)})"
        warn_user(problem(f"member {label}", found, "a forecast", "the cycle goes on without it"))
    return forecast, failed


def _run(model: Any, ensemble: xr.Dataset, until: np.datetime64) -> xr.Dataset:
    try:
        # A copy: a model that works in place must not change what it is compared with.
        raw = model(ensemble.copy(deep=True), until.astype("datetime64[ns]"))
        if isinstance(raw, xr.Dataset):
            raw = raw.compute()
    except ForecastError:
        raise
    except Exception as error:
        found = f"{type(error).__name__} ({_first_line(error)})"
        expected = f"a forecast until {time_text(until)}"
        raise ForecastError(problem(f"model {model!r}", found, expected)) from error
    try:
        return checked_forecast(raw, ensemble, until)
    except ForecastError:
        raise
    except DaisiError as error:  # of its form
        raise ForecastError(str(error)) from error


def _one_by_one(
    model: Any, ensemble: xr.Dataset, until: np.datetime64, first: ForecastError
) -> tuple[xr.Dataset, dict[Any, str]]:
    """Run every member on its own, to find those that fail."""
    member = form_of(ensemble).member
    if member is None or ensemble.sizes[member] < 2:
        raise first
    parts, failed = [], {}
    for i, label in enumerate(member_labels(ensemble, member)):
        try:
            parts.append(_run(model, ensemble.isel({member: [i]}), until))
        except ForecastError as error:
            failed[label] = str(error)
    if not parts:
        raise first
    static = [n for n, v in ensemble.variables.items() if member not in v.dims]
    joined = xr.concat(
        [p.drop_vars([n for n in static if n in p.data_vars]) for p in parts],
        member,
        coords="minimal",
        compat="override",
        join="override",
        combine_attrs="override",
    )
    kept = [n for n in ensemble.data_vars if n in static]
    joined = joined.assign({n: parts[0][n] for n in kept})
    order = {n: joined[n].transpose(*ensemble[n].dims) for n in ensemble.data_vars}
    return joined[list(ensemble.data_vars)].assign(order), failed


def _first_line(reason: object) -> str:
    lines = str(reason).strip().splitlines()
    return lines[0] if lines else type(reason).__name__
