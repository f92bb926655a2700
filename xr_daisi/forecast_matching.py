"""Variables, levels, space dimensions and times of a forecast, found by a prior's labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from xr_daisi.coordinate_values import read_coordinate
from xr_daisi.dimensions import Dimensions, axis_kind, standard_name, time_coordinate
from xr_daisi.errors import PriorError, StateError, problem, raise_problems
from xr_daisi.grid_matching import match_level, match_levels
from xr_daisi.observation_times import duplicate_time

if TYPE_CHECKING:
    import xarray as xr

    from xr_daisi.state import StateSpec, VariableSpec

__all__ = ["match_space", "match_times", "match_variable_levels", "match_variables"]


def match_variables(forecast: xr.Dataset, spec: StateSpec) -> tuple[str, ...]:
    """Find the forecast's variable for each of the state's: by name, else by standard name.

    Parameters
    ----------
    forecast : xarray.Dataset
        The forecast.
    spec : StateSpec
        The prior's state.

    Returns
    -------
    tuple of str
        Names in the forecast, all different.

    Raises
    ------
    PriorError
        Where variables are missing, or several have the standard name.
    StateError
        Where values are not numbers.
    """
    present = [str(n) for n in forecast.data_vars]
    taken = {v.name for v in spec.variables if v.name in present}
    wanted = [v.standard_name for v in spec.variables if v.name not in taken]
    names, missing = [], []
    for v in spec.variables:
        candidates = [v.name]
        if v.name not in taken:
            candidates = [
                n
                for n in present
                if n not in taken
                and v.standard_name
                and standard_name(forecast[n]) == v.standard_name
            ]
        if len(candidates) == 1 and (v.name in taken or wanted.count(v.standard_name) == 1):
            names.append(candidates[0])
        else:
            missing.append((v, candidates))
    if missing:
        first, candidates = missing[0]
        expected = ", ".join(
            repr(v.name) + (f" (standard_name {v.standard_name!r})" if v.standard_name else "")
            for v, _ in missing
        )
        several = [f"{found} with the standard_name of {v.name!r}" for v, found in missing if found]
        old = repr(candidates[0]) if candidates else "'old'"
        raise PriorError(
            problem(
                "forecast variables",
                "; ".join([", ".join(map(repr, present)) or "none", *several]),
                f"{expected}, which the prior has",
                f"rename yours, e.g. forecast.rename({{{old}: {first.name!r}}}), or use a prior "
                "for these variables",
            )
        )
    raise_problems(
        StateError,
        [
            problem(
                f"forecast variable {name!r}",
                f"values of type {forecast[name].dtype}",
                "numbers",
                "decode or convert them",
            )
            for name in names
            if forecast[name].dtype.kind not in "fiu"
        ],
    )
    return tuple(names)


def match_variable_levels(
    forecast: xr.Dataset, name: str, v: VariableSpec, level_dim: str | None
) -> tuple[np.ndarray | None, list[str]]:
    """Find each of a variable's channels along its vertical dimension, if it has one.

    Parameters
    ----------
    forecast : xarray.Dataset
        The forecast.
    name : str
        The forecast's variable.
    v : VariableSpec
        The prior's variable.
    level_dim : str or None
        The forecast's vertical dimension.

    Returns
    -------
    ndarray of int or None, list of str
        Index of each level, None without the dimension; what does not fit.
    """
    label = f"forecast variable {name!r}"
    if level_dim is None:
        if v.size == 1:
            return None, match_level(forecast[name], label, v)
        return None, [
            problem(
                label,
                "no level dimension",
                f"levels {list(v.levels or ())} along {v.level_dim!r}",
                "give all levels of the prior",
            )
        ]
    if v.levels is None:
        if forecast.sizes[level_dim] == 1:
            return np.zeros(1, dtype=int), []
        return None, [
            problem(
                label,
                f"{forecast.sizes[level_dim]} levels along {level_dim!r}",
                "no levels, as in the prior",
                f"select one: forecast.isel({level_dim}=0)",
            )
        ]
    return match_levels(forecast, label, v, level_dim)


def match_space(
    forecast: xr.Dataset, spec: StateSpec, dims: Dimensions
) -> tuple[tuple[str, ...], list[str]]:
    """Find the forecast's dimension for each space dimension of the state.

    Parameters
    ----------
    forecast : xarray.Dataset
        The forecast.
    spec : StateSpec
        The prior's state.
    dims : Dimensions
        Roles of the forecast's dimensions.

    Returns
    -------
    tuple of str, list of str
        By name, else both latitudes or both longitudes; what does not fit.
    """
    left = list(dims.space)
    space, problems = [], []
    for d in spec.dims:
        same_kind = [
            x for x in left if spec.axes[d] != "plain" and axis_kind(forecast, x) == spec.axes[d]
        ]
        choice = d if d in left else same_kind[0] if len(same_kind) == 1 else None
        if choice is None:
            problems.append(
                problem(
                    "horizontal dimensions of the forecast",
                    f"{dims.space}",
                    f"{spec.dims} as in the prior",
                    f"rename them, e.g. forecast.rename({{{left[0]!r}: {d!r}}})"
                    if left
                    else "use a prior for this grid",
                )
            )
            continue
        left.remove(choice)
        space.append(choice)
    if left and not problems:
        problems.append(
            problem(
                "horizontal dimensions of the forecast",
                f"{dims.space}",
                f"{spec.dims} as in the prior",
                f"select one entry of the others: forecast.isel({left[0]}=0)",
            )
        )
    return tuple(space), problems


def match_times(forecast: xr.Dataset, dim: str | None) -> tuple[np.ndarray | None, list[str]]:
    """Read the forecast's times.

    Parameters
    ----------
    forecast : xarray.Dataset
        The forecast.
    dim : str or None
        Its time dimension.

    Returns
    -------
    ndarray of shape (times,) or None, list of str
        Times of any kind, None without any; what is wrong with them.
    """
    # A single time as a scalar coordinate still tells which observations belong to it.
    name = time_coordinate(forecast, dim)
    if name is None and dim is None:
        return None, []
    label = f"forecast dimension {dim!r}" if dim else f"forecast coordinate {name!r}"
    if name is None:
        remedy = f"assign it: forecast.assign_coords({dim}=...)"
        return None, [problem(label, "no coordinate", "a time for each state", remedy)]
    values = np.atleast_1d(read_coordinate(forecast[name]))
    problems = []
    twice = duplicate_time(values)
    if twice is not None:
        found, remedy = f"{twice} twice", f"forecast.drop_duplicates({dim!r})"
        problems.append(problem(label, found, "each time once", remedy))
    missing = int(np.asarray(pd.isna(values)).sum())
    if missing:
        remedy = f"forecast.dropna({dim!r})" if dim else f"forecast.drop_vars({name!r})"
        problems.append(problem(label, f"{missing} missing", "a time for each state", remedy))
    return values, problems
