"""Observation operators by name and by function: which state variables an observation is made of.

Without an operator a variable is interpolated from the state. With one, the observation is a
function of state variables at its place, in physical units, and in the function's own units.
`xr_daisi.tensor_operators` applies both to tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from xr_daisi.errors import OperatorError, problem
from xr_daisi.interpolation import Gather, LevelKey, Points
from xr_daisi.units import IDENTITY, Conversion

if TYPE_CHECKING:
    from torch import Tensor

    from xr_daisi.state import StateSpec

__all__ = [
    "NAMED_OPERATORS",
    "Group",
    "NamedOperator",
    "Operator",
    "PointFunction",
    "StateLayout",
    "match_variable",
    "resolve_operator",
]

PointFunction = Callable[[Mapping[str, "Tensor"]], "Tensor"]

# Below it the logarithm continues as a constant: a guided state may pass through zero.
SMALLEST_ARGUMENT = 1e-12


@dataclass(frozen=True)
class NamedOperator:
    """An operator known by name.

    Parameters
    ----------
    function : callable
        Takes one tensor per argument, in the state's physical units.
    standard_names : tuple of str, optional
        Standard names of its arguments; empty for an operator on the observed variable itself.
    names : tuple of tuple of str, optional
        Names of variables that serve as arguments where the standard names do not decide.
    """

    function: Callable[..., Tensor]
    standard_names: tuple[str, ...] = ()
    names: tuple[tuple[str, ...], ...] = ()


def _identity(x: Tensor) -> Tensor:
    return x


def _log(x: Tensor) -> Tensor:
    return x.clamp_min(SMALLEST_ARGUMENT).log()


def _arctan(x: Tensor) -> Tensor:
    return x.atan()


def _square(x: Tensor) -> Tensor:
    return x * x


def _abs(x: Tensor) -> Tensor:
    return x.abs()


def _speed(u: Tensor, v: Tensor) -> Tensor:
    # The root of zero has no derivative; a micrometre per second is none either.
    return (u * u + v * v + 1e-12).sqrt()


NAMED_OPERATORS: dict[str, NamedOperator] = {
    "identity": NamedOperator(_identity),
    "log": NamedOperator(_log),
    "arctan": NamedOperator(_arctan),
    "square": NamedOperator(_square),
    "abs": NamedOperator(_abs),
    "wind_speed": NamedOperator(
        _speed, ("eastward_wind", "northward_wind"), (("u", "v"), ("u10", "v10"))
    ),
}


@dataclass(frozen=True)
class _Applied:
    """A named operator as a function of all state variables; unlike a lambda it can be pickled."""

    function: Callable[..., Tensor]
    variables: tuple[str, ...]

    def __call__(self, state: Mapping[str, Tensor]) -> Tensor:
        return self.function(*(state[name] for name in self.variables))


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
        From the state's units to the observation's, for interpolation.
    """

    observed: str
    name: str
    variables: tuple[str, ...]
    function: PointFunction | None = None
    conversion: Conversion = IDENTITY


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
    if not isinstance(given, str):
        if not callable(given):
            found = f"an operator of type {type(given).__name__}"
            expected = f"a function or one of {sorted(NAMED_OPERATORS)}"
            raise OperatorError(problem(observed, found, expected))
        name = getattr(given, "__name__", type(given).__name__)
        return Operator(observed, name, (), given)
    if given not in NAMED_OPERATORS:
        expected = f"one of {sorted(NAMED_OPERATORS)}"
        remedy = "or pass a function of {state variable: tensor}"
        raise OperatorError(problem(observed, f"the operator {given!r}", expected, remedy))
    named = NAMED_OPERATORS[given]
    if named.standard_names:
        variables = _arguments(given, named, observed, spec)
    else:
        variables = (_only_variable(given, observed, standard_name, spec),)
    if given == "identity":
        return Operator(observed, given, variables)
    return Operator(observed, given, variables, _Applied(named.function, variables))


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


def _arguments(given: str, named: NamedOperator, observed: str, spec: StateSpec) -> tuple[str, ...]:
    by_standard_name = [
        [v.name for v in spec.variables if v.standard_name == wanted]
        for wanted in named.standard_names
    ]
    if all(len(found) == 1 for found in by_standard_name):
        return tuple(found[0] for found in by_standard_name)
    present = set(spec.names)
    by_name = [names for names in named.names if present.issuperset(names)]
    if len(by_name) == 1:
        return by_name[0]
    found = f"the operator {given!r} and state variables {sorted(present)}"
    expected = f"standard names {list(named.standard_names)}, each once, or names {named.names[0]}"
    remedy = (
        f"set the standard names of the prior's variables, or operator={{{observed!r}: function}}"
    )
    raise OperatorError(problem(observed, found, expected, remedy))


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
    """

    variables: dict[str, tuple[int, LevelKey | None]]
    channels: int
    space_shape: tuple[int, ...]

    @classmethod
    def of(cls, spec: StateSpec) -> StateLayout:
        """Layout of a state."""
        variables = {v.name: (spec.channel_slice(v.name).start, v.levels) for v in spec.variables}
        return cls(variables, spec.channels, tuple(spec.space_shape))

    @property
    def space_size(self) -> int:
        """Number of points of the grid."""
        return int(np.prod(self.space_shape))

    def gather(self, variable: str, points: Points) -> Gather:
        """Nodes of a variable at places, in the flattened state."""
        first, levels = self.variables[variable]
        return points.gather(first, levels, self.space_size)


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
