"""H: exact where linear interpolation is, differentiable twice, in the observation's own units."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
import torch
import xarray as xr

from xr_daisi.errors import OperatorError
from xr_daisi.observations import ObservationBatch, match_observations
from xr_daisi.operators import NAMED_OPERATORS, match_variable, resolve_operator
from xr_daisi.state import Normalization, StateSpec, spec_from_dataset


def template(
    lat: Any = None, lon: Any = None, names: tuple[str, ...] = ("t2m",), **attrs: Any
) -> xr.Dataset:
    lat = np.linspace(58, 50, 9) if lat is None else np.asarray(lat, dtype=float)
    lon = np.linspace(-10, 2, 13) if lon is None else np.asarray(lon, dtype=float)
    dims = ("latitude", "longitude")
    zeros = np.zeros((lat.size, lon.size))
    data = {name: (dims, zeros, attrs.get(name, {"units": "K"})) for name in names}
    return xr.Dataset(data, coords={"latitude": lat, "longitude": lon})


def points(values: Any, name: str = "t2m", units: str | None = None, **coords: Any) -> xr.Dataset:
    attrs = {} if units is None else {"units": units}
    placed = {key: ("obs", np.asarray(value)) for key, value in coords.items()}
    return xr.Dataset({name: ("obs", np.asarray(values, dtype=float), attrs)}, coords=placed)


def batch_of(obs: xr.Dataset, spec: StateSpec, **settings: Any) -> ObservationBatch:
    settings = {"obs_error": 1.0, **settings}
    return match_observations(obs, spec, None, **settings).batch(0)


def observed(obs: xr.Dataset, spec: StateSpec, state: np.ndarray, **settings: Any) -> np.ndarray:
    """H of physical states (channel, *space), in float64."""
    tensors = batch_of(obs, spec, **settings).to_tensors(None, dtype=torch.float64)
    result: np.ndarray = tensors.observe(torch.as_tensor(state)[None])[0].numpy()
    return result


def bilinear(lat: Any, lon: Any) -> Any:
    return 3.0 + 0.5 * lat - 0.25 * lon + 0.01 * lat * lon


def scattered(n: int = 200, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.uniform(50, 58, n), rng.uniform(-10, 2, n)


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("shift", [0, 360, -360])
def test_bilinear_functions_are_exact(order: int, shift: int) -> None:
    """Latitude in either direction, longitudes of the observations in any convention."""
    lat, lon = np.linspace(50, 58, 9)[::order], np.linspace(-10, 2, 13)
    spec = spec_from_dataset(template(lat, lon))
    state = bilinear(lat[:, None], lon[None, :])[None]
    y, x = scattered()
    found = observed(points(np.zeros(y.size), lat=y, lon=x + shift), spec, state)
    np.testing.assert_allclose(found, bilinear(y, x), rtol=0, atol=1e-11)


def test_uneven_grids_are_exact_too() -> None:
    lat, lon = np.array([50.0, 50.3, 52.0, 58.0]), np.array([-10.0, -9.5, -4.0, 2.0])
    spec = spec_from_dataset(template(lat, lon))
    y, x = scattered()
    state = bilinear(lat[:, None], lon[None, :])[None]
    found = observed(points(np.zeros(y.size), lat=y, lon=x), spec, state)
    np.testing.assert_allclose(found, bilinear(y, x), atol=1e-11)


def test_on_the_nodes_nothing_is_interpolated() -> None:
    spec = spec_from_dataset(template())
    y, x = np.meshgrid(spec.coords["latitude"], spec.coords["longitude"], indexing="ij")
    state = np.random.default_rng(0).normal(size=spec.shape)
    obs = points(np.zeros(y.size), lat=y.ravel(), lon=x.ravel())
    assert np.array_equal(observed(obs, spec, state), state.ravel())
    (group,) = batch_of(obs, spec).groups
    assert group.points.weight.shape[0] == 1


def test_a_node_does_not_touch_its_neighbours() -> None:
    spec = spec_from_dataset(template())
    state = np.full(spec.shape, np.nan)
    state[0, 2, 3] = 7.0
    obs = points([0.0], lat=[spec.coords["latitude"][2]], lon=[spec.coords["longitude"][3]])
    assert observed(obs, spec, state) == 7.0


@pytest.mark.parametrize("first", [0.0, -180.0, 10.0])
def test_across_the_date_line(first: float) -> None:
    """A global grid has no edge in longitude, whatever the convention on either side."""
    lat, lon = np.linspace(-90, 90, 19), first + np.arange(36) * 10.0
    spec = spec_from_dataset(template(lat, lon))
    assert spec.periodic == (False, True)
    state = np.broadcast_to(np.cos(np.deg2rad(lon)), spec.shape).copy()
    for x in (-5.0, 355.0, 715.0, 175.0, -185.0, first + 355.0, first):
        found = observed(points([0.0], lat=[12.0], lon=[x]), spec, state)
        lower = 10.0 * np.floor(x / 10.0)
        share = (x - lower) / 10.0
        expected = (1 - share) * np.cos(np.deg2rad(lower)) + share * np.cos(np.deg2rad(lower + 10))
        np.testing.assert_allclose(found, expected, atol=1e-12)


def test_plain_periodic_axes_wrap_with_their_own_period() -> None:
    x = np.arange(8) * 2.5
    ds = xr.Dataset({"u": (("y", "x"), np.zeros((4, 8)))}, coords={"x": x, "y": np.arange(4.0)})
    spec = spec_from_dataset(ds, periodic=["x"])
    state = np.tile(np.arange(8.0), (1, 4, 1))
    obs = points(np.zeros(4), "u", x=[18.75, -1.25, 20.0, 38.75], y=[1.0, 1.0, 2.0, 0.0])
    np.testing.assert_allclose(observed(obs, spec, state), [3.5, 3.5, 0.0, 3.5], atol=1e-12)


def test_states_of_one_dimension() -> None:
    ds = xr.Dataset({"u": ("x", np.zeros(5))}, coords={"x": [0.0, 1.0, 2.0, 4.0, 8.0]})
    spec = spec_from_dataset(ds)
    state = 2.0 * spec.coords["x"][None] + 1.0
    found = observed(points(np.zeros(3), "u", x=[0.5, 3.0, 8.0]), spec, state)
    np.testing.assert_allclose(found, [2.0, 7.0, 17.0])


def stacked(levels: Any = (1000.0, 850.0, 500.0)) -> StateSpec:
    level = np.asarray(levels)
    dims = ("latitude", "level", "longitude")
    ds = xr.Dataset(
        {
            "t": (dims, np.zeros((9, level.size, 13)), {"units": "K"}),
            "sp": (("latitude", "longitude"), np.zeros((9, 13)), {"units": "Pa"}),
        },
        coords={
            "latitude": np.linspace(58, 50, 9),
            "longitude": np.linspace(-10, 2, 13),
            "level": ("level", level, {"units": "hPa"}),
        },
    )
    return spec_from_dataset(ds)


@pytest.mark.parametrize("levels", [(1000.0, 850.0, 500.0), (500.0, 850.0, 1000.0)])
def test_pressure_levels_are_linear_in_the_logarithm(levels: tuple[float, ...]) -> None:
    spec = stacked(levels)
    lat, lon = spec.coords["latitude"], spec.coords["longitude"]
    field = bilinear(lat[:, None], lon[None, :])
    state = np.stack([*(field + 9 * np.log(level) for level in levels), 1e5 + field])
    y, x = scattered()
    level = np.random.default_rng(1).uniform(500, 1000, y.size)
    expected = bilinear(y, x) + 9 * np.log(level)
    obs = points(np.zeros(y.size), "t", lat=y, lon=x, level=level)
    np.testing.assert_allclose(observed(obs, spec, state), expected, atol=1e-10)
    obs = points(np.zeros(y.size), "t", lat=y, lon=x, plev=100 * level)
    obs.plev.attrs["units"] = "Pa"
    np.testing.assert_allclose(observed(obs, spec, state), expected, atol=1e-10)
    obs = points(np.zeros(y.size), "sp", lat=y, lon=x)
    np.testing.assert_allclose(observed(obs, spec, state), 1e5 + bilinear(y, x), atol=1e-9)


def normalization(spec: StateSpec, per_point: bool = False, **more: Any) -> Normalization:
    rng = np.random.default_rng(3)
    shape = spec.shape if per_point else (spec.channels, *[1] * len(spec.dims))
    return Normalization(rng.normal(280, 5, shape), rng.uniform(2, 9, shape), **more)


@pytest.mark.parametrize("per_point", [False, True])
@pytest.mark.parametrize(("units", "factor", "offset"), [("K", 1, 0), ("degC", 1, -273.15)])
def test_normalisation_and_units(per_point: bool, units: str, factor: float, offset: float) -> None:
    """Values, errors and residuals are in the observation's own units."""
    spec = spec_from_dataset(template())
    scale = normalization(spec, per_point)
    y, x = scattered(20)
    obs = points(np.full(20, 10.0), units=units, lat=y, lon=x)
    state = np.random.default_rng(0).normal(280, 4, spec.shape)
    physical = observed(points(np.zeros(20), lat=y, lon=x), spec, state)
    tensors = batch_of(obs, spec, obs_error=0.5).to_tensors(scale, dtype=torch.float64)
    found = tensors.observe(torch.as_tensor(scale.normalize(state))[None])[0]
    np.testing.assert_allclose(found, factor * physical + offset, atol=1e-10)
    assert tensors.values.unique().tolist() == [10.0]
    assert tensors.error_std.unique().tolist() == [0.5]


