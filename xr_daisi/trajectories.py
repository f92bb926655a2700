"""States of several times analysed together, because observations lie between them.

A trajectory is the states of one member at successive times, stacked along the channels. The
network sees its states one by one; observations and guidance see them as one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from xr_daisi.devices import automatic_batch, resolve_device
from xr_daisi.engine import Engine
from xr_daisi.flow import Flow
from xr_daisi.holes import MaskedNoise
from xr_daisi.sampling import NoiseSource

if TYPE_CHECKING:
    from xr_daisi.state import Normalization

__all__ = ["TrajectoryEngine", "TrajectoryFlow", "TrajectoryNoise", "of_trajectory", "trajectories"]


class TrajectoryFlow(Flow):
    """A flow of trajectories, in which states of different times are independent.

    Parameters
    ----------
    flow : Flow
        Of one state.
    times : int
        Number of states of a trajectory.
    """

    def __init__(self, flow: Flow, times: int) -> None:
        super().__init__(flow.network, flow.interpolant)
        self.flow = flow
        self.times = times

    def velocity(self, x: Tensor, t: float) -> Tensor:
        """Evaluate the network once for each state; see `Flow.velocity`."""
        states = x.reshape(x.shape[0] * self.times, -1, *x.shape[2:])
        return self.flow.velocity(states, t).reshape(x.shape)


class TrajectoryNoise(NoiseSource):
    """Noise of trajectories: that of each state is the one it would have on its own.

    Parameters
    ----------
    seed : int
        The user's seed.
    times : sequence of str
        Labels of the times.
    members : sequence of int
        Positions of the batch's members in the whole ensemble.
    """

    def __init__(self, seed: int, times: Sequence[str], members: Sequence[int]) -> None:
        super().__init__(seed, "; ".join(times), members)
        self.sources = [NoiseSource(seed, time, members) for time in times]

    def select(self, batch: slice) -> TrajectoryNoise:
        """Return the source for a part of the members."""
        times = [source.time for source in self.sources]
        return TrajectoryNoise(self.seed, times, self.members[batch])

    def draw(
        self,
        stage: str,
        step: int,
        shape: Sequence[int],
        *,
        dtype: torch.dtype,
        device: torch.device | str,
    ) -> Tensor:
        """Draw the noise of one step; see `NoiseSource.draw`."""
        one = (shape[0] // len(self.sources), *shape[1:])
        parts = [s.draw(stage, step, one, dtype=dtype, device=device) for s in self.sources]
        return torch.cat(parts, dim=1)


@dataclass(frozen=True)
class TrajectoryEngine(Engine):
    """Inverse and guided sampling for trajectories ``(member, time * channel, *space)``.

    Attributes
    ----------
    times : tuple of str
        Labels of the times, which key the noise.
    """

    times: tuple[str, ...] = ("",)

    @classmethod
    def of(cls, engine: Engine, times: Iterable[str]) -> TrajectoryEngine:
        """Engine for trajectories with the settings of one for states."""
        same = {field.name: getattr(engine, field.name) for field in fields(Engine)}
        return cls(**same, times=tuple(times))

    @cached_property
    def normalization(self) -> Normalization:
        """That of the prior, for each of the times."""
        channels = self.prior.spec.channels
        return of_trajectory(self.prior.normalization, channels, channels * len(self.times))

    @property
    def batch_size(self) -> int:
        """Members pushed through the network at once."""
        points = len(self.times) * int(np.prod(self.prior.spec.space_shape))
        return self.batch or automatic_batch(points, resolve_device(self.device))

    def device_and_flow(self) -> tuple[torch.device, Flow]:
        """Return the device of this machine, and the flow of trajectories on it."""
        device, flow = super().device_and_flow()
        return device, TrajectoryFlow(flow, len(self.times))

    def labels(self, time: str) -> tuple[str, ...]:
        """Labels of the times of the trajectory."""
        return self.times

    def _source(self, time: str, members: range, keep: Tensor | None) -> NoiseSource:
        source = TrajectoryNoise(self.seed, self.times, members)
        return source if keep is None else MaskedNoise(source, keep)


def of_trajectory(one: Normalization, channels: int, total: int) -> Normalization:
    """Repeat a normalisation for states that are stacked along their channels.

    Parameters
    ----------
    one : Normalization
        Of one state.
    channels, total : int
        Of one state, and of the trajectory.

    Returns
    -------
    Normalization
        The same one where there is one state.
    """
    times = total // channels
    if times == 1:
        return one
    whole = (channels, *np.broadcast_shapes(one.mean.shape, one.std.shape)[1:])
    mean, std = (
        np.concatenate([np.broadcast_to(part, whole)] * times) for part in (one.mean, one.std)
    )
    return replace(one, mean=mean, std=std, transforms=one.transforms * times)


def trajectories(states: np.ndarray) -> np.ndarray:
    """Stack the times of states along their channels.

    Parameters
    ----------
    states : ndarray
        ``(time, member, channel, *space)``.

    Returns
    -------
    ndarray
        ``(member, time * channel, *space)``.
    """
    times, members, channels, *space = states.shape
    stacked: np.ndarray = np.moveaxis(states, 0, 1).reshape(members, times * channels, *space)
    return stacked
