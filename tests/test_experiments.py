"""The runner of the published experiments, at the smallest size that exercises all of it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from torch import Tensor

import xr_daisi
from xr_daisi.systems import SQG

COLUMNS = ["experiment", "method", "seed", "cycle", "rmse", "crps", "ssr"]


@pytest.fixture(autouse=True)
def _examples_can_be_imported(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(repository))
    loaded = sys.modules.get("examples")
    if loaded is not None and not str(loaded.__file__).startswith(str(repository)):
        monkeypatch.delitem(sys.modules, "examples")


def velocity(x: Tensor, times: Tensor) -> Tensor:
    """Of the prior N(0, 1) at every point."""
    t = float(times[0])
    return x * ((2.0 * t - 1.0) / (t**2 + (1.0 - t) ** 2))


def sqg_prior() -> xr_daisi.FlowPrior:
    template = SQG().label(np.zeros((2, 64, 64)), dims=())
    return xr_daisi.FlowPrior.from_velocity(velocity, template, std=8.0, periodic=("y", "x"))


def run_sqg(out: Path, **options: Any) -> pd.DataFrame:
    from examples.experiments.sqg import run_sqg as run

    defaults: dict[str, Any] = {"members": 2, "cycles": 2, "steps": 2, "prior": sqg_prior()}
    defaults |= {"device": "cpu", "tell": lambda text: None}
    options = defaults | options
    return run(
        options.pop("experiments", ["sparse"]), options.pop("methods", ["daisi"]), out, **options
    ).frame()


# -- SQG ------------------------------------------------------------------------------------------


def test_a_row_per_cycle(tmp_path: Path) -> None:
    methods = ["daisi", "letkf", "ensf", "prior-only", "renoise"]
    frame = run_sqg(tmp_path, methods=methods)
    assert list(frame.columns) == COLUMNS
    assert list(dict.fromkeys(frame.method)) == methods
    assert frame.cycle.tolist() == [0, 1] * 5
    assert (frame.experiment == "sparse").all()
    assert np.isfinite(frame[["rmse", "crps", "ssr"]]).all(axis=None)
    assert (frame.crps < frame.rmse).all()


def test_rows_are_the_scores_of_the_stored_analyses(tmp_path: Path) -> None:
    """Root mean square over both levels and all points, in kelvin, against the truth of the run."""
    from xr_daisi.demo import spun_up_states

    frame = run_sqg(tmp_path, trajectory=3)
    stored = xr.open_zarr(tmp_path / "runs" / "sparse-daisi-0.zarr", group="analysis")
    truth = torch.from_numpy(spun_up_states()[3])
    for cycle in range(2):
        state = SQG().advance(truth, 3.0 * cycle).numpy()
        mean = stored.theta.isel(time=cycle).mean("member").values
        expected = np.sqrt(((mean - state) ** 2).mean())
        assert frame.rmse[cycle] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", ["noisy", "saturating", "multimodal"])
def test_every_experiment_runs(name: str, tmp_path: Path) -> None:
    frame = run_sqg(tmp_path, experiments=[name], methods=["daisi", "letkf"], cycles=1)
    assert frame.experiment.tolist() == [name] * 2
    assert np.isfinite(frame.rmse).all()


def test_resuming_gives_the_same_file(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run_sqg(whole, cycles=3)
    run_sqg(parts, cycles=1)
    run_sqg(parts, cycles=3)
    run_sqg(parts, cycles=3)
    text = (whole / "scores.csv").read_bytes()
    assert (parts / "scores.csv").read_bytes() == text
    # A crash after a cycle was stored, while its row was being written.
    (parts / "scores.csv").write_bytes(text[:-7])
    run_sqg(parts, cycles=3)
    assert (parts / "scores.csv").read_bytes() == text


def test_interrupted_between_cycles(tmp_path: Path) -> None:
    def stop(text: str) -> None:
        raise KeyboardInterrupt

    run_sqg(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run_sqg(tmp_path / "parts", tell=stop)
    assert (tmp_path / "parts" / "scores.csv").read_text().count("\n") == 2
    run_sqg(tmp_path / "parts")
    text = (tmp_path / "whole" / "scores.csv").read_bytes()
    assert (tmp_path / "parts" / "scores.csv").read_bytes() == text


def test_another_configuration_is_refused(tmp_path: Path) -> None:
    run_sqg(tmp_path)
    before = (tmp_path / "scores.csv").read_bytes()
    with pytest.raises(ValueError, match=r"members: found 2, expected 3.*steps: found 2, expected"):
        run_sqg(tmp_path, members=3, steps=3)
    with pytest.raises(ValueError, match=r"trajectory: found 0, expected 1"):
        run_sqg(tmp_path, trajectory=1)
    assert (tmp_path / "scores.csv").read_bytes() == before
    assert len(run_sqg(tmp_path, seed=1)) == 4  # another seed is another run of the same folder


def test_settings_are_the_published_ones() -> None:
    from examples.experiments.sqg import EXPERIMENTS, keywords

    assert keywords("daisi-published", EXPERIMENTS["noisy"], None) == {
        "method": "daisi",
        "steps": 100,
        "solver": "euler",
        "noise": 0.03,
        "inverse_noise": 0.03,
        "guidance": "dps-normalized",
        "t_min": 0.4,
        "strength": 10.0,
    }
    assert keywords("daisi", EXPERIMENTS["noisy"], 10) == {
        "method": "daisi",
        "t_min": "auto",
        "bridge": "auto",
        "steps": 10,
    }
    chosen = keywords("daisi-tuned", EXPERIMENTS["noisy"], 10)
    assert (chosen["steps"], chosen["solver"], chosen["guidance"]) == (10, "adams", "mmps")
    published = keywords("daisi-published", EXPERIMENTS["saturating"], None)
    assert (published["steps"], published["solver"]) == (100, "euler")
    assert (published["guidance"], published["guidance_iterations"]) == ("mmps", 1)
    assert published["strength"](0.25) == 15.0
    tuned = {name: keywords("letkf", e, 10) for name, e in EXPERIMENTS.items()}
    found = {name: (k["localization"], k["relaxation"]) for name, k in tuned.items()}
    assert found == {
        "noisy": (2500.0, 0.5),
        "sparse": (1500.0, 0.5),
        "saturating": (4500.0, 0.9),
        "multimodal": (2500.0, 0.5),
    }
    # The levels are 10 km apart and count as 1000 km.
    assert tuned["sparse"]["vertical_localization"] == 15e3
    theta = {"theta": torch.tensor([7.0, -14.0])}
    operator: Any = EXPERIMENTS["multimodal"].operator
    assert operator(theta).tolist() == [1.0, 4.0]


def test_methods_share_truth_observations_and_noise(tmp_path: Path) -> None:
    """The first background of the LETKF is the truth with noise; that of DAISI comes from it."""
    run_sqg(tmp_path, methods=["daisi", "letkf"], cycles=1)
    first = [
        xr.open_zarr(tmp_path / "runs" / f"sparse-{m}-0.zarr", group="background").theta.values[0]
        for m in ("daisi", "letkf")
    ]
    np.testing.assert_allclose(first[0], first[1] * 8.0 / np.hypot(8.0, 3.06), atol=0.05)
    observed = [
        xr.open_zarr(tmp_path / "runs" / f"sparse-{m}-0.zarr/observations/000000/000")
        for m in ("daisi", "letkf")
    ]
    xr.testing.assert_equal(*observed)


def test_a_method_that_diverges_does_not_stop_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from examples.experiments.run import main

    original = xr_daisi.cycle

    def failing(*args: Any, **options: Any) -> Any:
        if options["method"] == "ensf":
            raise xr_daisi.DivergenceError("member 1: found NaN")
        return original(*args, **options)

    monkeypatch.setattr(xr_daisi, "cycle", failing)
    line = ["sqg", "--methods", "ensf,letkf", "--members", "2", "--cycles", "1"]
    assert main([*line, "--out", str(tmp_path)]) == 1
    captured = capsys.readouterr()
    assert "| sparse | letkf | 1 |" in captured.out
    assert "error: sparse-ensf-0: member 1: found NaN" in captured.err


def test_figure_and_summary(tmp_path: Path) -> None:
    from examples.experiments.score_file import summarise

    frame = run_sqg(tmp_path, methods=["daisi", "letkf"])
    table = summarise(frame, tmp_path)
    assert (tmp_path / "scores.png").stat().st_size > 10_000
    assert (tmp_path / "summary.md").read_text(encoding="utf-8") == table + "\n"
    lines = table.splitlines()
    assert lines[0].startswith("| experiment | method | cycles | rmse | rmse (last half) |")
    daisi = frame[frame.method == "daisi"]
    cells = [cell.strip() for cell in lines[2].split("|")]
    assert cells[1:4] == ["sparse", "daisi", "2"]
    assert cells[4:6] == [f"{daisi.rmse.mean():.3f}", f"{daisi.rmse.iloc[1]:.3f}"]


# -- the command line -----------------------------------------------------------------------------


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from examples.experiments.run import main

    line = ["sqg", "--experiment", "sparse", "--methods", "letkf", "--members", "3"]
    line += ["--cycles", "1", "--out", str(tmp_path)]
    assert main(line) == 0
    out = capsys.readouterr().out
    assert "sparse letkf seed 0 cycle 1/1: RMSE" in out
    assert "| sparse | letkf | 1 |" in out
    assert main([*line, "--set", "localization=1000"]) == 2
    assert "localization: found 1500.0, expected 1000" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (["--experiment", "calm"], "--experiment: found 'calm', expected some of noisy, sparse"),
        (["--methods", "magic"], "--methods: found 'magic', expected some of daisi"),
        (["--trajectory", "9"], "--trajectory: found 9, expected 0 to 3"),
        (["--set", "t_min"], "--set: found 't_min', expected NAME=VALUE"),
        (["--prior", "nowhere.safetensors"], "nowhere.safetensors"),
        (["--members", "1", "--methods", "letkf"], "members: found 1, expected at least 2"),
    ],
)
def test_bad_command_lines(
    line: list[str], text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from examples.experiments.run import main

    assert main(["sqg", "--out", str(tmp_path / "out"), *line]) == 2
    assert text in capsys.readouterr().err
    assert not (tmp_path / "out" / "scores.csv").exists()


# -- the file of scores ---------------------------------------------------------------------------


def test_score_file(tmp_path: Path) -> None:
    from examples.experiments.score_file import ScoreFile

    path = tmp_path / "scores.csv"
    row = {"experiment": "e", "method": "m", "seed": 0, "rmse": 1 / 3, "crps": 0.5, "ssr": 1.0}
    file = ScoreFile(path)
    file.append(**row, cycle=0)
    file.append(**row, cycle=0)
    file.append(**row, cycle=1)
    text = path.read_text(encoding="utf-8")
    assert text.splitlines()[0] == ",".join(COLUMNS)
    assert text.splitlines()[1] == "e,m,0,0,0.33333333,0.5,1"
    assert text.count("\n") == 3
    path.write_text(text + "e,m,0,2,0.3", encoding="utf-8")
    again = ScoreFile(path)
    assert path.read_text(encoding="utf-8") == text
    assert again.has(experiment="e", method="m", seed=0, cycle=1)
    assert not again.has(experiment="e", method="m", seed=0, cycle=2)
    path.write_text("a,b\n1,2\n", encoding="utf-8")
    with pytest.raises(ValueError, match="found the columns 'a,b'"):
        ScoreFile(path)


def test_averages_of_few_numbers_are_pooled() -> None:
    """Root mean square error, and spread over error of all cycles together."""
    from examples.experiments.score_file import averages

    rmse, ssr = np.array([0.1, 2.0, 1.0, 3.0]), np.array([9.0, 0.5, 1.0, 0.4])
    rows = {"method": "m", "seed": 0, "cycle": range(4), "rmse": rmse, "crps": 1.0, "ssr": ssr}
    plain = averages(pd.DataFrame({"experiment": "sparse", **rows})).iloc[0]
    assert (plain.rmse, plain.ssr) == (rmse.mean(), ssr.mean())
    assert plain["ssr (last half)"] == pytest.approx(0.7)
    pooled = averages(pd.DataFrame({"experiment": "lorenz63-x", **rows})).iloc[0]
    assert pooled.rmse == pytest.approx(np.sqrt((rmse**2).mean()))
    assert pooled.ssr == pytest.approx(np.sqrt(((ssr * rmse) ** 2).sum() / (rmse**2).sum()))


# -- Lorenz '63 -----------------------------------------------------------------------------------


def test_particle_filter_gives_the_kalman_answer() -> None:
    from examples.experiments.particle_filter import ParticleFilter

    torch.manual_seed(0)
    covariance = torch.tensor([[2.0, 0.9], [0.9, 1.0]], dtype=torch.float64)
    mean = torch.tensor([1.0, -1.0], dtype=torch.float64)
    draws = torch.randn(200_000, 2, dtype=torch.float64)
    particles = mean + draws @ torch.linalg.cholesky(covariance).T
    value, sigma = 2.0, 0.8
    found = ParticleFilter(particles, seed=1, jitter=0.0).analyse(
        lambda x: -0.5 * ((value - x[:, 0]) / sigma) ** 2
    )
    h = torch.tensor([1.0, 0.0], dtype=torch.float64)
    gain = covariance @ h / (h @ covariance @ h + sigma**2)
    expected_mean = mean + gain * (value - mean[0])
    expected = covariance - torch.outer(gain, h @ covariance)
    np.testing.assert_allclose(found.particles.mean(axis=0), expected_mean, atol=0.01)
    np.testing.assert_allclose(np.cov(found.particles.T), expected, atol=0.015)
    innovation = covariance[0, 0] + sigma**2
    # Without the constant of the likelihood, which was left out above.
    evidence = -0.5 * (value - 1.0) ** 2 / innovation - 0.5 * (innovation / sigma**2).log()
    assert found.log_evidence == pytest.approx(float(evidence), abs=0.01)
    assert 1.0 < found.effective_size < 200_000


def test_particle_filter_moves_and_refuses() -> None:
    from examples.experiments.particle_filter import ParticleFilter

    one = ParticleFilter(torch.randn(50, 3), seed=1)
    before = one.particles.clone()
    one.forecast(lambda x: 2.0 * x)
    torch.testing.assert_close(one.particles, 2.0 * before)
    with pytest.raises(ValueError, match="no particle with a finite likelihood"):
        one.analyse(lambda x: torch.full((50,), -torch.inf))


def test_crps_of_a_large_sample() -> None:
    from scores.probability import crps_for_ensemble

    from examples.experiments.particle_filter import crps

    rng = np.random.default_rng(0)
    sample, truth = rng.standard_normal((30, 3)), rng.standard_normal(3)
    expected = crps_for_ensemble(
        xr.DataArray(sample, dims=("m", "v")),
        xr.DataArray(truth, dims="v"),
        ensemble_member_dim="m",
        method="fair",
    )
    assert crps(sample, truth) == pytest.approx(float(expected))


def test_energy_distance() -> None:
    """Of N(0, 1) and N(d, 1): 2 E|X - Y| - 2 E|X - X'|, folded normals; fair to small samples."""
    from math import erf, exp, pi, sqrt

    from examples.experiments.particle_filter import energy_distance

    rng = np.random.default_rng(1)
    d = 1.5
    between = 2.0 / sqrt(pi) * exp(-(d**2) / 4.0) + d * erf(d / 2.0)
    expected = 2.0 * between - 4.0 / sqrt(pi)
    reference = rng.standard_normal((1000, 1)) + d
    small = [energy_distance(rng.standard_normal((8, 1)), reference) for _ in range(200)]
    assert np.mean(small) == pytest.approx(expected, rel=0.1)
    same = [energy_distance(rng.standard_normal((8, 1)) + d, reference) for _ in range(200)]
    assert abs(np.mean(same)) < 0.06


