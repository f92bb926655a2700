"""Steppers and keyed noise, without observations."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from closed_form import (
    GaussianVelocity,
    UnitNoise,
    normal,
    relative,
    smooth_covariance,
)
from torch import Tensor

from xr_daisi.errors import DaisiError
from xr_daisi.flow import INTERPOLANTS, LINEAR, Drift, Flow, Interpolant
from xr_daisi.sampling import (
    NoiseSource,
    diverged_members,
    generate,
    initial_noise,
    invert,
    step_times,
)

N = 8
MEAN = normal((N,), 1)
COVARIANCE = smooth_covariance(N)
EYE = torch.eye(N, dtype=torch.float64)
FLOW = Flow(GaussianVelocity(MEAN, COVARIANCE))
FORECAST = MEAN + normal((6, N), 2) @ torch.linalg.cholesky(COVARIANCE).mT


def draw(source: NoiseSource, stage: str = "guided", step: int = 3, **kwargs: object) -> Tensor:
    options = {"dtype": torch.float64, "device": "cpu"} | kwargs
    return source.draw(stage, step, (2, 5), **options)  # type: ignore[arg-type]


# --- noise ------------------------------------------------------------------------------------


def test_noise_of_a_member_does_not_depend_on_its_batch() -> None:
    whole = draw(NoiseSource(7, "2019-03-24", range(10)))
    assert torch.equal(whole[[8, 3]], draw(NoiseSource(7, "2019-03-24", [8, 3])))
    assert torch.equal(
        whole[4:7], draw(NoiseSource(7, "2019-03-24", range(10)).select(slice(4, 7)))
    )


def test_noise_depends_on_every_part_of_its_key() -> None:
    draws = [
        draw(NoiseSource(0, "a", [0])),
        draw(NoiseSource(1, "a", [0])),
        draw(NoiseSource(0, "b", [0])),
        draw(NoiseSource(0, "a", [1])),
        draw(NoiseSource(0, "a", [0]), stage="inverse"),
        draw(NoiseSource(0, "a", [0]), stage="corrector"),
        draw(NoiseSource(0, "a", [0]), step=4),
    ]
    table = torch.stack(draws).reshape(len(draws), -1)
    assert len(torch.unique(table)) == table.numel()


def test_noise_is_the_same_in_every_dtype() -> None:
    source = NoiseSource(0, "a", [0, 1])
    single = draw(source, dtype=torch.float32)
    assert single.dtype == torch.float32
    assert torch.equal(draw(source), single.double())
    assert torch.equal(draw(source, dtype=torch.bfloat16), single.bfloat16())


def test_noise_is_standard_normal_and_stable() -> None:
    source = NoiseSource(0, "a", range(50))
    x = initial_noise(source, (40, 40), torch.float64, "cpu")
    assert x.shape == (50, 40, 40)
    assert abs(float(x.mean())) < 0.015
    assert float(x.std()) == pytest.approx(1.0, abs=0.01)
    correlation = np.corrcoef(x.reshape(50, -1).numpy())
    assert np.abs(correlation - np.eye(50)).max() < 0.12


def test_noise_source_pickles_and_says_what_it_is() -> None:
    source = pickle.loads(pickle.dumps(NoiseSource(3, "2019", [2, 5])))
    assert torch.equal(draw(source), draw(NoiseSource(3, "2019", [2, 5])))
    assert len(source) == 2
    assert "2019" in repr(source)


# --- steppers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("interpolant", INTERPOLANTS.values(), ids=list(INTERPOLANTS))
@pytest.mark.parametrize(
    ("solver", "steps", "bound"),
    [("euler", 100, 2e-2), ("heun", 10, 2e-3), ("heun", 25, 1.5e-4), ("adams", 20, 5e-3)],
)
def test_there_and_back(solver: str, steps: int, bound: float, interpolant: Interpolant) -> None:
    flow = Flow(GaussianVelocity(MEAN, COVARIANCE, interpolant), interpolant)
    z = invert(flow, FORECAST, t_min=0.3, steps=steps, solver=solver)
    back = generate(flow, z, t_min=0.3, steps=steps, solver=solver)
    assert relative(back, FORECAST) < bound
    assert relative(z, FORECAST) > 0.3


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("heun", 2), ("adams", 2)])
@pytest.mark.parametrize("t_min", [0.0, 0.3])
def test_order_of_convergence(solver: str, order: int, t_min: float) -> None:
    z = normal((4, N), 3)
    values, vectors = torch.linalg.eigh(COVARIANCE)
    stretch = (values / (t_min**2 * values + (1 - t_min) ** 2)).sqrt()
    exact = MEAN + (z - t_min * MEAN) @ vectors @ torch.diag(stretch) @ vectors.mT
    errors = [
        relative(generate(FLOW, z, t_min=t_min, steps=steps, solver=solver), exact)
        for steps in (40, 80)
    ]
    assert errors[0] / errors[1] == pytest.approx(2**order, rel=0.15)


@pytest.mark.parametrize("solver", ["euler", "heun", "adams"])
def test_number_and_times_of_evaluations(solver: str) -> None:
    times: list[float] = []

    class Recorder:
        interpolant = LINEAR

        def evaluate(self, x: Tensor, t: float) -> Drift:
            times.append(t)
            return Drift(torch.zeros_like(x), torch.zeros_like(x))

    generate(Recorder(), FORECAST, t_min=0.5, steps=2, solver=solver)
    middle = 1.0 - 0.5 * 0.5**1.5 if solver == "adams" else 0.75
    assert times == ([0.5, 0.75, 0.75, 1.0] if solver == "heun" else [0.5, middle])
    times.clear()
    invert(Recorder(), FORECAST, t_min=0.5, steps=2, solver=solver)
    assert times == ([1.0, 0.75, 0.75, 0.5] if solver == "heun" else [1.0, middle])
    times.clear()
    generate(Recorder(), FORECAST, t_min=0.0, steps=1, solver=solver)
    assert times == ([0.0] if solver == "euler" else [0.0, 0.5])
    times.clear()
    source = NoiseSource(0, "a", range(6))
    generate(
        Recorder(), FORECAST, t_min=0.5, steps=2, solver="euler", corrector_steps=3, source=source
    )
    assert times == [0.5, 0.75, 0.75, 0.75, 0.75]


def test_steps_of_adams_are_graded() -> None:
    times = step_times(0.2, 4, "adams")
    assert times[0] == pytest.approx(0.2)
    assert times[-1] == 1.0
    assert (np.diff(times, n=2) < 0.0).all()
    np.testing.assert_allclose(step_times(0.2, 4, "heun"), [0.2, 0.4, 0.6, 0.8, 1.0])


def test_adams_integrates_a_drift_linear_in_time_exactly() -> None:
    """The two-step formula has no error for it, whatever the steps; its first step is Euler's."""

    class Linear:
        interpolant = LINEAR

        def evaluate(self, x: Tensor, t: float) -> Drift:
            return Drift(torch.full_like(x, t), torch.zeros_like(x))

    x = torch.zeros(1, 1, dtype=torch.float64)
    times = step_times(0.2, 6, "adams")
    first = (times[1] - times[0]) ** 2 / 2
    exact = (1.0 - 0.2**2) / 2
    assert float(generate(Linear(), x, t_min=0.2, steps=6)) == pytest.approx(exact - first)


