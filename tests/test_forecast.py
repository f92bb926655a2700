"""Forecast models, and what becomes of models that return something else."""

from __future__ import annotations

import os
import sys
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any

import labelled as L
import numpy as np
import pytest
import torch
import xarray as xr

from xr_daisi import DaisiTypeError, ForecastError, SettingsError, StateError
from xr_daisi.forecast import (
    Climatology,
    Earth2StudioModel,
    ExternalModel,
    ForecastModel,
    Persistence,
    TorchModel,
    checked_forecast,
)

START, UNTIL = L.TIMES[0], L.TIMES[1]
HOUR = np.timedelta64(1, "h")


@pytest.fixture
def ensemble() -> xr.Dataset:
    return L.forecast(members=3, times=L.TIMES[:1])


def later(ensemble: xr.Dataset) -> xr.Dataset:
    return Persistence()(ensemble, UNTIL)


# -- the protocol and the simple models ------------------------------------------------------------


def test_any_callable_is_a_model(ensemble: xr.Dataset) -> None:
    assert isinstance(Persistence(), ForecastModel)
    assert isinstance(later, ForecastModel)


@pytest.mark.parametrize("scalar", [False, True])
def test_persistence_changes_the_label_alone(ensemble: xr.Dataset, scalar: bool) -> None:
    given = ensemble.isel(time=0) if scalar else ensemble
    before = given.copy(deep=True)
    forecast = Persistence()(given, UNTIL)
    assert np.asarray(forecast.time).item() == UNTIL.item()
    np.testing.assert_array_equal(forecast.t2m, given.t2m)
    L.unchanged(given, before)


def test_climatology_takes_the_time_asked_for(ensemble: xr.Dataset) -> None:
    states = L.forecast(members=1, seed=5).isel(member=0, drop=True)
    forecast = Climatology(states)(ensemble, UNTIL)
    for member in range(3):
        np.testing.assert_array_equal(forecast.t2m[0, member], states.t2m[1])
    checked_forecast(forecast, ensemble, UNTIL)


def test_climatology_with_members_gives_each_its_own(ensemble: xr.Dataset) -> None:
    states = L.forecast(members=3, seed=5).rename(member="realization")
    forecast = Climatology(states)(ensemble, UNTIL)
    np.testing.assert_array_equal(forecast.t2m[0], states.t2m[1])


def test_climatology_says_what_it_has(ensemble: xr.Dataset) -> None:
    with pytest.raises(ForecastError, match=r"0 states at 2020-01-01T00:00.*2019-03-01T12:00"):
        Climatology(L.forecast(members=3))(ensemble, np.datetime64("2020-01-01"))
    with pytest.raises(ForecastError, match="a time dimension"):
        Climatology(L.template())
    with pytest.raises(DaisiTypeError):
        Climatology(3)  # type: ignore[arg-type]


# -- checks ----------------------------------------------------------------------------------------


def test_a_good_forecast_comes_back_in_the_form_of_the_ensemble(ensemble: xr.Dataset) -> None:
    messy = later(ensemble).transpose("longitude", "member", "latitude", "time")
    messy = messy.isel(member=[2, 0, 1], latitude=slice(None, None, -1)).astype("float32")
    messy = messy.assign(extra=("x", [1.0]))
    messy["latitude"] = messy.latitude + 1e-7  # as written in single precision
    found = checked_forecast(messy, ensemble, UNTIL)
    expected = later(ensemble)
    xr.testing.assert_allclose(found, expected, rtol=1e-6)
    assert found.t2m.dtype == np.float64
    assert found.t2m.dims == ensemble.t2m.dims
    assert found.attrs == ensemble.attrs
    assert found.t2m.attrs == ensemble.t2m.attrs
    np.testing.assert_array_equal(found.latitude, ensemble.latitude)