def test_the_particle_filter_is_the_best_filter(tmp_path: Path) -> None:
    """Better than an ensemble Kalman filter where the posterior has two lobes, and calibrated."""
    from examples.experiments.lorenz63 import run_lorenz63, summarise_distances

    options: dict[str, Any] = {"cycles": 12, "particles": 20_000, "tell": lambda text: None}
    methods = ["etkf", "particle-filter"]
    frame = run_lorenz63(["square"], methods, tmp_path, **options).frame()
    assert list(frame.columns) == COLUMNS
    mean = frame.groupby("method")[["rmse", "crps", "ssr"]].mean()
    assert mean.crps["particle-filter"] < mean.crps["etkf"]
    distances = pd.read_csv(tmp_path / "distances.csv")
    assert distances.method.unique().tolist() == ["etkf"]
    assert distances.cycle.tolist() == list(range(12))
    assert distances.energy_distance.mean() > 0.0
    assert "lorenz63-square | etkf" in summarise_distances(tmp_path)
    before = [(tmp_path / f).read_bytes() for f in ("scores.csv", "distances.csv")]
    run_lorenz63(["square"], methods, tmp_path, **options)
    assert before == [(tmp_path / f).read_bytes() for f in ("scores.csv", "distances.csv")]
    with pytest.raises(ValueError, match="particles: found 20000, expected 10000"):
        run_lorenz63(["square"], methods, tmp_path, **options | {"particles": 10_000})


