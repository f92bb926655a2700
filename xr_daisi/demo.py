"""The demo: SQG turbulence simulated, observed sparsely and assimilated over a few cycles.

The truth, the model that makes the forecasts and the observations are those of the "sparse"
experiment of the DAISI paper; the prior is the one that ships with the package.
"""

from __future__ import annotations

import importlib
import json
from collections import Counter
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING

import numpy as np
import torch

from xr_daisi._version import __version__
from xr_daisi.analysis import assimilate
from xr_daisi.errors import SettingsError, problem, raise_problems
from xr_daisi.feedback import feedback
from xr_daisi.files import check_output, write_file
from xr_daisi.output_files import check_free, replacing
from xr_daisi.registry import load_prior
from xr_daisi.sampling import NoiseSource, generate
from xr_daisi.systems.sqg import SQG, to_dataset

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from typing import Any

    import xarray as xr
    from torch import Tensor

    from xr_daisi.priors import FlowPrior

__all__ = [
    "Demo",
    "check_demo",
    "initial_ensemble",
    "run_demo",
    "sparse_observations",
    "spun_up_states",
    "write_demo",
]

FRACTION = 0.05
"""Share of the points of both levels that are observed."""

OBS_ERROR = 1.0
"""Standard deviation of the observation errors, K."""

INITIAL_NOISE = 3.06
"""White noise on the truth that the initial ensemble is made from, K."""

HOURS = 3.0
"""Between analyses."""

COLD_START: dict[str, float] = {"bridge": 0.0}
"""Settings of all analyses of the demo, beside those of the card: the flow alone. The first
forecast saw no observation for days, and the prior knows more than the covariances of its ten
members. Chosen on trajectory 1."""

LEAD_DAYS = 4.0
"""Without observations before the first analysis: long enough for large errors."""

ATTRIBUTES = {
    "title": "two-level surface quasi-geostrophic turbulence, simulated",
    "source": f"demo of xr_daisi {__version__}",
    "Conventions": "CF-1.11",
}

