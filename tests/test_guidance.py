"""Guidance and its linear solvers: costs, units, shapes, and Jacobians that misbehave."""

from __future__ import annotations

import math
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from closed_form import (
    GaussianVelocity,
    PointObservations,
    normal,
    relative,
    selection,
    smooth_covariance,
)
from torch import Tensor, nn

from xr_daisi.errors import DaisiError, SettingsError
from xr_daisi.flow import Flow
from xr_daisi.guidance import GUIDANCE, GuidanceWarning, GuidedFlow
from xr_daisi.krylov import BOUND, KRYLOV_SOLVERS
from xr_daisi.sampling import generate, invert

N = 12
MEAN = normal((N,), 1)
COVARIANCE = smooth_covariance(N)
FLOW = Flow(GaussianVelocity(MEAN, COVARIANCE))
MATRIX = selection([0, 2, 5, 7, 10], N)
VALUES = normal((5,), 2)
ERRORS = torch.tensor([0.3, 0.1, 0.5, 1.0, 0.2], dtype=torch.float64)
OBSERVATIONS = PointObservations(MATRIX, VALUES, ERRORS)
X = normal((4, N), 3)
T = 0.4

solvers = pytest.mark.parametrize("solver", list(KRYLOV_SOLVERS))
active = pytest.mark.parametrize("guidance", [name for name in GUIDANCE if name != "none"])


def observation_term(guided: GuidedFlow, x: Tensor = X, t: float = T) -> Tensor:
    return guided.evaluate(x, t).score - FLOW.evaluate(x, t).score


# --- linear solvers ---------------------------------------------------------------------------


def matrix_product(matrix: Tensor) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """Products with one matrix per row, and p itself doubled as the image."""

    def product(p: Tensor) -> tuple[Tensor, Tensor]:
        return torch.einsum("bij,bj->bi", matrix, p), 2 * p

    return product


def spd(batch: int, n: int, scale: float = 5.0) -> Tensor:
    root = normal((batch, n, n), 8)
    return torch.eye(n, dtype=torch.float64) + scale * root @ root.mT / n


@solvers
@pytest.mark.parametrize("n", [1, 2, 7])
def test_solvers_are_exact_after_n_iterations(solver: str, n: int) -> None:
    matrix, rhs = spd(6, n), normal((6, n), 9)
    result = KRYLOV_SOLVERS[solver](matrix_product(matrix), rhs, n)
    exact = torch.linalg.solve(matrix, rhs)
    assert relative(result.solution, exact) < 1e-9
    torch.testing.assert_close(result.image, 2 * result.solution)
    assert not result.broken.any()


@solvers
def test_solvers_stop_when_they_are_done(solver: str) -> None:
    """More iterations than dimensions, a right-hand side of zero, an eigenvector: no breakdown."""
    matrix = spd(3, 4)
    rhs = normal((3, 4), 9)
    rhs[1] = 0.0
    rhs[2] = torch.linalg.eigh(matrix[2])[1][:, 0]
    result = KRYLOV_SOLVERS[solver](matrix_product(matrix), rhs, 9)
    assert relative(result.solution, torch.linalg.solve(matrix, rhs)) < 1e-9
    assert torch.equal(result.solution[1], torch.zeros(4, dtype=torch.float64))
    assert not result.broken.any()


def test_gmres_solves_a_matrix_that_is_not_symmetric() -> None:
    matrix = torch.eye(6, dtype=torch.float64) + 0.5 * normal((3, 6, 6), 4)
    matrix = matrix + 2 * torch.eye(6, dtype=torch.float64)
    rhs = normal((3, 6), 5)
    result = KRYLOV_SOLVERS["gmres"](matrix_product(matrix), rhs, 6)
    assert relative(result.solution, torch.linalg.solve(matrix, rhs)) < 1e-9
    previous = rhs.norm(dim=1)
    for k in range(1, 7):
        u = KRYLOV_SOLVERS["gmres"](matrix_product(matrix), rhs, k).solution
        residual = (rhs - torch.einsum("bij,bj->bi", matrix, u)).norm(dim=1)
        assert (residual <= previous * (1 + 1e-12)).all()
        previous = residual


