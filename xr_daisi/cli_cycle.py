"""The commands ``xr-daisi cycle`` and ``xr-daisi replay``."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from xr_daisi.cli_arguments import Flag, Whole
from xr_daisi.cli_messages import tell_table
from xr_daisi.cli_process import logger
from xr_daisi.errors import DaisiError, problem

__all__ = ["cycle", "replay"]


def cycle(
    config: Path | None = None,
    /,
    *,
    template: Flag = False,
    dry_run: Flag = False,
    overwrite: Flag = False,
    verbose: Flag = False,
) -> None:
    """Forecast and assimilate in turn, as a configuration says; go on where it was interrupted.

    Parameters
    ----------
    config
        The configuration (.toml or .yaml).
    template
        Print a configuration with comments, and do nothing else.
    dry_run
        Check the configuration and its files, say what would be done, and do nothing else.
    overwrite
        Begin anew if the store exists.
    verbose
        Log what happens, and show tracebacks.
    """
    from xr_daisi.cycle_config import TEMPLATE, read_config
    from xr_daisi.cycle_models import model_of
    from xr_daisi.cycle_plan import make_plan
    from xr_daisi.cycle_store import CycleStore
    from xr_daisi.cycling import cycle as run
    from xr_daisi.files import check_place, open_file

    if template:
        print(TEMPLATE, end="")
        return
    if config is None:
        remedy = "xr-daisi cycle --template prints one"
        raise DaisiError(problem("CONFIG", "nothing", "a configuration", remedy))
    settings = read_config(config)
    store = settings.path(settings.cycle["store"])
    check_place(store)
    with ExitStack() as files:
        truth = settings.cycle.get("truth")
        arguments: dict[str, Any] = {
            "window": settings.cycle["window"],
            "cycles": settings.cycle.get("cycles"),
            "method": settings.cycle.get("method", "daisi"),
            "truth": None
            if truth is None
            else files.enter_context(open_file(settings.path(truth))),
            "on_failure": settings.cycle.get("on_failure", "stop"),
            "seed": settings.cycle.get("seed", 0),
        }
        inputs: tuple[Any, ...] = (
            files.enter_context(open_file(settings.path(settings.cycle["initial"]))),
            model_of(settings, files),
            _observations(settings, files),
            _prior(settings),
        )
        if dry_run:
            plan = make_plan(*inputs, **arguments, keywords=_keywords(settings))
            done = 0
            if store.exists() and not overwrite:  # opens it, or says in what it differs
                kept = CycleStore.create_or_open(
                    store, plan.configuration, time=plan.form.time, overwrite=False
                )
                done = kept.finished
            tell_table(_told(plan, store, done))
            return
        started, new = time.perf_counter(), 0

        def count(record: Any) -> None:
            nonlocal new
            new += 1
            logger.info("cycle %d, %s: %s", record.cycle, record.time, record.scores)

        initial, model, observations, prior = inputs
        result = run(
            initial,
            model,
            observations,
            prior,
            **arguments,
            store=store,
            on_cycle=count,
            overwrite=overwrite,
            **_keywords(settings),
        )
    kept = CycleStore.read_only(store)
    with kept.group("scores") as opened:
        scores = opened.load()
    seconds = time.perf_counter() - started
    last = kept.record(kept.finished - 1)["time"]
    print(f"{store}: {kept.finished} cycles until {last}, {new} of them new, in {seconds:.1f} s")
    print(f"members: {int(scores.members[-1])} of {_members(result)}")
    print(f"observations: {int(scores.observations.sum()):,} used")
    told = [float(scores[f"o_minus_{letter}"].mean()) for letter in "ba"]
    print("departures over the error: O-B {:.2f}, O-A {:.2f} on average".format(*told))
    for name in scores["variable"].values if "rmse" in scores else ():
        for stage in scores["stage"].values:
            mean = scores.sel(stage=stage, variable=name).mean(kept.time)
            numbers = f"RMSE {float(mean.rmse):.4g}, CRPS {float(mean.crps):.4g}"
            print(f"{name}, {stage}: {numbers}, SSR {float(mean.ssr):.2f} on average")


def replay(
    store: Path,
    /,
    *,
    cycle: Whole,
    prior: str | None = None,
    device: str | None = None,
    verbose: Flag = False,
) -> int:
    """Compute one cycle of a store again and compare it with what is stored.

    Parameters
    ----------
    store
        What xr-daisi cycle wrote.
    cycle
        Which cycle, from 0; -1 is the last.
    prior
        A prior's file, URL or registered name; that of the store when left out.
    device
        auto, cpu, cuda, cuda:1, ...; that of the store when left out.
    verbose
        Log what happens, and show tracebacks.

    Returns
    -------
    int
        Exit status: 1 where they differ.
    """
    from xr_daisi.cycle_replay import replay as again

    options = {} if device is None else {"device": device}
    found = again(store, cycle, prior=prior, **options)
    tell_table(found)
    return 0 if found.identical else 1


def _keywords(settings: Any) -> dict[str, Any]:
    """Return the keywords for `assimilate`: pairs are lists in a file."""
    return {
        k: tuple(v) if isinstance(v, list) and k in ("steps", "tile", "overlap") else v
        for k, v in settings.assimilate.items()
    }


def _observations(settings: Any, files: ExitStack) -> Any:
    """Return files to be looked for, or several Datasets."""
    given = settings.cycle["observations"]
    if isinstance(given, str):
        return settings.path(given)
    if len(given) == 1:
        return settings.path(given[0])
    from xr_daisi.formats import read_observations

    return [files.enter_context(read_observations(settings.path(text))) for text in given]


def _prior(settings: Any) -> str | None:
    given = settings.cycle.get("prior")
    if given is None:
        return None
    path = settings.path(given)
    return str(path) if path.exists() else str(given)


def _members(result: Any) -> int:
    from xr_daisi.dimensions import find_dimensions
    from xr_daisi.ensembles import field_names

    member = find_dimensions(result, field_names(result)).member
    return int(result.sizes[member]) if member else 1


def _model(described: Any) -> str:
    if isinstance(described, dict):
        return ", ".join(str(v) if k == "model" else f"{k} {v}" for k, v in described.items())
    return str(described)


def _told(plan: Any, store: Path, done: int) -> str:
    """Say what a cycle would do."""
    from xr_daisi.ensembles import time_text

    first, last = time_text(plan.time(0)), time_text(plan.time(plan.cycles - 1))
    rows = [
        ("store", f"{store}, {done} cycles finished"),
        ("cycles", f"{plan.cycles}, {plan.configuration['window']} apart, {first} to {last}"),
        ("members", str(len(plan.labels))),
        ("model", _model(plan.configuration["model"])),
        ("method", plan.method),
        ("prior", "none" if plan.prior is None else plan.prior.name),
        ("on failure", plan.on_failure),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {text}" for name, text in rows)
