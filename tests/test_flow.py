"""Interpolants, the algebra between velocity, score and denoised state, and converters."""

from __future__ import annotations

import math
import pickle

import pytest
import torch
from closed_form import GaussianVelocity, normal, smooth_covariance
from torch import Tensor, nn

from xr_daisi.errors import DaisiError
from xr_daisi.flow import (
    INTERPOLANTS,
    LINEAR,
    TRIG,
    Flow,
    Interpolant,
    velocity_from_edm,
    velocity_from_epsilon,
    velocity_from_v,
)

N = 6
MEAN = normal((N,), 1)
COVARIANCE = smooth_covariance(N, variance=0.8)
EYE = torch.eye(N, dtype=torch.float64)
X = normal((5, N), 2)

both = pytest.mark.parametrize("interpolant", INTERPOLANTS.values(), ids=list(INTERPOLANTS))


@both
def test_interpolant_ends_and_derivatives(interpolant: Interpolant) -> None:
    assert (interpolant.alpha(0.0), interpolant.beta(0.0)) == (1.0, 0.0)
    assert (interpolant.alpha(1.0), interpolant.beta(1.0)) == (0.0, 1.0)
    h = 1e-6
    for t in (0.1, 0.5, 0.9):
        for value, slope in (
            (interpolant.alpha, interpolant.d_alpha),
            (interpolant.beta, interpolant.d_beta),
        ):
            assert slope(t) == pytest.approx((value(t + h) - value(t - h)) / (2 * h), abs=1e-8)
        assert interpolant.gamma(t) == pytest.approx(1.0 if interpolant is LINEAR else math.pi / 2)


@both
@pytest.mark.parametrize("t", [0.0, 1e-3, 0.3, 0.65, 0.999])
def test_score_and_denoised_state_of_a_gaussian(interpolant: Interpolant, t: float) -> None:
    flow = Flow(GaussianVelocity(MEAN, COVARIANCE, interpolant), interpolant)
    alpha, beta = interpolant.alpha(t), interpolant.beta(t)
    marginal = beta**2 * COVARIANCE + alpha**2 * EYE
    pull = torch.linalg.solve(marginal, (X - beta * MEAN).mT).mT
    torch.testing.assert_close(flow.score(X, t), -pull, rtol=1e-9, atol=1e-9)
    denoised = MEAN + beta * pull @ COVARIANCE
    torch.testing.assert_close(flow.denoise(X, t), denoised, rtol=1e-9, atol=1e-9)


@both
def test_ends(interpolant: Interpolant) -> None:
    flow = Flow(GaussianVelocity(MEAN, COVARIANCE, interpolant), interpolant)
    torch.testing.assert_close(flow.score(X, 0.0), -X)
    torch.testing.assert_close(flow.denoise(X, 0.0), MEAN.expand_as(X))
    torch.testing.assert_close(flow.denoise(X, 1.0), X)
    assert torch.equal(flow.score(X, 1.0), torch.zeros_like(X))


def test_evaluate_costs_one_forward_and_agrees() -> None:
    velocity = GaussianVelocity(MEAN, COVARIANCE)
    flow = Flow(velocity)
    drift = flow.evaluate(X, 0.4)
    assert velocity.calls == 1
    assert torch.equal(drift.velocity, flow.velocity(X, 0.4))
    assert torch.equal(drift.score, flow.score(X, 0.4))


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(2, 2, 3, padding=1)
        self.times: list[Tensor] = []

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        assert t.shape == (len(x),)
        assert t.dtype == x.dtype
        out: Tensor = self.convolution(x) * t[:, None, None, None]
        return out


@pytest.mark.parametrize("wrap", [lambda network: network, velocity_from_edm])
def test_module_as_velocity_pickles(wrap: object) -> None:
    network = Network()
    flow = Flow(wrap(network))  # type: ignore[operator]
    x = torch.randn(3, 2, 5, 4)
    copy = pickle.loads(pickle.dumps(flow))
    assert torch.equal(copy.velocity(x, 0.3), flow.velocity(x, 0.3))
    assert copy.interpolant == flow.interpolant
    assert "Flow(" in repr(flow)


def test_converted_velocity_passes_modes_and_devices_on() -> None:
    network = Network()
    velocity = velocity_from_edm(network)
    assert isinstance(velocity, nn.Module)
    velocity.eval().double()
    assert not network.training
    assert network.convolution.weight.dtype == torch.float64


@pytest.mark.parametrize("interpolant", [LINEAR, TRIG])
def test_interpolants_pickle(interpolant: Interpolant) -> None:
    assert pickle.loads(pickle.dumps(interpolant)) == interpolant


def test_velocity_that_changes_the_shape_is_refused() -> None:
    with pytest.raises(DaisiError, match=r"\(5, 3\).*\(5, 6\)"):
        Flow(lambda x, t: x[:, :3]).velocity(X, 0.5)


def test_velocity_that_returns_no_tensor_is_refused() -> None:
    with pytest.raises(DaisiError, match="velocity: found ndarray, expected a tensor"):
        Flow(lambda x, t: x.numpy()).velocity(X, 0.5)  # type: ignore[arg-type,return-value]


def test_something_that_is_not_a_velocity_is_refused() -> None:
    with pytest.raises(TypeError, match="str"):
        Flow("unet")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="str"):
        velocity_from_edm("unet")  # type: ignore[arg-type]


def test_output_comes_in_the_dtype_of_the_state() -> None:
    flow = Flow(lambda x, t: x.to(torch.bfloat16))
    assert flow.velocity(X, 0.5).dtype == torch.float64


