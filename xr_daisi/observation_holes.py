"""Observations beside holes of the state's domain: a coast, the ground below a pressure level.

The weights of nodes in holes go to the other nodes of an observation, where these hold more than
half of the weight; else the observation cannot be compared with the state and is rejected.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from xr_daisi.observation_status import Status

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from xr_daisi.interpolation import Ints, LevelKey, Points
    from xr_daisi.observation_batch import ObservationBatch
    from xr_daisi.operators import Group, StateLayout

    Bools = NDArray[np.bool_]
    Floats = NDArray[np.float64]

__all__ = ["LEAST_WEIGHT", "outside_holes"]

LEAST_WEIGHT = 0.5
"""An observation is rejected where the nodes outside holes hold no more than this."""


def outside_holes(batch: ObservationBatch, holes: Bools | None) -> ObservationBatch:
    """Make observations independent of what stands in holes.

    Parameters
    ----------
    batch : ObservationBatch
        Observations of one time.
    holes : ndarray of bool or None
        ``(channel, *space)``, where the state is NaN by construction. For an observation, a node
        is in a hole if any variable of its operator is; a function that may take what it likes
        takes all variables of the state.

    Returns
    -------
    ObservationBatch
        No node in a hole is left in it, not even with weight zero. Observations with at most half
        of their weight outside holes are rejected (``Status.HOLE``). Of a profile across the
        ground, either the nodes or the levels in holes are left out, whichever weigh less.
    """
    if holes is None or not len(batch) or not holes.any():
        return batch
    flat = holes.reshape(holes.shape[0], -1)
    parts = [_outside(group, batch.layout, flat) for group in batch.groups]
    groups = tuple(replace(g, points=p) for g, (p, _) in zip(batch.groups, parts, strict=True))
    bad = np.concatenate([rejected for _, rejected in parts])
    return replace(batch, groups=groups).reject(bad, Status.HOLE)


def _outside(group: Group, layout: StateLayout, flat: Bools) -> tuple[Points, Bools]:
    """Points of a group with weights outside holes alone, and those that have too little left."""
    points = group.points
    node = np.zeros(points.index.shape, dtype=bool)  # in a hole on any level that is used
    level = {key: np.zeros(index.shape, dtype=bool) for key, (index, _) in points.vertical.items()}
    plain = np.zeros(len(points), dtype=bool)  # in a hole of a variable without levels
    used = points.weight != 0.0
    for name in group.operator.variables or tuple(layout.variables):
        first, levels = layout.variables[name]
        if levels is not None and levels in points.vertical:
            index, share = points.vertical[levels]
            inside = flat[(first + index)[:, None], points.index[None]]
            node |= (inside & (share != 0.0)[:, None]).any(axis=0)
            level[levels] |= (inside & used[None]).any(axis=1)
        elif levels is None or len(levels) == 1:
            inside = flat[first, points.index]
            node |= inside
            plain |= (inside & used).any(axis=0)
    by_node = np.where(node, 0.0, points.weight).sum(axis=0) / points.weight.sum(axis=0)
    by_level = np.where(plain, 0.0, 1.0)
    for key, (_, share) in points.vertical.items():
        by_level = np.minimum(by_level, np.where(level[key], 0.0, share).sum(axis=0))
    touched = (node & used).any(axis=0)
    use_levels = touched & (by_level > by_node)
    use_nodes = touched & ~use_levels
    rejected = touched & (np.maximum(by_node, by_level) <= LEAST_WEIGHT)
    index, weight = _moved(points.index, points.weight, node & use_nodes)
    vertical: dict[LevelKey, tuple[Ints, Floats]] = {
        key: _moved(*points.vertical[key], level[key] & use_levels) for key in points.vertical
    }
    return replace(points, index=index, weight=weight, vertical=vertical), rejected


def _moved(index: Ints, weight: Floats, away: Bools) -> tuple[Ints, Floats]:
    """Move the weight of some nodes ``(k, n)`` to the others, and all empty nodes to the heaviest.

    NaN times zero is NaN: a node without weight must not be in a hole either.
    """
    kept = np.where(away, 0.0, weight)
    total = kept.sum(axis=0)
    some = away.any(axis=0) & (total > 0.0)
    kept = np.where(some, kept * (weight.sum(axis=0) / np.where(some, total, 1.0)), kept)
    heaviest = np.take_along_axis(index, kept.argmax(axis=0)[None], axis=0)
    return np.where(kept == 0.0, heaviest, index), kept
