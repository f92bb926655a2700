"""Which prior an analysis uses when several ways of naming one exist."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from xr_daisi.errors import DaisiError, DaisiTypeError, PriorError, problem
from xr_daisi.layout import layout_of
from xr_daisi.options import get_option
from xr_daisi.registry import load_prior, registered_priors
from xr_daisi.priors import FlowPrior

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["choose_prior"]


def choose_prior(forecast: xr.Dataset, prior: FlowPrior | str | Path | None) -> FlowPrior:
    """Return the prior to use for a forecast.

    In this order: the one given; the one ``forecast.attrs["daisi_prior"]`` names, if it can be
    loaded; the one of ``set_options``; the one registered prior whose variables and grid fit.

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
        If none can be found, or several fit.
    """
    if isinstance(prior, FlowPrior):
        return prior
    if prior is not None:
        if not isinstance(prior, (str, Path)):
            raise DaisiTypeError(
                problem("prior", type(prior).__name__, "a FlowPrior, a path or a registered name")
            )
        return load_prior(prior)
    named = forecast.attrs.get("daisi_prior")
    if isinstance(named, str) and (named in registered_priors() or Path(named).is_file()):
        return load_prior(named)
    option = get_option("prior")
    if option is not None:
        return option if isinstance(option, FlowPrior) else load_prior(option)
    fitting, reasons = [], []
    for name in registered_priors():
        candidate = load_prior(name)
        try:
            layout_of(forecast, candidate.spec)
        except DaisiError as error:
            reasons.append(f"{name}: {str(error).splitlines()[0]}")
        else:
            fitting.append((name, candidate))
    if len(fitting) == 1:
        return fitting[0][1]
    names = ", ".join(name for name, _ in fitting)
    raise PriorError(
        problem(
            "prior",
            f"{len(fitting)} registered priors that fit: {names}"
            if fitting
            else f"no registered prior that fits ({'; '.join(reasons)})",
            "one",
            "pass prior=..., or train one: xr_daisi.train_prior(history)",
        )
    )