# --- converters: the Gaussian's denoiser, noise predictor and v-predictor are all known ----------


def exact_data(y: Tensor, sigma: float) -> Tensor:
    gain = torch.linalg.solve(COVARIANCE + sigma**2 * EYE, COVARIANCE)
    return MEAN + (y - MEAN) @ gain


def edm(y: Tensor, sigma: Tensor) -> Tensor:
    return exact_data(y, float(sigma[0]))


def alpha_bar(s: float) -> float:
    """Cosine-like schedule between sigma 0.005 and 200; data at s = 0."""
    angle = math.atan(0.005) + s * (math.atan(200.0) - math.atan(0.005))
    return math.cos(angle) ** 2


def reversed_alpha_bar(s: float) -> float:
    return alpha_bar(1.0 - s / 999.0)


LEVELS = [alpha_bar(k / 999.0) for k in range(1000)]


class Predictor:
    """Noise and v of the Gaussian, for a schedule in which time and sigma are one to one."""

    def __init__(self, kind: str, schedule: str) -> None:
        self.kind, self.schedule = kind, schedule

    def level(self, s: float) -> float:
        if self.schedule == "function":
            return alpha_bar(s)
        if self.schedule == "reversed":
            return reversed_alpha_bar(s)
        below = min(int(s), len(LEVELS) - 2)
        logit = [math.log(LEVELS[k] / (1 - LEVELS[k])) for k in (below, below + 1)]
        return 1 / (1 + math.exp(-(logit[0] + (s - below) * (logit[1] - logit[0]))))

    def __call__(self, u: Tensor, times: Tensor) -> Tensor:
        a = self.level(float(times[0]))
        sigma = math.sqrt((1 - a) / a)
        data = exact_data(u / math.sqrt(a), sigma)
        noise = (u / math.sqrt(a) - data) / sigma
        if self.kind == "epsilon":
            return noise
        return math.sqrt(a) * noise - math.sqrt(1 - a) * data


SCHEDULES = {
    "function": (alpha_bar, (0.0, 1.0)),
    "reversed": (reversed_alpha_bar, (0.0, 999.0)),
    "discrete": (LEVELS, (0.0, 1.0)),
}


def converted(name: str, interpolant: Interpolant) -> Flow:
    if name == "edm":
        return Flow(velocity_from_edm(edm, interpolant=interpolant), interpolant)
    kind, schedule = name.split("-")
    convert = velocity_from_epsilon if kind == "epsilon" else velocity_from_v
    levels, time_range = SCHEDULES[schedule]
    return Flow(
        convert(Predictor(kind, schedule), levels, time_range=time_range, interpolant=interpolant),
        interpolant,
    )


NAMES = ["edm", *(f"{kind}-{schedule}" for kind in ("epsilon", "v") for schedule in SCHEDULES)]


@both
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("t", [0.02, 0.3, 0.7, 0.99])
def test_converters_give_the_gaussian_velocity(
    name: str, interpolant: Interpolant, t: float
) -> None:
    found = converted(name, interpolant).velocity(X, t)
    expected = GaussianVelocity(MEAN, COVARIANCE, interpolant)(
        X, torch.full((5,), t, dtype=X.dtype)
    )
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-7)


@both
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("t", "tolerance"), [(0.0, 0.1), (1e-4, 0.1), (0.9999, 1e-3), (1.0, 1e-12)]
)
def test_converters_at_the_ends(
    name: str, interpolant: Interpolant, t: float, tolerance: float
) -> None:
    """Beyond the noise levels of the network: finite, and right up to its range of sigma."""
    found = converted(name, interpolant).velocity(X, t)
    exact = GaussianVelocity(MEAN, COVARIANCE, interpolant)
    expected = exact(X, torch.full((5,), t, dtype=X.dtype))
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


def test_converter_is_continuous_where_the_network_s_range_ends() -> None:
    flow = converted("edm", LINEAR)
    for sigma in (80.0, 0.002):
        t = 1 / (1 + sigma)
        torch.testing.assert_close(
            flow.velocity(X, t * (1 - 1e-9)), flow.velocity(X, t * (1 + 1e-9)), rtol=0, atol=1e-4
        )


def test_zero_terminal_signal_stays_finite() -> None:
    levels = [1.0, 0.8, 0.4, 0.1, 0.0]

    def predictor(u: Tensor, times: Tensor) -> Tensor:
        assert 0.0 <= float(times[0]) <= 4.0
        return u

    for convert in (velocity_from_epsilon, velocity_from_v):
        flow = Flow(convert(predictor, levels))
        for t in (0.0, 1e-5, 0.01, 0.5, 0.99, 1.0):
            assert torch.isfinite(flow.velocity(X, t)).all()


@pytest.mark.parametrize("levels", [[0.5], [0.9, 0.5, 0.6], [1.2, 0.5], [0.5, 0.5]])
def test_schedule_that_is_not_monotone_is_refused(levels: list[float]) -> None:
    with pytest.raises(DaisiError, match="alpha_bar"):
        velocity_from_v(edm, levels)


def test_noise_levels_in_the_wrong_order_are_refused() -> None:
    with pytest.raises(DaisiError, match="sigma_min"):
        velocity_from_edm(edm, sigma_min=1.0, sigma_max=0.5)


def test_different_times_in_one_call_are_refused() -> None:
    with pytest.raises(DaisiError, match="equal"):
        velocity_from_edm(edm)(X, torch.linspace(0, 1, 5))
