"""Methods to compare with, behind the same call as the analysis with a prior."""

from __future__ import annotations

import json
from typing import Any

import dask
import numpy as np
import pytest
import torch
import xarray as xr
from closed_form import kalman
from labelled import (
    LAT,
    LON,
    MEAN,
    QUICK,
    STD,
    covariance,
    forecast,
    gaussian_prior,
    stations,
    unchanged,
)

import xr_daisi
from xr_daisi import SettingsError, StateError, assimilate
from xr_daisi.column_update import ColumnUpdate
from xr_daisi.ensemble_kalman import global_weights
from xr_daisi.ensemble_settings import EnsembleSettings
from xr_daisi.localization import Places, gaspari_cohn
from xr_daisi.observed_ensemble import ObservedEnsemble
from xr_daisi.plane import EARTH_RADIUS
from xr_daisi.reach import Reach
from xr_daisi.state import Normalization

FORECAST = forecast(members=6)
OBS = stations()
EXACT: dict[str, Any] = {"dtype": "float64", "device": "cpu", "progress": False}
LOCAL: dict[str, Any] = {"method": "letkf", "localization": 400.0, **EXACT}


def members(ds: xr.Dataset, time: int = 0) -> np.ndarray:
    """``(member, point)``."""
    values = ds["t2m"].isel(time=time).transpose("member", ...).values
    return values.reshape(len(values), -1)


def interpolation(obs: xr.Dataset) -> np.ndarray:
    """H as a matrix, by interpolating unit fields with xarray."""
    size = LAT.size * LON.size
    fields = xr.DataArray(
        np.eye(size).reshape(size, LAT.size, LON.size),
        {"latitude": LAT, "longitude": LON},
        ("one", "latitude", "longitude"),
    )
    found: np.ndarray = (
        fields.interp(latitude=obs.latitude, longitude=obs.longitude)
        .transpose("station", "one")
        .values
    )
    return found


def test_etkf_is_kalmans_answer_of_the_sample() -> None:
    found = assimilate(FORECAST, OBS, method="etkf", **EXACT)
    h = interpolation(OBS)
    for time in range(FORECAST.sizes["time"]):
        before, after = members(FORECAST, time), members(found, time)
        values, errors = (OBS[n].values[time] for n in ("t2m", "t2m_error"))
        c = np.cov(before.T)
        gain = c @ h.T @ np.linalg.inv(h @ c @ h.T + np.diag(errors**2))
        mean = before.mean(0) + gain @ (values - h @ before.mean(0))
        np.testing.assert_allclose(after.mean(0), mean, atol=1e-8)
        np.testing.assert_allclose(np.cov(after.T), c - gain @ h @ c, atol=1e-7)


def test_localisation_that_reaches_everything_is_none() -> None:
    near = assimilate(FORECAST, OBS, method="etkf", **EXACT)
    far = assimilate(FORECAST, OBS, **{**LOCAL, "localization": 1e9})
    xr.testing.assert_allclose(near, far, atol=1e-8, rtol=0)


def naive_letkf(time: int, point: int, radius: float) -> np.ndarray:
    """One grid point, as it is written on paper."""
    x = members(FORECAST, time)
    y = x @ interpolation(OBS).T
    count = len(x)
    lat, lon = (a.ravel()[point] for a in np.meshgrid(LAT, LON, indexing="ij"))
    a, b = np.deg2rad(lat), np.deg2rad(OBS.latitude.values)
    half = np.sin((a - b) / 2) ** 2 + np.cos(a) * np.cos(b) * (
        np.sin(np.deg2rad(lon - OBS.longitude.values) / 2) ** 2
    )
    taper = gaspari_cohn(2 * EARTH_RADIUS * np.arcsin(np.sqrt(half)), radius)
    anomalies, own = (y - y.mean(0)).T, x[:, point] - x[:, point].mean()
    c = anomalies.T * taper / OBS["t2m_error"].values[time] ** 2
    precision = np.linalg.inv((count - 1) * np.eye(count) + c @ anomalies)
    w = precision @ c @ (OBS["t2m"].values[time] - y.mean(0))
    values, vectors = np.linalg.eigh((count - 1) * precision)
    root = vectors * np.sqrt(values) @ vectors.T
    return x[:, point].mean() + own @ w + own @ root


