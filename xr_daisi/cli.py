"""The command ``xr-daisi``: NetCDF and Zarr files in, files out."""

from __future__ import annotations

import logging
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, CycloptsError, Parameter

from xr_daisi._version import __version__
from xr_daisi.errors import DaisiError, problem

__all__ = ["app", "main"]

logger = logging.getLogger("xr_daisi")

app = App(
    name="xr-daisi",
    help="Merge ensemble forecasts with observations, through a trained flow prior (DAISI).",
    version=__version__,
    result_action="return_value",
)

Flag = Annotated[bool, Parameter(negative="", show_default=False)]
Repeated = Annotated[tuple[str, ...], Parameter(negative="", show_default=False)]


@Parameter(name="*")
@dataclass(frozen=True)
class Sampling:
    """Settings of the sampler; what is left out is taken from the prior's card.

    Attributes
    ----------
    t_min
        Inversion time in [0, 1): near 1 keeps the forecast, 0 ignores it.
    steps
        Solver steps, each way.
    solver
        Second order, or the published first order.
    noise
        eps0 of the guided stochastic equation; 0 is the ODE.
    inverse_noise
        eps0 of the inverse stochastic equation; 0 is the ODE.
    corrector_steps
        Langevin corrections per guided step.
    guidance
        The observation term.
    guidance_solver
        Linear solver of mmps.
    guidance_iterations
        Iterations of that solver.
    strength
        Factor of the observation term.
    """

    t_min: float | None = None
    steps: int | None = None
    solver: Literal["heun", "euler"] | None = None
    noise: float | None = None
    inverse_noise: float | None = None
    corrector_steps: int | None = None
    guidance: Literal["mmps", "dps", "dps-normalized", "dps-exact", "none"] | None = None
    guidance_solver: Literal["gmres", "cg"] | None = None
    guidance_iterations: int | None = None
    strength: float | None = None


@app.command
def assimilate(
    forecast: Path,
    obs: Path,
    analysis: Path | None = None,
    /,
    *,
    prior: str | None = None,
    more_obs: Annotated[tuple[Path, ...], Parameter(negative="", show_default=False)] = (),
    obs_error: Repeated = (),
    operator: Repeated = (),
    time_tolerance: str | None = None,
    background_check: float | None = None,
    sampling: Sampling | None = None,
    feedback: Path | None = None,
    dry_run: Flag = False,
    chunks: Repeated = (),
    seed: int = 0,
    device: str = "auto",
    dtype: Literal["float32", "float64", "bfloat16"] = "float32",
    batch: int | None = None,
    overwrite: Flag = False,
    verbose: Flag = False,
) -> None:
    """Assimilate observations into an ensemble forecast.

    Parameters
    ----------
    forecast
        The ensemble, on the prior's grid (NetCDF or Zarr).
    obs
        The observations.
    analysis
        Where to write the analysis, ending in .nc or .zarr; not needed with --dry-run.
    prior
        A prior's file, URL or registered name; when left out, the registered one that fits.
    more_obs
        A further file of observations; may be repeated.
    obs_error
        Standard deviation where the observations bring none: 0.5, or t2m=0.5; may be repeated.
    operator
        Observation operator of a variable: theta=arctan; may be repeated.
    time_tolerance
        How far from a forecast time an observation may be: 30min, 2h.
    background_check
        Reject observations beyond this many standard deviations.
    feedback
        Also write the comparison of observations with forecast and analysis here.
    dry_run
        Only say what would be done.
    chunks
        Work in chunks: time=1, member=5; may be repeated. For forecasts larger than memory.
    seed
        The same seed gives the same analysis.
    device
        auto, cpu, cuda, cuda:1, ...
    dtype
        Precision of the network.
    batch
        Members pushed through the network at once.
    overwrite
        Replace existing outputs.
    verbose
        Log what happens, and show tracebacks.
    """
    from xr_daisi import analysis as functions
    from xr_daisi.feedback import feedback as compare
    from xr_daisi.files import check_output, open_file, write_file

    if not dry_run:
        if analysis is None:
            raise DaisiError(
                problem("ANALYSIS", "no output", "a path ending in .nc or .zarr", "or use --dry-run")
            )
        for path in (analysis, feedback):
            if path is not None:
                check_output(path, overwrite=overwrite)
    background = open_file(forecast, _chunks(chunks))
    datasets = [open_file(path) for path in (obs, *more_obs)]
    observed = datasets[0] if len(datasets) == 1 else datasets
    options: dict[str, Any] = {
        **asdict(sampling or Sampling()),
        "operator": _pairs("--operator", operator) or None,
        "obs_error": _errors(obs_error),
        "time_tolerance": time_tolerance,
    }
    common = {"seed": seed, "device": device, "dtype": dtype, "batch": batch or "auto"}
    result: Any = functions.assimilate(
        background,
        observed,
        prior,
        background_check=background_check,
        dry_run=dry_run,
        **options,
        **common,
    )
    if dry_run or analysis is None:
        print(result)
        return
    started = time.perf_counter()
    write_file(result, analysis, overwrite=overwrite)
    logger.info("wrote %s in %.1f s", analysis, time.perf_counter() - started)
    counts = result.attrs["daisi_observations"]
    print(f"{analysis}: analysis with prior {result.attrs['daisi_prior']}; observations: {counts}")
    if feedback is not None:
        if len(datasets) > 1:
            raise DaisiError(
                problem("--feedback", "several observation files", "one", "run it for each")
            )
        given = {k: options[k] for k in ("operator", "obs_error", "time_tolerance")}
        # The written analysis, so that a lazy one is not computed again.
        table = compare(background, observed, open_file(analysis), **given)
        write_file(table, feedback, overwrite=overwrite)
        print(f"{feedback}: observations compared with forecast and analysis")


