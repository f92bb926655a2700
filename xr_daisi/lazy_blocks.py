"""Blocks of members and times as a dask graph: one task for each, which holds no prior."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import numpy as np

from xr_daisi.devices import resolve_device
from xr_daisi.shared_work import SharedWork, published
from xr_daisi.task_resources import task_resources
from xr_daisi.windows import Window

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from xr_daisi.blocks import Work
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
        Analysis or latents, shape and dtype of `states`, a chunk for each task.
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
    if work.bridge is not None and plan is not None:
        states, rows = _bridged(states, blocks, rows, shared, holes, first_times)
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
    states: Any, blocks: Any, rows: list[Any], shared: Any, holes: Any, first_times: Sequence[int]
) -> tuple[Any, list[Any]]:
    """Put the bridge before the flow: a task per chunk of times, with all members of these.

    Returns the forecast after it, in the same chunks, and the observations that are left: tasks of
    the flow stay one per chunk of members.
    """
    import dask.array as da
    from dask.delayed import delayed

    parts: list[Any] = []
    left: list[Any] = []
    for row, chosen, first, times in zip(blocks, rows, first_times, states.chunks[0], strict=True):
        if not chosen:
            whole = delayed(_joined, pure=False)([*row])
            left.append([])
        else:
            both = delayed(_bridge_task, pure=False, nout=2)(shared, [*row], chosen, holes, first)
            whole, rest = both
            left.append(rest)
        shape = times, *states.shape[1:]
        parts.append(da.from_delayed(whole, shape, dtype=states.dtype))
    return da.concatenate(parts).rechunk(states.chunks), left


def _joined(members: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(members, axis=1)


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
        return work.bridged(block, windows, holes, first_time)


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
