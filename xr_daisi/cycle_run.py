"""One cycle after the other: forecast, observations, analysis, feedback, scores, on the disk."""

from __future__ import annotations

import datetime
import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import xarray as xr

from xr_daisi._version import __version__
from xr_daisi.analysis import assimilate
from xr_daisi.cycle_forecasts import next_background
from xr_daisi.cycle_observations import told_window
from xr_daisi.cycle_plan import CyclePlan, versions
from xr_daisi.cycle_scores import departures, score_dataset, score_dict, truth_scores
from xr_daisi.cycle_store import CycleStore
from xr_daisi.ensemble_settings import Method
from xr_daisi.ensembles import time_text
from xr_daisi.errors import (
    DivergenceError,
    ForecastError,
    NoObservationsWarning,
    ObservationError,
    SettingsError,
    problem,
)
from xr_daisi.feedback import feedback
from xr_daisi.fingerprints import dataset_sha256
from xr_daisi.user_warnings import warn_user

__all__ = ["STAGES", "CycleRecord", "CycleRun"]

STAGES = (
    "start",
    "forecast",
    "observations",
    "analysis",
    "feedback",
    "scores",
    "write background",
    "write analysis",
    "write scores",
    "write observations",
    "write feedback",
    "finish",
    "finished",
)
"""What happens in a cycle, in this order; after each but the last it may be killed."""


@dataclass(frozen=True)
class CycleRecord:
    """One cycle that is finished and stored.

    Attributes
    ----------
    cycle : int
        Its number, from 0.
    time : datetime64
        Of the analysis.
    background, analysis : xarray.Dataset
        The ensembles, with a time dimension of length one.
    feedback : xarray.Dataset, list of them, or None
        Observations compared with both, as many as there were Datasets of observations; None
        without observations.
    scores : dict of str to float
        ``o_minus_b``, ``o_minus_a`` (root mean squares over the error of the observations),
        ``observations`` (number used), ``members``; with a truth ``background_rmse``,
        ``analysis_rmse``, ``analysis_crps``, ``analysis_ssr``, ... of the first variable, those of
        others with the name at the end: ``analysis_rmse_u``.
    status : str
        ``"analysed"``, ``"no_observations"`` or ``"analysis_failed"``; in the last two the
        analysis is the background.
    failed : dict
        ``{member: reason}`` of those lost in this cycle.
    resumed : bool
        False: only new cycles are told.
    """

    cycle: int
    time: np.datetime64
    background: xr.Dataset
    analysis: xr.Dataset
    feedback: xr.Dataset | list[xr.Dataset] | None
    scores: dict[str, float]
    status: str = "analysed"
    failed: dict[Any, str] = field(default_factory=dict)
    resumed: bool = False


def reached(stage: str, cycle: int) -> None:
    """Mark the beginning of a stage of `STAGES`; tests end the process here."""


