"""The trust report: whether a prior fits a forecast and its observations."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Literal, Unpack

import numpy as np

from xr_daisi.blocks import Work
from xr_daisi.check_departures import coverage_lines, departure_lines
from xr_daisi.check_values import bound_lines, distribution_lines, normalisation_lines
from xr_daisi.errors import DaisiError, DaisiTypeError, problem
from xr_daisi.estimate import make_plan
from xr_daisi.latent import check_dataset, make_engine
from xr_daisi.layout import layout_of
from xr_daisi.observation_options import ObservationKeywords, ObservationOptions
from xr_daisi.observations import match_observations
from xr_daisi.prior_choice import choose_prior
from xr_daisi.settings import AUTO
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

    What `assimilate` would raise is a line that fails. Members are inverted at the first time: each
    takes some twenty evaluations of the network, and those that also go there and back forty to
    eighty more. Departures are those of all times, or of the first where data are dask arrays.

    Parameters
    ----------
    forecast : xarray.Dataset
        As for `assimilate`; not modified.
    obs : xarray.Dataset or sequence of them, optional
        The observations, in any form that `read_observations` knows.
    prior : FlowPrior, str or Path, optional
        As for `assimilate`.
    members : int
        How many members go there and back; the latent norm is that of all members.
    seed, device, dtype, batch
        As for `assimilate`.
    **reading
        How observations are read: `operator`, `obs_error`, ... as for `assimilate`.

    Returns
    -------
    TrustReport
        Printed as a table, in a notebook as HTML. Thresholds: normalised means up to 2 pass and
        beyond 6 fail, deviations 0.2 to 4 pass, values beyond 30 fail; there and back an error up
        to 0.1 standard deviations passes and beyond 0.5 fails; the mean square of the latents of
        each member 0.5 to 2 passes, beyond 0.1 to 10 fails, further out for states of few values,
        as chance has it; mean departures up to 3 expected deviations pass, beyond 10
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
        guarded("distribution", lambda: distribution_lines(engine, first, count, label))
    if obs is None:
        lines.append(Line("observations", "warn", "none were given", "pass obs to look at them"))
        return TrustReport(tuple(lines))

    def observation_lines() -> list[Line]:
        options = ObservationOptions(**reading)
        there["plan"] = match_observations(obs, layout.spec, layout.time_values, options)
        return coverage_lines(there["plan"], layout)

    if guarded("observations", observation_lines):
        plan: ObservationPlan = there["plan"]
        if "states" in there and plan.used:
            guarded("departures", lambda: departure_lines(plan, work, states))

        def cost_lines() -> list[Line]:
            cost = make_plan(forecast, layout, plan, engine)
            s = engine.settings
            t_min = s.t_min if s.t_min == AUTO else f"{s.t_min:g}"
            how = f"t_min {t_min}, bridge {s.share}, {s.guidance}, strength {s.strength}"
            found = f"{how}; {cost.cost()}"
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
