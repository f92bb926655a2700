r"""Inverse and forward sampling along a flow, as an ODE or an SDE, and the noise for it.

Time runs from noise (``t = 0``) to data (``t = 1``). :func:`invert` integrates from 1 down to t_min
and :func:`generate` from t_min up to 1:

    ``dx = (b - eps s) dt + sqrt(2 eps) dW`` with dt < 0, and
    ``dx = (b + eps s) dt + sqrt(2 eps) dW``

with velocity b, score s and ``eps(t) = noise * (1 - t)``. Both keep the distribution of x_t for any
noise; without noise the two are inverse to each other. The steppers ask for nothing but
``evaluate(x, t)``: whether the velocity is that of a prior or of a guided one makes no
difference here.

References
----------
.. [1] M. Andrae et al., "DAISI: Data Assimilation with Inverse Sampling using Stochastic
   Interpolants", arXiv:2512.00252.
.. [2] P. Kloeden, E. Platen, "Numerical Solution of Stochastic Differential Equations", 1992.
.. [3] E. Buckwar, R. Winkler, "Multistep methods for SDEs and their application to problems with
   small noise", SIAM J. Numer. Anal. 44, 2006.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from xr_daisi.errors import SettingsError, problem
from xr_daisi.flow import Drift, Interpolant
from xr_daisi.noise import NoiseSource, initial_noise

__all__ = [
    "SOLVERS",
    "Evaluable",
    "NoiseSource",
    "diverged_members",
    "generate",
    "initial_noise",
    "invert",
    "renoise",
    "step_times",
]

SOLVERS = ("adams", "heun", "euler")

GRADING = 1.5
"""How the steps of ``"adams"`` shorten towards t = 1: the k-th of N times has
``1 - t = (1 - t_min) (k / N)**1.5``. A part of the state with standard deviation c becomes visible
in x_t where ``1 - t`` is about c, so the small scales move within a short time before t = 1."""

CORRECTOR_RATIO = 0.1
"""Step size of the Langevin corrector over ``alpha(t)**2``; see :func:`_correct`."""


class Evaluable(Protocol):
    """What can be sampled: a flow, or a flow with guidance."""

    @property
    def interpolant(self) -> Interpolant:
        """The schedule; the corrector's step size follows from it."""
        ...

    def evaluate(self, x: Tensor, t: float) -> Drift:
        """Return velocity and score at states x, shape ``(batch, channel, *space)``."""
        ...


def step_times(t_min: float, steps: int, solver: str) -> list[float]:
    """Return the times between the steps of a solver, from t_min to 1.

    Parameters
    ----------
    t_min : float
        In [0, 1).
    steps : int
        Number of steps.
    solver : str
        ``"adams"`` has shorter steps near t = 1, see `GRADING`; those of the others are equal.

    Returns
    -------
    list of float
        ``steps + 1`` times, increasing.
    """
    if solver != "adams":
        return list(np.linspace(t_min, 1.0, steps + 1).tolist())
    share = np.linspace(1.0, 0.0, steps + 1) ** GRADING
    return list((1.0 - (1.0 - t_min) * share).tolist())


def diverged_members(x: Tensor) -> list[int]:
    """Return the positions in the batch of members that are not finite everywhere.

    Parameters
    ----------
    x : Tensor
        States, shape ``(batch, channel, *space)``.
    """
    finite = torch.isfinite(x).reshape(x.shape[0], -1).all(dim=1)
    return [int(member) for member in torch.nonzero(~finite).flatten().tolist()]


