"""The classical fourth-order Runge-Kutta step, batched."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

__all__ = ["integrate"]


def integrate(
    tendency: Callable[[Tensor], Tensor], states: Tensor, step: float, steps: int
) -> Tensor:
    """Integrate an autonomous system with fixed steps.

    Parameters
    ----------
    tendency : callable
        Time derivative of states, of their shape.
    states : Tensor
        ``(batch, ...)``; not modified.
    step : float
        Length of a step, in the time unit of the tendency.
    steps : int
        How many.

    Returns
    -------
    Tensor
        The states at the end.
    """
    with torch.no_grad():
        for _ in range(steps):
            k1 = tendency(states)
            k2 = tendency(states + 0.5 * step * k1)
            k3 = tendency(states + 0.5 * step * k2)
            k4 = tendency(states + step * k3)
            states = states + (step / 6.0) * (k1 + 2.0 * k2 + 2.0 * k3 + k4)
        return states
