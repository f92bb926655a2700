"""Settings of one analysis: names, defaults, checks."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from numbers import Real
from typing import Any, Literal, get_args

import numpy as np

from xr_daisi.errors import SettingsError, problem, raise_problems

__all__ = [
    "AUTO",
    "T_MIN",
    "Guidance",
    "GuidanceSolver",
    "Settings",
    "Solver",
]

AUTO: Literal["auto"] = "auto"
T_MIN = 0.2
"""Inversion time where there is no ensemble to choose it from."""

Solver = Literal["adams", "heun", "euler"]
Guidance = Literal["mmps", "dps", "dps-normalized", "dps-exact", "none"]
GuidanceSolver = Literal["gmres", "cg"]


@dataclass(frozen=True)
class Settings:
    """How to sample: the settings that a prior's card may recommend.

    Attributes
    ----------
    t_min : float or "auto"
        Inversion time in [0, 1): near 1 keeps the forecast, 0 ignores it (fresh noise);
        ``"auto"`` chooses it, see `xr_daisi.denoising.inversion_time`.
    bridge : float, "auto" or None
        Share of each observation's likelihood that an ensemble Kalman update takes before the
        flow is guided by the rest, see `xr_daisi.bridge`: 0 is the flow alone. None is
        ``"auto"`` where `t_min` is, and 0 where that was set by hand, or guidance cannot take a
        part of an observation.
    perturb_obs : bool or None
        Whether the flow is guided to observations with errors of each member's own. A member
        follows them by a map, whose spread is that of the forecast alone: this adds theirs. None
        is True where `t_min` is chosen from an ensemble; the published method has none.
    steps : int or pair of int
        Solver steps each way, or (inverse, guided).
    solver : str
        ``"adams"``, ``"heun"`` or ``"euler"``.
    noise, inverse_noise : float
        eps0 of the two stochastic differential equations, normalised units; 0 is the ODE.
    corrector_steps : int
        Langevin corrections per guided step.
    guidance : str
        ``"mmps"``, ``"dps"``, ``"dps-normalized"``, ``"dps-exact"`` or ``"none"``.
    guidance_solver : str
        Of MMPS: ``"gmres"`` or ``"cg"``.
    guidance_iterations : int
        Krylov iterations of MMPS.
    strength : float or callable
        Multiplies the observation term; a callable takes the time t.
    """

    t_min: float | Literal["auto"] = "auto"
    bridge: float | Literal["auto"] | None = None
    perturb_obs: bool | None = None
    steps: int | tuple[int, int] = 20
    solver: str = "adams"
    noise: float = 0.008
    inverse_noise: float = 0.008
    corrector_steps: int = 0
    guidance: str = "mmps"
    guidance_solver: str = "gmres"
    guidance_iterations: int = 3
    strength: float | Callable[[float], float] = 1.0

    def __post_init__(self) -> None:
        problems: list[str] = []

        def check(name: str, ok: bool, expected: str, remedy: str = "") -> None:
            if not ok:
                problems.append(problem(name, repr(getattr(self, name)), expected, remedy))

        check(
            "t_min",
            self.t_min == AUTO or (_is_number(self.t_min) and 0.0 <= self.t_min < 1.0),
            "a number in [0, 1), or 'auto'",
            "0 ignores the forecast, values near 1 keep it",
        )
        check(
            "bridge",
            self.bridge in (None, AUTO) or (_is_number(self.bridge) and 0.0 <= self.bridge <= 1.0),
            "a number in [0, 1], or 'auto'",
            "0 is the flow alone, 1 an ensemble Kalman update carried through the prior",
        )
        if isinstance(self.steps, list):  # from JSON
            object.__setattr__(self, "steps", tuple(self.steps))
        pair: tuple[Any, ...] = self.steps if isinstance(self.steps, tuple) else (self.steps,) * 2
        check(
            "steps",
            len(pair) == 2 and all(_is_count(n) and n >= 1 for n in pair),
            "a positive integer, or a pair (inverse, guided)",
        )
        for name in ("noise", "inverse_noise"):
            value = getattr(self, name)
            check(name, _is_number(value) and value >= 0.0, "a number >= 0 (0 is the ODE)")
        check(
            "corrector_steps",
            _is_count(self.corrector_steps) and self.corrector_steps >= 0,
            "an integer >= 0",
        )
        check(
            "guidance_iterations",
            _is_count(self.guidance_iterations) and self.guidance_iterations >= 1,
            "an integer >= 1",
        )
        for name, allowed in (
            ("solver", get_args(Solver)),
            ("guidance", get_args(Guidance)),
            ("guidance_solver", get_args(GuidanceSolver)),
        ):
            check(name, getattr(self, name) in allowed, f"one of {', '.join(map(repr, allowed))}")
        check(
            "strength",
            callable(self.strength) or (_is_number(self.strength) and self.strength >= 0.0),
            "a number >= 0 or a callable of t",
        )
        known = self.perturb_obs is None or isinstance(self.perturb_obs, (bool, np.bool_))
        check("perturb_obs", known, "True or False")
        if self.perturb_obs and (self.t_min == 0.0 or self.guidance == "dps-normalized"):
            found = f"True with t_min = {self.t_min}, guidance = {self.guidance!r}"
            expected = "False, since this guidance does not use the errors of observations"
            if self.t_min == 0.0:
                expected = "False, since members that start from noise differ by themselves"
            problems.append(problem("perturb_obs", found, expected))
        if self.t_min == 0.0 and self.bridge not in (None, 0):
            found = f"{self.bridge!r} with t_min = 0"
            expected = "0, since what the ensemble update takes would be forgotten"
            problems.append(problem("bridge", found, expected))
        raise_problems(SettingsError, problems)
        self._to_plain_types(pair)

    def _to_plain_types(self, pair: tuple[Any, ...]) -> None:
        # Numbers of NumPy pass the checks; a card and attributes of a file hold plain ones.
        plain: dict[str, Any] = {
            name: float(getattr(self, name))
            for name in ("t_min", "bridge", "noise", "inverse_noise")
            if getattr(self, name) not in (AUTO, None)
        }
        for name in ("corrector_steps", "guidance_iterations"):
            plain[name] = operator.index(getattr(self, name))
        if self.perturb_obs is not None:
            plain["perturb_obs"] = bool(self.perturb_obs)
        counts = tuple(operator.index(n) for n in pair)
        plain["steps"] = counts if isinstance(self.steps, tuple) else counts[0]
        if not callable(self.strength):
            plain["strength"] = float(self.strength)
        for name, value in plain.items():
            object.__setattr__(self, name, value)

    @property
    def start(self) -> float:
        """Inversion time as a number: `T_MIN` where it is to be chosen from an ensemble."""
        return T_MIN if self.t_min == AUTO else float(self.t_min)

    @property
    def share(self) -> float | Literal["auto"]:
        """Share of the ensemble update, with the default filled in."""
        if self.bridge is not None:
            return self.bridge
        # The rest of an observation is lost on guidance that there is not, and taken for all of it
        # where guidance has no errors.
        guided = self.guidance not in ("none", "dps-normalized") and self.strength != 0.0
        return AUTO if self.t_min == AUTO and guided else 0.0

    @property
    def perturbs(self) -> bool:
        """Whether observations are perturbed, with the default filled in."""
        if self.perturb_obs is not None:
            return bool(self.perturb_obs)
        return self.t_min == AUTO and self.guidance != "dps-normalized"

    @property
    def step_counts(self) -> tuple[int, int]:
        """Inverse and guided solver steps."""
        return self.steps if isinstance(self.steps, tuple) else (self.steps, self.steps)

    def updated(self, changes: Mapping[str, Any]) -> Settings:
        """Return a copy with `changes`; entries that are None are left out.

        Raises
        ------
        SettingsError
            For unknown names or values out of range.
        """
        known = {f.name for f in fields(self)}
        unknown = sorted(set(changes) - known)
        if unknown:
            raise SettingsError(
                problem("settings", ", ".join(unknown), f"names among {', '.join(sorted(known))}")
            )
        given = {k: v for k, v in changes.items() if v is not None}
        # What a card recommends is for other inversion times, and other guidance.
        from_noise = given.get("t_min") == 0.0
        if from_noise and self.bridge is not None:
            given.setdefault("bridge", 0.0)
        if self.perturb_obs and (from_noise or given.get("guidance") == "dps-normalized"):
            given.setdefault("perturb_obs", False)
        return replace(self, **given)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types; a callable `strength` is named, not kept."""
        out = asdict(self)
        out["steps"] = list(self.steps) if isinstance(self.steps, tuple) else self.steps
        if self.bridge is None:  # it follows from t_min
            del out["bridge"]
        if self.perturb_obs is None:
            del out["perturb_obs"]
        if callable(self.strength):
            out["strength"] = f"callable {getattr(self.strength, '__name__', 'of t')}"
        return out


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, Real):
        return False
    return math.isfinite(value)


def _is_count(value: object) -> bool:
    return not isinstance(value, bool) and hasattr(value, "__index__")
