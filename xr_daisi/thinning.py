"""Thinning: observations in boxes become super-observations with the error of their mean."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from xr_daisi.averaging import Averaging
from xr_daisi.interpolation import Ints
from xr_daisi.observation_batch import ObservationBatch
from xr_daisi.plane import PlaneAxes

__all__ = ["thinned"]


def thinned(batch: ObservationBatch, axes: PlaneAxes, side: float) -> ObservationBatch:
    """Average observations of one variable of a Dataset within boxes.

    Weights are those of independent errors, the inverse variances; the error of the mean takes
    correlations into account. Directions are not averaged.

    Parameters
    ----------
    batch : ObservationBatch
        Observations that are used.
    axes : PlaneAxes
        What distances are.
    side : float
        Of the boxes, in km on the sphere, else in units of the coordinates.

    Returns
    -------
    ObservationBatch
        With ``averaging``; as it was where no two observations share a box.
    """
    if len(batch) < 2:
        return batch
    alone = np.zeros(len(batch), dtype=np.int64)
    level = np.zeros(len(batch), dtype=np.int64)
    state = np.zeros(len(batch), dtype=np.int64)
    start = 0
    for group in batch.groups:
        part = slice(start, start + len(group.points))
        start = part.stop
        if group.operator.period is not None:
            alone[part] = 1 + np.arange(part.stop - part.start)
        for index, share in group.points.vertical.values():
            nearest: Ints = np.take_along_axis(index, share.argmax(axis=0)[None], axis=0)[0]
            level[part] = level[part] * 10_000 + nearest
        if group.points.moments is not None:
            state[part] = group.points.moments.here
    boxes = axes.boxes(batch.positions, side)
    keys = np.stack([batch.group_of, boxes, level, state, alone])
    _, number = np.unique(keys, axis=1, return_inverse=True)
    number = number.reshape(-1).astype(np.int64)
    count = int(number.max()) + 1
    if count == len(batch):
        return batch
    precision = batch.errors**-2.0
    weight = precision / np.bincount(number, precision, minlength=count)[number]
    return replace(batch, averaging=Averaging(number, weight))
