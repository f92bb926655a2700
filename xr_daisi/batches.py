"""Members in batches, which halve where memory does not suffice. Tensors only."""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Generic, TypeVar

import torch

from xr_daisi.errors import MemoryLimitError, problem

__all__ = ["Batches", "is_out_of_memory"]

Batch = TypeVar("Batch")
Key = tuple[object, ...]


class Batches(Generic[Batch]):
    """Batches of members one after the other; one that fails for memory comes again, halved.

    Parameters
    ----------
    members : int
        How many in all.
    size : int
        Members at once.
    make : callable
        Returns the batch of a slice of the members.
    device : torch.device
        Whose memory it is about.
    fixed : bool
        Whether the user chose the size: then it stays.
    limits : mutable mapping and key, optional
        Where a smaller size is kept for other calls, and what the memory of a member depends on.

    Examples
    --------
    >>> batches = Batches(5, 4, lambda part: part, torch.device("cpu"))
    >>> for part in batches:
    ...     with batches.attempt():
    ...         if part.stop - part.start > 2:
    ...             raise MemoryError
    ...         print(part.start, part.stop)
    0 2
    2 4
    4 5
    """

    def __init__(
        self,
        members: int,
        size: int,
        make: Callable[[slice], Batch],
        device: torch.device,
        *,
        fixed: bool = False,
        limits: tuple[MutableMapping[Key, int], Key] | None = None,
    ) -> None:
        self.members, self.make, self.device, self.fixed = members, make, device, fixed
        self.limits, self.key = limits or ({}, ())
        self.size = size if fixed else min(size, self.limits.get(self.key, size))
        self._now = 0
        self._failed = False

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches, each to be worked on in `attempt`."""
        start = 0
        while start < self.members:
            stop = min(start + self.size, self.members)
            self._now, self._failed = stop - start, False
            yield self.make(slice(start, stop))
            if not self._failed:
                start = stop
                continue
            self.size = self.limits[self.key] = self._now // 2
            if self.device.type == "cuda":  # now that nothing holds on to what was allocated
                torch.cuda.empty_cache()

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Work on a batch; where memory does not suffice, the rest of the block is left out.

        Raises
        ------
        MemoryLimitError
            For a single member, or a size that the user chose.
        """
        try:
            yield
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            if self.fixed or self._now == 1:
                raise MemoryLimitError(self._text()) from error
            self._failed = True

    def _text(self) -> str:
        subject = f"memory of {self.device}"
        many = f"{self._now} members" if self._now > 1 else "a single member"
        found = f"too little for {many} in the network at once"
        if self._now > 1:
            remedy = "lower batch, or use batch='auto', which finds what fits"
            return problem(subject, found, "room for a batch", remedy)
        remedy = "use a device with more memory, or dtype='bfloat16'"
        if self.device.type == "cpu":
            remedy += "; with dask, run fewer tasks at a time"
        return problem(subject, found, "room for one", remedy)


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that an allocation failed, on a GPU or a CPU.

    Parameters
    ----------
    error : BaseException
        Of torch, NumPy or Python.
    """
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    # The allocator of the CPU and the libraries of CUDA have no class of their own.
    text = str(error)
    words = (
        "DefaultCPUAllocator",
        "not enough memory",
        "CUDA error: out of memory",
        "ALLOC_FAILED",
    )
    return isinstance(error, RuntimeError) and any(word in text for word in words)
