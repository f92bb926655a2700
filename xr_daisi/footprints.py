"""Means over discs and along lines, by points dense enough for the grid.

The points of a disc are those of a Gauss rule for its area: exact for polynomials of low degree.
Those of a line are midpoints of equal pieces of each of its segments.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from xr_daisi.errors import ObservationError, problem
from xr_daisi.grids import Grid
from xr_daisi.interpolation import Bools, Floats, Ints, Nodes
from xr_daisi.plane import EARTH_RADIUS, PlaneAxes
from xr_daisi.units import conversion

if TYPE_CHECKING:
    import xarray as xr

    from xr_daisi.observation_coordinates import Coordinates
    from xr_daisi.observation_options import ObservationOptions

__all__ = ["Footprint", "disc_means", "footprint_of", "line_means"]

NODE_DIM = "node"
"""Dimension along which positions are the nodes of a line."""

MOST_POINTS = 4_000_000
"""Points located at a time: memory."""

MOST_RINGS = 12


@dataclass(frozen=True, eq=False)
class Footprint:
    """What a value of an observed variable is the mean over.

    Parameters
    ----------
    diameter : float, xarray.Variable or None
        Of discs, in km on the sphere, else in units of the coordinates.
    boxes : tuple of (dims, lower, upper) or None
        Ends of boxes along each horizontal coordinate.
    """

    diameter: Any = None
    boxes: tuple[tuple[tuple[str, ...], Floats, Floats], ...] | None = None


def footprint_of(
    ds: xr.Dataset,
    name: str,
    found: Coordinates,
    axes: PlaneAxes,
    options: ObservationOptions,
    subject: str,
) -> Footprint | None:
    """Find what the values of a variable are means over.

    Parameters
    ----------
    ds : Dataset
        Observations.
    name : str
        The observed variable.
    found : Coordinates
        Of the Dataset.
    axes : PlaneAxes
        What lengths are.
    options : ObservationOptions
        ``footprint`` may name a diameter.
    subject : str
        Name for messages.

    Returns
    -------
    Footprint or None
        From the option, ``<name>_footprint``, the attribute ``footprint``, or bounds of the
        coordinates with a mean over the area among the ``cell_methods``; None for points. A mean
        over the area without bounds is a point: a field on the state's own grid is just that.

    Raises
    ------
    ObservationError
        For lengths that are none, or bounds that do not fit.
    """
    variable = ds.variables[name]
    given = options.of_variable("footprint", name)
    if given is not None:
        return Footprint(axes.length(given, f"footprint of {name!r}"))
    other = f"{name}_footprint"
    if other in ds.variables:
        return Footprint(_diameters(ds.variables[other], variable, axes, f"{subject}, {other}"))
    if "footprint" in variable.attrs:
        label = f"footprint of {name!r}"
        return Footprint(axes.length(variable.attrs["footprint"], label))
    return _boxes(ds, variable, found, axes, subject)


def _diameters(
    diameters: xr.Variable, variable: xr.Variable, axes: PlaneAxes, subject: str
) -> xr.Variable:
    if not set(diameters.dims) <= set(variable.dims) or diameters.dtype.kind not in "fiu":
        found = f"dimensions {diameters.dims} and type {diameters.dtype}"
        expected = f"diameters along some of {variable.dims}"
        raise ObservationError(problem(subject, found, expected))
    target = "km" if axes.on_sphere else axes.units
    factor = conversion(diameters.attrs.get("units"), target, variable=subject).factor
    known = diameters.compute()
    bad = (known.values < 0) | np.isinf(known.values.astype(float))
    if bad.any():
        first = known.values[bad][0]
        found = f"{int(bad.sum())} diameters that are negative or infinite, the first {first:g}"
        expected = "lengths, with 0 or NaN for points"
        raise ObservationError(problem(subject, found, expected, "correct them, or use NaN"))
    return known * factor


def _boxes(
    ds: xr.Dataset, variable: xr.Variable, found: Coordinates, axes: PlaneAxes, subject: str
) -> Footprint | None:
    """Boxes of a field of means over area, from the bounds of its coordinates."""
    methods = str(variable.attrs.get("cell_methods", ""))
    names = [p.name for p in found.horizontal]
    means = re.search(r"\barea\s*:\s*mean\b", methods) or all(
        re.search(rf"\b{re.escape(n)}\s*:\s*(?:\w+\s*:\s*)*mean\b", methods) for n in names
    )
    if not means:
        return None
    ends = []
    for number, position in enumerate(found.horizontal):
        coordinate = ds.variables[position.name]
        bounds = coordinate.attrs.get("bounds") or coordinate.encoding.get("bounds")
        if bounds is None or bounds not in ds.variables:
            return None
        values = ds.variables[bounds]
        if values.shape != (*coordinate.shape, 2):
            text = f"bounds {bounds!r} of shape {values.shape}"
            expected = f"{(*coordinate.shape, 2)}, two ends for each value"
            raise ObservationError(problem(f"{subject}, {position.name}", text, expected))
        # Bounds have the units of their coordinate, which may not be the state's.
        own = np.asarray(coordinate.values, dtype=float)
        scale = _ratio(position.values, own)
        both = np.asarray(values.values, dtype=float) * scale
        lower, upper = both[..., 0], both[..., 1]
        period = 360.0 if number == axes.longitude else axes.periods[number]
        if period is not None:
            lower, upper = _around_centres(position.values, lower, upper, period)
        ends.append((position.dims, lower, upper))
    return Footprint(boxes=tuple(ends))


def _around_centres(
    centre: Floats, lower: Floats, upper: Floats, period: float
) -> tuple[Floats, Floats]:
    """Order the ends of intervals of a circle so that they enclose their centres.

    From 350 to 10 may be an interval across the seam, or one of descending bounds: the centre
    tells. One on an end, give or take rounding, tells nothing.
    """
    other, place = np.mod(lower - upper, period), np.mod(centre - upper, period)
    slack = 1e-6 * period
    turned = (place > slack) & (place < other - slack)
    return np.where(turned, upper, lower), np.where(turned, lower, upper)


def _ratio(converted: Floats, own: Floats) -> float:
    known = np.isfinite(converted) & np.isfinite(own) & (own != 0)
    return float(np.median(converted[known] / own[known])) if known.any() else 1.0


def disc_means(
    grid: Grid, axes: PlaneAxes, positions: Sequence[Floats], diameters: Floats
) -> Nodes:
    """Means over discs.

    Parameters
    ----------
    grid : Grid
        The state's.
    axes : PlaneAxes
        What lengths are.
    positions : sequence of array of float, shape (n,)
        Centres.
    diameters : array of float, shape (n,)
        In km on the sphere, else in units of the coordinates; 0 or NaN is a point.

    Returns
    -------
    Nodes
        Discs that reach over the edge of the grid are outside.
    """
    radius = 0.5 * np.where(np.isfinite(diameters) & (diameters > 0), diameters, 0.0)
    rings = int(np.clip(np.ceil(radius.max(initial=0.0) / grid.step()) + 1, 2, MOST_RINGS))
    roots, shares = np.polynomial.legendre.leggauss(rings)
    spokes = 4 * rings
    distance = np.repeat(np.sqrt(0.5 * (roots + 1.0)), spokes)
    bearing = np.tile(2 * np.pi * (np.arange(spokes) + 0.5) / spokes, rings)
    share = np.repeat(0.5 * shares, spokes) / spokes

    def spread(part: slice) -> list[Floats]:
        centres = [x[part] for x in positions]
        return _around(axes, centres, distance[:, None] * radius[None, part], bearing[:, None])

    return _averaged(grid, positions[0].size, share.size, spread, lambda _: share[:, None])


def _around(
    axes: PlaneAxes, centres: Sequence[Floats], distance: Floats, bearing: Floats
) -> list[Floats]:
    """Points at distances and bearings from centres, each of shape (k, n)."""
    if axes.latitude is None or axes.longitude is None:
        if len(centres) == 1:
            return [centres[0] + distance * np.cos(bearing)]
        return [centres[0] + distance * np.cos(bearing), centres[1] + distance * np.sin(bearing)]
    latitude, longitude = (np.deg2rad(centres[i]) for i in (axes.latitude, axes.longitude))
    angle = distance / EARTH_RADIUS
    sine = np.sin(latitude) * np.cos(angle)
    sine = sine + np.cos(latitude) * np.sin(angle) * np.cos(bearing)
    turn = np.arctan2(
        np.sin(bearing) * np.sin(angle) * np.cos(latitude), np.cos(angle) - np.sin(latitude) * sine
    )
    found = [np.empty(0)] * 2
    found[axes.latitude] = np.rad2deg(np.arcsin(np.clip(sine, -1.0, 1.0)))
    found[axes.longitude] = np.rad2deg(longitude + turn)
    return found


def line_means(grid: Grid, axes: PlaneAxes, positions: Sequence[Floats]) -> Nodes:
    """Means along lines: great circles on the sphere, straight on a plain grid.

    Parameters
    ----------
    grid : Grid
        The state's.
    axes : PlaneAxes
        What lengths are.
    positions : sequence of array of float, shape (m, n)
        Coordinates of the m nodes of each line; NaN after the last.

    Returns
    -------
    Nodes
        A line of one node is a point; one without any, or over the edge, is outside.
    """
    known = np.logical_and.reduce([np.isfinite(x) for x in positions])
    # After its last node a line stays there.
    last = np.maximum.accumulate(np.where(known, np.arange(len(known))[:, None], -1), axis=0)
    kept = [np.take_along_axis(x, np.maximum(last, 0), axis=0) for x in positions]
    filled = [np.where(known[0], x, 0.0) for x in kept]
    if axes.on_sphere:
        places = axes.embedded(np.stack([x.reshape(-1) for x in filled]))
        places = places.reshape(*filled[0].shape, -1)
        chords = np.linalg.norm(np.diff(places, axis=0), axis=-1)
        lengths = 2 * EARTH_RADIUS * _half_angle(chords)
    else:  # the shorter way round
        periods = zip(filled, axes.periods, strict=True)
        filled = [x if p is None else np.unwrap(x, period=p, axis=0) for x, p in periods]
        lengths = np.sqrt(sum(np.diff(x, axis=0) ** 2 for x in filled))
    if len(filled[0]) == 1:
        nodes = grid.points([x[0] for x in filled])
        return Nodes(nodes.index, nodes.weight, nodes.inside & known[0], nodes.across)
    pieces = int(np.clip(np.ceil(2 * lengths.max(initial=0.0) / grid.step()), 1, 64))
    fraction = (np.arange(pieces) + 0.5) / pieces
    total = lengths.sum(axis=0)
    even = np.zeros_like(lengths)
    even[0] = 1.0
    share = np.where(total > 0, lengths / np.where(total > 0, total, 1.0), even) / pieces

    def spread(part: slice) -> list[Floats]:
        if axes.on_sphere:
            start, end = places[:-1, part], places[1:, part]
            below = [start + f * (end - start) for f in _along(fraction, chords[:, part])]
            return _from_chords(axes, np.stack(below, axis=1))
        moved = []
        for x in filled:
            step = np.diff(x[:, part], axis=0)
            moved.append(
                (x[:-1, None, part] + fraction[:, None] * step[:, None]).reshape(-1, step.shape[1])
            )
        return moved

    count = pieces * len(lengths)
    nodes = _averaged(
        grid, known.shape[1], count, spread, lambda part: np.repeat(share[:, part], pieces, axis=0)
    )
    return Nodes(nodes.index, nodes.weight, nodes.inside & known[0], nodes.across)


def _half_angle(chord: Floats) -> Floats:
    """Half of the angle that a chord of the sphere spans."""
    half: Floats = np.arcsin(np.clip(chord / (2 * EARTH_RADIUS), 0.0, 1.0))
    return half


def _along(fraction: Floats, chord: Floats) -> list[Floats]:
    """Fractions of a chord at even fractions of its arc, each of shape (segment, n, 1)."""
    half = _half_angle(chord)
    out = []
    for f in fraction:
        # The point of the chord below the point of the arc at this fraction of its angle.
        turn = (2 * f - 1) * half
        tangent = np.tan(turn) / np.where(half > 0, np.tan(half), 1.0)
        out.append((0.5 + 0.5 * tangent)[..., None])
    return out


def _from_chords(axes: PlaneAxes, chords: Floats) -> list[Floats]:
    """Latitude and longitude of points in space, (segment, piece, n, 3) to (k, n)."""
    x, y, z = np.moveaxis(chords.reshape(-1, *chords.shape[-2:]), -1, 0)
    found = [np.empty(0)] * 2
    found[axes.latitude or 0] = np.rad2deg(np.arctan2(z, np.hypot(x, y)))
    found[axes.longitude or 0] = np.rad2deg(np.arctan2(y, x))
    return found


def _averaged(
    grid: Grid,
    count: int,
    points: int,
    spread: Callable[[slice], list[Floats]],
    share: Callable[[slice], Floats],
) -> Nodes:
    """Average over points of each place, some places at a time."""
    size = max(1, MOST_POINTS // max(points, 1))
    parts = []
    for start in range(0, max(count, 1), size):
        part = slice(start, min(start + size, count))
        positions = spread(part)
        n = part.stop - part.start
        located = grid.points([np.broadcast_to(x, (points, n)).reshape(-1) for x in positions])
        corners = len(located.index)
        weight = located.weight.reshape(corners, points, n) * share(part)[None]
        across = None
        if located.across is not None:
            across = located.across.reshape(-1, n)
        index = located.index.reshape(-1, n)
        inside: Bools = np.logical_and.reduce(located.inside.reshape(points, n), axis=0)
        parts.append(_merged(Nodes(index, weight.reshape(-1, n), inside, across)))
    if len(parts) == 1:
        return parts[0]
    rows = max(len(p.index) for p in parts)
    pads = [((0, rows - len(p.index)), (0, 0)) for p in parts]
    across = None
    if any(p.across is not None for p in parts):
        across = np.concatenate(
            [
                np.pad(np.zeros(p.index.shape, bool) if p.across is None else p.across, pad)
                for p, pad in zip(parts, pads, strict=True)
            ],
            axis=1,
        )
    return Nodes(
        np.concatenate([np.pad(p.index, d, "edge") for p, d in zip(parts, pads, strict=True)], 1),
        np.concatenate([np.pad(p.weight, d) for p, d in zip(parts, pads, strict=True)], 1),
        np.concatenate([p.inside for p in parts]),
        across,
    )


def _merged(nodes: Nodes) -> Nodes:
    """Put together what one place has at the same node on the same side of a pole."""
    k, n = nodes.index.shape
    key = 2 * nodes.index + (0 if nodes.across is None else nodes.across.astype(np.int64))
    order = np.argsort(key, axis=0, kind="stable")
    ranked = np.take_along_axis(key, order, axis=0)
    new = np.ones((k, n), dtype=bool)
    new[1:] = ranked[1:] != ranked[:-1]
    slot: Ints = np.cumsum(new, axis=0) - 1
    rows = int(slot[-1].max(initial=0)) + 1
    column = np.broadcast_to(np.arange(n), (k, n))
    weight = np.bincount(
        (slot * n + column).reshape(-1),
        np.take_along_axis(nodes.weight, order, axis=0).reshape(-1),
        rows * n,
    )
    merged = np.broadcast_to(ranked[0], (rows, n)).copy()
    merged[slot, column] = ranked
    across = None if nodes.across is None else (merged % 2).astype(bool)
    return Nodes(merged // 2, weight.astype(float).reshape(rows, n), nodes.inside, across)
