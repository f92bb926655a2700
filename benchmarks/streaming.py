"""How much memory an ensemble larger than memory takes on its way through `assimilate`.

    python benchmarks/streaming.py --gigabytes 20

Writes an ensemble of that size to a Zarr store (constant fields, so that it takes little room on
disk), analyses it from there to another store, and prints the peak of resident memory. The prior is
a Gaussian in closed form with two steps: streaming is what is looked at, not the network.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from pathlib import Path

import dask
import dask.array
import numpy as np
import torch
import xarray as xr

import xr_daisi

MEMBERS, CHUNK = 20, 4


def velocity(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """Exact for the prior N(0, 1)."""
    s = float(t[0])
    return (2 * s - 1) / (s**2 + (1 - s) ** 2) * x


def ensemble(gigabytes: float, rows: int) -> xr.Dataset:
    """A lazy ensemble of constant float32 fields of about that size, on a global grid."""
    columns = 2 * (rows - 1)
    times = max(1, round(gigabytes * 1e9 / (4 * MEMBERS * rows * columns)))
    coords = {
        "time": np.datetime64("2019-01-01", "ns") + np.arange(times) * np.timedelta64(6, "h"),
        "member": np.arange(MEMBERS),
        "latitude": ("latitude", np.linspace(90, -90, rows), {"units": "degrees_north"}),
        "longitude": ("longitude", np.arange(columns) * 360 / columns, {"units": "degrees_east"}),
    }
    grid = (rows, columns)
    values = dask.array.full(
        (times, MEMBERS, *grid), 280.0, chunks=(1, CHUNK, *grid), dtype=np.float32
    )
    t2m = (tuple(coords), values, {"units": "K", "standard_name": "air_temperature"})
    return xr.Dataset({"t2m": t2m}, coords=coords)


def stations(times: xr.DataArray, n: int = 500) -> xr.Dataset:
    """As many stations at every time."""
    rng = np.random.default_rng(0)
    values = 282 + rng.standard_normal((times.size, n))
    return xr.Dataset(
        {"t2m": (("time", "station"), values, {"units": "K"})},
        coords={
            "time": times.values,
            "latitude": ("station", rng.uniform(-80, 80, n)),
            "longitude": ("station", rng.uniform(0, 359, n)),
        },
    )


def peak_bytes() -> int:
    """Peak resident memory of this process so far."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def measure(
    gigabytes: float, *, rows: int = 721, threads: int = 2, folder: str | None = None
) -> dict[str, float]:
    """Analyse an ensemble from one store to another.

    Parameters
    ----------
    gigabytes : float
        Size of the ensemble, uncompressed.
    rows : int
        Latitudes of the grid; 721 are a quarter of a degree.
    threads : int
        Of dask.
    folder : str, optional
        Where the stores go for the time being.

    Returns
    -------
    dict
        Sizes in bytes, seconds.
    """
    with (
        tempfile.TemporaryDirectory(dir=folder) as name,
        dask.config.set(scheduler="threads", num_workers=threads),
    ):
        source, target = Path(name) / "forecast.zarr", Path(name) / "analysis.zarr"
        ensemble(gigabytes, rows).to_zarr(source, consolidated=False)
        peak_before, started = peak_bytes(), time.perf_counter()
        with xr.open_zarr(source, consolidated=False) as forecast:
            prior = xr_daisi.FlowPrior.from_velocity(
                velocity,
                forecast.isel(time=0, member=0, drop=True),
                mean=280.0,
                std=5.0,
                periodic=["longitude"],
            )
            analysis = forecast.daisi.assimilate(
                stations(forecast.time),
                prior,
                obs_error=0.5,
                steps=2,
                t_min=0.2,  # members in chunks: a bridge would hold all of a time
                solver="euler",
                guidance_iterations=1,
                noise=0.0,
                inverse_noise=0.0,
                device="cpu",
            )
            analysis.to_zarr(target, consolidated=False)
            size = float(forecast.nbytes)
        return {
            "dataset_bytes": size,
            "peak_bytes": float(peak_bytes()),
            "peak_bytes_before": float(peak_before),
            "seconds": time.perf_counter() - started,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=20.0)
    parser.add_argument("--rows", type=int, default=721, help="latitudes of the grid")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", help="where the stores go; the system's temporary folder")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    found = measure(
        arguments.gigabytes,
        rows=arguments.rows,
        threads=arguments.threads,
        folder=arguments.folder,
    )
    print(
        f"dataset {found['dataset_bytes'] / 1e9:.2f} GB, "
        f"peak resident memory {found['peak_bytes'] / 1e9:.2f} GB "
        f"({found['peak_bytes_before'] / 1e9:.2f} GB before), {found['seconds']:.0f} s "
        f"on {arguments.threads} threads"
    )
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
