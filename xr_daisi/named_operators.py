"""Observation operators known by name: their arguments, units and functions of torch tensors."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from xr_daisi.errors import OperatorError, problem

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["NAMED_OPERATORS", "PRESSURE", "Argument", "NamedOperator", "parse_operator"]

# Below it the logarithm continues as a constant: a guided state may pass through zero.
SMALLEST_ARGUMENT = 1e-12

PRESSURE = "pressure"
"""Argument that is the pressure at the observation: its level, else a variable of the state."""

# Width of the smooth step of `threshold`, as a share of its value.
RELATIVE_WIDTH = 0.1

# Ratio of the gas constants of dry air and water vapour.
EPSILON = 0.622


@dataclass(frozen=True)
class Argument:
    """A state variable that an operator takes.

    Parameters
    ----------
    standard_name : str
        Its standard name, or `PRESSURE`.
    units : str
        Units in which the function takes it.
    """

    standard_name: str
    units: str


@dataclass(frozen=True)
class NamedOperator:
    """An operator known by name.

    Parameters
    ----------
    function : callable
        Takes one tensor per argument, then the numbers given in brackets after the name.
    arguments : tuple of Argument, optional
        Its arguments; empty for an operator on the observed variable itself, in the state's units.
    names : tuple of tuple of str, optional
        Names of variables that serve as arguments, pressure left out, where the standard names do
        not decide.
    units : str, optional
        Of the result; None where it is not converted to the observation's units.
    period : float, optional
        Values that differ by it are the same, in `units`.
    numbers : tuple of int
        How many numbers may follow the name.
    """

    function: Callable[..., Tensor]
    arguments: tuple[Argument, ...] = ()
    names: tuple[tuple[str, ...], ...] = ()
    units: str | None = None
    period: float | None = None
    numbers: tuple[int, ...] = (0,)


def _identity(x: Tensor) -> Tensor:
    return x


def _log(x: Tensor) -> Tensor:
    return x.clamp_min(SMALLEST_ARGUMENT).log()


def _arctan(x: Tensor) -> Tensor:
    return x.atan()


def _square(x: Tensor) -> Tensor:
    return x * x


def _abs(x: Tensor) -> Tensor:
    return x.abs()


def _threshold(x: Tensor, value: float, width: float | None = None) -> Tensor:
    width = RELATIVE_WIDTH * abs(value) if width is None else width
    return ((x - value) / width).sigmoid()


def _speed(u: Tensor, v: Tensor) -> Tensor:
    # The root of zero has no derivative; a micrometre per second is none either.
    return (u * u + v * v + 1e-12).sqrt()


def _direction(u: Tensor, v: Tensor) -> Tensor:
    import torch

    # In a calm there is no direction, and no derivative.
    calm = u * u + v * v < 1e-12
    degrees = torch.rad2deg(torch.atan2(torch.where(calm, 0.0, -u), torch.where(calm, 1.0, -v)))
    return degrees.remainder(360.0)


def _saturation(temperature: Tensor) -> Tensor:
    """Vapour pressure over water in Pa, from K (Bolton 1980, eq. 10)."""
    kelvin = temperature.clamp_min(100.0)  # far from the pole of the formula at 29.65 K
    return 611.2 * (17.67 * (kelvin - 273.15) / (kelvin - 29.65)).exp()


def _humidity(temperature: Tensor, specific_humidity: Tensor, pressure: Tensor) -> Tensor:
    vapour = specific_humidity * pressure / (EPSILON + (1.0 - EPSILON) * specific_humidity)
    return vapour / _saturation(temperature)


def _humidity_from_dew_point(temperature: Tensor, dew_point: Tensor) -> Tensor:
    return _saturation(dew_point) / _saturation(temperature)


_WIND = Argument("eastward_wind", "m s-1"), Argument("northward_wind", "m s-1")
_WIND_NAMES = (("u", "v"), ("u10", "v10"), ("ua", "va"), ("10u", "10v"))
_TEMPERATURE = Argument("air_temperature", "K")
_MOISTURE = Argument("specific_humidity", "1")
_DEW_POINT = Argument("dew_point_temperature", "K")

NAMED_OPERATORS: dict[str, tuple[NamedOperator, ...]] = {
    "identity": (NamedOperator(_identity),),
    "log": (NamedOperator(_log),),
    "arctan": (NamedOperator(_arctan),),
    "square": (NamedOperator(_square),),
    "abs": (NamedOperator(_abs),),
    "threshold": (NamedOperator(_threshold, units="1", numbers=(1, 2)),),
    "wind_speed": (NamedOperator(_speed, _WIND, _WIND_NAMES, "m s-1"),),
    "wind_direction": (NamedOperator(_direction, _WIND, _WIND_NAMES, "degree", 360.0),),
    "relative_humidity": (
        NamedOperator(
            _humidity,
            (_TEMPERATURE, _MOISTURE, Argument(PRESSURE, "Pa")),
            (("t", "q"), ("ta", "hus"), ("t2m", "q2m"), ("tas", "huss")),
            "1",
        ),
        NamedOperator(
            _humidity_from_dew_point,
            (_TEMPERATURE, _DEW_POINT),
            (("t2m", "d2m"), ("tas", "tdps"), ("2t", "2d"), ("t", "td")),
            "1",
        ),
    ),
}
"""Alternatives of each: the first whose arguments the state has is taken."""

PRESSURE_VARIABLES: Mapping[str, tuple[str, ...]] = {
    "surface_air_pressure": ("sp", "ps"),
    "air_pressure": ("p", "pres", "pressure"),
}


def parse_operator(text: str, observed: str) -> tuple[str, tuple[float, ...]]:
    """Split ``"threshold(0.1, 0.02)"`` into its name and numbers.

    Parameters
    ----------
    text : str
        Name of an operator, with numbers in brackets where it takes any.
    observed : str
        The observed variable, for messages.

    Raises
    ------
    OperatorError
        For unknown names, or other numbers than the operator takes.

    Examples
    --------
    >>> parse_operator("threshold(0.1, 0.02)", "rain")
    ('threshold', (0.1, 0.02))
    """
    found = re.fullmatch(r"\s*(\w+)\s*(?:\(([^()]*)\))?\s*", text)
    name = found[1] if found else text
    if name not in NAMED_OPERATORS:
        expected = f"one of {sorted(NAMED_OPERATORS)}"
        remedy = "or pass a function of {state variable: tensor}"
        raise OperatorError(problem(observed, f"the operator {text!r}", expected, remedy))
    inside = (found[2] or "").split(",") if found else []
    try:
        numbers = tuple(float(part) for part in inside if part.strip())
    except ValueError:
        numbers = (float("nan"),)
    allowed = NAMED_OPERATORS[name][0].numbers
    finite = all(abs(number) < float("inf") for number in numbers)
    if len(numbers) not in allowed or not finite:
        takes = "'threshold(value)' or 'threshold(value, width)'" if max(allowed) else repr(name)
        raise OperatorError(problem(observed, f"the operator {text!r}", takes))
    if name == "threshold" and not (numbers[1] > 0 if len(numbers) > 1 else numbers[0] != 0):
        expected = "a positive width: 'threshold(value, width)'"
        remedy = "the width is a tenth of the value unless given"
        raise OperatorError(problem(observed, f"the operator {text!r}", expected, remedy))
    return name, numbers
