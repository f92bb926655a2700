"""Observations set aside: nothing lost, whole stations, the same split in any order."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from labelled import stations, unchanged

from xr_daisi.errors import DaisiTypeError, ObservationError, SettingsError
from xr_daisi.withholding import withhold

NAMES = ["03772", "03882", "03808", "03740", "03761"]


def series(n: int = 5) -> xr.Dataset:
    names = NAMES if n == 5 else [f"s{i:03d}" for i in range(n)]
    return stations(n=n).assign_coords(station=names)


def table() -> xr.Dataset:
    """Points of five stations, three values each, in random order."""
    rng = np.random.default_rng(3)
    order = rng.permutation(15)
    coords = {
        "station": ("obs", np.repeat(NAMES, 3)[order]),
        "latitude": ("obs", np.repeat(rng.uniform(50.0, 54.0, 5), 3)[order]),
        "longitude": ("obs", np.repeat(rng.uniform(-3.0, 2.0, 5), 3)[order]),
    }
    return xr.Dataset({"t2m": ("obs", rng.normal(280.0, 5.0, 15), {"units": "K"})}, coords=coords)


def field(sparse: bool = False) -> xr.Dataset:
    rng = np.random.default_rng(4)
    values = rng.normal(280.0, 5.0, (2, 8, 9))
    if sparse:
        values[:, 1:] = np.nan
    coords = {"latitude": np.linspace(60.0, 46.0, 8), "longitude": np.linspace(-8.0, 8.0, 9)}
    data = {
        "t2m": (("time", "latitude", "longitude"), values, {"units": "K"}),
        "cloud": (("latitude", "longitude"), rng.integers(0, 8, (8, 9)), {"units": "1"}),
        "t2m_error": (("latitude", "longitude"), np.full((8, 9), 0.5), {"units": "K"}),
    }
    return xr.Dataset(data, coords=coords)


def test_the_two_parts_are_the_whole() -> None:
    obs = series()
    before = obs.copy(deep=True)
    used, withheld = withhold(obs, 0.4)
    unchanged(obs, before)
    assert (used.sizes["station"], withheld.sizes["station"]) == (3, 2)
    whole = xr.concat([used, withheld], "station").sel(station=obs.station)
    xr.testing.assert_identical(whole, obs)
    # each in the order of the whole
    for part in (used, withheld):
        xr.testing.assert_identical(part, obs.sel(station=part.station))


def test_named_stations() -> None:
    obs = series()
    used, withheld = withhold(obs, ["03772", "03740"])
    assert withheld.station.values.tolist() == ["03772", "03740"]
    assert used.station.values.tolist() == ["03882", "03808", "03761"]
    assert withhold(obs, "03761")[1].station.values.tolist() == ["03761"]
    for what in (np.array(["03772", "03740"]), obs.station[[0, 3]], ("03772", b"03740")):
        xr.testing.assert_identical(withhold(obs, what)[1], withheld)
    numbers = obs.assign_coords(station=[int(name) for name in NAMES])
    for what in ([3772, 3740], ["03772", "3740"], [3772.0, np.int32(3740)]):
        assert withhold(numbers, what)[1].station.values.tolist() == [3772, 3740]
    packed = obs.assign_coords(station=np.array(NAMES, dtype="S8"))
    assert withhold(packed, ["03772"])[1].sizes["station"] == 1


@pytest.mark.parametrize("name", ["station_id", "WMO", "stationIdentification", "name"])
def test_identifiers_by_name_and_role(name: str) -> None:
    obs = table().rename(station=name)
    if name == "name":
        obs[name].attrs["cf_role"] = "timeseries_id"
    for ds in (obs, obs.reset_coords(name)):
        used, withheld = withhold(ds, 0.4, seed=1)
        assert withheld.sizes["obs"] == 6
        assert not set(used[name].values) & set(withheld[name].values)
        assert withhold(ds, ["03882"])[1].sizes["obs"] == 3


@pytest.mark.parametrize("names", [True, False])
def test_same_split_in_any_order(names: bool) -> None:
    obs = series(30) if names else stations(n=30)
    order = np.random.default_rng(5).permutation(30)
    mixed = obs.isel(station=order)
    turned = mixed.assign_coords(longitude=mixed.longitude % 360.0)
    first = withhold(obs, 0.3, seed=7)[1].sortby("latitude")
    xr.testing.assert_identical(withhold(mixed, 0.3, seed=7)[1].sortby("latitude"), first)
    found = withhold(turned, 0.3, seed=7)[1].sortby("latitude")
    np.testing.assert_array_equal(found.latitude, first.latitude)
    assert first.sizes["station"] == 9
    other = withhold(obs, 0.3, seed=8)[1]
    assert set(other.latitude.values) != set(first.latitude.values)


def test_every_station_has_the_same_chance() -> None:
    obs = series()
    counts = dict.fromkeys(NAMES, 0)
    for seed in range(500):
        for name in withhold(obs, 0.4, seed=seed)[1].station.values.tolist():
            counts[name] += 1
    # binomial with p = 0.4: standard deviation sqrt(500 * 0.24) = 11
    assert max(abs(count - 200) for count in counts.values()) < 4 * np.sqrt(500 * 0.24)


def test_points_without_identifiers_are_chosen_one_by_one() -> None:
    obs = table().drop_vars("station")
    used, withheld = withhold(obs, 0.2)
    assert (used.sizes["obs"], withheld.sizes["obs"]) == (12, 3)
    # an unnamed value belongs to no station
    named = table()
    named["station"] = named.station.where(named.station != "03772", "")
    parts = [withhold(named, 0.5, seed=s)[1] for s in range(20)]
    assert {int((part.station == "").sum()) for part in parts} - {0, 3}


def test_a_small_share_is_one_station() -> None:
    used, withheld = withhold(series(), 0.01)
    assert (used.sizes["station"], withheld.sizes["station"]) == (4, 1)
    used, withheld = withhold(series(), 0.99)
    assert (used.sizes["station"], withheld.sizes["station"]) == (1, 4)


def test_correlated_errors_stay_with_their_stations() -> None:
    obs = series()
    matrix = np.arange(25.0).reshape(5, 5)
    obs["t2m_error_covariance"] = (("station", "station2"), matrix)
    used, withheld = withhold(obs, ["03882", "03740"])
    np.testing.assert_array_equal(withheld.t2m_error_covariance, matrix[np.ix_([1, 3], [1, 3])])
    np.testing.assert_array_equal(used.t2m_error_covariance, matrix[np.ix_([0, 2, 4], [0, 2, 4])])


def test_fields() -> None:
    obs = field()
    before = obs.copy(deep=True)
    used, withheld = withhold(obs, 0.25, seed=2)
    unchanged(obs, before)
    xr.testing.assert_identical(used.t2m_error, obs.t2m_error)
    for name in ("t2m", "cloud"):
        here, there = used[name].notnull(), withheld[name].notnull()
        assert not (here & there).any()
        assert used[name].dims == obs[name].dims
        assert used[name].attrs == obs[name].attrs
        xr.testing.assert_equal(used[name].fillna(withheld[name]), obs[name].astype(float))
    places = withheld.t2m.notnull().all("time")
    np.testing.assert_array_equal(places, withheld.cloud.notnull())
    assert int(places.sum()) == 18
    # neither the direction nor the longitudes' convention decide
    turned = obs.sortby("latitude").assign_coords(longitude=obs.longitude % 360)
    again = withhold(turned.sortby("longitude"), 0.25, seed=2)[1].t2m
    again = again.assign_coords(longitude=(again.longitude + 180) % 360 - 180)
    again = again.sel(longitude=obs.longitude, latitude=obs.latitude)
    np.testing.assert_array_equal(again, withheld.t2m)


def test_swaths_and_plain_grids() -> None:
    obs = field().rename(latitude="y", longitude="x").drop_vars(["y", "x"])
    plain = withhold(obs, 0.25)[1]
    assert int(plain.cloud.notnull().sum()) == 18
    lat, lon = np.meshgrid(np.linspace(50.0, 54.0, 8), np.linspace(0.0, 3.0, 9), indexing="ij")
    swath = obs.assign_coords(latitude=(("y", "x"), lat), longitude=(("y", "x"), lon + 0.1 * lat))
    used, withheld = withhold(swath, 0.25)
    assert int(withheld.cloud.notnull().sum()) == 18
    assert int(used.cloud.notnull().sum()) == 54


def test_dask_stays_lazy() -> None:
    for eager in (series(), field()):
        lazy = eager.copy()
        lazy["t2m"] = lazy.t2m.copy(data=da.from_array(lazy.t2m.values, chunks=2))
        expected = withhold(eager, 0.3)
        for part, wanted in zip(withhold(lazy, 0.3), expected, strict=True):
            assert part.t2m.chunks is not None
            xr.testing.assert_identical(part.compute(), wanted)


def test_what_cannot_be_withheld() -> None:
    obs = series()
    with pytest.raises(ObservationError, match="2 problems") as caught:
        withhold(obs, ["3772", "xyz", "03882"])
    assert "station '3772': found no such station, expected one like 03772" in str(caught.value)
    assert "station 'xyz'" in str(caught.value)
    with pytest.raises(ObservationError, match=r"assign_coords\(station=\('station', identif"):
        withhold(stations(), ["03772"])
    assert withhold(stations(), [1, 3])[1].sizes["station"] == 2  # positions, as in isel
    for fraction in (0.0, 1.0, -0.2, 1.5, float("nan")):
        with pytest.raises(SettingsError, match="a fraction between 0 and 1"):
            withhold(obs, fraction)
    for wrong in (3, True, None):
        with pytest.raises(DaisiTypeError, match="or a list of stations"):
            withhold(obs, wrong)  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="an empty list"):
        withhold(obs, [])
    with pytest.raises(ObservationError, match="found every station"):
        withhold(obs, NAMES)
    with pytest.raises(ObservationError, match="found 1 station, expected at least two"):
        withhold(obs.isel(station=[0]), 0.5)
    with pytest.raises(ObservationError, match="no identifiers"):
        withhold(field(), ["03772"])
    with pytest.raises(ObservationError, match="some on both sides; take another"):
        withhold(field(sparse=True).drop_vars("cloud").isel(longitude=[0]), 0.1)
    with pytest.raises(ObservationError, match="read_observations"):
        withhold(obs.isel(station=0), 0.5)
    with pytest.raises(DaisiTypeError, match="found list"):
        withhold([obs], 0.5)  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="seed"):
        withhold(obs, 0.5, seed=-1)