def test_a_scalar_time_is_as_good_as_a_dimension(ensemble: xr.Dataset) -> None:
    scalar = ensemble.isel(time=0)
    for given in (ensemble, scalar):
        for returned in (later(ensemble), later(scalar)):
            found = checked_forecast(returned, given, UNTIL)
            assert found.t2m.dims == given.t2m.dims


def test_units_are_converted_and_their_absence_means_no_change(ensemble: xr.Dataset) -> None:
    found = checked_forecast(L.in_celsius(later(ensemble)), ensemble, UNTIL)
    np.testing.assert_allclose(found.t2m, ensemble.t2m.values, rtol=1e-12)
    bare = later(ensemble)
    bare["t2m"] = bare.t2m.drop_attrs()
    np.testing.assert_array_equal(checked_forecast(bare, ensemble, UNTIL).t2m, ensemble.t2m)


def with_values(ds: xr.Dataset, index: Any, value: float) -> xr.Dataset:
    out = ds.copy(deep=True)
    out.t2m.values[index] = value
    return out


BAD: dict[str, tuple[Any, str]] = {
    "variables": (lambda f: f.rename(t2m="t"), r"variables t, expected also t2m"),
    "time": (lambda f: f.assign_coords(time=[START]), r"2019-03-01T00:00, expected 2019-03-01T06"),
    "no time": (lambda f: f.isel(time=0, drop=True), r"no such coordinate.*assign_coords"),
    "times": (lambda f: xr.concat([f, f.assign_coords(time=[START])], "time"), r"2 times.*sel"),
    "members": (lambda f: f.isel(member=slice(2)), r"members: found 2 along 'member', expected 3"),
    "labels": (lambda f: f.assign_coords(member=[0, 1, 7]), r"other labels \(7\)"),
    "units": (lambda f: f.assign(t2m=f.t2m.assign_attrs(units="m")), r"units 'm'.*'K'"),
    "grid": (lambda f: f.assign_coords(latitude=f.latitude + 1), r"grid, 'latitude'.*55"),
    "size": (lambda f: f.isel(longitude=slice(3)), r"grid, 'longitude'.*3 along.*expected 6"),
    "dimensions": (lambda f: f.isel(member=0), r"dimensions \('time', 'latitude', 'longitude'\)"),
    "NaN": (lambda f: with_values(f, (0, 1, 2, 3), np.nan), r"NaN or infinite.*t2m in members 1"),
    "inf": (lambda f: with_values(f, (0, 2), np.inf), r"in members 2"),
}


@pytest.mark.parametrize("what", BAD)
def test_each_bad_output_is_named(ensemble: xr.Dataset, what: str) -> None:
    spoil, text = BAD[what]
    with pytest.raises(ForecastError, match=text):
        checked_forecast(spoil(later(ensemble)), ensemble, UNTIL)


def test_all_problems_at_once(ensemble: xr.Dataset) -> None:
    bad = later(ensemble).isel(member=slice(2), longitude=slice(3))
    with pytest.raises(ForecastError, match="2 problems") as caught:
        checked_forecast(bad, ensemble, UNTIL)
    assert "member" in str(caught.value)
    assert "longitude" in str(caught.value)


def test_no_dataset(ensemble: xr.Dataset) -> None:
    with pytest.raises(DaisiTypeError, match=r"DataArray.*model\(ensemble, until\)"):
        checked_forecast(ensemble.t2m, ensemble, UNTIL)


def test_holes_of_the_ensemble_may_stay(ensemble: xr.Dataset) -> None:
    land = ensemble.where(ensemble.latitude < 53)
    checked_forecast(later(land), land, UNTIL)


def test_members_that_are_not_finite_are_told_apart(ensemble: xr.Dataset) -> None:
    with pytest.raises(ForecastError) as caught:
        checked_forecast(with_values(later(ensemble), (0, 1), np.nan), ensemble, UNTIL)
    assert list(caught.value.failed) == [1]
    assert caught.value.survivors.member.values.tolist() == [0, 2]


