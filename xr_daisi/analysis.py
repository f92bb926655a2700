"""Forecast, observations and a prior in; a labelled analysis out.

Members and times are independent work. NumPy-backed forecasts are analysed at once; dask-backed
ones become a graph with one task per chunk of members and times.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Literal, TypedDict, Unpack, overload

import numpy as np
import xarray as xr

from xr_daisi.blocks import Work, run_eager, run_lazy
from xr_daisi.dimensions import other_valid_time, time_coordinate
from xr_daisi.engine import Engine
from xr_daisi.errors import DaisiTypeError, SettingsError, problem
from xr_daisi.estimate import AnalysisPlan, make_plan
from xr_daisi.labels import analysis_attributes, latent_dataset, sample_dataset
from xr_daisi.layout import layout_of
from xr_daisi.observations import match_observations
from xr_daisi.prior_choice import choose_prior
from xr_daisi.user_warnings import warn_user

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from xr_daisi.observation_sources import ObservationErrors, OperatorSettings
    from xr_daisi.observation_times import TimeTolerance
    from xr_daisi.priors import FlowPrior
    from xr_daisi.settings import Guidance, GuidanceSolver, Settings, Solver

__all__ = ["assimilate", "invert", "sample"]


class AssimilateKeywords(TypedDict, total=False):
    """The keywords of `assimilate` but `dry_run`, for type checkers."""

    t_min: float | None
    steps: int | tuple[int, int] | None
    solver: Solver | None
    noise: float | None
    inverse_noise: float | None
    corrector_steps: int | None
    guidance: Guidance | None
    guidance_solver: GuidanceSolver | None
    guidance_iterations: int | None
    strength: float | Callable[[float], float] | None
    operator: OperatorSettings | None
    obs_error: ObservationErrors | None
    time_tolerance: TimeTolerance | None
    background_check: float | None
    method: str
    seed: int
    device: str
    dtype: str
    batch: int | Literal["auto"]
    progress: bool | None


@overload
def assimilate(
    forecast: xr.Dataset,
    obs: xr.Dataset | Sequence[xr.Dataset],
    prior: FlowPrior | str | Path | None = None,
    *,
    dry_run: Literal[True],
    **keywords: Unpack[AssimilateKeywords],
) -> AnalysisPlan: ...
@overload
def assimilate(
    forecast: xr.Dataset,
    obs: xr.Dataset | Sequence[xr.Dataset],
    prior: FlowPrior | str | Path | None = None,
    *,
    dry_run: Literal[False] = False,
    **keywords: Unpack[AssimilateKeywords],
) -> xr.Dataset: ...
@overload
def assimilate(
    forecast: xr.Dataset,
    obs: xr.Dataset | Sequence[xr.Dataset],
    prior: FlowPrior | str | Path | None = None,
    *,
    dry_run: bool,
    **keywords: Unpack[AssimilateKeywords],
) -> xr.Dataset | AnalysisPlan: ...
def assimilate(
    forecast: xr.Dataset,
    obs: xr.Dataset | Sequence[xr.Dataset],
    prior: FlowPrior | str | Path | None = None,
    *,
    t_min: float | None = None,
    steps: int | tuple[int, int] | None = None,
    solver: Solver | None = None,
    noise: float | None = None,
    inverse_noise: float | None = None,
    corrector_steps: int | None = None,
    guidance: Guidance | None = None,
    guidance_solver: GuidanceSolver | None = None,
    guidance_iterations: int | None = None,
    strength: float | Callable[[float], float] | None = None,
    operator: OperatorSettings | None = None,
    obs_error: ObservationErrors | None = None,
    time_tolerance: TimeTolerance | None = None,
    background_check: float | None = None,
    method: str = "daisi",
    seed: int = 0,
    device: str = "auto",
    dtype: str = "float32",
    batch: int | Literal["auto"] = "auto",
    progress: bool | None = None,
    dry_run: bool = False,
) -> xr.Dataset | AnalysisPlan:
    """Assimilate observations into an ensemble forecast.

    Every member is carried by the prior's flow from data towards noise, down to `t_min`, and
    sampled back under the guidance of the observations (DAISI).

    Parameters
    ----------
    forecast : xarray.Dataset
        Fields on the prior's grid, with any of a member, time and level dimension in any order;
        in memory or dask-backed.
    obs : xarray.Dataset or sequence of them
        Observations: points, station series, or fields with NaN where nothing is observed.
    prior : FlowPrior, str or Path, optional
        The prior, its file, URL or registered name. When None: the one that
        ``forecast.attrs["daisi_prior"]`` names, that of `set_options`, or the one registered prior
        whose variables and grid fit.
    t_min : float, optional
        Inversion time in [0, 1): near 1 keeps the forecast, 0 ignores it (fresh noise). This and
        the next settings, when left out, are those of the prior's card; 0.2.
    steps : int or pair of int, optional
        Solver steps each way, or (inverse, guided); 20.
    solver : {"heun", "euler"}, optional
        Second order with two evaluations a step (the default), or the published first order.
    noise, inverse_noise : float, optional
        eps0 of the two stochastic differential equations, normalised units; 0 is the ODE; 0.03.
    corrector_steps : int, optional
        Langevin corrections per guided step; 0.
    guidance : {"mmps", "dps", "dps-normalized", "dps-exact", "none"}, optional
        The observation term; ``"mmps"``.
    guidance_solver : {"gmres", "cg"}, optional
        Linear solver of MMPS; ``"gmres"``.
    guidance_iterations : int, optional
        Its iterations; 3.
    strength : float or callable, optional
        Multiplies the observation term: a number, or a function of t; 1.
    operator : mapping, optional
        ``{observed variable: function or name}``. The function takes ``{state variable: tensor}``
        in physical units, each ``(batch, n)`` at the observations' places, and returns ``(batch,
        n)``; it must be differentiable by torch. Names: ``"log"``, ``"arctan"``, ``"square"``,
        ``"abs"``, ``"wind_speed"``. The observation is then in the operator's output units.
    obs_error : float or mapping, optional
        Standard deviation where the observations bring none, in their own units (a difference:
        0.5 degC is 0.5 K).
    time_tolerance : str, timedelta or timedelta64, optional
        How far from a forecast time an observation may be; half the forecast's time step, 30
        minutes for a single time.
    background_check : float, optional
        Reject observations whose departure from the ensemble mean exceeds this many standard
        deviations of spread and observation error together; off.
    method : str
        ``"daisi"``, the only one so far.
    seed : int
        The noise of a member depends on the seed, its time, its position in the ensemble and the
        step; never on chunks, batches or workers.
    device : str
        ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ...
    dtype : str
        ``"float32"``, ``"float64"``, or ``"bfloat16"`` for the network with a float32 solver.
    batch : int or "auto"
        Members pushed through the network at once (memory).
    progress : bool, optional
        Show a bar on eager work; when None, in a terminal or notebook.
    dry_run : bool
        Do nothing but say what would be done, see `AnalysisPlan`; printing that times the network.

    Returns
    -------
    xarray.Dataset or AnalysisPlan
        The analysis: the forecast's dimensions, order, coordinates, dtypes and attributes, plus
        what is needed to repeat it: ``daisi_prior``, ``daisi_prior_sha256``, ``daisi_seed``,
        ``daisi_versions``, and in ``daisi_settings`` the keywords as JSON. Lazy where the forecast
        or the observations are. A time without usable observations is the forecast, exactly.
        Variables that are no part of the prior come back as they were.

    Raises
    ------
    StateError, PriorError, ObservationError, UnitsError, SettingsError, DivergenceError
        All are `ValueError`; each names what was found, what was expected, and the remedy.

    Warns
    -----
    NoObservationsWarning
        Where no observation can be used: the forecast is returned.
    GuidanceWarning
        Where the linear solver of the guidance had to stop early.

    References
    ----------
    M. Andrae et al., arXiv:2512.00252.
    """
    _check_dataset(forecast, "forecast")
    if method != "daisi":
        raise SettingsError(problem("method", repr(method), "'daisi'"))
    if background_check is not None and not background_check > 0:
        raise SettingsError(
            problem("background_check", repr(background_check), "a positive number, or None")
        )
    prior = choose_prior(forecast, prior)
    given = {
        "t_min": t_min,
        "steps": steps,
        "solver": solver,
        "noise": noise,
        "inverse_noise": inverse_noise,
        "corrector_steps": corrector_steps,
        "guidance": guidance,
        "guidance_solver": guidance_solver,
        "guidance_iterations": guidance_iterations,
        "strength": strength,
    }
    settings = prior.settings.updated(given)
    layout = layout_of(forecast, prior.spec)
    engine = _engine(prior, settings, seed, device, dtype, batch)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        plan = match_observations(
            obs,
            prior.spec,
            layout.time_values,
            operator=operator,
            obs_error=obs_error,
            time_tolerance=time_tolerance,
        )
    for one in caught:  # again, so that they point at the user's line
        warn_user(one.message)
    time = time_coordinate(forecast, layout.dims.time)
    valid = other_valid_time(forecast, time) if time else None
    if valid:
        text = f"times of {time!r}, the start of the forecast, and others of {valid!r}"
        remedy = (
            f"to match observations with these: forecast.assign_coords({time}=forecast.{valid})"
        )
        warn_user(problem("forecast", text, f"one, {time!r} is taken", remedy))
    if dry_run:
        return make_plan(forecast, layout, plan, engine)
    work = Work(engine, layout, background_check)
    states = layout.stack(forecast)
    if not isinstance(states, np.ndarray) or plan.is_lazy:
        # What the background check will reject is not known before the work is done.
        analysed, rejected = run_lazy(states, plan, work), None
    else:
        analysed, rejected = run_eager(states, plan, work, progress=progress)
    analysis = layout.unstack(analysed, forecast)
    analysis.attrs = analysis_attributes(
        forecast,
        engine,
        plan,
        operator=operator,
        obs_error=obs_error,
        time_tolerance=time_tolerance,
        background_check=background_check,
        rejected=rejected,
    )
    return analysis


def invert(
    forecast: xr.Dataset,
    prior: FlowPrior | str | Path | None = None,
    *,
    t_min: float | None = None,
    steps: int | tuple[int, int] | None = None,
    solver: Solver | None = None,
    inverse_noise: float | None = None,
    seed: int = 0,
    device: str = "auto",
    dtype: str = "float32",
    batch: int | Literal["auto"] = "auto",
    progress: bool | None = None,
) -> xr.Dataset:
    """Carry the members of a forecast into the latent space of a prior.

    Parameters
    ----------
    forecast, prior, t_min, steps, solver, inverse_noise, seed, device, dtype, batch, progress
        As in `assimilate`.

    Returns
    -------
    xarray.Dataset
        Latent members at `t_min`, dimensionless, with the forecast's dimensions and coordinates.
        At t_min = 0 they would be standard normal if the forecast were drawn from the prior.

    Raises
    ------
    StateError, PriorError, SettingsError, DivergenceError
        As in `assimilate`.

    References
    ----------
    M. Andrae et al., arXiv:2512.00252.
    """
    _check_dataset(forecast, "forecast")
    prior = choose_prior(forecast, prior)
    given = {"t_min": t_min, "steps": steps, "solver": solver, "inverse_noise": inverse_noise}
    settings = prior.settings.updated(given)
    layout = layout_of(forecast, prior.spec)
    engine = _engine(prior, settings, seed, device, dtype, batch)
    work = Work(engine, layout, None)
    states = layout.stack(forecast)
    if isinstance(states, np.ndarray):
        latent, _ = run_eager(states, None, work, progress=progress)
    else:
        latent = run_lazy(states, None, work)
    return latent_dataset(layout.unstack(latent, forecast), forecast, layout, engine)


def sample(
    template: xr.Dataset | None = None,
    prior: FlowPrior | str | Path | None = None,
    *,
    members: int = 20,
    steps: int | tuple[int, int] | None = None,
    solver: Solver | None = None,
    noise: float | None = None,
    seed: int = 0,
    device: str = "auto",
    dtype: str = "float32",
    batch: int | Literal["auto"] = "auto",
) -> xr.Dataset:
    """Draw states from a prior alone, on the prior's own grid.

    Parameters
    ----------
    template : xarray.Dataset, optional
        Where no prior is named, the registered one that fits these data is taken.
    prior : FlowPrior, str or Path, optional
        The prior.
    members : int
        How many.
    steps, solver, noise, seed, device, dtype, batch
        As in `assimilate`.

    Returns
    -------
    xarray.Dataset
        Float32 fields with a ``member`` dimension first.

    Raises
    ------
    PriorError, SettingsError
        Where there is no prior, or a setting is out of range.
    """
    if template is None:
        template = xr.Dataset()
    _check_dataset(template, "template")
    prior = choose_prior(template, prior)
    if _integer("members", members) < 1:
        raise SettingsError(problem("members", repr(members), "a positive integer"))
    settings = prior.settings.updated({"steps": steps, "solver": solver, "noise": noise})
    engine = _engine(prior, settings, seed, device, dtype, batch)
    return sample_dataset(engine.sample(members), engine)


def _check_dataset(ds: object, what: str) -> None:
    if not isinstance(ds, xr.Dataset):
        remedy = "use .to_dataset(name=...)" if isinstance(ds, xr.DataArray) else ""
        raise DaisiTypeError(problem(what, type(ds).__name__, "an xarray.Dataset", remedy))


def _engine(
    prior: FlowPrior,
    settings: Settings,
    seed: int,
    device: str,
    dtype: str,
    batch: int | Literal["auto"],
) -> Engine:
    members = None if batch == "auto" else _integer("batch", batch, "a positive integer, or 'auto'")
    number = _integer("seed", seed)
    # Torch's own dtypes and devices are as good as their names.
    return Engine(prior, settings, number, str(device), str(dtype).removeprefix("torch."), members)


def _integer(name: str, value: object, expected: str = "an integer") -> int:
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        return int(value)
    raise SettingsError(problem(name, repr(value), expected))
