"""Blocks of members and times as a dask graph: tasks that hold no prior.

The flow is a task per block; what needs all members of a time comes before it, see `run_lazy`.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import numpy as np

from xr_daisi.column_update import row_chunks
from xr_daisi.devices import resolve_device
from xr_daisi.ensemble_work import (
    bridged,
    by_columns,
    finish_bridge,
    plan_updates,
    update_rows,
    updates_of,
)
from xr_daisi.shared_work import SharedWork, published
from xr_daisi.task_resources import task_resources
from xr_daisi.windows import Window

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from xr_daisi.blocks import Work
    from xr_daisi.column_update import ColumnUpdate
    from xr_daisi.ensemble_work import Planned
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
        task per chunk of times and members, or of times for methods that need all members.
    plan, work
        As in `run_eager`.

    Returns
    -------
    dask array
        Analysis or latents, shape and dtype of `states`, a chunk for each task. Kalman updates of
        large grids are tasks for some rows of them each.
    """
    import dask.array as da
    from dask.delayed import delayed

    if isinstance(states, np.ndarray):  # the observations alone are lazy
        states = da.from_array(states, chunks=(1, *states.shape[1:]))
    if plan is not None:
        states = states.rechunk({0: whole_windows(states.chunks[0], plan.windows)})
    if work.engine.joint:
        states = states.rechunk({1: -1})
    times, members = states.chunks[:2]
    # One task holds the prior; the others name it.
    unique = uuid.uuid4().hex
    task_count = len(times) * len(members)
    shared = delayed(published)(SharedWork(work, task_count), dask_key_name=f"daisi-prior-{unique}")
    # Optimised with the rest, so that nothing is read twice.
    blocks = states.to_delayed(optimize_graph=False)
    blocks = blocks.reshape(len(times), len(members))
    # Where the prior does not know them, the first member of the first time shows the holes; else
    # every task finds them in the prior.
    known, holes = work.engine.prior.holes, None
    if known is None:
        holes = delayed(_holes, pure=False)(shared, blocks[0, 0])
    check = work.options.background_check is not None
    filtered = check or known is None or known.any()
    rows: list[Any] = []
    first_times = _starts(times)
    for first, n_times, row in zip(first_times, times, blocks, strict=True):
        chosen = []
        for window in () if plan is None else plan.windows:
            if not first <= window[0] < first + n_times:
                continue
            batch = plan.lazy_window_batch(window) if plan is not None else None
            inside = [time - first for time in window]
            if filtered:
                task = delayed(_observations, pure=False)
                batch = task(shared, batch, [*row] if check else [], inside, holes)
            chosen.append((inside, batch))
        rows.append(None if plan is None else chosen)
    ndim = states.ndim
    if plan is not None and by_columns(work):
        row_sizes = row_chunks(states.shape[3:])
        if work.bridge is not None:
            updates = work.bridge.share != 0.0
            states, rows = _bridged(
                states, blocks, rows, shared, holes, first_times, row_sizes, updates
            )
        elif row_sizes is not None:
            planned = _planned(blocks, rows, shared, holes, first_times)
            return _by_rows(states, planned, shared, row_sizes).rechunk(states.chunks)
    # One blockwise layer: where nothing else needs the forecast's blocks, dask joins it with those
    # that read them, and a scheduler gives a task to the worker that is free, not to the one that
    # happened to read.
    return da.map_blocks(
        _task,
        states,
        *([_per_time(rows, f"daisi-observations-{unique}", ndim)] if plan is not None else []),
        name=f"daisi-analysis-{unique}",
        dtype=states.dtype,
        chunks=states.chunks,
        meta=np.empty((0,) * ndim, states.dtype),
        shared=shared,
        holes=holes,
        first_times=first_times,
        first_members=_starts(members),
    )


def _bridged(
    states: Any,
    blocks: Any,
    rows: list[Any],
    shared: Any,
    holes: Any,
    first_times: Sequence[int],
    row_sizes: tuple[int, ...] | None,
    updates: bool,
) -> tuple[Any, list[Any]]:
    """Put the bridge before the flow, with all members of a chunk of times together.

    Returns the forecast after it, in the same chunks, and the observations that are left: tasks of
    the flow stay one per chunk of members.
    """
    import dask.array as da
    from dask.delayed import delayed

    chunks, left = states.chunks, []
    if row_sizes is None:
        parts: list[Any] = []
        for row, chosen, first, times in zip(blocks, rows, first_times, chunks[0], strict=True):
            task = delayed(_bridge_task, pure=False, nout=2)
            whole, rest = task(shared, [*row], chosen, holes, first)
            left.append(rest)
            parts.append(da.from_delayed(whole, (times, *states.shape[1:]), dtype=states.dtype))
        return da.concatenate(parts).rechunk(chunks), left
    planned, after = _planned(blocks, rows, shared, holes, first_times), states
    if updates:
        after = _by_rows(states, planned, shared, row_sizes).rechunk(chunks)
    after_blocks = after.to_delayed(optimize_graph=False).reshape(blocks.shape)
    for row, after_row, one, first in zip(blocks, after_blocks, planned, first_times, strict=True):
        task = delayed(_finish_task, pure=False)
        left.append(task(shared, [*row], [*after_row], one, first))
    return after, left


