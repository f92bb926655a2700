"""Arguments of the command line that say how observations are read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from cyclopts import Group, Parameter

from xr_daisi.cli_arguments import Texts, pairs
from xr_daisi.errors import DaisiError, problem

__all__ = ["Reading", "length"]

OBSERVATIONS = Group("Observations", sort_key=1)


@Parameter(name="*", group=OBSERVATIONS)
@dataclass(frozen=True)
class Reading:
    """How observations are read and compared with the state.

    Attributes
    ----------
    obs_error
        Standard deviation of the errors where the observations bring none, in their units: 0.5,
        t2m=0.5, or t2m:buoy=0.3 for an instrument; may be repeated.
    error_inflation
        Factor of the errors: 1.5, or t2m=1.5; may be repeated.
    error_correlation
        Length over which errors are correlated: sst=50km; may be repeated.
    operator
        What is observed of the state: wind_speed, log, threshold(0.1), ..., for a variable of the
        observations, e.g. theta=arctan; may be repeated.
    footprint
        Diameter of the disc that a value is the mean over: sst=25km; may be repeated.
    interpolation
        Between the nodes of the grid.
    time_tolerance
        How far from a forecast time an observation may be: 30min, 2h. Half the time step when left
        out, 30min for a single time.
    time_interpolation
        Compare with the state of the nearest time, or between those before and after, which are
        then analysed together.
    quality
        Accepted values or meanings of a quality flag: t2m=good,probably_good; may be repeated.
    bounds
        Lowest and highest value that is used: t2m=180:350, t2m=180: for no highest; may be
        repeated.
    background_check
        Reject observations further from the forecast than this many standard deviations.
    thin
        Average observations in boxes of this side: 50km.
    """

    obs_error: Texts = ()
    error_inflation: Texts = ()
    error_correlation: Texts = ()
    operator: Texts = ()
    footprint: Texts = ()
    interpolation: Literal["linear", "nearest"] = "linear"
    time_tolerance: str | None = None
    time_interpolation: Literal["nearest", "linear"] = "nearest"
    quality: Texts = ()
    bounds: Texts = ()
    background_check: float | None = None
    thin: str | None = None

    def keywords(self) -> dict[str, Any]:
        """Return the options as `assimilate` takes them.

        Raises
        ------
        DaisiError
            For entries of another form.
        """
        lengths = {
            name: {key: length(v) for key, v in pairs(f"--{_dashed(name)}", entries).items()}
            for name, entries in (
                ("error_correlation", self.error_correlation),
                ("footprint", self.footprint),
            )
        }
        return {
            "obs_error": _errors(self.obs_error),
            "error_inflation": _numbers("--error-inflation", self.error_inflation),
            "operator": pairs("--operator", self.operator) or None,
            **{name: given or None for name, given in lengths.items()},
            "interpolation": self.interpolation,
            "time_tolerance": self.time_tolerance,
            "time_interpolation": self.time_interpolation,
            "quality": {
                name: [_flag(part) for part in value.split(",")]
                for name, value in pairs("--quality", self.quality).items()
            }
            or None,
            "bounds": {name: _range(v) for name, v in pairs("--bounds", self.bounds).items()}
            or None,
            "background_check": self.background_check,
            "thin": None if self.thin is None else length(self.thin),
        }


def _dashed(name: str) -> str:
    return name.replace("_", "-")


def _number(option: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise DaisiError(problem(option, repr(text), "a number")) from None


def _numbers(option: str, entries: Sequence[str]) -> float | dict[str, float] | None:
    """Parse one number, or one for each variable; None where nothing is given."""
    if not entries:
        return None
    if len(entries) == 1 and "=" not in entries[0]:
        return _number(option, entries[0])
    return {name: _number(option, value) for name, value in pairs(option, entries).items()}


def _errors(entries: Sequence[str]) -> Any:
    """Parse one number, numbers by variable, or by variable and instrument."""
    numbers = _numbers("--obs-error", entries)
    if not isinstance(numbers, dict):
        return numbers
    nested: dict[str, Any] = {}
    for key, value in numbers.items():
        name, colon, instrument = key.partition(":")
        if colon:
            nested.setdefault(name, {})
        if colon and isinstance(nested[name], dict):
            nested[name][instrument] = value
        elif colon or name in nested:
            expected = f"one error of {name!r}, or one for each instrument"
            remedy = f"use {name}:*=NUMBER for every other instrument"
            raise DaisiError(problem("--obs-error", repr(key), expected, remedy))
        else:
            nested[name] = value
    return nested


def length(text: str) -> str | float:
    """Return a plain number as such, and text with a unit as it is."""
    try:
        return float(text)
    except ValueError:
        return text


def _flag(text: str) -> str | int:
    text = text.strip()
    return int(text) if re.fullmatch(r"-?\d+", text) else text


def _range(text: str) -> tuple[float | None, float | None]:
    low, colon, high = text.partition(":")
    if not colon:
        expected = "lowest:highest, such as 180:350 or 0:"
        raise DaisiError(problem("--bounds", repr(text), expected))
    ends = (_number("--bounds", end) if end.strip() else None for end in (low, high))
    first, last = ends
    return first, last
