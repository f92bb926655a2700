"""Cycles: what they compute and store, how they go on, and what they refuse."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import cycle_runs as C
import labelled as L
import numpy as np
import pytest
import xarray as xr

import xr_daisi
from xr_daisi import (
    DaisiError,
    DaisiTypeError,
    ForecastError,
    NoObservationsWarning,
    ObservationError,
    SettingsError,
    StateError,
)
from xr_daisi.cycle_store import CycleStore
from xr_daisi.forecast import Persistence

SETTINGS: dict[str, Any] = {"steps": 2, "noise": 0.1, "dtype": "float64", "device": "cpu"}
GROUPS = ("background", "analysis", "scores")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of three cycles, not to be changed."""
    store = tmp_path_factory.mktemp("whole") / "cycles.zarr"
    C.run(store)
    return store


def opened(store: Path, group: str) -> xr.Dataset:
    return xr.open_zarr(store, group=group).load()


def same_cycles(store: Path, other: Path, count: int = C.CYCLES) -> None:
    for group in GROUPS:
        one, two = (opened(s, group).isel(time=slice(count)) for s in (store, other))
        xr.testing.assert_equal(one, two)


# -- what is computed ------------------------------------------------------------------------------


def test_a_cycle_is_forecast_and_analysis_in_turn(whole: Path) -> None:
    """Each step redone by hand, from the initial ensemble on."""
    ensemble = L.forecast(members=2, times=C.TIMES[:1], dtype=np.float32)
    obs, prior = L.stations(C.TIMES, n=3), L.gaussian_prior()
    background, analyses = opened(whole, "background"), opened(whole, "analysis")
    for number, time in enumerate(C.TIMES):
        if number:
            ensemble = C.drifting(ensemble, time).astype(np.float32)
        np.testing.assert_array_equal(background.t2m[number], ensemble.t2m[0])
        here = obs.sel(time=[time])
        analysis = xr_daisi.assimilate(ensemble, here, prior, progress=False, **SETTINGS)
        np.testing.assert_array_equal(analyses.t2m[number], analysis.t2m[0])
        (table,) = CycleStore.read_only(whole).tables("feedback", number)
        expected = xr_daisi.feedback(ensemble, here, analysis)
        np.testing.assert_array_equal(table.t2m_o_minus_a, expected.t2m_o_minus_a)
        ensemble = analysis
    assert background.t2m.dtype == np.float32


def test_scores_are_those_of_the_verification(tmp_path: Path) -> None:
    whole = tmp_path / "a.zarr"
    records: list[Any] = []
    C.run(whole, truth=C.TRUTH, on_cycle=records.append)
    scores = opened(whole, "scores")
    expected_crps = float(scores.crps.sel(stage="analysis", variable="t2m")[1])
    assert records[1].scores["analysis_crps"] == expected_crps
    for stage in ("background", "analysis"):
        expected = xr_daisi.verification.ensemble_scores(opened(whole, stage), C.TRUTH)
        for key in ("rmse", "crps", "ssr"):
            found = scores[key].sel(stage=stage, variable="t2m")
            np.testing.assert_allclose(found, expected[key], rtol=1e-6)
    assert scores.observations.values.tolist() == [3, 3, 3]
    assert scores.status.values.tolist() == [0, 0, 0]
    tables = [CycleStore.read_only(whole).tables("feedback", n)[0] for n in range(3)]
    for letter in "ba":
        rms = [np.sqrt(np.mean((t[f"t2m_o_minus_{letter}"] / t.t2m_error) ** 2)) for t in tables]
        np.testing.assert_allclose(scores[f"o_minus_{letter}"], rms, rtol=1e-12)


def test_every_group_says_where_it_comes_from(whole: Path) -> None:
    for group in GROUPS:
        attrs = xr.open_zarr(whole, group=group).attrs
        assert attrs["daisi_prior"] == "custom"
        assert attrs["daisi_seed"] == 0
        assert "torch" in json.loads(attrs["daisi_versions"])
        configuration = json.loads(attrs["daisi_cycle"])
        assert len(configuration["initial_sha256"]) == 64
        assert configuration["keywords"]["steps"] == 2
    record = CycleStore.read_only(whole).record(1)
    assert len(record["observations_sha256"]) == 64
    assert record["observations"]["used"] == 3
    assert record["time"] == "2019-03-01T06:00"


