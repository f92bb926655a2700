"""From two Datasets and a prior to a labelled analysis: labels, times, settings, theory."""

from __future__ import annotations

import datetime
import json
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from closed_form import kalman, relative
from labelled import (
    LAT,
    LON,
    MEAN,
    QUICK,
    STD,
    TIMES,
    covariance,
    forecast,
    gaussian_prior,
    in_celsius,
    stations,
    template,
    unchanged,
)

import xr_daisi
from xr_daisi import DivergenceError, FlowPrior, PriorError, assimilate
from xr_daisi.engine import Engine
from xr_daisi.errors import DaisiTypeError, NoObservationsWarning
from xr_daisi.priors import Settings
from xr_daisi.sampling import NoiseSource, initial_noise

PRIOR = gaussian_prior()
OBS = stations()
FORECAST = forecast()


def analyse(ds: xr.Dataset = FORECAST, obs: Any = OBS, prior: Any = PRIOR, **more: Any) -> Any:
    return assimilate(ds, obs, prior, **{**QUICK, **more})


@pytest.fixture(scope="module")
def expected() -> xr.Dataset:
    return analyse()


def close(found: xr.Dataset, wanted: xr.Dataset, rtol: float = 1e-10) -> None:
    """Same values and coordinates whatever the order of dimensions and points."""
    aligned = found.transpose(*wanted.t2m.dims).reindex_like(wanted)
    xr.testing.assert_allclose(aligned.drop_attrs(), wanted.drop_attrs(), rtol=rtol)


# -- labels -------------------------------------------------------------------------------------


def test_the_analysis_is_labelled_like_the_forecast(expected: xr.Dataset) -> None:
    assert expected.t2m.dims == FORECAST.t2m.dims
    assert expected.t2m.dtype == FORECAST.t2m.dtype
    assert expected.t2m.attrs == FORECAST.t2m.attrs
    xr.testing.assert_identical(
        expected.drop_vars("t2m").drop_attrs(deep=False),
        FORECAST.drop_vars("t2m").drop_attrs(deep=False),
    )
    assert expected.attrs["title"] == "a forecast"
    new, old = expected.attrs["history"].splitlines()
    assert "assimilate with prior custom" in new
    assert old == "made here"
    assert np.abs(expected.t2m - FORECAST.t2m).max() > 1.0


def test_inputs_are_not_modified() -> None:
    ds, obs = FORECAST.copy(deep=True), OBS.copy(deep=True)
    ds.t2m.encoding = {"dtype": "int16", "scale_factor": 0.01}
    before = ds.copy(deep=True), obs.copy(deep=True)
    analysis = analyse(ds, obs, background_check=3.0)
    analysis.t2m[:] = 0.0
    analysis.t2m.attrs["units"] = "broken"
    unchanged(ds, before[0])
    unchanged(obs, before[1])


def test_any_order_and_convention(expected: xr.Dataset) -> None:
    close(analyse(FORECAST.transpose("longitude", "member", "latitude", "time")), expected)
    close(analyse(FORECAST.sortby("latitude")), expected)
    turned = analyse(FORECAST.assign_coords(longitude=LON % 360).sortby("longitude"))
    close(turned.assign_coords(longitude=(turned.longitude + 180) % 360 - 180), expected)
    renamed = FORECAST.rename(member="number", latitude="lat", t2m="temperature")
    back = analyse(renamed)
    assert back.temperature.dims == ("time", "number", "lat", "longitude")
    close(back.rename(number="member", lat="latitude", temperature="t2m"), expected)


def test_times_in_any_order_give_the_same(expected: xr.Dataset) -> None:
    close(analyse(FORECAST.isel(time=[2, 0, 1])), expected)
    one = analyse(FORECAST.isel(time=1), time_tolerance="3h")
    close(one, expected.isel(time=1))
    assert one.time.ndim == 0