def test_letkf_is_a_naive_loop_over_points() -> None:
    found = assimilate(FORECAST, OBS, **LOCAL)
    for time, point in ((0, 0), (1, 13), (2, 29)):
        expected = naive_letkf(time, point, 400.0)
        np.testing.assert_allclose(members(found, time)[:, point], expected, atol=1e-8)
        assert np.abs(expected - members(FORECAST, time)[:, point]).max() > 0.1


def test_an_observation_out_of_reach_changes_nothing() -> None:
    obs = OBS.isel(station=[0]).assign_coords(
        latitude=("station", [LAT.max()]), longitude=("station", [LON.min()])
    )
    found = assimilate(FORECAST, obs, **{**LOCAL, "localization": "120 km"}, inflation=1.3)
    # One degree of longitude is 65 km there, one of latitude 111 km.
    changed = (found["t2m"] != FORECAST["t2m"]).any(["time", "member"])
    assert changed.values.tolist() == [[True, True] + 4 * [False], [True] + 5 * [False]] + 3 * [
        6 * [False]
    ]


def test_nearly_everything_is_single_precision_too() -> None:
    single = assimilate(FORECAST, OBS, **{**LOCAL, "dtype": "float32"})
    xr.testing.assert_allclose(single, assimilate(FORECAST, OBS, **LOCAL), atol=1e-3, rtol=0)


@pytest.mark.parametrize("method", ["letkf", "etkf", "ensf", "oi"])
def test_chunks_do_not_matter(method: str, raise_if_computes: Any) -> None:
    local = {"localization": 400.0} if method in ("letkf", "oi") else {}
    keywords = {"method": method, **local, **EXACT}
    if method == "ensf":
        keywords["steps"] = 10
    eager = assimilate(FORECAST, OBS, **keywords)
    before = FORECAST.copy(deep=True)
    with raise_if_computes():
        lazy = assimilate(FORECAST.chunk(time=1, member=2), OBS, **keywords)
        both = assimilate(FORECAST.chunk(time=2), OBS.chunk(time=1), **keywords)
    for result in (lazy, both):
        xr.testing.assert_equal(result.compute(), eager)
    assert lazy["t2m"].data.numblocks[:2] == (3, 1)
    unchanged(FORECAST, before)