def test_transformed_variables_come_back_before_interpolation() -> None:
    names = ("tp", "t2m")
    spec = spec_from_dataset(template(names=names, tp={"units": "m"}))
    scale = Normalization(np.ones((2, 1, 1)), np.full((2, 1, 1), 0.5), ("log1p", None))
    rain = np.random.default_rng(0).uniform(0, 5, spec.space_shape)
    state = np.stack([rain, np.full(spec.space_shape, 280.0)])
    y, x = scattered(20)
    obs = points(np.zeros(20), "tp", "mm", lat=y, lon=x)
    obs["t2m"] = obs.tp.assign_attrs(units="K")
    expected = observed(obs, spec, state)
    batch = batch_of(obs, spec, operator={"t2m": lambda s: s["tp"]})
    tensors = batch.to_tensors(scale, dtype=torch.float64)
    x0 = torch.as_tensor(scale.normalize(state))[None].requires_grad_()
    np.testing.assert_allclose(tensors.observe(x0)[0, :20].detach(), expected[:20], rtol=1e-9)
    np.testing.assert_allclose(1e3 * tensors.observe(x0)[0, 20:].detach(), expected[:20], rtol=1e-9)
    assert torch.autograd.gradcheck(tensors.observe, (x0,))


def winds() -> StateSpec:
    return spec_from_dataset(
        template(
            names=("a", "b"),
            a={"units": "m s-1", "standard_name": "eastward_wind"},
            b={"units": "m s-1", "standard_name": "northward_wind"},
        )
    )


