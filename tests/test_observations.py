"""Observation Datasets: which values are used, at which place and time, and what is wrong input."""

from __future__ import annotations

import datetime
import itertools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

from xr_daisi.errors import DaisiError, DaisiTypeError, NoObservationsWarning, ObservationError
from xr_daisi.observation_times import ForecastTimes
from xr_daisi.observations import ObservationPlan, Status, match_observations
from xr_daisi.state import StateSpec, spec_from_dataset

LAT, LON = np.linspace(58, 50, 9), np.linspace(-10, 2, 13)
TIMES = np.array(["2019-03-01T00", "2019-03-01T06", "2019-03-01T12"], dtype="datetime64[ns]")


def grid(**more: Any) -> xr.Dataset:
    dims = ("latitude", "longitude")
    attrs = {"units": "K", "standard_name": "air_temperature"}
    data = {"t2m": (dims, np.zeros((9, 13)), attrs), **more}
    return xr.Dataset(data, coords={"latitude": LAT, "longitude": LON})


SPEC = spec_from_dataset(grid())


def point_list(n: int = 6, **coords: Any) -> xr.Dataset:
    placed = {
        "lat": ("obs", np.linspace(51, 57, n)),
        "lon": ("obs", np.linspace(-9, 1, n)),
        **coords,
    }
    return xr.Dataset({"t2m": ("obs", np.arange(n) + 0.5, {"units": "degC"})}, coords=placed)


def stations(times: Any = TIMES, n: int = 4) -> xr.Dataset:
    times = np.asarray(times)
    values = np.arange(times.size * n, dtype=float).reshape(times.size, n)
    return xr.Dataset(
        {"t2m": (("time", "station"), values, {"units": "degC"})},
        coords={
            "time": times,
            "latitude": ("station", np.linspace(51.3, 56.1, n)),
            "longitude": ("station", np.linspace(-8.2, 0.7, n)),
        },
    )


def field(times: Any = None) -> xr.Dataset:
    """Every third point of the grid observed, the value telling where it is."""
    values = LAT[:, None] * 100 + LON[None, :]
    values = np.where(np.arange(values.size).reshape(values.shape) % 3 == 0, values, np.nan)
    ds = xr.Dataset(
        {"t2m": (("latitude", "longitude"), values)}, coords={"latitude": LAT, "longitude": LON}
    )
    return ds if times is None else ds.expand_dims(time=np.asarray(times)).copy(deep=True)


def match(obs: Any, times: Any = None, spec: StateSpec = SPEC, **settings: Any) -> ObservationPlan:
    settings = {"obs_error": 0.5, **settings}
    return match_observations(obs, spec, times, **settings)


def h_of_position(plan: ObservationPlan, time: int = 0) -> np.ndarray:
    """H of a state whose value is 100 latitude + longitude: tells where each observation lies."""
    state = torch.as_tensor(LAT[:, None] * 100 + LON[None, :])[None, None]
    tensors = plan.batch(time).to_tensors(None, dtype=torch.float64)
    return tensors.observe(state)[0].numpy()


def values_by_time(plan: ObservationPlan) -> list[list[float]]:
    return [sorted(plan.batch(i).values.tolist()) for i in range(plan.n_times)]


# -- places -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rename",
    [
        {},
        {"lat": "latitude", "lon": "longitude"},
        {"lat": "Latitude", "lon": "LON"},
        {"lat": "breite", "lon": "laenge"},
    ],
)
def test_points_by_names_and_by_attributes(rename: dict[str, str]) -> None:
    obs = point_list().drop_attrs()
    expected = 100 * obs.lat.values + obs.lon.values
    if "breite" in rename.values():
        obs.lat.attrs["standard_name"] = "latitude"
        obs.lon.attrs["units"] = "degrees_east"
    plan = match(obs.rename(rename))
    np.testing.assert_allclose(h_of_position(plan), expected)
    assert plan.counts == {"used": 6}


def test_positions_may_be_data_variables() -> None:
    obs = point_list(time=("obs", np.repeat(TIMES, 2))).reset_coords()
    assert [len(match(obs, TIMES).batch(i)) for i in range(3)] == [2, 2, 2]


def test_coordinates_of_the_grid_itself() -> None:
    ds = xr.Dataset({"u": (("y", "x"), np.zeros((4, 5)))}, coords={"x": np.arange(5) * 1e3})
    ds = ds.assign_coords(y=np.arange(4) * 1e3)
    ds.x.attrs["units"] = "m"
    spec = spec_from_dataset(ds)
    obs = xr.Dataset({"u": ("n", [1.0, 2.0])}, coords={"x": ("n", [0.5, 3.5]), "y": ("n", [0, 9])})
    obs.x.attrs["units"] = "km"
    plan = match(obs, spec=spec)
    assert plan.counts == {"used": 2}
    state = torch.as_tensor(np.tile(spec.coords["x"], (1, 1, 4, 1)))
    tensors = plan.batch(0).to_tensors(None, dtype=torch.float64)
    assert tensors.observe(state)[0].tolist() == [500.0, 3500.0]


def test_grids_without_coordinates() -> None:
    spec = spec_from_dataset(xr.Dataset({"u": (("y", "x"), np.zeros((4, 5)))}))
    values = np.full((4, 5), np.nan)
    values[2, 3] = 1.0
    plan = match(xr.Dataset({"u": (("y", "x"), values)}), spec=spec)
    assert plan.batch(0).rows.tolist() == [13]
    assert plan.batch(0).groups[0].points.index.tolist() == [[13]]


