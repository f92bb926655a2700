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
from typing import Protocol, TypeVar

import torch
from torch import Tensor

__all__ = ["INTERPOLANTS", "LINEAR", "TRIG", "Interpolant", "Network"]

Network = Callable[[Tensor, Tensor], Tensor]
"""A function of states ``(batch, channel, *space)`` and times ``(batch,)``."""


Time = TypeVar("Time", float, Tensor)
"""A number, or a tensor of times: a network finds its schedule without waiting for the device."""


class Schedule(Protocol):
    """A function of time."""

    def __call__(self, t: Time, /) -> Time:
        """Evaluate it."""
        ...


def _sin(x: Time) -> Time:
    return torch.sin(x) if isinstance(x, Tensor) else math.sin(x)  # type: ignore[redundant-expr]


def _cos(x: Time) -> Time:
    return torch.cos(x) if isinstance(x, Tensor) else math.cos(x)  # type: ignore[redundant-expr]


# Module-level functions, not lambdas: an interpolant travels to workers by pickle.
def _linear_alpha(t: Time) -> Time:
    return 1.0 - t


def _linear_beta(t: Time) -> Time:
    return t


def _minus_one(t: Time) -> Time:
    return 0.0 * t - 1.0


def _one(t: Time) -> Time:
    return 0.0 * t + 1.0


def _trig_alpha(t: Time) -> Time:
    # sin of the complement instead of cos: exactly 0 at t = 1.
    return _sin(0.5 * math.pi * (1.0 - t))


def _trig_beta(t: Time) -> Time:
    return _sin(0.5 * math.pi * t)


def _trig_d_alpha(t: Time) -> Time:
    return -0.5 * math.pi * _cos(0.5 * math.pi * (1.0 - t))


def _trig_d_beta(t: Time) -> Time:
    return 0.5 * math.pi * _cos(0.5 * math.pi * t)


@dataclass(frozen=True)
class Interpolant:
    """Schedule of ``x_t = alpha(t) z + beta(t) x1``.

    Attributes
    ----------
    name : str
        Name under which a prior's card stores it.
    alpha, beta : callable
        Amplitude of the noise (1 at t = 0, 0 at t = 1) and of the data (0 at t = 0, 1 at t = 1),
        for a number or a tensor t.
    d_alpha, d_beta : callable
        Their derivatives in t.
    """

    name: str
    alpha: Schedule
    beta: Schedule
    d_alpha: Schedule
    d_beta: Schedule

    def gamma(self, t: float) -> float:
        """Return ``alpha beta' - beta alpha'``, positive for any sensible schedule."""
        return self.alpha(t) * self.d_beta(t) - self.beta(t) * self.d_alpha(t)


LINEAR = Interpolant("linear", _linear_alpha, _linear_beta, _minus_one, _one)
TRIG = Interpolant("trig", _trig_alpha, _trig_beta, _trig_d_alpha, _trig_d_beta)
INTERPOLANTS = {interpolant.name: interpolant for interpolant in (LINEAR, TRIG)}