def invert(
    flow: Evaluable,
    x1: Tensor,
    *,
    t_min: float,
    steps: int,
    solver: str = "adams",
    noise: float = 0.0,
    source: NoiseSource | None = None,
) -> Tensor:
    """Carry states from t = 1 down to t_min.

    Parameters
    ----------
    flow : Evaluable
        The prior.
    x1 : Tensor
        Normalised states, shape ``(batch, channel, *space)``.
    t_min : float
        Where to stop, in [0, 1).
    steps : int
        Number of steps.
    solver : {"adams", "heun", "euler"}
        ``"adams"`` is of second order with one evaluation a step (the two-step method of Adams and
        Bashforth, with steps that shorten towards t = 1; for the SDE [3]_); ``"heun"`` is of second
        order with two; ``"euler"`` is the published discretisation, first evaluated at t = 1.
    noise : float
        ``eps0`` of the SDE; 0 is the ODE, an invertible map.
    source : NoiseSource, optional
        Needed with noise.

    Returns
    -------
    Tensor
        States at t_min, shape of x1.

    Raises
    ------
    SettingsError
        If a setting is out of range, or noise is wanted without a source.

    References
    ----------
    arXiv:2512.00252.
    """
    _check(x1, t_min, steps, solver, noise, 0, source)
    # For the published solver the times are those of the published code, to the last bit.
    times = np.linspace(1.0, t_min, steps + 1).tolist()
    if solver == "adams":
        times = step_times(t_min, steps, solver)[::-1]
    x, before = x1, None
    with torch.no_grad():
        for k in range(steps):
            x, before = _step(
                flow, x, times[k], times[k + 1], solver, noise, source, "inverse", k, before
            )
    return x


def generate(
    flow: Evaluable,
    z: Tensor,
    *,
    t_min: float,
    steps: int,
    solver: str = "adams",
    noise: float = 0.0,
    corrector_steps: int = 0,
    source: NoiseSource | None = None,
) -> Tensor:
    """Carry states from t_min up to t = 1.

    Parameters
    ----------
    flow : Evaluable
        The prior, or a guided one.
    z : Tensor
        States at t_min, shape ``(batch, channel, *space)``.
    t_min : float
        Where to start, in [0, 1); at 0, z is noise.
    steps : int
        Number of steps.
    solver : {"adams", "heun", "euler"}
        As in :func:`invert`; ``"adams"`` and ``"euler"`` are last evaluated one step before t = 1.
    noise : float
        ``eps0`` of the SDE; 0 is the ODE.
    corrector_steps : int
        Langevin steps at each new time; they cost one evaluation each. A state that they moved
        has no past for ``"adams"`` to build on: its steps are then those of ``"heun"``.
    source : NoiseSource, optional
        Needed with noise or corrector steps.

    Returns
    -------
    Tensor
        Normalised states at t = 1, shape of z.

    Raises
    ------
    SettingsError
        If a setting is out of range, or noise is wanted without a source.

    References
    ----------
    arXiv:2512.00252.
    """
    _check(z, t_min, steps, solver, noise, corrector_steps, source)
    times = step_times(t_min, steps, solver)
    if corrector_steps and solver == "adams":
        solver = "heun"
    x, before = z, None
    with torch.no_grad():
        for k in range(steps):
            x, before = _step(
                flow, x, times[k], times[k + 1], solver, noise, source, "guided", k, before
            )
            if source is None or k + 1 == steps:  # at t = 1 the corrector's step size is 0
                continue
            for j in range(corrector_steps):
                x = _correct(flow, x, times[k + 1], source, k * corrector_steps + j)
    return x


def renoise(interpolant: Interpolant, x1: Tensor, *, t_min: float, source: NoiseSource) -> Tensor:
    """Mix states with fresh noise, ``alpha(t_min) z + beta(t_min) x1``.

    What is left of a state is the same as after inversion, but its noise is not its own: members
    of one state become different ones, and no step of a network is needed.

    Parameters
    ----------
    interpolant : Interpolant
        The schedule.
    x1 : Tensor
        Normalised states, shape ``(batch, channel, *space)``.
    t_min : float
        Time of the mixture, in [0, 1).
    source : NoiseSource
        Of these members.

    Returns
    -------
    Tensor
        States at t_min, shape of x1.
    """
    z = source.draw("renoise", 0, x1.shape[1:], dtype=x1.dtype, device=x1.device)
    return interpolant.alpha(t_min) * z + interpolant.beta(t_min) * x1


class _Slope(NamedTuple):
    """Drift at an earlier time, for a method of several steps."""

    time: float
    value: Tensor


