"""Output that is complete or not there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from xr_daisi.output_files import check_free, replacing

REMEDY = "pass overwrite=True"


def write(target: Path, text: str, *, overwrite: bool = False) -> None:
    with replacing(target, overwrite=overwrite, remedy=REMEDY) as temporary:
        temporary.write_text(text)


def write_store(target: Path, text: str, *, overwrite: bool = False) -> None:
    with replacing(target, overwrite=overwrite, remedy=REMEDY) as temporary:
        temporary.mkdir()
        (temporary / "zarr.json").write_text(text)


def test_new_file_in_a_new_folder(tmp_path: Path) -> None:
    target = tmp_path / "a" / "b" / "out.txt"
    write(target, "x")
    assert target.read_text() == "x"
    assert os.listdir(target.parent) == ["out.txt"]


def test_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path("out.txt"), "x")
    assert os.listdir(tmp_path) == ["out.txt"]


def test_existing_file_needs_overwrite(tmp_path: Path) -> None:
    target = tmp_path / "out.txt"
    write(target, "old")
    with pytest.raises(FileExistsError, match=r"out.txt: found an existing file.*overwrite=True"):
        write(target, "new")
    assert target.read_text() == "old"
    write(target, "new", overwrite=True)
    assert target.read_text() == "new"


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_nothing_half_written_stays(tmp_path: Path, error: BaseException) -> None:
    target = tmp_path / "out.txt"
    write(target, "old")

    def fail() -> None:
        with replacing(target, overwrite=True, remedy=REMEDY) as temporary:
            temporary.write_text("ha")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["out.txt"]


def test_a_store_replaces_a_store_as_a_whole(tmp_path: Path) -> None:
    target = tmp_path / "out.zarr"
    write_store(target, "old")
    (target / "chunk").write_text("of the old one")
    with pytest.raises(FileExistsError, match="an existing directory"):
        write_store(target, "new")
    write_store(target, "new", overwrite=True)
    assert os.listdir(target) == ["zarr.json"]
    assert (target / "zarr.json").read_text() == "new"
    assert os.listdir(tmp_path) == ["out.zarr"]


def test_a_store_that_cannot_be_moved_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out.zarr"
    write_store(target, "old")
    replace = os.replace

    def fail(source: Any, to: Any) -> None:
        if Path(source).name == "out.zarr" and Path(to) == target:
            raise OSError(28, "No space left on device")
        replace(source, to)

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="No space left"):
        write_store(target, "new", overwrite=True)
    assert (target / "zarr.json").read_text() == "old"
    assert os.listdir(tmp_path) == ["out.zarr"]


def test_folders_of_the_user_are_never_replaced(tmp_path: Path) -> None:
    target = tmp_path / "results"
    target.mkdir()
    (target / "precious.nc").write_text("x")
    with pytest.raises(FileExistsError, match="a directory that is no Zarr store"):
        write_store(target, "new", overwrite=True)
    with pytest.raises(FileExistsError, match="a directory that is no Zarr store"):
        write(target, "new", overwrite=True)
    assert (target / "precious.nc").read_text() == "x"


def test_a_file_does_not_replace_a_store(tmp_path: Path) -> None:
    target = tmp_path / "out.zarr"
    write_store(target, "old")
    with pytest.raises(FileExistsError, match="found a directory, expected a file"):
        write(target, "new", overwrite=True)
    assert (target / "zarr.json").read_text() == "old"
    assert os.listdir(tmp_path) == ["out.zarr"]


def test_a_place_that_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OSError, match="file"):
        write(tmp_path / "file" / "out.txt", "x")


def test_an_interruption_as_the_room_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = os.mkdir

    def interrupted(*given: Any, **options: Any) -> None:
        make(*given, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "mkdir", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "out.txt", "x")
    assert os.listdir(tmp_path) == []


def test_check_free(tmp_path: Path) -> None:
    target = tmp_path / "out.txt"
    check_free(target, overwrite=False, remedy="pass --overwrite")
    target.write_text("x")
    check_free(target, overwrite=True, remedy="pass --overwrite")
    with pytest.raises(FileExistsError, match="expected none; pass --overwrite to replace it"):
        check_free(target, overwrite=False, remedy="pass --overwrite")