@pytest.mark.parametrize("dims", list(itertools.permutations(("time", "latitude", "longitude"))))
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("shift", [0.0, 360.0])
def test_fields_on_the_grid(dims: tuple[str, ...], flip: bool, shift: float) -> None:
    obs = field(TIMES[:2]).transpose(*dims).isel(latitude=slice(1, 7))
    obs["t2m"][{"time": 1}] += 5.0
    obs = obs.assign_coords(longitude=obs.longitude + shift)
    if flip:
        obs = obs.isel(latitude=slice(None, None, -1), longitude=slice(None, None, -1))
    plan = match(obs, TIMES)
    for i in range(2):
        batch = plan.batch(i)
        assert len(batch) == int(obs.t2m.isel(time=i).count())
        assert batch.groups[0].points.weight.max() == batch.groups[0].points.weight.min() == 1.0
        np.testing.assert_allclose(h_of_position(plan, i) + 5.0 * i, batch.values)
        assert np.array_equal(obs.t2m.values.ravel()[batch.rows], batch.values)
    assert len(plan.batch(2)) == 0


def test_fields_may_reach_beyond_the_grid() -> None:
    wide = np.linspace(60, 48, 13)
    values = np.ones((13, 13))
    obs = xr.Dataset({"t2m": (("lat", "lon"), values)}, coords={"lat": wide, "lon": LON})
    assert match(obs).counts == {"used": 9 * 13, "outside the grid": 4 * 13}


def test_coordinates_in_single_precision_are_on_the_nodes() -> None:
    lat, lon = np.linspace(50, 58, 33), 0.1 + np.arange(3600) * 0.1
    ds = xr.Dataset({"t2m": (("lat", "lon"), np.zeros((33, 3600)))}, {"lat": lat, "lon": lon})
    obs = ds.assign_coords(lat=lat.astype("f4"), lon=lon.astype("f4"))
    assert match(obs, spec=spec_from_dataset(ds)).counts == {"used": 33 * 3600}


def test_fields_off_the_nodes_are_interpolated() -> None:
    obs = field()
    obs = obs.assign_coords(latitude=obs.latitude + 0.25)
    as_points = obs.stack(point=("latitude", "longitude")).reset_index("point")
    for moved in (obs, as_points, obs.stack(point=("latitude", "longitude"))):
        plan = match(moved)
        used = plan.batch(0)
        np.testing.assert_allclose(h_of_position(plan), used.values + 25.0)


def test_a_line_of_points_along_the_only_dimension() -> None:
    spec = spec_from_dataset(xr.Dataset({"u": ("x", np.zeros(4))}, {"x": np.arange(4.0)}))
    obs = xr.Dataset({"u": ("x", [1.0, 2.0])}, {"x": [0.5, 2.0]})
    for moved in (obs, obs.rename_dims(x="point"), obs.reset_index("x").rename_dims(x="point")):
        assert match(moved, spec=spec).counts == {"used": 2}


def test_swaths() -> None:
    lat, lon = np.meshgrid(np.linspace(51, 52, 3), np.linspace(-5, -4, 4), indexing="ij")
    obs = xr.Dataset(
        {"t2m": (("line", "pixel"), np.ones((3, 4)))},
        coords={"lat": (("line", "pixel"), lat), "lon": (("line", "pixel"), lon)},
    )
    np.testing.assert_allclose(h_of_position(match(obs)), (100 * lat + lon).ravel())


@pytest.mark.parametrize(
    ("lat", "lon", "inside"),
    [
        (58.0, -10.0, True),
        (58.0 + 1e-5, 2.0 + 1e-6, True),  # rounding of float32
        (58.5, 0.0, False),  # half a cell beyond
        (58.01, 0.0, False),
        (49.99, 0.0, False),
        (52.0, 2.5, False),
        (52.0, 2.5 + 360, False),
        (52.0, 350.0, True),
        (52.0, 349.0, False),
        (95.0, 0.0, False),
    ],
)
def test_nothing_is_extrapolated(lat: float, lon: float, inside: bool) -> None:
    obs = point_list(2)
    obs.lat[0], obs.lon[0] = lat, lon
    counts = match(obs).counts
    assert counts == ({"used": 2} if inside else {"used": 1, "outside the grid": 1})


def test_missing_values_and_coordinates() -> None:
    obs = point_list(8, time=("obs", np.repeat(TIMES, [4, 2, 2])))
    obs.t2m[0] = np.nan
    obs.lat[1] = np.nan
    obs.lon[2] = np.inf
    obs.time[3] = np.datetime64("NaT", "ns")
    obs.time[4] = np.datetime64("2019-03-07", "ns")
    obs.lat[5] = 80.0
    plan = match(obs, TIMES)
    assert plan.counts == {
        "used": 2,
        "missing value": 1,
        "missing coordinate": 2,
        "outside the grid": 1,
        "missing time": 1,
        "too far from any forecast time": 1,
    }
    table = plan.table
    assert [Status(code).name for code in table["status"]] == [
        "MISSING",
        "NO_POSITION",
        "NO_POSITION",
        "NO_TIME",
        "OUTSIDE_TIME",
        "OUTSIDE_GRID",
        "USED",
        "USED",
    ]
    assert table["time"].tolist() == [0, 0, 0, -1, -1, 1, 2, 2]
    assert plan.batch(2).rows.tolist() == [6, 7]
    assert "t2m: 8 values: 2 used, 1 missing value" in plan.summary()


def stacked_spec() -> StateSpec:
    dims = ("level", "latitude", "longitude")
    ds = grid(t=(dims, np.zeros((3, 9, 13)), {"units": "K"}))
    level = ("level", [1000.0, 850.0, 500.0], {"units": "hPa"})
    return spec_from_dataset(ds.assign_coords(level=level))


def test_profiles_and_their_vertical_range() -> None:
    obs = point_list(3).rename(t2m="t").assign_coords(plev=("plev", [1e5, 7e4, 1e4, np.nan]))
    obs["t"] = obs.t.expand_dims(plev=obs.plev).copy()
    obs.plev.attrs["units"] = "Pa"
    plan = match(obs, spec=stacked_spec())
    assert plan.counts == {
        "used": 6,
        "missing coordinate": 3,
        "outside the vertical range": 3,
    }


