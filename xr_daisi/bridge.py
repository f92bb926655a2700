r"""The bridge: an ensemble Kalman update takes a share of each observation, the flow the rest.

The likelihood is split, ``p(y | x) = p(y | x)^a p(y | x)^(1 - a)``. An ensemble transform Kalman
filter with errors R / a takes the first factor: it knows the forecast's own covariance. Its members
are carried to latent space and guided with R / (1 - a): the flow knows what states look like, and
takes any operator. Every observation is used once in all.

The share that an observation has in the update is

    ``a min(1, 0.02 / e)``.

e is the mean square of what H of the members is off its tangent, in units of the error R: with the
errors ``R e / 0.02`` any observation is nearly linear. Such errors add up, since neighbouring
observations have the same, so that 0.02 is much. Nor may a departure be more than three standard
deviations of the enlarged error and the spread: members that are all on the same flat of an
operator, or have lost the truth, know nothing of what lies beyond. a leaves the update a fraction
of the information of the observations, of what they change log det of the covariance by; a share of
the likelihood would not do, since a tenth of an accurate observation says nearly as much as the
whole of it. The fraction follows from what such an update turns out to be worth when it is tried on
the members themselves, see `xr_daisi.efficiency`, and from how far they are from Gaussian. For
linear observations and some hundreds of Gaussian members a is 1: the filter is exact there, and the
flow is not.

How far observations reach (`xr_daisi.reach`), the size of the forecast's perturbations
(`xr_daisi.calibration`) and the inversion time (`xr_daisi.denoising`) follow from the ensemble, its
innovations and the prior, so that nothing has to be tuned.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from xr_daisi.calibration import (
    departure_from_linearity,
    innovation_inflation,
    negentropy,
)
from xr_daisi.denoising import inversion_time
from xr_daisi.efficiency import efficiency, fraction_of_information
from xr_daisi.ensemble_engine import EnsembleEngine
from xr_daisi.ensemble_settings import EnsembleSettings
from xr_daisi.holes import fill_with_means
from xr_daisi.localization import Places
from xr_daisi.observed_ensemble import ObservedEnsemble, observe_ensemble, places_of
from xr_daisi.perturbed_observations import share_of_errors
from xr_daisi.reach import ObservedPlaces, Reach, choose_reach
from xr_daisi.settings import AUTO, T_MIN
from xr_daisi.trajectories import of_trajectory

if TYPE_CHECKING:
    from torch import Tensor

    from xr_daisi.column_update import ColumnUpdate
    from xr_daisi.engine import Engine
    from xr_daisi.observation_batch import ObservationBatch
    from xr_daisi.state import StateSpec

__all__ = ["Bridge", "BridgePlan", "Choice", "scaled"]

Floats = NDArray[np.float64]

LINEAR = 0.02
"""Mean square departure from the tangent, in errors, that the update bears."""

CURVED = 1e-4
"""Mean square departure from the tangent, in errors, up to which an operator is linear."""

FARTHEST = 3.0
"""Standard deviations of a departure that an update may extrapolate."""

LEAST = 1e-8
"""Share that the update has at least where it is chosen, for its inflation of the spread."""

WORTHLESS = 1e4
"""Factor of an error that leaves an observation without influence, within an average."""


@dataclass(frozen=True)
class Choice:
    """What was chosen for one analysis.

    Parameters
    ----------
    t_min : float
        Inversion time; without meaning where no flow follows.
    share : float
        Of the likelihood for the ensemble update, mean over observations.
    reach : Reach
        Of observations in that update.
    inflation : float
        Factor of the forecast's perturbations in it.
    flow : bool
        Whether the flow follows. Where nothing is left for its guidance it could only add noise.
    """

    t_min: float
    share: float = 0.0
    reach: Reach = field(default_factory=Reach)
    inflation: float = 1.0
    flow: bool = True

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types, for the attributes of an analysis."""
        found: dict[str, Any] = {"t_min": round(self.t_min, 3)} if self.flow else {}
        found["bridge"] = round(self.share, 3)
        if self.share == 0.0:
            return found
        if self.reach.radius is not None:
            found["localization"] = float(f"{self.reach.radius:.4g}")
        if self.reach.vertical:
            found["vertical_localization"] = [
                float(f"{zero:.4g}") for zero in self.reach.vertical.values()
            ]
        return {**found, "inflation": round(self.inflation, 3)}


