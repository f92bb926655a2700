r"""Guidance: a flow prior in, a flow that is drawn towards observations out.

With ``x1_hat = denoise(x, t)`` and the residual ``r = y - H(x1_hat)``, the observation term of the
score is, J being the Jacobian of x1_hat in x and H' that of H,

* DPS: ``J^T H'^T R^-1 r``, the gradient of ``-1/2 r^T R^-1 r``;
* DPS, normalised: the gradient of ``-||r||``, one norm per member over all observations, in the
  observations' units;
* MMPS: ``J^T H'^T (R + H' V H'^T)^-1 r`` with the posterior covariance ``V = alpha^2 / beta J^T``.

Score and velocity are ``s + w s_obs`` and ``b + w (alpha gamma / beta) s_obs``; DPS as published
leaves out the 1 / beta. Everything is per member: batches can be split anywhere.

References
----------
.. [1] H. Chung et al., "Diffusion Posterior Sampling for General Noisy Inverse Problems",
   arXiv:2209.14687, 2023.
.. [2] F. Rozet et al., "Learning Diffusion Priors from Observations by Expectation
   Maximization", arXiv:2405.13712, 2024.
.. [3] M. Andrae et al., "DAISI: Data Assimilation with Inverse Sampling using Stochastic
   Interpolants", arXiv:2512.00252.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor

from xr_daisi.errors import ObservationError, OperatorError, SettingsError, problem
from xr_daisi.flow import Drift, Flow, Interpolant
from xr_daisi.guidance_observations import (
    IndependentErrors,
    Observations,
    StructuredObservations,
)
from xr_daisi.krylov import KRYLOV_SOLVERS, KrylovSolution
from xr_daisi.user_warnings import warn_user

__all__ = [
    "GUIDANCE",
    "GUIDANCE_SOLVERS",
    "GuidanceWarning",
    "GuidedFlow",
    "Observations",
    "StructuredObservations",
]

GUIDANCE = ("mmps", "dps", "dps-normalized", "dps-exact", "none")
GUIDANCE_SOLVERS = tuple(KRYLOV_SOLVERS)


_FORWARD_MODE = threading.Lock()


class GuidanceWarning(RuntimeWarning):
    """Guidance was weakened or left out somewhere, because the network's Jacobian misbehaves."""


