"""The bridge and what it chooses, against Kalman's formulas and other closed forms."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
import xarray as xr
from closed_form import GaussianVelocity, kalman, normal, relative, selection, smooth_covariance

import xr_daisi
from xr_daisi.calibration import (
    Spectrum,
    negentropy,
)
from xr_daisi.ensemble_kalman import determined, global_update, regained, transform
from xr_daisi.localization import Places, gaspari_cohn
from xr_daisi.reach import ObservedPlaces, choose_reach, optimal_taper

N, MEMBERS = 16, 500
MEAN, COVARIANCE = normal((N,), 1), smooth_covariance(N)
PLACES = [1, 4, 9, 12]
MATRIX = selection(PLACES, N)
X = np.arange(N, dtype=float)
TEMPLATE = xr.Dataset({"u": ("x", np.zeros(N))}, coords={"x": X})
PRIOR = xr_daisi.FlowPrior.from_velocity(
    GaussianVelocity(MEAN, COVARIANCE), TEMPLATE, periodic=("x",)
)


def members_of(mean: torch.Tensor, covariance: torch.Tensor, count: int = MEMBERS) -> np.ndarray:
    """Members whose sample mean and covariance are these exactly."""
    z = np.random.default_rng(0).standard_normal((count, len(mean)))
    z -= z.mean(axis=0)
    z = z @ np.linalg.inv(np.linalg.cholesky(np.atleast_2d(np.cov(z.T)))).T
    root = np.linalg.cholesky(covariance.numpy() + 1e-9 * np.eye(len(mean)))
    return np.asarray(mean.numpy() + z @ root.T)


def gaussian_case(spread: float, length: float, error: float) -> tuple[xr.Dataset, xr.Dataset]:
    """A forecast of a variance and length scale of its own, and observations of a truth from it."""
    covariance = smooth_covariance(N, length, spread)
    mean = MEAN + torch.linalg.cholesky(COVARIANCE + 1e-9 * torch.eye(N)) @ normal((N,), 5)
    root = torch.linalg.cholesky(covariance + 1e-9 * torch.eye(N, dtype=torch.float64))
    values = MATRIX @ (mean + root @ normal((N,), 6)) + error * normal((4,), 7)
    states = members_of(mean, covariance)
    forecast = xr.Dataset({"u": (("member", "x"), states)}, coords={"x": X})
    errors = np.full(4, error)
    obs = xr.Dataset({"u": ("obs", values.numpy()), "u_error": ("obs", errors)})
    return forecast, obs.assign_coords(x=("obs", X[PLACES]))


def against_kalman(
    forecast: xr.Dataset, obs: xr.Dataset, analysis: xr.Dataset
) -> tuple[float, float]:
    """Relative errors of mean and covariance."""
    x = torch.from_numpy(forecast.u.values)
    values, errors = (torch.from_numpy(obs[v].values) for v in ("u", "u_error"))
    mean, covariance = kalman(x.mean(0), torch.cov(x.T), MATRIX, values, errors)
    found = torch.from_numpy(analysis.u.values)
    return relative(found.mean(0), mean), relative(torch.cov(found.T), covariance)


@pytest.mark.parametrize("error", [0.05, 0.5, 2.0])
@pytest.mark.parametrize("length", [1.0, 3.0])
@pytest.mark.parametrize("spread", [0.05, 0.3, 1.0, 2.0])
def test_default_is_kalman_for_a_large_gaussian_ensemble(
    spread: float, length: float, error: float
) -> None:
    """Sharp and vague forecasts of their own covariance, accurate and poor observations."""
    forecast, obs = gaussian_case(spread, length, error)
    analysis = xr_daisi.assimilate(forecast, obs, PRIOR, dtype="float64", progress=False)
    mean, covariance = against_kalman(forecast, obs, analysis)
    assert mean < 0.02
    assert covariance < 0.10
    (chosen,) = json.loads(analysis.attrs["daisi_chosen"]).values()
    assert chosen["bridge"] == 1.0
    assert "localization" not in chosen


def test_published_method_is_not_kalman() -> None:
    """What the bridge is for: accurate observations and a sharp forecast of its own covariance."""
    forecast, obs = gaussian_case(0.3, 1.0, 0.5)
    options = {"dtype": "float64", "progress": False}
    analysis = xr_daisi.assimilate(forecast, obs, PRIOR, t_min=0.2, **options)
    assert against_kalman(forecast, obs, analysis)[0] > 0.1
    half = xr_daisi.assimilate(forecast, obs, PRIOR, t_min=0.2, bridge=0.5, **options)
    assert against_kalman(forecast, obs, half)[0] < against_kalman(forecast, obs, analysis)[0]


def test_scalar_bridge_in_closed_form() -> None:
    """Kalman with R / a, then the formula of inversion and guidance with R / (1 - a), as ODEs."""
    t, a, r = 0.3, 0.4, 0.25
    m_f, s_f, y = 0.8, 0.6, 1.5
    first = 1.0 / (s_f**-2 + a / r)
    m_1, s_1 = first * (m_f / s_f**2 + a * y / r), math.sqrt(first)
    variance = 1.0 / (1.0 + (1 - a) / r)
    mu, s = variance * (1 - a) * y / r, math.sqrt(variance)
    k, root = math.sqrt(t**2 + (1 - t) ** 2), math.sqrt(t**2 * s**2 + (1 - t) ** 2)
    expected = mu + s * (k * m_1 - t * mu) / root, s * k * s_1 / root

    one = torch.ones(1, 1, dtype=torch.float64)
    template = xr.Dataset({"u": ("x", [0.0])}, coords={"x": [0.0]})
    velocity = GaussianVelocity(torch.zeros(1, dtype=torch.float64), one)
    prior = xr_daisi.FlowPrior.from_velocity(velocity, template)
    states = members_of(torch.tensor([m_f], dtype=torch.float64), s_f**2 * one, 4000)
    forecast = xr.Dataset({"u": (("member", "x"), states)}, coords={"x": [0.0]})
    obs = xr.Dataset({"u": ("obs", [y]), "u_error": ("obs", [r**0.5])}, {"x": ("obs", [0.0])})
    options = {"dtype": "float64", "steps": 100, "noise": 0.0, "inverse_noise": 0.0}
    found = xr_daisi.assimilate(forecast, obs, prior, t_min=t, bridge=a, progress=False, **options)
    assert float(found.u.mean()) == pytest.approx(expected[0], rel=2e-3)
    assert float(found.u.std(ddof=1)) == pytest.approx(expected[1], rel=2e-3)


# -- what is chosen --------------------------------------------------------------------------------


def test_estimate_of_the_spread_is_unbiased_for_few_members() -> None:
    rng = np.random.default_rng(1)
    root = np.sqrt(np.array([4.0, 1.0, 1.0, 0.25]))
    found = []
    for _ in range(4000):
        x = rng.standard_normal((6, 4)) * root
        found.append(Spectrum.of(x - x.mean(axis=0)))
    trace, square = np.mean(found, axis=0)
    assert square == pytest.approx(float((root**4).sum()), rel=0.03)
    assert trace == pytest.approx(float((root**2).sum()), rel=0.02)


def test_negentropy_of_known_distributions() -> None:
    rng = np.random.default_rng(3)
    many = (20_000, 40)
    assert negentropy(rng.choice([-1.0, 1.0], many)) == pytest.approx(4 / 48, rel=0.02)
    assert negentropy(rng.uniform(size=many)) == pytest.approx(1.2**2 / 48, rel=0.02)
    assert negentropy(rng.gamma(16.0, size=many)) == pytest.approx(
        0.5**2 / 12 + 0.375**2 / 48, rel=0.1
    )
    assert negentropy(rng.exponential(size=many)) == pytest.approx(0.5, rel=0.01)  # the most
    assert negentropy(rng.standard_normal(many)) < 1e-3
    few = rng.standard_normal((10, 5))
    for scale in (1e-30, 1e30):
        assert negentropy(scale * few) == pytest.approx(negentropy(few))
    assert negentropy(np.full((10, 5), 0.1)) == 0.0


def test_negentropy_of_a_large_field() -> None:
    """From some of its points; holes say nothing, and one direction about as little as a point."""
    rng = np.random.default_rng(8)
    large = rng.choice([-1.0, 1.0], (200, 2, 30_000))
    large[:, 1, :1000] = np.nan
    assert negentropy(large) == pytest.approx(4 / 48, rel=0.1)
    one = rng.standard_normal((10, 1))
    assert negentropy(one * np.ones(500)) == pytest.approx(negentropy(one), rel=0.15)


def test_few_members_cannot_exclude_another_shape() -> None:
    """What is added is about the standard error of the estimate, by many small ensembles."""
    rng = np.random.default_rng(4)
    # Of the skewness and kurtosis of ten Gaussian members, over 12 and 48.
    chance = 6 * 8 / (11 * 13) / 12 + 24 * 10 * 8 * 7 / (11**2 * 13 * 15) / 48
    above, added = [], []
    for _ in range(3000):
        x = rng.standard_normal((10, 4))
        added.append(chance / math.sqrt(Spectrum.of(x - x.mean(axis=0)).directions))
        above.append(negentropy(x) - added[-1])
    assert min(above) > -1e-12
    # No bias: half of the estimates or more are below what Gaussian members have by chance.
    assert 0.5 < np.mean(np.array(above) < 1e-12) < 0.8
    # The others are above it by as much as is added, in the mean square over both sides.
    assert np.sqrt(np.mean(np.square(above))) == pytest.approx(np.mean(added), rel=0.5)


def test_shape_of_the_forecast_decides_between_update_and_flow() -> None:
    """Many members, linear observations: Gaussian ones are updated, two lobes left to the flow."""
    forecast, obs = gaussian_case(0.3, 1.0, 0.5)
    lobes = np.sign(np.random.default_rng(5).standard_normal((MEMBERS, N)))
    two = forecast.copy(data={"u": forecast.u.mean("member").values + lobes})
    shares = []
    for case in (forecast, two):
        analysis = xr_daisi.assimilate(case, obs, PRIOR, steps=2, progress=False)
        (chosen,) = json.loads(analysis.attrs["daisi_chosen"]).values()
        shares.append(chosen["bridge"])
    assert shares[0] == 1.0
    assert shares[1] < 0.5


@pytest.mark.parametrize("error", [1.0, 2.0])
@pytest.mark.parametrize("size", [1, 3, 6])
def test_sampling_errors_of_a_small_ensemble(size: int, error: float) -> None:
    """`regained` makes spread and error of a filter with 10 members agree within a tenth."""
    rng, members = np.random.default_rng(3), 10
    squares, variances = [], []
    for _ in range(3000):
        x = torch.from_numpy(rng.standard_normal((members, size)))
        truth = rng.standard_normal(size)
        y = torch.from_numpy(truth + error * rng.standard_normal(size))
        mean = x.mean(0)
        away = x - mean
        given = away[:, None], away / error, (y - mean) / error
        update = global_update(*given, 1.0, regain=True)
        after = away + update.perturbations[:, 0]
        squares.append(float((mean + update.mean[0] - torch.from_numpy(truth)).square().mean()))
        variances.append(float(after.square().sum(0).mean()) / (members - 1))
    ratio = math.sqrt((members + 1) / members * np.mean(variances) / np.mean(squares))
    assert 0.88 < ratio < 1.05


def test_degrees_of_freedom() -> None:
    y = torch.from_numpy(np.random.default_rng(4).standard_normal((8, 3)) * 1e3)
    y -= y.mean(0)
    _, change = transform((y @ y.mT)[None], torch.zeros(1, 8, dtype=torch.float64))
    assert float(determined(change)) == pytest.approx(3.0, abs=1e-4)  # three accurate observations
    assert float(regained(change, 8)) == pytest.approx(math.sqrt(1 + 3 / 7), abs=1e-4)


def test_optimal_taper_is_the_one_of_least_error() -> None:
    """Monte Carlo: the factor that brings sample covariances nearest to the true one."""
    rng, members, rho = np.random.default_rng(5), 10, 0.4
    z = rng.standard_normal((40000, members, 2))
    z[..., 1] = rho * z[..., 0] + math.sqrt(1 - rho**2) * z[..., 1]
    z -= z.mean(axis=1, keepdims=True)
    c = (z[..., 0] * z[..., 1]).sum(axis=1) / (members - 1)
    v = (z**2).sum(axis=1) / (members - 1)
    best = rho * c.mean() / (c**2).mean()
    found = optimal_taper(members, np.array((v[:, 0] * v[:, 1]).mean()), np.array((c**2).mean()))
    assert float(found) == pytest.approx(best, rel=0.05)


def test_reach_follows_the_ensemble() -> None:
    n = 200
    x = np.arange(n, dtype=float)
    spec = xr_daisi.FlowPrior.from_velocity(
        GaussianVelocity(torch.zeros(n).double(), torch.eye(n).double()),
        xr.Dataset({"u": ("x", np.zeros(n))}, coords={"x": x}),
    ).spec
    root = np.linalg.cholesky(gaspari_cohn(np.abs(x[:, None] - x), 30.0) + 1e-6 * np.eye(n))
    rng = np.random.default_rng(6)

    def reach(members: int, error: float, step: int) -> float | None:
        states = (rng.standard_normal((members, n)) @ root.T)[:, None]
        places = np.arange(0, n, step)
        y = states[:, 0, places] / error
        seen = ObservedPlaces(torch.from_numpy(y - y.mean(axis=0)), Places.of(spec).at(places), {})
        found = choose_reach(states, spec, seen)
        assert found.determined <= 0.26 * (members - 1)
        return found.radius

    small, larger = reach(8, 5.0, 20), reach(40, 5.0, 20)
    assert small is not None
    assert larger is not None
    assert 10.0 < small < larger
    dense = reach(8, 0.1, 2)  # few weights for many accurate observations
    assert dense is not None
    assert dense < 0.7 * small
    assert reach(5000, 5.0, 20) is None
