"""Observations with errors of each member's own: what they add to the spread, and what not."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from closed_form import GaussianVelocity, normal, smooth_covariance

import xr_daisi
from xr_daisi.error_covariance import correlation_by_distance
from xr_daisi.errors import SettingsError
from xr_daisi.noise import NoiseSource, observation_noise
from xr_daisi.settings import Settings

ODE: dict[str, Any] = {
    **{"noise": 0.0, "inverse_noise": 0.0, "guidance_iterations": 5},
    **{"bridge": 0.0, "dtype": "float64", "device": "cpu", "progress": False},
}


def gaussian_prior(covariance: torch.Tensor) -> xr_daisi.FlowPrior:
    n = len(covariance)
    template = xr.Dataset({"u": ("x", np.zeros(n))}, coords={"x": np.arange(float(n))})
    velocity = GaussianVelocity(torch.zeros(n, dtype=torch.float64), covariance)
    return xr_daisi.FlowPrior.from_velocity(velocity, template)


def states(values: np.ndarray) -> xr.Dataset:
    coords = {"x": np.arange(float(values.shape[1]))}
    return xr.Dataset({"u": (("member", "x"), values)}, coords=coords)


def observed(values: np.ndarray, errors: np.ndarray, where: np.ndarray) -> xr.Dataset:
    fields = {"u": ("obs", values), "u_error": ("obs", errors)}
    return xr.Dataset(fields, coords={"x": ("obs", where)})


@pytest.mark.parametrize("guidance", ["mmps", "dps-exact"])
@pytest.mark.parametrize("correlated", [False, True])
def test_each_member_has_observations_of_its_own(guidance: str, correlated: bool) -> None:
    """The same as one analysis for each, of values to which its errors were added."""
    prior = gaussian_prior(smooth_covariance(8))
    forecast = states(normal((5, 8), 1).numpy())
    values, errors, where = normal((3,), 2).numpy(), np.array([0.3, 0.5, 0.4]), np.array([1, 2, 6])
    kind: dict[str, Any] = {"error_correlation": {"u": 2.0}} if correlated else {}
    kind |= {**ODE, "t_min": 0.4, "guidance": guidance, "steps": 5}
    found = xr_daisi.assimilate(
        forecast, observed(values, errors, where), prior, perturb_obs=True, seed=3, **kind
    )
    noise = observation_noise(NoiseSource(3, "", range(5)), 3, torch.float64, "cpu").numpy()
    assert np.array_equal(noise[[0, 2]], -noise[[1, 3]])
    places = where[:, None].astype(float)
    correlation = correlation_by_distance(places, 2.0) if correlated else np.eye(3)
    root = np.linalg.cholesky(correlation)
    for member in range(5):
        own = values + errors * (root @ noise[member])
        alone = xr_daisi.assimilate(
            forecast.isel(member=[member]), observed(own, errors, where), prior, **kind
        )
        np.testing.assert_allclose(found.u[member], alone.u[0], atol=1e-9)


def test_spread_in_closed_form() -> None:
    """The map keeps c of the forecast and takes g of the value: variance c^2 s^2 + g^2 R."""
    t, r, s_f, y = 0.4, 0.25, 0.5, 1.3
    s = math.sqrt(r / (1.0 + r))
    k, root = math.sqrt(t**2 + (1 - t) ** 2), math.sqrt(t**2 * s**2 + (1 - t) ** 2)
    c, g = s * k / root, (1.0 - t * s / root) / (1.0 + r)
    forecast = states(0.8 + s_f * normal((4000, 1), 4).numpy())
    obs = observed(np.array([y]), np.array([math.sqrt(r)]), np.array([0]))
    prior = gaussian_prior(torch.eye(1, dtype=torch.float64))
    plain = xr_daisi.assimilate(forecast, obs, prior, t_min=t, **ODE)
    found = xr_daisi.assimilate(forecast, obs, prior, t_min=t, perturb_obs=True, **ODE)
    assert float(plain.u.var(ddof=1)) == pytest.approx(
        c**2 * float(forecast.u.var(ddof=1)), rel=0.01
    )
    expected = c**2 * s_f**2 + g**2 * r
    assert float(found.u.var(ddof=1)) == pytest.approx(expected, rel=0.06)
    # Errors of pairs are opposite: the mean is that of the observation.
    assert float(found.u.mean()) == pytest.approx(float(plain.u.mean()), abs=1e-9)


@pytest.mark.parametrize("error", [0.1, 0.3, 1.0])
@pytest.mark.parametrize("variance", [0.02, 0.1])
def test_spread_is_the_error(variance: float, error: float) -> None:
    """With them it is for every accuracy; without, it is too small for accurate observations."""
    n, rng = 400, np.random.default_rng(7)
    prior = gaussian_prior(torch.eye(n, dtype=torch.float64))
    middle = math.sqrt(1.0 - variance) * rng.standard_normal(n)
    draws = middle + math.sqrt(variance) * rng.standard_normal((11, n))
    truth, forecast = draws[0], states(draws[1:])
    values = truth + error * rng.standard_normal(n)
    obs = observed(values, np.full(n, error), np.arange(n))
    own = {**ODE, "dtype": "float32", "guidance_iterations": 1, "steps": 10}

    def ratio(**options: Any) -> float:
        u = xr_daisi.assimilate(forecast, obs, prior, t_min="auto", **own, **options).u
        wrong = np.square(u.mean("member").values - truth).mean()
        return math.sqrt(float(u.var("member", ddof=1).mean()) * 1.1 / wrong)

    assert ratio() == pytest.approx(1.0, abs=0.07)
    if error**2 < variance:
        assert ratio(perturb_obs=False) < 0.93


def test_where_they_are_the_default() -> None:
    """With a chosen inversion time, of an ensemble: never for one member, which has no spread."""
    assert Settings().perturbs
    assert not Settings(t_min=0.2).perturbs
    assert not Settings(guidance="dps-normalized").perturbs
    assert "perturb_obs" not in Settings().to_dict()
    own = Settings(t_min=0.2, perturb_obs=True)
    assert own.perturbs
    assert own.to_dict()["perturb_obs"] is True
    assert Settings(perturb_obs=np.bool_(False)).to_dict()["perturb_obs"] is False  # type: ignore[arg-type]
    assert not own.updated({"t_min": 0.0}).perturbs
    prior = gaussian_prior(smooth_covariance(8))
    forecast = states(normal((1, 8), 1).numpy())
    obs = observed(np.array([1.0]), np.array([0.3]), np.array([3]))
    given, plain = (
        xr_daisi.assimilate(forecast, obs, prior, **{**ODE, **kind})
        for kind in ({}, {"perturb_obs": False})
    )
    assert np.array_equal(given.u, plain.u)
    for wrong in ({"t_min": 0.0}, {"guidance": "dps-normalized"}):
        with pytest.raises(SettingsError, match="perturb_obs: found True with t_min"):
            Settings(**{"t_min": 0.2, **wrong}, perturb_obs=True)  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="perturb_obs: found 'yes', expected True or False"):
        Settings(perturb_obs="yes")  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="perturb_obs"):
        xr_daisi.assimilate(forecast, obs, prior, method="renoise", perturb_obs=True)


def test_any_chunks_give_the_same() -> None:
    """Members are perturbed by their number, whatever the block they are computed in."""
    prior = gaussian_prior(smooth_covariance(8))
    forecast = states(normal((6, 8), 5).numpy())
    obs = observed(np.array([1.0, -0.5]), np.array([0.3, 0.4]), np.array([3, 6]))
    options = {**ODE, "bridge": None}
    whole = xr_daisi.assimilate(forecast, obs, prior, **options)
    lazy = xr_daisi.assimilate(forecast.chunk(member=1), obs, prior, **options)
    np.testing.assert_allclose(lazy.u, whole.u, rtol=1e-12)
    batches = xr_daisi.assimilate(forecast, obs, prior, **{**options, "batch": 4})
    np.testing.assert_allclose(batches.u, whole.u, rtol=1e-12)
