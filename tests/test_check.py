"""The trust report: each kind of line passes, warns and fails; nothing is raised."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from labelled import (
    MEAN,
    STD,
    TIMES,
    forecast,
    gaussian_prior,
    in_celsius,
    stations,
    template,
    unchanged,
)

import xr_daisi
from xr_daisi import DaisiTypeError, FlowPrior, TrustReport, check
from xr_daisi.cli import main
from xr_daisi.files import write_file
from xr_daisi.trust_report import Line

PRIOR = gaussian_prior()
FORECAST, OBS = forecast(members=6), stations()
CPU: dict[str, Any] = {"device": "cpu", "dtype": "float64"}


def report(ds: Any = FORECAST, obs: Any = OBS, prior: Any = PRIOR, **options: Any) -> TrustReport:
    return ds.daisi.check(obs, prior, **CPU, **options)  # type: ignore[no-any-return]


def line(found: TrustReport, name: str) -> Line:
    return next(line for line in found.lines if line.name == name)


def test_what_fits_passes() -> None:
    found = report()
    assert found.verdict == "pass", str(found)
    names = [line.name for line in found.lines]
    assert names == [
        *("prior", "variables", "units", "grid", "ensemble", "missing values", "values of t2m"),
        *("inversion", "distribution", "observations", "departures of t2m", "errors of t2m"),
        "settings and cost",
    ]


def test_inputs_stay_as_they_are_and_lazy_ones_lazy() -> None:
    ds, obs = FORECAST.copy(deep=True), OBS.copy(deep=True)
    report(ds, obs)
    unchanged(ds, FORECAST)
    unchanged(obs, OBS)
    lazy = report(FORECAST.chunk(time=1, member=2), OBS.chunk(time=1))
    assert lazy.verdict == "pass", str(lazy)
    assert "first time" in line(lazy, "missing values").found


# -- values ---------------------------------------------------------------------------------------


def test_latents_of_states_of_the_prior_are_normal() -> None:
    """Members drawn from the prior have a mean square near 1, three times as wide ones 9."""
    ds = forecast(members=12, times=TIMES[:1])
    text = line(report(ds, members=12), "distribution").found
    low, high = _numbers(text)
    spread = np.sqrt(2 / 30)
    assert 1 - 4 * spread < low < high < 1 + 4 * spread
    wide = ds.assign(t2m=MEAN + 3 * (ds.t2m - MEAN))
    found = line(report(wide, members=12), "distribution")
    assert found.verdict in ("warn", "fail")
    np.testing.assert_allclose(_numbers(found.found), [9 * low, 9 * high], rtol=0.02)
    assert "members [0, 1, 2" in found.remedy
    smooth = line(report(ds * 0 + MEAN + 0.1 * (ds - MEAN)), "distribution")
    assert smooth.verdict == "fail"
    assert "smoother" in smooth.remedy


def test_latents_are_those_of_every_member() -> None:
    ds = forecast(members=12, times=TIMES[:1])
    factor = xr.where(ds.member == 7, 3.0, 1.0)
    odd = ds.assign(t2m=MEAN + factor * (ds.t2m - MEAN))
    found = report(odd)
    assert line(found, "inversion").found.endswith("(4 of 12 members)")
    assert line(found, "distribution").verdict in ("warn", "fail")
    assert "all 12 members" in line(found, "distribution").found
    assert line(found, "distribution").remedy.startswith("members [7] are rougher")


def test_states_of_few_values_vary_by_chance() -> None:
    """Of two values the mean square of normal numbers is often small or large."""
    one = xr.Dataset({"v": ("x", np.zeros(2))}, coords={"x": [0.0, 1.0]})
    prior = FlowPrior.from_velocity(
        lambda x, t: x * ((2 * t - 1) / (t**2 + (1 - t) ** 2)).reshape(-1, 1, 1), one
    )
    values = np.random.default_rng(0).normal(size=(100, 2))
    ds = xr.Dataset({"v": (("member", "x"), values)}, coords={"x": one.x})
    assert line(report(ds, None, prior), "distribution").verdict == "pass"
    far = line(report(ds * 5, None, prior), "distribution")
    assert far.verdict in ("warn", "fail")


def _numbers(text: str) -> list[float]:
    words = text.split("members ")[1].split(" (")[0].split(" to ")
    return [float(word) for word in words]


def test_too_few_steps_there_and_back() -> None:
    good = line(report(prior=PRIOR.with_settings(steps=20, t_min=0.1)), "inversion")
    poor = line(report(prior=PRIOR.with_settings(steps=1, t_min=0.05, solver="euler")), "inversion")
    assert good.verdict == "pass"
    assert poor.verdict in ("warn", "fail")
    assert "more steps" in poor.remedy


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t - 273.15, "degrees Celsius given as kelvin"),
        (lambda t: t + 273.15, "kelvin given as degrees Celsius"),
        (lambda t: t / 100, "given as Pa"),
        (lambda t: t * 1000, "a unit 1000 times smaller"),
        (lambda t: t * 7.0, "check its units"),
    ],
)
def test_wrong_units_are_guessed(change: Any, words: str) -> None:
    ds = FORECAST.assign(t2m=change(FORECAST.t2m).assign_attrs(FORECAST.t2m.attrs))
    found = line(report(ds), "values of t2m")
    assert found.verdict == "fail"
    assert words in found.remedy
    obs = OBS.assign(t2m=change(OBS.t2m).assign_attrs(units="K"))
    found = line(report(obs=obs), "departures of t2m")
    assert found.verdict == "fail"
    assert words.replace("its ", "") in found.remedy


def test_units_that_convert_pass_and_missing_ones_warn() -> None:
    assert report(in_celsius(FORECAST)).verdict == "pass"
    bare = FORECAST.assign(t2m=FORECAST.t2m.drop_attrs())
    assert line(report(bare), "units").verdict == "warn"
    found = line(report(obs=OBS.assign(t2m=OBS.t2m.drop_attrs())), "units of t2m")
    assert found.verdict == "warn"
    assert found.remedy.startswith("obs['t2m'].attrs['units'] = 'K'")


def test_bounds() -> None:
    one = template(name="q", standard_name="specific_humidity", units="1")
    prior = FlowPrior.from_velocity(lambda x, t: -x, one, mean=5e-3, std=2e-3)
    ds = one.expand_dims(member=6).copy(deep=True)
    ds.q.values[...] = np.random.default_rng(0).normal(5e-3, 1e-3, ds.q.shape)
    assert line(report(ds, None, prior), "bounds of q").verdict == "pass"
    ds.q.values[0, 0, :3] = -1e-3
    found = line(report(ds, None, prior), "bounds of q")
    assert (found.verdict, found.found) == ("warn", "3 negative values")


def test_missing_and_infinite_values() -> None:
    for value in (np.nan, np.inf):
        ds = FORECAST.copy(deep=True)
        ds.t2m[1, 2, 0, 0] = value
        found = report(ds)
        assert line(found, "missing values").verdict == "fail"
        assert "member 2" in line(found, "missing values").found
        assert line(found, "observations").verdict == "pass"  # the rest goes on
    holes = FORECAST.where(FORECAST.longitude < 1.5)
    assert "17 % holes" in line(report(holes), "missing values").found
    there = OBS.copy(deep=True)
    there["longitude"][:2] = 2.0
    assert "2 of the observations" in line(report(holes, there.isel(time=[0])), "in holes").found


def test_few_members() -> None:
    assert line(report(FORECAST.isel(member=[0, 1])), "ensemble").verdict == "warn"
    single = report(FORECAST.isel(member=0, drop=True))
    assert line(single, "ensemble").verdict == "warn"
    assert line(single, "departures of t2m").verdict == "pass"


# -- observations ---------------------------------------------------------------------------------


def test_coverage() -> None:
    far = OBS.assign_coords(latitude=OBS.latitude + 30)
    found = report(obs=far)
    assert line(found, "observations").verdict == "fail"
    assert "outside the grid" in line(found, "observations").found
    mostly = OBS.assign_coords(latitude=OBS.latitude + np.array([30, 30, 30, 0]))
    assert line(report(obs=mostly), "observations").verdict == "warn"
    found = report(obs=OBS.isel(time=[1]))
    assert line(found, "times without").found.startswith("2 of 3 times, the first 2019-03-01T00")
    assert line(report(obs=None), "observations").found == "none were given"


def test_departures_and_errors() -> None:
    biased = OBS.assign(t2m=(OBS.t2m + 6 * STD).assign_attrs(units="K"))
    assert line(report(obs=biased), "departures of t2m").verdict == "warn"
    for factor in (1e-3, 1e3):
        found = report(obs=OBS.assign(t2m_error=OBS.t2m_error * factor))
        assert line(found, "errors of t2m").verdict == "warn"
    directions = report(obs=OBS, obs_error={"t2n": 1.0})
    assert "did you mean 't2m'?" in line(directions, "observations").remedy


def test_departures_are_those_of_all_times() -> None:
    late = OBS.assign(
        t2m=(OBS.t2m + xr.where(OBS.time == TIMES[2], 60 * STD, 0.0)).assign_attrs(units="K"),
        t2m_error=OBS.t2m_error + xr.where(OBS.time == TIMES[1], 0.2, 0.0),
    )
    found = report(obs=late)
    assert line(found, "departures of t2m").verdict != "pass"
    assert "first" not in line(found, "departures of t2m").found
    assert line(found, "errors of t2m").found.startswith("observation errors 0.5 to 0.7, spread")
    # Of dask arrays only the first time is read, and the line says so.
    for lazy in (report(FORECAST.chunk(time=1), late), report(obs=late.chunk(time=1))):
        for name in ("departures of t2m", "errors of t2m"):
            assert line(lazy, name).verdict == "pass"
            assert "at the first time with observations" in line(lazy, name).found


def test_departures_know_the_background_check() -> None:
    shift = xr.DataArray([0.0, 0.0, 0.0, 50 * STD], dims="station")
    obs = OBS.assign(t2m=(FORECAST.t2m.mean().item() + 0 * OBS.t2m + shift).assign_attrs(units="K"))
    assert line(report(obs=obs), "departures of t2m").verdict != "pass"
    found = line(report(obs=obs, background_check=5), "departures of t2m")
    assert found.verdict == "pass"
    assert found.found.endswith("background_check=5 leaves out 3 of 12")
    obs = OBS.assign(t2m=(OBS.t2m - 273.15).assign_attrs(units="K"))
    found = line(report(obs=obs, background_check=5), "departures of t2m")
    assert found.verdict == "fail"
    assert "leaves out 12 of 12" in found.found
    assert "degrees Celsius" in found.remedy


def test_variables_that_are_not_used_are_named() -> None:
    obs = OBS.assign(other=OBS.t2m.assign_attrs(standard_name="air_temperature"))
    found = [one for one in report(obs=obs).lines if one.name == "observations"]
    assert [one.verdict for one in found] == ["pass", "warn"]
    assert "['other'] with the standard name of 't2m', not used" in found[1].found
    assert "operator={'other': 'identity'}" in found[1].remedy


# -- nothing is raised ----------------------------------------------------------------------------


def _without(name: str) -> xr.Dataset:
    return FORECAST.drop_vars(name)


BROKEN: dict[str, tuple[Any, Any, Any]] = {
    "no such variable": (_without("t2m"), OBS, PRIOR),
    "other units": (FORECAST.assign(t2m=FORECAST.t2m.assign_attrs(units="m s-1")), OBS, PRIOR),
    "fewer rows": (FORECAST.isel(latitude=slice(2)), OBS, PRIOR),
    "shifted grid": (FORECAST.assign_coords(latitude=FORECAST.latitude + 0.3), OBS, PRIOR),
    "no grid": (_without("latitude"), OBS, PRIOR),
    "times twice": (xr.concat([FORECAST, FORECAST], "time"), OBS, PRIOR),
    "no members": (FORECAST.isel(member=[]), OBS, PRIOR),
    "all missing": (FORECAST * np.nan, OBS, PRIOR),
    "no prior": (FORECAST, OBS, "nowhere"),
    "no prior file": (FORECAST, OBS, Path("nowhere.safetensors")),
    "another prior": (FORECAST, OBS, FlowPrior.from_velocity(lambda x, t: x, template(name="so"))),
    "a prior that fails": (
        FORECAST,
        OBS,
        FlowPrior.from_velocity(lambda x, t: x * np.nan, template()),
    ),
    "no observed variable": (FORECAST, OBS.rename(t2m="salt"), PRIOR),
    "no position": (FORECAST, OBS.drop_vars("latitude"), PRIOR),
    "no errors": (FORECAST, OBS.drop_vars("t2m_error"), PRIOR),
    "infinite observation": (FORECAST, OBS.where(OBS.t2m != OBS.t2m[0, 0], np.inf), PRIOR),
    "negative error": (FORECAST, OBS.assign(t2m_error=-OBS.t2m_error), PRIOR),
    "a table without columns": (FORECAST, pd.DataFrame({"time": [1]}), PRIOR),
    "no file": (FORECAST, "nowhere.nc", PRIOR),
    "empty": (FORECAST, OBS.isel(station=[]), PRIOR),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_broken_fails_and_says_what_to_do(case: str) -> None:
    ds, obs, prior = BROKEN[case]
    found = report(ds, obs, prior)
    assert found.verdict == "fail", str(found)
    failures = [one for one in found.lines if one.verdict == "fail"]
    assert all(one.found for one in failures)
    assert "Traceback" not in str(found)
    str(found), found._repr_html_()


def test_only_types_raise() -> None:
    with pytest.raises(DaisiTypeError, match="forecast: found ndarray"):
        check(np.zeros(3))  # type: ignore[arg-type]
    with pytest.raises(DaisiTypeError, match="prior: found int"):
        report(prior=3)


# -- what is shown --------------------------------------------------------------------------------


def test_table_html_and_frame() -> None:
    found = report(FORECAST.isel(member=[0]), OBS.rename(t2m="<b>"))
    text = str(found)
    assert max(map(len, text.splitlines())) <= 100
    assert text.splitlines()[-1].startswith("FAIL (")
    assert "\u2192" in found._repr_html_()
    assert "<b>" not in found._repr_html_()
    assert found.to_html().startswith("<!DOCTYPE html>")
    frame = found.to_dataframe()
    assert list(frame.columns) == ["name", "verdict", "found", "remedy"]
    assert len(frame) == len(found.lines) == sum(found.counts.values())


# -- the command ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("check")
    ds = forecast(
        members=6,
        times=np.arange(TIMES[0], TIMES[0] + np.timedelta64(24, "h"), np.timedelta64(1, "h")),
        dtype="f4",
    )
    history = ds.isel(member=0, drop=True)
    xr_daisi.train_prior(history, steps=2, width=8, progress=False, device="cpu").save(
        folder / "prior.safetensors"
    )
    write_file(ds.sel(time=TIMES), folder / "forecast.nc", overwrite=False)
    write_file(OBS, folder / "obs.nc", overwrite=False)
    celsius = FORECAST.assign(t2m=(FORECAST.t2m - 273.15).assign_attrs(units="K"))
    write_file(celsius, folder / "wrong.nc", overwrite=False)
    return folder


def test_the_command_prints_and_writes(
    files: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    page = tmp_path / "report.html"
    where = [str(files / name) for name in ("forecast.nc", "obs.nc")]
    options = ["--prior", str(files / "prior.safetensors"), "--device", "cpu"]
    status = main(["check", *where, *options, "--html", str(page)])
    out = capsys.readouterr().out
    assert status in (0, 1)
    assert status == ("FAIL" in out)
    assert "PASS  observations" in out
    assert page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert main(["check", *where, *options, "--html", str(page)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main(["check", *where, *options, "--html", "report.txt"]) == 2


def test_a_check_that_fails_has_a_status_of_its_own(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--prior", str(files / "prior.safetensors"), "--device", "cpu"]
    assert main(["check", str(files / "wrong.nc"), *options]) == 1
    assert "degrees Celsius given as kelvin" in capsys.readouterr().out
    assert main(["check", str(files / "none.nc"), *options]) == 2
    assert "no such file" in capsys.readouterr().err
