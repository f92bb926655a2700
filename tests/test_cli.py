"""The command line at work: real NetCDF and Zarr files in, files out."""

from __future__ import annotations

import inspect
import logging
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from cli_files import (
    LAT,
    LON,
    QUICK,
    arguments,
    everything,
    forecast,
    history,
    make_files,
    stations,
)

import xr_daisi
from xr_daisi.cli import app, main
from xr_daisi.cli_arguments import LargeGrid, Sampling
from xr_daisi.cli_methods import MethodChoice
from xr_daisi.cli_reading import Reading

REPOSITORY = Path(__file__).resolve().parents[1]
COMMANDS = ("assimilate", "demo", "info", "train")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_files(tmp_path_factory.mktemp("files"))


def run(capsys: pytest.CaptureFixture[str], *tokens: object, status: int = 0) -> tuple[str, str]:
    """Output and errors of a command that ends with `status`."""
    capsys.readouterr()
    found = main([str(token) for token in tokens])
    out, err = capsys.readouterr()
    assert found == status, err
    return out, err


def in_python(files: Path, **keywords: Any) -> xr.Dataset:
    """The analysis that the command should have made."""
    with (
        xr.open_dataset(files / "forecast.nc") as background,
        xr.open_dataset(files / "obs.nc") as obs,
    ):
        return background.load().daisi.assimilate(
            obs, files / "prior.safetensors", **{"steps": 2, "device": "cpu"} | keywords
        )


def same_values(path: Path, expected: xr.Dataset, **tolerance: float) -> None:
    with xr.open_dataset(path) as found:
        np.testing.assert_allclose(found.t2m, expected.t2m, **{"rtol": 1e-6} | tolerance)


# -- train and info ---------------------------------------------------------------------------


def test_train_writes_a_prior_and_shows_its_card(files: Path) -> None:
    said = (files / "train.txt").read_text()
    assert "t2m (air_temperature) [K]" in said
    assert said.endswith(f"written to {files / 'prior.safetensors'}\n")
    prior = xr_daisi.load_prior(files / "prior.safetensors")
    assert prior.name == "prior"
    assert prior.spec.shape == (1, LAT.size, LON.size)