def test_an_initial_ensemble_needs_one_time(ensemble: xr.Dataset) -> None:
    with pytest.raises(StateError, match="no time"):
        Persistence()(ensemble.isel(time=0, drop=True), UNTIL)
    with pytest.raises(StateError, match=r"3 times.*isel\(time=\[0\]\)"):
        Persistence()(L.forecast(), UNTIL)


# -- torch modules ---------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [None, 2])
def test_torch_model_steps_until_the_time(ensemble: xr.Dataset, batch: int | None) -> None:
    """x -> 0.9 x on normalised states is a relaxation towards the prior's mean."""
    model = TorchModel(
        lambda x: 0.9 * x, L.gaussian_prior(), step="2h", dtype=torch.float64, batch=batch
    )
    found = checked_forecast(model(ensemble, UNTIL), ensemble, UNTIL)
    expected = L.MEAN + 0.9**3 * (ensemble.t2m.values - L.MEAN)
    np.testing.assert_allclose(found.t2m, expected, rtol=1e-12)


def test_torch_model_on_physical_states_of_any_order_and_unit(ensemble: xr.Dataset) -> None:
    prior = L.gaussian_prior()
    model = TorchModel(lambda x: x + 1.0, prior.spec, step="6h", dtype=torch.float64)
    turned = L.in_celsius(ensemble).isel(latitude=slice(None, None, -1))
    turned = turned.transpose("longitude", "time", "member", "latitude")
    found = model(turned, UNTIL)
    assert found.t2m.dims == turned.t2m.dims
    np.testing.assert_allclose(found.t2m, turned.t2m.values + 1.0, rtol=1e-12)


def test_torch_model_keeps_holes(ensemble: xr.Dataset) -> None:
    land = ensemble.where(ensemble.latitude < 53)
    found = TorchModel(lambda x: x, L.gaussian_prior(), step="6h", dtype=torch.float64)(land, UNTIL)
    np.testing.assert_allclose(found.t2m, land.t2m, rtol=1e-12)


def test_a_module_goes_to_evaluation(ensemble: xr.Dataset) -> None:
    module = torch.nn.Dropout(0.5)
    model = TorchModel(module, L.gaussian_prior(), step="6h", dtype=torch.float64)
    np.testing.assert_allclose(model(ensemble, UNTIL).t2m, ensemble.t2m, rtol=1e-12)


def test_torch_model_says_what_does_not_fit(ensemble: xr.Dataset) -> None:
    prior = L.gaussian_prior()
    with pytest.raises(ForecastError, match="whole number of steps of 0 days 04:00:00"):
        TorchModel(lambda x: x, prior, step="4h")(ensemble, UNTIL)
    with pytest.raises(ForecastError, match=r"shape \(3, 1, 5, 3\), expected \(3, 1, 5, 6\)"):
        TorchModel(lambda x: x[..., :3], prior, step="6h")(ensemble, UNTIL)
    with pytest.raises(SettingsError, match="3 problems"):
        TorchModel(3, prior.spec, step="no", normalized=True)  # type: ignore[arg-type]
    with pytest.raises(DaisiTypeError, match="a FlowPrior or a StateSpec"):
        TorchModel(lambda x: x, 3, step="6h")  # type: ignore[arg-type]


# -- Earth2Studio ----------------------------------------------------------------------------------


class StandIn:
    """A prognostic model of Earth2Studio's documented form: adds an hour's worth per hour."""

    def __init__(self, step: int = 3, variables: tuple[str, ...] = ("t850", "t500")) -> None:
        self.step, self.variables = np.timedelta64(step, "h"), np.array(variables)

    def input_coords(self) -> OrderedDict[str, np.ndarray]:
        return OrderedDict(
            batch=np.empty(0),
            time=np.empty(0),
            lead_time=np.array([np.timedelta64(0, "h")]),
            variable=self.variables,
            lat=L.LAT,
            lon=L.LON,
        )

    def create_iterator(self, x: torch.Tensor, coords: OrderedDict[str, np.ndarray]) -> Any:
        assert x.shape == (*(len(v) for v in coords.values()),)
        coords = coords.copy()
        while True:
            yield x, coords
            coords = coords.copy()
            coords["lead_time"] = coords["lead_time"] + self.step
            # the first variable warms, the others stay
            x = x + torch.tensor([3.0] + [0.0] * (len(self.variables) - 1)).reshape(-1, 1, 1)


