"""What an analysis would do and cost: the dry run."""

from __future__ import annotations

import html
import time
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch

from xr_daisi.calibration import FEWEST
from xr_daisi.denoising import PASSES, denoised_states
from xr_daisi.devices import resolve_device
from xr_daisi.ensemble_engine import EnsembleEngine
from xr_daisi.settings import AUTO

if TYPE_CHECKING:
    import xarray as xr

    from xr_daisi.engine import Engine
    from xr_daisi.layout import Layout
    from xr_daisi.observations import ObservationPlan
    from xr_daisi.settings import Settings

__all__ = ["AnalysisPlan", "evaluations", "make_plan"]


@dataclass(frozen=True, repr=False)
class AnalysisPlan:
    """What `assimilate` would do; printed as a table.

    Counts are exact for observations in memory; of dask-backed ones all values in place and time
    are taken as present, and no observation as rejected by a background check.

    Attributes
    ----------
    prior : str
        Name of the prior.
    members, times : int
        Of the forecast.
    times_with_observations : int
        Times that would be analysed; the others are returned as they are.
    observations : dict of str to int
        Number of values by what becomes of them.
    forwards, backwards : int
        Network evaluations of sampling in all, counted per member; backwards at most, since a
        linear solver that has converged stops.
    searching : int
        Evaluations that choosing the inversion time takes besides, about.
    batch : int
        Members at once.
    device : str
        Where the network runs.
    lazy : bool
        Whether the result would be lazy.
    seconds : float
        Estimate for one process on the device; the first look at it, or at `memory_bytes`, times
        the network on zeros.
    memory_bytes : int
        Estimate of the largest need at a time: states of one time, and one batch in the network.
    """

    prior: str
    members: int
    times: int
    times_with_observations: int
    observations: dict[str, int]
    forwards: int
    backwards: int
    searching: int
    batch: int
    device: str
    lazy: bool
    _engine: Engine | EnsembleEngine = field(compare=False)

    @cached_property
    def _measured(self) -> tuple[float, float, int]:
        if isinstance(self._engine, EnsembleEngine):  # no network
            return 0.0, 0.0, 0
        return _probe(self._engine, self.batch)

    @property
    def seconds(self) -> float:
        """Estimate of the time on one process."""
        forward, backward, _ = self._measured
        forwards = self.forwards + self.searching
        return (forwards * forward + self.backwards * backward) / self.batch

    @property
    def memory_bytes(self) -> int:
        """Estimate of the largest need at a time, in bytes."""
        state = 8 * int(np.prod(self._engine.prior.spec.shape))
        return 3 * self.members * state + self._measured[2]

    def cost(self) -> str:
        """Say in words what the analysis would cost; times the network."""
        if isinstance(self._engine, EnsembleEngine):
            return f"no network, {_size(self.memory_bytes)} of memory"
        where = f"about {_duration(self.seconds)} on {self.device}, one process"
        return f"{where}, {_size(self.memory_bytes)} of memory"

    def _rows(self) -> list[tuple[str, str]]:
        used = ", ".join(f"{n:,} {what}" for what, n in self.observations.items()) or "none"
        analysed = f"{self.times_with_observations:,} with observations"
        with_network = not isinstance(self._engine, EnsembleEngine)
        rows = [
            ("method", self._engine.method),
            ("prior", self.prior),
            ("members", f"{self.members:,}"),
            ("times", f"{self.times:,}, of which {analysed}"),
            ("observations", used),
            (
                "network evaluations",
                f"{self.forwards:,} forward, {self.backwards:,} backward "
                f"of single members ({self.batch} at once)"
                + (f", {self.searching:,} to choose t_min" if self.searching else ""),
            ),
            ("memory", f"about {_size(self.memory_bytes)}"),
            ("time", f"about {_duration(self.seconds)} on {self.device}, one process"),
            ("result", "lazy: nothing is computed until asked for" if self.lazy else "in memory"),
        ]
        of_network = ("network evaluations", "time")
        return [row for row in rows if with_network or row[0] not in of_network]

    def __str__(self) -> str:
        rows = self._rows()
        width = max(len(key) for key, _ in rows)
        return "\n".join(f"{key:<{width}}  {value}" for key, value in rows)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        body = "".join(
            f"<tr><th style='text-align:left'>{html.escape(k)}</th>"
            f"<td style='text-align:left'>{html.escape(v)}</td></tr>"
            for k, v in self._rows()
        )
        return f"<table>{body}</table>"


