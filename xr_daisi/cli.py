"""The command ``xr-daisi``: NetCDF and Zarr files in, files out."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

from cyclopts import App, CycloptsError

from xr_daisi._version import __version__
from xr_daisi.cli_arguments import (
    Flag,
    LargeGrid,
    Paths,
    Sampling,
    Texts,
    Whole,
    check_apart,
    chunk_lengths,
    pairs,
)
from xr_daisi.cli_check import check
from xr_daisi.cli_cycle import cycle, replay
from xr_daisi.cli_messages import analysed_by, counted, fail, report, tell_table, usage_error
from xr_daisi.cli_methods import MethodChoice
from xr_daisi.cli_process import Terminated, logger, progress_of_chunks, running, stopped
from xr_daisi.cli_reading import Reading
from xr_daisi.errors import DaisiError, problem

__all__ = ["app", "main"]

COMMANDS = {"assimilate", "check", "cycle", "demo", "info", "replay", "train"}

app = App(
    name="xr-daisi",
    help="Merge ensemble forecasts with observations, through a trained flow prior (DAISI).",
    version=__version__,
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)


@app.command(usage="Usage: xr-daisi assimilate [OPTIONS] FORECAST OBS [ANALYSIS]")
def assimilate(
    forecast: Path,
    obs: Path,
    analysis: Path | None = None,
    /,
    *,
    prior: str | None = None,
    more_obs: Paths = (),
    reading: Reading | None = None,
    baseline: MethodChoice | None = None,
    sampling: Sampling | None = None,
    grid: LargeGrid | None = None,
    feedback: Paths = (),
    dry_run: Flag = False,
    chunks: Texts = (),
    seed: Whole = 0,
    device: str = "auto",
    dtype: Literal["float32", "float64", "bfloat16"] = "float32",
    batch: Whole | None = None,
    overwrite: Flag = False,
    verbose: Flag = False,
) -> None:
    """Assimilate observations into an ensemble forecast.

    Parameters
    ----------
    forecast
        The ensemble, on the prior's grid (NetCDF or Zarr).
    obs
        The observations (NetCDF, Zarr, CSV or Parquet; see the documentation for their forms).
    analysis
        Where to write the analysis (.nc or .zarr); not needed with --dry-run.
    prior
        A prior's file, URL or registered name; when left out, the registered one that fits.
    more_obs
        A further file of observations; may be repeated.
    feedback
        Also write the comparison of the observations with forecast and analysis here; may be
        repeated, once for each file of observations.
    dry_run
        Write nothing, say what would be done: members, times, observations, cost.
    chunks
        Work in pieces, for forecasts larger than memory: time=1, or member=5; may be repeated. The
        result is the same.
    seed
        The same seed gives the same analysis.
    device
        auto, cpu, cuda, cuda:1, ...
    dtype
        Precision of solver and network; bfloat16 concerns the network alone.
    batch
        Members pushed through the network at once.
    overwrite
        Replace existing outputs.
    verbose
        Log what happens, and show tracebacks.
    """
    from xr_daisi.analysis import assimilate as analyse
    from xr_daisi.feedback import feedback as compare
    from xr_daisi.files import check_output, open_file, write_file
    from xr_daisi.formats import read_observations
    from xr_daisi.unreadable import naming_unreadable

    observed_files = (obs, *more_obs)
    if not dry_run:
        if analysis is None:
            found, expected = "nothing", "a path ending in .nc or .zarr"
            raise DaisiError(problem("ANALYSIS", found, expected, "name one, or pass --dry-run"))
        if len(feedback) not in (0, len(observed_files)):
            found = f"{len(feedback)} for {len(observed_files)} files of observations"
            raise DaisiError(problem("--feedback", found, "one for each", "repeat the option"))
        check_apart([forecast, *observed_files], [analysis, *feedback])
        for path in (analysis, *feedback):
            check_output(path, overwrite=overwrite)
    pieces = chunk_lengths(chunks)
    large = grid or LargeGrid()
    options: dict[str, Any] = {
        **large.keywords(),
        **(baseline or MethodChoice()).keywords(),
        **(sampling or Sampling()).keywords(),
        **(reading or Reading()).keywords(),
    }
    with ExitStack() as files:
        background = files.enter_context(open_file(forecast, pieces))
        datasets = [files.enter_context(read_observations(path)) for path in observed_files]
        logger.info("forecast %s: %s", forecast, dict(background.sizes))
        files.enter_context(naming_unreadable(forecast, background))
        started = time.perf_counter()
        result: Any = analyse(
            background,
            datasets[0] if len(datasets) == 1 else datasets,
            large.prior(prior, background),
            **options,
            dry_run=dry_run,
            seed=seed,
            device=device,
            dtype=dtype,
            batch="auto" if batch is None else batch,
        )
        if dry_run or analysis is None:
            tell_table(result)
            return
        logger.info("settings %s", result.daisi_settings)
        with progress_of_chunks(bool(result.chunks)):
            write_file(result, analysis, overwrite=overwrite)
        seconds = time.perf_counter() - started
        print(f"{analysis}: analysis {analysed_by(result.attrs)} in {seconds:.1f} s")
        print(f"observations: {counted(result.daisi_observations)}")
        if feedback:
            # With the written analysis, so that a lazy one is not computed again.
            tables = compare(background, datasets, files.enter_context(open_file(analysis)))
            for table, path in zip(tables, feedback, strict=True):
                write_file(table, path, overwrite=overwrite)
                print(f"{path}: observations compared with forecast and analysis")


app.command(check, usage="Usage: xr-daisi check [OPTIONS] FORECAST [OBS]")
app.command(cycle, usage="Usage: xr-daisi cycle [OPTIONS] CONFIG")
app.command(replay, usage="Usage: xr-daisi replay [OPTIONS] STORE --cycle NUMBER")


@app.command(usage="Usage: xr-daisi train [OPTIONS] HISTORY PRIOR")
def train(
    history: Path,
    prior: Path,
    /,
    *,
    variables: Texts = (),
    validation: float = 0.15,
    steps: Whole | None = None,
    max_minutes: float | None = None,
    batch_size: Whole | None = None,
    width: Whole | None = None,
    patch: Whole | None = None,
    dropout: float = 0.0,
    normalization: Literal["variable", "point", "point-mean"] = "variable",
    static: Path | None = None,
    transform: Texts = (),
    periodic: Texts | None = None,
    roll: Texts = (),
    init: str | None = None,
    checkpoint: Path | None = None,
    name: str | None = None,
    description: str | None = None,
    license: str | None = None,
    attribution: str | None = None,
    seed: Whole = 0,
    device: str = "auto",
    overwrite: Flag = False,
    verbose: Flag = False,
) -> None:
    """Train a flow prior on a history of states.

    Parameters
    ----------
    history
        Fields with a time dimension (NetCDF or Zarr); streamed, may be larger than memory.
    prior
        Where to write the prior, ending in .safetensors.
    variables
        A variable of the state; may be repeated. Every variable when left out.
    validation
        Share of the period, its last part, that validates.
    steps
        Optimiser steps; 4000 when neither these nor --max-minutes are given.
    max_minutes
        Budget of time. Whichever budget ends first ends the training.
    batch_size
        States per step; 32, or fewer where the history is short.
    width
        Channels of the network, a multiple of 8; 32.
    patch
        Grid points per side merged into one: 2 is about four times cheaper.
    dropout
        Share of features left out in training, against overfitting.
    normalization
        One mean and deviation per variable, both per grid point, or the mean alone per point.
    static
        File of fixed fields (land mask, orography) on the same grid.
    transform
        Transform of a bounded variable, log1p, log, logit or sqrt: tp=log1p; may be repeated.
    periodic
        A periodic dimension; may be repeated. Longitudes round the globe are when left out.
    roll
        A periodic dimension along which the statistics do not change; may be repeated.
    init
        Prior to continue from: a file, URL or registered name.
    checkpoint
        File that keeps the state of the training: the same command goes on from it after an
        interruption. Removed at the end.
    name
        Name on the card; that of the file when left out.
    description
        What the prior is, for the card.
    license
        Licence of the data, for the card.
    attribution
        Attribution of the data, for the card.
    seed
        Of weights, batches and noise.
    device
        auto, cpu, cuda, cuda:1, ...
    overwrite
        Replace an existing prior.
    verbose
        Log what happens, and show tracebacks.
    """
    from xr_daisi.files import check_place, open_file
    from xr_daisi.output_files import check_free
    from xr_daisi.training import train_prior

    if prior.suffix != ".safetensors":
        raise DaisiError(
            problem(str(prior), f"ending {prior.suffix!r}", ".safetensors", "rename it")
        )
    check_place(prior)
    check_free(prior, overwrite=overwrite, remedy="pass --overwrite")
    with ExitStack() as files:
        trained = train_prior(
            files.enter_context(open_file(history)),
            list(variables) or None,
            validation=validation,
            steps=steps,
            max_minutes=max_minutes,
            batch_size=batch_size,
            width=width,
            patch=patch,
            dropout=dropout,
            normalization=normalization,
            static=None if static is None else files.enter_context(open_file(static)),
            transform=pairs("--transform", transform) or None,
            periodic=periodic,
            roll=roll,
            init=init,
            checkpoint=checkpoint,
            name=name or prior.stem,
            description=description,
            license=license,
            attribution=attribution,
            seed=seed,
            device=device,
        )
    trained.save(prior, overwrite=overwrite)
    tell_table(trained)
    print(f"written to {prior}")


@app.command(usage="Usage: xr-daisi info [PRIOR]")
def info(prior: str | None = None, /, *, verbose: Flag = False) -> None:
    """Show the card of a prior, or the names of those registered.

    Parameters
    ----------
    prior
        A prior's file, URL or registered name.
    verbose
        Show tracebacks.
    """
    from xr_daisi.registry import load_prior, registered_priors

    if prior is None:
        print("registered priors: " + ", ".join(registered_priors()))
        return
    tell_table(load_prior(prior))


@app.command
def demo(
    *,
    out: Path = Path("xr-daisi-demo"),
    members: Whole = 10,
    cycles: Whole = 8,
    trajectory: Literal[0, 1, 2, 3] = 0,
    sampling: Sampling | None = None,
    seed: Whole = 0,
    device: str = "auto",
    overwrite: Flag = False,
    verbose: Flag = False,
) -> None:
    """Simulate turbulence, observe it sparsely, assimilate, score: a complete example.

    Parameters
    ----------
    out
        Folder for forecast.nc, obs.nc, analysis.nc, feedback.nc, truth.nc and analysis.png.
    members
        Ensemble size.
    cycles
        Analyses, 3 hours apart.
    trajectory
        Which simulated truth.
    seed
        Of ensemble, observations and analyses.
    device
        auto, cpu, cuda, cuda:1, ...
    overwrite
        Replace existing results.
    verbose
        Log what happens, and show tracebacks.
    """
    from xr_daisi.demo import check_demo, run_demo, write_demo

    check_demo(out, members=members, cycles=cycles, overwrite=overwrite)
    started = time.perf_counter()
    result = run_demo(
        members=members,
        cycles=cycles,
        trajectory=trajectory,
        seed=seed,
        device=device,
        advance=lambda text: print(text, flush=True),
        **(sampling or Sampling()).keywords(),
    )
    print(f"\n{result.table()}\n")
    written = write_demo(result, out, overwrite=overwrite)
    print(f"{out}: {', '.join(written)} ({time.perf_counter() - started:.0f} s)")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments; those of the process when None.

    Returns
    -------
    int
        0; 2 for bad input or a place that cannot be written to, which is said in one line; 1 for
        an error that nobody foresaw, or a check that fails; 130 or 143 when interrupted or
        terminated.
    """
    tokens = list(sys.argv[1:] if argv is None else argv)
    verbose = "--verbose" in tokens
    with running(verbose):
        try:
            status = app(tokens, exit_on_error=False, print_error=False)
            sys.stdout.flush()
        except CycloptsError as error:
            return fail(usage_error(error, tokens, COMMANDS))
        except Exception as error:
            if verbose:
                logger.exception("failed")
            return report(error)
        except (Terminated, KeyboardInterrupt) as error:
            return stopped(error, as_process=argv is None)
    return status if isinstance(status, int) else 0


if __name__ == "__main__":
    sys.exit(main())