def test_levels_in_any_order_and_units() -> None:
    prior, ds = gaussian_prior(levels=True), forecast(levels=True)
    obs = stations().drop_vars("t2m_error").assign_coords(level=("station", [850.0, 500, 700, 600]))
    obs.level.attrs["units"] = "hPa"
    wanted = analyse(ds, obs, prior, obs_error=0.5)
    pascal = ds.isel(level=[1, 0]).assign_coords(level=("level", [5e4, 8.5e4], {"units": "Pa"}))
    found = analyse(pascal, obs, prior, obs_error=0.5)
    assert found.level.values.tolist() == [5e4, 8.5e4]
    close(found.assign_coords(level=("level", [500.0, 850.0], {"units": "hPa"})), wanted)


def test_several_variables_and_extra_ones() -> None:
    wind = template(name="u", units="m s-1", standard_name="eastward_wind")
    spec = template().assign(u=wind.u)
    c = torch.kron(torch.tensor([[1.0, 0.5], [0.5, 1.0]]).double(), covariance(5, 6))
    velocity = type(PRIOR.network)(torch.zeros(len(c), dtype=torch.float64), c)  # type: ignore[operator]
    prior = FlowPrior.from_velocity(velocity, spec, mean=spec * 0 + 1.0, std=spec * 0 + 2.0)
    u = forecast(seed=5).t2m - MEAN
    ds = (FORECAST - MEAN).assign(u=u.assign_attrs(wind.u.attrs), mask=("latitude", np.arange(5)))
    ds.t2m.attrs = FORECAST.t2m.attrs
    obs = OBS - MEAN
    obs.t2m_error[:] = 0.5
    found = analyse(ds, obs, prior)
    assert list(found.data_vars) == ["t2m", "u", "mask"]
    assert np.abs(found.u - ds.u).max() > 0.5  # corrected through the correlation
    xr.testing.assert_identical(found.mask, ds.mask)
    swapped = analyse(ds[["mask", "u", "t2m"]], obs, prior)
    xr.testing.assert_allclose(swapped, found)


def test_units_of_the_forecast_are_kept(expected: xr.Dataset) -> None:
    celsius = analyse(in_celsius(FORECAST))
    assert celsius.t2m.attrs["units"] == "degC"
    np.testing.assert_allclose(celsius.t2m + 273.15, expected.t2m, rtol=1e-10)
    obs = OBS.assign(t2m=(OBS.t2m - 273.15).assign_attrs(units="degC"))
    obs["t2m_error"] = obs.t2m_error.assign_attrs(units="degC")
    close(analyse(obs=obs), expected)


@pytest.mark.parametrize("dtype", [np.float32, ">f4", np.float16, np.int16])
def test_types_of_the_forecast_are_kept(expected: xr.Dataset, dtype: Any) -> None:
    ds = FORECAST.astype(dtype)
    found = analyse(ds)
    if np.issubdtype(dtype, np.floating):
        assert found.t2m.dtype == ds.t2m.dtype
    else:
        assert found.t2m.dtype == np.float32
    if dtype in (np.float16, np.int16):  # they resolve a quarter or a whole kelvin
        expected = analyse(ds.astype(float))
    tolerance = 0.2 if dtype == np.float16 else 1e-3
    np.testing.assert_allclose(found.t2m, expected.t2m, atol=tolerance)


def test_one_member_and_no_time(expected: xr.Dataset) -> None:
    ds, obs = FORECAST.isel(member=0, time=0, drop=True), OBS.isel(time=0, drop=True)
    found = analyse(ds, obs)
    assert found.t2m.dims == ("latitude", "longitude")
    again = analyse(ds.expand_dims("member"), obs)
    np.testing.assert_array_equal(again.t2m[0], found.t2m)