def evaluations(settings: Settings, observations: int, *, inverse: bool = True) -> tuple[int, int]:
    """Count the network evaluations per member of one analysis.

    Parameters
    ----------
    settings : Settings
        How to sample.
    observations : int
        Their number at that time; MMPS makes no more iterations than that.
    inverse : bool
        Whether the forecast is inverted.

    Returns
    -------
    forward, backward : int
        Evaluations of the network, and products with its transposed Jacobian.
    """
    if observations == 0:
        return 0, 0
    inverse_steps, guided = settings.step_counts
    solver = settings.solver
    inverse_each = 2 if solver == "heun" else 1
    if solver == "adams" and settings.corrector_steps:
        solver = "heun"
    heun = solver == "heun"
    at_start = settings.start == 0
    forward = guided * (2 if heun else 1) + (guided - 1) * settings.corrector_steps
    forward += solver == "adams" and at_start  # the first step is a midpoint step
    # There is no guidance at t = 0, nor at t = 1, where Heun's steps end unless the only one
    # starts at t = 0 and is a midpoint step.
    at_end = heun and not (at_start and guided == 1)
    per_guided = {"mmps": min(settings.guidance_iterations, observations), "none": 0}
    backward = per_guided.get(settings.guidance, 1)
    if not callable(settings.strength) and settings.strength == 0:
        backward = 0
    backward *= forward - at_start - at_end
    if inverse and not at_start:
        forward += inverse_steps * inverse_each
    return forward, backward


def make_plan(
    forecast: xr.Dataset,
    layout: Layout,
    plan: ObservationPlan,
    engine: Engine | EnsembleEngine,
) -> AnalysisPlan:
    """Count what an analysis would do.

    Parameters
    ----------
    forecast : xarray.Dataset
        The forecast.
    layout : Layout
        How it lies on the prior's state.
    plan : ObservationPlan
        Its observations.
    engine : Engine or EnsembleEngine
        Prior and settings.

    Returns
    -------
    AnalysisPlan
        Nothing is computed, and the network is not called.
    """
    usable = [int(n) if plan.is_lazy else len(plan.batch(i)) for i, n in enumerate(plan.candidates)]
    searching = 0
    if isinstance(engine, EnsembleEngine):
        counts, batch = [(0, 0)] * len(usable), layout.members
    else:
        chooses = engine.method == "daisi" and engine.settings.t_min == AUTO
        if chooses and layout.members >= FEWEST:
            states = denoised_states(layout.members, int(np.prod(engine.prior.spec.shape)))
            searching = PASSES * states * sum(n > 0 for n in usable)
        invert, batch = engine.method == "daisi", engine.batch_size
        counts = [evaluations(engine.settings, n, inverse=invert) for n in usable]
    lazy = any(v.chunks is not None for v in forecast[list(layout.names)].variables.values())
    return AnalysisPlan(
        prior=engine.prior.name,
        members=layout.members,
        times=layout.times,
        times_with_observations=sum(n > 0 for n in usable),
        observations=plan.counts,
        forwards=layout.members * sum(forward for forward, _ in counts),
        backwards=layout.members * sum(backward for _, backward in counts),
        searching=searching,
        batch=max(1, min(batch, layout.members)),
        device=str(resolve_device(engine.device)),
        lazy=lazy or plan.is_lazy,
        _engine=engine,
    )


def _probe(engine: Engine, batch: int) -> tuple[float, float, int]:
    """Seconds of one forward and one backward of a batch, and bytes kept between them."""
    device, flow = engine.device_and_flow()
    kept = 0

    def count(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        kept += tensor.numel() * tensor.element_size()
        return tensor

    x = torch.zeros((batch, *engine.prior.spec.shape), dtype=engine.solver_dtype, device=device)
    best = [np.inf, np.inf]
    for _ in range(2):  # the first call pays for one-time set-up
        kept = 0
        state = x.clone().requires_grad_()
        started = time.perf_counter()
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(count, lambda t: t):
            b = flow.velocity(state, 0.5)
        _wait(device)
        middle = time.perf_counter()
        if b.requires_grad:
            torch.autograd.grad(b.sum(), state)
            _wait(device)
        ended = time.perf_counter()
        best = [min(best[0], middle - started), min(best[1], ended - middle)]
    return (
        best[0],
        best[1],
        kept + getattr(flow, "graph_bytes", 0),
    )  # of tiles, which count their own


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _size(count: int) -> str:
    value = float(count)
    for unit in ("B", "KB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            break
        value /= 1000
    return f"{value:.3g} {unit}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"
