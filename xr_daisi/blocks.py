"""Blocks of members and times through the engine: eager, or as a dask graph.

A block is a NumPy array ``(time, member, channel, *space)`` in the forecast's own units.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from xr_daisi.block_checks import check_block, forecast_holes
from xr_daisi.engine import FAR
from xr_daisi.errors import NoObservationsWarning, problem
from xr_daisi.holes import fill_holes, holes_of
from xr_daisi.observation_holes import outside_holes
from xr_daisi.observation_layout import Status
from xr_daisi.observation_options import ObservationOptions
from xr_daisi.progress import progress_bar
from xr_daisi.user_warnings import warn_user

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from xr_daisi.engine import Engine
    from xr_daisi.layout import Layout
    from xr_daisi.observations import ObservationBatch, ObservationPlan

__all__ = ["Work", "far_from_ensemble", "run_eager", "run_lazy"]


@dataclass(frozen=True)
class Work:
    """What is done to every block.

    Attributes
    ----------
    engine : Engine
        Prior, settings, seed, device.
    layout : Layout
        Units, labels.
    options : ObservationOptions
        How observations are read.
    """

    engine: Engine
    layout: Layout
    options: ObservationOptions = field(default_factory=ObservationOptions)

    def physical(self, states: np.ndarray) -> np.ndarray:
        """Convert states from the forecast's to the prior's units, float64."""
        converted: np.ndarray = states.astype(float) * self.layout.factor + self.layout.offset
        return converted

    def filled(self, states: np.ndarray) -> np.ndarray:
        """Convert states to the prior's units, with the prior's mean in their holes."""
        converted = self.physical(states)
        normalization = self.engine.prior.normalization
        mean = normalization.denormalize(np.zeros(self.layout.spec.shape))
        return fill_holes(converted, holes_of(converted[0]), mean)

    def own_units(self, states: np.ndarray) -> np.ndarray:
        """Convert states from the prior's to the forecast's units."""
        converted: np.ndarray = (states - self.layout.offset) / self.layout.factor
        return converted

    def holes(self, block: np.ndarray) -> NDArray[np.bool_]:
        """Return the holes of a forecast, ``(channel, *space)``, from its first block.

        Raises
        ------
        StateError
            For variables that are NaN everywhere.
        """
        return forecast_holes(block[0, 0], self.layout, self.engine.prior)

    def check(
        self, block: np.ndarray, holes: NDArray[np.bool_], first_time: int, first_member: int
    ) -> None:
        """Raise where a forecast is infinite, NaN outside holes, or not what the prior takes.

        Parameters
        ----------
        block : ndarray
            ``(time, member, channel, *space)`` in the forecast's units.
        holes : ndarray of bool
            ``(channel, *space)``, from `holes`.
        first_time, first_member : int
            Where the block begins in the whole forecast.

        Raises
        ------
        StateError
            Saying where the first bad value stands.
        """
        check_block(
            block,
            holes,
            self.layout,
            self.engine.prior,
            first_time=first_time,
            first_member=first_member,
        )

    def filtered(
        self,
        members: np.ndarray | None,
        observations: ObservationBatch,
        holes: NDArray[np.bool_] | None = None,
    ) -> ObservationBatch:
        """Leave out observations in holes, and those far from the ensemble.

        Parameters
        ----------
        members : ndarray or None
            All members of one time, in the forecast's units; None where there is no check of the
            background.
        observations : ObservationBatch
            Of this time.
        holes : ndarray of bool, optional
            ``(channel, *space)``; those of the prior when None.
        """
        known = self.engine.prior.holes if holes is None else holes
        observations = outside_holes(observations, known)
        limit = self.options.background_check
        if limit is None or members is None or not len(observations):
            return observations
        x = torch.from_numpy(self.filled(members))
        with torch.no_grad():
            y = observations.to_tensors(None, "cpu", torch.float64).observe(x).numpy()
        far = far_from_ensemble(observations, y, limit)
        return observations.reject(far, Status.FAR)

    def analyse(
        self,
        block: np.ndarray,
        observations: Sequence[ObservationBatch],
        holes: NDArray[np.bool_],
        first_time: int,
        first_member: int,
        advance: Callable[[int], object] | None = None,
    ) -> np.ndarray:
        """Analyse a block; a time without observations comes back as it is.

        Parameters
        ----------
        block : ndarray
            ``(time, member, channel, *space)`` in the forecast's units; not modified.
        observations : sequence of ObservationBatch
            One for each time of the block; none in holes.
        holes : ndarray of bool
            ``(channel, *space)``: where the forecast has to be NaN.
        first_time, first_member : int
            Where the block begins in the whole forecast.
        advance : callable, optional
            Called with the number of members done.

        Returns
        -------
        ndarray
            The analysis, shape and dtype of `block`, NaN in holes.

        Raises
        ------
        StateError
            Where the block is not finite outside holes.
        DivergenceError
            Naming members that diverged.
        """
        self.check(block, holes, first_time, first_member)
        out = np.array(block)
        analysed_times = [index for index, batch in enumerate(observations) if len(batch)]
        if any(self.engine.is_far(self.physical(block[index])) for index in analysed_times):
            found = f"values more than {FAR:g} standard deviations from the prior's mean"
            remedy = "check its units (attrs['units']) and that the prior is for these data"
            warn_user(problem("forecast", found, "states like those of the prior", remedy))
        for index in analysed_times:
            batch = observations[index]
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
        holes: NDArray[np.bool_],
        first_time: int,
        first_member: int,
        advance: Callable[[int], object] | None = None,
    ) -> np.ndarray:
        """Carry a block to latent space; arguments and errors as in `analyse`."""
        self.check(block, holes, first_time, first_member)
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


def far_from_ensemble(
    observations: ObservationBatch, members: np.ndarray, limit: float
) -> np.ndarray:
    """Tell which observations the background check rejects.

    Parameters
    ----------
    observations : ObservationBatch
        Of one time.
    members : ndarray
        H of every member of the forecast, ``(member, n)``.
    limit : float
        In standard deviations of spread and observation error together.

    Returns
    -------
    ndarray of bool
        Shape ``(n,)``.
    """
    spread = members.var(axis=0, ddof=1) if members.shape[0] > 1 else 0.0
    departure = np.abs(observations.values - members.mean(axis=0))
    far: np.ndarray = departure > limit * np.sqrt(spread + observations.errors**2)
    return far


def run_eager(
    states: np.ndarray, plan: ObservationPlan | None, work: Work, *, progress: bool | None
) -> tuple[np.ndarray, dict[Status, int]]:
    """Work through all times at once.

    Parameters
    ----------
    states : ndarray
        ``(time, member, channel, *space)`` in the forecast's units; not modified.
    plan : ObservationPlan or None
        None inverts only.
    work : Work
        What to do.
    progress : bool or None
        Whether to show a bar.

    Returns
    -------
    ndarray
        Analysis or latents, shape and dtype of `states`.
    dict of Status to int
        Number of observations that were rejected in view of the forecast.
    """
    times, members = states.shape[:2]
    holes = work.holes(states)
    if plan is None:
        with progress_bar(progress, total=times * members, unit="member", desc="invert") as bar:
            return work.invert(states, holes, 0, 0, bar.update), {}
    work.check(states, holes, 0, 0)
    given = [plan.batch(i) for i in range(times)]
    batches = [work.filtered(x, batch, holes) for x, batch in zip(states, given, strict=True)]
    rejected: dict[Status, int] = {}
    for before, after in zip(given, batches, strict=True):
        for rows, status in after.rejected[len(before.rejected) :]:
            rejected[status] = rejected.get(status, 0) + rows.size
    if rejected and not any(map(len, batches)):
        words = ", ".join(f"{count} {status.reason}" for status, count in rejected.items())
        total = sum(rejected.values())
        text = f"the forecast rejected all {total} observations ({words}): it stays as is"
        warn_user(NoObservationsWarning(text))
    total = members * sum(len(b) > 0 for b in batches)
    with progress_bar(progress, total=total, unit="member", desc="assimilate") as bar:
        return work.analyse(states, batches, holes, 0, 0, bar.update), rejected


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
    # One task holds the prior: the graph names it, and a worker receives it once. Its own name
    # keeps dask from hashing the weights.
    shared = delayed(work, traverse=False, name=f"daisi-prior-{uuid.uuid4().hex}")
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
            chosen = [plan.lazy_batch(first_time + k) for k in range(n_times)]
            if check or with_holes:
                task = delayed(_observations, pure=False)
                chosen = [
                    task(shared, batch, members if check else [], k, holes)
                    for k, batch in enumerate(chosen)
                ]
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


def _task(
    work: Work,
    block: np.ndarray,
    observations: list[ObservationBatch] | None,
    holes: NDArray[np.bool_] | None,
    first_time: int,
    first_member: int,
) -> np.ndarray:
    holes = work.holes(block) if holes is None else holes
    if observations is None:
        return work.invert(block, holes, first_time, first_member)
    return work.analyse(block, observations, holes, first_time, first_member)


def _holes(work: Work, block: np.ndarray) -> NDArray[np.bool_]:
    return work.holes(block)


def _observations(
    work: Work,
    observations: ObservationBatch,
    members: list[np.ndarray],
    time: int,
    holes: NDArray[np.bool_] | None,
) -> ObservationBatch:
    ensemble = np.concatenate([m[time] for m in members]) if members else None
    return work.filtered(ensemble, observations, holes)