@pytest.mark.parametrize("method", ["letkf", "etkf"])
def test_columns_are_tasks(
    method: str, raise_if_computes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some rows of the grid each, also with holes."""
    local = {"localization": "400 km"} if method == "letkf" else {}
    keywords = {"method": method, **local, **EXACT, "relaxation": 0.2, "inflation": 1.1}
    land = FORECAST.where(FORECAST.longitude > LON[0])
    whole = assimilate(land, OBS, **keywords)
    monkeypatch.setattr("xr_daisi.column_update.COLUMNS", 12)
    eager = assimilate(land, OBS, **keywords)
    xr.testing.assert_allclose(eager, whole, rtol=1e-12)
    with raise_if_computes():
        lazy = assimilate(land.chunk(time=1, member=2), OBS, **keywords)
    xr.testing.assert_identical(lazy.compute().drop_attrs(), eager.drop_attrs())
    assert lazy["t2m"].data.numblocks == (3, 1, 1, 1)
    keys = [key[0] for key in dict(lazy["t2m"].data.dask) if isinstance(key, tuple)]
    assert len([name for name in keys if str(name).startswith("daisi-columns")]) == 3 * 3


@pytest.mark.parametrize("reach", [Reach(radius=2.5), Reach()])
def test_rows_keep_their_own_normalisation(reach: Reach, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mean and deviation of every point, a transform, two times together, a hole."""
    rng = np.random.default_rng(3)
    coords = {"y": np.arange(7.0), "x": np.arange(5.0)}
    spec = xr_daisi.FlowPrior.from_velocity(
        lambda x, t: x, xr.Dataset({"q": (("y", "x"), np.ones((7, 5)))}, coords=coords)
    ).spec
    mean, std = rng.normal(size=(2, 7, 5)), rng.uniform(0.5, 2.0, (2, 7, 5))
    normalization = Normalization(mean, std, ("log", "log"))
    states = np.exp(rng.normal(size=(6, 2, 7, 5)))
    states[:, :, 2, 1] = np.nan
    y = torch.from_numpy(rng.normal(size=(6, 8)))
    update = ColumnUpdate(
        spec,
        normalization,
        EnsembleSettings(inflation=1.1, relaxation=0.3),
        seen=ObservedEnsemble(torch.from_numpy(rng.normal(size=8)), y - y.mean(0)),
        observed=Places.of(spec).at(np.arange(0, 35, 5)[[0, 1, 2, 3, 4, 5, 6, 2]]),
        reach=reach,
        dtype=torch.float64,
        device="cpu",
    )
    whole = update(states)
    assert np.isnan(whole[:, :, 2, 1]).all()
    assert np.nanmax(np.abs(whole - states)) > 0.1
    monkeypatch.setattr("xr_daisi.column_update.COLUMNS", 10)
    np.testing.assert_allclose(update(states), whole, rtol=1e-12)


def test_weights_that_hold_everywhere_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    import xr_daisi.ensemble_engine as engine

    calls: list[int] = []

    def counted(*given: Any) -> Any:
        calls.append(1)
        return global_weights(*given)

    monkeypatch.setattr("xr_daisi.column_update.COLUMNS", 6)
    monkeypatch.setattr(engine, "global_weights", counted)
    assimilate(FORECAST, OBS, method="etkf", **EXACT)
    assert len(calls) == FORECAST.sizes["time"]


@pytest.mark.parametrize("method", ["etkf", "letkf", "daisi"])
@pytest.mark.parametrize("error", [1e-2, 1e-4, 1e-6])
def test_accurate_observations_in_single_precision(method: str, error: float) -> None:
    """(spread / error)^2 does not drown what else is in the matrix of the weights."""
    reach = {"localization": 400.0} if method == "letkf" else {}
    prior = gaussian_prior() if method == "daisi" else None
    near = FORECAST.t2m.isel(member=2).interp(
        latitude=OBS.latitude, longitude=OBS.longitude, method="linear"
    )
    obs = OBS.assign(t2m=(("time", "station"), near.values + error, {"units": "K"}))
    obs["t2m_error"] = obs.t2m_error.copy(data=np.full(obs.t2m.shape, error))
    single, double = (
        assimilate(
            FORECAST,
            obs.isel(station=slice(3)),
            prior,
            method=method,
            **{**EXACT, **reach, "dtype": dtype},
        )
        for dtype in ("float32", "float64")
    )
    np.testing.assert_allclose(single.t2m, double.t2m, atol=0.02 if prior else 2e-3)


def test_work_travels_to_other_processes() -> None:
    """Round trip of what a task is given, by pickle as a scheduler does it."""
    import cloudpickle

    lazy = assimilate(FORECAST.chunk(time=1), OBS, **LOCAL)
    graph = cloudpickle.loads(cloudpickle.dumps(lazy))
    xr.testing.assert_equal(graph.compute(scheduler="synchronous"), lazy.compute())


def test_every_block_is_read_once() -> None:
    reads: list[Any] = []

    def read(block: np.ndarray, block_id: Any) -> np.ndarray:
        reads.append(block_id)
        return block

    lazy = FORECAST.chunk(time=1, member=2)
    lazy["t2m"] = lazy["t2m"].copy(
        data=lazy["t2m"].data.map_blocks(read, block_id=None, dtype=float)
    )
    with dask.config.set(scheduler="synchronous"):
        assimilate(lazy, OBS, background_check=20.0, **LOCAL).compute()
    assert len([one for one in reads if isinstance(one, tuple)]) == 9


def test_times_without_observations_are_the_forecast() -> None:
    obs = OBS.isel(time=[1])
    for keywords in (LOCAL, {"method": "etkf", "inflation": 1.2, "relaxation": 0.4, **EXACT}):
        found = assimilate(FORECAST, obs, **keywords)
        same = (found["t2m"] == FORECAST["t2m"]).all(["member", "latitude", "longitude"])
        assert same.values.tolist() == [True, False, True]


def test_order_of_members_and_observations_does_not_matter() -> None:
    keywords = {**LOCAL, "relaxation": 0.3}
    found = assimilate(FORECAST, OBS, **keywords)
    turned = assimilate(
        FORECAST.isel(member=slice(None, None, -1)), OBS.isel(station=[2, 0, 3, 1]), **keywords
    )
    xr.testing.assert_allclose(turned.isel(member=slice(None, None, -1)), found, atol=1e-9, rtol=0)


@pytest.mark.parametrize("how", ["spread", "perturbations"])
def test_relaxation_restores_the_forecast(how: Any) -> None:
    plain = assimilate(FORECAST, OBS, **LOCAL)["t2m"]
    found = assimilate(FORECAST, OBS, **LOCAL, relaxation=0.4, relaxation_method=how)["t2m"]
    xr.testing.assert_allclose(found.mean("member"), plain.mean("member"))
    before = FORECAST["t2m"]
    if how == "spread":
        expected = 0.6 * plain.std("member") + 0.4 * before.std("member")
        xr.testing.assert_allclose(found.std("member"), expected)
    else:
        away = [a - a.mean("member") for a in (found, plain, before)]
        xr.testing.assert_allclose(away[0], 0.6 * away[1] + 0.4 * away[2], atol=1e-9)


def columns(levels: tuple[float, ...], seed: int = 0) -> xr.Dataset:
    values = np.random.default_rng(seed).normal(280.0, 5.0, (6, len(levels), 4, 4))
    coords = {"level": ("level", list(levels), {"units": "hPa", "positive": "down"})}
    dims = ("member", "level", "y", "x")
    surface = np.random.default_rng(seed + 1).normal(size=(6, 4, 4))
    mask = (("y", "x"), np.ones((4, 4)))
    return xr.Dataset(
        {"t": (dims, values), "ps": (("member", "y", "x"), surface), "mask": mask}, coords=coords
    )


def test_vertical_localisation() -> None:
    state = columns((850.0, 500.0, 200.0))
    obs = xr.Dataset(
        {"t": ("obs", [290.0])},
        {"y": ("obs", [1.0]), "x": ("obs", [1.0]), "level": ("obs", [850.0], {"units": "hPa"})},
    )
    keywords = {**LOCAL, "localization": 1e9, "obs_error": 1.0}
    plain = assimilate(state, obs, **keywords)
    found = assimilate(state, obs, **keywords, vertical_localization=400.0)
    xr.testing.assert_allclose(found.t.sel(level=850.0), plain.t.sel(level=850.0), atol=1e-9)
    assert (found.t.sel(level=200.0) == state.t.sel(level=200.0)).all()  # 650 hPa away
    xr.testing.assert_allclose(found.ps, plain.ps, atol=1e-9)  # without levels there is no distance
    # 350 hPa away: as if the error were larger.
    factor = float(gaspari_cohn(np.array([350.0]), 400.0)[0])
    weaker = assimilate(state, obs, **{**keywords, "obs_error": factor**-0.5})
    xr.testing.assert_allclose(found.t.sel(level=500.0), weaker.t.sel(level=500.0), atol=1e-9)
    text = assimilate(state, obs, **keywords, vertical_localization="40000 Pa")
    xr.testing.assert_allclose(text, found)
    assert (found["mask"] == 1).all()  # no part of the state


def test_round_a_periodic_plane() -> None:
    state = columns((850.0,)).isel(level=0, drop=True)
    obs = xr.Dataset({"t": ("obs", [290.0])}, {"y": ("obs", [0.0]), "x": ("obs", [0.0])})
    keywords = {**LOCAL, "localization": 1.5, "obs_error": 1.0}
    for periodic, expected in (((), [0, 1]), (("x",), [0, 1, 3])):
        found = assimilate(state, obs, **keywords, periodic=periodic)
        changed = (found.t != state.t).any("member").isel(y=0)
        assert np.flatnonzero(changed).tolist() == expected
        assert json.loads(found.daisi_state)["periodic"] == [False, "x" in periodic]
        assert json.loads(found.daisi_settings)["periodic"] == list(periodic)


def test_operators_thinning_and_correlated_errors() -> None:
    keywords = {**LOCAL, "localization": 1e9, "obs_error": {"t2m": 1.0}}
    obs = OBS.drop_vars("t2m_error")
    square = obs.assign(t2m=(obs.t2m**2).drop_attrs())
    found = assimilate(
        FORECAST, square, **{**keywords, "obs_error": 500.0}, operator={"t2m": "square"}
    )
    assert np.isfinite(found.t2m).all()
    assert not found.t2m.equals(FORECAST.t2m)
    # Twice the same place is once with less error, whether averaged or not.
    double = xr.concat([obs, obs + 0.5], "station").assign_coords(
        latitude=("station", [*obs.latitude.values] * 2),
        longitude=("station", [*obs.longitude.values] * 2),
    )
    double["t2m"].attrs["units"] = "K"
    with pytest.warns(xr_daisi.RepeatedObservationsWarning):
        one = assimilate(FORECAST, double, **keywords)
    with pytest.warns(xr_daisi.RepeatedObservationsWarning):
        two = assimilate(FORECAST, double, **keywords, thin="1 km")
    xr.testing.assert_allclose(one, two, atol=1e-8)
    # Without a taper, errors that are correlated are as in Kalman's formula.
    correlated = assimilate(FORECAST, obs, **keywords, error_correlation={"t2m": 100.0})
    from xr_daisi.error_covariance import correlation_by_distance
    from xr_daisi.plane import PlaneAxes

    where = np.stack([obs.latitude.values, obs.longitude.values])
    r = correlation_by_distance(PlaneAxes(0, 1, (None, None)).embedded(where), 100.0)
    h, before = interpolation(obs), members(FORECAST)
    c = np.cov(before.T)
    gain = c @ h.T @ np.linalg.inv(h @ c @ h.T + r)
    mean = before.mean(0) + gain @ (obs.t2m.values[0] - h @ before.mean(0))
    np.testing.assert_allclose(members(correlated).mean(0), mean, atol=1e-8)


def test_holes_stay_holes() -> None:
    land = xr.DataArray(np.eye(5, 6, dtype=bool), dims=("latitude", "longitude"))
    state = FORECAST.where(~land)
    found = assimilate(state, OBS, **LOCAL)
    xr.testing.assert_equal(found.t2m.isnull(), state.t2m.isnull())
    assert not found.t2m.equals(state.t2m)


def test_holes_hold_means_for_functions_of_whole_fields() -> None:
    """A logarithm of a neighbour is finite although that is a hole."""
    land = xr.DataArray(np.eye(5, 6, dtype=bool), dims=("latitude", "longitude"))
    state = FORECAST.where(~land)
    seen: list[float] = []

    def neighbour(fields: Any) -> torch.Tensor:
        seen.append(float(fields["t2m"].min()))
        return torch.log(fields["t2m"].roll(1, dims=-1))

    operator = {"t2m": xr_daisi.on_grid(neighbour)}
    obs = OBS.assign(t2m=(OBS.t2m * 0 + 5.6).drop_attrs()).drop_vars("t2m_error")
    keywords = {**LOCAL, "obs_error": 0.1, "operator": operator, "background_check": 5.0}
    found = assimilate(state, obs, **keywords)
    assert min(seen) > 200.0
    xr.testing.assert_equal(found.t2m.isnull(), state.t2m.isnull())


def test_states_that_observations_lie_between() -> None:
    obs = OBS.isel(time=[0]).assign_coords(time=OBS.time.values[:1] + np.timedelta64(3, "h"))
    found = assimilate(FORECAST, obs, **LOCAL, time_interpolation="linear", time_tolerance="6h")
    changed = (found.t2m != FORECAST.t2m).any(["member", "latitude", "longitude"])
    assert changed.values.tolist() == [True, True, False]


def test_a_prior_gives_grid_and_transforms() -> None:
    found = assimilate(FORECAST, OBS, gaussian_prior(), **LOCAL)
    assert found.attrs["daisi_prior"] == "custom"
    xr.testing.assert_allclose(found, assimilate(FORECAST, OBS, **LOCAL), atol=1e-9)


def test_increments_are_made_within_a_transform() -> None:
    from dataclasses import replace

    prior = gaussian_prior()
    prior.normalization = replace(prior.normalization, transforms=("log1p",))
    rain = abs(FORECAST - MEAN).where(FORECAST.latitude > 52, 1e-3)
    rain.t2m.attrs = dict(FORECAST.t2m.attrs)
    obs = OBS.assign(t2m=OBS.t2m * 0.0).assign(t2m_error=OBS.t2m_error)
    obs.t2m.attrs["units"] = "K"
    found = assimilate(rain, obs, prior, **LOCAL)
    assert (found.t2m >= 0).all()
    assert (assimilate(rain, obs, **LOCAL).t2m < 0).any()


def test_attributes_repeat_the_call() -> None:
    first = assimilate(
        FORECAST.assign_attrs(daisi_prior="old"), OBS, **LOCAL, relaxation=0.25, inflation=1.1
    )
    settings = json.loads(first.attrs["daisi_settings"])
    assert settings["method"] == "letkf"
    assert settings["localization"] == 400.0
    assert "daisi_prior" not in first.attrs
    assert "letkf" in first.attrs["history"]
    again = assimilate(FORECAST, OBS, **settings, device="cpu", progress=False)
    xr.testing.assert_equal(first, again)
    feedback = FORECAST.daisi.feedback(OBS, first)
    assert (abs(feedback.t2m_o_minus_a) < abs(feedback.t2m_o_minus_b)).mean() > 0.7


def test_settings_that_do_not_serve_are_named() -> None:
    with pytest.raises(SettingsError, match="2 problems") as error:
        assimilate(FORECAST, OBS, method="etkf", localization=100.0, t_min=0.2)
    assert "localization" in str(error.value)
    assert "t_min" in str(error.value)
    with pytest.raises(SettingsError, match=r"relaxation.*daisi, letkf, etkf, ensf"):
        assimilate(FORECAST, OBS, gaussian_prior(), method="renoise", relaxation=0.5)
    with pytest.raises(SettingsError, match="method: found 'enkf'"):
        assimilate(FORECAST, OBS, method="enkf")  # type: ignore[call-overload]
    with pytest.raises(SettingsError, match=r"localization: found none.*etkf"):
        assimilate(FORECAST, OBS, method="letkf")
    assimilate(FORECAST, OBS, gaussian_prior(), inflation=1, relaxation=0, **QUICK)  # as left out
    with pytest.raises(SettingsError, match="batch"):
        assimilate(FORECAST, OBS, **LOCAL, batch=2)
    with pytest.raises(SettingsError, match="t_min"):
        assimilate(FORECAST, OBS, gaussian_prior(), method="prior-only", t_min=0.1)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("inflation", 0.0),
        ("relaxation", 1.5),
        ("relaxation_method", "both"),
        ("localization", -1.0),
        ("localization", "5 kg"),
        ("vertical_localization", 5.0),  # there are no levels
    ],
)
def test_settings_out_of_range(name: str, value: Any) -> None:
    with pytest.raises((SettingsError, xr_daisi.UnitsError), match=name):
        assimilate(FORECAST, OBS, **{**LOCAL, name: value})


