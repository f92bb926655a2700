"""Peak memory against the size of the ensemble: eager, and lazily in chunks.

    python benchmarks/memory.py --members 10 40 160

Each size runs in a process of its own. The prior is a small U-Net with random weights.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np


def peak() -> float:
    """Largest memory of this process so far, MB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def analyse(members: int, lazy: bool) -> None:
    """Analyse an ensemble on 128 x 128 points and print what it took beyond the imports."""
    import dask
    import dask.array as da
    import torch
    import xarray as xr

    import xr_daisi
    from xr_daisi.networks import UNet, UNetConfig
    from xr_daisi.priors import FlowPrior
    from xr_daisi.state import Normalization, spec_from_dataset

    torch.manual_seed(0)
    n, one = 128, np.ones((1, 1, 1))
    axes = {"y": np.arange(float(n)), "x": np.arange(float(n))}
    shape = (members, n, n)
    values = da.random.default_rng(0).normal(size=shape, chunks=(4, n, n)).astype(np.float32)
    forecast = xr.Dataset({"theta": (("member", "y", "x"), values)}, coords=axes)
    if not lazy:
        forecast = forecast.compute()
    template = forecast.isel(member=0, drop=True)
    network = UNet(UNetConfig(1, width=16, multipliers=(1, 2), patch=2))
    prior = FlowPrior(network, spec_from_dataset(template), Normalization(0 * one, one))
    obs = xr.Dataset(
        {"theta": ("point", np.zeros(50))},
        coords={d: ("point", np.linspace(1, n - 2, 50)) for d in axes},
    )
    analysis = xr_daisi.assimilate(
        forecast,
        obs,
        prior,
        obs_error=0.5,
        steps=2,
        t_min=0.2,
        device="cpu",
        batch=4,
        progress=False,
    )
    with dask.config.set(scheduler="threads", num_workers=1):
        # chunk by chunk, as it would go to a file
        total = float((analysis.theta**2).mean())
    print(f"{peak():.0f} {total:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--members", type=int, nargs="+", default=[10, 40, 160, 640])
    parser.add_argument("--one", choices=("eager", "lazy"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        analyse(options.members[0], options.one == "lazy")
        return
    print("| members | ensemble (MB) | peak, eager (MB) | peak, lazy (MB) |")
    print("| --- | --- | --- | --- |")
    for members in options.members:
        peaks = []
        for kind in ("eager", "lazy"):
            command = [sys.executable, str(Path(__file__)), "--members", str(members)]
            done = subprocess.run(
                [*command, "--one", kind], capture_output=True, text=True, check=True
            )
            peaks.append(done.stdout.split()[0])
        print(f"| {members} | {members * 128 * 128 * 4 / 1e6:.1f} | {peaks[0]} | {peaks[1]} |")


if __name__ == "__main__":
    main()
