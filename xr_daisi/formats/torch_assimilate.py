"""Observation Datasets of torch-assimilate: ``observations`` and their ``covariance``."""

from __future__ import annotations

import numpy as np
import xarray as xr

from xr_daisi.errors import ObservationError, problem, raise_problems
from xr_daisi.units import conversion

__all__ = ["from_torch_assimilate", "is_torch_assimilate", "to_torch_assimilate"]

GRID, OTHER = "obs_grid_1", "obs_grid_2"


def is_torch_assimilate(ds: xr.Dataset) -> bool:
    """Whether a Dataset has the variables and dimension of that package."""
    return "observations" in ds.data_vars and ("covariance" in ds.data_vars or GRID in ds.dims)


def from_torch_assimilate(ds: xr.Dataset, variable: str | None = None) -> xr.Dataset:
    """Bring such a Dataset to the labelled form.

    Parameters
    ----------
    ds : Dataset
        ``observations`` along ``obs_grid_1`` and perhaps ``time``; ``covariance`` along
        ``obs_grid_1`` and ``obs_grid_2``, or ``obs_grid_1`` alone for independent errors.
    variable : str, optional
        Name of what was observed; by default the attribute ``variable`` or ``standard_name`` of
        ``observations``.

    Returns
    -------
    Dataset
        With ``<name>_error_covariance``, or ``<name>_error`` for variances.

    Raises
    ------
    ObservationError
        Where name, covariance or positions are missing or do not fit.
    """
    values = ds["observations"]
    name = variable or values.attrs.get("variable") or values.attrs.get("standard_name")
    problems = []
    if not name:
        remedy = "pass variable='t2m', or obs.observations.attrs['variable'] = 't2m'"
        found = "no name of what was observed"
        problems.append(problem("observations", found, "a name", remedy))
    if GRID not in values.dims:
        found = f"dimensions {values.dims}"
        problems.append(problem("observations", found, f"{GRID!r} among them"))
    covariance = ds.get("covariance")
    size = ds.sizes.get(GRID, 0)
    if covariance is None:
        problems.append(
            problem("observations", "no variable 'covariance'", "the errors' covariance")
        )
    elif covariance.dims not in ((GRID, OTHER), (OTHER, GRID), (GRID,)) or set(
        covariance.shape
    ) != {size}:
        found = f"dimensions {dict(covariance.sizes)}"
        expected = f"{(GRID, OTHER)} of size {size}, or {GRID!r} alone"
        problems.append(problem("covariance", found, expected))
    raise_problems(ObservationError, problems)
    out = ds.drop_vars(["observations", "covariance"])
    for dim in (GRID, OTHER):
        if dim in out.indexes and out.indexes[dim].nlevels > 1:
            out = out.drop_vars(OTHER) if dim == OTHER else out.reset_index(dim)
    out = out.drop_vars([OTHER], errors="ignore")
    out[str(name)] = values.variable
    if covariance is not None and covariance.ndim == 1:
        out[f"{name}_error"] = (GRID, np.sqrt(covariance.values))
    elif covariance is not None:
        out[f"{name}_error_covariance"] = covariance.variable.transpose(GRID, OTHER)
    return out


def to_torch_assimilate(obs: xr.Dataset, variable: str | None = None) -> xr.Dataset:
    """Write one observed variable as torch-assimilate has it.

    Parameters
    ----------
    obs : Dataset
        In the labelled form: one dimension of places, perhaps one of time.
    variable : str, optional
        Which one; needed where there are several.

    Returns
    -------
    Dataset
        ``observations`` and ``covariance``.

    Raises
    ------
    ObservationError
        For several variables, errors that change in time, or quality flags, which have no place
        there.
    """
    from xr_daisi.observation_errors import error_variable
    from xr_daisi.observation_quality import companions

    names = [str(n) for n in obs.data_vars]
    extra = {other for n in names for other in companions(obs, n)}
    observed = [n for n in names if n not in extra]
    if variable is None and len(observed) == 1:
        variable = observed[0]
    if variable not in observed:
        found, expected = f"variables {observed}", "the name of one of them"
        raise ObservationError(problem("torch-assimilate", found, expected, "pass variable=..."))
    values = obs[variable]
    time = [d for d in values.dims if d == "time"]
    places = [d for d in values.dims if d != "time"]
    matrix = f"{variable}_error_covariance"
    error = error_variable(obs, variable)
    problems = []
    if len(places) != 1:
        problems.append(problem(variable, f"dimensions {values.dims}", "one of places, and time"))
    if matrix not in obs and (error is None or "time" in obs[error].dims):
        found = "no errors" if error is None else f"errors {error!r} that change in time"
        problems.append(problem(variable, found, "one error for each place"))
    others = sorted(companions(obs, variable) - {matrix, error})
    if others:
        remedy = f"obs.drop_vars({others})"
        problems.append(problem(variable, f"{others}", "values and errors alone", remedy))
    raise_problems(ObservationError, problems)
    (place,) = places
    out = obs.drop_vars(names).rename({place: GRID}) if place != GRID else obs.drop_vars(names)
    renamed = values.variable.copy()
    renamed.dims = [GRID if d == place else d for d in values.dims]
    out["observations"] = renamed.transpose(*time, GRID)
    out["observations"].attrs = {**values.attrs, "variable": variable}
    if matrix in obs:
        out["covariance"] = ((GRID, OTHER), obs[matrix].transpose(place, ...).values)
    else:
        deviation = obs[error].variable.set_dims({place: obs.sizes[place]}).values
        # The covariance has no units of its own.
        own = obs[error].attrs.get("units"), values.attrs.get("units")
        factor = conversion(*own, variable=str(error)).factor
        out["covariance"] = (GRID, np.square(factor * np.asarray(deviation, dtype=float)))
    return out
