"""Feedback: what was used or rejected and why, and how far forecast and analysis are off."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from labelled import (
    LAT,
    LON,
    MEAN,
    QUICK,
    TIMES,
    forecast,
    gaussian_prior,
    in_celsius,
    stations,
    template,
    unchanged,
)

from xr_daisi import FlowPrior, StateError, assimilate, feedback, feedback_summary, withhold
from xr_daisi.errors import DaisiTypeError, NoObservationsWarning
from xr_daisi.observations import Status
from xr_daisi.state import Normalization, spec_from_dataset

PRIOR = gaussian_prior()
FORECAST = forecast()
OBS = stations()
REJECTED = len(Status)


def analyse(ds: xr.Dataset = FORECAST, obs: Any = OBS, prior: Any = PRIOR, **more: Any) -> Any:
    return assimilate(ds, obs, prior, **{**QUICK, **more})


def interpolated(ds: xr.Dataset, obs: xr.Dataset = OBS) -> xr.DataArray:
    """H by xarray's own interpolation, ``(member, time, station)``."""
    at = ds.t2m.interp(latitude=obs.latitude, longitude=obs.longitude)
    return at.transpose("member", "time", "station")


def test_numbers_are_those_of_a_direct_computation() -> None:
    analysis = analyse()
    before = FORECAST.copy(deep=True), OBS.copy(deep=True), analysis.copy(deep=True)
    found = feedback(FORECAST, OBS, analysis)
    for ds, copy in zip((FORECAST, OBS, analysis), before, strict=True):
        unchanged(ds, copy)
    np.testing.assert_allclose(found.t2m_forecast, interpolated(FORECAST), rtol=1e-12)
    np.testing.assert_allclose(found.t2m_analysis, interpolated(analysis), rtol=1e-12)
    departure = OBS.t2m - interpolated(analysis).mean("member")
    np.testing.assert_allclose(found.t2m_o_minus_a, departure, rtol=1e-8)
    np.testing.assert_allclose(found.t2m_o_minus_b, OBS.t2m - interpolated(FORECAST).mean("member"))
    np.testing.assert_array_equal(found.t2m_error, OBS.t2m_error)
    np.testing.assert_array_equal(found.t2m, OBS.t2m)
    assert (found.t2m_status == 0).all()
    assert float((found.t2m_o_minus_a**2).mean()) < 0.3 * float((found.t2m_o_minus_b**2).mean())


def test_it_is_labelled_like_the_observations(tmp_path: Path) -> None:
    obs = OBS.assign_coords(number=3).assign_attrs(source="buoys", history="old")
    obs.t2m.attrs["ancillary_variables"] = "t2m_error"
    found = feedback(FORECAST, obs, analyse(obs=obs))
    assert found.t2m_forecast.dims == ("member", "time", "station")
    assert found.t2m_o_minus_a.dims == obs.t2m.dims
    assert set(found.coords) == {"time", "latitude", "longitude", "number", "member"}
    assert found.attrs["source"] == "buoys"
    for name in ("t2m", "t2m_error", "t2m_forecast", "t2m_analysis", "t2m_o_minus_b"):
        assert found[name].attrs["units"] == "K"
    assert found.t2m.attrs["ancillary_variables"] == "t2m_error t2m_status"
    flags = found.t2m_status.attrs
    assert len(flags["flag_values"]) == len(flags["flag_meanings"].split())
    found.to_netcdf(tmp_path / "feedback.nc")
    with xr.open_dataset(tmp_path / "feedback.nc") as again:
        np.testing.assert_array_equal(again.t2m_status, found.t2m_status)


