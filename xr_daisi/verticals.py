"""Which way a vertical coordinate counts: heights upwards, depths downwards."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xr_daisi.errors import UnitsError
from xr_daisi.units import conversion

__all__ = ["direction_of", "is_turned"]

# Beginnings of names and standard names of lengths.
DIRECTIONS = {"height": "up", "altitude": "up", "geopotential_height": "up", "depth": "down"}


def direction_of(
    attrs: Mapping[Any, Any], name: str = "", values: NDArray[np.float64] | None = None
) -> str | None:
    """Direction in which a vertical coordinate increases.

    Parameters
    ----------
    attrs : mapping
        Its attributes.
    name : str
        Its name, which tells where attributes do not.
    values : array of float, optional
        Depths that are all negative do not count downwards, whatever they are called.

    Returns
    -------
    {"up", "down"} or None
        From ``positive``, else implied by the standard name or the name; None where nothing tells.
    """
    said = str(attrs.get("positive", "")).strip().lower()
    if said in ("up", "down"):
        return said
    for text in (str(attrs.get("standard_name", "")), name):
        for beginning, direction in DIRECTIONS.items():
            if text.lower().startswith(beginning):
                known = np.empty(0) if values is None else values[np.isfinite(values)]
                heights = direction == "down" and known.size > 0 and bool((known < 0).all())
                return None if heights else direction
    return None


def is_turned(
    one: str | None, other: str | None, units: Iterable[str | None], names: Iterable[str]
) -> bool:
    """Tell whether a length upwards has to be made one downwards, or the other way round.

    Parameters
    ----------
    one, other : {"up", "down"} or None
        Directions of two coordinates.
    units : iterable of str or None
        Of both; directions of pressures and of numbers of levels change no sign.
    names : iterable of str
        Names or standard names of both, which tell that they are lengths where no units do.
    """
    if one is None or other is None or one == other:
        return False
    given = [text for text in units if text]
    if not given:
        return all(name.lower().startswith(tuple(DIRECTIONS)) for name in names)
    return all(_is_length(text) for text in given)


def _is_length(units: str) -> bool:
    try:
        return conversion(units, "m").factor > 0
    except UnitsError:
        return False
