"""Which variables of an observation Dataset are used, with which operator, units and errors."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from xr_daisi.error_structure import ErrorStructure, error_structure
from xr_daisi.errors import (
    DaisiError,
    DaisiTypeError,
    ObservationError,
    problem,
    raise_problems,
)
from xr_daisi.footprints import footprint_of
from xr_daisi.interpolation import Ints
from xr_daisi.observation_choice import choose_variables
from xr_daisi.observation_coordinates import Coordinates, find_coordinates
from xr_daisi.observation_errors import check_values, errors_of
from xr_daisi.observation_identity import find_identifier
from xr_daisi.observation_layout import Layout, build_layout
from xr_daisi.observation_options import ObservationOptions
from xr_daisi.observation_places import Geometry
from xr_daisi.observation_quality import verdicts_of
from xr_daisi.observation_status import Status
from xr_daisi.observation_times import ForecastTimes
from xr_daisi.operators import Operator
from xr_daisi.plane import PlaneAxes

if TYPE_CHECKING:
    import xarray as xr

    from xr_daisi.state import StateSpec

__all__ = ["Source", "Taken", "read_dataset"]


@dataclass(frozen=True, eq=False)
class Taken:
    """Observations of one source that belong to one forecast time.

    Parameters
    ----------
    values, errors : array of float, shape (n,)
        In the observation's units.
    rows : array of int, shape (n,)
        Rows of the plan's table.
    places, times : array of int, shape (n,)
        Numbers of their places, and of their times in the Dataset.
    rejected : tuple of (rows, Status)
        What was left out in view of values that were read only now.
    """

    values: NDArray[np.float64]
    errors: NDArray[np.float64]
    rows: Ints
    places: Ints
    times: Ints
    rejected: tuple[tuple[Ints, Status], ...] = ()


@dataclass(frozen=True, eq=False)
class Source:
    """One observed variable of one Dataset.

    Parameters
    ----------
    dataset : int
        Number of the Dataset.
    name : str
        Name of the variable.
    subject : str
        Name for messages.
    units : str or None
        Its units.
    operator : Operator
        How it follows from the state.
    layout : Layout
        Places and times of its values.
    values : array or None
        NumPy (t, p), or dask (t, *place dimensions); None where values come later.
    errors : float, array or None
        Standard deviations: one number, or like `values`.
    verdicts : int, array or None
        `Status` by quality, bounds and the user's choice: one number, or like `values`.
    lazy : bool
        Whether values, errors or verdicts are dask arrays.
    structure : ErrorStructure or None
        Which errors are correlated.
    instruments : bool
        Whether the Dataset says which instrument measured each value.
    first_row : int
        Row of its first value in the plan's table.
    """

    dataset: int
    name: str
    subject: str
    units: str | None
    operator: Operator
    layout: Layout
    values: Any
    errors: Any
    verdicts: Any
    lazy: bool
    structure: ErrorStructure | None = None
    instruments: bool = False
    first_row: int = 0

    def statuses(self) -> NDArray[np.int8]:
        """`Status` of every value, shape (t, p)."""
        status = self.layout.statuses()
        if self.lazy:
            return np.where(status == Status.USED, np.int8(Status.UNCHECKED), status)
        status = np.where(status == Status.USED, np.asarray(self.verdicts, dtype=np.int8), status)
        return np.where(np.isnan(self.values), np.int8(Status.MISSING), status)

    def marked(self, rows: Ints, status: Status) -> Source:
        """Give some values, by their rows in the plan's table, another status."""
        layout = self.layout
        times, places = (np.arange(n, dtype=np.int64) for n in layout.table_shape)
        flat = layout.flat_index(times[:, None], places[None, :]) + self.first_row
        chosen = np.isin(flat, rows)
        if not chosen.any():
            return self
        return replace(self, verdicts=np.where(chosen, np.int8(status), self.verdicts))

    def without_arrays(self) -> Source:
        """Leave out dask arrays, so that the source can be sent to workers."""
        return replace(self, values=None, errors=None, verdicts=None) if self.lazy else self

    def lazy_arrays(self, time: int) -> tuple[Any, Any, Any] | None:
        """Dask arrays of values, errors and verdicts at a forecast time; None for one in memory."""
        if not self.lazy:
            return None
        rows, places = self.layout.selection(time)

        def select(array: Any) -> Any:
            if np.ndim(array) == 0:
                return array
            return array.reshape(-1)[places] if self.layout.along_places else array[rows]

        return select(self.values), select(self.errors), select(self.verdicts)

    def take(self, time: int, arrays: tuple[Any, Any, Any] | None = None) -> Taken:
        """Values and errors at one forecast time.

        Parameters
        ----------
        time : int
            Number of the forecast time.
        arrays : tuple of array, optional
            What `lazy_arrays` gave, computed.

        Returns
        -------
        Taken
            Without missing and rejected values.

        Raises
        ------
        ObservationError
            Where a value is infinite or an error not positive; of data in memory, that was checked
            before.
        """
        rows, places = self.layout.selection(time)
        shape = rows.size, places.size

        def pick(array: Any) -> NDArray[np.float64]:
            if np.ndim(array) == 0:
                picked = np.broadcast_to(np.asarray(array), shape)
            elif arrays is None:
                picked = array[np.ix_(rows, places)]
            elif self.layout.along_places:
                picked = np.asarray(array).reshape(shape)
            else:
                picked = np.asarray(array).reshape(rows.size, self.layout.table_shape[1])[:, places]
            return picked.astype(np.float64)

        values, errors, verdicts = (
            pick(a) for a in (arrays or (self.values, self.errors, self.verdicts))
        )

        def numbered(chosen: NDArray[np.bool_]) -> tuple[Ints, Ints, Ints]:
            at = np.nonzero(chosen)
            flat = self.layout.flat_index(rows[at[0]], places[at[1]])
            return flat + self.first_row, places[at[1]], rows[at[0]]

        used = ~np.isnan(values) & (verdicts == Status.USED)
        rejected: list[tuple[Ints, Status]] = []
        if arrays is not None:
            sound = np.where(used, values, np.nan)
            raise_problems(
                ObservationError,
                check_values(self.layout, self.subject, sound, errors, rows, places),
            )
            for status in np.unique(verdicts[~used & ~np.isnan(values)]):
                bad = ~np.isnan(values) & (verdicts == status)
                rejected.append((numbered(bad)[0], Status(int(status))))
        return Taken(values[used], errors[used], *numbered(used), tuple(rejected))


