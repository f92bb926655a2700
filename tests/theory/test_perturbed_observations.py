"""Observations with errors of each member's own: what they add to the spread, and what not."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from closed_form import GaussianVelocity, normal, smooth_covariance

import xr_daisi
from xr_daisi.calibration import departure_from_linearity
from xr_daisi.errors import SettingsError
from xr_daisi.observation_batch import ObservationBatch
from xr_daisi.observations import match_observations
from xr_daisi.perturbed_observations import OwnErrors, share_of_errors
from xr_daisi.settings import Settings
from xr_daisi.state import StateSpec

ODE: dict[str, Any] = {
    **{"noise": 0.0, "inverse_noise": 0.0, "guidance_iterations": 5},
    **{"bridge": 0.0, "dtype": "float64", "device": "cpu", "progress": False},
}


def gaussian_prior(covariance: torch.Tensor) -> xr_daisi.FlowPrior:
    n = len(covariance)
    template = xr.Dataset({"u": ("x", np.zeros(n))}, coords={"x": np.arange(float(n))})
    velocity = GaussianVelocity(torch.zeros(n, dtype=torch.float64), covariance)
    return xr_daisi.FlowPrior.from_velocity(velocity, template)


def drawn_errors(
    batch: ObservationBatch, spec: StateSpec, members: range, seed: int = 3, time: str = ""
) -> np.ndarray:
    tensors = batch.to_tensors(None, "cpu", torch.float64)
    own = OwnErrors.of(batch, spec, seed, (time,))
    return own.draw(tensors, members, torch.zeros(0, dtype=torch.float64)).numpy()


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
    obs = observed(values, errors, where)
    found = xr_daisi.assimilate(forecast, obs, prior, perturb_obs=True, seed=3, **kind)
    found_kind = {"error_correlation": {"u": 2.0}} if correlated else {}
    batch = match_observations(obs, prior.spec, None, **found_kind).batch(0)
    noise = drawn_errors(batch, prior.spec, range(5))
    assert np.array_equal(noise[[0, 2]], -noise[[1, 3]])
    for member in range(5):
        own = values + noise[member]
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


def test_part_in_closed_form() -> None:
    """With a = 1 - s^2 spread and error agree within 3 %, for any forecast and error."""
    s2, r = np.meshgrid(np.linspace(0.005, 0.995, 199), np.logspace(-4.0, 2.0, 121))
    t = 1.0 / (1.0 + np.sqrt(s2 / (1.0 - s2)))  # alpha^2 / beta^2 = s^2 / (1 - s^2)
    s_y, k = np.sqrt(r / (1.0 + r)), np.hypot(t, 1.0 - t)
    root = np.hypot(t * s_y, 1.0 - t)
    c, g = s_y * k / root, (1.0 - t * s_y / root) / (1.0 + r)
    error = (c + g - 1.0) ** 2 * (1.0 - s2) + (g - 1.0) ** 2 * s2 + g**2 * r
    ratio = np.sqrt((c**2 * s2 + (1.0 - s2) * g**2 * r) / error)
    assert 0.967 < ratio.min() < 0.97
    assert ratio.max() < 1.005
    assert np.sqrt((c**2 * s2 + g**2 * r) / error).max() > 1.35  # with all of it


@pytest.mark.parametrize("error", [0.1, 0.3, 1.0])
@pytest.mark.parametrize("variance", [0.02, 0.1, 0.5, 0.9, 0.99])
def test_spread_is_the_error(variance: float, error: float) -> None:
    """For sharp and vague forecasts; without errors of its own it is too small for sharp ones."""
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

    assert ratio() == pytest.approx(1.0, abs=0.08)
    if error**2 < variance <= 0.5:
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


@pytest.mark.parametrize("members", [4, 5])
def test_errors_are_those_of_the_observations(members: int) -> None:
    """Standard normal in units of R, and in the sample variance what is asked for."""
    spec = gaussian_prior(smooth_covariance(8)).spec
    obs = observed(np.zeros(3), np.array([0.3, 0.5, 0.4]), np.array([1.0, 1.5, 6.0]))
    batch = match_observations(obs, spec, None, error_correlation={"u": 2.0}).batch(0)
    drawn = np.stack([drawn_errors(batch, spec, range(members), seed) for seed in range(3000)])
    block = batch.blocks[0]
    expected = np.diag(batch.errors**2)
    expected[np.ix_(block.places, block.places)] = block.correlation * np.outer(
        batch.errors[block.places], batch.errors[block.places]
    )
    found = np.einsum("smi,smj->ij", drawn, drawn) / (3000 * members)
    np.testing.assert_allclose(found, expected, atol=0.06 * expected.max())
    # Members of which half the variance is known: opposite pairs do not make it larger.
    x = math.sqrt(0.5) * normal((members, 1, 8), 3).numpy()
    x = math.sqrt(0.5) * (x - x.mean(0)) / x.std(0, ddof=1)
    share = share_of_errors(batch, x, x)
    drawn = drawn * share
    np.testing.assert_allclose(
        drawn.var(axis=1, ddof=1).mean(axis=0), 0.5 * batch.errors**2, rtol=0.05
    )


def test_what_members_know_is_what_they_agree_on() -> None:
    """Two lobes know their |x| well, and x no better than the climate."""
    prior = gaussian_prior(torch.eye(8, dtype=torch.float64))
    signs = np.array([1, -1, 1, -1, 1, -1])[:, None, None]
    x = signs * (1.0 + 0.1 * normal((6, 1, 8), 2).numpy())
    where = np.array([1.0, 6.0])
    obs = observed(np.ones(2), np.full(2, 0.1), where)
    plain = match_observations(obs, prior.spec, None).batch(0)
    folded = match_observations(obs, prior.spec, None, operator={"u": "abs"}).batch(0)
    pairs = 5 / 6
    assert (share_of_errors(plain, x, x) == 0.0).all()
    np.testing.assert_allclose(share_of_errors(folded, x, x), math.sqrt(pairs), atol=0.02)
    half = 0.5 * x / x.std(axis=0, ddof=1)
    np.testing.assert_allclose(share_of_errors(plain, half, half), math.sqrt(0.75 * pairs))
    same = np.ones((6, 1, 8))
    np.testing.assert_allclose(share_of_errors(plain, same, same), math.sqrt(pairs))
    # In other units, and of other functions of them, the same.
    kelvin = 250.0 + 4.0 * half
    shifted = {"u": lambda state: 3.0 * state["u"] - 7.0}
    cold = match_observations(obs, prior.spec, None, operator=shifted).batch(0)
    np.testing.assert_allclose(share_of_errors(cold, kelvin, half), math.sqrt(0.75 * pairs))


def wind(y: float) -> tuple[xr.Dataset, xr.Dataset, xr_daisi.FlowPrior]:
    """Twenty members with wind from 270 +- 6 degrees, and an observed direction."""
    template = xr.Dataset({"u": ("x", np.zeros(1)), "v": ("x", np.zeros(1))}, coords={"x": [0.0]})
    variance = 36.0 * torch.eye(2, dtype=torch.float64)
    velocity = GaussianVelocity(torch.zeros(2, dtype=torch.float64), variance)
    prior = xr_daisi.FlowPrior.from_velocity(velocity, template)
    drawn = normal((2, 20, 1), 6).numpy()
    fields = {"u": (("member", "x"), 10.0 + drawn[0]), "v": (("member", "x"), drawn[1])}
    forecast = xr.Dataset(fields, coords={"x": [0.0]})
    obs = xr.Dataset({"wind": ("obs", [y]), "wind_error": ("obs", [10.0])}, {"x": ("obs", [0.0])})
    return forecast, obs, prior


def test_directions_go_the_shorter_way_round() -> None:
    """With its own error each member is where it would be if that value had been observed."""
    forecast, obs, prior = wind(80.0)
    options = {**ODE, "t_min": 0.3, "steps": 5, "operator": {"wind": "wind_direction"}}
    found = xr_daisi.assimilate(forecast, obs, prior, perturb_obs=True, seed=3, **options)
    batch = match_observations(obs, prior.spec, None, operator=options["operator"]).batch(0)
    noise = drawn_errors(batch, prior.spec, range(20))
    for member in range(20):
        own = obs.assign(wind=(obs.wind + noise[member, 0]) % 360.0)
        alone = xr_daisi.assimilate(forecast.isel(member=[member]), own, prior, **options)
        np.testing.assert_allclose(found.u[member], alone.u[0], rtol=1e-6)


@pytest.mark.parametrize("y", [0.0, 89.0, 90.0, 91.0, 180.0, 270.0])
def test_what_members_know_of_a_direction_does_not_depend_on_the_observed_one(y: float) -> None:
    forecast, obs, prior = wind(y)
    batch = match_observations(obs, prior.spec, None, operator={"wind": "wind_direction"}).batch(0)
    known = batch.take(np.array([0]))
    known = replace(known, values=np.array([270.0]))
    x = np.stack([forecast.u.values, forecast.v.values], axis=1)
    # atan(v / u) with a spread of 1 / 10, and of the climate 6 / 10
    share = share_of_errors(batch, x, x / 6.0)
    assert share[0] ** 2 * 20 / 19 == pytest.approx(1.0 - 1.0 / 36.0, abs=0.02)
    off = departure_from_linearity(batch, x)
    assert off[0] == pytest.approx(departure_from_linearity(known, x)[0], rel=1e-9)
    assert 0.0 < off[0] < 0.1
