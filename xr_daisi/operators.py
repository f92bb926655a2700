"""Observation operators by name and by function: which state variables an observation is made of.

Without an operator a variable is interpolated from the state. With one, the observation is a
function of state variables at its place, in physical units, and in the function's own units.
`xr_daisi.tensor_operators` applies both to tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from xr_daisi.errors import OperatorError, problem
from xr_daisi.grid_functions import GridFunction, PointFunction, on_grid
from xr_daisi.interpolation import Gather, LevelKey, Points
from xr_daisi.named_operators import (
    NAMED_OPERATORS,
    PRESSURE,
    PRESSURE_VARIABLES,
    NamedOperator,
    parse_operator,
)
from xr_daisi.units import IDENTITY, Conversion, conversion, is_pressure

if TYPE_CHECKING:
    from torch import Tensor

    from xr_daisi.state import StateSpec, VariableSpec

__all__ = [
    "NAMED_OPERATORS",
    "GridFunction",
    "Group",
    "Operator",
    "PointFunction",
    "StateLayout",
    "match_variable",
    "on_grid",
    "resolve_operator",
]

COMPONENTS = {"u", "v", "u10", "v10", "ua", "va", "uo", "vo", "uas", "vas", "10u", "10v"}
"""Names of vector components that have no standard name."""


@dataclass(frozen=True)
class _Applied:
    """A named operator as a function of all state variables; unlike a lambda it can be pickled.

    Arguments are converted to the units that the function takes; of `PRESSURE` without a variable
    the pressure at the observation's level is taken.
    """

    function: Callable[..., Tensor]
    variables: tuple[str | None, ...]
    conversions: tuple[Conversion, ...] = ()
    numbers: tuple[float, ...] = ()
    on_levels: str = ""

    def __call__(self, state: Mapping[str, Tensor]) -> Tensor:
        arguments = []
        for number, name in enumerate(self.variables):
            value = level_of(state, self.on_levels) if name is None else state[name]
            change = self.conversions[number] if self.conversions else IDENTITY
            arguments.append(value if change.is_identity else change.apply(value))
        return self.function(*arguments, *self.numbers)


def level_of(state: Mapping[str, Tensor], variable: str) -> Tensor:
    """Vertical coordinate of the observations, in the units of a variable's levels, shape (n,)."""
    levels: Tensor = state.levels(variable)  # type: ignore[attr-defined]
    return levels


@dataclass(frozen=True)
class Operator:
    """How one observed variable follows from the state.

    Parameters
    ----------
    observed : str
        Name of the observed variable.
    name : str
        Name of the operator.
    variables : tuple of str
        State variables it takes; empty where a user's function takes what it likes.
    function : callable, optional
        None for interpolation of the one state variable.
    conversion : Conversion, optional
        To the observation's units: from the state's for interpolation, else from `units`.
    units : str, optional
        Of the result of a function; None where it is taken to be in the observation's.
    period : float, optional
        Values that differ by it are the same; in `units`.
    """

    observed: str
    name: str
    variables: tuple[str, ...]
    function: PointFunction | None = None
    conversion: Conversion = IDENTITY
    units: str | None = None
    period: float | None = None

    def converted(self, units: str | None, state_units: str | None, subject: str) -> Operator:
        """Return the operator with results in the observation's units.

        Parameters
        ----------
        units : str or None
            Of the observation.
        state_units : str or None
            Of the one state variable, for interpolation.
        subject : str
            Name for messages.

        Raises
        ------
        UnitsError
            Where they do not convert.
        """
        own = state_units if self.function is None else self.units
        if own is None:
            return self
        change = conversion(own, units, variable=subject)
        period = None if self.period is None else self.period * abs(change.factor)
        return replace(self, conversion=change, period=period)


def match_variable(observed: str, standard_name: str | None, spec: StateSpec) -> str | None:
    """State variable that an observed variable is of: by name, else by standard name.

    Parameters
    ----------
    observed : str
        Name of the observed variable.
    standard_name : str, optional
        Its standard name; ``"unknown"``, as GRIB decoders write, matches nothing.
    spec : StateSpec
        The state.

    Returns
    -------
    str or None
        None where no variable fits.

    Raises
    ------
    OperatorError
        Where several variables of the state have the standard name.
    """
    if observed in spec.names:
        return observed
    if not standard_name or standard_name == "unknown":
        return None
    same = [v.name for v in spec.variables if v.standard_name == standard_name]
    if len(same) > 1:
        found = f"the standard name {standard_name!r}, which {same} of the state have"
        remedy = f"rename it, e.g. obs.rename({observed}={same[0]!r})"
        raise OperatorError(problem(observed, found, "one state variable", remedy))
    return same[0] if same else None


def resolve_operator(
    given: str | PointFunction, observed: str, standard_name: str | None, spec: StateSpec
) -> Operator:
    """Operator for an observed variable, from a name or a function.

    Parameters
    ----------
    given : str or callable
        One of `NAMED_OPERATORS`, or a function of ``{state variable: tensor (batch, n)}``.
    observed, standard_name : str
        The observed variable.
    spec : StateSpec
        The state.

    Returns
    -------
    Operator
        Without change of units: what an operator returns is in the observation's units.

    Raises
    ------
    OperatorError
        Where the name is unknown or the state lacks what the operator needs.
    """
    if isinstance(given, str):
        name, numbers = parse_operator(given, observed)
        return _named(name, numbers, observed, standard_name, spec)
    if not callable(given):
        found = f"an operator of type {type(given).__name__}"
        expected = f"a function or one of {sorted(NAMED_OPERATORS)}"
        raise OperatorError(problem(observed, found, expected))
    name = getattr(given, "__name__", type(given).__name__)
    units = given.units if isinstance(given, GridFunction) else None
    return Operator(observed, name, (), given, units=units)


