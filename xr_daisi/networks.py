"""Network architectures for the velocity field: a U-Net in one or two space dimensions; by name.

Tensors only. A network maps a normalised state ``x`` ``(batch, channel, *space)`` and times ``t``
``(batch,)`` to a velocity of the shape of ``x``; t = 0 is noise, t = 1 is data.
"""

from __future__ import annotations

import copy
import math
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional

from xr_daisi.errors import SettingsError, problem, raise_problems
from xr_daisi.interpolant import INTERPOLANTS, Interpolant
from xr_daisi.mlp import MLP, MLPConfig
from xr_daisi.patches import double, from_patches, to_patches
from xr_daisi.preconditioning import coefficients, schedule_at

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

__all__ = [
    "KNOWN_NETWORKS",
    "NETWORKS",
    "Network",
    "UNet",
    "UNetConfig",
    "build_network",
    "schedule_at",
]


@dataclass(frozen=True)
class UNetConfig:
    """Size and shape of a `UNet`; what a prior file stores.

    Attributes
    ----------
    channels : int
        State channels in and out.
    static_channels : int
        Fixed fields (land mask, orography, position) given as extra inputs.
    periodic : tuple of bool
        One entry per space dimension (one or two): circular padding there.
    width : int
        Channels at the first resolution; a multiple of 8.
    multipliers : tuple of int
        Width of each resolution relative to `width`; its length is the number of resolutions,
        each half as fine as the one before.
    blocks : int
        Residual blocks per resolution, each way.
    patch : int
        Points per side merged into one before the first resolution; 2 makes the network about
        four times cheaper in two dimensions.
    interpolant : str
        Name of the interpolant the network is preconditioned for.
    dropout : float
        Share of features left out at random in training.

    Raises
    ------
    SettingsError
        For numbers out of range and unknown interpolants, all at once.
    """

    channels: int
    static_channels: int = 0
    periodic: tuple[bool, ...] = (False, False)
    width: int = 32
    multipliers: tuple[int, ...] = (1, 2, 4)
    blocks: int = 1
    patch: int = 1
    interpolant: str = "linear"
    dropout: float = 0.0
    kind: str = field(default="unet", init=False)

    def __post_init__(self) -> None:
        problems: list[str] = []

        def check(name: str, good: bool, expected: str) -> None:
            if not good:
                problems.append(problem(name, repr(getattr(self, name)), expected))

        for name in ("channels", "blocks", "patch"):
            check(name, _count(getattr(self, name)), "a positive integer")
        check("static_channels", _count(self.static_channels, 0), "an integer >= 0")
        check("periodic", len(self.periodic) in (1, 2), "one entry for each of 1 or 2 dimensions")
        check("width", _count(self.width) and self.width % 8 == 0, "a positive multiple of 8")
        good = all(map(_count, self.multipliers or [0]))
        check("multipliers", good, "one positive integer per resolution")
        check("dropout", 0.0 <= self.dropout < 1.0, "a share in [0, 1)")
        names = ", ".join(sorted(INTERPOLANTS))
        check("interpolant", self.interpolant in INTERPOLANTS, f"one of {names}")
        raise_problems(SettingsError, problems)

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration as plain JSON types."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, entries: dict[str, Any]) -> UNetConfig:
        """Build a configuration from `to_dict` output; an unknown option is a `TypeError`."""
        entries = {k: tuple(v) if isinstance(v, list) else v for k, v in entries.items()}
        entries.pop("kind", None)
        return cls(**entries)


