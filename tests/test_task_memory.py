"""A worker that dask told to trim its memory keeps it during a task, and only then."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

from xr_daisi import task_memory
from xr_daisi.task_memory import LARGEST, M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, kept_memory

FAULTS = """
import resource
import torch
from xr_daisi.task_memory import kept_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(200):
        torch.ones(200_000)  # 800 kB, as a layer's output
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()

outside = faults()
with kept_memory():
    faults()
    inside = faults()
    layers = [torch.ones(200_000) for _ in range(100)]
    del layers
    kept = resident()
print(outside, inside, kept - resident())
"""


class Library:
    """Writes down what is asked of the C library."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int, int]] = []

    def mallopt(self, option: int, value: int) -> int:
        self.calls.append(("mallopt", option, value))
        return 1

    def malloc_trim(self, pad: int) -> int:
        self.calls.append(("malloc_trim", pad, 0))
        return 1


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Library:
    library = Library()
    monkeypatch.setattr(task_memory, "_c_library", lambda: library)
    return library


def test_the_settings_of_the_process_come_back(
    monkeypatch: pytest.MonkeyPatch, library: Library
) -> None:
    told = {"MALLOC_TRIM_THRESHOLD_": 65536, "MALLOC_MMAP_THRESHOLD_": 200_000}
    monkeypatch.setattr(task_memory, "_told", told.get)
    raised = [("mallopt", M_MMAP_THRESHOLD, LARGEST), ("mallopt", M_TRIM_THRESHOLD, 2**30)]

    def two_tasks() -> None:
        with kept_memory():
            with kept_memory():  # another task of the same process
                assert library.calls == raised
            assert library.calls == raised
            raise KeyError

    with pytest.raises(KeyError):
        two_tasks()
    assert library.calls[2:] == [
        ("mallopt", M_MMAP_THRESHOLD, 200_000),
        ("mallopt", M_TRIM_THRESHOLD, 65536),
        ("malloc_trim", 0, 0),
    ]


def test_a_process_that_was_not_told_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, library: Library
) -> None:
    # Starting a cluster sets this in the process that starts it, where it has no effect.
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "65536")
    task_memory._told.cache_clear()
    with kept_memory():
        pass
    assert library.calls == []


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the allocator of glibc")
def test_arrays_are_not_asked_of_the_system_again_and_again() -> None:
    if task_memory._c_library() is None:
        pytest.skip("another C library")
    environment: dict[str, Any] = {**os.environ, "MALLOC_TRIM_THRESHOLD_": "65536"}
    run = [sys.executable, "-c", FAULTS]
    out = subprocess.run(run, env=environment, check=True, capture_output=True, text=True).stdout
    outside, inside, handed_back = map(int, out.split())
    if outside == 0:
        pytest.skip("page faults are not counted here")
    assert inside < 0.1 * outside
    assert handed_back > 0.5 * 80e6
