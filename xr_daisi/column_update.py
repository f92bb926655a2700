"""The Kalman update of an ensemble, column by column: any part of the grid on its own.

What an update needs of the whole state is how the members see the observations, a number for each
member and observation. Once that is known, every column of the grid is updated from its own members
and the observations in reach, so that parts of the grid are independent tasks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from xr_daisi.devices import double_device, resolve_device
from xr_daisi.ensemble_kalman import (
    Update,
    columns_at_once,
    local_update,
    relaxed,
    weighted,
)
from xr_daisi.holes import fill_holes, holes_of
from xr_daisi.localization import FARTHEST, Places, level_groups, local_weights
from xr_daisi.reach import Reach

if TYPE_CHECKING:
    from torch import Tensor

    from xr_daisi.ensemble_settings import EnsembleSettings
    from xr_daisi.interpolation import LevelKey
    from xr_daisi.observed_ensemble import ObservedEnsemble
    from xr_daisi.state import Normalization, StateSpec

__all__ = ["ColumnUpdate", "row_chunks"]

COLUMNS = 16384
"""Columns that are worth a task of their own."""


@dataclass(frozen=True, eq=False)
class ColumnUpdate:
    """An ensemble Kalman update whose observations have been compared with the ensemble.

    Attributes
    ----------
    spec : StateSpec
        Variables and grid of one state.
    normalization : Normalization
        Of what is updated: increments are made where its transforms take the variables.
    settings : EnsembleSettings
        Inflation, relaxation.
    weights : pair of Tensor or None
        Those of the members where they are the same everywhere; the next ones are not needed then.
    seen : ObservedEnsemble or None
        Departures and perturbations at the observations.
    observed : Places
        Where these are.
    levels : mapping of levels to array
        Their vertical coordinates.
    reach : Reach
        How far they reach.
    regain : bool
        See `xr_daisi.ensemble_kalman.regained`.
    device : str
        Where.
    dtype : torch.dtype
        Of what is added to the members; their weights are found in double precision.
    """

    spec: StateSpec
    normalization: Normalization
    settings: EnsembleSettings
    weights: tuple[Tensor, Tensor] | None = None
    seen: ObservedEnsemble | None = None
    observed: Places | None = None
    levels: Mapping[LevelKey, NDArray[np.float64]] = field(default_factory=dict)
    reach: Reach = field(default_factory=Reach)
    regain: bool = False
    device: str = "auto"
    dtype: torch.dtype = torch.float32

    def __sizeof__(self) -> int:
        """Bytes, which a scheduler weighs: most of them are perturbations at observations."""
        held = self.weights or (() if self.seen is None else (self.seen.anomalies,))
        return object.__sizeof__(self) + sum(t.numel() * t.element_size() for t in held)

    def __call__(self, states: np.ndarray) -> np.ndarray:
        """Update the whole grid: rounding and all as `of_rows` does, a part after the other."""
        chunks = row_chunks(states.shape[2:])
        if chunks is None:
            return self.of_rows(states)
        ends = np.cumsum(chunks)
        parts = [slice(end - size, end) for end, size in zip(ends, chunks, strict=True)]
        return np.concatenate([self.of_rows(states[:, :, p], p) for p in parts], axis=2)

    def of_rows(self, states: np.ndarray, rows: slice | None = None) -> np.ndarray:
        """Update some rows of the grid.

        Parameters
        ----------
        states : ndarray
            Physical forecast ``(member, channel, *space)`` of these rows, all members; NaN
            in holes. Several times may be stacked along the channels.
        rows : slice, optional
            Which rows of the first spatial dimension they are; the whole grid when None.

        Returns
        -------
        ndarray
            The analysis there. Points that no observation reaches keep their values exactly.
        """
        normalization, device = self.normalization, resolve_device(self.device)
        if rows is not None:
            normalization = _rows_of(normalization, rows)
        holes = holes_of(states[0])
        if holes is not None:  # with numbers that a transform takes
            states = fill_holes(states, holes, normalization.denormalize(np.zeros(holes.shape)))
        transformed = any(normalization.transforms)
        x = normalization.normalize(states) if transformed else states
        away = torch.from_numpy((x - x.mean(axis=0)).reshape(*x.shape[:2], -1))
        away = away.to(device, self.dtype)
        update, s = self._update(away, rows), self.settings
        after = relaxed(away, away + update.perturbations, s.relaxation, s.relaxation_method)
        increment = (update.mean + (after - away)).double().cpu().numpy().reshape(states.shape)
        analysed: np.ndarray = x + increment
        if transformed:
            # What stays, stays exactly.
            analysed = np.where(increment == 0.0, states, normalization.denormalize(analysed))
        return fill_holes(analysed, holes, np.nan)

    def _update(self, perturbations: Tensor, rows: slice | None) -> Update:
        """Update of mean ``(channel, point)`` and perturbations ``(member, channel, point)``."""
        inflation, device = self.settings.inflation, perturbations.device
        if self.weights is not None:
            return weighted(perturbations, self.weights, inflation, self.regain)
        assert self.seen is not None
        assert self.observed is not None
        places, observed, levels = Places.of(self.spec), self.observed, self.levels
        anomalies, departures = self.seen.anomalies, self.seen.departures
        radius = FARTHEST if self.reach.radius is None else self.reach.radius
        if rows is not None:
            numbers = np.arange(len(places)).reshape(self.spec.shape[1:])
            places = places.at(numbers[rows].reshape(-1))
            near = places.around(observed, radius)
            observed = observed.at(near)
            levels = {key: z[near] for key, z in levels.items()}
            anomalies, departures = anomalies[:, near], departures[near]
        times = perturbations.shape[1] // self.spec.channels
        groups = level_groups(self.spec, levels, self.reach.vertical or None, times)
        most = columns_at_once(len(perturbations), anomalies.element_size())
        columns = local_weights(places, observed, radius, groups, most)
        where = double_device(device)
        seen = anomalies.to(where), departures.to(where)
        return local_update(perturbations, *seen, columns, inflation, self.regain)


def _rows_of(normalization: Normalization, rows: slice) -> Normalization:
    """Normalisation of some rows; what is the same everywhere stays."""

    def part(values: np.ndarray) -> np.ndarray:
        whole = values.ndim < 2 or values.shape[1] == 1
        return values if whole else values[:, rows]

    return replace(
        normalization, mean=part(normalization.mean), std=part(normalization.std), holes=None
    )


def row_chunks(space: Sequence[int]) -> tuple[int, ...] | None:
    """Divide a grid into rows that are worth a task each.

    Parameters
    ----------
    space : sequence of int
        Shape of the grid.

    Returns
    -------
    tuple of int or None
        Number of rows of each part; None where the grid is a single one.

    Examples
    --------
    >>> row_chunks((64, 64)) is None
    True
    >>> row_chunks((721, 1440))[:2], len(row_chunks((721, 1440)))
    ((12, 12), 61)
    """
    if not space:
        return None
    rows, width = space[0], int(np.prod(space[1:], dtype=np.int64))
    parts = min(rows, -(-rows * width // COLUMNS))
    if parts < 2:
        return None
    size = -(-rows // parts)
    whole, rest = divmod(rows, size)
    return (size,) * whole + ((rest,) if rest else ())
