r"""How much of what an ensemble update promises it delivers: tried on the ensemble's own members.

A filter takes sample covariances for true. The spread of its analysis is what would be left of the
forecast's errors if they were; a small ensemble delivers less. How much less can be seen without
any truth, since members are exchangeable: each in turn is taken for the truth, observed with errors
as the real observations have them, and analysed by the others. With mean squares over points and
trials,

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

from xr_daisi.ensemble_kalman import columns_at_once, global_update, local_update
from xr_daisi.localization import FARTHEST, Places, level_groups, local_weights

if TYPE_CHECKING:
    from torch import Tensor

    from xr_daisi.reach import ObservedPlaces, Reach
    from xr_daisi.state import StateSpec

__all__ = ["efficiency", "fraction_of_information"]

TRIALS = 20
"""Members that are taken for the truth, at most."""

POINTS = 400
"""Points of the grid that are looked at."""

WORTHLESS = 1e-3
"""Share of the variance below which a promise is not worth a trial."""

DOUBT = 10.0
"""Variance of the efficiency before any trial, times the degrees of freedom of the ensemble."""

WHOLE = 0.95
"""Fraction from which on observations are left to an update altogether."""

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
    places = Places.of(spec)
    x = states.reshape(members, channels, -1)
    there = np.isfinite(x[0]).any(axis=0) & np.isfinite(places.positions).all(axis=0)
    rng = np.random.default_rng(0)  # the same points and errors for every ensemble
    known = np.flatnonzero(there)
    points = np.sort(rng.choice(known, min(POINTS, known.size), replace=False))
    z = torch.from_numpy(np.nan_to_num(x[:, :, points]))
    y = observed.anomalies.double()
    columns = None
    if reach.radius is not None or reach.vertical:
        times = channels // spec.channels
        groups = level_groups(spec, observed.levels, reach.vertical or None, times)
        radius = FARTHEST if reach.radius is None else reach.radius
        most = columns_at_once(members, 8)
        columns = list(local_weights(places.at(points), observed.places, radius, groups, most))
    gains, promises, total = [], [], 0.0
    trials = np.unique(np.linspace(0, members - 1, min(TRIALS, members)).round().astype(int))
    for truth in trials:
        others = np.delete(np.arange(members), truth)
        own, mean = z[others], z[others].mean(dim=0)
        seen, middle = y[others], y[others].mean(dim=0)
        errors = torch.from_numpy(rng.standard_normal(len(noise)) * np.sqrt(noise))
        given = own - mean, seen - middle, y[truth] + errors - middle
        update = (
            global_update(*given, 1.0) if columns is None else local_update(*given, columns, 1.0)
        )
        factor = 1.0 + 1.0 / len(others)
        left = own + update.perturbations
        gains.append(_square(mean - z[truth]) - _square(mean + update.mean - z[truth]))
        promises.append(factor * float((own.var(dim=0) - left.var(dim=0)).sum()))
        total += factor * float(own.var(dim=0).sum())
    gain, promised = np.array(gains), np.array(promises)
    if promised.sum() <= WORTHLESS * total:
        return 1.0
    found = gain.sum() / promised.sum()
    off = np.var(gain - found * promised) / len(trials) / promised.mean() ** 2
    before = DOUBT / (members - 1)
    return float((found / off + 1.0 / before) / (1.0 / off + 1.0 / before)) if off else float(found)


def fraction_of_information(delivered: float, noise: float) -> float:
    """Fraction of the information of observations that an ensemble update is trusted with.

    Parameters
    ----------
    delivered : float
        From `efficiency`.
    noise : float
        Share q of the ensemble's degrees of freedom that observations determine: weights fitted by
        so few members are noisy, by the factor ``1 + q`` in variance.

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
    """
    trusted = (delivered - USELESS) / (USEFUL - USELESS)
    found = float(np.clip(trusted, 0.0, 1.0)) / (1.0 + noise)
    return 1.0 if found > WHOLE else found


def _square(x: Tensor) -> float:
    return float(x.square().sum())
