"""Observations compared with forecast and analysis: what was used, and how far it is off."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import torch
import xarray as xr

from xr_daisi.blocks import far_from_ensemble
from xr_daisi.bounds import BoundCounter, bound_variables
from xr_daisi.duplicates import RepeatedObservationsWarning
from xr_daisi.errors import (
    DaisiTypeError,
    NoObservationsWarning,
    StateError,
    problem,
    raise_problems,
)
from xr_daisi.feedback_values import PERIOD, mean_departure, with_value_statistics
from xr_daisi.formats import read_observations
from xr_daisi.holes import fill_holes, holes_of
from xr_daisi.labels import remembered, state_of
from xr_daisi.layout import Layout, layout_of
from xr_daisi.lazy_blocks import whole_windows
from xr_daisi.observation_coordinates import find_coordinates
from xr_daisi.observation_holes import outside_holes
from xr_daisi.observation_options import ObservationOptions
from xr_daisi.observation_quality import FlagWarning
from xr_daisi.observation_status import Status
from xr_daisi.observations import ObservationBatch, ObservationPlan, match_observations
from xr_daisi.trajectories import trajectories

if TYPE_CHECKING:
    from collections.abc import Sequence

    from xr_daisi.observation_options import ObservationErrors, OperatorSettings
    from xr_daisi.observation_times import TimeTolerance

__all__ = ["feedback"]


@overload
def feedback(
    forecast: xr.Dataset,
    obs: xr.Dataset,
    analysis: xr.Dataset,
    *,
    operator: OperatorSettings | None = None,
    obs_error: ObservationErrors | None = None,
    time_tolerance: TimeTolerance | None = None,
    withheld: bool = False,
) -> xr.Dataset: ...
@overload
def feedback(
    forecast: xr.Dataset,
    obs: Sequence[xr.Dataset],
    analysis: xr.Dataset,
    *,
    operator: OperatorSettings | None = None,
    obs_error: ObservationErrors | None = None,
    time_tolerance: TimeTolerance | None = None,
    withheld: bool = False,
) -> list[xr.Dataset]: ...
def feedback(
    forecast: xr.Dataset,
    obs: xr.Dataset | Sequence[xr.Dataset],
    analysis: xr.Dataset,
    *,
    operator: OperatorSettings | None = None,
    obs_error: ObservationErrors | None = None,
    time_tolerance: TimeTolerance | None = None,
    withheld: bool = False,
) -> xr.Dataset | list[xr.Dataset]:
    """Compare forecast and analysis with the observations.

    Dask-backed data are computed, one chunk of times after the other.

    Parameters
    ----------
    forecast : xarray.Dataset
        What was given to `assimilate`.
    obs : xarray.Dataset or sequence of them
        The observations.
    analysis : xarray.Dataset
        What `assimilate` returned; its attributes tell how.
    operator, obs_error, time_tolerance
        As in `assimilate`; when None, those of ``analysis.attrs``. An operator that was a function
        has to be given again.
    withheld : bool
        Whether `obs` was kept from `assimilate`, as by `withhold`: values that it could have used
        are then called withheld.

    Returns
    -------
    xarray.Dataset, or a list of them if `obs` is a list
        On the dimensions of the observations, with the members' dimension first where there is one.
        For each observed variable ``v``, in the observation's units: ``v`` (the value), ``v_error``
        (standard deviation), ``v_forecast`` and ``v_analysis`` (H of each member), ``v_o_minus_b``
        and ``v_o_minus_a`` (departures from the ensemble means), ``v_status`` (0 is used; the
        reason else, see its ``flag_meanings``), ``v_normalized_o_minus_b`` (over the standard
        deviation that spread and error let expect) and ``v_rank`` (how many members of the
        forecast, perturbed by the error, lie below the value). What follows from values that could
        not be compared is NaN. For each variable ``x`` of the state that the prior's transform
        keeps within bounds, ``x_at_bound_forecast`` and ``x_at_bound_analysis`` count the values
        at the bounds, where analyses are clipped, at times with observations.

    Raises
    ------
    StateError, ObservationError, DaisiTypeError
        Where the three do not belong together.
    """
    for ds, what in ((forecast, "forecast"), (analysis, "analysis")):
        if not hasattr(ds, "data_vars"):
            raise DaisiTypeError(problem(what, type(ds).__name__, "an xarray.Dataset"))
    one = not isinstance(obs, (list, tuple))
    datasets = [read_observations(d) for d in ([obs] if one else obs)]
    given = {"operator": operator, "obs_error": obs_error, "time_tolerance": time_tolerance}
    given = {key: value for key, value in given.items() if value is not None}
    options = ObservationOptions.from_dict({**(remembered(analysis, "settings") or {}), **given})
    spec = state_of(forecast, analysis)
    layouts = layout_of(forecast, spec), layout_of(analysis, spec)
    _check_pair(*layouts)
    with warnings.catch_warnings():
        # What is not used, and why, was said by assimilate, and shows in the statuses.
        for known in (NoObservationsWarning, FlagWarning, RepeatedObservationsWarning):
            warnings.simplefilter("ignore", known)
        plan = match_observations(datasets, spec, layouts[0].time_values, options)
    holes = holes_of(np.asarray(layouts[0].stack(forecast)[0, 0]))
    batches = [outside_holes(plan.window_batch(window), holes) for window in plan.windows]
    counters = [BoundCounter(spec, remembered(analysis, "state")) for _ in layouts]
    compared = [
        _observed(ds, layout, plan.windows, batches, counter)
        for ds, layout, counter in zip((forecast, analysis), layouts, counters, strict=True)
    ]
    status = _statuses(plan, batches, compared[0])
    if withheld:
        status[status == Status.USED] = Status.WITHHELD
    columns = {
        "error": plan.column((b, b.errors) for b in batches),
        "forecast": plan.column(zip(batches, compared[0], strict=True)),
        "analysis": plan.column(zip(batches, compared[1], strict=True)),
        "status": status,
    }
    restored = {key: plan.restore(column) for key, column in columns.items()}
    bounds = bound_variables(*counters)
    results = []
    for i, ds in enumerate(datasets):
        parts = {key: column[i] for key, column in restored.items()}
        periods = {s.name: s.operator.period for s in plan.sources if s.dataset == i}
        labelled = _labelled(ds, parts, periods, forecast, layouts[0])
        results.append(with_value_statistics(labelled).assign(bounds))
    return results[0] if one else results


def _check_pair(forecast: Layout, analysis: Layout) -> None:
    problems = []
    labels = [[one.time_label(i) for i in range(one.times)] for one in (forecast, analysis)]
    if labels[0] != labels[1]:
        other = next((a for a, f in zip(labels[1], labels[0], strict=False) if a != f), "")
        found = f"{len(labels[1])} times" + (f", {other} among them" if other else "")
        expected = f"the {len(labels[0])} of the forecast"
        problems.append(problem("analysis", found, expected, "select the same times of both"))
    if forecast.members != analysis.members:
        found, expected = f"{analysis.members} members", f"{forecast.members}, as in the forecast"
        problems.append(problem("analysis", found, expected, "give the whole ensembles"))
    raise_problems(StateError, problems)


def _observed(
    ds: xr.Dataset,
    layout: Layout,
    windows: Sequence[tuple[int, ...]],
    batches: Sequence[ObservationBatch],
    counter: BoundCounter,
) -> list[np.ndarray]:
    """H of every member for each window, ``(member, n)``, in the observations' units."""
    states = layout.stack(ds)
    out = [np.zeros((layout.members, 0))] * len(windows)
    chunks = whole_windows(getattr(states, "chunks", [(layout.times,)])[0], windows)
    for stop, length in zip(np.cumsum(chunks), chunks, strict=True):
        start = stop - length
        needed = [
            number
            for number, (window, batch) in enumerate(zip(windows, batches, strict=True))
            if start <= window[0] < stop and len(batch)
        ]
        if not needed:
            continue
        # One chunk of times at once: a lazy analysis computes it as a whole anyway.
        block = np.asarray(states[start:stop])
        for number in needed:
            inside = [time - start for time in windows[number]]
            physical = block[inside] * layout.factor + layout.offset
            for states_of_time in physical:
                counter.add(states_of_time)
            x = torch.from_numpy(trajectories(_filled(physical)))
            with torch.no_grad():
                y = batches[number].to_tensors(None, "cpu", torch.float64).observe(x)
            out[number] = y.numpy()
    return out


