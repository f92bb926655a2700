"""One analysis by a method that needs no prior: all members of a time in, all members out.

The counterpart of `xr_daisi.engine` for the ensemble methods. NumPy at the outside, torch inside.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from xr_daisi.column_update import ColumnUpdate
from xr_daisi.devices import double_device, resolve_device, resolve_dtype
from xr_daisi.ensemble_kalman import global_weights, relaxed
from xr_daisi.ensemble_settings import EnsembleSettings
from xr_daisi.errors import SettingsError, StateError, problem, raise_problems
from xr_daisi.forecast_state import ForecastState
from xr_daisi.guidance_observations import check_observed
from xr_daisi.holes import fill_holes, fill_with_means, holes_of
from xr_daisi.linearised import linearised
from xr_daisi.localization import Places
from xr_daisi.noise import NoiseSource
from xr_daisi.observed_ensemble import (
    ObservedEnsemble,
    observe_ensemble,
    places_of,
    times_error_root,
)
from xr_daisi.optimal_interpolation import StaticCovariance, channel_correlations, interpolated
from xr_daisi.reach import Reach
from xr_daisi.score_filter import score_filter
from xr_daisi.trajectories import of_trajectory

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from xr_daisi.observation_batch import ObservationBatch
    from xr_daisi.priors import FlowPrior
    from xr_daisi.state import Normalization

__all__ = ["EnsembleEngine"]


@dataclass(frozen=True)
class EnsembleEngine:
    """Ensemble methods for all members of one time.

    Attributes
    ----------
    prior : FlowPrior or ForecastState
        Variables and grid; of a prior also transforms of bounded variables, within which
        increments are made. Its network is not used.
    settings : EnsembleSettings
        How.
    method : str
        ``"letkf"``, ``"etkf"``, ``"ensf"`` or ``"oi"``.
    seed : int
        Of all noise.
    device, dtype : str
        Where and in which precision.
    regain : bool
        Whether the filters make up for the sampling errors of their weights, see `regained`.
    reach : Reach or None
        How far observations reach; None is what the settings say.
    """

    prior: FlowPrior | ForecastState
    settings: EnsembleSettings
    method: str = "letkf"
    seed: int = 0
    device: str = "auto"
    dtype: str = "float32"
    regain: bool = False
    reach: Reach | None = None
    tiling: None = field(default=None, init=False)

    joint = True
    """All members of a time have to be there together."""

    def __post_init__(self) -> None:
        resolve_dtype(self.dtype)
        if not self.device.startswith("cuda"):  # workers may have GPUs where we have none
            resolve_device(self.device)

    def checked(self) -> EnsembleEngine:
        """Return it, if lengths and names fit the state: now rather than in a task.

        Raises
        ------
        SettingsError
            Naming what does not.
        """
        s, spec = self.settings, self.prior.spec
        problems = []
        if self.method in ("letkf", "oi") and s.localization is None:
            remedy = 'pass localization=..., e.g. "1000 km"'
            if self.method == "letkf":
                remedy += '; method="etkf" works without'
            expected = f"a distance for method {self.method!r}"
            problems.append(problem("localization", "none", expected, remedy))
        if isinstance(s.background_error, Mapping) and set(s.background_error) != set(spec.names):
            found = ", ".join(map(str, s.background_error))
            expected = f"one for each of {', '.join(spec.names)}"
            problems.append(problem("background_error", found, expected))
        raise_problems(SettingsError, problems)
        s.level_radius(spec)
        if s.localization is not None:
            s.radius(self._places[0].axes)
        return self

    @property
    def _places(self) -> tuple[Places, float]:
        """Grid and radius of localisation, infinite without one."""
        places = Places.of(self.prior.spec)
        if self.settings.localization is None:
            return places, np.inf
        return places, self.settings.radius(places.axes)

    @property
    def normalization(self) -> Normalization:
        """Of the prior."""
        return self.prior.normalization

    def is_far(self, states: np.ndarray, limit: float = np.inf) -> bool:
        """No forecast is far: there is no prior to be far from."""
        return False

    def analyse(
        self,
        states: np.ndarray,
        observations: ObservationBatch,
        *,
        time: str = "",
        first_member: int = 0,
        advance: Callable[[int], object] | None = None,
    ) -> np.ndarray:
        """Assimilate observations into all members of one time.

        Parameters
        ----------
        states : ndarray
            Physical forecast ``(member, channel, *space)``, float64; NaN at the same points of
            every member are holes. Several times may be stacked along the channels.
        observations : ObservationBatch
            Of this time, at least one, none in a hole.
        time : str
            Label that keys the noise.
        first_member : int
            0: all members are there.
        advance : callable, optional
            Called with the number of members done.

        Returns
        -------
        ndarray
            Physical analysis, float64, shape of `states`, NaN in the holes. Points that no
            observation reaches keep their values exactly, but for the noise of ``"ensf"``.

        Raises
        ------
        StateError
            For a forecast of too few members.
        OperatorError
            If the observation operator is not finite for the forecast.
        """
        self._check_members(states)
        holes = holes_of(states[0])
        filled = fill_with_means(states, states.ndim - 1)
        analysed = self._analysed(filled, observations, time)
        if advance:
            advance(len(states))
        return fill_holes(analysed, holes, np.nan)

    def _check_members(self, states: np.ndarray) -> None:
        need = 1 if self.method == "oi" else 2
        if len(states) < need:
            found, expected = f"{len(states)} member", f"at least {need} for {self.method!r}"
            raise StateError(problem("forecast", found, expected, "give it a member dimension"))

    def _analysed(
        self, states: np.ndarray, observations: ObservationBatch, time: str
    ) -> np.ndarray:
        """Analyse states without holes."""
        noise = NoiseSource(self.seed, time, range(len(states)))
        if self.method == "oi":
            added = self._interpolated(states, observations, noise, time)
            moved: np.ndarray = states + added
            return moved
        if self.method == "ensf":
            return self._filtered(states, observations, noise, time)
        return self.column_update(states, observations, time)(states)

    def column_update(
        self, states: np.ndarray, observations: ObservationBatch, time: str
    ) -> ColumnUpdate:
        """Compare the ensemble with its observations, for a Kalman update of any of its columns.

        Parameters
        ----------
        states, observations, time
            As in `analyse`.

        Raises
        ------
        StateError
            For a forecast of too few members.
        OperatorError
            If the observation operator is not finite for the forecast.
        """
        self._check_members(states)
        spec = self.prior.spec
        x = torch.from_numpy(fill_with_means(states, states.ndim - 1))
        x = x.to(double_device(resolve_device(self.device)))
        seen = observe_ensemble(observations, x, torch.float64, time)
        common: dict[str, Any] = {
            "spec": spec,
            "normalization": of_trajectory(self.normalization, spec.channels, states.shape[1]),
            "settings": self.settings,
            "regain": self.regain,
            "device": self.device,
            "dtype": self.solver_dtype,
        }
        if self.method == "etkf":
            weights = global_weights(seen.anomalies, seen.departures, self.settings.inflation)
            return ColumnUpdate(**common, weights=(weights[0].cpu(), weights[1].cpu()))
        places, radius = self._places
        positions, levels = places_of(observations, places.axes)
        return ColumnUpdate(
            **common,
            # Other workers may have another device, or none.
            seen=ObservedEnsemble(seen.departures.cpu(), seen.anomalies.cpu()),
            observed=Places(places.axes, positions),
            levels=levels,
            reach=self.reach or Reach(radius, self.settings.level_radius(spec) or {}),
        )

    def _filtered(
        self,
        states: np.ndarray,
        observations: ObservationBatch,
        noise: NoiseSource,
        time: str,
    ) -> np.ndarray:
        """Analysis by the score filter, in units of the forecast's own spread at each point.

        Standardised and relaxed point by point as in arXiv:2404.00844; the mean is not rescaled.
        """
        device, dtype, s = resolve_device(self.device), self.solver_dtype, self.settings
        normalization = of_trajectory(self.normalization, self.prior.spec.channels, states.shape[1])
        x = normalization.normalize(states)
        mean, spread = x.mean(axis=0), x.std(axis=0, ddof=1)
        # Where the members agree there is no scale, and nothing to be changed.
        typical = np.sqrt(np.mean(spread**2, axis=tuple(range(1, spread.ndim)), keepdims=True))
        scale = np.maximum(spread, np.maximum(1e-6 * typical, 1e-30))
        own = replace(
            normalization,
            mean=normalization.mean + normalization.std * mean,
            std=normalization.std * scale,
        )
        tensors = observations.to_tensors(own, device, dtype)

        def residual(z: Tensor) -> Tensor:
            observed = tensors.observe(z.reshape(len(z), *mean.shape))
            return times_error_root(tensors.residual(observed), observations, inverse=True)

        def draw(stage: str, step: int) -> Tensor:
            return noise.draw(stage, step, (mean.size,), dtype=dtype, device=device)

        members = torch.from_numpy(((x - mean) / scale).reshape(len(x), -1)).to(device, dtype)
        with torch.no_grad():
            check_observed(tensors.observe(members.reshape(x.shape)), time)
        z = score_filter(members, residual, steps=s.steps, draw=draw)
        middle = z.mean(dim=0)
        z = middle + relaxed(members, z - middle, s.relaxation, s.relaxation_method)
        analysed = own.denormalize(z.double().cpu().numpy().reshape(states.shape))
        return np.where(spread == 0.0, states, analysed)

    def _interpolated(
        self, states: np.ndarray, observations: ObservationBatch, noise: NoiseSource, time: str
    ) -> np.ndarray:
        """Increments of optimal interpolation, in double precision on the CPU."""
        spec, s = self.prior.spec, self.settings
        x = torch.from_numpy(states)
        tensors = observations.to_tensors(None, "cpu", torch.float64)
        with torch.no_grad():
            observed = tensors.observe(x)
            check_observed(observed, time)
            departures = tensors.residual(observed)
        count = departures.shape[1]
        if len(states) > 1:
            e = noise.draw("oi, observations", 0, (count,), dtype=torch.float64, device="cpu")
            e = e - e.mean(dim=0)
            departures = departures + times_error_root(e, observations, inverse=False)
        root = times_error_root(torch.eye(count).double(), observations, inverse=False)
        places, radius = self._places
        times = states.shape[1] // spec.channels
        covariance = StaticCovariance(
            places,
            radius,
            channel_correlations(spec, s.level_radius(spec), times),
            self._background_error(states, times),
        )
        operator = linearised(observations, states.mean(axis=0))
        increments = interpolated(
            departures.numpy(), operator, (root.mT @ root).numpy(), covariance
        )
        return increments.reshape(states.shape)

    def _background_error(self, states: np.ndarray, times: int) -> np.ndarray:
        """Return deviations of the forecast's errors, broadcastable to (channel, point)."""
        spec, given = self.prior.spec, self.settings.background_error
        if given is None and len(states) > 1:
            variance = states.var(axis=0, ddof=1).reshape(states.shape[1], -1)
            rms: np.ndarray = np.sqrt(variance.mean(axis=1, keepdims=True))
            return rms
        if given is None:
            normalization = self.normalization
            if isinstance(self.prior, ForecastState) or any(normalization.transforms):
                expected = "a standard deviation, since one member has no spread"
                raise SettingsError(
                    problem("background_error", "none", expected, "pass background_error=...")
                )
            whole = np.broadcast_to(normalization.std, spec.shape).reshape(spec.channels, -1)
            return np.tile(whole, (times, 1))
        values = np.empty((spec.channels, 1))
        for v in spec.variables:
            one = given[v.name] if isinstance(given, Mapping) else given
            values[spec.channel_slice(v.name)] = one
        return np.tile(values, (times, 1))

    @property
    def solver_dtype(self) -> torch.dtype:
        """Precision of states and weights."""
        dtype = resolve_dtype(self.dtype)
        return torch.float32 if dtype == torch.bfloat16 else dtype