def _step(
    flow: Evaluable,
    x: Tensor,
    t: float,
    t_next: float,
    solver: str,
    noise: float,
    source: NoiseSource | None,
    stage: str,
    k: int,
    before: _Slope | None,
) -> tuple[Tensor, _Slope | None]:
    """Take one step of the ODE or SDE, in the direction of ``t_next - t``.

    Returns the new state, and the drift on the way for the step after it.
    """
    dt = t_next - t
    direction = math.copysign(1.0, dt)

    def drift(state: Tensor, time: float) -> Tensor:
        velocity, score = flow.evaluate(state, time)
        eps = noise * (1.0 - time)
        return velocity + (direction * eps) * score if eps > 0.0 else velocity

    if noise > 0.0 and source is not None:
        # Euler takes eps at the step's start, as published. Its mean over the step, at the middle
        # for a linear eps, gives the noise of a step its exact variance.
        time = t if solver == "euler" else 0.5 * (t + t_next)
        scale = math.sqrt(2.0 * noise * (1.0 - time) * abs(dt))
        kick = scale * source.draw(stage, k, x.shape[1:], dtype=x.dtype, device=x.device)
    else:
        kick = torch.zeros((), dtype=x.dtype, device=x.device)

    slope = drift(x, t)
    if solver == "euler":
        return x + dt * slope + kick, None
    if t == 0.0:
        # Guidance is left out at t = 0, where it has the form 0/0, although its limit is not 0.
        # The midpoint rule, of second order too, uses the drift there for the predictor alone.
        middle = drift(x + 0.5 * (dt * slope + kick), 0.5 * t_next)
        return x + dt * middle + kick, _Slope(0.5 * t_next, middle)
    if solver == "adams":
        here = _Slope(t, slope)
        if before is not None:  # the drift in the middle of the step, by linear extrapolation
            slope = slope + (0.5 * dt / (t - before.time)) * (slope - before.value)
        return x + dt * slope + kick, here
    return x + (0.5 * dt) * (slope + drift(x + dt * slope + kick, t_next)) + kick, None


def _correct(flow: Evaluable, x: Tensor, t: float, source: NoiseSource, number: int) -> Tensor:
    """Take one step of Langevin dynamics at fixed t: ``x + h s + sqrt(2 h) xi``.

    x_t is a sum with noise of deviation alpha, so log p_t curves downwards by at most 1 / alpha^2
    in any direction, for a prior as for its exact posterior. Langevin steps are therefore stable
    for ``h < 2 alpha^2``. Their finite size widens a direction of variance v by the fraction
    ``h / (2 v)``: at most ``h / (2 alpha^2)``, where x_t is pure noise, less where the data vary.
    h = 0.1 alpha^2 keeps it at 5 %, and leaves room where the score is only learned.
    """
    h = CORRECTOR_RATIO * flow.interpolant.alpha(t) ** 2
    xi = source.draw("corrector", number, x.shape[1:], dtype=x.dtype, device=x.device)
    return x + h * flow.evaluate(x, t).score + math.sqrt(2.0 * h) * xi


def _check(
    x: Tensor,
    t_min: float,
    steps: int,
    solver: str,
    noise: float,
    corrector_steps: int,
    source: NoiseSource | None,
) -> None:
    problems = []
    if not 0.0 <= t_min < 1.0:
        problems.append(problem("t_min", repr(t_min), "a number in [0, 1)"))
    if steps < 1:
        problems.append(problem("steps", repr(steps), "at least 1"))
    if solver not in SOLVERS:
        problems.append(problem("solver", repr(solver), f"one of {SOLVERS}"))
    if not 0.0 <= noise < math.inf:
        problems.append(problem("noise", repr(noise), "a finite number, at least 0"))
    if corrector_steps < 0:
        problems.append(problem("corrector_steps", repr(corrector_steps), "at least 0"))
    if source is None and (noise > 0.0 or corrector_steps > 0):
        problems.append(problem("source", "none", "a NoiseSource where noise is wanted"))
    if source is not None and len(source) != x.shape[0]:
        problems.append(
            problem("source", f"{len(source)} members", f"as many as states, {x.shape[0]}")
        )
    if problems:
        raise SettingsError("; ".join(problems))
