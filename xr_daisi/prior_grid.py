"""A prior on another grid than the one it was trained on: `FlowPrior.on_grid`."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from xr_daisi.dimensions import find_dimensions
from xr_daisi.errors import DaisiError, PriorError, StateError, problem, raise_problems
from xr_daisi.forecast_matching import match_space, match_variable_levels, match_variables
from xr_daisi.layout import layout_of
from xr_daisi.mlp import MLP
from xr_daisi.networks import UNet
from xr_daisi.state import StateSpec, spec_from_dataset
from xr_daisi.units import conversion
from xr_daisi.user_warnings import warn_user

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import xarray as xr
    from torch import Tensor

    from xr_daisi.layout import Layout
    from xr_daisi.state import Normalization

__all__ = ["GridParts", "SpacingWarning", "layout_for", "parts_on_grid"]

SLACK = 0.05
"""Grid spacings within this share of each other are the same."""


class SpacingWarning(UserWarning):
    """A prior was put on a grid that is coarser or finer than that of its training."""


class GridParts(NamedTuple):
    """What of a prior is another on another grid."""

    network: Callable[[Tensor, Tensor], Tensor]
    spec: StateSpec
    normalization: Normalization


def parts_on_grid(prior: Any, template: xr.Dataset, periodic: Sequence[str] | None) -> GridParts:
    """Return network, state and normalisation for the grid of a template.

    Parameters
    ----------
    prior : FlowPrior
        Of another grid.
    template : xarray.Dataset
        The prior's variables and levels on the new grid.
    periodic : sequence of str or None
        Periodic dimensions of the template; None is longitudes round the globe, and plain
        dimensions that are periodic in the prior.

    Raises
    ------
    PriorError
        For a prior that belongs to its own points.
    StateError
        For a template that does not have the prior's variables, levels and dimensions.

    Warns
    -----
    SpacingWarning
        Where the grid spacing is another.
    """
    periodic = (periodic,) if isinstance(periodic, str) else periodic
    raise_problems(PriorError, _bound_to_grid(prior))
    old = prior.spec
    names = match_variables(template, old)
    dims = find_dimensions(template, names, what="template")
    problems: list[str] = []
    for v, name in zip(old.variables, names, strict=True):
        problems += match_variable_levels(template, name, v, dims.level[name])[1]
    space, missing = match_space(template, old, dims)
    raise_problems(StateError, problems + missing)
    if periodic is None:
        wraps = dict(zip(space, old.periodic, strict=True))
        inferred = spec_from_dataset(template, names)
        plain = [d for d in space if inferred.axes[d] == "plain" and wraps[d]]
        round_globe = [d for d, p in zip(inferred.dims, inferred.periodic, strict=True) if p]
        periodic = [*plain, *round_globe]
    found = spec_from_dataset(template, names, periodic=periodic)
    # A network knows north from south: axes run as they did in training.
    order = {}
    for d, o in zip(space, old.dims, strict=True):
        turned = _direction(found.coords[d]) * _direction(old.coords[o]) < 0
        order[d] = slice(None, None, -1 if turned else 1)
    places = found.geolocation
    if places is not None:
        axes = [found.dims.index(d) for d in space]
        turn = tuple(order[d] for d in space)
        places = (places[0].transpose(axes)[turn], places[1].transpose(axes)[turn])
    spec = replace(
        found,
        variables=old.variables,
        dims=space,
        coords={d: found.coords[d][order[d]] for d in space},
        periodic=tuple(d in periodic for d in space),
        geolocation=places,
    )
    for text in _other_spacing(old, spec):
        warn_user(SpacingWarning(text))
    network = prior.network
    if isinstance(network, UNet) and network.config.periodic != spec.periodic:
        network = network.with_periodic(spec.periodic)
    return GridParts(network, spec, _anywhere(prior.normalization, spec))


def layout_for(forecast: xr.Dataset, prior: Any) -> Layout:
    """Match a forecast to a prior, as `layout_of` does.

    Raises
    ------
    PriorError, StateError
        As `layout_of`; where the forecast is on another grid of the same spacing that the prior
        can be put on, the message says so.
    """
    try:
        return layout_of(forecast, prior.spec)
    except StateError as error:
        if not _fits_elsewhere(forecast, prior):
            raise
        remedy = "the whole grid of the forecast can be analysed with prior.on_grid(forecast)"
        raise type(error)(f"{error}; {remedy}") from error


def _fits_elsewhere(forecast: xr.Dataset, prior: Any) -> bool:
    """Tell whether a prior, on the grid of a forecast, would fit it."""
    if not isinstance(prior.network, UNet):  # nothing is known of others
        return False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", SpacingWarning)
            parts = parts_on_grid(prior, forecast, None)
        layout_of(forecast, parts.spec)
    except (DaisiError, SpacingWarning):
        return False
    different: bool = parts.spec.space_shape != prior.spec.space_shape
    return different


def _bound_to_grid(prior: Any) -> list[str]:
    """Say what ties a prior to the points it was trained on."""
    label = f"prior {prior.name!r}"
    problems = []
    norm = prior.normalization
    if not (_is_constant(norm.mean) and _is_constant(norm.std)):
        found, expected = "a normalisation for each grid point", "one for each variable and level"
        remedy = 'train with normalization="variable" to use a prior on other grids'
        problems.append(problem(label, found, expected, remedy))
    network = prior.network
    if isinstance(network, MLP):
        found, expected = "a dense network, which knows one grid", "a U-Net"
        problems.append(problem(label, found, expected, 'train with network="unet"'))
    if isinstance(network, UNet) and network.static.numel():
        found = f"{network.config.static_channels} static fields on its own grid"
        remedy = "train without static= to use a prior on other grids"
        problems.append(problem(label, found, "none", remedy))
    if prior.holes is not None and prior.holes.any():
        remedy = "train on an area without land or other gaps to use a prior on other grids"
        problems.append(problem(label, "holes in its own grid", "none", remedy))
    return problems


def _is_constant(values: np.ndarray) -> bool:
    """Tell whether statistics ``(channel, *space)`` are the same everywhere."""
    flat = values.reshape(len(values), -1)
    return bool((flat == flat[:, :1]).all())


def _anywhere(norm: Normalization, spec: StateSpec) -> Normalization:
    """Return a normalisation that is constant over space for another grid."""
    first = (slice(None), *[slice(1)] * len(spec.dims))
    holes = None if norm.holes is None else np.zeros(spec.shape, dtype=bool)
    return replace(norm, mean=norm.mean[first], std=norm.std[first], holes=holes)


def _direction(values: np.ndarray) -> float:
    return float(values[-1] - values[0])


def _other_spacing(old: StateSpec, new: StateSpec) -> list[str]:
    """Say where the distance of grid points is not that of training."""
    texts = []
    for o, d in zip(old.dims, new.dims, strict=True):
        if min(old.coords[o].size, new.coords[d].size) < 2 or old.axes[o] != new.axes[d]:
            continue
        change = conversion(new.coord_units.get(d), old.coord_units.get(o), variable=d)
        was = float(np.median(np.abs(np.diff(old.coords[o]))))
        now = abs(change.factor) * float(np.median(np.abs(np.diff(new.coords[d]))))
        if abs(now - was) > SLACK * was:
            unit = old.coord_units.get(o) or ""
            expected = f"{was:.4g} {unit}".rstrip() + ", as in training"
            remedy = "structures will look larger or smaller to the prior than they are"
            found = f"{now:.4g} {unit}".rstrip()
            texts.append(problem(f"grid spacing along {d!r}", found, expected, remedy))
    return texts
