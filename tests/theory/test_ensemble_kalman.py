"""Ensemble transform Kalman filters against Kalman's formula and a naive loop."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from xr_daisi.ensemble_kalman import (
    LocalWeights,
    Update,
    global_update,
    local_update,
    relaxed,
    transform,
)
from xr_daisi.localization import Places, gaspari_cohn, local_weights
from xr_daisi.plane import EARTH_RADIUS, PlaneAxes

M, N, K = 8, 12, 5
RNG = np.random.default_rng(7)
STATES = torch.from_numpy(RNG.standard_normal((M, N)) @ RNG.standard_normal((N, N)) + 3.0)
H = torch.from_numpy(RNG.standard_normal((K, N)))
ERRORS = torch.from_numpy(RNG.uniform(0.5, 2.0, K))
VALUES = torch.from_numpy(RNG.standard_normal(K))


def whitened(states: Tensor = STATES) -> tuple[Tensor, Tensor, Tensor]:
    """Perturbations (M, 1, N), observed ones (M, K) and departures (K,), over errors."""
    x = states - states.mean(0)
    departures = (VALUES - H @ states.mean(0)) / ERRORS
    return x[:, None], x @ H.T / ERRORS, departures


def analysis(update: Update, states: Tensor = STATES) -> Tensor:
    return states + update.mean + update.perturbations[:, 0]


def kalman(states: Tensor = STATES) -> tuple[Tensor, Tensor]:
    """Mean and covariance of Kalman's analysis with the covariance of the sample."""
    mean, c = states.mean(0), torch.cov(states.T)
    gain = torch.linalg.solve(H @ c @ H.T + torch.diag(ERRORS**2), H @ c).T
    return mean + gain @ (VALUES - H @ mean), c - gain @ H @ c


def everywhere(weight: np.ndarray, count: int = N) -> list[LocalWeights]:
    """The same weights of all observations in each column."""
    column, observation = np.indices((count, K)).reshape(2, -1)
    return [LocalWeights(slice(0, count), [0], column, observation, np.tile(weight, count))]


def test_global_filter_gives_the_kalman_answer_of_the_sample() -> None:
    found = analysis(global_update(*whitened(), inflation=1.0))
    mean, covariance = kalman()
    torch.testing.assert_close(found.mean(0), mean, rtol=0, atol=1e-10)
    torch.testing.assert_close(torch.cov(found.T), covariance, rtol=0, atol=1e-10)


def test_kalman_answer_of_a_large_ensemble() -> None:
    generator = torch.Generator().manual_seed(1)
    root = torch.linalg.cholesky(torch.eye(N) + 0.5 * torch.ones(N, N)).double()
    states = 1.0 + torch.randn(20_000, N, generator=generator, dtype=torch.float64) @ root.T
    # Through the space of members of 20 000 the exact solution is Kalman's own.
    mean, covariance = kalman(states)
    exact = root @ root.T
    gain = torch.linalg.solve(H @ exact @ H.T + torch.diag(ERRORS**2), H @ exact).T
    small = states[:200]
    found = analysis(global_update(*whitened(small), inflation=1.0), small)
    torch.testing.assert_close(found.mean(0), kalman(small)[0], rtol=0, atol=1e-9)
    prior = torch.ones(N, dtype=torch.float64)
    assert (mean - prior - gain @ (VALUES - H @ prior)).abs().max() < 0.03
    assert (covariance - (exact - gain @ H @ exact)).abs().max() < 0.03


def test_local_filter_without_taper_is_the_global_one() -> None:
    one = global_update(*whitened(), inflation=1.1)
    other = local_update(*whitened(), everywhere(np.ones(K)), inflation=1.1)
    torch.testing.assert_close(one.mean, other.mean, rtol=0, atol=1e-11)
    torch.testing.assert_close(one.perturbations, other.perturbations, rtol=0, atol=1e-11)


def test_inflation_is_a_forecast_with_more_spread() -> None:
    wide = STATES.mean(0) + 1.3 * (STATES - STATES.mean(0))
    found = analysis(global_update(*whitened(), inflation=1.3))
    expected = analysis(global_update(*whitened(wide), inflation=1.0), wide)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)


