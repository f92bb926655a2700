"""Where a cycle is kept: groups of a Zarr store, and what is finished of them.

Everything of a cycle is written first; then the store's own attributes, replaced in one step, say
that it counts. They also hold the metadata of all arrays as they were then: what a killed process
left half-written is taken back from them when the cycle goes on.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import xarray as xr

from xr_daisi.durable import replace_json, replace_text, to_disk
from xr_daisi.errors import DaisiError, SettingsError, problem, raise_problems
from xr_daisi.fingerprints import differences
from xr_daisi.output_files import check_free, replacing
from xr_daisi.zarr_writing import FORMAT, TIME_ENCODING, encoding_of, quiet_zarr

__all__ = ["CycleStore"]

LAYOUT = 1
KEY = "xr_daisi_cycle"
GROUPS = ("background", "analysis", "scores")
TABLES = ("observations", "feedback")


class CycleStore:
    """A Zarr store of finished cycles.

    Use `create_or_open` and `read_only`.

    Parameters
    ----------
    path : Path
        The store.
    state : dict
        What its attributes say: ``finished``, ``time``, ``configuration`` and more.
    """

    def __init__(self, path: Path, state: dict[str, Any]) -> None:
        self.path = path
        self.state = state
        self._pending: dict[str, Any] | None = None

    # -- opening ---------------------------------------------------------------------------------

    @classmethod
    def create_or_open(
        cls, path: Path, configuration: Mapping[str, Any], *, time: str, overwrite: bool
    ) -> CycleStore:
        """Open a store to go on with, or make a new one.

        Parameters
        ----------
        path : Path
            The store.
        configuration : mapping
            What makes it this cycle, plain JSON types.
        time : str
            Name of the time dimension.
        overwrite : bool
            Replace what is there instead of going on with it.

        Raises
        ------
        SettingsError
            Naming everything in which the configuration of an existing store differs.
        FileExistsError
            If something else is there.
        DaisiError
            If it is damaged, or written by a later version.
        """
        if path.exists() and not overwrite and (path / ".zattrs").exists():
            store = cls.read_only(path)
            if store.finished:
                _refuse_differences(path, store.state["configuration"], configuration)
            else:  # nothing is lost: what began it may have been a mistake
                store._pending = _new_state(configuration, time)
            return store
        check_free(path, overwrite=overwrite, remedy="pass overwrite=True")
        with replacing(path, overwrite=overwrite, remedy="pass overwrite=True") as temporary:
            temporary.mkdir()
            (temporary / ".zgroup").write_text(json.dumps({"zarr_format": 2}), encoding="utf-8")
            store = cls(temporary, _new_state(configuration, time))
            store.commit()
        store.path = path
        return store

    @classmethod
    def read_only(cls, path: Path) -> CycleStore:
        """Open an existing store to read from.

        Raises
        ------
        DaisiError
            If it is no store of a cycle, damaged, or written by a later version.
        """
        expected = "a store that xr_daisi.cycle has written"
        try:
            text = (path / ".zattrs").read_text(encoding="utf-8")
            state = json.loads(text)[KEY]
        except FileNotFoundError:
            found = "no such store" if not path.exists() else "something else"
            raise DaisiError(problem(str(path), found, expected, "check the path")) from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DaisiError(problem(str(path), "something else", expected)) from error
        if state.get("layout") != LAYOUT:
            found = f"layout {state.get('layout')!r}"
            remedy = "use the version of xr_daisi that wrote it"
            raise DaisiError(problem(str(path), found, f"layout {LAYOUT}", remedy))
        return cls(path, state)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from writing to the store; the lock ends with the process.

        Raises
        ------
        DaisiError
            If another process is writing to it.
        """
        try:
            import fcntl
        except ImportError:  # Windows
            self._begin()
            yield
            return
        handle = os.open(self.path, os.O_RDONLY)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                found = "another process that is writing to it"
                remedy = "wait for it to end, or name another store"
                raise DaisiError(problem(str(self.path), found, "none", remedy)) from error
            self._begin()
            yield
        finally:
            os.close(handle)

    def _begin(self) -> None:
        """Read the state again: another process may have gone on in the meantime."""
        self.state = type(self).read_only(self.path).state
        pending, self._pending = self._pending, None
        if pending is not None and self.finished:
            there = self.state["configuration"]
            _refuse_differences(self.path, there, pending["configuration"])
        elif pending is not None:
            self.state = pending
            self.commit()

    # -- reading ---------------------------------------------------------------------------------

    @property
    def finished(self) -> int:
        """Number of cycles that are complete."""
        return int(self.state["finished"])

    @property
    def time(self) -> str:
        """Name of the time dimension."""
        return str(self.state["time"])

    def group(self, name: str, *, chunks: Any = None) -> xr.Dataset:
        """Open ``"background"``, ``"analysis"`` or ``"scores"``: the finished cycles along time."""
        ds: xr.Dataset = xr.open_zarr(self.path / name, chunks=chunks)
        return ds.isel({self.time: slice(0, self.finished)})

    def read(self, name: str, cycle: int) -> xr.Dataset:
        """Read one cycle of a group into memory, with a time dimension of length one."""
        with self.group(name) as ds:
            one: xr.Dataset = ds.isel({self.time: [cycle]}).load().drop_encoding()
        return one

    def tables(self, name: str, cycle: int) -> list[xr.Dataset]:
        """Read the Datasets of ``"feedback"`` or ``"observations"`` of one cycle."""
        folder = self.path / name / _number(cycle)
        out = []
        for part in sorted(folder.iterdir()) if folder.is_dir() else ():
            if part.is_dir():
                with xr.open_zarr(part, chunks=None) as ds:
                    out.append(ds.load())
        return out

    def record(self, cycle: int) -> dict[str, Any]:
        """Return what is recorded of one cycle.

        Raises
        ------
        DaisiError
            If there is no such cycle.
        """
        if not 0 <= cycle < self.finished:
            expected = f"a number from 0 to {self.finished - 1}" if self.finished else "none yet"
            raise DaisiError(problem("cycle", str(cycle), expected))
        path = self.path / "feedback" / _number(cycle) / ".zattrs"
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["daisi_cycle_record"]
        return record

    # -- writing ---------------------------------------------------------------------------------

    def write_group(self, name: str, ds: xr.Dataset, cycle: int, member: str | None) -> None:
        """Append one cycle to a group; it does not count before `finish`.

        Each group has a summary of its own metadata: one for the whole store would grow with every
        cycle.
        """
        first = not (self.path / name).exists()
        out = ds.drop_encoding()
        with quiet_zarr():
            if first:
                encoding = encoding_of(out, self.time, member)
                out.to_zarr(self.path / name, mode="w", encoding=encoding, **FORMAT)
            else:
                moving = [n for n, v in out.variables.items() if self.time not in v.dims]
                out = out.drop_vars([n for n in moving if n not in out.dims])
                out.to_zarr(self.path / name, append_dim=self.time, mode="a-", **FORMAT)

    def write_tables(
        self, name: str, tables: Sequence[xr.Dataset], cycle: int, attrs: Mapping[str, Any]
    ) -> None:
        """Write the Datasets of one cycle as groups of their own."""
        folder = self.path / name
        folder.mkdir(exist_ok=True)
        replace_json(folder / ".zgroup", {"zarr_format": 2})
        target = folder / _number(cycle)
        room = Path(tempfile.mkdtemp(prefix=".writing-", dir=folder))
        inner = room / target.name
        inner.mkdir()
        replace_json(inner / ".zgroup", {"zarr_format": 2})
        replace_json(inner / ".zattrs", dict(attrs))
        with quiet_zarr():
            for number, ds in enumerate(tables):
                out = ds.drop_encoding()
                encoding: dict[Any, Any] = {
                    n: TIME_ENCODING for n, v in out.variables.items() if v.dtype.kind == "M"
                }
                out.to_zarr(inner / f"{number:03d}", mode="w", encoding=encoding, **FORMAT)
        os.replace(inner, target)
        shutil.rmtree(room, ignore_errors=True)

    def finish(self, cycle: int, **changes: Any) -> None:
        """Declare a cycle finished, once everything of it is on the disk.

        Parameters
        ----------
        cycle : int
            Its number.
        **changes
            Entries of the state that are new.
        """
        written = [p for name in GROUPS for p in self._paths_of(name, cycle)]
        for name in TABLES:
            written += [self.path / name, *(self.path / name / _number(cycle)).rglob("*")]
        to_disk(written)
        self.state = {**self.state, **changes, "finished": cycle + 1, "metadata": self._metadata()}
        self._summarize()
        self.commit()

    def _paths_of(self, name: str, cycle: int) -> Iterator[Path]:
        """Files of one cycle in a group, and the metadata."""
        for array in (self.path / name).iterdir():
            for entry in array.iterdir() if array.is_dir() else ():
                first = entry.name.split(".")[0]
                if not first.isdigit() or int(first) == cycle or cycle == 0:
                    yield entry
            yield array
        yield self.path / name

    def commit(self) -> None:
        """Replace the attributes of the store in one step."""
        replace_json(self.path / ".zattrs", {KEY: self.state})

    def _summarize(self) -> None:
        """Write the summary of metadata that readers of the whole store use.

        It tells of finished cycles alone. Tables of single cycles are left out: it would grow.
        """
        texts: dict[str, str] = self.state["metadata"]
        entries = {k: json.loads(v) for k, v in texts.items() if not k.endswith("/.zmetadata")}
        metadata = {".zgroup": {"zarr_format": 2}, ".zattrs": {}, **entries}
        summary = {"zarr_consolidated_format": 1, "metadata": metadata}
        replace_json(self.path / ".zmetadata", summary)

    # -- recovery --------------------------------------------------------------------------------

    def recover(self) -> None:
        """Take away what belongs to no finished cycle."""
        kept: dict[str, str] = self.state.get("metadata", {})
        for name in GROUPS:
            folder = self.path / name
            if not kept or not folder.exists():
                shutil.rmtree(folder, ignore_errors=True)
                continue
            arrays = {
                Path(f).parts[1] for f in kept if f.startswith(f"{name}/") and f.count("/") == 2
            }
            for entry in list(folder.iterdir()):
                relative = f"{name}/{entry.name}"
                if entry.is_dir() and entry.name in arrays:
                    self._recover_array(entry, kept)
                elif entry.is_dir():
                    shutil.rmtree(entry)
                elif relative not in kept:
                    entry.unlink()
        for relative, text in kept.items():
            path = self.path / relative
            if not path.exists() or path.read_text(encoding="utf-8") != text:
                replace_text(path, text)
        if kept:
            self._summarize()
        for name in TABLES:
            folder = self.path / name
            for entry in list(folder.iterdir()) if folder.is_dir() else ():
                finished = entry.name.isdigit() and int(entry.name) < self.finished
                if entry.is_dir() and not finished:
                    shutil.rmtree(entry)
        for folder in (self.path, *(self.path / name for name in TABLES)):
            for entry in list(folder.glob(".writing-*")):  # of a file that was being replaced
                entry.unlink()

    def _recover_array(self, array: Path, kept: Mapping[str, str]) -> None:
        relative = f"{array.parent.name}/{array.name}"
        dims = json.loads(kept.get(f"{relative}/.zattrs", "{}")).get("_ARRAY_DIMENSIONS", [])
        moving = bool(dims) and dims[0] == self.time
        for entry in list(array.iterdir()):
            first = entry.name.split(".")[0]
            if f"{relative}/{entry.name}" in kept:
                continue
            if not first.isdigit() or (moving and int(first) >= self.finished):
                entry.unlink()

    def _metadata(self) -> dict[str, str]:
        """Texts of the metadata of all arrays, by path below the store."""
        found = {}
        for name in GROUPS:
            for path in sorted((self.path / name).rglob(".z*")):
                found[path.relative_to(self.path).as_posix()] = path.read_text(encoding="utf-8")
        return found


def _new_state(configuration: Mapping[str, Any], time: str) -> dict[str, Any]:
    return {
        "layout": LAYOUT,
        "finished": 0,
        "time": time,
        "configuration": dict(configuration),
        "dropped": [],
        "sessions": [],
        "metadata": {},
    }


def _refuse_differences(path: Path, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    # Both as JSON has them: tuples are lists there.
    here = json.loads(json.dumps(here))
    remedy = "name another store, or pass overwrite=True to begin anew"
    raise_problems(
        SettingsError,
        [
            problem(f"{path}, {name}", old, f"{new}, as given now", remedy)
            for name, old, new in differences(there, here)
        ],
    )


def _number(cycle: int) -> str:
    return f"{cycle:06d}"
