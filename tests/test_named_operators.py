"""Derived quantities by name, functions on the grid, circular residuals, correlated errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from test_operators import batch_of, normalization, observed, points, template

import xr_daisi
from xr_daisi import OperatorError
from xr_daisi.averaging import Averaging
from xr_daisi.circular import next_to
from xr_daisi.error_covariance import CovarianceBlock, Whitening, correlation_by_distance
from xr_daisi.errors import ObservationError
from xr_daisi.guidance import GuidedFlow
from xr_daisi.observations import match_observations
from xr_daisi.operators import resolve_operator
from xr_daisi.state import StateSpec, spec_from_dataset

WIND = {
    "a": {"units": "m s-1", "standard_name": "eastward_wind"},
    "b": {"units": "m s-1", "standard_name": "northward_wind"},
}
HERE = {"lat": [52.3], "lon": [0.1]}


def winds() -> StateSpec:
    return spec_from_dataset(template(names=("a", "b"), **WIND))


def uniform(spec: StateSpec, *values: float) -> np.ndarray:
    return np.stack([np.full(spec.space_shape, value) for value in values])


@pytest.mark.parametrize(
    ("u", "v", "direction"),
    [(0, -5, 0), (-5, 0, 90), (0, 5, 180), (5, 0, 270), (-3, -3, 45), (3, -3, 315)],
)
def test_wind_direction_is_where_the_wind_comes_from(u: float, v: float, direction: float) -> None:
    spec = winds()
    state = uniform(spec, u, v)
    for units, factor in (("degree", 1.0), ("radian", np.pi / 180)):
        obs = points([0.0], "dd", units, **HERE)
        found = observed(obs, spec, state, operator={"dd": "wind_direction"})
        np.testing.assert_allclose(found, direction * factor, atol=1e-12)


def test_residuals_of_directions_go_the_shorter_way() -> None:
    spec = winds()
    obs = points([350.0], "dd", "degree", **HERE)
    tensors = batch_of(obs, spec, operator={"dd": "wind_direction"}).to_tensors(
        None, dtype=torch.float64
    )
    for predicted, residual in ((10.0, -20.0), (340.0, 10.0), (171.0, 179.0), (169.0, -179.0)):
        found = tensors.residual(torch.tensor([[predicted]], dtype=torch.float64))
        np.testing.assert_allclose(found, [[residual]])
    moved = next_to(np.array([350.0, 1.0]), np.array([[10.0, 9.0]]), np.array([360.0, 0.0]))
    np.testing.assert_allclose(moved, [[370.0, 9.0]])


@pytest.mark.parametrize("units", [None, "m s-1", "knot", "km/h"])
def test_wind_speed_in_other_units(units: str | None) -> None:
    spec = winds()
    factor = {"knot": 3600 / 1852, "km/h": 3.6}.get(units or "", 1.0)
    obs = points([0.0], "ff", units, **HERE)
    found = observed(obs, spec, uniform(spec, 3.0, 4.0), operator={"ff": "wind_speed"})
    np.testing.assert_allclose(found, 5.0 * factor, rtol=1e-9)


def test_arguments_are_converted_to_the_units_of_the_formula() -> None:
    knots = {name: {**attrs, "units": "knot"} for name, attrs in WIND.items()}
    spec = spec_from_dataset(template(names=("a", "b"), **knots))
    obs = points([0.0], "ff", "m s-1", **HERE)
    found = observed(obs, spec, uniform(spec, 3.0, 4.0), operator={"ff": "wind_speed"})
    np.testing.assert_allclose(found, 5.0 * 1852 / 3600, rtol=1e-9)
    with pytest.raises(ObservationError, match="ff: found units"):
        observed(
            obs.assign(ff=obs.ff.assign_attrs(units="K")),
            spec,
            uniform(spec, 3, 4),
            operator={"ff": "wind_speed"},
        )


def bolton(kelvin: float) -> float:
    return float(611.2 * np.exp(17.67 * (kelvin - 273.15) / (kelvin - 29.65)))


def test_relative_humidity_near_the_ground() -> None:
    attrs = {
        "t2m": {"units": "K", "standard_name": "air_temperature"},
        "q2m": {"units": "g kg-1", "standard_name": "specific_humidity"},
        "sp": {"units": "hPa", "standard_name": "surface_air_pressure"},
    }
    spec = spec_from_dataset(template(names=tuple(attrs), **attrs))
    q, p = 0.006, 101300.0
    expected = q * p / (0.622 + 0.378 * q) / bolton(288.0)
    for units, factor in (("1", 1.0), ("%", 100.0)):
        obs = points([0.0], "rh", units, **HERE)
        found = observed(
            obs, spec, uniform(spec, 288.0, 1e3 * q, p / 100), operator={"rh": "relative_humidity"}
        )
        np.testing.assert_allclose(found, factor * expected, rtol=1e-9)
    assert 0.5 < expected < 0.6


def test_relative_humidity_from_the_dew_point() -> None:
    attrs = {"t2m": {"units": "K"}, "d2m": {"units": "K"}}
    spec = spec_from_dataset(template(names=("t2m", "d2m"), **attrs))
    obs = points([0.0], "rh", "%", **HERE)
    for dew_point in (288.0, 280.0):
        found = observed(
            obs, spec, uniform(spec, 288.0, dew_point), operator={"rh": "relative_humidity"}
        )
        np.testing.assert_allclose(found, 100 * bolton(dew_point) / bolton(288.0), rtol=1e-9)


def test_relative_humidity_on_pressure_levels() -> None:
    levels = np.array([1000.0, 850.0, 500.0])
    lat, lon = np.linspace(58, 50, 9), np.linspace(-10, 2, 13)
    shape = (3, 9, 13)
    ds = xr.Dataset(
        {
            "t": (("level", "latitude", "longitude"), np.zeros(shape), {"units": "K"}),
            "q": (("level", "latitude", "longitude"), np.zeros(shape), {"units": "1"}),
        },
        coords={"level": ("level", levels, {"units": "hPa"}), "latitude": lat, "longitude": lon},
    )
    spec = spec_from_dataset(ds)
    state = np.concatenate([np.full(shape, 280.0), np.full(shape, 0.004)])
    for level in (1000.0, 850.0, 500.0):
        obs = points([0.0], "rh", "1", **HERE, level=[level])
        found = observed(obs, spec, state, operator={"rh": "relative_humidity"})
        expected = 0.004 * 100 * level / (0.622 + 0.378 * 0.004) / bolton(280.0)
        np.testing.assert_allclose(found, expected, rtol=1e-9)
    # Between levels the pressure is the observation's own.
    obs = points([0.0], "rh", "1", **HERE, level=[700.0])
    found = observed(obs, spec, state, operator={"rh": "relative_humidity"})
    expected = 0.004 * 70000 / (0.622 + 0.378 * 0.004) / bolton(280.0)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("operator", "width"), [("threshold(0.1)", 0.01), ("threshold(0.1, 0.05)", 0.05)]
)
def test_threshold_is_a_smooth_step(operator: str, width: float) -> None:
    spec = spec_from_dataset(template(names=("tp",), tp={"units": "mm"}))
    obs = points([1.0], "rain", "1", **HERE)
    for rain in (0.0, 0.1, 0.13, 5.0):
        found = observed(obs, spec, uniform(spec, rain), operator={"rain": operator})
        np.testing.assert_allclose(found, 1 / (1 + np.exp(-(rain - 0.1) / width)), rtol=1e-9)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("threshold", r"expected 'threshold\(value\)' or"),
        ("threshold(a)", "expected 'threshold"),
        ("threshold(1, 2, 3)", "expected 'threshold"),
        ("threshold(nan)", "expected 'threshold"),
        ("threshold(0)", "expected a positive width"),
        ("threshold(1, -1)", "expected a positive width"),
        ("wind_speed(3)", "expected 'wind_speed'"),
        ("__import__('os')", "expected one of"),
        ("windspeed", "expected one of"),
    ],
)
def test_texts_that_are_no_operators(text: str, message: str) -> None:
    with pytest.raises(OperatorError, match=message):
        resolve_operator(text, "a", None, winds())


def test_humidity_without_pressure_is_named() -> None:
    names = {"t2m": {"units": "K"}, "q2m": {"units": "1"}}
    spec = spec_from_dataset(template(names=("t2m", "q2m"), **names))
    with pytest.raises(OperatorError, match=r"specific_humidity.*pressure.*dew_point_temperature"):
        resolve_operator("relative_humidity", "rh", None, spec)


@pytest.mark.parametrize("operator", ["wind_direction", "wind_speed"])
def test_gradients_are_right_and_finite_in_a_calm(operator: str) -> None:
    spec = winds()
    obs = points([10.0], "x", **HERE)
    tensors = batch_of(obs, spec, operator={"x": operator}).to_tensors(None, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, *spec.shape, dtype=torch.float64, generator=generator).requires_grad_()
    assert torch.autograd.gradcheck(tensors.observe, (x,), check_forward_ad=True)
    calm = torch.zeros(1, *spec.shape, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(tensors.observe(calm).sum(), calm)
    assert torch.isfinite(gradient).all()


# -- functions on the grid ----------------------------------------------------------------------


def test_a_vorticity_on_the_grid() -> None:
    spec = winds()
    y, x = np.meshgrid(spec.coords["latitude"], spec.coords["longitude"], indexing="ij")
    state = np.stack([0.5 * y**2, 3.0 * x])  # dv/dx - du/dy = 3 - y

    def vorticity(fields: Any) -> torch.Tensor:
        u, v = fields["a"], fields["b"]
        dv = torch.gradient(v, spacing=1.0, dim=-1)[0]
        du = torch.gradient(u, spacing=-1.0, dim=-2)[0]
        return dv - du

    lat, lon = [52.5, 55.0, 56.3], [-3.2, 0.0, 1.1]
    obs = points(np.zeros(3), "vo", lat=lat, lon=lon)
    found = observed(obs, spec, state, operator={"vo": xr_daisi.on_grid(vorticity)})
    np.testing.assert_allclose(found, 3.0 - np.array(lat), rtol=1e-9)


def test_a_local_function_on_the_grid_is_interpolated_afterwards() -> None:
    spec = winds()
    scale = normalization(spec)
    obs = points([0.0, 0.0], "x", "km/h", lat=[52.3, 54.0], lon=[0.1, 1.0])
    x = torch.randn(3, *spec.shape, dtype=torch.float64, requires_grad=True)
    linear = {"x": xr_daisi.on_grid(lambda s: 2 * s["a"] + s["b"], units="m s-1")}
    points_too = {"x": lambda s: 3.6 * (2 * s["a"] + s["b"])}
    grid, place = (
        batch_of(obs, spec, operator=operator).to_tensors(scale, dtype=torch.float64)
        for operator in (linear, points_too)
    )
    torch.testing.assert_close(grid.observe(x), place.observe(x))
    assert torch.autograd.gradcheck(grid.observe, (x,), check_forward_ad=True)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda s: s["a"].mean(), "result of shape"),
        (lambda s: s["c"], "KeyError: 'c'"),
        (lambda s: s["a"].detach().numpy(), "a result of type float64"),
    ],
)
def test_bad_functions_on_the_grid(function: Any, message: str) -> None:
    spec = winds()
    with pytest.raises(OperatorError, match=message):
        observed(
            points([0.0], "x", **HERE),
            spec,
            uniform(spec, 1, 2),
            operator={"x": xr_daisi.on_grid(function)},
        )


def test_on_grid_wants_a_function() -> None:
    with pytest.raises(OperatorError, match="on_grid: found an object of type str"):
        xr_daisi.on_grid("vorticity")  # type: ignore[arg-type]


# -- correlated errors, averages ----------------------------------------------------------------


def covariance(n: int, blocks: list[CovarianceBlock], std: np.ndarray) -> np.ndarray:
    full = np.eye(n)
    for block in blocks:
        full[np.ix_(block.places, block.places)] = block.correlation
    return full * np.outer(std, std)


def some_blocks() -> list[CovarianceBlock]:
    near = correlation_by_distance(np.array([[0.0], [1.0], [3.0]]), 2.0)
    pair = np.array([[1.0, -0.6], [-0.6, 1.0]])
    return [
        CovarianceBlock(np.array([6, 1, 3]), near),
        CovarianceBlock(np.array([0, 5]), pair),
        CovarianceBlock(np.array([4, 7]), pair),
        CovarianceBlock(np.array([2]), np.eye(1)),
    ]


def test_whitening_is_the_root_of_the_inverse() -> None:
    std = np.linspace(0.5, 2.0, 8)
    white = Whitening(torch.from_numpy(std), some_blocks())
    eye = torch.eye(8, dtype=torch.float64)
    w = white.whiten(eye).mT.numpy()
    r = covariance(8, some_blocks(), std)
    np.testing.assert_allclose(w.T @ w, np.linalg.inv(r), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(white.whiten_transpose(eye).mT.numpy(), w.T, atol=1e-12)


def test_correlations_by_distance_are_positive_definite() -> None:
    rng = np.random.default_rng(0)
    on_sphere = rng.normal(size=(300, 3))
    on_sphere *= 6371.0 / np.linalg.norm(on_sphere, axis=1, keepdims=True)
    on_sphere[1] = on_sphere[0]  # two at one place
    for length in (10.0, 1000.0, 20000.0):
        found = correlation_by_distance(on_sphere, length)
        assert np.linalg.eigvalsh(found).min() > 0
        np.testing.assert_array_equal(np.diag(found), 1.0)


def test_a_matrix_that_is_none_is_named() -> None:
    bad = CovarianceBlock(np.array([0, 1]), np.array([[1.0, 1.5], [1.5, 1.0]]))
    with pytest.raises(ObservationError, match="1 matrices of 2 x 2 that are not positive"):
        Whitening(torch.ones(3), [bad])


def test_the_average_and_its_error() -> None:
    """Values, operator and R of super-observations are A y, A H and A R A'."""
    spec = winds()
    rng = np.random.default_rng(0)
    n, std = 8, np.linspace(0.5, 2.0, 8)
    obs = points(rng.normal(size=n), "a", lat=rng.uniform(51, 57, n), lon=rng.uniform(-9, 1, n))
    obs["a_error"] = ("obs", std)
    batch = match_observations(obs, spec, None).batch(0)
    group = np.array([0, 1, 1, 0, 2, 3, 2, 1])
    weight = rng.uniform(0.5, 1.0, n)
    weight /= np.bincount(group, weight)[group]
    matrix = np.zeros((4, n))
    matrix[group, np.arange(n)] = weight
    x = torch.randn(2, *spec.shape, dtype=torch.float64)
    from dataclasses import replace

    for blocks in ([], some_blocks()):
        plain = replace(batch, blocks=tuple(blocks))
        merged = replace(plain, averaging=Averaging(group, weight))
        one, other = (b.to_tensors(None, dtype=torch.float64) for b in (plain, merged))
        torch.testing.assert_close(other.values, torch.from_numpy(matrix) @ one.values)
        torch.testing.assert_close(other.observe(x), one.observe(x) @ torch.from_numpy(matrix).mT)
        r = matrix @ covariance(n, blocks, std) @ matrix.T
        w = other.whiten(torch.eye(4, dtype=torch.float64)).mT.numpy()
        np.testing.assert_allclose(w.T @ w, np.linalg.inv(r), rtol=1e-8, atol=1e-9)
        np.testing.assert_allclose(other.error_std, np.sqrt(np.diag(r)))


