"""The ensemble score filter where its score is known in closed form."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from xr_daisi.score_filter import LEAST_ALPHA, ensemble_score, likelihood_step, score_filter


def standard(count: int, size: int = 1, seed: int = 0) -> Tensor:
    """Members with mean 0 and standard deviation 1 exactly."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, size, generator=generator, dtype=torch.float64)
    return (x - x.mean(0)) / x.std(0)


def filtered(members: Tensor, y: float, error: float, steps: int = 60) -> Tensor:
    def draw(stage: str, step: int) -> Tensor:
        generator = torch.Generator().manual_seed(step + 1000 * len(stage))
        return torch.randn(members.shape, generator=generator, dtype=torch.float64)

    return score_filter(members, lambda z: (y - z[:, :1]) / error, steps=steps, draw=draw)


def test_score_of_many_members_is_that_of_the_gaussian() -> None:
    members, z = standard(5000), torch.linspace(-1.5, 1.5, 7, dtype=torch.float64)[:, None]
    for s in (0.2, 0.5, 1.0):
        a = 1.0 - s * (1.0 - LEAST_ALPHA)
        expected = -z / (a**2 + s)
        assert (ensemble_score(z, members, s) - expected).abs().max() < 0.05


def test_score_of_one_member() -> None:
    member, z = torch.tensor([[2.0, -1.0]]), torch.tensor([[0.5, 0.0]])
    a = 1.0 - 0.3 * (1.0 - LEAST_ALPHA)
    torch.testing.assert_close(ensemble_score(z, member, 0.3), (a * member - z) / 0.3)


def test_step_of_the_likelihood_is_implicit() -> None:
    """For a linear H with one node each: ``z + step (R + step)^-1 (y - z)``, stable for any R."""
    z = torch.tensor([[1.0, 5.0, -2.0]], dtype=torch.float64)
    y, error, step = torch.tensor([3.0, 0.0]).double(), torch.tensor([0.01, 2.0]).double(), 0.4
    signs = torch.tensor([[1.0, -1.0, 1.0]] * 4).double()
    found = likelihood_step(z, lambda x: (y - x[:, :2]) / error, step, signs)
    expected = step / (error**2 + step) * (y - z[0, :2])
    torch.testing.assert_close(found[0, :2], expected, rtol=1e-6, atol=1e-9)
    assert found[0, 2] == 0


@pytest.mark.parametrize(("y", "error"), [(0.0, 1.0), (1.5, 1.0), (1.5, 3.0), (1.5, 0.5)])
def test_posterior_of_a_gaussian_is_approximated(y: float, error: float) -> None:
    """The damped likelihood is not exact: the mean is within 15 %, the spread somewhat small."""
    found = filtered(standard(600), y, error)
    gain = 1.0 / (1.0 + error**2)
    assert float(found.mean()) == pytest.approx(gain * y, abs=0.15 * gain * y + 0.1)
    assert 0.7 < float(found.std()) / math.sqrt(1.0 - gain) < 1.1


def test_without_information_the_forecast_is_sampled() -> None:
    members = standard(600)
    found = filtered(members, 5.0, 1e6)
    assert abs(float(found.mean())) < 0.15
    assert float(found.std()) == pytest.approx(1.0, abs=0.1)


def test_moments_are_those_of_the_recursion() -> None:
    """With a Gaussian score all steps are affine, so mean and variance follow exactly."""
    y, error, steps = 1.5, 0.7, 40
    mean, variance, dt = 0.0, 1.0, 1.0 / steps
    for k in range(steps):
        s = 1.0 - k * dt
        a = 1.0 - s * (1.0 - LEAST_ALPHA)
        drift = -(1.0 - LEAST_ALPHA) / a
        diffusion = 1.0 - 2.0 * drift * s
        factor = 1.0 - dt * (diffusion / (a**2 + s) + drift)
        c = dt * diffusion * (1.0 - s)
        pull = c / (error**2 + c)
        mean = factor * mean + pull * (y - factor * mean)
        variance = ((1.0 - pull) * factor) ** 2 * variance
        variance += dt * diffusion if k + 1 < steps else 0.0
    found = filtered(standard(1000), y, error, steps)
    assert float(found.mean()) == pytest.approx(mean, abs=0.07)
    assert float(found.std()) == pytest.approx(variance**0.5, rel=0.1)
