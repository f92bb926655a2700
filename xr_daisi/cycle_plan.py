"""What a cycle is asked to do: its arguments, checked, and its configuration as plain JSON."""

from __future__ import annotations

import difflib
import inspect
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import torch
import xarray as xr

from xr_daisi._version import __version__
from xr_daisi.analysis import assimilate
from xr_daisi.baselines import SETTINGS, bridge_for, check_keywords, engine_for
from xr_daisi.cycle_observations import ObservationSource, Window, observation_source
from xr_daisi.cycle_scores import TruthSource
from xr_daisi.ensembles import EnsembleForm, form_of, instant, member_labels, time_text
from xr_daisi.errors import (
    DaisiError,
    SettingsError,
    StateError,
    problem,
    raise_problems,
)
from xr_daisi.fingerprints import dataset_sha256, described
from xr_daisi.observation_options import ObservationOptions
from xr_daisi.prior_choice import choose_prior
from xr_daisi.priors import FlowPrior

__all__ = ["CyclePlan", "OnFailure", "make_plan", "versions"]

OnFailure = Literal["stop", "drop-member", "forecast"]
WITHOUT_PRIOR = {"letkf", "etkf", "ensf", "oi"}


@dataclass(frozen=True)
class CyclePlan:
    """A cycle, checked before any work.

    Attributes
    ----------
    initial : xarray.Dataset
        Background of the first cycle, in memory, with a time dimension of length one.
    form : EnsembleForm
        How the user labelled it.
    labels : list
        Of all members.
    model, method, prior, seed, keywords, on_failure
        As given; the prior chosen.
    source : ObservationSource
        The observations.
    truth : TruthSource or None
        For scores.
    window : timedelta64
        From one analysis to the next.
    cycles : int
        How many in all.
    configuration : dict
        What makes it this cycle and no other, plain JSON types.
    named : str or None
        The file or name that the prior was given by.
    """

    initial: xr.Dataset
    form: EnsembleForm
    labels: list[Any]
    model: Any
    method: str
    prior: FlowPrior | None
    seed: int
    keywords: dict[str, Any]
    on_failure: OnFailure
    source: ObservationSource
    truth: TruthSource | None
    window: np.timedelta64
    cycles: int
    configuration: dict[str, Any]
    named: str | None = None

    def time(self, cycle: int) -> np.datetime64:
        """Return the time of analysis of a cycle."""
        return instant(self.initial, self.form.time) + cycle * self.window

    def window_of(self, cycle: int) -> Window:
        """Return the window of a cycle."""
        return Window(self.time(cycle), self.window)


def make_plan(
    initial: xr.Dataset,
    model: Any,
    observations: Any,
    prior: FlowPrior | str | Path | None,
    *,
    window: Any,
    cycles: int | None,
    method: str,
    truth: Any,
    on_failure: OnFailure,
    seed: int,
    keywords: Mapping[str, Any],
) -> CyclePlan:
    """Check the arguments of a cycle, all of them, before any work.

    Raises
    ------
    SettingsError
        Naming every setting that cannot be.
    StateError, ObservationError, PriorError, DaisiTypeError
        For initial ensemble, observations, prior and model.
    """
    step, problems = _window(window)
    if on_failure not in get_args(OnFailure):
        expected = f"one of {', '.join(map(repr, get_args(OnFailure)))}"
        problems.append(problem("on_failure", repr(on_failure), expected))
    if cycles is not None and not (_is_whole(cycles) and cycles >= 1):
        problems.append(problem("cycles", repr(cycles), "a whole number of at least 1, or None"))
    if not _is_whole(seed):
        problems.append(problem("seed", repr(seed), "a whole number"))
    if not isinstance(method, str):
        problems.append(problem("method", repr(method), "a name such as 'daisi'"))
    if not callable(model):
        expected = "a function (ensemble, until) -> Dataset, see xr_daisi.forecast"
        problems.append(problem("model", type(model).__name__, expected))
    problems += [
        problem(name, "a keyword of a cycle", "none: a cycle decides itself")
        for name in ("dry_run",)
        if name in keywords
    ]
    known = inspect.signature(assimilate).parameters
    problems += [
        problem(name, "an unknown keyword", "one of assimilate", _hint(name, known))
        for name in keywords
        if name not in known
    ]
    options = dict(keywords)
    if step is not None:
        half = pd.Timedelta(step) / 2
        # Every observation of the window belongs to its analysis.
        options.setdefault("time_tolerance", half)
        if options["time_tolerance"] is None:
            options["time_tolerance"] = half
        problems += _tolerance_problems(options["time_tolerance"], half)
    raise_problems(SettingsError, problems)
    assert step is not None
    form = form_of(initial)
    ensemble = form.inner(_plain_labels(initial, form)).compute().drop_encoding()
    chosen = None if prior is None and method in WITHOUT_PRIOR else choose_prior(initial, prior)
    members = ensemble.sizes[form.member] if form.member else 1
    _check_settings(method, ensemble, chosen, options, int(seed), members)
    source = observation_source(observations)
    reference = None if truth is None else TruthSource(truth, ensemble, form.time)
    count = cycles if cycles is not None else _count(source, instant(ensemble, form.time), step)
    given = str(prior) if isinstance(prior, (str, Path)) else None
    configuration = {
        "initial_sha256": dataset_sha256(ensemble),
        "start": time_text(instant(ensemble, form.time)),
        "window": described(step),
        "model": described(model),
        "method": method,
        "prior": None
        if chosen is None
        else {
            "name": chosen.name,
            "sha256": chosen.sha256,
            "settings": json.loads(json.dumps(chosen.settings.to_dict(), default=str)),
        },
        "seed": int(seed),
        "keywords": {
            k: described(v) for k, v in sorted(options.items()) if k != "progress" and v is not None
        },
        "scored": [] if reference is None else reference.names,
    }
    return CyclePlan(
        initial=ensemble,
        form=form,
        labels=member_labels(ensemble, form.member),
        model=model,
        method=method,
        prior=chosen,
        seed=int(seed),
        keywords=options,
        on_failure=on_failure,
        source=source,
        truth=reference,
        window=step,
        cycles=int(count),
        configuration=configuration,
        named=given,
    )


