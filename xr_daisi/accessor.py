"""``ds.daisi``: the functions of the package as methods of a Dataset."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

import xarray as xr

from xr_daisi.analysis import assimilate
from xr_daisi.check import check
from xr_daisi.feedback import feedback
from xr_daisi.latent import invert, sample
from xr_daisi.withholding import withhold

__all__ = ["DaisiAccessor"]

P = ParamSpec("P")
R = TypeVar("R")


def _method(
    function: Callable[Concatenate[xr.Dataset, P], R],
) -> Callable[Concatenate[DaisiAccessor, P], R]:
    """Make a method that hands the Dataset to a function, with its signature and docstring."""

    @functools.wraps(function)
    def method(self: DaisiAccessor, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return function(self._obj, *args, **kwargs)

    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    signature = inspect.signature(function)
    rest = list(signature.parameters.values())[1:]
    method.__signature__ = signature.replace(parameters=[own, *rest])  # type: ignore[attr-defined]
    return method


@xr.register_dataset_accessor("daisi")
class DaisiAccessor:
    """Flow-prior data assimilation for the Dataset at hand; it keeps no state of its own."""

    def __init__(self, obj: xr.Dataset) -> None:
        self._obj = obj

    def __repr__(self) -> str:
        return "<xr_daisi accessor: assimilate, invert, sample, feedback, check, withhold>"

    assimilate: Any = _method(assimilate)
    invert = _method(invert)
    sample = _method(sample)
    feedback = _method(feedback)
    check = _method(check)
    withhold = _method(withhold)
