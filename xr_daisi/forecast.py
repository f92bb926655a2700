"""Forecast models: anything that carries an ensemble on to a later time.

A model is a function of an ensemble and a time. Ten lines suffice::

    import numpy as np
    import xarray as xr

    def model(ensemble, until):
        hours = (until - ensemble.time.values) / np.timedelta64(1, "h")
        with xr.set_options(keep_attrs=True):
            forecast = 280.0 + 0.99**hours * (ensemble - 280.0)   # relaxes towards 280 K
        return forecast.assign_coords(time=until)

`xr_daisi.cycle` checks what a model returns: members, time, variables, units, grid and values.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np
import xarray as xr

from xr_daisi.dimensions import find_dimensions
from xr_daisi.earth2studio_model import Earth2StudioModel
from xr_daisi.ensembles import field_names, form_of, time_text
from xr_daisi.errors import DaisiTypeError, ForecastError, problem
from xr_daisi.external_model import ExternalModel
from xr_daisi.fingerprints import dataset_sha256
from xr_daisi.forecast_checks import checked_forecast
from xr_daisi.torch_model import TorchModel

__all__ = [
    "Climatology",
    "Earth2StudioModel",
    "ExternalModel",
    "ForecastModel",
    "Persistence",
    "TorchModel",
    "checked_forecast",
]


@runtime_checkable
class ForecastModel(Protocol):
    """What carries an ensemble on to a later time: a function, or an object that is called.

    An object may have ``configuration``, a dict of plain JSON types that says what it is; a cycle
    then refuses to go on with a model that says something else.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> def warming(ensemble, until):
    ...     hours = (until - ensemble.time.values) / np.timedelta64(1, "h")
    ...     return (ensemble + 0.1 * hours).assign_coords(time=until)
    >>> start = xr.Dataset(
    ...     {"t2m": (("member", "x"), np.zeros((2, 3)))},
    ...     coords={"time": np.datetime64("2019-03-01T00", "ns")},
    ... )
    >>> warming(start, np.datetime64("2019-03-01T06", "ns")).t2m.values[0].round(1)
    array([0.6, 0.6, 0.6])
    """

    def __call__(self, ensemble: xr.Dataset, until: np.datetime64, /) -> xr.Dataset:
        """Carry an ensemble on.

        Parameters
        ----------
        ensemble : xarray.Dataset
            All members at one time, in the form of the initial ensemble; not to be modified.
        until : datetime64
            The time to reach.

        Returns
        -------
        xarray.Dataset
            The same variables and members, labelled with the time `until`.
        """
        ...


class Persistence:
    """A model that keeps every member as it is, the simplest to compare with.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> start = xr.Dataset(
    ...     {"t2m": ("x", [1.0, 2.0])}, coords={"time": np.datetime64("2019-03-01T00", "ns")}
    ... )
    >>> Persistence()(start, np.datetime64("2019-03-01T06")).time.values
    np.datetime64('2019-03-01T06:00:00.000000000')
    """

    @property
    def configuration(self) -> dict[str, Any]:
        """What it is, as plain JSON."""
        return {"model": "persistence"}

    def __call__(self, ensemble: xr.Dataset, until: np.datetime64, /) -> xr.Dataset:
        """Return the ensemble labelled with the time `until`."""
        return form_of(ensemble).at(ensemble, until)

    def __repr__(self) -> str:
        return "Persistence()"


class Climatology:
    """A model that forgets where it started: the states of a Dataset at the time asked for.

    Parameters
    ----------
    states : xarray.Dataset
        With a time dimension; with members, each member of the ensemble gets its own (there have
        to be as many); without, all members get the same state.

    Raises
    ------
    DaisiTypeError, ForecastError
        If it is no Dataset, or has no times.
    """

    def __init__(self, states: xr.Dataset) -> None:
        if not isinstance(states, xr.Dataset):
            found = type(states).__name__
            raise DaisiTypeError(problem("climatology", found, "an xarray.Dataset"))
        dims = find_dimensions(states, field_names(states), what="climatology")
        if dims.time is None:
            found = f"dimensions {tuple(map(str, states.dims))}"
            raise ForecastError(problem("climatology", found, "a time dimension among them"))
        self.states = states
        self.time, self.member = dims.time, dims.member
        self._sha256 = ""

    @property
    def configuration(self) -> dict[str, Any]:
        """What it is, as plain JSON."""
        self._sha256 = self._sha256 or dataset_sha256(self.states)
        return {"model": "climatology", "sha256": self._sha256}

    def __call__(self, ensemble: xr.Dataset, until: np.datetime64, /) -> xr.Dataset:
        """Return the climatology at the time `until`, for every member of the ensemble.

        Raises
        ------
        ForecastError
            If it has no such time.
        """
        form = form_of(ensemble)
        index = self.states.indexes[self.time]
        where = np.flatnonzero(index.to_numpy() == until)
        if where.size != 1:
            found = f"{where.size} states at {time_text(until)}"
            expected = f"one among {time_text(index.to_numpy()[0])} to "
            expected += time_text(index.to_numpy()[-1])
            raise ForecastError(problem("climatology", found, expected))
        state = self.states.isel({self.time: int(where[0])}, drop=True)
        if self.member is not None and self.member != form.member and form.member is not None:
            state = state.rename({self.member: form.member})
        out = {}
        for name, variable in form.at(ensemble, until).data_vars.items():
            if name not in state:
                found = f"variables {', '.join(map(str, state.data_vars))}"
                raise ForecastError(problem("climatology", found, f"also {name}"))
            given = state[name]
            if form.member in given.dims and form.member in ensemble.coords:
                given = given.assign_coords({form.member: ensemble[form.member]})
            given = given.broadcast_like(variable.astype(float)).transpose(*variable.dims)
            out[name] = given.assign_attrs(state[name].attrs)
        return form.at(ensemble, until).assign(out)

    def __repr__(self) -> str:
        return f"Climatology({self.states.sizes[self.time]} states)"
