"""Bad input: one clear error each, with the variable, what was found, expected, and the remedy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from labelled import LAT, QUICK, TIMES, forecast, gaussian_prior, stations, template, unchanged

import xr_daisi
from xr_daisi import (
    DaisiError,
    DaisiTypeError,
    FlowPrior,
    NoObservationsWarning,
    ObservationError,
    PriorError,
    SettingsError,
    StateError,
    UnitsError,
    assimilate,
)
from xr_daisi.state import Normalization, spec_from_dataset

PRIOR = gaussian_prior()
OTHER = FlowPrior.from_velocity(
    lambda x, t: x, template(name="so", standard_name="sea_water_salinity")
)
Change = Callable[[xr.Dataset], xr.Dataset]


def same(ds: xr.Dataset) -> xr.Dataset:
    return ds


def with_values(name: str, index: Any, value: float) -> Change:
    def change(ds: xr.Dataset) -> xr.Dataset:
        ds = ds.copy(deep=True)
        ds[name][index] = value
        return ds

    return change


def with_attrs(name: str, **attrs: Any) -> Change:
    return lambda ds: ds.assign({name: ds[name].assign_attrs(attrs)})


@dataclass
class Bad:
    """A way to go wrong, and what the message has to say."""

    kind: type[Exception]
    says: tuple[str, ...]
    forecast: Change = same
    obs: Callable[[xr.Dataset], Any] = same
    prior: Any = PRIOR
    keywords: dict[str, Any] = field(default_factory=dict)


BAD = {
    "wrong variables": Bad(
        PriorError,
        ("forecast variables", "found 'tp'", "expected 't2m'", "forecast.rename({'old': 't2m'})"),
        forecast=lambda ds: with_attrs("t2m", standard_name="rain")(ds).rename(t2m="tp"),
    ),
    "a prior for other variables": Bad(
        PriorError,
        ("found 't2m'", "expected 'so' (standard_name 'sea_water_salinity')", "use a prior for"),
        prior=OTHER,
    ),
    "units that do not convert": Bad(
        StateError,
        ("'t2m'", "found units 'm s-1'", "convert to 'K'", "attrs['units']"),
        forecast=with_attrs("t2m", units="m s-1"),
    ),
    "units of observations that do not convert": Bad(
        ObservationError,
        ("t2m", "found units 'hPa'", "expected units like 'K'", "attrs['units']"),
        obs=with_attrs("t2m", units="hPa"),
    ),
    "units of errors that do not convert": Bad(
        ObservationError,
        ("t2m_error", "found units 'hPa'", "expected units like 'K'", "attrs['units']"),
        obs=with_attrs("t2m_error", units="hPa"),
    ),
    "a finer grid": Bad(
        StateError,
        ("grid of the forecast", "found latitude: 9 points", "5 points", ".sel(latitude="),
        forecast=lambda ds: ds.interp(latitude=np.linspace(54, 50, 9)),
    ),
    "another resolution": Bad(
        StateError,
        ("found latitude: 8 points from 54 to 50", "expected the prior's", ".interp(latitude="),
        forecast=lambda ds: ds.interp(latitude=np.linspace(54, 50, 8)),
    ),
    "another area": Bad(
        StateError,
        ("from 74 to 70", "from 54 to 50", "does not cover", "use a prior for this area"),
        forecast=lambda ds: ds.assign_coords(latitude=LAT + 20),
    ),
    "other dimensions": Bad(
        StateError,
        (
            "horizontal dimensions of the forecast",
            "('node',)",
            "'latitude'",
            "a prior for this grid",
        ),
        forecast=lambda ds: ds.isel(longitude=0, drop=True).rename(latitude="node"),
    ),
    "a dimension too many": Bad(
        StateError,
        ("'t2m'", "'band'", "one or two horizontal", ".isel(band=0)"),
        forecast=lambda ds: ds.expand_dims(band=2),
    ),
    "missing coordinates": Bad(
        StateError,
        ("'longitude'", "no coordinate", "6 values from -3 to 2", "assign_coords(longitude="),
        forecast=lambda ds: ds.drop_vars("longitude"),
    ),
    "missing times": Bad(
        StateError,
        ("'time'", "no coordinate", "a time for each state", "assign_coords(time="),
        forecast=lambda ds: ds.drop_vars("time"),
    ),
    "missing coordinates of observations": Bad(
        ObservationError,
        ("no coordinate for the state's 'latitude'", "'lat'", "obs.assign_coords(latitude="),
        obs=lambda ds: ds.drop_vars("latitude"),
    ),
    "missing times of observations": Bad(
        ObservationError,
        ("t2m", "no time coordinate", "a time for every value", "assign_coords(time="),
        obs=lambda ds: ds.isel(time=0, drop=True),
    ),
    "several member dimensions": Bad(
        StateError,
        ("member dimension", "2 candidates", "'number', 'member'", "expected one", ".isel("),
        forecast=lambda ds: ds.expand_dims(number=2),
    ),
    "NaN in the forecast": Bad(
        StateError,
        ("'t2m'", "1 values that are NaN", "2019-03-01T06:00:00, member 2, latitude=54", "fill"),
        forecast=with_values("t2m", (1, 2, 0, 3), np.nan),
    ),
    "infinity in the forecast": Bad(
        StateError,
        (
            "'t2m'",
            "6 values",
            "member 0, latitude=51",
            "finite values",
            "forecast.dropna('member')",
        ),
        forecast=with_values("t2m", (0, 0, 3), np.inf),
    ),
    "NaN among the errors": Bad(
        ObservationError,
        ("t2m", "1 observation error(s) that are NaN", "time=1, station=2", "positive", "correct"),
        obs=with_values("t2m_error", (1, 2), np.nan),
    ),
    "errors of zero": Bad(
        ObservationError,
        ("t2m", "zero", "time=0, station=0", "a positive standard deviation", "correct the errors"),
        obs=with_values("t2m_error", 0, 0.0),
    ),
    "negative errors": Bad(
        ObservationError,
        ("t2m", "12 observation error(s)", "negative", "a positive standard deviation", "NaN"),
        obs=with_values("t2m_error", ..., -0.5),
    ),
    "no errors": Bad(
        ObservationError,
        ("t2m", "no observation error", "a standard deviation", "obs_error={'t2m': number}"),
        obs=lambda ds: ds.drop_vars("t2m_error"),
    ),
    "an error setting of zero": Bad(
        DaisiError,
        ("t2m", "obs_error 0", "a positive number"),
        obs=lambda ds: ds.drop_vars("t2m_error"),
        keywords={"obs_error": 0},
    ),
    "infinite observations": Bad(
        ObservationError,
        ("t2m", "1 infinite value", "station=3", "NaN where missing", "replace them"),
        obs=with_values("t2m", (2, 3), np.inf),
    ),
    "duplicate times": Bad(
        StateError,
        ("'time'", "2019-03-01T06:00:00", "twice", "each time once", "drop_duplicates('time')"),
        forecast=lambda ds: ds.assign_coords(time=TIMES[[0, 1, 1]]),
    ),
    "duplicate times of a station": Bad(
        ObservationError,
        ("t2m", "2019-03-01T06:00:00", "twice", "drop_duplicates"),
        obs=lambda ds: ds.assign_coords(time=TIMES[[0, 1, 1]]),
    ),
    "another calendar": Bad(
        ObservationError,
        ("time", "'noleap'", "expected dates", "convert_calendar"),
        obs=lambda ds: ds.convert_calendar("noleap", use_cftime=True),
    ),
    "observations of other variables": Bad(
        ObservationError,
        ("['so'", "none of them in the state", "['t2m']", "obs.rename"),
        obs=lambda ds: ds.rename(t2m="so", t2m_error="so_error"),
    ),
    "an operator for nothing": Bad(
        ObservationError, ("operator", "'q'", "'t2m'"), keywords={"operator": {"q": "log"}}
    ),
    "an unknown operator": Bad(
        ObservationError,
        ("t2m", "'cosine'", "'log'"),
        keywords={"operator": {"t2m": "cosine"}},
    ),
    "a DataArray": Bad(
        DaisiTypeError,
        ("forecast", "found DataArray", "expected an xarray.Dataset", ".to_dataset(name=...)"),
        forecast=lambda ds: ds.t2m,  # type: ignore[return-value, arg-type]
    ),
    "observations that are an array": Bad(
        DaisiTypeError, ("observations", "found ndarray", "a Dataset"), obs=lambda ds: ds.t2m.values
    ),
    "no observation Dataset": Bad(
        DaisiTypeError, ("observations", "found nothing", "a Dataset"), obs=lambda ds: []
    ),
    "a prior that is no prior": Bad(
        DaisiTypeError, ("prior", "found dict", "a FlowPrior, a path"), prior={"name": "sqg64"}
    ),
    "a prior file that is not there": Bad(
        PriorError, ("prior", "no file 'gone.safetensors'", "a URL"), prior="gone.safetensors"
    ),
    "t_min out of range": Bad(
        SettingsError, ("t_min", "found 1.0", "a number in [0, 1)"), keywords={"t_min": 1.0}
    ),
    "no steps": Bad(
        SettingsError, ("steps", "found 0", "a positive integer"), keywords={"steps": 0}
    ),
    "an unknown solver": Bad(
        SettingsError, ("solver", "found 'rk4'", "'heun', 'euler'"), keywords={"solver": "rk4"}
    ),
    "an unknown guidance": Bad(
        SettingsError, ("guidance", "found 'pgdm'", "'mmps'"), keywords={"guidance": "pgdm"}
    ),
    "an unknown method": Bad(
        SettingsError, ("method", "found 'magic'", "'daisi'"), keywords={"method": "magic"}
    ),
    "a seed that is no number": Bad(
        SettingsError, ("seed", "found 0.5", "an integer"), keywords={"seed": 0.5}
    ),
    "an empty batch": Bad(
        SettingsError, ("batch", "found 0", "a positive integer"), keywords={"batch": 0}
    ),
    "a batch in words": Bad(
        SettingsError, ("batch", "found 'all'", "or 'auto'"), keywords={"batch": "all"}
    ),
    "an unknown precision": Bad(
        SettingsError, ("dtype", "found 'int8'", "float32"), keywords={"dtype": "int8"}
    ),
    "an unknown device": Bad(
        SettingsError, ("device", "found 'gpu'", "'cuda'"), keywords={"device": "gpu"}
    ),
    "a background check of zero": Bad(
        SettingsError,
        ("background_check", "found 0", "a positive number"),
        keywords={"background_check": 0},
    ),
    "a tolerance without unit": Bad(
        DaisiTypeError,
        ("time_tolerance", "found 30", "'30min'", "name the unit"),
        keywords={"time_tolerance": 30},
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name: str) -> None:
    bad = BAD[name]
    ds, obs = bad.forecast(forecast()), bad.obs(stations())
    before = [x.copy(deep=True) if isinstance(x, xr.Dataset) else x for x in (ds, obs)]
    with pytest.raises(bad.kind) as error:
        assimilate(ds, obs, bad.prior, **{**QUICK, **bad.keywords})
    assert isinstance(error.value, (DaisiError, ValueError))
    message = str(error.value)
    for part in (*bad.says, ": found ", ", expected "):
        assert part in message, message
    for now, then in zip((ds, obs), before, strict=True):
        if isinstance(then, xr.Dataset):
            unchanged(now, then)


@pytest.mark.parametrize(
    "name", [n for n in BAD if n != "a DataArray" and "in the forecast" not in n]
)
def test_bad_input_is_found_before_anything_is_computed(name: str, raise_if_computes: Any) -> None:
    """What can be known without the values is said at once for lazy data too."""
    bad = BAD[name]
    ds = bad.forecast(forecast())
    with raise_if_computes(), pytest.raises(bad.kind):
        assimilate(ds.chunk(time=1), bad.obs(stations()), bad.prior, **{**QUICK, **bad.keywords})


def test_everything_wrong_is_said_at_once() -> None:
    ds = with_attrs("t2m", units="m")(forecast()).assign_coords(latitude=LAT + 20)
    with pytest.raises(StateError, match="2 problems") as error:
        assimilate(ds, stations(), PRIOR)
    assert "units 'm'" in str(error.value)
    assert "does not cover" in str(error.value)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda ds: ds.assign_coords(latitude=ds.latitude + 30.0),
            ("latitude: found 8", "50 to 54"),
        ),
        (
            lambda ds: ds.assign_coords(time=TIMES + np.timedelta64(9, "D")),
            ("time: found 2019-03-10", "expected 2019-03-01"),
        ),
    ],
)
def test_no_overlap_is_a_warning(change: Change, says: tuple[str, ...]) -> None:
    with pytest.warns(NoObservationsWarning) as caught:
        found = assimilate(forecast(), change(stations()), PRIOR, **QUICK)
    for part in says:
        assert part in str(caught[0].message)
    xr.testing.assert_equal(found, forecast())


def test_lines_for_larger_grids_can_be_run() -> None:
    for finer in (np.linspace(54, 50, 9), np.linspace(54, 50, 8), np.linspace(58, 48, 21)):
        whole = forecast().interp(latitude=finer, kwargs={"fill_value": "extrapolate"})
        with pytest.raises(StateError) as error:
            assimilate(whole, stations(), PRIOR, **QUICK)
        line = str(error.value).split("points: ")[-1]
        fitting = eval(line, {"forecast": whole, "prior": PRIOR, "np": np})
        assert assimilate(fitting, stations(), PRIOR, **QUICK).sizes["latitude"] == 5


def test_truncated_and_existing_prior_files(tmp_path: Path) -> None:
    history = forecast(members=1, times=np.arange(8).astype("datetime64[h]")).isel(
        member=0, drop=True
    )
    prior = xr_daisi.train_prior(
        history, steps=1, batch_size=2, width=8, progress=False, device="cpu"
    )
    whole, cut = tmp_path / "whole.safetensors", tmp_path / "cut.safetensors"
    prior.save(whole)
    cut.write_bytes(whole.read_bytes()[:-100])
    with pytest.raises(PriorError, match=r"cut.safetensors.*found.*expected.*damaged"):
        assimilate(forecast(), stations(), cut, **QUICK)
    with pytest.raises(FileExistsError):
        prior.save(whole)
    assert assimilate(forecast(), stations(), whole, **{**QUICK, "steps": 1}).sizes["member"] == 4


def test_values_below_what_the_prior_takes() -> None:
    """A prior of the logarithm of a quantity knows nothing below zero, in whatever units."""
    rain = template(name="tp", units="m", standard_name="precipitation_amount")
    scale = np.ones((1, 1, 1))
    prior = FlowPrior(
        lambda x, t: 0 * x,
        spec_from_dataset(rain),
        Normalization(0 * scale, scale, ("sqrt",)),
        card={"name": "rain"},
    )
    ds = forecast().rename(t2m="tp") * 0 + 1.0
    ds.tp.attrs["units"] = "mm"
    obs = stations().rename(t2m="tp", t2m_error="tp_error") * 0 + 1.0
    for name in obs.data_vars:
        obs[name].attrs["units"] = "mm"
    assimilate(ds, obs, prior, **{**QUICK, "guidance": "none"})
    ds.tp[2, 1, 0, 3] = -1e-3
    with pytest.raises(
        StateError,
        match=r"'tp': found 1 values below 0, first at time 2019-03-01T12:00:00, member 1, "
        r"latitude=54, longitude=0, expected at least 0 .*'sqrt'; clip",
    ):
        assimilate(ds, obs, prior, **QUICK)


def test_nan_on_a_level_is_found() -> None:
    ds = forecast(levels=True)
    ds.t2m[0, 0, 1, 2, 2] = np.nan
    obs = stations().assign_coords(level=("station", [850.0, 500.0, 850.0, 500.0]))
    with pytest.raises(StateError, match="member 0, level=500, latitude=52, longitude=-1"):
        assimilate(ds, obs, gaussian_prior(levels=True), **QUICK)


def test_unit_errors_are_of_both_kinds() -> None:
    assert issubclass(UnitsError, ObservationError)
    assert issubclass(UnitsError, StateError)
    assert issubclass(DaisiError, ValueError)
    assert issubclass(DaisiTypeError, TypeError)


@pytest.mark.parametrize("members", [0, -1, 2.5, True, "all"])
def test_samples_need_a_number(members: Any) -> None:
    with pytest.raises(SettingsError, match="members: found"):
        xr_daisi.sample(prior=PRIOR, members=members)


def test_samples_and_latents_check_their_input() -> None:
    with pytest.raises(DaisiTypeError, match="template: found DataArray"):
        xr_daisi.sample(forecast().t2m, PRIOR)  # type: ignore[arg-type]
    with pytest.raises(DaisiTypeError, match="forecast: found"):
        xr_daisi.invert(forecast().t2m, PRIOR)  # type: ignore[arg-type]
    with pytest.raises(StateError, match="NaN"):
        xr_daisi.invert(with_values("t2m", (0, 0, 0, 0), np.nan)(forecast()), PRIOR, **QUICK)
