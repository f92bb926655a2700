"""Longitudes of a grid: across the seam of their convention, and round the globe."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["goes_round", "is_monotonic", "unrolled"]


def is_monotonic(values: NDArray[np.generic]) -> bool:
    """Tell whether values are finite floating-point numbers that increase, or decrease."""
    if values.dtype.kind != "f" or values.size == 0 or not np.isfinite(values).all():
        return False
    steps = np.diff(values)
    return bool((steps > 0).all() or (steps < 0).all())


def unrolled(longitudes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Make longitudes that cross the seam of their convention monotonic: 350, 0, 10 is -10, 0, 10.

    Others are returned as they are.
    """
    if is_monotonic(longitudes) or longitudes.size < 2 or not np.isfinite(longitudes).all():
        return longitudes
    straight = np.unwrap(longitudes, period=360.0)
    if not is_monotonic(straight) or np.ptp(straight) >= 360.0:
        return longitudes
    turns = np.floor((straight.max() - 1e-6) / 360.0)  # the largest is at most 360
    values: NDArray[np.float64] = straight - 360.0 * turns
    return values


def goes_round(longitudes: NDArray[np.float64], *, closed: bool = False) -> bool:
    """Tell whether evenly spaced longitudes span the globe, one step short of closing.

    Parameters
    ----------
    longitudes : array of float, shape (n,)
        In degrees, monotonic.
    closed : bool
        Take those for going round, too, whose last is the first again: 0 to 360.
    """
    if longitudes.size < 3:
        return False
    step = np.diff(longitudes)
    if not np.allclose(step, step[0], rtol=1e-3):
        return False
    sizes = (longitudes.size, longitudes.size - 1) if closed else (longitudes.size,)
    return any(bool(np.isclose(abs(step[0]) * n, 360.0, rtol=1e-3)) for n in sizes)
