"""Geometry of observations: poles, other grids, boxes, discs, lines; on fields known exactly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from test_operators import batch_of, observed, points, template

from xr_daisi import NoObservationsWarning, ObservationError, SettingsError
from xr_daisi.observations import match_observations
from xr_daisi.state import StateSpec, spec_from_dataset


def globe(step: float = 10.0, *, cells: bool = True, first: float = 0.0) -> StateSpec:
    """A global grid, with rows half a step from the poles or on them."""
    lat = np.arange(-90 + step / 2, 90, step) if cells else np.arange(-90, 90 + step / 2, step)
    return spec_from_dataset(template(lat[::-1], first + np.arange(0, 360, step)))


def in_space(lat: Any, lon: Any) -> tuple[Any, Any, Any]:
    lat, lon = np.deg2rad(lat), np.deg2rad(lon)
    return np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)


def smooth(lat: Any, lon: Any) -> Any:
    """A smooth function on the sphere, poles included."""
    x, y, z = in_space(lat, lon)
    return 280 + 20 * z + 5 * x * y + 3 * y * z - 4 * x


def on_grid(spec: StateSpec, function: Any = smooth) -> np.ndarray:
    lat, lon = (spec.coords[d] for d in ("latitude", "longitude"))
    return np.asarray(function(lat[:, None], lon[None, :]))[None]


# -- poles ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [0.0, -180.0, 3.0])
def test_second_order_up_to_the_poles_and_across_the_date_line(first: float) -> None:
    rng = np.random.default_rng(0)
    lat = np.concatenate([rng.uniform(-90, 90, 300), rng.uniform(85, 90, 50), [90, -90, 89.999]])
    lon = rng.uniform(-180, 540, lat.size)
    worst = []
    for step in (10.0, 5.0, 2.5):
        spec = globe(step, first=first)
        plan = match_observations(points(0 * lat, lat=lat, lon=lon), spec, None, obs_error=1.0)
        assert plan.counts == {"used": lat.size}
        found = observed(points(0 * lat, lat=lat, lon=lon), spec, on_grid(spec))
        worst.append(np.abs(found - smooth(lat, lon)).max())
    assert worst[0] / worst[1] > 3.5
    assert worst[1] / worst[2] > 3.5


def test_an_odd_number_of_longitudes_across_the_pole() -> None:
    lat, lon = np.arange(85.0, -86, -10), np.arange(45) * 8.0
    spec = spec_from_dataset(template(lat, lon))
    obs = points([0.0, 0.0], lat=[88.0, -90.0], lon=[13.0, 0.0])
    found = observed(obs, spec, on_grid(spec))
    np.testing.assert_allclose(
        found, smooth(np.array([88.0, -90.0]), np.array([13.0, 0.0])), atol=0.2
    )


def test_vectors_keep_their_direction_across_the_pole() -> None:
    """Flow straight over the pole: its northward component changes sign there."""
    names = ("u", "v")
    units = {name: {"units": "m s-1"} for name in names}
    lat, lon = np.arange(85.0, -86, -10), np.arange(36) * 10.0
    spec = spec_from_dataset(template(lat, lon, names, **units))
    longitude = np.broadcast_to(np.deg2rad(lon), spec.space_shape)
    state = np.stack([-np.sin(longitude), np.cos(longitude)])  # along the meridian of 0 at 0
    obs = points([0.0], "u", lat=[89.0], lon=[20.0])
    obs["v"] = obs.u
    found = observed(obs, spec, state)
    np.testing.assert_allclose(found, [-np.sin(np.deg2rad(20)), np.cos(np.deg2rad(20))], atol=1e-9)
    scalar = spec_from_dataset(template(lat, lon, ("a",)))
    flat = observed(points([0.0], "a", lat=[90.0], lon=[20.0]), scalar, state[1:])
    np.testing.assert_allclose(flat, 0.0, atol=1e-9)


def test_a_row_on_the_pole_and_a_regional_grid_need_nothing() -> None:
    spec = globe(10.0, cells=False)
    obs = points([0.0, 0.0], lat=[89.0, 90.0], lon=[20.0, 77.0])
    found = observed(obs, spec, on_grid(spec))
    np.testing.assert_allclose(
        found, smooth(np.array([89.0, 90.0]), np.array([20.0, 77.0])), atol=0.1
    )
    region = spec_from_dataset(template(np.arange(60.0, 89, 2), np.arange(0.0, 100, 5)))
    plan = match_observations(points([0.0], lat=[89.0], lon=[3.0]), region, None, obs_error=1.0)
    assert plan.counts == {"outside the grid": 1}


def test_gradients_with_all_kinds_of_places() -> None:
    spec = globe(30.0)
    lat, lon = [89.0, -88.0, 12.0, 44.0], [10.0, 300.0, 179.9, 0.0]
    obs = points(np.zeros(4), lat=lat, lon=lon)
    obs["t2m_footprint"] = ("obs", [500.0, 0.0, 2000.0, np.nan], {"units": "km"})
    tensors = batch_of(obs, spec).to_tensors(None, dtype=torch.float64)
    x = torch.randn(1, *spec.shape, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(tensors.observe, (x,), check_forward_ad=True)


# -- nearest node, other grids --------------------------------------------------------------------


def test_nearest_node() -> None:
    spec = spec_from_dataset(template())
    state = np.arange(9 * 13.0).reshape(1, 9, 13)
    obs = points(np.zeros(3), lat=[57.6, 57.4, 50.0], lon=[-9.6, -9.4, 2.0])
    found = observed(obs, spec, state, interpolation="nearest")
    assert found.tolist() == [state[0, 0, 0], state[0, 1, 1], state[0, 8, 12]]


def coarse(spec: StateSpec, step: float, **attrs: Any) -> xr.Dataset:
    """Fields on boxes of another size, with bounds."""
    lat = np.arange(-90 + step / 2, 90, step)
    lon = np.arange(step / 2, 360, step)
    ds = xr.Dataset(
        {"t2m": (("lat", "lon"), np.zeros((lat.size, lon.size)), attrs)},
        coords={"lat": ("lat", lat, {"bounds": "lat_bnds"}), "lon": ("lon", lon)},
    )
    ds["lat_bnds"] = (("lat", "nv"), np.stack([lat - step / 2, lat + step / 2], axis=1))
    ds["lon_bnds"] = (("lon", "nv"), np.stack([lon - step / 2, lon + step / 2], axis=1))
    ds.lon.attrs["bounds"] = "lon_bnds"
    return ds


def test_another_grid_is_seen_at_its_points() -> None:
    spec = globe(5.0)
    obs = coarse(spec, 30.0)
    found = observed(obs, spec, on_grid(spec))
    lat, lon = np.meshgrid(obs.lat, obs.lon, indexing="ij")
    np.testing.assert_allclose(found, smooth(lat, lon).ravel(), atol=0.15)


@pytest.mark.parametrize("methods", ["area: mean", "lat: lon: mean", "time: point lat: lon: mean"])
def test_means_over_boxes_are_those_of_the_field(methods: str) -> None:
    """Area means of sin(latitude) and of its square are known; the boxes tile the sphere."""
    spec = globe(2.0)
    step = 30.0
    obs = coarse(spec, step, cell_methods=methods)
    south, north = (np.sin(np.deg2rad(obs.lat.values + d)) for d in (-step / 2, step / 2))
    for power in (1, 2):
        state = on_grid(spec, lambda y, x, p=power: np.sin(np.deg2rad(y)) ** p + 0 * x)
        found = observed(obs, spec, state).reshape(obs.t2m.shape)
        exact = (north ** (power + 1) - south ** (power + 1)) / ((power + 1) * (north - south))
        np.testing.assert_allclose(found, np.broadcast_to(exact[:, None], found.shape), atol=1e-3)
    ones = observed(obs, spec, np.ones(spec.shape))
    np.testing.assert_allclose(ones, 1.0, rtol=1e-12)


def test_boxes_are_exact_for_the_interpolated_field() -> None:
    """Against a fine sum over the piecewise bilinear field itself, on a plain periodic grid."""
    x = np.arange(8) * 2.5
    ds = xr.Dataset(
        {"u": (("y", "x"), np.zeros((4, 8)), {"cell_methods": "area: mean"})},
        coords={"x": x, "y": np.arange(4.0)},
    )
    spec = spec_from_dataset(ds, periodic=["x"])
    state = np.random.default_rng(0).normal(size=(1, 4, 8))
    obs = xr.Dataset(
        {"u": ("obs", np.zeros(3), {"cell_methods": "area: mean"})},
        coords={
            "x": ("obs", [5.0, 19.0, 10.0], {"bounds": "xb"}),
            "y": ("obs", [1.0, 1.7, 1.5], {"bounds": "yb"}),
        },
    )
    xb = np.array([[4.0, 6.0], [16.5, 21.5], [0.3, 20.2]])
    yb = np.array([[1.0, 1.0], [0.2, 2.9], [0.0, 3.0]])
    obs["xb"], obs["yb"] = (("obs", "nv"), xb), (("obs", "nv"), yb)
    found = observed(obs, spec, state)
    n = 400
    for i in range(3):
        fine = [lo + (hi - lo) * (np.arange(n) + 0.5) / n for lo, hi in (xb[i], yb[i])]
        yy, xx = np.meshgrid(fine[1], fine[0], indexing="ij")
        values = observed(points(0 * xx.ravel(), "u", x=xx.ravel(), y=yy.ravel()), spec, state)
        np.testing.assert_allclose(found[i], values.mean(), atol=1e-4)


def test_boxes_over_the_edge_are_outside_and_bad_bounds_are_named() -> None:
    spec = spec_from_dataset(template())
    obs = points([0.0, 0.0], lat=[52.0, 57.9], lon=[0.0, 0.0])
    obs.t2m.attrs["cell_methods"] = "area: mean"
    for name, size in (("lat", 0.5), ("lon", 0.5)):
        obs[name].attrs["bounds"] = f"{name}_bnds"
        ends = np.stack([obs[name] - size, obs[name] + size], axis=1)
        obs[f"{name}_bnds"] = (("obs", "nv"), ends)
    plan = match_observations(obs, spec, None, obs_error=1.0)
    assert plan.counts == {"used": 1, "outside the grid": 1}
    obs["lat_bnds"] = ("obs", [0.0, 1.0])
    with pytest.raises(ObservationError, match="bounds 'lat_bnds' of shape"):
        match_observations(obs, spec, None, obs_error=1.0)


# -- discs and lines ------------------------------------------------------------------------------


def plane(step: float = 1.0, size: int = 41) -> StateSpec:
    axis = (np.arange(size) - size // 2) * step
    ds = xr.Dataset({"u": (("y", "x"), np.zeros((size, size)))}, coords={"y": axis, "x": axis})
    ds.x.attrs["units"] = ds.y.attrs["units"] = "km"
    return spec_from_dataset(ds)


@pytest.mark.parametrize("diameter", ["2.4 km", 2.4, "2400 m", 9.0, 0.01])
def test_linear_fields_have_their_value_in_the_middle_of_a_disc(diameter: Any) -> None:
    spec = plane()
    y, x = np.meshgrid(spec.coords["y"], spec.coords["x"], indexing="ij")
    obs = points(np.zeros(3), "u", x=[0.3, 5.0, -4.4], y=[0.7, 5.0, 2.2])
    found = observed(obs, spec, (2 * x - y)[None], footprint={"u": diameter})
    np.testing.assert_allclose(found, 2 * obs.x - obs.y, atol=1e-9)


def test_discs_are_second_order() -> None:
    """The mean of r^2 over a disc of radius R around its centre is R^2 / 2."""
    errors = []
    for step in (1.0, 0.5, 0.25):
        spec = plane(step, int(40 / step) + 1)
        y, x = np.meshgrid(spec.coords["y"], spec.coords["x"], indexing="ij")
        obs = points([0.0], "u", x=[0.13], y=[0.21])
        field = (x - 0.13) ** 2 + (y - 0.21) ** 2
        found = observed(obs, spec, field[None], footprint={"u": 12.0})
        errors.append(abs(float(found[0]) - 18.0))
    assert errors[0] < 0.5
    assert errors[0] / errors[2] > 8


def test_discs_on_the_sphere_over_pole_and_date_line() -> None:
    """The mean of z over a cap of angular radius a around a pole is (1 + cos a) / 2."""
    spec = globe(1.0)
    obs = points(np.zeros(2), lat=[90.0, 0.0], lon=[0.0, 180.0])
    obs.t2m.attrs["footprint"] = "2000 km"
    found = observed(obs, spec, on_grid(spec, lambda y, x: np.sin(np.deg2rad(y)) + 0 * x))
    np.testing.assert_allclose(found, [(1 + np.cos(1000 / 6371.0088)) / 2, 0.0], atol=2e-4)


def test_every_value_has_its_own_footprint() -> None:
    spec = plane()
    y, x = np.meshgrid(spec.coords["y"], spec.coords["x"], indexing="ij")
    obs = points(np.arange(4.0), "u", x=np.zeros(4), y=np.zeros(4))
    obs["u_footprint"] = ("obs", [0.0, 4000.0, 8000.0, np.nan], {"units": "m"})
    found = observed(obs, spec, (x**2 + y**2)[None])
    np.testing.assert_allclose(found, [0.0, 2.0, 8.0, 0.0], atol=0.4)
    plan = match_observations(
        points(np.zeros(2), "u", x=[0.0, 19.0], y=[0.0, 0.0]),
        spec,
        None,
        obs_error=1.0,
        footprint={"u": 4.0},
    )
    assert plan.counts == {"used": 1, "outside the grid": 1}


@pytest.mark.parametrize("bad", ["wide", "-3 km", 0, "5 K", True])
def test_footprints_that_are_none(bad: Any) -> None:
    obs = points([0.0], "u", x=[0.0], y=[0.0])
    with pytest.raises((SettingsError, ObservationError), match="footprint"):
        observed(obs, plane(), np.zeros((1, 41, 41)), footprint={"u": bad})


def lines(**nodes: Any) -> xr.Dataset:
    coords = {name: (("obs", "node"), np.asarray(v, dtype=float)) for name, v in nodes.items()}
    n = len(next(iter(nodes.values())))
    return xr.Dataset({"u": ("obs", np.zeros(n))}, coords=coords)


def test_means_along_lines() -> None:
    """Of a linear field: the middle of each segment, weighted by length."""
    spec = plane()
    y, x = np.meshgrid(spec.coords["y"], spec.coords["x"], indexing="ij")
    nan = np.nan
    obs = lines(
        x=[[0.0, 3.0, 3.0], [-2.0, 5.0, nan], [1.5, nan, nan], [nan, nan, nan], [0.0, 30.0, nan]],
        y=[[0.0, 0.0, 6.0], [1.0, 1.0, nan], [2.0, nan, nan], [nan, nan, nan], [0.0, 0.0, nan]],
    )
    state = (2 * x + y)[None]
    plan = match_observations(obs, spec, None, obs_error=1.0)
    assert plan.counts == {"used": 3, "outside the grid": 2}
    found = observed(obs, spec, state)
    np.testing.assert_allclose(found, [(3 * 3.0 + 6 * 9.0) / 9, 4.0, 5.0], atol=1e-9)


def test_lines_on_the_sphere_are_great_circles() -> None:
    """Along a meridian over the pole, the mean of z is known."""
    spec = globe(1.0)
    obs = lines(lat=[[60.0, 60.0], [0.0, 0.0]], lon=[[30.0, 210.0], [170.0, 190.0]])
    obs = obs.rename(u="t2m")
    z = on_grid(spec, lambda y, x: np.sin(np.deg2rad(y)) + 0 * x)
    half = np.deg2rad(30.0)
    np.testing.assert_allclose(observed(obs, spec, z), [np.sin(half) / half, 0.0], atol=2e-4)


@pytest.mark.parametrize("footprint", [None, {"t2m": "300 km"}])
def test_conventions_and_directions_do_not_matter(footprint: Any) -> None:
    rng = np.random.default_rng(0)
    lat, lon = rng.uniform(-90, 90, 50), rng.uniform(-180, 180, 50)
    results = []
    for first, flip, shift in ((0.0, 1, 0.0), (-180.0, -1, 360.0), (0.0, -1, -360.0)):
        spec = spec_from_dataset(
            template(np.arange(-88.0, 90, 4)[::flip], first + np.arange(0, 360, 4.0))
        )
        obs = points(0 * lat, lat=lat, lon=lon + shift)
        results.append(observed(obs, spec, on_grid(spec), footprint=footprint))
    np.testing.assert_allclose(results[1], results[0], atol=1e-10)
    np.testing.assert_allclose(results[2], results[0], atol=1e-10)


def test_longer_segments_count_by_their_arcs() -> None:
    """Nodes at 0, 120 and 130 degrees: the mean of the longitude is that of the whole arc, 65."""
    spec = globe(1.0, first=-180.0)
    obs = lines(lat=[[0.0, 0.0, 0.0]], lon=[[0.0, 120.0, 130.0]]).rename(u="t2m")
    state = on_grid(spec, lambda y, x: np.abs(x) + 0 * y)
    np.testing.assert_allclose(observed(obs, spec, state), 65.0, atol=1e-6)


def test_the_middle_of_a_line_is_in_space() -> None:
    spec = globe(10.0)
    obs = lines(lat=[[0.0, 0.0], [80.0, 80.0]], lon=[[179.0, -179.0], [0.0, 180.0]])
    obs = obs.rename(u="t2m")
    latitude, longitude = batch_of(obs, spec).positions
    np.testing.assert_allclose(latitude, [0.0, 90.0], atol=1e-9)
    np.testing.assert_allclose(np.abs(longitude[0]), 180.0)


def test_lines_on_a_periodic_plane_go_the_shorter_way() -> None:
    x = np.arange(20.0)
    ds = xr.Dataset({"u": (("y", "x"), np.zeros((5, 20)))}, coords={"x": x, "y": np.arange(5.0)})
    spec = spec_from_dataset(ds, periodic=["x"])
    obs = lines(x=[[19.0, 1.0, 6.0]], y=[[2.0, 2.0, 2.0]])
    state = np.broadcast_to(np.minimum(x, 20 - x), (1, 5, 20)).copy()
    # From 19 over 0 to 1 the mean is 1/2, from 1 to 6 it is 3.5.
    np.testing.assert_allclose(observed(obs, spec, state), (2 * 0.5 + 5 * 3.5) / 7, atol=1e-9)
    np.testing.assert_allclose(batch_of(obs, spec).positions[1], (19 + 21 + 26) / 3)


@pytest.mark.parametrize("first", [0.0, -180.0])
def test_boxes_with_descending_longitudes(first: float) -> None:
    """Bounds in either order mean the interval around the centre, not its complement."""
    spec = globe(5.0, first=first)
    state = on_grid(spec, lambda y, x: np.minimum(np.mod(x, 360), np.mod(-x, 360)) + 0 * y)
    centres = np.array([10.0, 0.0, 0.0, 180.0, 100.0])
    ends = np.array([[5.0, 15.0], [-5.0, 5.0], [355.0, 5.0], [170.0, -170.0], [0.0, 200.0]])
    results = []
    for bounds in (ends, ends[:, ::-1]):
        obs = points(np.arange(5.0), lat=0 * centres, lon=centres)
        obs.t2m.attrs["cell_methods"] = "area: mean"
        for name, values in (("lat", np.tile([-5.0, 5.0], (5, 1))), ("lon", bounds)):
            obs[name].attrs["bounds"] = f"{name}_b"
            obs[f"{name}_b"] = (("obs", "nv"), values)
        results.append(observed(obs, spec, state))
    exact = [10.0, 2.5, 2.5, 175.0, (180**2 / 2 + (180**2 - 160**2) / 2) / 200]
    np.testing.assert_allclose(results[0], exact, atol=1e-6)
    np.testing.assert_allclose(results[1], results[0], atol=1e-9)


def test_descending_boxes_within_a_region() -> None:
    spec = spec_from_dataset(template())
    obs = points([0.0], lat=[52.0], lon=[0.0])
    obs.t2m.attrs["cell_methods"] = "area: mean"
    for name in ("lat", "lon"):
        obs[name].attrs["bounds"] = f"{name}_b"
        obs[f"{name}_b"] = (("obs", "nv"), [[obs[name].item() + 0.5, obs[name].item() - 0.5]])
    assert match_observations(obs, spec, None, obs_error=1.0).counts == {"used": 1}


# -- the globe, whatever the network makes of its edges ------------------------------------------


@pytest.mark.parametrize("closed", [False, True])
@pytest.mark.parametrize("first", [0.0, -180.0])
def test_a_globe_has_no_edge_although_the_network_is_not_periodic(
    first: float, closed: bool
) -> None:
    lat = np.arange(-87.5, 90, 5.0)
    lon = first + np.arange(0, 361 if closed else 360, 5.0)
    spec = spec_from_dataset(template(lat, lon), periodic=())
    assert spec.periodic == (False, False)
    rng = np.random.default_rng(0)
    places = rng.uniform(-90, 90, 300), rng.uniform(-180, 540, 300)
    obs = points(0 * places[0], lat=places[0], lon=places[1])
    plan = match_observations(obs, spec, None, obs_error=1.0)
    assert plan.counts == {"used": 300}
    np.testing.assert_allclose(observed(obs, spec, on_grid(spec)), smooth(*places), atol=0.1)


def test_a_region_keeps_its_edges() -> None:
    spec = spec_from_dataset(template(np.arange(-88.0, 90, 4), np.arange(0, 352, 4.0)), periodic=())
    obs = points([0.0, 0.0], lat=[0.0, 89.0], lon=[354.0, 3.0])
    with pytest.warns(NoObservationsWarning):
        plan = match_observations(obs, spec, None, obs_error=1.0)
    assert plan.counts == {"outside the grid": 2}
