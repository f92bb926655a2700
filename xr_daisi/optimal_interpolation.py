r"""Optimal interpolation: Kalman's formula with a covariance that is given, not estimated.

The covariance of the forecast's errors is ``B = D C D``: standard deviations D, and correlations C
that are Gaspari and Cohn's function of distance, times one of the levels' distance within a
variable; different variables are not correlated. With R that of the observations and H linearised
at the ensemble mean, each member x becomes ``x + B H' (H B H' + R)^-1 (y + e - H(x))``. The
perturbations e of the observations, drawn from R with mean zero over the members, give the analysis
its spread.

References
----------
.. [1] G. Burgers, P. J. van Leeuwen, G. Evensen, "Analysis scheme in the ensemble Kalman filter",
   Mon. Weather Rev. 126, 1719-1724, 1998.
.. [2] R. Daley, "Atmospheric Data Analysis", Cambridge University Press, 1991, chapter 4.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from xr_daisi.errors import ObservationError, problem
from xr_daisi.localization import MOST_PAIRS, Places, gaspari_cohn

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xr_daisi.interpolation import LevelKey
    from xr_daisi.state import StateSpec

__all__ = ["MOST_OBSERVATIONS", "StaticCovariance", "channel_correlations", "interpolated"]

Floats = NDArray[np.float64]

MOST_OBSERVATIONS = 10_000
"""Their covariance is a dense matrix."""


def channel_correlations(
    spec: StateSpec, zero: Mapping[LevelKey, float] | None, times: int = 1
) -> Floats:
    """Correlations between the channels of a state at one place.

    Parameters
    ----------
    spec : StateSpec
        The state.
    zero : mapping of levels to float, or None
        Vertical distance from which on a variable is not correlated with itself; None where its
        levels are independent.
    times : int
        States stacked along the channels; independent of each other.

    Returns
    -------
    array, shape (times * channel, times * channel)
        Symmetric, ones on the diagonal.
    """
    out = np.eye(spec.channels)
    for v in spec.variables:
        if zero is not None and v.levels is not None:
            levels = np.asarray(v.levels)
            away = np.abs(levels[:, None] - levels[None, :])
            own = spec.channel_slice(v.name)
            out[own, own] = gaspari_cohn(away, zero[v.levels])
    stacked: Floats = np.kron(np.eye(times), out).astype(np.float64)
    return stacked


class StaticCovariance:
    """Products with B.

    Parameters
    ----------
    places : Places
        The grid.
    radius : float
        Distance from which on nothing is correlated.
    channels : array, shape (channel, channel)
        From `channel_correlations`.
    deviation : array, broadcastable to (channel, P)
        Standard deviations of the forecast's errors.
    """

    def __init__(self, places: Places, radius: float, channels: Floats, deviation: Floats) -> None:
        self.places, self.radius, self.channels = places, radius, channels
        self.deviation = np.broadcast_to(deviation, (len(channels), len(places)))

    def _between(self, some: NDArray[np.int64], part: slice) -> Any:
        """Horizontal correlations of points `part` with the points `some`, sparse."""
        from scipy import sparse

        known = np.flatnonzero(np.isfinite(self.places.positions[:, some]).all(axis=0))
        row, column, distance = self.places.near(self.places.at(some[known]), self.radius, part)
        size = len(range(*part.indices(len(self.places))))
        entries = gaspari_cohn(distance, self.radius), (row, known[column])
        return sparse.csr_array(entries, shape=(size, some.size))

    def between_nodes(self, nodes: NDArray[np.int64]) -> Any:
        """B of some nodes of the flattened state, sparse ``(k, k)``."""
        from scipy import sparse

        channel, place = np.divmod(nodes, len(self.places))
        some, number = np.unique(place, return_inverse=True)
        own = StaticCovariance(self.places.at(some), self.radius, self.channels, np.ones(1))
        horizontal = own._between(np.arange(some.size), slice(None))
        whole = sparse.csr_array(sparse.kron(self.channels, horizontal, format="csr"))
        chosen = channel * some.size + number.reshape(-1)
        scale = sparse.diags_array(self.deviation[channel, place])
        return scale @ whole[chosen][:, chosen] @ scale

    def times(self, nodes: NDArray[np.int64], values: Floats) -> Floats:
        """Multiply vectors that are zero but at some nodes by B.

        Parameters
        ----------
        nodes : array of int, shape (k,)
            Of the flattened state.
        values : array, shape (k, m)
            What is there.

        Returns
        -------
        array, shape (channel, P, m)
            The products.
        """
        channel, place = np.divmod(nodes, len(self.places))
        some, number = np.unique(place, return_inverse=True)
        spread = np.zeros((len(self.channels), some.size, values.shape[1]))
        scaled = self.deviation[channel, place][:, None] * values
        np.add.at(spread, (channel, number.reshape(-1)), scaled)
        mixed = np.tensordot(self.channels, spread, axes=1).transpose(1, 0, 2)
        mixed = mixed.reshape(some.size, -1)
        out = np.empty((len(self.places), len(self.channels), values.shape[1]))
        share = self.places.share_near(self.places.at(some), self.radius)
        step = max(1, int(MOST_PAIRS / max(1.0, share * some.size)))
        for first in range(0, len(self.places), step):
            part = slice(first, first + step)
            out[part] = (self._between(some, part) @ mixed).reshape(out[part].shape)
        product: Floats = out.transpose(1, 0, 2) * self.deviation[..., None]
        return product


def interpolated(
    departures: Floats, operator: Any, errors: Floats, covariance: StaticCovariance
) -> Floats:
    """Increments ``B H' (H B H' + R)^-1 d``.

    Parameters
    ----------
    departures : array, shape (m, n)
        d of each member.
    operator : sparse array, shape (n, channel * P)
        H.
    errors : array, shape (n, n)
        R.
    covariance : StaticCovariance
        B.

    Returns
    -------
    array, shape (m, channel, P)
        To be added to each member.

    Raises
    ------
    ObservationError
        For more observations than a dense matrix can hold.
    """
    from scipy import linalg

    if departures.shape[1] > MOST_OBSERVATIONS:
        found = f"{departures.shape[1]} at one time"
        remedy = "average them with thin=..., or use method='letkf'"
        expected = f"at most {MOST_OBSERVATIONS} for method 'oi'"
        raise ObservationError(problem("observations", found, expected, remedy))
    nodes = np.unique(operator.indices).astype(np.int64)
    h = operator[:, nodes]
    seen = (h @ covariance.between_nodes(nodes) @ h.T).toarray() + errors
    try:
        weights = linalg.solve(seen, departures.T, assume_a="pos")
    except linalg.LinAlgError:  # great-circle distances do not promise a positive matrix
        weights = linalg.solve(seen, departures.T, assume_a="sym")
    increments: Floats = np.moveaxis(covariance.times(nodes, h.T @ weights), -1, 0)
    return increments
