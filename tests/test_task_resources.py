"""Tasks of one process share its cores and its GPUs."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cloudpickle
import dask
import dask.system
import pytest
import torch
from labelled import gaussian_prior, template

from xr_daisi import FlowPrior, shared_work, task_resources
from xr_daisi.blocks import Work
from xr_daisi.engine import Engine
from xr_daisi.layout import layout_of
from xr_daisi.settings import Settings
from xr_daisi.shared_work import SharedWork, SpooledWork, published
from xr_daisi.task_resources import concurrent_tasks, device_lock, torch_threads

CPU = torch.device("cpu")


@pytest.fixture
def sixteen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with 16 cores."""
    monkeypatch.setattr(dask.system, "CPU_COUNT", 16)


@pytest.mark.usefixtures("sixteen")
@pytest.mark.parametrize(
    ("before", "concurrent", "tasks", "expected"),
    [
        (16, 1, 100, 16),  # synchronous: as without dask
        (16, 4, 100, 4),
        (16, 16, 100, 1),
        (16, 16, 2, 8),  # a graph of two tasks
        (16, 16, 1, 16),
        (16, 32, 100, 1),
        (1, 4, 100, 1),  # workers of a cluster, or OMP_NUM_THREADS=1
    ],
)
def test_threads_of_torch(before: int, concurrent: int, tasks: int, expected: int) -> None:
    assert torch_threads(before, concurrent, tasks) == expected


def test_threads_in_a_pool_of_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_resources, "in_process_pool", lambda: True)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert torch_threads(16, 1, 100) == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert torch_threads(4, 1, 100) == 4


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"scheduler": "synchronous"}, 1),
        ({"scheduler": "threads", "num_workers": 3}, 3),
        ({"scheduler": "threads"}, dask.system.CPU_COUNT),
    ],
)
def test_schedulers_know_how_many_tasks_run(options: Any, expected: int) -> None:
    assert dask.delayed(concurrent_tasks)().compute(**options) == expected


def test_workers_of_a_cluster_know_how_many_tasks_run() -> None:
    distributed = pytest.importorskip("distributed")
    with distributed.Client(
        processes=False, n_workers=1, threads_per_worker=5, dashboard_address=None
    ) as client:
        assert client.submit(concurrent_tasks, pure=False).result() == 5


@pytest.mark.usefixtures("sixteen")
def test_threads_are_limited_within_tasks_and_restored_after(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With one number for the process, as some builds of torch have it."""
    number = 16

    def put(count: int) -> None:
        nonlocal number
        number = count

    monkeypatch.setattr(torch, "get_num_threads", lambda: number)
    monkeypatch.setattr(torch, "set_num_threads", put)
    together = threading.Barrier(4)

    def task() -> int:
        with task_resources.task_resources(CPU, 100):
            together.wait(60)
            inside = number
            together.wait(60)
            return inside

    with ThreadPoolExecutor(4) as pool:
        seen = [future.result() for future in [pool.submit(task) for _ in range(4)]]
    assert seen == [4] * 4
    assert number == 16
    with pytest.raises(ZeroDivisionError), task_resources.task_resources(CPU, 1):
        _ = 1 / 0
    assert number == 16


def test_one_task_at_a_time_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    assert device_lock(torch.device("cuda")) is device_lock(torch.device("cuda:0"))
    assert device_lock(torch.device("cuda:0")) is not device_lock(torch.device("cuda:1"))
    inside = most = 0
    started = threading.Barrier(4)

    def task() -> None:
        nonlocal inside, most
        started.wait(60)
        for _ in range(200):
            with task_resources.task_resources(torch.device("cuda:3"), 4):
                inside += 1
                most = max(most, inside)
                inside -= 1

    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(task) for _ in range(4)]:
            future.result()
    assert most == 1
    with task_resources.task_resources(torch.device("cuda:3"), 1):
        assert device_lock(torch.device("cuda:3")).locked()
        assert not device_lock(torch.device("cuda:4")).locked()


# -- the work that they share -----------------------------------------------------------------


def shared_for(prior: FlowPrior) -> SharedWork:
    ds = template().expand_dims(member=1)
    return SharedWork(Work(Engine(prior, Settings()), layout_of(ds, prior.spec)), 1)


def test_a_process_holds_a_prior_once() -> None:
    shared = shared_for(gaussian_prior())
    again = cloudpickle.loads(cloudpickle.dumps(shared))
    assert again.work.engine.prior is shared.work.engine.prior
    assert again.work.engine.settings == shared.work.engine.settings


def test_threads_that_receive_a_prior_together_load_it_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = cloudpickle.dumps(shared_for(gaussian_prior()))  # which is gone then
    together = threading.Barrier(4)

    def load() -> FlowPrior:
        together.wait(60)
        prior: FlowPrior = cloudpickle.loads(text).work.engine.prior
        return prior

    with ThreadPoolExecutor(4) as pool:
        priors = [future.result() for future in [pool.submit(load) for _ in range(4)]]
    assert len({id(prior) for prior in priors}) == 1


def test_a_process_keeps_few_priors() -> None:
    for _ in range(5):
        text = cloudpickle.dumps(shared_for(gaussian_prior()))
        cloudpickle.loads(text)
    assert len(shared_work._recent) <= shared_work.KEPT


def test_threads_build_a_network_once() -> None:
    built = []

    class Network(torch.nn.Linear):
        def __deepcopy__(self, memo: Any) -> torch.nn.Linear:
            built.append(1)
            return torch.nn.Linear(2, 2)

    prior = FlowPrior.from_velocity(Network(2, 2), template())
    together = threading.Barrier(4)

    def flow() -> object:
        together.wait(60)
        return prior.flow(CPU, torch.float64)

    with ThreadPoolExecutor(4) as pool:
        flows = [future.result() for future in [pool.submit(flow) for _ in range(4)]]
    assert len(built) == len(set(map(id, flows))) == 1


def test_work_in_a_file_for_a_pool(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    shared = shared_for(gaussian_prior())
    assert published(shared) is shared  # outside of a pool
    monkeypatch.setattr(shared_work, "in_process_pool", lambda: True)
    with dask.config.set({"temporary-directory": str(tmp_path)}):
        spooled = published(shared)
        assert isinstance(spooled, SpooledWork)
        assert len(list(tmp_path.iterdir())) == 1
        monkeypatch.setattr(shared_work, "_spooled", type(shared_work._spooled)())
        assert spooled.work.engine.prior is shared.work.engine.prior
        assert spooled.tasks == 1
        del spooled
        assert list(tmp_path.iterdir()) == []
    with dask.config.set({"temporary-directory": str(tmp_path / "none")}):
        assert published(shared) is shared  # no place for a file
