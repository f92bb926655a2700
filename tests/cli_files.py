"""Files as a forecaster has them: a history, a forecast, stations; and a prior, barely trained."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from xr_daisi.cli import main

LAT = np.linspace(56.0, 50.0, 7)
LON = np.linspace(-4.0, 4.0, 9)
TIMES = pd.date_range("2019-03-24", periods=2, freq="12h")
ERROR = 0.5

#: The sampler's options that make an analysis of the tiny prior quick.
QUICK = ["--steps", "2", "--device", "cpu"]


def fields(n: int, *, seed: int) -> np.ndarray:
    """Smooth temperatures, ``(n, latitude, longitude)`` in K: a few random waves."""
    rng = np.random.default_rng(seed)
    a, b, c = rng.standard_normal((3, n, 1, 1))
    lat, lon = np.deg2rad(LAT)[:, None], np.deg2rad(LON)
    waves = a * np.sin(20 * lat) + b * np.cos(30 * lon) + c * np.sin(10 * lat + 20 * lon)
    return np.asarray(280.0 + 3.0 * waves, dtype=np.float32)


def labelled(values: np.ndarray, **leading: Any) -> xr.Dataset:
    """Fields with CF attributes."""
    attrs = {"units": "K", "standard_name": "air_temperature", "long_name": "temperature"}
    coords = {
        **leading,
        "latitude": ("latitude", LAT, {"units": "degrees_north", "standard_name": "latitude"}),
        "longitude": ("longitude", LON, {"units": "degrees_east", "standard_name": "longitude"}),
    }
    ds = xr.Dataset({"t2m": ((*leading, "latitude", "longitude"), values, attrs)}, coords=coords)
    return ds.assign_attrs(Conventions="CF-1.11", title="temperatures", history="made for a test")


def history() -> xr.Dataset:
    """60 fields, 6 hours apart."""
    return labelled(fields(60, seed=0), time=pd.date_range("2019-03-01", periods=60, freq="6h"))


def forecast(members: int = 3) -> xr.Dataset:
    """Members of two times."""
    values = fields(2 * members, seed=1).reshape(2, members, LAT.size, LON.size)
    ds = labelled(values, time=TIMES, member=np.arange(members))
    ds["member"].attrs["standard_name"] = "realization"
    return ds


def stations(*, error: bool = True, seed: int = 2, n: int = 4) -> xr.Dataset:
    """Station series at both times of the forecast."""
    rng = np.random.default_rng(seed)
    values = 280.0 + rng.standard_normal((2, n))
    data = {"t2m": (("time", "station"), values, {"units": "K"})}
    if error:
        data["t2m_error"] = (("time", "station"), np.full((2, n), ERROR), {"units": "K"})
    coords = {
        "time": TIMES,
        "latitude": ("station", rng.uniform(50.5, 55.5, n), {"units": "degrees_north"}),
        "longitude": ("station", rng.uniform(-3.5, 3.5, n), {"units": "degrees_east"}),
    }
    return xr.Dataset(data, coords=coords)


def make_files(folder: Path) -> Path:
    """Write history.nc, forecast.nc, obs.nc, and train prior.safetensors by the command."""
    history().to_netcdf(folder / "history.nc")
    forecast().to_netcdf(folder / "forecast.nc")
    stations().to_netcdf(folder / "obs.nc")
    options = ["--width", "8", "--steps", "3", "--batch-size", "4", "--device", "cpu"]
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        status = main(
            ["train", str(folder / "history.nc"), str(folder / "prior.safetensors"), *options]
        )
    assert status == 0
    (folder / "train.txt").write_text(out.getvalue())
    return folder


def everything(folder: Path) -> dict[str, bytes]:
    """Names and contents of all files in a folder, hidden ones too."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def arguments(folder: Path, out: Path | None, *more: str, prior: str | None = None) -> list[str]:
    """The command line of an analysis."""
    paths: Iterable[Path] = [folder / "forecast.nc", folder / "obs.nc", *([out] if out else [])]
    named = prior or str(folder / "prior.safetensors")
    return ["assimilate", *map(str, paths), "--prior", named, *QUICK, *more]
