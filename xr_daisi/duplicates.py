"""Values that came twice: no observation counts double because two networks passed it on.

Observations of the same variable at the same place and instant with the same value are one. Those
that differ in value are two measurements, which is said once.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from xr_daisi.interpolation import Floats
from xr_daisi.observation_batch import ObservationBatch
from xr_daisi.plane import PlaneAxes

__all__ = ["RepeatedObservationsWarning", "duplicated", "repeated"]

DIGITS = 9
"""Significant digits in which values are compared: units may have been converted."""

DECIMALS = 6
"""Decimals in which weights of nodes and levels are compared."""


class RepeatedObservationsWarning(UserWarning):
    """Observations share variable, place and time but not the value: all of them are used."""


def duplicated(batch: ObservationBatch, axes: PlaneAxes) -> NDArray[np.bool_]:
    """Find values that are in the batch already; of equal ones that with the least error stays.

    Parameters
    ----------
    batch : ObservationBatch
        Observations of one forecast time.
    axes : PlaneAxes
        Which of the coordinates is a longitude.

    Returns
    -------
    array of bool, shape (n,)
        True for those that are too many; whatever the order of the observations.
    """
    columns = [*_places(batch, axes), _values(batch)]
    hashed = _hashed(columns)
    again = np.zeros(len(batch), dtype=bool)
    if np.unique(hashed).size == hashed.size:
        return again
    order = np.lexsort((batch.rows, batch.errors, hashed))
    same = hashed[order][1:] == hashed[order][:-1]
    for column in columns:  # a hash is no proof
        same &= column[order][1:] == column[order][:-1]
    again[order[1:][same]] = True
    return again


def repeated(batch: ObservationBatch, axes: PlaneAxes) -> int:
    """Count values of a variable of one Dataset that share place and instant with another.

    Parameters
    ----------
    batch : ObservationBatch
        Without duplicates.
    axes : PlaneAxes
        As in `duplicated`.
    """
    hashed = _hashed([*_places(batch, axes), batch.group_of.astype(float)])
    _, count = np.unique(hashed, return_counts=True)
    return int(count[count > 1].sum())


def _places(batch: ObservationBatch, axes: PlaneAxes) -> list[Floats]:
    """Say as columns of numbers what is compared, where and when."""
    kinds: dict[Any, int] = {}
    kind, start = [], 0
    vertical, footprint = np.zeros(len(batch)), np.zeros(len(batch))
    for group in batch.groups:
        operator, size = group.operator, len(group.points)
        key = operator.variables, operator.name, operator.function
        try:
            number = kinds.setdefault(key, len(kinds))
        except TypeError:  # a function that cannot be hashed is like itself alone
            number = kinds.setdefault(id(operator.function), len(kinds))
        kind.append(np.full(size, float(number)))
        for index, share in group.points.vertical.values():
            vertical[start : start + size] += np.round((index * share).sum(axis=0), DECIMALS)
        weight = group.points.weight
        footprint[start : start + size] = np.round((weight**2).sum(axis=0), DECIMALS)
        start += size
    positions = [
        np.mod(row, 360.0) if number == axes.longitude else row
        for number, row in enumerate(batch.positions)
    ]
    # Single precision, as one of two files may have it.
    single = [row.astype(np.float32).astype(np.float64) for row in positions]
    instants = np.asarray(batch.instants).astype(np.float64)
    kinds_of = np.concatenate(kind) if kind else np.zeros(0)
    return [kinds_of, *single, vertical, footprint, instants]


def _values(batch: ObservationBatch) -> Floats:
    """Values in the units of the state, rounded to some digits."""
    changes = [group.operator.conversion for group in batch.groups]
    sizes = [len(group.points) for group in batch.groups]
    factor = np.repeat([change.factor for change in changes], sizes)
    offset = np.repeat([change.offset for change in changes], sizes)
    values = (batch.values - offset) / factor if len(batch) else batch.values
    with np.errstate(divide="ignore"):
        exponent = np.where(values == 0, 0.0, np.floor(np.log10(np.abs(values))))
    scale = 10.0 ** (DIGITS - 1 - exponent)
    rounded: Floats = np.round(values * scale) / scale
    return rounded


def _hashed(columns: list[Floats]) -> NDArray[np.uint64]:
    """One number for each row of several columns."""
    rng = np.random.default_rng(0)
    total = np.zeros(columns[0].shape, dtype=np.uint64)
    for column in columns:
        odd = np.uint64(rng.integers(0, 2**63, dtype=np.uint64) * 2 + 1)
        bits = (np.asarray(column, dtype=np.float64) + 0.0).view(np.uint64)
        bits = (bits ^ (bits >> np.uint64(31))) * odd
        total = (total ^ (total >> np.uint64(29))) * np.uint64(0x9E3779B97F4A7C15) + bits
    return total
