"""Functions of the state as observation operators: at points, or on the grid before these."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from xr_daisi.errors import OperatorError, problem

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["GridFunction", "PointFunction", "on_grid"]

PointFunction = Callable[[Mapping[str, "Tensor"]], "Tensor"]


@dataclass(frozen=True)
class GridFunction:
    """A function of whole fields, whose result is interpolated to the observations.

    Parameters
    ----------
    function : callable
        Takes ``{state variable: tensor (batch, [level,] *space)}`` in physical units, and returns
        a tensor ``(batch, [level,] *space)``.
    units : str, optional
        Of the result, for conversion to the observation's.
    """

    function: PointFunction
    units: str | None = None

    @property
    def __name__(self) -> str:
        return getattr(self.function, "__name__", type(self.function).__name__)

    def __call__(self, state: Mapping[str, Tensor]) -> Tensor:
        """Apply the function."""
        return self.function(state)


def on_grid(function: PointFunction, units: str | None = None) -> GridFunction:
    """Make an observation operator of a function of whole fields, such as a vorticity.

    Parameters
    ----------
    function : callable
        Takes ``{state variable: tensor}`` in physical units, each ``(batch, *space)``, or ``(batch,
        level, *space)`` for a variable with levels; returns a tensor ``(batch, *space)`` or
        ``(batch, level, *space)``, which is interpolated to the observations. It must be
        differentiable by torch. Holes of the domain hold means.
    units : str, optional
        Units of the result; it is converted to those of the observations.

    Returns
    -------
    GridFunction
        For the keyword `operator` of `assimilate`.

    Raises
    ------
    OperatorError
        For what is no function.

    Examples
    --------
    >>> import xr_daisi
    >>> operator = {"gradient": xr_daisi.on_grid(lambda s: s["t"] - s["t"].roll(1, dims=-1))}
    """
    if not callable(function):
        found = f"an object of type {type(function).__name__}"
        raise OperatorError(problem("on_grid", found, "a function of {state variable: tensor}"))
    return GridFunction(function, units)
