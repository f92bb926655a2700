"""Interpolant between noise and data: the schedule that velocity, score and denoised state share.

Time direction, the same everywhere in this package: ``t = 0`` is noise, ``t = 1`` is data.

References
----------
.. [1] M. S. Albergo, N. M. Boffi, E. Vanden-Eijnden, "Stochastic Interpolants: A Unifying Framework
   for Flows and Diffusions", arXiv:2303.08797, 2023.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

__all__ = ["INTERPOLANTS", "LINEAR", "TRIG", "Interpolant", "Network"]

Network = Callable[[Tensor, Tensor], Tensor]
"""A function of states ``(batch, channel, *space)`` and times ``(batch,)``."""


# Module-level functions, not lambdas: an interpolant travels to workers by pickle.
def _linear_alpha(t: float) -> float:
    return 1.0 - t


def _linear_beta(t: float) -> float:
    return t


def _minus_one(t: float) -> float:
    return -1.0


def _one(t: float) -> float:
    return 1.0


def _trig_alpha(t: float) -> float:
    # sin of the complement instead of cos: exactly 0 at t = 1.
    return math.sin(0.5 * math.pi * (1.0 - t))


def _trig_beta(t: float) -> float:
    return math.sin(0.5 * math.pi * t)


def _trig_d_alpha(t: float) -> float:
    return -0.5 * math.pi * math.cos(0.5 * math.pi * (1.0 - t))


def _trig_d_beta(t: float) -> float:
    return 0.5 * math.pi * math.cos(0.5 * math.pi * t)


@dataclass(frozen=True)
class Interpolant:
    """Schedule of ``x_t = alpha(t) z + beta(t) x1``.

    Attributes
    ----------
    name : str
        Name under which a prior's card stores it.
    alpha, beta : callable
        Amplitude of the noise (1 at t = 0, 0 at t = 1) and of the data (0 at t = 0, 1 at t = 1).
    d_alpha, d_beta : callable
        Their derivatives in t.
    """

    name: str
    alpha: Callable[[float], float]
    beta: Callable[[float], float]
    d_alpha: Callable[[float], float]
    d_beta: Callable[[float], float]

    def gamma(self, t: float) -> float:
        """Return ``alpha beta' - beta alpha'``, positive for any sensible schedule."""
        return self.alpha(t) * self.d_beta(t) - self.beta(t) * self.d_alpha(t)


LINEAR = Interpolant("linear", _linear_alpha, _linear_beta, _minus_one, _one)
TRIG = Interpolant("trig", _trig_alpha, _trig_beta, _trig_d_alpha, _trig_d_beta)
INTERPOLANTS = {interpolant.name: interpolant for interpolant in (LINEAR, TRIG)}
