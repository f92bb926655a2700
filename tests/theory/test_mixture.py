"""A mixture of two Gaussians, whose posterior is again a known mixture."""

from __future__ import annotations

import pytest
import torch
from closed_form import (
    GaussianMixtureVelocity,
    PointObservations,
    kalman,
    normal,
    relative,
)
from torch import Tensor

from xr_daisi.flow import LINEAR, Drift, Flow
from xr_daisi.guidance import GuidedFlow
from xr_daisi.sampling import NoiseSource, generate, initial_noise

WEIGHTS = torch.tensor([0.3, 0.7], dtype=torch.float64)
MEANS = torch.tensor([[-2.0, 1.0], [2.0, -1.0]], dtype=torch.float64)
COVARIANCE = torch.tensor([[0.25, 0.10], [0.10, 0.16]], dtype=torch.float64)
FLOW = Flow(GaussianMixtureVelocity(WEIGHTS, MEANS, COVARIANCE))
MEMBERS = 3000


def observation(row: list[float], value: float, error: float) -> PointObservations:
    return PointObservations(
        torch.tensor([row], dtype=torch.float64),
        torch.tensor([value], dtype=torch.float64),
        error,
    )


def posterior(obs: PointObservations) -> tuple[Tensor, Tensor, Tensor]:
    """Weights, means and common covariance of the posterior mixture."""
    parts = [kalman(mean, COVARIANCE, obs.matrix, obs.values, obs.error_std) for mean in MEANS]
    spread = (obs.matrix @ COVARIANCE @ obs.matrix.mT)[0, 0] + obs.error_std[0] ** 2
    away = obs.values - MEANS @ obs.matrix[0]
    weights = torch.softmax(WEIGHTS.log() - 0.5 * away**2 / spread, dim=0)
    return weights, torch.stack([mean for mean, _ in parts]), parts[0][1]


def sample(flow: object, **options: object) -> Tensor:
    source = NoiseSource(0, "mixture", range(MEMBERS))
    z = initial_noise(source, (2,), torch.float64, "cpu")
    return generate(flow, z, t_min=0.0, source=source, **options)  # type: ignore[arg-type]


def components(x: Tensor, means: Tensor) -> tuple[Tensor, Tensor]:
    """Share and mean of the members nearest to each component."""
    nearest = (x[:, None] - means).square().sum(-1).argmin(1)
    shares = torch.stack([(nearest == k).double().mean() for k in range(len(means))])
    found = torch.stack([x[nearest == k].mean(0) for k in range(len(means))])
    return shares, found


class ExactlyGuided:
    """The mixture's flow with the true grad log p(y | x_t), which MMPS approximates."""

    interpolant = LINEAR

    def __init__(self, obs: PointObservations) -> None:
        self.obs = obs

    def log_likelihood(self, x: Tensor, t: float) -> Tensor:
        eye = torch.eye(2, dtype=torch.float64)
        marginal = t**2 * COVARIANCE + (1 - t) ** 2 * eye
        gain = t * torch.linalg.solve(marginal, COVARIANCE)
        away = x[:, None] - t * MEANS
        inner = (away * torch.linalg.solve(marginal, away.mT).mT).sum(-1)
        log_share = torch.log_softmax(WEIGHTS.log() - 0.5 * inner, dim=1)
        mean = MEANS + away @ gain
        left = COVARIANCE - t * COVARIANCE @ gain
        h = self.obs.matrix[0]
        spread = h @ left @ h + self.obs.error_std[0] ** 2
        miss = self.obs.values - mean @ h
        return torch.logsumexp(log_share - 0.5 * miss**2 / spread, dim=1)

    def evaluate(self, x: Tensor, t: float) -> Drift:
        drift = FLOW.evaluate(x, t)
        with torch.enable_grad():
            state = x.detach().requires_grad_()
            (s_obs,) = torch.autograd.grad(self.log_likelihood(state, t).sum(), state)
        if t == 0.0:
            return drift
        return Drift(drift.velocity + (1 - t) / t * s_obs, drift.score + s_obs)


def test_prior() -> None:
    shares, means = components(sample(FLOW, steps=40), MEANS)
    assert relative(shares, WEIGHTS) < 0.04
    assert relative(means, MEANS) < 0.02


@pytest.mark.parametrize("t", [0.05, 0.4, 0.9])
def test_relation_of_guided_velocity_and_score(t: float) -> None:
    """With the true observation term, velocity and score are those of the posterior."""
    obs = observation([0.0, 1.0], 0.2, 0.5)
    exact = Flow(GaussianMixtureVelocity(*posterior(obs)))
    x = normal((20, 2), 1)
    found, expected = ExactlyGuided(obs).evaluate(x, t), exact.evaluate(x, t)
    assert relative(found.velocity, expected.velocity) < 1e-9
    assert relative(found.score, expected.score) < 1e-9


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_true_observation_term_gives_weights_and_means(noise: float) -> None:
    """An observation between the components, so that both survive with other weights."""
    obs = observation([0.0, 1.0], 0.2, 0.5)
    weights, means, _ = posterior(obs)
    assert weights[0] > 0.5 > WEIGHTS[0]
    shares, found = components(sample(ExactlyGuided(obs), steps=60, noise=noise), means)
    assert relative(shares, weights) < 0.05
    assert relative(found, means) < 0.03


def test_mmps_with_a_weak_observation() -> None:
    """MMPS takes p(x1 | x_t) as Gaussian, which between two components it is not.

    Means within the components are right once corrections are made, weights nearly.
    """
    obs = observation([1.0, 0.0], 0.1, 2.0)
    weights, means, covariance = posterior(obs)
    options = {"steps": 30, "noise": 0.3, "corrector_steps": 2}
    x = sample(GuidedFlow(FLOW, obs, iterations=1), **options)
    shares, found = components(x, means)
    assert float((shares - weights).abs().max()) < 0.04
    assert relative(found, means) < 0.02
    nearest = (x[:, None] - means).square().sum(-1).argmin(1)
    assert relative(torch.cov(x[nearest == 1].mT), covariance) < 0.15


def test_mmps_with_an_observation_that_decides() -> None:
    obs = observation([1.0, 0.0], -1.7, 0.4)
    weights, means, _ = posterior(obs)
    assert weights[0] > 0.999
    x = sample(GuidedFlow(FLOW, obs, iterations=1), steps=30, noise=0.3, corrector_steps=1)
    shares, found = components(x, means)
    assert shares[0] > 0.95
    assert relative(found[0], means[0]) < 0.03
