"""Members that left every bound on their way through the flow, and what may have sent them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from xr_daisi.errors import DivergenceError, problem

if TYPE_CHECKING:
    from torch import Tensor

    from xr_daisi.settings import Settings

__all__ = ["check_diverged"]

RUNAWAY = 1e3
"""A normalised state this many times larger than any forecast has diverged, finite or not."""


def check_diverged(
    before: Tensor, after: Tensor, settings: Settings, time: str, first: int
) -> None:
    """Raise for members that are not finite or far beyond any forecast.

    Parameters
    ----------
    before, after : Tensor
        Normalised states, ``(batch, channel, *space)``, before and after sampling.
    settings : Settings
        How they were sampled.
    time : str
        Label of their time.
    first : int
        Position of the first of them in the whole ensemble.

    Raises
    ------
    DivergenceError
        Naming the members.
    """
    bound = RUNAWAY * before.abs().flatten(1).amax(dim=1).clamp_min(1.0)
    largest = after.abs().flatten(1).amax(dim=1)
    bad = ~(largest <= bound)  # also true for NaN
    if not bad.any():
        return
    members = [first + int(i) for i in torch.nonzero(bad).flatten().tolist()]
    worst = largest[bad].max().item()
    values = "values that are NaN or infinite"
    if math.isfinite(worst):
        values = f"values up to {worst:g} standard deviations of the prior"
    remedy = "lower strength or raise steps"
    if settings.guidance != "mmps":
        remedy = "lower strength, raise steps, or use guidance='mmps'"
    strength = "a callable" if callable(settings.strength) else f"{settings.strength:g}"
    raise DivergenceError(
        problem(
            f"members {members}" + (f" at {time}" if time else ""),
            f"{values} after sampling with guidance={settings.guidance!r}, "
            f"strength={strength}, steps={settings.steps}",
            "a state near the prior",
            f"{remedy}; if it persists, check that the observation errors are not far too small",
        )
    )
