"""``xr-daisi cycle`` and ``xr-daisi replay``: configurations, files, exit statuses."""

from __future__ import annotations

import json
import sys
import tomllib
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from cli_files import LAT, LON, fields, labelled, make_files, stations

from xr_daisi.cli import main
from xr_daisi.cycle_config import TEMPLATE, parse_config, read_config
from xr_daisi.cycle_models import model_of
from xr_daisi.cycle_store import CycleStore
from xr_daisi.errors import SettingsError
from xr_daisi.systems import SQG

TIMES = np.datetime64("2019-03-24T00", "ns") + np.arange(3) * np.timedelta64(12, "h")

CONFIG: dict[str, Any] = {
    "cycle": {
        "initial": "initial.nc",
        "observations": "obs.nc",
        "store": "cycles.zarr",
        "window": "12h",
        "prior": "prior.safetensors",
    },
    "model": {"kind": "persistence"},
    "assimilate": {"steps": 2, "device": "cpu", "obs_error": 0.5},
}

PROGRAM = """
import sys, shutil, netCDF4, numpy
source, target, until = sys.argv[1:]
shutil.copy(source, target)
with netCDF4.Dataset(target, "a") as ds:
    ds["t2m"][...] = ds["t2m"][...] + 0.5
    time = ds["time"]
    time[...] = netCDF4.date2num(numpy.datetime64(until).astype(object), time.units)
"""


def toml(entries: dict[str, Any]) -> str:
    """Enough of TOML for these tests: JSON writes its texts, numbers and lists alike."""
    lines = []
    for section, keys in entries.items():
        lines.append(f"[{section}]")
        for key, value in keys.items():
            if isinstance(value, dict):
                told = ", ".join(f"{k} = {json.dumps(v)}" for k, v in value.items())
                lines.append(f"{key} = {{ {told} }}")
            else:
                lines.append(f"{key} = {json.dumps(value)}")
    return "\n".join(lines)


def changed(**changes: dict[str, Any]) -> dict[str, Any]:
    merged = {k: {**v, **changes.get(k, {})} for k, v in CONFIG.items()}
    return {k: {n: v for n, v in section.items() if v is not None} for k, section in merged.items()}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_files(tmp_path_factory.mktemp("files"))
    values = fields(3, seed=1).reshape(1, 3, LAT.size, LON.size)
    initial = labelled(values, time=TIMES[:1], member=np.arange(3))
    initial.to_netcdf(folder / "initial.nc")
    obs = xr.concat(
        [stations(error=False).isel(time=[0]).assign_coords(time=[t]) for t in TIMES], "time"
    )
    obs.to_netcdf(folder / "obs.nc")
    labelled(fields(3, seed=4), time=TIMES).to_netcdf(folder / "truth.nc")
    (folder / "model.py").write_text(PROGRAM, encoding="utf-8")
    return folder


@pytest.fixture
def configured(files: Path, tmp_path: Path) -> Callable[..., Path]:
    """Write a configuration into a folder of its own that has the input files."""
    for path in files.iterdir():
        if path.is_file():
            (tmp_path / path.name).symlink_to(path)

    def write(entries: dict[str, Any], name: str = "cycle.toml") -> Path:
        path = tmp_path / name
        text = toml(entries) if path.suffix == ".toml" else json.dumps(entries)
        path.write_text(text, encoding="utf-8")
        return path

    return write


def said(capsys: pytest.CaptureFixture[str], *tokens: object, status: int = 0) -> str:
    capsys.readouterr()
    found = main([str(token) for token in tokens])
    out, err = capsys.readouterr()
    assert found == status, err
    if status == 2:
        assert out == ""
        assert err.count("\n") == 1
        assert "Traceback" not in err
        return err
    return out