def test_what_became_of_each_value() -> None:
    obs = OBS.copy(deep=True)
    obs.t2m[0, 0] = np.nan
    obs.t2m[1, 1] = 500.0
    latitude = obs.latitude.values.copy()
    latitude[3] = 80.0
    obs = obs.assign_coords(latitude=("station", latitude))
    later = obs.isel(time=[0]).assign_coords(time=TIMES[:1] + np.timedelta64(100, "D"))
    obs = xr.concat([obs, later], "time")
    analysis = analyse(obs=obs, background_check=6.0)
    found = feedback(FORECAST, obs, analysis)
    names = found.t2m_status.attrs["flag_meanings"].split()
    meaning = dict(zip(found.t2m_status.attrs["flag_values"].tolist(), names, strict=True))
    words = [[meaning[int(code)] for code in row] for row in found.t2m_status]
    assert words[0] == ["missing_value", "used", "used", "outside_the_grid"]
    assert words[1][1] == "too_far_from_the_forecast"
    assert words[2] == ["used", "used", "used", "outside_the_grid"]
    assert words[3][1] == "too_far_from_any_forecast_time"
    # compared although rejected, so that one sees how far off it was
    assert float(found.t2m_o_minus_b[1, 1]) > 200.0
    assert np.isnan(found.t2m_o_minus_b[:, 3]).all()
    assert np.isnan(found.t2m_error[3]).all()
    assert float(found.t2m[1, 3]) == float(obs.t2m[1, 3])


def test_dask_on_every_side() -> None:
    wanted = feedback(FORECAST, OBS, analyse())
    lazy = analyse(FORECAST.chunk(time=2, member=1), OBS.chunk(station=2))
    found = feedback(FORECAST.chunk(time=1), OBS.chunk(station=2), lazy)
    assert not found.chunks
    xr.testing.assert_allclose(found, wanted, rtol=1e-12)


def test_a_lazy_analysis_is_computed_once() -> None:
    prior = gaussian_prior()
    lazy = analyse(FORECAST.chunk(time=-1), OBS, prior, t_min=0.2, bridge="auto")
    feedback(FORECAST, OBS, lazy)
    assert prior.network.calls == 3 * (4 + 4)


def test_missing_lazy_values_are_missing() -> None:
    obs = OBS.copy(deep=True)
    obs.t2m[2, 1] = np.nan
    found = feedback(FORECAST, obs.chunk(time=1), analyse(obs=obs.chunk(time=1)).compute())
    assert found.t2m_status.values[2].tolist() == [0, int(Status.MISSING), 0, 0]


def test_settings_are_remembered(tmp_path: Path) -> None:
    obs = OBS.drop_vars("t2m_error").assign_coords(time=TIMES + np.timedelta64(150, "m"))
    obs["squared"] = (obs.t2m**2).assign_attrs(units="K2")
    obs = obs.drop_vars("t2m")
    keywords = {"operator": {"squared": "square"}, "obs_error": 300.0, "time_tolerance": "160min"}
    ds = FORECAST.isel(time=[1])
    analysis = analyse(ds, obs, **keywords)
    analysis.to_netcdf(tmp_path / "analysis.nc")
    with xr.open_dataset(tmp_path / "analysis.nc") as again:
        found = feedback(ds, obs, again.load())
    assert (found.squared_status[1] == 0).all()
    assert (found.squared_status[0] != 0).all()
    np.testing.assert_array_equal(found.squared_error[1], 300.0)
    np.testing.assert_allclose(found.squared_forecast[:, 1], interpolated(ds)[:, 0] ** 2, rtol=1e-2)
    wider = feedback(ds, obs, analysis, obs_error=1.0, time_tolerance="10h")
    assert (wider.squared_status == 0).all()
    assert (wider.squared_error == 1.0).all()


def test_operators_see_the_prior_and_its_units() -> None:
    """Also where the forecast has other units and another name."""
    ds = in_celsius(FORECAST).rename(t2m="temperature").sortby("latitude")
    obs = OBS.rename(t2m="radiance", t2m_error="radiance_error")
    obs["radiance"] = (obs.radiance**2).assign_attrs(units="1")
    obs["radiance_error"] = (obs.radiance_error * 600.0).assign_attrs(units="1")
    operator = {"radiance": lambda state: state["t2m"] ** 2}
    analysis = analyse(ds, obs, operator=operator)
    found = feedback(ds, obs, analysis, operator=operator)
    np.testing.assert_allclose(found.radiance_forecast, interpolated(FORECAST) ** 2, rtol=1e-9)
    with pytest.raises(StateError, match=r"functions for radiance.*pass operator"):
        feedback(ds, obs, analysis)
    celsius = feedback(in_celsius(FORECAST), OBS, analyse(in_celsius(FORECAST)))
    np.testing.assert_allclose(celsius.t2m_forecast, interpolated(FORECAST), rtol=1e-12)
    assert celsius.t2m_forecast.attrs["units"] == "K"


