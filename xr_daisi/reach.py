r"""How far observations may reach, from the ensemble alone: localisation without tuning.

A small ensemble is wrong about correlations in two ways, and each limits the reach of observations.

* *Sampling noise.* Where true correlations are small, sample correlations of M members are of the
  size ``1 / sqrt(M - 1)``. The factor that makes the expected squared error of a sample covariance
  least is, for Gaussian members [1]_,

      ``L = (M - 1) / ((M + 1) (M - 2)) (M - 1 - E[V_i V_j] / E[C_ij^2])``,

  with sample covariances C and variances V, and expectations over pairs of points that are as far
  apart. A taper is fitted to it.
* *Degrees of freedom.* An update fits M - 1 weights to the observations in reach; those that
  determine many of them leave little to tell signal from noise. With the whitened perturbations Y
  of the observations in reach of a column, they determine ``tr(G (G + (M - 1) I)^-1)``, ``G = Y'
  Y``. The reach is such that this is at most a quarter of M - 1 on average.

A large ensemble needs neither, and none is set.

References
----------
.. [1] B. Menetrier, T. Montmerle, Y. Michel, L. Berre, "Linear filtering of sample covariances for
   ensemble-based data assimilation. Part I", Mon. Weather Rev. 143, 1622-1643, 2015,
   doi:10.1175/MWR-D-14-00157.1.
.. [2] B. R. Hunt, E. J. Kostelich, I. Szunyogh, Physica D 230, 112-126, 2007 (the local update).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xr_daisi.ensemble_kalman import (
    columns_at_once,
    local_products,
)
from xr_daisi.localization import FARTHEST, Places, gaspari_cohn

if TYPE_CHECKING:
    from xr_daisi.interpolation import LevelKey
    from xr_daisi.state import StateSpec

__all__ = ["ObservedPlaces", "Reach", "choose_reach", "optimal_taper"]

Floats = NDArray[np.float64]

SHARE = 0.25
"""Of the degrees of freedom of an ensemble, what observations in reach may determine."""

FAITHFUL = 0.95
"""Sample covariances that are to be multiplied by this or more need no taper."""

POINTS = 400
"""Points of the grid whose pairs are looked at."""

COLUMNS = 200
"""Places of observations whose surroundings are looked at."""

FEWEST = 20
"""Places of observations at least, however many observations are around."""

PAIRS = 2_000_000
"""Pairs of column and observation at a time."""

NODES = 1.5
"""Least reach, in distances between neighbouring points of the grid."""

DISTANCES = 48
GROWTH = 1.25
"""Ratio of the reaches that are tried, one after the other."""


@dataclass(frozen=True)
class Reach:
    """How far observations reach.

    Parameters
    ----------
    radius : float or None
        Distance at which the taper is zero, km or units of a plain grid; None is no limit.
    vertical : mapping of levels to float
        The same along each set of levels; without an entry there is no limit.
    determined : float
        Degrees of freedom of the ensemble that observations determine in a column, on average.
    """

    radius: float | None = None
    vertical: Mapping[LevelKey, float] = field(default_factory=dict)
    determined: float = 0.0


@dataclass(frozen=True, eq=False)
class ObservedPlaces:
    """Observations as the choice of their reach needs them.

    Parameters
    ----------
    anomalies : Tensor, shape (M, n)
        H of the members minus its mean, whitened.
    places : Places
        Where they are.
    levels : mapping of levels to array, shape (n,)
        Vertical coordinates in terms of each set of levels; NaN for none.
    """

    anomalies: Tensor
    places: Places
    levels: Mapping[LevelKey, Floats]

    def determined(self, radius: float | None, vertical: Mapping[LevelKey, float]) -> float:
        """Degrees of freedom that observations determine in a column, on average over some.

        Parameters
        ----------
        radius : float or None
            At which the taper is zero.
        vertical : mapping of levels to float
            Likewise along levels.
        """
        values = self._eigenvalues(radius, vertical)
        return float((values / (values + len(self.anomalies) - 1)).sum(dim=-1).mean())

    def share_of_information(
        self, share: float, radius: float | None, vertical: Mapping[LevelKey, float]
    ) -> float:
        """Find the a for which errors R / a leave a share of the information of the observations.

        Parameters
        ----------
        share : float
            Of the logarithm of the determinant by which the update changes the covariance.
        radius, vertical
            As in `determined`.

        Returns
        -------
        float
            0 to 1.
        """
        values = self._eigenvalues(radius, vertical) / (len(self.anomalies) - 1)
        wanted = share * float(torch.log1p(values).sum())
        if wanted <= 0.0:
            return 0.0
        low, high = 0.0, 1.0
        for _ in range(40):
            middle = 0.5 * (low + high)
            if float(torch.log1p(middle * values).sum()) < wanted:
                low = middle
            else:
                high = middle
        return high

    def _eigenvalues(self, radius: float | None, vertical: Mapping[LevelKey, float]) -> Tensor:
        """Of ``Y' T R^-1 Y`` in some columns at observations."""
        n = self.anomalies.shape[1]
        if radius is None and not vertical:
            singular: Tensor = torch.linalg.svdvals(self.anomalies)
            return singular.square()[None]
        reach = FARTHEST if radius is None else radius
        share = self.places.share_near(self.places, reach)
        most = int(PAIRS / max(1.0, share * n))
        members, size = len(self.anomalies), self.anomalies.element_size()
        count = max(1, min(n, COLUMNS, max(most, FEWEST), columns_at_once(members, size)))
        chosen = np.unique(np.linspace(0, n - 1, count).round().astype(np.int64))
        column, observation, distance = self.places.at(chosen).near(self.places, reach)
        weight = gaspari_cohn(distance, reach) if radius is not None else np.ones(distance.size)
        for key, zero in vertical.items():
            if key in self.levels:
                z = self.levels[key]
                away = np.abs(z[chosen][column] - z[observation])
                weight = weight * gaspari_cohn(np.where(np.isnan(away), 0.0, away), zero)
        some = weight > 0.0
        y = self.anomalies
        gram, _ = local_products(
            y, y[:0], column[some], observation[some], weight[some], len(chosen)
        )
        values: Tensor = torch.linalg.eigvalsh(gram)
        return values.clamp(min=0.0)


