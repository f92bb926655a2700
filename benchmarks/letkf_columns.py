"""How an LETKF of one large state spreads over processes: its columns are tasks.

    python benchmarks/letkf_columns.py --shape 361 720 --members 20 --observations 20000

Prints ratios of one run: time with one process over time with several, for the same graph.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import torch
import xarray as xr

import xr_daisi


def case(shape: tuple[int, int], members: int, count: int) -> tuple[xr.Dataset, xr.Dataset]:
    """Return an ensemble of smooth fields on a globe, one state in a chunk, and observations."""
    rng = np.random.default_rng(0)
    lat, lon = np.linspace(-90, 90, shape[0]), np.arange(shape[1]) * 360.0 / shape[1]
    waves = rng.standard_normal((members, 8, 2))
    angle = np.deg2rad(lat)[:, None] * np.arange(1, 9)[:, None, None] + np.deg2rad(lon)
    fields = np.einsum("mk,kyx->myx", waves[..., 0], np.sin(angle)) + np.einsum(
        "mk,kyx->myx", waves[..., 1], np.cos(angle)
    )
    ensemble = xr.Dataset(
        {"t": (("member", "latitude", "longitude"), fields.astype(np.float32))},
        coords={"latitude": lat, "longitude": lon},
    )
    places = {
        "latitude": ("obs", np.rad2deg(np.arcsin(rng.uniform(-1, 1, count)))),
        "longitude": ("obs", rng.uniform(0, 360, count)),
    }
    values = {
        "t": ("obs", rng.standard_normal(count)),
        "t_error": ("obs", np.full(count, 0.5)),
    }
    return ensemble.chunk(), xr.Dataset(values, coords=places)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", type=int, nargs=2, default=(361, 720))
    parser.add_argument("--members", type=int, default=20)
    parser.add_argument("--observations", type=int, default=20000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=3)
    a = parser.parse_args()
    torch.set_num_threads(1)
    ensemble, obs = case(tuple(a.shape), a.members, a.observations)
    lazy = xr_daisi.assimilate(
        ensemble, obs, method="letkf", localization="1500 km", progress=False
    )
    print(f"{len(lazy.t.data.dask)} tasks; {a.shape[0]} x {a.shape[1]}, {a.members} members")
    ratios = []
    for _ in range(a.repeat):
        seconds = {}
        for workers in (1, a.processes):
            start = time.perf_counter()
            lazy.compute(scheduler="processes", num_workers=workers, chunksize=1)
            seconds[workers] = time.perf_counter() - start
        ratios.append(seconds[1] / seconds[a.processes])
        print(*(f"{n} processes {s:.1f} s" for n, s in seconds.items()), f"ratio {ratios[-1]:.2f}")
    print(f"median ratio {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
