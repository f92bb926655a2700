"""Labelled forecasts, observations and Gaussian priors on a tiny grid."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import xarray as xr
from closed_form import GaussianVelocity

from xr_daisi import FlowPrior

LAT = np.linspace(54.0, 50.0, 5)
LON = np.linspace(-3.0, 2.0, 6)
TIMES = np.array(["2019-03-01T00", "2019-03-01T06", "2019-03-01T12"], dtype="datetime64[ns]")
LEVELS = [850.0, 500.0]
MEAN, STD = 280.0, 5.0

#: Few steps of a second-order solver in double precision: quick, and exact to rounding.
QUICK: dict[str, Any] = {"steps": 4, "dtype": "float64", "device": "cpu", "progress": False}


def covariance(*sizes: int, length: float = 1.5) -> torch.Tensor:
    """Gaussian correlations over the product of axes with unit steps, float64."""
    total = torch.ones(1, 1, dtype=torch.float64)
    for size in sizes:
        i = torch.arange(size, dtype=torch.float64)
        along = torch.exp(-0.5 * ((i[:, None] - i) / length) ** 2) + 0.05 * torch.eye(size)
        total = torch.kron(total, along / 1.05)
    return total


def template(levels: bool = False, *, name: str = "t2m", **attrs: Any) -> xr.Dataset:
    """One state: air temperature in kelvin, on levels where wanted."""
    attrs = {"units": "K", "standard_name": "air_temperature", "long_name": "temperature", **attrs}
    coords: dict[str, Any] = {
        "latitude": ("latitude", LAT, {"units": "degrees_north"}),
        "longitude": ("longitude", LON, {"units": "degrees_east"}),
    }
    dims: tuple[str, ...] = ("latitude", "longitude")
    shape: tuple[int, ...] = (LAT.size, LON.size)
    if levels:
        coords["level"] = ("level", LEVELS, {"units": "hPa"})
        dims, shape = ("level", *dims), (len(LEVELS), *shape)
    return xr.Dataset({name: (dims, np.zeros(shape), attrs)}, coords=coords)


def gaussian_prior(levels: bool = False, **settings: Any) -> FlowPrior:
    """N(MEAN, STD^2 C) on the template, its network counting its calls."""
    sizes = (*([len(LEVELS)] if levels else []), LAT.size, LON.size)
    c = covariance(*sizes)
    velocity = GaussianVelocity(torch.zeros(len(c), dtype=torch.float64), c)
    prior = FlowPrior.from_velocity(velocity, template(levels), mean=MEAN, std=STD)
    return prior.with_settings(**settings) if settings else prior


def forecast(
    levels: bool = False, *, members: int = 4, times: Any = TIMES, seed: int = 0, dtype: Any = float
) -> xr.Dataset:
    """Members drawn from the prior, ``(time, member, [level,] latitude, longitude)``."""
    one = template(levels)
    c = covariance(*one["t2m"].shape)
    root = torch.linalg.cholesky(c).numpy()
    rng = np.random.default_rng(seed)
    times = np.asarray(times)
    noise = rng.standard_normal((times.size, members, len(c)))
    values = (MEAN + STD * noise @ root.T).reshape(times.size, members, *one["t2m"].shape)
    da = one["t2m"].expand_dims(time=times, member=np.arange(members)).copy(data=values)
    return da.astype(dtype).to_dataset().assign_attrs(title="a forecast", history="made here")


def stations(times: Any = TIMES, n: int = 4, *, seed: int = 1, error: float = 0.5) -> xr.Dataset:
    """Station series between the grid nodes."""
    rng = np.random.default_rng(seed)
    times = np.asarray(times)
    coords = {
        "time": times,
        "latitude": ("station", rng.uniform(LAT.min(), LAT.max(), n)),
        "longitude": ("station", rng.uniform(LON.min(), LON.max(), n)),
    }
    values = MEAN + STD * rng.standard_normal((times.size, n))
    data = {
        "t2m": (("time", "station"), values, {"units": "K"}),
        "t2m_error": (("time", "station"), np.full(values.shape, error), {"units": "K"}),
    }
    return xr.Dataset(data, coords=coords)


def in_celsius(ds: xr.Dataset) -> xr.Dataset:
    """The same temperatures in degC."""
    celsius = ds.copy(deep=True)
    celsius["t2m"] = celsius.t2m.copy(data=ds.t2m.data - 273.15).assign_attrs(units="degC")
    return celsius


def unchanged(ds: xr.Dataset, before: xr.Dataset) -> None:
    """Everything of a Dataset, encodings included, is as it was in a deep copy."""
    xr.testing.assert_identical(ds, before)
    for name in before.variables:
        assert ds[name].encoding == before[name].encoding
        assert ds[name].dtype == before[name].dtype
        assert ds[name].dims == before[name].dims
