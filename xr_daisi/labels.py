"""Labels and attributes of results: what was done, and all that is needed to repeat it."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from xr_daisi._version import __version__
from xr_daisi.bounds import with_transforms
from xr_daisi.ensemble_engine import EnsembleEngine
from xr_daisi.ensemble_settings import serves
from xr_daisi.forecast_state import ForecastState
from xr_daisi.geolocation import geolocation_of
from xr_daisi.layout import layout_of
from xr_daisi.observation_status import Status
from xr_daisi.state import StateSpec, spec_from_dataset

if TYPE_CHECKING:
    import xarray as xr

    from xr_daisi.bridge import Bridge, Choice
    from xr_daisi.engine import Engine
    from xr_daisi.layout import Layout
    from xr_daisi.observations import ObservationPlan

__all__ = [
    "analysis_attributes",
    "bridge_attributes",
    "latent_dataset",
    "remembered",
    "sample_dataset",
    "state_of",
]


def analysis_attributes(
    forecast: xr.Dataset,
    engine: Engine | EnsembleEngine,
    plan: ObservationPlan,
    rejected: Mapping[Status, int] | None,
) -> dict[str, Any]:
    """Return the attributes of an analysis.

    ``daisi_settings`` holds the keywords that repeat the call, as JSON; functions are named there,
    not kept. ``daisi_state`` holds the prior's variables with their transforms, and its grid, so
    that `feedback` sees the observations as the analysis did.

    Parameters
    ----------
    forecast : xarray.Dataset
        Its attributes are kept.
    engine : Engine or EnsembleEngine
        Prior, settings, seed.
    plan : ObservationPlan
        The observations, and how they are read.
    rejected : mapping of Status to int, or None
        Number of observations rejected in view of the forecast; None where that is not known yet.

    Returns
    -------
    dict of str to str or int
        What NetCDF and Zarr can hold.
    """
    own = engine.settings.to_dict()
    if not isinstance(engine, EnsembleEngine):
        for name, used in (
            ("bridge", engine.settings.share),
            ("perturb_obs", engine.settings.perturbs),
        ):
            own.pop(name, None)
            own[name] = used  # last, given or not
    own = {"method": engine.method, **{k: v for k, v in own.items() if serves(engine.method, k)}}
    spec = engine.prior.spec
    if isinstance(engine.prior, ForecastState):
        own["periodic"] = [d for d, p in zip(spec.dims, spec.periodic, strict=True) if p]
    settings = {**own, **plan.options.to_dict()}
    attrs = _common(forecast, engine, "assimilate", settings)
    attrs["daisi_observations"] = json.dumps(_counts(plan, rejected))
    prior = engine.prior
    state = with_transforms(_compact(prior.spec), prior.spec, prior.normalization.transforms)
    attrs["daisi_state"] = json.dumps(state)
    return attrs


def bridge_attributes(
    attrs: Mapping[str, Any], bridge: Bridge, labels: Sequence[str], choices: Sequence[Choice]
) -> dict[str, Any]:
    """Return the attributes that a bridge adds to, or changes in, those of an analysis.

    Parameters
    ----------
    attrs : mapping
        From `analysis_attributes`.
    bridge : Bridge
        Its settings.
    labels : sequence of str
        Times.
    choices : sequence of Choice
        What was chosen for them; none for lazy work.

    Returns
    -------
    dict of str to str
        ``daisi_settings``, and ``daisi_chosen`` where it is known: ``{time: choice}`` as JSON.
    """
    settings = {**json.loads(attrs["daisi_settings"]), **bridge.settings.to_dict()}
    out = {"daisi_settings": json.dumps(settings, default=_plain)}
    if choices:
        chosen = {k: v.to_dict() for k, v in zip(labels, choices, strict=True)}
        out["daisi_chosen"] = json.dumps(chosen)
    return out


def _plain(value: Any) -> Any:
    """Turn what JSON does not know, durations and NumPy's numbers, into what it knows."""
    if isinstance(value, (datetime.timedelta, np.timedelta64)):
        return str(pd.Timedelta(value))
    return value.item() if isinstance(value, np.generic) else str(value)


def _compact(spec: StateSpec) -> dict[str, Any]:
    """Describe a state as `StateSpec.to_dict` does, evenly spaced coordinates by their ends."""
    entries = spec.to_dict()
    for dim, values in spec.coords.items():
        first, last, size = float(values[0]), float(values[-1]), values.size
        slack = 1e-9 * abs(last - first) / max(size - 1, 1)
        if np.allclose(np.linspace(first, last, size), values, rtol=0.0, atol=slack):
            entries["coords"][dim] = {"linspace": [first, last, size]}
    for variable in entries["variables"]:
        for key in [k for k, v in variable.items() if v is None]:
            del variable[key]
    return entries


