"""What a prior file holds, and the parts of a prior from what it holds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from xr_daisi.errors import PriorError, problem
from xr_daisi.mlp import MLP
from xr_daisi.networks import KNOWN_NETWORKS, Network, build_network
from xr_daisi.prior_files import FORMAT, damaged, read_file
from xr_daisi.settings import Settings
from xr_daisi.state import Normalization, StateSpec
from xr_daisi.transforms import TRANSFORMS

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

__all__ = ["Contents", "pack", "unpack"]

GEOLOCATION = ("geolocation.latitude", "geolocation.longitude")
HOLES = "normalization.holes"

_DERIVED = (
    "format",
    "format_version",
    "state",
    "transforms",
    "network",
    "interpolant",
    "settings",
    "sha256",
)
"""Entries of a card that follow from the prior itself."""


@dataclass(frozen=True)
class Contents:
    """The parts of a prior that a file holds; see `xr_daisi.FlowPrior`."""

    network: Network
    spec: StateSpec
    normalization: Normalization
    settings: Settings
    interpolant: str
    card: dict[str, Any]
    sha256: str


def pack(prior: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return tensors and card of a prior as a file holds them.

    Parameters
    ----------
    prior : FlowPrior
        The prior.

    Returns
    -------
    tensors : dict of str to Tensor
        Weights and normalisation, on the CPU, none sharing memory.
    card : dict
        Plain JSON types, settings apart.

    Raises
    ------
    PriorError
        If the network is not one of this package's.
    """
    network = prior.network
    if not isinstance(network, KNOWN_NETWORKS):
        raise PriorError(
            problem(
                f"prior {prior.name!r}",
                f"a network of type {type(network).__name__}",
                "one of this package's",
                "only priors with a known network can be saved; keep the code that wraps yours "
                "and call from_velocity or from_denoiser again",
            )
        )
    tensors = {f"network.{k}": v.detach().cpu() for k, v in network.state_dict().items()}
    for name in ("mean", "std"):
        values = np.array(getattr(prior.normalization, name), dtype=np.float64)
        tensors[f"normalization.{name}"] = torch.from_numpy(values)
    holes = prior.holes
    if holes is not None and holes.any():
        tensors[HOLES] = torch.from_numpy(holes.astype(np.uint8))
    for kind, places in zip(GEOLOCATION, prior.spec.geolocation or (), strict=False):
        tensors[kind] = torch.from_numpy(np.array(places, dtype=np.float64))
    card = {
        **{k: v for k, v in prior.card.items() if k not in _DERIVED},
        "format": FORMAT,
        "format_version": _format_version(network, tensors),
        "state": prior.spec.to_dict(),
        "transforms": list(prior.normalization.transforms),
        "network": network.config.to_dict(),
        "interpolant": prior.interpolant,
    }
    # Views of one storage (a broadcast mean) are written out in full.
    return {k: v.clone().contiguous() for k, v in tensors.items()}, card


def _format_version(network: Network, tensors: dict[str, torch.Tensor]) -> int:
    """Return the oldest version that can hold a prior: older packages read those they know."""
    if isinstance(network, MLP):
        return 3
    return 2 if {HOLES, *GEOLOCATION} & {*tensors} else 1


def unpack(path: Path) -> Contents:
    """Read a file and build the parts of the prior in it.

    Parameters
    ----------
    path : Path
        The file.

    Raises
    ------
    PriorError
        If it is damaged, foreign or of a newer format.
    """
    tensors, card, settings, sha256 = read_file(path)
    try:
        weights = {
            k.removeprefix("network."): v for k, v in tensors.items() if k.startswith("network.")
        }
        static = weights["static"]
        network = build_network(card["network"], static if static.numel() else None)
        network.load_state_dict(weights)
        transforms = tuple(card["transforms"])
        unknown = {*transforms} - {None, *TRANSFORMS}
        if unknown or card["interpolant"] != network.config.interpolant:
            raise ValueError(f"transforms {transforms}, interpolant {card['interpolant']!r}")
        spec = StateSpec.from_dict(card["state"])
        if GEOLOCATION[0] in tensors:
            latitude, longitude = (tensors[kind].numpy() for kind in GEOLOCATION)
            if {latitude.shape, longitude.shape} != {spec.space_shape}:
                raise ValueError(f"places of shape {latitude.shape}")
            spec = replace(spec, geolocation=(latitude, longitude))
        holes = np.zeros(spec.shape, dtype=bool)
        if HOLES in tensors:
            holes[...] = tensors[HOLES].numpy() != 0
        return Contents(
            network=network.eval().requires_grad_(False),
            spec=spec,
            normalization=Normalization(
                tensors["normalization.mean"].numpy(),
                tensors["normalization.std"].numpy(),
                transforms,
                holes,
            ),
            settings=Settings().updated(settings),
            interpolant=card["interpolant"],
            card={k: v for k, v in card.items() if k not in _DERIVED},
            sha256=sha256,
        )
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        # torch lists every weight that does not fit; the first tells enough.
        lines = [line.strip() for line in str(error).splitlines()]
        reason = " ".join([type(error).__name__ + ":", *lines[:2]])
        raise damaged(path, f"a card that cannot be used ({reason})") from error
