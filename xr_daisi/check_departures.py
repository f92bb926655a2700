"""Lines of a trust report about observations: coverage, departures from the forecast, errors."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from xr_daisi.blocks import far_from_ensemble
from xr_daisi.check_values import graded, guess
from xr_daisi.circular import next_to, periods_of
from xr_daisi.trajectories import trajectories
from xr_daisi.trust_report import Line, Verdict

if TYPE_CHECKING:
    from xr_daisi.blocks import Work
    from xr_daisi.layout import Layout
    from xr_daisi.observations import ObservationPlan

__all__ = ["coverage_lines", "departure_lines"]

ENOUGH = 100_000_000
"""Counterparts, members times values, after which no further times are looked at."""


def coverage_lines(plan: ObservationPlan, layout: Layout) -> list[Line]:
    """Say how many observations are used, at which times there are none, and which lack units."""
    total = plan.n_rows
    words = ", ".join(f"{n:,} {reason}" for reason, n in plan.counts.items())
    share = plan.used / total if total else 0.0
    verdict: Verdict = "pass" if share >= 0.5 else "warn" if plan.used else "fail"
    remedy = ""
    if verdict != "pass":
        remedy = "compare area, levels and times of both; forecast.daisi.feedback lists every value"
    lines = [Line("observations", verdict, words or "none", remedy)]
    empty = [layout.time_label(i) for i, n in enumerate(plan.candidates) if n == 0]
    if empty and plan.used and layout.times > 1:
        found = f"{len(empty)} of {layout.times} times, the first {empty[0]}"
        lines.append(
            Line("times without", "warn", found, "there the analysis is the forecast, unchanged")
        )
    for source in plan.sources:
        state = (
            layout.spec.variable(source.operator.variables[0]).units
            if (source.operator.variables and source.operator.function is None)
            else None
        )
        if state and not source.units:
            remedy = f"obs[{source.name!r}].attrs['units'] = {state!r}, if that is so"
            found = f"none: taken as the prior's, {state!r}"
            lines.append(Line(f"units of {source.subject}", "warn", found, remedy))
    return lines


@dataclass(frozen=True, eq=False)
class _Compared:
    """Observations and their counterparts, each array of shape (n,)."""

    source: NDArray[np.int64]
    values: NDArray[np.float64]
    errors: NDArray[np.float64]
    mean: NDArray[np.float64]
    variance: NDArray[np.float64]
    far: NDArray[np.bool_]

    @classmethod
    def joined(cls, parts: list[_Compared]) -> _Compared:
        return cls(*(np.concatenate([getattr(p, name) for p in parts]) for name in cls.names()))

    def take(self, chosen: NDArray[np.bool_]) -> _Compared:
        return _Compared(*(getattr(self, name)[chosen] for name in self.names()))

    @staticmethod
    def names() -> tuple[str, ...]:
        return "source", "values", "errors", "mean", "variance", "far"


def departure_lines(plan: ObservationPlan, work: Work, states: Any) -> list[Line]:
    """Compare observations with the forecast: of all times where both are in memory.

    Parameters
    ----------
    plan : ObservationPlan
        The observations.
    work : Work
        Layout and prior.
    states : array
        ``(time, member, channel, *space)`` in the forecast's units, NumPy or dask; of a dask array,
        or with dask-backed observations, only the first time with observations is looked at.
    """
    work = replace(work, options=plan.options)
    everywhere = isinstance(states, np.ndarray) and not plan.is_lazy
    members, looked, lost, complete = states.shape[1], 0, 0, True
    parts: list[_Compared] = []
    first = [source.first_row for source in plan.sources]
    for window in plan.windows:
        given = plan.window_batch(window)
        if not len(given):
            continue
        if looked and (not everywhere or sum(p.mean.size for p in parts) * members > ENOUGH):
            complete = False
            break
        looked += 1
        block = np.asarray(states[list(window)])
        batch = work.filtered(None, given, work.holes(block))
        lost += len(given) - len(batch)
        if not len(batch):
            continue
        x = torch.from_numpy(trajectories(work.filled(block)))
        with torch.no_grad():
            y = batch.to_tensors(None, "cpu", torch.float64).observe(x).numpy()
        y = next_to(batch.values, y, periods_of(batch.groups))
        limit = plan.options.background_check
        far = np.zeros(len(batch), bool) if limit is None else far_from_ensemble(batch, y, limit)
        variance = y.var(axis=0, ddof=1) if members > 1 else np.zeros(y.shape[1])
        of_source = np.searchsorted(first, batch.rows, side="right") - 1
        mean = y.mean(axis=0)
        parts.append(_Compared(of_source, batch.values, batch.errors, mean, variance, far))
    if not looked:
        return []
    where = ""
    if not complete:
        where = f" at the first {f'{looked} times' if looked > 1 else 'time'} with observations"
    if not parts:
        found = f"all in holes of the domain{where}"
        return [Line("departures", "fail", found, "check the land or sea mask, and the places")]
    whole = _Compared.joined(parts)
    lines = []
    if lost:
        found = f"{lost:,} of the observations{where}"
        lines.append(Line("in holes", "warn", found, "left out; the forecast is NaN there"))
    for number, source in enumerate(plan.sources):
        own = whole.take(whole.source == number)
        if own.values.size:
            unit = f" {source.units}" if source.units else ""
            lines.append(
                _departures(
                    source.subject, own, members, unit, where, plan.options.background_check
                )
            )
            lines.append(_errors(source.subject, own, members, where))
    return lines


def _departures(
    subject: str, own: _Compared, members: int, unit: str, where: str, limit: float | None
) -> Line:
    """Departures of one variable, those apart that the background check leaves out."""
    kept = own if own.far.all() else own.take(~own.far)
    departure = kept.values - kept.mean
    # Of one member the spread is not known; over places its values differ more.
    variance = kept.variance if members > 1 else kept.mean.var()
    expected = float(np.sqrt(np.mean(variance + kept.errors**2)))
    mean, std = float(departure.mean()), float(departure.std())
    verdict = graded(abs(mean) / expected, 3.0, 10.0)
    found = (
        f"O-B mean {mean:.3g}, standard deviation {std:.3g}{unit}{where}; expected from spread and "
        f"error: 0 and {expected:.3g}"
    )
    remedy = ""
    share = float(own.far.mean())
    if share:
        found += f"; background_check={limit:g} leaves out {int(own.far.sum())} of {own.far.size}"
        worst: Verdict = "fail" if share == 1.0 else "warn" if share > 0.5 else "pass"
        verdict = max(verdict, worst, key=["pass", "warn", "fail"].index)
    if verdict != "pass":
        width = float(np.sqrt(own.variance.mean() + own.mean.var()))
        remedy = guess(own.values, float(own.mean.mean()), max(width, expected))
        remedy = remedy or "check units, operator, and times; or a bias to be corrected"
    return Line(f"departures of {subject}", verdict, found, remedy)


def _errors(subject: str, own: _Compared, members: int, where: str) -> Line:
    """Errors of one variable, against the spread of the forecast."""
    typical = float(np.median(own.errors))
    low, high = float(own.errors.min()), float(own.errors.max())
    found = f"observation errors {low:.3g} to {high:.3g}{where}"
    if members < 2:
        return Line(f"errors of {subject}", "pass", found)
    spread = float(np.median(np.sqrt(own.variance)))
    ratio = typical / max(spread, 1e-30)
    found += f", spread of the forecast there {spread:.3g}"
    if ratio < 1e-2:
        remedy = "instrument and representativeness together are rarely so small; raise them"
        return Line(f"errors of {subject}", "warn", found, remedy)
    if ratio > 10:
        remedy = "these observations say almost nothing; check the units of the errors"
        return Line(f"errors of {subject}", "warn", found, remedy)
    return Line(f"errors of {subject}", "pass", found)