def test_adams_takes_the_steps_of_heun_between_corrections() -> None:
    times: list[float] = []

    class Recorder:
        interpolant = LINEAR

        def evaluate(self, x: Tensor, t: float) -> Drift:
            times.append(t)
            return Drift(torch.zeros_like(x), torch.zeros_like(x))

    source = NoiseSource(0, "t", range(6))
    generate(Recorder(), FORECAST, t_min=0.3, steps=2, corrector_steps=1, source=source)
    start, middle, end = step_times(0.3, 2, "adams")
    assert times == [start, middle, middle, middle, end]


def affine_inverse(solver: str, noise: float, steps: int) -> tuple[Tensor, Tensor]:
    """Mean and covariance at t_min of the prior's own samples, without sampling error."""
    kicks = [("inverse", k) for k in range(steps)] if noise else []
    unit = UnitNoise(N, kicks)
    z = invert(FLOW, unit.start(), t_min=0.3, steps=steps, solver=solver, noise=noise, source=unit)  # type: ignore[arg-type]
    return unit.moments(z, MEAN, COVARIANCE)


@pytest.mark.parametrize("noise", [0.0, 0.03, 0.5])
@pytest.mark.parametrize(("solver", "bound"), [("euler", 0.1), ("heun", 0.004), ("adams", 0.012)])
def test_inverse_keeps_the_prior(solver: str, bound: float, noise: float) -> None:
    """The SDE has the marginals of the ODE: samples of the prior become samples at t_min."""
    mean, covariance = affine_inverse(solver, noise, 30)
    assert relative(mean, 0.3 * MEAN) < bound
    assert relative(covariance, 0.09 * COVARIANCE + 0.49 * EYE) < bound