def test_lorenz63_trains_its_prior_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from examples.experiments import lorenz63

    tiny = {**lorenz63.TRAINING, "width": 8, "blocks": 1, "progress": False}
    monkeypatch.setattr(lorenz63, "TRAINING", tiny)
    options: dict[str, Any] = {"members": 3, "cycles": 2, "particles": 500, "steps": 2}
    options |= {"training_steps": 3, "device": "cpu", "tell": lambda text: None}
    methods = ["daisi", "prior-only", "renoise", "etkf", "ensf", "particle-filter"]
    frame = lorenz63.run_lorenz63(["x", "abs"], methods, tmp_path, **options).frame()
    assert len(frame) == 2 * 2 * len(methods)
    assert frame.crps.nunique() == len(frame)  # no method is another under its name
    prior = tmp_path / "lorenz63.safetensors"
    assert type(xr_daisi.load_prior(prior).network).__name__ == "MLP"
    changed = prior.stat().st_mtime_ns
    lorenz63.run_lorenz63(["x", "abs"], methods, tmp_path, **options)
    assert prior.stat().st_mtime_ns == changed
    with pytest.raises(ValueError, match="steps: found 3, expected 4"):
        lorenz63.run_lorenz63(["x"], ["daisi"], tmp_path, **options | {"training_steps": 4})