def test_a_globe_has_no_seam_whatever_the_network() -> None:
    """Between the last and the first longitude there are values, unless the grid ends there."""
    lon = np.arange(-180.0, 180.0, 30.0)
    globe = template().isel(longitude=slice(1)).reindex(longitude=lon, fill_value=0.0)
    globe.t2m.attrs = template().t2m.attrs
    obs = xr.Dataset(
        {"t2m": ("p", [280.0, 280.0], {"units": "K"})},
        coords={"latitude": ("p", [52.0, 52.0]), "longitude": ("p", [170.0, 355.0])},
    )
    turned = (globe + MEAN).assign_coords(longitude=lon % 360).sortby("longitude")
    turned.t2m.attrs = globe.t2m.attrs
    part = {"longitude": slice(0, 11)}  # without 150 E, as from 180 W to 120 E
    cases = (
        (globe, turned, (), Status.USED),
        (globe, turned, ("longitude",), Status.USED),
        (globe.isel(part), (globe + MEAN).isel(part), (), Status.OUTSIDE_GRID),
    )
    for grid, states, periodic, status in cases:
        states.t2m.attrs = globe.t2m.attrs
        prior = FlowPrior.from_velocity(
            lambda x, t: 0 * x, grid, mean=MEAN, std=5.0, periodic=periodic
        )
        analysis = analyse(states, obs, prior, obs_error=1.0)
        found = feedback(states, obs, analysis)
        assert found.t2m_status.values.tolist() == [status, Status.USED]
        np.testing.assert_allclose(found.t2m_forecast[1], MEAN)


def test_lists_and_missing_dimensions() -> None:
    parts = [OBS.isel(station=[0]), OBS.isel(station=[1, 2, 3])]
    found = feedback(FORECAST, parts, analyse(obs=parts))
    whole = feedback(FORECAST, OBS, analyse())
    assert isinstance(found, list)
    joined = xr.concat(found, "station")
    np.testing.assert_allclose(joined.t2m_o_minus_b, whole.t2m_o_minus_b)
    ds, obs = FORECAST.isel(member=0, time=0, drop=True), OBS.isel(time=0, drop=True)
    one = feedback(ds, obs, analyse(ds, obs))
    assert one.t2m_forecast.dims == ("station",)
    np.testing.assert_allclose(one.t2m_o_minus_b, obs.t2m - one.t2m_forecast)


def test_positions_may_be_data_variables() -> None:
    obs = OBS.reset_coords(["latitude", "longitude"])
    found = feedback(FORECAST, obs, analyse(obs=obs))
    np.testing.assert_array_equal(found.latitude, OBS.latitude)


def test_nothing_used_shows_in_the_statuses() -> None:
    obs = OBS.assign_coords(latitude=OBS.latitude + 90.0)
    with pytest.warns(NoObservationsWarning):
        analysis = analyse(obs=obs)
    found = feedback(FORECAST, obs, analysis)
    assert (found.t2m_status == Status.OUTSIDE_GRID).all()
    assert found.t2m_forecast.dims == ("member", "time", "station")
    assert np.isnan(found.t2m_forecast).all()


def test_fields() -> None:
    field = template().t2m.expand_dims(time=TIMES).copy(data=np.full((3, 5, 6), np.nan))
    field[:, 2, 3] = 281.0
    obs = field.to_dataset(name="t2m")
    found = feedback(FORECAST, obs, analyse(obs=obs, obs_error=0.5))
    np.testing.assert_allclose(
        found.t2m_forecast[..., 2, 3], FORECAST.t2m.isel(latitude=2, longitude=3).T
    )
    assert int((found.t2m_status == 0).sum()) == 3
    np.testing.assert_array_equal(found.latitude, LAT)
    np.testing.assert_array_equal(found.longitude, LON)


def test_without_attributes_the_forecast_tells_the_state() -> None:
    analysis = analyse().drop_attrs(deep=False)
    found = feedback(FORECAST, OBS, analysis)
    np.testing.assert_allclose(found.t2m_forecast, interpolated(FORECAST))