@pytest.mark.parametrize("noise", [0.0, 0.03, 0.5])
@pytest.mark.parametrize("corrector_steps", [0, 2])
@pytest.mark.parametrize(("solver", "bound"), [("euler", 0.1), ("heun", 0.005), ("adams", 0.015)])
@pytest.mark.parametrize("t_min", [0.0, 0.3])
def test_forward_keeps_the_prior(
    solver: str, bound: float, noise: float, corrector_steps: int, t_min: float
) -> None:
    steps = 30
    kicks = [("guided", k) for k in range(steps)] if noise else []
    kicks += [("corrector", k) for k in range((steps - 1) * corrector_steps)]
    unit = UnitNoise(N, kicks)
    out = generate(
        FLOW,
        unit.start(),
        t_min=t_min,
        steps=steps,
        solver=solver,
        noise=noise,
        corrector_steps=corrector_steps,
        source=unit,  # type: ignore[arg-type]
    )
    at_start = t_min**2 * COVARIANCE + (1 - t_min) ** 2 * EYE
    mean, covariance = unit.moments(out, t_min * MEAN, at_start)
    bound += 0.02 * (corrector_steps > 0)  # Langevin steps of finite size widen a little
    assert relative(mean, MEAN) < bound
    assert relative(covariance, COVARIANCE) < bound


def test_corrector_repairs_a_wrong_start() -> None:
    """From a start of half the spread, Langevin steps restore the distribution, the ODE cannot."""
    steps, t_min = 20, 0.3
    start = 0.25 * (t_min**2 * COVARIANCE + (1 - t_min) ** 2 * EYE)
    errors = []
    for corrector_steps in (0, 10):
        unit = UnitNoise(N, [("corrector", k) for k in range((steps - 1) * corrector_steps)])
        out = generate(
            FLOW,
            unit.start(),
            t_min=t_min,
            steps=steps,
            corrector_steps=corrector_steps,
            source=unit,  # type: ignore[arg-type]
        )
        errors.append(relative(unit.moments(out, t_min * MEAN, start)[1], COVARIANCE))
    assert errors[0] > 0.7
    assert errors[1] < 0.3


@pytest.mark.parametrize("solver", ["euler", "heun", "adams"])
def test_batches_do_not_change_members(solver: str) -> None:
    source = NoiseSource(0, "t", range(6))
    options = {"t_min": 0.2, "steps": 8, "solver": solver, "noise": 0.1}

    def run(batch: slice) -> Tensor:
        part = source.select(batch)
        z = invert(FLOW, FORECAST[batch], source=part, **options)  # type: ignore[arg-type]
        return generate(FLOW, z, source=part, corrector_steps=2, **options)  # type: ignore[arg-type]

    whole = run(slice(None))
    parts = torch.cat([run(slice(0, 1)), run(slice(1, 4)), run(slice(4, 6))])
    torch.testing.assert_close(parts, whole, rtol=1e-12, atol=1e-12)


def test_input_is_not_modified_and_carries_no_graph() -> None:
    kept = FORECAST.clone()
    network = torch.nn.Linear(N, N).double()
    out = invert(Flow(lambda x, t: network(x)), FORECAST, t_min=0.3, steps=3)
    assert not out.requires_grad
    assert torch.equal(kept, FORECAST)


def test_single_precision_stays_close() -> None:
    options = {"t_min": 0.2, "steps": 20}
    double = generate(FLOW, FORECAST, **options)  # type: ignore[arg-type]
    single = generate(FLOW, FORECAST.float(), **options)  # type: ignore[arg-type]
    assert single.dtype == torch.float32
    assert relative(single.double(), double) < 1e-5


def test_diverged_members_are_named() -> None:
    x = torch.zeros(4, 2, 3)
    assert diverged_members(x) == []
    x[1, 0, 2] = torch.nan
    x[3, 1, 0] = torch.inf
    assert diverged_members(x) == [1, 3]


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"t_min": 1.0}, "t_min"),
        ({"t_min": -0.1}, "t_min"),
        ({"t_min": float("nan")}, "t_min"),
        ({"steps": 0}, "steps"),
        ({"solver": "rk4"}, "rk4"),
        ({"noise": -0.1}, "noise"),
        ({"noise": float("inf")}, "noise"),
        ({"noise": 0.1}, "source"),
        ({"source": NoiseSource(0, "t", range(5))}, "5 members"),
    ],
)
def test_bad_settings_are_named(options: dict[str, object], word: str) -> None:
    settings = {"t_min": 0.3, "steps": 2} | options
    for function in (invert, generate):
        with pytest.raises(DaisiError, match=word):
            function(FLOW, FORECAST, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("corrector_steps", [-1, 1])
def test_bad_corrector_settings_are_named(corrector_steps: int) -> None:
    with pytest.raises(DaisiError, match=r"corrector_steps|source"):
        generate(FLOW, FORECAST, t_min=0.3, steps=2, corrector_steps=corrector_steps)
