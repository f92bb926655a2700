"""Observations far beyond all others: refused where no precision holds them, else named."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from xr_daisi.circular import next_to, periods_of
from xr_daisi.errors import ObservationError, problem, raise_problems

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from xr_daisi.observation_batch import ObservationBatch
    from xr_daisi.state import StateSpec

__all__ = ["farthest", "refuse_extremes"]

MOST_ERRORS = 1e18
"""A value of this many errors is below the rounding of any precision: its square is the largest
that single precision holds. In a sum with it, all other observations are lost."""

LARGEST, SMALLEST = float(np.finfo(np.float32).max), float(np.finfo(np.float32).tiny)


def refuse_extremes(batch: ObservationBatch, spec: StateSpec) -> None:
    """Raise where a value and its error cannot be reckoned with together.

    Parameters
    ----------
    batch : ObservationBatch
        What passed all checks.
    spec : StateSpec
        The state, for the names of positions.

    Raises
    ------
    ObservationError
        Naming the first of each variable.
    """
    with np.errstate(over="ignore"):
        ratio = np.abs(batch.values) / batch.errors
    bad = ~(ratio <= MOST_ERRORS) | (np.abs(batch.values) > LARGEST)
    bad |= (batch.errors < SMALLEST) | (batch.errors > LARGEST)
    if not bad.any():
        return
    problems = []
    for number in np.unique(batch.group_of[bad]):
        own = np.flatnonzero(bad & (batch.group_of == number))
        found = f"{own.size} value(s) that no precision can hold with their errors, the first "
        found += described(batch, int(own[0]), spec)
        remedy = "set them to NaN (_FillValue, missing_value), or leave them out with bounds=... "
        remedy += "or background_check=..."
        observed = batch.groups[number].operator.observed
        problems.append(problem(observed, found, f"at most {MOST_ERRORS:g} errors from 0", remedy))
    raise_problems(ObservationError, problems)


def described(batch: ObservationBatch, index: int, spec: StateSpec) -> str:
    """Say in words what an observation is, and where.

    Parameters
    ----------
    batch : ObservationBatch
        Of which it is one.
    index : int
        Its number.
    spec : StateSpec
        The state, for the names of positions.
    """
    text = f"{batch.values[index]:g} with an error of {batch.errors[index]:g}"
    pairs = zip(spec.dims, batch.positions[:, index], strict=False)
    where = ", ".join(f"{dim}={value:g}" for dim, value in pairs)
    return f"{text} at {where}" if where else text


def farthest(batch: ObservationBatch, members: NDArray[np.float64], spec: StateSpec) -> str:
    """Name the observation that is most of its errors away from the forecast.

    Parameters
    ----------
    batch : ObservationBatch
        Of one time, at least one.
    members : array of float, shape (member, n)
        H of members of the forecast.
    spec : StateSpec
        The state, for the names of positions.
    """
    near = next_to(batch.values, members, periods_of(batch.groups))
    away = np.abs(batch.values - near.mean(axis=0)) / batch.errors
    index = int(np.argmax(away))
    observed = batch.groups[batch.group_of[index]].operator.observed
    return (
        f"farthest from the forecast, by {away[index]:.3g} of its errors, is {observed} = "
        f"{described(batch, index, spec)}"
    )
