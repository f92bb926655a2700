"""What all test systems share: labels, integration to a time, and long runs.

A system integrates tensors; this module puts labels around it, so that every system is a forecast
model (a callable of an ensemble and a time) and every run a Dataset.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from xr_daisi.dimensions import time_coordinate
from xr_daisi.errors import DaisiTypeError, SettingsError, StateError, problem, raise_problems
from xr_daisi.layout import layout_of
from xr_daisi.state import StateSpec, spec_from_dataset

if TYPE_CHECKING:
    import xarray as xr
    from torch import Tensor

__all__ = ["System", "nanoseconds"]

KEPT = {"daisi_prior"}


def nanoseconds(duration: Any, what: str) -> int:
    """Return a duration as whole nanoseconds.

    Parameters
    ----------
    duration : str, timedelta or timedelta64
        Such as ``"3h"``.
    what : str
        Its name, for messages.

    Raises
    ------
    SettingsError
        If it is no duration.
    """
    import pandas as pd

    try:
        value = pd.Timedelta(duration)
    except (ValueError, TypeError) as error:
        expected = "a duration such as '3h', a timedelta or a timedelta64"
        raise SettingsError(problem(what, repr(duration), expected)) from error
    if isinstance(duration, (int, float)) or bool(pd.isna(value)):
        raise SettingsError(problem(what, repr(duration), "a duration with a unit, such as '3h'"))
    return int(value.as_unit("ns").value)


class System(ABC):
    """A dynamical system with labels; calling it integrates an ensemble to a time.

    A subclass integrates tensors ``(batch, *state_shape)`` by whole steps and labels them; every
    system is then a forecast model as `xr_daisi.cycle` takes it.

    Attributes
    ----------
    name : str
        Short name.
    state_shape : tuple of int
        Shape of one state as a tensor.
    time_step : timedelta64
        Labelled length of one integration step.
    initial_error : float
        Customary standard deviation of the white noise that makes an initial ensemble.
    device : torch.device
        Where it computes.
    dtype : torch.dtype
        In which precision.
    """

    name: str
    state_shape: tuple[int, ...]
    time_step: np.timedelta64
    initial_error: float
    periodic: tuple[str, ...] = ()
    device: torch.device
    dtype: torch.dtype

    @abstractmethod
    def run(self, states: Tensor, steps: int) -> Tensor:
        """Integrate states ``(batch, *state_shape)`` by a number of steps; returns new ones."""

    @abstractmethod
    def spun_up(self, members: int = 1, *, seed: int = 0) -> Tensor:
        """Return independent states after the transients, ``(members, *state_shape)``."""

    @abstractmethod
    def label(
        self,
        states: Tensor | np.ndarray,
        *,
        dims: tuple[str, ...] = ("member",),
        times: np.ndarray | None = None,
    ) -> xr.Dataset:
        """Return states ``(*dims, *state_shape)`` as a Dataset.

        Parameters
        ----------
        states : Tensor or ndarray
            The values.
        dims : tuple of str
            Names of the leading dimensions.
        times : ndarray of datetime64, optional
            Coordinate of a dimension called ``time``.
        """

    @property
    def configuration(self) -> dict[str, Any]:
        """What it is, as plain JSON types: a cycle goes on with the same system alone."""
        constants = {k: v for k, v in vars(self).items() if isinstance(v, (int, float))}
        return {"system": self.name, **constants, "dtype": str(self.dtype).removeprefix("torch.")}

    @cached_property
    def spec(self) -> StateSpec:
        """Variables, levels and grid of a state."""
        template = self.label(np.zeros(self.state_shape), dims=())
        return spec_from_dataset(template, periodic=self.periodic, what=self.name)

    def steps(self, duration: Any, what: str = "duration") -> int:
        """Return how many steps make a duration.

        Parameters
        ----------
        duration : str, timedelta or timedelta64
            Such as ``"3h"``.
        what : str
            Its name, for messages.

        Raises
        ------
        SettingsError
            If it is negative or not a multiple of the time step.
        """
        step = nanoseconds(self.time_step, "time_step")
        steps, rest = divmod(nanoseconds(duration, what), step)
        if rest or steps < 0:
            import pandas as pd

            expected = f"a non-negative multiple of the model's step, {pd.Timedelta(step, 'ns')}"
            raise SettingsError(problem(what, str(duration), expected))
        return steps

    def __call__(self, ensemble: xr.Dataset, until: np.datetime64) -> xr.Dataset:
        """Integrate an ensemble to a time.

        Parameters
        ----------
        ensemble : xarray.Dataset
            Members at one time: a scalar coordinate or a dimension of length one. Dimensions and
            points may be in any order.
        until : datetime64
            Valid time of the result, a whole number of steps later.

        Returns
        -------
        xarray.Dataset
            Like `ensemble`, at that time.

        Raises
        ------
        StateError, PriorError
            If the ensemble lacks variables, time or points of the system, or has other units.
        SettingsError
            If `until` is no whole number of steps after the ensemble's time.
        """
        layout = layout_of(ensemble, self.spec)
        name = time_coordinate(ensemble, layout.dims.time)
        if name is None or layout.times != 1:
            found = f"{layout.times} times" if name else "no time"
            remedy = "select one time, or .assign_coords(time=...)"
            raise StateError(problem("ensemble", found, "one time", remedy))
        start = np.asarray(ensemble[name].values).reshape(()).astype("datetime64[ns]")
        stop = np.asarray(until).reshape(()).astype("datetime64[ns]")
        steps = self.steps(stop - start, "until - time of the ensemble")
        physical = np.asarray(layout.stack(ensemble))[0] * layout.factor + layout.offset
        later = torch.from_numpy(physical.reshape(-1, *self.state_shape))
        if steps:  # a transform there and back would not give the same digits
            later = self.run(later.to(device=self.device, dtype=self.dtype), steps)
        values = later.cpu().numpy().reshape(physical.shape)
        out = layout.unstack(((values - layout.offset) / layout.factor)[None], ensemble)
        time = ensemble[name].copy(data=np.full(ensemble[name].shape, stop, "datetime64[ns]"))
        # What was said of an analysis does not hold for the forecast from it.
        kept = {k: v for k, v in out.attrs.items() if k in KEPT or not str(k).startswith("daisi_")}
        out.attrs = kept
        return out.assign_coords({name: time})

    def simulate(
        self,
        start: xr.Dataset | Tensor | np.ndarray | None = None,
        *,
        states: int,
        every: Any,
        start_time: Any = "2000-01-01",
        members: int = 1,
        seed: int = 0,
    ) -> xr.Dataset:
        """Return a run as a Dataset, the start included: a truth, or a history to train on.

        Parameters
        ----------
        start : xarray.Dataset, Tensor or ndarray, optional
            One state (without member) or a batch of them; spun-up states when None.
        states : int
            How many times.
        every : str, timedelta or timedelta64
            Interval; a multiple of the model's step.
        start_time : str or datetime64
            Of the first state.
        members : int
            How many independent runs, where no start is given.
        seed : int
            Of the spun-up states.

        Returns
        -------
        xarray.Dataset
            With dimension time, and member where there is more than one run.

        Raises
        ------
        SettingsError
            For no state, or an interval that is no multiple of the step.
        StateError
            For a start of another shape.
        """
        problems = [
            problem(what, repr(value), "at least 1")
            for what, value in (("states", states), ("members", members))
            if value < 1
        ]
        raise_problems(SettingsError, problems)
        steps = self.steps(every, "every")
        current = self.spun_up(members, seed=seed) if start is None else self.tensor(start)
        single = current.shape[0] == 1
        parts = [current]
        for _ in range(states - 1):
            parts.append(self.run(parts[-1], steps))
        values = torch.stack([p[0] for p in parts] if single else parts)
        step = np.timedelta64(nanoseconds(every, "every"), "ns")
        times = np.datetime64(start_time, "ns") + np.arange(states) * step
        return self.label(values, dims=("time",) if single else ("time", "member"), times=times)

    def tensor(self, states: xr.Dataset | Tensor | np.ndarray) -> Tensor:
        """Return states as a tensor ``(batch, *state_shape)`` in the system's precision.

        Parameters
        ----------
        states : xarray.Dataset, Tensor or ndarray
            One state, or a batch of them; a Dataset of one time.

        Raises
        ------
        StateError, PriorError
            If they are no states of this system.
        """
        if isinstance(states, np.ndarray):
            states = torch.from_numpy(states)
        if not isinstance(states, torch.Tensor):
            if not hasattr(states, "data_vars"):
                expected = "an xarray.Dataset, a tensor or an array"
                raise DaisiTypeError(problem("state", type(states).__name__, expected))
            layout = layout_of(states, self.spec)
            if layout.times != 1:
                raise StateError(problem("state", f"{layout.times} times", "one", ".isel(time=0)"))
            physical = np.asarray(layout.stack(states))[0] * layout.factor + layout.offset
            states = torch.from_numpy(physical.reshape(-1, *self.state_shape))
        n = len(self.state_shape)
        if tuple(states.shape[-n:]) != self.state_shape or states.ndim not in (n, n + 1):
            expected = f"{self.state_shape}, or a batch of them"
            raise StateError(problem("state", f"shape {tuple(states.shape)}", expected))
        batch = states.reshape(-1, *self.state_shape)
        return batch.to(device=self.device, dtype=self.dtype)
