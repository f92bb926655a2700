r"""Observations with errors of each member's own, which give its analysis the spread they cause.

The map from a member x to its analysis is the same for all, ``c x + g y``: what the error of y does
to the mean, no spread shows. With errors e of its own, of the covariance ``a R``, the variance over
members is ``c^2 s^2 + a g^2 R`` for a forecast of the variance s^2, in units of the prior's. The
mean's error has, for a truth that prior and forecast agree on, ``(c + g - 1)^2 (1 - s^2) +
(g - 1)^2 s^2 + g^2 R``. With the inversion time of `xr_daisi.denoising` both are the same within
3 % of the standard deviation, whatever s and R are, for

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
import itertools
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from xr_daisi.calibration import STEP
from xr_daisi.keyed_numbers import hashed, normal
from xr_daisi.observation_keys import identities, moments_of
from xr_daisi.plane import PlaneAxes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from xr_daisi.interpolation import Ints
    from xr_daisi.keyed_numbers import Floats, Keys
    from xr_daisi.observation_batch import ObservationBatch
    from xr_daisi.state import StateSpec
    from xr_daisi.tensor_operators import TensorObservations

__all__ = ["OwnErrors", "share_of_errors"]


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
    mean, spread = states.mean(axis=0), normalised.std(axis=0, ddof=1)
    varies = spread > 0.0
    climate, seen = torch.zeros(len(tensors.values), dtype=torch.float64), []
    with torch.no_grad():
        for state in states:  # one by one, since H may take much memory
            away = np.divide(state - mean, spread, out=np.zeros_like(mean), where=varies)
            step = STEP * away
            here, ahead, behind = (
                tensors.residual(tensors.observe(torch.from_numpy(x[None])))[0]
                for x in (state, state + step, state - step)
            )
            seen.append(here)
            # Of angles the shorter way round, wherever the observed one is.
            climate += (tensors.shorter((behind - ahead)[None])[0] / (2.0 * STEP)).square()
    own = tensors.shorter(torch.stack(seen) - seen[0]).var(dim=0, correction=0) * members
    with np.errstate(divide="ignore", invalid="ignore"):
        known = np.nan_to_num((own / climate).numpy(), nan=0.0, posinf=1.0)
    pairs = (members - 1) / members if members % 2 == 0 else members / (members + 1)
    share: Floats = np.sqrt(pairs * (1.0 - np.clip(known, 0.0, 1.0)))
    return share


@dataclass(frozen=True, eq=False)
class OwnErrors:
    """Errors of observations for each member, drawn batch by batch.

    They depend on (seed, time, member) and on what is observed and where, not on the order of
    observations or on how members are divided. The members 2 k and 2 k + 1 have opposite ones, so
    that the mean of an even ensemble does not move.

    Attributes
    ----------
    seed : int
        The user's seed.
    times : sequence of str
        Labels of the times that are analysed together.
    keys : array of uint64, shape (n,)
        What tells observations apart.
    moments : array of int, shape (n,)
        Which of the times each is nearest to.
    share : array of float or None
        Part of its error that each has anew; all of it when None.
    """

    seed: int
    times: Sequence[str]
    keys: Keys
    moments: Ints
    share: Floats | None = None

    @classmethod
    def of(
        cls, batch: ObservationBatch, spec: StateSpec, seed: int, times: Sequence[str]
    ) -> OwnErrors:
        """Errors for the observations of some times, at least one.

        Parameters
        ----------
        batch : ObservationBatch
            With the part of their errors that members have anew.
        spec : StateSpec
            What the coordinates are.
        seed, times
            As the attributes.
        """
        keys = identities(batch, PlaneAxes.of(spec))
        return cls(seed, times, keys, moments_of(batch), batch.own_share)

    def draw(self, tensors: TensorObservations, members: Sequence[int], like: Tensor) -> Tensor:
        """Draw the errors of a batch of members.

        Parameters
        ----------
        tensors : TensorObservations
            The same observations.
        members : sequence of int
            Numbers of the members in the whole ensemble.
        like : Tensor
            Of the dtype and device that the result has.

        Returns
        -------
        Tensor, shape (len(members), n)
            In the observations' units.
        """
        white = np.empty((len(members), len(self.keys)), dtype=np.float32)
        for _, pair in itertools.groupby(zip(members, white, strict=True), lambda m: m[0] // 2):
            both = list(pair)
            noise = normal(hashed(self.keys ^ self._numbers(both[0][0] // 2)), 0)
            for member, row in both:
                row[...] = noise if member % 2 == 0 else -noise
        errors = tensors.colour(torch.from_numpy(white).to(like))
        return errors if self.share is None else errors * torch.from_numpy(self.share).to(like)

    def _numbers(self, pair: int) -> Keys:
        """Tell seeds, pairs and times of the observations apart, the same on every machine."""
        texts = [json.dumps([self.seed, time, pair, "observations"]) for time in self.times]
        numbers = [hashlib.blake2b(text.encode(), digest_size=8).digest() for text in texts]
        found = np.asarray([int.from_bytes(n, "little") for n in numbers], dtype=np.uint64)
        return found[self.moments]
