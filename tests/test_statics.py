"""Static fields on the grid of a state."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr

from xr_daisi.errors import DaisiTypeError, StateError
from xr_daisi.state import StateSpec, spec_from_dataset
from xr_daisi.statics import static_fields

LAT, LON = [50.0, 51.0, 52.0], [-2.0, -1.0, 0.0, 1.0]


@pytest.fixture
def spec() -> StateSpec:
    return spec_from_dataset(
        xr.Dataset(
            {"t": (("latitude", "longitude"), np.zeros((3, 4)))},
            coords={"latitude": LAT, "longitude": LON},
        )
    )


def fields(**changes: Any) -> xr.Dataset:
    height = np.arange(12.0).reshape(4, 3)
    return xr.Dataset(
        {
            "height": (("longitude", "latitude"), height),
            "position": ("latitude", [0.0, 1.0, 2.0]),
            "constant": ((), 5.0),
        },
        coords={"latitude": LAT, "longitude": LON} | changes,
    )


def test_fields_are_standardised_on_the_grid_of_the_state(spec: StateSpec) -> None:
    found = static_fields(fields(), spec)
    assert found is not None
    height, position, constant = found.numpy()
    assert found.shape == (3, 3, 4)
    np.testing.assert_allclose([height.mean(), position.mean()], 0.0, atol=1e-6)
    np.testing.assert_allclose([height.std(), position.std()], 1.0, atol=1e-6)
    assert height[0, 1] > height[0, 0]
    assert (position == position[:, :1]).all()
    assert (constant == 0.0).all()


def test_longitudes_of_the_other_convention(spec: StateSpec) -> None:
    found = static_fields(fields(longitude=[358.0, 359.0, 0.0, 1.0]), spec)
    expected = static_fields(fields(), spec)
    assert found is not None
    assert expected is not None
    np.testing.assert_array_equal(found, expected)


def test_none(spec: StateSpec) -> None:
    assert static_fields(None, spec) is None


@pytest.mark.parametrize(
    ("static", "found"),
    [
        (xr.Dataset(), "static: found no variables"),
        (fields(latitude=LAT[::-1]), r"another grid along \['latitude'\].*interp_like"),
        (fields().isel(longitude=slice(2)), r"another grid along \['longitude'\]"),
        (fields(latitude=list("abc")), r"another grid along \['latitude'\]"),
        (fields().expand_dims(time=2), r"'height': found dimensions \('time'.*isel\(time=0\)"),
        (fields().where(fields().height > 2), "'height': found 3 values that are not finite"),
    ],
    ids=["empty", "reversed", "smaller", "text", "time", "nan"],
)
def test_errors(spec: StateSpec, static: xr.Dataset, found: str) -> None:
    with pytest.raises(StateError, match=found):
        static_fields(static, spec)


def test_fields_that_vary_where_states_are_shifted(spec: StateSpec) -> None:
    assert static_fields(fields()[["position"]], spec, roll=("longitude",)) is not None
    with pytest.raises(StateError, match=r"'height': found values that vary along \['longitude'\]"):
        static_fields(fields(), spec, roll=("longitude",))


def test_not_a_dataset(spec: StateSpec) -> None:
    with pytest.raises(DaisiTypeError, match=r"static: found DataArray.*to_dataset"):
        static_fields(fields().height, spec)  # type: ignore[arg-type]
