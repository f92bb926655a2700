"""One analysis by a method that needs no prior: all members of a time in, all members out.

The counterpart of `xr_daisi.engine` for the ensemble methods. NumPy at the outside, torch inside.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from xr_daisi.devices import resolve_device, resolve_dtype
from xr_daisi.ensemble_kalman import (
    Update,
    columns_at_once,
    global_update,
    local_update,
    relaxed,
)
from xr_daisi.ensemble_settings import EnsembleSettings
from xr_daisi.errors import SettingsError, StateError, problem
from xr_daisi.holes import fill_holes, holes_of
from xr_daisi.localization import Places, level_groups, local_weights
from xr_daisi.observed_ensemble import observe_ensemble, places_of
from xr_daisi.trajectories import of_trajectory

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from xr_daisi.forecast_state import ForecastState
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
    """

    prior: FlowPrior | ForecastState
    settings: EnsembleSettings
    method: str = "letkf"
    seed: int = 0
    device: str = "auto"
    dtype: str = "float32"
    tiling: None = field(default=None, init=False)

    joint = True
    """All members of a time have to be there together."""

    def __post_init__(self) -> None:
        resolve_dtype(self.dtype)
        if not self.device.startswith("cuda"):  # workers may have GPUs where we have none
            resolve_device(self.device)
        self._places  # noqa: B018  lengths are checked now rather than in a task
        if self.method == "letkf" and self.settings.localization is None:
            remedy = 'pass localization=..., e.g. "1000 km"; method="etkf" works without'
            expected = "a distance for method 'letkf'"
            raise SettingsError(problem("localization", "none", expected, remedy))
        self.settings.level_radius(self.prior.spec)

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

    def is_far(self, states: np.ndarray) -> bool:
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
            observation reaches keep their values exactly.

        Raises
        ------
        StateError
            For a forecast of too few members.
        OperatorError
            If the observation operator is not finite for the forecast.
        """
        need = 1 if self.method == "oi" else 2
        if len(states) < need:
            found, expected = f"{len(states)} member", f"at least {need} for {self.method!r}"
            raise StateError(problem("forecast", found, expected, "give it a member dimension"))
        holes = holes_of(states[0])
        filled = _filled(states, holes)
        analysed = self._analysed(filled, observations, time)
        if advance:
            advance(len(states))
        return fill_holes(analysed, holes, np.nan)

    def _analysed(
        self, states: np.ndarray, observations: ObservationBatch, time: str
    ) -> np.ndarray:
        device = resolve_device(self.device)
        # Linear increments are made where the prior's transforms take the variables.
        normalization = of_trajectory(self.normalization, self.prior.spec.channels, states.shape[1])
        transformed = any(normalization.transforms)
        x = normalization.normalize(states) if transformed else states
        mean = x.mean(axis=0)
        perturbations = torch.from_numpy((x - mean).reshape(*x.shape[:2], -1))
        perturbations = perturbations.to(device, self.solver_dtype)
        update = self._update(
            torch.from_numpy(states).to(device), perturbations, observations, time
        )
        s = self.settings
        before = perturbations
        after = relaxed(before, before + update.perturbations, s.relaxation, s.relaxation_method)
        total = update.mean + (after - before)
        increment = total.double().cpu().numpy().reshape(states.shape)
        analysed: np.ndarray = x + increment
        if transformed:
            analysed = normalization.denormalize(analysed)
            analysed = np.where(increment == 0.0, states, analysed)
        return analysed

    @property
    def solver_dtype(self) -> torch.dtype:
        """Precision of states and weights."""
        dtype = resolve_dtype(self.dtype)
        return torch.float32 if dtype == torch.bfloat16 else dtype

    def _update(
        self, states: Tensor, perturbations: Tensor, observations: ObservationBatch, time: str
    ) -> Update:
        """Update of mean ``(channel, point)`` and perturbations ``(member, channel, point)``."""
        s, spec = self.settings, self.prior.spec
        seen = observe_ensemble(observations, states, self.solver_dtype, time)
        given = perturbations, seen.anomalies, seen.departures
        if self.method == "etkf":
            return global_update(*given, s.inflation)
        places, radius = self._places
        positions, levels = places_of(observations, places.axes)
        times = perturbations.shape[1] // spec.channels
        groups = level_groups(spec, levels, s.level_radius(spec), times)
        most = columns_at_once(len(perturbations), perturbations.element_size())
        columns = local_weights(places, positions, radius, groups, most)
        return local_update(*given, columns, s.inflation)


def _filled(states: np.ndarray, holes: np.ndarray | None) -> np.ndarray:
    """States with the mean of each channel in its holes: what whole-field operators see there."""
    if holes is None:
        return states
    space = tuple(range(1, holes.ndim))
    known = np.where(holes, 0.0, states).sum(axis=(0, *(a + 1 for a in space)), keepdims=True)
    count = np.maximum(len(states) * (~holes).sum(axis=space, keepdims=True), 1)
    return fill_holes(states, holes, np.broadcast_to(known[0] / count, holes.shape))
