"""What must not matter, does not: order, dimensions, chunks, conventions; by hypothesis."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import xarray as xr
from hypothesis import HealthCheck, given, settings
from labelled import LAT, LON, MEAN, QUICK, STD, TIMES, forecast, gaussian_prior

from xr_daisi import assimilate, feedback
from xr_daisi.formats import convert_observations

PRIOR = gaussian_prior()
FORECAST = forecast(members=3)
KEYWORDS: dict[str, Any] = {**QUICK, "steps": 2}

few = settings(
    max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)


@st.composite
def observations(draw: st.DrawFn) -> xr.Dataset:
    """Points of all kinds: on nodes and between, some missing, flagged, outside, repeated."""
    n = draw(st.integers(2, 12))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    latitude = rng.uniform(LAT.min() - 0.3, LAT.max() + 0.3, n)
    longitude = rng.uniform(LON.min() - 0.3, LON.max() + 0.3, n)
    on_node = rng.random(n) < 0.3
    latitude[on_node] = rng.choice(LAT, on_node.sum())
    longitude[on_node] = rng.choice(LON, on_node.sum())
    values = MEAN + STD * rng.standard_normal(n)
    values[rng.random(n) < 0.15] = np.nan
    spread = rng.integers(-2, 15, n).astype("timedelta64[h]")
    obs = xr.Dataset(
        {
            "t2m": ("obs", values, {"units": "K"}),
            "t2m_error": ("obs", rng.uniform(0.3, 2.0, n)),
            "t2m_quality": (
                "obs",
                (rng.random(n) < 0.15).astype(np.int8),
                {"flag_values": [0, 1], "flag_meanings": "good bad"},
            ),
        },
        coords={
            "latitude": ("obs", latitude),
            "longitude": ("obs", longitude),
            "time": ("obs", TIMES[0] + spread),
            "station": ("obs", rng.integers(0, 4, n)),
        },
    )
    return obs


def analysis(ds: xr.Dataset, obs: Any, **options: Any) -> xr.Dataset:
    found = assimilate(ds, obs, PRIOR, **KEYWORDS, **options)
    return found.compute().drop_attrs()


def same(found: xr.Dataset, expected: xr.Dataset) -> None:
    np.testing.assert_allclose(found.t2m, expected.t2m, rtol=1e-9)


OPTIONS = st.sampled_from(
    [
        {},
        {"thin": "80 km"},
        {"error_correlation": {"t2m": "60 km"}},
        {"time_interpolation": "linear"},
        {"footprint": {"t2m": "40 km"}},
        {"interpolation": "nearest"},
        {"background_check": 3.0},
    ]
)
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@few
@given(observations(), st.randoms(use_true_random=False), OPTIONS)
def test_order_of_observations(obs: xr.Dataset, random: Any, options: dict[str, Any]) -> None:
    order = list(range(obs.sizes["obs"]))
    random.shuffle(order)
    shuffled = obs.isel(obs=order)
    one, other = analysis(FORECAST, obs, **options), analysis(FORECAST, shuffled, **options)
    same(other, one)
    tables = [
        feedback(FORECAST, o, assimilate(FORECAST, o, PRIOR, **KEYWORDS, **options))
        for o in (obs, shuffled)
    ]
    np.testing.assert_array_equal(tables[1].t2m_status.values, tables[0].t2m_status.values[order])


@few
@given(observations(), OPTIONS)
def test_split_into_datasets(obs: xr.Dataset, options: dict[str, Any]) -> None:
    if "thin" in options or "error_correlation" in options:
        options = {}  # Datasets are averaged, and correlated, each by itself
    half = obs.sizes["obs"] // 2
    parts = [obs.isel(obs=slice(half, None)), obs.isel(obs=slice(None, half))]
    same(analysis(FORECAST, parts, **options), analysis(FORECAST, obs, **options))


@few
@given(
    observations(),
    st.permutations(["time", "member", "latitude", "longitude"]),
    st.booleans(),
    st.booleans(),
    OPTIONS,
)
def test_dimensions_and_directions_of_the_forecast(
    obs: xr.Dataset, dims: list[str], north: bool, east: bool, options: dict[str, Any]
) -> None:
    turned = FORECAST.isel(
        latitude=slice(None, None, -1 if north else 1),
        longitude=slice(None, None, -1 if east else 1),
    ).transpose(*dims)
    found = analysis(turned, obs, **options)
    back = found.transpose(*FORECAST.t2m.dims).sel(
        latitude=FORECAST.latitude, longitude=FORECAST.longitude
    )
    same(back, analysis(FORECAST, obs, **options))


@few
@given(observations(), st.sampled_from([-360.0, 360.0, 720.0]), st.booleans(), OPTIONS)
def test_longitude_convention(
    obs: xr.Dataset, turn: float, both: bool, options: dict[str, Any]
) -> None:
    moved = obs.assign_coords(longitude=obs.longitude + turn)
    ds = FORECAST.assign_coords(longitude=FORECAST.longitude % 360) if both else FORECAST
    found = analysis(ds, moved, **options)
    same(found, analysis(FORECAST, obs, **options))


@few
@given(
    observations(),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 12),
    OPTIONS,
)
def test_chunks(
    obs: xr.Dataset, members: int, times: int, points: int, options: dict[str, Any]
) -> None:
    lazy = assimilate(
        FORECAST.chunk(member=members, time=times),
        obs.chunk(obs=points),
        PRIOR,
        **KEYWORDS,
        **options,
    )
    assert lazy.chunks
    same(lazy.compute(), analysis(FORECAST, obs, **options))


@few
@given(observations(), st.sampled_from(["degC", "degF", "mK"]))
def test_units(obs: xr.Dataset, units: str) -> None:
    factor, offset = {"degC": (1, -273.15), "degF": (1.8, -459.67), "mK": (1000, 0)}[units]
    other = obs.assign(
        t2m=(obs.t2m * factor + offset).assign_attrs(units=units),
        t2m_error=(obs.t2m_error * factor).assign_attrs(units="mK" if units == "mK" else units),
    )
    if units != "mK":
        other.t2m_error.attrs["units"] = {"degC": "K", "degF": "delta_degF"}[units]
        if units == "degF":
            del other.t2m_error.attrs["units"]
    np.testing.assert_allclose(
        analysis(FORECAST, other).t2m, analysis(FORECAST, obs).t2m, rtol=1e-8
    )


@few
@given(observations(), st.sampled_from(["point", "contiguous", "indexed", "ioda", "ioda-v1"]))
def test_forms(obs: xr.Dataset, to: str) -> None:
    same(analysis(FORECAST, convert_observations(obs, to)), analysis(FORECAST, obs))