def test_earth2studio_form() -> None:
    ensemble = L.forecast(levels=True, members=3, times=L.TIMES[:1], dtype=np.float32)
    ensemble = ensemble.rename(t2m="t")
    before = ensemble.copy(deep=True)
    found = checked_forecast(Earth2StudioModel(StandIn())(ensemble, UNTIL), ensemble, UNTIL)
    np.testing.assert_allclose(found.t.sel(level=850), ensemble.t.sel(level=850) + 6.0)
    np.testing.assert_array_equal(found.t.sel(level=500), ensemble.t.sel(level=500))
    L.unchanged(ensemble, before)


def test_earth2studio_names_and_grid(ensemble: xr.Dataset) -> None:
    model = Earth2StudioModel(StandIn(variables=("t",)), variables={"t": "t2m"})
    found = model(ensemble.isel(time=0), UNTIL)
    np.testing.assert_allclose(found.t2m, ensemble.t2m[0] + 6.0, rtol=1e-6)
    with pytest.raises(ForecastError, match=r"t2m, expected also t850, t500.*variables="):
        Earth2StudioModel(StandIn())(ensemble, UNTIL)
    with pytest.raises(ForecastError, match=r"latitude: found 5 from 50 to 54, expected 5 from 54"):
        model(ensemble.isel(latitude=slice(None, None, -1)), UNTIL)
    with pytest.raises(ForecastError, match=r"2019-03-01T08:00, expected one at 2019-03-01T06"):
        Earth2StudioModel(StandIn(8, ("t",)), variables={"t": "t2m"})(ensemble, UNTIL)
    with pytest.raises(DaisiTypeError, match="without input_coords, create_iterator"):
        Earth2StudioModel(3)


# -- external programs -----------------------------------------------------------------------------

PROGRAM = """
import sys, time
import numpy as np, netCDF4
source, target, until, member = sys.argv[1:5]
action = sys.argv[5] if len(sys.argv) > 5 else ""
if action == "fail" and member == "1":
    print("reading", source)
    sys.exit("no convergence in step 7")
if action == "sleep" and member == "1":
    print("busy", file=sys.stderr, flush=True)
    time.sleep(60)
if action == "nothing" and member == "1":
    sys.exit(0)
old = netCDF4.Dataset(source)
new = netCDF4.Dataset(target, "w")
for name, dim in old.dimensions.items():
    new.createDimension(name, dim.size)
for name, variable in old.variables.items():
    made = new.createVariable(name, variable.dtype, variable.dimensions)
    made.setncatts({k: variable.getncattr(k) for k in variable.ncattrs() if k != "_FillValue"})
    if name == "time":
        made.units = "hours since 1970-01-01"
        made[...] = (np.datetime64(until) - np.datetime64("1970-01-01")) / np.timedelta64(1, "h")
    elif name == "t2m":
        spoilt = action == "nan" and member == "1"
        made[...] = variable[...] + int(member) + (np.nan if spoilt else 0)
    else:
        made[...] = variable[...]
new.close()
"""


@pytest.fixture
def program(tmp_path: Path) -> str:
    path = tmp_path / "model.py"
    path.write_text(PROGRAM, encoding="utf-8")
    return str(path)


def external(program: str, *more: str, **options: Any) -> ExternalModel:
    command = [sys.executable, program, "{input}", "{output}", "{until}", "{member}", *more]
    return ExternalModel(command, **{"directory": Path(program).parent / "work", **options})


