"""Holes: points where the state is NaN by construction, land for an ocean or sea for a soil.

In the network's world a hole is zero at every t. Velocity, score and noise are zero there, and
nothing that stands in a hole reaches another point; NaN is for the outside alone.
This module knows tensors and NumPy arrays only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from xr_daisi.flow import Flow
from xr_daisi.sampling import NoiseSource

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = [
    "MaskedFlow",
    "MaskedNoise",
    "fill_holes",
    "fill_with_means",
    "holes_of",
    "share_of_holes",
]


class MaskedFlow(Flow):
    """A flow whose velocity, score and denoised state are zero in holes, and blind to them.

    Parameters
    ----------
    flow : Flow
        The prior.
    keep : Tensor
        ``(channel, *space)`` bool on the device of the states; False in holes.
    """

    def __init__(self, flow: Flow, keep: Tensor) -> None:
        super().__init__(flow.network, flow.interpolant)
        self.flow = flow
        self.keep = keep

    def velocity(self, x: Tensor, t: float) -> Tensor:
        """Evaluate the network once; see `Flow.velocity`."""
        return self._masked(self.flow.velocity(self._masked(x), t))

    def score_from(self, x: Tensor, t: float, b: Tensor) -> Tensor:
        """Return the score at x from the velocity b there; see `Flow.score_from`."""
        return self._masked(self.flow.score_from(x, t, b))

    def denoise_from(self, x: Tensor, t: float, b: Tensor) -> Tensor:
        """Return ``E[x1 | x_t = x]`` from the velocity b at x; see `Flow.denoise_from`."""
        return self._masked(self.flow.denoise_from(x, t, b))

    def _masked(self, x: Tensor) -> Tensor:
        # Not a product: NaN times zero is NaN.
        return torch.where(self.keep, x, 0.0)


class MaskedNoise(NoiseSource):
    """The noise of a `NoiseSource` with zeros in holes; the other points have the same noise.

    Parameters
    ----------
    source : NoiseSource
        Of the members.
    keep : Tensor
        ``(channel, *space)`` bool, False in holes.
    """

    def __init__(self, source: NoiseSource, keep: Tensor) -> None:
        super().__init__(source.seed, source.time, source.members)
        self.source = source
        self.keep = keep

    def select(self, batch: slice) -> MaskedNoise:
        """Return the source for a part of the members."""
        return MaskedNoise(self.source.select(batch), self.keep)

    def draw(
        self,
        stage: str,
        step: int,
        shape: Sequence[int],
        *,
        dtype: torch.dtype,
        device: torch.device | str,
    ) -> Tensor:
        """Draw the noise of one step; see `NoiseSource.draw`."""
        noise = self.source.draw(stage, step, shape, dtype=dtype, device=device)
        return torch.where(self.keep.to(noise.device), noise, 0.0)


def holes_of(state: np.ndarray) -> NDArray[np.bool_] | None:
    """Return where a state ``(channel, *space)`` is NaN; None where it is nowhere."""
    holes: NDArray[np.bool_] = np.isnan(state)
    return holes if holes.any() else None


def fill_holes(
    states: np.ndarray, holes: NDArray[np.bool_] | None, values: np.ndarray | float = 0.0
) -> np.ndarray:
    """Return states with other values in their holes; the states themselves without any.

    Parameters
    ----------
    states : ndarray
        ``(..., channel, *space)``; not modified.
    holes : ndarray of bool or None
        ``(channel, *space)``.
    values : ndarray or float
        What stands in the holes, broadcastable to the states.
    """
    if holes is None or not holes.any():
        return states
    filled: np.ndarray = np.where(holes, np.asarray(values, dtype=states.dtype), states)
    return filled


def fill_with_means(states: np.ndarray, state_dims: int) -> np.ndarray:
    """Return states with the mean of each channel in its holes: nothing odd for an operator.

    Parameters
    ----------
    states : ndarray
        ``(..., channel, *space)``; not modified.
    state_dims : int
        Number of dimensions of a state, ``(channel, *space)``.
    """
    leading = states.ndim - state_dims
    first = states[(0,) * leading]
    holes = holes_of(first)
    if holes is None:
        return states
    others = (*range(leading), *range(leading + 1, states.ndim))
    known = np.maximum(np.sum(~holes, axis=tuple(range(1, state_dims))), 1)
    count = known * (states.size // first.size)
    means = np.where(holes, 0.0, states).sum(axis=others) / count
    column = means.reshape(-1, *[1] * (state_dims - 1))
    return fill_holes(states, holes, np.broadcast_to(column, holes.shape))


def share_of_holes(holes: NDArray[np.bool_]) -> str:
    """Say how much of a state is holes: ``"12 % holes"``."""
    share = 100.0 * float(holes.mean())
    if 0.0 < share < 1.0:
        return "less than 1 % holes"
    return f"{share:.0f} % holes"
