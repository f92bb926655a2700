"""Networks made ready for sampling: on a device, in a dtype, without parameter gradients."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial

import torch
from torch import Tensor, nn

from xr_daisi.user_warnings import warn_user

__all__ = ["CompileWarning", "Compiled", "Inference"]


class CompileWarning(UserWarning):
    """A network could not be compiled and runs as it is."""


class Compiled:
    """A network compiled by torch at its first call, or as it is where that fails.

    Parameters
    ----------
    network : torch.nn.Module
        Ready for inference.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        # Guidance goes back through one graph several times: its buffers are not to be reused.
        import torch._functorch.config as functorch

        self._reusing = partial(functorch.patch, donated_buffer=False)
        self._compiled: Callable[..., Tensor] | None = None
        self._failed = False

    def __call__(self, *arguments: Tensor, **fields: Tensor) -> Tensor:
        """Call the network."""
        if not self._failed:
            try:
                with self._reusing():
                    if self._compiled is None:
                        self._compiled = torch.compile(self.network, dynamic=False)
                    return self._compiled(*arguments, **fields)
            except (MemoryError, torch.OutOfMemoryError):
                raise  # smaller batches are the remedy
            except Exception as error:  # whatever the compiler's reason, the network runs without
                self._failed = True
                lines = str(error).strip().splitlines() or ["no reason given"]
                warn_user(
                    CompileWarning(
                        f"compile=True: found that torch cannot compile the network "
                        f"({type(error).__name__}: {lines[0][:160]}); it runs as it is"
                    )
                )
        out: Tensor = self.network(*arguments, **fields)
        return out


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
    compiled : bool
        Whether torch compiles it.
    """

    def __init__(
        self,
        network: nn.Module,
        device: torch.device,
        dtype: torch.dtype,
        *,
        compiled: bool = False,
    ) -> None:
        self.autocast = dtype == torch.bfloat16
        target = torch.float32 if self.autocast else dtype
        if _needs_copy(network, device, target):
            network = copy.deepcopy(network).to(device=device, dtype=target)
            network = network.eval().requires_grad_(False)
        self.network = network
        self.run: Callable[..., Tensor] = Compiled(network) if compiled else network
        self.device_type = device.type
        self._views: dict[tuple[bool, ...], Inference] = {}

    def with_periodic(self, periodic: tuple[bool, ...]) -> Inference:
        """Return the same for other periodic axes, with the same weights.

        There is one for each, so that a compiled one is not compiled again at every time.
        """
        if periodic not in self._views:
            other = copy.copy(self)
            # only networks that have this method are asked
            other.network = self.network.with_periodic(periodic)  # type: ignore[operator]
            if isinstance(self.run, Compiled):
                other.run = Compiled(other.network)
            else:
                other.run = other.network
            self._views[periodic] = other
        return self._views[periodic]

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
            out: Tensor = self.run(x, t, **fields)
        return out


def _needs_copy(network: nn.Module, device: torch.device, dtype: torch.dtype) -> bool:
    tensors = [*network.parameters(), *network.buffers()]
    return (
        any(module.training for module in network.modules())
        or any(p.requires_grad for p in network.parameters())
        or any(p.device != device or (p.is_floating_point() and p.dtype != dtype) for p in tensors)
    )