def test_dps_uses_the_inverse_of_the_whole_r() -> None:
    from closed_form import GaussianVelocity, smooth_covariance

    from xr_daisi.flow import Flow

    spec = spec_from_dataset(xr.Dataset({"u": ("x", np.zeros(8))}, coords={"x": np.arange(8.0)}))
    obs = points(np.linspace(-1, 1, 3), "u", x=[1.0, 2.0, 5.0])
    obs["u_error_correlation"] = (("obs", "obs2"), correlation_by_distance(np.eye(3), 3.0))
    batch = match_observations(obs, spec, None, obs_error=0.5).batch(0)
    tensors = batch.to_tensors(None, dtype=torch.float64)
    flow = Flow(GaussianVelocity(torch.zeros(8, dtype=torch.float64), smooth_covariance(8)))
    x = torch.randn(2, 1, 8, dtype=torch.float64)
    t = 0.4
    guided = GuidedFlow(flow, tensors, guidance="dps-exact").evaluate(x, t)
    state = x.clone().requires_grad_()
    residual = tensors.values - tensors.observe(flow.denoise(state, t))
    r = torch.from_numpy(0.25 * batch.blocks[0].correlation)
    misfit = 0.5 * (residual * torch.linalg.solve(r, residual.mT).mT).sum()
    (gradient,) = torch.autograd.grad(-misfit, state)
    torch.testing.assert_close(guided.score - flow.score(x, t), gradient)