def test_one_member_is_too_few() -> None:
    with pytest.raises(StateError, match=r"1 member.*at least 2"):
        assimilate(FORECAST.isel(member=[0]), OBS, **LOCAL)


def test_dry_run_of_a_method_without_network() -> None:
    plan = assimilate(FORECAST, OBS, **LOCAL, dry_run=True)
    assert "letkf" in str(plan)
    assert "network" not in str(plan)
    assert plan.forwards == 0
    assert plan.cost().startswith("no network")


def test_prior_only_ignores_the_forecast() -> None:
    prior = gaussian_prior(t_min=0.3)
    found = assimilate(FORECAST, OBS, prior, method="prior-only", **QUICK)
    other = assimilate(FORECAST + 3.0, OBS, prior, method="prior-only", **QUICK)
    xr.testing.assert_allclose(found, other)
    xr.testing.assert_equal(found, assimilate(FORECAST, OBS, prior, t_min=0.0, **QUICK))
    settings = json.loads(found.daisi_settings)
    assert settings["method"] == "prior-only"
    assert "t_min" not in settings


def test_prior_only_samples_the_posterior_of_the_prior() -> None:
    prior, times = gaussian_prior(), FORECAST.time.values[:1]
    many = forecast(members=400, times=times)
    obs = stations(times)
    keywords = {"steps": 15, "guidance_iterations": 4, "noise": 0.0, "dtype": "float64"}
    found = members(assimilate(many, obs, prior, method="prior-only", progress=False, **keywords))
    h = torch.from_numpy(interpolation(obs))
    values = torch.from_numpy((obs.t2m.values[0] - MEAN) / STD)
    errors = torch.from_numpy(obs.t2m_error.values[0] / STD)
    zero = torch.zeros(LAT.size * LON.size, dtype=torch.float64)
    mean, c = kalman(zero, covariance(LAT.size, LON.size), h, values, errors)
    away = (found.mean(0) - MEAN) / STD - mean.numpy()
    assert np.abs(away).max() < 4 * float(c.diag().max()) ** 0.5 / 20
    np.testing.assert_allclose(found.std(0) / STD, c.diag().sqrt(), rtol=0.15)


