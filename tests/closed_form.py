"""Priors whose velocity is known in closed form, and observations of them, for the theory tests."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from xr_daisi.flow import LINEAR, Interpolant


class GaussianVelocity:
    """Velocity of the prior N(mean, covariance), for states of any shape behind the batch.

    E[x1 | x] = m + beta C (beta^2 C + alpha^2)^-1 (x - beta m), and E[z | x] likewise.
    """

    def __init__(self, mean: Tensor, covariance: Tensor, interpolant: Interpolant = LINEAR) -> None:
        self.mean = mean
        self.covariance = covariance
        self.interpolant = interpolant
        self.calls = 0

    def __call__(self, x: Tensor, times: Tensor) -> Tensor:
        self.calls += 1
        t = float(times[0])
        i = self.interpolant
        alpha, beta, d_alpha, d_beta = i.alpha(t), i.beta(t), i.d_alpha(t), i.d_beta(t)
        eye = torch.eye(len(self.covariance), dtype=torch.float64)
        gain = torch.linalg.solve(
            beta**2 * self.covariance + alpha**2 * eye,
            d_beta * beta * self.covariance + d_alpha * alpha * eye,
        ).to(x.dtype)
        mean = self.mean.to(x.dtype)
        b = d_beta * mean + (x.reshape(len(x), -1) - beta * mean) @ gain  # both factors commute
        return b.reshape(x.shape)


class GaussianMixtureVelocity:
    """Velocity of a mixture of N(mean_k, covariance) with one covariance, linear interpolant."""

    def __init__(self, weights: Tensor, means: Tensor, covariance: Tensor) -> None:
        self.weights, self.means, self.covariance = weights, means, covariance
        self.parts = [GaussianVelocity(mean, covariance) for mean in means]

    def __call__(self, x: Tensor, times: Tensor) -> Tensor:
        t = float(times[0])
        spread = t**2 * self.covariance + (1 - t) ** 2 * torch.eye(x.shape[1], dtype=x.dtype)
        away = x[:, None, :] - t * self.means
        distance = (away * torch.linalg.solve(spread, away.mT).mT).sum(-1)
        share = torch.softmax(self.weights.log() - 0.5 * distance, dim=1)
        velocities = torch.stack([part(x, times) for part in self.parts], dim=1)
        return (share[:, :, None] * velocities).sum(1)


class PointObservations:
    """H applied to chosen entries of the flattened state; linear where `function` is none."""

    def __init__(
        self,
        matrix: Tensor,
        values: Tensor,
        error_std: Tensor | float,
        function: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.matrix = matrix
        self.values = values
        self.error_std = torch.as_tensor(error_std, dtype=values.dtype).expand(values.shape)
        self.function = function

    def observe(self, x: Tensor, /) -> Tensor:
        y = x.reshape(len(x), -1) @ self.matrix.to(x.dtype).mT
        return y if self.function is None else self.function(y)


def smooth_covariance(n: int, length: float = 2.0, variance: float = 1.0) -> Tensor:
    """Gaussian correlations on a ring of n points, float64."""
    i = torch.arange(n, dtype=torch.float64)
    distance = (i[:, None] - i).abs()
    distance = torch.minimum(distance, n - distance)
    chord = n / math.pi * torch.sin(math.pi * distance / n)
    return variance * (torch.exp(-0.5 * (chord / length) ** 2) + 0.02 * torch.eye(n)).double()


def kalman(
    mean: Tensor, covariance: Tensor, matrix: Tensor, values: Tensor, error_std: Tensor
) -> tuple[Tensor, Tensor]:
    """Posterior mean and covariance of N(mean, covariance) given linear observations."""
    innovation = matrix @ covariance @ matrix.mT + torch.diag(error_std**2)
    gain = torch.linalg.solve(innovation, matrix @ covariance).mT
    return (
        mean + gain @ (values - matrix @ mean),
        covariance - gain @ matrix @ covariance,
    )


def affine_map(function: Callable[[Tensor], Tensor], n: int) -> tuple[Tensor, Tensor]:
    """Offset and matrix of an affine map of states (batch, n), found from n + 1 of them."""
    out = function(torch.cat([torch.zeros(1, n), torch.eye(n)]).double())
    return out[0], (out[1:] - out[0]).mT


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def selection(indices: list[int], n: int) -> Tensor:
    return torch.eye(n, dtype=torch.float64)[indices]


def normal(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


class UnitNoise:
    """A noise source that kicks one row of the batch with one unit vector at one stage and step.

    Through a sampler that is affine, state and noise alike, the batch then returns the whole map:
    the covariance of its result is known exactly, without sampling error. The rows are: the origin,
    the n unit vectors of the start, then n for every one of `kicks`.
    """

    def __init__(self, n: int, kicks: list[tuple[str, int]]) -> None:
        self.n = n
        self.first = {kick: 1 + n * (k + 1) for k, kick in enumerate(kicks)}

    def __len__(self) -> int:
        return 1 + self.n * (1 + len(self.first))

    def start(self) -> Tensor:
        z = torch.zeros(len(self), self.n, dtype=torch.float64)
        z[1 : 1 + self.n] = torch.eye(self.n)
        return z

    def draw(self, stage: str, step: int, shape: tuple[int, ...], **kwargs: object) -> Tensor:
        xi = torch.zeros(len(self), self.n, dtype=torch.float64)
        row = self.first[stage, step]
        xi[row : row + self.n] = torch.eye(self.n)
        return xi

    def moments(self, out: Tensor, mean: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and covariance of the result for a start of given mean and covariance."""
        linear = (out[1:] - out[0]).mT
        start, kicks = linear[:, : self.n], linear[:, self.n :]
        return out[0] + start @ mean, start @ covariance @ start.mT + kicks @ kicks.mT
