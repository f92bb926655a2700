r"""Ensemble transform Kalman filters, global and local: weights in the space of the members.

With the M members' perturbations X, those of their counterparts Y = H(x) - mean, and the departure
``d = y - mean H(x)``, the analysis is a combination of the members,

    ``A = (M - 1) I + Y' R^-1 Y``,  ``mean weights w = A^-1 Y' R^-1 d``,
    ``perturbations X W`` with the symmetric root ``W = sqrt((M - 1) A^-1)``.

Locally each column of the grid has its own weights, R^-1 being multiplied by a taper of distance
(R-localisation). All columns are worked at together: ``Y' R^-1 Y`` of all of them is one product of
the sparse matrix of tapers with the products ``y_i y_j`` of each observation.

This module knows tensors only.

References
----------
.. [1] B. R. Hunt, E. J. Kostelich, I. Szunyogh, "Efficient data assimilation for spatiotemporal
   chaos: A local ensemble transform Kalman filter", Physica D 230, 112-126, 2007,
   doi:10.1016/j.physd.2006.11.008, arXiv:physics/0511236.
.. [2] C. H. Bishop, B. J. Etherton, S. J. Majumdar, "Adaptive sampling with the ensemble transform
   Kalman filter. Part I", Mon. Weather Rev. 129, 420-436, 2001.
.. [3] J. S. Whitaker, T. M. Hamill, "Evaluating methods to account for system errors in ensemble
   data assimilation", Mon. Weather Rev. 140, 3078-3089, 2012, doi:10.1175/MWR-D-11-00276.1.
.. [4] F. Zhang, C. Snyder, J. Sun, "Impacts of initial estimate and observation availability on
   convective-scale data assimilation with an ensemble Kalman filter", Mon. Weather Rev. 132,
   1238-1253, 2004.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = [
    "LocalWeights",
    "Update",
    "columns_at_once",
    "determined",
    "global_update",
    "global_weights",
    "local_products",
    "local_update",
    "regained",
    "relaxed",
    "transform",
    "weighted",
]

BYTES = 128e6
"""Memory for the matrices of the columns that are worked at together, and for products."""


@dataclass(frozen=True, eq=False)
class LocalWeights:
    """Weights of observations in the columns of some points and channels.

    Parameters
    ----------
    points : slice
        Of the flattened grid: these columns.
    channels : sequence of int
        For which they hold.
    column, observation : array of int, shape (k,)
        Which column, counted from the first, and which observation; columns ascend.
    weight : array of float, shape (k,)
        In (0, 1].
    """

    points: slice
    channels: Sequence[int]
    column: NDArray[np.int64]
    observation: NDArray[np.int64]
    weight: NDArray[np.float64]


class Update(NamedTuple):
    """What an analysis adds.

    Attributes
    ----------
    mean : Tensor
        To the ensemble mean, ``(channel, point)``.
    perturbations : Tensor
        To the members' perturbations, ``(member, channel, point)``.
    """

    mean: Tensor
    perturbations: Tensor


def transform(gram: Tensor, projected: Tensor) -> tuple[Tensor, Tensor]:
    """Weights of the members in the analysis.

    Parameters
    ----------
    gram : Tensor, shape (column, M, M)
        ``Y' R^-1 Y``.
    projected : Tensor, shape (column, M)
        ``Y' R^-1 d``.

    Returns
    -------
    mean : Tensor, shape (column, M)
        Weights w of the perturbations in the increment of the mean.
    change : Tensor, shape (column, M, M)
        ``W - I``, symmetric.
    """
    members = gram.shape[-1]
    free = float(members - 1)
    eye = torch.eye(members, dtype=gram.dtype, device=gram.device)
    values, vectors = torch.linalg.eigh(gram)
    values = values.clamp(min=0.0) + free  # below zero by rounding alone
    mean = (vectors @ ((vectors.mT @ projected[..., None]) / values[..., None]))[..., 0]
    roots = (free / values).sqrt()
    return mean, (vectors * roots[..., None, :]) @ vectors.mT - eye


def regained(change: Tensor, members: int) -> Tensor:
    """Return the factors that give perturbations back what sampling errors took from them.

    Of the M - 1 degrees of freedom of an ensemble, observations determine ``q (M - 1) = tr(I -
    W W')``. Weights fitted to these observations by so few members are in error, which their own
    spread does not show. The squared error of the mean is larger by about the factor ``1 + q``: a
    little less for accurate observations, see ``tests/theory/test_ensemble_kalman.py``.

    Parameters
    ----------
    change : Tensor, shape (column, M, M)
        ``W - I``.
    members : int
        M.

    Returns
    -------
    Tensor, shape (column,)
        ``sqrt(1 + q)``, which tends to 1 for a large ensemble.
    """
    return (1.0 + determined(change) / (members - 1)).sqrt()


def determined(change: Tensor) -> Tensor:
    """Degrees of freedom that observations determine, ``tr(I - W W')``.

    Parameters
    ----------
    change : Tensor, shape (column, M, M)
        ``W - I`` from `transform`.

    Returns
    -------
    Tensor, shape (column,)
        Between 0 and M - 1.
    """
    # Without a difference of large numbers.
    trace = change.diagonal(dim1=-2, dim2=-1).sum(dim=-1)
    return -2.0 * trace - change.square().sum(dim=(-2, -1))


def local_products(
    y: Tensor,
    d: Tensor,
    column: NDArray[np.int64],
    observation: NDArray[np.int64],
    weight: NDArray[np.float64],
    count: int,
) -> tuple[Tensor, Tensor]:
    """Products of whitened perturbations and departures with the tapers T of some columns.

    Parameters
    ----------
    y : Tensor, shape (M, n)
        Whitened perturbations.
    d : Tensor, shape (k, n)
        Whitened departures, maybe none.
    column, observation, weight : array
        As in `LocalWeights`.
    count : int
        Number of columns.

    Returns
    -------
    gram : Tensor, shape (column, M, M)
        ``Y' T Y``.
    projected : Tensor, shape (column, k, M)
        ``Y' T d``.
    """
    members, given = len(y), len(d)
    i, j = torch.triu_indices(members, members, device=y.device)
    features = len(i) + given * members
    total = torch.zeros(count, features, dtype=y.dtype, device=y.device)
    # Only observations in reach, some at a time: products of all pairs of members take memory.
    near, local = _numbered(observation) if weight.size else (observation, observation)
    step = max(1, int(BYTES / (features * y.element_size())))
    for first in range(0, near.size, step):
        chosen = torch.from_numpy(near[first : first + step]).to(y.device)
        own = y[:, chosen]
        pairs = [own[i] * own[j], *(own * one for one in d[:, chosen])]
        products = torch.cat(pairs).mT.contiguous()
        inside = (local >= first) & (local < first + step)
        shape = count, len(chosen)
        taper = _sparse(column[inside], local[inside] - first, weight[inside], shape, y)
        total += taper @ products
    gram = torch.empty(count, members, members, dtype=y.dtype, device=y.device)
    gram[:, i, j] = total[:, : len(i)]
    gram[:, j, i] = total[:, : len(i)]
    return gram, total[:, len(i) :].reshape(count, given, members)


def global_weights(
    anomalies: Tensor, departures: Tensor, inflation: float
) -> tuple[Tensor, Tensor]:
    """Weights of the members that hold everywhere; parameters as in `global_update`.

    Returns
    -------
    mean : Tensor, shape (M,)
        Of the perturbations in the increment of the mean.
    change : Tensor, shape (M, M)
        ``W - I``.
    """
    y = anomalies * inflation
    mean, change = transform((y @ y.mT)[None], (y @ departures)[None])
    return mean[0], change[0]


def weighted(
    x: Tensor, weights: tuple[Tensor, Tensor], inflation: float, regain: bool = False
) -> Update:
    """Update points with the same weights, from `global_weights`; see `global_update`."""
    mean, change = (part.to(x) for part in weights)
    flat = x.reshape(len(x), -1) * inflation
    after = change.mT @ flat + flat
    if regain:
        after = after * regained(change[None], len(x))
    added = after - x.reshape(len(x), -1)
    return Update((mean @ flat).reshape(x.shape[1:]), added.reshape(x.shape))


def global_update(
    x: Tensor, anomalies: Tensor, departures: Tensor, inflation: float, regain: bool = False
) -> Update:
    """Update every point with the same weights (ETKF).

    Parameters
    ----------
    x : Tensor, shape (M, channel, point)
        Perturbations of the members.
    anomalies : Tensor, shape (M, n)
        Y, each observation divided by its error. In double precision, whatever that of x:
        ``Y' R^-1 Y`` grows with the square of spread over error, and next to it ``M - 1`` must not
        be lost.
    departures : Tensor, shape (n,)
        d, likewise.
    inflation : float
        Factor of the forecast's perturbations.
    regain : bool
        Multiply the perturbations of the analysis by `regained`.

    Returns
    -------
    Update
        Of the mean, and of the perturbations.
    """
    return weighted(x, global_weights(anomalies, departures, inflation), inflation, regain)


def columns_at_once(members: int, itemsize: int) -> int:
    """Return how many columns fit into memory together."""
    return max(1, int(BYTES / (5 * members**2 * itemsize)))


def local_update(
    x: Tensor,
    anomalies: Tensor,
    departures: Tensor,
    columns: Iterable[LocalWeights],
    inflation: float,
    regain: bool = False,
) -> Update:
    """Update every column with its own weights (LETKF).

    Parameters
    ----------
    x, anomalies, departures, inflation, regain
        As in `global_update`.
    columns : iterable of LocalWeights
        Weights of the observations there.

    Returns
    -------
    Update
        Zero where no observation has weight.
    """
    mean, added = torch.zeros_like(x[0]), torch.zeros_like(x)
    y = anomalies * inflation
    for part in columns:
        if not part.weight.size:
            continue
        used, column = _numbered(part.column)
        gram, projected = local_products(
            y, departures[None], column, part.observation, part.weight, used.size
        )
        w, change = (part.to(x) for part in transform(gram, projected[:, 0]))
        points = torch.from_numpy(used + part.points.start).to(x.device)
        channels = torch.tensor(list(part.channels), device=x.device)[:, None]
        own = x[:, channels, points[None]]  # (M, channel, column)
        inflated = (own * inflation).permute(2, 1, 0)  # one product for each column
        mean[channels, points[None]] = (inflated @ w[..., None])[..., 0].mT
        changed = inflated @ change
        if regain:
            factor = regained(change, len(x))[:, None, None]
            changed = factor * changed + (factor - 1.0) * inflated
        added[:, channels, points[None]] = changed.permute(2, 1, 0) + own * (inflation - 1.0)
    return Update(mean, added)


def _numbered(values: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return what `np.unique` does with ``return_inverse``, without sorting."""
    seen = np.zeros(int(values.max()) + 1, dtype=bool)
    seen[values] = True
    return np.flatnonzero(seen), (np.cumsum(seen) - 1)[values]


def _sparse(
    row: NDArray[np.int64],
    column: NDArray[np.int64],
    values: NDArray[np.float64],
    shape: tuple[int, int],
    like: Tensor,
) -> Tensor:
    """Sparse matrix of ascending rows."""
    bounds = np.searchsorted(row, np.arange(shape[0] + 1))
    starts, columns, entries = (
        torch.from_numpy(part).to(like.device) for part in (bounds, column, values)
    )
    with warnings.catch_warnings():  # torch calls all sparse matrices of rows a beta
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support")
        return torch.sparse_csr_tensor(
            starts, columns, entries.to(like.dtype), size=shape, check_invariants=False
        )


def relaxed(prior: Tensor, posterior: Tensor, amount: float, method: str) -> Tensor:
    """Relax the perturbations of an analysis towards those of the forecast.

    Parameters
    ----------
    prior, posterior : Tensor, shape (M, ...)
        Perturbations of forecast and analysis, their means zero.
    amount : float
        0 keeps the analysis, 1 the spread, or the perturbations, of the forecast.
    method : {"spread", "perturbations"}
        ``"spread"`` (RTPS [3]_) multiplies the perturbations so that their standard deviation is
        ``(1 - amount) s_a + amount s_f`` at every point; ``"perturbations"`` (RTPP [4]_) mixes
        them, ``(1 - amount) x_a + amount x_f``.

    Returns
    -------
    Tensor
        Perturbations, shape of `posterior`.

    References
    ----------
    doi:10.1175/MWR-D-11-00276.1.
    """
    if amount == 0.0:
        return posterior
    if method == "perturbations":
        return torch.lerp(posterior, prior, amount)
    before, after = prior.std(dim=0), posterior.std(dim=0)
    ratio = torch.where(after > 0.0, before / after.where(after > 0.0, 1.0), 1.0)
    return posterior * (1.0 + amount * (ratio - 1.0))
