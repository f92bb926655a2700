"""The ensemble score filter where what it does to a member is known in closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from xr_daisi.ensemble_kalman import relaxed
from xr_daisi.score_filter import KERNEL, LEAST_ALPHA, likelihood_step, schedule, score_filter
from xr_daisi.systems import Lorenz63, twin_experiment


def affine(error: float, steps: int) -> tuple[float, float, float]:
    """Factors of the member and of the observation, and the variance of the noise.

    Every noise of the path gets a member of its own, where it is 1 and all others are 0.
    """
    count = steps + 3  # the start, the steps, the member's factor, the observation's

    def draw(stage: str, step: int) -> Tensor:
        z = torch.zeros(count, 1, dtype=torch.float64)
        z[0 if "start" in stage else 1 + step] = 1.0
        return z

    members, y = torch.zeros(2, count, 1, dtype=torch.float64)
    members[-2], y[-1] = 1.0, 1.0
    found = score_filter(members, lambda z: (y - z) / error, steps=steps, draw=draw)[:, 0]
    return float(found[-2]), float(found[-1]), float((found[:-2] ** 2).sum())


def limit(error: float, points: int = 200_000) -> tuple[float, float, float]:
    """The same for infinitely many steps: the integrals of the docstring by the midpoint rule."""
    ds = 1.0 / points
    s = (np.arange(points) + 0.5) * ds
    a, b2 = 1.0 - s * (1.0 - LEAST_ALPHA), KERNEL + s * (1.0 - KERNEL)
    drift = -(1.0 - LEAST_ALPHA) / a
    g2 = 1.0 - KERNEL - 2.0 * drift * b2
    rate = drift + g2 / b2 + (1.0 - s) * g2 / error**2
    total = np.cumsum(rate) * ds
    m, end = np.exp(0.5 * rate * ds - total), math.exp(-total[-1])
    member = LEAST_ALPHA * end + np.sum(g2 * a / b2 * m) * ds
    gain = np.sum(g2 * (1.0 - s) / error**2 * m) * ds
    return member, gain, end**2 + np.sum(g2 * m**2) * ds


@pytest.mark.parametrize("error", [0.1, 0.3, 1.0, 3.0])
def test_a_member_goes_where_the_closed_form_says(error: float) -> None:
    expected = limit(error)
    assert affine(error, 1000) == pytest.approx(expected, rel=0.02)
    assert affine(error, 100)[:2] == pytest.approx(expected[:2], rel=0.1, abs=0.01)


def test_gain_lies_between_that_of_the_kernel_and_that_of_the_forecast() -> None:
    for error in (0.1, 0.3, 1.0, 3.0):
        variance = error**2
        _, gain, noise = affine(error, 100)
        assert 0.9 * KERNEL / (KERNEL + variance) < gain < 1.0 / (1.0 + variance)
        assert noise < KERNEL


@pytest.mark.parametrize("steps", [2, 10, 100])
def test_without_observations_every_member_stays_within_its_kernel(steps: int) -> None:
    member, gain, variance = affine(1e9, steps)
    assert member == pytest.approx(1.0, abs=1e-12)
    assert gain == pytest.approx(0.0, abs=1e-12)
    assert variance == pytest.approx(KERNEL, rel=1e-12)


def test_without_room_the_forecast_member_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel without width is a point, which no observation moves."""
    monkeypatch.setattr("xr_daisi.score_filter.KERNEL", 1e-9)
    assert affine(1e9, 100) == pytest.approx((1.0, 0.0, 1e-9))
    assert affine(1.0, 400) == pytest.approx((1.0, 0.0, 0.0), abs=1e-6)


def test_steps_join() -> None:
    """Coefficients of all steps together are those of one step from noise to data."""
    (whole,) = schedule(1)
    here, member, variance = 1.0, 0.0, 0.0
    for step in schedule(7):
        here, member = step.here * here, step.here * member + step.member
        variance = step.here**2 * variance + step.noise**2
    found = (here, member, variance)
    assert found == pytest.approx((whole.here, whole.member, whole.noise**2))


def test_step_of_the_likelihood_is_implicit() -> None:
    """For a linear H with one node each: ``z + step (R + step)^-1 (y - z)``, stable for any R."""
    z = torch.tensor([[1.0, 5.0, -2.0]], dtype=torch.float64)
    y, error, step = torch.tensor([3.0, 0.0]).double(), torch.tensor([0.01, 2.0]).double(), 0.4
    signs = torch.tensor([[1.0, -1.0, 1.0]] * 4).double()
    found = likelihood_step(z, lambda x: (y - x[:, :2]) / error, step, signs)
    expected = step / (error**2 + step) * (y - z[0, :2])
    torch.testing.assert_close(found[0, :2], expected, rtol=1e-6, atol=1e-9)
    assert found[0, 2] == 0


@pytest.mark.parametrize("relaxation", [0.0, 0.5])
def test_lorenz63_keeps_its_spread(relaxation: float) -> None:
    """50 cycles of x observed: members stay apart, as far as the mean is from the truth."""
    system, error = Lorenz63(), 2.0
    twin = twin_experiment(
        system, members=20, cycles=50, window="6h", observed="x", obs_error=error, seed=7
    )
    generator = torch.Generator().manual_seed(1)
    x, spreads, errors = system.tensor(twin.initial).double(), [], []

    def draw(stage: str, step: int) -> Tensor:
        return torch.randn(20, 3, generator=generator, dtype=torch.float64)

    for cycle in range(50):
        if cycle:
            x = system.run(x, system.steps("6h"))
        y, mean, spread = float(twin.observations.x[cycle, 0]), x.mean(0), x.std(0)
        members = (x - mean) / spread

        def residual(
            z: Tensor, y: float = y, mean: Tensor = mean, spread: Tensor = spread
        ) -> Tensor:
            return (y - mean[0] - spread[0] * z[:, :1]) / error

        z = score_filter(members, residual, steps=10, draw=draw)
        middle = z.mean(0)
        x = mean + spread * (middle + relaxed(members, z - middle, relaxation, "spread"))
        truth = system.tensor(twin.truth.isel(time=cycle)).double()[0]
        spreads.append(float(x.var(0).mean()))
        errors.append(float(((x.mean(0) - truth) ** 2).mean()))
    assert min(spreads[5:]) > 0.5
    assert 0.7 < (np.mean(spreads[25:]) / np.mean(errors[25:])) ** 0.5 < 1.5
