"""The inflation of the forecast's perturbations, from innovations and from what members know."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar

from xr_daisi.calibration import LASTING, STRONGEST, innovation_inflation


def seen(spread: float, members: int, n: int = 1) -> torch.Tensor:
    """Anomalies of exactly this standard deviation, the same at each observation."""
    x = np.random.default_rng(members).standard_normal((members, 1))
    x = spread * (x - x.mean()) / x.std(ddof=1)
    return torch.from_numpy(np.repeat(x, n, axis=1))


@pytest.mark.parametrize("members", [5, 20, 100])
@pytest.mark.parametrize("spread", [0.3, 1.0, 10.0])
@pytest.mark.parametrize("departure", [0.0, 1.5, 4.0, 8.0])
def test_one_observation(departure: float, spread: float, members: int) -> None:
    """The mode of the posterior of a variance of which members tell, and one innovation."""
    free = (members - 1) / LASTING

    def cost(logarithm: float) -> float:
        s = math.exp(logarithm)
        variance = 1.0 + s * spread**2 * (1.0 + 1.0 / members)
        return free * (logarithm + 1.0 / s) + math.log(variance) + departure**2 / variance

    found = innovation_inflation(seen(spread, members), torch.tensor([departure]))
    ends = (-2.0 * math.log(STRONGEST), 2.0 * math.log(STRONGEST))
    best = minimize_scalar(cost, bounds=ends, method="bounded").x
    assert 2.0 * math.log(found) == pytest.approx(best, abs=0.01)


@pytest.mark.parametrize("n", [1, 2, 3, 10])
@pytest.mark.parametrize("spread", [0.5, 3.0])
def test_no_bias(n: int, spread: float) -> None:
    """Innovations as they are expected ask for nothing, in the mean: over cycles it would add up.

    Of variances, within 1.5 %; the median of many squares, taken for that of one, added 2 %.
    """
    rng = np.random.default_rng(4)
    members = 20
    anomalies = rng.standard_normal((members, n))
    anomalies = spread * (anomalies - anomalies.mean(axis=0)) / anomalies.std(axis=0, ddof=1)
    deviation = math.sqrt(1.0 + spread**2 * (1.0 + 1.0 / members))
    found = [
        innovation_inflation(
            torch.from_numpy(anomalies), torch.from_numpy(deviation * rng.standard_normal(n))
        )
        for _ in range(1000)
    ]
    assert np.square(found).mean() == pytest.approx(1.0, abs=0.015)


@pytest.mark.parametrize("members", [5, 10, 20])
def test_no_bias_of_many_innovations(members: int) -> None:
    """With sampled members in many directions, each of whose variances is wrong by itself."""
    rng = np.random.default_rng(9)
    found = []
    for _ in range(40):
        y = 3.0 * rng.standard_normal((members, 1000))
        d = 3.0 * rng.standard_normal(1000) + rng.standard_normal(1000)
        x = torch.from_numpy(y - y.mean(axis=0))
        found.append(innovation_inflation(x, torch.from_numpy(d - y.mean(axis=0))))
    assert np.square(found).mean() == pytest.approx(1.0, abs=0.06)


@pytest.mark.parametrize("dull", [0.3, 0.6])
@pytest.mark.parametrize("true", [1.0, 2.0])
def test_observations_that_know_nothing(true: float, dull: float) -> None:
    """Where members agree, as where it is dry, departures tell nothing, however small they are."""
    rng = np.random.default_rng(10)
    found = []
    for _ in range(150):
        y = np.where(np.arange(200) < dull * 200, 0.01, 3.0) * rng.standard_normal((20, 200))
        errors = np.where(np.arange(200) < dull * 200, 0.1, 1.0)  # taken for 1
        d = true * 3.0 * rng.standard_normal(200) * (errors == 1.0)
        d += errors * rng.standard_normal(200)
        x = torch.from_numpy(y - y.mean(axis=0))
        found.append(innovation_inflation(x, torch.from_numpy(d - y.mean(axis=0))))
    assert np.mean(found) == pytest.approx(true, abs=0.03 + 0.25 * (true - 1.0))


def test_a_forecast_that_is_plainly_wrong() -> None:
    """However sharp it is; observations of the same thing count as one."""
    sharp = innovation_inflation(seen(0.7, 20), torch.tensor([9.0]))
    assert sharp > 1.5
    once = innovation_inflation(seen(10.0, 20), torch.tensor([25.0]))
    for n in (2, 3, 4, 50):
        often = innovation_inflation(seen(10.0, 20, n), torch.full((n,), 25.0))
        assert often == pytest.approx(once, rel=0.05)
    assert innovation_inflation(seen(0.7, 20), torch.tensor([1e6])) == pytest.approx(STRONGEST)
    assert innovation_inflation(seen(0.0, 20), torch.tensor([9.0])) == 1.0


def test_some_of_many_observations(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(8)
    y = torch.from_numpy(rng.standard_normal((10, 4000)))
    d = torch.from_numpy(2.0 * rng.standard_normal(4000))
    whole = innovation_inflation(y - y.mean(0), d)
    monkeypatch.setattr("xr_daisi.calibration.COMPARED", 1000)
    some = innovation_inflation(y - y.mean(0), d)
    assert some != whole
    assert some == pytest.approx(whole, rel=0.1)


@pytest.mark.parametrize("true", [0.5, 1.0, 1.6])
def test_inflation_of_innovations(true: float) -> None:
    """Many observations tell the factor; few do not, and a large ensemble is believed."""
    rng = np.random.default_rng(2)
    factor = rng.standard_normal((40, 600)) / math.sqrt(40)

    def found(members: int, n: int) -> float:
        values = []
        for _ in range(40):
            y = rng.standard_normal((members, 40)) @ factor[:, :n] * 2.0
            d = true * rng.standard_normal(40) @ factor[:, :n] * 2.0 + rng.standard_normal(n)
            x = torch.from_numpy(y - y.mean(axis=0))
            departures = torch.from_numpy(d - y.mean(axis=0))
            values.append(innovation_inflation(x, departures))
        return float(np.mean(values))

    assert found(10, 600) == pytest.approx(true, abs=0.05 + 0.5 * abs(true - 1.0))
    assert abs(found(400, 600) - 1.0) < 0.1 * abs(true - 1.0) + 0.02
    assert abs(found(10, 2) - 1.0) < 0.5 * abs(true - 1.0) + 0.05