def test_renoised_forecast() -> None:
    """With the exact flow of N(0, 1) and no guidance all is affine: x = k (t x1 + (1 - t) z)."""
    prior, t = gaussian_prior(), 0.6
    same = FORECAST.copy(data={"t2m": FORECAST.t2m.data * 0 + MEAN + 2 * STD})
    keywords = {**QUICK, "method": "renoise", "t_min": t, "noise": 0.0, "guidance": "none"}
    found = assimilate(same, OBS, prior, **{**keywords, "steps": 40})
    assert float(found.t2m.std("member").min()) > 0.1  # members of one state differ
    assert "inverse_noise" not in json.loads(found.daisi_settings)
    lazy = assimilate(same.chunk(member=1, time=1), OBS, prior, **{**keywords, "steps": 40})
    xr.testing.assert_allclose(lazy, found)
    plan = assimilate(same, OBS, prior, **{**keywords, "steps": (7, 5)}, dry_run=True)
    assert plan.forwards == 6 * 3 * 5  # nothing is inverted


def test_renoising_is_the_closed_form() -> None:
    """Unguided flow of a Gaussian: x1 = C^(1/2) (t^2 C + (1-t)^2)^(-1/2) x_t."""
    prior, t = gaussian_prior(), 0.6
    times = FORECAST.time.values[:1]
    one = forecast(members=1, times=times)
    many = xr.concat([one.assign_coords(member=[m]) for m in range(600)], "member")
    found = members(
        assimilate(
            many,
            stations(times),
            prior,
            **{**QUICK, "method": "renoise", "t_min": t, "noise": 0.0, "guidance": "none"},
        )
    )
    values, vectors = torch.linalg.eigh(covariance(LAT.size, LON.size))
    scale = (values / (t**2 * values + (1 - t) ** 2)).sqrt()
    gain = ((vectors * scale) @ vectors.T).numpy()
    start = (members(one)[0] - MEAN) / STD
    expected = gain @ start * t
    spread = (1 - t) * np.sqrt(np.diag(gain @ gain.T))
    assert np.abs((found.mean(0) - MEAN) / STD - expected).max() < 0.15
    np.testing.assert_allclose(found.std(0) / STD, spread, rtol=0.15)


