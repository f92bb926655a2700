"""Invertible transforms of bounded or skewed variables, applied before normalisation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["TRANSFORMS", "Transform"]


def _log1p_inverse(x: Any) -> Any:
    # Nothing below zero can be observed or written: precipitation, concentration. Above, the
    # exponential is kept from overflow: exp(80) is no physical value in any unit.
    return x.clip(0.0, 80.0).expm1() if hasattr(x, "expm1") else np.expm1(np.clip(x, 0.0, 80.0))


def _log_inverse(x: Any) -> Any:
    return x.clip(-80.0, 80.0).exp() if hasattr(x, "exp") else np.exp(np.clip(x, -80.0, 80.0))


def _sqrt_inverse(x: Any) -> Any:
    return x.clip(0.0, None) ** 2


@dataclass(frozen=True)
class Transform:
    """A pair of functions on NumPy arrays; the inverse also takes torch tensors.

    Attributes
    ----------
    forward, inverse : callable
        Physical to transformed value, and back; the inverse stays within the physical bounds.
    lower : float
        Smallest physical value allowed.
    """

    forward: Callable[[Any], Any]
    inverse: Callable[[Any], Any]
    lower: float


TRANSFORMS: dict[str, Transform] = {
    "log1p": Transform(np.log1p, _log1p_inverse, 0.0),
    "log": Transform(np.log, _log_inverse, float(np.finfo(np.float32).tiny)),
    "sqrt": Transform(np.sqrt, _sqrt_inverse, 0.0),
}
