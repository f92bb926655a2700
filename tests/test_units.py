"""Conversion factors between units, and what is said where there are none."""

from __future__ import annotations

import subprocess
import sys

import pytest

from xr_daisi.errors import DaisiError, ObservationError, StateError, UnitsError
from xr_daisi.units import IDENTITY, Conversion, conversion, known_units


@pytest.mark.parametrize(
    ("source", "target", "factor", "offset"),
    [
        ("K", "degC", 1.0, -273.15),
        ("degC", "K", 1.0, 273.15),
        ("K", "degF", 1.8, -459.67),
        ("Pa", "hPa", 0.01, 0.0),
        ("Pa", "mb", 0.01, 0.0),
        ("kg kg-1", "g kg**-1", 1000.0, 0.0),
        ("m s-1", "m/s", 1.0, 0.0),
        ("m s**-1", "knot", 3600 / 1852, 0.0),
        ("1", "%", 100.0, 0.0),
        ("(0 - 1)", "%", 100.0, 0.0),
        ("K", "deg C", 1.0, -273.15),
        ("Kelvin", "Celsius", 1.0, -273.15),
        ("m2 s-2", "m**2 s**-2", 1.0, 0.0),
    ],
)
def test_factor_and_offset(source: str, target: str, factor: float, offset: float) -> None:
    found = conversion(source, target)
    assert found.factor == pytest.approx(factor, rel=1e-12)
    assert found.offset == pytest.approx(offset, rel=1e-12, abs=1e-12)


def test_a_kelvin_is_exactly_a_degree() -> None:
    """Errors are differences: no rounding of 273.15 may enter them."""
    assert conversion("K", "degC").factor == 1.0


@pytest.mark.parametrize("units", [None, "", "  "])
def test_missing_units_are_taken_as_equal(units: str | None) -> None:
    assert conversion("K", units) is IDENTITY
    assert conversion(units, "K") is IDENTITY
    assert not known_units(units)


def test_equal_units_need_no_registry() -> None:
    """Even where pint does not know them."""
    assert conversion("m of water equivalent", "m of water equivalent").is_identity


@pytest.mark.parametrize(
    ("source", "target", "reason"),
    [
        ("K", "m", "do not convert"),
        ("K", "bananas", "'bananas' is not a known unit"),
        ("m of water equivalent", "kg m-2", "not a known unit"),
        ("W", "dBm", "no constant factor"),
        ("K", "days since 2000-01-01", "not a known unit"),
    ],
)
def test_what_does_not_convert_is_named(source: str, target: str, reason: str) -> None:
    with pytest.raises(UnitsError, match=reason) as caught:
        conversion(source, target, variable="t2m")
    text = str(caught.value)
    assert text.startswith(f"t2m: found units {target!r}")
    assert f"expected units like {source!r}; " in text
    assert isinstance(caught.value, (DaisiError, ObservationError, StateError, ValueError))


def test_known_units() -> None:
    assert known_units("kg m-2 s-1")
    assert not known_units("bananas")


def test_conversion_is_a_value() -> None:
    assert Conversion(1.0, 0.0) == IDENTITY
    assert not Conversion(1.0, 273.15).is_identity


def test_importing_costs_nothing() -> None:
    code = "import sys, xr_daisi.units, xr_daisi.errors; print('pint' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    # Other modules of the package may need pint-free xarray, but never pint itself.
    assert done.stdout.strip() == "False"
