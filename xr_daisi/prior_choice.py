"""Which prior an analysis uses when several ways of naming one exist."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from xr_daisi.errors import DaisiError, DaisiTypeError, PriorError, problem
from xr_daisi.layout import layout_of
from xr_daisi.options import get_option
from xr_daisi.priors import FlowPrior
from xr_daisi.registry import load_prior, registered_priors

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["choose_prior", "given_prior"]


def choose_prior(forecast: xr.Dataset, prior: FlowPrior | str | Path | None) -> FlowPrior:
    """Return the prior to use for a forecast.

    In this order: the one given; the one that ``forecast.attrs["daisi_prior"]`` names; the one of
    `set_options`; the one registered prior whose variables and grid fit. A plain name in the
    attributes that nothing is registered under is passed over: analyses keep the names of priors
    that were made in their session alone.

    Parameters
    ----------
    forecast : xarray.Dataset
        The forecast.
    prior : FlowPrior, str, Path or None
        A prior, its file, URL or registered name.

    Returns
    -------
    FlowPrior
        The prior; whether it fits is checked elsewhere, unless it was searched for.

    Raises
    ------
    PriorError
        If none can be found, several fit, or one that is named cannot be loaded.
    DaisiTypeError
        If it is neither a prior nor the name of one.
    """
    named = forecast.attrs.get("daisi_prior")
    if isinstance(named, str) and not (named in registered_priors() or _is_place(named)):
        named = None
    for choice in (prior, named, get_option("prior")):
        if choice is not None:
            return given_prior(choice)
    return _only_fitting(forecast)


def given_prior(choice: object) -> FlowPrior:
    """Return a prior that is given as such, or by its file, URL or registered name.

    Raises
    ------
    PriorError
        If it cannot be loaded.
    DaisiTypeError
        If it is neither a prior nor the name of one.
    """
    if isinstance(choice, FlowPrior):
        return choice
    if isinstance(choice, (str, Path)):
        return load_prior(choice)
    found, expected = type(choice).__name__, "a FlowPrior, a path or a registered name"
    raise DaisiTypeError(problem("prior", found, expected))


def _is_place(text: str) -> bool:
    """Tell whether a text is meant as a file or URL."""
    return text.endswith(".safetensors") or "/" in text or Path(text).is_file()


def _only_fitting(forecast: xr.Dataset) -> FlowPrior:
    fitting: dict[str, FlowPrior] = {}
    reasons = []
    for name in registered_priors():
        try:  # a file may be missing or damaged: the others still count
            candidate = load_prior(name)
            layout_of(forecast, candidate.spec)
        except DaisiError as error:
            reasons.append(f"{name}: {' '.join(str(error).split())}")
        else:
            fitting[name] = candidate
    if len(fitting) == 1:
        return next(iter(fitting.values()))
    raise PriorError(
        problem(
            "prior",
            f"{len(fitting)} registered priors that fit: {', '.join(fitting)}"
            if fitting
            else f"none given, and no registered one that fits ({'; '.join(reasons)})",
            "one",
            "pass prior=..., xr_daisi.set_options(prior=...), or train one: "
            "xr_daisi.train_prior(history)",
        )
    )
