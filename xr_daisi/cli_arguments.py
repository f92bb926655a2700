"""Arguments of the command line: shared kinds, settings of the sampler, ``name=value`` entries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Group, Parameter, Token

from xr_daisi.errors import DaisiError, problem

if TYPE_CHECKING:
    import xarray as xr

    from xr_daisi.priors import FlowPrior

__all__ = [
    "Flag",
    "LargeGrid",
    "Paths",
    "Sampling",
    "Texts",
    "Whole",
    "check_apart",
    "chunk_lengths",
    "pairs",
]


def _whole(_: Any, tokens: Sequence[Token]) -> int:
    """Convert to int; cyclopts alone would take 1.5 for 1."""
    text = tokens[0].value
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"found {text!r}, expected a whole number") from None


Flag = Annotated[bool, Parameter(negative="", show_default=False)]
Texts = Annotated[tuple[str, ...], Parameter(negative="", show_default=False)]
Paths = Annotated[tuple[Path, ...], Parameter(negative="", show_default=False)]
Whole = Annotated[int, Parameter(converter=_whole)]

SAMPLING = Group("Sampling (default: what the prior's card recommends)", sort_key=1)


@Parameter(name="*", group=SAMPLING)
@dataclass(frozen=True)
class Sampling:
    """Settings of the sampler; what is left out is taken from the prior's card.

    Attributes
    ----------
    t_min
        Inversion time in [0, 1): near 1 keeps the forecast, 0 ignores it; auto: by its spread.
    bridge
        Share of each observation that an ensemble Kalman update takes first: auto, or a number in
        [0, 1]; 0 is the flow alone, and the default where t_min is a number.
    perturb_obs
        Perturbed observations: members are guided to values with errors of their own; the default
        where t_min is auto.
    steps
        Solver steps each way: 20, or 10,20 for inverse and guided.
    solver
        Second order, or the published first order.
    noise
        eps0 of the guided stochastic equation; 0 is the ODE.
    inverse_noise
        eps0 of the inverse stochastic equation; 0 is the ODE.
    corrector_steps
        Langevin corrections per guided step.
    guidance
        The observation term.
    guidance_solver
        Linear solver of mmps.
    guidance_iterations
        Iterations of that solver.
    strength
        Factor of the observation term.
    """

    t_min: float | Literal["auto"] | None = None
    bridge: float | Literal["auto"] | None = None
    perturb_obs: bool | None = None
    steps: str | None = None
    solver: Literal["adams", "heun", "euler"] | None = None
    noise: float | None = None
    inverse_noise: float | None = None
    corrector_steps: Whole | None = None
    guidance: Literal["mmps", "dps", "dps-normalized", "dps-exact", "none"] | None = None
    guidance_solver: Literal["gmres", "cg"] | None = None
    guidance_iterations: Whole | None = None
    strength: float | None = None

    def keywords(self) -> dict[str, Any]:
        """Return what was given, as `assimilate` takes it.

        Raises
        ------
        DaisiError
            If `steps` is neither a whole number nor two of them.
        """
        given = {k: v for k, v in asdict(self).items() if v is not None}
        if self.steps is not None:
            try:
                counts = tuple(int(part) for part in self.steps.split(","))
            except ValueError:
                counts = ()
            if len(counts) not in (1, 2):
                expected = "a whole number, or two: 10,20"
                raise DaisiError(problem("--steps", repr(self.steps), expected))
            given["steps"] = counts if len(counts) == 2 else counts[0]
        return given


LARGE = Group("Large grids", sort_key=2)


@Parameter(name="*", group=LARGE)
@dataclass(frozen=True)
class LargeGrid:
    """How a grid is worked through that is larger than the prior's, or than memory allows.

    Attributes
    ----------
    tile
        Grid points of a tile along both dimensions of space, e.g. 256 256: the network sees
        overlapping tiles, blended at every step.
    overlap
        Grid points that neighbouring tiles share; a quarter of a tile when left out.
    on_grid
        Use the prior on the grid of the forecast, which may be another than that of its training
        with the same spacing.
    """

    tile: Annotated[tuple[Whole, Whole] | None, Parameter(negative="")] = None
    overlap: Whole | None = None
    on_grid: Flag = False

    def keywords(self) -> dict[str, Any]:
        """Return what was given, as `assimilate` takes it."""
        given = {"tile": self.tile, "overlap": self.overlap}
        return {k: v for k, v in given.items() if v is not None}

    def prior(self, prior: str | None, forecast: xr.Dataset) -> str | FlowPrior | None:
        """Return the prior to use: the name as it is, or the prior on the grid of the forecast.

        Raises
        ------
        DaisiError
            If no prior is named that could be put on that grid, or it cannot be.
        """
        if not self.on_grid:
            return prior
        if prior is None:
            found, expected = "no --prior", "a prior's file, URL or registered name"
            raise DaisiError(problem("--on-grid", found, expected, "pass --prior"))
        from xr_daisi.registry import load_prior

        return load_prior(prior).on_grid(forecast)


def pairs(option: str, entries: Sequence[str]) -> dict[str, str]:
    """Parse ``name=value`` entries.

    Parameters
    ----------
    option : str
        For the message.
    entries : sequence of str
        As given.

    Returns
    -------
    dict of str to str
        Values by name.

    Raises
    ------
    DaisiError
        For another form, or a name that is given twice.
    """
    found: dict[str, str] = {}
    for entry in entries:
        name, _, value = (part.strip() for part in entry.partition("="))
        if not (name and value):
            raise DaisiError(problem(option, repr(entry), "NAME=VALUE"))
        if name in found:
            raise DaisiError(problem(option, f"{name!r} twice", "each name once"))
        found[name] = value
    return found


def chunk_lengths(entries: Sequence[str]) -> dict[str, int] | None:
    """Parse ``--chunks``: a length for each dimension; None where not given.

    Raises
    ------
    DaisiError
        For lengths that are no positive whole numbers.
    """
    lengths = pairs("--chunks", entries)
    wrong = [f"{name}={value}" for name, value in lengths.items() if not _is_count(value)]
    if wrong:
        raise DaisiError(problem("--chunks", ", ".join(wrong), "positive whole numbers"))
    return {name: int(value) for name, value in lengths.items()} or None


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdigit() and int(text) > 0


def check_apart(inputs: Sequence[Path], outputs: Sequence[Path]) -> None:
    """Raise if an output is also an input, or two outputs are one.

    Raises
    ------
    DaisiError
        Naming the path; nothing is lost to ``--overwrite`` by mistake.
    """
    taken = {path.resolve(): "an input" for path in inputs}
    for path in outputs:
        place = path.resolve()
        if place in taken:
            found = f"an output that is also {taken[place]}"
            raise DaisiError(problem(str(path), found, "another path"))
        taken[place] = "another output"
