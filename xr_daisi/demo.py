"""The demo: SQG turbulence simulated, observed sparsely and assimilated over a few cycles.

The truth, the model that makes the forecasts and the observations are those of the "sparse"
experiment of the DAISI paper; the prior is the one that ships with the package.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING

import numpy as np
import torch

from xr_daisi.analysis import assimilate
from xr_daisi.feedback import feedback
from xr_daisi.registry import load_prior
from xr_daisi.sampling import NoiseSource, generate
from xr_daisi.systems.sqg import SQG, to_dataset

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    import xarray as xr
    from torch import Tensor

    from xr_daisi.priors import FlowPrior

__all__ = ["Demo", "initial_ensemble", "run_demo", "sparse_observations", "spun_up_states"]

FRACTION = 0.05
"""Share of the points of both levels that are observed."""

OBS_ERROR = 1.0
"""Standard deviation of the observation errors, K."""

INITIAL_NOISE = 3.06
"""White noise on the truth that the initial ensemble is made from, K."""

HOURS = 3.0
"""Between analyses."""

LEAD_DAYS = 4.0
"""Without observations before the first analysis: long enough for large errors."""

START = np.datetime64("2000-01-01T00:00:00", "ns")


@dataclass(frozen=True)
class Demo:
    """What the demo made.

    Attributes
    ----------
    truth : xarray.Dataset
        ``theta(time, level, y, x)``, K.
    forecast, analysis, free : xarray.Dataset
        ``theta(time, member, level, y, x)``, K; `free` is the ensemble without any analysis.
    obs : xarray.Dataset
        ``theta(time, station)`` with level, y and x of the stations.
    feedback : xarray.Dataset
        Observations compared with forecast and analysis.
    """

    truth: xr.Dataset
    forecast: xr.Dataset
    analysis: xr.Dataset
    free: xr.Dataset
    obs: xr.Dataset
    feedback: xr.Dataset


def spun_up_states() -> np.ndarray:
    """Return states of independent trajectories after 300 days, ``(4, 2, 64, 64)`` in K."""
    path = resources.files("xr_daisi") / "data" / "sqg64-states.npz"
    with resources.as_file(path) as file, np.load(file) as arrays:
        theta: np.ndarray = arrays["theta"]
    return theta


def initial_ensemble(truth: Tensor, prior: FlowPrior, members: int, seed: int) -> Tensor:
    """Make plausible members near a true state.

    The truth with white noise is what a noisy state of the flow is, up to a factor: carried to
    t = 1 by the prior it becomes a state without noise, another one for each noise (the initial
    ensemble of the published experiments).

    Parameters
    ----------
    truth : Tensor
        ``(2, y, x)``, K.
    prior : FlowPrior
        For SQG states.
    members : int
        How many.
    seed : int
        Of the noise.

    Returns
    -------
    Tensor
        ``(member, 2, y, x)``, K.
    """
    normalization = prior.normalization
    ratio = INITIAL_NOISE / float(np.mean(normalization.std))
    t = 1.0 / (1.0 + ratio)  # where alpha / beta of the linear schedule is that ratio
    source = NoiseSource(seed, "initial ensemble", range(members))
    flow = prior.flow(torch.device("cpu"), torch.float32)
    x1 = torch.from_numpy(normalization.normalize(truth.numpy().astype(float))).float()
    noise = source.draw("truth", 0, x1.shape, dtype=x1.dtype, device="cpu")
    x = t * (x1 + ratio * noise)
    states = generate(flow, x, t_min=t, steps=10, solver="heun", noise=0.0)
    return torch.from_numpy(normalization.denormalize(states.double().numpy())).float()


def sparse_observations(
    truth: xr.Dataset, *, fraction: float = FRACTION, error: float = OBS_ERROR, seed: int = 0
) -> xr.Dataset:
    """Observe a share of the grid points of both levels, the same ones at all times.

    Parameters
    ----------
    truth : xarray.Dataset
        ``theta(time, level, y, x)``, K.
    fraction : float
        Share of the points.
    error : float
        Standard deviation of the errors, K.
    seed : int
        Of places and errors.

    Returns
    -------
    xarray.Dataset
        Station series ``theta(time, station)`` with ``theta_error``.
    """
    import xarray as xr

    rng = np.random.default_rng(seed)
    shape = truth.theta.shape[1:]
    count = round(fraction * int(np.prod(shape)))
    places = np.sort(rng.choice(int(np.prod(shape)), size=count, replace=False))
    index = np.unravel_index(places, shape)
    exact = truth.theta.values.reshape(truth.sizes["time"], -1)[:, places]
    values = exact + error * rng.standard_normal(exact.shape)
    coords: dict[str, Any] = {
        d: ("station", truth[d].values[i], truth[d].attrs)
        for d, i in zip(("level", "y", "x"), index, strict=True)
    }
    coords["time"] = truth.time
    attrs = {**truth.theta.attrs, "ancillary_variables": "theta_error"}
    error_attrs = {
        "standard_name": f"{attrs['standard_name']} standard_error",
        "long_name": "standard deviation of the observation error",
        "units": "K",
    }
    dims = ("time", "station")
    return xr.Dataset(
        {
            "theta": (dims, values.astype(np.float32), attrs),
            "theta_error": (dims, np.full(values.shape, error, np.float32), error_attrs),
        },
        coords=coords,
    )


def run_demo(
    *,
    prior: FlowPrior | None = None,
    members: int = 10,
    cycles: int = 8,
    lead_days: float = LEAD_DAYS,
    trajectory: int = 0,
    seed: int = 0,
    device: str = "auto",
    advance: Callable[[str], object] | None = None,
    **settings: Any,
) -> Demo:
    """Simulate, observe and assimilate.

    Parameters
    ----------
    prior : FlowPrior, optional
        The shipped one when None.
    members : int
        Ensemble size.
    cycles : int
        Analyses, 3 hours apart.
    lead_days : float
        How long the ensemble runs without observations before the first one.
    trajectory : int
        Which of the spun-up states the truth starts from.
    seed : int
        Of the initial ensemble, the observations and the analyses.
    device : str
        For the network.
    advance : callable, optional
        Called with a line of text at each stage.
    **settings
        For `assimilate`.

    Returns
    -------
    Demo
        Everything as labelled Datasets.
    """
    import xarray as xr

    tell = advance or (lambda text: None)
    prior = prior or load_prior("sqg64")
    model = SQG()
    true = torch.from_numpy(spun_up_states()[trajectory])
    tell(f"an ensemble near the truth, then {lead_days:g} days without observations")
    lead = 24.0 * lead_days - HOURS
    ensemble = model.advance(initial_ensemble(true, prior, members, seed), lead)
    true = model.advance(true, lead)
    free = ensemble

    hours = np.timedelta64(int(HOURS * 3600), "s")
    times = START + np.arange(cycles) * hours
    truths = np.stack([t.numpy() for t in model.trajectory(true, hours=HOURS, states=cycles)])
    truth = to_dataset(truths, dims=("time",), times=times)
    obs = sparse_observations(truth, seed=seed)
    frees = [f.numpy() for f in model.trajectory(free, hours=HOURS, states=cycles)]

    forecasts, analyses = [], []
    for cycle in range(cycles):
        ensemble = model.advance(ensemble, HOURS)
        forecast = to_dataset(
            ensemble[None], dims=("time", "member"), times=times[cycle : cycle + 1]
        )
        here = obs.isel(time=slice(cycle, cycle + 1))
        analysis = assimilate(
            forecast, here, prior, seed=seed, device=device, progress=False, **settings
        )
        ensemble = torch.from_numpy(analysis.theta.values[0])
        forecasts.append(forecast)
        analyses.append(analysis)
        tell(_line(cycle, cycles, forecast, analysis, truths[cycle]))
    together: dict[str, Any] = {"dim": "time", "combine_attrs": "override"}
    forecast = xr.concat(forecasts, **together)
    analysis = xr.concat(analyses, **together)
    return Demo(
        truth=truth,
        forecast=forecast,
        analysis=analysis,
        free=to_dataset(np.stack(frees), dims=("time", "member"), times=times),
        obs=obs,
        feedback=feedback(forecast, obs, analysis),
    )


def _line(
    cycle: int, cycles: int, forecast: xr.Dataset, analysis: xr.Dataset, truth: np.ndarray
) -> str:
    errors = [
        float(np.sqrt(np.mean((ds.theta.values[0].mean(axis=0) - truth) ** 2)))
        for ds in (forecast, analysis)
    ]
    return (
        f"cycle {cycle + 1}/{cycles}: RMSE of the mean {errors[0]:.2f} K in the forecast, "
        f"{errors[1]:.2f} K in the analysis"
    )