class CycleRun:
    """The cycles of one call."""

    def __init__(self, plan: CyclePlan, store: CycleStore) -> None:
        self.plan, self.store = plan, store
        self.known: dict[str, Any] = {}
        if store.finished:
            attrs = store.read("analysis", store.finished - 1).attrs
            self.known = {k: v for k, v in attrs.items() if str(k).startswith("daisi_")}
            self._refuse_other_observations()
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        session = {"from_cycle": store.finished, "at": now, **versions()}
        session |= {"on_failure": plan.on_failure, "prior": plan.named}
        self.sessions = [*store.state["sessions"], session]
        before = store.state["sessions"][-1:]
        for old in before:
            other = [k for k, v in versions().items() if old.get(k) != v]
            if other:
                found = ", ".join(f"{k} {old.get(k)}" for k in other)
                expected = ", ".join(f"{k} {versions()[k]}" for k in other)
                remedy = "results may differ from an uninterrupted run in the last digits"
                warn_user(problem(str(store.path), found, expected, remedy))

    def _refuse_other_observations(self) -> None:
        """Raise if observations of finished cycles are others now; late ones are only told."""
        plan, finished = self.plan, self.store.finished
        first = 0 if plan.source.fixed else finished - 1
        for number in range(first, finished):
            try:
                here = self._checksum(plan.source.of_window(plan.window_of(number)))
            except (ObservationError, OSError) as error:
                warn_user(f"observations of cycle {number} cannot be read again: {error}")
                continue
            there = str(self.store.record(number)["observations_sha256"])
            if there == here:
                continue
            subject = f"observations of cycle {number}"
            if there:
                found = f"checksum {there[:12]} in {self.store.path}, {here[:12] or 'none'} now"
                remedy = "name another store, or pass overwrite=True to begin anew"
                raise SettingsError(problem(subject, found, "the same", remedy))
            remedy = "its analysis stays the background"
            warn_user(problem(subject, "some that came late", "none, as when it ran", remedy))

    @staticmethod
    def _checksum(datasets: list[xr.Dataset]) -> str:
        return dataset_sha256(*datasets) if datasets else ""

    def one(self, number: int) -> CycleRecord:
        """Do one cycle and store it."""
        plan, store, form = self.plan, self.store, self.plan.form
        reached("start", number)
        time = plan.time(number)
        reached("forecast", number)
        background, failed = self._background(number)
        reached("observations", number)
        status, reason = "analysed", ""
        datasets: list[xr.Dataset] = []
        try:
            datasets = plan.source.of_window(plan.window_of(number))
        except (ObservationError, OSError) as error:
            if plan.on_failure != "forecast":
                raise
            status, reason = "analysis_failed", str(error)
        reached("analysis", number)
        analysis = background
        if status == "analysed" and not datasets:
            status, reason = (
                "no_observations",
                f"no observations in {told_window(plan.window_of(number))}",
            )
        elif datasets:
            try:
                analysis = self._analysis(background, datasets)
            except (DivergenceError, ObservationError) as error:
                if plan.on_failure != "forecast":
                    raise
                status, reason, analysis = "analysis_failed", str(error), background
        reached("feedback", number)
        tables: list[xr.Dataset] = []
        if datasets and status == "analysed":
            self.known = {
                k: v
                for k, v in analysis.attrs.items()
                if str(k).startswith("daisi_") and k != "daisi_observations"
            }
            tables = self._feedback(background, datasets, analysis)
        counts = json.loads(analysis.attrs.get("daisi_observations", "{}"))
        observed = departures(tables)
        if status == "analysed" and observed[0] == 0:
            status, reason = "no_observations", f"none can be used: {counts}"
        if status != "analysed":
            kind = NoObservationsWarning if status == "no_observations" else UserWarning
            warn_user(
                kind(
                    f"cycle {number}, {time_text(time)}: the analysis is the background ({reason})"
                )
            )
        reached("scores", number)
        against = None
        if plan.truth is not None:
            against = truth_scores((background, analysis), plan.truth, time)
        sha256 = self._checksum(datasets)
        members = background.sizes[form.member] if form.member else 1
        scores = score_dataset(
            background[form.time], status, members, sha256, observed, against, plan.truth
        )
        attrs = self._attributes()
        background, analysis = (ds.assign_attrs() for ds in (background, analysis))
        background.attrs, analysis.attrs, scores.attrs = dict(attrs), dict(attrs), dict(attrs)
        dropped = [*store.state["dropped"], *failed]
        record = {
            "cycle": number,
            "time": time_text(time),
            "status": status,
            "reason": reason,
            "observations": counts,
            "observations_sha256": sha256,
            "background_sha256": dataset_sha256(background),
            "analysis_sha256": dataset_sha256(analysis),
            "failed": {str(k): v for k, v in failed.items()},
            "lost": dropped,
        }
        for name, ds in (("background", background), ("analysis", analysis)):
            reached(f"write {name}", number)
            store.write_group(name, self._whole(ds), number, form.member)
        reached("write scores", number)
        store.write_group("scores", scores, number, None)
        reached("write observations", number)
        store.write_tables("observations", datasets, number, attrs)
        reached("write feedback", number)
        told = {**attrs, "daisi_cycle_record": record}
        store.write_tables("feedback", tables, number, told)
        reached("finish", number)
        store.finish(number, dropped=dropped, sessions=self.sessions, member=form.member)
        reached("finished", number)
        return CycleRecord(
            cycle=number,
            time=time.astype("datetime64[ns]"),
            background=background,
            analysis=analysis,
            feedback=None if not tables else tables[0] if plan.source.single else tables,
            scores=score_dict(scores),
            status=status,
            failed=failed,
        )

    def _background(self, number: int) -> tuple[xr.Dataset, dict[Any, str]]:
        plan, form = self.plan, self.plan.form
        if number == 0:
            return plan.initial, {}
        # Always from the store, so that going on after an interruption is nothing special.
        last = self.store.read("analysis", number - 1)
        if form.member is not None and self.store.state["dropped"]:
            left = [v for v in plan.labels if v not in self.store.state["dropped"]]
            last = last.sel({form.member: left})
        last.attrs = dict(plan.initial.attrs)
        last = last[list(plan.initial.data_vars)]
        time = plan.time(number)
        try:
            forecast, failed = next_background(
                plan.model, form.outer(last), time, drop=plan.on_failure == "drop-member"
            )
        except ForecastError as error:
            raise ForecastError(
                f"cycle {number}: {error}", failed=error.failed, survivors=error.survivors
            ) from error
        return form.inner(forecast).transpose(form.time, ...), failed

    def _analysis(self, background: xr.Dataset, datasets: list[xr.Dataset]) -> xr.Dataset:
        plan = self.plan
        with warnings.catch_warnings():
            # Told by the cycle itself, with its number.
            warnings.simplefilter("ignore", NoObservationsWarning)
            analysis: xr.Dataset = assimilate(
                background,
                datasets[0] if len(datasets) == 1 else datasets,
                plan.prior,
                method=cast("Method", plan.method),
                seed=plan.seed,
                **{"progress": False, **plan.keywords},
            )
        return analysis

    def _feedback(
        self, background: xr.Dataset, datasets: list[xr.Dataset], analysis: xr.Dataset
    ) -> list[xr.Dataset]:
        keywords = self.plan.keywords
        return feedback(
            background,
            datasets,
            analysis,
            operator=keywords.get("operator"),
            obs_error=keywords.get("obs_error"),
            time_tolerance=keywords.get("time_tolerance"),
        )

    def _whole(self, ds: xr.Dataset) -> xr.Dataset:
        """Return the ensemble with all members that it began with, lost ones missing."""
        member = self.plan.form.member
        if member is None or ds.sizes[member] == len(self.plan.labels):
            return ds
        fill = {
            n: (np.nan if v.dtype.kind == "f" else np.zeros((), v.dtype)[()])
            for n, v in ds.data_vars.items()
        }
        return ds.reindex({member: self.plan.initial[member].values}, fill_value=fill)

    def _attributes(self) -> dict[str, Any]:
        """Return the attributes of all that is stored: what is needed to repeat it."""
        plan = self.plan
        prior = plan.prior
        named: dict[str, Any] = {}
        if prior is not None:
            named["daisi_prior"] = prior.name
            named["daisi_prior_sha256"] = prior.sha256 or "none: a network of the user's own"
        line = f"xr_daisi {__version__} cycle with method {plan.method}"
        history = plan.initial.attrs.get("history")
        own: Mapping[str, Any] = {
            "history": f"{line}\n{history}" if history else line,
            "daisi_seed": plan.seed,
            "daisi_versions": json.dumps(versions()),
            "daisi_cycle": json.dumps(plan.configuration),
        }
        return {**plan.initial.attrs, **named, **self.known, **own}
