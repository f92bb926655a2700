"""What all tests share: one thread, fixed seeds, data beside the repository, a watch on dask."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import dask
import pytest
import torch
from hypothesis import settings

REPOSITORY = Path(__file__).resolve().parents[1]

# Results must not depend on how many cores a machine has, and tests run in several processes.
torch.set_num_threads(1)

# The same examples in every run: a failure can be repeated. Times vary too much for deadlines.
settings.register_profile("xr_daisi", deadline=None, derandomize=True)
settings.load_profile("xr_daisi")


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    """Random weights of networks made in a test are the same whatever ran before it."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the repository."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of data files kept outside the repository; without it the test is skipped."""
    path = REPOSITORY.parent / "shared" / "data"
    if not path.is_dir():
        pytest.skip("needs the data files that are kept beside the repository")
    return path


@pytest.fixture
def raise_if_computes() -> Callable[..., AbstractContextManager[None]]:
    """Context manager in which dask may compute at most `allowed` times (none, unless told).

    It holds for every scheduler that a call does not name itself::

        with raise_if_computes():
            analysis = forecast.chunk(member=1).daisi.assimilate(obs, prior)
    """

    @contextlib.contextmanager
    def watch(allowed: int = 0) -> Iterator[None]:
        computed = 0

        def scheduler(dsk: Any, keys: Any, **kwargs: Any) -> Any:
            nonlocal computed
            computed += 1
            if computed > allowed:
                raise AssertionError(f"dask computed {computed} times, {allowed} allowed")
            return dask.get(dsk, keys, **kwargs)

        with dask.config.set(scheduler=scheduler):
            yield

    return watch
