"""Places of observations on a state's grid: nodes and weights, or the reason why there are none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from xr_daisi.errors import ObservationError, problem
from xr_daisi.footprints import NODE_DIM, Footprint, disc_means, line_means
from xr_daisi.geolocation import in_space
from xr_daisi.grids import RegularGrid, grid_of
from xr_daisi.interpolation import Axis, Floats, Ints, LevelKey, Located, Nodes, Points
from xr_daisi.observation_status import Status
from xr_daisi.plane import PlaneAxes
from xr_daisi.units import is_pressure

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xr_daisi.observation_coordinates import Coordinates, Position
    from xr_daisi.observation_options import Interpolation
    from xr_daisi.state import StateSpec, VariableSpec

__all__ = ["Geometry", "horizontal_positions", "locate", "spread_over"]


@dataclass(frozen=True, eq=False)
class Geometry:
    """What a value is compared with at its place.

    Parameters
    ----------
    interpolation : {"linear", "nearest"}
        Between the nodes of the grid.
    footprint : Footprint, optional
        What it is the mean over; a point by default.
    """

    interpolation: Interpolation = "linear"
    footprint: Footprint | None = None


def locate(
    found: Coordinates,
    vertical: Mapping[str, Position],
    place_dims: tuple[str, ...],
    shape: tuple[int, ...],
    spec: StateSpec,
    geometry: Geometry,
) -> tuple[Points, NDArray[np.int8]]:
    """Find nodes, weights and status of all places.

    Parameters
    ----------
    found : Coordinates
        The Dataset's coordinates.
    vertical : mapping of str to Position
        Those of the vertical that matter.
    place_dims, shape : tuple
        Dimensions of the places, and their sizes.
    spec : StateSpec
        The state.
    geometry : Geometry
        What values are compared with there.

    Returns
    -------
    Points, array of int8 of shape (p,)
        Nodes and weights; `Status` of each place.
    """

    def spread(dims: tuple[str, ...], values: NDArray[Any]) -> NDArray[Any]:
        return spread_over(values, dims, place_dims, shape)

    known = np.ones(int(np.prod(shape)), dtype=bool)
    for position in (*found.horizontal, *vertical.values()):
        if NODE_DIM in position.dims and NODE_DIM not in place_dims:
            continue  # of a line, only the nodes that it has
        known &= spread(position.dims, np.isfinite(position.values))
    nodes = _nodes(found, place_dims, shape, spec, geometry)

    levels: dict[LevelKey, tuple[Ints, Floats]] = {}
    covered = np.ones(len(known), dtype=bool)
    for variable in spec.variables:
        level = vertical.get(variable.level_dim or "")
        if variable.levels is None or level is None or variable.levels in levels:
            continue
        place = _on_levels(variable, spread(level.dims, level.values))
        numbers = np.stack([place.lower, place.upper])
        levels[variable.levels] = numbers, np.stack([1.0 - place.fraction, place.fraction])
        covered &= place.inside
    status = np.full(len(known), Status.USED, dtype=np.int8)
    status[~covered] = Status.OUTSIDE_LEVELS
    status[~nodes.inside] = Status.OUTSIDE_GRID
    status[~known] = Status.NO_POSITION
    return Points(nodes.index, nodes.weight, levels, across=nodes.across), status


def _nodes(
    found: Coordinates,
    place_dims: tuple[str, ...],
    shape: tuple[int, ...],
    spec: StateSpec,
    geometry: Geometry,
) -> Nodes:
    """Nodes of all places on the grid: points, boxes, discs or lines."""
    grid = grid_of(spec, geolocated=found.geolocated)
    axes = PlaneAxes.of(spec, geolocated=found.geolocated)

    def spread(dims: tuple[str, ...], values: NDArray[Any]) -> Floats:
        return spread_over(values, dims, place_dims, shape).astype(np.float64)

    if any(NODE_DIM in p.dims and NODE_DIM not in place_dims for p in found.horizontal):
        lines = [_along_nodes(p, place_dims, shape) for p in found.horizontal]
        count = max(len(line) for line in lines)
        return line_means(grid, axes, [np.broadcast_to(x, (count, x.shape[1])) for x in lines])
    footprint = geometry.footprint
    if footprint is not None and footprint.boxes is not None:
        if not isinstance(grid, RegularGrid):
            found_text = "means over boxes, on a grid with two-dimensional latitude and longitude"
            remedy = "pass footprint={variable: diameter}, or drop the attribute cell_methods"
            raise ObservationError(problem("observations", found_text, "points or discs", remedy))
        lower, upper = (
            [spread(dims, ends[side]) for dims, *ends in footprint.boxes] for side in (0, 1)
        )
        return grid.boxes(lower, upper)
    places = [spread(p.dims, p.values) for p in found.horizontal]
    if footprint is not None and footprint.diameter is not None:
        diameter = footprint.diameter
        dims = tuple(map(str, getattr(diameter, "dims", ())))
        values = np.asarray(getattr(diameter, "values", diameter))
        return disc_means(grid, axes, places, spread(dims, values))
    return grid.points(places, nearest=geometry.interpolation == "nearest")


def _along_nodes(position: Position, place_dims: tuple[str, ...], shape: tuple[int, ...]) -> Floats:
    """Coordinates of the nodes of lines, shape (m, n)."""
    if NODE_DIM not in position.dims:
        return spread_over(position.values, position.dims, place_dims, shape)[None].astype(
            np.float64
        )
    values = np.moveaxis(position.values, position.dims.index(NODE_DIM), 0)
    dims = tuple(d for d in position.dims if d != NODE_DIM)
    return np.stack([spread_over(row, dims, place_dims, shape) for row in values]).astype(
        np.float64
    )


def horizontal_positions(
    found: Coordinates,
    place_dims: tuple[str, ...],
    shape: tuple[int, ...],
    points: Points,
    spec: StateSpec,
) -> tuple[Floats, ...]:
    """Horizontal coordinates of places, of lines the middle of their nodes, each of shape (p,).

    On a curvilinear grid they are latitude and longitude: those of the heaviest node for a place in
    coordinates of the grid.
    """
    if spec.geolocation is not None and not found.geolocated:
        heaviest = np.take_along_axis(points.index, points.weight.argmax(axis=0)[None], axis=0)[0]
        return tuple(values.reshape(-1)[heaviest] for values in spec.geolocation)
    nodes = [_along_nodes(p, place_dims, shape) for p in found.horizontal]
    if all(len(x) == 1 for x in nodes):
        return tuple(x[0] for x in nodes)
    axes = PlaneAxes.of(spec, geolocated=found.geolocated)
    if axes.latitude is None or axes.longitude is None:
        pairs = zip(nodes, axes.periods, strict=True)
        return tuple(_mean(x if p is None else np.unwrap(x, period=p, axis=0)) for x, p in pairs)
    # In space: the middle of 179 and -179 degrees is 180.
    pair = np.broadcast_arrays(nodes[axes.latitude], nodes[axes.longitude])
    x, y, z = np.moveaxis(_mean(in_space(*pair)), -1, 0)
    middle = [np.empty(0)] * 2
    middle[axes.latitude] = np.rad2deg(np.arctan2(z, np.hypot(x, y)))
    middle[axes.longitude] = np.rad2deg(np.arctan2(y, x))
    return tuple(middle)


def _mean(nodes: Floats) -> Floats:
    """Mean over the nodes that lines have, (m, n, ...) to (n, ...); NaN without any."""
    known = np.isfinite(nodes)
    total = np.where(known, nodes, 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    mean: Floats = np.where(known.any(axis=0), total, np.nan)
    return mean


def _on_levels(variable: VariableSpec, positions: Floats) -> Located:
    """Place among the levels of a variable: linear in log pressure, else in the coordinate."""
    levels = np.asarray(variable.levels)
    if is_pressure(variable.level_units) and (levels > 0).all():
        positive = np.where(positions > 0, positions, np.nan)
        return Axis(np.log(levels)).locate(np.log(positive))
    return Axis(levels).locate(positions)


def spread_over(
    values: NDArray[Any], dims: tuple[str, ...], onto: tuple[str, ...], shape: tuple[int, ...]
) -> NDArray[Any]:
    """Repeat values along the dimensions they lack, and flatten."""
    order = [dims.index(d) for d in onto if d in dims]
    full = [size if d in dims else 1 for d, size in zip(onto, shape, strict=True)]
    return np.broadcast_to(np.transpose(values, order).reshape(full), shape).reshape(-1)
