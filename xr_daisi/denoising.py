r"""The inversion time: members are carried to where the prior knows as little as the forecast.

A state x seen through the noise of time t, ``alpha(t) z + beta(t) x``, is known to the prior up to
the error of its denoised state, ``E |x - E[x1 | x_t]|^2``: 0 near t = 1, that of a guess at t = 0.
The forecast knows it up to the variance of its members. Where both are the same, the prior at t
stands for the forecast. For a Gaussian prior with the eigenvalues ``l_i`` and a forecast with the
variances ``s_i^2`` along its eigenvectors, that is

    ``sum_i 1 / (1 / l_i + beta^2 / alpha^2) = sum_i s_i^2``.

In one direction the precision of the noise is the forecast's less the prior's own, and the variance
of an analysis is Kalman's, for any linear observation. In many directions the trace is the same.
The more of a state the prior can tell from the rest of it, the more noise that takes: far more than
the spread of a forecast that saw no observations for days, whose small scales are as good as lost.
The members stand for states that the prior may meet: of those that are far from all it has seen, it
knows less, and they are carried less far.

References
----------
.. [1] K. Miyasawa, "An empirical Bayes estimator of the mean of a normal population", Bull. Inst.
   Internat. Statist. 38, 181-188, 1961: the denoised state.
.. [2] R. P. Brent, "Algorithms for Minimization without Derivatives", 1973, chapter 4.
"""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.optimize import brentq

from xr_daisi.calibration import FEWEST
from xr_daisi.holes import holes_of
from xr_daisi.settings import T_MIN

if TYPE_CHECKING:
    from xr_daisi.engine import Engine

__all__ = ["PASSES", "denoised_states", "denoising_error", "inversion_time"]

VALUES = 10_000
"""Values that an error is averaged over, at least, where `MOST` states hold so many."""

ENOUGH = 20
"""Members of a large ensemble that stand for all, picked evenly."""

MOST = 4_000
"""States that are denoised at once, at most."""

LOWEST, HIGHEST = 0.02, 0.99
"""Inversion times."""

CLOSE, DIGITS = 5e-4, 3
"""Error of the inversion time before it is rounded, and its decimals."""

PASSES = 9
"""Values of t that a search takes, about."""

OWN = 0x1D
"""Seed of the noise."""

FARTHEST = 20.0
"""Logarithm of a ratio of variances beyond which they are not compared."""


def denoised_states(members: int, values: int) -> int:
    """Return how many states a search denoises at once, of members of so many values each."""
    wanted = min(max(-(-VALUES // max(values, 1)), min(members, ENOUGH)), MOST)
    return wanted if wanted <= members else min(-(-wanted // members), MOST // members) * members


def picks(members: int, count: int) -> np.ndarray:
    """Return the numbers of `count` members, some of them evenly picked or all some times."""
    numbers = np.arange(count)
    return numbers % members if count >= members else numbers * members // count


def denoising_error(
    engine: Engine, states: np.ndarray, noise: np.ndarray, t: float, where: np.ndarray
) -> float:
    """Mean square error of states that are mixed with noise, and denoised by the prior.

    Parameters
    ----------
    engine : Engine
        With the prior.
    states : ndarray, shape (M, channel, *space)
        Physical members; NaN in holes.
    noise : ndarray, shape of states
        Standard normal.
    t : float
        Time of the noise, in (0, 1).
    where : ndarray of bool, shape (channel, *space)
        What the mean is of, at least one point, none in a hole.

    Returns
    -------
    float
        In units of the prior's variance at each point. Infinite where the network is not finite.
    """
    holes = holes_of(states[0])
    device, flow = engine.flow_past(holes)
    kept = torch.from_numpy(where).to(device)
    alpha, beta = flow.interpolant.alpha(t), flow.interpolant.beta(t)
    total = 0.0
    batches = engine.batches_of(states, holes, "", 0)
    for part, x, _ in batches:
        with batches.attempt(), torch.no_grad():
            z = torch.from_numpy(noise[part]).to(x)
            off = (flow.denoise(alpha * z + beta * x, t) - x)[:, kept]
            total += float(off.double().square().sum())
    found = total / (len(states) * int(where.sum()))
    return found if math.isfinite(found) else math.inf


def inversion_time(engine: Engine, states: np.ndarray) -> float:
    """Choose how far members are carried towards noise.

    Parameters
    ----------
    engine : Engine
        With the prior.
    states : ndarray, shape (M, channel, *space)
        Physical members; NaN in holes. Points at which all agree, as where it is dry, do not count.

    Returns
    -------
    float
        Where the denoising error of the members is their variance, to three decimals; the nearer
        end of `LOWEST` to `HIGHEST` where it is larger, or smaller, at both. `T_MIN` for less than
        `FEWEST` members.
    """
    members = len(states)
    if members < FEWEST:
        return T_MIN
    x = engine.normalization.normalize(states.astype(float))
    with np.errstate(over="ignore"):
        variances = (x - x[:1]).var(axis=0, ddof=1)  # exactly 0 where all agree
    where = variances > 0.0  # false in holes
    if not where.any():
        return HIGHEST
    variance = float(variances[where].mean())
    if not math.isfinite(variance):  # wrong beyond all bounds, as the analysis will say
        return HIGHEST
    some = states[picks(members, denoised_states(members, states[0].size))]
    # The same for every seed, but not the numbers that a user may have made the members of.
    noise = np.random.default_rng([0, OWN]).standard_normal(some.shape)

    @cache  # the ends are asked for twice
    def excess(t: float) -> float:
        error = denoising_error(engine, some, noise, t, where)
        ratio = max(error, math.exp(-FARTHEST) * variance) / variance
        return min(math.log(ratio), FARTHEST)

    if excess(HIGHEST) >= 0.0:
        return HIGHEST
    if excess(LOWEST) <= 0.0:
        return LOWEST
    # Rounded, so that the last bits of a network, which depend on threads, change nothing.
    return round(float(brentq(excess, LOWEST, HIGHEST, xtol=CLOSE)), DIGITS)
