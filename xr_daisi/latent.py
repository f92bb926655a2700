"""Members in latent space, and states drawn from a prior alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import xarray as xr

from xr_daisi.blocks import Work
from xr_daisi.eager_blocks import run_eager
from xr_daisi.engine import Engine
from xr_daisi.errors import DaisiTypeError, SettingsError, problem
from xr_daisi.labels import latent_dataset, sample_dataset
from xr_daisi.lazy_blocks import run_lazy
from xr_daisi.prior_choice import choose_prior
from xr_daisi.prior_grid import layout_for
from xr_daisi.tiling import Tiling

if TYPE_CHECKING:
    from pathlib import Path

    from xr_daisi.priors import FlowPrior
    from xr_daisi.settings import Settings, Solver

__all__ = ["check_dataset", "invert", "make_engine", "sample", "whole_number"]


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
    tile: int | tuple[int, ...] | None = None,
    overlap: int | tuple[int, ...] | None = None,
    progress: bool | None = None,
) -> xr.Dataset:
    """Carry the members of a forecast into the latent space of a prior.

    Parameters
    ----------
    forecast, prior, t_min, steps, solver, inverse_noise, seed, device, dtype, batch
        As in `assimilate`.
    tile, overlap, progress
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
    check_dataset(forecast, "forecast")
    prior = choose_prior(forecast, prior)
    given = {"t_min": t_min, "steps": steps, "solver": solver, "inverse_noise": inverse_noise}
    settings = prior.settings.updated(given)
    layout = layout_for(forecast, prior)
    engine = make_engine(prior, settings, seed, device, dtype, batch, tile, overlap)
    work = Work(engine, layout)
    states = layout.stack(forecast)
    if isinstance(states, np.ndarray):
        latent, _, _ = run_eager(states, None, work, progress=progress)
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
    tile: int | tuple[int, ...] | None = None,
    overlap: int | tuple[int, ...] | None = None,
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
    steps, solver, noise, seed, device, dtype, batch, tile, overlap
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
    check_dataset(template, "template")
    prior = choose_prior(template, prior)
    if whole_number("members", members) < 1:
        raise SettingsError(problem("members", repr(members), "a positive integer"))
    settings = prior.settings.updated({"steps": steps, "solver": solver, "noise": noise})
    engine = make_engine(prior, settings, seed, device, dtype, batch, tile, overlap)
    return sample_dataset(engine.sample(members), engine)


def check_dataset(ds: object, what: str) -> None:
    """Raise for what is no Dataset.

    Raises
    ------
    DaisiTypeError
        With the way to make one of a DataArray.
    """
    if not isinstance(ds, xr.Dataset):
        remedy = "use .to_dataset(name=...)" if isinstance(ds, xr.DataArray) else ""
        raise DaisiTypeError(problem(what, type(ds).__name__, "an xarray.Dataset", remedy))


def make_engine(
    prior: FlowPrior,
    settings: Settings,
    seed: int,
    device: str,
    dtype: str,
    batch: int | Literal["auto"],
    tile: int | tuple[int, ...] | None = None,
    overlap: int | tuple[int, ...] | None = None,
    *,
    compiled: bool = False,
    method: str = "daisi",
) -> Engine:
    """Return an engine with settings as the user gave them.

    Raises
    ------
    SettingsError
        For a batch or seed that is no number, and tiles that cannot be.
    """
    members = (
        None if batch == "auto" else whole_number("batch", batch, "a positive integer, or 'auto'")
    )
    number = whole_number("seed", seed)
    # Torch's own dtypes and devices are as good as their names.
    precision = str(dtype).removeprefix("torch.")
    tiling = Tiling.of(tile, overlap, len(prior.spec.dims))
    return Engine(
        prior, settings, number, str(device), precision, members, tiling, compiled, method
    )


def whole_number(name: str, value: object, expected: str = "an integer") -> int:
    """Return an integer of Python or NumPy as int; raise for anything else.

    Raises
    ------
    SettingsError
        Naming the setting.
    """
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        return int(value)
    raise SettingsError(problem(name, repr(value), expected))
