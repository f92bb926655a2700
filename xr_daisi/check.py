"""The trust report: whether a prior fits a forecast and its observations."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Literal, Unpack

import numpy as np
import torch

from xr_daisi.blocks import Work
from xr_daisi.check_values import (
    bound_lines,
    distribution_lines,
    graded,
    guess,
    normalisation_lines,
)
from xr_daisi.circular import next_to, periods_of
from xr_daisi.errors import DaisiError, DaisiTypeError, problem
from xr_daisi.estimate import make_plan
from xr_daisi.latent import check_dataset, make_engine
from xr_daisi.layout import layout_of
from xr_daisi.observation_options import ObservationKeywords, ObservationOptions
from xr_daisi.observations import match_observations
from xr_daisi.prior_choice import choose_prior
from xr_daisi.trust_report import Line, TrustReport, Verdict

if TYPE_CHECKING:
    from pathlib import Path

    import xarray as xr

    from xr_daisi.layout import Layout
    from xr_daisi.observations import ObservationPlan
    from xr_daisi.priors import FlowPrior

__all__ = ["check"]

NUMBER_WORTH_A_SPREAD = 5


def check(
    forecast: xr.Dataset,
    obs: xr.Dataset | Sequence[xr.Dataset] | None = None,
    prior: FlowPrior | str | Path | None = None,
    *,
    members: int = 4,
    seed: int = 0,
    device: str = "auto",
    dtype: str = "float32",
    batch: int | Literal["auto"] = "auto",
    **reading: Unpack[ObservationKeywords],
) -> TrustReport:
    """Look at everything that an analysis relies on, and say what to do where it does not hold.

    What `assimilate` would raise is a line that fails. Values are looked at in a few members of the
    first time; the network is evaluated some forty to eighty times for each of these.

    Parameters
    ----------
    forecast : xarray.Dataset
        As for `assimilate`; not modified.
    obs : xarray.Dataset or sequence of them, optional
        The observations, in any form that `read_observations` knows.
    prior : FlowPrior, str or Path, optional
        As for `assimilate`.
    members : int
        How many members are inverted.
    seed, device, dtype, batch
        As for `assimilate`.
    **reading
        How observations are read: `operator`, `obs_error`, ... as for `assimilate`.

    Returns
    -------
    TrustReport
        Printed as a table, in a notebook as HTML. Thresholds: normalised means up to 2 pass and
        beyond 6 fail, deviations 0.2 to 4 pass, values beyond 30 fail; there and back an error up
        to 0.1 standard deviations passes and beyond 0.5 fails; the mean square of latents 0.5 to 2
        passes, beyond 0.1 to 10 fails; mean departures up to 3 expected deviations pass, beyond 10
        fail.

    Raises
    ------
    DaisiTypeError
        Where the forecast is no Dataset.
    """
    check_dataset(forecast, "forecast")
    given: object = members
    if isinstance(given, bool) or not isinstance(given, (int, np.integer)) or given < 1:
        raise DaisiTypeError(problem("members", repr(members), "a positive integer"))
    unknown = sorted(set(reading) - {f.name for f in fields(ObservationOptions)})
    if unknown:
        raise DaisiTypeError(problem("check", f"the keywords {unknown}", "those of assimilate"))
    lines: list[Line] = []

    def guarded(name: str, look: Callable[[], list[Line]]) -> bool:
        """Add lines; what is raised becomes one that fails."""
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                found = look()
        except DaisiError as error:
            lines.extend(_failure(name, error))
            return False
        lines.extend(found)
        for one in caught:
            if issubclass(one.category, UserWarning):
                lines.append(Line(name, "warn", *_split(str(one.message))))
        return True

    there: dict[str, Any] = {}

    def prior_lines() -> list[Line]:
        there["prior"] = choose_prior(forecast, prior)
        return [Line("prior", "pass", _described(there["prior"]))]

    def layout_lines() -> list[Line]:
        there["layout"] = layout_of(forecast, there["prior"].spec)
        return _layout_lines(forecast, there["layout"])

    if not guarded("prior", prior_lines) or not guarded("forecast", layout_lines):
        return TrustReport(tuple(lines))
    layout: Layout = there["layout"]
    engine = make_engine(there["prior"], there["prior"].settings, seed, device, dtype, batch)
    work = Work(engine, layout)
    count = max(1, min(members, layout.members))
    states = layout.stack(forecast)

    def value_lines() -> list[Line]:
        whole = isinstance(states, np.ndarray)
        block = np.asarray(states if whole else states[:1])
        work.check(block, work.holes(block), 0, 0)
        looked = "everywhere" if whole else "at the first time"
        holes = work.holes(block)
        share = f", {100 * holes.mean():.0f} % holes" if holes.any() else ""
        there["states"] = work.physical(block[0])
        return [Line("missing values", "pass", f"finite {looked}{share}")]

    if guarded("missing values", value_lines):
        first = there["states"]
        guarded("values", lambda: normalisation_lines(work, first))
        guarded("bounds", lambda: bound_lines(work, first))
        label = layout.time_label(0)
        guarded("distribution", lambda: distribution_lines(engine, first[:count], label))
    if obs is None:
        lines.append(Line("observations", "warn", "none were given", "pass obs to look at them"))
        return TrustReport(tuple(lines))

    def observation_lines() -> list[Line]:
        options = ObservationOptions(**reading)
        there["plan"] = match_observations(obs, layout.spec, layout.time_values, options)
        return _coverage_lines(there["plan"], layout)

    if guarded("observations", observation_lines):
        plan: ObservationPlan = there["plan"]
        if "states" in there and plan.used:
            guarded("departures", lambda: _departure_lines(plan, work, states))

        def cost_lines() -> list[Line]:
            cost = make_plan(forecast, layout, plan, engine)
            s = engine.settings
            found = f"t_min {s.t_min:g}, {s.guidance}, strength {s.strength}; {cost.cost()}"
            return [Line("settings and cost", "pass", found)]

        guarded("settings and cost", cost_lines)
    return TrustReport(tuple(lines))


def _split(message: str) -> tuple[str, str]:
    """Return a message without its remedy, and the remedy."""
    found, _, remedy = " ".join(message.split()).partition("; ")
    return found, remedy


def _failure(name: str, error: DaisiError) -> list[Line]:
    if isinstance(error, DaisiTypeError):
        raise error
    texts = str(error).splitlines()
    if len(texts) > 1 and texts[0].endswith("problems:"):
        texts = [text.removeprefix("- ") for text in texts[1:]]
    else:
        texts = [str(error)]
    return [Line(name, "fail", *_split(text)) for text in texts]


def _described(prior: FlowPrior) -> str:
    text = str(prior.card.get("description") or "").strip()
    origin = "a network of your own" if prior.sha256 is None else f"sha256 {prior.sha256[:12]}"
    return f"{prior.name}: {text + '; ' if text else ''}{origin}"


def _layout_lines(forecast: xr.Dataset, layout: Layout) -> list[Line]:
    spec = layout.spec
    named = [
        n if n == v.name else f"{n} (the prior's {v.name})"
        for n, v in zip(layout.names, spec.variables, strict=True)
    ]
    lines = [Line("variables", "pass", ", ".join(named))]
    lacking = [
        n
        for n, v in zip(layout.names, spec.variables, strict=True)
        if v.units and not forecast[n].attrs.get("units")
    ]
    if lacking:
        units = {n: v.units for n, v in zip(layout.names, spec.variables, strict=True)}
        remedy = "; ".join(f"forecast.{n}.attrs['units'] = {units[n]!r}" for n in lacking)
        found = f"none for {', '.join(lacking)}: taken as the prior's"
        lines.append(Line("units", "warn", found, f"if that is so, say it: {remedy}"))
    else:
        lines.append(Line("units", "pass", "convert to the prior's"))
    sizes = " x ".join(f"{d} {spec.coords[d].size}" for d in spec.dims)
    lines.append(Line("grid", "pass", f"the prior's points ({sizes}), levels included"))
    verdict: Verdict = "pass"
    remedy = ""
    if layout.members < NUMBER_WORTH_A_SPREAD:
        verdict = "warn"
        remedy = "an ensemble of 10 or more shows how sure it is; more members are more samples"
    found = f"{layout.members} members, {layout.times} times"
    lines.append(Line("ensemble", verdict, found, remedy))
    return lines


def _coverage_lines(plan: ObservationPlan, layout: Layout) -> list[Line]:
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


def _departure_lines(plan: ObservationPlan, work: Work, states: Any) -> list[Line]:
    """Compare observations of the first time that has any with the forecast."""
    window = next((w for w in plan.windows if len(plan.window_batch(w))), None)
    if window is None:
        return []
    block = np.asarray(states[list(window)])
    batch = work.filtered(None, plan.window_batch(window), work.holes(block))
    if not len(batch):
        found = "all in holes of the domain"
        return [Line("departures", "fail", found, "check the land or sea mask, and the places")]
    from xr_daisi.blocks import trajectories

    x = torch.from_numpy(trajectories(work.filled(block)))
    with torch.no_grad():
        y = batch.to_tensors(None, "cpu", torch.float64).observe(x).numpy()
    y = next_to(batch.values, y, periods_of(batch.groups))
    spread = y.var(axis=0, ddof=1) if len(y) > 1 else np.zeros(y.shape[1])
    departure = batch.values - y.mean(axis=0)
    first = [source.first_row for source in plan.sources]
    of_source = np.searchsorted(first, batch.rows, side="right") - 1
    lines = []
    for number, source in enumerate(plan.sources):
        own = of_source == number
        if not own.any():
            continue
        # Of one member the spread is not known; over places its values differ more.
        variance = spread[own] if len(y) > 1 else y[0, own].var()
        expected = float(np.sqrt(np.mean(variance + batch.errors[own] ** 2)))
        mean, std = float(departure[own].mean()), float(departure[own].std())
        verdict = graded(abs(mean) / expected, 3.0, 10.0)
        unit = f" {source.units}" if source.units else ""
        found = (
            f"O-B mean {mean:.3g}, standard deviation {std:.3g}{unit}; expected from spread and "
            f"error: 0 and {expected:.3g}"
        )
        remedy = ""
        if verdict != "pass":
            middle, width = float(y[:, own].mean()), max(float(y[:, own].std()), expected)
            remedy = guess(batch.values[own], middle, width)
            remedy = remedy or "check units, operator, and times; or a bias to be corrected"
        lines.append(Line(f"departures of {source.subject}", verdict, found, remedy))
        lines += _error_lines(source.subject, batch.errors[own], np.sqrt(spread[own]), len(y))
    return lines


def _error_lines(subject: str, errors: np.ndarray, spread: np.ndarray, members: int) -> list[Line]:
    typical = float(np.median(errors))
    found = f"observation errors {float(errors.min()):.3g} to {float(errors.max()):.3g}"
    if members < 2:
        return [Line(f"errors of {subject}", "pass", found)]
    ratio = typical / max(float(np.median(spread)), 1e-30)
    found += f", spread of the forecast there {float(np.median(spread)):.3g}"
    if ratio < 1e-2:
        remedy = "instrument and representativeness together are rarely so small; raise them"
        return [Line(f"errors of {subject}", "warn", found, remedy)]
    if ratio > 10:
        remedy = "these observations say almost nothing; check the units of the errors"
        return [Line(f"errors of {subject}", "warn", found, remedy)]
    return [Line(f"errors of {subject}", "pass", found)]
