"""The noise of each member, whatever batch, chunk, worker or device it is computed on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

__all__ = ["NoiseSource", "initial_noise"]


class NoiseSource:
    """Standard normal noise of each member, whatever the batch it is computed in.

    A member's noise depends on (seed, time, member, stage, step) alone: each such combination has a
    counter-based generator of its own. Noise is drawn in single precision on the CPU and then
    converted, so that device and dtype do not change it either.

    Parameters
    ----------
    seed : int
        The user's seed.
    time : str
        Label of the analysis time.
    members : sequence of int
        Positions of this batch's members in the whole ensemble.
    """

    def __init__(self, seed: int, time: str, members: Sequence[int]) -> None:
        self.seed = int(seed)
        self.time = str(time)
        self.members = tuple(int(member) for member in members)

    def __len__(self) -> int:
        return len(self.members)

    def __repr__(self) -> str:
        return f"NoiseSource(seed={self.seed}, time={self.time!r}, members={self.members})"

    def select(self, batch: slice) -> NoiseSource:
        """Return the source for a part of the members."""
        return NoiseSource(self.seed, self.time, self.members[batch])

    def draw(
        self,
        stage: str,
        step: int,
        shape: Sequence[int],
        *,
        dtype: torch.dtype,
        device: torch.device | str,
    ) -> Tensor:
        """Draw the noise of one step.

        Parameters
        ----------
        stage : str
            What the noise is for; different stages are independent.
        step : int
            Number of the step within the stage.
        shape : sequence of int
            Shape of one member.
        dtype, device
            Of the result.

        Returns
        -------
        Tensor
            Shape ``(len(members), *shape)``.
        """
        noise = np.empty((len(self.members), *shape), dtype=np.float32)
        for row, member in zip(noise, self.members, strict=True):
            # The text is unambiguous: no two combinations of seed, time, member and stage share it.
            text = json.dumps([self.seed, self.time, member, stage]).encode()
            key = np.frombuffer(hashlib.blake2b(text, digest_size=16).digest(), dtype=np.uint64)
            # The generator counts in the lowest word; the step in a higher one never overlaps.
            counter = np.array([0, 0, step, 0], dtype=np.uint64)
            generator = np.random.Generator(np.random.Philox(counter=counter, key=key))
            row[...] = generator.standard_normal(row.shape, dtype=np.float32)
        return torch.from_numpy(noise).to(dtype=dtype, device=device)


def initial_noise(
    source: NoiseSource, shape: Sequence[int], dtype: torch.dtype, device: torch.device | str
) -> Tensor:
    """Return fresh noise to start from at t = 0, shape ``(len(source), *shape)``."""
    return source.draw("initial", 0, shape, dtype=dtype, device=device)
