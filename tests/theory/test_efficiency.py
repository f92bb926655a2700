"""An ensemble update tried on its own members, against the truth it knows nothing of."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import xarray as xr

from xr_daisi import FlowPrior
from xr_daisi.efficiency import efficiency, fraction_of_information
from xr_daisi.ensemble_kalman import global_update
from xr_daisi.localization import Places
from xr_daisi.reach import ObservedPlaces, Reach
from xr_daisi.state import StateSpec

SIZE = 60


def line(size: int = SIZE) -> StateSpec:
    x = np.arange(size, dtype=float)
    template = xr.Dataset({"u": ("x", np.zeros(size))}, coords={"x": x})
    return FlowPrior.from_velocity(lambda x, t: x, template).spec


def covariance(length: float) -> np.ndarray:
    x = np.arange(SIZE, dtype=float)
    return np.exp(-0.5 * ((x[:, None] - x) / length) ** 2) + 1e-6 * np.eye(SIZE)


def tried(states: np.ndarray, error: float, step: int, reach: Reach, noise: float = 1.0) -> float:
    spec = line()
    places = np.arange(0, SIZE, step)
    y = torch.from_numpy((states[:, places] - states[:, places].mean(axis=0)) / error)
    observed = ObservedPlaces(y, Places.of(spec).at(places), {})
    return efficiency(states[:, None], spec, observed, np.full(places.size, noise), reach)


def delivered(root: np.ndarray, members: int, error: float, step: int) -> float:
    """The same ratio with truths of their own, for many ensembles."""
    rng, places = np.random.default_rng(1), np.arange(0, SIZE, step)
    gained = promised = 0.0
    for _ in range(200):
        x = rng.standard_normal((members, SIZE)) @ root.T
        truth = root @ rng.standard_normal(SIZE)
        y = truth[places] + error * rng.standard_normal(places.size)
        mean = x.mean(axis=0)
        away = torch.from_numpy(x - mean)
        seen = away[:, places] / error
        update = global_update(away[:, None], seen, torch.from_numpy(y - mean[places]) / error, 1.0)
        after = mean + update.mean[0].numpy()
        gained += np.sum((mean - truth) ** 2) - np.sum((after - truth) ** 2)
        left = (away + update.perturbations[:, 0]).var(dim=0)
        promised += (1 + 1 / members) * float((away.var(dim=0) - left).sum())
    return gained / promised


@pytest.mark.parametrize(("length", "members"), [(40.0, 12), (3.0, 12), (1.0, 12), (3.0, 40)])
def test_trials_tell_what_a_filter_delivers(length: float, members: int) -> None:
    """Few directions are known from few members, many are not; the ensemble itself shows it."""
    root = np.linalg.cholesky(covariance(length))
    rng = np.random.default_rng(2)
    found = [
        tried(rng.standard_normal((members, SIZE)) @ root.T, 0.7, 4, Reach()) for _ in range(40)
    ]
    # The trials have one member less.
    expected = delivered(root, members - 1, 0.7, 4)
    assert np.mean(found) == pytest.approx(expected, abs=0.08)


def test_a_large_ensemble_keeps_its_promise_and_a_small_one_does_not() -> None:
    rng = np.random.default_rng(3)
    wide, narrow = (np.linalg.cholesky(covariance(length)) for length in (40.0, 1.0))
    large = tried(rng.standard_normal((600, SIZE)) @ narrow.T, 0.7, 4, Reach())
    assert large == pytest.approx(1.0, abs=0.1)
    assert tried(rng.standard_normal((12, SIZE)) @ wide.T, 0.7, 4, Reach()) > 0.8
    few = rng.standard_normal((12, SIZE)) @ narrow.T
    assert tried(few, 0.7, 4, Reach()) < 0.1
    # With a reach of the correlations it is worth something again.
    assert tried(few, 0.7, 4, Reach(radius=4.0)) > tried(few, 0.7, 4, Reach()) + 0.2


def test_errors_that_are_told_larger_promise_less() -> None:
    """R / a: less is promised, and the noise of the observations is what it is."""
    root = np.linalg.cholesky(covariance(3.0))
    states = np.random.default_rng(4).standard_normal((12, SIZE)) @ root.T
    whole = tried(states, 0.3, 4, Reach())
    assert tried(states, 0.3 * math.sqrt(10.0), 4, Reach(), noise=0.1) > whole + 0.05


def test_holes_and_promises_of_nothing() -> None:
    states = np.random.default_rng(5).standard_normal((12, SIZE))
    assert tried(states, 1e6, 4, Reach()) == 1.0
    land = states.copy()
    land[:, 30:] = np.nan
    spec, places = line(), np.arange(0, 30, 4)
    y = torch.from_numpy(states[:, places] - states[:, places].mean(axis=0))
    observed = ObservedPlaces(y, Places.of(spec).at(places), {})
    given = spec, observed, np.ones(places.size), Reach(radius=4.0)
    assert np.isfinite(efficiency(land[:, None], *given))


def test_it_is_tried_where_observations_are() -> None:
    """A network in a corner of a large grid: what is far from it says nothing about it."""
    found = []
    for size in (SIZE, 20000):
        spec, places = line(size), np.arange(0, SIZE, 3)
        states = np.random.default_rng(7).standard_normal((12, size))
        y = torch.from_numpy((states[:, places] - states[:, places].mean(axis=0)) / 0.1)
        observed = ObservedPlaces(y, Places.of(spec).at(places), {})
        given = spec, observed, np.ones(places.size), Reach(radius=20.0)
        found.append(efficiency(states[:, None], *given))
    assert found[0] == pytest.approx(found[1], abs=0.2)
    assert max(found) < 0.2


def test_fraction_of_information() -> None:
    found = [fraction_of_information(e, 0.0) for e in (-1.0, 0.05, 0.175, 0.3, 2.0)]
    np.testing.assert_allclose(found, [0.0, 0.0, 0.5, 1.0, 1.0], atol=1e-12)
    assert fraction_of_information(1.0, 0.25) == 0.8


def test_share_of_information() -> None:
    """The a that leaves half of log det, against a search by hand."""
    rng = np.random.default_rng(6)
    y = torch.from_numpy(rng.standard_normal((8, 5)) * 3.0)
    y -= y.mean(0)
    observed = ObservedPlaces(y, Places.of(line()).at(np.arange(5)), {})
    values = np.linalg.svd(y.numpy(), compute_uv=False) ** 2 / 7.0
    a = observed.share_of_information(0.5, None, {})
    assert np.log1p(a * values).sum() == pytest.approx(0.5 * np.log1p(values).sum(), rel=1e-6)
    assert observed.share_of_information(0.0, None, {}) == 0.0
    assert observed.share_of_information(1.0, None, {}) == pytest.approx(1.0)
    # A single observation as accurate as the forecast: sqrt(2) - 1.
    one = ObservedPlaces(
        torch.tensor([[1.0], [-1.0], [1.0], [-1.0]]).double() * math.sqrt(3 / 4),
        Places.of(line()).at([0]),
        {},
    )
    assert one.share_of_information(0.5, None, {}) == pytest.approx(math.sqrt(2) - 1, rel=1e-6)
