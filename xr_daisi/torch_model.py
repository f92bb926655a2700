"""A forecast model that is a torch module: the same step again and again, labelled by a state."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
import xarray as xr

from xr_daisi.ensembles import form_of, instant, time_text
from xr_daisi.errors import DaisiTypeError, ForecastError, SettingsError, problem, raise_problems
from xr_daisi.holes import fill_holes, holes_of
from xr_daisi.layout import layout_of
from xr_daisi.state import StateSpec

if TYPE_CHECKING:
    from torch import Tensor

    from xr_daisi.priors import FlowPrior

__all__ = ["TorchModel", "whole_steps"]


class TorchModel:
    """An autoregressive torch module as a forecast model.

    Parameters
    ----------
    module : callable
        Takes and returns states ``(member, channel, *space)``: the variables of the state in their
        order, each variable's levels in theirs. A `torch.nn.Module` is put in evaluation mode and
        on the device.
    state : FlowPrior or StateSpec
        Whose variables, units, levels and grid the channels are; of a prior also the
        normalisation.
    step : str, timedelta or timedelta64
        The time that one call covers, such as ``"6h"``.
    normalized : bool, optional
        Whether the module works on normalised states; when None, where `state` is a prior. Else
        on physical ones, in the units of the state.
    device : str
        ``"cpu"``, ``"cuda"``, ...
    dtype : torch.dtype
        Of the states.
    batch : int, optional
        Members at once; all when None.

    Raises
    ------
    SettingsError, DaisiTypeError
        For settings that cannot be.

    Examples
    --------
    >>> import numpy as np, torch, xarray as xr
    >>> from xr_daisi.state import spec_from_dataset
    >>> start = xr.Dataset(
    ...     {"h": (("member", "x"), np.ones((2, 4)))},
    ...     coords={"time": np.datetime64("2019-03-01T00", "ns")},
    ... )
    >>> model = TorchModel(lambda x: 0.5 * x, spec_from_dataset(start), step="1h")
    >>> model(start, np.datetime64("2019-03-01T02")).h.values[0]
    array([0.25, 0.25, 0.25, 0.25])
    """

    def __init__(
        self,
        module: Callable[[Tensor], Tensor],
        state: FlowPrior | StateSpec,
        *,
        step: str | datetime.timedelta | np.timedelta64,
        normalized: bool | None = None,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        batch: int | None = None,
    ) -> None:
        spec = state if isinstance(state, StateSpec) else getattr(state, "spec", None)
        normalization = getattr(state, "normalization", None)
        if not isinstance(spec, StateSpec):
            found = type(state).__name__
            raise DaisiTypeError(problem("state", found, "a FlowPrior or a StateSpec"))
        problems = []
        if not callable(module):
            found = type(module).__name__
            problems.append(problem("module", found, "a torch module or a function of a tensor"))
        if normalized and normalization is None:
            expected = "a prior as state, which has a normalisation"
            problems.append(problem("normalized", "True", expected))
        if batch is not None and batch < 1:
            problems.append(problem("batch", repr(batch), "at least 1, or None"))
        try:
            self.step = np.asarray(pd.to_timedelta([step]), dtype="timedelta64[us]")[0]
        except (ValueError, TypeError):
            self.step = np.timedelta64("NaT", "us")
        if not self.step > np.timedelta64(0, "us"):
            problems.append(problem("step", repr(step), "a length of time such as '6h'"))
        raise_problems(SettingsError, problems)
        self.module, self.spec = module, spec
        self.normalization = normalization if normalized in (None, True) else None
        self.device, self.dtype, self.batch = torch.device(device), dtype, batch
        if isinstance(module, torch.nn.Module):
            module.to(self.device).eval()

    @property
    def configuration(self) -> dict[str, Any]:
        """What it is, as plain JSON: weights do not belong to it."""
        kind = self.module if hasattr(self.module, "__qualname__") else type(self.module)
        return {
            "model": "torch",
            "module": f"{kind.__module__}.{getattr(kind, '__qualname__', '')}",
            "step": str(pd.Timedelta(self.step)),
            "normalized": self.normalization is not None,
            "dtype": str(self.dtype),
        }

    def __repr__(self) -> str:
        return f"TorchModel(step={pd.Timedelta(self.step)})"

    def __call__(self, ensemble: xr.Dataset, until: np.datetime64, /) -> xr.Dataset:
        """Step the ensemble on.

        Raises
        ------
        ForecastError
            If the time to reach is no whole number of steps away, or the module returns states of
            another shape.
        StateError, PriorError
            If the ensemble does not fit the state.
        """
        form = form_of(ensemble)
        steps = whole_steps(instant(ensemble, form.time), until, self.step)
        layout = layout_of(ensemble, self.spec)
        own = np.asarray(layout.stack(ensemble)[0], dtype=np.float64)
        holes = holes_of(own[0])
        states = own * layout.factor + layout.offset
        if self.normalization is not None:
            states = self.normalization.normalize(states)
        if holes is not None:
            states = fill_holes(states, holes, np.zeros(()))
        size = self.batch or len(states)
        parts = [
            self._advance(torch.from_numpy(states[i : i + size]), steps)
            for i in range(0, len(states), size)
        ]
        result = torch.cat(parts).double().numpy()
        if self.normalization is not None:
            result = self.normalization.denormalize(result)
        result = (result - layout.offset) / layout.factor
        if holes is not None:
            result[:, holes] = np.nan
        return form.at(layout.unstack(result[None], ensemble), until)

    def _advance(self, states: Tensor, steps: int) -> Tensor:
        x = states.to(device=self.device, dtype=self.dtype)
        shape = x.shape
        with torch.no_grad():
            for _ in range(steps):
                x = self.module(x)
                if getattr(x, "shape", None) != shape:
                    found = f"shape {tuple(getattr(x, 'shape', ()))}"
                    raise ForecastError(problem("torch module", found, f"{tuple(shape)}"))
        return x.cpu()


def whole_steps(start: np.datetime64, until: np.datetime64, step: np.timedelta64) -> int:
    """Return how many steps lie between two times.

    Raises
    ------
    ForecastError
        If that is no positive whole number.
    """
    span = until.astype("datetime64[us]") - start
    steps, rest = divmod(span, step)
    if rest or steps < 1:
        found = f"{pd.Timedelta(span)} from {time_text(start)} to {time_text(until)}"
        expected = f"a positive whole number of steps of {pd.Timedelta(step)}"
        raise ForecastError(problem("model", found, expected, "choose another window"))
    return int(steps)
