"""A particle filter: the reference for states of three numbers, exact with enough particles.

Bootstrap particle filter: particles move with the model, are weighted by the likelihood, and are
resampled. The model has no noise of its own, so that copies of a particle would stay together; a
little of the spread of the posterior sets them apart again.

References
----------
N. J. Gordon, D. J. Salmond, A. F. M. Smith, IEE Proceedings F 140, 107-113, 1993.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Posterior:
    """Particles after an analysis.

    Parameters
    ----------
    particles : ndarray
        Equally likely states, ``(particle, variable)``.
    effective_size : float
        Number of equally weighted particles that weigh as unevenly.
    log_evidence : float
        ``log p(y)`` of these observations, given those before.
    """

    particles: np.ndarray
    effective_size: float
    log_evidence: float


class ParticleFilter:
    """Bootstrap particle filter with systematic resampling.

    Parameters
    ----------
    particles : Tensor
        Equally likely first states, ``(particle, variable)``.
    seed : int
        Of resampling and jitter.
    jitter : float
        Standard deviation of the jitter after resampling, relative to that of the posterior.
    """

    def __init__(self, particles: Tensor, *, seed: int = 0, jitter: float = 0.01) -> None:
        self.particles = particles.double()
        self.jitter = jitter
        self.rng = np.random.default_rng([seed, 63])

    def forecast(self, run: Callable[[Tensor], Tensor]) -> None:
        """Move the particles with the model."""
        self.particles = run(self.particles)

    def analyse(self, log_likelihood: Callable[[Tensor], Tensor]) -> Posterior:
        """Weigh and resample.

        Parameters
        ----------
        log_likelihood : callable
            ``log p(y | x)`` of particles ``(particle, variable)``, shape ``(particle,)``.

        Returns
        -------
        Posterior
            The particles, equally likely.

        Raises
        ------
        ValueError
            If no particle is possible.
        """
        logarithms = log_likelihood(self.particles)
        highest = logarithms.max()
        if not bool(torch.isfinite(highest)):
            raise ValueError("particle filter: found no particle with a finite likelihood")
        weights = (logarithms - highest).exp()
        total = weights.sum()
        n = weights.numel()
        evidence = float(highest + (total / n).log())
        weights = (weights / total).numpy()
        effective = 1.0 / float((weights**2).sum())
        # Systematic: one random number places n equidistant ones.
        places = (self.rng.random() + np.arange(n)) / n
        chosen = np.searchsorted(np.cumsum(weights), places).clip(max=n - 1)
        kept = self.particles[torch.from_numpy(chosen)]
        noise = torch.from_numpy(self.rng.standard_normal(tuple(kept.shape)))
        self.particles = kept + self.jitter * kept.std(dim=0) * noise
        return Posterior(self.particles.numpy().copy(), effective, evidence)


def crps(sample: np.ndarray, truth: np.ndarray) -> float:
    """Return the fair CRPS of a large sample, averaged over variables.

    Parameters
    ----------
    sample : ndarray
        ``(member, variable)``.
    truth : ndarray
        ``(variable,)``.
    """
    m = sample.shape[0]
    ordered = np.sort(sample, axis=0)
    # sum over pairs |x_i - x_j| from ranks: each value is above i others and below m - 1 - i
    ranks = 2.0 * np.arange(m)[:, None] - (m - 1)
    pairs = 2.0 * (ranks * ordered).sum(axis=0)
    value = np.abs(sample - truth).mean(axis=0) - pairs / (2.0 * m * (m - 1))
    return float(value.mean())


def energy_distance(sample: np.ndarray, reference: np.ndarray) -> float:
    """Return the squared energy distance of two samples, fair to their sizes.

    ``2 E|X - Y| - E|X - X'| - E|Y - Y'|`` without pairs of a state and itself: zero on average for
    two samples of one distribution, whatever their sizes, so single values can be negative.

    Parameters
    ----------
    sample, reference : ndarray
        ``(member, variable)``.

    References
    ----------
    G. J. Szekely, M. L. Rizzo, J. Stat. Plan. Inference 143, 1249-1272, 2013.
    """
    from scipy.spatial.distance import cdist, pdist

    between = float(cdist(sample, reference).mean())
    return 2.0 * between - float(pdist(sample).mean()) - float(pdist(reference).mean())