def test_the_result_is_lazy_and_inputs_stay(tmp_path: Path) -> None:
    ensemble = L.forecast(members=2, times=C.TIMES[:1])
    obs = L.stations(C.TIMES, n=3)
    before = ensemble.copy(deep=True), obs.copy(deep=True)
    found = C.run(tmp_path / "a.zarr", initial=ensemble, observations=obs, cycles=2)
    assert found.t2m.chunks is not None
    assert found.sizes["time"] == 2
    L.unchanged(ensemble, before[0])
    L.unchanged(obs, before[1])


def test_a_model_may_work_in_place(tmp_path: Path, whole: Path) -> None:
    def in_place(ensemble: xr.Dataset, until: np.datetime64) -> xr.Dataset:
        ensemble.t2m.values[...] = C.drifting(ensemble, until).t2m.values
        ensemble["time"] = [until]
        return ensemble

    C.run(tmp_path / "a.zarr", model=in_place)
    same_cycles(tmp_path / "a.zarr", whole)


def test_a_scalar_time_gives_models_a_scalar_time(tmp_path: Path, whole: Path) -> None:
    seen = []

    def model(ensemble: xr.Dataset, until: np.datetime64) -> xr.Dataset:
        seen.append(ensemble.t2m.dims)
        return C.drifting(ensemble.drop_vars("time"), until).isel(time=0, missing_dims="ignore")

    initial = L.forecast(members=2, times=C.TIMES[:1], dtype=np.float32).isel(time=0)
    C.run(tmp_path / "a.zarr", initial=initial, model=model)
    assert set(seen) == {("member", "latitude", "longitude")}
    same_cycles(tmp_path / "a.zarr", whole)


def test_on_cycle_gets_what_is_stored(tmp_path: Path) -> None:
    records: list[Any] = []
    store = tmp_path / "a.zarr"

    def tell(record: Any) -> None:
        assert CycleStore.read_only(store).finished == record.cycle + 1
        records.append(record)

    C.run(store, on_cycle=tell)
    assert [r.cycle for r in records] == [0, 1, 2]
    assert [r.time for r in records] == list(C.TIMES)
    assert records[1].status == "analysed"
    assert not records[1].resumed
    np.testing.assert_array_equal(records[1].analysis.t2m, opened(store, "analysis").t2m[[1]])
    assert "t2m_o_minus_a" in records[1].feedback
    assert records[1].scores["members"] == 2


def test_a_bar_shows_the_departures(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], whole: Path
) -> None:
    C.run(tmp_path / "a.zarr", progress=True)
    last = opened(whole, "scores").isel(time=-1)
    told = capfd.readouterr().err
    assert f"O-B {float(last.o_minus_b):.2f}, O-A {float(last.o_minus_a):.2f}" in told


# -- going on --------------------------------------------------------------------------------------


def runs(tmp_path: Path, kind: str, *points: str) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, C.__file__, str(tmp_path), kind, *points],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.slow
def test_killed_at_every_stage_it_ends_as_if_uninterrupted(tmp_path: Path) -> None:
    (found,) = runs(tmp_path, "stages")
    stages = 3 + len(xr_daisi.cycle_run.STAGES)
    assert found["statuses"] == [C.KILLED] * stages + [0]
    assert found["different"] == []


@pytest.mark.slow
def test_killed_at_any_write_it_ends_as_if_uninterrupted(tmp_path: Path) -> None:
    points = [f"{share:.3f}" for share in np.linspace(0.01, 0.999, 9)]
    for found in runs(tmp_path, "writes", *points):
        assert found["statuses"] == [C.KILLED, 0], found
        assert found["different"] == [], found