def optimal_taper(members: int, products: Floats, squares: Floats) -> Floats:
    """Compute the factor that makes the squared error of sample covariances least.

    Parameters
    ----------
    members : int
        M, at least 3.
    products : array
        Means of ``V_i V_j``, products of sample variances, over pairs of points.
    squares : array
        Means of ``C_ij^2``, squared sample covariances, over the same pairs.

    Returns
    -------
    array
        About 0 where covariances are sampling noise, ``(M - 1) / (M + 1)`` for a variance.

    References
    ----------
    doi:10.1175/MWR-D-14-00157.1.
    """
    m = members
    found: Floats = (m - 1) / ((m + 1) * (m - 2)) * (m - 1 - products / squares)
    return found


def choose_reach(
    states: Floats,
    spec: StateSpec,
    seen: ObservedPlaces,
    vertical: Mapping[LevelKey, float] | None = None,
) -> Reach:
    """Choose how far observations reach.

    Parameters
    ----------
    states : array, shape (M, channel, *space)
        Members, normalised or in units in which their variables are comparable; NaN in holes.
        Several times may be stacked along the channels.
    spec : StateSpec
        Variables and grid.
    seen : ObservedPlaces
        The observations.
    vertical : mapping of levels to float, optional
        Reach along the levels, if that is given.

    Returns
    -------
    Reach
        Without any limit for an ensemble that is large enough.
    """
    members = len(states)
    places = Places.of(spec)
    times = states.shape[1] // spec.channels
    x = states.reshape(members, times * spec.channels, -1)
    rng = np.random.default_rng(0)  # the same points for every ensemble
    there = np.isfinite(x[0]).any(axis=0) & np.all(np.isfinite(places.positions), axis=0)
    finite = np.flatnonzero(there)
    chosen = np.sort(rng.choice(finite, min(POINTS, finite.size), replace=False))
    perturbations = x[:, :, chosen]
    perturbations = np.nan_to_num(perturbations - perturbations.mean(axis=0))
    # An observation has to reach the nodes around it.
    least = NODES * places.spacing()
    places = places.at(chosen)
    if vertical is None:
        vertical = _vertical(perturbations, spec)
    noise = _sampling_radius(perturbations, places)
    limit = SHARE * (members - 1)
    most = np.inf if noise is None else max(noise, least)
    radius = _radius_of_freedom(places, seen, vertical, most, limit)
    radius = None if radius is None else max(radius, least)
    return Reach(radius, vertical, seen.determined(radius, vertical))


