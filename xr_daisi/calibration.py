r"""What an ensemble and its innovations say about the settings of an analysis, without any truth.

* The *inflation*: innovations ``d = y - mean H(x)`` have, in units of the errors, the expected
  square ``n + (1 + 1/M) tr(P)``, P being the forecast's covariance at the observations [1]_ [2]_.
  How well M members know the size of P bounds what is believed of one set of innovations.
* *Non-linearity*: what H of the members is off the tangent at their mean, in units of the error.
* *Non-Gaussianity*: the negentropy of the members, from their skewness and kurtosis [3]_, with what
  so few members cannot exclude.

References
----------
.. [1] G. Desroziers, L. Berre, B. Chapnik, P. Poli, "Diagnosis of observation, background and
   analysis-error statistics in observation space", Q. J. R. Meteorol. Soc. 131, 3385-3396, 2005,
   doi:10.1256/qj.05.108.
.. [2] J. L. Anderson, "An adaptive covariance inflation error correction algorithm for ensemble
   filters", Tellus A 59, 210-224, 2007, doi:10.1111/j.1600-0870.2006.00216.x.
.. [3] M. C. Jones, R. Sibson, "What is projection pursuit?", J. R. Stat. Soc. A 150, 1-37, 1987,
   doi:10.2307/2981662.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xr_daisi.observed_ensemble import errors_of

if TYPE_CHECKING:
    from xr_daisi.observation_batch import ObservationBatch

__all__ = [
    "FEWEST",
    "departure_from_linearity",
    "innovation_inflation",
    "negentropy",
    "perturbations_of",
]

Floats = NDArray[np.float64]

FEWEST = 4
"""Members below which nothing is concluded from an ensemble."""

STEP = 0.01
"""Step of the differences that give a tangent, in perturbations."""

CHI2_MEDIAN = 0.4549
"""Of the square of a standard normal variable."""

MEDIAN = 2.7
"""Variance of an estimate of variance from the median of many squares, over that from the mean."""

STEPS = 401
"""Inflations that are compared."""

LASTING = 3.0
"""Cycles for which an error of the spread stays in an ensemble."""

DULL = 0.05
"""Share of P in an innovation, over that in others, below which it tells nothing of its size."""

TAILS = 0.6
"""What errors of M sample variances add to the median of squares, relative, times M - 1."""

OTHER = 0.5
"""Largest negentropy of a point: what heavy tails make of its formula has no meaning."""

SOME = 20_000
"""Points that the negentropy is estimated from, at most."""

COMPARED = 5_000
"""Innovations that the inflation is estimated from, at most."""

STRONGEST = 4.0
"""Largest factor of the forecast's perturbations."""


class Spectrum(NamedTuple):
    """Traces of the covariance C of an ensemble.

    Attributes
    ----------
    trace, square : float
        ``tr(C)`` and ``tr(C^2)``. Estimates, unbiased for Gaussian members.
    """

    trace: float
    square: float

    @classmethod
    def of(cls, perturbations: Floats) -> Spectrum:
        """Estimate them from members minus their mean, shape ``(M, ...)``, M at least 3."""
        x = perturbations.reshape(len(perturbations), -1)
        free = len(x) - 1
        gram = (x @ x.T if len(x) <= x.shape[1] else x.T @ x) / free
        trace = float(np.trace(gram))
        square = float((gram**2).sum()) - trace**2 / free
        square *= free**2 / ((free - 1) * (free + 2))
        varying = max(int(np.count_nonzero(x.any(axis=0))), 1)
        return cls(trace, max(square, trace**2 / varying))  # points are directions at most

    @property
    def directions(self) -> float:
        """How many of equal variance would have the same traces, at least 1."""
        return max(self.trace**2 / self.square, 1.0) if self.square else 1.0


def perturbations_of(states: Floats) -> Floats:
    """Return members minus their mean, 0 in holes, and exactly 0 where all agree."""
    x = states - states[:1]
    found: Floats = np.nan_to_num(x - x.mean(axis=0))
    return found


