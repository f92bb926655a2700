"""Observations compared with forecast and analysis: what was used, and how far it is off."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from xr_daisi.errors import DaisiTypeError, NoObservationsWarning, StateError, problem
from xr_daisi.labels import remembered, state_of
from xr_daisi.layout import Layout, layout_of
from xr_daisi.observation_layout import Status
from xr_daisi.observations import ObservationBatch, ObservationPlan, match_observations

if TYPE_CHECKING:
    from collections.abc import Sequence

    import xarray as xr

    from xr_daisi.observation_sources import ObservationErrors, OperatorSettings
    from xr_daisi.observation_times import TimeTolerance

__all__ = ["feedback"]

REJECTED_BY_BACKGROUND_CHECK = len(Status)


def feedback(
    forecast: xr.Dataset,
    obs: xr.Dataset | Sequence[xr.Dataset],
    analysis: xr.Dataset,
    *,
    operator: OperatorSettings | None = None,
    obs_error: ObservationErrors | None = None,
    time_tolerance: TimeTolerance | None = None,
) -> Any:
    """Compare forecast and analysis with the observations.

    Parameters
    ----------
    forecast : xarray.Dataset
        What was given to `assimilate`.
    obs : xarray.Dataset or sequence of them
        The observations.
    analysis : xarray.Dataset
        What `assimilate` returned; its attributes tell how.
    operator, obs_error, time_tolerance
        As in `assimilate`; when None, named operators and errors are those of ``analysis.attrs``.
        An operator that was a function has to be given again.

    Returns
    -------
    xarray.Dataset, or a list of them if `obs` is a list
        On the dimensions of the observations, with the members' dimension first where there is one.
        For each observed variable ``v``, in the observation's units: ``v`` (the value), ``v_error``
        (standard deviation), ``v_forecast`` and ``v_analysis`` (H of each member), ``v_o_minus_b``
        and ``v_o_minus_a`` (departures from the ensemble means), ``v_status`` (0 is used; the
        reason else, see its ``flag_meanings``). Values that were not compared are NaN.

    Raises
    ------
    StateError, ObservationError, DaisiTypeError
        Where the three do not belong together.
    """
    for ds, what in ((forecast, "forecast"), (analysis, "analysis")):
        if not hasattr(ds, "data_vars"):
            raise DaisiTypeError(problem(what, type(ds).__name__, "an xarray.Dataset"))
    operator = _operator(operator, analysis)
    if obs_error is None:
        obs_error = remembered(analysis, "obs_error")
    spec = state_of(forecast, analysis)
    layouts = layout_of(forecast, spec), layout_of(analysis, spec)
    if layouts[0].times != layouts[1].times:
        raise StateError(
            problem(
                "analysis", f"{layouts[1].times} times", f"{layouts[0].times}, as in the forecast"
            )
        )
    with warnings.catch_warnings():
        # That nothing overlaps was said by assimilate, and shows in the statuses.
        warnings.simplefilter("ignore", NoObservationsWarning)
        plan = match_observations(
            obs,
            spec,
            layouts[0].time_values,
            operator=operator,
            obs_error=obs_error,
            time_tolerance=time_tolerance,
        )
    batches = [plan.batch(i) for i in range(plan.n_times)]
    compared = [
        _observed(ds, layout, batches)
        for ds, layout in zip((forecast, analysis), layouts, strict=True)
    ]
    check = (remembered(analysis, "settings") or {}).get("background_check")
    status = _statuses(plan, batches, compared[0], check)
    datasets = [obs] if hasattr(obs, "data_vars") else list(obs)
    columns = {
        "error": plan.column((b, b.errors) for b in batches),
        "forecast": plan.column(zip(batches, compared[0], strict=True)),
        "analysis": plan.column(zip(batches, compared[1], strict=True)),
    }
    restored = {key: plan.restore(column) for key, column in columns.items()}
    restored["status"] = plan.restore(status)
    results = [
        _labelled(ds, {key: parts[i] for key, parts in restored.items()}, forecast, layouts[0])
        for i, ds in enumerate(datasets)
    ]
    return results[0] if hasattr(obs, "data_vars") else results


def _operator(operator: OperatorSettings | None, analysis: xr.Dataset) -> OperatorSettings | None:
    if operator is not None:
        return operator
    found = remembered(analysis, "operator") or {}
    lost = [name for name, kind in found.items() if kind.startswith("callable")]
    if lost:
        raise StateError(
            problem(
                "operator",
                f"functions for {', '.join(lost)}, which attributes cannot hold",
                "the functions that assimilate was given",
                "pass operator=... again",
            )
        )
    return found or None


def _observed(
    ds: xr.Dataset, layout: Layout, batches: list[ObservationBatch]
) -> list[np.ndarray]:
    """H of every member at every time, ``(member, n)``; NaN members stay NaN."""
    states = layout.stack(ds)
    out = []
    for time, batch in enumerate(batches):
        if not len(batch):
            out.append(np.zeros((layout.members, 0)))
            continue
        block = np.asarray(states[time]).astype(float) * layout.factor + layout.offset
        tensors = batch.to_tensors(None, "cpu", torch.float64)
        with torch.no_grad():
            out.append(tensors.observe(torch.from_numpy(block)).numpy())
    return out


def _statuses(
    plan: ObservationPlan,
    batches: list[ObservationBatch],
    forecast: list[np.ndarray],
    background_check: float | None,
) -> np.ndarray:
    status: np.ndarray = plan.table["status"].astype(np.int8)
    # Values of dask arrays have been read by now.
    status[status == Status.UNCHECKED] = Status.MISSING
    for batch, y in zip(batches, forecast, strict=True):
        status[batch.rows] = Status.USED
        if background_check is not None and len(batch):
            spread = y.var(axis=0, ddof=1) if y.shape[0] > 1 else 0.0
            departure = np.abs(batch.values - y.mean(axis=0))
            far = departure > background_check * np.sqrt(spread + batch.errors**2)
            status[batch.rows[far]] = REJECTED_BY_BACKGROUND_CHECK
    return status


def _labelled(
    obs: xr.Dataset, parts: dict[str, dict[str, np.ndarray]], forecast: xr.Dataset, layout: Layout
) -> xr.Dataset:
    import xarray as xr

    member = layout.dims.member
    reasons = [s.reason for s in Status if s is not Status.UNCHECKED]
    codes = [int(s) for s in Status if s is not Status.UNCHECKED]
    reasons.append("too far from the forecast")
    codes.append(REJECTED_BY_BACKGROUND_CHECK)
    data: dict[str, Any] = {}
    for name, status in parts["status"].items():
        da = obs[name]
        dims = da.dims
        units = {"units": da.attrs["units"]} if "units" in da.attrs else {}
        long_name = str(da.attrs.get("long_name", name))
        values = da.to_numpy().astype(float)
        data[name] = (dims, values, dict(da.attrs))
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
                values - members.mean(axis=0),
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
    coords = {k: v for k, v in obs.coords.items() if set(v.dims) <= {d for n in data for d in data[n][0]}}
    if member is not None and member in forecast.coords:
        coords[member] = forecast.coords[member]
    attrs = {k: v for k, v in obs.attrs.items() if k != "history"}
    return xr.Dataset(data, coords=coords, attrs=attrs)
