"""A state described by the forecast alone, where a method needs no prior."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np

from xr_daisi.dimensions import find_dimensions
from xr_daisi.errors import StateError
from xr_daisi.state import Normalization, StateSpec, spec_from_dataset

if TYPE_CHECKING:
    from collections.abc import Sequence

    import xarray as xr
    from numpy.typing import NDArray

__all__ = ["DescribedState", "ForecastState", "state_of_forecast"]


class DescribedState(Protocol):
    """What checks, labels and units ask of a prior, or of what stands for it."""

    @property
    def name(self) -> str:
        """Name for messages and labels."""
        ...

    @property
    def spec(self) -> StateSpec:
        """Variables and grid."""
        ...

    @property
    def normalization(self) -> Normalization:
        """Between physical and normalised states."""
        ...

    @property
    def holes(self) -> NDArray[np.bool_] | None:
        """Where states are NaN by construction; None where that is unknown."""
        ...

    def template(self) -> xr.Dataset:
        """Return a Dataset of zeros on the grid."""
        ...


@dataclass(frozen=True, eq=False)
class ForecastState:
    """Variables and grid of a forecast, without a prior.

    Attributes
    ----------
    spec : StateSpec
        Variables and grid.
    """

    spec: StateSpec
    identity: str = field(default_factory=lambda: uuid.uuid4().hex)
    name: str = "none"
    sha256: str | None = None
    network: None = None
    holes: None = None

    @property
    def normalization(self) -> Normalization:
        """None: states stay physical."""
        shape = (self.spec.channels, *[1] * len(self.spec.dims))
        return Normalization(np.zeros(shape), np.ones(shape))

    def template(self) -> xr.Dataset:
        """Return a Dataset of zeros on the grid."""
        return self.spec.to_dataset()


def state_of_forecast(forecast: xr.Dataset, periodic: Sequence[str] | None) -> ForecastState:
    """Describe the state that a forecast holds: its variables that differ between members.

    Parameters
    ----------
    forecast : xarray.Dataset
        Fixed fields such as a land mask, without member dimension, are not part of the state;
        where nothing has one, all numeric fields are.
    periodic : sequence of str, optional
        Periodic dimensions of space; longitudes that go round the globe when None.

    Returns
    -------
    ForecastState
        In place of a prior.

    Raises
    ------
    StateError
        As `spec_from_dataset`.
    """
    fields, with_members = [], []
    for name in map(str, forecast.data_vars):
        if forecast[name].dtype.kind not in "fiu":
            continue
        try:
            dims = find_dimensions(forecast, [name])
        except StateError:  # bounds of cells and the like
            continue
        fields.append(name)
        if dims.member is not None:
            with_members.append(name)
    wraps = (periodic,) if isinstance(periodic, str) else periodic
    names = with_members or fields or None
    return ForecastState(spec_from_dataset(forecast, names, periodic=wraps, what="forecast"))
