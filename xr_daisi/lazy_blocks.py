"""Blocks of members and times as a dask graph: one task for each, which holds no prior."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import numpy as np

from xr_daisi.devices import resolve_device
from xr_daisi.shared_work import SharedWork, published
from xr_daisi.task_resources import task_resources

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from xr_daisi.blocks import Window, Work
    from xr_daisi.observations import ObservationBatch, ObservationPlan
    from xr_daisi.shared_work import SpooledWork

    Shared = SharedWork | SpooledWork

__all__ = ["run_lazy", "whole_windows"]


def run_lazy(states: Any, plan: ObservationPlan | None, work: Work) -> Any:
    """Build the graph of the same work; computes nothing.

    Parameters
    ----------
    states : dask or NumPy array
        ``(time, member, channel, *space)`` in the forecast's units, each state in one chunk; one
        task per chunk of times and members.
    plan, work
        As in `run_eager`.

    Returns
    -------
    dask array
        Analysis or latents, shape, dtype and chunks of `states`.
    """
    import dask.array as da
    from dask.delayed import delayed

    if isinstance(states, np.ndarray):  # the observations alone are lazy
        states = da.from_array(states, chunks=(1, *states.shape[1:]))
    if plan is not None:
        states = states.rechunk({0: whole_windows(states.chunks[0], plan.windows)})
    # One task holds the prior; the others name it.
    tasks = len(states.chunks[0]) * len(states.chunks[1])
    name = f"daisi-prior-{uuid.uuid4().hex}"
    shared = delayed(published)(SharedWork(work, tasks), dask_key_name=name)
    blocks = states.to_delayed()
    space = (0,) * (states.ndim - 2)
    # Where the prior does not know them, the first member of the first time shows the holes; else
    # every task finds them in the prior.
    known, holes = work.engine.prior.holes, None
    if known is None:
        holes = delayed(_holes, pure=False)(shared, blocks[(0, 0, *space)])
    check = work.options.background_check is not None
    with_holes = known is None or known.any()
    rows = []
    first_time = 0
    for i, n_times in enumerate(states.chunks[0]):
        chosen: Any = None
        if plan is not None:
            members = [blocks[(i, j, *space)] for j in range(len(states.chunks[1]))]
            chosen = []
            for window in plan.windows:
                if not first_time <= window[0] < first_time + n_times:
                    continue
                batch = plan.lazy_window_batch(window)
                inside = [time - first_time for time in window]
                if check or with_holes:
                    task = delayed(_observations, pure=False)
                    batch = task(shared, batch, members if check else [], inside, holes)
                chosen.append((inside, batch))
        row, first_member = [], 0
        for j, n_members in enumerate(states.chunks[1]):
            task = delayed(_task, pure=False)(
                shared, blocks[(i, j, *space)], chosen, holes, first_time, first_member
            )
            shape = (n_times, n_members, *states.shape[2:])
            row.append(da.from_delayed(task, shape=shape, dtype=states.dtype))
            first_member += n_members
        rows.append(da.concatenate(row, axis=1))
        first_time += n_times
    return da.concatenate(rows, axis=0)


def whole_windows(chunks: tuple[int, ...], windows: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """Join chunks of times that are analysed together."""
    ends = np.cumsum(chunks)
    chunk_of = np.searchsorted(ends, np.arange(ends[-1]), side="right")
    joined = np.zeros(len(chunks), dtype=bool)  # a chunk with the next
    for window in windows:
        joined[chunk_of[min(window)] : chunk_of[max(window)]] = True
    kept = [int(end) for end, with_next in zip(ends, joined, strict=True) if not with_next]
    return tuple(int(n) for n in np.diff([0, *kept]))


def _task(
    shared: Shared,
    block: np.ndarray,
    observations: list[Window] | None,
    holes: NDArray[np.bool_] | None,
    first_time: int,
    first_member: int,
) -> np.ndarray:
    work = shared.work
    holes = work.holes(block) if holes is None else holes
    with task_resources(resolve_device(work.engine.device), shared.tasks):
        if observations is None:
            return work.invert(block, holes, first_time, first_member)
        return work.analyse(block, observations, holes, first_time, first_member)


def _holes(shared: Shared, block: np.ndarray) -> NDArray[np.bool_]:
    return shared.work.holes(block)


def _observations(
    shared: Shared,
    observations: ObservationBatch,
    members: list[np.ndarray],
    times: Sequence[int],
    holes: NDArray[np.bool_] | None,
) -> ObservationBatch:
    ensemble = np.concatenate([m[list(times)] for m in members], axis=1) if members else None
    return shared.work.filtered(ensemble, observations, holes)