def test_fields_with_levels() -> None:
    obs = field().rename(t2m="t").expand_dims(level=[850.0, 500.0])
    plan = match(obs, spec=stacked_spec())
    index = plan.batch(0).groups[0].points.gather(1, (1000.0, 850.0, 500.0), 117).index
    assert index.shape[0] == 1
    assert set((index[0] // 117).tolist()) == {2, 3}
    plan = match(obs.assign_coords(level=[850.0, 600.0]), spec=stacked_spec())
    share = next(iter(plan.batch(0).groups[0].points.vertical.values()))[1]
    upper = np.log(850 / 600) / np.log(850 / 500)
    np.testing.assert_allclose(np.unique(share[:, -1]), [1 - upper, upper])


def ocean(direction: dict[str, str], name: str = "depth", sign: float = 1.0) -> StateSpec:
    """A state of which the value is the depth."""
    levels = sign * np.array([1.0, 5.0, 20.0, 50.0])
    ds = grid(to=((name, "latitude", "longitude"), np.zeros((4, 9, 13)), {"units": "degC"}))
    return spec_from_dataset(ds.assign_coords({name: (name, levels, {"units": "m", **direction})}))


def depths(plan: ObservationPlan, spec: StateSpec) -> list[float]:
    """At which level, between those of the state, the used values of a profile are taken."""
    levels = np.asarray(spec.variable("to").levels)
    index, share = next(iter(plan.batch(0).groups[0].points.vertical.values()))
    result: list[float] = (levels[index] * share).sum(axis=0).tolist()
    return result


@pytest.mark.parametrize(
    ("state", "name", "attrs", "values", "expected"),
    [
        ({"positive": "down"}, "z", {"positive": "up"}, [-3.0, -10.0, -40.0], [3.0, 10.0, 40.0]),
        ({"positive": "down"}, "height", {"positive": "up"}, [3.0, 10.0, 40.0], []),
        ({"positive": "down"}, "a", {"standard_name": "altitude"}, [3.0, 10.0, 40.0], []),
        ({"positive": "down"}, "z", {"standard_name": "altitude"}, [-3.0, -40.0], [3.0, 40.0]),
        ({"standard_name": "depth"}, "z", {"positive": "up"}, [-3.0, -10.0], [3.0, 10.0]),
        ({}, "z", {"positive": "up", "units": "cm"}, [-300.0, -1000.0], [3.0, 10.0]),
        ({"positive": "down"}, "z", {"positive": "down"}, [3.0, 10.0], [3.0, 10.0]),
        ({"positive": "down"}, "z", {}, [3.0, 10.0], [3.0, 10.0]),
        ({}, "depth", {}, [3.0, 10.0], [3.0, 10.0]),
        ({"positive": "down"}, "depth", {"positive": "up"}, [-3.0, -10.0], [3.0, 10.0]),
    ],
)
def test_heights_and_depths(
    state: Any, name: str, attrs: Any, values: list[float], expected: list[float]
) -> None:
    spec = ocean(state)
    n = len(values)
    obs = point_list(n).rename(t2m="to").assign_coords({name: ("obs", values, attrs)})
    obs[name].attrs.setdefault("units", "m")
    if expected:
        plan = match(obs, spec=spec)
        assert plan.counts == {"used": n}
        np.testing.assert_allclose(depths(plan, spec), expected)
    else:
        with pytest.warns(NoObservationsWarning, match="depth: found -40 to -3, expected 1 to 50"):
            assert match(obs, spec=spec).counts == {"outside the vertical range": n}


def test_the_direction_of_negative_depths_is_not_that_of_their_name() -> None:
    spec = ocean({}, sign=-1.0)
    obs = point_list(2).rename(t2m="to")
    obs = obs.assign_coords(z=("obs", [-3.0, -10.0], {"units": "m", "positive": "up"}))
    np.testing.assert_allclose(depths(match(obs, spec=spec), spec), [-3.0, -10.0])
    up = ocean({"positive": "up"}, "z", -1.0)
    obs = point_list(2).rename(t2m="to").assign_coords(depth=("obs", [3.0, 10.0], {"units": "m"}))
    np.testing.assert_allclose(depths(match(obs, spec=up), up), [-3.0, -10.0])


def test_directions_of_pressures_and_numbers_change_no_sign() -> None:
    obs = point_list(2).rename(t2m="t")
    attrs = {"units": "hPa", "positive": "up"}
    placed = obs.assign_coords(plev=("obs", [900.0, 600.0], attrs))
    dims = ("level", "latitude", "longitude")
    ds = grid(t=(dims, np.zeros((3, 9, 13)), {"units": "K"}))
    for units, values in (("hPa", [1000.0, 850.0, 500.0]), (None, [1.0, 2.0, 3.0])):
        level = {"positive": "down", **({"units": units} if units else {})}
        spec = spec_from_dataset(ds.assign_coords(level=("level", values, level)))
        if units is None:
            placed = obs.assign_coords(level=("obs", [1.0, 3.0], {"positive": "up"}))
        assert match(placed, spec=spec).counts == {"used": 2}


def test_attributes_tell_a_vertical_coordinate_from_running_numbers() -> None:
    obs = point_list(3).rename(t2m="t").expand_dims(level=2).copy()
    obs = obs.assign_coords(level=("level", [0, 1]))
    pressure = ("level", [9e4, 6e4], {"units": "Pa", "standard_name": "air_pressure"})
    spec = stacked_spec()
    assert match(obs.assign_coords(p=pressure), spec=spec).counts == {"used": 6}
    # What does not convert, or is known of the place alone, is no level of a value.
    for other in (
        ("level", [10.0, 20.0], {"units": "m", "standard_name": "height"}),
        ("obs", [9e4, 9e4, 9e4], {"units": "Pa", "standard_name": "air_pressure"}),
    ):
        with pytest.warns(NoObservationsWarning):
            plan = match(obs.assign_coords(p=other), spec=spec)
        assert plan.counts == {"outside the vertical range": 6}
    # The state's own levels, and coordinates with units, are what they are called.
    for level in ([850.0, 500.0], ("level", [900.0, 600.0], {"units": "hPa"})):
        plan = match(
            obs.assign_coords(level=level, p=("level", [0.0, 1.0], pressure[2])), spec=spec
        )
        assert plan.counts == {"used": 6}
    twice = obs.assign_coords(p=pressure, q=pressure)
    with pytest.raises(ObservationError, match=r"\['p', 'q'\] for the vertical"):
        match(twice, spec=spec)


# -- times ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dims", [("time", "station"), ("station", "time")])
def test_station_series(dims: tuple[str, ...]) -> None:
    obs = stations().transpose(*dims)
    plan = match(obs, TIMES)
    for i in range(3):
        batch = plan.batch(i)
        expected = 100 * obs.latitude.values + obs.longitude.values
        np.testing.assert_allclose(h_of_position(plan, i), expected - 273.15)
        np.testing.assert_array_equal(batch.values, obs.t2m.isel(time=i))
        np.testing.assert_array_equal(obs.t2m.values.ravel()[batch.rows], batch.values)


def test_a_single_station_and_a_moving_one() -> None:
    one = stations().isel(station=1)
    assert values_by_time(match(one, TIMES)) == [[1.0], [5.0], [9.0]]
    ship = point_list(3, time=("obs", TIMES)).swap_dims(obs="time")
    assert values_by_time(match(ship, TIMES)) == [[0.5], [1.5], [2.5]]


def test_each_value_goes_to_the_nearest_time() -> None:
    offsets = pd.to_timedelta(["-3h", "-2h59min", "3h", "3h1min", "9h", "15h", "15h1min"])
    obs = point_list(7, time=("obs", TIMES[0] + offsets.to_numpy()))
    plan = match(obs, TIMES)
    # -3 h and 15 h are just within half a step; 3 h and 9 h are ties and go to the earlier
    assert values_by_time(plan) == [[0.5, 1.5, 2.5], [3.5, 4.5], [5.5]]
    assert plan.candidates.tolist() == [3, 2, 1]
    order = np.array([2, 0, 1])
    unsorted = match(obs, TIMES[order])
    assert values_by_time(unsorted) == [values_by_time(plan)[i] for i in order]


@pytest.mark.parametrize(
    ("tolerance", "used"),
    [
        (None, 2),
        ("20min", 1),
        ("30min", 2),
        (datetime.timedelta(hours=1), 3),
        (np.timedelta64(60, "m"), 3),
        (pd.Timedelta("59min"), 2),
        ("0s", 1),
    ],
)
def test_tolerance_of_a_single_time(tolerance: Any, used: int) -> None:
    offsets = np.array([0, 30, -60, 61], dtype="timedelta64[m]")
    obs = point_list(4, time=("obs", TIMES[0] + offsets))
    assert match(obs, TIMES[:1], time_tolerance=tolerance).used == used


@pytest.mark.parametrize("tolerance", ["soon", "30", 30, -1, "-5min", True])
def test_tolerances_that_are_none(tolerance: Any) -> None:
    with pytest.raises(DaisiError, match="time_tolerance: found"):
        match(stations(), TIMES, time_tolerance=tolerance)
    with pytest.raises(DaisiError, match="time_tolerance: found"):
        match(point_list(), None, time_tolerance=tolerance)


def test_several_observation_times_for_one_forecast_time() -> None:
    hourly = TIMES[0] + np.arange(13) * np.timedelta64(1, "h")
    plan = match(stations(hourly, n=1), TIMES)
    assert values_by_time(plan) == [[0, 1, 2, 3], [4, 5, 6, 7, 8, 9], [10, 11, 12]]


def test_without_time() -> None:
    assert match(point_list(), None).candidates.tolist() == [6]
    assert match(point_list(), TIMES[:1]).candidates.tolist() == [6]
    assert match(point_list(time=TIMES[1]), TIMES).candidates.tolist() == [0, 6, 0]
    assert match(stations(TIMES[:1]), None).candidates.tolist() == [4]
    with pytest.raises(ObservationError, match="no time coordinate, while the forecast has 3"):
        match(point_list(), TIMES)
    with pytest.raises(ObservationError, match="3 different times where the forecast has none"):
        match(stations(), None)


def test_era5_times(shared_data: Path) -> None:
    """`time` is the time, whatever its standard name says, and scalars are no dimensions."""
    ds = xr.open_dataset(shared_data / "era5-2mt-2019-03-uk.nc").isel(time=slice(0, 4))
    spec = spec_from_dataset(ds, ["t2m"])
    obs = ds[["t2m"]].interp(latitude=("station", [51.1, 55.3]), longitude=("station", [-3.3, 0.2]))
    plan = match(obs, ds.time.values, spec=spec)
    assert plan.candidates.tolist() == [2] * 4
    state = torch.as_tensor(ds.t2m.values[2], dtype=torch.float64)[None, None]
    found = plan.batch(2).to_tensors(None, dtype=torch.float64).observe(state)[0]
    np.testing.assert_allclose(found, obs.t2m.isel(time=2), atol=1e-3)


def cf_times(calendar: str, n: int = 3) -> np.ndarray:
    return xr.date_range(
        "2019-03-01", periods=n, freq="6h", calendar=calendar, use_cftime=True
    ).values


@pytest.mark.parametrize("calendar", ["noleap", "360_day", "standard", "julian"])
def test_cftime_on_both_sides(calendar: str) -> None:
    times = cf_times(calendar)
    plan = match(stations(times), times)
    assert plan.candidates.tolist() == [4, 4, 4]
    shifted = stations(times + datetime.timedelta(hours=4))
    assert match(shifted, times).candidates.tolist() == [0, 4, 4]
    assert match(shifted, times, time_tolerance="1h").candidates.tolist() == [0, 0, 0]


test_cftime_on_both_sides = pytest.mark.filterwarnings(
    "ignore::xr_daisi.errors.NoObservationsWarning"
)(test_cftime_on_both_sides)


@pytest.mark.parametrize("calendar", ["standard", "gregorian", "proleptic_gregorian"])
def test_standard_calendars_meet_datetime64(calendar: str) -> None:
    assert match(stations(cf_times(calendar)), TIMES).candidates.tolist() == [4, 4, 4]
    assert match(stations(TIMES), cf_times(calendar)).candidates.tolist() == [4, 4, 4]
    plan = match(stations(cf_times("standard")), cf_times("proleptic_gregorian"))
    assert plan.candidates.tolist() == [4, 4, 4]


def test_other_calendars_do_not_mix() -> None:
    obs = stations()
    with pytest.raises(ObservationError, match=r"obs\.convert_calendar\('noleap'\)"):
        match(obs, cf_times("noleap"))
    moved = obs.convert_calendar("noleap", use_cftime=True)
    assert match(moved, cf_times("noleap")).candidates.tolist() == [4, 4, 4]
    with pytest.raises(ObservationError, match="calendar '360_day'"):
        match(stations(cf_times("360_day")), TIMES)


def test_missing_cftime() -> None:
    when = cf_times("noleap").copy()
    when[1] = None
    obs = point_list(3, time=("obs", when))
    assert match(obs, cf_times("noleap")).counts == {"used": 2, "missing time": 1}


def test_times_that_are_numbers_or_durations() -> None:
    obs = stations(np.array([0.0, 1.0, 2.2]))
    assert match(obs, np.array([0.0, 1.0, 2.0])).candidates.tolist() == [4, 4, 4]
    assert match(obs, np.array([0.0, 1, 2]), time_tolerance=0.1).candidates.tolist() == [4, 4, 0]
    steps = np.arange(3).astype("timedelta64[h]")
    assert match(stations(steps), steps).candidates.tolist() == [4, 4, 4]
    with pytest.raises(DaisiTypeError, match="time_tolerance"):
        match(obs, np.array([0.0, 1.0]), time_tolerance="30min")
    with pytest.raises(ObservationError, match="found numbers, expected dates of the calendar"):
        match(obs, TIMES)


def test_double_times() -> None:
    twice = TIMES[[0, 1, 1]]
    for obs in (stations(twice), field(twice)):
        with pytest.raises(ObservationError, match=r"2019-03-01T06.* twice.*drop_duplicates"):
            match(obs, TIMES)
    with pytest.raises(DaisiError, match="forecast time: found 2019-03-01T06"):
        match(stations(), twice)
    assert match(point_list(3, time=("obs", twice)), TIMES).used == 3
    with pytest.raises(DaisiError, match="forecast time: found no time at position 1"):
        match(stations(), np.array(["2019-03-01", "NaT"], dtype="M8[ns]"))


# -- nothing to use ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda o: o.assign_coords(latitude=o.latitude - 40), "found 11.3 to 16.1, expected 50"),
        (lambda o: o.assign_coords(time=o.time + np.timedelta64(900, "D")), "time: found 2021"),
        (lambda o: o * np.nan, "12 missing value"),
    ],
)
def test_no_overlap_is_a_warning(change: Callable[..., xr.Dataset], message: str) -> None:
    with pytest.warns(NoObservationsWarning, match=message):
        plan = match(change(stations()), TIMES)
    assert plan.used == 0
    assert [len(plan.batch(i)) for i in range(3)] == [0, 0, 0]


