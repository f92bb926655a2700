"""A forecast put on the prior's state and back: any order, convention, units and type."""

from __future__ import annotations

from typing import Any

import dask.array
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from labelled import LAT, LON, TIMES, forecast, gaussian_prior, in_celsius, template, unchanged

from xr_daisi import FlowPrior
from xr_daisi.errors import DaisiError, PriorError, SpaceChunksWarning, StateError
from xr_daisi.layout import layout_of
from xr_daisi.state import spec_from_dataset

SPEC = spec_from_dataset(template())
LEVELLED = spec_from_dataset(template(levels=True))


def state(ds: xr.Dataset, spec: Any = SPEC) -> np.ndarray:
    """The stacked state in the prior's units."""
    layout = layout_of(ds, spec)
    before = ds.copy(deep=True)
    stacked = layout.stack(ds)
    assert stacked.shape == layout.shape
    back = layout.unstack(stacked, ds)
    unchanged(ds, before)
    xr.testing.assert_identical(back, ds)
    assert all(back[v].dtype == ds[v].dtype and back[v].dims == ds[v].dims for v in layout.names)
    return np.asarray(stacked) * layout.factor + layout.offset


@pytest.mark.parametrize("levels", [False, True])
def test_any_order_of_dimensions_and_coordinates(levels: bool) -> None:
    spec = LEVELLED if levels else SPEC
    ds = forecast(levels)
    expected = ds.t2m.values if levels else ds.t2m.values[:, :, None]
    np.testing.assert_array_equal(state(ds, spec), expected)
    np.testing.assert_array_equal(state(ds.transpose(*list(ds.t2m.dims)[::-1]), spec), expected)
    np.testing.assert_array_equal(state(ds.sortby("latitude"), spec), expected)
    mixed = ds.isel(latitude=[3, 0, 4, 1, 2], longitude=[5, 0, 3, 1, 2, 4])
    np.testing.assert_array_equal(state(mixed, spec), expected)
    if levels:
        np.testing.assert_array_equal(state(ds.isel(level=[1, 0]), spec), expected)


def test_longitudes_of_the_other_convention() -> None:
    ds = forecast()
    turned = ds.assign_coords(longitude=ds.longitude % 360)
    np.testing.assert_array_equal(state(turned), state(ds))
    np.testing.assert_array_equal(state(turned.sortby("longitude")), state(ds))
    crossing = spec_from_dataset(template().assign_coords(longitude=LON % 360))
    np.testing.assert_array_equal(state(ds, crossing), state(ds))


def test_longitudes_round_the_globe() -> None:
    lon = np.arange(-180.0, 180.0, 30.0)
    globe = xr.Dataset(
        {"v": (("lat", "lon"), np.random.default_rng(0).normal(size=(3, 12)))},
        coords={"lat": [1.0, 0.0, -1.0], "lon": lon},
    )
    spec = spec_from_dataset(globe)
    other = globe.assign_coords(lon=lon % 360).sortby("lon")
    np.testing.assert_array_equal(state(other, spec), state(globe, spec))
    noisy = other.assign_coords(lon=other.lon + 1e-5)
    np.testing.assert_array_equal(state(noisy, spec), state(globe, spec))


@pytest.mark.parametrize("first", [0.0, -180.0])
def test_longitudes_with_both_ends_of_the_circle(first: float) -> None:
    """0 and 360 are one place and two points of the grid."""
    lon = first + np.arange(0.0, 361.0, 30.0)
    globe = xr.Dataset(
        {"v": (("lat", "lon"), np.random.default_rng(0).normal(size=(3, 13)))},
        coords={"lat": [1.0, 0.0, -1.0], "lon": lon},
    )
    spec = spec_from_dataset(globe)
    np.testing.assert_array_equal(state(globe, spec)[0, 0, 0], globe.v)
    flipped = globe.isel(lon=slice(None, None, -1))
    np.testing.assert_array_equal(state(flipped, spec), state(globe, spec))
    prior = FlowPrior.from_velocity(lambda x, t: x, globe, mean=globe)
    np.testing.assert_array_equal(prior.normalization.mean[0], globe.v)


def test_other_names_of_the_same_axes() -> None:
    ds = forecast().rename(latitude="lat", longitude="lon", member="number", time="date")
    np.testing.assert_array_equal(state(ds), state(forecast()))
    assert layout_of(ds, SPEC).space == ("lat", "lon")
    assert layout_of(ds, SPEC).dims.time == "date"