def _named(
    name: str,
    numbers: tuple[float, ...],
    observed: str,
    standard_name: str | None,
    spec: StateSpec,
) -> Operator:
    alternatives = NAMED_OPERATORS[name]
    if not alternatives[0].arguments:
        only = _only_variable(name, observed, standard_name, spec)
        if name == "identity":
            return Operator(observed, name, (only,))
        applied = _Applied(alternatives[0].function, (only,), numbers=numbers)
        return Operator(observed, name, (only,), applied, units=alternatives[0].units)
    for named in alternatives:
        variables = _arguments(named, spec)
        if variables is None:
            continue
        present = tuple(v for v in variables if v is not None)
        levelled = next((v for v in present if spec.variable(v).level_dim is not None), "")
        changes = tuple(
            conversion(_units_of(v, levelled, spec), argument.units, variable=observed)
            for v, argument in zip(variables, named.arguments, strict=True)
        )
        applied = _Applied(named.function, variables, changes, on_levels=levelled)
        return Operator(observed, name, present, applied, units=named.units, period=named.period)
    found = f"the operator {name!r} and state variables {sorted(spec.names)}"
    expected = "; or ".join(
        f"standard names {[a.standard_name for a in named.arguments]}, each once, "
        f"or names {named.names[0]}"
        for named in alternatives
    )
    remedy = (
        f"set the standard names of the prior's variables, or operator={{{observed!r}: function}}"
    )
    raise OperatorError(problem(observed, found, expected, remedy))


def _units_of(variable: str | None, levelled: str, spec: StateSpec) -> str | None:
    return (
        spec.variable(levelled).level_units if variable is None else spec.variable(variable).units
    )


def _only_variable(given: str, observed: str, standard_name: str | None, spec: StateSpec) -> str:
    matched = match_variable(observed, standard_name, spec)
    if matched is None and len(spec.variables) == 1:
        matched = spec.variables[0].name
    if matched is None:
        names = list(spec.names)
        found = f"the operator {given!r} and no state variable of this name or standard name"
        remedy = f"rename it to one of them, or operator={{{observed!r}: function}}"
        raise OperatorError(problem(observed, found, f"one of {names}", remedy))
    return matched


def _arguments(named: NamedOperator, spec: StateSpec) -> tuple[str | None, ...] | None:
    """State variables that serve as arguments, None for the pressure of levels; None without."""
    wanted = [a.standard_name for a in named.arguments if a.standard_name != PRESSURE]
    by_standard_name = [
        [v.name for v in spec.variables if v.standard_name == standard_name]
        for standard_name in wanted
    ]
    if all(len(found) == 1 for found in by_standard_name):
        chosen = tuple(found[0] for found in by_standard_name)
    else:
        by_name = [names for names in named.names if set(spec.names).issuperset(names)]
        if len(by_name) != 1:
            return None
        chosen = by_name[0]
    if len(wanted) == len(named.arguments):
        return chosen
    pressure = _pressure(chosen, spec)
    return None if pressure is False else (*chosen, pressure)


def _pressure(chosen: tuple[str, ...], spec: StateSpec) -> str | Literal[False] | None:
    """Variable that holds the pressure; None for that of levels, False where there is none."""
    for variable in (spec.variable(name) for name in chosen):
        if variable.level_dim is not None:
            on_pressure = variable.level_units and is_pressure(variable.level_units)
            if on_pressure:
                return None
    for standard_name, names in PRESSURE_VARIABLES.items():
        for variable in spec.variables:
            if variable.standard_name == standard_name or variable.name in names:
                return variable.name
    return False


@dataclass(frozen=True)
class StateLayout:
    """Where the variables lie in a state tensor.

    Parameters
    ----------
    variables : dict of str to (int, levels)
        First channel and levels (None without) of every state variable.
    channels : int
        Their number.
    space_shape : tuple of int
        Shape of the grid.
    vectors : frozenset of str
        Variables that are components of horizontal vectors.
    """

    variables: dict[str, tuple[int, LevelKey | None]]
    channels: int
    space_shape: tuple[int, ...]
    vectors: frozenset[str] = frozenset()

    @property
    def state_channels(self) -> int:
        """Channels of one state; of a trajectory `channels` is a multiple of it."""
        ends = (first + len(levels or (0,)) for first, levels in self.variables.values())
        return max(ends, default=0)

    @classmethod
    def of(cls, spec: StateSpec) -> StateLayout:
        """Layout of a state."""
        variables = {v.name: (spec.channel_slice(v.name).start, v.levels) for v in spec.variables}
        vectors = frozenset(v.name for v in spec.variables if _is_component(v))
        return cls(variables, spec.channels, tuple(spec.space_shape), vectors)

    @property
    def space_size(self) -> int:
        """Number of points of the grid."""
        return int(np.prod(self.space_shape))

    def gather(self, variable: str, points: Points) -> Gather:
        """Nodes of a variable at places, in the flattened state."""
        first, levels = self.variables[variable]
        vector = variable in self.vectors
        return points.gather(first, levels, self.space_size, vector=vector)


def _is_component(variable: VariableSpec) -> bool:
    """Whether a variable is the component of a horizontal vector along latitude or longitude."""
    if variable.standard_name:
        return "eastward" in variable.standard_name or "northward" in variable.standard_name
    return variable.name in COMPONENTS


@dataclass(frozen=True, eq=False)
class Group:
    """Observations of one variable of one Dataset.

    Parameters
    ----------
    operator : Operator
        How they follow from the state.
    points : Points
        Where they lie.
    dataset : int
        Number of the Dataset.
    """

    operator: Operator
    points: Points
    dataset: int = 0
