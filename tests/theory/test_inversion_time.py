"""The inversion time against closed forms of a Gaussian prior."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr
from closed_form import GaussianVelocity

import xr_daisi
from xr_daisi import denoising
from xr_daisi.denoising import denoised_states, denoising_error, inversion_time, picks
from xr_daisi.engine import Engine
from xr_daisi.settings import Settings
from xr_daisi.trajectories import TrajectoryEngine

N = 64
FREQUENCY = np.minimum(np.arange(N), N - np.arange(N))


def circulant(variances: np.ndarray) -> torch.Tensor:
    """Covariance on a ring whose Fourier modes have these variances, even in the frequency."""
    row = np.fft.ifft(variances).real
    return torch.from_numpy(row[(np.arange(N)[:, None] - np.arange(N)) % N])


def spectrum(slope: float) -> np.ndarray:
    """Variances of the modes, 1 at a point in all."""
    found = (1.0 + FREQUENCY) ** -slope
    return np.asarray(found * N / found.sum())


def engine_of(covariance: torch.Tensor) -> Engine:
    """An engine whose prior is N(0, covariance)."""
    template = xr.Dataset({"u": ("x", np.zeros(len(covariance)))})
    template = template.assign_coords(x=np.arange(float(len(covariance))))
    velocity = GaussianVelocity(torch.zeros(len(covariance), dtype=torch.float64), covariance)
    prior = xr_daisi.FlowPrior.from_velocity(velocity, template)
    return Engine(prior, Settings(), dtype="float64")


def forecast(prior: np.ndarray, own: np.ndarray, members: int, seed: int) -> np.ndarray:
    """Members of N(m, C) for an m that makes them typical of the prior: m of N(0, P - C)."""
    rng = np.random.default_rng(seed)

    def draw(variances: np.ndarray, count: int) -> np.ndarray:
        white = np.fft.fft(rng.standard_normal((count, N)))
        return np.fft.ifft(white * np.sqrt(variances)).real

    return np.asarray(draw(prior - own, 1) + draw(own, members))[:, None]


@pytest.mark.parametrize("slope", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("share", [0.05, 0.3, 0.6])
def test_prior_and_forecast_know_the_same(slope: float, share: float) -> None:
    """For errors that have the same share of the variance at all scales, or saturate first."""
    prior = spectrum(slope)
    engine = engine_of(circulant(prior))
    saturated = np.minimum(prior, share * np.median(prior))
    for own in (share * prior, saturated):
        engines = [replace(engine, seed=seed) for seed in range(24)]
        found = [inversion_time(e, forecast(prior, own, 40, e.seed)) for e in engines]
        noise = ((1.0 - np.mean(found)) / np.mean(found)) ** 2
        known = (prior * noise / (prior + noise)).mean()
        assert known == pytest.approx(own.mean(), rel=0.08)


def test_error_of_a_mixture_with_noise() -> None:
    """Exactly, where states and noise are many: bias and variance of the denoised state."""
    engine = engine_of(torch.eye(1, dtype=torch.float64))
    states = np.random.default_rng(1).standard_normal((5000, 1, 1)) * 0.5 + 2.0
    z = np.random.default_rng(2).standard_normal(states.shape)
    where = np.ones((1, 1), dtype=bool)
    for t in (0.3, 0.6, 0.9):
        noise = ((1.0 - t) / t) ** 2
        expected = (noise**2 * np.square(states).mean() + noise) / (1.0 + noise) ** 2
        assert denoising_error(engine, states, z, t, where) == pytest.approx(expected, rel=0.05)


def test_what_does_not_count() -> None:
    """Points at which members agree, holes, other times, and how the prior is cut in batches."""
    prior = spectrum(1.0)
    engine = engine_of(circulant(prior))
    states = forecast(prior, 0.2 * prior, 20, 4)
    found = inversion_time(engine, states)
    for value in (0.1, np.nan):
        wide = np.concatenate([states, np.full_like(states, value)], axis=2)
        both = torch.block_diag(circulant(prior), torch.eye(N, dtype=torch.float64))
        assert inversion_time(engine_of(both), wide) == pytest.approx(found, abs=0.02)
    two = TrajectoryEngine.of(engine, ["a", "b"])
    assert inversion_time(two, np.tile(states, (1, 2, 1))) == pytest.approx(found, abs=0.02)
    batches = Engine(engine.prior, Settings(), dtype="float64", batch=3)
    assert inversion_time(batches, states) == pytest.approx(found, abs=1e-6)
    single = Engine(engine.prior, Settings(), dtype="float32")
    assert inversion_time(single, states) == pytest.approx(found, abs=1e-4)


def test_ends() -> None:
    engine = engine_of(circulant(spectrum(1.0)))
    states = forecast(spectrum(1.0), 0.2 * spectrum(1.0), 20, 4)
    assert inversion_time(engine, np.full((5, 1, N), 0.1)) == 0.99  # all agree
    assert inversion_time(engine, 1e-6 * states) == 0.99
    assert inversion_time(engine, 1e160 * states) == 0.99  # for the analysis to complain about
    assert inversion_time(engine, states[:3]) == 0.2  # too few to tell
    wide = 100.0 * (states - states.mean(axis=0))
    assert inversion_time(engine, wide) < 0.05  # knows less than the prior


def test_how_many_states() -> None:
    """Thousands of small ones, each member once of large ones, 20 evenly picked of many."""
    assert [denoised_states(10, n) for n in (1, 3, 30, 8192, 10**6)] == [4000, 3340, 340, 10, 10]
    assert [denoised_states(m, 8192) for m in (4, 20, 1000)] == [4, 20, 20]
    assert [denoised_states(m, 900) for m in (8, 10, 12, 15)] == [16, 20, 12, 15]
    assert picks(4, 10).tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1]
    assert picks(10, 4).tolist() == [0, 2, 5, 7]
    assert len(set(picks(1000, 20))) == 20


def test_order_of_members(monkeypatch: pytest.MonkeyPatch) -> None:
    """Anomalies of different sizes, in states so large that each is taken once."""
    monkeypatch.setattr(denoising, "VALUES", 1)
    prior = spectrum(1.0)
    engine = engine_of(circulant(prior))
    rng = np.random.default_rng(6)
    states = forecast(prior, 0.3 * prior, 10, 4)
    mean = states.mean(axis=0)
    states = mean + (states - mean) * rng.lognormal(0.0, 0.8, (10, 1, 1))
    found = [inversion_time(engine, states[rng.permutation(10)]) for _ in range(10)]
    assert np.ptp(found) < 0.08  # what is left are the numbers of the noise
    first = [inversion_time(engine, states[i : i + 4]) for i in range(7)]
    assert np.ptp(first) > 0.1


def test_a_network_that_fails_at_some_times() -> None:
    class Failing(GaussianVelocity):
        def __call__(self, x: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
            return super().__call__(x, times) + (math.nan if float(times[0]) < 0.9 else 0.0)

    prior = spectrum(1.0)
    template = xr.Dataset({"u": ("x", np.zeros(N))}, coords={"x": np.arange(float(N))})
    failing = Failing(torch.zeros(N, dtype=torch.float64), circulant(prior))
    engine = Engine(xr_daisi.FlowPrior.from_velocity(failing, template), Settings())
    assert inversion_time(engine, forecast(prior, 0.5 * prior, 20, 4)) == pytest.approx(
        0.9, abs=0.01
    )


@pytest.mark.parametrize("spread", [0.2, 0.6, 0.85])
@pytest.mark.parametrize("error", [0.1, 0.5, 2.0])
def test_variance_of_kalman(spread: float, error: float) -> None:
    """In one direction, with the flow alone: for sharp and vague forecasts, any observation."""
    engine = engine_of(torch.eye(1, dtype=torch.float64))
    rng = np.random.default_rng(0)
    states = rng.standard_normal(4000)
    states = spread * (states - states.mean()) / states.std(ddof=1) + math.sqrt(1.0 - spread**2)
    fc = xr.Dataset({"u": (("member", "x"), states[:, None])}, coords={"x": [0.0]})
    obs = xr.Dataset({"u": ("obs", [0.7]), "u_error": ("obs", [error])}, {"x": ("obs", [0.0])})
    found = xr_daisi.assimilate(
        fc,
        obs,
        engine.prior,
        t_min="auto",
        bridge=0.0,
        perturb_obs=False,
        dtype="float64",
        steps=100,
        noise=0.0,
        inverse_noise=0.0,
        progress=False,
    )
    expected = 1.0 / (spread**-2 + error**-2)
    assert float(found.u.var(ddof=1)) == pytest.approx(expected, rel=0.04)


@pytest.mark.parametrize("noise", [0.015, 0.1])
def test_variance_that_noise_adds(noise: float) -> None:
    """To and fro without observations: about twice eps0 of the forecast's variance."""
    engine = engine_of(torch.eye(1, dtype=torch.float64))
    states = np.random.default_rng(2).standard_normal((4000, 1, 1)) * 0.1
    t = inversion_time(engine, states + math.sqrt(0.99))
    settings = Settings(t_min=t, noise=noise, inverse_noise=noise, steps=20)
    back = engine.with_settings(settings).there_and_back(states)
    assert back.var() / states.var() - 1.0 == pytest.approx(2.0 * noise, rel=0.2)
