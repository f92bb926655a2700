"""Settings of the methods that need no prior."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal

from xr_daisi.errors import SettingsError, problem, raise_problems
from xr_daisi.units import length_in

if TYPE_CHECKING:
    from xr_daisi.interpolation import LevelKey
    from xr_daisi.plane import PlaneAxes
    from xr_daisi.state import StateSpec

__all__ = [
    "BRIDGE_KEYWORDS",
    "ENSEMBLE_METHODS",
    "KEYWORDS",
    "EnsembleSettings",
    "Method",
    "Relaxation",
    "serves",
]

Method = Literal["daisi", "letkf", "etkf", "ensf", "oi", "prior-only", "renoise"]
Relaxation = Literal["spread", "perturbations"]

ENSEMBLE_METHODS = ("letkf", "etkf", "ensf", "oi")
"""Methods that work on the members of the forecast, all of a time together, without a prior."""


_SAMPLER = {
    *("t_min", "steps", "solver", "noise", "inverse_noise", "corrector_steps", "guidance"),
    *("guidance_solver", "guidance_iterations", "strength", "batch", "compile", "tile", "overlap"),
}
_SPREAD = {"inflation", "relaxation", "relaxation_method", "periodic"}
_LOCAL = {"localization", "vertical_localization", "periodic"}

BRIDGE_KEYWORDS = (_SPREAD | _LOCAL) - {"periodic"}
"""Settings of the ensemble update before the flow: a prior knows what is periodic."""

KEYWORDS: dict[str, set[str]] = {
    "daisi": _SAMPLER | {"bridge", "perturb_obs"} | BRIDGE_KEYWORDS,
    "prior-only": _SAMPLER - {"t_min", "inverse_noise"},
    "renoise": _SAMPLER - {"inverse_noise"},
    "letkf": _SPREAD | _LOCAL,
    "etkf": _SPREAD,
    "ensf": _SPREAD - {"inflation"} | {"steps"},
    "oi": _LOCAL | {"background_error"},
}
"""Which settings serve which method; those of observations, seed, device and the like serve all."""


def serves(method: str, keyword: str) -> bool:
    """Tell whether a setting has a meaning for a method."""
    return keyword in KEYWORDS[method]


@dataclass(frozen=True)
class EnsembleSettings:
    """How an ensemble is analysed without a prior.

    Attributes
    ----------
    localization : float, str or None
        Distance from which on an observation has no influence (``"oi"``: on which nothing is
        correlated): km on the sphere, units of the coordinates on a plain grid, or text.
    vertical_localization : float, str or None
        The same along the levels, in their units.
    inflation : float
        Factor of the forecast's perturbations where observations are within reach.
    relaxation : float
        How far spread or perturbations go back to the forecast's, in [0, 1].
    relaxation_method : {"spread", "perturbations"}
        RTPS or RTPP.
    background_error : float, mapping or None
        Standard deviation of the forecast's errors for ``"oi"``, one or ``{variable: number}``.
    steps : int
        Of the reverse diffusion of ``"ensf"``.
    """

    localization: float | str | None = None
    vertical_localization: float | str | None = None
    inflation: float = 1.0
    relaxation: float = 0.0
    relaxation_method: str = "spread"
    background_error: float | Mapping[str, float] | None = None
    steps: int = 100

    def __post_init__(self) -> None:
        problems = []
        if not (_is_number(self.inflation) and self.inflation > 0):
            expected = "a positive number; 1 is none, 1.05 is 5 % more spread"
            problems.append(problem("inflation", repr(self.inflation), expected))
        if not (_is_number(self.relaxation) and 0 <= self.relaxation <= 1):
            expected = "a number in [0, 1]; 0 is none"
            problems.append(problem("relaxation", repr(self.relaxation), expected))
        if self.relaxation_method not in ("spread", "perturbations"):
            expected = "'spread' or 'perturbations'"
            problems.append(problem("relaxation_method", repr(self.relaxation_method), expected))
        deviations = self.background_error
        entries: list[Any] = [1.0 if deviations is None else deviations]
        if isinstance(deviations, Mapping):
            entries = list(deviations.values())
        if not all(_is_number(e) and e > 0 for e in entries):
            expected = "a positive standard deviation, or {variable: standard deviation}"
            problems.append(problem("background_error", repr(deviations), expected))
        steps: Any = self.steps
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 2:
            problems.append(problem("steps", repr(self.steps), "a whole number, at least 2"))
        raise_problems(SettingsError, problems)

    def radius(self, axes: PlaneAxes) -> float:
        """Return the length of `localization` in km, or units of a plain grid's coordinates."""
        return axes.length(self.localization, "localization")

    def level_radius(self, spec: StateSpec) -> dict[LevelKey, float] | None:
        """Return the length of `vertical_localization` for each set of levels; None without one.

        Raises
        ------
        SettingsError
            For what is no length, or a state without levels.
        """
        given = self.vertical_localization
        if given is None:
            return None
        found: dict[LevelKey, float] = {}
        for v in spec.variables:
            if v.levels is None:
                continue
            length: Any = given
            if isinstance(given, str):
                length = length_in(given, v.level_units, "vertical_localization")
            if not (_is_number(length) and length > 0):
                expected = (
                    f"a positive length, a number in {v.level_units or 'units of the levels'}"
                )
                raise SettingsError(problem("vertical_localization", repr(given), expected))
            found[v.levels] = float(length)
        if not found:
            remedy = "leave it out"
            expected = "variables with levels"
            raise SettingsError(
                problem("vertical_localization", "a state without levels", expected, remedy)
            )
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return what was set, as plain JSON types."""
        out = {f.name: getattr(self, f.name) for f in fields(self)}
        out = {f.name: out[f.name] for f in fields(self) if out[f.name] != f.default}
        if isinstance(self.background_error, Mapping):
            out["background_error"] = {str(k): float(v) for k, v in self.background_error.items()}
        return out


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, Real):
        return False
    return math.isfinite(value)
