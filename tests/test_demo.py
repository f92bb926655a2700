"""The demo: with a stand-in for its prior, and as it ships."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor

import xr_daisi.demo
from xr_daisi import FlowPrior
from xr_daisi.cli import main
from xr_daisi.demo import (
    INITIAL_NOISE,
    OBS_ERROR,
    check_demo,
    initial_ensemble,
    run_demo,
    sparse_observations,
    spun_up_states,
    write_demo,
)
from xr_daisi.errors import SettingsError
from xr_daisi.systems.sqg import to_dataset

STD = 8.0
QUICK: dict[str, Any] = {"members": 2, "cycles": 1, "lead_days": 0.25, "steps": 2, "device": "cpu"}


def velocity(x: Tensor, times: Tensor) -> Tensor:
    """Of the prior N(0, 1) at every point."""
    t = float(times[0])
    return x * ((2.0 * t - 1.0) / (t**2 + (1.0 - t) ** 2))


@pytest.fixture(scope="module")
def prior() -> FlowPrior:
    template = to_dataset(np.zeros((2, 64, 64)), dims=())
    return FlowPrior.from_velocity(velocity, template, std=STD, periodic=("y", "x"))


@pytest.fixture(scope="module")
def result(prior: FlowPrior) -> xr_daisi.demo.Demo:
    return run_demo(prior=prior, seed=3, **QUICK | {"cycles": 2})


def test_states_that_ship() -> None:
    states = spun_up_states()
    assert states.shape == (4, 2, 64, 64)
    assert np.isfinite(states).all()
    assert 6.0 < states.std() < 10.0


def test_everything_is_labelled(result: xr_daisi.demo.Demo) -> None:
    ensembles = {"time": 2, "member": 2, "level": 2, "y": 64, "x": 64}
    for ds in (result.forecast, result.analysis, result.free):
        assert ds.theta.sizes == ensembles
    assert result.truth.theta.sizes == {k: v for k, v in ensembles.items() if k != "member"}
    for ds in (result.forecast, result.analysis, result.free, result.truth):
        assert ds.theta.attrs["units"] == "K"
        assert ds.theta.attrs["standard_name"] == "air_potential_temperature"
        assert ds.attrs["Conventions"] == "CF-1.11"
        assert ds.level.values.tolist() == [0.0, 10000.0]
        assert np.isfinite(ds.theta).all()
        np.testing.assert_array_equal(ds.time, result.truth.time)
    assert (np.diff(result.truth.time) == np.timedelta64(3, "h")).all()
    assert result.forecast.member.attrs["standard_name"] == "realization"
    assert json.loads(result.analysis.attrs["daisi_observations"]) == {"used": 820}
    xr.testing.assert_equal(result.free.isel(time=0), result.forecast.isel(time=0))
    assert float(abs(result.free - result.forecast).theta.isel(time=1).max()) > 0.1


def test_what_was_chosen_is_told_for_every_time(
    prior: FlowPrior, result: xr_daisi.demo.Demo
) -> None:
    found = run_demo(prior=prior, seed=3, **QUICK | {"cycles": 2, "members": 4}).analysis
    chosen = json.loads(found.attrs["daisi_chosen"])
    assert [np.datetime64(t) for t in chosen] == list(found.time.values)
    assert "daisi_chosen" not in result.analysis.attrs  # of too few members to choose from


def test_one_point_in_twenty_is_observed(result: xr_daisi.demo.Demo) -> None:
    obs = result.obs
    assert obs.theta.sizes == {"time": 2, "station": 410}  # 5 % of 2 x 64 x 64
    assert len(np.unique(np.stack([obs.level, obs.y, obs.x], axis=1), axis=0)) == 410
    exact = result.truth.theta.sel(level=obs.level, y=obs.y, x=obs.x)
    errors = (obs.theta - exact).values
    assert errors.std() == pytest.approx(OBS_ERROR, rel=0.1)
    assert abs(errors.mean()) < 0.15
    assert abs(np.corrcoef(errors)[0, 1]) < 0.2
    assert (obs.theta_error == OBS_ERROR).all()
    assert result.feedback.theta_status.shape == (2, 410)
    assert (result.feedback.theta_status == 0).all()
    departures = abs(result.feedback[["theta_o_minus_b", "theta_o_minus_a"]]).mean()
    assert float(departures.theta_o_minus_a) < float(departures.theta_o_minus_b)


def test_observations_of_another_density() -> None:
    truth = to_dataset(
        spun_up_states()[:1], dims=("time",), times=np.array(["2000-01-01"], "M8[ns]")
    )
    obs = sparse_observations(truth, fraction=0.25, error=5.0, seed=1)
    assert obs.sizes["station"] == 2048
    assert float((obs.theta_error == 5.0).mean()) == 1.0


def test_initial_ensemble(prior: FlowPrior) -> None:
    """For N(0, std^2) at every point the noisy truth is carried back to that variance."""
    truth = torch.from_numpy(spun_up_states()[0])
    members = initial_ensemble(truth, prior, 8, seed=0)
    assert members.shape == (8, 2, 64, 64)
    # The truth with noise of 3.06 K, shrunk so that its variance is the prior's again.
    shrunk = 1.0 / np.sqrt(1.0 + (INITIAL_NOISE / STD) ** 2)
    mean, spread = members.mean(0), members.std(0, correction=1)
    assert torch.corrcoef(torch.stack([mean.flatten(), truth.flatten()]))[0, 1] > 0.98
    assert float(spread.square().mean().sqrt()) == pytest.approx(shrunk * INITIAL_NOISE, rel=0.02)
    assert float((mean - shrunk * truth).square().mean().sqrt()) == pytest.approx(
        shrunk * INITIAL_NOISE / np.sqrt(8), rel=0.05
    )
    torch.testing.assert_close(initial_ensemble(truth, prior, 3, seed=0), members[:3])
    assert not torch.allclose(initial_ensemble(truth, prior, 3, seed=1), members[:3])


def test_seed_decides(prior: FlowPrior) -> None:
    first, again, other = (run_demo(prior=prior, seed=seed, **QUICK) for seed in (1, 1, 2))
    xr.testing.assert_equal(first.analysis, again.analysis)
    xr.testing.assert_equal(first.obs, again.obs)
    assert float(abs(first.analysis - other.analysis).theta.max()) > 0.1


def test_progress_in_words_and_settings(prior: FlowPrior) -> None:
    lines: list[str] = []
    result = run_demo(prior=prior, advance=lines.append, t_min=0.4, trajectory=2, **QUICK)
    assert lines[0] == "an ensemble near the truth, then 0.25 days without observations"
    assert re.fullmatch(
        r"cycle 1/1: RMSE of the mean [\d.]+ K in the forecast, [\d.]+ K in the analysis", lines[1]
    )
    assert len(lines) == 2
    assert json.loads(result.analysis.attrs["daisi_settings"])["t_min"] == 0.4


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"members": 1}, "members: found 1, expected at least 2"),
        ({"cycles": 0}, "cycles: found 0, expected at least 1"),
        ({"trajectory": 4}, "trajectory: found 4, expected a number from 0 to 3"),
        ({"trajectory": -1}, "trajectory: found -1"),
    ],
)
def test_sizes_that_cannot_be(prior: FlowPrior, options: dict[str, int], expected: str) -> None:
    with pytest.raises(SettingsError, match=expected):
        run_demo(prior=prior, **QUICK | options)


def test_files_and_picture(result: xr_daisi.demo.Demo, tmp_path: Path) -> None:
    out = tmp_path / "new" / "demo"
    check_demo(out, members=2, cycles=2, overwrite=False)
    assert os.listdir(tmp_path) == []
    written = write_demo(result, out, overwrite=False)
    assert sorted(os.listdir(out)) == sorted(written)
    for name in ("truth", "forecast", "obs", "analysis", "feedback"):
        with xr.open_dataset(out / f"{name}.nc") as found:
            xr.testing.assert_allclose(found, getattr(result, name))
    assert (out / "analysis.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    with pytest.raises(FileExistsError, match="pass --overwrite"):
        check_demo(out, members=2, cycles=2, overwrite=False)
    check_demo(out, members=2, cycles=2, overwrite=True)
    (out / "truth.nc").unlink()
    for name in written[1:-1]:
        (out / name).unlink()
    with pytest.raises(FileExistsError, match=r"analysis\.png"):
        check_demo(out, members=2, cycles=2, overwrite=False)


def test_missing_packages_are_found_out_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr("xr_daisi.demo.importlib.import_module", missing)
    with pytest.raises(ImportError, match=r"matplotlib"):
        check_demo(tmp_path, members=2, cycles=1, overwrite=False)


def test_table(result: xr_daisi.demo.Demo) -> None:
    lines = result.table().splitlines()
    assert lines[0] == "2 analyses of 2 members, averages:"
    assert [line[:15].strip() for line in lines[2:]] == ["no assimilation", "forecast", "analysis"]


def test_command(
    prior: FlowPrior,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(xr_daisi.demo, "load_prior", lambda name: prior)
    monkeypatch.setitem(run_demo.__kwdefaults__, "lead_days", 0.25)
    out = tmp_path / "demo"
    tokens = ["demo", "--out", str(out), "--members", "2", "--cycles", "1", "--steps", "2"]
    assert main([*tokens, "--t-min", "0.3"]) == 0
    said, err = capsys.readouterr()
    assert err == ""
    assert "RMSE (K)" in said
    assert said.splitlines()[-1].startswith(f"{out}: truth.nc, forecast.nc, obs.nc, analysis.nc")
    with xr.open_dataset(out / "analysis.nc") as found:
        assert json.loads(found.attrs["daisi_settings"])["t_min"] == 0.3
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    assert main(tokens) == 2
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before


def test_as_it_ships(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "demo"
    tokens = ["--members", "4", "--cycles", "1", "--steps", "3", "--out", str(out)]
    assert main(["demo", *tokens, "--device", "cpu"]) == 0
    said, err = capsys.readouterr()
    assert err == ""
    table = {line[:15].strip(): line[15:].split() for line in said.splitlines() if line[:1] != " "}
    rmse = {name: float(table[name][0]) for name in ("no assimilation", "forecast", "analysis")}
    assert rmse["analysis"] < 0.95 * rmse["forecast"]
    assert sorted(os.listdir(out)) == [
        *("analysis.nc", "analysis.png", "feedback.nc", "forecast.nc", "obs.nc", "truth.nc"),
    ]
    with xr.open_dataset(out / "analysis.nc") as found:
        assert found.attrs["daisi_prior"] == "sqg64"
        assert found.theta.sizes["member"] == 4
