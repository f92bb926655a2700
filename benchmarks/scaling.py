"""How an analysis scales: two worker processes over one, and what dask costs.

    python benchmarks/scaling.py

Prints the speed-up of two worker processes of a `LocalCluster` over one, and the time of a lazy
analysis in tasks of about a second over that of the same work without dask. Both are ratios of
medians of interleaved repeats, with one thread of torch.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import dask
import numpy as np
import torch
import xarray as xr

import xr_daisi
from xr_daisi.networks import UNet, UNetConfig
from xr_daisi.priors import FlowPrior
from xr_daisi.state import Normalization, spec_from_dataset

SIDE = 64


def template() -> xr.Dataset:
    coords = {"y": np.arange(float(SIDE)), "x": np.arange(float(SIDE))}
    return xr.Dataset({"theta": (("y", "x"), np.zeros((SIDE, SIDE)))}, coords=coords)


def network_prior() -> FlowPrior:
    """About a million parameters; their values do not matter for the speed."""
    torch.manual_seed(0)
    network = UNet(UNetConfig(1, width=40, multipliers=(1, 2, 2), patch=2))
    one = np.ones((1, 1, 1))
    return FlowPrior(
        network.eval().requires_grad_(False),
        spec_from_dataset(template()),
        Normalization(0 * one, one, holes=np.zeros((1, SIDE, SIDE), dtype=bool)),
    )


def ensemble(members: int) -> xr.Dataset:
    rng = np.random.default_rng(0)
    values = rng.standard_normal((members, SIDE, SIDE)).astype(np.float32)
    return xr.Dataset({"theta": (("member", "y", "x"), values)}, coords=template().coords)


def observations(n: int = 100) -> xr.Dataset:
    rng = np.random.default_rng(1)
    places = {d: ("point", rng.uniform(0, SIDE - 1, n)) for d in ("y", "x")}
    return xr.Dataset({"theta": ("point", rng.standard_normal(n))}, coords=places)


def analyse(forecast: xr.Dataset, prior: FlowPrior, steps: int) -> xr.Dataset:
    return xr_daisi.assimilate(
        forecast,
        observations(),
        prior,
        obs_error=0.5,
        steps=steps,
        t_min=0.2,
        batch=1,
        progress=False,
    )


def seconds(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def steps_of_a_task(prior: FlowPrior, task_seconds: float) -> int:
    """Solver steps with which the analysis of one member takes about so long."""
    one = ensemble(1)
    analyse(one, prior, 2)
    each = seconds(lambda: analyse(one, prior, 4)) / 4
    return max(2, round(task_seconds / each))


def _analyse_members(members: int, steps: int) -> None:
    torch.set_num_threads(1)
    analyse(ensemble(members), network_prior(), steps)


def measure_workers(
    *, tasks: int = 20, task_seconds: float = 1.0, repeats: int = 3
) -> dict[str, float]:
    """Time the same lazy analysis with one and with two worker processes.

    Returns
    -------
    dict
        Median seconds of each, and ``speed_up``; ``bare_speed_up`` is that of as many processes
        without dask that analyse as many members: what the machine has to give.
    """
    from distributed import Client, LocalCluster

    prior = network_prior()
    steps = steps_of_a_task(prior, task_seconds)
    options = {"threads_per_worker": 1, "dashboard_address": None}
    small = analyse(ensemble(4).chunk(member=1), prior, 2)
    found: dict[int, list[float]] = {1: [], 2: []}
    bare: dict[int, list[float]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "forecast.zarr"  # as a cluster has it: each worker reads its members
        ensemble(tasks).chunk(member=1).to_zarr(store)
        lazy = analyse(xr.open_zarr(store), prior, steps)
        for _ in range(repeats):
            for workers, seen in found.items():
                # One cluster at a time: on few cores, an idle one takes its share of them.
                with (
                    LocalCluster(n_workers=workers, **options) as cluster,
                    Client(cluster, set_as_default=False) as client,
                ):
                    client.compute(small, sync=True)  # pays for imports
                    seen.append(seconds(lambda: client.compute(lazy, sync=True)))
            for workers, seen in bare.items():
                with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
                    list(pool.map(_analyse_members, [1] * workers, [2] * workers))
                    each = [tasks // workers] * workers, [steps] * workers
                    seen.append(seconds(lambda: list(pool.map(_analyse_members, *each))))  # noqa: B023
    medians = {workers: float(np.median(values)) for workers, values in found.items()}
    return {
        "one_worker_seconds": medians[1],
        "two_workers_seconds": medians[2],
        "speed_up": medians[1] / medians[2],
        "bare_speed_up": float(np.median(bare[1]) / np.median(bare[2])),
        "tasks": float(tasks),
    }


def measure_overhead(
    *, tasks: int = 4, task_seconds: float = 1.0, repeats: int = 5
) -> dict[str, float]:
    """Time a lazy analysis, one task after the other, and the same work without dask.

    Returns
    -------
    dict
        Median seconds of each, and ``overhead_percent``.
    """
    prior = network_prior()
    steps = steps_of_a_task(prior, task_seconds)
    forecast = ensemble(tasks)
    eager: list[float] = []
    lazy: list[float] = []
    for _ in range(repeats):
        eager.append(seconds(lambda: analyse(forecast, prior, steps)))
        with dask.config.set(scheduler="threads", num_workers=1):
            chunked = forecast.chunk(member=1)
            lazy.append(seconds(lambda: analyse(chunked, prior, steps).compute()))  # noqa: B023
    ratio = float(np.median(np.array(lazy) / np.array(eager)))
    return {
        "eager_seconds": float(np.median(eager)),
        "lazy_seconds": float(np.median(lazy)),
        "task_seconds": float(np.median(eager)) / tasks,
        "overhead_percent": 100 * (ratio - 1),
    }


def measure(
    *, task_seconds: float = 1.0, tasks: int = 20, repeats: int = 3
) -> dict[str, dict[str, float]]:
    """Measure both."""
    torch.set_num_threads(1)
    return {
        "workers": measure_workers(tasks=tasks, task_seconds=task_seconds, repeats=repeats),
        "overhead": measure_overhead(task_seconds=task_seconds, repeats=repeats),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=20)
    parser.add_argument("--task-seconds", type=float, default=1.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    found = measure(
        task_seconds=arguments.task_seconds, tasks=arguments.tasks, repeats=arguments.repeats
    )
    for part, values in found.items():
        for name, value in values.items():
            print(f"{part:<10}{name:<22}{value:10.3f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