def test_a_file_as_a_grib_decoder_writes_it(expected: xr.Dataset) -> None:
    ds = FORECAST.assign_coords(number=0, step=np.timedelta64(0, "ns"), surface=0.0)
    ds = ds.assign_coords(valid_time=("time", TIMES, {"standard_name": "time"}))
    ds.time.attrs["standard_name"] = "forecast_reference_time"
    ds.t2m.attrs["standard_name"] = "unknown"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = analyse(ds)
    np.testing.assert_allclose(found.t2m, expected.t2m)
    assert all(found[name].identical(ds[name]) for name in ds.coords)
    late = ("time", TIMES + np.timedelta64(6, "h"), {"standard_name": "time"})
    with pytest.warns(UserWarning, match="'time', the start of the forecast") as caught:
        found = analyse(ds.assign_coords(valid_time=late))
    np.testing.assert_allclose(found.t2m, expected.t2m)
    assert caught[0].filename == __file__


def test_calendars_of_models(expected: xr.Dataset) -> None:
    for calendar in ("standard", "noleap", "360_day"):
        times = xr.date_range(
            "2019-03-01", periods=3, freq="6h", calendar=calendar, use_cftime=True
        )
        found = analyse(FORECAST.assign_coords(time=times), OBS.assign_coords(time=times))
        np.testing.assert_allclose(found.t2m, expected.t2m, rtol=1e-12)
    # dates without cftime and the standard calendar are the same
    found = analyse(FORECAST.assign_coords(time=times), OBS.assign_coords(time=times))
    close(analyse(FORECAST, OBS.convert_calendar("standard", use_cftime=True)), expected)


# -- attributes and files -----------------------------------------------------------------------


def test_attributes_repeat_the_analysis() -> None:
    first = analyse(
        FORECAST.isel(member=[0, 1]),
        OBS.drop_vars("t2m_error"),
        seed=7,
        steps=(3, 5),
        t_min=0.3,
        guidance="dps-exact",
        strength=np.float32(0.5),
        obs_error={"t2m": np.float64(1.5)},
        operator={"t2m": "identity"},
        time_tolerance=datetime.timedelta(minutes=20),
        background_check=4,
    )
    keywords = json.loads(first.attrs["daisi_settings"])
    keywords |= {"seed": first.attrs["daisi_seed"]}
    again = assimilate(
        FORECAST.isel(member=[0, 1]), OBS.drop_vars("t2m_error"), PRIOR, device="cpu", **keywords
    )
    np.testing.assert_array_equal(again.t2m, first.t2m)
    different = {k: v for k, v in again.attrs.items() if first.attrs[k] != v}
    assert set(different) <= {"history"}
    assert json.loads(first.attrs["daisi_versions"])["xr_daisi"] == xr_daisi.__version__
    assert first.attrs["daisi_prior"] == "custom"
    assert "own" in first.attrs["daisi_prior_sha256"]


def test_functions_are_named_in_the_attributes() -> None:
    found = analyse(strength=lambda t: 1.0 - t, operator={"t2m": lambda state: state["t2m"]})
    settings = json.loads(found.attrs["daisi_settings"])
    assert settings["strength"] == "callable <lambda>"
    assert settings["operator"] == {"t2m": "callable <lambda>"}


def test_the_sha256_of_a_prior_with_a_known_network() -> None:
    history = forecast(members=1, times=np.arange(8).astype("datetime64[h]")).isel(member=0)
    prior = xr_daisi.train_prior(
        history.drop_vars("member"), steps=2, batch_size=2, width=8, progress=False, device="cpu"
    )
    found = analyse(prior=prior, steps=1, dtype="float32")
    assert found.attrs["daisi_prior_sha256"] == prior.sha256
    assert len(found.attrs["daisi_prior_sha256"]) == 64