def _count(value: object, least: int = 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


class _Pad(nn.Module):
    """Pad each space dimension by one on both sides: circular if periodic, else the edge value."""

    def __init__(self, periodic: Sequence[bool]) -> None:
        super().__init__()
        self.periodic = tuple(periodic)

    def forward(self, x: Tensor) -> Tensor:
        ndim = len(self.periodic)
        if len(set(self.periodic)) == 1:
            mode = "circular" if self.periodic[0] else "replicate"
            return functional.pad(x, (1, 1) * ndim, mode=mode)
        for axis, periodic in enumerate(self.periodic):
            pad = [0, 0] * ndim
            position = 2 * (ndim - 1 - axis)  # functional.pad starts from the last dimension
            pad[position] = pad[position + 1] = 1
            x = functional.pad(x, pad, mode="circular" if periodic else "replicate")
        return x


def _conv(ndim: int, *args: Any, **kwargs: Any) -> nn.Module:
    return (nn.Conv1d if ndim == 1 else nn.Conv2d)(*args, **kwargs)


class _Conv3(nn.Module):
    """Three-point convolution that knows which dimensions are periodic."""

    def __init__(
        self, periodic: Sequence[bool], inputs: int, outputs: int, stride: int = 1
    ) -> None:
        super().__init__()
        self.pad = _Pad(periodic)
        self.conv = _conv(len(periodic), inputs, outputs, 3, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(self.pad(x))
        return out


class _Block(nn.Module):
    """Residual block: two normalised convolutions, shifted and scaled by the time embedding."""

    def __init__(self, config: UNetConfig, inputs: int, outputs: int) -> None:
        super().__init__()
        periodic = config.periodic
        self.norm1 = nn.GroupNorm(min(8, inputs // 4), inputs)
        self.conv1 = _Conv3(periodic, inputs, outputs)
        self.modulation = nn.Linear(2 * config.width, 2 * outputs)
        self.norm2 = nn.GroupNorm(min(8, outputs // 4), outputs)
        self.dropout = nn.Dropout(config.dropout)
        self.conv2 = _Conv3(periodic, outputs, outputs)
        nn.init.zeros_(self.conv2.conv.weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.conv2.conv.bias)  # type: ignore[arg-type]
        self.skip = nn.Identity() if inputs == outputs else _conv(len(periodic), inputs, outputs, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv1(functional.silu(self.norm1(x)))
        modulation = self.modulation(embedding)
        scale, shift = modulation.reshape(*modulation.shape, *[1] * (x.ndim - 2)).chunk(2, dim=1)
        h = functional.silu(self.norm2(h) * (1.0 + scale) + shift)
        h = self.conv2(self.dropout(h))
        out: Tensor = self.skip(x) + h
        return out


class UNet(nn.Module):
    """U-Net for the velocity of a flow, of any size, for any even or odd grid.

    The output is preconditioned, see `xr_daisi.preconditioning`: an untrained network is already
    the exact prior ``N(0, I)``.

    Parameters
    ----------
    config : UNetConfig
        Size and shape.
    static : Tensor, optional
        Fixed fields, ``(static_channels, *space)``, already of order one. Stored with the weights.

    Raises
    ------
    SettingsError
        If `static` does not have ``config.static_channels`` channels.
    """

    static: Tensor
    frequencies: Tensor

    def __init__(self, config: UNetConfig, static: Tensor | None = None) -> None:
        super().__init__()
        self.config = config
        self.interpolant: Interpolant = INTERPOLANTS[config.interpolant]
        ndim, width, patch = len(config.periodic), config.width, config.patch
        found = 0 if static is None else static.shape[0]
        if found != config.static_channels:
            raise SettingsError(
                problem(
                    "static",
                    f"{found} fields",
                    f"{config.static_channels}",
                    "give one field per static channel",
                )
            )
        self.register_buffer("static", torch.zeros(0) if static is None else static.clone())
        embedding = 2 * width
        self.register_buffer(
            "frequencies", torch.exp(torch.linspace(0.0, math.log(100.0), width // 2))
        )
        self.embed = nn.Sequential(
            nn.Linear(width, embedding), nn.SiLU(), nn.Linear(embedding, embedding), nn.SiLU()
        )
        periodic = config.periodic
        inputs = (config.channels + config.static_channels) * patch**ndim
        self.enter = _Conv3(periodic, inputs, width)
        widths = [width * m for m in config.multipliers]
        # One skip connection per resolution: cheaper than one per block, and as good at this size.
        current = width
        down: list[nn.Module] = []
        for level, w in enumerate(widths):
            if level:
                down.append(_Conv3(periodic, current, w, stride=2))
                current = w
            for _ in range(config.blocks):
                down.append(_Block(config, current, w))
                current = w
        self.down = nn.ModuleList(down)
        self.middle = _Block(config, current, current)
        up: list[nn.Module] = []
        for level, w in reversed(list(enumerate(widths))):
            if level < len(widths) - 1:
                up.append(_conv(ndim, current, w, 1))
                up.append(_Block(config, 2 * w, w))
            else:
                up.append(_Block(config, current, w))
            current = w
            up.extend(_Block(config, w, w) for _ in range(config.blocks - 1))
        self.up = nn.ModuleList(up)
        self.norm = nn.GroupNorm(min(8, current // 4), current)
        self.leave = _Conv3(periodic, current, config.channels * patch**ndim)
        nn.init.zeros_(self.leave.conv.weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.leave.conv.bias)  # type: ignore[arg-type]

    @property
    def parameter_count(self) -> int:
        """Number of trained parameters."""
        return sum(p.numel() for p in self.parameters())

    @property
    def stride(self) -> int:
        """Grid points between those of the coarsest resolution."""
        return int(self.config.patch * 2 ** (len(self.config.multipliers) - 1))

    def with_periodic(self, periodic: tuple[bool, ...]) -> UNet:
        """Return the network with the same weights, not copied, for other periodic dimensions."""
        shared = {id(tensor): tensor for tensor in (*self.parameters(), *self.buffers())}
        other = copy.deepcopy(self, shared)
        other.config = replace(self.config, periodic=periodic)
        for module in other.modules():
            if isinstance(module, _Pad):
                module.periodic = periodic
        return other

    def forward(self, x: Tensor, t: Tensor, static: Tensor | None = None) -> Tensor:
        """Return the velocity, shape and dtype of `x`; `static` replaces the fields, by state."""
        skip, scale, deviation = coefficients(self.interpolant, t, x)
        return skip * x + scale * self._network(x / deviation, t.to(x), static).to(x)

    def _network(self, x: Tensor, t: Tensor, static: Tensor | None) -> Tensor:
        if self.static.numel():
            fields = self.static if static is None else static
            x = torch.cat([x, fields.to(x).expand(x.shape[0], *fields.shape[-x.ndim + 1 :])], dim=1)
        shape = x.shape[2:]
        h = self.enter(to_patches(x, self.config.patch, self.config.periodic))
        angle = (0.5 * math.pi) * t[:, None] * self.frequencies.to(t)
        embedding = self.embed(torch.cat([angle.sin(), angle.cos()], dim=1))
        skips: list[Tensor] = []
        for module in self.down:
            if isinstance(module, _Block):
                h = module(h, embedding)
            else:
                skips.append(h)
                h = module(h)
        h = self.middle(h, embedding)
        for module in self.up:
            if isinstance(module, _Block):
                h = module(h, embedding)
            else:
                skip = skips.pop()
                h = torch.cat([double(module(h), skip.shape[2:]), skip], dim=1)
        h = self.leave(functional.silu(self.norm(h)))
        return from_patches(h, self.config.patch, shape)


Network = UNet | MLP
"""Networks that the package trains and saves."""

KNOWN_NETWORKS = (UNet, MLP)

NETWORKS: dict[str, tuple[Any, Any]] = {"unet": (UNetConfig, UNet), "mlp": (MLPConfig, MLP)}
"""Configuration and network by kind."""


def build_network(entries: dict[str, Any], static: Tensor | None = None) -> Network:
    """Build the network a card describes.

    Parameters
    ----------
    entries : dict
        A configuration as `UNetConfig.to_dict` or `MLPConfig.to_dict` gives it.
    static : Tensor, optional
        Static fields, ``(static_channels, *space)``.

    Returns
    -------
    UNet or MLP
        With fresh weights.

    Raises
    ------
    SettingsError
        For a kind of network or an option this version does not know.
    """
    kind = entries.get("kind")
    if kind not in NETWORKS:
        raise SettingsError(
            problem("network", f"kind {kind!r}", f"one of {', '.join(sorted(NETWORKS))}")
        )
    config_type, network_type = NETWORKS[kind]
    try:
        config = config_type.from_dict(entries)
    except TypeError as error:
        raise SettingsError(
            problem("network", f"options that do not fit ({error})", "those of this version")
        ) from error
    network: Network = network_type(config, static)
    return network
