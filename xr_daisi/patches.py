"""Grid points merged into channels, and points repeated: how a network changes resolution.

Tensors only: ``(batch, channel, *space)`` with one or two space dimensions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

__all__ = ["double", "from_patches", "to_patches"]


def double(x: Tensor, shape: torch.Size) -> Tensor:
    """Repeat every point twice per dimension, then cut to `shape` (odd sizes)."""
    for axis, size in enumerate(shape, start=2):
        x = x.repeat_interleave(2, dim=axis).narrow(axis, 0, size)
    return x


def to_patches(x: Tensor, patch: int, periodic: Sequence[bool]) -> Tensor:
    """Merge `patch` points per side into channels; a grid that does not divide is filled up."""
    if patch == 1:
        return x
    for axis, (size, wraps) in enumerate(zip(x.shape[2:], periodic, strict=True), start=2):
        if missing := -size % patch:
            beyond = torch.arange(size, size + missing, device=x.device)
            beyond = beyond % size if wraps else beyond.clamp(max=size - 1)
            x = torch.cat([x, x.index_select(axis, beyond)], dim=axis)
    if x.ndim == 3:
        b, c, n = x.shape
        x = x.reshape(b, c, n // patch, patch).permute(0, 1, 3, 2)
        return x.reshape(b, c * patch, n // patch)
    return functional.pixel_unshuffle(x, patch)


def from_patches(x: Tensor, patch: int, shape: torch.Size) -> Tensor:
    """Undo `to_patches`, cutting to the grid's `shape`."""
    if patch == 1:
        return x
    if x.ndim == 3:
        b, c, n = x.shape
        x = x.reshape(b, c // patch, patch, n).permute(0, 1, 3, 2).reshape(b, -1, n * patch)
    else:
        x = functional.pixel_shuffle(x, patch)
    for axis, size in enumerate(shape, start=2):
        x = x.narrow(axis, 0, size)
    return x
