"""What the tasks of one process share: processor cores, and GPUs.

Dask runs tasks in several threads, and torch runs an operation in several threads: together they
would be as many as the product of both.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from xr_daisi.shared_work import in_process_pool
from xr_daisi.task_memory import kept_memory

__all__ = ["concurrent_tasks", "device_lock", "task_resources", "torch_threads"]

_lock = threading.Lock()
_device_locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
_active = 0
_before = 0


@contextmanager
def task_resources(device: torch.device, tasks: int) -> Iterator[None]:
    """Run a task with its share of the cores, and with a GPU to itself.

    Parameters
    ----------
    device : torch.device
        Where the task runs.
    tasks : int
        How many the graph has: of a single one, the share is everything.

    Notes
    -----
    A GPU that several processes see is not theirs to share here: pin the workers, as dask-cuda
    does.
    """
    with ExitStack() as stack:
        if device.type != "cpu":
            stack.enter_context(device_lock(device))
        stack.enter_context(_limited_threads(tasks))
        stack.enter_context(kept_memory())
        yield


def device_lock(device: torch.device) -> threading.Lock:
    """Return the lock of a device, one for all names of it."""
    index = device.index
    if index is None:
        index = torch.cuda.current_device() if device.type == "cuda" else 0
    with _lock:
        return _device_locks[f"{device.type}:{index}"]


@contextmanager
def _limited_threads(tasks: int) -> Iterator[None]:
    """Limit the threads of torch while tasks run; restore them after each."""
    global _active, _before
    known = concurrent_tasks()
    with _lock:
        if _active == 0:
            _before = torch.get_num_threads()
        _active += 1
        before = _before
        # Torch keeps the number for the thread that sets it, and as the default of new threads.
        torch.set_num_threads(torch_threads(before, max(known, _active), tasks))
    try:
        yield
    finally:
        with _lock:
            _active -= 1
            torch.set_num_threads(before)


def torch_threads(before: int, concurrent: int, tasks: int) -> int:
    """Return how many threads torch may use in one of several tasks.

    Parameters
    ----------
    before : int
        What the user or the environment allows.
    concurrent : int
        Tasks that may run in this process at the same time.
    tasks : int
        Tasks in all.
    """
    if in_process_pool():  # which cannot know how many processes it has
        return before if "OMP_NUM_THREADS" in os.environ else 1
    from dask.system import CPU_COUNT

    return max(1, min(before, CPU_COUNT // max(1, min(concurrent, tasks))))


def concurrent_tasks() -> int:
    """Return how many tasks the scheduler that runs this one may run in this process; 1 if none."""
    distributed = sys.modules.get("distributed")
    if distributed is not None:
        try:
            return int(distributed.get_worker().state.nthreads)
        except ValueError:  # not one of its workers
            pass
    from dask import config, threaded

    pools: list[Any] = [threaded.default_pool, config.get("pool", None)]
    pools += [pool for of_thread in [*threaded.pools.values()] for pool in [*of_thread.values()]]
    # Threads are named after their pool; its own set may not have one yet that just started.
    name = threading.current_thread().name
    for pool in pools:
        prefix = getattr(pool, "_thread_name_prefix", "")
        if prefix and name.startswith(f"{prefix}_"):
            return int(pool._max_workers)
    return 1
