"""An ensemble as its observations see it: departures, perturbations, and where each belongs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xr_daisi.averaging import Averaging, averaged
from xr_daisi.error_covariance import CovarianceBlock
from xr_daisi.guidance_observations import check_observed
from xr_daisi.interpolation import LevelKey
from xr_daisi.observation_batch import ObservationBatch
from xr_daisi.plane import PlaneAxes

__all__ = ["ObservedEnsemble", "errors_of", "observe_ensemble", "places_of", "times_error_root"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ObservedEnsemble:
    """Observations in terms of an ensemble, in units of their errors.

    Parameters
    ----------
    departures : Tensor, shape (n,)
        Value minus the ensemble mean of H, whitened.
    anomalies : Tensor, shape (M, n)
        H of the members minus its mean, whitened.
    """

    departures: Tensor
    anomalies: Tensor


def observe_ensemble(
    batch: ObservationBatch, states: Tensor, dtype: torch.dtype, time: str = ""
) -> ObservedEnsemble:
    """Compare an ensemble with observations.

    Parameters
    ----------
    batch : ObservationBatch
        Of one time.
    states : Tensor, shape (M, channel, *space)
        Physical states, float64, finite everywhere.
    dtype : torch.dtype
        Of the result.
    time : str
        For messages.

    Returns
    -------
    ObservedEnsemble
        Directions are compared the shorter way round.

    Raises
    ------
    OperatorError
        Where H is not finite.
    """
    tensors = batch.to_tensors(None, states.device, torch.float64)
    with torch.no_grad():
        observed = tensors.observe(states)
    check_observed(observed, time)
    residual = tensors.residual(observed)
    mean = residual.mean(dim=0, keepdim=True)
    whitened = times_error_root(torch.cat([mean, mean - residual]), batch, inverse=True)
    return ObservedEnsemble(whitened[0].to(dtype), whitened[1:].to(dtype))


def errors_of(batch: ObservationBatch) -> tuple[Floats, Sequence[CovarianceBlock]]:
    """Return deviations (n,) and correlated blocks of the errors, of averages where there are."""
    if batch.averaging is None:
        return batch.errors, batch.blocks
    _, errors, blocks = averaged(batch.values, batch.errors, batch.blocks, batch.averaging)
    return errors, blocks


def times_error_root(v: Tensor, batch: ObservationBatch, *, inverse: bool) -> Tensor:
    """Multiply by a root of R, or of its inverse, that is symmetric but for the deviations.

    Unlike a Cholesky factor it keeps each value with its observation, so that a taper of distance
    can be applied afterwards.

    Parameters
    ----------
    v : Tensor, shape (k, n)
        Rows in the observations' units, or without units for the root of R.
    batch : ObservationBatch
        With the errors.
    inverse : bool
        Whether of R^-1.

    Returns
    -------
    Tensor, shape (k, n)
        Without units, or in the observations'.
    """
    errors, blocks = errors_of(batch)
    deviations = torch.from_numpy(errors).to(v)
    out = v / deviations if inverse else v.clone()
    for block in blocks:
        if block.places.size > 1:
            places = torch.from_numpy(block.places).to(v.device)
            values, vectors = torch.linalg.eigh(torch.from_numpy(block.correlation).to(v))
            floor = torch.finfo(v.dtype).eps * values[-1] * len(values)
            roots = values.clamp(min=float(floor)).sqrt()
            root = (vectors * (1.0 / roots if inverse else roots)) @ vectors.mT
            out[:, places] = out[:, places] @ root
    return out if inverse else out * deviations


def places_of(batch: ObservationBatch, axes: PlaneAxes) -> tuple[Floats, dict[LevelKey, Floats]]:
    """Where observations are.

    Parameters
    ----------
    batch : ObservationBatch
        Of one time, maybe with averages.
    axes : PlaneAxes
        What the coordinates are.

    Returns
    -------
    positions : array, shape (d, n)
        Horizontal coordinates; of averages, the middle.
    levels : dict of levels to array, shape (n,)
        Vertical coordinate in terms of each set of levels of the state; NaN where unknown.
    """
    positions = batch.positions
    levels: dict[LevelKey, Floats] = {}
    start = 0
    for group in batch.groups:
        part = slice(start, start + len(group.points))
        start = part.stop
        for key, (index, share) in group.points.vertical.items():
            values = levels.setdefault(key, np.full(len(batch), np.nan))
            values[part] = np.sum(share * np.asarray(key)[index], axis=0)
    if batch.averaging is not None:
        positions = _middles(positions, batch.averaging, axes)
        levels = {key: _means(values, batch.averaging) for key, values in levels.items()}
    return positions, levels


def _means(values: Floats, averaging: Averaging) -> Floats:
    return np.bincount(averaging.group, averaging.weight * values, len(averaging)).astype(float)


def _middles(positions: Floats, averaging: Averaging, axes: PlaneAxes) -> Floats:
    """Weighted means of positions, near the first of each group: nothing is torn at a seam."""
    _, first = np.unique(averaging.group, return_index=True)
    rows: list[Floats] = []
    for axis, values in enumerate(positions):
        start = values[first]
        step = values - start[averaging.group]
        period = 360.0 if axis == axes.longitude else axes.periods[axis]
        if period is not None:
            step = step - period * np.round(step / period)
        rows.append(start + _means(step, averaging))
    return np.stack(rows)
