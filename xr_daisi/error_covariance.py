r"""Correlated errors of observations: R as blocks, and its square root for the guidance.

With S the inverse standard deviations and C = L L' the correlation, ``R^-1 = W' W`` for
``W = L^-1 S``: whitened by W, residuals have independent errors of variance one. Errors outside of
blocks are independent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xr_daisi.errors import ObservationError, problem
from xr_daisi.interpolation import Ints

__all__ = ["CovarianceBlock", "Whitening", "correlation_by_distance"]

INDEPENDENT = 1e-4
"""Share of the variance of spatially correlated errors that is independent, as in any instrument:
without it two observations at one place would have to agree exactly."""


@dataclass(frozen=True, eq=False)
class CovarianceBlock:
    """Observations with errors that are correlated with each other.

    Parameters
    ----------
    places : array of int, shape (m,)
        Their positions in the batch.
    correlation : array of float, shape (m, m)
        Symmetric, positive definite, ones on the diagonal.
    """

    places: Ints
    correlation: NDArray[np.float64]

    def moved(self, places: Ints) -> CovarianceBlock:
        """Return the block at other places of the batch, in their order, without negative ones."""
        order = np.argsort(places, kind="stable")
        order = order[np.count_nonzero(places < 0) :]
        if np.array_equal(order, np.arange(self.places.size)):
            return CovarianceBlock(places, self.correlation)
        return CovarianceBlock(places[order], self.correlation[np.ix_(order, order)])


def correlation_by_distance(positions: NDArray[np.float64], length: float) -> NDArray[np.float64]:
    """Second-order autoregressive correlation, ``(1 + r / L) exp(-r / L)``.

    It is positive definite in any number of dimensions, so for chords of the sphere, too.

    Parameters
    ----------
    positions : array, shape (n, k)
        Points of Euclidean space.
    length : float
        L, in the same unit.

    Returns
    -------
    array of float, shape (n, n)
        With a small independent part.

    Examples
    --------
    >>> import numpy as np
    >>> correlation_by_distance(np.array([[0.0], [1.0]]), 1.0).round(3)
    array([[1.   , 0.736],
           [0.736, 1.   ]])
    """
    squares = np.sum(positions**2, axis=1)
    square = squares[:, None] + squares[None, :] - 2 * positions @ positions.T
    scaled = np.sqrt(np.maximum(square, 0.0)) / length
    correlation: NDArray[np.float64] = (1.0 - INDEPENDENT) * (1.0 + scaled) * np.exp(-scaled)
    np.fill_diagonal(correlation, 1.0)
    return correlation


_LOWER, _UPPER = (partial(torch.linalg.solve_triangular, upper=upper) for upper in (False, True))


class Whitening:
    """Products with ``R^-1/2`` and its transpose.

    Parameters
    ----------
    error_std : Tensor, shape (n,)
        Standard deviations of the errors.
    blocks : sequence of CovarianceBlock
        Correlated ones; no observation is in two of them.

    Raises
    ------
    ObservationError
        Where a matrix is not positive definite.
    """

    def __init__(self, error_std: Tensor, blocks: Sequence[CovarianceBlock] = ()) -> None:
        self._std = error_std
        by_size: dict[int, list[CovarianceBlock]] = {}
        for block in blocks:
            if block.places.size > 1:
                by_size.setdefault(block.places.size, []).append(block)
        self._parts = [self._part(same) for same in by_size.values()]

    def _part(self, blocks: Sequence[CovarianceBlock]) -> tuple[Tensor, Tensor]:
        """Places (g, m) and lower Cholesky factors (g, m, m) of blocks of the same size."""
        places = torch.from_numpy(np.stack([block.places for block in blocks]))
        # Factors are made in double precision, once.
        factors, info = torch.linalg.cholesky_ex(
            torch.from_numpy(np.stack([block.correlation for block in blocks])).double()
        )
        bad = info != 0
        if bool(bad.any()):
            size = blocks[0].places.size
            found = f"{int(bad.sum())} matrices of {size} x {size} that are not positive definite"
            remedy = "add a little to the diagonal, or thin the observations"
            expected = "positive definite correlations"
            raise ObservationError(problem("error covariance", found, expected, remedy))
        return places.to(self._std.device), factors.to(self._std)

    def whiten(self, v: Tensor) -> Tensor:
        """Return ``L^-1 S v`` for v of shape (batch, n)."""
        out = v / self._std
        for places, factors in self._parts:
            out = _in_blocks(out, places, factors, _LOWER)
        return out

    def whiten_transpose(self, v: Tensor) -> Tensor:
        """Return ``S L^-T v`` for v of shape (batch, n)."""
        out = v
        for places, factors in self._parts:
            out = _in_blocks(out, places, factors.mT, _UPPER)
        return out / self._std

    def colour(self, v: Tensor) -> Tensor:
        """Return ``S^-1 L v`` for v of shape (batch, n): white noise with the covariance R."""
        out = v
        for places, factors in self._parts:
            out = _in_blocks(out, places, factors, torch.matmul)
        return out * self._std


def _in_blocks(
    v: Tensor, places: Tensor, factors: Tensor, apply: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """Apply factors (g, m, m) to the values of blocks at places (g, m), for v (batch, n)."""
    flat = places.reshape(-1)
    # Blocks in front, members last: one factor serves all members.
    part = v.index_select(1, flat).reshape(len(v), *places.shape).permute(1, 2, 0)
    applied = apply(factors.to(v.dtype), part)
    return v.index_copy(1, flat, applied.permute(2, 0, 1).reshape(len(v), -1))
