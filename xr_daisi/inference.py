"""Networks made ready for sampling: on a device, in a dtype, without parameter gradients."""

from __future__ import annotations

import copy
from contextlib import nullcontext

import torch
from torch import Tensor, nn

__all__ = ["Inference"]


class Inference:
    """A network for sampling, as ``velocity(x, t)``; the one given is left as it is.

    Parameters
    ----------
    network : torch.nn.Module
        Copied where it is not already as wanted.
    device : torch.device
        Where it is to run.
    dtype : torch.dtype
        float32 or float64 of weights and states; bfloat16 keeps both in float32 and runs the
        network under autocast.
    """

    def __init__(self, network: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
        self.autocast = dtype == torch.bfloat16
        target = torch.float32 if self.autocast else dtype
        if _needs_copy(network, device, target):
            network = copy.deepcopy(network).to(device=device, dtype=target)
            network = network.eval().requires_grad_(False)
        self.network = network
        self.device_type = device.type

    def around(self, network: nn.Module) -> Inference:
        """Return the same around another network, which is as this one is."""
        other = copy.copy(self)
        other.network = network
        return other

    def __call__(self, x: Tensor, t: Tensor, **fields: Tensor) -> Tensor:
        """Return the velocity at states ``(batch, channel, *space)`` and times ``(batch,)``.

        Parameters
        ----------
        x, t : Tensor
            States and times.
        **fields : Tensor
            What else the network takes.
        """
        context = (
            torch.autocast(self.device_type, torch.bfloat16) if self.autocast else nullcontext()
        )
        with context:
            out: Tensor = self.network(x, t, **fields)
        return out


def _needs_copy(network: nn.Module, device: torch.device, dtype: torch.dtype) -> bool:
    tensors = [*network.parameters(), *network.buffers()]
    return (
        any(module.training for module in network.modules())
        or any(p.requires_grad for p in network.parameters())
        or any(p.device != device or (p.is_floating_point() and p.dtype != dtype) for p in tensors)
    )