def innovation_inflation(anomalies: Tensor, departures: Tensor) -> float:
    """Factor of the forecast's perturbations that innovations ask for.

    The most likely f, where ``s = f^2`` scales the forecast's covariance P at the observations:
    ``E[d_i^2] = 1 + s (1 + 1/M) P_ii``. What members say of their own spread is believed as far as
    they can know it: ``1 / s`` has the distribution of a sample variance with ``(M - 1) / LASTING``
    degrees of freedom, and log s its mode at 0. To it come the innovations, by the median of
    ``d_i^2 / E[d_i^2]`` over what that is in the mean: a few wild ones, of wrong observations or of
    operators that are far from linear, say nothing about the rest, nor do those for which members
    agree. The degrees of freedom of all follow from the correlations of the innovations. For one
    observation the result is the mode of the exact posterior of a Gaussian: an innovation of many
    standard deviations tells that the forecast is wrong, however sharp it is and however little
    common ones say.

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
    if members < FEWEST or n == 0:
        return 1.0
    y = anomalies.double().cpu().numpy()
    variances = np.square(y).sum(axis=0) / (members - 1) * (1.0 + 1.0 / members)
    shares = 1.0 - 1.0 / (1.0 + variances)
    if not shares.sum() > 0.0:  # nor where they are not numbers
        return 1.0
    # No weights, which would prefer variances that are too large by chance.
    tell = shares > DULL * np.square(shares).sum() / shares.sum()
    y, variances = y[:, tell], variances[tell]
    squares = departures.double().cpu().square().numpy()[tell]
    degrees, directions = _independent(y, variances)
    n = len(squares)
    if n > COMPARED:  # the numbers above are of all
        some = np.random.default_rng(0).choice(n, COMPARED, replace=False)
        variances, squares = variances[some], squares[some]
    # The median of an even number is about that of one less.
    expected, cost = _median_of_squares(max(degrees * (n - (n + 1) % 2) / n, 1.0))
    logarithm = np.linspace(-2.0, 2.0, STEPS) * math.log(STRONGEST)
    s = np.exp(logarithm)
    total = 1.0 + s[:, None] * variances
    informed = (1.0 - 1.0 / total).mean(axis=1)
    # Sample variances in many directions, each with errors of its own, make heavier tails.
    tails = 1.0 + TAILS / (members - 1) * (1.0 - 1.0 / directions) * informed
    found = np.median(squares / total, axis=1) / (expected * tails)
    slope = (members - 1) / LASTING * (1.0 / s - 1.0) + degrees / cost * informed * (found - 1.0)
    if not np.isfinite(slope).all():
        return 1.0
    rise = np.concatenate([[0.0], np.cumsum(slope[1:] + slope[:-1])])
    return float(np.sqrt(s[rise.argmax()]))


def _independent(y: Floats, variances: Floats) -> tuple[float, float]:
    """How many independent innovations are worth as much, and directions that P has in them.

    The variance of the mean of ``d_i^2 / E[d_i^2]`` is that of their correlations, squared.
    """
    n = len(variances)
    spectrum = Spectrum.of(y / np.sqrt(1.0 + variances))
    own = float(np.square(variances / (1.0 + variances)).sum())
    return n**2 / (n + max(spectrum.square - own, 0.0)), spectrum.directions


def _median_of_squares(n: float) -> tuple[float, float]:
    """Mean of the median of n squares of standard normal variables, and n over what it is worth.

    Exact for one and for many, fitted to odd numbers between: within 2 and 8 %.
    """
    few = 1.65 / (n + 0.65)
    return CHI2_MEDIAN + (1.0 - CHI2_MEDIAN) * few, MEDIAN - (MEDIAN - 1.0) * few


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
            tangent = tensors.shorter(behind - ahead) / (2.0 * STEP)
            off = tensors.shorter(base - there) - tangent
            square += (off[0] / errors).square()
    found: Floats = (square / len(states)).numpy()
    return np.where(np.isfinite(found), found, np.inf)


def negentropy(states: Floats) -> float:
    """How far members are from Gaussian, or may be for all that so few of them can say.

    The negentropy of a variable of skewness g and excess kurtosis k is about ``g^2 / 12 + k^2 /
    48`` (Jones and Sibson 1987). Its mean over points, weighted by their variance, is corrected for
    what Gaussian members have by chance. In one direction the standard error of this is about as
    large as the correction; over n independent ones it falls by ``sqrt(n)``. It is added: a few
    members in few directions may come from lobes that they do not show.

    Parameters
    ----------
    states : array, shape (M, channel, ...)
        Normalised members, M at least `FEWEST`; NaN in holes. Of many points, `SOME` are taken.

    Returns
    -------
    float
        Per variable, in nat: 0.08 for lobes of one point each, `OTHER` at most. In the mean about
        0.04 for 10 Gaussian members in three directions, 0.004 in 300.
    """
    m = float(len(states))
    x = states.reshape(len(states), -1)
    if x.shape[1] > SOME:
        x = x[:, np.random.default_rng(0).choice(x.shape[1], SOME, replace=False)]
    x = perturbations_of(x.astype(float))
    variance = np.square(x).mean(axis=0)
    varies = variance > 0.0
    if not varies.any():
        return 0.0
    x, variance = x[:, varies], variance[varies]
    cubes = (x / np.sqrt(variance)) ** 3
    skewness = cubes.mean(axis=0)
    kurtosis = (cubes * x / np.sqrt(variance)).mean(axis=0) - 3.0 + 6.0 / (m + 1.0)
    of_points = np.minimum(skewness**2 / 12.0 + kurtosis**2 / 48.0, OTHER)
    # Of Gaussian members (Fisher 1930): variances of both, and the mean kurtosis -6 / (m + 1).
    of_skewness = 6.0 * (m - 2.0) / ((m + 1.0) * (m + 3.0))
    of_kurtosis = 24.0 * m * (m - 2.0) * (m - 3.0) / ((m + 1.0) ** 2 * (m + 3.0) * (m + 5.0))
    chance = of_skewness / 12.0 + of_kurtosis / 48.0
    found = float(np.average(of_points, weights=variance)) - chance
    return max(found, 0.0) + chance / math.sqrt(Spectrum.of(x).directions)
