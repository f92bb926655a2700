"""Observations in an order of their own, and numbers that tell them apart.

Both follow from what was observed and where, not from how files and Datasets put it, so that an
analysis is the same in any order of the observations.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from xr_daisi.averaging import averaged
from xr_daisi.keyed_numbers import bits, hashed
from xr_daisi.observed_ensemble import places_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from xr_daisi.interpolation import Floats, Ints, LevelKey
    from xr_daisi.keyed_numbers import Keys
    from xr_daisi.observation_batch import ObservationBatch
    from xr_daisi.operators import Group
    from xr_daisi.plane import PlaneAxes

__all__ = ["identities", "in_order", "moments_of"]

CELL, OFFSET = 0.01, 0.00314159
"""Degrees within which places are one. The offset keeps the edges away from decimals that people
write: of two files one may have single precision, and then fewer than 1 % of any places are in
another cell."""


def in_order(batch: ObservationBatch, axes: PlaneAxes) -> ObservationBatch:
    """Sort observations by what and where they are.

    Parameters
    ----------
    batch : ObservationBatch
        Of one time.
    axes : PlaneAxes
        What the coordinates are.

    Returns
    -------
    ObservationBatch
        Groups, then places, levels, times and values ascend.
    """
    if len(batch) < 2:
        return batch
    values, errors = _in_state_units(batch, batch.values, batch.errors)
    positions, levels = _places(batch, axes)
    levels_first = [np.nan_to_num(levels[key], nan=np.inf) for key in sorted(levels)]
    keys = [row for row in (*positions, *levels_first, batch.instants) if np.size(row)]
    kinds, group = _kinds(batch.groups), batch.group_of
    held = np.zeros(len(kinds), dtype=np.uint64)
    if np.unique(kinds).size < len(kinds):  # groups that differ in nothing but what they hold
        one = kinds[group]
        for column in (*keys, values):
            one = hashed(one ^ bits(column))
        np.add.at(held, group, one)
    rank = np.empty(len(kinds), dtype=np.int64)
    rank[np.lexsort((held, kinds))] = np.arange(len(kinds))
    order = np.lexsort((errors, values, *reversed(keys), rank[group]))
    return batch.take(order)


def identities(batch: ObservationBatch, axes: PlaneAxes) -> Keys:
    """Turn what was observed and where into a number for each observation.

    Parameters
    ----------
    batch : ObservationBatch
        Of one time.
    axes : PlaneAxes
        What the coordinates are.

    Returns
    -------
    array of uint64, shape (n,)
        Of averages where there are, whatever the order of the observations. Those that share place
        and variable, and the nearest state of a trajectory, are told apart by their order in time,
        then by that of their values.
    """
    averaging, group = batch.averaging, batch.group_of
    values, errors, instants = batch.values, batch.errors, batch.instants.astype(np.float64)
    if averaging is not None:  # of one variable are all in an average
        group = group[_firsts(averaging.group)]
        values, errors, _ = averaged(values, errors, (), averaging)
        if instants.size:
            instants = np.bincount(averaging.group, averaging.weight * instants).astype(float)
    values, errors = _in_state_units(batch, values, errors, group)
    keys = _kinds(batch.groups)[group]
    positions, levels = _places(batch, axes)
    for column in (*positions, *(levels[key] for key in sorted(levels))):
        keys = np.where(np.isnan(column), keys, hashed(keys ^ bits(column)))
    moments = moments_of(batch)
    order = np.lexsort((errors, values, *([instants] if instants.size else []), moments, keys))
    ordered, number, moments = keys[order], np.arange(len(keys)), moments[order]
    alike = (ordered[1:] == ordered[:-1]) & (moments[1:] == moments[:-1])
    anew = np.concatenate([[True], ~alike])
    again = number - np.maximum.accumulate(np.where(anew, number, 0))
    keys[order] = hashed(ordered + again.astype(np.uint64))
    return keys


def moments_of(batch: ObservationBatch) -> Ints:
    """Return the number of the state that each observation is nearest to, in a trajectory.

    Parameters
    ----------
    batch : ObservationBatch
        Of a trajectory, or of one time.

    Returns
    -------
    array of int, shape (n,)
        Of averages where there are; 0 for one time.
    """
    parts = [
        np.zeros(len(g.points), dtype=np.int64)
        if g.points.moments is None
        else g.points.moments.here
        for g in batch.groups
    ]
    numbers = np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)
    return numbers if batch.averaging is None else numbers[_firsts(batch.averaging.group)]


def _firsts(group: Ints) -> Ints:
    """Find the first observation of each average."""
    return np.unique(group, return_index=True)[1]


def _kinds(groups: Sequence[Group]) -> Keys:
    """Say what is observed, by the variables of the state rather than by its own name."""
    names = [
        (" ".join(g.operator.variables) or g.operator.observed, g.operator.name) for g in groups
    ]
    return bits(np.asarray([" ".join(name) for name in names]))


def _places(
    batch: ObservationBatch, axes: PlaneAxes
) -> tuple[list[Floats], dict[LevelKey, Floats]]:
    """Positions and levels, as good as blind to single precision and the start of longitudes."""
    positions, levels = places_of(batch, axes)
    rows: list[Floats] = []
    for axis, row in enumerate(positions):
        period = 360.0 if axis == axes.longitude else axes.periods[axis]
        if axis in (axes.latitude, axes.longitude):
            inside = row + OFFSET if period is None else np.mod(row + OFFSET, period)
            rows.append(np.floor(inside / CELL))
        else:
            rows.append(_single(row if period is None else np.mod(row, period)))
    return rows, {key: _single(values) for key, values in levels.items()}


def _in_state_units(
    batch: ObservationBatch, values: Floats, errors: Floats, group: Ints | None = None
) -> tuple[Floats, Floats]:
    """Values and errors in the units of the state, without the digits that a conversion changes."""
    changes = [g.operator.conversion for g in batch.groups]
    number = batch.group_of if group is None else group
    factor = np.asarray([change.factor for change in changes])[number]
    offset = np.asarray([change.offset for change in changes])[number]
    return _single((values - offset) / factor), _single(errors / np.abs(factor))


def _single(numbers: NDArray[np.float64]) -> Floats:
    return numbers.astype(np.float32).astype(np.float64)
