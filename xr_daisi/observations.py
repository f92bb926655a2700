"""Observation Datasets and the times they belong to: what is assimilated when, and what is not.

`match_observations` reads coordinates, decides for each value whether and when it can be used, and
returns an `ObservationPlan`. Dask-backed values are read when a forecast time's batch is built.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
from numpy.typing import NDArray

from xr_daisi.errors import (
    DaisiError,
    DaisiTypeError,
    NoObservationsWarning,
    ObservationError,
    problem,
    raise_problems,
)
from xr_daisi.interpolation import Ints
from xr_daisi.observation_batch import ObservationBatch
from xr_daisi.observation_layout import Status
from xr_daisi.observation_options import (
    ObservationErrors,
    ObservationKeywords,
    ObservationOptions,
    OperatorSettings,
)
from xr_daisi.observation_sources import Source, read_dataset
from xr_daisi.observation_times import ForecastTimes, TimeTolerance
from xr_daisi.operators import Group, StateLayout
from xr_daisi.plane import PlaneAxes

if TYPE_CHECKING:
    import xarray as xr

    from xr_daisi.error_covariance import CovarianceBlock
    from xr_daisi.observation_coordinates import Coordinates
    from xr_daisi.state import StateSpec

__all__ = [
    "ObservationBatch",
    "ObservationErrors",
    "ObservationOptions",
    "ObservationPlan",
    "OperatorSettings",
    "Status",
    "TimeTolerance",
    "match_observations",
]


@dataclass(frozen=True, eq=False)
class ObservationPlan:
    """Which observations belong to which forecast time.

    Parameters
    ----------
    sources : tuple of Source
        The observed variables of all Datasets, in order.
    n_times : int
        Number of forecast times; 1 for a forecast without time.
    layout : StateLayout
        The state's variables and grid.
    n_datasets : int
        Number of Datasets.
    axes : PlaneAxes
        What distances between positions are.
    options : ObservationOptions
        How the observations are read.
    """

    sources: tuple[Source, ...]
    n_times: int
    layout: StateLayout
    n_datasets: int
    axes: PlaneAxes
    options: ObservationOptions = field(default_factory=ObservationOptions)
    _shared: dict[str, Any] = field(default_factory=dict, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_shared": {}}

    @property
    def is_lazy(self) -> bool:
        """Whether some values or errors are dask arrays."""
        return any(source.lazy for source in self.sources)

    @property
    def n_rows(self) -> int:
        """Number of values of all sources, used or not: rows of the table."""
        return sum(source.layout.size for source in self.sources)

    @property
    def candidates(self) -> Ints:
        """Values in place and time for each forecast time, missing ones included; (n_times,)."""
        count = np.zeros(self.n_times, dtype=np.int64)
        for source in self.sources:
            layout = source.layout
            here = layout.status == Status.USED
            share = here.astype(np.int64) if layout.along_places else int(here.sum())
            matched = layout.matched >= 0
            np.add.at(
                count, layout.matched[matched], np.broadcast_to(share, matched.shape)[matched]
            )
        return count

    def batch(self, time: int) -> ObservationBatch:
        """Observations of one forecast time; dask-backed values are computed.

        Parameters
        ----------
        time : int
            Number of the forecast time.

        Returns
        -------
        ObservationBatch
            Possibly empty.

        Raises
        ------
        ObservationError
            Where dask-backed values or errors are bad.
        """
        if self.is_lazy:
            batch: ObservationBatch = self.lazy_batch(time).compute()
            return batch
        return _assemble(self, time, [None] * len(self.sources))

    def lazy_batch(self, time: int) -> Any:
        """Observations of one forecast time as a `dask.delayed.Delayed` of an ObservationBatch.

        Parameters
        ----------
        time : int
            Number of the forecast time.

        Returns
        -------
        Delayed
            Bad values and errors raise when it is computed.
        """
        from dask.delayed import delayed

        if "plan" not in self._shared:
            # One task holds the places for all forecast times, so that no task carries them twice.
            plan = replace(
                self, sources=tuple(s.without_arrays() for s in self.sources), _shared={}
            )
            self._shared["plan"] = delayed(plan, traverse=False)
        arrays = [source.lazy_arrays(time) for source in self.sources]
        return delayed(_assemble)(self._shared["plan"], time, arrays)

    @property
    def counts(self) -> dict[str, int]:
        """Number of values by what became of them, in words."""
        nothing = np.zeros(len(Status), dtype=np.int64)
        return _in_words(sum((_count(source) for source in self.sources), nothing))

    @property
    def used(self) -> int:
        """Number of values used; of dask-backed ones, of those in place and time."""
        return int(sum(_count(s)[[Status.USED, Status.UNCHECKED]].sum() for s in self.sources))

    def summary(self) -> str:
        """Say in a few lines what is used, and why the rest is not."""
        lines = []
        for source in self.sources:
            words = ", ".join(f"{n} {reason}" for reason, n in _in_words(_count(source)).items())
            lines.append(f"{source.subject}: {source.layout.size} values: {words or 'none'}")
        return "\n".join(lines)

    @property
    def table(self) -> dict[str, NDArray[Any]]:
        """One row per value of each source, in the order of its Dataset.

        Returns
        -------
        dict of str to array, shape (n_rows,)
            ``dataset`` and ``source``: numbers; ``index``: position in the variable, in C order;
            ``time``: forecast time it belongs to, or -1; ``status``: a `Status`.
        """
        types = {"dataset": "i4", "source": "i4", "index": "i8", "time": "i8", "status": "i1"}
        table: dict[str, NDArray[Any]] = {n: np.empty(self.n_rows, t) for n, t in types.items()}
        for number, source in enumerate(self.sources):
            layout = source.layout
            own = slice(source.first_row, source.first_row + layout.size)
            rows, places = (np.arange(n, dtype=np.int64) for n in layout.table_shape)
            flat = layout.flat_index(rows[:, None], places[None, :])
            matched = layout.matched[None, :] if layout.along_places else layout.matched[:, None]
            table["dataset"][own], table["source"][own] = source.dataset, number
            table["index"][own] = np.arange(layout.size)
            table["time"][own][flat] = np.broadcast_to(matched, flat.shape)
            table["status"][own][flat] = source.statuses()
        return table

    def column(
        self,
        pieces: Iterable[tuple[ObservationBatch, NDArray[Any]]],
        fill: float = np.nan,
    ) -> NDArray[np.float64]:
        """Put values of batches into the rows of the table.

        Parameters
        ----------
        pieces : iterable of (ObservationBatch, array of shape (..., n))
            Batches, at least one, and something for each of their observations.
        fill : float, optional
            Value of the other rows.

        Returns
        -------
        array of float, shape (..., n_rows)
            For `restore`.
        """
        result: NDArray[np.float64] | None = None
        for batch, values in pieces:
            if result is None:
                result = np.full((*np.shape(values)[:-1], self.n_rows), fill)
            result[..., batch.rows] = values
        return np.full(self.n_rows, fill) if result is None else result

    def restore(self, column: NDArray[Any]) -> list[dict[str, NDArray[Any]]]:
        """Bring something known for each row of the table back to the Datasets' own shapes.

        Parameters
        ----------
        column : array, shape (..., n_rows)
            One value per row, with leading dimensions such as members.

        Returns
        -------
        list of dict of str to array
            For each Dataset and each variable used, an array of shape (..., *variable's shape);
            the dimensions are those of ``source.layout.dims``.
        """
        restored: list[dict[str, NDArray[Any]]] = [{} for _ in range(self.n_datasets)]
        for source in self.sources:
            own = column[..., source.first_row : source.first_row + source.layout.size]
            shape = (*column.shape[:-1], *source.layout.shape)
            restored[source.dataset][source.name] = own.reshape(shape)
        return restored


def _assemble(
    plan: ObservationPlan, time: int, arrays: Sequence[tuple[Any, Any, Any] | None]
) -> ObservationBatch:
    """Build a batch from the sources in memory and the computed arrays of the others."""
    groups, parts = [], []
    blocks: list[CovarianceBlock] = []
    rejected: list[tuple[Ints, Status]] = []
    count = 0
    for source, given in zip(plan.sources, arrays, strict=True):
        taken = source.take(time, given)
        rejected += taken.rejected
        if not taken.values.size:
            continue
        layout = source.layout
        points = layout.points.take(taken.places)
        groups.append(Group(source.operator, points, source.dataset))
        where = np.stack([position[taken.places] for position in layout.positions])
        instants = layout.instants[taken.places if layout.along_places else taken.times]
        parts.append((taken.values, taken.errors, taken.rows, where, instants))
        if source.structure is not None:
            blocks += source.structure.blocks(
                layout, taken.times, taken.places, where, plan.axes, count
            )
        count += taken.values.size
    if not parts:
        nothing = np.zeros(0), np.zeros(0), np.zeros(0, dtype=np.int64)
        return ObservationBatch(*nothing, (), plan.layout, rejected=tuple(rejected))
    values, errors, rows, where, instants = (
        np.concatenate(column, axis=-1) for column in zip(*parts, strict=True)
    )
    return ObservationBatch(
        values,
        errors,
        rows,
        tuple(groups),
        plan.layout,
        where,
        instants,
        tuple(blocks),
        rejected=tuple(rejected),
    )


def _count(source: Source) -> NDArray[np.int64]:
    return np.bincount(source.statuses().reshape(-1), minlength=len(Status))


def _in_words(count: NDArray[np.int64]) -> dict[str, int]:
    return {status.reason: int(count[status]) for status in Status if count[status]}


def match_observations(
    obs: xr.Dataset | Sequence[xr.Dataset],
    spec: StateSpec,
    times: NDArray[Any] | None,
    options: ObservationOptions | None = None,
    **keywords: Unpack[ObservationKeywords],
) -> ObservationPlan:
    """Assign observations to the grid and the times of a forecast.

    Parameters
    ----------
    obs : Dataset or sequence of Dataset
        Points, station series, or fields on the state's coordinate values; not modified.
    spec : StateSpec
        The state.
    times : array of datetime64 or cftime, shape (n,), or None
        The forecast's times.
    options : ObservationOptions, optional
        How they are read; when None, `keywords` make it.
    **keywords
        Attributes of `ObservationOptions`.

    Returns
    -------
    ObservationPlan
        What is used when.

    Raises
    ------
    ObservationError
        With everything that is wrong with the observations.
    DaisiTypeError
        For arguments of the wrong type.

    Warns
    -----
    NoObservationsWarning
        Where no observation can be used.
    """
    datasets = _datasets(obs)
    options = ObservationOptions(**keywords) if options is None else options
    forecast_times = ForecastTimes(times, options.time_tolerance)
    sources: list[Source] = []
    coordinates: list[Coordinates] = []
    names = [str(name) for ds in datasets for name in ds.data_vars]
    problems = options.unknown_names(names, spec)
    for number, ds in enumerate(datasets):
        subject = "observations" if len(datasets) == 1 else f"observations[{number}]"
        try:
            own, found = read_dataset(ds, number, spec, forecast_times, options, subject)
        except DaisiTypeError:
            raise
        except DaisiError as error:
            problems.append(str(error))
            continue
        coordinates.append(found)
        for source in own:
            first = sources[-1].first_row + sources[-1].layout.size if sources else 0
            sources.append(replace(source, first_row=first))
    raise_problems(ObservationError, problems)
    plan = ObservationPlan(
        tuple(sources),
        forecast_times.count,
        StateLayout.of(spec),
        len(datasets),
        PlaneAxes.of(spec),
        options,
    )
    if plan.used == 0:
        text = _nothing_used(plan, spec, forecast_times, coordinates)
        warnings.warn(text, NoObservationsWarning, stacklevel=2)
    return plan


def _datasets(obs: object) -> list[xr.Dataset]:
    import xarray as xr

    given = [obs] if isinstance(obs, (xr.Dataset, xr.DataArray)) else obs
    if not isinstance(given, Sequence) or isinstance(given, str) or len(given) == 0:
        found = "nothing" if isinstance(given, Sequence) and not given else type(obs).__name__
        raise DaisiTypeError(problem("observations", found, "a Dataset or a list of Datasets"))
    for number, one in enumerate(given):
        if not isinstance(one, xr.Dataset):
            remedy = "use .to_dataset(name=...)" if isinstance(one, xr.DataArray) else ""
            subject = f"observations[{number}]" if given is obs else "observations"
            raise DaisiTypeError(problem(subject, type(one).__name__, "a Dataset", remedy))
    return list(given)


def _nothing_used(
    plan: ObservationPlan,
    spec: StateSpec,
    times: ForecastTimes,
    coordinates: Sequence[Coordinates],
) -> str:
    """Text of the warning: what the forecast covers, and what the observations cover."""
    words = ", ".join(f"{count} {reason}" for reason, count in plan.counts.items())
    lines = [f"no observation can be used ({words or 'there are none'}): the forecast stays as is"]
    for axis, dim in enumerate(spec.dims):
        values = np.concatenate(
            [found.horizontal[axis].values.reshape(-1) for found in coordinates]
        )
        grid = spec.coords[dim]
        text = f"{dim}: found {_span(values)}, expected {np.min(grid):g} to {np.max(grid):g}"
        lines.append(text)
    for variable in spec.variables:
        places = [found.vertical.get(variable.level_dim or "") for found in coordinates]
        heights = [place.values.reshape(-1) for place in places if place is not None]
        if variable.levels and heights:
            span = _span(np.asarray(variable.levels))
            found_span = _span(np.concatenate(heights))
            lines.append(f"{variable.level_dim}: found {found_span}, expected {span}")
    timed = [found.time for found in coordinates if found.time is not None]
    dates = [time.values.reshape(-1) for time in timed if time.values.size]
    if dates:
        first, last = dates[0][0], dates[-1][-1]
        lines.append(f"time: found {first} to {last}, expected {times.span()}")
    return "; ".join(dict.fromkeys(lines))


def _span(values: NDArray[np.float64]) -> str:
    finite = values[np.isfinite(values)]
    return f"{finite.min():g} to {finite.max():g}" if finite.size else "no position"
