"""Quantities that go round, such as wind directions: differences the shorter way, and means."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from xr_daisi.operators import Group

__all__ = ["next_to", "periods_of"]

Floats = NDArray[np.float64]


def periods_of(groups: Sequence[Group]) -> Floats:
    """Period of each observation of several groups, 0 for quantities that do not go round.

    Parameters
    ----------
    groups : sequence of Group
        Observed variables.

    Returns
    -------
    array of float, shape (n,)
        In the observations' units.
    """
    periods = [group.operator.period or 0.0 for group in groups]
    return np.repeat(np.asarray(periods, dtype=float), [len(group.points) for group in groups])


def next_to(values: Floats, predicted: Floats, periods: Floats) -> Floats:
    """Bring predicted values within half a period of the observed ones.

    Parameters
    ----------
    values : array of float, shape (n,)
        Observed.
    predicted : array of float, shape (member, n)
        Of each member.
    periods : array of float, shape (n,)
        0 for quantities that do not go round.

    Returns
    -------
    array of float, shape (member, n)
        The same angles; differences and means with the observed ones make sense.
    """
    if not periods.any():
        return predicted
    turns = np.round((predicted - values) / np.where(periods > 0, periods, 1.0))
    moved: Floats = predicted - turns * periods
    return moved
