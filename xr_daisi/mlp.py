"""A dense network for the velocity of states of few numbers, such as the Lorenz systems.

Tensors only; the interface is that of `xr_daisi.networks`.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional

from xr_daisi.errors import SettingsError, StateError, problem, raise_problems
from xr_daisi.interpolant import INTERPOLANTS, Interpolant
from xr_daisi.preconditioning import coefficients

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["MLP", "MLPConfig"]

LARGEST = 4096
"""Numbers in a state above which a dense network is a mistake."""


@dataclass(frozen=True)
class MLPConfig:
    """Size and shape of an `MLP`; what a prior file stores.

    Attributes
    ----------
    channels : int
        State channels in and out.
    space : tuple of int
        Grid points along each space dimension (one or two); the network works on no other grid.
    width : int
        Features, a multiple of 2.
    blocks : int
        Residual blocks.
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
    space: tuple[int, ...]
    width: int = 128
    blocks: int = 3
    interpolant: str = "linear"
    dropout: float = 0.0
    kind: str = field(default="mlp", init=False)

    def __post_init__(self) -> None:
        problems: list[str] = []

        def check(name: str, good: bool, expected: str) -> None:
            if not good:
                problems.append(problem(name, repr(getattr(self, name)), expected))

        for name in ("channels", "blocks"):
            check(name, _count(getattr(self, name)), "a positive integer")
        good = len(self.space) in (1, 2) and all(map(_count, self.space))
        check("space", good, "one positive integer for each of 1 or 2 dimensions")
        check("width", _count(self.width) and self.width % 2 == 0, "a positive multiple of 2")
        check("dropout", 0.0 <= self.dropout < 1.0, "a share in [0, 1)")
        names = ", ".join(sorted(INTERPOLANTS))
        check("interpolant", self.interpolant in INTERPOLANTS, f"one of {names}")
        if not problems and self.numbers > LARGEST:
            found, expected = f"states of {self.numbers} numbers", f"at most {LARGEST}"
            problems.append(problem("network 'mlp'", found, expected, "use network='unet'"))
        raise_problems(SettingsError, problems)

    @property
    def numbers(self) -> int:
        """How many numbers a state has."""
        return self.channels * math.prod(self.space)

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration as plain JSON types."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, entries: dict[str, Any]) -> MLPConfig:
        """Build a configuration from `to_dict` output; an unknown option is a `TypeError`."""
        entries = {k: tuple(v) if isinstance(v, list) else v for k, v in entries.items()}
        entries.pop("kind", None)
        return cls(**entries)


def _count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


class _Block(nn.Module):
    """Residual block: two dense layers, shifted and scaled by the time embedding."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.first = nn.Linear(width, 2 * width)
        self.modulation = nn.Linear(width, 2 * width)
        self.dropout = nn.Dropout(dropout)
        self.second = nn.Linear(2 * width, width)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.modulation(embedding).chunk(2, dim=-1)
        inner = functional.silu(self.first(self.norm(h) * (1.0 + scale) + shift))
        out: Tensor = h + self.second(self.dropout(inner))
        return out


class MLP(nn.Module):
    """Dense residual network for the velocity of a flow, preconditioned as `networks.UNet` is.

    Parameters
    ----------
    config : MLPConfig
        Size and shape.
    static : Tensor, optional
        Not possible: a dense network has weights of its own for every point.

    Raises
    ------
    SettingsError
        If `static` is given.
    """

    static: Tensor
    frequencies: Tensor

    def __init__(self, config: MLPConfig, static: Tensor | None = None) -> None:
        super().__init__()
        if static is not None:
            remedy = "leave static= out: the network has weights of its own for every point"
            raise SettingsError(
                problem("static", f"{static.shape[0]} fields", "none for network='mlp'", remedy)
            )
        self.config = config
        self.interpolant: Interpolant = INTERPOLANTS[config.interpolant]
        width = config.width
        self.register_buffer("static", torch.zeros(0))
        self.register_buffer(
            "frequencies", torch.exp(torch.linspace(0.0, math.log(100.0), width // 2))
        )
        self.embed = nn.Sequential(
            nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()
        )
        self.enter = nn.Linear(config.numbers, width)
        self.blocks = nn.ModuleList(_Block(width, config.dropout) for _ in range(config.blocks))
        self.norm = nn.LayerNorm(width)
        self.leave = nn.Linear(width, config.numbers)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    @property
    def parameter_count(self) -> int:
        """Number of trained parameters."""
        return sum(p.numel() for p in self.parameters())

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the velocity, shape and dtype of `x`.

        Raises
        ------
        StateError
            For states on another grid.
        """
        expected = (self.config.channels, *self.config.space)
        if tuple(x.shape[1:]) != expected:
            remedy = "a dense network knows one grid; it takes neither tiles nor others"
            raise StateError(problem("state", f"shape {tuple(x.shape[1:])}", f"{expected}", remedy))
        skip, scale, deviation = coefficients(self.interpolant, t, x)
        return skip * x + scale * self._network(x / deviation, t.to(x)).to(x)

    def _network(self, x: Tensor, t: Tensor) -> Tensor:
        h = self.enter(x.reshape(x.shape[0], -1))
        angle = (0.5 * math.pi) * t[:, None] * self.frequencies.to(t)
        embedding = self.embed(torch.cat([angle.sin(), angle.cos()], dim=1))
        for block in self.blocks:
            h = block(h, embedding)
        out: Tensor = self.leave(functional.silu(self.norm(h)))
        return out.reshape(x.shape)