def test_what_does_not_belong_together() -> None:
    analysis = analyse()
    with pytest.raises(StateError, match="analysis: found 2 times"):
        feedback(FORECAST, OBS, analysis.isel(time=[0, 1]))
    with pytest.raises(StateError, match="2019-03-01T12:00:00 among them"):
        feedback(FORECAST, OBS, analysis.isel(time=[2, 1, 0]))
    with pytest.raises(StateError, match="1 members, expected 4"):
        feedback(FORECAST, OBS, analysis.mean("member", keep_attrs=True))
    with pytest.raises(DaisiTypeError, match="analysis: found str"):
        feedback(FORECAST, OBS, "analysis.nc")  # type: ignore[arg-type]
    with pytest.raises(StateError, match=r"obs.rename\(member="):
        feedback(FORECAST, OBS.rename(station="member"), analysis)


def test_values_have_ranks_and_normalised_departures() -> None:
    found = feedback(FORECAST, OBS, analyse())
    assert set(np.unique(found.t2m_rank)) <= set(range(5))
    assert found.t2m_rank.dims == OBS.t2m.dims
    # noise of a tenth of the spread: most ranks are those without
    below = (found.t2m_forecast < found.t2m).sum("member")
    assert float((below == found.t2m_rank).mean()) > 0.7
    variance = 1.25 * found.t2m_forecast.var("member", ddof=1) + found.t2m_error**2
    expected = found.t2m_o_minus_b / np.sqrt(variance)
    np.testing.assert_allclose(found.t2m_normalized_o_minus_b, expected)
    part = feedback(FORECAST, OBS.isel(station=[3, 1]), analyse())
    np.testing.assert_array_equal(part.t2m_rank, found.t2m_rank.isel(station=[3, 1]))


def test_withheld_observations() -> None:
    obs = stations(n=6).assign_coords(station=list("abcdef"))
    used, withheld = withhold(obs, ["b", "e"])
    withheld = withheld.copy(deep=True)
    withheld.t2m[0, 0] = np.nan
    analysis = analyse(obs=used)
    found = feedback(FORECAST, withheld, analysis, withheld=True)
    assert found.t2m_status.values[:, 1].tolist() == [Status.WITHHELD] * 3
    assert found.t2m_status.values[0, 0] == Status.MISSING
    summary = feedback_summary([feedback(FORECAST, used, analysis), found], "station")
    assert summary["count"].values.tolist() == [[3, 0, 3, 3, 0, 3]]
    judged = feedback_summary(found, "station", status="withheld")
    assert judged["count"].values.tolist() == [[2, 3]]
    np.testing.assert_allclose(
        judged.o_minus_a_rms.values[0],
        np.sqrt((found.t2m_o_minus_a**2).mean("time")),
    )


def test_directions_depart_by_the_shorter_way() -> None:
    ds = FORECAST.rename(t2m="direction") * 0.0
    ds.direction[:] = np.array([350.0, 355.0, 5.0, 10.0])[:, None, None]
    attrs = {"units": "degree", "standard_name": "wind_from_direction"}
    ds.direction.attrs = attrs
    obs = OBS.rename(t2m="direction", t2m_error="direction_error")
    obs.direction[:] = 359.0
    obs.direction.attrs, obs.direction_error.attrs = attrs, {"units": "degree"}
    spec_like = template(name="direction", **attrs)
    prior = FlowPrior.from_velocity(lambda x, t: 0 * x, spec_like, mean=180.0, std=90.0)
    found = feedback(ds, obs, analyse(ds, obs, prior, guidance="none"))
    np.testing.assert_allclose(found.direction_o_minus_b, -1.0, atol=1e-9)
    summary = feedback_summary(found)
    np.testing.assert_allclose(summary.background_spread, np.std([-10, -5, 5, 10], ddof=1))


