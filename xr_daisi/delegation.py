"""Functions as methods of an accessor."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

import xarray as xr

__all__ = ["method_of"]

P = ParamSpec("P")
R = TypeVar("R")


class Accessor(Protocol):
    """What holds a Dataset."""

    _obj: xr.Dataset


def method_of(
    function: Callable[Concatenate[xr.Dataset, P], R],
) -> Callable[Concatenate[Any, P], R]:
    """Make a method that hands the Dataset to a function, with its signature and docstring."""

    @functools.wraps(function)
    def method(self: Accessor, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return function(self._obj, *args, **kwargs)

    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    signature = inspect.signature(function)
    rest = list(signature.parameters.values())[1:]
    method.__signature__ = signature.replace(parameters=[own, *rest])  # type: ignore[attr-defined]
    return method