def test_one_iteration_of_gmres_has_the_published_form() -> None:
    matrix, rhs = spd(3, 5), normal((3, 5), 6)
    product = torch.einsum("bij,bj->bi", matrix, rhs)
    expected = rhs * ((rhs * product).sum(1) / product.square().sum(1))[:, None]
    result = KRYLOV_SOLVERS["gmres"](matrix_product(matrix), rhs, 1)
    torch.testing.assert_close(result.solution, expected)


@solvers
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("iterations", [1, 2, 3, 8])
def test_solvers_survive_any_matrix(solver: str, dtype: torch.dtype, iterations: int) -> None:
    """Singular, negative, skew, huge, tiny, infinite and NaN: finite, bounded, and reported."""
    n = 4
    eye = torch.eye(n, dtype=dtype)
    skew = torch.zeros(n, n, dtype=dtype)
    skew[0, 1], skew[1, 0], skew[2, 3], skew[3, 2] = 1, -1, 1, -1
    shift = torch.diag(torch.ones(n - 1, dtype=dtype), 1)
    nasty = [
        0 * eye,
        -eye,
        skew,
        shift,
        eye - torch.ones(n, n, dtype=dtype) / n,
        1e-30 * eye,
        1e30 * eye,
        1e30 * skew,
        torch.full((n, n), torch.inf, dtype=dtype),
        torch.full((n, n), torch.nan, dtype=dtype),
        eye + 3e5 * torch.from_numpy(normal((n, n), 1).numpy()).to(dtype),
        eye,
    ]
    matrix = torch.stack(nasty)
    rhs = torch.ones(len(nasty), n, dtype=dtype)
    rhs[4, 0] = 1.5
    result = KRYLOV_SOLVERS[solver](matrix_product(matrix), rhs, iterations)
    assert torch.isfinite(result.solution).all()
    assert torch.isfinite(result.image).all()
    assert (result.solution.norm(dim=1) <= rhs.norm(dim=1) / BOUND * (1 + 1e-3)).all()
    for row in (0, 5, 8, 9):
        assert result.broken[row]
        assert not result.solution[row].any()
    assert not result.broken[-1]
    torch.testing.assert_close(result.solution[-1], rhs[-1])


@solvers
def test_rows_do_not_touch_each_other(solver: str) -> None:
    matrix, rhs = spd(4, 5), normal((4, 5), 7)
    matrix[2] = torch.nan
    rhs[3] = 0.0
    whole = KRYLOV_SOLVERS[solver](matrix_product(matrix), rhs, 3)
    for row in range(4):
        alone = KRYLOV_SOLVERS[solver](matrix_product(matrix[row : row + 1]), rhs[row : row + 1], 3)
        torch.testing.assert_close(alone.solution[0], whole.solution[row], rtol=1e-12, atol=1e-14)
        assert alone.broken[0] == whole.broken[row]


def test_cg_that_breaks_down_keeps_its_best_iterate() -> None:
    """Positive in the first direction, negative in the second: the first step is kept."""
    matrix = torch.diag(torch.tensor([4.0, -1.0], dtype=torch.float64))[None]
    rhs = torch.tensor([[1.0, 0.2]], dtype=torch.float64)
    first = KRYLOV_SOLVERS["cg"](matrix_product(matrix), rhs, 1)
    assert not first.broken[0]
    later = KRYLOV_SOLVERS["cg"](matrix_product(matrix), rhs, 5)
    assert later.broken[0]
    assert torch.equal(later.solution, first.solution)
    assert torch.equal(later.image, first.image)


def test_cg_refuses_zero_iterations() -> None:
    with pytest.raises(DaisiError, match="iterations"):
        KRYLOV_SOLVERS["cg"](matrix_product(spd(1, 2)), normal((1, 2), 1), 0)


# --- the observation terms ---------------------------------------------------------------------


