"""Batches that halve where memory does not suffice: the result stays the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from labelled import MEAN, QUICK, STD, forecast, gaussian_prior, stations, template

from xr_daisi import FlowPrior, MemoryLimitError, assimilate, invert, sample
from xr_daisi.batches import Batches, is_out_of_memory
from xr_daisi.devices import BYTES_PER_POINT, automatic_batch

FORECAST, OBS = forecast(members=7), stations()
CPU_ALLOCATOR = "[enforce fail] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"


class Small:
    """A velocity on a device with room for a few members."""

    def __init__(self, room: int, error: Exception) -> None:
        self.velocity = gaussian_prior().network
        self.room, self.error = room, error
        self.sizes: list[int] = []

    def __call__(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        self.sizes.append(len(x))
        if len(x) > self.room:
            raise self.error
        return self.velocity(x, t)


def small_prior(room: int, error: Exception | None = None) -> FlowPrior:
    velocity = Small(room, error or torch.OutOfMemoryError("CUDA out of memory. Tried to"))
    return FlowPrior.from_velocity(velocity, template(), mean=MEAN, std=STD)


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError(CPU_ALLOCATOR)]
)
def test_the_batch_halves_and_the_result_is_the_same(error: Exception) -> None:
    wanted = assimilate(FORECAST, OBS, gaussian_prior(), **QUICK, t_min=0.2, bridge="auto")
    prior = small_prior(2, error)
    found = assimilate(FORECAST, OBS, prior, **QUICK, t_min=0.2, bridge="auto")
    xr.testing.assert_allclose(found.drop_attrs(), wanted.drop_attrs(), rtol=1e-12)
    # 7, 3, 1: found out once, then kept for the other times and calls
    assert [n for n in prior.network.sizes if n > 1] == [7, 3]
    prior.network.sizes.clear()
    invert(FORECAST, prior.with_settings(t_min=0.3), **QUICK)
    assert set(prior.network.sizes) == {1}


def test_samples_and_latents() -> None:
    options = {k: v for k, v in QUICK.items() if k != "progress"}
    wanted = sample(prior=gaussian_prior(), members=5, **options)
    found = sample(prior=small_prior(2), members=5, **options)
    xr.testing.assert_allclose(found.drop_attrs(), wanted.drop_attrs(), rtol=1e-6)


def test_a_batch_of_the_user_stays() -> None:
    with pytest.raises(MemoryLimitError, match=r"too little for 4 members.*use batch='auto'") as e:
        assimilate(FORECAST, OBS, small_prior(2), batch=4, **QUICK)
    assert isinstance(e.value, ValueError)
    assert isinstance(e.value, MemoryError)


@pytest.mark.parametrize("more", [{}, {"batch": 1}])
def test_a_member_that_does_not_fit(more: dict[str, Any]) -> None:
    expected = r"memory of cpu: found too little for a single member.*dtype='bfloat16'"
    with pytest.raises(MemoryLimitError, match=expected):
        assimilate(FORECAST, OBS, small_prior(0), **QUICK, **more)


def test_other_errors_stay() -> None:
    error = RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    with pytest.raises(RuntimeError, match="mat1"):
        assimilate(FORECAST, OBS, small_prior(2, error), **QUICK)


def test_what_says_that_memory_is_out() -> None:
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(np.linalg.LinAlgError()) is False
    assert is_out_of_memory(RuntimeError("DefaultCPUAllocator: not enough memory: you tried"))
    assert is_out_of_memory(RuntimeError("CUDA error: out of memory"))
    assert is_out_of_memory(RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"))
    with pytest.raises(RuntimeError, match="DefaultCPUAllocator") as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


def test_a_gpu_gives_back_what_it_keeps(monkeypatch: pytest.MonkeyPatch) -> None:
    emptied: list[int] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(1))
    batches = Batches(4, 4, lambda part: part, torch.device("cuda"))
    done = []
    for part in batches:
        with batches.attempt():
            if part.stop - part.start > 1:
                raise torch.OutOfMemoryError
            done.append(part.start)
    assert done == [0, 1, 2, 3]
    assert len(emptied) == 2


def test_automatic_batches_on_a_gpu_heed_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = torch.device("cuda")
    free = 3 * 1000 * BYTES_PER_POINT
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 10 * free))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: free)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 0)
    assert automatic_batch(1000, cuda) == 6
    assert automatic_batch(100_000, cuda) == 1
    assert automatic_batch(1000, torch.device("cpu")) == (1 << 17) // 1000
