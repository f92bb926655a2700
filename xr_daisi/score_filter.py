r"""Ensemble score filter: sampling a posterior by a diffusion whose score the members give.

Pseudo-time s runs from 0, the forecast, to 1, noise: ``z_s = a x + b n`` with ``n ~ N(0, I)``,
``a = 1 - s (1 - e_a)``, ``b^2 = e_b + s (1 - e_b)``. The score of z_s is a mean over forecast
members x_j. As published, the mean is over a mini-batch of one: every new member is paired with
one forecast member for the whole of its path,

    ``S(z, s) = (a x_j - z) / b^2``.

The posterior's score is taken to be ``S + (1 - s) grad log p(y | z)``: the likelihood is damped
towards the noise, where it has no meaning. New members come from noise along the reverse
stochastic equation.

So a member is not drawn from the posterior of the ensemble, but from that of a kernel
``N(x_j, e_b I)``. Without a floor (``e_b = 0``) it would have no room to move: in the limit of many
steps it would end on x_j whatever is observed. Weighing all members instead, every new member
ends near some forecast member, often the same one, and an ensemble is soon copies of one.

References
----------
.. [1] F. Bao, Z. Zhang, G. Zhang, "An ensemble score filter for tracking high-dimensional nonlinear
   dynamical systems", arXiv:2309.00983, 2023.
.. [2] F. Bao, H. G. Chipilski, S. Liang, G. Zhang, J. S. Whitaker, "Nonlinear ensemble filtering
   with diffusion models: application to the surface quasi-geostrophic dynamics",
   arXiv:2404.00844, 2024.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["KERNEL", "LEAST_ALPHA", "Step", "likelihood_step", "schedule", "score_filter"]

LEAST_ALPHA = 0.05
"""e_a: what is left of the state in the noise, so that the drift stays finite."""

KERNEL = 0.025
"""e_b: variance around a forecast member, of that of the forecast. More of it follows observations
more closely, and adds more noise where there are none."""

PROBES = 4
"""Random directions that tell how much an observation depends on the state."""


@dataclass(frozen=True)
class Step:
    """Coefficients of one step towards the data.

    Attributes
    ----------
    here, member : float
        Factors of the state and of the forecast member it is paired with.
    weight : float
        Length of the step along the gradient of the log-likelihood.
    noise : float
        Standard deviation of what is added.
    """

    here: float
    member: float
    weight: float
    noise: float


def schedule(steps: int) -> list[Step]:
    r"""Return the steps from noise to data.

    Between two pseudo-times s > s', the reverse equation of a paired member has an exact solution
    where nothing is observed: with ``c = (a / a') b'^2 / b^2``,

        ``z' = a' x + c (z - a x) + b' \sqrt{1 - (a / a') c} n``.

    Parameters
    ----------
    steps : int
        How many. The pull of a member is ``1 / b^2``, so all have the same ratio of b^2.

    Returns
    -------
    list of Step
        The first starts at s = 1, the last ends at s = 0.

    References
    ----------
    arXiv:2010.02502, equation 7, for this transition of a diffusion given its end.
    """
    variances = [KERNEL ** (k / steps) for k in range(steps + 1)]
    found = []
    for variance, after in pairwise(variances):
        s, s_after = ((v - KERNEL) / (1.0 - KERNEL) for v in (variance, after))
        a, a_after = (1.0 - t * (1.0 - LEAST_ALPHA) for t in (s, s_after))
        ratio = a / a_after
        here = ratio * after / variance
        # The diffusion of the forward equation, integrated over the step.
        added = variance - ratio**2 * after
        noise = math.sqrt(after * (1.0 - ratio * here))
        found.append(Step(here, a_after - here * a, added * (1.0 - s_after), noise))
    return found


class Observed(Protocol):
    """What the likelihood needs."""

    def __call__(self, z: Tensor, /) -> Tensor:
        """Return ``y - H(z)`` over the errors, ``(member, n)``, for states ``(member, point)``."""
        ...


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
    """Move every member of a forecast to observations.

    For ``y = x + e``, e of variance R, a new member is ``A x_j + K y + n`` with ``n ~ N(0, v)``:
    the equation is affine. In the limit of many steps, with ``g^2 = (b^2)' - 2 b^2 a' / a`` and
    ``m(s) = exp(-int (a' / a + g^2 / b^2 + (1 - t) g^2 / R) dt)`` from 0 to s, what is left of a
    change at s,

        ``A = a(1) m(1) + int g^2 a / b^2 m ds``, ``K = int g^2 (1 - s) / R m ds``,
        ``v = m(1)^2 + int g^2 m^2 ds``

    from 0 to 1. Where nothing is observed, ``x_j + sqrt(e_b) n`` is exact for any number of steps.

    Parameters
    ----------
    members : Tensor, shape (M, point)
        The forecast, standardised: mean 0 and deviation about 1 at every point.
    residual : callable
        Whitened ``y - H(z)`` of standardised states.
    steps : int
        From noise to data.
    draw : callable
        ``draw(stage, step)`` gives standard normal noise of the members' shape.

    Returns
    -------
    Tensor
        Analysis, shape of `members`.

    References
    ----------
    arXiv:2309.00983, arXiv:2404.00844.
    """
    z = LEAST_ALPHA * members + draw("score filter, start", 0)
    generator = torch.Generator().manual_seed(0)  # the same directions always
    signs = torch.randint(2, (PROBES, members.shape[1]), generator=generator) * 2.0 - 1.0
    signs = signs.to(members)
    for k, step in enumerate(schedule(steps)):
        z = step.here * z + step.member * members
        z = z + likelihood_step(z, residual, step.weight, signs)
        z = z + step.noise * draw("score filter", k)
    return z.detach()