def naive(points: list[int], taper: np.ndarray, inflation: float) -> np.ndarray:
    """LETKF as it is written on paper, one column after the other; (M, point)."""
    x, y, d = (part.numpy() for part in whitened())
    out = []
    for number in points:
        local = x[:, 0, number] * inflation
        yy = (y * inflation).T  # (n, M)
        c = yy.T @ np.diag(taper[number])
        a = (M - 1) * np.eye(M) + c @ yy
        w = np.linalg.inv(a) @ c @ d
        values, vectors = np.linalg.eigh((M - 1) * np.linalg.inv(a))
        root = vectors @ np.diag(np.sqrt(values)) @ vectors.T
        mean = float(STATES[:, number].mean())
        out.append([mean + local @ w + local @ root[:, m] for m in range(M)])
    return np.array(out).T


def test_columns_are_those_of_a_naive_loop() -> None:
    taper = np.random.default_rng(2).uniform(0.05, 1.0, (N, K))
    column, observation = np.indices((N, K)).reshape(2, -1)
    parts = [
        LocalWeights(slice(0, 5), [0], *(a[:25] for a in (column, observation, taper.ravel()))),
        LocalWeights(slice(5, N), [0], column[25:] - 5, observation[25:], taper.ravel()[25:]),
    ]
    found = analysis(local_update(*whitened(), parts, inflation=1.2))
    points = [0, 3, 6, 11]
    np.testing.assert_allclose(found[:, points], naive(points, taper, 1.2), atol=1e-10)


def test_columns_without_observations_stay() -> None:
    weights = everywhere(np.ones(K), 4)  # the other eight have none
    update = local_update(*whitened(), weights, inflation=1.5)
    assert (update.mean[:, 4:] == 0).all()
    assert (update.perturbations[..., 4:] == 0).all()
    assert (update.mean[:, :4] != 0).all()


def test_products_that_do_not_fit_into_memory_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    taper = np.random.default_rng(2).uniform(0.05, 1.0, K)
    whole = local_update(*whitened(), everywhere(taper), inflation=1.0)
    monkeypatch.setattr("xr_daisi.ensemble_kalman.BYTES", 700.0)  # two observations at a time
    parts = local_update(*whitened(), everywhere(taper), inflation=1.0)
    torch.testing.assert_close(whole.mean, parts.mean, rtol=0, atol=1e-12)


def test_order_of_members_and_observations_does_not_matter() -> None:
    x, y, d = whitened()
    members, order = torch.randperm(M), torch.randperm(K)
    one = global_update(x, y, d, 1.0)
    other = global_update(x[members], y[members][:, order], d[order], 1.0)
    torch.testing.assert_close(other.mean, one.mean, rtol=0, atol=1e-11)
    torch.testing.assert_close(other.perturbations, one.perturbations[members], rtol=0, atol=1e-11)


def test_weights_without_information_are_those_of_the_forecast() -> None:
    mean, change = transform(torch.zeros(1, M, M), torch.zeros(1, M))
    assert (mean == 0).all()
    assert change.abs().max() < 1e-6


def test_relaxation() -> None:
    x, *_ = whitened()
    after = 0.3 * x + 0.1 * x.roll(1, -1)
    found = relaxed(x, after, 0.7, "spread")
    torch.testing.assert_close(found.std(0), 0.3 * after.std(0) + 0.7 * x.std(0))
    torch.testing.assert_close(found / found.std(0), after / after.std(0))  # the same directions
    torch.testing.assert_close(relaxed(x, after, 0.7, "perturbations"), 0.3 * after + 0.7 * x)
    assert relaxed(x, after, 0.0, "spread") is after
    torch.testing.assert_close(relaxed(x, after, 1.0, "perturbations"), x)
    still = torch.zeros_like(x)
    assert (relaxed(still, still, 0.5, "spread") == 0).all()