def test_an_empty_dataset() -> None:
    with pytest.warns(NoObservationsWarning, match="there are none"):
        plan = match(point_list(3).isel(obs=slice(0, 0)))
    assert len(plan.batch(0)) == 0


# -- values, errors, units ----------------------------------------------------------------------


def test_errors_of_the_dataset() -> None:
    """Ancillary variables come first, then the name, then the keyword."""
    obs = stations()
    obs["sigma"] = ("station", [1.0, 2.0, 3.0, 4.0], {"units": "K"})
    obs["sigma"].attrs["standard_name"] = "air_temperature standard_error"
    obs["flag"] = ("station", [0, 0, 0, 0])
    obs["t2m_error"] = obs.t2m * 0 + 9.0
    assert match(obs, TIMES).batch(1).errors.tolist() == [9.0] * 4
    obs.t2m.attrs["ancillary_variables"] = "flag sigma absent"
    assert match(obs, TIMES, obs_error=None).batch(1).errors.tolist() == [1.0, 2.0, 3.0, 4.0]
    moved = obs.set_coords(["sigma", "flag"])
    moved.t2m.encoding["ancillary_variables"] = moved.t2m.attrs.pop("ancillary_variables")
    assert match(moved, TIMES).batch(1).errors.tolist() == [1.0, 2.0, 3.0, 4.0]
    bare = obs.drop_vars(["sigma", "t2m_error"])
    assert match(bare, TIMES, obs_error={"t2m": 0.7}).batch(0).errors.tolist() == [0.7] * 4
    with pytest.raises(ObservationError, match=r"t2m: found no observation error.*obs_error="):
        match(bare, TIMES, obs_error={"other": 1.0})


