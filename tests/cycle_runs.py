"""A small cycle, and a process that kills it at chosen points and lets it go on.

Run as a program it forks: every run is a process of its own, without the seconds that imports take.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import labelled as L
import numpy as np
import xarray as xr

import xr_daisi
from xr_daisi import cycle_run

CYCLES = 3
TIMES = L.TIMES[0] + np.arange(CYCLES) * np.timedelta64(6, "h")
KILLED = 9


TRUTH = L.forecast(members=1, times=TIMES, seed=7).isel(member=0, drop=True)


def drifting(ensemble: xr.Dataset, until: np.datetime64) -> xr.Dataset:
    """Relaxes towards the prior's mean, and moves one point to the east."""
    moved = L.MEAN + 0.9 * (ensemble.t2m.roll(longitude=1) - L.MEAN)
    return ensemble.assign(t2m=moved).assign_coords(time=[until])


def run(store: Path, **changes: Any) -> xr.Dataset:
    """Three cycles; noise in the sampler, so that seeds matter."""
    arguments: dict[str, Any] = {
        "initial": L.forecast(members=2, times=TIMES[:1], dtype=np.float32),
        "model": drifting,
        "observations": L.stations(TIMES, n=3),
        "prior": L.gaussian_prior(),
        "store": store,
        "window": "6h",
        "steps": 2,
        "noise": 0.1,
        "dtype": "float64",
        "device": "cpu",
        "progress": False,
        **changes,
    }
    return xr_daisi.cycle(
        arguments.pop("initial"),
        arguments.pop("model"),
        arguments.pop("observations"),
        arguments.pop("prior"),
        **arguments,
    )


def tree(store: Path) -> dict[str, bytes]:
    """Every file of a store; of its own attributes, without when it was worked on."""
    files = {
        path.relative_to(store).as_posix(): path.read_bytes()
        for path in sorted(store.rglob("*"))
        if path.is_file()
    }
    state = json.loads(files[".zattrs"])
    state["xr_daisi_cycle"].pop("sessions")
    files[".zattrs"] = json.dumps(state).encode()
    return files


def kill_at_stage(stage: str, cycle: int) -> Callable[[], None]:
    """Kill the process when a stage of a cycle begins."""

    def arm() -> None:
        def reached(now: str, number: int) -> None:
            if (now, number) == (stage, cycle):
                os._exit(KILLED)

        cycle_run.reached = reached

    return arm


class Writes:
    """Counts the files that are opened for writing below a folder, and may kill at one of them."""

    def __init__(self, folder: Path, last: int | None = None) -> None:
        self.folder, self.last, self.count = str(folder), last, 0

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if event not in ("open", "os.rename", "os.remove", "os.mkdir") or self.count < 0:
            return
        path = args[0] if args else ""
        path = os.fsdecode(path) if isinstance(path, (str, bytes, os.PathLike)) else ""
        if not path.startswith(self.folder):
            return
        if event == "open" and not (args[2] or 0) & (os.O_WRONLY | os.O_RDWR):
            return
        self.count += 1
        if self.count == self.last:
            os._exit(KILLED)


def kill_at_write(folder: Path, number: int) -> Callable[[], None]:
    return lambda: sys.addaudithook(Writes(folder, number))


def forked(work: Callable[[], Any]) -> int:
    """Do work in a process of its own; return its exit status."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        work()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def compare(name: str, store: Path, expected: dict[str, bytes], statuses: list[int]) -> None:
    found = tree(store)
    names = sorted({*found, *expected})
    different = [name for name in names if found.get(name) != expected.get(name)]
    print(json.dumps({"run": name, "statuses": statuses, "different": different}))


def main(folder: Path, kind: str, points: list[str]) -> None:
    """Compare killed and resumed runs with an uninterrupted one; print what differs."""
    whole = folder / "whole.zarr"

    def counted() -> None:
        writes = Writes(folder)
        sys.addaudithook(writes)
        run(whole, truth=TRUTH)
        (folder / "writes").write_text(str(writes.count))
        (folder / "modules").write_text("\n".join(sys.modules))

    assert forked(counted) == 0
    for name in (folder / "modules").read_text().splitlines():  # once for all
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    expected = tree(whole)

    def attempt(store: Path, arm: Callable[[], None]) -> int:
        def work() -> None:
            arm()
            run(store, truth=TRUTH)

        return forked(work)

    if kind == "stages":
        # One store, killed at stage after stage of the second cycle, and some of the first.
        store = folder / "stages.zarr"
        order = [(stage, 0) for stage in ("start", "write analysis", "finish")]
        order += [(stage, 1) for stage in cycle_run.STAGES]
        statuses = [attempt(store, kill_at_stage(stage, cycle)) for stage, cycle in order]
        compare("stages", store, expected, [*statuses, attempt(store, lambda: None)])
        return
    total = int((folder / "writes").read_text())
    for point in points:
        store = folder / f"write-{point}.zarr"
        number = max(1, round(float(point) * total))
        statuses = [attempt(store, kill_at_write(folder, number)), attempt(store, lambda: None)]
        compare(point, store, expected, statuses)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