class BridgePlan(NamedTuple):
    """What is to be done to the ensemble of one analysis before the flow.

    Attributes
    ----------
    update : ColumnUpdate or None
        By the ensemble's share of the observations; None where it takes nothing.
    rest : ObservationBatch
        With the errors of what is left for the flow, maybe none.
    share, reach, inflation, flow
        As in `Choice`.
    """

    update: ColumnUpdate | None
    rest: ObservationBatch
    share: float
    reach: Reach
    inflation: float
    flow: bool


@dataclass(frozen=True)
class Bridge:
    """The ensemble update before the flow, and the choice of the inversion time.

    Attributes
    ----------
    share : float or "auto"
        Of every observation.
    t_min : float or "auto"
        Inversion time.
    settings : EnsembleSettings
        Localisation, chosen where it is None; inflation and relaxation on top of what is chosen.
    """

    share: float | Literal["auto"] = AUTO
    t_min: float | Literal["auto"] = AUTO
    settings: EnsembleSettings = field(default_factory=EnsembleSettings)

    def check(self, spec: StateSpec) -> None:
        """Raise for lengths that do not fit the state: now rather than in a task.

        Raises
        ------
        SettingsError
            Naming the keyword.
        """
        self.settings.level_radius(spec)
        if self.settings.localization is not None:
            self.settings.radius(Places.of(spec).axes)

    def plan(
        self, engine: Engine, states: np.ndarray, observations: ObservationBatch, time: str
    ) -> BridgePlan:
        """Choose what the ensemble update takes of the observations of one time, and how.

        Parameters
        ----------
        engine : Engine
            Of the flow; its prior describes the state.
        states : ndarray
            Physical forecast ``(member, channel, *space)``, all members; NaN in holes. Several
            times may be stacked along the channels.
        observations : ObservationBatch
            Of these times, at least one, none in a hole.
        time : str
            Label.

        Returns
        -------
        BridgePlan
            The update, and the rest of the observations.
        """
        spec = engine.prior.spec
        normalization = of_trajectory(engine.prior.normalization, spec.channels, states.shape[1])
        filled = fill_with_means(states, states.ndim - 1)
        share, reach, inflation = np.zeros(_count(observations)), Reach(), 1.0
        update = None
        if self.share != 0.0:
            seen = observe_ensemble(observations, torch.from_numpy(filled), torch.float64, time)
            off = departure_from_linearity(observations, filled)
            normalised = normalization.normalize(states)
            inflation = innovation_inflation(*_credible(off, seen))
            most = _bearable(off, seen, inflation) if self.share == AUTO else None
            share, reach = self._share(observations, normalised, seen.anomalies, most, spec)
            own = scaled(observations, share)
            if len(own):
                update = self._engine(engine, reach, inflation).column_update(filled, own, time)
        rest = scaled(observations, 1.0 - share)
        flow = self.share != AUTO or len(rest) > 0
        return BridgePlan(update, rest, float(share.mean()), reach, inflation, flow)

    def choice(self, engine: Engine, after: np.ndarray, plan: BridgePlan) -> Choice:
        """Choose the inversion time of members that have been updated.

        Parameters
        ----------
        engine : Engine
            Of the flow, for as many times as are stacked.
        after : ndarray
            Physical members ``(member, channel, *space)`` after the update; NaN in holes.
        plan : BridgePlan
            Of the update.
        """
        t_min = self.t_min
        if t_min == AUTO:
            t_min = inversion_time(engine, after) if plan.flow else T_MIN
        return Choice(float(t_min), plan.share, plan.reach, plan.inflation, plan.flow)

    def rest(self, engine: Engine, after: np.ndarray, plan: BridgePlan) -> ObservationBatch:
        """Return what is left for the flow, with the errors that each member has of its own.

        Parameters
        ----------
        engine, after, plan
            As in `choice`.
        """
        if not plan.flow or not engine.settings.perturbs or not len(plan.rest):
            return plan.rest
        filled = fill_with_means(after, after.ndim - 1)
        share = share_of_errors(plan.rest, filled, engine.normalization.normalize(filled))
        return replace(plan.rest, own_share=share)

    def _share(
        self,
        observations: ObservationBatch,
        normalised: Floats,
        anomalies: Tensor,
        most: Floats | None,
        spec: StateSpec,
    ) -> tuple[Floats, Reach]:
        """Share of each observation, at most `most` where it is chosen, and how far they reach."""
        if most is None:
            share = np.full(anomalies.shape[1], float(self.share))
            observed = self._observed(spec, observations, anomalies, share)
            return share, self._reach(normalised, spec, observed)
        most = _alike(most, observations)
        observed = self._observed(spec, observations, anomalies, most)
        reach = self._reach(normalised, spec, observed)
        delivered = efficiency(normalised, spec, observed, most, reach)
        away = negentropy(normalised)
        noise = reach.determined / (len(normalised) - 1)
        fraction = fraction_of_information(delivered, noise, away)
        a = observed.share_of_information(fraction, reach.radius, reach.vertical)
        return np.maximum(most * a, LEAST), reach

    def _observed(
        self, spec: StateSpec, observations: ObservationBatch, anomalies: Tensor, share: Floats
    ) -> ObservedPlaces:
        axes = Places.of(spec).axes
        positions, levels = places_of(observations, axes)
        scaled = anomalies * torch.from_numpy(np.sqrt(share))
        return ObservedPlaces(scaled, Places(axes, positions), levels)

    def _reach(self, normalised: Floats, spec: StateSpec, observed: ObservedPlaces) -> Reach:
        s = self.settings
        vertical = s.level_radius(spec)
        if s.localization is None:
            return choose_reach(normalised, spec, observed, vertical)
        vertical = vertical or {}
        radius = s.radius(observed.places.axes)
        return Reach(radius, vertical, observed.determined(radius, vertical))

    def _engine(self, engine: Engine, reach: Reach, inflation: float) -> EnsembleEngine:
        unlimited = reach.radius is None and not reach.vertical
        return EnsembleEngine(
            engine.prior,
            replace(self.settings, inflation=self.settings.inflation * inflation),
            "etkf" if unlimited else "letkf",
            engine.seed,
            engine.device,
            engine.dtype,
            regain=True,
            reach=reach,
        )


