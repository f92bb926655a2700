"""Run the published experiments, resumably::

    python -m examples.experiments.run sqg --experiment sparse --methods daisi,letkf --out sparse
    python -m examples.experiments.run lorenz63 --experiment abs --methods daisi,ensf --out l63
    python -m examples.experiments.run era5 --data era5-2mt-2019-03-uk.nc --out era5

Each writes `scores.csv` (a row as each cycle ends), `scores.png` and `summary.md` into its folder.
Called again with the same options it goes on where it stopped; other options are refused.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch

import xr_daisi

from .score_file import summarise


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    top = argparse.ArgumentParser(
        prog="python -m examples.experiments.run",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    systems = top.add_subparsers(dest="system", required=True)

    def add(name: str, text: str, **defaults: Any) -> argparse.ArgumentParser:
        one = systems.add_parser(name, help=text, description=text)
        one.add_argument(
            "--methods", default=defaults["methods"], help="with commas; %(default)s by default"
        )
        one.add_argument("--out", type=Path, default=Path(name), help="folder; %(default)s")
        one.add_argument(
            "--seed",
            type=int,
            default=defaults.get("seed", 0),
            help="of everything random; %(default)s",
        )
        one.add_argument("--steps", type=int, help="solver steps each way")
        one.add_argument("--prior", help="file or registered name of another prior")
        one.add_argument("--device", default="auto", help="for the network; %(default)s")
        one.add_argument(
            "--set",
            action="append",
            default=[],
            metavar="NAME=VALUE",
            help="a keyword of assimilate for all methods, as JSON; repeatable",
        )
        return one

    def add_cycles(one: argparse.ArgumentParser, members: int, cycles: int) -> None:
        one.add_argument("--members", type=int, default=members, help="%(default)s")
        one.add_argument("--cycles", type=int, default=cycles, help="%(default)s")

    sqg = add("sqg", "SQG turbulence: noisy, sparse, saturating, multimodal", methods="daisi")
    add_cycles(sqg, members=20, cycles=40)
    sqg.add_argument(
        "--experiment", default="sparse", help="with commas, or all; %(default)s by default"
    )
    sqg.add_argument("--trajectory", type=int, default=0, help="of the truth, 0 to 3; %(default)s")
    sqg.add_argument(
        "--initial",
        choices=("published", "noise", "prior"),
        default="published",
        help="white noise on the truth, run through the prior for methods with one, none, or all",
    )
    lorenz = add(
        "lorenz63", "Lorenz '63 against a particle filter: x, abs, square, arctan", methods="daisi"
    )
    add_cycles(lorenz, members=20, cycles=100)
    lorenz.add_argument(
        "--experiment", default="x", help="with commas, or all; %(default)s by default"
    )
    lorenz.add_argument(
        "--particles", type=int, default=100_000, help="of the reference; %(default)s"
    )
    lorenz.add_argument(
        "--training-steps", type=int, default=8000, help="of the prior; %(default)s"
    )
    era5 = add(
        "era5",
        "ERA5 2 m temperature over the British Isles",
        methods="background,daisi,letkf,prior-only",
        seed=1,
    )
    add_cycles(era5, members=10, cycles=16)
    era5.add_argument("--data", type=Path, help="NetCDF or GRIB file; fetched when left out")
    era5.add_argument("--training-steps", type=int, default=4000, help="of the prior; %(default)s")
    return top


def settings(pairs: list[str]) -> dict[str, Any]:
    """Return keywords of ``NAME=VALUE``; values that are no JSON are text."""
    out: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not (equals and name.strip()):
            raise ValueError(f"--set: found {pair!r}, expected NAME=VALUE")
        try:
            out[name.strip()] = json.loads(value)
        except json.JSONDecodeError:
            out[name.strip()] = value
    return out


def names(text: str) -> list[str]:
    """Split names at commas."""
    return [part.strip() for part in text.split(",") if part.strip()]


def run(arguments: argparse.Namespace) -> list[str]:
    """Run what the command line says; returns what is to be said of runs that diverged."""
    prior = None if arguments.prior is None else xr_daisi.load_prior(arguments.prior)
    common: dict[str, Any] = {
        "steps": arguments.steps,
        "seed": arguments.seed,
        "prior": prior,
        "device": arguments.device,
        "overrides": settings(arguments.set),
        "tell": lambda text: print(text, flush=True),
    }
    methods = names(arguments.methods)
    if arguments.system == "sqg":
        from .sqg import EXPERIMENTS, run_sqg

        chosen = list(EXPERIMENTS) if arguments.experiment == "all" else names(arguments.experiment)
        scores = run_sqg(
            chosen,
            methods,
            arguments.out,
            members=arguments.members,
            cycles=arguments.cycles,
            trajectory=arguments.trajectory,
            initial=arguments.initial,
            **common,
        )
        print(summarise(scores.frame(), arguments.out, experiments=chosen))
    elif arguments.system == "lorenz63":
        from .lorenz63 import EXPERIMENTS as LORENZ
        from .lorenz63 import run_lorenz63, summarise_distances

        chosen = list(LORENZ) if arguments.experiment == "all" else names(arguments.experiment)
        scores = run_lorenz63(
            chosen,
            methods,
            arguments.out,
            members=arguments.members,
            cycles=arguments.cycles,
            particles=arguments.particles,
            training_steps=arguments.training_steps,
            **common,
        )
        labels = [f"lorenz63-{name}" for name in chosen]
        print(summarise(scores.frame(), arguments.out, units="", experiments=labels))
        print(summarise_distances(arguments.out))
    else:
        from .era5 import run_era5

        scores = run_era5(
            methods,
            arguments.out,
            data=arguments.data,
            members=arguments.members,
            cycles=arguments.cycles,
            training_steps=arguments.training_steps,
            **common,
        )
        print(summarise(scores.frame(), arguments.out, experiments=["era5"]))
    return scores.failed


def main(argv: list[str] | None = None) -> int:
    """Run; returns the exit status."""
    arguments = parser().parse_args(argv)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", str(os.cpu_count() or 1))))
    try:
        failed = run(arguments)
    except (ValueError, FileNotFoundError, FileExistsError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for line in failed:
        print(f"error: {line}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