def _check_settings(
    method: str,
    ensemble: xr.Dataset,
    prior: FlowPrior | None,
    given: Mapping[str, Any],
    seed: int,
    members: int,
) -> None:
    """Raise for settings that the first analysis would refuse."""
    defaults = inspect.signature(assimilate).parameters
    settings = {k: v for k, v in given.items() if k in SETTINGS}
    where = {k: given.get(k, defaults[k].default) for k in ("device", "dtype")}
    kept = check_keywords(method, settings)
    engine = engine_for(method, ensemble, prior, kept, seed=seed, **where)
    bridge_for(engine, kept, members)
    names = {field.name for field in fields(ObservationOptions)}
    ObservationOptions(**{k: v for k, v in given.items() if k in names})


def versions() -> dict[str, str]:
    """Return the versions that a result may depend on."""
    return {
        "xr_daisi": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "xarray": xr.__version__,
    }


def _hint(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), 1)
    return f"did you mean {close[0]!r}?" if close else ""


def _is_whole(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _window(window: Any) -> tuple[np.timedelta64 | None, list[str]]:
    remedy = ""
    try:
        if isinstance(window, (int, float, np.number)):
            remedy = "name the unit"
            raise ValueError(remedy)
        step = np.asarray(pd.to_timedelta([window]), dtype="timedelta64[us]")[0]
        if step > np.timedelta64(0, "us"):  # False for a missing one too
            return step, []
    except (ValueError, TypeError):
        pass
    return None, [problem("window", repr(window), "a length of time such as '6h'", remedy)]


def _tolerance_problems(tolerance: Any, half: pd.Timedelta) -> list[str]:
    try:
        given = pd.Timedelta(tolerance)
    except (ValueError, TypeError):
        return []  # assimilate says what is wrong
    if given <= half:
        return []
    expected = f"at most half the window, {half}"
    remedy = "observations further away belong to another analysis"
    return [problem("time_tolerance", str(given), expected, remedy)]


def _plain_labels(initial: xr.Dataset, form: EnsembleForm) -> xr.Dataset:
    """Return the ensemble with labels that a file can hold, and no times but its own."""
    several = [
        str(d) for d in initial.dims if d in initial.indexes and initial.indexes[d].nlevels > 1
    ]
    if several:
        remedy = f"number them: initial.reset_index({several[0]!r})"
        found = f"an index of several levels along {', '.join(several)}"
        raise StateError(problem("initial ensemble", found, "plain labels", remedy))
    # The start of a forecast and its length would be wrong from the second cycle on.
    others = [
        n
        for n, c in initial.coords.items()
        if n != form.time and (c.dtype.kind in "Mm" or form.time in c.dims)
    ]
    out = initial.drop_vars(others)
    if form.member is not None and form.member not in out.coords:
        out = out.assign_coords({form.member: np.arange(out.sizes[form.member])})
    labels = member_labels(out, form.member)
    if len(set(labels)) < len(labels):
        raise StateError(problem("members of the initial ensemble", "repeated labels", "others"))
    return out


def _count(source: ObservationSource, start: np.datetime64, step: np.timedelta64) -> int:
    last = source.last_time()
    if last is None:
        found = "none, and observations whose last time is not known"
        raise SettingsError(problem("cycles", found, "a number", "pass cycles=..."))
    count, cycle_start = 0, 2 * (last - start)
    while 2 * count * step - step < cycle_start:
        count += 1
    if count == 0:
        found = f"observations that end at {time_text(last)}"
        expected = f"some from {time_text(start)} on, the time of the initial ensemble"
        raise DaisiError(problem("observations", found, expected))
    return count
