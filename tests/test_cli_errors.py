"""Bad input on the command line: exit status 2, one line, nothing written, nothing lost."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from cli_files import (
    ERROR,
    QUICK,
    arguments,
    everything,
    forecast,
    history,
    labelled,
    make_files,
    stations,
)

from xr_daisi.cli import main
from xr_daisi.cli_messages import in_options
from xr_daisi.errors import DaisiError


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_files(tmp_path_factory.mktemp("files"))


@pytest.fixture
def refused(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command that must fail; the one line it says."""

    def refuse(*tokens: object, status: int = 2) -> str:
        before, inputs = everything(tmp_path), everything(files)
        capsys.readouterr()
        found = main([str(token) for token in tokens])
        out, err = capsys.readouterr()
        assert found == status, err
        assert out == ""
        assert err.startswith("xr-daisi: error: ")
        assert err.count("\n") == 1
        assert "Traceback" not in err
        assert everything(tmp_path) == before
        assert everything(files) == inputs
        return err.removeprefix("xr-daisi: error: ").strip()

    return refuse


# -- the command line itself ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (["assimilat"], "Unknown command assimilat. Did you mean assimilate?"),
        (["assimilate"], "FORECAST requires an argument (see xr-daisi assimilate --help)"),
        (["assimilate", "a", "b", "c", "d"], "unexpected argument: d"),
        (["assimilate", "a", "b", "--bogus"], "Unknown option: --bogus"),
        (["assimilate", "a", "b", "--prior"], "--prior requires an argument"),
        (["assimilate", "a", "b", "--t-min", "x"], "unable to convert x into float"),
        (["assimilate", "a", "b", "--solver", "rk4"], "for --solver"),
        (["assimilate", "a", "b", "--seed", "1.5"], "found '1.5', expected a whole number"),
        (["assimilate", "a", "b"], "ANALYSIS: found nothing, expected a path ending in .nc"),
        (["demo", "--trajectory", "9"], "for --trajectory"),
        (["demo", "--members", "1", "--cycles", "0"], "2 problems: members: found 1"),
        (["info", "no-such-prior"], "found no file 'no-such-prior'"),
        (["train", "a"], "PRIOR requires an argument"),
    ],
)
def test_unusable_command_lines(
    refused: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tokens: list[str],
    expected: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert expected in refused(*tokens).replace('"', "")  # versions of cyclopts differ in quotes


# -- files that are not what they should be -----------------------------------------------------


def test_files_that_cannot_be_read(
    files: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    whole = (files / "forecast.nc").read_bytes()
    (tmp_path / "junk.nc").write_bytes(b"no NetCDF" * 100)
    (tmp_path / "cut.nc").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder.zarr").mkdir()
    (tmp_path / "field.grib").write_bytes(b"GRIB" + bytes(100))
    out = tmp_path / "a.nc"
    for name in ("missing.nc", "junk.nc", "cut.nc", "folder", "folder.zarr", "field.grib"):
        bad = tmp_path / name
        expected = "no such file" if name == "missing.nc" else "that cannot be read ("
        for pair in ([bad, files / "obs.nc"], [files / "forecast.nc", bad]):
            said = refused("assimilate", *pair, out, "--prior", files / "prior.safetensors")
            assert f"{bad}: found" in said
            assert expected in said
        assert expected in refused("train", bad, tmp_path / "p.safetensors", "--steps", "1")


def bad_forecasts() -> dict[str, tuple[xr.Dataset, str]]:
    """Datasets that are no forecast for the prior, and what the error says."""
    good = forecast()
    units, twice = good.copy(deep=True), good.isel(time=[0, 0])
    units.t2m.attrs["units"] = "m"
    holes = good.copy(deep=True)
    holes.t2m[1, 2, 3, 4] = np.nan
    other = good.drop_attrs().rename(t2m="q")
    finer = good.interp(latitude=np.linspace(50.0, 56.0, 13)).assign_attrs(good.attrs)
    bare = good.drop_vars("latitude")
    return {
        "variables": (other, "expected 't2m'"),
        "units": (units, "variable 't2m': found units 'm', expected units that convert to 'K'"),
        "grid": (finer, "latitude: 13 points"),
        "area": (good.isel(longitude=slice(1, None)), "longitude: 8 points"),
        "coordinates": (bare, "'latitude': found no coordinate"),
        "NaN": (holes, "first at time 2019-03-24T12:00:00, member 2, latitude=53, longitude=0"),
        "times": (twice, "found 2019-03-24T00:00:00.000000000 twice"),
        "members": (good.expand_dims(ens=2), "2 candidates: 'ens', 'member'"),
    }


@pytest.mark.parametrize("kind", list(bad_forecasts()))
@pytest.mark.parametrize("chunks", [[], ["--chunks", "time=1"]], ids=["whole", "chunks"])
@pytest.mark.parametrize("out", ["a.nc", "a.zarr"])
def test_forecasts_that_do_not_fit(
    files: Path,
    tmp_path: Path,
    refused: Callable[..., str],
    kind: str,
    chunks: list[str],
    out: str,
) -> None:
    ds, expected = bad_forecasts()[kind]
    ds.to_netcdf(tmp_path / "bad.nc")
    paths = [tmp_path / "bad.nc", files / "obs.nc", tmp_path / out]
    prior = ["--prior", files / "prior.safetensors", *QUICK]
    assert expected in refused("assimilate", *paths, *prior, *chunks)


def bad_observations() -> dict[str, tuple[xr.Dataset, list[str], str]]:
    """Datasets that cannot be assimilated, options, and what the error says."""
    good, bare = stations(), stations(error=False)
    units, negative, missing = (good.copy(deep=True) for _ in range(3))
    units.t2m.attrs["units"] = "m"
    negative.t2m_error[0, 1] = -ERROR
    missing.t2m_error[0, 1] = np.nan
    return {
        "variables": (good.rename(t2m="q", t2m_error="q_error"), [], "none of them in the state"),
        "units": (units, [], "t2m: found units 'm'"),
        "negative error": (negative, [], "t2m: found 1 observation error(s)"),
        "missing error": (missing, [], "expected a positive standard deviation"),
        "no error": (bare, [], "pass --obs-error t2m=NUMBER"),
        "zero error": (bare, ["--obs-error", "0"], "found obs_error 0.0"),
        "NaN error": (bare, ["--obs-error", "t2m=nan"], "found obs_error nan"),
        "error of others": (bare, ["--obs-error", "q=1"], "t2m: found no observation error"),
        "coordinates": (good.drop_vars("latitude"), [], "'latitude'"),
    }


@pytest.mark.parametrize("kind", list(bad_observations()))
def test_observations_that_do_not_fit(
    files: Path, tmp_path: Path, refused: Callable[..., str], kind: str
) -> None:
    ds, options, expected = bad_observations()[kind]
    ds.to_netcdf(tmp_path / "bad.nc")
    paths = [files / "forecast.nc", tmp_path / "bad.nc", tmp_path / "a.nc"]
    prior = ["--prior", files / "prior.safetensors", *QUICK]
    assert expected in refused("assimilate", *paths, *prior, *options)


def test_priors_that_cannot_be_used(
    files: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    whole = (files / "prior.safetensors").read_bytes()
    cut, edited = tmp_path / "cut.safetensors", tmp_path / "edited.safetensors"
    cut.write_bytes(whole[: len(whole) // 2])
    edited.write_bytes(whole.replace(b"air_temperature", b"air_temperatura", 1))
    out = tmp_path / "a.nc"
    for prior, expected in (
        (cut, "no readable safetensors file"),
        (edited, "do not match their sha256"),
        (files / "forecast.nc", "no readable safetensors file"),
        (tmp_path, "a directory"),
        ("no-such-prior", "registered are: sqg64"),
    ):
        assert expected in refused(*arguments(files, out, prior=str(prior)))
        assert expected in refused("info", prior)
    assert "sqg64" in refused("assimilate", files / "forecast.nc", files / "obs.nc", out)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--t-min", "2"], "--t-min: found 2.0, expected a number in [0, 1)"),
        (["--noise", "-1", "--t-min", "1"], "2 problems: --t-min: found 1.0"),
        (["--strength", "-1"], "--strength: found -1.0"),
        (["--obs-error", "x"], "--obs-error: found 'x', expected a number"),
        (["--obs-error", "t2m=x"], "--obs-error: found 'x', expected a number"),
        (["--obs-error", "t2m=1", "--obs-error", "t2m=2"], "found 't2m' twice"),
        (["--obs-error", "1", "--obs-error", "2"], "found '1', expected NAME=VALUE"),
        (["--operator", "log"], "--operator: found 'log', expected NAME=VALUE"),
        (["--operator", "t2m=cube"], "found the operator 'cube'"),
        (["--operator", "q=log"], "--operator: found ['q']"),
        (["--time-tolerance", "soon"], "--time-tolerance: found 'soon'"),
        (["--background-check", "0"], "--background-check: found 0.0"),
        (["--batch", "0"], "--batch: found 0"),
        (["--chunks", "time"], "--chunks: found 'time', expected NAME=VALUE"),
        (["--chunks", "time=0"], "--chunks: found time=0, expected positive whole numbers"),
        (["--chunks", "place=1"], "--chunks: found place, expected dimensions of"),
    ],
)
def test_options_out_of_range(
    files: Path,
    tmp_path: Path,
    refused: Callable[..., str],
    options: list[str],
    expected: str,
) -> None:
    assert expected in refused(*arguments(files, tmp_path / "a.nc"), *options)


@pytest.mark.parametrize("steps", ["0", "a", "1,2,3", "2.5", "1,0"])
def test_steps(files: Path, tmp_path: Path, refused: Callable[..., str], steps: str) -> None:
    paths = [files / "forecast.nc", files / "obs.nc", tmp_path / "a.nc"]
    prior = ["--prior", files / "prior.safetensors"]
    assert "--steps: found" in refused("assimilate", *paths, *prior, "--steps", steps)


def test_device_that_is_not_there(
    files: Path, tmp_path: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    paths = [files / "forecast.nc", files / "obs.nc", tmp_path / "a.nc"]
    tokens = ["assimilate", *paths, "--prior", files / "prior.safetensors"]
    assert "use --device cpu" in refused(*tokens, "--device", "cuda")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--steps", "0"], "--steps: found 0"),
        (["--width", "7"], "--width: found 7"),
        (["--variables", "q"], "found t2m, expected q"),
        (["--transform", "t2m"], "--transform: found 't2m', expected NAME=VALUE"),
        (["--transform", "t2m=cube"], "expected one of log, log1p, logit, sqrt"),
        (["--periodic", "place"], "--periodic: found ['place']"),
        (["--roll", "longitude"], "see --periodic"),
        (["--init", "no-such-prior"], "found no file 'no-such-prior'"),
        (["--static", "no-such.nc"], "no-such.nc: found no such file"),
        (["--validation", "2"], "--validation: found 2.0"),
        (["--max-minutes", "-1"], "--max-minutes: found -1.0"),
    ],
)
def test_trainings_that_cannot_be(
    files: Path,
    tmp_path: Path,
    refused: Callable[..., str],
    options: list[str],
    expected: str,
) -> None:
    tokens = ["train", files / "history.nc", tmp_path / "p.safetensors", *options]
    assert expected in refused(*tokens)


def test_histories_that_do_not_train(
    files: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    holes = history()
    holes.t2m[3, 2, 1] = np.nan
    holes.to_netcdf(tmp_path / "holes.nc")
    labelled(np.zeros((7, 9), np.float32)).to_netcdf(tmp_path / "one.nc")
    out = tmp_path / "p.safetensors"
    assert "first at time=2019-03-01T18" in refused("train", tmp_path / "holes.nc", out)
    assert "a time (or member) dimension" in refused("train", tmp_path / "one.nc", out)


# -- outputs that cannot be -----------------------------------------------------------------------


def test_places_for_outputs(files: Path, tmp_path: Path, refused: Callable[..., str]) -> None:
    background, obs = files / "forecast.nc", files / "obs.nc"
    prior = ["--prior", files / "prior.safetensors", *QUICK]
    (tmp_path / "folder.zarr").mkdir()
    table = ["--feedback", tmp_path / "a.nc"]
    for out, options, expected in (
        ("a.txt", [], "found ending '.txt', expected .nc or .zarr"),
        ("a", [], "found no ending, expected .nc or .zarr"),
        ("folder.zarr", ["--overwrite"], "a directory that is no Zarr store"),
        ("a.nc", table, "found an output that is also another output"),
        ("a.nc", ["--more-obs", obs, *table], "found 1 for 2 files of observations"),
        ("a.nc", ["--feedback", tmp_path / "f.csv"], "f.csv: found ending '.csv'"),
        (background, ["--overwrite"], "found an output that is also an input"),
        (obs, ["--overwrite"], "found an output that is also an input"),
        (background / "a.nc", [], "which is no folder"),
    ):
        said = refused("assimilate", background, obs, tmp_path / out, *prior, *options)
        assert expected in said
    for out, expected in (
        ("p.nc", "expected .safetensors"),
        ("folder.zarr/../p", "expected .safetensors"),
        (background / "p.safetensors", "which is no folder"),
    ):
        assert expected in refused("train", files / "history.nc", tmp_path / out)
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "obs.nc").write_text("mine")
    assert "pass --overwrite" in refused("demo", "--out", tmp_path / "demo")


def test_folder_that_may_not_be_written_to(
    files: Path, tmp_path: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    expected = f"folder '{tmp_path}', which you may not write to"
    assert expected in refused(*arguments(files, tmp_path / "new" / "a.nc"))
    assert expected in refused("train", files / "history.nc", tmp_path / "p.safetensors")
    assert expected in refused("demo", "--out", tmp_path / "demo")


def half_written(path: str | Path, error: BaseException) -> None:
    """What a full disk leaves of a file or of a store."""
    if str(path).endswith(".zarr"):
        Path(path).mkdir()
        (Path(path) / "zarr.json").write_text("{")
    else:
        Path(path).write_text("half")
    raise error


FULL = OSError(28, "No space left on device")


@pytest.mark.parametrize("name", ["a.nc", "a.zarr"])
@pytest.mark.parametrize("error", [FULL, RuntimeError("NetCDF: HDF error")], ids=["os", "netcdf"])
@pytest.mark.parametrize("overwrite", [False, True], ids=["new", "overwrite"])
def test_full_disk_leaves_nothing(
    files: Path,
    tmp_path: Path,
    refused: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    error: Exception,
    overwrite: bool,
) -> None:
    out = tmp_path / name
    options = ["--overwrite"] if overwrite else []
    if overwrite:  # the old analysis survives
        assert main(arguments(files, out)) == 0

    def write(self: xr.Dataset, path: Path, **_: Any) -> None:
        half_written(path, error)

    monkeypatch.setattr(xr.Dataset, "to_netcdf", write)
    monkeypatch.setattr(xr.Dataset, "to_zarr", write)
    said = refused(*arguments(files, out, *options))
    assert f"{out}: found no way to write it (" in said
    assert "nothing was left behind" in said
    assert os.listdir(tmp_path) == ([name] if overwrite else [])


def test_full_disk_in_training(
    files: Path, tmp_path: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def save(tensors: Any, path: Path, **_: Any) -> None:
        half_written(path, FULL)

    monkeypatch.setattr("safetensors.torch.save_file", save)
    options = ["--width", "8", "--steps", "1", "--batch-size", "4", "--device", "cpu"]
    said = refused("train", files / "history.nc", tmp_path / "p.safetensors", *options)
    assert "No space left on device" in said
    assert os.listdir(tmp_path) == []


def test_interruption_leaves_the_old_analysis(
    files: Path,
    tmp_path: Path,
    refused: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "a.nc"
    assert main(arguments(files, out)) == 0

    def write(self: xr.Dataset, path: Path, **_: Any) -> None:
        half_written(path, KeyboardInterrupt())

    monkeypatch.setattr(xr.Dataset, "to_netcdf", write)
    said = refused(*arguments(files, out, "--overwrite"), status=130)
    assert said == "interrupted; no unfinished output was left"
    assert os.listdir(tmp_path) == ["a.nc"]


# -- what nobody foresaw ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "status", "expected"),
    [
        (ZeroDivisionError("division by zero"), 1, "unexpected ZeroDivisionError: division"),
        (MemoryError(), 2, "out of memory; --batch 1"),
        (torch.OutOfMemoryError("CUDA out of memory"), 2, "out of memory; --batch 1"),
        (RuntimeError("NetCDF: HDF error"), 2, "a NetCDF file is damaged"),
        (ImportError("No module named 'scores'"), 2, "pip install 'xr-daisi[demo]'"),
        (OSError(5, "Input/output error", "/x/a.nc"), 2, "/x/a.nc: Input/output error"),
        (DaisiError("2 problems:\n- a: found b\n- c: found d"), 2, "2 problems: a: found b; c"),
    ],
)
def test_errors_of_all_kinds_are_one_line(
    files: Path,
    tmp_path: Path,
    refused: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    status: int,
    expected: str,
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("xr_daisi.analysis.assimilate", fail)
    assert expected in refused(*arguments(files, tmp_path / "a.nc"), status=status)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("pass prior=..., xr_daisi.set_options(prior=...), or x", "pass --prior, or x"),
        ("pass obs_error={'t2m': number}, or", "pass --obs-error t2m=NUMBER, or"),
        ("or operator={'v': function}", "or --operator v=NAME"),
        ("use guidance_solver='gmres'", "use --guidance-solver gmres"),
        ("pass operator=... again", "pass --operator again"),
        ("name them: variables=[...]", "name them: --variables"),
        ("see periodic=", "see --periodic"),
        ("lower batch, or use batch='auto', which", "lower batch, or leave out --batch, which"),
        ("forecast.isel(steps=0), seed=3", "forecast.isel(steps=0), --seed 3"),
        ("t_min: found 2\n- noise: found 3", "--t-min: found 2\n- --noise: found 3"),
        ("prior: found no file", "prior: found no file"),
    ],
)
def test_keywords_become_options(text: str, expected: str) -> None:
    assert in_options(text) == expected