def test_coordinates_in_single_precision() -> None:
    lat = np.linspace(58.0, 50.0, 33)
    ds = xr.Dataset({"v": (("lat", "x"), np.zeros((33, 2)))}, coords={"lat": lat + 1 / 3})
    single = ds.assign_coords(lat=ds.lat.astype(np.float32))
    layout_of(single, spec_from_dataset(ds))


def test_units_of_coordinates() -> None:
    y = ("y", [0.0, 1000.0], {"units": "m"})
    ds = xr.Dataset({"v": (("y", "x"), np.zeros((2, 3)))}, coords={"y": y})
    spec = spec_from_dataset(ds)
    layout_of(ds.assign_coords(y=("y", [1.0, 0.0], {"units": "km"})), spec)
    with pytest.raises(StateError, match="units 'K'"):
        layout_of(ds.assign_coords(y=("y", [1.0, 0.0], {"units": "K"})), spec)


@pytest.mark.parametrize(
    "dtype", [np.float16, np.float32, np.float64, ">f4", np.int8, np.int16, np.int32, np.uint16]
)
def test_types_come_back_exactly(dtype: Any) -> None:
    ds = forecast(dtype=dtype)
    layout = layout_of(ds, SPEC)
    back = layout.unstack(layout.stack(ds).copy(), ds)
    if np.issubdtype(dtype, np.floating):
        assert back.t2m.dtype == ds.t2m.dtype
    else:
        assert back.t2m.dtype.kind == "f"  # an analysis is not a whole number
    np.testing.assert_array_equal(back.t2m, ds.t2m)
    assert back.t2m.attrs == ds.t2m.attrs


def test_large_integers_lose_nothing() -> None:
    ds = forecast().map(lambda v: v * 0 + 2**30 + 1, keep_attrs=True).astype(np.int32)
    layout = layout_of(ds, SPEC)
    np.testing.assert_array_equal(layout.unstack(layout.stack(ds), ds).t2m, ds.t2m)


def test_types_may_differ_between_variables() -> None:
    ds = forecast().assign(u=forecast(seed=3).t2m.astype(np.float32).assign_attrs(units="m s-1"))
    spec = spec_from_dataset(ds)
    assert state(ds, spec).dtype == np.float64
    assert layout_of(ds, spec).unstack(layout_of(ds, spec).stack(ds), ds).u.dtype == np.float32


@pytest.mark.parametrize("member", [True, False])
@pytest.mark.parametrize("time", ["dimension", "scalar", "none"])
def test_missing_dimensions(member: bool, time: str) -> None:
    ds = forecast()
    if not member:
        ds = ds.isel(member=1)  # leaves the scalar coordinate
    if time != "dimension":
        ds = ds.isel(time=2, drop=time == "none")
    layout = layout_of(ds, SPEC)
    assert layout.members == (4 if member else 1)
    assert layout.times == (3 if time == "dimension" else 1)
    assert state(ds).shape == (layout.times, layout.members, 1, 5, 6)
    if time == "none":
        assert layout.time_values is None
        assert layout.time_label(0) == ""
    else:
        assert layout.time_label(layout.times - 1) == "2019-03-01T12:00:00"


def test_scalar_coordinates_of_a_decoded_file_do_no_harm() -> None:
    ds = forecast().isel(member=0, drop=True).assign_coords(number=0, surface=0.0, step=0)
    ds = ds.assign_coords(valid_time=ds.time)
    assert layout_of(ds, SPEC).dims.member is None
    state(ds)


def test_time_labels_do_not_depend_on_the_type_of_time() -> None:
    labels = set()
    for times in (
        TIMES.astype("datetime64[s]"),
        TIMES,
        xr.date_range("2019-03-01", periods=3, freq="6h", use_cftime=True),
    ):
        ds = forecast().assign_coords(time=times)
        labels.add(tuple(layout_of(ds, SPEC).time_label(i) for i in range(3)))
    assert labels == {("2019-03-01T00:00:00", "2019-03-01T06:00:00", "2019-03-01T12:00:00")}
    steps = forecast().assign_coords(time=np.array([0, 6, 12], "timedelta64[h]"))
    assert layout_of(steps, SPEC).time_label(1) == "21600 s"
    fine = forecast().assign_coords(time=TIMES + np.timedelta64(1500, "ms"))
    assert layout_of(fine, SPEC).time_label(0) == "2019-03-01T00:00:01.5"


