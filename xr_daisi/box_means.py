"""Means of an interpolated field over intervals of an axis, exactly.

Between nodes the field is linear, so that its integral over an interval is a weighted sum of nodes
in closed form. Means over boxes are products of two such.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from xr_daisi.interpolation import Axis, Bools, Floats, Ints

__all__ = ["interval_means"]

# Antiderivatives of the measure m and of x m: area on the sphere in latitude, else length.
_Measure = tuple[Callable[[Floats], Floats], Callable[[Floats], Floats]]


def _sine(x: Floats) -> Floats:
    result: Floats = np.sin(np.deg2rad(x))
    return result


def _moment(x: Floats) -> Floats:
    radian = np.deg2rad(x)
    result: Floats = np.rad2deg(radian * np.sin(radian) + np.cos(radian))
    return result


_AREA: _Measure = (_sine, _moment)
_LENGTH: _Measure = (lambda x: x, lambda x: 0.5 * x * x)


def interval_means(
    axis: Axis, lower: Floats, upper: Floats, *, latitude: bool = False
) -> tuple[Ints, Floats, Bools]:
    """Nodes and weights of means over intervals.

    Parameters
    ----------
    axis : Axis
        Of the grid.
    lower, upper : array of float, shape (n,)
        Ends of the intervals, in either order; on an axis with a period those from `lower` up to
        `upper`, across the seam where it has to be.
    latitude : bool
        Weight by the area on the sphere; beyond the last row of a global grid its values hold up to
        the pole.

    Returns
    -------
    index, weight : array, shape (k, n)
        Nodes along the axis; weights add up to one.
    inside : array of bool, shape (n,)
        Whether the interval lies within the axis.
    """
    nodes, order = _unrolled(axis, latitude=latitude)
    known = np.isfinite(lower) & np.isfinite(upper)
    a, b = np.where(known, lower, nodes[0]), np.where(known, upper, nodes[-1])
    if axis.period is None:
        a, b = np.minimum(a, b), np.maximum(a, b)
    else:
        width = np.mod(b - a, axis.period)
        width = np.where((width == 0.0) & (a != b), axis.period, width)
        first = nodes[0]
        if not axis.cyclic:
            first = 0.5 * (nodes[0] + nodes[-1]) - 0.5 * axis.period
        a = a - axis.period * np.floor((a - first) / axis.period)
        b = a + width
    slack = axis.slack
    inside = known & (a >= nodes[0] - slack) & (b <= nodes[-1] + slack)
    a, b = np.clip(a, nodes[0], nodes[-1]), np.clip(b, nodes[0], nodes[-1])
    start = np.clip(np.searchsorted(nodes, a, side="right") - 1, 0, nodes.size - 2)
    stop = np.clip(np.searchsorted(nodes, b, side="left"), start + 1, nodes.size - 1)
    measure, moment = _AREA if latitude else _LENGTH
    pieces = int(np.max(stop - start, initial=1))
    weight = np.zeros((pieces + 1, a.size))
    cells = np.minimum(start + np.arange(pieces + 1)[:, None], nodes.size - 1)
    for piece in range(pieces):
        left, right = nodes[cells[piece]], nodes[cells[piece + 1]]
        low, high = np.clip(a, left, right), np.clip(b, left, right)
        whole = measure(high) - measure(low)
        first_moment = moment(high) - moment(low)
        size = np.where(right > left, right - left, 1.0)
        weight[piece] += np.where(right > left, (right * whole - first_moment) / size, 0.0)
        weight[piece + 1] += np.where(right > left, (first_moment - left * whole) / size, 0.0)
    total = weight.sum(axis=0)
    # An interval without length is a point.
    point = np.abs(b - a) <= 1e-12 * np.maximum(1.0, np.abs(a))
    gap = nodes[start + 1] - nodes[start]
    share = (a - nodes[start]) / np.where(gap > 0, gap, 1.0)
    weight = np.where(point, 0.0, weight / np.where(point, 1.0, total))
    weight[0] += np.where(point, 1.0 - share, 0.0)
    weight[1] += np.where(point, share, 0.0)
    return order[cells].astype(np.int64), weight, inside


def _unrolled(axis: Axis, *, latitude: bool) -> tuple[Floats, Ints]:
    """Ascending nodes with their numbers; round a periodic axis twice, and up to the poles."""
    order = np.argsort(axis.nodes, kind="stable")
    nodes = axis.nodes[order]
    if axis.cyclic and axis.period is not None:
        closed = nodes[-1] - nodes[0] < axis.period - axis.slack
        one, numbers = (nodes, order) if closed else (nodes[:-1], order[:-1])
        turns = [one, one + axis.period, one[:1] + 2 * axis.period]
        return np.concatenate(turns), np.concatenate([numbers, numbers, numbers[:1]])
    if latitude and nodes.size > 1:
        step = np.diff(nodes)
        south = [-90.0] if -90.0 < nodes[0] <= -90.0 + step[0] else []
        north = [90.0] if 90.0 - step[-1] <= nodes[-1] < 90.0 else []
        order = np.concatenate([order[: len(south)], order, order[order.size - len(north) :]])
        nodes = np.concatenate([south, nodes, north])
    if nodes.size == 1:
        nodes = np.concatenate([nodes, nodes])
        order = np.concatenate([order, order])
    return nodes, order
