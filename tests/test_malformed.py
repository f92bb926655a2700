"""Malformed forecasts and observations: a specific error, or a documented rejection; never NaN."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cftime
import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from labelled import LAT, LON, QUICK, TIMES, forecast, gaussian_prior, stations, unchanged

from xr_daisi import DaisiError, ObservationError, OperatorError, assimilate, on_grid

PRIOR = gaussian_prior()
LEVELS = gaussian_prior(levels=True)
FORECAST = forecast()
OBS = stations().assign_coords(station=np.arange(4))

Make = Callable[[], Any]


def fc(change: Callable[[xr.Dataset], Any]) -> Make:
    return lambda: (change(FORECAST.copy(deep=True)), OBS, {})


def ob(change: Callable[[xr.Dataset], Any], **options: Any) -> Make:
    return lambda: (FORECAST, change(OBS.copy(deep=True)), options)


def value(name: str, index: Any, new: Any) -> Callable[[xr.Dataset], xr.Dataset]:
    def change(ds: xr.Dataset) -> xr.Dataset:
        ds[name][index] = new
        return ds

    return change


def attrs(name: str, **new: Any) -> Callable[[xr.Dataset], xr.Dataset]:
    return lambda ds: ds.assign({name: ds[name].assign_attrs(new)})


def line_up(ds: xr.Dataset) -> xr.Dataset:
    return ds.isel(time=0).drop_vars("time")


#: What goes wrong, how, and what the error says; a text alone is a reason in the counts.
ERRORS: dict[str, tuple[Make, str]] = {
    # forecasts
    "forecast: an array": (fc(lambda d: d.t2m.values), "forecast: found ndarray"),
    "forecast: a DataArray": (fc(lambda d: d.t2m), "to_dataset"),
    "forecast: no variable": (fc(lambda d: d.drop_vars("t2m")), "t2m"),
    "forecast: empty Dataset": (fc(lambda d: xr.Dataset()), "t2m"),
    "forecast: text": (fc(lambda d: d.assign(t2m=d.t2m.astype(str))), "t2m"),
    "forecast: complex": (fc(lambda d: d.assign(t2m=d.t2m + 1j)), "t2m"),
    "forecast: dates": (fc(lambda d: d.assign(t2m=d.t2m.astype("datetime64[ns]"))), "t2m"),
    "forecast: unknown unit": (fc(attrs("t2m", units="wibble")), "units 'wibble'"),
    "forecast: unit of a speed": (fc(attrs("t2m", units="m s-1")), "units 'm s-1'"),
    "forecast: NaN in one member": (fc(value("t2m", (0, 1, 0, 0), np.nan)), "member 1"),
    "forecast: NaN in all but one": (
        fc(value("t2m", (slice(None), slice(1, None), 2, 2), np.nan)),
        "member 0",
    ),
    "forecast: NaN at one time": (fc(value("t2m", (1, slice(None), 0, 0), np.nan)), "time"),
    "forecast: all NaN": (fc(lambda d: d * np.nan), "NaN"),
    "forecast: infinite": (fc(value("t2m", (0, 0, 0, 0), np.inf)), "infinite"),
    "forecast: longitudes shifted": (
        fc(lambda d: d.assign_coords(longitude=d.longitude + 0.4)),
        "grid of the forecast",
    ),
    "forecast: half the rows": (fc(lambda d: d.isel(latitude=slice(0, 2))), "grid"),
    "forecast: rows twice": (fc(lambda d: d.isel(latitude=[0, 1, 2, 2, 4])), "latitude"),
    "forecast: latitudes missing": (
        fc(lambda d: d.assign_coords(latitude=np.where(d.latitude > 53.5, np.nan, d.latitude))),
        "latitude",
    ),
    "forecast: latitudes as text": (
        fc(lambda d: d.assign_coords(latitude=list("abcde"))),
        "latitude",
    ),
    "forecast: no coordinates": (fc(lambda d: d.drop_vars(["latitude", "longitude"])), "latitude"),
    "forecast: two member dimensions": (fc(lambda d: d.expand_dims(realization=2)), "realization"),
    "forecast: a dimension too many": (fc(lambda d: d.expand_dims(lead=3)), "lead"),
    "forecast: no member": (fc(lambda d: d.isel(member=[])), "size of 0"),
    "forecast: no time": (fc(lambda d: d.isel(time=[])), "size of 0"),
    "forecast: times twice": (fc(lambda d: d.isel(time=[0, 0, 1])), "twice"),
    "forecast: time missing": (
        fc(lambda d: d.assign_coords(time=[TIMES[0], np.datetime64("NaT"), TIMES[2]])),
        "time",
    ),
    "forecast: times are numbers": (fc(lambda d: d.assign_coords(time=[0, 6, 12])), "time"),
    "forecast: a level too many": (
        lambda: (FORECAST.expand_dims(level=[850.0, 500.0]), OBS, {}),
        "level",
    ),
    # observations: what they are
    "obs: an array": (ob(lambda d: d.t2m.values), "observations: found ndarray"),
    "obs: nothing": (ob(lambda d: None), "observations: found NoneType"),
    "obs: empty list": (ob(lambda d: []), "observations: found nothing"),
    "obs: a number in the list": (ob(lambda d: [d, 3]), r"observations\[1\]: found int"),
    "obs: a path that is not there": (ob(lambda d: "nowhere.nc"), "no such file"),
    "obs: a nameless DataArray": (ob(lambda d: d.t2m.rename(None)), "without name"),
    "obs: a table without columns": (ob(lambda d: pd.DataFrame({"a": [1]})), "a column 'time'"),
    "obs: another variable": (ob(lambda d: d.rename(t2m="salt")), "none of them in the state"),
    "obs: no variable": (ob(lambda d: d[[]].set_coords([])), "no coordinate for the state's"),
    "obs: text": (ob(lambda d: d.assign(t2m=d.t2m.astype(str))), "convert them"),
    "obs: dates": (ob(lambda d: d.assign(t2m=d.t2m.astype("datetime64[ns]"))), "expected numbers"),
    "obs: infinite": (ob(value("t2m", (0, 0), -np.inf)), "1 infinite value"),
    "obs: far too large": (
        ob(value("t2m", (0, 0), 1e300)),
        "t2m: found 1 value(s) that no precision can hold with their errors, the first 1e+300",
    ),
    "obs: a fill value without _FillValue": (
        ob(value("t2m", (2, 1), 1e30)),
        "the first 1e+30 with an error of 0.5 at latitude=",
    ),
    "obs: a fill value like many others": (
        ob(value("t2m", (2, 1), -9999.0)),
        "errors, is t2m = -9999 with an error of 0.5 at latitude=",
    ),
    "obs: unknown unit": (ob(attrs("t2m", units="wibble")), "wibble"),
    "obs: unit of a length": (ob(attrs("t2m", units="km")), "'km'"),
    # observations: where and when
    "obs: no latitude": (ob(lambda d: d.drop_vars("latitude")), "latitude"),
    "obs: no position at all": (ob(lambda d: d.drop_vars(["latitude", "longitude"])), "longitude"),
    "obs: latitudes as text": (
        ob(lambda d: d.assign_coords(latitude=("station", list("abcd")))),
        "latitude",
    ),
    "obs: latitudes in metres": (ob(attrs("latitude", units="m")), "latitude"),
    "obs: two latitudes": (
        ob(
            lambda d: d.rename(latitude="y1").assign_coords(
                y1=("station", LAT[:4], {"standard_name": "latitude"}),
                y2=("station", LAT[:4], {"standard_name": "latitude"}),
            )
        ),
        "one coordinate",
    ),
    "obs: position of another dimension": (
        ob(lambda d: d.drop_vars("latitude").assign_coords(latitude=("k", LAT))),
        "latitude",
    ),
    "obs: a dimension without coordinate": (ob(lambda d: d.expand_dims(channel=2)), "channel"),
    "obs: no time for several": (ob(line_up), "no time coordinate"),
    "obs: time without dates": (ob(lambda d: d.drop_vars("time")), "'time' without coordinate"),
    "obs: times are numbers": (ob(lambda d: d.assign_coords(time=[0, 6, 12])), "numbers"),
    "obs: times are text": (ob(lambda d: d.assign_coords(time=["noon", "x", "y"])), "dates"),
    "obs: times twice": (ob(lambda d: d.isel(time=[0, 0, 1])), "twice"),
    "obs: another calendar": (
        ob(
            lambda d: d.assign_coords(
                time=[cftime.Datetime360Day(2019, 3, 1, h) for h in (0, 6, 12)]
            )
        ),
        "360_day",
    ),
    "obs: times that cannot be decoded": (
        ob(
            lambda d: d.drop_vars("time").assign(
                time=("time", [0, 1, 2], {"units": "days since never"})
            )
        ),
        "cannot be decoded",
    ),
    "obs: no level for a state with levels": (
        lambda: (forecast(levels=True), OBS, {"prior": LEVELS}),
        "no vertical coordinate",
    ),
    "obs: counts of a ragged array": (
        ob(
            lambda d: (
                d.stack(obs=("station", "time"))
                .reset_index("obs")
                .assign(n=("s", [5, 5], {"sample_dimension": "obs"}))
            )
        ),
        "add up to 10",
    ),
    "obs: bounds of another shape": (
        ob(
            lambda d: attrs("latitude", bounds="b")(
                attrs("longitude", bounds="b")(
                    attrs("t2m", cell_methods="area: mean")(d.assign(b=("station", LAT[:4])))
                )
            )
        ),
        "bounds",
    ),
    "obs: negative footprints": (
        ob(lambda d: d.assign(t2m_footprint=("station", [0.0, np.nan, -9.0, 3.0]))),
        "1 diameters that are negative or infinite, the first -9",
    ),
    "obs: infinite footprints": (
        ob(lambda d: d.assign(t2m_footprint=("station", [0.0, np.nan, np.inf, 3.0]))),
        "negative or infinite, the first inf",
    ),
    "obs: footprint of text": (ob(attrs("t2m", footprint="wide")), "footprint"),
    # observations: how well
    "error: none": (ob(lambda d: d.drop_vars("t2m_error")), "no observation error"),
    "error: zero": (ob(value("t2m_error", (1, 2), 0.0)), "NaN, zero, negative"),
    "error: NaN": (ob(value("t2m_error", (1, 2), np.nan)), "NaN, zero, negative"),
    "error: far too small": (ob(value("t2m_error", (1, 2), 1e-300)), "with an error of 1e-300"),
    "error: negative": (ob(value("t2m_error", (1, 2), -1.0)), "NaN, zero, negative"),
    "error: text": (ob(lambda d: d.assign(t2m_error=d.t2m_error.astype(str))), "t2m_error"),
    "error: other dimensions": (ob(lambda d: d.assign(t2m_error=("k", [1.0, 2.0]))), "t2m_error"),
    "error: other units": (ob(attrs("t2m_error", units="m")), "t2m_error"),
    "error: misspelt": (ob(lambda d: d, obs_error={"t2n": 1.0}), "did you mean 't2m'"),
    "error: covariance not square": (
        ob(lambda d: d.assign(t2m_error_covariance=(("station", "k"), np.ones((4, 3))))),
        "square",
    ),
    "error: correlation that is none": (
        ob(
            lambda d: d.assign(
                t2m_error_correlation=(("station", "k"), np.full((4, 4), 0.9) - 2 * np.eye(4))
            )
        ),
        "correlation",
    ),
    "error: length of text": (ob(lambda d: d, error_correlation={"t2m": "long"}), "error_correl"),
    "flags: without meaning": (
        ob(lambda d: d.assign(t2m_qc=("station", [1, 1, 2, 1]))),
        "flag_meanings",
    ),
    "flags: other dimensions": (ob(lambda d: d.assign(t2m_qc=("k", [1, 1]))), "t2m_qc"),
    "thin: text": (ob(lambda d: d, thin="much"), "thin"),
    "thin: negative": (ob(lambda d: d, thin=-5.0), "thin"),
    "bounds: reversed": (ob(lambda d: d, bounds={"t2m": (3, 1)}), "bounds"),
    # operators
    "operator: unknown": (ob(lambda d: d, operator={"t2m": "cube"}), "expected one of"),
    "operator: without its variables": (
        ob(lambda d: d, operator={"t2m": "wind_speed"}),
        "eastward_wind",
    ),
    "operator: returns NumPy": (
        ob(lambda d: d, operator={"t2m": lambda s: s["t2m"].detach().numpy()}),
        "torch functions",
    ),
    "operator: returns NaN": (
        ob(lambda d: d, operator={"t2m": lambda s: (s["t2m"] - 400).log()}),
        "NaN or infinite",
    ),
    "operator: another shape": (
        ob(lambda d: d, operator={"t2m": lambda s: s["t2m"].mean()}),
        "shape",
    ),
    "operator: raises": (ob(lambda d: d, operator={"t2m": lambda s: s["q"]}), "KeyError: 'q'"),
    "operator: without gradient": (
        ob(lambda d: d, operator={"t2m": lambda s: torch.ones_like(s["t2m"])}, t_min=0.2),
        "gradient",
    ),
    "operator: on the grid, another shape": (
        ob(lambda d: d, operator={"t2m": on_grid(lambda s: s["t2m"][..., 1:])}),
        "shape",
    ),
}

REJECTED: dict[str, tuple[Make, str]] = {
    "value missing": (ob(value("t2m", (0, 0), np.nan)), "missing value"),
    "position missing": (
        ob(lambda d: d.assign_coords(latitude=d.latitude.where(d.station != 0))),
        "missing coordinate",
    ),
    "time missing": (
        ob(lambda d: d.assign_coords(time=[TIMES[0], np.datetime64("NaT"), TIMES[2]])),
        "missing time",
    ),
    "infinite position": (
        ob(lambda d: d.assign_coords(longitude=d.longitude.where(d.station != 1, np.inf))),
        "missing coordinate",
    ),
    "outside the grid": (
        ob(lambda d: d.assign_coords(latitude=d.latitude.where(d.station != 1, 80.0))),
        "outside the grid",
    ),
    "latitude beyond the pole": (
        ob(lambda d: d.assign_coords(latitude=d.latitude.where(d.station != 1, 1234.0))),
        "outside the grid",
    ),
    "too early": (
        ob(lambda d: d.assign_coords(time=[TIMES[0] - np.timedelta64(9, "D"), *TIMES[1:]])),
        "too far from any forecast time",
    ),
    "bad flag": (
        ob(
            lambda d: d.assign(
                t2m_qc=(
                    "station",
                    [0, 1, 0, 0],
                    {"flag_values": [0, 1], "flag_meanings": "good bad"},
                )
            )
        ),
        "quality flag",
    ),
    "bad flag on an infinite value": (
        ob(
            lambda d: value("t2m", (slice(None), 1), np.inf)(
                d.assign(
                    t2m_qc=(
                        "station",
                        [0, 1, 0, 0],
                        {"flag_values": [0, 1], "flag_meanings": "good bad"},
                    )
                )
            )
        ),
        "quality flag",
    ),
    "left out": (ob(lambda d: d.assign(t2m_use=("station", [1, 0, 1, 1]))), "left out by the user"),
    "out of bounds": (
        ob(value("t2m", (0, 0), 1e6), bounds={"t2m": (180, 350)}),
        "outside its valid range",
    ),
    "far from the forecast": (
        ob(value("t2m", (0, 0), 1e6), background_check=20.0),
        "too far from the forecast",
    ),
    "twice": (ob(lambda d: [d, d.isel(station=[0])]), "duplicate"),
    "in a hole": (
        lambda: (
            FORECAST.where(FORECAST.longitude < 1.5),
            OBS.assign_coords(longitude=OBS.longitude.where(OBS.station != 0, float(LON[-1]))),
            {},
        ),
        "in a hole of the domain",
    ),
}


@pytest.mark.parametrize("case", [*ERRORS, *REJECTED])
def test_malformed_input(case: str) -> None:
    """Each of them is an error of its own, or leaves out just what is wrong."""
    make, says = {**ERRORS, **REJECTED}[case]
    ds, obs, options = make()
    prior = options.pop("prior", PRIOR)
    before = ds.copy(deep=True) if isinstance(ds, xr.Dataset) else None

    def run() -> Any:
        result = assimilate(ds, obs, prior, **QUICK, **options)
        return result.compute()

    if case in ERRORS:
        with pytest.raises(DaisiError) as caught:
            run()
        text = str(caught.value)
        assert says.replace("\\", "") in text, text
        assert "found" in text
        assert "expected" in text
    else:
        analysis = run()
        assert says in analysis.attrs["daisi_observations"]
        assert (analysis.t2m.isnull() == ds.t2m.isnull()).all()
        assert not analysis.t2m.identical(ds.t2m)  # the other observations were used
    if before is not None:
        unchanged(ds, before)


def test_there_are_enough_of_them() -> None:
    assert len(ERRORS) + len(REJECTED) >= 90


@pytest.mark.parametrize("bad", [np.nan, 1e300])
def test_one_bad_value_never_spoils_the_rest(bad: float) -> None:
    """Without it the analysis is the same, bit for bit."""
    spoilt = OBS.copy(deep=True)
    spoilt.t2m[1, 2] = bad
    clean = OBS.copy(deep=True)
    clean.t2m[1, 2] = np.nan
    found = assimilate(FORECAST, spoilt, PRIOR, background_check=50.0, **QUICK)
    expected = assimilate(FORECAST, clean, PRIOR, background_check=50.0, **QUICK)
    xr.testing.assert_equal(found.drop_attrs(), expected.drop_attrs())


def test_extreme_values_of_dask_arrays_are_refused_in_their_tasks() -> None:
    spoilt = value("t2m", (1, 2), 1e30)(OBS.copy(deep=True))
    lazy = assimilate(FORECAST.chunk(time=1), spoilt.chunk(), PRIOR, **QUICK)
    with pytest.raises(ObservationError, match=r"1 value\(s\).*first 1e\+30 with an error of 0.5"):
        lazy.compute()


def test_operators_that_are_none_of_torch_are_operator_errors() -> None:
    with pytest.raises(OperatorError):
        assimilate(FORECAST, OBS, PRIOR, operator={"t2m": lambda s: 1.0}, **QUICK)