def dense_terms(x: Tensor, t: float) -> dict[str, Tensor]:
    """s_obs of every guidance from dense matrices, member by member; t is linear here."""

    def observed(state: Tensor) -> Tensor:
        return OBSERVATIONS.observe(FLOW.denoise(state[None], t))[0]

    jacobian = torch.func.jacrev(lambda state: FLOW.denoise(state[None], t)[0])(x[0])
    tangent = MATRIX @ jacobian
    covariance = (1 - t) ** 2 / t * MATRIX @ jacobian.mT @ MATRIX.mT
    r = VALUES - torch.stack([observed(state) for state in x])
    solved = torch.linalg.solve(torch.diag(ERRORS**2) + covariance, r.mT).mT
    return {
        "dps": r / ERRORS**2 @ tangent,
        "dps-exact": r / ERRORS**2 @ tangent,
        "dps-normalized": r / r.norm(dim=1, keepdim=True) @ tangent,
        "mmps": solved @ tangent,
    }


@active
@solvers
def test_observation_term_from_dense_matrices(guidance: str, solver: str) -> None:
    """With a differing error for every observation."""
    guided = GuidedFlow(
        FLOW, OBSERVATIONS, guidance=guidance, solver=solver, iterations=5, strength=1.7
    )
    drift, prior = guided.evaluate(X, T), FLOW.evaluate(X, T)
    expected = 1.7 * dense_terms(X, T)[guidance]
    assert relative(drift.score - prior.score, expected) < 1e-9
    factor = (1 - T) / (T if guidance in ("mmps", "dps-exact") else 1.0)
    assert relative(drift.velocity - prior.velocity, factor * expected) < 1e-9


@solvers
def test_units_of_observations_do_not_matter(solver: str) -> None:
    """Values, errors and H of one observation in thousandths: also with few iterations."""
    scale = torch.tensor([1.0, 1000.0, 1.0, 1e-3, 1.0], dtype=torch.float64)
    rescaled = PointObservations(scale[:, None] * MATRIX, scale * VALUES, scale * ERRORS)
    for iterations in (1, 2, 3):
        one = GuidedFlow(FLOW, OBSERVATIONS, solver=solver, iterations=iterations)
        other = GuidedFlow(FLOW, rescaled, solver=solver, iterations=iterations)
        assert relative(observation_term(other), observation_term(one)) < 1e-10


def test_strength_as_a_function_of_time() -> None:
    changing = GuidedFlow(FLOW, OBSERVATIONS, strength=lambda t: 20 * (1 - t))
    constant = GuidedFlow(FLOW, OBSERVATIONS, strength=20 * (1 - T))
    assert torch.equal(changing.evaluate(X, T).score, constant.evaluate(X, T).score)


@pytest.mark.parametrize("value", [None, "strong", -1.0, math.nan])
def test_strength_function_that_gives_no_number(value: Any) -> None:
    guided = GuidedFlow(FLOW, OBSERVATIONS, strength=lambda _: value)
    with pytest.raises(SettingsError, match=r"strength: found .* at t = 0\.\d+, expected a finite"):
        guided.evaluate(X, T)


@active
@pytest.mark.parametrize("t", [0.0, 1.0])
def test_no_guidance_at_the_ends(guidance: str, t: float) -> None:
    guided = GuidedFlow(FLOW, OBSERVATIONS, guidance=guidance)
    assert torch.equal(guided.evaluate(X, t).velocity, FLOW.evaluate(X, t).velocity)
    assert torch.equal(guided.evaluate(X, t).score, FLOW.evaluate(X, t).score)


def test_state_of_several_dimensions_and_nonlinear_operator() -> None:
    """A gradient of -1/2 |(y - H)/sigma|^2 by finite differences, H = arctan of all points."""
    network = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 2, 3, padding=1))
    flow = Flow(lambda x, t: network.double()(x))
    obs = PointObservations(selection([1, 7, 20], 24), VALUES[:3], 0.5, torch.arctan)
    x = normal((2, 2, 3, 4), 4)

    def fit(state: Tensor) -> Tensor:
        r = (obs.values - obs.observe(flow.denoise(state, T))) / obs.error_std
        return -0.5 * r.square().sum(dim=1)

    guided = GuidedFlow(flow, obs, guidance="dps-exact")
    term = guided.evaluate(x, T).score - flow.evaluate(x, T).score.detach()
    step = 1e-6 * normal((2, 2, 3, 4), 5)
    slope = (fit(x + step) - fit(x - step)).detach() / 2
    torch.testing.assert_close((term * step).flatten(1).sum(1), slope, rtol=1e-6, atol=1e-13)


