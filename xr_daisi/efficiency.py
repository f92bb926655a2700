r"""How much of what an ensemble update promises it delivers: tried on the ensemble's own members.

A filter takes sample covariances for true. The spread of its analysis is what would be left of the
forecast's errors if they were; a small ensemble delivers less. How much less can be seen without
any truth, since members are exchangeable: each in turn, or some of many, is taken for the truth,
observed with errors as the real observations have them, and analysed by the others. With mean
squares over points and trials,

    ``efficiency = (error before - error after) / (variance before - variance after)``,

variances with the factor ``1 + 1 / M`` of an ensemble mean. It is 1 for a large ensemble and any
linear observations, and may be 0, or less, where few members meet a system of many dimensions,
whatever their number says. This is the cross-validation of an estimator [1]_ with members for
samples. What few trials cannot tell, since observations are poor, is not held against an update:
before them the efficiency is 1 with the variance `DOUBT` / (M - 1).

References
----------
.. [1] M. Stone, "Cross-validatory choice and assessment of statistical predictions", J. R. Stat.
   Soc. B 36, 111-133, 1974.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from xr_daisi.ensemble_kalman import columns_at_once, local_products, transform
from xr_daisi.localization import FARTHEST, Places, level_groups, local_weights

if TYPE_CHECKING:
    from torch import Tensor

    from xr_daisi.reach import ObservedPlaces, Reach
    from xr_daisi.state import StateSpec

__all__ = ["efficiency", "fraction_of_information"]

TRIALS = 20
"""Members that are taken for the truth, at most."""

POINTS = 400
"""Points of the grid that are looked at, of those in reach of an observation."""

WORTHLESS = 1e-3
"""Share of the variance below which a promise is not worth a trial."""

DOUBT = 10.0
"""Variance of the efficiency before any trial, times the degrees of freedom of the ensemble."""

WHOLE = 0.95
"""Fraction from which on observations are left to an update altogether."""

SHAPELESS = 0.1
"""Negentropy per variable, in nat, that halves the fraction."""

USELESS, USEFUL = 0.05, 0.3
"""Efficiencies at which an update is left out, and from which on it is trusted."""


def efficiency(
    states: NDArray[np.float64],
    spec: StateSpec,
    observed: ObservedPlaces,
    noise: NDArray[np.float64],
    reach: Reach,
) -> float:
    """Try the update of an ensemble on its own members.

    Parameters
    ----------
    states : array, shape (M, channel, *space)
        Members, normalised; NaN in holes. Several times may be stacked along the channels.
    spec : StateSpec
        Variables and grid.
    observed : ObservedPlaces
        H of the members in units of the errors that the update is told.
    noise : array, shape (n,)
        Variance of the errors in these units: 1, or less where the update is told larger ones.
    reach : Reach
        Of the observations.

    Returns
    -------
    float
        1 where the update does what it promises, and where it promises nothing.
    """
    members, channels = states.shape[:2]
    rng = np.random.default_rng(0)  # the same points and errors for every ensemble
    chosen = _points(states, spec, observed, reach, rng)
    z = torch.from_numpy(np.nan_to_num(states.reshape(members, channels, -1)[:, :, chosen]))
    y = observed.anomalies.double()
    trials = np.unique(np.linspace(0, members - 1, min(TRIALS, members)).round().astype(int))
    errors = torch.from_numpy(rng.standard_normal((len(trials), len(noise))) * np.sqrt(noise))
    gains, promises, total = np.zeros(len(trials)), np.zeros(len(trials)), 0.0
    if reach.radius is None and not reach.vertical:
        total += _tried(z, (y @ y.mT)[None], (errors @ y.mT)[None], trials, gains, promises)
    else:
        times = channels // spec.channels
        groups = level_groups(spec, observed.levels, reach.vertical or None, times)
        radius = FARTHEST if reach.radius is None else reach.radius
        places, most = Places.of(spec).at(chosen), columns_at_once(members, 8)
        for part in local_weights(places, observed.places, radius, groups, most):
            count = len(range(*part.points.indices(len(places))))
            given = y, errors, part.column, part.observation, part.weight, count
            own = z[:, part.channels][..., part.points]
            total += _tried(own, *local_products(*given), trials, gains, promises)
    if promises.sum() <= WORTHLESS * total:
        return 1.0
    found = float(gains.sum() / promises.sum())
    off = float(np.var(gains - found * promises) / len(trials) / promises.mean() ** 2)
    before = DOUBT / (members - 1)
    return (found / off + 1.0 / before) / (1.0 / off + 1.0 / before) if off else found


def _points(
    states: NDArray[np.float64],
    spec: StateSpec,
    observed: ObservedPlaces,
    reach: Reach,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Numbers of some points without a hole, within reach of an observation if there are any."""
    places = Places.of(spec)
    known = np.isfinite(states[0].reshape(states.shape[1], -1)).any(axis=0)
    known &= np.isfinite(places.positions).all(axis=0)
    order = rng.permutation(np.flatnonzero(known))
    if reach.radius is not None:
        for candidates in (order[: 20 * POINTS], order):
            near = candidates[places.at(candidates).reached(observed.places, reach.radius)]
            if near.size >= POINTS or candidates.size == order.size:
                break
        order = near if near.size else order
    found: NDArray[np.int64] = np.sort(order[:POINTS])
    return found


