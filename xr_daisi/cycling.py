"""Forecast and analysis in turn, kept on the disk as they go: `cycle`."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from xr_daisi.cycle_plan import OnFailure, make_plan
from xr_daisi.cycle_run import CycleRecord, CycleRun
from xr_daisi.cycle_store import CycleStore
from xr_daisi.forecast import ForecastModel
from xr_daisi.priors import FlowPrior
from xr_daisi.progress import progress_bar

__all__ = ["CycleRecord", "cycle"]


def cycle(
    initial: xr.Dataset,
    model: ForecastModel | Callable[[xr.Dataset, np.datetime64], xr.Dataset],
    observations: Any,
    prior: FlowPrior | str | Path | None = None,
    *,
    store: str | Path,
    window: str | datetime.timedelta | np.timedelta64,
    cycles: int | None = None,
    method: str = "daisi",
    truth: xr.Dataset | Callable[[np.datetime64], xr.Dataset] | None = None,
    on_failure: OnFailure = "stop",
    on_cycle: Callable[[CycleRecord], object] | None = None,
    seed: int = 0,
    progress: bool | None = None,
    overwrite: bool = False,
    **assimilate_keywords: Any,
) -> xr.Dataset:
    """Forecast and assimilate in turn, and store every cycle as it ends.

    Called again with the same arguments it goes on where it was, even if it was killed: the result
    is the same, bit for bit, as without interruption. More `cycles` continue it. One ensemble at a
    time is held in memory.

    Parameters
    ----------
    initial : xarray.Dataset
        The ensemble at the time of the first analysis: the background of the first cycle.
    model : callable
        ``model(ensemble, until) -> Dataset``, see `xr_daisi.forecast`. What it returns is checked.
    observations : Dataset, list of Dataset, callable, str or Path
        With times, in any order; or ``observations(time)`` that returns those of an analysis or
        None; or files, with wildcards (``"obs/*.nc"``) or the time of the analysis
        (``"obs-{time:%Y%m%d%H}.nc"``), looked for when their cycle comes.
    prior : FlowPrior, str or Path, optional
        As in `assimilate`.
    store : str or Path
        A Zarr store to make or to go on with; groups ``background``, ``analysis`` and ``scores``
        along time, ``observations`` and ``feedback`` by cycle.
    window : str, timedelta or timedelta64
        From one analysis to the next, such as ``"6h"``. The observations of an analysis are those
        later than half a window before it and not later than half a window after it.
    cycles : int, optional
        How many in all; until the observations end when None.
    method : str
        As in `assimilate`.
    truth : Dataset or callable, optional
        For scores: fields without members, with times; or ``truth(time)``.
    on_failure : {"stop", "drop-member", "forecast"}
        ``"stop"`` raises, and the finished cycles stay. ``"drop-member"`` goes on without members
        whose forecast fails. ``"forecast"`` takes the background for the analysis where the
        assimilation diverges or observations cannot be read.
    on_cycle : callable, optional
        Called with the `CycleRecord` of every cycle once it is stored.
    seed : int
        The noise of a member depends on the seed, its time and its position in the ensemble.
    progress : bool, optional
        Show a bar; when None, in a terminal or notebook.
    overwrite : bool
        Begin anew if the store exists.
    **assimilate_keywords
        For `assimilate`. ``time_tolerance`` is half the window when left out.

    Returns
    -------
    xarray.Dataset
        The analyses of all cycles, opened lazily from the store. Lost members are NaN.

    Raises
    ------
    SettingsError
        For settings that cannot be, or a store of another configuration: with all differences.
    ForecastError
        If the model fails or returns other members, times, variables, units or grid, or NaN.
    StateError, ObservationError, PriorError, DivergenceError, DaisiTypeError
        As in `assimilate`.

    Warns
    -----
    NoObservationsWarning
        Where a window has no observations that can be used: its analysis is the background.
    """
    plan = make_plan(
        initial,
        model,
        observations,
        prior,
        window=window,
        cycles=cycles,
        method=method,
        truth=truth,
        on_failure=on_failure,
        seed=seed,
        keywords=assimilate_keywords,
    )
    path = Path(store).expanduser()
    kept = CycleStore.create_or_open(
        path, plan.configuration, time=plan.form.time, overwrite=overwrite
    )
    with kept.locked():
        kept.recover()
        run = CycleRun(plan, kept)
        options = {"total": plan.cycles, "initial": kept.finished, "unit": "cycle"}
        with progress_bar(progress, desc="cycle", **options) as bar:
            for number in range(kept.finished, plan.cycles):
                record = run.one(number)
                bar.update()
                o_minus = [record.scores[f"o_minus_{letter}"] for letter in "ba"]
                bar.set_postfix_str("O-B {:.2f}, O-A {:.2f}".format(*o_minus))
                if on_cycle is not None:
                    on_cycle(record)
    return kept.group("analysis", chunks={})