def read_dataset(
    ds: xr.Dataset,
    number: int,
    spec: StateSpec,
    times: ForecastTimes,
    options: ObservationOptions,
    subject: str,
) -> tuple[list[Source], Coordinates]:
    """Find what a Dataset observes.

    Parameters
    ----------
    ds : Dataset
        Observations; not modified.
    number : int
        Its number.
    spec : StateSpec
        The state.
    times : ForecastTimes
        The forecast's times.
    options : ObservationOptions
        How to read them.
    subject : str
        Name of the Dataset for messages.

    Returns
    -------
    sources : list of Source
        One for each variable used.
    coordinates : Coordinates
        Where it keeps position and time.

    Raises
    ------
    ObservationError
        With everything that is wrong.

    Warns
    -----
    UserWarning
        Naming variables that look like the state's but are not used.
    """
    found = find_coordinates(ds, spec, subject)
    chosen = choose_variables(ds, found, options.operator or {}, spec, subject)
    axes = PlaneAxes.of(spec, geolocated=found.geolocated)
    layouts: dict[tuple[Any, ...], Layout] = {}
    sources, problems = [], []
    for name, operator in chosen.items():
        text = name if subject == "observations" else f"{subject}, {name}"
        try:
            dims = tuple(map(str, ds[name].dims))
            levels = _level_dims(operator, dims, found, spec, text)
            footprint = footprint_of(ds, name, found, axes, options, text)
            key = dims, levels, name if footprint is not None else ""
            if key not in layouts:
                sizes = ds.variables[name].sizes
                geometry = Geometry(options.interpolation, footprint)
                layouts[key] = build_layout(dims, sizes, found, levels, spec, times, text, geometry)
            layout = layouts[key]
            source = _source(ds, name, number, operator, layout, spec, options, text)
            if not source.lazy:
                everywhere = (np.arange(n, dtype=np.int64) for n in layout.table_shape)
                sound = np.where(source.verdicts == np.int8(Status.USED), source.values, np.nan)
                problems += check_values(layout, text, sound, source.errors, *everywhere)
            sources.append(source)
        except DaisiTypeError:
            raise
        except DaisiError as error:
            problems.append(str(error))
    raise_problems(ObservationError, problems)
    return sources, found


def _level_dims(
    operator: Operator,
    dims: tuple[str, ...],
    found: Coordinates,
    spec: StateSpec,
    subject: str,
) -> tuple[str, ...]:
    """Vertical dimensions along which a variable must be located."""
    if not operator.variables:
        # A function may ask for anything: locate it wherever it can be located.
        return tuple(d for d, p in found.vertical.items() if set(p.dims) <= set(dims))
    needed: dict[str, None] = {}
    for name in operator.variables:
        variable = spec.variable(name)
        if variable.level_dim is None:
            continue
        if variable.level_dim in found.vertical:
            needed[variable.level_dim] = None
        elif variable.size > 1:
            text = f"no vertical coordinate, while {name!r} has {variable.size} levels"
            remedy = f"obs = obs.assign_coords({variable.level_dim}=...)"
            raise ObservationError(
                problem(subject, text, f"a coordinate {variable.level_dim!r}", remedy)
            )
    return tuple(needed)


def _source(
    ds: xr.Dataset,
    name: str,
    number: int,
    operator: Operator,
    layout: Layout,
    spec: StateSpec,
    options: ObservationOptions,
    subject: str,
) -> Source:
    variable = ds.variables[name]
    units = variable.attrs.get("units")
    state_units = spec.variable(operator.variables[0]).units if operator.variables else None
    operator = operator.converted(units, state_units, subject)
    structure = error_structure(ds, name, options, subject)
    errors = errors_of(ds, name, operator, options, structure, subject)
    verdicts = verdicts_of(ds, name, options, subject)
    lazy = any(getattr(a, "chunks", None) is not None for a in (variable, errors, verdicts))
    order = ((layout.time_dim,) if layout.time_dim else ()) + layout.place_dims

    def arrange(values: Any) -> Any:
        if not hasattr(values, "dims"):
            return values
        full = values.set_dims(dict(zip(layout.dims, layout.shape, strict=True)))
        full = full.transpose(*order)
        if full.chunks is not None:
            return full.data if layout.time_dim else full.data[None]
        array = np.asarray(full.values)
        return array if lazy and layout.time_dim else array.reshape(layout.table_shape)

    arrays = (arrange(variable), arrange(errors), arrange(verdicts))
    return Source(
        number,
        name,
        subject,
        units,
        operator,
        layout,
        *arrays,
        lazy,
        structure=structure,
        instruments=find_identifier(ds, "instrument") is not None,
    )
