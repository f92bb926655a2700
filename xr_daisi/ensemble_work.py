"""Kalman updates of blocks of times: planned with whole states, made for any rows of the grid.

A block is a NumPy array ``(time, member, channel, *space)`` with all members, in the forecast's own
units.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np

from xr_daisi.ensemble_engine import EnsembleEngine
from xr_daisi.observation_extremes import refuse_extremes
from xr_daisi.trajectories import TrajectoryEngine, trajectories
from xr_daisi.windows import Window

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from xr_daisi.blocks import Work
    from xr_daisi.bridge import BridgePlan
    from xr_daisi.column_update import ColumnUpdate
    from xr_daisi.engine import Engine
    from xr_daisi.observation_batch import ObservationBatch

__all__ = [
    "Planned",
    "bridged",
    "by_columns",
    "finish_bridge",
    "plan_updates",
    "update_rows",
    "updates_of",
]


class Planned(NamedTuple):
    """What is to be done to times that are analysed together.

    Attributes
    ----------
    times : sequence of int
        Their numbers in the block.
    update : ColumnUpdate or None
        None where there is nothing to update.
    given : ObservationBatch
        The observations as they were given, for messages.
    bridge : BridgePlan or None
        What follows, where the flow does.
    """

    times: Sequence[int]
    update: ColumnUpdate | None
    given: ObservationBatch
    bridge: BridgePlan | None = None


def by_columns(work: Work) -> bool:
    """Whether ensembles are updated column by column, before the flow or instead of it."""
    engine = work.engine
    kalman = isinstance(engine, EnsembleEngine) and engine.method in ("letkf", "etkf")
    return kalman or work.bridge is not None


def plan_updates(
    work: Work,
    block: np.ndarray,
    observations: Sequence[Window],
    holes: NDArray[np.bool_],
    first_time: int,
) -> list[Planned]:
    """Compare the ensembles of a block with their observations.

    Parameters
    ----------
    work : Work
        What is done to blocks.
    block : ndarray
        Whole states.
    observations : sequence of Window
        Of the block.
    holes : ndarray of bool
        ``(channel, *space)``: where the forecast has to be NaN.
    first_time : int
        Where the block begins in the whole forecast.

    Returns
    -------
    list of Planned
        For the times that have observations.

    Raises
    ------
    StateError
        Where the block is not finite outside holes.
    ObservationError
        For values that no precision can hold with their errors.
    """
    work.check(block, holes, first_time, 0)
    if work.bridge is not None:
        analysed = [t for w in observations if len(w.observations) for t in w.times]
        work.warn_if_far(block, analysed)
    planned = []
    for window in observations:
        batch = window.observations
        if not len(batch):
            continue
        refuse_extremes(batch, work.layout.spec)
        times = list(window.times)
        label = work.label(first_time, times)
        states = trajectories(work.physical(block[times]))
        own = work.given(batch)
        if work.bridge is not None:
            plan = work.bridge.plan(cast("Engine", work.engine), states, own, label)
            planned.append(Planned(times, plan.update, batch, plan))
        else:
            engine = cast("EnsembleEngine", work.engine)
            planned.append(Planned(times, engine.column_update(states, own, label), batch))
    return planned


def updates_of(planned: Sequence[Planned]) -> list[tuple[Sequence[int], ColumnUpdate]]:
    """Return what rows need of a plan: without the observations, which may be many."""
    return [(one.times, one.update) for one in planned if one.update is not None]


def update_rows(
    work: Work,
    block: np.ndarray,
    updates: Sequence[tuple[Sequence[int], ColumnUpdate]],
    rows: slice | None = None,
) -> np.ndarray:
    """Update some rows of the grid.

    Parameters
    ----------
    work : Work
        What is done to blocks.
    block : ndarray
        These rows of states, all members; not modified.
    updates : sequence of (times, ColumnUpdate)
        From `updates_of`.
    rows : slice, optional
        Of the first dimension of the grid; all of them when None.

    Returns
    -------
    ndarray
        The rows after the update, shape and dtype of `block`.
    """
    out = np.array(block)
    for times, update in updates:
        states = trajectories(work.physical(block[list(times)]))
        after = update(states) if rows is None else update.of_rows(states, rows)
        out[list(times)] = work.in_times(after, len(times))
    return out


def finish_bridge(
    work: Work, before: np.ndarray, after: np.ndarray, planned: Sequence[Planned], first_time: int
) -> list[Window]:
    """Say what the flow does after the update.

    Parameters
    ----------
    work : Work
        With a bridge.
    before, after : ndarray
        Whole states before and after it.
    planned : sequence of Planned
        Of the block.
    first_time : int
        Where the block begins in the whole forecast.

    Returns
    -------
    list of Window
        With what is left of the observations.

    Raises
    ------
    DivergenceError
        Where observations carried members away from all that the prior knows.
    """
    windows = []
    for one in planned:
        times, bridge = list(one.times), work.bridge
        if bridge is None or one.bridge is None:
            continue
        states = trajectories(work.physical(after[times]))
        if one.update is not None:
            work.stays_near(before[times], states, one.given, work.label(first_time, times))
        engine = cast("Engine", work.engine)
        if len(times) > 1:
            engine = TrajectoryEngine.of(engine, [work.label(first_time, [t]) for t in times])
        choice = bridge.choice(engine, states, one.bridge)
        rest = bridge.rest(engine, states, one.bridge)
        windows.append(Window(times, rest, choice, one.given))
    return windows


def bridged(
    work: Work,
    block: np.ndarray,
    observations: Sequence[Window],
    holes: NDArray[np.bool_],
    first_time: int,
) -> tuple[np.ndarray, list[Window]]:
    """Let the ensemble update take its share of the observations, all at once.

    Parameters
    ----------
    work, block, observations, holes, first_time
        As in `plan_updates`; the block is not modified.

    Returns
    -------
    ndarray
        The members that the flow starts from.
    list of Window
        With what is left of the observations for it.
    """
    if work.bridge is None:
        return block, list(observations)
    planned = plan_updates(work, block, observations, holes, first_time)
    after = update_rows(work, block, updates_of(planned))
    return after, finish_bridge(work, block, after, planned, first_time)