def test_netcdf_there_and_back(tmp_path: Path) -> None:
    packed = {
        "t2m": {"dtype": "int16", "scale_factor": 0.001, "add_offset": 280.0, "_FillValue": -32768}
    }
    FORECAST.to_netcdf(tmp_path / "forecast.nc", encoding=packed)
    with xr.open_dataset(tmp_path / "forecast.nc") as ds:
        # 40 K from the scale's offset: an int16 with this scale cannot hold it
        found = analyse(ds, OBS.assign(t2m=OBS.t2m + 60.0))
        found.to_netcdf(tmp_path / "analysis.nc")
    assert abs(found.t2m - 280.0).max() > 32.8
    with xr.open_dataset(tmp_path / "analysis.nc") as again:
        xr.testing.assert_identical(again.load(), found.load())


def test_zarr_there_and_back(tmp_path: Path) -> None:
    FORECAST.chunk(time=1, member=2).to_zarr(tmp_path / "forecast.zarr", consolidated=False)
    ds = xr.open_zarr(tmp_path / "forecast.zarr", consolidated=False).chunk(time=2, member=4)
    found = analyse(ds)
    found.to_zarr(tmp_path / "analysis.zarr", consolidated=False)
    again = xr.open_zarr(tmp_path / "analysis.zarr", consolidated=False)
    xr.testing.assert_identical(again.compute(), found.compute())


# -- times and observations ---------------------------------------------------------------------


def test_each_time_gets_its_own_observations(expected: xr.Dataset) -> None:
    for i in range(3):
        close(analyse(obs=OBS.isel(time=[i])).isel(time=[i]), expected.isel(time=[i]))
    shuffled = OBS.isel(time=[1, 2, 0])
    close(analyse(obs=shuffled), expected)
    late = OBS.assign_coords(time=TIMES + np.timedelta64(80, "m"))
    close(analyse(obs=late), expected)
    with pytest.warns(NoObservationsWarning):
        analyse(obs=late, time_tolerance="1h")


def test_a_list_of_datasets(expected: xr.Dataset) -> None:
    parts = [OBS.isel(station=[0, 1]), OBS.isel(station=[2, 3])]
    close(analyse(obs=parts), expected)


def test_fields_and_points_are_the_same_observations() -> None:
    field = FORECAST.isel(member=0, drop=True).t2m.copy(data=np.full((3, 5, 6), np.nan))
    field[:, 1, 2], field[:, 4, 5] = 283.0, 276.0
    points = xr.Dataset(
        {"t2m": (("time", "p"), np.tile([283.0, 276.0], (3, 1)), {"units": "K"})},
        coords={"time": TIMES, "latitude": ("p", LAT[[1, 4]]), "longitude": ("p", LON[[2, 5]])},
    )
    close(
        analyse(obs=field.to_dataset(name="t2m"), obs_error=0.5), analyse(obs=points, obs_error=0.5)
    )


@pytest.mark.parametrize("dtype", ["f4", "f8", "i4"])
@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("celsius", [False, True])
def test_times_without_observations_are_the_forecast(dtype: str, lazy: bool, celsius: bool) -> None:
    ds = (in_celsius(FORECAST) if celsius else FORECAST).astype(dtype)
    obs = OBS.isel(time=[1])
    found = analyse(ds.chunk(member=2, time=2) if lazy else ds, obs)
    untouched = [0, 2]
    before, after = (x.t2m.isel(time=untouched).values for x in (ds, found))
    assert before.tobytes() == after.astype(before.dtype).tobytes()
    assert np.all(after == before)
    assert not np.all(found.t2m.isel(time=1) == ds.t2m.isel(time=1))


def test_missing_values_at_a_time_are_no_observations() -> None:
    obs = OBS.copy(deep=True)
    obs.t2m[1] = np.nan
    found = analyse(obs=obs)
    assert found.t2m.isel(time=1).identical(FORECAST.t2m.isel(time=1))
    lazily = analyse(obs=obs.chunk(time=1))
    assert lazily.t2m.isel(time=1).compute().equals(FORECAST.t2m.isel(time=1))