def test_errors_are_differences() -> None:
    obs = point_list()
    obs["t2m_error"] = ("obs", np.full(6, 1.8), {"units": "degF"})
    np.testing.assert_allclose(match(obs).batch(0).errors, 1.0)
    obs["t2m_error"].attrs["units"] = "delta_degF"
    np.testing.assert_allclose(match(obs).batch(0).errors, 1.0)
    for units in ("delta_degC", "delta_celsius", "Δ°C", "degC_diff", "delta_degree_Celsius", "K"):
        obs["t2m_error"] = ("obs", np.full(6, 0.5), {"units": units})
        for own in ("celsius", "degC", "K"):
            obs.t2m.attrs["units"] = own
            np.testing.assert_allclose(match(obs).batch(0).errors, 0.5)
    obs["t2m_error"].attrs["units"] = "m"
    with pytest.raises(ObservationError, match="t2m_error: found units 'm'"):
        match(obs)


@pytest.mark.parametrize("bad", [np.nan, 0.0, -1.0, np.inf])
def test_bad_errors_are_named(bad: float) -> None:
    obs = stations()
    obs["t2m_error"] = obs.t2m * 0 + 1.0
    obs["t2m_error"][2, 1] = obs["t2m_error"][2, 3] = bad
    with pytest.raises(ObservationError, match=r"2 observation error.*first at time=2, station=1"):
        match(obs, TIMES)
    obs["t2m"][2] = np.nan
    plan = match(obs, TIMES)
    assert plan.used == 8
    assert np.isfinite(plan.batch(0).errors).all()


