"""Train the flow prior that ships as "sqg64": simulate SQG turbulence, then `train_prior`.

The states the demo starts from, and the prior itself::

    python examples/train_sqg64.py spin-up --out xr_daisi/data/sqg64-states.npz
    python examples/train_sqg64.py simulate --out sqg-history.zarr
    python examples/train_sqg64.py train --history sqg-history.zarr --minutes 80 --out sqg64.st
    python examples/train_sqg64.py finish --prior sqg64.st --out xr_daisi/data/sqg64.safetensors

What ships went on from such a prior for another 80 minutes, on 24 new trajectories of another
``--seed`` (``simulate --trajectories 24 --days 100``; ``train --init sqg64 --learning-rate 7e-4``).
The trajectories that train (seeds from 1000) are independent of the spun-up states of the demo and
of the experiments.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
import torch
import xarray as xr

from xr_daisi.systems.sqg import SQG, to_dataset


def simulate(
    out: Path, *, trajectories: int, spin_up_days: int, days: int, hours: float, seed: int
) -> None:
    """Write ``theta(time, member, level, y, x)`` of independent trajectories to a Zarr store."""
    model = SQG()
    theta = model.advance(model.random_state(trajectories, seed=seed), 24.0 * spin_up_days)
    states = int(days * 24 / hours)
    chunk = 50
    times = np.datetime64("2000-01-01", "ns") + np.arange(states) * np.timedelta64(
        int(hours * 3600), "s"
    )
    buffer: list[np.ndarray] = []
    for index, state in enumerate(model.trajectory(theta, hours=hours, states=states)):
        buffer.append(state.numpy())
        if len(buffer) == chunk or index == states - 1:
            first = index + 1 - len(buffer)
            part = to_dataset(
                np.stack(buffer), dims=("time", "member"), times=times[first : index + 1]
            )
            part.attrs["description"] = (
                f"SQG turbulence, {trajectories} trajectories, {spin_up_days} days of spin-up"
            )
            if first == 0:
                part.chunk(time=chunk).to_zarr(out, mode="w")
            else:
                part.drop_vars(["level", "y", "x", "member"]).to_zarr(out, append_dim="time")
            buffer = []
            print(f"{index + 1}/{states} states", flush=True)


def spin_up(out: Path, *, trajectories: int, days: int) -> None:
    """Write the spun-up states that ship with the package: starts of independent trajectories."""
    model = SQG()
    states = [
        model.advance(model.random_state(seed=seed), 24.0 * days)[0].numpy()
        for seed in range(trajectories)
    ]
    np.savez_compressed(out, theta=np.stack(states), seed=np.arange(trajectories), days=days)


def with_symmetries(history: xr.Dataset) -> xr.Dataset:
    """Append the states that the symmetries of the model make equally likely, lazily.

    The equations and the equilibrium jet are unchanged by (a) swapping the boundaries and
    mirroring x, and (b) changing the sign, mirroring y and shifting it by half the domain.
    """
    swapped = history.isel(level=slice(None, None, -1), x=slice(None, None, -1))
    swapped = swapped.assign_coords(level=history.level, x=history.x)
    both = xr.concat([history, swapped], dim="member")
    n = both.sizes["y"]
    order = (n // 2 - np.arange(n)) % n
    opposite = (-both.isel(y=order)).assign_coords(y=history.y)
    opposite["theta"].attrs = both["theta"].attrs
    out = xr.concat([both, opposite], dim="member")
    return out.assign_coords(member=np.arange(out.sizes["member"]))


def train(
    history: Path,
    out: Path,
    *,
    minutes: float,
    width: int,
    checkpoint: Path | None,
    init: str | None,
    learning_rate: float,
) -> None:
    """Train and save the prior; with `init`, go on from another on a history of its own."""
    import xr_daisi

    data = with_symmetries(xr.open_zarr(history))
    trajectories = data.sizes["member"] // 4
    prior = xr_daisi.train_prior(
        data,
        ["theta"],
        validation=0.05,
        max_minutes=minutes,
        batch_size=32,
        width=width,
        multipliers=(1, 2, 2),
        patch=2,
        periodic=("y", "x"),
        roll=("x",),
        normalization="variable",
        name="sqg64",
        description=(
            "SQG turbulence, two levels, 64 x 64, states 12 h apart of "
            f"{trajectories} simulated trajectories with the symmetries of the model; trained on a "
            f"CPU{'' if init is None else ', from a prior of other trajectories'}"
        ),
        license="BSD-3-Clause",
        attribution="simulated by xr_daisi.systems.sqg (Tulloch and Smith 2009; Held et al. 1995)",
        checkpoint=checkpoint,
        init=init,
        learning_rate=learning_rate,
    )
    prior.save(out, overwrite=True)


def finish(prior: Path, out: Path) -> None:
    """Save the prior with the settings that it recommends: nothing has to be chosen."""
    import xr_daisi

    trained = xr_daisi.load_prior(prior)
    trained.with_settings(t_min="auto", steps=10, solver="adams", guidance_iterations=1).save(
        out, overwrite=True
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("simulate")
    one.add_argument("--out", type=Path, required=True)
    one.add_argument("--trajectories", type=int, default=16)
    one.add_argument("--spin-up-days", type=int, default=100)
    one.add_argument("--days", type=int, default=200)
    one.add_argument("--hours", type=float, default=12.0)
    one.add_argument("--seed", type=int, default=1000)
    three = commands.add_parser("spin-up")
    three.add_argument("--out", type=Path, required=True)
    three.add_argument("--trajectories", type=int, default=4)
    three.add_argument("--days", type=int, default=300)
    two = commands.add_parser("train")
    two.add_argument("--history", type=Path, required=True)
    two.add_argument("--out", type=Path, required=True)
    two.add_argument("--minutes", type=float, default=90.0)
    two.add_argument("--width", type=int, default=40)
    two.add_argument("--checkpoint", type=Path)
    two.add_argument("--learning-rate", type=float, default=1e-3)
    two.add_argument("--init", help="prior to start from: a file, or a registered name")
    four = commands.add_parser("finish")
    four.add_argument("--prior", type=Path, required=True)
    four.add_argument("--out", type=Path, required=True)
    arguments = vars(parser.parse_args())
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", str(os.cpu_count() or 1))))
    run = {"simulate": simulate, "train": train, "spin-up": spin_up, "finish": finish}
    run[arguments.pop("command")](**arguments)


if __name__ == "__main__":
    main()