def static_covariance(deviation: float, radius: float) -> np.ndarray:
    """B of one variable on the grid of the tests, by great-circle distance."""
    lat, lon = (np.deg2rad(a.ravel()) for a in np.meshgrid(LAT, LON, indexing="ij"))
    half = np.sin((lat[:, None] - lat) / 2) ** 2
    half = half + np.cos(lat[:, None]) * np.cos(lat) * np.sin((lon[:, None] - lon) / 2) ** 2
    distance = 2 * EARTH_RADIUS * np.arcsin(np.sqrt(half))
    covariance: np.ndarray = deviation**2 * gaspari_cohn(distance, radius)
    return covariance


OI: dict[str, Any] = {"method": "oi", "localization": 300.0, **EXACT}


@pytest.mark.parametrize("deviation", [None, 3.0])
def test_optimal_interpolation_is_kalmans_formula(deviation: float | None) -> None:
    found = assimilate(FORECAST, OBS, **OI, background_error=deviation)
    h, before, after = interpolation(OBS), members(FORECAST), members(found)
    spread = float(np.sqrt(before.var(axis=0, ddof=1).mean()))
    b = static_covariance(deviation or spread, 300.0)
    values, errors = (OBS[n].values[0] for n in ("t2m", "t2m_error"))
    gain = b @ h.T @ np.linalg.inv(h @ b @ h.T + np.diag(errors**2))
    mean = before.mean(0) + gain @ (values - h @ before.mean(0))
    np.testing.assert_allclose(after.mean(0), mean, atol=1e-8)
    # Each member has observations of its own, whose mean is that of the observations.
    away = np.linalg.lstsq(gain, (after - before).T, rcond=None)[0].T + before @ h.T - values
    np.testing.assert_allclose(away.mean(0), 0.0, atol=1e-8)
    assert 0.2 < away.std() / errors[0] < 2.0


