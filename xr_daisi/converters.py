"""Velocities from networks trained in another parametrisation: denoisers and noise predictors.

Every Gaussian noising of data is, up to a scale, ``y = x1 + sigma n``. A state of an interpolant
is such a y with ``sigma = alpha / beta``, so a network of another schedule is asked at its own time
of the same sigma. It tells ``E[x1 | x]`` and ``E[z | x]``; the velocity is
``alpha' E[z | x] + beta' E[x1 | x]``.

A network knows sigmas in a range. Beyond it (always at t = 0, sigma infinite, and t = 1, sigma 0):

* sigma too large: the network sees ``x / alpha`` scaled to the largest noise it knows, and what it
  returns for x1 is taken as it is. Its input lacks most of the data's part, which at that sigma is
  less than ``1 / sigma_max`` of the noise.
* sigma too small: ``E[z | x] = -sigma grad log p`` is linear in sigma there, so the noise found
  at the smallest known sigma is scaled down. At t = 1 this is exact: ``velocity = beta' x``.

References
----------
.. [1] T. Karras, M. Aittala, T. Aila, S. Laine, "Elucidating the Design Space of Diffusion-Based
   Generative Models", arXiv:2206.00364, 2022.
.. [2] J. Ho, A. Jain, P. Abbeel, "Denoising Diffusion Probabilistic Models", arXiv:2006.11239.
.. [3] T. Salimans, J. Ho, "Progressive Distillation for Fast Sampling of Diffusion Models",
   arXiv:2202.00512, 2022.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from xr_daisi.errors import DaisiTypeError, PriorError, SettingsError, problem
from xr_daisi.interpolant import LINEAR, Interpolant, Network

__all__ = ["velocity_from", "velocity_from_edm", "velocity_from_epsilon", "velocity_from_v"]


class _ConvertedVelocity(nn.Module):
    """Velocity from a predictor; a Module, so that ``.to`` and ``.eval`` reach the network."""

    def __init__(
        self, network: Network, interpolant: Interpolant, sigma_min: float, sigma_max: float
    ) -> None:
        super().__init__()
        if not callable(network):
            raise DaisiTypeError(
                problem("network", f"a {type(network).__name__}", "a callable network(x, level)")
            )
        if not 0.0 < sigma_min < sigma_max < math.inf:
            raise SettingsError(
                problem(
                    "sigma_min, sigma_max",
                    f"{sigma_min} and {sigma_max}",
                    "0 < sigma_min < sigma_max, both finite",
                )
            )
        self.network = network
        self.interpolant = interpolant
        self.sigma_min = sigma_min
        self.sigma_max = sigma_max

    def predict(self, y: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
        """Return ``E[x1 | y]`` and ``E[n | y]`` for ``y = x1 + sigma n``."""
        raise NotImplementedError

    def forward(self, x: Tensor, times: Tensor) -> Tensor:
        """Return the velocity at states x and the one time in ``times``."""
        t = _single_time(times)
        schedule = self.interpolant
        alpha, beta = schedule.alpha(t), schedule.beta(t)
        sigma = alpha / beta if beta > 0.0 else math.inf
        if sigma > self.sigma_max:
            data, _ = self.predict((self.sigma_max / alpha) * x, self.sigma_max)
            noise = (x - beta * data) / alpha
        elif sigma < self.sigma_min:
            _, noise = self.predict(x / beta, self.sigma_min)
            noise = (sigma / self.sigma_min) * noise
            data = (x - alpha * noise) / beta
        else:
            data, noise = self.predict(x / beta, sigma)
        return schedule.d_alpha(t) * noise + schedule.d_beta(t) * data


class _EDMVelocity(_ConvertedVelocity):
    def predict(self, y: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
        levels = torch.full((y.shape[0],), sigma, dtype=y.dtype, device=y.device)
        data = self.network(y, levels)
        return data, (y - data) / sigma


class _VPVelocity(_ConvertedVelocity):
    """From a network of a variance-preserving schedule, ``u = sqrt(a) x1 + sqrt(1 - a) n``."""

    def __init__(
        self,
        network: Network,
        interpolant: Interpolant,
        sigma_min: float,
        sigma_max: float,
        schedule: _VPSchedule,
        kind: str,
    ) -> None:
        super().__init__(
            network,
            interpolant,
            max(sigma_min, schedule.sigma_range[0]),
            min(sigma_max, schedule.sigma_range[1]),
        )
        self.schedule = schedule
        self.kind = kind

    def predict(self, y: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
        signal = 1.0 / math.sqrt(1.0 + sigma**2)  # sqrt(a)
        spread = sigma * signal  # sqrt(1 - a)
        u = signal * y
        time = self.schedule.time_of(sigma)
        times = torch.full((y.shape[0],), time, dtype=y.dtype, device=y.device)
        output = self.network(u, times)
        if self.kind == "epsilon":
            return y - sigma * output, output
        return signal * u - spread * output, spread * u + signal * output


class _VPSchedule:
    """``alpha_bar`` as a function of the network's time, and its inverse."""

    def __init__(
        self,
        alpha_bar: Callable[[float], float] | Sequence[float],
        time_range: tuple[float, float],
    ) -> None:
        if callable(alpha_bar):
            self.alpha_bar: Callable[[float], float] | None = alpha_bar
            self.times = [float(time) for time in time_range]
            levels = [float(alpha_bar(time)) for time in self.times]
        else:
            self.alpha_bar = None
            levels = [float(level) for level in alpha_bar]
            self.times = [float(k) for k in range(len(levels))]
        steps = [after - before for before, after in itertools.pairwise(levels)]
        monotone = all(step < 0 for step in steps) or all(step > 0 for step in steps)
        if len(levels) < 2 or not monotone or not all(0.0 <= level <= 1.0 for level in levels):
            found = f"{levels[0]} to {levels[-1]}" if levels else "no values"
            raise SettingsError(
                problem(
                    "alpha_bar",
                    f"{found} in {len(levels)} values",
                    "at least two values within [0, 1], rising or falling throughout",
                    "check alpha_bar and time_range",
                )
            )
        if steps[0] < 0:  # the search below wants noise first
            levels.reverse()
            self.times.reverse()
        self.levels = levels
        self.sigma_range = (_sigma_of(levels[-1]), _sigma_of(levels[0]))

    def time_of(self, sigma: float) -> float:
        """Return the network's time at which noise over signal is sigma."""
        level = 1.0 / (1.0 + sigma**2)
        above = min(max(bisect_left(self.levels, level), 1), len(self.levels) - 1)
        noisy, clean = self.times[above - 1], self.times[above]
        if self.alpha_bar is None:
            # Between the steps of a discrete schedule log-SNR is close to linear; at an end with
            # SNR zero or infinite it is not defined and alpha_bar itself has to do.
            low, high = self.levels[above - 1], self.levels[above]
            if low > 0.0 and high < 1.0:
                low, high, level = (math.log(a / (1.0 - a)) for a in (low, high, level))
            weight = min(max((level - low) / (high - low), 0.0), 1.0)
            return noisy + weight * (clean - noisy)
        for _ in range(200):
            middle = 0.5 * (noisy + clean)
            if middle in (noisy, clean):
                break
            if self.alpha_bar(middle) < level:
                noisy = middle
            else:
                clean = middle
        return 0.5 * (noisy + clean)