@app.command
def train(
    history: Path,
    prior: Path,
    /,
    *,
    variables: Repeated = (),
    validation: float = 0.15,
    steps: int | None = None,
    max_minutes: float | None = None,
    batch_size: int | None = None,
    width: int | None = None,
    patch: int | None = None,
    dropout: float = 0.0,
    normalization: Literal["variable", "point", "point-mean"] = "variable",
    static: Path | None = None,
    transform: Repeated = (),
    periodic: Annotated[tuple[str, ...] | None, Parameter(negative="")] = None,
    roll: Repeated = (),
    init: str | None = None,
    checkpoint: Path | None = None,
    name: str | None = None,
    license: str | None = None,
    attribution: str | None = None,
    seed: int = 0,
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
        Optimiser steps.
    max_minutes
        Wall-clock budget.
    batch_size
        States per step.
    width
        Channels of the network, a multiple of 8.
    patch
        Grid points per side merged into one: 2 is about four times cheaper.
    dropout
        Share of features left out in training, against overfitting.
    normalization
        One mean and deviation per variable, both per grid point, or the mean only.
    static
        File of fixed fields (land mask, orography) on the same grid.
    transform
        Transform of a bounded variable: tp=log1p; may be repeated.
    periodic
        A periodic dimension; may be repeated.
    roll
        A periodic dimension along which the statistics do not change; may be repeated.
    init
        Prior to continue from.
    checkpoint
        File from which an interrupted training goes on.
    name
        Name on the card.
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
    from xr_daisi.files import open_file
    from xr_daisi.output_files import check_free
    from xr_daisi.training import train_prior

    if prior.suffix != ".safetensors":
        raise DaisiError(
            problem(str(prior), f"ending {prior.suffix!r}", ".safetensors", "rename it")
        )
    check_free(prior, overwrite=overwrite, remedy="pass --overwrite")
    trained = train_prior(
        open_file(history, {}),
        list(variables) or None,
        validation=validation,
        steps=steps,
        max_minutes=max_minutes,
        batch_size=batch_size,
        width=width,
        patch=patch,
        dropout=dropout,
        normalization=normalization,
        static=None if static is None else open_file(static),
        transform=_pairs("--transform", transform),
        periodic=periodic,
        roll=roll,
        init=init,
        checkpoint=checkpoint,
        name=name or prior.stem,
        license=license,
        attribution=attribution,
        seed=seed,
        device=device,
    )
    trained.save(prior, overwrite=overwrite)
    print(trained)
    print(f"written to {prior}")


@app.command
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
    print(load_prior(prior))


@app.command
def demo(
    *,
    out: Path = Path("xr-daisi-demo"),
    members: int = 10,
    cycles: int = 8,
    trajectory: Literal[0, 1, 2, 3] = 0,
    sampling: Sampling | None = None,
    seed: int = 0,
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
    from xr_daisi.demo import run_demo
    from xr_daisi.files import check_output, write_file
    from xr_daisi.output_files import check_free, replacing
    from xr_daisi.plotting import plot_analysis
    from xr_daisi.verification import score_table

    names = ("truth", "forecast", "obs", "analysis", "feedback")
    picture = out / "analysis.png"
    for name in names:
        check_output(out / f"{name}.nc", overwrite=overwrite)
    check_free(picture, overwrite=overwrite, remedy="pass --overwrite")
    if members < 2 or cycles < 1:
        raise DaisiError(
            problem("--members, --cycles", f"{members}, {cycles}", "at least 2 and at least 1")
        )
    started = time.perf_counter()
    given = {k: v for k, v in asdict(sampling or Sampling()).items() if v is not None}
    result = run_demo(
        members=members,
        cycles=cycles,
        trajectory=trajectory,
        seed=seed,
        device=device,
        advance=lambda text: print(text, flush=True),
        **given,
    )
    print(f"\n{cycles} analyses of {members} members, averages:")
    ensembles = {
        "no assimilation": result.free,
        "forecast": result.forecast,
        "analysis": result.analysis,
    }
    print(score_table(ensembles, result.truth, "theta"))
    for name in names:
        write_file(getattr(result, name), out / f"{name}.nc", overwrite=overwrite)
    last: dict[str, int] = {"time": -1, "level": 1}
    obs = result.obs.isel(time=-1)
    figure = plot_analysis(
        result.forecast.isel(last),
        result.analysis.isel(last),
        obs.where(obs.level == result.truth.level[1], drop=True),
        result.truth.isel(last),
        "theta",
        title="Potential temperature at the upper boundary, last cycle",
    )
    with replacing(picture, overwrite=overwrite, remedy="pass --overwrite") as temporary:
        figure.savefig(temporary, dpi=130)
    written = ", ".join([*(f"{name}.nc" for name in names), picture.name])
    print(f"\n{out}: {written} ({time.perf_counter() - started:.0f} s)")


def _pairs(option: str, entries: Sequence[str]) -> dict[str, str]:
    """Parse ``variable=value`` entries."""
    pairs = {}
    for entry in entries:
        key, equals, value = entry.partition("=")
        if not (key and equals and value):
            raise DaisiError(problem(option, repr(entry), "VARIABLE=VALUE"))
        pairs[key.strip()] = value.strip()
    return pairs


def _number(option: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise DaisiError(problem(option, repr(text), "a number")) from None


def _errors(entries: Sequence[str]) -> float | dict[str, float] | None:
    if not entries:
        return None
    if len(entries) == 1 and "=" not in entries[0]:
        return _number("--obs-error", entries[0])
    pairs = _pairs("--obs-error", entries)
    return {key: _number("--obs-error", value) for key, value in pairs.items()}


def _chunks(entries: Sequence[str]) -> dict[str, int] | None:
    if not entries:
        return None
    numbers = {key: _number("--chunks", v) for key, v in _pairs("--chunks", entries).items()}
    wrong = {key: v for key, v in numbers.items() if v < 1 or v != int(v)}
    if wrong:
        raise DaisiError(problem("--chunks", f"{wrong}", "positive whole numbers"))
    return {key: int(v) for key, v in numbers.items()}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments; those of the process when None.

    Returns
    -------
    int
        0, or 2 for bad input, which is said in one line.
    """
    tokens = list(sys.argv[1:] if argv is None else argv)
    verbose = "--verbose" in tokens
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING,
        format="%(asctime)s %(name)s: %(message)s",
        datefmt="%H:%M:%S",
    )
    with warnings.catch_warnings():
        if not verbose:
            warnings.showwarning = _show_warning
        try:
            app(tokens, exit_on_error=False, print_error=False)
        except CycloptsError as error:
            return _fail(str(error), "see xr-daisi --help")
        except (DaisiError, OSError) as error:
            if verbose:
                logger.exception("failed")
            return _fail(str(error))
        except ImportError as error:
            return _fail(f"{error}: install the extra that brings it, e.g. xr-daisi[demo]")
        except KeyboardInterrupt:
            return _fail("interrupted")
    return 0


def _fail(message: str, hint: str = "") -> int:
    line = "; ".join(part.strip().removeprefix("- ") for part in message.splitlines() if part)
    print(f"xr-daisi: error: {line}" + (f" ({hint})" if hint else ""), file=sys.stderr)
    return 2


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"xr-daisi: warning: {message}", file=sys.stderr)