def test_optimal_interpolation_of_one_member() -> None:
    one = FORECAST.isel(member=[0], time=[0])
    with pytest.raises(SettingsError, match="background_error"):
        assimilate(one, OBS, **OI)
    found = assimilate(one, OBS, gaussian_prior(), **OI)  # the prior's deviation
    xr.testing.assert_allclose(found.t2m, assimilate(one, OBS, **OI, background_error=STD).t2m)
    found = assimilate(one, OBS, **OI, background_error={"t2m": 4.0})
    assert json.loads(found.daisi_settings)["background_error"] == {"t2m": 4.0}
    with pytest.raises(SettingsError, match="one for each of t2m"):
        assimilate(one, OBS, **OI, background_error={"q": 4.0})


def test_optimal_interpolation_with_functions_and_averages() -> None:
    """A linear function is linearised to the interpolation it is; averages are averages."""
    keywords = {**OI, "background_error": 3.0}
    plain = assimilate(FORECAST, OBS, **keywords)
    function = assimilate(FORECAST, OBS, **keywords, operator={"t2m": lambda s: 1.0 * s["t2m"]})
    xr.testing.assert_allclose(plain, function, atol=1e-9)
    # With the error of the average, all observations at one place are one.
    obs = OBS.isel(station=[0, 0])
    obs["t2m"] = obs.t2m + xr.DataArray([-1.0, 1.0], dims="station")
    obs.t2m.attrs["units"] = "K"
    with pytest.warns(xr_daisi.RepeatedObservationsWarning):
        averaged = assimilate(FORECAST, obs, **keywords, thin="1 km")
    one = OBS.isel(station=[0])
    one["t2m_error"] = one.t2m_error / 2**0.5
    single = assimilate(FORECAST, one, **keywords)
    xr.testing.assert_allclose(averaged.mean("member"), single.mean("member"), atol=1e-8)


