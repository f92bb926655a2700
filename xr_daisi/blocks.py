"""Blocks of members and times through the engine: eager, or as a dask graph.

A block is a NumPy array ``(time, member, channel, *space)`` in the forecast's own units.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from xr_daisi.errors import StateError, problem
from xr_daisi.progress import progress_bar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from xr_daisi.engine import Engine
    from xr_daisi.layout import Layout
    from xr_daisi.observations import ObservationBatch, ObservationPlan

__all__ = ["Work", "run_eager", "run_lazy"]


@dataclass(frozen=True)
class Work:
    """What is done to every block.

    Attributes
    ----------
    engine : Engine
        Prior, settings, seed, device.
    layout : Layout
        Units, labels.
    background_check : float or None
        Reject observations beyond this many standard deviations.
    """

    engine: Engine
    layout: Layout
    background_check: float | None

    def physical(self, states: np.ndarray) -> np.ndarray:
        """Convert states from the forecast's to the prior's units, float64."""
        converted: np.ndarray = states.astype(float) * self.layout.factor + self.layout.offset
        return converted

    def own_units(self, states: np.ndarray) -> np.ndarray:
        """Convert states from the prior's to the forecast's units."""
        converted: np.ndarray = (states - self.layout.offset) / self.layout.factor
        return converted

    def check(self, block: np.ndarray, first_time: int, first_member: int) -> None:
        """Raise where a forecast is not finite, saying where."""
        finite = np.isfinite(block)
        if finite.all():
            return
        bad = np.argwhere(~finite)
        time, member, channel, *place = (int(i) for i in bad[0])
        spec = self.layout.spec
        name, level = "", ""
        for v in spec.variables:
            part = spec.channel_slice(v.name)
            if part.start <= channel < part.stop:
                name = v.name
                if v.levels is not None:
                    level = f", {v.level_dim}={v.levels[channel - part.start]:g}"
        where = ", ".join(
            f"{d}={spec.coords[d][i]:g}" for d, i in zip(spec.dims, place, strict=True)
        )
        label = self.layout.time_label(first_time + time)
        at = f"time {label}, " if label else ""
        raise StateError(
            problem(
                f"forecast variable {name!r}",
                f"{len(bad)} values that are not finite, first at {at}member "
                f"{first_member + member}{level}, {where}",
                "finite values",
                "fill them or leave out the member or time, e.g. forecast.dropna('member')",
            )
        )

    def filtered(
        self, members: np.ndarray, observations: ObservationBatch
    ) -> ObservationBatch:
        """Leave out observations far from the ensemble; `members` are all of one time."""
        if self.background_check is None or not len(observations):
            return observations
        x = torch.from_numpy(self.physical(members))
        y = observations.to_tensors(None, "cpu", torch.float64).observe(x).detach().numpy()
        spread = y.var(axis=0, ddof=1) if y.shape[0] > 1 else np.zeros(y.shape[1])
        departure = np.abs(observations.values - y.mean(axis=0))
        keep = departure <= self.background_check * np.sqrt(spread + observations.errors**2)
        return observations if keep.all() else observations.keep(keep)

    def analyse(
        self,
        block: np.ndarray,
        observations: Sequence[ObservationBatch],
        first_time: int,
        first_member: int,
        advance: Callable[[int], object] | None = None,
    ) -> np.ndarray:
        """Analyse a block; a time without observations comes back as it is."""
        self.check(block, first_time, first_member)
        out = np.array(block)
        for index, batch in enumerate(observations):
            if not len(batch):
                continue
            analysed = self.engine.analyse(
                self.physical(block[index]),
                batch,
                time=self.layout.time_label(first_time + index),
                first_member=first_member,
                advance=advance,
            )
            out[index] = self.own_units(analysed)
        return out

    def invert(
        self,
        block: np.ndarray,
        first_time: int,
        first_member: int,
        advance: Callable[[int], object] | None = None,
    ) -> np.ndarray:
        """Carry a block to latent space."""
        self.check(block, first_time, first_member)
        out = np.empty_like(block)
        for index in range(block.shape[0]):
            out[index] = self.engine.invert(
                self.physical(block[index]),
                time=self.layout.time_label(first_time + index),
                first_member=first_member,
            )
            if advance:
                advance(block.shape[1])
        return out


def run_eager(
    states: np.ndarray, plan: ObservationPlan | None, work: Work, *, progress: bool | None
) -> np.ndarray:
    """Work through all times at once; `plan` None inverts only."""
    times, members = states.shape[:2]
    if plan is None:
        with progress_bar(progress, total=times * members, unit="member", desc="invert") as bar:
            return work.invert(states, 0, 0, bar.update)
    work.check(states, 0, 0)
    batches = [work.filtered(states[i], plan.batch(i)) for i in range(times)]
    total = members * sum(len(b) > 0 for b in batches)
    with progress_bar(progress, total=total, unit="member", desc="assimilate") as bar:
        return work.analyse(states, batches, 0, 0, bar.update)


def run_lazy(states: Any, plan: ObservationPlan | None, work: Work) -> Any:
    """Build the graph of the same work; computes nothing."""
    import dask
    import dask.array as da

    states = da.asarray(states)
    whole = {axis: -1 for axis in range(2, states.ndim)}
    states = states.rechunk(whole)
    # One task holds the prior: the graph names it, and a worker receives it once. Its own name
    # keeps dask from hashing the weights.
    shared = dask.delayed(work, traverse=False, name=f"daisi-prior-{uuid.uuid4().hex}")
    blocks = states.to_delayed()
    space = (0,) * (states.ndim - 2)
    rows = []
    first_time = 0
    for i, n_times in enumerate(states.chunks[0]):
        chosen: Any = None
        if plan is not None:
            members = [blocks[(i, j, *space)] for j in range(len(states.chunks[1]))]
            chosen = [
                dask.delayed(_observations, pure=False)(
                    shared, plan.lazy_batch(first_time + k), members, k
                )
                if work.background_check is not None
                else plan.lazy_batch(first_time + k)
                for k in range(n_times)
            ]
        row, first_member = [], 0
        for j, n_members in enumerate(states.chunks[1]):
            task = dask.delayed(_task, pure=False)(
                shared, blocks[(i, j, *space)], chosen, first_time, first_member
            )
            shape = (n_times, n_members, *states.shape[2:])
            row.append(da.from_delayed(task, shape=shape, dtype=states.dtype))
            first_member += n_members
        rows.append(da.concatenate(row, axis=1))
        first_time += n_times
    return da.concatenate(rows, axis=0)


def _task(
    work: Work,
    block: np.ndarray,
    observations: list[ObservationBatch] | None,
    first_time: int,
    first_member: int,
) -> np.ndarray:
    if observations is None:
        return work.invert(block, first_time, first_member)
    return work.analyse(block, observations, first_time, first_member)


def _observations(
    work: Work, observations: ObservationBatch, members: list[np.ndarray], time: int
) -> ObservationBatch:
    return work.filtered(np.concatenate([m[time] for m in members]), observations)