def scaled(observations: ObservationBatch, share: Floats) -> ObservationBatch:
    """Return observations with the errors of a share of their likelihood, R / share.

    Parameters
    ----------
    observations : ObservationBatch
        Maybe averaged.
    share : array, shape (n,)
        Of each, or of each average; 0 leaves it out.

    Returns
    -------
    ObservationBatch
        Maybe without any.
    """
    averaging = observations.averaging
    if averaging is not None and share.any():
        # The averages stay what they are; without influence instead of being left out.
        factor = np.sqrt(np.maximum(share, WORTHLESS**-2))[averaging.group]
        return replace(observations, errors=observations.errors / factor)
    kept = share > 0.0 if averaging is None else np.zeros(len(observations), dtype=bool)
    if averaging is not None:
        return replace(observations, averaging=None).keep(kept)
    errors = observations.errors / np.sqrt(np.where(kept, share, 1.0))
    return replace(observations, errors=errors).keep(kept)


def _credible(off: Floats, seen: ObservedEnsemble) -> tuple[Tensor, Tensor]:
    """Perturbations and departures at the observations, in errors that explain what is curved.

    Members that are all on the same flat of an operator look certain of what is observed, and
    departures may be of any size there: how far off the state is they do not say.
    """
    factor = torch.from_numpy(np.where(off > CURVED, _beyond(seen, 1.0), 1.0)).sqrt()
    return seen.anomalies / factor, seen.departures / factor


def _bearable(off: Floats, seen: ObservedEnsemble, inflation: float) -> Floats:
    """Largest share of each observation for which its operator is as good as linear.

    That is so within the spread, and no farther from it than the next members may say: where all
    members are on the wrong side of a threshold, or have lost the truth, a line through them leads
    anywhere, also of what is not observed.
    """
    most = np.minimum(1.0, LINEAR / np.maximum(off, LINEAR))
    return np.minimum(most, 1.0 / _beyond(seen, inflation))


def _beyond(seen: ObservedEnsemble, inflation: float) -> Floats:
    """Error variances, at least 1, with which departures are `FARTHEST` standard deviations."""
    members = len(seen.anomalies)
    spread = seen.anomalies.square().sum(dim=0) / (members - 1) * (1.0 + 1.0 / members)
    factor: Floats = (seen.departures.square() / FARTHEST**2 - inflation**2 * spread).numpy()
    return np.maximum(factor, 1.0)


def _count(observations: ObservationBatch) -> int:
    averaging = observations.averaging
    return len(observations) if averaging is None else len(averaging)


def _alike(share: Floats, observations: ObservationBatch) -> Floats:
    """Give observations with correlated errors the same share: only so it is one likelihood."""
    share = share.copy()
    if observations.averaging is not None and observations.blocks:
        share[:] = share.min()
        return share
    for block in observations.blocks:
        share[block.places] = share[block.places].min()
    return share
