"""Random numbers that depend on keys alone: on what a value is, not on its neighbours or chunks."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["bits", "hashed", "normal", "uniform"]

Floats = NDArray[np.float64]
Keys = NDArray[np.uint64]


def bits(values: NDArray[Any]) -> Keys:
    """Turn numbers, times or texts into 64 bits each; equal ones into the same."""
    kind = values.dtype.kind
    if kind in "mM":
        return values.astype("int64").astype(np.uint64)
    if kind in "fiub":
        words = np.ascontiguousarray(values.astype(np.float64) + 0.0).view(np.uint64)
        return words.reshape(values.shape)  # a scalar is one again
    texts, number = np.unique(values.astype(np.str_), return_inverse=True)
    codes = np.asarray([zlib.crc32(text.encode()) for text in texts.tolist()], dtype=np.uint64)
    return codes[number].reshape(values.shape)


def hashed(keys: Keys) -> Keys:
    """Scramble 64 bits; neighbouring numbers give unrelated ones (Steele et al. 2014)."""
    with np.errstate(over="ignore"):  # of a scalar numpy would warn
        mixed = keys + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    scrambled: Keys = mixed ^ (mixed >> np.uint64(31))
    return scrambled


def uniform(keys: Keys) -> Floats:
    """Draw numbers between 0 and 1, both excluded, one for each hashed key."""
    return ((keys >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53


def normal(keys: Keys, number: int) -> Floats:
    """Draw standard normal numbers by Box and Muller's transform of two uniform ones."""
    first = hashed(keys + np.uint64(2 * number))
    second = hashed(keys + np.uint64(2 * number + 1))
    radius = np.sqrt(-2.0 * np.log(uniform(first)))
    return np.asarray(radius * np.cos(2.0 * np.pi * uniform(second)))