def mixed_tensors(spec: StateSpec, dtype: torch.dtype = torch.float64) -> Any:
    y, x = scattered(6)
    obs = points(np.ones(6), "a", lat=y, lon=x)
    obs["speed"], obs["b"], obs["mine"] = obs.a, obs.a, obs.a
    settings = {"speed": "wind_speed", "mine": lambda s: torch.sin(s["a"]) * s["b"] ** 2}
    return batch_of(obs, spec, operator=settings).to_tensors(normalization(spec), dtype=dtype)


def test_gradients_of_all_kinds() -> None:
    """Reverse, forward and twice, as the guidance needs them."""
    spec = winds()
    tensors = mixed_tensors(spec)
    x = torch.randn(2, *spec.shape, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(tensors.observe, (x,), check_forward_ad=True)
    v = torch.randn_like(x)
    forward = torch.func.jvp(tensors.observe, (x.detach(),), (v,))[1]
    y = tensors.observe(x)
    u = torch.zeros_like(y, requires_grad=True)
    (pulled,) = torch.autograd.grad(y, x, u, create_graph=True)
    (twice,) = torch.autograd.grad(pulled, u, v)
    torch.testing.assert_close(forward, twice)
    small = torch.randn(1, *spec.shape, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(tensors.observe, (small,), atol=1e-4)


def test_members_do_not_meet() -> None:
    spec = winds()
    tensors = mixed_tensors(spec)
    x = torch.randn(5, *spec.shape, dtype=torch.float64)
    alone = torch.cat([tensors.observe(member[None]) for member in x])
    torch.testing.assert_close(tensors.observe(x), alone)


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("identity", lambda x: x),
        ("log", np.log),
        ("arctan", np.arctan),
        ("square", np.square),
        ("abs", np.abs),
    ],
)
def test_named_operators_of_one_variable(name: str, function: Callable[..., Any]) -> None:
    """Found by name, or as the only variable of the state."""
    spec = spec_from_dataset(template())
    y, x = scattered(9)
    state = np.random.default_rng(0).uniform(0.5, 4, spec.shape)
    plain = observed(points(np.zeros(9), lat=y, lon=x), spec, state)
    for observed_name in ("t2m", "something"):
        obs = points(np.zeros(9), observed_name, lat=y, lon=x)
        found = observed(obs, spec, state, operator={observed_name: name})
        np.testing.assert_allclose(found, function(plain), rtol=1e-12)