def test_optimal_interpolation_reaches_other_levels_only_if_told() -> None:
    state = columns((850.0, 500.0))
    obs = xr.Dataset(
        {"t": ("obs", [290.0])},
        {"y": ("obs", [1.0]), "x": ("obs", [1.0]), "level": ("obs", [850.0], {"units": "hPa"})},
    )
    keywords = {**OI, "localization": 3.0, "obs_error": 1.0}
    alone = assimilate(state, obs, **keywords)
    assert (alone.t.sel(level=500.0) == state.t.sel(level=500.0)).all()
    assert (alone.ps == state.ps).all()
    both = assimilate(state, obs, **keywords, vertical_localization=700.0)
    added, below = ((both - state).t.sel(level=k, y=1, x=1).mean() for k in (500.0, 850.0))
    s = [float(state.t.sel(level=k).var("member").mean() ** 0.5) for k in (500.0, 850.0)]
    assert float(added / below) == pytest.approx(5 / 24 * s[0] / s[1])


def test_score_filter_draws_members_to_the_observations() -> None:
    found = assimilate(FORECAST, OBS, method="ensf", steps=50, **EXACT)
    feedback = FORECAST.daisi.feedback(OBS, found)
    before, after = (abs(feedback[n]).mean() for n in ("t2m_o_minus_b", "t2m_o_minus_a"))
    assert float(after) < 0.5 * float(before)
    assert float(found.t2m.std("member").mean()) < float(FORECAST.t2m.std("member").mean())
    wide = assimilate(FORECAST, OBS, method="ensf", steps=50, relaxation=1.0, **EXACT)
    xr.testing.assert_allclose(wide.t2m.std("member"), FORECAST.t2m.std("member"))
    other = assimilate(FORECAST, OBS, method="ensf", steps=50, seed=1, **EXACT)
    assert not other.equals(found)
    with pytest.raises(SettingsError, match="steps"):
        assimilate(FORECAST, OBS, method="ensf", steps=(10, 10))


def test_score_filter_leaves_what_members_agree_on() -> None:
    state = FORECAST.copy(deep=True)
    state.t2m[..., 2] = 280.0
    found = assimilate(state, OBS, method="ensf", steps=10, **EXACT)
    assert (found.t2m[..., 2] == 280.0).all()
    assert np.isfinite(found.t2m).all()
