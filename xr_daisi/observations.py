"""Observation Datasets and the times they belong to: what is assimilated when, and what is not.

`match_observations` reads coordinates, decides for each value whether and when it can be used, and
returns an `ObservationPlan`. Dask-backed values are read when a forecast time's batch is built.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
from numpy.typing import NDArray

from xr_daisi.duplicates import RepeatedObservationsWarning
from xr_daisi.errors import (
    DaisiError,
    DaisiTypeError,
    NoObservationsWarning,
    ObservationError,
    problem,
    raise_problems,
)
from xr_daisi.formats import read_observations
from xr_daisi.observation_batch import ObservationBatch
from xr_daisi.observation_options import (
    ObservationErrors,
    ObservationKeywords,
    ObservationOptions,
    OperatorSettings,
)
from xr_daisi.observation_plan import ObservationPlan
from xr_daisi.observation_sources import Source, read_dataset
from xr_daisi.observation_status import Status
from xr_daisi.observation_times import ForecastTimes, TimeTolerance, time_text
from xr_daisi.operators import StateLayout
from xr_daisi.plane import PlaneAxes

if TYPE_CHECKING:
    import xarray as xr

    from xr_daisi.observation_coordinates import Coordinates
    from xr_daisi.state import StateSpec

__all__ = [
    "ObservationBatch",
    "ObservationErrors",
    "ObservationOptions",
    "ObservationPlan",
    "OperatorSettings",
    "Status",
    "TimeTolerance",
    "match_observations",
]


def match_observations(
    obs: xr.Dataset | Sequence[xr.Dataset],
    spec: StateSpec,
    times: NDArray[Any] | None,
    options: ObservationOptions | None = None,
    **keywords: Unpack[ObservationKeywords],
) -> ObservationPlan:
    """Assign observations to the grid and the times of a forecast.

    Parameters
    ----------
    obs : Dataset or sequence of Dataset
        Points, station series, or fields on the state's coordinate values; not modified.
    spec : StateSpec
        The state.
    times : array of datetime64 or cftime, shape (n,), or None
        The forecast's times.
    options : ObservationOptions, optional
        How they are read; when None, `keywords` make it.
    **keywords
        Attributes of `ObservationOptions`.

    Returns
    -------
    ObservationPlan
        What is used when.

    Raises
    ------
    ObservationError
        With everything that is wrong with the observations.
    DaisiTypeError
        For arguments of the wrong type.

    Warns
    -----
    NoObservationsWarning
        Where no observation can be used.
    RepeatedObservationsWarning
        Where several values of a Dataset share variable, place and time.
    """
    datasets = _datasets(obs)
    options = ObservationOptions(**keywords) if options is None else options
    forecast_times = ForecastTimes(times, options.time_tolerance)
    sources: list[Source] = []
    coordinates: list[Coordinates] = []
    names = [str(name) for ds in datasets for name in ds.data_vars]
    problems = options.unknown_names(names, spec)
    for number, ds in enumerate(datasets):
        subject = "observations" if len(datasets) == 1 else f"observations[{number}]"
        try:
            own, found = read_dataset(ds, number, spec, forecast_times, options, subject)
        except DaisiTypeError:
            raise
        except DaisiError as error:
            problems.append(str(error))
            continue
        coordinates.append(found)
        for source in own:
            first = sources[-1].first_row + sources[-1].layout.size if sources else 0
            sources.append(replace(source, first_row=first))
    raise_problems(ObservationError, problems)
    plan = ObservationPlan(
        tuple(sources),
        forecast_times.count,
        StateLayout.of(spec),
        len(datasets),
        PlaneAxes.of(spec),
        options,
    )
    if options.thin is not None:
        plan.axes.length(options.thin, "thin")  # an error now rather than in a task
    plan, count = plan.without_duplicates()
    if count:
        shared = f"{count} values that share variable, place and time with others"
        remedy = "average them with thin=..., or drop what is too much"
        said = problem("observations", shared, "one value each; all are used", remedy)
        warnings.warn(said, RepeatedObservationsWarning, stacklevel=2)
    if plan.used == 0:
        text = _nothing_used(plan, spec, forecast_times, coordinates)
        warnings.warn(text, NoObservationsWarning, stacklevel=2)
    return plan


def _datasets(obs: object) -> list[xr.Dataset]:
    if isinstance(obs, Sequence) and not isinstance(obs, (str, bytes)):
        if not obs:
            expected = "a Dataset or a list of Datasets"
            raise DaisiTypeError(problem("observations", "nothing", expected))
        return [_read(one, number) for number, one in enumerate(obs)]
    return [read_observations(obs)]


def _read(one: object, number: int) -> xr.Dataset:
    """Read one of several; errors say which."""
    try:
        return read_observations(one)
    except DaisiError as error:
        text = str(error)
        if text.startswith("observations:"):
            text = f"observations[{number}]{text.removeprefix('observations')}"
        raise type(error)(text) from error.__cause__


def _nothing_used(
    plan: ObservationPlan,
    spec: StateSpec,
    times: ForecastTimes,
    coordinates: Sequence[Coordinates],
) -> str:
    """Text of the warning: what the forecast covers, and what the observations cover."""
    words = ", ".join(f"{count} {reason}" for reason, count in plan.counts.items())
    lines = [f"no observation can be used ({words or 'there are none'}): the forecast stays as is"]
    for axis, dim in enumerate(spec.dims):
        values = np.concatenate(
            [found.horizontal[axis].values.reshape(-1) for found in coordinates]
        )
        grid = spec.coords[dim]
        text = f"{dim}: found {_span(values)}, expected {np.min(grid):g} to {np.max(grid):g}"
        lines.append(text)
    for variable in spec.variables:
        places = [found.vertical.get(variable.level_dim or "") for found in coordinates]
        heights = [place.values.reshape(-1) for place in places if place is not None]
        if variable.levels and heights:
            span = _span(np.asarray(variable.levels))
            found_span = _span(np.concatenate(heights))
            lines.append(f"{variable.level_dim}: found {found_span}, expected {span}")
    timed = [found.time for found in coordinates if found.time is not None]
    dates = [time.values.reshape(-1) for time in timed if time.values.size]
    if dates:
        first, last = min(map(np.min, dates)), max(map(np.max, dates))
        lines.append(
            f"time: found {time_text(first)} to {time_text(last)}, expected {times.span()}"
        )
    return "; ".join(dict.fromkeys(lines))


def _span(values: NDArray[np.float64]) -> str:
    finite = values[np.isfinite(values)]
    return f"{finite.min():g} to {finite.max():g}" if finite.size else "no position"