class GuidedFlow:
    """A flow guided by observations; a sampler takes it where it takes a flow.

    Each evaluation costs one forward of the network and few backwards: ``iterations`` for MMPS, one
    for DPS. There is no guidance at t = 0, where the state knows nothing of the data, and at t = 1.

    Parameters
    ----------
    flow : Flow
        The prior.
    observations : Observations or StructuredObservations
        Values, errors and the operator H, differentiable by torch.
    guidance : {"mmps", "dps", "dps-normalized", "dps-exact", "none"}
        ``"dps"`` and ``"dps-normalized"`` are the published forms, without 1 / beta;
        ``"dps-exact"`` keeps it.
    strength : float or callable
        Factor w of the observation term, or a function of t that gives it.
    solver : {"gmres", "cg"}
        Linear solver of MMPS. A learned Jacobian is not symmetric: GMRES is the robust one.
    iterations : int
        Its iterations, for MMPS; at most as many are made as there are observations.

    Attributes
    ----------
    perturbations : Tensor or None
        What is added to the observations of each state of the batch that comes next, shape
        ``(batch, n)``, in their units.
    breakdowns : int
        How often guidance of a member in an evaluation was stopped early or left out, because the
        network's Jacobian was not what a denoiser's is, or not finite.

    Raises
    ------
    SettingsError
        If a setting is unknown or out of range.
    ObservationError
        If shapes of values and errors differ, or a value or error cannot be used.

    References
    ----------
    arXiv:2209.14687, arXiv:2405.13712, arXiv:2512.00252.
    """

    def __init__(
        self,
        flow: Flow,
        observations: Observations,
        *,
        guidance: str = "mmps",
        strength: float | Callable[[float], float] = 1.0,
        solver: str = "gmres",
        iterations: int = 3,
    ) -> None:
        problems = []
        if guidance not in GUIDANCE:
            problems.append(problem("guidance", repr(guidance), f"one of {GUIDANCE}"))
        if solver not in GUIDANCE_SOLVERS:
            problems.append(problem("guidance_solver", repr(solver), f"one of {GUIDANCE_SOLVERS}"))
        if iterations < 1:
            problems.append(problem("guidance_iterations", repr(iterations), "at least 1"))
        if problems:
            raise SettingsError("; ".join(problems))
        _check_observations(observations.values, observations.error_std)
        self.flow = flow
        self.observations = observations
        self.guidance = guidance
        self.strength = strength
        self.solver = solver
        self.iterations = iterations
        self.perturbations: Tensor | None = None
        self.breakdowns = 0
        self._warned = False
        if not callable(strength):
            self._strength_at(1.0)

    @property
    def interpolant(self) -> Interpolant:
        """The prior's schedule."""
        return self.flow.interpolant

    def evaluate(self, x: Tensor, t: float) -> Drift:
        """Return velocity and score of the guided flow.

        Parameters
        ----------
        x : Tensor
            Normalised states at time t, shape ``(batch, channel, *space)``.
        t : float
            Time in [0, 1].

        Returns
        -------
        Drift
            Guided velocity and score, both of x's shape, finite where the prior's are.

        Raises
        ------
        OperatorError
            If H returns another shape than the values have, or is not differentiable.
        SettingsError
            If the strength at t is negative or not finite.
        """
        alpha, beta = self.interpolant.alpha(t), self.interpolant.beta(t)
        guided = alpha > 0.0 and beta > 0.0 and self.guidance != "none"
        if not guided or self.observations.values.numel() == 0:
            return self.flow.evaluate(x, t)
        strength = self._strength_at(t)
        if strength == 0.0:
            return self.flow.evaluate(x, t)

        # A caller's inference mode would forbid the graph that the backwards need.
        with torch.inference_mode(False), torch.enable_grad():
            state = x.detach().clone().requires_grad_()
            b = self.flow.velocity(state, t)
            if not b.requires_grad:
                self._warn(
                    "the velocity carries no gradient with respect to the state: guidance takes it "
                    "as constant. If the network runs under torch.no_grad, remove that"
                )
            s_obs = self._observation_term(state, t, b)
        b = b.detach()
        score = self.flow.score_from(x, t, b)
        factor = alpha * self.interpolant.gamma(t)
        if self.guidance in ("mmps", "dps-exact"):
            factor /= beta
        return Drift(b + (strength * factor) * s_obs, score + strength * s_obs)

    def _strength_at(self, t: float) -> float:
        given = self.strength(t) if callable(self.strength) else self.strength
        expected = "a finite number, at least 0"
        try:
            strength = float(given)
        except (TypeError, ValueError):
            raise SettingsError(problem("strength", f"{given!r} at t = {t:g}", expected)) from None
        if not 0.0 <= strength < math.inf:
            raise SettingsError(problem("strength", f"{strength} at t = {t:g}", expected))
        return strength

    def _observation_term(self, state: Tensor, t: float, b: Tensor) -> Tensor:
        """Return s_obs, shape of the state, from the graph between state and velocity b."""
        denoised = self.flow.denoise_from(state, t, b)
        observed = self.observations.observe(denoised)
        values = self.observations.values
        if observed.shape != (len(state), len(values)):
            raise OperatorError(
                problem(
                    "observation operator",
                    f"shape {tuple(observed.shape)}",
                    f"{(len(state), len(values))}, members by observations",
                )
            )
        if not observed.requires_grad:
            raise OperatorError(
                problem(
                    "observation operator",
                    "a result without gradient",
                    "one computed from the state by differentiable torch functions",
                    "avoid numpy, .item(), .detach() and torch.no_grad in it",
                )
            )
        # Residuals and Krylov vectors have single precision at least; the network may have less.
        work = torch.promote_types(state.dtype, torch.float32)
        errors = self._structure(work)
        predicted = observed.detach().to(work)
        if self.perturbations is not None:  # before angles are compared the shorter way round
            predicted = predicted - self.perturbations.to(predicted)
        residual = errors.residual(predicted)
        unusable = ~torch.isfinite(residual)
        residual = torch.where(unusable, 0.0, residual)

        def backward(cotangent: Tensor) -> Tensor:
            """``J^T H'^T v`` for v of shape (batch, n): one backward through H and the network."""
            (gradient,) = torch.autograd.grad(
                observed, state, cotangent.to(observed.dtype), retain_graph=True
            )
            return gradient

        if self.guidance == "mmps":
            alpha, beta = self.interpolant.alpha(t), self.interpolant.beta(t)
            scale = alpha**2 / beta
            solved = self._solve(backward, denoised.detach(), residual, errors, scale)
            term = solved.image.reshape(state.shape)
            bad = solved.broken
        else:
            if self.guidance == "dps-normalized":
                norm = residual.norm(dim=1, keepdim=True)
                weighted = residual / torch.where(norm > 0.0, norm, 1.0)
            else:
                weighted = errors.whiten_transpose(errors.whiten(residual))
            term = backward(weighted)
            bad = torch.zeros(len(state), dtype=torch.bool, device=state.device)
        finite = torch.isfinite(term).reshape(len(term), -1).all(dim=1)
        # A member whose forward is not finite has diverged; that is reported by its own name.
        alive = torch.isfinite(b.detach()).reshape(len(b), -1).all(dim=1)
        self._count((bad | ~finite | unusable.any(dim=1)) & alive)
        keep = finite.reshape(-1, *[1] * (term.ndim - 1))
        return torch.where(keep, term, 0.0).to(state.dtype)

    def _solve(
        self,
        backward: Callable[[Tensor], Tensor],
        denoised: Tensor,
        residual: Tensor,
        errors: StructuredObservations | IndependentErrors,
        scale: float,
    ) -> KrylovSolution:
        """Solve ``(R + H' V H'^T) u = r`` in units of the errors and return ``J^T H'^T u``.

        Whitened on both sides the matrix is ``1 + W H' V H'^T W'``, W' W = R^-1: units, differing
        and correlated errors no longer matter to the solver, and ``u = W' p`` for its solution p.
        """
        push = self._jacobian_of_h(denoised)

        def product(p: Tensor) -> tuple[Tensor, Tensor]:
            gradient = backward(errors.whiten_transpose(p))
            pushed = push(gradient.detach()).to(p.dtype)
            return p + scale * errors.whiten(pushed), gradient.reshape(len(p), -1).to(p.dtype)

        solve = KRYLOV_SOLVERS[self.solver]
        whitened = errors.whiten(residual)
        return solve(product, whitened, min(self.iterations, residual.shape[1]))

    def _structure(self, dtype: torch.dtype) -> StructuredObservations | IndependentErrors:
        if hasattr(self.observations, "whiten"):
            return cast("StructuredObservations", self.observations)
        return IndependentErrors(self.observations, dtype)

    def _jacobian_of_h(self, denoised: Tensor) -> Callable[[Tensor], Tensor]:
        """Return ``g -> H' g``: (batch, channel, *space) to (batch, n), without the network.

        ``H'^T v`` is linear in v, and its derivative in v towards g is ``H' g``: two backwards
        through H do it. Forward-mode differentiation would be the direct way, but its state is
        shared by all threads of a process, and members may be computed in several.
        """
        observe = self.observations.observe
        point = denoised.clone().requires_grad_()
        y = observe(point)
        v = torch.zeros_like(y, requires_grad=True)
        (pulled,) = torch.autograd.grad(y, point, v, create_graph=True)

        def push(g: Tensor) -> Tensor:
            try:
                (tangent,) = torch.autograd.grad(pulled, v, g, retain_graph=True)
            except RuntimeError:  # an operation of H has a backward without a backward of its own
                return push_forward(g)
            return tangent

        def push_forward(g: Tensor) -> Tensor:
            try:
                with _FORWARD_MODE:
                    tangent: Tensor = torch.func.jvp(observe, (denoised,), (g,))[1]
            except RuntimeError as error:
                raise OperatorError(
                    problem(
                        "observation operator",
                        "an operation that torch can differentiate only once, and only backwards",
                        "one with a differentiable backward or a forward mode",
                        "build it from torch functions, or use guidance='dps-exact'",
                    )
                ) from error
            return tangent.detach()

        return push

    def _count(self, broken: Tensor) -> None:
        number = int(broken.sum())  # the only wait for the device here
        if number == 0:
            return
        self.breakdowns += number
        advice = (
            "use guidance_solver='gmres'"
            if self.guidance == "mmps" and self.solver == "cg"
            else "try fewer guidance_iterations, a smaller strength, or a better trained prior, "
            "and check that no observation error is far too small"
        )
        self._warn(
            f"guidance={self.guidance!r} broke down for {number} of {len(broken)} members and "
            "was stopped early or left out for them in this step: the Jacobian of the network or "
            f"of the observation operator misbehaves there; {advice}"
        )

    def _warn(self, text: str) -> None:
        if not self._warned:
            self._warned = True
            warn_user(GuidanceWarning(text))


def _check_observations(values: Tensor, error_std: Tensor) -> None:
    if values.ndim != 1 or error_std.shape != values.shape:
        raise ObservationError(
            problem(
                "observations",
                f"values of shape {tuple(values.shape)} and errors of {tuple(error_std.shape)}",
                "both one-dimensional and equally long",
            )
        )
    if not bool(torch.isfinite(values).all()):
        raise ObservationError(
            problem("observations", "values that are not finite", "finite ones", "leave them out")
        )
    if not bool((torch.isfinite(error_std) & (error_std > 0.0)).all()):
        raise ObservationError(
            problem("observation errors", "some zero, negative or not finite", "positive numbers")
        )
