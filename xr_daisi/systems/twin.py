"""Twin experiments: a truth, observations of it and an initial ensemble, from one seed.

A twin experiment takes a run of a model for the truth, observes it with random errors and lets a
method find it again. Everything is a labelled Dataset, ready for `xr_daisi.cycle`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from xr_daisi.errors import ObservationError, SettingsError, StateError, problem, raise_problems
from xr_daisi.named_operators import NAMED_OPERATORS
from xr_daisi.operators import resolve_operator
from xr_daisi.prior_grid import layout_for
from xr_daisi.sampling import generate

if TYPE_CHECKING:
    import xarray as xr

    from xr_daisi.priors import FlowPrior
    from xr_daisi.systems.base import System

__all__ = ["TwinExperiment", "denoised", "observe", "twin_experiment"]

OperatorLike = str | Callable[..., Any]

PLACES, ERRORS, INITIAL, GUESS = range(4)
"""Streams of random numbers of one seed: none depends on how much another draws."""

SAME_UNITS = {"identity", "abs"}
"""Operators whose result is in the units of their argument."""


@dataclass(frozen=True)
class TwinExperiment:
    """What `twin_experiment` made.

    Attributes
    ----------
    truth : xarray.Dataset
        The state at every analysis time.
    observations : xarray.Dataset
        Series at fixed stations, ``(time, station)``, with the standard deviation of the errors
        in ``<name>_error``.
    initial : xarray.Dataset
        Ensemble at the first analysis time: the first guess with white noise.
    operator : dict or None
        For the keyword `operator` of `xr_daisi.assimilate`.
    obs_error : dict of str to float
        Standard deviation by observed variable, in the observation's units.
    guess : xarray.Dataset
        First guess at the first analysis time: the truth, or the truth with white noise.
    """

    truth: xr.Dataset
    observations: xr.Dataset
    initial: xr.Dataset
    operator: dict[str, OperatorLike] | None
    obs_error: dict[str, float]
    guess: xr.Dataset


def twin_experiment(
    system: System,
    *,
    members: int,
    cycles: int,
    window: Any,
    observed: str | Sequence[str] | None = None,
    operator: OperatorLike | Mapping[str, OperatorLike] | None = None,
    fraction: float = 1.0,
    obs_error: float | Mapping[str, float] = 1.0,
    initial_error: float | None = None,
    centred: bool = True,
    start: Any = None,
    start_time: Any = "2000-01-01",
    seed: int = 0,
) -> TwinExperiment:
    """Make truth, observations and initial ensemble of a twin experiment.

    Parameters
    ----------
    system : System
        `SQG`, `Lorenz63` or `Lorenz96`; it is also the forecast model.
    members : int
        Ensemble size.
    cycles : int
        Analyses; the first one is at `start_time`.
    window : str, timedelta or timedelta64
        Between them, such as ``"3h"``; a multiple of the system's time step.
    observed : str or sequence of str, optional
        Observed variables; those of a mapping `operator`, else all of the system, when None.
    operator : str, callable or mapping, optional
        As in `xr_daisi.assimilate`, or one operator for every observed variable: what is
        observed instead of the variable itself.
    fraction : float
        Share of the points (of all levels) that are observed, always the same ones.
    obs_error : float or mapping
        Standard deviation of the errors, in units of what is observed.
    initial_error : float, optional
        Standard deviation of the white noise on the truth that makes the initial ensemble, in
        units of the state; the customary one of the system when None.
    centred : bool
        Whether the mean of the initial ensemble is the truth, but for chance: so it was published
        for `SQG`, and the first forecasts are better than their spread. Otherwise the truth is like
        a member: members are a first guess with noise, and the guess is the truth with such noise.
    start : xarray.Dataset, Tensor or ndarray, optional
        The first true state; a spun-up one of this seed when None.
    start_time : str or datetime64
        Of the first analysis.
    seed : int
        Of everything random. More cycles or members continue those of a smaller experiment.

    Returns
    -------
    TwinExperiment
        Everything as labelled Datasets.

    Raises
    ------
    SettingsError
        Naming every size, share or error out of range, and variables that the system has not.
    StateError
        For a start of another shape.
    ObservationError
        For operators that fail or give something else than finite numbers.

    Examples
    --------
    >>> from xr_daisi.systems import Lorenz63
    >>> twin = twin_experiment(
    ...     Lorenz63(), members=10, cycles=4, window="6h", observed="x", operator="abs", seed=1
    ... )
    >>> twin.observations.x.dims, twin.initial.sizes["member"], twin.operator
    (('time', 'station'), 10, {'x': 'abs'})
    """
    problems = [
        problem(what, repr(value), f"at least {least}")
        for what, value, least in (("members", members, 2), ("cycles", cycles, 1))
        if value < least
    ]
    noise = system.initial_error if initial_error is None else initial_error
    if not noise > 0:
        problems.append(problem("initial_error", repr(noise), "a positive number"))
    raise_problems(SettingsError, problems)
    truth = system.simulate(
        start, states=cycles, every=window, start_time=start_time, seed=seed
    ).assign_attrs(title=f"twin experiment with the system {system.name}")
    if "member" in truth.dims:
        found = f"a batch of {truth.sizes['member']}"
        raise StateError(problem("start", found, "one state", ".isel(member=0)"))
    observations = observe(
        truth,
        system,
        observed=observed,
        operator=operator,
        fraction=fraction,
        obs_error=obs_error,
        seed=seed,
    )
    first = truth.isel(time=0)
    rng = np.random.default_rng([seed, INITIAL])
    state = system.tensor(first).cpu().numpy()
    wrong = np.random.default_rng([seed, GUESS]).standard_normal(system.state_shape)
    guess = state if centred else state + noise * wrong
    ensemble = guess + noise * rng.standard_normal((members, *system.state_shape))
    about, initial = (
        system.label(x.astype(state.dtype)).assign_coords(time=first.time).assign_attrs(truth.attrs)
        for x in (guess, ensemble)
    )
    names = _observed(observed, operator, system)
    return TwinExperiment(
        truth=truth,
        observations=observations,
        initial=initial,
        operator=_operators(operator, names),
        obs_error={name: float(observations[f"{name}_error"][0, 0]) for name in names},
        guess=about.isel(member=0, drop=True),
    )


def observe(
    truth: xr.Dataset,
    system: System,
    *,
    observed: str | Sequence[str] | None = None,
    operator: OperatorLike | Mapping[str, OperatorLike] | None = None,
    fraction: float = 1.0,
    obs_error: float | Mapping[str, float] = 1.0,
    seed: int = 0,
) -> xr.Dataset:
    """Observe a share of the points of a run, the same ones at all times.

    Parameters
    ----------
    truth : xarray.Dataset
        States of the system with a dimension ``time``.
    system : System
        Which one.
    observed, operator, fraction, obs_error, seed
        As in `twin_experiment`.

    Returns
    -------
    xarray.Dataset
        Series ``(time, station)`` with the coordinates of the points, and errors.

    Raises
    ------
    SettingsError, ObservationError
        As `twin_experiment`.
    """
    import xarray as xr

    names = _observed(observed, operator, system)
    operators = _operators(operator, names) or {}
    errors = _errors(obs_error, names)
    _check(fraction, errors, names, operators, system)
    any_field = truth[system.spec.names[0]].transpose("time", ...)
    dims = any_field.dims[1:]
    shape = any_field.shape[1:]
    points = int(np.prod(shape))
    places = np.sort(
        np.random.default_rng([seed, PLACES]).choice(
            points, size=max(1, round(fraction * points)), replace=False
        )
    )
    index = np.unravel_index(places, shape)
    states = {
        name: torch.from_numpy(
            truth[name].transpose("time", *dims).values.reshape(-1, points)[:, places].astype(float)
        )
        for name in system.spec.names
    }
    rng = np.random.default_rng([seed, ERRORS])
    noise = rng.standard_normal((truth.sizes["time"], len(names), places.size))
    coords: dict[str, Any] = {
        str(d): ("station", truth[d].values[i], truth[d].attrs)
        for d, i in zip(dims, index, strict=True)
    }
    coords["time"] = truth.time
    data = {}
    for number, name in enumerate(names):
        exact = _exact(name, operators.get(name, "identity"), states, system)
        values = exact + errors[name] * noise[:, number]
        attrs = _attributes(name, operators.get(name, "identity"), truth)
        error_attrs = {"long_name": "standard deviation of the observation error"}
        if "standard_name" in attrs:
            error_attrs["standard_name"] = f"{attrs['standard_name']} standard_error"
        if "units" in attrs:
            error_attrs["units"] = attrs["units"]
        series = ("time", "station")
        data[name] = (series, values, {**attrs, "ancillary_variables": f"{name}_error"})
        data[f"{name}_error"] = (series, np.full(values.shape, errors[name]), error_attrs)
    return xr.Dataset(data, coords=coords, attrs=truth.attrs)


def denoised(initial: xr.Dataset, prior: FlowPrior, *, error: float, steps: int = 10) -> xr.Dataset:
    """Make plausible states of members that are a true state with white noise.

    A state with white noise is, up to a factor, a noisy state of the flow; carried to t = 1 it
    becomes a state without noise, another one for each noise.

    Parameters
    ----------
    initial : xarray.Dataset
        Ensemble with white noise, such as `TwinExperiment.initial`.
    prior : FlowPrior
        Of the same state.
    error : float
        Standard deviation of the noise, in units of the state.
    steps : int
        Heun steps of the ODE.

    Returns
    -------
    xarray.Dataset
        Like `initial`.

    Raises
    ------
    PriorError, StateError
        If the prior is of another state.
    """
    layout = layout_for(initial, prior)
    normalization = prior.normalization
    ratio = error / float(np.mean(normalization.std))
    t = 1.0 / (1.0 + ratio)  # where alpha / beta of the linear schedule is that ratio
    states = layout.stack(initial) * layout.factor + layout.offset
    flat = states.reshape(-1, *prior.spec.shape)
    x = t * torch.from_numpy(normalization.normalize(flat.astype(float))).float()
    flow = prior.flow(torch.device("cpu"), torch.float32)
    done = generate(flow, x, t_min=t, steps=steps, solver="heun", noise=0.0)
    physical = normalization.denormalize(done.double().numpy()).reshape(states.shape)
    return layout.unstack((physical - layout.offset) / layout.factor, initial)


def _observed(observed: Any, operator: Any, system: System) -> list[str]:
    if observed is not None:
        return [observed] if isinstance(observed, str) else list(observed)
    return list(operator) if isinstance(operator, Mapping) else list(system.spec.names)


def _operators(operator: Any, names: Sequence[str]) -> dict[str, OperatorLike] | None:
    if operator is None:
        return None
    if isinstance(operator, Mapping):
        return dict(operator)
    return dict.fromkeys(names, operator)


def _errors(obs_error: float | Mapping[str, float], names: Sequence[str]) -> dict[str, float]:
    if isinstance(obs_error, Mapping):
        return {name: float(obs_error.get(name, float("nan"))) for name in names}
    return dict.fromkeys(names, float(obs_error))


def _check(
    fraction: float,
    errors: Mapping[str, float],
    names: Sequence[str],
    operators: Mapping[str, OperatorLike],
    system: System,
) -> None:
    problems = []
    if not 0.0 < fraction <= 1.0:
        problems.append(problem("fraction", repr(fraction), "a share in (0, 1]"))
    problems += [
        problem(f"obs_error of {name!r}", repr(error), "a positive number")
        for name, error in errors.items()
        if not error > 0
    ]
    unknown = [n for n in names if n not in system.spec.names and n not in operators]
    problems += [
        problem("observed", repr(name), f"variables among {list(system.spec.names)}", "or operator")
        for name in unknown
    ]
    problems += [
        problem("operator", f"one for {name!r}", f"observed variables, {list(names)}")
        for name in operators
        if name not in names
    ]
    if not names:
        problems.append(problem("observed", "no variable", "at least one"))
    raise_problems(SettingsError, problems)


def _exact(
    name: str, given: OperatorLike, states: Mapping[str, torch.Tensor], system: System
) -> np.ndarray:
    """Apply an operator to the states at the observed points, ``(time, station)``."""
    standard_name = None
    if name in system.spec.names:
        standard_name = system.spec.variable(name).standard_name
    resolved = resolve_operator(given, name, standard_name, system.spec)
    if resolved.function is None:
        values = states[resolved.variables[0]]
    else:
        values = resolved.function(states)
    expected = next(iter(states.values())).shape
    shape = getattr(values, "shape", None)
    if shape != expected or not bool(torch.isfinite(values).all()):
        found = f"shape {tuple(shape) if shape is not None else None}, or values not finite"
        raise ObservationError(
            problem(f"operator of {name!r}", found, f"{tuple(expected)} finite numbers")
        )
    exact: np.ndarray = values.detach().numpy()
    return exact


def _attributes(name: str, given: OperatorLike, truth: xr.Dataset) -> dict[str, Any]:
    own = dict(truth[name].attrs) if name in truth else {}
    if given in SAME_UNITS and name in truth:
        if given == "identity":
            return own
        own.pop("standard_name", None)
        return {**own, "long_name": f"{given} of {own.get('long_name', name)}"}
    label = given if isinstance(given, str) else getattr(given, "__name__", type(given).__name__)
    attrs = {"long_name": f"{label} of {own.get('long_name', name)}"}
    if isinstance(given, str):
        units = NAMED_OPERATORS[given.split("(")[0].strip()][0].units
        if units:
            attrs["units"] = units
    return attrs