@pytest.mark.parametrize("scalar", [False, True])
def test_external_program(program: str, ensemble: xr.Dataset, scalar: bool) -> None:
    given = ensemble.isel(time=0) if scalar else ensemble
    model = external(program, parallel=3)
    found = checked_forecast(model(given, UNTIL), given, UNTIL)
    assert found.t2m.dims == given.t2m.dims
    added = np.arange(3.0).reshape(-1, 1, 1)
    np.testing.assert_allclose(found.t2m, given.t2m.values + added, rtol=1e-12)
    assert list((Path(program).parent / "work").iterdir()) == []


def test_external_program_of_a_single_state(program: str, ensemble: xr.Dataset) -> None:
    given = ensemble.isel(member=2, drop=True)
    found = external(program)(given, UNTIL)
    np.testing.assert_allclose(found.t2m, given.t2m, rtol=1e-12)


FAILURES = {
    "fail": r"member 1: found exit status 1, kept in .*\nno convergence in step 7$",
    "nothing": r"member 1: found no output output.nc \(its folder has input.nc\).*it said nothing",
    "nan": r"member 1: found an output that cannot be used \(output.nc: found NaN",
}


@pytest.mark.parametrize("action", FAILURES)
def test_failures_of_a_program_are_named(program: str, ensemble: xr.Dataset, action: str) -> None:
    with pytest.raises(ForecastError, match=FAILURES[action]) as caught:
        external(program, action)(ensemble, UNTIL)
    assert list(caught.value.failed) == [1]
    assert caught.value.survivors.member.values.tolist() == [0, 2]
    (kept,) = (Path(program).parent / "work").iterdir()
    assert kept.name.startswith("member-1-")
    assert (kept / "input.nc").exists()


def test_a_program_that_takes_too_long_is_ended(program: str, ensemble: xr.Dataset) -> None:
    started = time.monotonic()
    with pytest.raises(
        ForecastError, match=r"no end after 5 s, expected a forecast; stderr ends with:\nbusy"
    ):
        external(program, "sleep", timeout=5, parallel=3, keep="never")(ensemble, UNTIL)
    assert time.monotonic() - started < 40
    assert list((Path(program).parent / "work").iterdir()) == []


def test_a_program_that_is_not_there(ensemble: xr.Dataset, tmp_path: Path) -> None:
    model = ExternalModel("no-such-program {input}", directory=tmp_path, keep="never")
    with pytest.raises(ForecastError, match=r"no way to start 'no-such-program' \(No such file"):
        model(ensemble, UNTIL)


def test_relative_files_of_the_command_are_found(
    program: str, ensemble: xr.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(program).parent)
    model = ExternalModel(f"{sys.executable} model.py {{input}} {{output}} {{until}} {{member}}")
    model(ensemble, UNTIL)
    assert model.configuration["command"][1] == "model.py"


def test_times_in_a_command(tmp_path: Path, ensemble: xr.Dataset) -> None:
    command = ["sh", "-c", "echo $0 $1 $HELLO >&2; exit 3", "{start}", "{until:%Y%m%d%H}"]
    model = ExternalModel(command, environment={"HELLO": "world"}, directory=tmp_path)
    with pytest.raises(ForecastError, match="2019-03-01T00:00:00 2019030106 world"):
        model(ensemble, UNTIL)


def test_what_a_command_cannot_be() -> None:
    with pytest.raises(SettingsError, match="5 problems") as caught:
        ExternalModel("model {inptu} {", timeout=-1, parallel=0, keep="some")  # type: ignore[arg-type]
    assert "{inptu}, expected only {input}, {output}" in str(caught.value)
    for command in ("", [], "model 'x"):
        with pytest.raises(SettingsError, match="a program and its arguments"):
            ExternalModel(command)


def test_a_signal_is_named(ensemble: xr.Dataset, tmp_path: Path) -> None:
    model = ExternalModel(["sh", "-c", "kill -9 $$"], directory=tmp_path, keep="never")
    with pytest.raises(ForecastError, match="an end by signal SIGKILL"):
        model(ensemble, UNTIL)
    assert os.listdir(tmp_path) == []
