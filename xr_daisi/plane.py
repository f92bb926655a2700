"""Distances between observations: on the sphere for latitude and longitude, else in the plane."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from xr_daisi.errors import SettingsError, problem
from xr_daisi.interpolation import Floats, Ints
from xr_daisi.units import length_in

if TYPE_CHECKING:
    from xr_daisi.state import StateSpec

__all__ = ["EARTH_RADIUS", "PlaneAxes"]

EARTH_RADIUS = 6371.0088
"""Mean radius of the Earth, km."""


@dataclass(frozen=True)
class PlaneAxes:
    """What the horizontal coordinates of observations are.

    Parameters
    ----------
    latitude, longitude : int or None
        Which of the coordinates are latitude and longitude in degrees; None on a plain grid.
    periods : tuple of float or None
        Period of each coordinate of a plain grid.
    units : str or None
        Of the coordinates of a plain grid.
    """

    latitude: int | None
    longitude: int | None
    periods: tuple[float | None, ...]
    units: str | None = None

    @classmethod
    def of(cls, spec: StateSpec, *, geolocated: bool = True) -> PlaneAxes:
        """Axes of a state's grid; of a curvilinear one those of the sphere, if `geolocated`."""
        kinds = [spec.axes[d] for d in spec.dims]
        if geolocated and spec.geolocation is not None:
            return cls(0, 1, (None,) * len(kinds))
        if sorted(kinds) == ["latitude", "longitude"]:
            return cls(kinds.index("latitude"), kinds.index("longitude"), (None,) * 2)
        periods: list[float | None] = []
        for dim, periodic in zip(spec.dims, spec.periodic, strict=True):
            nodes = np.asarray(spec.coords[dim], dtype=float)
            whole = float(np.ptp(nodes) * nodes.size / max(nodes.size - 1, 1))
            periods.append(360.0 if spec.axes[dim] == "longitude" else whole if periodic else None)
        units = {spec.coord_units.get(d) for d in spec.dims}
        return cls(None, None, tuple(periods), units.pop() if len(units) == 1 else None)

    @property
    def on_sphere(self) -> bool:
        """Whether distances are on the sphere, in km."""
        return self.latitude is not None

    def length(self, given: Any, name: str) -> float:
        """Turn a length into km on the sphere, into the coordinates' units on a plain grid.

        Parameters
        ----------
        given : float or str
            A number in these units, or text such as ``"50 km"``.
        name : str
            What it is, for messages.

        Raises
        ------
        SettingsError
            For what is no positive length.
        """
        target = "km" if self.on_sphere else self.units
        value = length_in(given, target, name) if isinstance(given, str) else given
        number: Any = value if isinstance(value, Real) and not isinstance(value, bool) else np.nan
        if not 0 < number < np.inf:
            expected = f"a positive length, a number in {target or 'units of the grid'} or text"
            raise SettingsError(problem(name, repr(given), f"{expected} such as '50 km'"))
        return float(value)

    def embedded(self, positions: NDArray[np.float64]) -> NDArray[np.float64]:
        """Points of Euclidean space whose distances are chords of the sphere in km, or plain ones.

        A periodic coordinate of a plain grid becomes a circle of the same circumference.

        Parameters
        ----------
        positions : array, shape (d, n)
            Horizontal coordinates.

        Returns
        -------
        array, shape (n, k)
            Coordinates.
        """
        if self.latitude is not None and self.longitude is not None:
            latitude, longitude = np.deg2rad(positions[[self.latitude, self.longitude]])
            on_equator = np.cos(latitude)
            axes = on_equator * np.cos(longitude), on_equator * np.sin(longitude), np.sin(latitude)
            return EARTH_RADIUS * np.stack(axes, axis=1)
        columns: list[Floats] = []
        for values, period in zip(positions, self.periods, strict=True):
            if period is None:
                columns.append(values)
            else:
                radius, angle = period / (2 * np.pi), 2 * np.pi * values / period
                columns += [radius * np.cos(angle), radius * np.sin(angle)]
        return np.stack(columns, axis=1)

    def boxes(self, positions: NDArray[np.float64], side: float) -> Ints:
        """Find the box of a given side that each position lies in.

        On the sphere boxes are rows of latitude, each cut into as many pieces as fit; a row that
        goes round closes on itself.

        Parameters
        ----------
        positions : array, shape (d, n)
            Horizontal coordinates.
        side : float
            In km on the sphere, in units of the coordinates on a plain grid.

        Returns
        -------
        array of int, shape (n,)
            Equal for positions in the same box.
        """
        if self.latitude is not None and self.longitude is not None:
            latitude, longitude = positions[[self.latitude, self.longitude]]
            degrees = np.rad2deg(side / EARTH_RADIUS)
            rows = max(1, round(180.0 / degrees))
            row = _cells((latitude + 90.0) / 180.0, rows)
            middle = np.deg2rad(-90.0 + 180.0 * (row + 0.5) / rows)
            pieces = np.maximum(1, np.round(360.0 * np.cos(middle) / degrees)).astype(np.int64)
            piece = _cells(np.mod(longitude, 360.0) / 360.0, pieces)
            return _numbered([row, piece])
        cells = []
        for values, period in zip(positions, self.periods, strict=True):
            if period is None:
                cells.append(np.floor(values / side).astype(np.int64))
            else:
                pieces = np.asarray(max(1, round(period / side)))
                cells.append(_cells(np.mod(values, period) / period, pieces))
        return _numbered(cells)


def _cells(share: Floats, count: Any) -> Ints:
    cells: Ints = np.minimum(np.floor(share * count), np.asarray(count) - 1).astype(np.int64)
    return cells


def _numbered(columns: Sequence[Ints]) -> Ints:
    _, number = np.unique(np.stack(columns), axis=1, return_inverse=True)
    return number.reshape(-1).astype(np.int64)
