r"""Interpolant and flow: velocity, score and denoised state of a generative prior.

Time direction, the same everywhere in this package: ``t = 0`` is noise, ``t = 1`` is data. A state
on the way is ``x_t = alpha(t) z + beta(t) x1`` with ``z ~ N(0, I)`` and ``x1`` a normalised state.

This module knows tensors only. States have shape ``(batch, channel, *space)``; members of a
batch never interact, and the time is one number for the whole batch. The velocity is given by the
user or by a trained network; score and denoised state follow from it without another evaluation.

References
----------
.. [1] M. S. Albergo, N. M. Boffi, E. Vanden-Eijnden, "Stochastic Interpolants: A Unifying Framework
   for Flows and Diffusions", arXiv:2303.08797, 2023.
.. [2] M. Andrae et al., "DAISI: Data Assimilation with Inverse Sampling using Stochastic
   Interpolants", arXiv:2512.00252.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from xr_daisi.converters import velocity_from_edm, velocity_from_epsilon, velocity_from_v
from xr_daisi.errors import DaisiTypeError, PriorError, problem
from xr_daisi.interpolant import INTERPOLANTS, LINEAR, TRIG, Interpolant, Network

__all__ = [
    "INTERPOLANTS",
    "LINEAR",
    "TRIG",
    "Drift",
    "Flow",
    "Interpolant",
    "Network",
    "velocity_from_edm",
    "velocity_from_epsilon",
    "velocity_from_v",
]


class Drift(NamedTuple):
    """What a stepper needs at one point: velocity and score, both shaped like the state."""

    velocity: Tensor
    score: Tensor


class Flow:
    """A generative prior, as its velocity and interpolant.

    Parameters
    ----------
    velocity : callable or torch.nn.Module
        ``velocity(x, t)`` for normalised states x, shape ``(batch, channel, *space)``, and times t,
        shape ``(batch,)``, all equal within a call and in the dtype of x.
    interpolant : Interpolant
        The schedule the velocity belongs to.

    References
    ----------
    arXiv:2303.08797, arXiv:2512.00252.
    """

    def __init__(self, velocity: Network, interpolant: Interpolant = LINEAR) -> None:
        if not callable(velocity):
            raise DaisiTypeError(
                problem("velocity", f"a {type(velocity).__name__}", "a callable velocity(x, t)")
            )
        self.network = velocity
        self.interpolant = interpolant

    def __repr__(self) -> str:
        return f"Flow({type(self.network).__name__}, interpolant={self.interpolant.name!r})"

    def velocity(self, x: Tensor, t: float) -> Tensor:
        """Evaluate the network once.

        Parameters
        ----------
        x : Tensor
            Normalised states, shape ``(batch, channel, *space)``.
        t : float
            Time in [0, 1].

        Returns
        -------
        Tensor
            ``E[alpha' z + beta' x1 | x_t = x]``, shape, dtype and device of x.

        Raises
        ------
        PriorError
            If the network's output has another shape than its input.
        """
        times = torch.full((x.shape[0],), t, dtype=x.dtype, device=x.device)
        b = self.network(x, times)
        if not isinstance(b, torch.Tensor):
            raise PriorError(problem("velocity", type(b).__name__, "a tensor like its input"))
        if b.shape != x.shape:
            raise PriorError(
                problem(
                    "velocity",
                    f"output of shape {tuple(b.shape)}",
                    f"{tuple(x.shape)}, its input's",
                )
            )
        return b.to(x.dtype)

    def score_from(self, x: Tensor, t: float, b: Tensor) -> Tensor:
        """Return the score at x from the velocity b there; 0 at t = 1, where it is not needed."""
        alpha = self.interpolant.alpha(t)
        if alpha == 0.0:
            return torch.zeros_like(x)
        scale = 1.0 / (alpha * self.interpolant.gamma(t))
        return (scale * self.interpolant.beta(t)) * b - (scale * self.interpolant.d_beta(t)) * x

    def denoise_from(self, x: Tensor, t: float, b: Tensor) -> Tensor:
        """Return ``E[x1 | x_t = x]`` from the velocity b at x."""
        gamma = self.interpolant.gamma(t)
        return (self.interpolant.alpha(t) / gamma) * b - (self.interpolant.d_alpha(t) / gamma) * x

    def score(self, x: Tensor, t: float) -> Tensor:
        """Return the score ``grad log p_t(x)``, shape of x; one network evaluation."""
        return self.score_from(x, t, self.velocity(x, t))

    def denoise(self, x: Tensor, t: float) -> Tensor:
        """Return ``E[x1 | x_t = x]``, shape of x; one network evaluation."""
        return self.denoise_from(x, t, self.velocity(x, t))

    def evaluate(self, x: Tensor, t: float) -> Drift:
        """Return velocity and score at x, from one network evaluation."""
        b = self.velocity(x, t)
        return Drift(b, self.score_from(x, t, b))
