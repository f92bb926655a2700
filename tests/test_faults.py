"""What goes wrong on large machines: workers that die, full disks, damaged files, interruptions."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
import torch
import xarray as xr
from cli_files import arguments, make_files
from cli_files import forecast as file_forecast
from labelled import MEAN, QUICK, STD, forecast, gaussian_prior, stations, template

from xr_daisi import FlowPrior, assimilate
from xr_daisi.cli import main

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals and limits of POSIX")

COMMAND = str(Path(sys.executable).with_name("xr-daisi"))
FORECAST = forecast()
OBS = stations()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_files(tmp_path_factory.mktemp("files"))


# -- workers ----------------------------------------------------------------------------------


def first_time(marker: Path) -> bool:
    """Whether nobody came here before, in any process."""
    try:
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def take_all_memory() -> None:
    taken = []
    for _ in range(120):  # 60 MB each, until the worker's limit
        taken.append(np.ones(60_000_000, dtype=np.int8))
        time.sleep(0.02)


class Faulty:
    """A velocity with a fault the first time that it is called in any process."""

    def __init__(self, marker: Path, fault: Callable[[], None]) -> None:
        self.marker, self.fault = marker, fault
        self.velocity = gaussian_prior().network

    def __call__(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        if first_time(self.marker):
            self.fault()
        return self.velocity(x, t)


@pytest.fixture
def cluster() -> Iterator[Any]:
    """Two workers that are replaced when they die, or use more than 800 MB."""
    distributed = pytest.importorskip("distributed")
    settings = {
        "distributed.worker.daemon": True,
        "distributed.scheduler.allowed-failures": 0,
        "distributed.worker.memory.pause": False,
        "distributed.worker.memory.spill": False,
        "distributed.worker.memory.target": False,
    }
    with (
        dask.config.set(settings),
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, memory_limit="800MB", dashboard_address=None
        ) as cluster,
        distributed.Client(cluster),
    ):
        yield cluster


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning:distributed")
def test_workers_that_die_or_exhaust_their_memory(cluster: Any, tmp_path: Path) -> None:
    """The work of a worker that dies is done again: the result is complete and the same."""
    distributed = pytest.importorskip("distributed")
    wanted = assimilate(FORECAST, OBS, gaussian_prior(), batch=1, **QUICK)
    cluster.scheduler.allowed_failures = 1
    for name, fault in (("kill", die), ("memory", take_all_memory)):
        velocity = Faulty(tmp_path / name, fault)
        prior = FlowPrior.from_velocity(velocity, template(), mean=MEAN, std=STD)
        lazy = assimilate(FORECAST.chunk(member=1, time=1), OBS, prior, batch=1, **QUICK)
        found = lazy.compute()
        assert (tmp_path / name).exists()
        xr.testing.assert_equal(found.drop_attrs(), wanted.drop_attrs())
    # A task that kills every worker it comes to is an error.
    cluster.scheduler.allowed_failures = 0
    velocity = Faulty(tmp_path / "again", die)
    prior = FlowPrior.from_velocity(velocity, template(), mean=MEAN, std=STD)
    lazy = assimilate(FORECAST.isel(time=[0]).chunk(member=4), OBS, prior, **QUICK)
    with pytest.raises(distributed.KilledWorker, match="died"):
        lazy.compute()


# -- the prior's file -------------------------------------------------------------------------


@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
def test_a_prior_whose_file_is_lost_after_planning(
    files: Path, tmp_path: Path, scheduler: str
) -> None:
    path = tmp_path / "prior.safetensors"
    path.write_bytes((files / "prior.safetensors").read_bytes())
    options: dict[str, Any] = {"steps": 2, "device": "cpu"}
    with (
        xr.open_dataset(files / "forecast.nc", chunks={"time": 1}) as ds,
        xr.open_dataset(files / "obs.nc") as obs,
    ):
        lazy = assimilate(ds, obs, path, **options)
        path.unlink()
        found = lazy.compute(scheduler=scheduler)
        wanted = assimilate(ds.load(), obs, files / "prior.safetensors", **options)
    xr.testing.assert_equal(found.drop_attrs(), wanted.drop_attrs())


# -- interruptions ----------------------------------------------------------------------------


def test_an_interruption_leaves_nothing(files: Path, tmp_path: Path) -> None:
    """Ctrl-C in the middle of the work, on the way to either format."""
    running = []
    for name in ("a.nc", "a.zarr"):
        (tmp_path / name[2:]).mkdir()
        tokens = arguments(files, tmp_path / name[2:] / name, "--chunks", "time=1")
        tokens[tokens.index("--steps") + 1] = "2000000"
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        # A suite in the background ignores Ctrl-C, and so would what it starts.
        pipes["preexec_fn"] = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
        running.append(
            subprocess.Popen([COMMAND, *tokens, "--verbose"], text=True, bufsize=1, **pipes)
        )
    try:
        for process, folder in zip(running, ("nc", "zarr"), strict=True):
            assert process.stderr is not None
            while "settings" not in process.stderr.readline():
                assert process.poll() is None
            while not os.listdir(tmp_path / folder):  # the temporary output
                assert process.poll() is None
                time.sleep(0.02)
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=60)
            assert process.returncode == 130
            assert "xr-daisi: error: interrupted; no unfinished output was left" in err
            assert os.listdir(tmp_path / folder) == []
    finally:
        for process in running:
            process.kill()


# -- disks ------------------------------------------------------------------------------------


def test_a_file_that_the_system_cuts_short(files: Path, tmp_path: Path) -> None:
    """A limit of the size of a file stands in for a full disk or quota: writing fails midway."""
    large = file_forecast(members=60)
    large.to_netcdf(tmp_path / "forecast.nc")
    (tmp_path / "obs.nc").write_bytes((files / "obs.nc").read_bytes())
    # a report on what the tests cover would not fit either
    environment = {k: v for k, v in os.environ.items() if not k.startswith("COV")}
    running = []
    for name in ("a.nc", "a.zarr"):
        (tmp_path / name[2:]).mkdir()
        tokens = arguments(
            tmp_path, tmp_path / name[2:] / name, prior=str(files / "prior.safetensors")
        )
        # 8 blocks of 512 bytes or of 1 kB, as the shell counts
        limited = ["sh", "-c", 'ulimit -f 8; exec "$@"', "sh", COMMAND, *tokens]
        running.append(
            subprocess.Popen(limited, stderr=subprocess.PIPE, text=True, env=environment)
        )
    for process, folder in zip(running, ("nc", "zarr"), strict=True):
        _, err = process.communicate(timeout=60)
        assert process.returncode == 2
        assert err.count("\n") == 1
        assert f"a.{folder}: found no way to write it (" in err
        assert "nothing was left behind" in err
        assert os.listdir(tmp_path / folder) == []


@pytest.mark.parametrize("more", [["--chunks", "time=1"], []], ids=["lazy", "eager"])
def test_a_damaged_chunk_is_named(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str]
) -> None:
    store = tmp_path / "forecast.zarr"
    file_forecast().chunk(time=1, member=2).to_zarr(store, zarr_format=2)
    chunk = store / "t2m" / "1.1.0.0"
    content = bytearray(chunk.read_bytes())
    content[:] = b"\x00" * 7  # less than the header of its compression
    chunk.write_bytes(content)
    tokens = arguments(files, tmp_path / "a.zarr", *more)
    tokens[1] = str(store)
    assert main(tokens) == 2
    err = capsys.readouterr().err
    assert f"{store}: found variable 't2m' that cannot be read at time=2019-03-24 12:00:00" in err
    assert "member=2, " in err
    assert "copy it again" in err
    assert os.listdir(tmp_path) == ["forecast.zarr"]


def test_a_damaged_netcdf_file_is_named(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """HDF5 with a checksum notices what was overwritten."""
    path = tmp_path / "forecast.nc"
    encoding = {"t2m": {"chunksizes": (1, 1, 7, 9), "fletcher32": True}}
    ds = file_forecast()
    ds.to_netcdf(path, encoding=encoding)
    content = path.read_bytes()
    field = ds.t2m.values[1, 2].astype("<f4").tobytes()
    at = content.index(field)
    path.write_bytes(content[:at] + bytes(len(field)) + content[at + len(field) :])
    tokens = arguments(files, tmp_path / "a.nc")
    tokens[1] = str(path)
    assert main(tokens) == 2
    err = capsys.readouterr().err
    assert "forecast.nc: found variable 't2m' that cannot be read at" in err
    assert "2019-03-24 12:00:00, member=2" in err
    assert os.listdir(tmp_path) == ["forecast.nc"]


# -- memory -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_ensemble_larger_than_the_memory_it_takes(repository: Path, tmp_path: Path) -> None:
    """From Zarr to Zarr in a process of its own, whose peak is its own."""
    script = str(repository / "benchmarks" / "streaming.py")
    options = ["--gigabytes", "1.0", "--rows", "361", "--json", str(tmp_path / "found.json")]
    subprocess.run(
        [sys.executable, script, *options, "--folder", str(tmp_path)],
        check=True,
        capture_output=True,
    )
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["dataset_bytes"] > 0.95e9
    assert found["peak_bytes"] < found["dataset_bytes"]
    assert found["peak_bytes"] - found["peak_bytes_before"] < 0.5 * found["dataset_bytes"]