@pytest.mark.parametrize(
    "obs",
    [
        OBS.isel(station=[]),
        OBS.isel(time=[]),
        OBS * np.nan,
        OBS.assign_coords(latitude=OBS.latitude + 90.0),
        OBS.assign_coords(time=TIMES + np.timedelta64(365, "D")),
    ],
    ids=["no station", "no time", "missing", "elsewhere", "another year"],
)
def test_without_observations_warn_and_return_the_forecast(obs: xr.Dataset) -> None:
    with pytest.warns(NoObservationsWarning, match="no observation can be used") as caught:
        found = analyse(obs=obs)
    assert caught[0].filename == __file__
    xr.testing.assert_identical(found.drop_attrs(), FORECAST.drop_attrs())
    with pytest.warns(NoObservationsWarning) as caught:
        FORECAST.daisi.assimilate(obs, PRIOR, **QUICK)
    assert caught[0].filename == __file__


def test_background_check() -> None:
    obs = OBS.copy(deep=True)
    obs.t2m[1, 2] = 500.0
    with_check = analyse(obs=obs, background_check=5.0)
    without = obs.copy(deep=True)
    without.t2m[1, 2] = np.nan
    close(with_check, analyse(obs=without))
    assert np.abs(analyse(obs=obs).t2m - with_check.t2m).max() > 10.0
    lazily = analyse(FORECAST.chunk(member=1, time=1), obs, background_check=5.0)
    close(lazily.compute(), with_check)
    wild = obs.copy(deep=True)
    wild.t2m[1] = 500.0
    everything = analyse(obs=wild, background_check=5.0)
    assert everything.t2m.isel(time=1).equals(FORECAST.t2m.isel(time=1))


# -- seeds, settings, priors --------------------------------------------------------------------


def test_seeds(expected: xr.Dataset) -> None:
    assert analyse(seed=0).t2m.equals(expected.t2m)
    assert analyse(seed=np.int64(0)).t2m.equals(expected.t2m)
    assert not np.allclose(analyse(seed=1).t2m, expected.t2m, atol=1e-3)
    quiet = {"noise": 0.0, "inverse_noise": 0.0, "perturb_obs": False}
    assert analyse(seed=0, **quiet).t2m.equals(analyse(seed=1, **quiet).t2m)


def test_members_and_batches_do_not_matter(expected: xr.Dataset) -> None:
    for batch in (1, 3, 100):
        close(analyse(batch=batch), expected)
    # Of the published method; a bridge comes before it with all members together.
    whole = analyse(t_min=0.2)
    close(analyse(FORECAST.isel(member=[0, 1]), t_min=0.2), whole.isel(member=[0, 1]))


def test_settings_of_the_card_and_of_the_call() -> None:
    card = gaussian_prior(t_min=0.5, noise=0.0, inverse_noise=0.0)
    wanted = analyse(t_min=0.5, noise=0.0, inverse_noise=0.0)
    close(analyse(prior=card), wanted)
    assert json.loads(analyse(prior=card).attrs["daisi_settings"])["t_min"] == 0.5
    close(analyse(prior=card, t_min=0.2), analyse(t_min=0.2, noise=0.0, inverse_noise=0.0))
    assert Settings().t_min == "auto"


