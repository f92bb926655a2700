"""Grids with two-dimensional latitude and longitude: places, priors, files, analyses."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from closed_form import GaussianVelocity
from labelled import MEAN, QUICK, STD, covariance
from test_geometry import smooth

import xr_daisi
from xr_daisi import (
    FlowPrior,
    NoObservationsWarning,
    ObservationError,
    StateError,
    assimilate,
    feedback,
    train_prior,
)
from xr_daisi.curvilinear import CurvilinearGrid
from xr_daisi.observation_coordinates import find_coordinates
from xr_daisi.observations import match_observations
from xr_daisi.state import StateSpec, spec_from_dataset

STEREO = 6371.0088


def stereographic(x: Any, y: Any) -> tuple[Any, Any]:
    """Latitude and longitude of a polar stereographic plane, coordinates in km."""
    colatitude = 2 * np.arctan(np.hypot(x, y) / (2 * STEREO))
    return 90 - np.rad2deg(colatitude), np.rad2deg(np.arctan2(x, -y))


def polar(step: float = 500.0, half: float = 3000.0, **coords: Any) -> xr.Dataset:
    """A grid around the pole, across the date line."""
    axis = np.arange(-half, half + step / 2, step)
    x, y = np.meshgrid(axis, axis)
    lat, lon = stereographic(x, y)
    ds = xr.Dataset(
        {"t2m": (("y", "x"), np.zeros(x.shape), {"units": "K"})},
        coords={"lat": (("y", "x"), lat), "lon": (("y", "x"), lon)},
    )
    if coords.get("with_axes"):
        ds = ds.assign_coords(x=("x", axis, {"units": "km"}), y=("y", axis, {"units": "km"}))
    return ds


def places(n: int = 400, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(-2900, 2900, (2, n))
    x[0], y[0] = 0.0, 0.0  # the pole itself, which is a node of the grid
    lat, lon = stereographic(x, y)
    return lat, lon + 360 * rng.integers(-1, 2, n)


def points(lat: Any, lon: Any, values: Any = None) -> xr.Dataset:
    values = np.full(np.shape(lat), MEAN) if values is None else values
    ds = xr.Dataset({"t2m": ("obs", values, {"units": "K"})})
    return ds.assign_coords(lat=("obs", lat), lon=("obs", lon))


def observed(obs: xr.Dataset, spec: StateSpec, state: np.ndarray, **options: Any) -> np.ndarray:
    batch = match_observations(obs, spec, None, obs_error=1.0, **options).batch(0)
    tensors = batch.to_tensors(None, dtype=torch.float64)
    result: np.ndarray = tensors.observe(torch.as_tensor(state)[None])[0].numpy()
    return result


def field(ds: xr.Dataset) -> np.ndarray:
    return np.asarray(smooth(ds.lat.values, ds.lon.values))[None]


def test_triangles_are_second_order_around_the_pole() -> None:
    lat, lon = places()
    worst = []
    for step in (500.0, 250.0, 125.0):
        ds = polar(step)
        spec = spec_from_dataset(ds)
        plan = match_observations(points(lat, lon), spec, None, obs_error=1.0)
        assert plan.counts == {"used": lat.size}
        found = observed(points(lat, lon), spec, field(ds))
        worst.append(np.abs(found - smooth(lat, lon)).max())
    assert worst[0] / worst[1] > 3.5
    assert worst[1] / worst[2] > 3.5


def test_nodes_are_exact_and_weights_add_up() -> None:
    ds = polar()
    spec = spec_from_dataset(ds)
    lat, lon = ds.lat.values.ravel(), ds.lon.values.ravel()
    found = observed(points(lat, lon), spec, field(ds))
    np.testing.assert_allclose(found, field(ds).ravel(), atol=1e-9)
    lat, lon = places()
    np.testing.assert_allclose(observed(points(lat, lon), spec, 0 * field(ds) + 1), 1.0)


def test_places_beyond_the_edge_are_outside() -> None:
    ds = polar()
    spec = spec_from_dataset(ds)
    lat, lon = stereographic(np.array([3100.0, -5000.0, 0.0]), np.array([0.0, 100.0, 2999.0]))
    lat = np.append(lat, -np.abs(lat[-1]))  # the same place of the other hemisphere
    lon = np.append(lon, lon[-1])
    plan = match_observations(points(lat, lon), spec, None, obs_error=1.0)
    assert plan.table["status"].tolist() == [3, 3, 0, 3]
    near = match_observations(points(lat, lon), spec, None, obs_error=1.0, interpolation="nearest")
    assert near.table["status"].tolist() == [0, 3, 0, 3]


def test_nearest_node() -> None:
    ds = polar()
    spec = spec_from_dataset(ds)
    state = np.arange(13 * 13.0).reshape(1, 13, 13)
    lat, lon = stereographic(np.array([180.0, -2600.0]), np.array([300.0, 2700.0]))
    found = observed(points(lat, lon), spec, state, interpolation="nearest")
    assert found.tolist() == [state[0, 7, 6], state[0, 11, 1]]


def test_footprints_and_lines() -> None:
    ds = polar(125.0)
    spec = spec_from_dataset(ds)
    z = np.sin(np.deg2rad(ds.lat.values))[None]
    cap = observed(points([90.0], [0.0]), spec, z, footprint={"t2m": "2000 km"})
    np.testing.assert_allclose(cap, (1 + np.cos(1000 / STEREO)) / 2, atol=5e-4)
    line = xr.Dataset({"t2m": ("obs", [0.0])}).assign_coords(
        lat=(("obs", "node"), [[75.0, 75.0]]), lon=(("obs", "node"), [[30.0, 210.0]])
    )
    half = np.deg2rad(15.0)
    np.testing.assert_allclose(observed(line, spec, z), np.sin(half) / half, atol=5e-4)


def test_the_grids_own_coordinates_work_too() -> None:
    ds = polar(with_axes=True)
    spec = spec_from_dataset(ds)
    state = (ds.x + 2 * ds.y).values.T[None].copy()
    obs = xr.Dataset({"t2m": ("obs", [0.0])}, {"x": ("obs", [730.0]), "y": ("obs", [-1200.0])})
    np.testing.assert_allclose(observed(obs, spec, state), 730.0 - 2 * 1200.0, atol=1e-9)
    batch = match_observations(obs, spec, None, obs_error=1.0).batch(0)
    node = ds.sel(x=500, y=-1000)
    np.testing.assert_allclose(batch.positions[:, 0], [node.lat, node.lon])


def gaussian(ds: xr.Dataset) -> FlowPrior:
    c = covariance(*ds.t2m.shape)
    velocity = GaussianVelocity(torch.zeros(len(c), dtype=torch.float64), c)
    return FlowPrior.from_velocity(velocity, ds, mean=MEAN, std=STD)


def members(ds: xr.Dataset) -> xr.Dataset:
    rng = np.random.default_rng(0)
    da = ds.t2m.expand_dims(member=3).copy()
    da.values[...] = MEAN + STD * rng.standard_normal(da.shape)
    return da.to_dataset()


def test_an_analysis_and_its_feedback() -> None:
    ds = polar(1000.0)
    forecast, prior = members(ds), gaussian(ds)
    obs = points([80.0, 70.0], [10.0, -170.0]).assign(t2m_error=("obs", [0.5, 0.5]))
    analysis = assimilate(forecast, obs, prior, **QUICK)
    assert "geolocation" not in analysis.attrs["daisi_state"]
    table = feedback(forecast, obs, analysis)
    assert (abs(table.t2m_o_minus_a) < abs(table.t2m_o_minus_b)).all()
    with pytest.raises(StateError, match="points elsewhere"):  # nothing tells the direction
        assimilate(forecast.isel(y=slice(None, None, -1)), obs, prior, **QUICK)


def test_directions_and_order_of_dimensions_do_not_matter() -> None:
    ds = polar(1000.0, with_axes=True)
    forecast, prior = members(ds), gaussian(ds)
    obs = points([80.0, 70.0], [10.0, -170.0]).assign(t2m_error=("obs", [0.5, 0.5]))
    analysis = assimilate(forecast, obs, prior, **QUICK)
    flipped = forecast.isel(y=slice(None, None, -1)).transpose("x", "member", "y")
    again = assimilate(flipped, obs, prior, **QUICK)
    turned = again.transpose(*analysis.t2m.dims).sortby("y")
    np.testing.assert_allclose(turned.t2m, analysis.t2m, rtol=1e-12)
    table, other = feedback(forecast, obs, analysis), feedback(flipped, obs, again)
    np.testing.assert_allclose(other.t2m_forecast, table.t2m_forecast, rtol=1e-12)


def test_a_grid_elsewhere_is_an_error() -> None:
    ds = polar(1000.0)
    prior = gaussian(ds)
    elsewhere = members(ds)
    elsewhere["lon"] = elsewhere.lon + 15.0
    with pytest.raises(StateError, match=r"longitude of the forecast: found \d+ points"):
        assimilate(elsewhere, points([80.0], [0.0]), prior, obs_error=1.0, **QUICK)


def test_a_trained_prior_keeps_its_places(tmp_path: Path) -> None:
    ds = polar(750.0)
    history = ds.t2m.expand_dims(time=24).copy()
    history.values[...] = 280 + np.random.default_rng(0).standard_normal(history.shape)
    prior = train_prior(history.to_dataset(), steps=2, width=8, progress=False)
    prior.save(tmp_path / "polar.safetensors")
    loaded = xr_daisi.load_prior(tmp_path / "polar.safetensors")
    assert loaded.sha256 == prior.sha256
    for one in (loaded.template(), xr_daisi.sample(prior=loaded, members=2, steps=1)):
        np.testing.assert_array_equal(one.latitude, ds.lat)
        np.testing.assert_array_equal(one.longitude, ds.lon)
    # Without places of its own the forecast is taken by its dimensions.
    forecast = members(ds)
    obs = points([80.0, 75.0], [10.0, 100.0])
    with_places = assimilate(forecast, obs, loaded, obs_error=1.0, steps=2, device="cpu")
    bare = assimilate(
        forecast.drop_vars(["lat", "lon"]), obs, loaded, obs_error=1.0, steps=2, device="cpu"
    )
    np.testing.assert_array_equal(bare.t2m, with_places.t2m)


def test_a_grid_with_missing_places() -> None:
    ds = polar(with_axes=False)
    lat = ds.lat.values.copy()
    lat[:3] = np.nan
    spec = spec_from_dataset(ds.assign_coords(lat=(("y", "x"), lat)))
    far, near = stereographic(np.array([0.0]), np.array([-2800.0])), ([85.0], [20.0])
    plan = match_observations(points(*near), spec, None, obs_error=1.0)
    assert plan.counts == {"used": 1}
    with pytest.warns(NoObservationsWarning):
        plan = match_observations(points(*far), spec, None, obs_error=1.0)
    assert plan.counts == {"outside the grid": 1}


def test_boxes_are_an_error_rather_than_points() -> None:
    spec = spec_from_dataset(polar())
    obs = points([80.0], [10.0])
    obs.t2m.attrs["cell_methods"] = "area: mean"
    for name in ("lat", "lon"):
        obs[name].attrs["bounds"] = f"{name}_b"
        obs[f"{name}_b"] = (("obs", "nv"), [[obs[name].item() - 1, obs[name].item() + 1]])
    with pytest.raises(ObservationError, match=r"means over boxes.*footprint="):
        match_observations(obs, spec, None, obs_error=1.0)
    plan = match_observations(obs, spec, None, obs_error=1.0, footprint={"t2m": "200 km"})
    assert plan.counts == {"used": 1}


@pytest.mark.parametrize("skew", [3, 8])
def test_places_of_a_skewed_grid_are_found(skew: int) -> None:
    """The nearest nodes of a place need not be corners of its cell."""
    j, i = np.meshgrid(np.arange(30), np.arange(40), indexing="ij")
    lat, lon = 50 + 0.02 * j, (i + skew * j) * 0.1
    ds = xr.Dataset(
        {"t2m": (("y", "x"), np.zeros(lat.shape))},
        coords={"lat": (("y", "x"), lat), "lon": (("y", "x"), lon)},
    )
    rng = np.random.default_rng(0)
    row, column = rng.uniform(1, 28, 2000), rng.uniform(1, 38, 2000)
    obs = points(50 + 0.02 * row, (column + skew * row) * 0.1)
    spec = spec_from_dataset(ds)
    plan = match_observations(obs, spec, None, obs_error=1.0)
    assert plan.counts == {"used": 2000}
    found = observed(obs, spec, (lat + lon)[None])
    np.testing.assert_allclose(found, obs.lat + obs.lon, atol=1e-3)


# -- positions given twice ------------------------------------------------------------------------


def metric(step: float = 10.0) -> xr.Dataset:
    """A projected grid with coordinates in metres, its corner far from zero."""
    ds = polar(step, 100.0, with_axes=True)
    x, y = (ds[n] * 1000.0 for n in "xy")
    return ds.assign_coords(
        x=x.assign_attrs(units="m", standard_name="projection_x_coordinate"),
        y=y.assign_attrs(units="m", standard_name="projection_y_coordinate"),
    )


def swath(across: Any, along: Any, **coords: Any) -> xr.Dataset:
    x, y = np.meshgrid(across, along)
    lat, lon = stereographic(x, y)
    return xr.Dataset(
        {"t2m": (("y", "x"), 0 * x, {"units": "K"})},
        coords={"lat": (("y", "x"), lat), "lon": (("y", "x"), lon), **coords},
    )


@pytest.mark.parametrize(
    "own",
    [
        {"y": [0, 1], "x": [0, 1, 2]},
        {"y": ("y", [5.0, 6.0], {"units": "1"}), "x": [10, 11, 12]},
        {"y": ("y", [0.01, 0.02], {"units": "rad"}), "x": ("x", [0.0, 0.01, 0.02])},
    ],
)
def test_rows_and_columns_of_a_swath_are_no_metres(own: Any) -> None:
    ds = metric()
    spec = spec_from_dataset(ds)
    obs = swath([33.0, 44.0, 57.0], [-71.0, -64.0], **own)
    state = np.asarray(ds.x + 2 * ds.y).T[None] / 1000.0
    expected = np.array([[33.0, 44, 57]]) + 2 * np.array([[-71.0], [-64.0]])
    np.testing.assert_allclose(observed(obs, spec, state), expected.ravel(), atol=0.5)


def test_the_grids_own_coordinates_are_taken_where_both_agree() -> None:
    ds = metric()
    spec = spec_from_dataset(ds)
    kilometres = {n: (n, v, {"units": "km"}) for n, v in (("y", [-71.0, 12]), ("x", [3.0, 8.0]))}
    for obs in (ds.isel(x=slice(3, 5), y=slice(7)), swath([3.0, 8.0], [-71.0, 12.0], **kilometres)):
        found = find_coordinates(obs, spec, "observations")
        assert not found.geolocated
        assert [p.name for p in found.horizontal] == ["y", "x"]
    # A part of a grid whose points are counted.
    counted = spec_from_dataset(polar())
    part = polar().assign_coords(x=np.arange(13), y=np.arange(13)).isel(x=slice(4, 6))
    assert not find_coordinates(part, counted, "observations").geolocated


@pytest.mark.parametrize("along", ["points", "swath"])
def test_positions_that_disagree_are_an_error(along: str) -> None:
    spec = spec_from_dataset(metric())
    if along == "points":
        obs = points(*stereographic(np.array([30.0]), np.array([50.0])))
        obs = obs.assign_coords(x=("obs", [-2000.0]), y=("obs", [4000.0]))
    else:
        metres = {n: (n, [0.0, 10_000.0], {"units": "m"}) for n in "yx"}
        obs = swath([33.0, 43.0], [-71.0, -61.0], **metres)
    with pytest.raises(ObservationError, match=r"y, x and lat, lon up to .* km apart.*drop_vars"):
        match_observations(obs, spec, None, obs_error=1.0)
    plan = match_observations(obs.drop_vars(["x", "y"]), spec, None, obs_error=1.0)
    assert set(plan.counts) == {"used"}


def test_places_far_from_the_grid_are_found_out_quickly() -> None:
    """Among points that are all about as far, a search for the nearest would take minutes."""
    x, y = np.meshgrid(np.linspace(-5, 5, 400), np.linspace(-5, 5, 400))
    grid = CurvilinearGrid((50 + y + 0.05 * x, 1.5 * x + 0.1 * y))
    rng = np.random.default_rng(0)
    places = [rng.uniform(-90, 40, 20_000), rng.uniform(-180, 180, 20_000)]
    grid.points([np.array([50.0]), np.array([0.0])])  # builds the search tree
    start = time.perf_counter()
    assert not grid.points(places).inside.any()
    assert not grid.points(places, nearest=True).inside.any()
    assert time.perf_counter() - start < 10.0
