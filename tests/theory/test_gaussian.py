"""A Gaussian prior with linear observations: posterior, scalar formula, there-and-back."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from closed_form import (
    GaussianVelocity,
    PointObservations,
    UnitNoise,
    affine_map,
    kalman,
    normal,
    relative,
    selection,
    smooth_covariance,
)
from torch import Tensor

from xr_daisi.flow import INTERPOLANTS, Flow, Interpolant
from xr_daisi.guidance import GuidedFlow
from xr_daisi.sampling import NoiseSource, generate, initial_noise, invert

N = 16
MEAN = normal((N,), 1)
COVARIANCE = smooth_covariance(N)
EYE = torch.eye(N, dtype=torch.float64)
FLOW = Flow(GaussianVelocity(MEAN, COVARIANCE))

# Four observations of differing errors, so that four Krylov iterations are exact.
MATRIX = selection([1, 4, 9, 12], N)
ERRORS = torch.tensor([0.3, 0.5, 0.2, 0.8], dtype=torch.float64)
VALUES = normal((4,), 3)
OBSERVATIONS = PointObservations(MATRIX, VALUES, ERRORS)
POSTERIOR = kalman(MEAN, COVARIANCE, MATRIX, VALUES, ERRORS)

solvers = pytest.mark.parametrize("krylov", ["cg", "gmres"])


@solvers
@pytest.mark.parametrize("interpolant", INTERPOLANTS.values(), ids=list(INTERPOLANTS))
@pytest.mark.parametrize("t", [1e-3, 0.2, 0.6, 0.95])
def test_guided_flow_is_the_flow_of_the_posterior(
    krylov: str, interpolant: Interpolant, t: float
) -> None:
    """With an exact solve MMPS is exact at every single point, for velocity and score."""
    flow = Flow(GaussianVelocity(MEAN, COVARIANCE, interpolant), interpolant)
    posterior = Flow(GaussianVelocity(*POSTERIOR, interpolant), interpolant)
    x = normal((5, N), 4)
    found = GuidedFlow(flow, OBSERVATIONS, solver=krylov, iterations=4).evaluate(x, t)
    expected = posterior.evaluate(x, t)
    assert relative(found.velocity, expected.velocity) < 1e-9
    assert relative(found.score, expected.score) < 1e-9


@solvers
@pytest.mark.parametrize(
    ("solver", "steps", "bound"),
    [
        ("euler", 100, 0.05),
        ("heun", 25, 2e-3),
        ("heun", 50, 5e-4),
        ("adams", 20, 2e-2),
        ("adams", 50, 4e-3),
    ],
)
def test_posterior_from_noise_exactly_propagated(
    krylov: str, solver: str, steps: int, bound: float
) -> None:
    guided = GuidedFlow(FLOW, OBSERVATIONS, solver=krylov, iterations=4)
    offset, matrix = affine_map(
        lambda z: generate(guided, z, t_min=0.0, steps=steps, solver=solver), N
    )
    assert relative(offset, POSTERIOR[0]) < bound
    assert relative(matrix @ matrix.mT, POSTERIOR[1]) < bound
    assert guided.breakdowns == 0


@pytest.mark.parametrize("noise", [0.03, 0.5])
@pytest.mark.parametrize("corrector_steps", [0, 1])
def test_posterior_of_the_sde_exactly_propagated(noise: float, corrector_steps: int) -> None:
    steps = 30
    kicks = [("guided", k) for k in range(steps)]
    kicks += [("corrector", k) for k in range((steps - 1) * corrector_steps)]
    unit = UnitNoise(N, kicks)
    guided = GuidedFlow(FLOW, OBSERVATIONS, iterations=4)
    out = generate(
        guided,
        unit.start(),
        t_min=0.0,
        steps=steps,
        noise=noise,
        corrector_steps=corrector_steps,
        source=unit,  # type: ignore[arg-type]
    )
    mean, covariance = unit.moments(out, torch.zeros(N, dtype=torch.float64), EYE)
    assert relative(mean, POSTERIOR[0]) < 0.003
    assert relative(covariance, POSTERIOR[1]) < (0.03 if corrector_steps else 0.006)


@pytest.mark.parametrize(("noise", "krylov"), [(0.0, "cg"), (0.03, "gmres")])
def test_posterior_from_noise_sampled(noise: float, krylov: str) -> None:
    source = NoiseSource(0, "theory", range(4000))
    z = initial_noise(source, (N,), torch.float64, "cpu")
    guided = GuidedFlow(FLOW, OBSERVATIONS, solver=krylov, iterations=4)
    x = generate(guided, z, t_min=0.0, steps=50 if noise == 0 else 25, noise=noise, source=source)
    assert relative(x.mean(0), POSTERIOR[0]) < 0.02
    assert relative(torch.cov(x.mT), POSTERIOR[1]) < 0.08


@solvers
def test_one_iteration_is_not_exact(krylov: str) -> None:
    errors = []
    for iterations in (1, 2, 3, 4):
        guided = GuidedFlow(FLOW, OBSERVATIONS, solver=krylov, iterations=iterations)
        offset = generate(guided, torch.zeros(1, N, dtype=torch.float64), t_min=0.0, steps=25)
        errors.append(relative(offset[0], POSTERIOR[0]))
    assert 0.05 < errors[0] < 0.25
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-3


def test_inverted_prior_samples_become_the_posterior() -> None:
    """A forecast that is the prior itself, both ways by the SDE and with corrections."""
    steps, t_min, noise = 12, 0.3, 0.1
    inverse = UnitNoise(N, [("inverse", k) for k in range(steps)])
    z = invert(FLOW, inverse.start(), t_min=t_min, steps=steps, noise=noise, source=inverse)  # type: ignore[arg-type]
    z_mean, z_covariance = inverse.moments(z, MEAN, COVARIANCE)
    kicks = [("guided", k) for k in range(steps)] + [
        ("corrector", k) for k in range((steps - 1) * 4)
    ]
    unit = UnitNoise(N, kicks)
    errors = []
    for corrector_steps in (0, 4):
        guided = GuidedFlow(FLOW, OBSERVATIONS, iterations=4)
        x = generate(
            guided,
            unit.start(),
            t_min=t_min,
            steps=steps,
            noise=noise,
            corrector_steps=corrector_steps,
            source=unit,  # type: ignore[arg-type]
        )
        mean, covariance = unit.moments(x, z_mean, z_covariance)
        errors.append((relative(mean, POSTERIOR[0]), relative(covariance, POSTERIOR[1])))
    # The start at t_min has not seen the observations; corrections bring that back in part.
    assert errors[0][0] > 0.2
    assert errors[1][0] < 0.5 * errors[0][0]
    assert errors[1][1] < 0.06


@pytest.mark.parametrize(
    ("solver", "steps", "bound"),
    [("euler", 100, 1.5e-2), ("heun", 10, 2e-3), ("heun", 25, 1e-4), ("adams", 20, 7e-3)],
)
def test_there_and_back(solver: str, steps: int, bound: float) -> None:
    x = MEAN + normal((8, N), 5) @ torch.linalg.cholesky(COVARIANCE).mT
    z = invert(FLOW, x, t_min=0.3, steps=steps, solver=solver)
    back = generate(FLOW, z, t_min=0.3, steps=steps, solver=solver)
    assert relative(back, x) < bound


@pytest.mark.parametrize(
    "options",
    [{"guidance": "none"}, {"strength": 0.0}, {"strength": lambda t: 0.0}],
    ids=["none", "strength 0", "strength 0 at every t"],
)
def test_without_guidance_there_is_the_prior(options: dict[str, object]) -> None:
    x = normal((3, N), 6)
    guided = GuidedFlow(FLOW, OBSERVATIONS, **options)  # type: ignore[arg-type]
    for solver in ("euler", "heun", "adams"):
        expected = generate(FLOW, x, t_min=0.2, steps=10, solver=solver)
        assert torch.equal(generate(guided, x, t_min=0.2, steps=10, solver=solver), expected)


def test_without_observations_there_is_the_prior() -> None:
    x = normal((3, N), 6)
    nothing = PointObservations(MATRIX[:0], VALUES[:0], ERRORS[:0])
    for guidance in ("mmps", "dps", "dps-normalized", "dps-exact"):
        guided = GuidedFlow(FLOW, nothing, guidance=guidance)
        expected = generate(FLOW, x, t_min=0.2, steps=10)
        assert torch.equal(generate(guided, x, t_min=0.2, steps=10), expected)


@pytest.mark.parametrize("t_min", [0.1, 0.3, 0.6, 0.9])
@pytest.mark.parametrize(("m_f", "s_f"), [(0.8, 0.5), (-1.2, 1.3)])
def test_daisi_of_a_scalar(t_min: float, m_f: float, s_f: float) -> None:
    """Forecast N(m_f, s_f^2), prior N(0, 1): the closed form of both ODEs together."""
    error, value = 0.4, 1.5
    one = torch.ones(1, 1, dtype=torch.float64)
    prior = Flow(GaussianVelocity(torch.zeros(1, dtype=torch.float64), one))
    guided = GuidedFlow(prior, PointObservations(one, value * one[0], error), iterations=1)

    def daisi(x: Tensor) -> Tensor:
        z = invert(prior, x, t_min=t_min, steps=200)
        return generate(guided, z, t_min=t_min, steps=200)

    offset, slope = (float(part) for part in affine_map(daisi, 1))
    s_y = error / math.sqrt(1 + error**2)
    mu_y = value / (1 + error**2)
    k = math.sqrt(t_min**2 + (1 - t_min) ** 2)
    stretch = s_y / math.sqrt(t_min**2 * s_y**2 + (1 - t_min) ** 2)
    mean = mu_y + stretch * (k * m_f - t_min * mu_y)
    assert offset + slope * m_f == pytest.approx(mean, abs=2e-4)
    assert slope * s_f == pytest.approx(stretch * k * s_f, rel=2e-4)


@pytest.mark.parametrize("split", [[1, 5, 10], [4, 4, 8], [15, 1]])
def test_any_split_of_the_members_gives_the_same_analysis(split: list[int]) -> None:
    x = MEAN + normal((16, N), 7) @ torch.linalg.cholesky(COVARIANCE).mT
    source = NoiseSource(5, "2019-03-24T00", range(16))
    options = {"t_min": 0.2, "steps": 6, "noise": 0.03}

    def analyse(batch: slice) -> Tensor:
        part = source.select(batch)
        z = invert(FLOW, x[batch], source=part, **options)  # type: ignore[arg-type]
        guided = GuidedFlow(FLOW, OBSERVATIONS)
        return generate(guided, z, source=part, corrector_steps=1, **options)  # type: ignore[arg-type]

    edges = [0, *torch.tensor(split).cumsum(0).tolist()]
    parts = [analyse(slice(a, b)) for a, b in itertools.pairwise(edges)]
    torch.testing.assert_close(torch.cat(parts), analyse(slice(None)), rtol=1e-11, atol=1e-11)