def test_taper_is_the_published_polynomial() -> None:
    """Equation 4.10 of Gaspari and Cohn, with c half the distance at which it is zero."""
    c = 750.0
    z = np.linspace(0.0, 2.5, 501)
    inner = -(z**5) / 4 + z**4 / 2 + 5 * z**3 / 8 - 5 * z**2 / 3 + 1
    with np.errstate(divide="ignore"):
        outer = z**5 / 12 - z**4 / 2 + 5 * z**3 / 8 + 5 * z**2 / 3 - 5 * z + 4 - 2 / (3 * z)
    expected = np.where(z <= 1, inner, np.where(z <= 2, outer, 0.0))
    found = gaspari_cohn(z * c, 2 * c)
    np.testing.assert_allclose(found, expected, atol=1e-14)
    assert found[0] == 1.0
    assert (found[z >= 2] == 0).all()
    assert (found >= 0).all()
    assert gaspari_cohn(np.array([c]), 2 * c)[0] == pytest.approx(5 / 24)


def all_pairs(axes: PlaneAxes, points: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Distances (P, n), directly."""
    if axes.on_sphere:
        a, b = np.deg2rad(points)[:, :, None], np.deg2rad(others)[:, None, :]
        half = np.sin((a[0] - b[0]) / 2) ** 2
        half = half + np.cos(a[0]) * np.cos(b[0]) * np.sin((a[1] - b[1]) / 2) ** 2
        return 2 * EARTH_RADIUS * np.arcsin(np.sqrt(half))
    steps = []
    for p, o, period in zip(points, others, axes.periods, strict=True):
        step = np.abs(p[:, None] - o[None])
        steps.append(step if period is None else np.minimum(step % period, -step % period))
    return np.sqrt(np.sum(np.square(steps), axis=0))


GRIDS = {
    "sphere": (PlaneAxes(0, 1, (None, None)), (-90, 90), (0, 360), 2500.0),
    "periodic": (PlaneAxes(None, None, (20.0, 30.0)), (-5, 25), (0, 60), 4.0),
    "half periodic": (PlaneAxes(None, None, (None, 30.0)), (-5, 25), (0, 60), 4.0),
    "plane": (PlaneAxes(None, None, (None, None)), (0, 20), (0, 30), 6.0),
    "most of a plane": (PlaneAxes(None, None, (None, 30.0)), (0, 20), (0, 30), 12.0),
    "the whole sphere": (PlaneAxes(0, 1, (None, None)), (-90, 90), (0, 360), 1e9),
}


@pytest.mark.parametrize("grid", GRIDS)
def test_pairs_within_a_radius_are_all_found(grid: str) -> None:
    axes, first, second, radius = GRIDS[grid]
    rng = np.random.default_rng(3)
    points = np.stack([rng.uniform(*first, 60), rng.uniform(*second, 60)])
    others = np.stack([rng.uniform(*first, 40), rng.uniform(*second, 40)])
    expected = all_pairs(axes, points, others)
    point, other, distance = Places(axes, points).near(Places(axes, others), radius)
    found = np.full(expected.shape, np.nan)
    found[point, other] = distance
    np.testing.assert_array_equal(np.isfinite(found), expected <= radius)
    np.testing.assert_allclose(distance, expected[point, other], rtol=1e-6, atol=1e-6)
    assert (np.diff(point) >= 0).all()


def parts_of(columns: int) -> Iterator[LocalWeights]:
    axes = PlaneAxes(None, None, (10.0, None))
    points = np.random.default_rng(4).uniform(0, 10, (2, 30))
    points[:, 7] = np.nan  # a grid without a place there
    factor = np.linspace(0.0, 1.0, 9)
    others = np.random.default_rng(5).uniform(0, 10, (2, 9))
    return local_weights(
        Places(axes, points), Places(axes, others), 3.0, [([0, 2], None), ([1], factor)], columns
    )


def dense(parts: Iterator[LocalWeights]) -> np.ndarray:
    weights = np.zeros((3, 30, 9))
    for part in parts:
        for channel in part.channels:
            weights[channel, part.points.start + part.column, part.observation] = part.weight
    return weights


def test_weights_do_not_depend_on_how_many_columns_go_together() -> None:
    whole = dense(parts_of(1000))
    np.testing.assert_array_equal(dense(parts_of(4)), whole)
    np.testing.assert_array_equal(whole[0], whole[2])
    np.testing.assert_allclose(whole[1], whole[0] * np.linspace(0.0, 1.0, 9))
    assert (whole[:, 7] == 0).all()
    assert (whole > 0).any()
