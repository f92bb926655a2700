"""One run of one method: its configuration, its store, its rows of scores."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xarray as xr

import xr_daisi
from xr_daisi.cycle_store import CycleStore
from xr_daisi.fingerprints import described
from xr_daisi.systems import System, TwinExperiment

from .score_file import ScoreFile, write_whole

Scorer = Callable[[xr.Dataset, xr.Dataset], Mapping[str, float]]


@dataclass(frozen=True)
class Run:
    """What is run: one method on one twin experiment.

    Parameters
    ----------
    experiment, method : str
        Names, as they stand in the table.
    seed : int
        Of everything random.
    keywords : dict
        For `xr_daisi.assimilate`: method and settings.
    configuration : dict
        What else the scores depend on, as plain JSON types: members, trajectory, prior, ...
    """

    experiment: str
    method: str
    seed: int
    keywords: dict[str, Any]
    configuration: dict[str, Any]

    @property
    def name(self) -> str:
        """Name of its files."""
        return f"{self.experiment}-{self.method}-{self.seed}"

    def described(self) -> dict[str, Any]:
        """Return everything that the scores depend on, as plain JSON types."""
        return {**self.configuration, **described(self.keywords)}


def prior_name(prior: xr_daisi.FlowPrior | None) -> str | None:
    """Return what tells one prior from another."""
    if prior is None:
        return None
    return prior.sha256 or f"{prior.name} (a network of its own)"


def claim(out: Path, run: Run) -> Path:
    """Return the store of a run, after checking that what is there is the same run.

    Raises
    ------
    ValueError
        Naming what differs from the run that the folder holds.
    """
    folder = out / "runs"
    folder.mkdir(parents=True, exist_ok=True)
    card = folder / f"{run.name}.json"
    wanted = json.loads(json.dumps(run.described()))
    if card.exists():
        check_same(card, json.loads(card.read_text(encoding="utf-8")), wanted)
    else:
        text = json.dumps(wanted, indent=1)
        write_whole(card, lambda p: p.write_text(text, encoding="utf-8"))
    return folder / f"{run.name}.zarr"


def check_same(path: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raise if two configurations differ.

    Raises
    ------
    ValueError
        Naming every entry that differs.
    """
    different = [
        f"{k}: found {found.get(k)!r}, expected {wanted.get(k)!r}"
        for k in sorted({*found, *wanted})
        if found.get(k) != wanted.get(k)
    ]
    if different:
        raise ValueError(
            f"{path}: of another configuration ({'; '.join(different)}); "
            "name another --out, or give the same options to resume"
        )


def execute(
    run: Run,
    out: Path,
    *,
    twin: TwinExperiment,
    initial: xr.Dataset,
    system: System,
    prior: xr_daisi.FlowPrior | None,
    window: str,
    cycles: int,
    scorer: Scorer,
    scores: ScoreFile,
    tell: Callable[[str], object] = print,
    on_analysis: Callable[[int, xr.Dataset], object] | None = None,
) -> None:
    """Run, or resume, the cycles of a method and append their scores.

    Parameters
    ----------
    run : Run
        What to run.
    out : Path
        Folder of the results.
    twin : TwinExperiment
        Truth, observations, operator.
    initial : xarray.Dataset
        Background of the first cycle.
    system : System
        Forecast model.
    prior : FlowPrior or None
        For the methods that have one.
    window : str
        Between analyses.
    cycles : int
        How many.
    scorer : callable
        Scores of an analysis and the truth of its time: rmse, crps and ssr.
    scores : ScoreFile
        Where rows go.
    tell : callable
        Takes a line of text per cycle.
    on_analysis : callable, optional
        Called with the number of each cycle and its analysis, also of cycles done before.
    """
    path = claim(out, run)
    store = stored(path)
    done = 0 if store is None else store.finished

    def record(cycle: int, analysis: xr.Dataset) -> None:
        truth = twin.truth.isel(time=cycle)
        found = scorer(analysis, truth)
        row = {"experiment": run.experiment, "method": run.method, "seed": run.seed}
        if on_analysis is not None:
            on_analysis(cycle, analysis)
        scores.append(**row, cycle=cycle, **found)
        tell(
            f"{run.experiment} {run.method} seed {run.seed} cycle {cycle + 1}/{cycles}: "
            f"RMSE {found['rmse']:.3f}, CRPS {found['crps']:.3f}, SSR {found['ssr']:.2f}"
        )

    key = {"experiment": run.experiment, "method": run.method, "seed": run.seed}
    for cycle in range(min(done, cycles)):
        # A crash between storing an analysis and writing its row loses nothing.
        if not scores.has(**key, cycle=cycle):
            assert store is not None
            record(cycle, store.read("analysis", cycle))
    if done >= cycles:
        tell(f"{run.name}: {done} cycles are there")
        return
    try:
        xr_daisi.cycle(
            initial,
            system,
            twin.observations,
            prior,
            store=path,
            window=window,
            cycles=cycles,
            truth=twin.truth,
            operator=twin.operator,
            seed=run.seed,
            progress=False,
            on_cycle=lambda r: record(r.cycle, r.analysis),
            **run.keywords,
        )
    except xr_daisi.DivergenceError as error:
        # The other methods can still be compared; the table shows how far this one came.
        scores.failed.append(f"{run.name}: {error}")
        tell(f"{run.name} diverged: {error}")


def stored(path: Path) -> CycleStore | None:
    """Return the store of a run, None where there is none yet."""
    return CycleStore.read_only(path) if path.exists() else None
