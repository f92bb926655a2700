"""Methods to compare with, behind the same `assimilate`: which is what, and what serves which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from xr_daisi.bridge import Bridge
from xr_daisi.calibration import FEWEST
from xr_daisi.engine import Engine
from xr_daisi.ensemble_engine import EnsembleEngine
from xr_daisi.ensemble_settings import (
    BRIDGE_KEYWORDS,
    ENSEMBLE_METHODS,
    KEYWORDS,
    EnsembleSettings,
)
from xr_daisi.errors import SettingsError, problem, raise_problems
from xr_daisi.forecast_state import state_of_forecast
from xr_daisi.latent import make_engine, whole_number
from xr_daisi.prior_choice import choose_prior, given_prior
from xr_daisi.settings import AUTO

if TYPE_CHECKING:
    from pathlib import Path

    import xarray as xr

    from xr_daisi.priors import FlowPrior

__all__ = ["SETTINGS", "bridge_for", "check_keywords", "engine_for", "settled"]

SETTINGS = frozenset().union(*KEYWORDS.values())
"""Keywords of `assimilate` that are settings of some method."""

UNSET: dict[str, Any] = {
    "inflation": 1.0,
    "relaxation": 0.0,
    "relaxation_method": "spread",
    "batch": "auto",
    "compile": False,
}
"""Values of keywords that are not None where they are left out."""


def check_keywords(method: str, keywords: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keywords that were given; all have to serve the method.

    Parameters
    ----------
    method : str
        A method.
    keywords : mapping
        Settings of all methods.

    Returns
    -------
    dict
        Those that are not as if left out.

    Raises
    ------
    SettingsError
        For an unknown method, or naming every setting that has no meaning for this one.
    """
    if method not in KEYWORDS:
        expected = f"one of {', '.join(map(repr, KEYWORDS))}"
        raise SettingsError(problem("method", repr(method), expected))
    given = {k: v for k, v in keywords.items() if not _is_unset(k, v)}
    problems = []
    for name, value in given.items():
        if name not in KEYWORDS[method]:
            others = ", ".join(m for m, names in KEYWORDS.items() if name in names)
            expected = f"nothing, since it does not serve method {method!r}"
            remedy = f"leave it out; it serves {others}"
            problems.append(problem(name, repr(value), expected, remedy))
    raise_problems(SettingsError, problems)
    return given


def _is_unset(name: str, value: Any) -> bool:
    default = UNSET.get(name)
    if default is None or value is None:
        return value is None
    same: bool = isinstance(value, bool) == isinstance(default, bool) and value == default
    return same


def engine_for(
    method: str,
    forecast: xr.Dataset,
    prior: FlowPrior | str | Path | None,
    given: Mapping[str, Any],
    *,
    seed: int,
    device: str,
    dtype: str,
) -> Engine | EnsembleEngine:
    """Return what analyses members of one time by a method.

    Parameters
    ----------
    method : str
        A method.
    forecast : xarray.Dataset
        Describes the state where there is no prior.
    prior : FlowPrior, str, Path or None
        Searched for where a method needs one, see `choose_prior`.
    given : mapping
        From `check_keywords`.
    seed, device, dtype
        As in `assimilate`.

    Raises
    ------
    SettingsError, PriorError, StateError
        As in `assimilate`.
    """
    given = dict(given)
    if method in ENSEMBLE_METHODS:
        periodic: Sequence[str] | None = given.pop("periodic", None)
        settings = EnsembleSettings(**given)
        if prior is not None and periodic is not None:
            found, expected = f"{periodic!r} beside a prior", "one of them: a prior knows"
            raise SettingsError(problem("periodic", found, expected))
        if prior is None:
            known: Any = state_of_forecast(forecast, periodic)
        else:
            known = given_prior(prior)
        number, precision = whole_number("seed", seed), str(dtype).removeprefix("torch.")
        engine = EnsembleEngine(known, settings, method, number, str(device), precision)
        return engine.checked()
    chosen = choose_prior(forecast, prior)
    rest = {name: given.pop(name, None) for name in ("tile", "overlap")}
    batch, compiled = given.pop("batch", "auto"), given.pop("compile", False)
    given = {name: value for name, value in given.items() if name not in BRIDGE_KEYWORDS}
    sampling = chosen.settings.updated(given)
    if method == "prior-only":
        sampling = replace(sampling, t_min=0.0, bridge=0.0, perturb_obs=None)
    return make_engine(
        chosen, sampling, seed, device, dtype, batch, **rest, compiled=compiled, method=method
    )


def settled(engine: Engine | EnsembleEngine, bridge: Bridge | None) -> Engine | EnsembleEngine:
    """Return the engine with what is used where nothing is chosen, so that attributes say it."""
    if bridge is not None or not isinstance(engine, Engine) or engine.method != "daisi":
        return engine
    s = engine.settings
    used = replace(s, t_min=s.start, bridge=0.0, perturb_obs=bool(s.perturb_obs))
    return engine.with_settings(used)


def bridge_for(
    engine: Engine | EnsembleEngine, given: Mapping[str, Any], members: int
) -> Bridge | None:
    """Return what comes before the flow: nothing for the published method, or few members.

    Parameters
    ----------
    engine : Engine or EnsembleEngine
        From `engine_for`.
    given : mapping
        From `check_keywords`.
    members : int
        Of the forecast.

    Raises
    ------
    SettingsError
        For settings of a bridge where there is none, or that do not fit the state.
    """
    if not isinstance(engine, Engine) or engine.method != "daisi":
        return None
    own = {name: given[name] for name in given if name in BRIDGE_KEYWORDS}
    s = engine.settings
    if s.share == 0.0 and own:
        found = "a value without an ensemble update, as bridge is 0 where t_min is a number"
        if s.bridge is not None:
            found = "a value with bridge = 0, so without an ensemble update"
        remedy = f"leave {', '.join(own)} out, or pass bridge='auto'"
        raise SettingsError(problem(", ".join(own), found, "a bridge, which takes it", remedy))
    if s.share not in (0.0, AUTO) and members < FEWEST:
        some = f"{members} member{'s' if members > 1 else ''}"
        found, expected = f"{s.share:g} for {some}", f"at least {FEWEST} members"
        raise SettingsError(problem("bridge", found, expected, "pass bridge=0, the flow alone"))
    bridge = Bridge(s.share, s.t_min, EnsembleSettings(**own))
    bridge.check(engine.prior.spec)
    if members < FEWEST or (s.share == 0.0 and s.t_min != AUTO):
        return None
    return bridge