DATASETS = ("truth", "forecast", "obs", "analysis", "feedback")
PICTURE = "analysis.png"

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

    def table(self) -> str:
        """Return the scores of all ensembles, averaged over the cycles."""
        from xr_daisi.verification import score_table

        ensembles = {
            "no assimilation": self.free,
            "forecast": self.forecast,
            "analysis": self.analysis,
        }
        sizes = self.analysis.sizes
        count = sizes["time"]
        analyses = "analysis" if count == 1 else "analyses"
        head = f"{count} {analyses} of {sizes['member']} members, averages:"
        return f"{head}\n{score_table(ensembles, self.truth, 'theta')}"


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
        attrs=truth.attrs,
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
        For `assimilate`, instead of `COLD_START` and the card's.

    Returns
    -------
    Demo
        Everything as labelled Datasets.

    Raises
    ------
    SettingsError
        For fewer than two members, no cycle, or a trajectory that there is not.
    """
    import xarray as xr

    _check_sizes(members, cycles)
    starts = spun_up_states()
    if not 0 <= trajectory < len(starts):
        expected = f"a number from 0 to {len(starts) - 1}"
        raise SettingsError(problem("trajectory", repr(trajectory), expected))
    tell = advance or (lambda text: None)
    settings = {**COLD_START, **settings}
    prior = prior or load_prior("sqg64")
    model = SQG()
    true = torch.from_numpy(starts[trajectory])
    tell(f"an ensemble near the truth, then {lead_days:g} days without observations")
    lead = 24.0 * lead_days - HOURS
    ensemble = model.advance(initial_ensemble(true, prior, members, seed), lead)
    true = model.advance(true, lead)
    free = ensemble

    times = START + np.arange(cycles) * np.timedelta64(int(HOURS * 3600), "s")
    truths = np.stack([t.numpy() for t in model.trajectory(true, hours=HOURS, states=cycles)])
    truth = to_dataset(truths, dims=("time",), times=times).assign_attrs(ATTRIBUTES)
    obs = sparse_observations(truth, seed=seed)
    frees = [f.numpy() for f in model.trajectory(free, hours=HOURS, states=cycles)]

    forecasts, analyses = [], []
    for cycle in range(cycles):
        ensemble = model.advance(ensemble, HOURS)
        forecast = _labelled(ensemble[None], times[cycle : cycle + 1])
        here, own = obs.isel(time=[cycle]), {"seed": seed, "device": device, **settings}
        analysis = assimilate(forecast, here, prior, progress=False, **own)
        ensemble = torch.from_numpy(analysis.theta.values[0])
        forecasts.append(forecast)
        analyses.append(analysis)
        tell(_line(cycle, cycles, forecast, analysis, truths[cycle]))
    forecast, analysis = (
        xr.concat(parts, dim="time", combine_attrs="override") for parts in (forecasts, analyses)
    )
    analysis.attrs["daisi_observations"] = _counts(analyses)
    if "daisi_chosen" in analysis.attrs:
        chosen = [json.loads(a.attrs["daisi_chosen"]) for a in analyses]
        analysis.attrs["daisi_chosen"] = json.dumps({t: c for o in chosen for t, c in o.items()})
    return Demo(
        truth=truth,
        forecast=forecast,
        analysis=analysis,
        free=_labelled(np.stack(frees), times),
        obs=obs,
        feedback=feedback(forecast, obs, analysis),
    )


def _labelled(theta: Tensor | np.ndarray, times: np.ndarray) -> xr.Dataset:
    return to_dataset(theta, dims=("time", "member"), times=times).assign_attrs(ATTRIBUTES)


def _counts(analyses: Sequence[xr.Dataset]) -> str:
    """Add up what became of the observations in all cycles."""
    total: Counter[str] = Counter()
    for analysis in analyses:
        total.update(json.loads(analysis.attrs["daisi_observations"]))
    return json.dumps(total)


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


def check_demo(out: Path, *, members: int, cycles: int, overwrite: bool) -> None:
    """Raise if `run_demo` or `write_demo` could not do its work, before a minute is spent.

    Raises
    ------
    DaisiError
        For a size that is too small, or a folder that cannot be written to.
    FileExistsError
        If a result exists and `overwrite` is False.
    ImportError
        Without matplotlib or scores.
    """
    _check_sizes(members, cycles)
    importlib.import_module("matplotlib.figure")
    importlib.import_module("scores.probability")
    for name in DATASETS:
        check_output(out / f"{name}.nc", overwrite=overwrite)
    check_free(out / PICTURE, overwrite=overwrite, remedy="pass --overwrite")


def _check_sizes(members: int, cycles: int) -> None:
    problems = []
    if members < 2:
        problems.append(problem("members", str(members), "at least 2"))
    if cycles < 1:
        problems.append(problem("cycles", str(cycles), "at least 1"))
    raise_problems(SettingsError, problems)


def write_demo(result: Demo, out: Path, *, overwrite: bool) -> list[str]:
    """Write all Datasets, and a picture of the last cycle at the upper level.

    Parameters
    ----------
    result : Demo
        From `run_demo`.
    out : Path
        Folder; made if need be.
    overwrite : bool
        Replace what is there.

    Returns
    -------
    list of str
        Names of the files.
    """
    from xr_daisi.plotting import plot_analysis

    for name in DATASETS:
        write_file(getattr(result, name), out / f"{name}.nc", overwrite=overwrite)
    last: dict[str, int] = {"time": -1, "level": 1}
    obs = result.obs.isel(time=-1)
    figure = plot_analysis(
        result.forecast.isel(last),
        result.analysis.isel(last),
        obs.where(obs.level == result.truth.level[1], drop=True),
        result.truth.isel(last),
        "theta",
        title="Potential temperature at the upper boundary, last cycle",
    )
    picture = out / PICTURE
    with replacing(picture, overwrite=overwrite, remedy="pass --overwrite") as temporary:
        figure.savefig(temporary, dpi=130)
    return [*(f"{name}.nc" for name in DATASETS), PICTURE]