def _tried(
    z: Tensor,
    gram: Tensor,
    noise: Tensor,
    trials: NDArray[np.int64],
    gains: NDArray[np.float64],
    promises: NDArray[np.float64],
) -> float:
    """Add what is gained and promised at the points of some columns, trial by trial.

    Parameters
    ----------
    z : Tensor, shape (M, channel, point)
        Members.
    gram : Tensor, shape (column, M, M)
        ``Y T Y'``; one for all points, or one for each.
    noise : Tensor, shape (column, trial, M)
        ``Y T e`` of the errors of each trial.
    trials, gains, promises : array, shape (trial,)
        The members that are taken for the truth, and what is added to.

    Returns
    -------
    float
        Variances, summed over points and trials.
    """
    total = 0.0
    for number, truth in enumerate(trials):
        others = np.delete(np.arange(len(z)), truth)
        # Perturbations from the mean of the others, and the departure of the truth from it.
        among = gram[:, others][:, :, others]
        along = gram[:, others, truth] - among.mean(dim=2) + noise[:, number, others]
        rows = among - among.mean(dim=1, keepdim=True)
        mean, change = transform(
            rows - rows.mean(dim=2, keepdim=True), along - along.mean(dim=1, keepdim=True)
        )
        own = z[others]
        middle = own.mean(dim=0)
        away = (own - middle).permute(2, 1, 0)  # (point, channel, member)
        moved = (away @ mean[..., None])[..., 0].mT
        factor = 1.0 + 1.0 / len(others)
        variance, left = (
            factor * float(v.square().sum()) / (len(others) - 1)
            for v in (away, away + away @ change)
        )
        error = middle - z[truth]
        gains[number] += float(error.square().sum() - (error + moved).square().sum())
        promises[number] += variance - left
        total += variance
    return total


def fraction_of_information(delivered: float, noise: float, away: float = 0.0) -> float:
    """Fraction of the information of observations that an ensemble update is trusted with.

    Parameters
    ----------
    delivered : float
        From `efficiency`.
    noise : float
        Share q of the ensemble's degrees of freedom that observations determine: weights fitted by
        so few members are noisy, by the factor ``1 + q`` in variance.
    away : float
        Negentropy of the members, see `xr_daisi.calibration.negentropy`: an update by covariances
        forgets the shape of their distribution, which the flow knows.

    Returns
    -------
    float
        0 to 1.

    Examples
    --------
    >>> fraction_of_information(0.9, 0.02)
    1.0
    >>> [round(fraction_of_information(e, 0.25), 2) for e in (0.0, 0.1, 0.25, 0.3, 1.0)]
    [0.0, 0.16, 0.64, 0.8, 0.8]
    >>> fraction_of_information(1.0, 0.0, away=0.1)
    0.5
    """
    trusted = (delivered - USELESS) / (USEFUL - USELESS)
    found = float(np.clip(trusted, 0.0, 1.0)) / (1.0 + noise) / (1.0 + away / SHAPELESS)
    return 1.0 if found > WHOLE else found