# -- ERA5 -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def field(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A month of hourly fields in place of the real ones, on a coarse grid."""
    rng = np.random.default_rng(0)
    time = np.arange("2019-03-01", "2019-04-01", np.timedelta64(1, "h"), dtype="datetime64[ns]")
    latitude, longitude = np.linspace(58.0, 50.0, 8), np.linspace(-10.0, 2.0, 12)
    waves = np.sin(latitude[:, None] + 0.5 * longitude) + np.cos(0.3 * longitude)
    phase = np.cumsum(rng.standard_normal(time.size)) * 0.1
    values = 280.0 + 3.0 * np.sin(phase)[:, None, None] * waves
    values += 0.3 * rng.standard_normal(values.shape)
    ds = xr.Dataset(
        {"t2m": (("time", "latitude", "longitude"), values.astype(np.float32), {"units": "K"})},
        coords={
            "time": time,
            "latitude": ("latitude", latitude, {"units": "degrees_north"}),
            "longitude": ("longitude", longitude, {"units": "degrees_east"}),
        },
    )
    path = tmp_path_factory.mktemp("era5") / "field.nc"
    ds.to_netcdf(path)
    return path


def test_era5(field: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from examples.experiments import era5

    candidates = era5.candidates
    monkeypatch.setattr(era5, "candidates", lambda *args: candidates(*args)[:2])
    told: list[str] = []
    options: dict[str, Any] = {"data": field, "steps": 2, "training_steps": 2, "device": "cpu"}
    options |= {"cycles": 2, "members": 3, "tell": told.append}
    methods = ["background", "daisi", "daisi-tuned", "letkf", "prior-only", "ensf", "oi", "renoise"]
    frame = era5.run_era5(methods, tmp_path, **options).frame()
    assert list(frame.columns) == COLUMNS
    assert frame.cycle.tolist() == [0, 1] * len(methods)
    mean = frame.groupby("method").crps.mean()
    assert mean["letkf"] < mean["background"]
    chosen = json.loads((tmp_path / "runs" / "era5-letkf-1.settings.json").read_text())
    assert chosen["localization"] == "250 km"
    assert sum("chosen on 19-22 March" in line for line in told) == 5
    # Nothing is trained or chosen twice, and no row is written twice.
    before = (tmp_path / "scores.csv").read_bytes()
    told.clear()
    era5.run_era5(methods, tmp_path, **options)
    assert (tmp_path / "scores.csv").read_bytes() == before
    assert not told
    with pytest.raises(ValueError, match="steps: found 2, expected 3"):
        era5.run_era5(["daisi"], tmp_path, **options | {"training_steps": 3})
    # Without the last rows they are made again, the same.
    (tmp_path / "scores.csv").write_bytes(before[:-10])
    era5.run_era5(methods, tmp_path, **options)
    assert (tmp_path / "scores.csv").read_bytes() == before


def test_era5_says_what_it_cannot_do(field: Path, tmp_path: Path) -> None:
    from examples.experiments.era5 import run_era5

    with pytest.raises(ValueError, match=r"--members: found 11.*\n--cycles: found 17"):
        run_era5(["background"], tmp_path, data=field, members=11, cycles=17)
    with pytest.raises(ValueError, match="--methods: found 'magic'"):
        run_era5(["magic"], tmp_path, data=field)
    assert not list(tmp_path.iterdir())


def test_stations_of_the_experiment(field: Path) -> None:
    """40 places, errors of half a kelvin; the example's own series are as they were."""
    from examples import era5_uk
    from examples.experiments.era5 import observations

    ds = era5_uk.load(field)
    obs = observations(ds, era5_uk.TEST, seed=1)
    assert obs.sizes["station"] == 40
    assert (obs.t2m_error == 0.5).all()
    series = era5_uk.stations(ds, era5_uk.TEST)
    assert series.sizes["station"] == 50
    np.testing.assert_array_equal(series.latitude[:40], obs.latitude)
    assert float(series.t2m_error.min()) >= 0.4
    assert float(series.t2m_error.max()) <= 0.6
