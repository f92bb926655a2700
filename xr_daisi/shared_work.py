"""The work of a graph on its way to workers: one copy of its prior in a process, for all tasks.

The graph holds the weights, in one node, so that it needs no file that may be gone and a worker
that died can be replaced. A process that receives the node builds the prior only if it does not
hold the same one already, by sha256, from this graph or another.
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import uuid
import weakref
from collections import OrderedDict, deque
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import cloudpickle
from torch import nn

if TYPE_CHECKING:
    from xr_daisi.blocks import Work
    from xr_daisi.forecast_state import ForecastState
    from xr_daisi.priors import FlowPrior

__all__ = ["SharedWork", "SpooledWork", "in_process_pool", "published"]

KEPT = 2
"""Priors that a process keeps for the next graph: memory is for states."""

# Loading one prior may load what holds another.
_lock = threading.RLock()
_alive: weakref.WeakValueDictionary[str, FlowPrior | ForecastState] = weakref.WeakValueDictionary()
_recent: deque[FlowPrior | ForecastState] = deque(maxlen=KEPT)
_spooled: OrderedDict[str, SharedWork] = OrderedDict()


class SharedWork:
    """Work that pickles with its prior apart, which a process holds once.

    Parameters
    ----------
    work : Work
        What is done to every block.
    tasks : int
        How many blocks there are.
    """

    def __init__(self, work: Work, tasks: int) -> None:
        self.work = work
        self.tasks = tasks
        self.name = uuid.uuid4().hex
        prior = work.engine.prior
        with _lock:
            _alive.setdefault(prior.identity, prior)

    def __reduce__(self) -> tuple[Any, ...]:
        prior = self.work.engine.prior
        engine = replace(self.work.engine, prior=cast("FlowPrior", None))
        parts = prior, replace(self.work, engine=engine)
        # By cloudpickle, whatever pickles the graph: networks and operators may be functions of the
        # user's own.
        return _restored, (prior.identity, *map(cloudpickle.dumps, parts), self.tasks)

    def __dask_tokenize__(self) -> str:
        return self.name  # dask would hash the weights

    def __sizeof__(self) -> int:
        """Bytes of the weights: a scheduler that moves tasks weighs what they need."""
        network = self.work.engine.prior.network
        tensors = network.parameters() if isinstance(network, nn.Module) else ()
        return object.__sizeof__(self) + sum(t.numel() * t.element_size() for t in tensors)


def _restored(identity: str, prior: bytes, work: bytes, tasks: int) -> SharedWork:
    """Undo `SharedWork.__reduce__`, with the prior that this process holds if it does."""
    with _lock:
        held = _alive.get(identity)
        if held is None:
            held = cloudpickle.loads(prior)
            _alive[identity] = held
        if held in _recent:
            _recent.remove(held)
        _recent.append(held)
    bare: Work = cloudpickle.loads(work)
    engine: Any = bare.engine
    return SharedWork(replace(bare, engine=replace(engine, prior=held)), tasks)


def in_process_pool() -> bool:
    """Tell whether this process is one of the pool of dask's ``processes`` scheduler.

    Its tasks come one by one from the parent, with everything they need, every time.
    """
    import multiprocessing

    if multiprocessing.parent_process() is None:
        return False
    distributed = sys.modules.get("distributed")
    if distributed is None:
        return True
    try:
        distributed.get_worker()
    except ValueError:  # distributed is merely imported
        return True
    return False


def published(shared: SharedWork) -> SharedWork | SpooledWork:
    """Return what the tasks of a graph receive: the node that they all depend on.

    Parameters
    ----------
    shared : SharedWork
        From the graph.

    Returns
    -------
    SharedWork or SpooledWork
        In the processes of a pool, a file that each of them reads once; else the work itself,
        which threads share and a cluster brings to each worker once.
    """
    if not in_process_pool():
        return shared
    try:
        return SpooledWork.of(shared)
    except OSError:  # no room for a file: slower, with the weights in every task
        return shared


class SpooledWork:
    """Work in a file of this machine, which lives as long as the graph is computed.

    Parameters
    ----------
    path : str
        The file.
    owner : int
        The process that has the pool, and removes the file.
    """

    def __init__(self, path: str, owner: int) -> None:
        self.path = path
        self.owner = owner
        if os.getpid() == owner:  # where dask drops this after the last task that needs it
            weakref.finalize(self, _remove, path)

    @classmethod
    def of(cls, shared: SharedWork) -> SpooledWork:
        """Write work to a new file, which only this user can read."""
        import multiprocessing

        from dask import config

        parent = multiprocessing.parent_process()
        owner = parent.pid if parent is not None and parent.pid is not None else os.getpid()
        folder = config.get("temporary-directory", None)
        number, path = tempfile.mkstemp(prefix=f"daisi-{shared.name}-", dir=folder)
        try:
            with os.fdopen(number, "wb") as file:
                cloudpickle.dump(shared, file)
        except BaseException:
            _remove(path)
            raise
        _hold(path, shared)
        return cls(path, owner)

    @property
    def work(self) -> Work:
        """Read from the file, the first time in a process."""
        return self._shared.work

    @property
    def tasks(self) -> int:
        """How many blocks there are."""
        return self._shared.tasks

    @property
    def _shared(self) -> SharedWork:
        with _lock:
            if self.path not in _spooled:
                # Written by a process of the same pool, and nobody else.
                _hold(self.path, cloudpickle.loads(Path(self.path).read_bytes()))
            return _spooled[self.path]

    def __reduce__(self) -> tuple[Any, ...]:
        return SpooledWork, (self.path, self.owner)


def _hold(path: str, shared: SharedWork) -> None:
    with _lock:
        _spooled[path] = shared
        while len(_spooled) > KEPT:
            _spooled.popitem(last=False)


def _remove(path: str) -> None:
    with suppress(OSError):
        os.unlink(path)