def _planned(
    blocks: Any, rows: list[Any], shared: Any, holes: Any, first_times: Sequence[int]
) -> list[Any]:
    """One task per chunk of times, which sees whole states."""
    from dask.delayed import delayed

    task = delayed(_plan_task, pure=False)
    return [
        task(shared, [*row], chosen, holes, first)
        for row, chosen, first in zip(blocks, rows, first_times, strict=True)
    ]


def _by_rows(states: Any, planned: list[Any], shared: Any, row_sizes: tuple[int, ...]) -> Any:
    """One task per chunk of times and rows of the grid, with all members of these."""
    import dask.array as da
    from dask.delayed import delayed

    return da.map_blocks(
        _rows_task,
        states.rechunk({1: -1, 3: row_sizes}),
        _per_time(
            [delayed(updates_of)(one) for one in planned],
            f"daisi-updates-{uuid.uuid4().hex}",
            states.ndim,
        ),
        name=f"daisi-columns-{uuid.uuid4().hex}",
        dtype=states.dtype,
        meta=np.empty((0,) * states.ndim, states.dtype),
        shared=shared,
        first_rows=_starts(row_sizes),
    )


def _rows_task(
    block: np.ndarray,
    updates: list[tuple[Sequence[int], ColumnUpdate]],
    *,
    shared: Shared,
    first_rows: tuple[int, ...],
    block_id: tuple[int, ...],
) -> np.ndarray:
    work, first = shared.work, first_rows[block_id[3]]
    tasks = shared.tasks * len(first_rows)
    with task_resources(resolve_device(work.engine.device), tasks):
        return update_rows(work, block, updates, slice(first, first + block.shape[3]))


def _plan_task(
    shared: Shared,
    members: list[np.ndarray],
    observations: list[tuple[list[int], ObservationBatch]],
    holes: NDArray[np.bool_] | None,
    first_time: int,
) -> list[Planned]:
    work, block = shared.work, _joined(members)
    holes = work.holes(block) if holes is None else holes
    with task_resources(resolve_device(work.engine.device), shared.tasks):
        return plan_updates(work, block, [Window(*one) for one in observations], holes, first_time)


def _finish_task(
    shared: Shared,
    before: list[np.ndarray],
    after: list[np.ndarray],
    planned: list[Planned],
    first_time: int,
) -> list[Window]:
    work = shared.work
    with task_resources(resolve_device(work.engine.device), shared.tasks):
        return finish_bridge(work, _joined(before), _joined(after), planned, first_time)


def _joined(members: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(members, axis=1) if len(members) > 1 else members[0]


def _bridge_task(
    shared: Shared,
    members: list[np.ndarray],
    observations: list[tuple[list[int], ObservationBatch]],
    holes: NDArray[np.bool_] | None,
    first_time: int,
) -> tuple[np.ndarray, list[Window]]:
    work, block = shared.work, _joined(members)
    holes = work.holes(block) if holes is None else holes
    windows = [Window(*one) for one in observations]
    with task_resources(resolve_device(work.engine.device), shared.tasks):
        return bridged(work, block, windows, holes, first_time)


def _starts(chunks: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(int(start) for start in np.cumsum((0, *chunks[:-1])))


def _per_time(values: Sequence[Any], name: str, ndim: int) -> Any:
    """Return a dask array whose blocks along the first dimension are the values, of any kind."""
    import dask.array as da
    from dask.delayed import delayed
    from dask.highlevelgraph import HighLevelGraph

    delays = [delayed(value, traverse=True) for value in values]
    zeros = (0,) * (ndim - 1)
    layer: dict[Any, Any] = {(name, i, *zeros): d.key for i, d in enumerate(delays)}
    graph = HighLevelGraph.from_collections(name, layer, dependencies=delays)
    chunks = ((1,) * len(delays), *((1,),) * (ndim - 1))
    return da.Array(graph, name, chunks, dtype=object, meta=np.empty((0,) * ndim, object))


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
    block: np.ndarray,
    observations: list[tuple[Any, ...]] | None = None,
    *,
    shared: Shared,
    holes: NDArray[np.bool_] | None,
    first_times: tuple[int, ...],
    first_members: tuple[int, ...],
    block_id: tuple[int, ...],
) -> np.ndarray:
    work = shared.work
    holes = work.holes(block) if holes is None else holes
    first_time, first_member = first_times[block_id[0]], first_members[block_id[1]]
    with task_resources(resolve_device(work.engine.device), shared.tasks):
        if observations is None:
            return work.invert(block, holes, first_time, first_member)
        windows = [Window(*one) for one in observations]
        return work.analyse(block, windows, holes, first_time, first_member)


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
