"""Training speed: bfloat16 autocast against float32, as a ratio measured in one run.

Steps of both alternate, so that whatever else the machine does slows both down alike::

    python benchmarks/training_speed.py --threads 1
    python benchmarks/training_speed.py --device cuda --size 128 --width 64

Prints milliseconds per step and their ratio for the network and grid of the shipped SQG prior.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
import torch
import xarray as xr

from xr_daisi.devices import fast_bfloat16, resolve_device
from xr_daisi.networks import UNet, UNetConfig
from xr_daisi.state import spec_from_dataset
from xr_daisi.streaming import History
from xr_daisi.trainer import Budget, Trainer


def make_trainer(history: History, arguments: argparse.Namespace, *, autocast: bool) -> Trainer:
    """Return a trainer whose steps are those of `train_prior`."""
    torch.manual_seed(0)
    config = UNetConfig(
        channels=history.spec.channels,
        periodic=history.spec.periodic,
        width=arguments.width,
        multipliers=(1, 2, 2),
        patch=arguments.patch,
    )
    normalization = history.statistics(0, history.size).normalization("variable", (None, None))
    return Trainer(
        UNet(config),
        history,
        normalization,
        train=(0, history.size),
        valid=(history.size, history.size),
        batch_size=arguments.batch,
        budget=Budget(10**9),
        device=resolve_device(arguments.device),
        seed=0,
        roll=(),
        learning_rate=1e-4,
        warmup=0.0,
        weight_decay=1e-2,
        ema=0.999,
        clip=1.0,
        patience=None,
        autocast=autocast,
        checkpoint=None,
        progress=False,
    )


def seconds_per_step(trainer: Trainer, batch: np.ndarray) -> float:
    """Time one optimiser step; the loss is read back, so that a GPU has finished it."""
    started = time.perf_counter()
    trainer._step(batch, 0.5)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--size", type=int, default=64, help="grid points per side")
    parser.add_argument("--width", type=int, default=40)
    parser.add_argument("--patch", type=int, default=2)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=30, help="timed steps of each")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=None, help="also write the table here")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    rng = np.random.default_rng(0)
    shape = (arguments.batch, 2, arguments.size, arguments.size)
    values = rng.standard_normal(shape, dtype=np.float32)
    ds = xr.Dataset({"theta": (("time", "level", "y", "x"), values)})
    history = History(ds, spec_from_dataset(ds, periodic=("y", "x")), {})
    batch = history.read(0, arguments.batch)
    trainers = {
        "float32": make_trainer(history, arguments, autocast=False),
        "bfloat16": make_trainer(history, arguments, autocast=True),
    }
    times: dict[str, list[float]] = {name: [] for name in trainers}
    for step in range(arguments.steps + 3):
        for name, trainer in trainers.items():
            seconds = seconds_per_step(trainer, batch)
            if step >= 3:  # the first steps allocate and choose kernels
                times[name].append(seconds)
    median = {name: statistics.median(values) for name, values in times.items()}
    device = trainers["float32"].device
    lines = [
        f"device {device}, {torch.get_num_threads()} CPU threads, torch {torch.__version__}, "
        f"native bfloat16: {fast_bfloat16(device)}",
        f"{trainers['float32'].network.parameter_count:,} parameters, batch {arguments.batch}, "
        f"grid {arguments.size} x {arguments.size}, patch {arguments.patch}",
        "",
        "| arithmetic | median ms per step | fastest |",
        "| --- | --- | --- |",
        *(
            f"| {name} | {1e3 * median[name]:.0f} | {1e3 * min(times[name]):.0f} |"
            for name in trainers
        ),
        "",
        f"float32 takes {median['float32'] / median['bfloat16']:.2f} times as long as bfloat16",
    ]
    print("\n".join(lines))
    if arguments.out is not None:
        arguments.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