def test_forecast_steps_are_dated_by_their_valid_time() -> None:
    ds = forecast().rename(time="step").assign_coords(step=np.array([0, 6, 12], "timedelta64[h]"))
    ds = ds.assign_coords(
        time=((), TIMES[0], {"standard_name": "forecast_reference_time"}),
        valid_time=("step", TIMES, {"standard_name": "time"}),
    )
    np.testing.assert_array_equal(layout_of(ds, SPEC).time_values, TIMES)


def test_levels_by_value_in_any_units() -> None:
    ds = forecast(levels=True)
    pascal = ds.assign_coords(level=("level", ds.level.values * 100, {"units": "Pa"}))
    expected = state(ds, LEVELLED)
    np.testing.assert_array_equal(state(pascal.isel(level=[1, 0]), LEVELLED), expected)
    renamed = ds.rename(level="plev")
    np.testing.assert_array_equal(state(renamed, LEVELLED), expected)


def test_a_single_level_may_be_a_scalar_and_must_be_the_right_one() -> None:
    ds = forecast(levels=True)
    spec = spec_from_dataset(template(levels=True).isel(level=[1]))
    one = ds.isel(level=1)
    np.testing.assert_array_equal(state(one, spec), state(ds.isel(level=[1]), spec))
    state(one.drop_vars("level"), spec)
    in_pascal = one.assign_coords(level=((), 50000.0, {"units": "Pa"}))
    state(in_pascal, spec)
    with pytest.raises(StateError, match=r"'t2m': found level 850 hPa, expected 500 hPa"):
        layout_of(ds.isel(level=0), spec)
    with pytest.raises(StateError, match="units 'K'"):
        layout_of(one.assign_coords(level=((), 500.0, {"units": "K"})), spec)
    flat = spec_from_dataset(template())
    np.testing.assert_array_equal(state(ds.isel(level=[1]), flat), state(one, flat))
    with pytest.raises(StateError, match=r"select one: forecast.isel\(level=0\)"):
        layout_of(ds, flat)
    with pytest.raises(StateError, match="no level dimension"):
        layout_of(one, LEVELLED)


def test_levels_without_coordinate_are_counted() -> None:
    bare = template(levels=True).drop_vars("level")
    layout_of(forecast(levels=True).drop_vars("level"), spec_from_dataset(bare))
    with pytest.raises(StateError, match="without a coordinate of numbers"):
        layout_of(forecast(levels=True).drop_vars("level"), LEVELLED)


def test_variables_by_standard_name() -> None:
    ds = forecast().rename(t2m="temperature")
    np.testing.assert_array_equal(state(ds), state(forecast()))
    assert layout_of(ds, SPEC).names == ("temperature",)


def test_one_variable_is_never_taken_twice() -> None:
    both = template().assign(t850=template().t2m)  # two air temperatures
    spec = spec_from_dataset(both)
    ds = forecast()
    with pytest.raises(PriorError, match=r"expected 't850' \(standard_name 'air_temperature'\)"):
        layout_of(ds, spec)
    found = layout_of(ds.assign(other=ds.t2m.copy()), spec)
    assert found.names == ("t2m", "other")
    with pytest.raises(PriorError, match=r"'a', 'b'\] with the standard_name"):
        layout_of(ds.rename(t2m="a").assign(b=ds.t2m), SPEC)


def test_units_are_those_of_the_forecast_at_the_end() -> None:
    ds = forecast()
    np.testing.assert_allclose(state(in_celsius(ds)), state(ds), rtol=1e-14)


def test_a_variable_that_lacks_members_gets_them() -> None:
    ds = forecast()
    wet = xr.DataArray(np.ones((5, 6)), dims=("latitude", "longitude"), attrs={"units": "1"})
    spec = spec_from_dataset(template().assign(wet=wet))
    both = ds.assign(wet=wet)
    layout = layout_of(both, spec)
    stacked = layout.stack(both)
    assert stacked.shape == (3, 4, 2, 5, 6)
    back = layout.unstack(stacked, both)
    assert set(back.wet.dims) == {"time", "member", "latitude", "longitude"}
    assert back.wet.dims[-2:] == ("latitude", "longitude")


def test_other_variables_pass_through() -> None:
    ds = forecast().assign(
        mask=(("latitude", "longitude"), np.ones((5, 6), bool)), note=((), "text"), q=("k", [1, 2])
    )
    layout = layout_of(ds, SPEC)
    back = layout.unstack(layout.stack(ds) + 1.0, ds)
    xr.testing.assert_identical(back.drop_vars("t2m"), ds.drop_vars("t2m"))