def test_named_operators_do_not_convert_units_but_identity_does() -> None:
    spec = spec_from_dataset(template())
    obs = points([0.0], units="degC", lat=[52.0], lon=[0.0])
    state = np.full(spec.shape, 280.0)
    assert observed(obs, spec, state, operator={"t2m": "abs"}) == 280.0
    found = observed(obs, spec, state, operator={"t2m": "identity"})
    np.testing.assert_allclose(found, 280 - 273.15)


def test_named_operators_are_finite_where_their_derivative_is_not() -> None:
    spec = winds()
    obs = points([1.0], "speed", lat=[52.0], lon=[0.0])
    obs["a"] = obs.speed
    batch = batch_of(obs, spec, operator={"speed": "wind_speed", "a": "log"})
    tensors = batch.to_tensors(None)
    x = torch.zeros(1, *spec.shape, requires_grad=True)
    y = tensors.observe(x)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert torch.isfinite(y).all()
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("names", [("u", "v"), ("u10", "v10")])
def test_wind_speed_by_names(names: tuple[str, str]) -> None:
    units = {name: {"units": "m s-1"} for name in names}
    spec = spec_from_dataset(template(names=names, **units))
    state = np.stack([np.full(spec.space_shape, 3.0), np.full(spec.space_shape, 4.0)])
    obs = points([0.0], "ws", lat=[52.2], lon=[0.1])
    np.testing.assert_allclose(observed(obs, spec, state, operator={"ws": "wind_speed"}), 5.0)


@pytest.mark.parametrize(
    ("operator", "message"),
    [
        ("cube", "found the operator 'cube', expected one of"),
        ("wind_speed", "expected standard names"),
        (3, "found an operator of type int"),
    ],
)
def test_operators_that_are_none(operator: Any, message: str) -> None:
    spec = spec_from_dataset(template())
    with pytest.raises(OperatorError, match=message):
        resolve_operator(operator, "t2m", None, spec)


def test_named_operator_without_its_variable() -> None:
    with pytest.raises(OperatorError, match="x: found the operator 'log' and no state variable"):
        resolve_operator("log", "x", None, winds())


def test_matching_by_standard_name() -> None:
    spec = winds()
    assert match_variable("a", None, spec) == "a"
    assert match_variable("ws", "eastward_wind", spec) == "a"
    assert match_variable("ws", "unknown", spec) is None
    kind = {"standard_name": "air_temperature"}
    twice = spec_from_dataset(template(names=("t2m", "skt"), t2m=kind, skt=kind))
    with pytest.raises(OperatorError, match=r"obs\.rename"):
        match_variable("x", "air_temperature", twice)


def raising(state: Any) -> Any:
    raise RuntimeError("no such thing")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (raising, "operator 'raising': found RuntimeError: no such thing"),
        (lambda s: s["nothing"], "found KeyError: 'nothing'"),
        (lambda s: s["t2m"].mean(1), r"found a result of shape \(2,\)"),
        (lambda s: s["t2m"].detach().numpy(), "found a result of type float64"),
        (lambda s: s["t2m"] > 0, "found a result of type torch.bool"),
        (lambda s: None, "found a result of type NoneType"),
    ],
)
def test_user_functions_that_fail(function: Callable[..., Any], message: str) -> None:
    spec = spec_from_dataset(template())
    obs = points(np.zeros(3), lat=[51, 52, 53], lon=[0, 0, 0])
    batch = batch_of(obs, spec, operator={"t2m": function})
    tensors = batch.to_tensors(None, dtype=torch.float64)
    with pytest.raises(OperatorError, match=message) as caught:
        tensors.observe(torch.zeros(2, *spec.shape, dtype=torch.float64))
    assert str(caught.value).startswith("t2m, operator")


def test_functions_see_all_variables() -> None:
    seen = {}

    def function(state: Any) -> Any:
        seen.update({name: tuple(tensor.shape) for name, tensor in state.items()})
        return state["a"] + len(state)

    obs = points([0.0, 0.0], "x", lat=[51, 52], lon=[0, 0])
    found = observed(obs, winds(), np.zeros(winds().shape), operator={"x": function})
    assert found.tolist() == [2.0, 2.0]
    assert seen == {"a": (1, 2), "b": (1, 2)}


