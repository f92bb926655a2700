r"""Ensemble score filter: sampling a posterior by a diffusion whose score the members give.

Pseudo-time s runs from 0, the forecast, to 1, noise: ``z_s = a x + b n`` with ``n ~ N(0, I)``,
``a = 1 - s (1 - e)``, ``b^2 = s``. The members x_j stand for the forecast, so the score of z_s is

    ``S(z, s) = sum_j w_j (a x_j - z) / b^2``, ``w_j ~ exp(-|z - a x_j|^2 / (2 b^2))``,

without any training. The posterior's score is taken to be ``S + (1 - s) grad log p(y | z)``: the
likelihood is damped towards the noise, where it has no meaning. New members come from noise by
Euler steps of the reverse stochastic equation. This is not exact, even for a Gaussian: the damped
likelihood is not the score of the noised posterior.

The step with the likelihood is taken implicitly, where H is linear: an explicit one is unstable as
soon as errors are small. This module knows tensors only.

References
----------
.. [1] F. Bao, Z. Zhang, G. Zhang, "An ensemble score filter for tracking high-dimensional nonlinear
   dynamical systems", arXiv:2309.00983, 2023.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["LEAST_ALPHA", "ensemble_score", "likelihood_step", "score_filter"]

LEAST_ALPHA = 0.05
"""e: what is left of the state in the noise, so that the drift stays finite."""

PROBES = 4
"""Random directions that tell how much an observation depends on the state."""


class Observed(Protocol):
    """What the likelihood needs."""

    def __call__(self, z: Tensor, /) -> Tensor:
        """Return ``y - H(z)`` over the errors, ``(member, n)``, for states ``(member, point)``."""
        ...


def ensemble_score(z: Tensor, members: Tensor, s: float) -> Tensor:
    """Score of the noised forecast at pseudo-time s.

    Parameters
    ----------
    z : Tensor, shape (k, point)
        Where.
    members : Tensor, shape (M, point)
        The forecast.
    s : float
        In (0, 1].

    Returns
    -------
    Tensor
        Shape of z.
    """
    a = 1.0 - s * (1.0 - LEAST_ALPHA)
    # Differences of large numbers decide which member is nearest.
    distance = torch.cdist(z.double(), a * members.double())
    weight = torch.softmax(-0.5 * distance**2 / s, dim=1).to(z.dtype)
    return (a * (weight @ members) - z) / s


def likelihood_step(z: Tensor, residual: Observed, step: float, signs: Tensor) -> Tensor:
    """Step along the gradient of the log-likelihood.

    For a linear H the implicit step is ``J' (R + step J J')^-1 r``, here with the diagonal of J J',
    which is all there is of it where observations share no grid point.

    Parameters
    ----------
    z : Tensor, shape (k, point)
        States.
    residual : callable
        Whitened ``y - H(z)``.
    step : float
        Length of the step.
    signs : Tensor, shape (PROBES, point)
        Random signs: the mean of ``(J v)^2`` over them is the diagonal of J J'.

    Returns
    -------
    Tensor
        What is to be added to z.
    """
    z = z.detach().requires_grad_()
    with torch.enable_grad():
        r = residual(z)
    with torch.no_grad():
        small = 1e-3
        rows = sum(((residual(z + small * v) - r) / small) ** 2 for v in signs) / len(signs)
        weight = -r / (1.0 + step * rows)
    (gradient,) = torch.autograd.grad(r, z, weight)
    return step * gradient


def score_filter(
    members: Tensor,
    residual: Observed,
    *,
    steps: int,
    draw: Callable[[str, int], Tensor],
) -> Tensor:
    """Draw new members from the posterior of a forecast.

    Parameters
    ----------
    members : Tensor, shape (M, point)
        The forecast, standardised: mean 0 and deviation about 1 at every point.
    residual : callable
        Whitened ``y - H(z)`` of standardised states.
    steps : int
        Euler steps from noise to data.
    draw : callable
        ``draw(stage, step)`` gives standard normal noise of the members' shape.

    Returns
    -------
    Tensor
        Analysis, shape of `members`.

    References
    ----------
    arXiv:2309.00983.
    """
    z, dt = draw("score filter, start", 0), 1.0 / steps
    generator = torch.Generator().manual_seed(0)  # the same directions always
    signs = torch.randint(2, (PROBES, members.shape[1]), generator=generator) * 2.0 - 1.0
    signs = signs.to(members)
    for k in range(steps):
        s = 1.0 - k * dt
        a = 1.0 - s * (1.0 - LEAST_ALPHA)
        drift = -(1.0 - LEAST_ALPHA) / a  # (log a)'
        diffusion = 1.0 - 2.0 * drift * s  # (b^2)' - 2 (log a)' b^2
        score = ensemble_score(z, members, s)
        z = z + dt * (diffusion * score - drift * z)
        z = z + likelihood_step(z, residual, dt * diffusion * (1.0 - s), signs)
        if k + 1 < steps:  # the last step ends at the data
            z = z + math.sqrt(dt * diffusion) * draw("score filter", k)
    return z.detach()
