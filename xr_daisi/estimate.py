"""What an analysis would do and cost: the dry run."""

from __future__ import annotations

import html
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from xr_daisi.devices import resolve_device

if TYPE_CHECKING:
    import xarray as xr

    from xr_daisi.engine import Engine
    from xr_daisi.layout import Layout
    from xr_daisi.observations import ObservationPlan
    from xr_daisi.settings import Settings

__all__ = ["AnalysisPlan", "evaluations", "make_plan"]


@dataclass(frozen=True)
class AnalysisPlan:
    """What `assimilate` would do; printed as a table.

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
        Network evaluations in all, counted per member.
    batch : int
        Members at once.
    device : str
        Where the network runs.
    memory_bytes : int
        Estimate of the largest need at a time: states of one time, and one batch in the network.
    seconds : float
        Estimate for the device, from one timed evaluation; on one process.
    lazy : bool
        Whether the result would be lazy.
    """

    prior: str
    members: int
    times: int
    times_with_observations: int
    observations: dict[str, int]
    forwards: int
    backwards: int
    batch: int
    device: str
    memory_bytes: int
    seconds: float
    lazy: bool

    def _rows(self) -> list[tuple[str, str]]:
        used = ", ".join(f"{n:,} {what}" for what, n in self.observations.items()) or "none"
        return [
            ("prior", self.prior),
            ("members", f"{self.members:,}"),
            ("times", f"{self.times:,}, of which {self.times_with_observations:,} with observations"),
            ("observations", used),
            (
                "network evaluations",
                f"{self.forwards:,} forward, {self.backwards:,} backward "
                f"(per member; {self.batch} members at once)",
            ),
            ("memory", f"about {_size(self.memory_bytes)}"),
            ("time", f"about {_duration(self.seconds)} on {self.device}, one process"),
            ("result", "lazy: nothing is computed until asked for" if self.lazy else "in memory"),
        ]

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


def evaluations(settings: Settings) -> tuple[int, int]:
    """Return forward and backward network evaluations per member of one analysis."""
    inverse, guided = settings.step_counts
    each = 2 if settings.solver == "heun" else 1
    backward = {"mmps": settings.guidance_iterations, "none": 0}.get(settings.guidance, 1)
    forward_guided = guided * each + (guided - 1) * settings.corrector_steps
    # Heun's last evaluation is at t = 1, where there is no guidance.
    at_end = 1 if settings.solver == "heun" else 0
    with_inverse = inverse * each if settings.t_min > 0 else 0
    at_start = 1 if settings.t_min == 0 else 0
    return with_inverse + forward_guided, (forward_guided - at_end - at_start) * backward


def make_plan(
    forecast: xr.Dataset, layout: Layout, plan: ObservationPlan, engine: Engine
) -> AnalysisPlan:
    """Count and estimate; runs the network forward and backward once on zeros to time it."""
    per_member = evaluations(engine.settings)
    analysed = int((plan.candidates > 0).sum())
    batch = min(engine.batch_size, layout.members)
    forward, backward, activations = _probe(engine, batch)
    runs = layout.members * analysed
    state_bytes = 8 * int(np.prod(layout.spec.shape))
    seconds = runs / batch * (per_member[0] * forward + per_member[1] * backward)
    lazy = any(v.chunks is not None for v in forecast[list(layout.names)].variables.values())
    return AnalysisPlan(
        prior=engine.prior.name,
        members=layout.members,
        times=layout.times,
        times_with_observations=analysed,
        observations=plan.counts,
        forwards=runs * per_member[0],
        backwards=runs * per_member[1],
        batch=batch,
        device=str(resolve_device(engine.device)),
        memory_bytes=3 * layout.members * state_bytes + activations,
        seconds=seconds,
        lazy=lazy or plan.is_lazy,
    )


def _probe(engine: Engine, batch: int) -> tuple[float, float, int]:
    """Seconds of one forward and one backward of a batch, and bytes kept between them."""
    device, dtype = engine._torch()
    flow = engine.prior.flow(device, dtype)
    kept = 0

    def count(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        kept += tensor.numel() * tensor.element_size()
        return tensor

    x = torch.zeros((batch, *engine.prior.spec.shape), dtype=engine._solver_dtype(), device=device)
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
    return best[0], best[1], kept


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
