"""How observations are read: the keywords of `assimilate` that concern them, checked and kept."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal, TypedDict, get_args

import numpy as np

from xr_daisi.errors import DaisiTypeError, SettingsError, StateError, problem, raise_problems
from xr_daisi.observation_times import TimeTolerance
from xr_daisi.operators import PointFunction

if TYPE_CHECKING:
    from xr_daisi.state import StateSpec

__all__ = [
    "Interpolation",
    "ObservationErrors",
    "ObservationKeywords",
    "ObservationOptions",
    "OperatorSettings",
    "TimeInterpolation",
]

OperatorSettings = Mapping[str, str | PointFunction]
ObservationErrors = float | Mapping[str, float | Mapping[str, float]]
Lengths = Mapping[str, str | float]
Interpolation = Literal["linear", "nearest"]
TimeInterpolation = Literal["nearest", "linear"]


class ObservationKeywords(TypedDict, total=False):
    """The keywords, for type checkers."""

    operator: OperatorSettings | None
    obs_error: ObservationErrors | None
    time_tolerance: TimeTolerance | None
    background_check: float | None
    error_inflation: float | Mapping[str, float] | None
    error_correlation: Lengths | None
    quality: Mapping[str, Sequence[str | int]] | None
    bounds: Mapping[str, tuple[float, float]] | None
    thin: str | float | None
    footprint: Lengths | None
    interpolation: Interpolation
    time_interpolation: TimeInterpolation


@dataclass(frozen=True)
class ObservationOptions:
    """How observations are read and compared with a state.

    Attributes
    ----------
    operator : mapping or None
        ``{observed variable: name or function}``.
    obs_error : float, mapping or None
        Standard deviation where a Dataset brings none, in the observation's units: one number, or
        ``{observed variable: number}``, or ``{observed variable: {instrument: number}}``.
    time_tolerance : str, timedelta or number, or None
        How far from a forecast time an observation may be.
    background_check : float or None
        Reject observations beyond this many standard deviations of spread and error.
    error_inflation : float, mapping or None
        Factor of the standard deviations of errors, one or by observed variable.
    error_correlation : mapping or None
        ``{observed variable: length}`` over which errors are correlated.
    quality : mapping or None
        ``{observed variable: accepted values or meanings}`` of its quality flag.
    bounds : mapping or None
        ``{observed variable: (lowest, highest)}`` value that is used, in its units.
    thin : str, float or None
        Side of the boxes in which observations are averaged.
    footprint : mapping or None
        ``{observed variable: diameter}``.
    interpolation : {"linear", "nearest"}
        Between the nodes of the grid.
    time_interpolation : {"nearest", "linear"}
        Compare with the state of the nearest time, or between those before and after.

    Raises
    ------
    SettingsError, DaisiTypeError
        For values that cannot be.
    """

    operator: OperatorSettings | None = None
    obs_error: ObservationErrors | None = None
    time_tolerance: TimeTolerance | None = None
    background_check: float | None = None
    error_inflation: float | Mapping[str, float] | None = None
    error_correlation: Lengths | None = None
    quality: Mapping[str, Sequence[str | int]] | None = None
    bounds: Mapping[str, tuple[float, float]] | None = None
    thin: str | float | None = None
    footprint: Lengths | None = None
    interpolation: Interpolation = "linear"
    time_interpolation: TimeInterpolation = "nearest"

    def __post_init__(self) -> None:
        for name, expected in MAPPINGS.items():
            given = getattr(self, name)
            if given is not None and not isinstance(given, Mapping):
                raise DaisiTypeError(problem(name, type(given).__name__, expected))
        problems = []
        check = self.background_check
        if check is not None and not (_is_number(check) and check > 0):
            problems.append(problem("background_check", repr(check), "a positive number, or None"))
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                found = repr(getattr(self, name))
                problems.append(problem(name, found, f"one of {', '.join(map(repr, allowed))}"))
        inflation = self.error_inflation
        entries = inflation if isinstance(inflation, Mapping) else {"": inflation}
        for key, value in entries.items():
            if value is not None and not (_is_number(value) and value > 0):
                label = f"error_inflation of {key!r}" if key else "error_inflation"
                problems.append(problem(label, repr(value), "a positive number"))
        for key, pair in (self.bounds or {}).items():
            if not _is_range(pair):
                expected = "(lowest, highest), None for an open end"
                problems.append(problem(f"bounds of {key!r}", repr(pair), expected))
        for key, accepted in (self.quality or {}).items():
            if isinstance(accepted, str) or not isinstance(accepted, (Sequence, set, np.ndarray)):
                expected = "a list of accepted flag values or meanings"
                problems.append(problem(f"quality of {key!r}", repr(accepted), expected))
        raise_problems(SettingsError, problems)

    def updated(self, changes: Mapping[str, Any]) -> ObservationOptions:
        """Return a copy with those of `changes` that are not None."""
        return replace(self, **{k: v for k, v in changes.items() if v is not None})

    def unknown_names(self, names: Iterable[str], spec: StateSpec) -> list[str]:
        """Say which options are for variables that are not observed.

        Parameters
        ----------
        names : iterable of str
            Variables of the observation Datasets.
        spec : StateSpec
            The state; errors may be given for its variables too.

        Returns
        -------
        list of str
            Texts that name them, and similar names that are known.
        """
        known = sorted(set(names))
        problems = []
        for option in (*MAPPINGS, "obs_error", "error_inflation"):
            given = getattr(self, option)
            if not isinstance(given, Mapping):
                continue
            allowed = [*known, *spec.names] if option == "obs_error" else known
            unknown = [str(name) for name in given if name not in allowed]
            if unknown:
                close = difflib.get_close_matches(unknown[0], allowed, 1)
                remedy = f"did you mean {close[0]!r}?" if close else ""
                found = f"{unknown}, which no observation Dataset has"
                problems.append(problem(option, found, f"some of {known}", remedy))
        return problems

    def of_variable(self, option: str, name: str, default: Any = None) -> Any:
        """Value of an option for one observed variable."""
        given = getattr(self, option)
        if isinstance(given, Mapping):
            return given.get(name, default)
        return default if given is None else given

    def to_dict(self) -> dict[str, Any]:
        """Return JSON types where there are such; functions are named, not kept."""
        out = {}
        for f in fields(self):
            value = getattr(self, f.name)
            out[f.name] = dict(value) if isinstance(value, Mapping) else value
        if self.operator is not None:
            out["operator"] = {str(k): _in_words(v) for k, v in self.operator.items()}
        return out

    @classmethod
    def from_dict(cls, entries: Mapping[str, Any]) -> ObservationOptions:
        """Build from what `to_dict` returned; other entries are passed over.

        Raises
        ------
        StateError
            Where an operator was a function, which text cannot hold.
        """
        known = {f.name for f in fields(cls)}
        kept = {k: v for k, v in entries.items() if k in known and v is not None}
        operators = kept.get("operator", {}).items()
        lost = [n for n, kind in operators if isinstance(kind, str) and kind.startswith("callable")]
        if lost:
            found = f"functions for {', '.join(lost)}, which attributes cannot hold"
            expected = "the functions that assimilate was given"
            raise StateError(problem("operator", found, expected, "pass operator=... again"))
        return cls(**kept)


MAPPINGS = {
    "operator": "{observed variable: name or function}",
    "error_correlation": "{observed variable: length}",
    "quality": "{observed variable: accepted flag values or meanings}",
    "bounds": "{observed variable: (lowest, highest)}",
    "footprint": "{observed variable: diameter}",
}
CHOICES = {
    "interpolation": get_args(Interpolation),
    "time_interpolation": get_args(TimeInterpolation),
}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.number)) and math.isfinite(value)


def _is_range(pair: Any) -> bool:
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        return False
    low, high = pair
    if not all(v is None or _is_number(v) for v in pair):
        return False
    return low is None or high is None or bool(low <= high)


def _in_words(operator: object) -> str:
    if isinstance(operator, str):
        return operator
    return f"callable {getattr(operator, '__name__', type(operator).__name__)}"