@pytest.mark.parametrize("units", ["degree", "rad", None])
def test_the_operator_says_what_goes_round(units: str | None, tmp_path: Path) -> None:
    """A direction needs no standard name: what assimilate wraps by, feedback does, too."""
    ds = (FORECAST.isel(time=[0]) * 0.0).rename(t2m="u10")
    angle = np.deg2rad([1.0, 2.0, 3.0, 4.0])[:, None, None]
    ds["v10"] = ds.u10 - 10.0 * np.cos(angle)
    ds["u10"] = ds.u10 - 10.0 * np.sin(angle)
    ds.u10.attrs, ds.v10.attrs = {"units": "m s-1"}, {"units": "m s-1"}
    like = ds.isel(time=0, member=0, drop=True)
    prior = FlowPrior.from_velocity(lambda x, t: 0 * x, like, mean=0.0, std=5.0)
    unit = np.pi / 180.0 if units == "rad" else 1.0
    obs = OBS.isel(time=[0]).rename(t2m="dd", t2m_error="dd_error")
    obs = obs * 0.0 + xr.Dataset({"dd": 355.0 * unit, "dd_error": 5.0 * unit})
    obs.dd.attrs = {"units": units, "daisi_period": 7.0} if units else {}
    obs.dd_error.attrs = {}
    found = feedback(ds, obs, analyse(ds, obs, prior, operator={"dd": "wind_direction"}))
    np.testing.assert_allclose(found.dd_o_minus_b, -7.5 * unit, rtol=1e-6)
    spread = np.sqrt(1.25 * np.var([1, 2, 3, 4], ddof=1) + 25.0)
    np.testing.assert_allclose(found.dd_normalized_o_minus_b, -7.5 / spread, rtol=1e-6)
    assert (found.dd_rank <= 2).all()
    found.to_netcdf(tmp_path / "feedback.nc")
    with xr.open_dataset(tmp_path / "feedback.nc") as again:
        for table in (found, again):
            summary = feedback_summary(table)
            wanted = np.std([1, 2, 3, 4], ddof=1) * unit
            np.testing.assert_allclose(summary.background_spread, wanted, rtol=1e-6)


def test_what_was_clipped_is_counted(tmp_path: Path) -> None:
    """Rain that the analysis would make negative, in other units than the prior's."""
    rain = template(name="tp", units="m", standard_name="precipitation_amount")
    scale = np.ones((1, 1, 1))
    prior = FlowPrior(
        lambda x, t: 0 * x + 1.0,  # forwards less of it, backwards more
        spec_from_dataset(rain),
        Normalization(0 * scale, scale, ("log1p",)),
        card={"name": "rain"},
    )
    ds = FORECAST.rename(t2m="tp") * 0.0 + 1.0
    ds.tp[:, 0, :2] = 0.0
    ds.tp.attrs["units"] = "mm"
    obs = OBS.rename(t2m="tp", t2m_error="tp_error") * 0.0 + 1.0
    for name in obs.data_vars:
        obs[name].attrs["units"] = "mm"
    obs = obs.isel(time=[0, 1])  # the last time stays as it is
    analysis = analyse(ds, obs, prior, guidance="none")
    dry = analysis.copy(deep=True)
    dry["tp"] = dry.tp.where(dry.member != 1, 0.0).assign_attrs(dry.tp.attrs)
    for chunks in ({}, {"time": 1}):
        found = feedback(ds.chunk(chunks) if chunks else ds, obs, dry)
        assert int(found.tp_at_bound_forecast) == 2 * 2 * 6
        at_bound = (dry.tp.isel(time=slice(2)) <= 1e-9).sum()
        assert int(found.tp_at_bound_analysis) == int(at_bound) >= 2 * 30
        assert found.tp_at_bound_analysis.attrs["values"] == 2 * 4 * 30
    assert "t2m_at_bound_forecast" not in feedback(FORECAST, OBS, analyse())
    found.to_netcdf(tmp_path / "feedback.nc")
    found.to_zarr(tmp_path / "feedback.zarr", consolidated=False)
    with xr.open_dataset(tmp_path / "feedback.nc") as again:
        assert int(again.tp_at_bound_analysis) == int(at_bound)
        assert int(feedback_summary(again).tp_at_bound_analysis) == int(at_bound)


def test_a_single_value_without_any_dimension() -> None:
    ds = forecast(times=TIMES[:1])
    obs = xr.Dataset({"t2m": 281.0}, {"latitude": 51.0, "longitude": 0.5, "time": TIMES[0]})
    found = feedback(ds, obs, analyse(ds, obs, obs_error=1.0))
    assert found.t2m_status.item() == 0
    assert found.t2m_forecast.dims == ("member",)
    assert 0 <= found.t2m_rank.item() <= 4