def _sigma_of(level: float) -> float:
    return math.sqrt((1.0 - level) / level) if level > 0.0 else math.inf


def _single_time(times: Tensor) -> float:
    values = times.tolist()
    if any(value != values[0] for value in values):
        raise SettingsError(problem("times", "different ones in a call", "all of them equal"))
    return float(values[0])


def velocity_from_edm(
    denoiser: Network,
    *,
    interpolant: Interpolant = LINEAR,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
) -> Network:
    """Return the velocity of a denoiser ``D(y, sigma)`` of ``y = x1 + sigma n``.

    Parameters
    ----------
    denoiser : callable or torch.nn.Module
        Takes y, shape ``(batch, channel, *space)``, and sigma, shape ``(batch,)``; returns
        ``E[x1 | y]``. Preconditioning (c_in, c_skip, ...) is the denoiser's own affair.
    interpolant : Interpolant
        The schedule wanted.
    sigma_min, sigma_max : float
        The noise levels the denoiser was trained for; it is never asked beyond them.

    Returns
    -------
    torch.nn.Module
        ``velocity(x, t)`` for :class:`Flow`, finite for every t in [0, 1].

    Raises
    ------
    DaisiTypeError, SettingsError
        If the denoiser is not callable or the noise levels are not ordered.

    References
    ----------
    arXiv:2206.00364.
    """
    return _EDMVelocity(denoiser, interpolant, sigma_min, sigma_max)


