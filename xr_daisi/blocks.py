"""Blocks of members and times through the engine.

A block is a NumPy array ``(time, member, channel, *space)`` in the forecast's own units.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, cast

import numpy as np
import torch

from xr_daisi.block_checks import check_block, forecast_holes
from xr_daisi.circular import next_to, periods_of
from xr_daisi.engine import FAR, Engine
from xr_daisi.errors import DivergenceError, problem
from xr_daisi.forecast_state import ForecastState
from xr_daisi.holes import fill_holes, fill_with_means, holes_of
from xr_daisi.observation_extremes import farthest, refuse_extremes
from xr_daisi.observation_holes import outside_holes
from xr_daisi.observation_keys import in_order
from xr_daisi.observation_options import ObservationOptions
from xr_daisi.observation_status import Status
from xr_daisi.plane import PlaneAxes
from xr_daisi.thinning import thinned
from xr_daisi.trajectories import TrajectoryEngine, trajectories
from xr_daisi.user_warnings import warn_user
from xr_daisi.windows import Window

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from xr_daisi.bridge import Bridge
    from xr_daisi.ensemble_engine import EnsembleEngine
    from xr_daisi.layout import Layout
    from xr_daisi.observations import ObservationBatch

__all__ = ["Work", "far_from_ensemble"]


LOST = 100.0
"""Standard deviations of the prior beyond which no observation may carry a state."""


@dataclass(frozen=True)
class Work:
    """What is done to every block.

    Attributes
    ----------
    engine : Engine or EnsembleEngine
        Prior, settings, seed, device.
    layout : Layout
        Units, labels.
    options : ObservationOptions
        How observations are read.
    bridge : Bridge or None
        What comes before the engine, with all members of a time together.
    """

    engine: Engine | EnsembleEngine
    layout: Layout
    options: ObservationOptions = field(default_factory=ObservationOptions)
    bridge: Bridge | None = None

    def physical(self, states: np.ndarray) -> np.ndarray:
        """Convert states from the forecast's to the prior's units, float64."""
        converted: np.ndarray = states.astype(float) * self.layout.factor + self.layout.offset
        return converted

    def filled(self, states: np.ndarray) -> np.ndarray:
        """Convert ``(..., channel, *space)`` to the prior's units, with its mean in holes.

        Without a prior the mean of each channel stands there.
        """
        converted = self.physical(states)
        if isinstance(self.engine.prior, ForecastState):
            return fill_with_means(converted, len(self.layout.spec.shape))
        normalization = self.engine.prior.normalization
        mean = normalization.denormalize(np.zeros(self.layout.spec.shape))
        first = converted[(0,) * (converted.ndim - mean.ndim)]
        return fill_holes(converted, holes_of(first), mean)

    def own_units(self, states: np.ndarray) -> np.ndarray:
        """Convert states from the prior's to the forecast's units."""
        converted: np.ndarray = (states - self.layout.offset) / self.layout.factor
        return converted

    def holes(self, block: np.ndarray) -> NDArray[np.bool_]:
        """Return the holes of a forecast, ``(channel, *space)``, from its first block.

        Raises
        ------
        StateError
            For variables that are NaN everywhere.
        """
        return forecast_holes(block[0, 0], self.layout, self.engine.prior)

    def check(
        self, block: np.ndarray, holes: NDArray[np.bool_], first_time: int, first_member: int
    ) -> None:
        """Raise where a forecast is infinite, NaN outside holes, or not what the prior takes.

        Parameters
        ----------
        block : ndarray
            ``(time, member, channel, *space)`` in the forecast's units.
        holes : ndarray of bool
            ``(channel, *space)``, from `holes`.
        first_time, first_member : int
            Where the block begins in the whole forecast.

        Raises
        ------
        StateError
            Saying where the first bad value stands.
        """
        check_block(
            block,
            holes,
            self.layout,
            self.engine.prior,
            first_time=first_time,
            first_member=first_member,
        )

    def filtered(
        self,
        members: np.ndarray | None,
        observations: ObservationBatch,
        holes: NDArray[np.bool_] | None = None,
    ) -> ObservationBatch:
        """Leave out observations in holes, and those far from the ensemble.

        Parameters
        ----------
        members : ndarray or None
            ``(time, member, channel, *space)``: all members of the times that are analysed
            together, in the forecast's units; None where there is no check of the background.
        observations : ObservationBatch
            Of these times.
        holes : ndarray of bool, optional
            ``(channel, *space)``; those of the prior when None.
        """
        known = self.engine.prior.holes if holes is None else holes
        observations = outside_holes(observations, known)
        limit = self.options.background_check
        if limit is None or members is None or not len(observations):
            return observations
        far = far_from_ensemble(observations, self._observed(members, observations), limit)
        return observations.reject(far, Status.FAR)

    def _observed(self, members: np.ndarray, observations: ObservationBatch) -> np.ndarray:
        """H of forecast members ``(time, member, channel, *space)``, shape ``(member, n)``."""
        x = torch.from_numpy(trajectories(self.filled(members)))
        with torch.no_grad():
            observed: np.ndarray = (
                observations.to_tensors(None, "cpu", torch.float64).observe(x).numpy()
            )
        return observed

    def label(self, first_time: int, times: Sequence[int]) -> str:
        """Label of times of a block that begins with a time of the whole forecast."""
        return ", ".join(self.layout.time_label(first_time + index) for index in times)

    def warn_if_far(self, block: np.ndarray, times: Sequence[int]) -> None:
        """Warn where the forecast of some times of a block is nothing that the prior knows."""
        if any(self.engine.is_far(self.physical(block[index])) for index in times):
            found = f"values more than {FAR:g} standard deviations from the prior's mean"
            remedy = "check its units (attrs['units']) and that the prior is for these data"
            warn_user(problem("forecast", found, "states like those of the prior", remedy))

    def stays_near(
        self, block: np.ndarray, after: np.ndarray, batch: ObservationBatch, label: str
    ) -> None:
        """Raise where observations carried members away from all that the prior knows, or warn.

        Parameters
        ----------
        block : ndarray
            The members before, in the forecast's units.
        after : ndarray
            Physical states, times stacked along the channels.
        batch : ObservationBatch
            The observations.
        label : str
            Of the times.

        Raises
        ------
        DivergenceError
            Naming the observation farthest from the forecast.
        """
        states = self._split(after, len(block))
        if not self.engine.is_far(states):
            return
        if self.engine.is_far(self.physical(block)):  # it was so before, and the user is told
            return
        lost = self.engine.is_far(states, LOST)
        limit = LOST if lost else FAR
        found = f"values more than {limit:g} standard deviations from the prior's mean"
        remedy = "leave out observations that are wrong, e.g. by background_check=5"
        text = problem(f"members after the analysis of {label}", found, "states near it", remedy)
        text = f"{text}; {self._farthest(block, batch)}"
        if lost:
            raise DivergenceError(text)
        warn_user(text)

    def _farthest(self, block: np.ndarray, batch: ObservationBatch) -> str:
        return farthest(batch, self._observed(block, batch), self.layout.spec)

    def given(self, batch: ObservationBatch) -> ObservationBatch:
        """Return observations in an order of their own, averaged where they are to be thinned."""
        axes, engine = PlaneAxes.of(self.layout.spec), self.engine
        # Seconds for a million of them: not for every member where nothing depends on the order.
        if not isinstance(engine, Engine) or self.bridge is not None or engine.settings.perturb_obs:
            batch = in_order(batch, axes)
        if self.options.thin is None:
            return batch
        return thinned(batch, axes, axes.length(self.options.thin, "thin"))

    def _split(self, states: np.ndarray, times: int) -> np.ndarray:
        """Undo `trajectories`."""
        members = states.reshape(len(states), times, -1, *states.shape[2:])
        return np.moveaxis(members, 1, 0)

    def in_times(self, states: np.ndarray, times: int) -> np.ndarray:
        """Undo `trajectories`, in the forecast's units."""
        return self.own_units(self._split(states, times))

    def analyse(
        self,
        block: np.ndarray,
        observations: Sequence[Window],
        holes: NDArray[np.bool_],
        first_time: int,
        first_member: int,
        advance: Callable[[int], object] | None = None,
    ) -> np.ndarray:
        """Analyse a block; times without observations come back as they are.

        Parameters
        ----------
        block : ndarray
            ``(time, member, channel, *space)`` in the forecast's units; not modified.
        observations : sequence of Window
            Times of the block that are analysed together, and their observations; none in holes.
        holes : ndarray of bool
            ``(channel, *space)``: where the forecast has to be NaN.
        first_time, first_member : int
            Where the block begins in the whole forecast.
        advance : callable, optional
            Called with the number of members done.

        Returns
        -------
        ndarray
            The analysis, shape and dtype of `block`, NaN in holes.

        Raises
        ------
        StateError
            Where the block is not finite outside holes.
        ObservationError
            For values that no precision can hold with their errors.
        DivergenceError
            Naming members that diverged, and the observation farthest from the forecast.
        """
        self.check(block, holes, first_time, first_member)
        out = np.array(block)
        windows = [
            window
            for window in observations
            # What the bridge leaves nothing of may be carried through the prior nevertheless.
            if len(window.observations) or (window.choice is not None and window.choice.flow)
        ]
        for window in windows:
            refuse_extremes(window.given, self.layout.spec)
        if self.bridge is None:
            self.warn_if_far(block, [index for window in windows for index in window.times])
        for window in windows:
            times, batch, choice = list(window.times), window.observations, window.choice
            labels = [self.label(first_time, [index]) for index in times]
            engine = self.engine
            given = batch if choice is not None else self.given(batch)
            if choice is not None and isinstance(engine, Engine):
                s = engine.settings
                s = replace(s, t_min=choice.t_min, perturb_obs=s.perturbs)
                engine = engine.with_settings(s)
            if len(times) > 1 and isinstance(engine, Engine):
                engine = TrajectoryEngine.of(engine, labels)
            try:
                analysed = engine.analyse(
                    trajectories(self.physical(block[times])),
                    given,
                    time=", ".join(labels),
                    first_member=first_member,
                    advance=advance,
                )
            except DivergenceError as error:
                far = self._farthest(block[times], window.given)
                raise DivergenceError(f"{error}; {far}") from error
            if choice is not None:
                self.stays_near(block[times], analysed, window.given, ", ".join(labels))
            out[times] = self.in_times(analysed, len(times))
        return out

    def invert(
        self,
        block: np.ndarray,
        holes: NDArray[np.bool_],
        first_time: int,
        first_member: int,
        advance: Callable[[int], object] | None = None,
    ) -> np.ndarray:
        """Carry a block to latent space; arguments and errors as in `analyse`."""
        self.check(block, holes, first_time, first_member)
        engine = cast("Engine", self.engine)  # only these know latents
        out = np.empty_like(block)
        for index in range(block.shape[0]):
            out[index] = engine.invert(
                self.physical(block[index]),
                time=self.layout.time_label(first_time + index),
                first_member=first_member,
            )
            if advance:
                advance(block.shape[1])
        return out


def far_from_ensemble(
    observations: ObservationBatch, members: np.ndarray, limit: float
) -> np.ndarray:
    """Tell which observations the background check rejects.

    Parameters
    ----------
    observations : ObservationBatch
        Of one time.
    members : ndarray
        H of every member of the forecast, ``(member, n)``.
    limit : float
        In standard deviations of spread and observation error together.

    Returns
    -------
    ndarray of bool
        Shape ``(n,)``.
    """
    members = next_to(observations.values, members, periods_of(observations.groups))
    spread = members.var(axis=0, ddof=1) if members.shape[0] > 1 else 0.0
    departure = np.abs(observations.values - members.mean(axis=0))
    far: np.ndarray = departure > limit * np.sqrt(spread + observations.errors**2)
    return far
