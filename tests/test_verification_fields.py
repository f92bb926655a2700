"""Rank histograms, spectra, reliability, energy score, regions: closed forms and naive loops."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import pytest
import xarray as xr
from scipy.stats import chi2
from scores.probability import brier_score_for_ensemble

from xr_daisi import feedback_summary
from xr_daisi.errors import DaisiTypeError, SettingsError, StateError, UnitsError
from xr_daisi.verification import (
    energy_score,
    ensemble_scores,
    increments,
    log_spectral_distance,
    observation_rank_histogram,
    power_spectrum,
    rank_histogram,
    reliability,
    spread_skill,
)

DIMS = ("time", "member", "level", "latitude", "longitude")


def states(members: int = 6, *, times: int = 3, seed: int = 0, spread: float = 1.0) -> xr.Dataset:
    """Draws around one signal; two variables, the second without levels."""
    rng = np.random.default_rng(seed)
    signal = np.random.default_rng(1).normal(280.0, 5.0, (times, 1, 2, 8, 12))
    values = signal + spread * rng.standard_normal((times, members, 2, 8, 12))
    coords: dict[str, Any] = {
        "time": np.datetime64("2019-03-01", "ns") + np.arange(times) * np.timedelta64(6, "h"),
        "member": np.arange(members),
        "level": ("level", [850.0, 500.0], {"units": "hPa"}),
        "latitude": ("latitude", np.linspace(70.0, -70.0, 8), {"units": "degrees_north"}),
        "longitude": ("longitude", np.arange(12) * 30.0, {"units": "degrees_east"}),
    }
    attrs = {"units": "K", "long_name": "temperature"}
    second = ("time", "member", "latitude", "longitude")
    pressure = 1000.0 + 3.0 * values[:, :, 0]
    data = {"t": (DIMS, values, attrs), "p": (second, pressure, {"units": "hPa"})}
    return xr.Dataset(data, coords=coords)


def pair(**options: Any) -> tuple[xr.Dataset, xr.Dataset]:
    truth = states(1, times=options.get("times", 3), seed=9).isel(member=0, drop=True)
    return states(**options), truth


def lazy(ds: xr.Dataset) -> xr.Dataset:
    chunks = {"time": 1, "member": 2, "latitude": 4}
    return ds.chunk({d: n for d, n in chunks.items() if d in ds.dims})


ALL: dict[str, Callable[[xr.Dataset, xr.Dataset], Any]] = {
    "scores": lambda e, t: ensemble_scores(
        e,
        t,
        by=("time", "level"),
        regions={"tropics": {"latitude": slice(-20, 20)}, "warm": t.t.isel(time=0) > 280.0},
        weights="area",
    ),
    "variables": lambda e, t: ensemble_scores(e, t, ["t", "p"]),
    "ranks": lambda e, t: rank_histogram(e, t, by="level"),
    "energy": lambda e, t: energy_score(e, t, weights="area"),
    "reliability": lambda e, t: reliability(e, t, threshold=281.0),
    "spread_skill": lambda e, t: spread_skill(e, t, bins=4, weights="area"),
    "spectrum": lambda e, _: power_spectrum(e, window="hann"),
    "distance": lambda e, t: log_spectral_distance(e, t, window="hann"),
    "increments": lambda e, t: increments(e, e + 0.1 * t),
}


@pytest.mark.parametrize("name", ALL)
def test_lazy_and_the_same_as_eager(
    name: str, raise_if_computes: Callable[..., AbstractContextManager[None]]
) -> None:
    ens, true = pair()
    before = ens.copy(deep=True), true.copy(deep=True)
    expected = ALL[name](ens, true)
    with raise_if_computes():
        found = ALL[name](lazy(ens), lazy(true))
    parts = found.data_vars.values() if isinstance(found, xr.Dataset) else [found]
    assert all(part.chunks is not None for part in parts)
    xr.testing.assert_allclose(found.compute(), expected)
    whole = expected.data_vars.values() if isinstance(expected, xr.Dataset) else [expected]
    for part in [*whole, *(v for v in expected.coords.values() if v.name != "units")]:
        assert part.attrs.get("long_name") or part.name in DIMS
    for ds, old in zip((ens, true), before, strict=True):
        xr.testing.assert_identical(ds, old)


# -- what scores keep, regions and weights ----------------------------------------------------


def naive(ens: xr.Dataset, true: xr.Dataset, where: xr.DataArray | None = None) -> dict[str, float]:
    """Scores of the points in a mask, one after the other."""
    x, y = ens.t.transpose("member", ...), true.t
    if where is not None:
        x, y = x.where(where), y.where(where)
    members = x.values.reshape(x.sizes["member"], -1)
    values = y.values.ravel()
    keep = np.isfinite(values)
    members, values = members[:, keep], values[keep]
    m = len(members)
    mse = np.mean((members.mean(0) - values) ** 2)
    crps = 0.0
    for column, value in zip(members.T, values, strict=True):
        crps += np.mean(np.abs(column - value))
        for i in range(m):
            for j in range(m):
                crps -= abs(column[i] - column[j]) / (2 * m * (m - 1))
    variance = members.var(0, ddof=1).mean()
    return {
        "rmse": np.sqrt(mse),
        "crps": crps / values.size,
        "ssr": np.sqrt((m + 1) / m * variance / mse),
        "bias": np.mean(members.mean(0) - values),
        "spread": np.sqrt(variance),
    }


def check(found: xr.Dataset, expected: dict[str, float]) -> None:
    for key, value in expected.items():
        assert float(found[key]) == pytest.approx(value, rel=1e-9), key


def test_every_level_region_and_time_against_a_double_loop() -> None:
    ens, true = pair()
    mask = true.t.isel(time=0, drop=True) > 280.0
    regions = {"tropics": {"latitude": slice(-20, 20)}, "warm": mask}
    scores = ensemble_scores(ens, true, by=("level", "time"), regions=regions)
    assert scores.rmse.dims == ("region", "level", "time")
    assert list(scores.region.values) == ["tropics", "warm"]
    for level in range(2):
        one = [ds.isel(level=[level], time=[1]) for ds in (ens, true)]
        inside = abs(true.latitude) <= 20.0
        check(scores.isel(level=level, time=1).sel(region="tropics"), naive(*one, inside))
        check(scores.isel(level=level, time=1).sel(region="warm"), naive(*one, mask))
    check(ensemble_scores(ens, true, by=()), naive(ens, true))
    check(ensemble_scores(ens, true, by="latitude").isel(latitude=2),
          naive(ens.isel(latitude=[2]), true.isel(latitude=[2])))  # fmt: skip
    assert ensemble_scores(ens, true).rmse.dims == ("time",)


def test_several_variables() -> None:
    ens, true = pair()
    both = ensemble_scores(ens, true, ["p", "t"])
    assert both.rmse.dims == ("variable", "time")
    assert list(both.units.values) == ["hPa", "K"]
    assert "units" not in both.rmse.attrs
    assert both.ssr.attrs["units"] == "1"
    for name in ("p", "t"):
        alone = ensemble_scores(ens, true, name)
        xr.testing.assert_allclose(both.sel(variable=name).drop_vars(["variable", "units"]), alone)
    assert rank_histogram(ens, true, ["p", "t"]).dims == ("variable", "rank")
    assert energy_score(ens, true, ["p", "t"]).dims == ("variable", "time")
    with pytest.raises(SettingsError, match=r"by: found 'level', expected .*dimension of 'p'"):
        ensemble_scores(ens, true, ["p", "t"], by="level")
    with pytest.raises(SettingsError, match="variable: found an empty sequence"):
        ensemble_scores(ens, true, [])


def test_area_weights() -> None:
    ens, true = pair()
    weight = np.cos(np.deg2rad(true.latitude))
    found = ensemble_scores(ens, true, by=(), weights="area")
    mean = ens.t.mean("member")
    squared = ((mean - true.t) ** 2).weighted(weight).mean()
    assert float(found.rmse) == pytest.approx(float(squared) ** 0.5, rel=1e-12)
    ratio = 7 / 6 * ens.t.var("member", ddof=1).weighted(weight).mean() / squared
    assert float(found.ssr) == pytest.approx(float(ratio) ** 0.5, rel=1e-12)
    xr.testing.assert_allclose(found, ensemble_scores(ens, true, by=(), weights=weight))
    # constant weights change nothing, and boxes as weights are regions
    plain = ensemble_scores(ens, true)
    xr.testing.assert_allclose(ensemble_scores(ens, true, weights=0.0 * weight + 3.0), plain)
    box = (abs(true.latitude) <= 20.0).astype(float)
    region = ensemble_scores(ens, true, regions={"a": {"latitude": slice(-20, 20)}})
    xr.testing.assert_allclose(
        ensemble_scores(ens, true, weights=box), region.isel(region=0, drop=True)
    )


def test_two_dimensional_latitudes() -> None:
    ens, true = pair()
    rename = {"latitude": "y", "longitude": "x"}
    places = {"lat": ("y", true.latitude.values), "lon": ("x", true.longitude.values)}
    curved = []
    for ds in (ens, true):
        plain = ds.rename(rename).drop_vars(["y", "x"])
        both = xr.broadcast(*(xr.DataArray(v, dims=d) for d, v in places.values()))
        curved.append(plain.assign_coords(lat=both[0], lon=both[1]))
    box = {"lat": slice(-20, 20), "lon": slice(300, 90)}
    expected = ensemble_scores(
        ens,
        true,
        regions={"a": {"latitude": box["lat"], "longitude": box["lon"]}},
        weights="area",
    )
    found = ensemble_scores(*curved, regions={"a": box}, weights="area")
    xr.testing.assert_allclose(found, expected)


def points(true: xr.Dataset, **box: Any) -> xr.Dataset:
    counts = rank_histogram(states(), true, regions={"a": box})
    return counts.sum("rank")


@pytest.mark.parametrize(
    ("box", "share"),
    [
        ({"latitude": slice(-10, 10)}, 2 / 8),
        ({"latitude": slice(None, -60)}, 1 / 8),
        ({"longitude": slice(330, 30)}, 3 / 12),
        ({"longitude": slice(-30, 30)}, 3 / 12),
        ({"longitude": slice(-180, 180)}, 1.0),
        ({"longitude": slice(100, None)}, 8 / 12),
        ({"level": 500.0}, 1 / 2),
        ({"longitude": [0.0, 60.0], "level": slice(400, 600)}, 1 / 12),
        ({"time": slice("2019-03-01T06", None)}, 2 / 3),
        ({"time": np.datetime64("2019-03-01T06")}, 1 / 3),
        ({"time": slice("2019-03", "2019-03")}, 1.0),
    ],
)
def test_boxes(box: dict[str, Any], share: float) -> None:
    ens, true = pair()
    count = rank_histogram(ens, true, regions={"a": box}).sum("rank")
    assert int(count.isel(region=0)) == round(share * true.t.size)
    turned = rank_histogram(*(ds.sortby("latitude") for ds in (ens, true)), regions={"a": box})
    assert int(turned.sum()) == int(count.sum())


def test_regions_and_weights_that_do_not_fit() -> None:
    ens, true = pair()
    for regions, expected in (
        (
            {"a": {"lat": slice(0, 1)}},
            "region 'a': found coordinate 'lat', expected coordinates of",
        ),
        ({"a": {"latitude": slice(1, 2)}}, "region 'a': found no point inside"),
        ({"a": {"latitude": slice("x", "y")}}, "expected slice"),
        ({"a": 3}, "region 'a': found int"),
        ({"a": true.t}, "found dtype float64, expected booleans; compare"),
        ({"a": (true.t > 0).rename(time="q")}, "found dimensions"),
        ({"a": (true.t > 0).isel(latitude=slice(1, 3))}, "found other coordinates"),
        ({}, "regions: found nothing"),
        ("tropics", "regions: found str"),
    ):
        with pytest.raises(SettingsError, match=expected):
            ensemble_scores(ens, true, regions=regions)  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="2 problems"):
        ensemble_scores(ens, true, regions={"a": 3, "b": {"lat": 4}})
    for weights, expected in (
        ("cos", "weights: found 'cos'"),
        (2.0, "weights: found float"),
        (-np.cos(true.latitude), "negative or missing"),
        (true.latitude.rename(latitude="q") + 100.0, "found dimensions"),
        (abs(true.latitude.isel(latitude=slice(1, 3))), "other coordinates"),
    ):
        with pytest.raises(SettingsError, match=expected):
            ensemble_scores(ens, true, weights=weights)  # type: ignore[arg-type]
    plain = [ds.rename(latitude="y", longitude="x") for ds in (ens, true)]
    for ds in plain:
        ds.y.attrs, ds.x.attrs = {}, {}
    with pytest.raises(SettingsError, match="expected a latitude along"):
        ensemble_scores(*plain, weights="area")
    with pytest.raises(SettingsError, match="by: found 'nothing'"):
        ensemble_scores(ens, true, by="nothing")


# -- ranks ------------------------------------------------------------------------------------


def test_ranks_of_exchangeable_members_are_flat() -> None:
    """Truth and members are draws of one distribution: all ranks are as likely."""
    ens, true = pair(members=7, times=20)
    counts = rank_histogram(ens, true)
    assert counts.sizes == {"rank": 8}
    total = true.t.size
    assert int(counts.sum()) == total
    statistic = float(((counts - total / 8) ** 2 / (total / 8)).sum())
    assert chi2.ppf(0.001, 7) < statistic < chi2.ppf(0.999, 7)
    assert counts.attrs["units"] == counts["rank"].attrs["units"] == "1"
    narrow = rank_histogram(states(7, times=20, spread=0.3), true)
    assert int(narrow[0] + narrow[-1]) > 0.6 * total


def test_ranks_against_a_loop() -> None:
    ens, true = pair()
    ens.t[0, 2, 0, 3, 4] = np.nan
    true.t[1, 1] = np.nan
    counts = rank_histogram(ens, true, by=("time", "level"))
    assert counts.dims == ("time", "level", "rank")
    expected = np.zeros((3, 2, 7), int)
    for i, k, y, x in np.ndindex(3, 2, 8, 12):
        values = ens.t.values[i, :, k, y, x]
        if np.isfinite(values).all() and np.isfinite(true.t.values[i, k, y, x]):
            expected[i, k, (values < true.t.values[i, k, y, x]).sum()] += 1
    np.testing.assert_array_equal(counts, expected)


def test_ties_are_broken_by_keys() -> None:
    """All members dry and the truth dry: every rank is as likely; chunks and subsets alike."""
    ens, true = (ds * 0.0 for ds in pair(members=4, times=20))
    counts = rank_histogram(ens, true)
    total = true.t.size
    statistic = float(((counts - total / 5) ** 2 / (total / 5)).sum())
    assert chi2.ppf(0.001, 4) < statistic < chi2.ppf(0.999, 4)
    xr.testing.assert_identical(rank_histogram(lazy(ens), lazy(true)).compute(), counts)
    assert (rank_histogram(ens, true, seed=1) != counts).any()
    by = rank_histogram(ens, true, by="time")
    part = rank_histogram(*(ds.isel(time=slice(3, 9)) for ds in (ens, true)), by="time")
    xr.testing.assert_identical(part, by.isel(time=slice(3, 9)))
    without = rank_histogram(*(ds.drop_vars("longitude") for ds in (ens, true)))
    assert int(without.sum()) == total
    # two of four members tie: ranks 1 to 3 alone
    ens.t[:, 0] -= 1.0
    ens.t[:, 1] += 1.0
    half = rank_histogram(ens, true)
    assert int(half[0]) == int(half[4]) == 0
    assert (abs(half[1:4] - total / 3) < 4 * np.sqrt(total * 2 / 9)).all()


def test_ranks_of_observations() -> None:
    from test_plotting import departures

    feedback = departures()
    found = observation_rank_histogram(feedback, by="station")
    summary = feedback_summary(feedback, "station")
    xr.testing.assert_identical(found, summary["rank_histogram"])
    assert found.dims == ("variable", "station", "rank")
    assert int(found.sum()) == 10
    assert int(observation_rank_histogram(feedback, status="withheld").sum()) == 5
    with pytest.raises(StateError, match="feedback: found variables"):
        observation_rank_histogram(feedback[["t"]])


# -- spectra ----------------------------------------------------------------------------------


def plane(values: np.ndarray, *, step: float = 50.0, units: str = "km") -> xr.Dataset:
    names = ("y", "x")[2 - min(2, values.ndim) :]
    sizes = zip(names, values.shape[-len(names) :], strict=True)
    axes = {n: (n, np.arange(s) * step, {"units": units}) for n, s in sizes}
    dims = (*("member", "time")[: values.ndim - len(names)], *names)
    attrs = {"units": "K", "long_name": "temperature"}
    return xr.Dataset({"t": (dims, values, attrs)}, coords=axes)


@pytest.mark.parametrize(("kx", "ky"), [(1, 0), (0, 5), (3, 4), (8, -6), (5, 5)])
def test_spectrum_of_one_wave(kx: int, ky: int) -> None:
    """A wave of amplitude A has the variance A^2 / 2, all of it in its ring."""
    n, step, amplitude = 32, 50.0, 3.0
    y, x = np.meshgrid(np.arange(n), np.arange(n), indexing="ij")
    values = 280.0 + amplitude * np.cos(2 * np.pi * (kx * x + ky * y) / n + 0.3)
    spectrum = power_spectrum(plane(values, step=step))
    width = 1.0 / (n * step)
    np.testing.assert_allclose(spectrum.wavenumber, width * np.arange(1, 16))
    ring = round(np.hypot(kx, ky))
    assert float(spectrum[ring - 1]) * width == pytest.approx(amplitude**2 / 2, rel=1e-12)
    assert float(spectrum.sum() - spectrum[ring - 1]) == pytest.approx(0.0, abs=1e-9)
    assert spectrum.attrs == {
        "long_name": "power spectral density of temperature",
        "units": "K2 km",
    }
    assert spectrum.wavenumber.attrs["units"] == "km-1"


@pytest.mark.parametrize("shape", [(16, 16), (15, 20), (12, 30), (24,)])
def test_parseval(shape: tuple[int, ...]) -> None:
    values = 280.0 + np.random.default_rng(0).standard_normal((3, 2, *shape))
    ds = plane(values.reshape(3, 2, *shape)) if len(shape) == 2 else xr.Dataset(
        {"t": (("member", "time", "x"), values)}, coords={"x": np.arange(24) * 2.0}
    )  # fmt: skip
    spectrum = power_spectrum(ds, members=True, corners=True)
    step = float(spectrum.wavenumber[0])
    space = [d for d in ("y", "x") if d in ds.dims]
    xr.testing.assert_allclose(
        spectrum.sum("wavenumber") * step, ds.t.var(space).drop_attrs(), rtol=1e-10
    )
    assert spectrum.dims == ("member", "time", "wavenumber")
    mean = power_spectrum(ds, corners=True)
    xr.testing.assert_allclose(mean, spectrum.mean("member"))
    less = power_spectrum(ds)
    np.testing.assert_allclose(less, mean.isel(wavenumber=slice(less.sizes["wavenumber"])))


def red_noise(n: int, slope: float, *, members: int, seed: int) -> np.ndarray:
    """Gaussian fields whose ring-summed spectrum falls as k^slope."""
    rng = np.random.default_rng(seed)
    k = np.fft.fftfreq(n, 1.0 / n)
    total = np.hypot(k[:, None], k[None])
    total[0, 0] = 1.0
    amplitude = total ** (0.5 * (slope - 1.0))
    amplitude[0, 0] = 0.0
    noise = np.fft.fft2(rng.standard_normal((members, n, n)))
    return np.asarray(np.fft.ifft2(noise * amplitude).real)


def test_slope_of_an_inertial_range() -> None:
    ds = plane(red_noise(64, -5 / 3, members=40, seed=2))
    spectrum = power_spectrum(ds).isel(wavenumber=slice(2, None))
    slope = np.polyfit(np.log(spectrum.wavenumber), np.log(spectrum), 1)[0]
    assert slope == pytest.approx(-5 / 3, abs=0.05)


def test_log_spectral_distance() -> None:
    values = red_noise(32, -2.0, members=6, seed=0)
    ens, true = plane(values), plane(values).isel(member=0, drop=True)
    same = ens.isel(member=[0, 0])
    assert float(log_spectral_distance(same, true)) == pytest.approx(0.0, abs=1e-9)
    louder = same * np.sqrt(2.0)
    expected = 10 * np.log10(2.0)
    assert float(log_spectral_distance(louder, true)) == pytest.approx(expected, rel=1e-9)
    naive = 10 * np.log10(power_spectrum(ens) / power_spectrum(true))
    found = log_spectral_distance(ens, true)
    assert float(found) == pytest.approx(float((naive**2).mean()) ** 0.5, rel=1e-9)
    assert found.attrs["units"] == "dB"
    celsius = true - 273.15
    celsius.t.attrs["units"] = "degC"
    assert float(log_spectral_distance(same, celsius)) == pytest.approx(0.0, abs=1e-9)


def test_spectra_of_a_region() -> None:
    """A wave in km on a small grid of latitude and longitude, seen through a window."""
    lat = np.linspace(50.0, 51.0, 32)
    width = np.cos(np.deg2rad(50.5))
    lon = np.linspace(0.0, 1.0 / width, 32)
    values = np.cos(2 * np.pi * 4 * (lon * width))[None] * np.ones((32, 1))
    coords = {"latitude": lat, "longitude": lon}
    ds = xr.Dataset({"t": (("latitude", "longitude"), values, {"units": "K"})}, coords=coords)
    spectrum = power_spectrum(ds, window="hann", detrend="linear")
    peak = float(spectrum.wavenumber[int(spectrum.argmax("wavenumber"))])
    degree = 6371.0 * np.pi / 180.0
    assert 1.0 / peak == pytest.approx(degree / 4, rel=0.15)
    assert float(spectrum.sum() * spectrum.wavenumber[0]) == pytest.approx(0.5, rel=0.15)
    with pytest.raises(SettingsError, match=r"window: found None on latitude.*window='hann'"):
        power_spectrum(ds)


def test_fields_without_a_spectrum() -> None:
    ds = plane(np.random.default_rng(0).standard_normal((8, 8)))
    uneven = ds.assign_coords(x=("x", np.arange(8.0) ** 2, {"units": "km"}))
    with pytest.raises(StateError, match="x: found steps that differ, expected evenly"):
        power_spectrum(uneven)
    with pytest.raises(StateError, match="x: found 3 points"):
        power_spectrum(ds.isel(x=slice(3)))
    metres = ds.copy()
    metres["x"] = metres.x.assign_attrs(units="m")
    with pytest.raises(StateError, match="y and x: found units 'km', 'm'"):
        power_spectrum(metres)
    with pytest.raises(SettingsError, match="window: found 'no such window'"):
        power_spectrum(ds, window="no such window")
    with pytest.raises(SettingsError, match="detrend: found 'cubic'"):
        power_spectrum(ds, detrend="cubic")
    with pytest.raises(StateError, match="found variables t, expected 'q'"):
        power_spectrum(ds, "q")
    with pytest.raises(DaisiTypeError, match="fields: found DataArray"):
        power_spectrum(ds.t)  # type: ignore[arg-type]
    members = ds.expand_dims(member=2)
    with pytest.raises(SettingsError, match="by: found 'x'"):
        log_spectral_distance(members, ds, by="x")
    bare = ds.drop_vars(["y", "x"])
    assert "units" not in power_spectrum(bare).wavenumber.attrs
    np.testing.assert_allclose(power_spectrum(bare).wavenumber, np.arange(1, 4) / 8)


# -- energy score -----------------------------------------------------------------------------


def test_energy_score_against_a_double_loop() -> None:
    ens, true = pair()
    found = energy_score(ens, true)
    assert found.dims == ("time",)
    assert found.attrs == {"long_name": "energy score of temperature", "units": "K"}
    for i in range(3):
        x, y = ens.t.values[i].reshape(6, -1), true.t.values[i].ravel()
        scale = np.sqrt(y.size)
        expected = np.mean([np.linalg.norm(one - y) for one in x]) / scale
        for j in range(6):
            for k in range(6):
                expected -= np.linalg.norm(x[j] - x[k]) / scale / (2 * 6 * 5)
        assert float(found[i]) == pytest.approx(expected, rel=1e-10)
    levels = energy_score(ens, true, by=("time", "level"), regions={"a": {"longitude": 0.0}})
    one = [ds.sel(longitude=[0.0]).isel(level=[1]) for ds in (ens, true)]
    xr.testing.assert_allclose(
        levels.isel(region=0, level=1).drop_vars(["region", "level"]), energy_score(*one)
    )


def test_energy_score_of_one_dimension_is_the_crps() -> None:
    ens, true = pair()
    keep = ("time", "level", "latitude", "longitude")
    energy = energy_score(ens, true, by=keep)
    crps = ensemble_scores(ens, true, by=keep).crps
    np.testing.assert_allclose(energy, crps, rtol=1e-9, atol=1e-9)


def test_energy_score_notices_points_that_do_not_belong_together() -> None:
    rng = np.random.default_rng(0)
    ens, true = pair(times=200)
    field = rng.standard_normal((200, 6, 1, 1, 1))
    for ds, noise in ((ens, field), (true, rng.standard_normal((200, 1, 1, 1)))):
        ds.t[:] = 0.0 * ds.t + noise
    shuffled = ens.copy(deep=True)
    shuffled.t[:] = rng.standard_normal(ens.t.shape)
    scores = [float(energy_score(e, true).mean()) for e in (ens, shuffled)]
    crps = [float(ensemble_scores(e, true).crps.mean()) for e in (ens, shuffled)]
    assert crps[0] == pytest.approx(crps[1], rel=0.15)
    assert scores[0] < 0.95 * scores[1]


def test_missing_points_do_not_count_in_the_energy_score() -> None:
    ens, true = pair()
    true.t[:, :, 3:] = np.nan
    expected = energy_score(*(ds.isel(latitude=slice(3)) for ds in (ens, true)))
    np.testing.assert_allclose(energy_score(ens, true), expected, rtol=1e-10)


# -- reliability ------------------------------------------------------------------------------


def events(probabilities: np.ndarray, members: int, seed: int) -> tuple[xr.Dataset, xr.Dataset]:
    """As many members above 0 as the probability says, the truth as often as it says."""
    rng = np.random.default_rng(seed)
    above = np.arange(members)[:, None] < np.rint(probabilities * members)
    happened = rng.random(probabilities.size) < probabilities
    ens = xr.Dataset({"t": (("member", "x"), np.where(above, 1.0, -1.0), {"units": "K"})})
    return ens, xr.Dataset({"t": ("x", np.where(happened, 1.0, -1.0), {"units": "K"})})


def test_calibrated_probabilities_lie_on_the_diagonal() -> None:
    members, n = 10, 40_000
    probabilities = np.random.default_rng(0).integers(0, members + 1, n) / members
    out = reliability(*events(probabilities, members, 1), threshold=0.0)
    np.testing.assert_allclose(out.forecast_probability, np.arange(11) / 10, atol=1e-12)
    np.testing.assert_allclose(out.bin, np.arange(11) / 10)
    error = np.sqrt(out.forecast_probability * (1 - out.forecast_probability) / out["count"])
    assert (abs(out.observed_frequency - out.forecast_probability) <= 4 * error + 1e-12).all()
    assert int(out["count"].sum()) == n
    assert float(out.reliability) < 1e-3
    assert float(out.brier_score) == pytest.approx(
        float(out.reliability - out.resolution + out.uncertainty), rel=1e-9
    )
    # the expected score of calibrated probabilities is the mean of p (1 - p)
    expected = np.mean(probabilities * (1 - probabilities))
    assert float(out.brier_score) == pytest.approx(expected, rel=0.02)
    sure = reliability(*events((probabilities > 0.5) * 1.0, members, 1), threshold=0.0)
    assert float(sure.brier_score) == 0.0
    assert np.isnan(sure.observed_frequency[5])


def test_brier_scores_are_those_of_the_library() -> None:
    ens, true = pair()
    true.t[0, 0, 3] = np.nan
    ens.t[1, 3, 1, 4] = np.nan
    full = ens.t.where(ens.t.notnull().all("member"))
    for bins in (None, 4):
        out = reliability(ens, true, threshold=281.0, bins=bins)
        for fair, name in ((False, "brier_score"), (True, "brier_score_fair")):
            expected = brier_score_for_ensemble(
                full.where(true.t.notnull()), true.t, "member", 281.0, fair_correction=fair,
            )  # fmt: skip
            assert float(out[name]) == pytest.approx(float(expected.squeeze()), rel=1e-9)
        assert int(out["count"].sum()) == true.t.size - 2 * 12
    assert out.sizes["bin"] == 4
    np.testing.assert_allclose(out.bin, [0.125, 0.375, 0.625, 0.875])


def test_thresholds_as_fields_regions_and_weights() -> None:
    ens, true = pair()
    regions = {"n": {"latitude": slice(0, 90)}, "s": {"latitude": slice(-90, 0)}}
    quantile = true.t.quantile(0.6, ["time", "longitude"]).drop_vars("quantile")
    out = reliability(ens, true, threshold=quantile, regions=regions, weights="area")
    assert out.observed_frequency.dims == ("region", "bin")
    assert out.brier_score.dims == ("region",)
    north = [ds.sel(latitude=slice(90, 0)) for ds in (ens, true)]
    alone = reliability(*north, threshold=quantile.sel(latitude=slice(90, 0)), weights="area")
    xr.testing.assert_allclose(out.sel(region="n", drop=True), alone)
    decomposed = alone.reliability - alone.resolution + alone.uncertainty
    assert float(alone.brier_score) == pytest.approx(float(decomposed), rel=1e-9)


def test_bins_of_many_members() -> None:
    ens, true = pair(members=25)
    assert reliability(ens, true, threshold=280.0).sizes["bin"] == 10
    exact = reliability(*events(np.full(100, 0.3), 30, 0), threshold=0.0)
    assert int(exact["count"][3]) == 100
    sure = reliability(*events(np.ones(100), 30, 0), threshold=0.0)
    assert int(sure["count"][9]) == 100


def test_wrong_thresholds_and_bins() -> None:
    ens, true = pair()
    for options, expected in (
        ({"threshold": "warm"}, "threshold: found 'warm'"),
        ({"threshold": np.nan}, "threshold: found nan"),
        ({"threshold": true.t.rename(time="q")}, "threshold: found dimensions"),
        ({"threshold": true.t.isel(latitude=slice(2))}, "threshold: found other coordinates"),
        ({"threshold": 280.0, "bins": 0}, "bins: found 0"),
        ({"threshold": 280.0, "bins": 2.5}, "bins: found 2.5"),
    ):
        with pytest.raises(SettingsError, match=expected):
            reliability(ens, true, **options)
    with pytest.raises(SettingsError, match="bins: found -1"):
        spread_skill(ens, true, bins=-1)


# -- spread and skill -------------------------------------------------------------------------


@pytest.mark.parametrize("members", [3, 20])
def test_spread_and_error_agree_in_every_group(members: int) -> None:
    """Members and truth are draws with a deviation that differs from point to point."""
    rng = np.random.default_rng(3)
    deviation = np.exp(rng.uniform(-1.5, 1.5, 40_000))
    ens = xr.Dataset({"t": (("member", "x"), deviation * rng.standard_normal((members, 40_000)))})
    true = xr.Dataset({"t": ("x", deviation * rng.standard_normal(40_000))})
    out = spread_skill(ens, true)
    assert float((out.spread**2).mean()) == pytest.approx(float((out.rmse**2).mean()), rel=0.05)
    if members == 20:  # groups by a well-known spread
        np.testing.assert_allclose(out.spread / out.rmse, 1.0, atol=0.25)
    assert (out.spread.diff("bin") > 0).all()
    assert int(out["count"].sum()) == 40_000


def test_groups_against_sorting() -> None:
    ens, true = pair()
    out = spread_skill(ens, true, bins=4, regions={"n": {"latitude": slice(0, 90)}})
    assert out.rmse.dims == ("region", "bin")
    x, y = (ds.sel(latitude=slice(90, 0)).t for ds in (ens, true))
    variance = (7 / 6 * x.var("member", ddof=1)).values.ravel()
    squared = ((x.mean("member") - y) ** 2).values.ravel()
    order = np.argsort(variance).reshape(4, -1)
    np.testing.assert_allclose(out.spread[0], np.sqrt(variance[order].mean(1)))
    np.testing.assert_allclose(out.rmse[0], np.sqrt(squared[order].mean(1)))
    assert (out["count"] == order.shape[1]).all()


# -- increments -------------------------------------------------------------------------------


def test_increments() -> None:
    forecast = states(seed=3)
    analysis = forecast.copy(deep=True)
    mean = forecast.t.mean("member")
    analysis["t"] = (mean + 2.0 + 0.5 * (forecast.t - mean)).transpose(*DIMS)
    analysis.t.attrs = {"units": "K"}
    out = increments(analysis, forecast)
    assert set(out.data_vars) == {
        f"{v}_{part}" for v in "tp" for part in ("increment", "mean_increment", "spread_change")
    }
    xr.testing.assert_allclose(out.t_increment, (analysis.t - forecast.t).drop_attrs())
    np.testing.assert_allclose(out.t_mean_increment, 2.0, rtol=1e-9)
    np.testing.assert_allclose(out.t_spread_change, -0.5 * forecast.t.std("member", ddof=1))
    np.testing.assert_allclose(out.p_increment, 0.0)
    assert out.t_increment.dims == forecast.t.dims
    assert out.t_mean_increment.attrs["units"] == "K"
    celsius = analysis.assign(t=(analysis.t - 273.15).assign_attrs(units="degC"))
    alone = increments(celsius, forecast, "t")
    xr.testing.assert_allclose(alone, out[list(alone.data_vars)])
    single = increments(analysis.isel(member=0), forecast.isel(member=0), ["t"])
    assert set(single.data_vars) == {"t_increment", "t_mean_increment"}


def test_increments_of_what_does_not_fit() -> None:
    ds = states()
    for analysis, variable, expected in (
        (ds.isel(time=0), None, "t: found dimensions"),
        (ds.isel(member=slice(3)), None, "2 problems"),
        (ds.rename(t="a", p="b"), None, "found variables a, b, expected at least one"),
        (ds, "q", "q: found variables t, p in both"),
    ):
        with pytest.raises(StateError, match=expected):
            increments(analysis, ds, variable)
    with pytest.raises(UnitsError):
        increments(ds.assign(t=ds.t.assign_attrs(units="m")), ds)
    with pytest.raises(DaisiTypeError, match="analysis: found DataArray"):
        increments(ds.t, ds)  # type: ignore[arg-type]


# -- packages that are not there ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("package", "name"),
    [("scores", "scores"), ("xrft", "spectrum"), ("numpy_groupies", "spectrum")],
)
def test_missing_packages_are_named_with_their_extra(
    package: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in [m for m in sys.modules if m.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, module)
    real = sys.meta_path

    class Nothing:
        @staticmethod
        def find_spec(fullname: str, *_: Any) -> None:
            if fullname.split(".")[0] == package:
                raise ModuleNotFoundError(f"No module named {package!r}", name=package)

    monkeypatch.setattr(sys, "meta_path", [Nothing, *real])
    with pytest.raises(
        ImportError, match=rf"package '{package}'.*pip install 'xr-daisi\[verify\]'"
    ):
        ALL[name](*pair())
