"""Which observations belong to which forecast time, and the batches made of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from xr_daisi.duplicates import duplicated, repeated
from xr_daisi.interpolation import Ints, Moments
from xr_daisi.observation_batch import ObservationBatch, joined
from xr_daisi.observation_options import ObservationOptions
from xr_daisi.observation_sources import Source
from xr_daisi.observation_status import Status
from xr_daisi.operators import Group, StateLayout
from xr_daisi.plane import PlaneAxes

if TYPE_CHECKING:
    from xr_daisi.error_covariance import CovarianceBlock

__all__ = ["ObservationPlan"]


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

    @cached_property
    def windows(self) -> list[tuple[int, ...]]:
        """Times that are analysed together: those that observations lie between, else each alone.

        Times that only dask-backed values lie between count as linked, whatever the values are.
        """
        links: set[tuple[int, int]] = set()
        if self.options.time_interpolation == "linear":
            for source in self.sources:
                layout = source.layout
                used = np.isin(source.statuses(), (Status.USED, Status.UNCHECKED))
                # Times lie along the places or along the rows.
                between = used.any(axis=0 if layout.along_places else 1) & (layout.fraction > 0)
                pairs = np.stack([layout.matched[between], layout.other[between]], axis=1)
                links |= {(int(a), int(b)) for a, b in np.unique(pairs, axis=0)}
        return _linked_times(self.n_times, sorted(links))

    def window_batch(self, times: Sequence[int]) -> ObservationBatch:
        """Observations of times that are analysed together; see `batch`.

        Parameters
        ----------
        times : sequence of int
            One of `windows`.

        Returns
        -------
        ObservationBatch
            Of the trajectory of these times.
        """
        return joined([self.batch(time) for time in times], times)

    def lazy_window_batch(self, times: Sequence[int]) -> Any:
        """Return `window_batch` as a `dask.delayed.Delayed`."""
        from dask.delayed import delayed

        if len(times) == 1 and self.options.time_interpolation == "nearest":
            return self.lazy_batch(times[0])
        return delayed(joined)([self.lazy_batch(time) for time in times], list(times))

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

    def without_duplicates(self) -> tuple[ObservationPlan, int]:
        """Mark what came twice among data in memory; dask-backed data are left for their tasks.

        Returns
        -------
        plan : ObservationPlan
            With duplicates marked.
        count : int
            Values that share variable, place and time with another, of sources without instruments.
        """
        if self.is_lazy or not self.sources:
            return self, 0
        rows, count = [], 0
        for time in range(self.n_times):
            batch = self.batch(time)
            again = duplicated(batch, self.axes)
            rows.append(batch.rows[again])
            named = [self.sources[i].instruments for i in _sources_of(self, batch)]
            count += repeated(batch.keep(~again & ~np.asarray(named, dtype=bool)), self.axes)
        double = np.concatenate(rows)
        if not double.size:
            return self, count
        marked = tuple(source.marked(double, Status.DUPLICATE) for source in self.sources)
        return replace(self, sources=marked, _shared={}), count

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
        at = taken.places if layout.along_places else taken.times
        if plan.options.time_interpolation == "linear":
            here = np.full(at.size, time, dtype=np.int64)
            moments = Moments(here, layout.other[at], layout.fraction[at], plan.layout.channels)
            points = replace(points, moments=moments)
        groups.append(Group(source.operator, points, source.dataset))
        where = np.stack([position[taken.places] for position in layout.positions])
        parts.append((taken.values, taken.errors, taken.rows, where, layout.instants[at]))
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
    batch = ObservationBatch(
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
    # Of data in memory duplicates were found when the plan was made.
    return batch.reject(duplicated(batch, plan.axes), Status.DUPLICATE) if plan.is_lazy else batch


def _sources_of(plan: ObservationPlan, batch: ObservationBatch) -> NDArray[np.int64]:
    """Find the source of each observation."""
    first = [source.first_row for source in plan.sources]
    return np.searchsorted(first, batch.rows, side="right") - 1


def _count(source: Source) -> NDArray[np.int64]:
    return np.bincount(source.statuses().reshape(-1), minlength=len(Status))


def _in_words(count: NDArray[np.int64]) -> dict[str, int]:
    return {status.reason: int(count[status]) for status in Status if count[status]}


def _linked_times(count: int, links: Iterable[tuple[int, int]]) -> list[tuple[int, ...]]:
    """Group times that belong together: each once, groups by their first time."""
    group = list(range(count))
    for first, second in links:
        low, high = sorted((group[first], group[second]))
        group = [low if g == high else g for g in group]
    found: dict[int, list[int]] = {}
    for time, g in enumerate(group):
        found.setdefault(g, []).append(time)
    return [tuple(times) for times in found.values()]
