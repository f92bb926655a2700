r"""What an ensemble and its innovations say about the settings of an analysis, without any truth.

* The *inversion time*: noise of the size of the ensemble's spread. A state with errors of
  covariance C, in normalised units, is as uncertain as one seen at time t through noise of
  deviation ``alpha(t) / beta(t)`` if ``C = (alpha / beta)^2 I``. The errors of a forecast are not
  white: their variance lies in few directions, and noise has to reach it there. With the
  eigenvalues of C weighted by themselves, that is by the variance that they carry,
  ``alpha(t) / beta(t) = sqrt(tr(C^2) / tr(C))``.
* The *inflation*: innovations ``d = y - mean H(x)`` have, in units of the errors, the expected
  square ``n + (1 + 1/M) tr(P)``, P being the forecast's covariance at the observations [1]_. How
  well M members know the size of P bounds what is believed of one set of innovations.
* *Non-linearity*: what H of the members is off the tangent at their mean, in units of the error.

References
----------
.. [1] G. Desroziers, L. Berre, B. Chapnik, P. Poli, "Diagnosis of observation, background and
   analysis-error statistics in observation space", Q. J. R. Meteorol. Soc. 131, 3385-3396, 2005,
   doi:10.1256/qj.05.108.
.. [2] J. L. Anderson, "An adaptive covariance inflation error correction algorithm for ensemble
   filters", Tellus A 59, 210-224, 2007, doi:10.1111/j.1600-0870.2006.00216.x.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xr_daisi.observed_ensemble import errors_of
from xr_daisi.settings import T_MIN

if TYPE_CHECKING:
    from xr_daisi.interpolant import Interpolant
    from xr_daisi.observation_batch import ObservationBatch

__all__ = [
    "FEWEST",
    "departure_from_linearity",
    "innovation_inflation",
    "inversion_time",
    "spread_of_noise",
]

Floats = NDArray[np.float64]

FEWEST = 4
"""Members below which nothing is concluded from an ensemble."""

STEP = 0.01
"""Step of the differences that give a tangent, in perturbations."""

CHI2_MEDIAN = 0.4549
"""Of the square of a standard normal variable."""

MEDIAN = 2.7
"""Variance of an estimate of variance from the median of squares, over that from their mean."""

STRONGEST = 2.0
"""Largest factor of the forecast's perturbations."""


def spread_of_noise(perturbations: Floats) -> float:
    """Root of the variance-weighted mean eigenvalue of the covariance, ``tr(C^2) / tr(C)``.

    Parameters
    ----------
    perturbations : array, shape (M, ...)
        Members minus their mean, normalised; M at least 3.

    Returns
    -------
    float
        The spread itself for errors that are independent and equal, more for correlated ones. The
        estimate of ``tr(C^2)`` is unbiased for Gaussian members.
    """
    x = perturbations.reshape(len(perturbations), -1)
    free = len(x) - 1
    gram = x @ x.T / free
    trace = float(np.trace(gram))
    if trace == 0.0:
        return 0.0
    square = float((gram**2).sum()) - trace**2 / free
    square *= free**2 / ((free - 1) * (free + 2))
    return math.sqrt(max(square, 0.0) / trace)


def inversion_time(states: Floats, interpolant: Interpolant) -> float:
    """Choose how far members are carried towards noise.

    Parameters
    ----------
    states : array, shape (M, ...)
        Normalised members; NaN in holes.
    interpolant : Interpolant
        Schedule of the prior.

    Returns
    -------
    float
        Time at which noise is as large as the spread, ``1 / (1 + spread_of_noise)`` for the linear
        schedule; `T_MIN` for less than `FEWEST` members. At most 0.99, for members that agree.
    """
    if len(states) < FEWEST:
        return T_MIN
    wanted = spread_of_noise(np.nan_to_num(states - states.mean(axis=0)))
    low, high = 0.0, 0.99
    for _ in range(40):  # alpha / beta falls
        middle = 0.5 * (low + high)
        if interpolant.alpha(middle) > wanted * interpolant.beta(middle):
            low = middle
        else:
            high = middle
    return high


def innovation_inflation(anomalies: Tensor, departures: Tensor) -> float:
    """Factor of the forecast's perturbations that innovations ask for.

    The size of P in ``E[d_i^2] = 1 + f^2 (1 + 1/M) P_ii`` is estimated from one set of innovations,
    by the median of ``d_i^2 / E[d_i^2]``: a few wild ones, of wrong observations or of operators
    that are far from linear, say nothing about the rest. Its variance is that of the mean of
    Gaussian innovations, ``2 tr((I + P)^2)``, times `MEDIAN`. Before them ``f^2`` is 1 with the
    variance ``2 / (M - 1)``, that of a sample variance: what M members say of their own spread is
    believed as far as they can know it.

    Parameters
    ----------
    anomalies : Tensor, shape (M, n)
        H of the members minus its mean, whitened.
    departures : Tensor, shape (n,)
        y minus the mean of H, whitened.

    Returns
    -------
    float
        f, within a factor of `STRONGEST`; near 1 for a large ensemble or few observations.
    """
    members, n = anomalies.shape
    free = members - 1
    gram = anomalies @ anomalies.mT / free
    trace = float(gram.trace())
    if members < FEWEST or trace <= 0.0:
        return 1.0
    square = max(float(gram.square().sum()) - trace**2 / free, 0.0)
    square *= free**2 / ((free - 1) * (free + 2))
    variances = anomalies.square().sum(dim=0) / free * (1.0 + 1.0 / members)
    squares = departures.square()
    low, high = 0.0, 100.0
    for _ in range(40):
        middle = 0.5 * (low + high)
        if float((squares / (1.0 + middle * variances)).median()) > CHI2_MEDIAN:
            low = middle
        else:
            high = middle
    variance = MEDIAN * 2.0 * (n + 2.0 * trace + square) / trace**2
    before = 2.0 / free
    factor = (high / variance + 1.0 / before) / (1.0 / variance + 1.0 / before)
    return float(np.sqrt(np.clip(factor, STRONGEST**-2, STRONGEST**2)))


def departure_from_linearity(batch: ObservationBatch, states: Floats) -> Floats:
    """Mean square of what H of the members is off its tangent, in units of the error.

    Parameters
    ----------
    batch : ObservationBatch
        Of one time.
    states : array, shape (M, channel, *space)
        Physical members, finite.

    Returns
    -------
    array, shape (n,)
        0 for a linear H; infinite where H or its tangent is not finite.
    """
    tensors = batch.to_tensors(None, "cpu", torch.float64)
    mean = torch.from_numpy(states.mean(axis=0, keepdims=True))
    errors = torch.from_numpy(errors_of(batch)[0])
    square = torch.zeros_like(errors)
    with torch.no_grad():
        base = tensors.residual(tensors.observe(mean))
        for state in states:  # one by one, since H may take as much memory as the states
            away = torch.from_numpy(state[None]) - mean
            # The differences of directions are taken the shorter way round by residuals.
            there, ahead, behind = (
                tensors.residual(tensors.observe(mean + step * away)) for step in (1.0, STEP, -STEP)
            )
            off = (base - there) - (behind - ahead) / (2.0 * STEP)
            square += (off[0] / errors).square()
    found: Floats = (square / len(states)).numpy()
    return np.where(np.isfinite(found), found, np.inf)