def test_stopped_at_some_stages_it_ends_as_if_uninterrupted(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The quick form of the next two: an exception in this process."""
    store = tmp_path / "a.zarr"
    for place in (("write scores", 0), ("write analysis", 1), ("finish", 1), ("analysis", 2)):

        def reached(stage: str, cycle: int, place: Any = place) -> None:
            if (stage, cycle) == place:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(xr_daisi.cycle_run, "reached", reached)
            with pytest.raises(KeyboardInterrupt):
                C.run(store)
        assert CycleStore.read_only(store).finished == place[1]
    C.run(store)
    assert C.tree(store) == C.tree(whole)


def test_more_cycles_continue(tmp_path: Path, whole: Path) -> None:
    store = tmp_path / "a.zarr"
    assert C.run(store, cycles=1).sizes["time"] == 1
    told: list[int] = []
    assert C.run(store, on_cycle=lambda r: told.append(r.cycle)).sizes["time"] == 3
    assert told == [1, 2]
    same_cycles(store, whole)
    assert C.run(store, cycles=2).sizes["time"] == 3  # nothing is taken away


def test_half_written_metadata_are_restored(tmp_path: Path, whole: Path) -> None:
    store = tmp_path / "a.zarr"
    C.run(store, cycles=2)
    (store / "analysis" / "t2m" / ".zarray").write_text('{"chunks": [1, ')
    (store / "analysis" / ".zmetadata").write_text("")
    (store / "analysis" / "t2m" / "2.0.0.0").write_bytes(b"rubbish")
    (store / "scores" / "members" / ".zarray").unlink()
    (store / "background" / "strange").mkdir()
    (store / "feedback" / "000002").mkdir()
    C.run(store)
    same_cycles(store, whole)
    assert not (store / "background" / "strange").exists()


def test_nothing_is_left_of_a_failure_before_the_first_cycle(tmp_path: Path, whole: Path) -> None:
    store = tmp_path / "a.zarr"
    with pytest.raises(ObservationError):
        C.run(store, observations=lambda time: L.stations().rename(t2m="unknown"), cycles=1)
    C.run(store)
    same_cycles(store, whole)


CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "seed": ({"seed": 1}, r"seed: found 0, expected 1"),
    "window": ({"window": "3h"}, r"window: found \"0 days 06:00:00\", expected \"0 days 03"),
    "keyword": ({"t_min": 0.5}, r"keywords.t_min: found none, expected 0.5"),
    "model": ({"model": Persistence()}, r"model: found .*drifting.*persistence"),
    "prior": ({"prior": L.gaussian_prior(t_min=0.4)}, r"prior.settings.t_min: found \"auto\""),
    "truth": ({"truth": C.TRUTH}, r"scored: found \[\], expected \[\"t2m\"\]"),
    "initial": (
        {"initial": L.forecast(members=2, times=C.TIMES[:1], seed=3, dtype=np.float32)},
        r"initial_sha256: found",
    ),
}


@pytest.mark.parametrize("what", CHANGES)
def test_another_configuration_is_refused(whole: Path, what: str) -> None:
    changes, text = CHANGES[what]
    before = C.tree(whole)
    with pytest.raises(SettingsError, match=text):
        C.run(whole, **changes)
    assert C.tree(whole) == before


def test_all_differences_are_told_and_overwrite_begins_anew(tmp_path: Path) -> None:
    store = tmp_path / "a.zarr"
    C.run(store, cycles=1)
    with pytest.raises(SettingsError, match="2 problems"):
        C.run(store, cycles=1, seed=1, steps=3)
    C.run(store, cycles=1, seed=1, steps=3, overwrite=True)
    assert xr.open_zarr(store, group="analysis").attrs["daisi_seed"] == 1


def test_other_observations_of_finished_cycles_are_refused(tmp_path: Path) -> None:
    store = tmp_path / "a.zarr"
    C.run(store, cycles=2)
    other = L.stations(C.TIMES, n=3)
    other.t2m[1, 0] += 1.0
    with pytest.raises(SettingsError, match=r"observations of cycle 1: found checksum"):
        C.run(store, observations=other)


def test_a_store_of_something_else_is_left_alone(tmp_path: Path) -> None:
    store = tmp_path / "a.zarr"
    L.forecast().to_zarr(store, zarr_format=2)
    with pytest.raises((FileExistsError, DaisiError)):
        C.run(store)
    with pytest.raises(DaisiError, match="no such store"):
        CycleStore.read_only(tmp_path / "b.zarr")
    xr.testing.assert_equal(xr.open_zarr(store), L.forecast())


def test_a_later_layout_is_refused(tmp_path: Path) -> None:
    store = tmp_path / "a.zarr"
    C.run(store, cycles=1)
    text = (store / ".zattrs").read_text()
    (store / ".zattrs").write_text(text.replace('"layout": 1', '"layout": 2'))
    with pytest.raises(DaisiError, match="layout 2, expected layout 1"):
        C.run(store)


def test_one_process_at_a_time(tmp_path: Path) -> None:
    store = tmp_path / "a.zarr"
    C.run(store, cycles=1)
    with (
        CycleStore.read_only(store).locked(),
        pytest.raises(DaisiError, match="another process that is writing"),
    ):
        C.run(store)


def test_other_versions_are_told(tmp_path: Path) -> None:
    store = tmp_path / "a.zarr"
    C.run(store, cycles=1)
    text = (store / ".zattrs").read_text()
    (store / ".zattrs").write_text(text.replace(f'"numpy": "{np.__version__}"', '"numpy": "1.0"'))
    with pytest.warns(UserWarning, match="found numpy 1.0, expected numpy"):
        C.run(store, cycles=2)


# -- observations ----------------------------------------------------------------------------------


def test_observations_of_any_order_and_form(tmp_path: Path, whole: Path) -> None:
    """Out of order in time; a function of time; files, one for all or one for each time."""
    obs = L.stations(C.TIMES, n=3)
    for n, time in enumerate(C.TIMES):
        obs.isel(time=[n]).to_netcdf(tmp_path / f"obs-{np.datetime_as_string(time, 'h')}.nc")
    forms: dict[str, Any] = {
        "order": obs.isel(time=[2, 0, 1]),
        "function": lambda time: obs.sel(time=[time]),
        "glob": str(tmp_path / "obs-*.nc"),
        "pattern": tmp_path / "obs-{time:%Y-%m-%dT%H}.nc",
    }
    for name, form in forms.items():
        cycles = C.CYCLES if name in ("function", "pattern") else None
        C.run(tmp_path / f"{name}.zarr", observations=form, cycles=cycles)
        same_cycles(tmp_path / f"{name}.zarr", whole)


def test_each_observation_is_used_once(tmp_path: Path) -> None:
    """Windows are half open: one in the middle between two analyses belongs to the earlier."""
    hours = np.array([-3, -2, 0, 3, 4, 9, 10], "timedelta64[h]")
    obs = L.stations(C.TIMES[0] + hours, n=1)
    store = tmp_path / "a.zarr"
    C.run(store, observations=obs, cycles=3)
    assert opened(store, "scores").observations.values.tolist() == [3, 2, 1]
    (table,) = CycleStore.read_only(store).tables("observations", 1)
    assert table.time.values.tolist() == (C.TIMES[0] + hours[4:6]).tolist()


def test_points_with_times_of_their_own(tmp_path: Path) -> None:
    points = L.stations(C.TIMES, n=3).stack(obs=("time", "station")).reset_index("obs")
    points = points.isel(obs=np.random.default_rng(0).permutation(9))
    store = tmp_path / "a.zarr"
    C.run(store, observations=points)
    assert opened(store, "scores").observations.values.tolist() == [3, 3, 3]


def test_several_datasets(tmp_path: Path) -> None:
    obs = L.stations(C.TIMES, n=3)
    records: list[Any] = []
    parts = [obs.isel(station=[0]), obs.isel(station=[1, 2], time=[0, 2])]
    C.run(tmp_path / "a.zarr", observations=parts, on_cycle=records.append)
    assert [r.scores["observations"] for r in records] == [3, 1, 3]
    assert [len(r.feedback) for r in records] == [2, 1, 2]


def test_repeated_points_count_once_and_are_told(tmp_path: Path) -> None:
    obs = L.stations(C.TIMES[:1], n=3).isel(time=0)
    C.run(tmp_path / "a.zarr", observations=obs.isel(station=[0, 1, 2, 1]))
    counts = CycleStore.read_only(tmp_path / "a.zarr").record(0)["observations"]
    assert counts["used"] == 3
    assert sum(counts.values()) == 4
    C.run(tmp_path / "b.zarr", observations=obs)
    one, two = (opened(tmp_path / f"{s}.zarr", "analysis").t2m for s in "ab")
    np.testing.assert_allclose(one, two, rtol=1e-6)


def test_repeated_times_of_a_series_are_refused_before_any_work(tmp_path: Path) -> None:
    obs = L.stations(C.TIMES, n=3)
    with pytest.raises(ObservationError, match=r"2019-03-01T06.* twice.*drop_duplicates"):
        C.run(tmp_path / "a.zarr", observations=obs.isel(time=[0, 1, 2, 1]))
    assert not (tmp_path / "a.zarr").exists()


def test_without_observations_the_analysis_is_the_background(tmp_path: Path) -> None:
    obs = L.stations(C.TIMES, n=3).isel(time=[0, 2])
    store = tmp_path / "a.zarr"
    records: list[Any] = []
    with pytest.warns(NoObservationsWarning, match=r"cycle 1, 2019-03-01T06:00.*background"):
        C.run(store, observations=obs, on_cycle=records.append)
    np.testing.assert_array_equal(
        opened(store, "analysis").t2m[1], opened(store, "background").t2m[1]
    )
    assert opened(store, "scores").status.values.tolist() == [0, 1, 0]
    assert records[1].feedback is None
    assert np.isnan(records[1].scores["o_minus_b"])
    assert CycleStore.read_only(store).record(1)["status"] == "no_observations"


def test_late_observations_do_not_change_the_past(tmp_path: Path) -> None:
    store, pattern = tmp_path / "a.zarr", tmp_path / "obs-{time:%H}.nc"
    with pytest.warns(NoObservationsWarning):
        C.run(store, observations=pattern, cycles=1)
    L.stations(C.TIMES[:1], n=3).to_netcdf(tmp_path / "obs-00.nc")
    with pytest.warns(UserWarning, match=r"observations of cycle 0: found some that came late"):
        C.run(store, observations=pattern, cycles=2)
    assert opened(store, "scores").observations.values.tolist() == [0, 0]


def test_observations_that_cannot_be(tmp_path: Path) -> None:
    store = tmp_path / "a.zarr"
    obs = L.stations(C.TIMES, n=3)
    with pytest.raises(ObservationError, match=r"no time among the coordinates.*function of time"):
        C.run(store, observations=obs.isel(time=0, drop=True))
    with pytest.raises(DaisiTypeError, match="a Dataset, a list of them"):
        C.run(store, observations=3)
    with pytest.raises(SettingsError, match=r"cycles: found none.*pass cycles="):
        C.run(store, observations=lambda time: obs)
    early = obs.isel(time=[0]).assign_coords(time=[C.TIMES[0] - np.timedelta64(24, "h")])
    with pytest.raises(DaisiError, match="observations that end at 2019-02-28T00:00"):
        C.run(store, observations=early)
    with pytest.raises(ObservationError, match="values of type int64"):
        C.run(store, observations=obs.assign_coords(time=[0, 1, 2]))
    assert not store.exists()


# -- policies --------------------------------------------------------------------------------------


def fails_in(label: int, cycle: int, how: str) -> Any:
    """A model whose member fails on the way to a cycle: NaN, or an exception."""

    def model(ensemble: xr.Dataset, until: np.datetime64) -> xr.Dataset:
        out = C.drifting(ensemble, until)
        if until == C.TIMES[cycle] and label in ensemble.member.values:
            if how == "raise":
                raise RuntimeError("CFL criterion violated\nat point 7")
            out["t2m"] = out.t2m.where(out.member != label)
        return out

    return model


INITIAL = L.forecast(members=3, times=C.TIMES[:1], dtype=np.float32)


@pytest.mark.parametrize("how", ["raise", "nan"])
def test_stop_names_the_cycle_and_keeps_those_before(tmp_path: Path, how: str) -> None:
    store = tmp_path / "a.zarr"
    text = {"raise": r"cycle 2: model .*CFL criterion violated", "nan": r"cycle 2:.*members 1,"}
    with pytest.raises(ForecastError, match=text[how]):
        C.run(store, initial=INITIAL, model=fails_in(1, 2, how))
    assert CycleStore.read_only(store).finished == 2


@pytest.mark.parametrize("how", ["raise", "nan"])
def test_a_member_is_dropped(tmp_path: Path, how: str) -> None:
    store = tmp_path / "a.zarr"
    records: list[Any] = []
    arguments: dict[str, Any] = {"initial": INITIAL, "model": fails_in(1, 1, how)}
    with pytest.raises(ForecastError):
        C.run(store, **arguments)
    with pytest.warns(UserWarning, match=r"member 1: found a failure on the way to .*goes on"):
        C.run(store, **arguments, on_failure="drop-member", on_cycle=records.append)
    assert [r.scores["members"] for r in records] == [2, 2]
    assert list(records[0].failed) == [1]
    analyses = opened(store, "analysis").t2m
    assert analyses.isnull().all(["latitude", "longitude"]).values.tolist() == [
        [False, False, False],
        [False, True, False],
        [False, True, False],
    ]
    assert "values" in CycleStore.read_only(store).record(1)["failed"]["1"] or how == "raise"
    # gone for good: also where another process goes on, and as if it had never been interrupted
    again = tmp_path / "b.zarr"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        C.run(again, **arguments, on_failure="drop-member", cycles=2)
    C.run(again, **arguments, on_failure="drop-member")
    same_cycles(again, store)


def test_the_last_member_cannot_be_dropped(tmp_path: Path) -> None:
    def broken(ensemble: xr.Dataset, until: np.datetime64) -> xr.Dataset:
        return C.drifting(ensemble, until) * np.nan

    with pytest.raises(ForecastError, match="cycle 1"):
        C.run(tmp_path / "a.zarr", model=broken, on_failure="drop-member")


def test_a_failed_analysis_may_be_the_forecast(tmp_path: Path) -> None:
    obs = L.stations(C.TIMES, n=3)

    def source(time: np.datetime64) -> xr.Dataset:
        here = obs.sel(time=[time])
        return here.drop_vars("t2m_error") if time == C.TIMES[1] else here

    store = tmp_path / "a.zarr"
    with pytest.raises(ObservationError):
        C.run(store, observations=source, cycles=3)
    assert CycleStore.read_only(store).finished == 1
    with pytest.warns(UserWarning, match=r"cycle 1, 2019-03-01T06:00: the analysis is the back"):
        C.run(store, observations=source, cycles=3, on_failure="forecast")
    np.testing.assert_array_equal(
        opened(store, "analysis").t2m[1], opened(store, "background").t2m[1]
    )
    assert opened(store, "scores").status.values.tolist() == [0, 2, 0]
    assert "t2m" in CycleStore.read_only(store).record(1)["reason"]


def test_a_mistake_in_the_settings_is_no_failure_to_survive(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="t_min"):
        C.run(tmp_path / "a.zarr", t_min=3.0, on_failure="forecast")


# -- arguments -------------------------------------------------------------------------------------


def test_all_wrong_settings_at_once(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="6 problems") as caught:
        C.run(
            tmp_path / "a.zarr",
            window=6,
            cycles=0,
            on_failure="ignore",
            model=3,
            seed=0.5,
            dry_run=True,
        )
    for name in ("window", "cycles", "on_failure", "model", "seed", "dry_run"):
        assert name in str(caught.value)
    assert not (tmp_path / "a.zarr").exists()


def test_unknown_keywords_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"tmin: found an unknown keyword.*'t_min'\?"):
        C.run(tmp_path / "a.zarr", tmin=0.1)
    assert not (tmp_path / "a.zarr").exists()


def test_a_store_without_finished_cycles_takes_another_configuration(
    tmp_path: Path, whole: Path
) -> None:
    with pytest.raises(SettingsError, match="method"):
        C.run(tmp_path / "a.zarr", method="none such")
    C.run(tmp_path / "a.zarr")
    assert C.tree(tmp_path / "a.zarr") == C.tree(whole)


def test_a_tolerance_beyond_the_window_contradicts_it(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"time_tolerance: .*at most half the window"):
        C.run(tmp_path / "a.zarr", time_tolerance="4h")


def test_initial_ensembles_that_cannot_be(tmp_path: Path) -> None:
    store = tmp_path / "a.zarr"
    good = L.forecast(members=2, times=C.TIMES[:1])
    with pytest.raises(StateError, match="repeated labels"):
        C.run(store, initial=good.assign_coords(member=[1, 1]))
    with pytest.raises(StateError, match="3 times"):
        C.run(store, initial=L.forecast())
    stacked = good.expand_dims(run=[0]).stack(number=("run", "member"))
    with pytest.raises(StateError, match="index of several levels"):
        C.run(store, initial=stacked)


def test_a_truth_needs_a_common_variable(tmp_path: Path) -> None:
    truth = L.forecast(members=1).isel(member=0, drop=True)
    with pytest.raises(StateError, match=r"truth: found variables u, expected some of t2m"):
        C.run(tmp_path / "a.zarr", truth=truth.rename(t2m="u"))
    with pytest.raises(StateError, match="'time', as the ensemble has"):
        C.run(tmp_path / "a.zarr", truth=truth.isel(time=0, drop=True))


def test_a_truth_may_end_before_the_cycles(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"truth: found none at 2019-03-01T06:00"):
        C.run(tmp_path / "a.zarr", truth=C.TRUTH.isel(time=[0, 2]))
    crps = opened(tmp_path / "a.zarr", "scores").crps
    assert np.isnan(crps).all(["stage", "variable"]).values.tolist() == [False, True, False]


# -- replay ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("cycle", [0, 1, -1])
def test_a_replay_is_identical(whole: Path, cycle: int) -> None:
    found = xr_daisi.replay(whole, cycle, prior=L.gaussian_prior())
    assert found.identical
    assert found.differences == {"t2m": 0.0}
    assert found.other_versions == {}
    assert "identical, bit for bit" in str(found)


def test_a_replay_after_members_were_lost(tmp_path: Path) -> None:
    store = tmp_path / "a.zarr"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        C.run(store, initial=INITIAL, model=fails_in(1, 1, "nan"), on_failure="drop-member")
    for cycle in range(3):
        assert xr_daisi.replay(store, cycle, prior=L.gaussian_prior()).identical


def test_a_replay_tells_what_differs(tmp_path: Path, whole: Path) -> None:
    found = xr_daisi.replay(whole, 1, prior=L.gaussian_prior(), steps=3)
    assert not found.identical
    assert found.intact
    assert found.differences["t2m"] > 0
    assert "different" in str(found)
    store = tmp_path / "a.zarr"
    C.run(store, cycles=1)
    with xr.open_zarr(store, group="analysis", consolidated=False) as ds:
        (ds.load() + 1).drop_encoding().to_zarr(store / "analysis", mode="r+", zarr_format=2)
    spoilt = xr_daisi.replay(store, 0, prior=L.gaussian_prior())
    assert not spoilt.intact
    np.testing.assert_allclose(spoilt.differences["t2m"], 1.0, rtol=1e-4)


def test_what_a_replay_needs(tmp_path: Path, whole: Path) -> None:
    with pytest.raises(DaisiError, match="cycle: found 7, expected a number from 0 to 2"):
        xr_daisi.replay(whole, 7)
    with pytest.raises(xr_daisi.PriorError, match=r"only in memory.*pass prior="):
        xr_daisi.replay(whole, 0)
    store = tmp_path / "a.zarr"
    C.run(store, cycles=1, operator={"t2m": lambda x: x["t2m"]})
    with pytest.raises(SettingsError, match="functions for operator of 't2m'"):
        xr_daisi.replay(store, 0, prior=L.gaussian_prior())
    again = {"operator": {"t2m": lambda x: x["t2m"]}}
    assert xr_daisi.replay(store, 0, prior=L.gaussian_prior(), **again).identical