# -- running ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cycle.toml", "cycle.yaml"])
def test_a_cycle_runs_goes_on_and_is_replayed(
    configured: Callable[..., Path], capsys: pytest.CaptureFixture[str], name: str
) -> None:
    first = configured(changed(cycle={"cycles": 1, "truth": "truth.nc"}), name)
    out = said(capsys, "cycle", first)
    assert "1 cycles until 2019-03-24T00:00, 1 of them new" in out
    whole = configured(changed(cycle={"truth": "truth.nc"}), name)
    out = said(capsys, "cycle", whole)
    assert "3 cycles until 2019-03-25T00:00, 2 of them new" in out
    assert "members: 3 of 3" in out
    assert "t2m, analysis: RMSE" in out
    store = whole.parent / "cycles.zarr"
    assert xr.open_zarr(store, group="analysis").sizes["time"] == 3
    assert "identical, bit for bit" in said(capsys, "replay", store, "--cycle", 1)
    with xr.open_zarr(store, group="analysis", consolidated=False) as ds:
        (ds.load() + 1).drop_encoding().to_zarr(store / "analysis", mode="r+", zarr_format=2)
    assert "different" in said(capsys, "replay", store, "--cycle", "-1", status=1)


def test_a_program_is_the_model(
    configured: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    command = f"{sys.executable} model.py {{input}} {{output}} {{until}}"
    model = {"kind": "external", "command": command, "parallel": 2, "directory": "work"}
    path = configured(changed(model=model, cycle={"cycles": 2}))
    said(capsys, "cycle", path)
    store = path.parent / "cycles.zarr"
    background = xr.open_zarr(store, group="background").t2m
    analysis = xr.open_zarr(store, group="analysis").t2m
    np.testing.assert_allclose(background[1], analysis[0] + 0.5, rtol=1e-6)
    assert list((path.parent / "work").iterdir()) == []


def test_a_climatology_is_the_model(
    configured: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = configured(changed(model={"kind": "climatology", "states": "truth.nc"}))
    said(capsys, "cycle", path)
    background = xr.open_zarr(path.parent / "cycles.zarr", group="background").t2m
    np.testing.assert_array_equal(
        background[2, 1], xr.open_dataset(path.parent / "truth.nc").t2m[2]
    )


def test_sqg_is_a_model(configured: Callable[..., Path]) -> None:
    path = configured(changed(model={"kind": "sqg"}))
    with ExitStack() as files:
        assert isinstance(model_of(read_config(path), files), SQG)


def test_a_dry_run_writes_nothing(
    configured: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = configured(CONFIG)
    before = sorted(path.parent.iterdir())
    out = said(capsys, "cycle", path, "--dry-run")
    assert "3, 0 days 12:00:00 apart, 2019-03-24T00:00 to 2019-03-25T00:00" in out
    assert "model       persistence\n" in out
    assert sorted(path.parent.iterdir()) == before


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"steps": "four"}, "steps"),
        ({"t_min": 3.0}, "t-min"),
        ({"background_check": -1.0}, "background-check"),
        ({"localization": "1500 km", "t_min": 0.2}, "localization"),
    ],
)
def test_a_dry_run_checks_what_the_first_analysis_would(
    settings: dict[str, Any],
    told: str,
    configured: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = configured(changed(assimilate={**CONFIG["assimilate"], **settings}))
    for arguments in (["--dry-run"], []):
        assert main(["cycle", str(path), *arguments]) != 0
        assert told in capsys.readouterr().err
        assert not (path.parent / "cycles.zarr").exists()


# -- the template ----------------------------------------------------------------------------------


def test_the_template_is_valid_and_so_is_all_that_it_shows(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = said(capsys, "cycle", "--template")
    assert out == TEMPLATE
    parse_config(tomllib.loads(out), tmp_path)
    shown = out.split("# kind = ")
    for number, kind in enumerate(("climatology", "external"), start=1):
        part = shown[number].split("\n\n")[0].split("\n", 1)[1]
        section = "\n".join(line.removeprefix("# ") for line in part.splitlines())
        entries = tomllib.loads(f'[model]\nkind = "{kind}"\n{section}')
        parse_config({**tomllib.loads(out), **entries}, tmp_path)
    for head, tail in (("[cycle]", "[model]"), ("[assimilate]", "\0")):
        part = out.split(head)[1].split(tail)[0].partition("\n")[2]
        section = "\n".join(line.removeprefix("# ") for line in part.splitlines())
        parse_config({**tomllib.loads(out), **tomllib.loads(f"{head}\n{section}")}, tmp_path)


def test_the_template_needs_only_its_files(
    configured: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = configured({}, "cycle.toml")
    path.write_text(TEMPLATE, encoding="utf-8")
    (path.parent / "initial.nc").unlink()
    assert "[cycle] initial: found no file 'initial.nc'" in said(capsys, "cycle", path, status=2)


# -- what is refused -------------------------------------------------------------------------------

WRONG: dict[str, tuple[dict[str, Any], list[str]]] = {
    "unknown": (
        {**changed(cycle={"windwo": "6h"}, assimilate={"tmin": 0.1}), "modle": {}},
        ["[cycle] windwo", "'window'?", "[assimilate] tmin", "'t_min'?", "modle", "'model'?"],
    ),
    "missing": (
        {"cycle": {"window": "6h"}, "assimilate": {}},
        ["initial: found no such key", "observations", "store", "[model]: found no such section"],
    ),
    "types": (
        changed(cycle={"cycles": 1.5, "window": 6, "seed": True, "initial": ["a"]}),
        ["cycles: found 1.5, expected a whole number", "window: found 6", "seed", "initial"],
    ),
    "contradictory": (
        changed(model={"command": "run"}, assimilate={"seed": 3, "dry_run": True}),
        [
            "command: found a key of kind 'external', expected none, for kind 'persistence'",
            "seed: found a key that is not for here, expected in [cycle]",
            "dry_run",
        ],
    ),
    "kind": (changed(model={"kind": "extrenal"}), ["did you mean 'external'?"]),
    "external": (
        changed(model={"kind": "external", "timeout": "long"}),
        ["command: found no such key", "timeout: found 'long', expected a number"],
    ),
    "files": (
        changed(cycle={"truth": "no.nc"}, model={"kind": "climatology", "states": "none.nc"}),
        ["no file 'no.nc'", "no file 'none.nc'"],
    ),
    "values": (changed(cycle={"window": "soon", "on_failure": "cry"}), ["window", "on_failure"]),
    "command": (
        changed(model={"kind": "external", "command": "run {inptu}"}),
        ["{inptu}, expected only {input}"],
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_everything_wrong_is_told_at_once(
    configured: Callable[..., Path], capsys: pytest.CaptureFixture[str], what: str
) -> None:
    entries, texts = WRONG[what]
    path = configured(entries)
    told = said(capsys, "cycle", path, status=2)
    for text in texts:
        assert text in told
    assert not (path.parent / "cycles.zarr").exists()


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.toml", "[cycle\n", "expected a file in TOML"),
        ("a.yaml", "cycle: [1", "expected a file in YAML"),
        ("a.yaml", "- 1", "expected sections [cycle], [model]"),
        ("a.yaml", "cycle: 3\nmodel: {kind: sqg}", "[cycle]: found 3, expected a section"),
        ("a.json", "{}", "ending '.json', expected .toml or .yaml"),
    ],
)
def test_files_that_are_no_configuration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, text: str, expected: str
) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert expected in said(capsys, "cycle", tmp_path / name, status=2)


def test_what_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--template prints one" in said(capsys, "cycle", tmp_path / "no.toml", status=2)
    assert "CONFIG: found nothing" in said(capsys, "cycle", status=2)
    assert "no such store" in said(capsys, "replay", tmp_path / "no.zarr", "--cycle", 0, status=2)
    assert "requires" in said(capsys, "replay", tmp_path / "no.zarr", status=2).lower()


def test_another_configuration_of_a_store_is_refused(
    configured: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = configured(changed(cycle={"cycles": 1}))
    said(capsys, "cycle", path)
    path = configured(changed(cycle={"cycles": 1, "seed": 4}, assimilate={"t_min": 0.5}))
    told = said(capsys, "cycle", path, status=2)
    assert "seed: found 0, expected 4" in told
    assert "keywords.t_min" in told
    assert "--overwrite" in told
    said(capsys, "cycle", path, "--overwrite")
    assert CycleStore.read_only(path.parent / "cycles.zarr").finished == 1


def test_a_model_that_fails_is_told_in_one_line(
    configured: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["sh", "-c", "echo no grid file >&2; exit 3"]
    path = configured(changed(model={"kind": "external", "command": command, "keep": "never"}))
    told = said(capsys, "cycle", path, status=2)
    assert "cycle 1: " in told
    assert "exit status 3" in told
    assert "no grid file" in told
    assert CycleStore.read_only(path.parent / "cycles.zarr").finished == 1


def test_parsing_names_the_subject() -> None:
    with pytest.raises(SettingsError, match=r"^here, \[model\]: found no such section"):
        parse_config({"cycle": CONFIG["cycle"]}, Path(), subject="here")
