"""Super-observations: averages of observations, with the error of the average.

A super-observation is ``sum w y`` and its operator ``sum w H``: nothing is interpolated to another
place, and the errors follow exactly, correlated ones as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xr_daisi.error_covariance import CovarianceBlock
from xr_daisi.interpolation import Floats, Ints

__all__ = ["Averaging", "averaged"]


@dataclass(frozen=True, eq=False)
class Averaging:
    """Which observations make which super-observation.

    Parameters
    ----------
    group : array of int, shape (n,)
        Number of the super-observation of each observation, 0 to k - 1, none empty.
    weight : array of float, shape (n,)
        Weights; they add up to one within a group.
    """

    group: Ints
    weight: Floats

    def __len__(self) -> int:
        return int(self.group.max()) + 1 if self.group.size else 0


def averaged(
    values: Floats, errors: Floats, blocks: Sequence[CovarianceBlock], averaging: Averaging
) -> tuple[Floats, Floats, list[CovarianceBlock]]:
    """Average values, and find the covariance of the averages' errors, A R A'.

    Parameters
    ----------
    values, errors : array of float, shape (n,)
        Observations and standard deviations.
    blocks : sequence of CovarianceBlock
        Correlated errors.
    averaging : Averaging
        To k super-observations.

    Returns
    -------
    values, errors : array of float, shape (k,)
        Of the super-observations.
    blocks : list of CovarianceBlock
        Of those whose errors are correlated.
    """
    count, group, weight = len(averaging), averaging.group, averaging.weight
    means = np.bincount(group, weight * values, minlength=count).astype(np.float64)
    variance = np.bincount(group, (weight * errors) ** 2, minlength=count).astype(np.float64)
    linked: list[CovarianceBlock] = []
    for clustered in _clusters(count, [block for block in blocks if block.places.size > 1], group):
        of_cluster = np.unique(np.concatenate([group[block.places] for block in clustered]))
        number = np.zeros(count, dtype=np.int64)
        number[of_cluster] = np.arange(of_cluster.size)
        covariance = np.diag(variance[of_cluster])
        for block in clustered:
            share = weight[block.places] * errors[block.places]
            off = block.correlation * np.outer(share, share)
            np.fill_diagonal(off, 0.0)  # the variances are in already
            rows = number[group[block.places]]
            np.add.at(covariance, (rows[:, None], rows[None, :]), off)
        variance[of_cluster] = np.diag(covariance)
        deviation = np.sqrt(variance[of_cluster])
        if of_cluster.size > 1:
            linked.append(CovarianceBlock(of_cluster, covariance / np.outer(deviation, deviation)))
    return means, np.sqrt(variance), linked


def _clusters(
    count: int, blocks: Sequence[CovarianceBlock], group: NDArray[np.int64]
) -> list[list[CovarianceBlock]]:
    """Blocks that share super-observations, together."""
    root = np.arange(count)

    def find(i: int) -> int:
        while root[i] != i:
            root[i] = root[root[i]]
            i = int(root[i])
        return i

    for block in blocks:
        first, *others = (find(int(i)) for i in np.unique(group[block.places]))
        for other in others:
            root[find(other)] = find(first)
    found: dict[int, list[CovarianceBlock]] = {}
    for block in blocks:
        found.setdefault(find(int(group[block.places[0]])), []).append(block)
    return list(found.values())
