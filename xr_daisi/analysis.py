"""Forecast, observations and a prior in; a labelled analysis out.

Members and times are independent work. NumPy-backed forecasts are analysed at once; dask-backed
ones become a graph with one task per chunk of members and times.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Literal, Unpack, overload

import numpy as np
import xarray as xr

from xr_daisi.baselines import bridge_for, check_keywords, engine_for, settled
from xr_daisi.blocks import Work
from xr_daisi.dimensions import other_valid_time, time_coordinate
from xr_daisi.eager_blocks import run_eager
from xr_daisi.errors import problem
from xr_daisi.estimate import AnalysisPlan, make_plan
from xr_daisi.labels import analysis_attributes, bridge_attributes
from xr_daisi.latent import check_dataset
from xr_daisi.lazy_blocks import run_lazy
from xr_daisi.observation_options import (
    Interpolation,
    ObservationErrors,
    ObservationKeywords,
    ObservationOptions,
    OperatorSettings,
    TimeInterpolation,
)
from xr_daisi.observations import match_observations
from xr_daisi.prior_grid import layout_for
from xr_daisi.user_warnings import warn_user

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from xr_daisi.bridge import Choice
    from xr_daisi.ensemble_settings import Method, Relaxation
    from xr_daisi.observation_times import TimeTolerance
    from xr_daisi.priors import FlowPrior
    from xr_daisi.settings import Guidance, GuidanceSolver, Solver

__all__ = ["assimilate"]


class AssimilateKeywords(ObservationKeywords, total=False):
    """The keywords of `assimilate` but `dry_run`, for type checkers."""

    t_min: float | Literal["auto"] | None
    bridge: float | Literal["auto"] | None
    perturb_obs: bool | None
    steps: int | tuple[int, int] | None
    solver: Solver | None
    noise: float | None
    inverse_noise: float | None
    corrector_steps: int | None
    guidance: Guidance | None
    guidance_solver: GuidanceSolver | None
    guidance_iterations: int | None
    strength: float | Callable[[float], float] | None
    method: Method
    localization: float | str | None
    vertical_localization: float | str | None
    inflation: float
    relaxation: float
    relaxation_method: Relaxation
    background_error: float | Mapping[str, float] | None
    periodic: Sequence[str] | None
    seed: int
    device: str
    dtype: str
    batch: int | Literal["auto"]
    compile: bool
    tile: int | tuple[int, ...] | None
    overlap: int | tuple[int, ...] | None
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
    t_min: float | Literal["auto"] | None = None,
    bridge: float | Literal["auto"] | None = None,
    perturb_obs: bool | None = None,
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
    error_inflation: float | Mapping[str, float] | None = None,
    error_correlation: Mapping[str, str | float] | None = None,
    quality: Mapping[str, Sequence[str | int]] | None = None,
    bounds: Mapping[str, tuple[float, float]] | None = None,
    thin: str | float | None = None,
    footprint: Mapping[str, str | float] | None = None,
    interpolation: Interpolation = "linear",
    time_interpolation: TimeInterpolation = "nearest",
    method: Method = "daisi",
    localization: float | str | None = None,
    vertical_localization: float | str | None = None,
    inflation: float = 1.0,
    relaxation: float = 0.0,
    relaxation_method: Relaxation = "spread",
    background_error: float | Mapping[str, float] | None = None,
    periodic: Sequence[str] | None = None,
    seed: int = 0,
    device: str = "auto",
    dtype: str = "float32",
    batch: int | Literal["auto"] = "auto",
    compile: bool = False,
    tile: int | tuple[int, ...] | None = None,
    overlap: int | tuple[int, ...] | None = None,
    progress: bool | None = None,
    dry_run: bool = False,
) -> xr.Dataset | AnalysisPlan:
    """Assimilate observations into an ensemble forecast.

    Every member is carried by the prior's flow from data towards noise, down to `t_min`, and
    sampled back under the guidance of the observations (DAISI). Other methods, to compare with, are
    behind `method`; a setting that does not serve the chosen one is an error.

    Parameters
    ----------
    forecast : xarray.Dataset
        Fields on the prior's grid, with any of a member, time and level dimension in any order;
        in memory or dask-backed. NaN at the same points of all members and times are holes of the
        domain, such as land; they stay NaN.
    obs : xarray.Dataset or sequence of them
        Observations in any form that `read_observations` knows: points, station series, profiles,
        swaths, fields with NaN where nothing is observed, tables, files.
    prior : FlowPrior, str or Path, optional
        The prior, its file, URL or registered name. When None: the one that
        ``forecast.attrs["daisi_prior"]`` names, that of `set_options`, or the one registered prior
        whose variables and grid fit; for methods that need none, the forecast describes the state.
    t_min : float or "auto", optional
        Inversion time in [0, 1): near 1 keeps the forecast, 0 ignores it (fresh noise). This and
        the next settings, when left out, are those of the prior's card; ``"auto"``: where the
        prior knows as little as the members' spread says, 0.2 for fewer than 4.
    bridge : float or "auto", optional
        Share of each observation's likelihood that an ensemble Kalman update takes first; the flow
        is guided by the rest. 0 is the flow alone, 1 an ensemble Kalman filter carried
        through the prior, ``"auto"`` decides for each observation. By default ``"auto"`` where
        `t_min` is, and 0 where that is a number. Localisation and inflation are then chosen from
        the ensemble and its innovations; what was chosen stands in the attribute
        ``daisi_chosen`` of an analysis that is not lazy.
    perturb_obs : bool, optional
        Whether each member is guided to observations with errors of its own, as in a stochastic
        ensemble Kalman filter. By default where `t_min` is ``"auto"``, of 4 members or more.
    steps : int or pair of int, optional
        Solver steps each way, or (inverse, guided); 20.
    solver : {"adams", "heun", "euler"}, optional
        Second order with one evaluation a step (the default) or two, or the published first order.
    noise, inverse_noise : float, optional
        eps0 of the two stochastic differential equations, normalised units; 0 is the ODE; 0.008.
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
        n)``; it must be differentiable by torch. `xr_daisi.on_grid` makes one of whole fields.
        Names: ``"log"``, ``"arctan"``, ``"square"``, ``"abs"``, ``"threshold(value, width)"``,
        ``"wind_speed"``, ``"wind_direction"``, ``"relative_humidity"``.
    obs_error : float or mapping, optional
        Standard deviation where the observations bring none, in their own units (a difference:
        0.5 degC is 0.5 K): a number, ``{variable: number}`` or ``{variable: {instrument:
        number}}``, ``"*"`` for every other instrument.
    time_tolerance : str, timedelta or timedelta64, optional
        How far from a forecast time an observation may be; half the forecast's time step, 30
        minutes for a single time.
    background_check : float, optional
        Reject observations whose departure from the ensemble mean exceeds this many standard
        deviations of spread and observation error together; off.
    error_inflation : float or mapping, optional
        Factor of the standard deviations of the errors, for representativeness: one, or
        ``{observed variable: factor}``.
    error_correlation : mapping, optional
        ``{observed variable: length}`` over which its errors are correlated: text such as ``"50
        km"``, or a number in km (in units of the coordinates on a plain grid). A matrix can come
        with the observations instead, as ``<name>_error_covariance``.
    quality : mapping, optional
        ``{observed variable: accepted values or meanings}`` of its quality flag; by default the
        flag's meanings tell good from bad.
    bounds : mapping, optional
        ``{observed variable: (lowest, highest)}``: values outside are not used; by default its
        ``valid_range``, ``valid_min`` and ``valid_max``.
    thin : str or float, optional
        Average the observations of a variable in boxes of this side (as in `error_correlation`)
        into super-observations, with the error of the average.
    footprint : mapping, optional
        ``{observed variable: diameter}`` of the disc that a value is the mean over.
    interpolation : {"linear", "nearest"}
        Between the nodes of the grid.
    time_interpolation : {"nearest", "linear"}
        Compare an observation with the state of the nearest time, or with the linear interpolation
        between the states before and after, which are then analysed together.
    method : str
        ``"daisi"``; with a prior also ``"renoise"`` (the forecast is mixed with noise instead of
        being inverted) and ``"prior-only"`` (guided sampling from noise, without the forecast);
        without need of a prior ``"letkf"``, ``"etkf"``, ``"ensf"`` and ``"oi"``, which analyse
        all members of a time together: see the page on baselines.
    localization, vertical_localization : float or str, optional
        Distance from which on an observation has no influence on an ensemble update: in km on the
        sphere, in units of the coordinates on a plain grid and along levels, or text such as
        ``"1500 km"``. With a bridge they are chosen, levels only
        where the first of them is left out.
    inflation : float
        Factor of the forecast's perturbations where observations are within reach; with a bridge
        on top of the one that innovations ask for.
    relaxation : float
        How much of the forecast's spread, or perturbations, is restored: 0 is none, 1 all.
    relaxation_method : {"spread", "perturbations"}
        Relaxation to prior spread (RTPS) or to prior perturbations (RTPP).
    background_error : float or mapping, optional
        Standard deviation of the forecast's errors for ``"oi"``, in the state's units: one, or
        ``{variable: number}``; by default the ensemble's spread, of one member the prior's.
    periodic : sequence of str, optional
        Periodic dimensions where there is no prior that knows; longitudes round the globe.
    seed : int
        The noise of a member depends on the seed, its time, its position in the ensemble and the
        step; never on chunks, batches or workers.
    device : str
        ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ...
    dtype : str
        ``"float32"``, ``"float64"``, or ``"bfloat16"`` for the network with a float32 solver.
    batch : int or "auto"
        Members pushed through the network at once (memory).
    compile : bool
        Let torch compile the network (`torch.compile`), where it is a torch module: minutes once
        per process, then faster. Where that fails the network runs as it is, with a warning.
    tile : int or pair of int, optional
        Evaluate the network on overlapping tiles of this many grid points along each space
        dimension, blended at every step, for grids too large to be seen at once; off.
    overlap : int or pair of int, optional
        Grid points that neighbouring tiles share, at most half a tile; a quarter of it.
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
    FlagWarning
        Where a quality flag has a meaning that is not known.
    RepeatedObservationsWarning
        Where several values of a Dataset share variable, place and time.

    References
    ----------
    M. Andrae et al., arXiv:2512.00252.
    """
    check_dataset(forecast, "forecast")
    options = ObservationOptions(
        operator=operator,
        obs_error=obs_error,
        time_tolerance=time_tolerance,
        background_check=background_check,
        error_inflation=error_inflation,
        error_correlation=error_correlation,
        quality=quality,
        bounds=bounds,
        thin=thin,
        footprint=footprint,
        interpolation=interpolation,
        time_interpolation=time_interpolation,
    )
    keywords = {
        "t_min": t_min,
        "bridge": bridge,
        "perturb_obs": perturb_obs,
        "steps": steps,
        "solver": solver,
        "noise": noise,
        "inverse_noise": inverse_noise,
        "corrector_steps": corrector_steps,
        "guidance": guidance,
        "guidance_solver": guidance_solver,
        "guidance_iterations": guidance_iterations,
        "strength": strength,
        "localization": localization,
        "vertical_localization": vertical_localization,
        "inflation": inflation,
        "relaxation": relaxation,
        "relaxation_method": relaxation_method,
        "background_error": background_error,
        "periodic": periodic,
        "batch": batch,
        "compile": compile,
        "tile": tile,
        "overlap": overlap,
    }
    given = check_keywords(method, keywords)
    engine = engine_for(method, forecast, prior, given, seed=seed, device=device, dtype=dtype)
    layout = layout_for(forecast, engine.prior)
    first = bridge_for(engine, given, layout.members)
    engine = settled(engine, first)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        plan = match_observations(obs, engine.prior.spec, layout.time_values, options)
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
    work = Work(engine, layout, options, first)
    states = layout.stack(forecast)
    chosen: list[tuple[list[int], Choice]] = []
    if not isinstance(states, np.ndarray) or plan.is_lazy:
        # What the background check will reject is not known before the work is done.
        analysed, rejected = run_lazy(states, plan, work), None
    else:
        analysed, rejected, chosen = run_eager(states, plan, work, progress=progress)
    analysis = layout.unstack(analysed, forecast)
    analysis.attrs = analysis_attributes(forecast, engine, plan, rejected)
    if first is not None:
        labels = [", ".join(map(layout.time_label, times)) for times, _ in chosen]
        choices = [choice for _, choice in chosen]
        analysis.attrs |= bridge_attributes(analysis.attrs, first, labels, choices)
    return analysis