class OnceDifferentiable(torch.autograd.Function):
    """Square with a backward that cannot be differentiated, and with a forward mode."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x**2

    @staticmethod
    def setup_context(ctx: object, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)  # type: ignore[attr-defined]
        ctx.save_for_forward(*inputs)  # type: ignore[attr-defined]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: object, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return 2 * x * g

    @staticmethod
    def jvp(ctx: object, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return 2 * x * g


class OnlyBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)  # type: ignore[attr-defined]
        return x**2

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: object, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return 2 * x * g


def test_operator_that_torch_differentiates_only_once() -> None:
    square = PointObservations(MATRIX, VALUES, ERRORS, torch.square)
    custom = PointObservations(MATRIX, VALUES, ERRORS, OnceDifferentiable.apply)
    expected = observation_term(GuidedFlow(FLOW, square))
    assert relative(observation_term(GuidedFlow(FLOW, custom)), expected) < 1e-10


def test_operator_that_mmps_cannot_use_says_so() -> None:
    square = PointObservations(MATRIX, VALUES, ERRORS, torch.square)
    custom = PointObservations(MATRIX, VALUES, ERRORS, OnlyBackward.apply)
    with pytest.raises(DaisiError, match="dps-exact"):
        GuidedFlow(FLOW, custom).evaluate(X, T)
    expected = observation_term(GuidedFlow(FLOW, square, guidance="dps-exact"))
    found = observation_term(GuidedFlow(FLOW, custom, guidance="dps-exact"))
    assert relative(found, expected) < 1e-10


def test_threads_do_not_disturb_each_other() -> None:
    from concurrent.futures import ThreadPoolExecutor

    guided = GuidedFlow(FLOW, OBSERVATIONS)
    expected = guided.evaluate(X, T).score
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: guided.evaluate(X, T).score, range(40)):
            assert torch.equal(found, expected)


# --- costs ------------------------------------------------------------------------------------


class CountBackward(torch.autograd.Function):
    calls = 0

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: object, g: Tensor) -> Tensor:
        CountBackward.calls += 1
        return g


@solvers
@pytest.mark.parametrize(
    ("guidance", "iterations", "backwards"),
    [("mmps", 1, 1), ("mmps", 3, 3), ("mmps", 5, 5), ("dps", 3, 1), ("dps-normalized", 3, 1)],
)
def test_one_forward_and_k_backwards(
    solver: str, guidance: str, iterations: int, backwards: int
) -> None:
    gaussian = GaussianVelocity(MEAN, COVARIANCE)
    flow = Flow(lambda x, t: gaussian(CountBackward.apply(x), t))
    CountBackward.calls = 0
    guided = GuidedFlow(flow, OBSERVATIONS, guidance=guidance, solver=solver, iterations=iterations)
    guided.evaluate(X, T)
    assert gaussian.calls == 1
    assert CountBackward.calls == backwards


@pytest.mark.parametrize(("t", "options"), [(0.0, {}), (1.0, {}), (T, {"guidance": "none"})])
def test_nothing_is_spent_without_guidance(t: float, options: dict[str, str]) -> None:
    gaussian = GaussianVelocity(MEAN, COVARIANCE)
    flow = Flow(lambda x, t: gaussian(CountBackward.apply(x), t))
    CountBackward.calls = 0
    GuidedFlow(flow, OBSERVATIONS, **options).evaluate(X, t)  # type: ignore[arg-type]
    assert (gaussian.calls, CountBackward.calls) == (1, 0)


def test_sampling_accumulates_no_graph_and_no_gradients() -> None:
    network = nn.Linear(N, N).double()
    guided = GuidedFlow(Flow(lambda x, t: network(x)), OBSERVATIONS)
    x = generate(guided, X, t_min=0.2, steps=3)
    assert not x.requires_grad
    assert network.weight.grad is None


@active
def test_inference_mode_outside_does_not_matter(guidance: str) -> None:
    guided = GuidedFlow(FLOW, OBSERVATIONS, guidance=guidance)
    expected = guided.evaluate(X, T).score
    with torch.inference_mode():
        found = guided.evaluate(X * 1.0, T).score
    torch.testing.assert_close(found.clone(), expected)


# --- Jacobians that misbehave ---------------------------------------------------------------------


class NastyVelocity:
    """Finite, with a Jacobian of the denoised state that is far from a covariance."""

    def __init__(self, jacobian: Tensor) -> None:
        self.jacobian = jacobian

    def __call__(self, x: Tensor, times: Tensor) -> Tensor:
        # denoise = x + (1 - t) b has this Jacobian
        return (x @ self.jacobian.to(x.dtype).mT - x) / (1 - times[:, None]).clamp_min(1e-3)


class NaNBackward(torch.autograd.Function):
    """Identity whose backward is NaN for members that start with a positive number."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)  # type: ignore[attr-defined]
        return x.clone()

    @staticmethod
    def backward(ctx: object, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return torch.where(x[:, :1] > 0, torch.nan, g)


NASTY = {
    "negative": -3.0 * torch.eye(N),
    "indefinite": torch.diag(torch.linspace(-2, 2, N)),
    "skew": 5.0 * (torch.diag(torch.ones(N - 1), 1) - torch.diag(torch.ones(N - 1), -1)),
    "random": 20.0 * normal((N, N), 11),
    "huge": 1e12 * normal((N, N), 12),
}


@solvers
@pytest.mark.parametrize("name", NASTY)
@pytest.mark.parametrize("iterations", [1, 2, 3, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_nasty_jacobian_gives_finite_results(
    solver: str, name: str, iterations: int, dtype: torch.dtype
) -> None:
    flow = Flow(NastyVelocity(NASTY[name]))
    guided = GuidedFlow(flow, OBSERVATIONS, solver=solver, iterations=iterations)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for t in (0.05, 0.2, 0.5, 0.9):
            drift = guided.evaluate(X.to(dtype), t)
            assert drift.score.dtype == dtype
            assert torch.isfinite(drift.velocity).all()
            assert torch.isfinite(drift.score).all()
    told = [warning for warning in caught if warning.category is GuidanceWarning]
    assert len(told) == (1 if guided.breakdowns else 0)
    if name == "negative" and solver == "cg":
        assert guided.breakdowns > 0


def test_every_breakdown_is_counted_and_warned_of_once() -> None:
    flow = Flow(NastyVelocity(NASTY["negative"]))
    guided = GuidedFlow(flow, OBSERVATIONS, solver="cg")
    with pytest.warns(GuidanceWarning, match="gmres"):
        guided.evaluate(X, 0.2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        guided.evaluate(X, 0.3)
    assert guided.breakdowns == 2 * len(X)


@active
@solvers
def test_nan_from_a_backward_stays_out(guidance: str, solver: str) -> None:
    gaussian = GaussianVelocity(MEAN, COVARIANCE)
    flow = Flow(lambda x, t: gaussian(NaNBackward.apply(x), t))
    guided = GuidedFlow(flow, OBSERVATIONS, guidance=guidance, solver=solver)
    with pytest.warns(GuidanceWarning):
        drift = guided.evaluate(X, T)
    hurt = X[:, 0] > 0
    assert 0 < int(hurt.sum()) < len(X)
    assert guided.breakdowns == int(hurt.sum())
    healthy = GuidedFlow(FLOW, OBSERVATIONS, guidance=guidance, solver=solver).evaluate(X, T)
    torch.testing.assert_close(drift.score[~hurt], healthy.score[~hurt])
    torch.testing.assert_close(drift.score[hurt], FLOW.evaluate(X, T).score[hurt])


def test_an_operator_out_of_its_range_stays_finite() -> None:
    """The logarithm of a negative state."""
    obs = PointObservations(MATRIX, VALUES, ERRORS, torch.log)
    for guidance in GUIDANCE:
        guided = GuidedFlow(FLOW, obs, guidance=guidance)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", GuidanceWarning)
            drift = guided.evaluate(X, T)
        assert torch.isfinite(drift.score).all()
        assert guidance == "none" or guided.breakdowns > 0


def test_a_diverged_member_is_no_breakdown() -> None:
    """It is reported by its number elsewhere; the others go on."""
    x = X.clone()
    x[1] = torch.nan
    guided = GuidedFlow(FLOW, OBSERVATIONS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drift = guided.evaluate(x, T)
    assert guided.breakdowns == 0
    assert torch.isnan(drift.score[1]).all()
    expected = GuidedFlow(FLOW, OBSERVATIONS).evaluate(X, T)
    torch.testing.assert_close(drift.score[[0, 2, 3]], expected.score[[0, 2, 3]])


def test_gaussian_prior_never_breaks_down() -> None:
    """In single precision, few iterations and accurate observations."""
    accurate = PointObservations(MATRIX.float(), VALUES.float(), 0.01)
    for solver in KRYLOV_SOLVERS:
        for iterations in (1, 3, 5):
            guided = GuidedFlow(FLOW, accurate, solver=solver, iterations=iterations)
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                z = invert(FLOW, X.float(), t_min=0.1, steps=8)
                assert torch.isfinite(generate(guided, z, t_min=0.1, steps=8)).all()
            assert guided.breakdowns == 0


def test_a_velocity_without_gradient_is_told() -> None:
    network = nn.Linear(N, N).double()
    flow = Flow(torch.no_grad()(lambda x, t: network(x)))
    with pytest.warns(GuidanceWarning, match="no_grad"):
        GuidedFlow(flow, OBSERVATIONS).evaluate(X, T)


def test_low_precision() -> None:
    guided = GuidedFlow(FLOW, OBSERVATIONS)
    low = generate(guided, X.bfloat16(), t_min=0.2, steps=5)
    assert low.dtype == torch.bfloat16
    assert relative(low.double(), generate(guided, X, t_min=0.2, steps=5)) < 0.1


# --- settings ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"guidance": "3dvar"}, "3dvar"),
        ({"solver": "lu"}, "lu"),
        ({"iterations": 0}, "guidance_iterations"),
        ({"strength": -1.0}, "strength"),
        ({"strength": float("nan")}, "strength"),
    ],
)
def test_bad_settings_are_named(options: dict[str, object], word: str) -> None:
    with pytest.raises(DaisiError, match=word):
        GuidedFlow(FLOW, OBSERVATIONS, **options)  # type: ignore[arg-type]


def test_bad_strength_at_some_time_is_named() -> None:
    guided = GuidedFlow(FLOW, OBSERVATIONS, strength=lambda t: -t)
    with pytest.raises(DaisiError, match=r"t = 0\.4"):
        guided.evaluate(X, T)


@pytest.mark.parametrize(
    ("values", "errors", "word"),
    [
        (VALUES[:3], ERRORS[:4], "shape"),
        (VALUES * torch.nan, ERRORS, "finite"),
        (VALUES, 0 * ERRORS, "positive"),
        (VALUES, ERRORS * torch.nan, "positive"),
    ],
)
def test_bad_observations_are_refused(values: Tensor, errors: Tensor, word: str) -> None:
    obs = PointObservations(MATRIX, values, 1.0)
    obs.error_std = errors
    with pytest.raises(DaisiError, match=word):
        GuidedFlow(FLOW, obs)


def test_operator_of_the_wrong_shape_is_refused() -> None:
    obs = PointObservations(MATRIX[:3], VALUES, ERRORS)
    with pytest.raises(DaisiError, match=r"\(4, 3\).*\(4, 5\)"):
        GuidedFlow(FLOW, obs).evaluate(X, T)


def test_operator_without_gradient_is_refused() -> None:
    obs = PointObservations(MATRIX, VALUES, ERRORS, torch.Tensor.detach)
    with pytest.raises(DaisiError, match="detach"):
        GuidedFlow(FLOW, obs).evaluate(X, T)


def test_guided_flow_pickles() -> None:
    guided = pickle.loads(pickle.dumps(GuidedFlow(FLOW, OBSERVATIONS, strength=2.0)))
    expected = GuidedFlow(FLOW, OBSERVATIONS, strength=2.0).evaluate(X, T)
    assert torch.equal(guided.evaluate(X, T).score, expected.score)