@pytest.mark.parametrize("bad", [0, -0.5, np.nan, np.inf, "0.5", True, {"t2m": None}])
def test_bad_error_settings(bad: Any) -> None:
    with pytest.raises(DaisiError, match="t2m: found"):
        match(point_list(), obs_error=bad)


def test_infinite_values() -> None:
    obs = point_list()
    obs.t2m[3] = -np.inf
    with pytest.raises(ObservationError, match=r"t2m: found 1 infinite value.*first at obs=3"):
        match(obs)


def test_everything_bad_is_said_at_once() -> None:
    names = ("a", "b", "c")
    ds = grid(**{name: grid().t2m for name in names})
    obs = point_list().rename(t2m="a")
    obs["b"], obs["c"], obs["t2m"] = obs.a + np.inf, obs.a.assign_attrs(units="m"), obs.a
    obs["t2m_error"] = -obs.t2m
    with pytest.raises(ObservationError) as caught:
        match([obs, obs.drop_vars("lat")], spec=spec_from_dataset(ds))
    lines = str(caught.value).splitlines()
    assert "4 problems" in lines[0] or "2 problems" in lines[0]
    for part in ("b: found 6 infinite", "c: found units 'm'", "t2m: found 6 observation error"):
        assert part in str(caught.value)
    assert "observations[1]: found no coordinate for the state's 'latitude'" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda o: o.drop_vars("lat"), "no coordinate for the state's 'latitude'.*assign_coords"),
        (lambda o: o.drop_vars(["lat", "lon"]), "state's 'longitude'"),
        (lambda o: o.rename(t2m="precip"), r"found variables \['precip'\].*obs.rename.*operator="),
        (lambda o: o.assign(t2m=o.t2m.assign_attrs(units="Pa")), "t2m: found units 'Pa'"),
        (lambda o: o.assign(t2m=o.t2m.assign_attrs(units="?")), "is not a known unit"),
        (lambda o: o.assign(t2m=o.t2m.astype(str)), "t2m: found values of type <U"),
        (lambda o: o.assign(t2m=o.t2m > 3), "t2m: found values of type bool"),
        (lambda o: o.assign_coords(lat=o.lat.astype(str)), "lat: found values of type <U"),
        (lambda o: o.expand_dims(channel=3), "t2m: found the dimension 'channel'"),
        (lambda o: o.expand_dims(time=3), "the dimension 'time' without coordinate"),
        (lambda o: o.assign(t2m=o.t2m.mean("obs")), r"'lat' lies along \('obs',\)"),
        (
            lambda o: o.drop_vars("lat").assign_coords(
                p=("obs", o.lat.values, {"units": "degrees_north"}),
                q=("obs", o.lat.values, {"units": "degrees_north"}),
            ),
            r"\['p', 'q'\] for latitude",
        ),
        (lambda o: o.assign_coords(time=("obs", list("abcdef"))), "time: found values of type"),
        (
            lambda o: o.assign(t2m_error=("x", [1.0])),
            r"t2m_error: found dimensions \('x',\)",
        ),
        (lambda o: o.assign_coords(lat=o.lat.assign_attrs(units="m")), "lat: found units 'm'"),
    ],
)
def test_bad_datasets(change: Callable[..., xr.Dataset], message: str) -> None:
    with pytest.raises(ObservationError, match=message):
        match(change(point_list()), TIMES[:1])


@pytest.mark.parametrize(
    ("obs", "message"),
    [
        ([], "expected a Dataset or a list"),
        (None, "found NoneType"),
        (point_list().t2m.values, "found ndarray"),
        ([point_list(), 3], r"observations\[1\]: found int"),
    ],
)
def test_observations_that_are_no_datasets(obs: Any, message: str) -> None:
    with pytest.raises(DaisiTypeError, match=message):
        match(obs)


def test_operators_of_variables_that_are_not_there() -> None:
    with pytest.raises(ObservationError, match=r"\['tm2'\], which no observation Dataset has"):
        match(point_list(), operator={"tm2": "log"})
    with pytest.raises(DaisiTypeError, match="operator: found str"):
        match(point_list(), operator="log")
    with pytest.raises(ObservationError, match="the operator 'cube'"):
        match(point_list(), operator={"t2m": "cube"})


def test_a_level_is_needed() -> None:
    obs = point_list().rename(t2m="t")
    with pytest.raises(ObservationError, match="no vertical coordinate, while 't' has 3 levels"):
        match(obs, spec=stacked_spec())


# -- which variables ----------------------------------------------------------------------------


