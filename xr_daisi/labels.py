"""Labels and attributes of results: what was done, and all that is needed to repeat it."""

from __future__ import annotations

import datetime
import json
from typing import TYPE_CHECKING, Any

import numpy as np

from xr_daisi._version import __version__
from xr_daisi.state import StateSpec, spec_from_dataset

if TYPE_CHECKING:
    from collections.abc import Mapping

    import xarray as xr

    from xr_daisi.engine import Engine
    from xr_daisi.layout import Layout
    from xr_daisi.observations import ObservationPlan

__all__ = [
    "analysis_attributes",
    "latent_dataset",
    "remembered",
    "sample_dataset",
]


def analysis_attributes(
    forecast: xr.Dataset,
    engine: Engine,
    plan: ObservationPlan,
    *,
    operator: Mapping[str, Any] | None,
    obs_error: float | Mapping[str, float] | None,
    background_check: float | None,
) -> dict[str, Any]:
    """Return the attributes of an analysis.

    Parameters
    ----------
    forecast : xarray.Dataset
        Its attributes are kept.
    engine : Engine
        Prior, settings, seed.
    plan : ObservationPlan
        The observations.
    operator, obs_error, background_check
        As given to `assimilate`.
    """
    settings = {**engine.settings.to_dict(), "background_check": background_check}
    attrs = _common(forecast, engine, "assimilate", settings)
    attrs["daisi_observations"] = json.dumps(plan.counts)
    spec = engine.prior.spec
    attrs["daisi_variables"] = json.dumps(list(spec.names))
    attrs["daisi_periodic"] = json.dumps(
        [d for d, wraps in zip(spec.dims, spec.periodic, strict=True) if wraps]
    )
    if operator:
        attrs["daisi_operator"] = json.dumps(
            {k: v if isinstance(v, str) else f"callable {_name(v)}" for k, v in operator.items()}
        )
    if obs_error is not None:
        plain = (
            {str(k): float(v) for k, v in obs_error.items()}
            if hasattr(obs_error, "items")
            else float(obs_error)  # type: ignore[arg-type]
        )
        attrs["daisi_obs_error"] = json.dumps(plain)
    return attrs


def remembered(analysis: xr.Dataset, key: str) -> Any:
    """Return what an analysis's attribute ``daisi_<key>`` says, or None."""
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
    """Label latent members; only the prior's variables are kept."""
    out = latent[list(layout.names)]
    for name in layout.names:
        out[name].attrs = {
            "long_name": f"latent {forecast[name].attrs.get('long_name', name)} "
            f"at t = {engine.settings.t_min:g}",
            "units": "1",
        }
    settings = engine.settings.to_dict()
    kept = {k: settings[k] for k in ("t_min", "steps", "solver", "inverse_noise")}
    out.attrs = _common(forecast, engine, "invert", kept)
    return out


def sample_dataset(states: np.ndarray, engine: Engine) -> xr.Dataset:
    """Label samples ``(member, channel, *space)`` of a prior."""
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
    """Describe the state that an analysis was made of, on the forecast's own grid."""
    variables = remembered(analysis, "variables")
    names = [v for v in variables or () if v in forecast.data_vars]
    if not names:
        names = [str(v) for v in forecast.data_vars if v in analysis.data_vars]
    periodic = remembered(analysis, "periodic")
    known = [d for d in periodic or () if d in forecast.dims]
    return spec_from_dataset(
        forecast, names, periodic=known if periodic is not None else None, what="forecast"
    )


def _common(
    forecast: xr.Dataset, engine: Engine, call: str, settings: dict[str, Any]
) -> dict[str, Any]:
    import torch

    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    prior = engine.prior
    line = f"{now}: xr_daisi {__version__} {call} with prior {prior.name}"
    history = forecast.attrs.get("history")
    attrs = {
        **forecast.attrs,
        "history": f"{line}\n{history}" if history else line,
        "daisi_prior": prior.name,
        "daisi_prior_sha256": prior.sha256 or "none: a network of the user's own",
        "daisi_settings": json.dumps(settings),
        "daisi_seed": engine.seed,
        "daisi_dtype": engine.dtype,
        "daisi_versions": json.dumps(
            {"xr_daisi": __version__, "torch": torch.__version__, "numpy": np.__version__}
        ),
    }
    return attrs


def _name(function: object) -> str:
    return str(getattr(function, "__name__", type(function).__name__))