def test_a_function_that_asks_for_levels_needs_a_level() -> None:
    spec = stacked()
    obs = points([0.0], "x", lat=[52], lon=[0])
    state = np.zeros(spec.shape)
    assert observed(obs, spec, state, operator={"x": lambda s: s["sp"]}) == 0.0
    with pytest.raises(OperatorError, match="no vertical coordinate, while 't' has 3 levels"):
        observed(obs, spec, state, operator={"x": lambda s: s["t"]})
    placed = obs.assign_coords(level=700.0)
    state[:3] = np.log([1000.0, 850.0, 500.0])[:, None, None]
    found = observed(placed, spec, state, operator={"x": lambda s: s["t"]})
    np.testing.assert_allclose(found, np.log(700.0))


def test_a_function_without_forward_mode_raises_torch_own_error_later() -> None:
    """The guidance falls back on two backwards when it sees torch's error, not ours."""

    class NoForward(torch.autograd.Function):
        @staticmethod
        def forward(x: Any) -> Any:
            return x.clone()

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            pass

        @staticmethod
        def backward(ctx: Any, gradient: Any) -> Any:
            return gradient

    spec = spec_from_dataset(template())
    obs = points([0.0], lat=[52], lon=[0])
    batch = batch_of(obs, spec, operator={"t2m": lambda s: NoForward.apply(s["t2m"])})
    tensors = batch.to_tensors(None)
    x = torch.zeros(1, *spec.shape)
    tensors.observe(x)
    with pytest.raises(RuntimeError, match="jvp"):
        torch.func.jvp(tensors.observe, (x,), (x,))


def test_batches_travel() -> None:
    spec = winds()
    y, x = scattered(5)
    obs = points(np.arange(5), "a", lat=y, lon=x)
    batch = batch_of(obs, spec, operator={"a": "square"})
    state = torch.randn(1, *spec.shape)
    for copy in (pickle.loads(pickle.dumps(batch)), cloudpickle.loads(cloudpickle.dumps(batch))):
        expected = batch.to_tensors(None).observe(state)
        torch.testing.assert_close(copy.to_tensors(None).observe(state), expected)


def test_keep_leaves_the_others_as_they_are() -> None:
    spec = winds()
    tensors = mixed_tensors(spec)
    y, x = scattered(6)
    obs = points(np.ones(6), "a", lat=y, lon=x)
    obs["speed"], obs["b"] = obs.a, 2 * obs.a
    batch = batch_of(obs, spec, operator={"speed": "wind_speed"})
    mask = np.zeros(len(batch), dtype=bool)
    mask[[1, 4, 12, 15]] = True
    state = torch.randn(1, *spec.shape)
    kept = batch.keep(mask)
    assert len(kept) == 4
    assert len(kept.groups) == 2
    assert kept.rows.tolist() == batch.rows[mask].tolist()
    everything = batch.to_tensors(None).observe(state)[:, mask]
    torch.testing.assert_close(kept.to_tensors(None).observe(state), everything)
    nothing = batch.keep(np.zeros(len(batch), dtype=bool)).to_tensors(None)
    assert nothing.observe(state).shape == (1, 0)
    assert tensors.values.dtype == torch.float64


def test_half_precision_states_keep_precise_observations() -> None:
    spec = spec_from_dataset(template())
    scale = normalization(spec)
    obs = points([280.1], lat=[52.2], lon=[0.3])
    tensors = batch_of(obs, spec).to_tensors(scale, dtype=torch.bfloat16)
    assert tensors.values.dtype == torch.float32
    x = torch.zeros(1, *spec.shape, dtype=torch.bfloat16, requires_grad=True)
    y = tensors.observe(x)
    assert y.dtype == torch.float32
    y.sum().backward()


def test_a_state_of_another_shape() -> None:
    spec = spec_from_dataset(template())
    tensors = batch_of(points([0.0], lat=[52], lon=[0]), spec).to_tensors(None)
    with pytest.raises(OperatorError, match=r"expected \(batch, 1, 9, 13\)"):
        tensors.observe(torch.zeros(2, 1, 9, 12))


def test_names_are_documented() -> None:
    text = (Path(__file__).parents[1] / "docs" / "observations.md").read_text(encoding="utf-8")
    for name in NAMED_OPERATORS:
        assert f'"{name}' in text, name


def test_a_million_points() -> None:
    """How long they take is measured by benchmarks/observation_operator.py."""
    lat, lon = np.linspace(90, -90, 721), np.arange(1440) * 0.25
    spec = spec_from_dataset(template(lat, lon))
    rng = np.random.default_rng(0)
    n = 10**6
    obs = points(rng.normal(size=n), lat=rng.uniform(-90, 90, n), lon=rng.uniform(-180, 180, n))
    tensors = batch_of(obs, spec).to_tensors(normalization(spec))
    assert tensors.values.shape == (n,)
