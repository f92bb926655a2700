"""Values that came twice: no observation counts double because two networks passed it on.

Observations of the same variable at the same place and instant with the same value are one. Those
that differ in value are two measurements, which is said once.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from xr_daisi.interpolation import Floats, Ints
from xr_daisi.observation_batch import ObservationBatch
from xr_daisi.plane import PlaneAxes

__all__ = ["RepeatedObservationsWarning", "duplicated", "repeated"]

CLOSE = 1e-6
"""Relative difference of values that are equal: of two files one may have single precision."""

LEVEL_DECIMALS, FOOTPRINT_DECIMALS = 4, 2
"""Decimals of heights, in levels, and of squared weights, which follow single precision closely."""


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
    again = np.zeros(len(batch), dtype=bool)
    columns, values, slack = _kinds(batch), None, None
    for positions in _positions(batch, axes):
        shared = _shared([*columns, *positions])
        if not shared.size:
            continue
        if values is None or slack is None:
            values, slack = _values(batch)
        # Neighbours in the order of values, since rounding would part some that are close.
        order = shared[np.lexsort((values[shared], _hashed([*columns, *positions])[shared]))]
        gap = np.diff(values[order])
        same = gap <= np.maximum(slack[order][1:], slack[order][:-1])
        for column in (*columns, *positions):  # a hash is no proof
            same &= column[order][1:] == column[order][:-1]
        cluster = np.concatenate([[0], np.cumsum(~same)])
        best = np.lexsort((batch.rows[order], values[order], batch.errors[order], cluster))
        again[order[best[1:][np.diff(cluster[best]) == 0]]] = True
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
    columns = [*_kinds(batch), batch.group_of.astype(float)]
    found = [_shared([*columns, *positions]) for positions in _positions(batch, axes)]
    return int(np.unique(np.concatenate(found)).size)


def _shared(columns: list[Floats]) -> Ints:
    """Rows that are like others."""
    hashed = _hashed(columns)
    ordered = np.sort(hashed)
    repeats = ordered[1:][ordered[1:] == ordered[:-1]]
    return np.flatnonzero(np.isin(hashed, repeats)) if repeats.size else np.zeros(0, np.int64)


def _positions(batch: ObservationBatch, axes: PlaneAxes) -> list[list[Floats]]:
    """Positions in single precision, as one of two files may have it.

    Longitudes count from 0 and from -180: what a file holds has its precision in one of the two.
    """
    found: list[list[Floats]] = []
    for start in (0.0, -180.0):
        positions = [
            np.mod(row - start, 360.0) + start if number == axes.longitude else row
            for number, row in enumerate(batch.positions)
        ]
        found.append([row.astype(np.float32).astype(np.float64) for row in positions])
    if axes.longitude is None or len(batch) == 0:
        return found[:1]
    differ = (found[0][axes.longitude] != found[1][axes.longitude]).any()
    return found if differ else found[:1]


def _kinds(batch: ObservationBatch) -> list[Floats]:
    """Say as columns of numbers what is compared, how high and when."""
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
            vertical[start : start + size] += np.round((index * share).sum(axis=0), LEVEL_DECIMALS)
        weight = group.points.weight
        footprint[start : start + size] = np.round((weight**2).sum(axis=0), FOOTPRINT_DECIMALS)
        start += size
    instants = np.asarray(batch.instants).astype(np.float64)
    kinds_of = np.concatenate(kind) if kind else np.zeros(0)
    return [kinds_of, vertical, footprint, instants]


def _values(batch: ObservationBatch) -> tuple[Floats, Floats]:
    """Values in the units of the state, and how far equal ones may be apart."""
    changes = [group.operator.conversion for group in batch.groups]
    sizes = [len(group.points) for group in batch.groups]
    factor = np.repeat([change.factor for change in changes], sizes)
    offset = np.repeat([change.offset for change in changes], sizes)
    values = (batch.values - offset) / factor
    # The digits of 273.15 K were lost before it became 0 degC.
    size = np.maximum(np.abs(values), np.abs(batch.values / factor))
    return values, CLOSE * size


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