def test_dtypes_of_the_network() -> None:
    seen = set()

    def velocity(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        seen.add((x.dtype, t.dtype, tuple(t.shape)))
        assert (t == t[0]).all()
        return PRIOR.network(x, t)

    prior = FlowPrior.from_velocity(velocity, template(), mean=MEAN, std=STD)
    fixed: dict[str, Any] = {"t_min": 0.2, "bridge": "auto"}
    single = analyse(prior=prior, dtype="float32", batch=3, **fixed)
    assert seen == {(torch.float32, torch.float32, (n,)) for n in (3, 1)}
    seen.clear()
    double = analyse(prior=prior, dtype="float64", batch=4, **fixed)
    assert seen == {(torch.float64, torch.float64, (4,))}
    np.testing.assert_allclose(single.t2m, double.t2m, atol=1e-2)


def test_the_network_is_called_for_solver_and_guidance_alone() -> None:
    prior = gaussian_prior(t_min=0.2)  # "auto" looks for it with the network
    given = FORECAST.isel(time=[0]), OBS.isel(time=[0]), prior
    analyse(*given, bridge="auto", steps=(3, 4), time_tolerance="1h")
    assert prior.network.calls == 3 + 4
    prior.network.calls = 0
    analyse(*given, bridge="auto", steps=(3, 4), solver="heun")
    assert prior.network.calls == 2 * 3 + 2 * 4  # two a step
    prior.network.calls = 0
    analyse(*given, bridge="auto", solver="euler", batch=2, steps=3)
    assert prior.network.calls == 2 * (3 + 3)


def test_which_prior(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from xr_daisi import registry
    from xr_daisi.prior_choice import choose_prior

    monkeypatch.setattr(registry, "_SHIPPED", ())
    monkeypatch.setattr(registry, "_REGISTERED", {})
    one, two, three = (gaussian_prior(t_min=t) for t in (0.1, 0.2, 0.3))
    other = FlowPrior.from_velocity(lambda x, t: x, template(name="q", standard_name="q"))
    with pytest.raises(PriorError, match=r"none given.*train_prior"):
        choose_prior(FORECAST, None)
    xr_daisi.register_prior("other", other)
    with pytest.raises(PriorError, match=r"other: forecast variables: found 't2m', expected 'q'"):
        choose_prior(FORECAST, None)
    xr_daisi.register_prior("one", one)
    assert choose_prior(FORECAST, None) is one
    xr_daisi.register_prior("lost", tmp_path / "lost.safetensors")  # missing: skipped
    (tmp_path / "bad.safetensors").write_bytes(b"not a prior")
    xr_daisi.register_prior("bad", tmp_path / "bad.safetensors")  # damaged: skipped
    assert choose_prior(FORECAST, None) is one
    xr_daisi.register_prior("two", two)
    with pytest.raises(PriorError, match="2 registered priors that fit: one, two"):
        choose_prior(FORECAST, None)
    with xr_daisi.set_options(prior=three):
        assert choose_prior(FORECAST, None) is three
        named = FORECAST.assign_attrs(daisi_prior="two")
        assert choose_prior(named, None) is two
        assert choose_prior(named, "one") is one
        assert choose_prior(named, one) is one
        # what analyses with a network of the user's own carry
        assert choose_prior(FORECAST.assign_attrs(daisi_prior="custom"), None) is three
        assert choose_prior(FORECAST.assign_attrs(daisi_prior=two), None) is two
    with xr_daisi.set_options(prior="two"):
        assert choose_prior(FORECAST, None) is two
    with pytest.raises(PriorError, match="no file"):
        choose_prior(FORECAST.assign_attrs(daisi_prior=str(tmp_path / "gone.safetensors")), None)
    with pytest.raises(PriorError, match="no file"):
        choose_prior(FORECAST, "nowhere")
    with pytest.raises(DaisiTypeError, match="prior: found int"):
        choose_prior(FORECAST, 3)  # type: ignore[arg-type]
    with xr_daisi.set_options(prior=one):
        close(assimilate(FORECAST, OBS, **QUICK), analyse(prior=one))


# -- theory -------------------------------------------------------------------------------------


def test_t_min_near_one_keeps_the_forecast_and_zero_ignores_it() -> None:
    near = analyse(t_min=0.999, noise=0.0, inverse_noise=0.0, guidance="none")
    np.testing.assert_allclose(near.t2m, FORECAST.t2m, atol=1e-3)
    fresh = analyse(t_min=0.0)
    other = analyse(forecast(seed=9), t_min=0.0)
    np.testing.assert_array_equal(fresh.t2m, other.t2m)
    assert not np.allclose(analyse(forecast(seed=9)).t2m, analyse().t2m, atol=0.1)


def test_without_guidance_and_noise_members_come_back() -> None:
    how = {"guidance": "none", "noise": 0.0, "inverse_noise": 0.0, "t_min": 0.3}
    found = analyse(steps=40, solver="heun", **how)
    np.testing.assert_allclose(found.t2m, FORECAST.t2m, atol=2e-3 * STD)
    found = analyse(steps=80, **how)
    np.testing.assert_allclose(found.t2m, FORECAST.t2m, atol=4e-3 * STD)


def test_labelled_path_reproduces_the_kalman_posterior() -> None:
    """The whole map from noise to analysis is affine: its moments are found without sampling.

    Station observations between the nodes, in degC with errors in K, on a forecast whose latitudes
    ascend and whose units differ from the prior's.
    """
    n = LAT.size * LON.size
    members = n + 6
    obs = OBS.isel(time=[0]).drop_vars("t2m_error")
    obs["t2m"] = obs.t2m.copy(data=[[10.0, 3.0, 12.0, 5.0]]).assign_attrs(units="degC")
    ds = in_celsius(forecast(members=members, times=TIMES[:1])).sortby("latitude")
    found = analyse(
        ds,
        obs,
        t_min=0.0,
        noise=0.0,
        steps=60,
        guidance_iterations=4,
        obs_error=0.7,
        time_tolerance="1min",
    )
    x = found.t2m.isel(time=0).sortby("latitude", ascending=False).values.reshape(members, n)
    source = NoiseSource(0, "2019-03-01T00:00:00", range(members))
    z = initial_noise(source, (n,), torch.float64, "cpu").numpy()
    design = np.c_[np.ones(members), z]
    fit, *_ = np.linalg.lstsq(design, x, rcond=None)
    np.testing.assert_allclose(design @ fit, x, atol=1e-8)  # affine indeed
    h = []
    for i in range(4):
        at = obs.isel(station=i)
        unit = xr.DataArray(
            np.eye(n).reshape(n, LAT.size, LON.size),
            coords={"latitude": LAT, "longitude": LON},
            dims=("k", "latitude", "longitude"),
        )
        h.append(unit.interp(latitude=at.latitude, longitude=at.longitude).values)
    mean, spread = kalman(
        torch.full((n,), MEAN - 273.15, dtype=torch.float64),
        STD**2 * covariance(LAT.size, LON.size),
        torch.from_numpy(np.array(h)),
        torch.from_numpy(obs.t2m.values[0]),
        torch.full((4,), 0.7, dtype=torch.float64),
    )
    assert relative(torch.from_numpy(fit[0]), mean) < 0.01
    assert relative(torch.from_numpy(fit[1:].T @ fit[1:]), spread) < 0.02


def test_strong_dps_is_an_error_that_names_the_member() -> None:
    ds = FORECAST.isel(time=[0]).copy(deep=True)
    obs = OBS.isel(time=[0])
    with pytest.raises(
        DivergenceError, match=r"members \[0, 1, 2, 3\] at 2019-03-01T00:00:00"
    ) as e:
        analyse(ds, obs, guidance="dps", strength=1e6, time_tolerance="1h")
    for word in ("guidance='dps'", "strength=1e+06", "lower strength", "raise steps"):
        assert word in str(e.value)
    lazy = analyse(ds.chunk(member=2), obs, guidance="dps", strength=1e6, time_tolerance="1h")
    with pytest.raises(DivergenceError, match=r"members \[2, 3\]"):
        lazy.isel(member=[2, 3]).compute()


def test_divergence_says_nan_and_names_only_other_guidance() -> None:
    prior = FlowPrior.from_velocity(lambda x, t: x * torch.nan, FORECAST.isel(time=0, member=0))
    with pytest.raises(DivergenceError, match="found values that are NaN or infinite") as e:
        assimilate(FORECAST.isel(time=[0]), OBS.isel(time=[0]), prior, steps=2, time_tolerance="1h")
    assert "use guidance='mmps'" not in str(e.value)
    assert "lower strength or raise steps" in str(e.value)


# -- latents and samples ------------------------------------------------------------------------


def test_latents_are_labelled_and_lead_back() -> None:
    ds = FORECAST.transpose("latitude", "time", "longitude", "member").assign(other=1.0)
    keywords = {**QUICK, "t_min": 0.3, "inverse_noise": 0.0, "steps": 30, "solver": "heun"}
    latent = xr_daisi.invert(ds, PRIOR, **keywords)
    assert latent.t2m.dims == ds.t2m.dims
    assert list(latent.data_vars) == ["t2m"]
    assert latent.t2m.attrs == {"long_name": "latent temperature at t = 0.3", "units": "1"}
    assert json.loads(latent.attrs["daisi_settings"])["t_min"] == 0.3
    x = latent.t2m.transpose("time", "member", "latitude", "longitude").values[0][:, None]
    from xr_daisi.sampling import generate

    flow = PRIOR.flow(torch.device("cpu"), torch.float64)
    back = generate(flow, torch.from_numpy(x), t_min=0.3, steps=30, solver="heun").numpy()[:, 0]
    np.testing.assert_allclose(MEAN + STD * back, FORECAST.t2m[0], atol=1e-3 * STD)
    lazy = xr_daisi.invert(ds.chunk(member=1, time=2), PRIOR, **keywords)
    assert lazy.chunks
    xr.testing.assert_allclose(lazy.compute().drop_attrs(), latent.drop_attrs())


def test_latents_of_the_prior_are_standard_normal() -> None:
    ds = forecast(members=60, times=TIMES[:2])
    latent = xr_daisi.invert(
        ds, PRIOR, **{**QUICK, "t_min": 0.0, "inverse_noise": 0.0, "steps": 20}
    )
    assert abs(float(latent.t2m.mean())) < 0.1
    assert abs(float(latent.t2m.std()) - 1.0) < 0.1


def test_samples_of_the_prior() -> None:
    keywords = {"device": "cpu", "dtype": "float64", "steps": 20, "noise": 0.0}
    found = xr_daisi.sample(FORECAST, PRIOR, members=200, **keywords)
    assert found.t2m.dims == ("member", "latitude", "longitude")
    assert found.t2m.dtype == np.float32
    assert found.t2m.attrs["units"] == "K"
    np.testing.assert_array_equal(found.latitude, LAT)
    assert abs(float(found.t2m.mean()) - MEAN) < 1.0
    assert float(found.t2m.std()) == pytest.approx(STD, rel=0.1)
    few = xr_daisi.sample(prior=PRIOR, members=3, batch=2, **keywords)
    np.testing.assert_allclose(few.t2m, found.t2m[:3], rtol=1e-6)
    assert few.daisi.assimilate is not None
    levelled = xr_daisi.sample(prior=gaussian_prior(levels=True), members=2, steps=2)
    assert levelled.t2m.dims == ("member", "level", "latitude", "longitude")
    again = xr_daisi.invert(levelled, gaussian_prior(levels=True), **QUICK)
    assert again.t2m.shape == levelled.t2m.shape


def test_samples_can_be_written(tmp_path: Path) -> None:
    found = xr_daisi.sample(prior=PRIOR, members=2, steps=2)
    found.to_netcdf(tmp_path / "sample.nc")
    with xr.open_dataset(tmp_path / "sample.nc") as again:
        xr.testing.assert_identical(again.load(), found)


def test_engine_batches() -> None:
    engine = Engine(PRIOR, Settings())
    assert engine.batch_size == (1 << 17) // 30
    assert Engine(PRIOR, Settings(), batch=3).batch_size == 3
    assert math.isclose(Settings().noise, 0.008)
