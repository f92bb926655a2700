"""The usable observations of one forecast time: NumPy arrays that can travel to other processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from xr_daisi.interpolation import Ints
from xr_daisi.observation_status import Status
from xr_daisi.operators import Group, StateLayout
from xr_daisi.tensor_operators import TensorObservations

if TYPE_CHECKING:
    import torch

    from xr_daisi.averaging import Averaging
    from xr_daisi.error_covariance import CovarianceBlock
    from xr_daisi.state import Normalization

__all__ = ["ObservationBatch", "Rejections", "joined"]

Rejections = tuple[tuple[Ints, Status], ...]
"""Rows of the plan's table, and why these are not used."""


@dataclass(frozen=True, eq=False)
class ObservationBatch:
    """All usable observations of one forecast time; no tensors, so it travels to other processes.

    Parameters
    ----------
    values : array of float, shape (n,)
        Observed values, in the observations' own units.
    errors : array of float, shape (n,)
        Standard deviations of their errors, in the same units; finite and positive.
    rows : array of int, shape (n,)
        Row of each observation in the plan's table.
    groups : tuple of Group
        The observed variables; their places follow each other as the values do.
    layout : StateLayout
        The state's variables and grid.
    positions : array of float, shape (d, n)
        Horizontal coordinates.
    instants : array, shape (n,)
        Times of the observations as numbers, equal for equal times.
    blocks : tuple of CovarianceBlock
        Observations with errors that are correlated with each other.
    averaging : Averaging or None
        The super-observations that are made of them.
    rejected : tuple of (rows, Status)
        What was left out of it, and why.
    own_share : array of float or None
        Which part of its error each observation, or average, has anew for every member where these
        have observations of their own; None is all of it.
    """

    values: NDArray[np.float64]
    errors: NDArray[np.float64]
    rows: Ints
    groups: tuple[Group, ...]
    layout: StateLayout
    positions: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 0)))
    instants: NDArray[Any] = field(default_factory=lambda: np.zeros(0))
    blocks: tuple[CovarianceBlock, ...] = ()
    averaging: Averaging | None = None
    rejected: Rejections = ()
    own_share: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return self.values.size

    @property
    def group_of(self) -> Ints:
        """Number of the group that each observation is in, shape (n,)."""
        sizes = [len(group.points) for group in self.groups]
        return np.repeat(np.arange(len(sizes)), sizes)

    def keep(self, mask: NDArray[np.bool_]) -> ObservationBatch:
        """Pick some of the observations.

        Parameters
        ----------
        mask : array of bool, shape (n,)
            Which ones stay.

        Returns
        -------
        ObservationBatch
            With those alone.
        """
        return self.take(np.flatnonzero(mask))

    def take(self, order: Ints) -> ObservationBatch:
        """Pick observations, in the order asked for.

        Parameters
        ----------
        order : array of int, shape (k,)
            Their numbers, each once; those of a group follow each other.

        Returns
        -------
        ObservationBatch
            With k observations, in its correlated blocks in their order as well.
        """
        group_of = self.group_of[order]
        first = np.cumsum([0, *(len(group.points) for group in self.groups)])
        runs = np.split(order, np.flatnonzero(np.diff(group_of)) + 1) if order.size else []
        groups = []
        for run in runs:
            number = int(np.searchsorted(first, run[0], side="right")) - 1
            group = self.groups[number]
            groups.append(replace(group, points=group.points.take(run - first[number])))
        moved = np.full(len(self), -1)
        moved[order] = np.arange(order.size)
        blocks = [block.moved(moved[block.places]) for block in self.blocks]
        blocks = sorted((b for b in blocks if b.places.size), key=lambda block: block.places[0])
        averaging = self.averaging
        if averaging is not None:
            averaging = replace(
                averaging, group=averaging.group[order], weight=averaging.weight[order]
            )
        own = self.own_share
        return replace(
            self,
            values=self.values[order],
            errors=self.errors[order],
            rows=self.rows[order],
            groups=tuple(groups),
            positions=self.positions[:, order] if self.positions.size else self.positions,
            instants=self.instants[order] if self.instants.size else self.instants,
            blocks=tuple(blocks),
            averaging=averaging,
            own_share=own[order] if own is not None and averaging is None else own,
        )

    def reject(self, bad: NDArray[np.bool_], status: Status) -> ObservationBatch:
        """Leave out some of the observations, and remember why.

        Parameters
        ----------
        bad : array of bool, shape (n,)
            Which ones.
        status : Status
            Why.

        Returns
        -------
        ObservationBatch
            With the others; itself where there is nothing to leave out.
        """
        if not bad.any():
            return self
        rejected = (*self.rejected, (self.rows[bad], status))
        return replace(self.keep(~bad), rejected=rejected)

    def to_tensors(
        self,
        normalization: Normalization | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype | None = None,
    ) -> TensorObservations:
        """Values, errors and H as tensors.

        Parameters
        ----------
        normalization : Normalization, optional
            Of the states that H will see; None where they are physical.
        device : str or torch.device, optional
            Where the tensors live.
        dtype : torch.dtype, optional
            Of the states; float32 by default. Half precision is raised to float32 here, since it
            cannot tell 280.1 K from 280.6 K.

        Returns
        -------
        TensorObservations
            For `xr_daisi.guidance`.
        """
        arrays = self.values, self.errors
        structure: dict[str, Any] = {}
        if self.blocks:
            structure["blocks"] = self.blocks
        if self.averaging is not None:
            structure["averaging"] = self.averaging
        return TensorObservations(
            *arrays, self.groups, self.layout, normalization, device, dtype, **structure
        )


def joined(batches: Sequence[ObservationBatch], times: Sequence[int]) -> ObservationBatch:
    """Put observations of several times together, as those of one trajectory.

    Parameters
    ----------
    batches : sequence of ObservationBatch
        Of each time; with `Moments` in terms of all forecast times, or without any for one time.
    times : sequence of int
        Numbers of the forecast times, in the order of the trajectory.

    Returns
    -------
    ObservationBatch
        Its layout is that of the trajectory, its moments count within it.
    """
    number = np.zeros(max(times) + 1, dtype=np.int64)
    number[list(times)] = np.arange(len(times))
    filled = [batch for batch in batches if len(batch)] or list(batches[:1])
    groups, blocks, start = [], [], 0
    for batch in filled:
        for group in batch.groups:
            moments = group.points.moments
            if moments is not None:
                here, other = number[moments.here], number[moments.other]
                moments = replace(moments, here=here, other=other) if len(times) > 1 else None
            groups.append(replace(group, points=replace(group.points, moments=moments)))
        blocks += [replace(block, places=block.places + start) for block in batch.blocks]
        start += len(batch)
    layout = filled[0].layout
    return ObservationBatch(
        np.concatenate([batch.values for batch in filled]),
        np.concatenate([batch.errors for batch in filled]),
        np.concatenate([batch.rows for batch in filled]),
        tuple(groups),
        replace(layout, channels=layout.channels * len(times)),
        np.concatenate([batch.positions for batch in filled], axis=1),
        np.concatenate([batch.instants for batch in filled]),
        tuple(blocks),
        rejected=tuple(entry for batch in batches for entry in batch.rejected),
    )