def _counts(plan: ObservationPlan, rejected: Mapping[Status, int] | None) -> dict[str, int]:
    """Count observations by what became of them; of lazy work, what is known of it."""
    counts = dict(plan.counts)
    checked = plan.options.background_check is not None
    if "used" not in counts or (rejected is None and not checked):
        return counts
    used = counts.pop("used")
    if rejected is None:
        return {"used unless the background check rejects": used, **counts}
    after = {"used": used - sum(rejected.values())}
    if checked:
        after[Status.FAR.reason] = 0
    for status, count in rejected.items():
        after[status.reason] = count
    for reason, count in counts.items():
        after[reason] = after.get(reason, 0) + count
    return after


def remembered(analysis: xr.Dataset, key: str) -> Any:
    """Return what the attribute ``daisi_<key>`` of an analysis says, None where it is not there.

    Parameters
    ----------
    analysis : xarray.Dataset
        What `assimilate` returned.
    key : str
        ``settings``, ``state`` or ``observations``.
    """
    text = analysis.attrs.get(f"daisi_{key}")
    if not isinstance(text, str):
        return None
    try:
        return json.loads(text)
    except ValueError:
        return None


def latent_dataset(
    latent: xr.Dataset, forecast: xr.Dataset, layout: Layout, engine: Engine
) -> xr.Dataset:
    """Label latent members; only the prior's variables are kept.

    Parameters
    ----------
    latent : xarray.Dataset
        Latents in the forecast's order.
    forecast : xarray.Dataset
        Where they come from.
    layout : Layout
        Its variables.
    engine : Engine
        Prior and settings.
    """
    out = latent[list(layout.names)]
    for name in layout.names:
        out[name].attrs = {
            "long_name": f"latent {forecast[name].attrs.get('long_name', name)} "
            f"at t = {engine.settings.start:g}",
            "units": "1",
        }
    settings = engine.settings.to_dict()
    kept = {k: settings[k] for k in ("steps", "solver", "inverse_noise")}
    kept["t_min"] = engine.settings.start
    out.attrs = _common(forecast, engine, "invert", kept)
    return out


def sample_dataset(states: np.ndarray, engine: Engine) -> xr.Dataset:
    """Label samples of a prior.

    Parameters
    ----------
    states : ndarray
        Physical states ``(member, channel, *space)``.
    engine : Engine
        Prior and settings.
    """
    spec = engine.prior.spec
    out = spec.to_dataset(member=states.shape[0])
    for v in spec.variables:
        part = states[:, spec.channel_slice(v.name)]
        out[v.name].values[...] = part.reshape(out[v.name].shape)
    out = out.assign_coords(
        member=("member", np.arange(states.shape[0]), {"standard_name": "realization"})
    )
    settings = engine.settings.to_dict()
    kept = {k: settings[k] for k in ("steps", "solver", "noise")}
    out.attrs = _common(out, engine, "sample", kept)
    return out


def state_of(forecast: xr.Dataset, analysis: xr.Dataset) -> StateSpec:
    """Return the state that an analysis was made on.

    Parameters
    ----------
    forecast : xarray.Dataset
        What was analysed.
    analysis : xarray.Dataset
        What `assimilate` returned; without its attributes, the variables that both have are taken
        as they are in the forecast.
    """
    entries = remembered(analysis, "state")
    if not isinstance(entries, dict):
        names = [str(v) for v in forecast.data_vars if v in analysis.data_vars]
        return spec_from_dataset(forecast, names, what="forecast")
    for dim, values in entries["coords"].items():
        if isinstance(values, dict):
            entries["coords"][dim] = np.linspace(*values["linspace"])
    spec = StateSpec.from_dict(entries)
    # Two-dimensional coordinates are too long for an attribute; the forecast has them.
    layout = layout_of(forecast, spec)
    places = geolocation_of(forecast, layout.space)
    if places is None or any(kind != "plain" for kind in spec.axes.values()):
        return spec
    latitude, longitude = (values[np.ix_(*layout.order)] for values in places)
    return replace(spec, geolocation=(latitude, longitude))


def _common(
    forecast: xr.Dataset, engine: Engine | EnsembleEngine, call: str, settings: dict[str, Any]
) -> dict[str, Any]:
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    prior = engine.prior
    if engine.tiling is not None:
        settings = {**settings, **engine.tiling.to_dict()}
    line = f"{now}: xr_daisi {__version__} {call}"
    method = settings.get("method", "daisi")
    line += f" by {method}" if method != "daisi" else ""
    named = not isinstance(prior, ForecastState)
    line += f" with prior {prior.name}" if named else ""
    history = forecast.attrs.get("history")
    versions = {"xr_daisi": __version__, "torch": torch.__version__, "numpy": np.__version__}
    # A forecast may be an analysis: what was chosen for it, and its prior, are not this one's.
    kept = {k: v for k, v in forecast.attrs.items() if k != "daisi_chosen"}
    before = {k: v for k, v in kept.items() if not k.startswith("daisi_prior")}
    sha256 = prior.sha256 or "none: a network of the user's own"
    return {
        **(kept if named else before),
        "history": f"{line}\n{history}" if history else line,
        **({"daisi_prior": prior.name, "daisi_prior_sha256": sha256} if named else {}),
        "daisi_settings": json.dumps({**settings, "dtype": engine.dtype}, default=_plain),
        "daisi_seed": engine.seed,
        "daisi_versions": json.dumps(versions),
    }