def _filled(states: np.ndarray) -> np.ndarray:
    """Put means in holes: a function on the grid may look at neighbours of what it is asked for."""
    holes = holes_of(states[0, 0])
    if holes is None:
        return states
    axes = (0, 1, *range(3, states.ndim))
    finite = np.isfinite(states)
    count = np.maximum(finite.sum(axis=axes, keepdims=True), 1)
    mean = np.where(finite, states, 0.0).sum(axis=axes, keepdims=True) / count
    return fill_holes(states, holes, mean)


def _statuses(
    plan: ObservationPlan,
    batches: Sequence[ObservationBatch],
    forecast: Sequence[np.ndarray],
) -> np.ndarray:
    status: np.ndarray = plan.table["status"]
    background_check = plan.options.background_check
    # Values of dask arrays have been read by now.
    status[status == Status.UNCHECKED] = Status.MISSING
    for batch, y in zip(batches, forecast, strict=True):
        status[batch.rows] = Status.USED
        for rows, reason in batch.rejected:
            status[rows] = reason
        if background_check is not None and len(batch):
            far = far_from_ensemble(batch, y, background_check)
            status[batch.rows[far]] = Status.FAR
    return status


def _labelled(
    obs: xr.Dataset,
    parts: dict[str, dict[str, np.ndarray]],
    periods: dict[str, float | None],
    forecast: xr.Dataset,
    layout: Layout,
) -> xr.Dataset:
    member = layout.dims.member
    reasons = [s.reason for s in Status if s is not Status.UNCHECKED]
    codes = [int(s) for s in Status if s is not Status.UNCHECKED]
    data: dict[str, Any] = {}
    for name, status in parts["status"].items():
        da = obs[name]
        dims = da.dims
        units = {"units": da.attrs["units"]} if "units" in da.attrs else {}
        long_name = str(da.attrs.get("long_name", name))
        if member in dims:
            raise StateError(
                problem(
                    "observations",
                    f"a dimension {member!r}, the name of the forecast's member dimension",
                    "another name",
                    f"obs.rename({member}=...)",
                )
            )
        values = da.to_numpy().astype(float)
        attrs = {k: v for k, v in da.attrs.items() if k not in ("ancillary_variables", PERIOD)}
        if periods[name] is not None:  # departures were wrapped by it, whatever the attributes say
            attrs[PERIOD] = periods[name]
        attrs["ancillary_variables"] = f"{name}_error {name}_status"
        data[name] = (dims, values, attrs)
        data[f"{name}_error"] = (
            dims,
            parts["error"][name],
            {"long_name": f"standard deviation of the error of {long_name}", **units},
        )
        for key, letter in (("forecast", "b"), ("analysis", "a")):
            members = parts[key][name]
            if members.ndim == len(dims):  # nothing was compared: no members either
                members = np.broadcast_to(members, (layout.members, *members.shape))
            label = {"long_name": f"{key} of {long_name} at the observations", **units}
            if member is None:
                data[f"{name}_{key}"] = (dims, members[0], label)
            else:
                data[f"{name}_{key}"] = ((member, *dims), members, label)
            data[f"{name}_o_minus_{letter}"] = (
                dims,
                mean_departure(values, members, attrs),
                {"long_name": f"{long_name} minus the mean of the {key}", **units},
            )
        data[f"{name}_status"] = (
            dims,
            status.astype(np.int8),
            {
                "long_name": f"what became of {long_name}",
                "flag_values": np.asarray(codes, dtype=np.int8),
                "flag_meanings": " ".join(r.replace(" ", "_").replace(",", "") for r in reasons),
            },
        )
    kept = {d for variable in data.values() for d in variable[0]}
    # Positions may be data variables, and a scalar coordinate may be called like the members.
    places = find_coordinates(obs, layout.spec, "observations").names & set(obs.variables)
    every = obs.set_coords(places).coords.to_dataset().compute()
    coords = {k: v for k, v in every.coords.items() if set(v.dims) <= kept and k != member}
    if member in forecast.coords and forecast.indexes[member].nlevels == 1:
        coords[member] = forecast.coords[member].reset_coords(drop=True)
    return xr.Dataset(data, coords=coords, attrs=obs.attrs)
