"""Invertible transforms of bounded or skewed variables, applied before normalisation.

Inverses stay within the physical bounds. As torch functions they nevertheless have the slope of
their continuation beyond: guidance can wet a dry node although the value there does not change at
first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["SHARE_EDGE", "TRANSFORMS", "Transform"]

# The exponential is kept from overflow: exp(80) is no physical value in any unit.
LARGEST = 80.0

SHARE_EDGE = 0.03
"""How far beyond 0 and 1 the logarithm of ``"logit"`` reaches, so that both are finite, and
guidance has a slope there."""


def _bounded(continued: Any, lower: float | None, upper: float | None) -> Any:
    """Clip, with the slope of what was not clipped where torch differentiates."""
    clipped = continued.clip(lower, upper)
    if not hasattr(continued, "detach"):
        return clipped
    return clipped.detach() + (continued - continued.detach())


def _log1p_inverse(x: Any) -> Any:
    # Nothing below zero can be observed or written: precipitation, concentration.
    x = x.clip(None, LARGEST)
    return _bounded(x.expm1() if hasattr(x, "expm1") else np.expm1(x), 0.0, None)


def _log_inverse(x: Any) -> Any:
    x = x.clip(-LARGEST, LARGEST)
    return x.exp() if hasattr(x, "exp") else np.exp(x)


def _sqrt_inverse(x: Any) -> Any:
    square = x.clip(0.0, None) ** 2
    if not hasattr(x, "detach"):
        return square
    # Below zero the slope is that of a square near it; far below it vanishes, so that a step that
    # went too far cannot set off another.
    below = (-(x.clip(None, 0.0) ** 2)).expm1()
    return _bounded(square + below, 0.0, None)


def _logit(x: Any) -> Any:
    share = (np.clip(x, 0.0, 1.0) + SHARE_EDGE) / (1.0 + 2.0 * SHARE_EDGE)
    return np.log(share) - np.log1p(-share)


def _logit_inverse(x: Any) -> Any:
    # NumPy has no sigmoid; this one does not overflow.
    share = x.sigmoid() if hasattr(x, "sigmoid") else 0.5 * (1.0 + np.tanh(0.5 * x))
    return _bounded((1.0 + 2.0 * SHARE_EDGE) * share - SHARE_EDGE, 0.0, 1.0)


@dataclass(frozen=True)
class Transform:
    """A pair of functions on NumPy arrays; the inverse also takes torch tensors.

    Attributes
    ----------
    forward, inverse : callable
        Physical to transformed value, and back; the inverse stays within the physical bounds.
    lower, upper : float
        Smallest and largest physical value allowed.
    """

    forward: Callable[[Any], Any]
    inverse: Callable[[Any], Any]
    lower: float
    upper: float = np.inf

    def outside(self, physical: Any) -> Any:
        """Tell where physical values are not allowed; not for NaN.

        Parameters
        ----------
        physical : ndarray
            In the units of the prior.
        """
        # A little above is the rounding of a change of units, and of no consequence.
        return (physical < self.lower) | (physical > self.upper * (1.0 + 1e-6))

    @property
    def allowed(self) -> str:
        """The physical values allowed, in words."""
        least = f"at least {self.lower:g}"
        return least if np.isinf(self.upper) else f"{least} and at most {self.upper:g}"


TRANSFORMS: dict[str, Transform] = {
    "log1p": Transform(np.log1p, _log1p_inverse, 0.0),
    "log": Transform(np.log, _log_inverse, float(np.finfo(np.float32).tiny)),
    "logit": Transform(_logit, _logit_inverse, 0.0, 1.0),
    "sqrt": Transform(np.sqrt, _sqrt_inverse, 0.0),
}