def test_variables_by_name_and_standard_name() -> None:
    obs = point_list().rename(t2m="ta")
    obs["flag"] = ("obs", np.zeros(6, dtype=int))
    obs["station_name"] = ("obs", list("abcdef"))
    with pytest.raises(ObservationError, match="none of them in the state"):
        match(obs)
    obs.ta.attrs["standard_name"] = "unknown"
    with pytest.raises(ObservationError, match="none of them in the state"):
        match(obs)
    obs.ta.attrs["standard_name"] = "air_temperature"
    assert [s.name for s in match(obs).sources] == ["ta"]
    obs["tb"] = obs.ta
    with pytest.raises(ObservationError, match=r"\['ta', 'tb'\], all with the standard name"):
        match(obs)
    plan = match(obs, operator={"tb": "identity"})
    assert [s.name for s in plan.sources] == ["tb", "ta"] or len(plan.sources) == 2
    obs["t2m"] = obs.ta
    with pytest.warns(
        UserWarning, match=r"\['ta', 'tb'\] with the standard name of 't2m', not used"
    ):
        assert [s.name for s in match(obs).sources] == ["t2m"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plan = match(obs, operator={"tb": "identity", "ta": "identity"})
    assert len(plan.sources) == 3


def test_values_stay_in_their_own_units() -> None:
    """Celsius observed, kelvin in the state: values, errors and H are in Celsius."""
    plan = match(point_list(), obs_error=0.5)
    tensors = plan.batch(0).to_tensors(None, dtype=torch.float64)
    found = tensors.observe(torch.full((1, *SPEC.shape), 280.15, dtype=torch.float64))
    np.testing.assert_allclose(found, 7.0, atol=1e-10)
    assert tensors.values.tolist() == [0.5, 1.5, 2.5, 3.5, 4.5, 5.5]
    assert tensors.error_std.tolist() == [0.5] * 6


def test_several_datasets_and_the_way_back() -> None:
    first, second = stations(), point_list(5, time=("obs", TIMES[[0, 1, 1, 2, 0]]))
    second["t2m"] = second.t2m.astype("float32")
    plan = match([first, second], TIMES)
    assert plan.candidates.tolist() == [6, 6, 5]
    table = plan.table
    assert table["dataset"].tolist() == [0] * 12 + [1] * 5
    assert table["index"].tolist() == [*range(12), *range(5)]
    batches = [plan.batch(i) for i in range(3)]
    column = plan.column((b, np.stack([b.values, -b.values])) for b in batches)
    restored = plan.restore(column)
    np.testing.assert_array_equal(restored[0]["t2m"][0], first.t2m)
    np.testing.assert_array_equal(restored[1]["t2m"][1], -second.t2m)
    assert plan.sources[0].layout.dims == ("time", "station")


def test_inputs_are_not_modified() -> None:
    for obs in (stations(), field(TIMES), point_list(3, time=("obs", TIMES))):
        before = obs.copy(deep=True)
        plan = match(obs, TIMES)
        for i in range(3):
            batch = plan.batch(i)
            batch.values[:] = 0.0
        xr.testing.assert_identical(obs, before)


@pytest.mark.parametrize("make", [stations, field, None])
def test_order_does_not_matter(make: Any) -> None:
    obs = make(TIMES) if make else point_list(6, time=("obs", np.repeat(TIMES, 2)))
    back = obs.isel({d: slice(None, None, -1) for d in obs.dims})
    for i in range(3):
        pairs = []
        for one in (obs, back):
            plan = match(one, TIMES)
            pairs.append(sorted(zip(plan.batch(i).values, h_of_position(plan, i), strict=True)))
        np.testing.assert_allclose(pairs[0], pairs[1])


# -- laziness -----------------------------------------------------------------------------------


def swath() -> xr.Dataset:
    """Two-dimensional positions and times, as in ragged data that were padded."""
    flat = point_list(6, time=("obs", np.repeat(TIMES, 2)))
    dims = ("line", "pixel")
    coords = {name: (dims, flat[name].values.reshape(3, 2)) for name in flat.coords}
    return xr.Dataset({"t2m": (dims, flat.t2m.values.reshape(3, 2), flat.t2m.attrs)}, coords)


def lazy_cases() -> dict[str, xr.Dataset]:
    cases = {
        "stations": stations(),
        "turned": stations().transpose("station", "time"),
        "field": field(TIMES),
        "points": point_list(9, time=("obs", np.repeat(TIMES, 3))),
        "swath": swath(),
    }
    for obs in cases.values():
        obs.t2m[{d: 0 for d in obs.t2m.dims}] = np.nan
        obs["t2m_error"] = abs(obs.t2m) * 0.1 + 1.0
    return cases


@pytest.mark.parametrize("case", sorted(lazy_cases()))
@pytest.mark.parametrize("errors", ["dask", "numpy", "number"])
def test_lazy_values_equal_eager_ones(
    case: str, errors: str, raise_if_computes: Callable[..., Any]
) -> None:
    obs = lazy_cases()[case]
    if errors == "number":
        obs = obs.drop_vars("t2m_error")
    lazy = obs.copy()
    for name in ("t2m", "t2m_error") if errors == "dask" else ("t2m",):
        lazy[name] = lazy[name].chunk(2)
    expected = match(obs, TIMES)
    with raise_if_computes():
        plan = match(lazy, TIMES)
        assert plan.is_lazy
        delayed = [plan.lazy_batch(i) for i in range(3)]
        counted = plan.counts
        assert plan.table["status"].size == plan.n_rows
        assert plan.summary()
    assert sum(counted.values()) == sum(expected.counts.values())
    assert Status.UNCHECKED.reason in counted
    for i in range(3):
        for batch in (delayed[i].compute(scheduler="sync"), plan.batch(i)):
            other = expected.batch(i)
            np.testing.assert_array_equal(batch.values, other.values)
            np.testing.assert_array_equal(batch.errors, other.errors)
            np.testing.assert_array_equal(batch.rows, other.rows)
            assert np.array_equal(batch.groups[0].points.index, other.groups[0].points.index)


def test_lazy_errors_alone() -> None:
    obs = lazy_cases()["field"]
    obs["t2m_error"] = obs.t2m_error.chunk(time=1)
    plan = match(obs, TIMES)
    assert plan.is_lazy
    assert len(plan.batch(1)) == int(obs.t2m[1].count())


@pytest.mark.parametrize("case", sorted(lazy_cases()))
def test_lazy_values_are_checked_in_the_task(case: str) -> None:
    obs = lazy_cases()[case]
    where = {d: -1 for d in obs.t2m.dims}
    if case == "field":
        where = {"time": 2, "latitude": 0, "longitude": 3}
    obs.t2m_error[where] = -1.0
    lazy = obs.chunk()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plan = match(lazy, TIMES)
    assert len(plan.batch(0)) > 0
    with pytest.raises(ObservationError, match=r"t2m: found 1 observation error.*the first at "):
        plan.lazy_batch(2).compute(scheduler="sync")
    with pytest.raises(ObservationError, match="t2m: found 1 observation error"):
        match(obs, TIMES)


def test_eager_plans_give_lazy_batches_too() -> None:
    other = stations() + xr.Dataset({"t2m": 1.0})
    plan = match([stations(), other.chunk()], TIMES)
    eager = match(stations(), TIMES)
    assert len(plan.lazy_batch(1).compute(scheduler="sync")) == 8
    assert len(eager.lazy_batch(1).compute(scheduler="sync")) == 4
    copy = cloudpickle.loads(cloudpickle.dumps(eager))
    np.testing.assert_array_equal(copy.batch(1).values, eager.batch(1).values)


def test_files_are_read_without_chunks_too(tmp_path: Path) -> None:
    path = tmp_path / "obs.nc"
    stations().to_netcdf(path)
    with xr.open_dataset(path) as obs, xr.open_dataset(path, chunks={}) as chunked:
        for ds in (obs, chunked):
            assert values_by_time(match(ds, TIMES)) == values_by_time(match(stations(), TIMES))


def test_a_single_level() -> None:
    """Its values need no level; those of another level are not taken for it."""
    dims = ("level", "latitude", "longitude")
    ds = grid(t=(dims, np.zeros((1, 9, 13)), {"units": "K"})).assign_coords(level=[850.0])
    spec = spec_from_dataset(ds)
    obs = point_list(3).rename(t2m="t")
    assert match(obs, spec=spec).counts == {"used": 3}
    placed = obs.assign_coords(level=("obs", [850.0, 700.0, np.nan]))
    assert match(placed, spec=spec).counts == {
        "used": 1,
        "outside the vertical range": 1,
        "missing coordinate": 1,
    }
    with pytest.warns(NoObservationsWarning, match="level: found 10 to 10, expected 850 to 850"):
        match(obs.assign_coords(level=10.0), spec=spec)


def test_times_as_python_objects() -> None:
    when = np.array([datetime.datetime(2019, 3, 1, h) for h in (0, 6, 12)], dtype=object)
    forecast = ForecastTimes(TIMES)
    assert forecast.match(when)[0].tolist() == [0, 1, 2]
    assert forecast.match(np.array([None, None], dtype=object))[1].all()
    assert forecast.span() == "2019-03-01T00:00 to 2019-03-01T12:00"
    assert ForecastTimes(None).span() == "no time"
    with pytest.raises(ObservationError, match="values such as 'noon'"):
        forecast.match(np.array(["noon"], dtype=object))
    mixed = np.array([cf_times("noleap")[0], cf_times("360_day")[0]], dtype=object)
    with pytest.raises(ObservationError, match="several calendars"):
        forecast.match(mixed)


def test_uneven_periodic_axes() -> None:
    ds = xr.Dataset({"u": ("x", np.zeros(4))}, {"x": [0.0, 1.0, 2.0, 4.0]})
    spec = spec_from_dataset(ds, periodic=["x"])
    obs = xr.Dataset({"u": ("n", [1.0])}, {"x": ("n", [0.5])})
    with pytest.raises(DaisiError, match="x: found periodic, but not evenly spaced"):
        match(obs, spec=spec)


def test_vertical_coordinates_that_are_not_there() -> None:
    """Levels counted along the dimension, and several vertical dimensions kept apart."""
    dims = ("level", "latitude", "longitude")
    bare = spec_from_dataset(grid(t=(dims, np.zeros((3, 9, 13)), {"units": "K"})))
    obs = point_list(3).rename(t2m="t")
    obs = xr.concat([obs, obs, obs], "level")
    assert match(obs.transpose("obs", "level"), spec=bare).counts == {"used": 9}
    soil = ("depth", "latitude", "longitude")
    ds = grid(t=(dims, np.zeros((3, 9, 13))), s=(soil, np.zeros((2, 9, 13))))
    both = spec_from_dataset(ds.assign_coords(level=[1000.0, 850, 500], depth=[0.1, 0.4]))
    named = point_list(3).rename(t2m="t").assign_coords(depth=0.2)
    with pytest.raises(ObservationError, match="expected a coordinate 'level'"):
        match(named, spec=both)
    assert match(named.rename(t="s"), spec=both).counts == {"used": 3}


@pytest.mark.parametrize("lazy", [False, True])
def test_a_single_value_without_any_dimension(lazy: bool) -> None:
    obs = xr.Dataset(
        {"t2m": 281.0}, coords={"latitude": 51.0, "longitude": 0.5, "time": FORECAST_TIME}
    )
    plan = match(obs.chunk() if lazy else obs, np.array([FORECAST_TIME]))
    assert plan.batch(0).values.tolist() == [281.0]
    assert plan.batch(0).rows.tolist() == [0]


FORECAST_TIME = np.datetime64("2019-03-01T00", "ns")