def test_packing_is_dropped_and_compression_kept() -> None:
    ds = forecast()
    ds.t2m.encoding = {
        "dtype": np.dtype("int16"),
        "scale_factor": 0.01,
        "add_offset": 280.0,
        "_FillValue": -32768,
        "chunksizes": (1, 1, 5, 6),
        "zlib": True,
        "complevel": 4,
    }
    layout = layout_of(ds, SPEC)
    back = layout.unstack(layout.stack(ds), ds)
    assert back.t2m.encoding == {"zlib": True, "complevel": 4}
    assert "scale_factor" in ds.t2m.encoding


def test_lazy_states_stay_lazy(raise_if_computes: Any) -> None:
    ds = forecast(levels=True).isel(latitude=slice(None, None, -1), longitude=[3, 0, 1, 2, 5, 4])
    chunked = ds.chunk(time=1, member=3, latitude=2, longitude=2, level=1)
    layout = layout_of(chunked, LEVELLED)
    with raise_if_computes():
        with pytest.warns(SpaceChunksWarning, match="several for each field"):
            stacked = layout.stack(chunked)
        back = layout.unstack(stacked, chunked)
    assert isinstance(stacked, dask.array.Array)
    assert stacked.chunks == ((1, 1, 1), (3, 1), (2,), (5,), (6,))
    xr.testing.assert_identical(back.compute(), ds)


def test_lazy_and_loaded_variables_together() -> None:
    ds = forecast().assign(u=forecast(seed=2).t2m.chunk(time=1))
    spec = spec_from_dataset(ds)
    np.testing.assert_array_equal(
        np.asarray(layout_of(ds, spec).stack(ds)), np.asarray(layout_of(ds, spec).stack(ds.load()))
    )


# -- grids that do not fit ----------------------------------------------------------------------


def grid(lat: Any, lon: Any, units: str = "degrees_east") -> xr.Dataset:
    lat, lon = np.asarray(lat, float), np.asarray(lon, float)
    values = np.add.outer(lat, np.cos(np.radians(lon)))
    return xr.Dataset(
        {"t2m": (("latitude", "longitude"), values, {"units": "K"})},
        coords={"latitude": lat, "longitude": ("longitude", lon, {"units": units})},
    )


REGION = gaussian_prior()
GLOBE = FlowPrior.from_velocity(lambda x, t: x, grid([1, 0, -1], np.arange(-180, 180, 20.0)))
WEST = FlowPrior.from_velocity(lambda x, t: x, grid(LAT, np.arange(350, 371, 4) % 360))


@pytest.mark.parametrize(
    ("prior", "ds", "method"),
    [
        (REGION, grid(np.linspace(60, 40, 21), np.arange(-20, 21)), "sel"),
        (REGION, grid(np.linspace(54, 50, 9), np.linspace(-3, 2, 11)), "sel"),
        (REGION, grid(np.linspace(54, 50, 8), np.linspace(-3, 2, 11)), "interp"),
        (REGION, grid(np.linspace(40, 60, 41), np.arange(0, 360, 1.0)), "sel"),
        (REGION, grid(np.linspace(40, 60, 14), np.arange(0, 360, 0.7)), "interp"),
        (REGION, grid(LAT, np.arange(0, 361, 1.0)), "sel"),
        (GLOBE, grid([1, 0, -1], np.arange(0, 360, 10.0)), "sel"),
        (GLOBE, grid([1, 0, -1], np.arange(5, 360, 10.0)), "interp"),
        (GLOBE, grid([1, 0, -1], np.arange(0, 360, 15.0)), "interp"),
        (GLOBE, grid([1, 0, -1], np.arange(0, 361, 20.0)), "sel"),
        (WEST, grid(LAT, np.arange(0, 360, 2.0)), "sel"),
    ],
)
def test_larger_or_finer_grids_come_with_the_line_that_fits(
    prior: FlowPrior, ds: xr.Dataset, method: str
) -> None:
    ds = ds.expand_dims(member=2).copy()
    with pytest.raises(StateError, match="grid of the forecast: found") as error:
        layout_of(ds, prior.spec)
    line = str(error.value).split("the prior's points: ")[1]
    assert f".{method}(" in line
    fitting = eval(line, {"forecast": ds, "prior": prior, "np": np, "xr": xr})
    stacked = layout_of(fitting, prior.spec).stack(fitting)
    wanted = np.cos(np.radians(prior.spec.coords["longitude"]))
    exact = np.add.outer(prior.spec.coords["latitude"], wanted)
    np.testing.assert_allclose(
        stacked[0, 0, 0], exact, atol=1e-9 if method == "sel" else 0.02, equal_nan=False
    )