def _sampling_radius(perturbations: Floats, places: Places) -> float | None:
    """Radius of the taper that suits sampling noise; None where there is hardly any."""
    members = len(perturbations)
    one, other, distance = places.near(places, FARTHEST)
    pair = one < other
    one, other, distance = one[pair], other[pair], distance[pair]
    if not distance.size or distance.max() == 0.0:
        return None
    edges = np.linspace(0.0, float(distance.max()), DISTANCES + 1)
    number = np.clip(np.digitize(distance, edges) - 1, 0, DISTANCES - 1)
    squares, products, whole = np.zeros(DISTANCES), np.zeros(DISTANCES), 0.0
    for channel in range(perturbations.shape[1]):
        x = perturbations[:, channel]
        covariance = x.T @ x / (members - 1)
        variance = np.diag(covariance)
        squares += np.bincount(number, covariance[one, other] ** 2, DISTANCES)
        products += np.bincount(number, variance[one] * variance[other], DISTANCES)
        whole += float((variance**2).sum())
    there = squares > 0.0
    if not there.any():
        return None
    best = optimal_taper(members, products[there], squares[there])
    best = best * (members + 1) / (members - 1)  # a taper is 1 at no distance
    kept = whole + 2.0 * float((squares[there] * np.clip(best, 0.0, 1.0)).sum())
    if kept >= FAITHFUL * (whole + 2.0 * float(squares.sum())):
        return None
    middle = (0.5 * (edges[1:] + edges[:-1]))[there]
    return _fitted(middle, best, 0.5 * edges[1], 4.0 * edges[-1])


def _fitted(distance: Floats, factor: Floats, least: float, most: float) -> float:
    """Radius of the taper that is nearest to factors at some distances."""
    tried = np.geomspace(least, most, 200)
    aimed = np.clip(factor, -0.5, 1.5)
    errors = [float(((gaspari_cohn(distance, radius) - aimed) ** 2).sum()) for radius in tried]
    return float(tried[int(np.argmin(errors))])


def _vertical(perturbations: Floats, spec: StateSpec) -> dict[LevelKey, float]:
    """Radius along each set of levels that suits sampling noise."""
    members = len(perturbations)
    pairs: dict[LevelKey, list[tuple[float, float, float]]] = {}
    whole: dict[LevelKey, float] = {}
    for v in spec.variables:
        if v.levels is None or v.size < 2:
            continue
        own = perturbations[:, spec.channel_slice(v.name)]
        variance = (own**2).sum(axis=0) / (members - 1)
        whole[v.levels] = whole.get(v.levels, 0.0) + float((variance**2).mean(axis=1).sum())
        for i in range(v.size):
            for j in range(i + 1, v.size):
                covariance = (own[:, i] * own[:, j]).sum(axis=0) / (members - 1)
                square = float((covariance**2).mean())
                if square > 0.0:
                    product = float((variance[i] * variance[j]).mean())
                    taper = optimal_taper(members, np.array(product), np.array(square))
                    factor = float(taper) * (members + 1) / (members - 1)
                    apart = abs(float(v.levels[i]) - float(v.levels[j]))
                    pairs.setdefault(v.levels, []).append((apart, factor, square))
    found = {}
    for key, of_levels in pairs.items():
        distance, factor, square = np.array(of_levels).T
        kept = whole[key] + 2.0 * float((square * np.clip(factor, 0.0, 1.0)).sum())
        if kept < FAITHFUL * (whole[key] + 2.0 * float(square.sum())) and distance.min() > 0.0:
            found[key] = _fitted(distance, factor, 0.5 * distance.min(), 20.0 * distance.max())
    return found


def _radius_of_freedom(
    places: Places,
    seen: ObservedPlaces,
    vertical: Mapping[LevelKey, float],
    most: float,
    limit: float,
) -> float | None:
    """Largest radius up to `most` within which observations determine no more than a limit."""
    longest = None if np.isinf(most) else most
    if seen.determined(longest, vertical) <= limit:
        return longest
    some = places.at(slice(None, None, max(1, len(places) // 200)))
    across = float(np.max(some.near(some, FARTHEST)[2], initial=0.0))
    if across == 0.0:  # a single place
        return None
    radius = across / 64.0
    before, at_before = radius, 0.0
    while radius < min(most, 4.0 * across):
        found = seen.determined(radius, vertical)
        if found > limit:
            if before == radius:
                return radius
            share = (limit - at_before) / (found - at_before)
            return float(before * (radius / before) ** share)
        before, at_before = radius, found
        radius *= GROWTH
    return float(min(most, radius))
