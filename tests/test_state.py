"""What a Dataset holds: dimensions by name and attributes, state descriptions, normalisation."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import xarray as xr

from xr_daisi.dimensions import axis_kind, find_dimensions, other_valid_time, time_coordinate
from xr_daisi.errors import PriorError, StateError
from xr_daisi.state import Normalization, StateSpec, spec_from_dataset

TIMES = np.array(["2019-03-01", "2019-03-02"], dtype="datetime64[ns]")


def fields(*dims: str, sizes: dict[str, int] | None = None, **coords: Any) -> xr.Dataset:
    """A Dataset with the variable v on dims of size 2, unless told."""
    shape = [(sizes or {}).get(d, 2) for d in dims]
    return xr.Dataset({"v": (dims, np.zeros(shape))}, coords=coords)


def era5(n: int = 2) -> xr.Dataset:
    """As a GRIB decoder writes it: scalar coordinates, misleading attributes."""
    time = TIMES[:n]
    return xr.Dataset(
        {
            "t2m": (
                ("time", "latitude", "longitude"),
                np.full((n, 3, 4), 280.0, np.float32),
                {"units": "K", "standard_name": "unknown", "long_name": "2 metre temperature"},
            )
        },
        coords={
            "number": ((), 0, {"standard_name": "realization", "units": "1"}),
            "time": ("time", time, {"standard_name": "forecast_reference_time"}),
            "step": ((), np.timedelta64(0, "ns"), {"standard_name": "forecast_period"}),
            "surface": ((), 0.0),
            "valid_time": ("time", time, {"standard_name": "time"}),
            "latitude": ("latitude", [52.0, 51.0, 50.0], {"units": "degrees_north"}),
            "longitude": ("longitude", [0.0, 1.0, 2.0, 3.0], {"units": "degrees_east"}),
        },
    )


@pytest.mark.parametrize("name", ["member", "realization", "ensemble", "number", "sample", "ens"])
def test_member_by_name(name: str) -> None:
    assert find_dimensions(fields("y", name, "x"), ["v"]).member == name


def test_member_by_standard_name() -> None:
    ds = fields("run", "y", "x", run=("run", [1, 2], {"standard_name": "realization"}))
    assert find_dimensions(ds, ["v"]).member == "run"


def test_several_members_are_an_error_whose_remedies_work() -> None:
    ds = fields("number", "member", "y", "x")
    with pytest.raises(StateError, match=r"'number', 'member'") as error:
        find_dimensions(ds, ["v"])
    assert ".isel(member=0)" in str(error.value)
    call = str(error.value).split("or stack them: ")[1]
    stacked = eval(f"ds{call}", {"ds": ds})
    assert find_dimensions(stacked, ["v"]).member == "realization"
    assert stacked.sizes["realization"] == 4


def test_no_member_and_no_time() -> None:
    found = find_dimensions(fields("y", "x"), ["v"])
    assert (found.member, found.time, found.level, found.space) == (
        None,
        None,
        {"v": None},
        ("y", "x"),
    )


def test_traps_of_a_decoded_grib_file() -> None:
    ds = era5()
    found = find_dimensions(ds, ["t2m"])
    assert found.member is None
    assert found.time == "time"
    assert found.space == ("latitude", "longitude")
    assert time_coordinate(ds, "time") == "time"
    assert other_valid_time(ds, "time") is None
    spec = spec_from_dataset(ds)
    assert spec.variables[0].standard_name is None
    assert spec.names == ("t2m",)
    assert spec.shape == (1, 3, 4)


def test_valid_times_that_differ_are_found() -> None:
    ds = era5()
    later = ds.assign_coords(valid_time=ds.valid_time + np.timedelta64(6, "h"))
    later.valid_time.attrs["standard_name"] = "time"
    assert time_coordinate(later, "time") == "time"
    assert other_valid_time(later, "time") == "valid_time"


def test_steps_of_one_forecast_have_valid_times() -> None:
    ds = fields("step", "y", "x", step=np.array([0, 6], "timedelta64[h]"))
    ds = ds.assign_coords(valid_time=("step", TIMES, {"standard_name": "time"}))
    found = find_dimensions(ds, ["v"])
    assert found.time == "step"
    assert time_coordinate(ds, found.time) == "valid_time"


def test_time_by_its_values() -> None:
    ds = fields("date", "y", "x", date=TIMES)
    assert find_dimensions(ds, ["v"]).time == "date"
    assert time_coordinate(ds, "date") == "date"
    cftimes = xr.date_range("2000-01-01", periods=2, calendar="noleap", use_cftime=True)
    assert find_dimensions(fields("date", "y", "x", date=cftimes), ["v"]).time == "date"


def test_scalar_times() -> None:
    assert time_coordinate(fields("y", "x", time=TIMES[0]), None) == "time"
    named = fields("y", "x", valid=((), TIMES[0], {"standard_name": "time"}))
    assert time_coordinate(named, None) == "valid"
    assert time_coordinate(fields("y", "x"), None) is None


@pytest.mark.parametrize("name", ["level", "plev", "isobaricInhPa", "depth", "model_level"])
def test_level_by_name(name: str) -> None:
    found = find_dimensions(fields("time", name, "y", "x"), ["v"])
    assert found.level == {"v": name}
    assert found.space == ("y", "x")


def test_level_by_axis() -> None:
    ds = fields("p", "y", "x", p=("p", [5.0, 8.0], {"axis": "Z"}))
    assert find_dimensions(ds, ["v"]).level == {"v": "p"}


def test_plain_axes_without_attributes_are_space() -> None:
    assert find_dimensions(fields("y", "x", y=[0.0, 1.0], x=[0.0, 1.0]), ["v"]).space == ("y", "x")
    assert find_dimensions(fields("time", "node"), ["v"]).space == ("node",)


def test_strange_dimension_is_named_with_what_to_do() -> None:
    with pytest.raises(StateError, match=r"isel\(band=0\)"):
        find_dimensions(fields("latitude", "longitude", "band"), ["v"])
    with pytest.raises(StateError, match="give the fields on a grid"):
        find_dimensions(fields("time"), ["v"])


def test_variables_on_different_grids() -> None:
    ds = fields("y", "x").assign(w=(("y", "z2"), np.zeros((2, 2))))
    with pytest.raises(StateError, match=r"'w'.*horizontal dimensions"):
        find_dimensions(ds, ["v", "w"])


def test_axis_kinds() -> None:
    ds = fields("a", "b", a=("a", [0, 1], {"units": "degrees_north"}), b=("b", [0, 1], {}))
    assert axis_kind(ds, "a") == "latitude"
    assert axis_kind(ds, "b") == "plain"
    ds.b.attrs["standard_name"] = "longitude"
    assert axis_kind(ds, "b") == "longitude"
    assert axis_kind(fields("lat", "lon"), "lon") == "longitude"


def test_channels_unroll_levels_in_order() -> None:
    ds = xr.Dataset(
        {
            "z": (("level", "y", "x"), np.zeros((3, 2, 2)), {"units": "m2 s-2"}),
            "t2m": (("y", "x"), np.zeros((2, 2))),
        },
        coords={"level": ("level", [500, 850, 200], {"units": "hPa"})},
    )
    spec = spec_from_dataset(ds)
    assert spec.shape == (4, 2, 2)
    assert spec.variables[0].levels == (500.0, 850.0, 200.0)
    assert spec.variables[0].level_units == "hPa"
    assert spec.channel_slice("t2m") == slice(3, 4)
    assert spec.variable("z").size == 3
    assert spec_from_dataset(ds, ["t2m", "z"]).channel_slice("z") == slice(1, 4)
    for wrong in (spec.variable, spec.channel_slice):
        with pytest.raises(KeyError):
            wrong("q")


def test_description_survives_json_and_becomes_a_dataset() -> None:
    ds = (
        era5()
        .isel(time=0)
        .drop_vars("t2m")
        .assign(
            q=(("plev", "latitude", "longitude"), np.ones((2, 3, 4)), {"units": "1"}),
            plev=("plev", [85000.0, 50000.0], {"units": "Pa", "positive": "down"}),
        )
    )
    spec = spec_from_dataset(ds)
    again = StateSpec.from_dict(json.loads(json.dumps(spec.to_dict())))
    assert again.to_dict() == spec.to_dict()
    made = spec.to_dataset(member=3)
    assert made.q.dims == ("member", "plev", "latitude", "longitude")
    assert made.q.dtype == np.float32
    assert spec_from_dataset(made).to_dict()["variables"] == spec.to_dict()["variables"]
    assert made.plev.attrs == {"units": "Pa", "positive": "down"}
    without = spec_from_dataset(ds.assign_coords(plev=("plev", [85000.0, 50000.0])))
    assert "level_positive" not in without.to_dict()["variables"][0]
    assert made.longitude.attrs == {"units": "degrees_east", "standard_name": "longitude"}


@pytest.mark.parametrize(
    ("longitude", "expected"),
    [
        ([350.0, 355.0, 0.0, 5.0], [-10.0, -5.0, 0.0, 5.0]),
        ([170.0, 175.0, -180.0, -175.0], [170.0, 175.0, 180.0, 185.0]),
        ([-175.0, -180.0, 175.0, 170.0], [185.0, 180.0, 175.0, 170.0]),
        ([180.0, 270.0, 0.0, 90.0], [-180.0, -90.0, 0.0, 90.0]),
        ([-10.0, -5.0, 0.0, 5.0], [-10.0, -5.0, 0.0, 5.0]),
        ([0.0, 120.0, 240.0, 360.0], [0.0, 120.0, 240.0, 360.0]),
    ],
)
def test_longitudes_across_a_seam_become_monotonic(
    longitude: list[float], expected: list[float]
) -> None:
    ds = fields("lat", "lon", sizes={"lon": 4}, lat=[0.0, 1.0], lon=longitude)
    np.testing.assert_allclose(spec_from_dataset(ds).coords["lon"], expected)


@pytest.mark.parametrize("values", [[0.0, 2.0, 1.0], [0.0, np.nan, 1.0], ["a", "b", "c"]])
@pytest.mark.parametrize("dim", ["y", "longitude"])
def test_coordinates_must_be_monotonic_numbers(values: list[Any], dim: str) -> None:
    ds = fields(dim, "x", sizes={dim: 3}, **{dim: values})
    with pytest.raises(StateError, match=rf"coordinate '{dim}'.*sortby"):
        spec_from_dataset(ds)


def test_grids_without_coordinates_are_counted() -> None:
    spec = spec_from_dataset(fields("y", "x", sizes={"x": 3}))
    np.testing.assert_array_equal(spec.coords["x"], [0.0, 1.0, 2.0])


def test_periodic_dimensions() -> None:
    globe = fields("lat", "lon", sizes={"lon": 36}, lat=[0.0, 1.0], lon=np.arange(0, 360, 10.0))
    assert spec_from_dataset(globe).periodic == (False, True)
    assert spec_from_dataset(globe, periodic=()).periodic == (False, False)
    assert spec_from_dataset(globe.isel(lon=slice(30))).periodic == (False, False)
    assert spec_from_dataset(fields("y", "x"), periodic=["x", "y"]).periodic == (True, True)
    with pytest.raises(StateError, match="periodic"):
        spec_from_dataset(fields("y", "x"), periodic=["lon"])


def test_missing_variables() -> None:
    with pytest.raises(StateError, match=r"found v, expected w"):
        spec_from_dataset(fields("y", "x"), ["w"])
    with pytest.raises(StateError, match="no data variables"):
        spec_from_dataset(xr.Dataset())


def test_levels_must_be_numbers() -> None:
    with pytest.raises(StateError, match="'level'"):
        spec_from_dataset(fields("level", "y", "x", level=["low", "high"]))


def test_normalisation_there_and_back() -> None:
    rng = np.random.default_rng(0)
    x = rng.uniform(0.1, 5.0, (6, 3, 4, 5))
    per_point = Normalization(rng.normal(size=(3, 4, 5)), rng.uniform(1, 2, (3, 4, 5)))
    np.testing.assert_allclose(per_point.denormalize(per_point.normalize(x)), x, rtol=1e-13)
    ones = np.ones((3, 1, 1))
    bounded = Normalization(0 * ones, 2 * ones, ("log1p", None, "sqrt"))
    before = x.copy()
    normal = bounded.normalize(x)
    np.testing.assert_array_equal(x, before)
    np.testing.assert_allclose(normal[:, 0], np.log1p(x[:, 0]) / 2)
    np.testing.assert_allclose(normal[:, 1], x[:, 1] / 2)
    np.testing.assert_allclose(bounded.denormalize(normal), x, rtol=1e-12)
    assert (bounded.denormalize(normal - 100.0)[:, [0, 2]] >= 0.0).all()


@pytest.mark.parametrize(("mean", "std"), [(0.0, 0.0), (0.0, -1.0), (0.0, np.nan), (np.inf, 1.0)])
def test_normalisation_must_make_sense(mean: float, std: float) -> None:
    with pytest.raises(PriorError, match="normalisation"):
        Normalization(np.full((1, 1, 1), mean), np.full((1, 1, 1), std))
