"""Packages that only some functions need, and which extra of this one brings them."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from xr_daisi.errors import problem

__all__ = ["EXTRAS", "needed"]

EXTRAS = {
    "cartopy": "plot",
    "matplotlib": "plot",
    "scores": "verify",
    "xrft": "verify",
    "numpy_groupies": "verify",
}


def needed(name: str) -> ModuleType:
    """Import a module that may not be installed.

    Parameters
    ----------
    name : str
        Such as ``"scores.probability"``.

    Returns
    -------
    module
        The module.

    Raises
    ------
    ImportError
        Naming the extra to install, where the package is missing.
    """
    package = name.split(".")[0]
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != package:
            raise  # installed, but something that it needs is not
        extra = EXTRAS[package]
        text = problem(
            f"package {package!r}",
            "not installed",
            f"the extra {extra!r} of xr_daisi",
            f"pip install 'xr-daisi[{extra}]'",
        )
        raise ImportError(text, name=package) from error
