r"""Observations with errors of each member's own, which give its analysis the spread they cause.

The map from a member x to its analysis is the same for all, ``c x + g y``: what the error of y does
to the mean, no spread shows. With errors e of its own, of the covariance ``a R``, the variance over
members is ``c^2 s^2 + a g^2 R`` for a forecast of the variance s^2, in units of the prior's. The
mean's error has, for a truth that prior and forecast agree on, ``(c + g - 1)^2 (1 - s^2) +
(g - 1)^2 s^2 + g^2 R``. With the inversion time of `xr_daisi.denoising` both are the same within
2 % of the standard deviation, whatever s and R are, for

    ``a = 1 - s^2``:

members that know no more than the prior differ by themselves, and those of a sharp forecast do not.
Of another operator than the identity, s^2 is the variance of H of the members over what it would be
along its tangents for members as far apart as the climate's: two lobes whose ``|x|`` is the same
know that well, although they are as far apart as any.

References
----------
.. [1] G. Burgers, P. J. van Leeuwen and G. Evensen, "Analysis Scheme in the Ensemble Kalman
   Filter", Mon. Wea. Rev. 126, 1719-1724, 1998.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

import numpy as np
import torch

from xr_daisi.averaging import averaged
from xr_daisi.calibration import STEP
from xr_daisi.keyed_numbers import bits, hashed, normal
from xr_daisi.observed_ensemble import places_of, times_error_root
from xr_daisi.plane import PlaneAxes

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from xr_daisi.keyed_numbers import Floats, Keys
    from xr_daisi.noise import NoiseSource
    from xr_daisi.observation_batch import ObservationBatch
    from xr_daisi.state import StateSpec

__all__ = ["identities", "own_errors", "share_of_errors"]


def share_of_errors(batch: ObservationBatch, states: Floats, normalised: Floats) -> Floats:
    """Say which part of its error each observation has anew for every member.

    Parameters
    ----------
    batch : ObservationBatch
        Of one time.
    states : array, shape (M, channel, *space)
        Physical members, all of them and at least two, finite.
    normalised : array, shape of `states`
        The same in units of the prior's spread.

    Returns
    -------
    array, shape (n,)
        ``sqrt(1 - s^2)``, in [0, 1], of averages where there are. Made smaller by what opposite
        errors of pairs have too much of sample variance.
    """
    members = len(states)
    tensors = batch.to_tensors(None, "cpu", torch.float64)
    spread = normalised.std(axis=0, ddof=1)
    away = states - states.mean(axis=0)
    away = np.divide(away, spread, out=np.zeros_like(away), where=spread > 0.0)
    climate, seen = torch.zeros(len(tensors.values), dtype=torch.float64), []
    with torch.no_grad():
        for state, step in zip(states, STEP * away, strict=True):  # H may take much memory
            here, ahead, behind = (
                tensors.residual(tensors.observe(torch.from_numpy(x[None])))[0]
                for x in (state, state + step, state - step)
            )
            seen.append(here)
            climate += ((behind - ahead) / (2.0 * STEP)).square()
    own = torch.stack(seen).var(dim=0, correction=0) * members
    with np.errstate(divide="ignore", invalid="ignore"):
        known = np.nan_to_num((own / climate).numpy(), nan=0.0, posinf=1.0)
    pairs = (members - 1) / members if members % 2 == 0 else members / (members + 1)
    share: Floats = np.sqrt(pairs * (1.0 - np.clip(known, 0.0, 1.0)))
    return share


def own_errors(batch: ObservationBatch, spec: StateSpec, source: NoiseSource) -> Tensor:
    """Draw errors of observations for each member.

    They depend on (seed, time, member) and on the observation alone, not on the order of
    observations, on others, or on how members are divided. The members 2 k and 2 k + 1 have
    opposite ones, so that the ensemble's mean does not move.

    Parameters
    ----------
    batch : ObservationBatch
        Of one time, at least one, with the part of their errors that members have anew.
    spec : StateSpec
        What the coordinates are.
    source : NoiseSource
        Of the members.

    Returns
    -------
    Tensor
        Shape ``(len(source), n)``, float64 on the CPU, in the observations' units.
    """
    keys = identities(batch, PlaneAxes.of(spec))
    signs = np.where(np.asarray(source.members) % 2 == 0, 1.0, -1.0)
    drawn = np.stack([normal(hashed(keys ^ _key(source, m // 2)), 0) for m in source.members])
    errors = times_error_root(torch.from_numpy(signs[:, None] * drawn), batch, inverse=False)
    return errors if batch.own_share is None else errors * torch.from_numpy(batch.own_share)


def _key(source: NoiseSource, pair: int) -> np.uint64:
    """Return what tells pairs apart, and seeds and times, the same on every machine."""
    text = json.dumps([source.seed, source.time, pair, "observations"]).encode()
    return np.uint64(int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little"))


def identities(batch: ObservationBatch, axes: PlaneAxes) -> Keys:
    """Turn what was observed and where into a number for each observation.

    Parameters
    ----------
    batch : ObservationBatch
        Of one time.
    axes : PlaneAxes
        What the coordinates are.

    Returns
    -------
    array of uint64, shape (n,)
        Of averages where there are, whatever the order of the observations. Those that share place
        and variable are told apart by their order in time, then by that of their values.
    """
    names = np.asarray([f"{g.operator.observed} {g.operator.name}" for g in batch.groups])
    keys, instants = bits(names)[batch.group_of], batch.instants.astype(np.float64)
    values, errors, averaging = batch.values, batch.errors, batch.averaging
    if averaging is not None:  # of one variable are all in an average
        keys = keys[np.unique(averaging.group, return_index=True)[1]]
        values, errors, _ = averaged(values, errors, (), averaging)
        if instants.size:
            instants = np.bincount(averaging.group, averaging.weight * instants).astype(float)
    positions, levels = places_of(batch, axes)
    for axis, row in enumerate(positions):
        period = 360.0 if axis == axes.longitude else axes.periods[axis]
        keys = _folded(keys, row if period is None else np.mod(row, period))
    for level in sorted(levels):
        keys = _folded(keys, levels[level])
    columns = errors, values, *([instants] if instants.size else [])
    order = np.lexsort((*columns, keys))
    ordered, number = keys[order], np.arange(len(keys))
    anew = np.concatenate([[True], ordered[1:] != ordered[:-1]])
    again = number - np.maximum.accumulate(np.where(anew, number, 0))
    keys[order] = hashed(ordered + again.astype(np.uint64))
    return keys


def _folded(keys: Keys, numbers: NDArray[np.float64]) -> Keys:
    """Fold numbers into keys, in single precision, as one of two files may have them."""
    single = numbers.astype(np.float32)
    return np.where(np.isnan(single), keys, hashed(keys ^ bits(single)))