def test_lines_for_coordinates_in_other_units() -> None:
    def plane(n: int, step: float, units: str) -> xr.Dataset:
        y = ("y", step * np.arange(n), {"units": units})
        return xr.Dataset({"v": (("y", "x"), np.zeros((n, 3)))}, coords={"y": y})

    prior = FlowPrior.from_velocity(lambda x, t: x, plane(4, 1000.0, "m"))
    ds = plane(7, 0.5, "km")
    with pytest.raises(StateError) as error:
        layout_of(ds, prior.spec)
    line = str(error.value).split("the prior's points: ")[1]
    layout_of(eval(line, {"forecast": ds, "prior": prior, "np": np}), prior.spec)


@pytest.mark.parametrize(
    ("lat", "lon"),
    [(np.linspace(53, 40, 14), LON), (LAT, LON + 1.0), (LAT[:3], LON), (LAT, LON[:1])],
)
def test_forecasts_that_do_not_cover_the_area(lat: np.ndarray, lon: np.ndarray) -> None:
    with pytest.raises(StateError, match="does not cover the prior's area"):
        layout_of(grid(lat, lon), SPEC)


def test_missing_and_needless_coordinates() -> None:
    with pytest.raises(StateError, match="no coordinate of numbers") as error:
        layout_of(forecast().drop_vars("latitude"), SPEC)
    line = str(error.value).split("; ")[1]
    fixed = eval(line, {"forecast": forecast().drop_vars("latitude"), "prior": REGION})
    layout_of(fixed, SPEC)
    bare = xr.Dataset({"v": (("y", "x"), np.zeros((2, 3)))})
    spec = spec_from_dataset(bare)
    layout_of(bare, spec)
    ds = bare.assign_coords(y=[10.0, 20.0])
    with pytest.raises(StateError, match=r"forecast.drop_vars\('y'\)"):
        layout_of(ds, spec)
    with pytest.raises(StateError, match="horizontal dimensions of the forecast"):
        layout_of(ds.rename(x="node"), spec)


@pytest.mark.parametrize(
    ("levels", "units", "method"),
    [
        ([850.0, 700.0, 500.0], "hPa", "sel"),
        ([20000.0, 50000.0, 85000.0], "Pa", "sel"),
        ([900.0, 450.0], "hPa", "interp"),
        ([90000.0, 70000.0, 40000.0], "Pa", "interp"),
    ],
)
def test_other_levels_come_with_the_line_that_fits(
    levels: list[float], units: str, method: str
) -> None:
    values = np.zeros((len(levels), LAT.size, LON.size))
    ds = xr.Dataset(
        {"t2m": (("level", "latitude", "longitude"), values, {"units": "K"})},
        coords={"level": ("level", levels, {"units": units}), "latitude": LAT, "longitude": LON},
    )
    with pytest.raises(StateError, match="'t2m'") as error:
        layout_of(ds, LEVELLED)
    line = str(error.value).split(": forecast.")[1]
    assert line.startswith(method)
    layout_of(eval(f"forecast.{line}", {"forecast": ds}), LEVELLED)


def test_levels_that_are_not_there() -> None:
    ds = forecast(levels=True).assign_coords(level=("level", [300.0, 200.0], {"units": "hPa"}))
    with pytest.raises(StateError, match="300, 200 hPa, expected the prior's levels 850, 500 hPa"):
        layout_of(ds, LEVELLED)
    with pytest.raises(StateError, match="units 'm'"):
        layout_of(ds.assign_coords(level=("level", [850.0, 500.0], {"units": "m"})), LEVELLED)


def test_all_problems_are_said_at_once() -> None:
    ds = forecast().assign_coords(time=TIMES[[0, 0, 1]], latitude=LAT + 100.0)
    ds.t2m.attrs["units"] = "m"
    with pytest.raises(DaisiError, match="3 problems") as error:
        layout_of(ds, SPEC)
    for part in ("units 'm'", "does not cover", "drop_duplicates('time')"):
        assert part in str(error.value)


def test_missing_times() -> None:
    with pytest.raises(StateError, match=r"dropna\('time'\)"):
        layout_of(forecast().assign_coords(time=[*TIMES[:2], np.datetime64("NaT")]), SPEC)
    with pytest.raises(StateError, match="no coordinate"):
        layout_of(forecast().drop_vars("time"), SPEC)
    assert pd.isna(np.datetime64("NaT"))


def test_values_must_be_numbers() -> None:
    ds = forecast().assign(t2m=forecast().t2m.astype(str))
    with pytest.raises(StateError, match="'t2m': found values of type <U"):
        layout_of(ds, SPEC)
