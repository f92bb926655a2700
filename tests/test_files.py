"""Datasets from files and into files."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from cli_files import forecast, stations

import xr_daisi
from xr_daisi.errors import DaisiError, DaisiTypeError, StateError
from xr_daisi.files import check_output, check_place, open_file, write_file


def round_trip(ds: xr.Dataset, path: Path) -> xr.Dataset:
    write_file(ds, path, overwrite=False)
    with open_file(path) as found:
        return found.load()


@pytest.mark.parametrize("name", ["a.nc", "a.nc4", "a.zarr"])
def test_there_and_back(tmp_path: Path, name: str) -> None:
    ds = forecast().assign(note=("member", np.array(["one", "two", "three"], dtype=object)))
    before = ds.copy(deep=True)
    found = round_trip(ds, tmp_path / "new" / name)
    xr.testing.assert_identical(found, ds)
    xr.testing.assert_identical(ds, before)
    assert os.listdir(tmp_path / "new") == [name]


@pytest.mark.parametrize("source", ["nc", "zarr"])
@pytest.mark.parametrize("target", ["nc", "zarr"])
@pytest.mark.parametrize("chunks", [{"time": 1}, {"member": 2, "latitude": 3}])
def test_any_chunks_between_any_formats(
    tmp_path: Path, source: str, target: str, chunks: dict[str, int]
) -> None:
    """The layout of the file that was read does not stand in the way of the one written."""
    encoding = {"chunks" if source == "zarr" else "chunksizes": (2, 1, 4, 5)}
    path = tmp_path / f"in.{source}"
    if source == "zarr":
        forecast().to_zarr(path, encoding={"t2m": encoding}, consolidated=False)
    else:
        forecast().to_netcdf(path, encoding={"t2m": {**encoding, "zlib": True}})
    with open_file(path, chunks) as lazy:
        assert lazy.t2m.chunksizes["time"] == ((1, 1) if "time" in chunks else (2,))
        assert lazy.t2m.chunksizes["longitude"] == (9,)
        encodings = {v: dict(lazy[v].encoding) for v in lazy.variables}
        found = round_trip(lazy, tmp_path / f"out.{target}")
        assert {v: lazy[v].encoding for v in lazy.variables} == encodings
    xr.testing.assert_identical(found, forecast())


def test_zarr_of_the_second_format(tmp_path: Path) -> None:
    pytest.importorskip("zarr", minversion="3.0", reason="there is no other format")
    forecast().to_zarr(tmp_path / "in.zarr", zarr_format=2)
    with open_file(tmp_path / "in.zarr") as ds:
        for name in ("a.zarr", "a.nc"):
            xr.testing.assert_identical(round_trip(ds, tmp_path / name), forecast())


def test_writing_zarr_says_nothing(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    ds = stations().assign(name=("station", np.array(list("abcd"), dtype=object)))
    write_file(ds, tmp_path / "a.zarr", overwrite=False)
    with open_file(tmp_path / "a.zarr") as found:
        assert found["name"].values.tolist() == list("abcd")
    assert [str(w.message) for w in recwarn if "ResourceWarning" not in str(w.category)] == []


def test_attributes_that_netcdf_cannot_hold_become_text(tmp_path: Path) -> None:
    ds = stations().assign_attrs(done=True, nothing=None, deep={"a": [1]}, mixed=[1, "b"], n=3)
    ds.t2m.attrs["flags"] = False
    found = round_trip(ds, tmp_path / "a.nc")
    assert found.attrs["done"] == "true"
    assert found.attrs["nothing"] == "null"
    assert found.attrs["deep"] == '{"a": [1]}'
    assert found.attrs["mixed"] == '[1, "b"]'
    assert found.attrs["n"] == 3
    assert found.t2m.attrs["flags"] == "false"
    assert ds.attrs["done"] is True
    kept = round_trip(ds, tmp_path / "a.zarr")
    assert kept.attrs["deep"] == {"a": [1]}


def test_what_no_file_can_hold(tmp_path: Path) -> None:
    ds = xr.Dataset({"a": ("x", np.array([object(), object()]))})
    with pytest.raises(DaisiError, match=r"a.nc: found what cannot be written as .nc \("):
        write_file(ds, tmp_path / "a.nc", overwrite=False)
    assert os.listdir(tmp_path) == []


def test_errors_of_lazy_data_stay_what_they_are(tmp_path: Path) -> None:
    def fail(block: np.ndarray) -> np.ndarray:
        raise error

    lazy = stations().chunk(station=2)
    for error in (StateError("t2m: found NaN"), RuntimeError("of a network")):
        ds = lazy.assign(t2m=lazy.t2m.copy(data=lazy.t2m.data.map_blocks(fail, meta=np.zeros(()))))
        for name in ("a.nc", "a.zarr"):
            with pytest.raises(type(error), match=str(error)):
                write_file(ds, tmp_path / name, overwrite=False)
    assert os.listdir(tmp_path) == []


def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(self: xr.Dataset, path: Path) -> None:
        Path(path).write_text("half")
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(xr.Dataset, "to_netcdf", write)
    expected = rf"^{tmp_path / 'a.nc'}: found no way to write it \(No space left on device\)"
    with pytest.raises(OSError, match=expected):
        write_file(stations(), tmp_path / "a.nc", overwrite=False)
    assert os.listdir(tmp_path) == []


def test_existing_file(tmp_path: Path) -> None:
    path = tmp_path / "a.nc"
    write_file(stations(), path, overwrite=False)
    with pytest.raises(FileExistsError, match="pass --overwrite"):
        write_file(stations(), path, overwrite=False)
    write_file(stations(n=2), path, overwrite=True)
    with open_file(path) as found:
        assert found.sizes["station"] == 2


def test_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("x")
    check_output(tmp_path / "a" / "b" / "c.zarr", overwrite=False)
    check_place(tmp_path / "a" / "b" / "c")
    assert os.listdir(tmp_path) == ["file"]
    monkeypatch.chdir(tmp_path)
    check_output(Path("c.nc"), overwrite=False)
    for path, expected in (("a.grib", "ending '.grib'"), ("a", "no ending")):
        with pytest.raises(DaisiError, match=f"{path}: found {expected}, expected .nc or .zarr"):
            check_output(tmp_path / path, overwrite=False)
    with pytest.raises(DaisiError, match="file', which is no folder"):
        check_output(tmp_path / "file" / "a.nc", overwrite=False)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(DaisiError, match="which you may not write to"):
        check_place(tmp_path / "a")


def test_open_file_loads_nothing(tmp_path: Path) -> None:
    forecast().to_netcdf(tmp_path / "a.nc")
    with open_file(tmp_path / "a.nc") as found:
        assert not found.t2m.variable._in_memory
        assert not found.chunks
    with open_file(tmp_path / "a.nc", {"member": 2}) as found:
        assert found.t2m.chunks == ((2,), (2, 1), (7,), (9,))


def test_chunks_of_other_dimensions(tmp_path: Path) -> None:
    forecast().to_netcdf(tmp_path / "a.nc")
    with pytest.raises(DaisiError, match=r"--chunks: found place, expected dim.*member"):
        open_file(tmp_path / "a.nc", {"place": 1})


def test_read_observations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    obs = stations()
    obs.to_netcdf(tmp_path / "obs.nc")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    for source in (tmp_path / "obs.nc", str(tmp_path / "obs.nc"), "~/obs.nc"):
        with xr_daisi.read_observations(source) as found:
            xr.testing.assert_identical(found.load(), obs)
    assert xr_daisi.read_observations(obs) is obs
    xr.testing.assert_identical(xr_daisi.read_observations(obs.t2m), obs[["t2m"]])
    with pytest.raises(DaisiError, match=r"a DataArray without name.*rename\('t2m'\)"):
        xr_daisi.read_observations(obs.t2m.rename(None))
    with pytest.raises(DaisiTypeError, match="found ndarray, expected a path, a Dataset"):
        xr_daisi.read_observations(obs.t2m.values)  # type: ignore[arg-type]
    with pytest.raises(DaisiError, match=r"no-such.nc: found no such file"):
        xr_daisi.read_observations(tmp_path / "no-such.nc")
