"""Units of states and observations: conversion factors from pint with the CF definitions.

Pint and the CF unit definitions are imported when two different units first meet: data whose units
are equal, or not given, cost nothing.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from xr_daisi.errors import SettingsError, UnitsError, problem

__all__ = [
    "IDENTITY",
    "Conversion",
    "conversion",
    "is_pressure",
    "known_units",
    "length_in",
    "variance_factor",
]

# Spellings found in files (GRIB decoders, buoys, gauges) that pint reads as something else or not
# at all; keys in lower case. "mb" is a millibarn to pint, never so to a meteorologist.
SPELLINGS = {
    "(0 - 1)": "1",
    "(0-1)": "1",
    "0 - 1": "1",
    "0-1": "1",
    "-": "1",
    "~": "1",
    "none": "1",
    "unitless": "1",
    "numeric": "1",
    "fraction": "1",
    "proportion": "1",
    "deg c": "degC",
    "deg_c": "degC",
    "degrees c": "degC",
    "degree c": "degC",
    "degrees celsius": "degC",
    "degree celsius": "degC",
    "deg k": "K",
    "degk": "K",
    "deg_k": "K",
    "degrees k": "K",
    "degrees kelvin": "K",
    "deg f": "degF",
    "deg_f": "degF",
    "mb": "hPa",
    "mbar": "hPa",
    "millibars": "hPa",
    "kts": "knot",
    "kt": "knot",
    "mps": "m s-1",
}


@dataclass(frozen=True)
class Conversion:
    """An affine change of units: ``target = factor * source + offset``.

    Differences, and with them observation errors, take the factor alone: 0.5 degC is 0.5 K.

    Parameters
    ----------
    factor : float
        Target units per source unit.
    offset : float
        Value in target units of zero in source units.
    """

    factor: float = 1.0
    offset: float = 0.0

    @property
    def is_identity(self) -> bool:
        """Whether nothing changes."""
        return self.factor == 1.0 and self.offset == 0.0

    def apply(self, values: Any) -> Any:
        """Convert an array or tensor."""
        return self.factor * values + self.offset


IDENTITY = Conversion()


def conversion(
    source: str | None,
    target: str | None,
    *,
    variable: str = "units",
    remedy: str = "correct attrs['units'], or convert the values",
    difference: bool = False,
) -> Conversion:
    """Factor and offset that turn values in one unit into another.

    Parameters
    ----------
    source, target : str or None
        Units as in the attribute ``units``. Where one is missing (None or blank) both are
        taken as equal.
    variable : str, optional
        Name for the error message.
    remedy : str, optional
        What the error message recommends.
    difference : bool, optional
        Whether the values are differences, such as errors: there is no offset, and a unit may say
        what it is, as ``delta_degC`` does.

    Returns
    -------
    Conversion
        With ``target = factor * source + offset``.

    Raises
    ------
    UnitsError
        Where a unit is not known or the two do not convert, or not by an affine map.

    Examples
    --------
    >>> conversion("hPa", "Pa")
    Conversion(factor=100.0, offset=0.0)
    >>> conversion("K", None).is_identity
    True
    >>> conversion("delta_degC", "degF", difference=True)
    Conversion(factor=1.8, offset=0.0)
    """
    first, second = _clean(source), _clean(target)
    if difference:
        first, second = _clean(_without_delta(first)), _clean(_without_delta(second))
    if first is None or second is None or first == second:
        return IDENTITY
    try:
        change = _affine(first, second)
        return Conversion(change.factor, 0.0) if difference else change
    except _NoConversion as reason:
        raise UnitsError(
            problem(variable, f"units {target!r} ({reason})", f"units like {source!r}", remedy)
        ) from None


def variance_factor(source: str | None, target: str | None, *, variable: str) -> float:
    """Factor that turns variances into squares of a unit.

    Parameters
    ----------
    source : str or None
        Units of the variances, e.g. ``"mK2"``, ``"(m s-1)^2"``; taken as the right ones where
        missing.
    target : str or None
        The unit whose square is wanted, e.g. ``"K"``.
    variable : str
        Name for the error message.

    Raises
    ------
    UnitsError
        Where they do not convert.

    Examples
    --------
    >>> variance_factor("(degC)2", "mK", variable="covariance")
    1000000.0
    """
    text, unit = str(source or "").strip(), _clean(target)
    if not text or unit is None:
        return 1.0
    spellings = [text]
    root = re.fullmatch(r"(.*?)\s*(?:\^|\*\*)?\s*2", text)
    if root is not None:  # spellings of files, such as "%2", "deg c2" or "(m s-1)2"
        spellings.append(f"({_clean(root[1].removeprefix('(').removesuffix(')'))})^2")
    for spelling in spellings:
        try:
            return _affine(spelling, f"({unit})^2").factor
        except _NoConversion:
            continue
    expected = f"units like '({target})2'"
    remedy = "correct attrs['units'], or convert the values"
    raise UnitsError(problem(variable, f"units {source!r}", expected, remedy))


def is_pressure(units: str | None) -> bool:
    """Whether a unit is one of pressure; not so where there is none.

    Examples
    --------
    >>> is_pressure("hPa"), is_pressure("m"), is_pressure(None)
    (True, False, False)
    """
    try:
        return _clean(units) is not None and conversion(units, "Pa").factor > 0
    except UnitsError:
        return False


def length_in(text: str, target: str | None, name: str) -> float:
    """Turn a length with its unit into a number.

    Parameters
    ----------
    text : str
        Such as ``"50 km"``.
    target : str or None
        Unit wanted; the number alone where None.
    name : str
        What it is, for messages.

    Raises
    ------
    SettingsError
        For text that is no number with a unit of length.
    """
    found = re.fullmatch(r"\s*([0-9.eE+-]*[0-9.])\s*([^0-9].*)?", text)
    expected = "a number with a unit of length, such as '50 km'"
    try:
        if found is None:
            raise ValueError
        number = float(found[1])
        return number * conversion((found[2] or "").strip() or None, target, variable=name).factor
    except ValueError as error:
        raise SettingsError(problem(name, repr(text), expected)) from error


def known_units(units: str | None) -> bool:
    """Whether pint, with the CF definitions, understands a unit.

    Parameters
    ----------
    units : str or None
        As in the attribute ``units``.

    Returns
    -------
    bool
        False for missing units too.
    """
    text = _clean(units)
    if text is None:
        return False
    try:
        _affine(text, text)
    except _NoConversion:
        return False
    return True


class _NoConversion(Exception):
    """Why two units do not convert; becomes part of a message."""


def _clean(units: str | None) -> str | None:
    """One spelling per unit; None where nothing is said."""
    text = str(units).strip() if units is not None else ""
    return SPELLINGS.get(text.lower(), text) or None


def _without_delta(units: str | None) -> str | None:
    """Return the unit of which one is a difference: degC of delta_degC, Δ°C or degC_diff."""
    found = re.fullmatch(r"(?:delta[_ ]?|Δ)?(.+?)(?:[_ ]diff(?:erence)?)?", units or "", re.I)
    return units if found is None else found[1]


@lru_cache(maxsize=256)
def _affine(source: str, target: str) -> Conversion:
    from cf_xarray.units import units as registry

    def parse(text: str) -> Any:
        # Pint raises errors of its own, of the tokenizer and of Python for different nonsense.
        # CF names are lower case, files say "Kelvin" and "Celsius".
        for spelling in dict.fromkeys((text, text.lower())):
            try:
                return registry.Unit(spelling)
            except Exception:
                continue
        raise _NoConversion(f"{text!r} is not a known unit")

    parsed = parse(source), parse(target)
    try:
        with np.errstate(all="ignore"):  # zero has no logarithm
            values = [registry.Quantity(x, parsed[0]).to(parsed[1]) for x in (0.0, 1.0, 2.0)]
        at = [float(value.magnitude) for value in values]
    except Exception:
        raise _NoConversion("they do not convert") from None
    factor = at[1] - at[0]
    straight = math.isclose(at[2] - at[1], factor, rel_tol=1e-9, abs_tol=1e-12 * abs(at[0]))
    if not (math.isfinite(at[0]) and math.isfinite(factor) and factor != 0 and straight):
        raise _NoConversion("they convert by no constant factor and offset")
    if at[0] == 0.0:
        return Conversion(at[1], 0.0)
    # The difference of two numbers near 273 carries their rounding: 1.0000000000000227 is 1.
    return Conversion(float(f"{factor:.12g}"), at[0])