def test_train_passes_its_options(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    static = xr.Dataset({"height": (("latitude", "longitude"), np.outer(LAT, LON))})
    axes = {"latitude": LAT, "longitude": LON}
    static.assign_coords(axes).to_zarr(tmp_path / "static.zarr", consolidated=False)
    ds = history().assign(noise=history().t2m * 0.0)
    ds.to_zarr(tmp_path / "history.zarr", consolidated=False)
    out = tmp_path / "new" / "p.safetensors"
    options = ["--variables", "t2m", "--width", "8", "--steps", "2", "--batch-size", "4"]
    options += ["--static", str(tmp_path / "static.zarr"), "--normalization", "point-mean"]
    options += ["--transform", "t2m=sqrt", "--validation", "0.3", "--patch", "2", "--seed", "5"]
    options += ["--periodic", "longitude", "--dropout", "0.1", "--name", "uk", "--license", "CC0"]
    options += ["--description", "a test", "--attribution", "nobody", "--device", "cpu"]
    run(capsys, "train", tmp_path / "history.zarr", out, *options)
    card = xr_daisi.load_prior(out).card
    assert card["name"] == "uk"
    assert (card["license"], card["attribution"]) == ("CC0", "nobody")
    assert card["description"] == "a test"
    assert card["normalization"] == "point-mean"
    assert card["training"]["seed"] == 5
    assert card["training"]["validation_states"] == 18
    spec = xr_daisi.load_prior(out).spec
    assert (spec.names, spec.periodic) == (("t2m",), (False, True))
    shown, _ = run(capsys, "info", out)
    assert "1 static fields" in shown
    assert "licence of the data  CC0" in shown
    again = ["--init", str(out), "--steps", "1", "--variables", "t2m", "--overwrite"]
    run(capsys, "train", tmp_path / "history.zarr", out, *again)
    assert xr_daisi.load_prior(out).card["training"]["initial_prior"]


def test_train_reads_files_in_pieces(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing asks for more of the history at once than a pool of states."""
    from xr_daisi import streaming

    monkeypatch.setattr(streaming, "POOL_BYTES", 1)
    sizes: list[int] = []
    read = streaming.History.read

    def watched(self: streaming.History, start: int, stop: int) -> np.ndarray:
        assert not self.ds.t2m.variable._in_memory
        assert not self.ds.chunks  # dask would read a file without chunks as a whole
        sizes.append(stop - start)
        return read(self, start, stop)

    monkeypatch.setattr(streaming.History, "read", watched)
    monkeypatch.setattr(
        streaming.History.__init__, "__kwdefaults__", {"pool_bytes": 4 * 4 * 63 * 5}
    )
    options = ["--width", "8", "--steps", "2", "--batch-size", "4", "--device", "cpu"]
    run(capsys, "train", files / "history.nc", tmp_path / "p.safetensors", *options)
    assert sizes
    assert max(sizes) == 5


def test_info(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, err = run(capsys, "info")
    assert out.startswith("registered priors: sqg64")
    assert err == ""
    out, _ = run(capsys, "info", files / "prior.safetensors")
    assert out.strip() == str(xr_daisi.load_prior(files / "prior.safetensors"))


# -- assimilate -------------------------------------------------------------------------------


def test_analysis_equals_that_of_python(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = everything(files)
    out = tmp_path / "analysis.nc"
    said, err = run(capsys, *arguments(files, out, "--seed", "3"))
    assert said.startswith(f"{out}: analysis with prior prior in ")
    assert "observations: 8 used" in said
    assert err == ""
    expected = in_python(files, seed=3)
    with xr.open_dataset(out) as found:
        np.testing.assert_array_equal(found.t2m, expected.t2m)
        assert found.t2m.dims == expected.t2m.dims
        assert found.t2m.dtype == np.float32
        assert found.t2m.attrs == expected.t2m.attrs
        assert found.latitude.attrs["standard_name"] == "latitude"
        assert found.attrs["Conventions"] == "CF-1.11"
        assert "assimilate with prior prior\nmade for a test" in found.attrs["history"]
        assert found.attrs["daisi_seed"] == 3
    assert everything(files) == before
    assert os.listdir(tmp_path) == ["analysis.nc"]


def test_seed_decides(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed, name in ((1, "a.nc"), (2, "b.nc")):
        run(capsys, *arguments(files, tmp_path / name, "--seed", str(seed)))
    with xr.open_dataset(tmp_path / "a.nc") as a, xr.open_dataset(tmp_path / "b.nc") as b:
        assert float(abs(a.t2m - b.t2m).max()) > 1e-3


def test_dry_run_says_what_would_be_done_and_writes_nothing(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = everything(files)
    out = tmp_path / "analysis.nc"
    for path in (None, out):
        said, err = run(capsys, *arguments(files, path, "--dry-run", "--guidance-iterations", "2"))
        rows = dict(line.split("  ", 1) for line in said.splitlines())
        rows = {key.strip(): value.strip() for key, value in rows.items()}
        assert rows["members"] == "3"
        assert rows["times"] == "2, of which 2 with observations"
        assert rows["observations"] == "8 used"
        # 3 members, 2 times, 2 steps of one evaluation each way
        assert rows["network evaluations"].startswith("24 forward, 24 backward")
        assert rows["memory"].startswith("about ")
        assert rows["time"].startswith("about ")
        assert err == ""
    assert os.listdir(tmp_path) == []
    assert everything(files) == before


def test_from_zarr_to_zarr_in_chunks(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encoding = {"t2m": {"chunks": (2, 1, 7, 9)}}
    forecast().to_zarr(tmp_path / "forecast.zarr", encoding=encoding, consolidated=False)
    stations().to_zarr(tmp_path / "obs.zarr", consolidated=False)
    prior = ["--prior", files / "prior.safetensors", *QUICK]
    paths = [tmp_path / "forecast.zarr", tmp_path / "obs.zarr"]
    whole, pieces, netcdf = (tmp_path / n for n in ("whole.zarr", "pieces.zarr", "pieces.nc"))
    run(capsys, "assimilate", *paths, whole, *prior)
    chunks = ["--chunks", "time=1", "--chunks", "member=2"]
    _, err = run(capsys, "assimilate", *paths, pieces, *prior, *chunks)
    assert err == ""  # nor any word of Zarr about itself
    run(capsys, "assimilate", *paths, netcdf, *prior, "--chunks", "time=1")
    expected = in_python(files)
    for path in (whole, pieces, netcdf):
        same_values(path, expected)
    with xr.open_dataset(pieces, engine="zarr") as found:
        assert found.t2m.encoding["chunks"] == (1, 2, 7, 9)


def test_observations_of_several_files(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = stations(seed=7, error=False, n=3)
    more.to_netcdf(tmp_path / "more.nc")
    out, first, second = (tmp_path / name for name in ("a.nc", "f1.nc", "f2.zarr"))
    options = ["--more-obs", tmp_path / "more.nc", "--obs-error", "t2m=0.7"]
    said, _ = run(
        capsys, *arguments(files, out), *options, "--feedback", first, "--feedback", second
    )
    assert "observations: 14 used" in said
    background, obs = forecast(), [stations(), more]
    expected = background.daisi.assimilate(
        obs, files / "prior.safetensors", obs_error={"t2m": 0.7}, steps=2, device="cpu"
    )
    same_values(out, expected)
    tables = background.daisi.feedback(obs, expected)
    for path, table, error in zip((first, second), tables, (0.5, 0.7), strict=True):
        with xr.open_dataset(path, engine="zarr" if path.is_dir() else None) as found:
            assert (found.t2m_error == error).all()
            assert (found.t2m_status == 0).all()
            for name in ("t2m", "t2m_o_minus_b", "t2m_o_minus_a", "t2m_analysis"):
                np.testing.assert_allclose(found[name], table[name], rtol=1e-5, atol=1e-4)
            assert "flag_meanings" in found.t2m_status.attrs


@pytest.mark.parametrize("error", [["--obs-error", "0.7"], ["--obs-error", "t2m=0.7"]])
def test_errors_of_observations(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], error: list[str]
) -> None:
    stations(error=False).to_netcdf(tmp_path / "obs.nc")
    out = tmp_path / "a.nc"
    paths = [files / "forecast.nc", tmp_path / "obs.nc", out]
    run(capsys, "assimilate", *paths, "--prior", files / "prior.safetensors", *QUICK, *error)
    expected = forecast().daisi.assimilate(
        stations(error=False), files / "prior.safetensors", obs_error=0.7, steps=2, device="cpu"
    )
    same_values(out, expected)


def test_operator_and_background_check(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    obs = stations()
    obs["t2m"] = np.log(obs.t2m)
    obs["t2m_error"] = obs.t2m_error * 0.0 + 0.002
    obs.t2m[0, 1] = 9.0  # exp(9) K
    obs.to_netcdf(tmp_path / "obs.nc")
    paths = [files / "forecast.nc", tmp_path / "obs.nc", tmp_path / "a.nc"]
    options = ["--operator", "t2m=log", "--background-check", "20", "--time-tolerance", "1h"]
    table = tmp_path / "f.nc"
    prior = ["--prior", files / "prior.safetensors", *QUICK]
    run(capsys, "assimilate", *paths, *prior, *options, "--feedback", table)
    expected = forecast().daisi.assimilate(
        obs,
        files / "prior.safetensors",
        operator={"t2m": "log"},
        background_check=20.0,
        time_tolerance="1h",
        steps=2,
        device="cpu",
    )
    same_values(tmp_path / "a.nc", expected)
    with xr.open_dataset(table) as found:
        rejected = found.t2m_status != 0
        assert int(rejected.sum()) == 1
        assert bool(rejected[0, 1])
        assert float(abs(found.t2m_forecast - np.log(280.0)).max()) < 0.1


def test_settings_of_the_sampler(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {
        "t_min": 0.3,
        "steps": (1, 3),
        "solver": "euler",
        "noise": 0.1,
        "inverse_noise": 0.05,
        "corrector_steps": 1,
        "guidance": "dps-exact",
        "guidance_solver": "cg",
        "guidance_iterations": 2,
        "strength": 0.5,
        "dtype": "float64",
        "batch": 2,
    }
    tokens = []
    for key, value in given.items():
        text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        tokens += ["--" + key.replace("_", "-"), text]
    paths = [files / "forecast.nc", files / "obs.nc", tmp_path / "a.nc"]
    prior = files / "prior.safetensors"
    run(capsys, "assimilate", *paths, "--prior", prior, "--device", "cpu", *tokens)
    same_values(tmp_path / "a.nc", in_python(files, **given))


def test_prior_named_in_the_forecast(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named = forecast().assign_attrs(daisi_prior=str(files / "prior.safetensors"))
    named.to_netcdf(tmp_path / "forecast.nc")
    paths = [tmp_path / "forecast.nc", files / "obs.nc", tmp_path / "a.nc"]
    run(capsys, "assimilate", *paths, *QUICK)
    same_values(tmp_path / "a.nc", in_python(files))


def test_times_of_other_calendars(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, ds in (("forecast.nc", forecast()), ("obs.nc", stations())):
        ds.convert_calendar("noleap", use_cftime=True).to_netcdf(tmp_path / name)
    paths = [tmp_path / "forecast.nc", tmp_path / "obs.nc", tmp_path / "a.nc"]
    said, _ = run(capsys, "assimilate", *paths, "--prior", files / "prior.safetensors", *QUICK)
    assert "observations: 8 used" in said
    with xr.open_dataset(tmp_path / "a.nc") as found:
        assert found.indexes["time"].calendar == "noleap"


def test_packed_forecast_does_not_saturate(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Packing that holds the forecast to the last bit cannot hold the analysis."""
    background = forecast()
    low, high = float(background.t2m.min()), float(background.t2m.max())
    packing = {
        "dtype": "int16",
        "scale_factor": (high - low) / 60000.0,
        "add_offset": 0.5 * (low + high),
        "_FillValue": -32768,
    }
    background.to_netcdf(tmp_path / "forecast.nc", encoding={"t2m": packing})
    obs = stations()
    obs["t2m"] = obs.t2m * 0.0 + high + 20.0
    obs.to_netcdf(tmp_path / "obs.nc")
    paths = [tmp_path / "forecast.nc", tmp_path / "obs.nc", tmp_path / "a.nc"]
    before = (tmp_path / "forecast.nc").read_bytes()
    run(capsys, "assimilate", *paths, "--prior", files / "prior.safetensors", *QUICK)
    with xr.open_dataset(tmp_path / "forecast.nc") as packed, xr.open_dataset(paths[2]) as found:
        expected = packed.load().daisi.assimilate(
            obs, files / "prior.safetensors", steps=2, device="cpu"
        )
        np.testing.assert_allclose(found.t2m, expected.t2m, rtol=1e-6)
        assert float(found.t2m.max()) > high + 1.0
        assert found.t2m.encoding["dtype"].kind == "f"
        assert "scale_factor" not in found.t2m.encoding
    assert (tmp_path / "forecast.nc").read_bytes() == before


def test_no_overlap_warns_in_one_line_and_keeps_the_forecast(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    obs = stations()
    obs.assign_coords(time=obs.time + np.timedelta64(50, "D")).to_netcdf(tmp_path / "obs.nc")
    paths = [files / "forecast.nc", tmp_path / "obs.nc", tmp_path / "a.nc"]
    said, err = run(capsys, "assimilate", *paths, "--prior", files / "prior.safetensors", *QUICK)
    assert "8 too far from any forecast time" in said
    assert err.startswith("xr-daisi: warning: no observation can be used")
    assert err.count("\n") == 1
    same_values(tmp_path / "a.nc", forecast(), rtol=0.0)


def test_verbose_logs_and_shows_tracebacks(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, err = run(capsys, *arguments(files, tmp_path / "a.nc", "--verbose"))
    assert "xr_daisi: forecast " in err
    assert "'member': 3" in err
    assert '"steps": 2' in err
    _, err = run(
        capsys, *arguments(files, tmp_path / "b.nc", "--verbose", "--t-min", "3"), status=2
    )
    assert "Traceback" in err
    assert "xr-daisi: error: --t-min: found 3.0" in err
    assert logging.getLogger("xr_daisi").handlers == []


# -- outputs that exist -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["out.nc", "out.zarr"])
def test_existing_outputs_need_overwrite(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    out = tmp_path / name
    run(capsys, *arguments(files, out, "--seed", "1"))
    before = everything(tmp_path)
    _, err = run(capsys, *arguments(files, out, "--seed", "2"), status=2)
    assert "pass --overwrite to replace it" in err
    table = ["--feedback", str(out)]
    run(capsys, *arguments(files, tmp_path / "other.nc", *table), status=2)
    assert everything(tmp_path) == before
    run(capsys, *arguments(files, out, "--seed", "2", "--overwrite"))
    same_values(out, in_python(files, seed=2))
    assert os.listdir(tmp_path) == [name]


def test_existing_prior_needs_overwrite(
    files: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = everything(files)
    monkeypatch.setattr("xr_daisi.training.train_prior", None)  # found out before any training
    tokens = ["train", files / "history.nc", files / "prior.safetensors"]
    _, err = run(capsys, *tokens, status=2)
    assert "pass --overwrite" in err
    assert everything(files) == before


# -- as a process -----------------------------------------------------------------------------


def process(*tokens: object, **options: Any) -> subprocess.Popen[str]:
    command = [str(Path(sys.executable).with_name("xr-daisi")), *map(str, tokens)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, **pipes | options)


def test_installed_command(files: Path, tmp_path: Path) -> None:
    done = process(*arguments(files, tmp_path / "a.nc", "--chunks", "member=1"))
    out, err = done.communicate(timeout=120)
    assert (done.returncode, err) == (0, "")
    assert "observations: 8 used" in out
    same_values(tmp_path / "a.nc", in_python(files))
    done = process(*arguments(files, tmp_path / "a.nc"))
    out, err = done.communicate(timeout=120)
    assert (done.returncode, out) == (2, "")
    assert err.count("\n") == 1


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_termination_leaves_nothing(files: Path, tmp_path: Path) -> None:
    """Batch schedulers end a job that way."""
    tokens = ["assimilate", files / "forecast.nc", files / "obs.nc", tmp_path / "a.nc"]
    tokens += ["--prior", files / "prior.safetensors", "--steps", "2000000", "--verbose"]
    running = process(*tokens, "--chunks", "time=1")
    assert running.stderr is not None
    while "settings" not in running.stderr.readline():
        assert running.poll() is None
    deadline = time.monotonic() + 60.0
    while not os.listdir(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert os.listdir(tmp_path) != []  # the temporary output
    time.sleep(0.5)  # into the work, which no thread would leave of its own accord
    running.send_signal(signal.SIGTERM)
    _, err = running.communicate(timeout=30)
    assert running.returncode == 143
    assert "xr-daisi: error: terminated" in err
    assert os.listdir(tmp_path) == []


def test_reader_that_has_seen_enough(files: Path) -> None:
    with process("info", files / "prior.safetensors") as running:
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdout.close()
        assert running.stderr.read() == ""
    assert running.returncode == 1


# -- help -------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_help_explains_every_option(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = run(capsys, command, "--help")
    # Name, type (of newer versions of cyclopts) and text between the borders of a box.
    row = re.compile(r"^│[ *]*(--[\w-]+|[A-Z]+)( [A-Z|]+(?:\.\.\.)?)* {2,}(\w.*)│$", re.MULTILINE)
    explained = {match[1] for match in row.finditer(out)}
    function = app[command].default_command
    names = set(inspect.signature(function).parameters)
    groups = {"sampling": Sampling, "reading": Reading, "grid": LargeGrid, "baseline": MethodChoice}
    for grouped, options in groups.items():
        if grouped in names:
            names = names - {grouped} | {field.name for field in fields(options)}
    for name in names:
        assert explained & {name.upper(), "--" + name.replace("_", "-")}, name
    assert "[ARGS]" not in out


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    for tokens in ([], ["--help"]):
        out, _ = run(capsys, *tokens)
        for command in COMMANDS:
            assert f" {command} " in out
    out, _ = run(capsys, "--version")
    assert out.strip() == xr_daisi.__version__


def test_long_texts_are_wrapped_in_terminals(
    files: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = run(capsys, "info", files / "prior.safetensors")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "60")
    wrapped, _ = run(capsys, "info", files / "prior.safetensors")
    assert wrapped.split() == whole.split()
    settings = [line for line in wrapped.splitlines() if "=" in line]
    assert len(settings) > 2
    assert max(map(len, settings)) <= 60
    start = settings[0].index("t_min")
    assert all(line[:start].isspace() and not line[start].isspace() for line in settings[1:])
    said, _ = run(capsys, *arguments(files, None, "--dry-run"))
    assert max(map(len, said.splitlines())) <= 60


def documented() -> list[str]:
    """Every command on the page about the command line."""
    text = (REPOSITORY / "docs" / "command-line.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]


@pytest.mark.parametrize("line", documented())
def test_documented_commands_are_understood(line: str) -> None:
    program, *tokens = shlex.split(line)
    assert program == "xr-daisi"
    command, bound, _ = app.parse_args(tokens, exit_on_error=False, print_error=False)
    assert command.__name__ == tokens[0]
    assert "--" not in str(bound.args)


def test_methods_that_need_no_prior(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [files / "forecast.nc", files / "obs.nc", tmp_path / "analysis.nc"]
    letkf = ["--method", "letkf", "--localization", "400km", "--relaxation", "0.3"]
    said, _ = run(capsys, "assimilate", *paths, *letkf, "--device", "cpu")
    assert "analysis by letkf in " in said
    with xr.open_dataset(paths[0]) as background, xr.open_dataset(paths[1]) as obs:
        keywords: Any = {"localization": 400, "relaxation": 0.3, "device": "cpu"}
        expected = background.load().daisi.assimilate(obs, method="letkf", **keywords)
        same_values(paths[2], expected)
        oi = ["--method", "oi", "--localization", "300", "--background-error", "t2m=2"]
        run(capsys, "assimilate", *paths, *oi, "--overwrite", "--device", "cpu")
        keywords = {"localization": 300, "background_error": 2.0, "device": "cpu"}
        same_values(paths[2], background.daisi.assimilate(obs, method="oi", **keywords))
    for wrong in (["t2m=x"], ["2", "3"], ["t2m=1", "2"]):
        named = [text for value in wrong for text in ("--background-error", value)]
        options = [*oi[:-2], *named, "--overwrite"]
        _, err = run(capsys, "assimilate", *paths, *options, status=2)
        assert "--background-error: found" in err
    _, err = run(capsys, "assimilate", *paths, *letkf, "--t-min", "0.2", "--overwrite", status=2)
    assert "--t-min: found 0.2" in err


OPTIONS = (Sampling, Reading, LargeGrid, MethodChoice)


def test_every_option_of_assimilate_is_documented() -> None:
    text = (REPOSITORY / "docs" / "command-line.md").read_text(encoding="utf-8")
    names = set(inspect.signature(app["assimilate"].default_command).parameters)
    names |= {field.name for options in OPTIONS for field in fields(options)}
    for name in names - {"forecast", "obs", "analysis", "sampling", "reading", "grid", "baseline"}:
        assert "--" + name.replace("_", "-") in text