def velocity_from_epsilon(
    predictor: Network,
    alpha_bar: Callable[[float], float] | Sequence[float],
    *,
    time_range: tuple[float, float] = (0.0, 1.0),
    interpolant: Interpolant = LINEAR,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
) -> Network:
    """Return the velocity of a noise predictor of a variance-preserving schedule.

    Parameters
    ----------
    predictor : callable or torch.nn.Module
        ``eps(u, s)`` with ``u = sqrt(alpha_bar(s)) x1 + sqrt(1 - alpha_bar(s)) n``, shape ``(batch,
        channel, *space)``, and its own times s, shape ``(batch,)``; returns ``E[n | u]``.
    alpha_bar : callable or sequence of float
        The schedule: a monotone function of s over ``time_range``, or its values at
        ``s = 0, 1, 2, ...`` (then the predictor is asked at fractional s as well).
    time_range : (float, float)
        The predictor's times; unused for a sequence. Either end may be the noise.
    interpolant : Interpolant
        The schedule wanted.
    sigma_min, sigma_max : float
        Noise over signal beyond which the predictor is not asked, narrowed to what ``alpha_bar``
        reaches. Noise prediction tells little about the data at large sigma: keep it moderate.

    Returns
    -------
    torch.nn.Module
        ``velocity(x, t)`` for :class:`Flow`, finite for every t in [0, 1].

    Raises
    ------
    DaisiTypeError, SettingsError
        If the predictor is not callable or the schedule is not monotone.

    References
    ----------
    J. Ho, A. Jain, P. Abbeel, arXiv:2006.11239, 2020.
    """
    schedule = _VPSchedule(alpha_bar, time_range)
    return _VPVelocity(predictor, interpolant, sigma_min, sigma_max, schedule, "epsilon")


def velocity_from_v(
    predictor: Network,
    alpha_bar: Callable[[float], float] | Sequence[float],
    *,
    time_range: tuple[float, float] = (0.0, 1.0),
    interpolant: Interpolant = LINEAR,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
) -> Network:
    """Return the velocity of a v-predictor of a variance-preserving schedule.

    Parameters
    ----------
    predictor : callable or torch.nn.Module
        Returns ``E[sqrt(alpha_bar) n - sqrt(1 - alpha_bar) x1 | u]``; otherwise as the predictor
        of :func:`velocity_from_epsilon`, which explains the other parameters and errors.
    alpha_bar, time_range, interpolant, sigma_min, sigma_max
        As in :func:`velocity_from_epsilon`.

    Returns
    -------
    torch.nn.Module
        ``velocity(x, t)`` for :class:`Flow`, finite for every t in [0, 1].

    References
    ----------
    T. Salimans, J. Ho, arXiv:2202.00512, 2022.
    """
    schedule = _VPSchedule(alpha_bar, time_range)
    return _VPVelocity(predictor, interpolant, sigma_min, sigma_max, schedule, "v")


def velocity_from(schedule: str, predictor: Network, **options: Any) -> Network:
    """Return the velocity of a network whose schedule is named.

    Parameters
    ----------
    schedule : str
        ``"edm"``, ``"epsilon"`` or ``"v"``.
    predictor : callable or torch.nn.Module
        The network.
    **options
        Of `velocity_from_edm`, `velocity_from_epsilon` or `velocity_from_v`.

    Raises
    ------
    PriorError
        For an unknown schedule.
    """
    known: dict[str, Callable[..., Network]] = {
        "edm": velocity_from_edm,
        "epsilon": velocity_from_epsilon,
        "v": velocity_from_v,
    }
    if schedule not in known:
        names = ", ".join(map(repr, known))
        raise PriorError(problem("schedule", repr(schedule), f"one of {names}"))
    return known[schedule](predictor, **options)
