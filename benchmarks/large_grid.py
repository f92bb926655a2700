"""How much memory and time an analysis on a large grid takes, in tiles.

    python benchmarks/large_grid.py --size 721 1440 --tile 256

A globe at a quarter of a degree is analysed by a small U-Net with random weights: they do not
matter for time and memory. Prints the time and the largest memory of the process so far.
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np
import torch
import xarray as xr

import xr_daisi
from xr_daisi.networks import UNet, UNetConfig
from xr_daisi.priors import FlowPrior
from xr_daisi.state import Normalization, spec_from_dataset


def globe(rows: int, columns: int) -> xr.Dataset:
    """Smooth temperatures in K, one member."""
    latitude = np.linspace(90.0, -90.0, rows)
    longitude = np.arange(columns) * (360.0 / columns)
    waves = np.cos(np.deg2rad(6 * longitude)) * np.cos(np.deg2rad(latitude))[:, None] ** 2
    values = 250.0 + 40.0 * np.cos(np.deg2rad(latitude))[:, None] + 5.0 * waves
    return xr.Dataset(
        {"t2m": (("member", "latitude", "longitude"), values[None].astype(np.float32))},
        coords={
            "latitude": ("latitude", latitude, {"units": "degrees_north"}),
            "longitude": ("longitude", longitude, {"units": "degrees_east"}),
        },
    )


def stations(n: int) -> xr.Dataset:
    """Observations all over the globe."""
    rng = np.random.default_rng(0)
    latitude = np.rad2deg(np.arcsin(rng.uniform(-1.0, 1.0, n)))
    longitude = rng.uniform(0.0, 360.0, n)
    values = 250.0 + 40.0 * np.cos(np.deg2rad(latitude)) + 3.0 * rng.standard_normal(n)
    return xr.Dataset(
        {"t2m": ("station", values), "t2m_error": ("station", np.full(n, 1.0))},
        coords={"latitude": ("station", latitude), "longitude": ("station", longitude)},
    )


def small_prior(template: xr.Dataset, width: int, patch: int) -> FlowPrior:
    """A U-Net whose last layer is not zero, as it would be before training."""
    torch.manual_seed(0)
    spec = spec_from_dataset(template)
    network = UNet(UNetConfig(1, periodic=spec.periodic, width=width, patch=patch))
    torch.nn.init.normal_(network.leave.conv.weight, std=1e-2)
    network = network.eval().requires_grad_(False)
    statistics = np.full((1, 1, 1), 280.0), np.full((1, 1, 1), 20.0)
    return FlowPrior(network, spec, Normalization(*statistics), card={"name": "random"})


def peak() -> float:
    """Largest memory of the process so far, GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, nargs=2, default=(721, 1440))
    parser.add_argument("--tile", type=int, default=256)
    parser.add_argument("--overlap", type=int, default=None)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--patch", type=int, default=1)
    parser.add_argument("--stations", type=int, default=2000)
    arguments = parser.parse_args()
    forecast = globe(*arguments.size)
    prior = small_prior(forecast, arguments.width, arguments.patch)
    print(f"{prior.parameter_count:,} parameters, {peak():.2f} GB before the analysis")
    started = time.perf_counter()
    analysis = xr_daisi.assimilate(
        forecast,
        stations(arguments.stations),
        prior,
        tile=arguments.tile or None,
        overlap=arguments.overlap,
        steps=arguments.steps,
        t_min=0.2,
        device="cpu",
        progress=False,
    )
    seconds = time.perf_counter() - started
    change = float(np.abs(analysis.t2m - forecast.t2m).mean())
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {analysis.daisi_settings}"
    )
    print(f"grid {arguments.size}: {seconds:.0f} s, peak {peak():.2f} GB, change {change:.3g} K")


if __name__ == "__main__":
    main()
