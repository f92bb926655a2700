"""What every network of the package has in common: the part of the velocity that is known.

Tensors only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from xr_daisi.interpolant import Interpolant

__all__ = ["coefficients", "schedule_at"]


def schedule_at(interpolant: Interpolant, times: Tensor, like: Tensor) -> tuple[Tensor, ...]:
    """Evaluate a schedule at one time per state.

    Parameters
    ----------
    interpolant : Interpolant
        The schedule.
    times : Tensor
        Times, ``(batch,)``.
    like : Tensor
        States, ``(batch, channel, *space)``.

    Returns
    -------
    tuple of Tensor
        alpha, beta and their derivatives in t, each ``(batch, 1, ...)``, on the device and in the
        dtype of `like`.
    """
    # In double precision, since a difference of times near 1 matters. No value is read back: on an
    # accelerator that would wait for it.
    wide = torch.float32 if like.device.type == "mps" else torch.float64
    t = times.detach().to(like.device, wide).reshape(-1, *[1] * (like.ndim - 1))
    parts = (interpolant.alpha, interpolant.beta, interpolant.d_alpha, interpolant.d_beta)
    return tuple(part(t).to(like.dtype) for part in parts)


def coefficients(
    interpolant: Interpolant, times: Tensor, x: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return how a velocity is put together of the state and the output F of a network.

    The velocity is ``skip x + scale F(x / deviation, t)``: the network learns what a linear
    prediction from the noisy state leaves over, so that with F = 0 the velocity is exactly that of
    the prior ``N(0, I)`` (the idea of Karras et al. 2022, arXiv 2206.00364, for velocities).

    Parameters
    ----------
    interpolant : Interpolant
        The schedule.
    times : Tensor
        Times, ``(batch,)``.
    x : Tensor
        Noisy states, ``(batch, channel, *space)``.

    Returns
    -------
    skip, scale, deviation : Tensor
        Each ``(batch, 1, ...)``.
    """
    alpha, beta, d_alpha, d_beta = schedule_at(interpolant, times, x)
    # For unit-variance data: Var[x_t] = v, and the best linear prediction of the velocity.
    v = alpha**2 + beta**2
    skip = (alpha * d_alpha + beta * d_beta) / v
    scale = (alpha * d_beta - beta * d_alpha).abs() / v.sqrt()
    return skip, scale, v.sqrt()
