"""Training states streamed from a lazy Dataset: statistics, batches, never all in memory.

A history is seen as a stack of states ``(time, member, channel, *space)``. It is read in blocks
along time, the ones of its dask chunks, in a new random order each epoch; a pool of several blocks
is shuffled before batches are cut from it, while the next pool is being read in the background.
A history smaller than the pool is read once and stays in memory.
"""

from __future__ import annotations

import itertools
import math
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from xr_daisi.dimensions import find_dimensions
from xr_daisi.errors import StateError, problem, raise_problems
from xr_daisi.holes import fill_holes
from xr_daisi.state import Normalization, StateSpec
from xr_daisi.transforms import TRANSFORMS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import xarray as xr

__all__ = ["History", "Statistics"]

POOL_BYTES = 1 << 30
"""Memory for one pool of states, bytes; at most two pools are held at a time."""


@dataclass(frozen=True)
class Statistics:
    """Mean and variance per channel and point, ``(channel, *space)``, and the number of states.

    Both are 0 in holes, where the states are NaN; `holes` is None where nothing was said of them.
    """

    mean: np.ndarray
    variance: np.ndarray
    count: int
    holes: np.ndarray | None = None

    def averaged(self, axes: tuple[int, ...]) -> Statistics:
        """Pool the points along `axes`, dimensions along which the statistics do not change."""
        if not axes:
            return self
        mean = self.mean.mean(axis=axes, keepdims=True)
        between = ((self.mean - mean) ** 2).mean(axis=axes, keepdims=True)
        variance = self.variance.mean(axis=axes, keepdims=True) + between
        points = math.prod(self.mean.shape[axis] for axis in axes)
        shape = self.mean.shape
        return Statistics(
            np.broadcast_to(mean, shape).copy(),
            np.broadcast_to(variance, shape).copy(),
            self.count * points,
            self.holes,
        )

    def normalization(self, kind: str, transforms: tuple[str | None, ...]) -> Normalization:
        """Turn into a normalisation.

        Parameters
        ----------
        kind : str
            ``"variable"``: one mean and deviation per channel; ``"point"``: both per grid point;
            ``"point-mean"``: mean per grid point, one deviation of the anomalies per channel.
        transforms : tuple of str or None
            Transforms that the statistics were taken after.
        """
        space = tuple(range(1, self.mean.ndim))
        holes = self.holes if self.holes is not None and self.holes.any() else None
        where = True if holes is None else ~holes

        def average(values: np.ndarray) -> np.ndarray:
            averaged: np.ndarray = values.mean(axis=space, keepdims=True, where=where)
            return averaged

        within, mean = average(self.variance), average(self.mean)
        each = fill_holes(self.mean, holes, mean)
        if kind == "point":
            # A point that never varies (sea ice of a warm sea) keeps a tiny share of the typical
            # deviation: normalised values stay finite.
            typical = np.sqrt(within)
            std = fill_holes(np.maximum(np.sqrt(self.variance), 1e-3 * typical), holes, typical)
            return Normalization(each, std, transforms, self.holes)
        if kind == "point-mean":
            return Normalization(each, np.sqrt(within), transforms, self.holes)
        between = average((self.mean - mean) ** 2)
        return Normalization(mean, np.sqrt(within + between), transforms, self.holes)


class History:
    """A lazy stack of training states.

    Parameters
    ----------
    ds : xarray.Dataset
        Fields with a time and possibly a member dimension, in memory or dask-backed.
    spec : StateSpec
        Variables and grid; made from `ds`.
    transforms : mapping of str to str
        Transform name per variable.
    pool_bytes : int
        Memory for one pool of states.

    Attributes
    ----------
    holes : ndarray of bool or None
        ``(channel, *space)``: where the first state that was read is NaN, and so every other has
        to be; None before anything was read.

    Raises
    ------
    StateError
        If there is neither time nor member dimension, times are missing, repeated or not in order,
        or variables are not numbers.
    """

    def __init__(
        self,
        ds: xr.Dataset,
        spec: StateSpec,
        transforms: Mapping[str, str],
        *,
        pool_bytes: int = POOL_BYTES,
    ) -> None:
        dims = find_dimensions(ds, spec.names, what="history")
        if dims.time is None and dims.member is None:
            raise StateError(
                problem(
                    "history",
                    f"dimensions {tuple(ds.sizes)}",
                    "a time (or member) dimension with many states",
                    "give a Dataset with a time dimension",
                )
            )
        self.ds, self.spec, self.dims = ds, spec, dims
        self.along = dims.time or str(dims.member)
        self._check_labels()
        self.inner = dims.member if dims.time and dims.member else None
        self.transforms = tuple(
            transforms.get(v.name) for v in spec.variables for _ in range(v.size)
        )
        self.size = ds.sizes[self.along]
        self.per_time = ds.sizes[self.inner] if self.inner else 1
        self.state_bytes = 4 * math.prod(spec.shape)
        self.pool_bytes = pool_bytes
        self._memory: dict[tuple[int, int], np.ndarray] = {}
        self.holes: np.ndarray | None = None
        self._holes_from = ""

    def read(self, start: int, stop: int) -> np.ndarray:
        """Load states ``start:stop`` along time as ``(state, channel, *space)`` float32.

        Holes, where every state is NaN, are 0.

        Raises
        ------
        StateError
            Where values are infinite, NaN comes and goes, or a transform does not apply.
        """
        part = self.ds[list(self.spec.names)].isel({self.along: slice(start, stop)}).compute()
        arrays: list[np.ndarray] = []
        sizes: list[dict[str, int]] = []
        for v in self.spec.variables:
            level = self.dims.level[v.name]
            order = [d for d in (self.along, self.inner, level, *self.spec.dims) if d]
            da = part[v.name]
            for d in (self.along, self.inner):
                if d and d not in da.dims:
                    da = da.expand_dims({d: part.sizes[d]})
            with np.errstate(over="ignore"):  # infinite in float32 is reported below
                values = da.transpose(*order).to_numpy().astype(np.float32)
            arrays.append(values.reshape(-1, v.size, *self.spec.space_shape))
            sizes.append(dict(zip(order, values.shape, strict=True)))
        if self.holes is None:
            self._find_holes(arrays, part, start)
        for v, size, values in zip(self.spec.variables, sizes, arrays, strict=True):
            self._check_values(v.name, size, values, part, start)
        x = np.concatenate(arrays, axis=1) if len(arrays) > 1 else arrays[0]
        for channel, name in enumerate(self.transforms):
            if name:
                x[:, channel] = TRANSFORMS[name].forward(x[:, channel])
        if self.holes is not None and self.holes.any():
            x[:, self.holes] = 0.0
        return np.ascontiguousarray(x)

    def _find_holes(self, arrays: list[np.ndarray], part: xr.Dataset, start: int) -> None:
        """Take the holes from the first state that is read."""
        holes = np.isnan(np.concatenate([values[0] for values in arrays]))
        label = part[self.along].values[0] if self.along in part.coords else start
        problems = []
        for v in self.spec.variables:
            everywhere = holes[self.spec.channel_slice(v.name)].reshape(v.size, -1).all(axis=1)
            if everywhere.any():
                number = int(everywhere.sum())
                found = "NaN everywhere" + (f" on {number} of {v.size} levels" if v.levels else "")
                problems.append(
                    problem(
                        f"history variable {v.name!r}",
                        f"{found} at {self.along}={label}",
                        "values",
                        "leave out the variable, its empty levels or these times",
                    )
                )
        raise_problems(StateError, problems)
        self.holes, self._holes_from = holes, f"{self.along}={label}"

    def _check_labels(self) -> None:
        problems = [
            problem(
                f"history variable {name!r}",
                f"values of type {self.ds[name].dtype}",
                "real numbers",
                "name the variables of the state: variables=[...]",
            )
            for name in self.spec.names
            if self.ds[name].dtype.kind not in "fiub"
        ]
        times = self.ds.indexes.get(self.dims.time) if self.dims.time else None
        if times is not None and times.nlevels == 1:
            remedy = ""
            if times.hasnans:
                found, remedy = "missing times", "leave these states out"
            elif times.has_duplicates:
                found = f"times that repeat, first {times[times.duplicated()][0]}"
                remedy = f"ds.drop_duplicates({self.dims.time!r}), or a member dimension"
            elif not times.is_monotonic_increasing:
                found, remedy = "times that are not in order", f"ds.sortby({self.dims.time!r})"
            if remedy:
                # The last part of the period validates: without order there is no last part.
                subject = f"coordinate {self.dims.time!r} of the history"
                problems.append(problem(subject, found, "increasing times", remedy))
        raise_problems(StateError, problems)

    def _check_values(
        self, name: str, sizes: dict[str, int], values: np.ndarray, part: xr.Dataset, start: int
    ) -> None:
        channels = self.spec.channel_slice(name)
        subject = f"history variable {name!r}"
        holes = np.zeros(values.shape[1:], bool) if self.holes is None else self.holes[channels]

        def found(bad: np.ndarray, what: str) -> str:
            place = []
            for d, i in zip(sizes, np.argwhere(bad.reshape(*sizes.values()))[0], strict=True):
                offset = start if d == self.along else 0
                place.append(f"{d}={part[d].values[i] if d in part.coords else offset + i}")
            return f"{int(bad.sum())} values that are {what}, first at {', '.join(place)}"

        problems = []
        expected = "finite values, or NaN at the same points of all states"
        finite = np.isfinite(values)
        bad = ~finite & ~(np.isnan(values) & holes)
        if bad.any():
            remedy = "fill them or leave out these times"
            problems.append(problem(subject, found(bad, "not finite"), expected, remedy))
        bad = ~np.isnan(values) & holes
        if bad.any():
            over = [d for d in (self.along, self.inner) if d]
            remedy = (
                f"fill the NaN, or mask: ds[{name!r}].where(ds[{name!r}].notnull().all({over}))"
            )
            what = f"not NaN, as they are at {self._holes_from}"
            problems.append(problem(subject, found(bad, what), expected, remedy))
        transform = self.transforms[channels.start]
        if transform and not problems and TRANSFORMS[transform].outside(values).any():
            low, high = np.nanmin(values), np.nanmax(values)
            too_low = low < TRANSFORMS[transform].lower
            remedy = "clip the values or choose another transform"
            if not too_low and high > 2.0:
                remedy = "convert percent to fractions, " + remedy
            problems.append(
                problem(
                    subject,
                    f"values down to {low:g}" if too_low else f"values up to {high:g}",
                    f"{TRANSFORMS[transform].allowed} for transform={transform!r}",
                    remedy,
                )
            )
        raise_problems(StateError, problems)

    def blocks(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Cut ``start:stop`` along time into blocks that follow the dask chunks, small enough."""
        limit = max(1, self.pool_bytes // (4 * self.state_bytes * self.per_time))
        chunks = self.ds[self.spec.names[0]].chunksizes.get(self.along)
        if not chunks:
            chunks = (limit,) * -(-self.size // limit)
        edges = [start]
        position = 0
        for chunk in chunks:
            for offset in range(0, chunk, limit):
                edge = position + offset
                if start < edge < stop:
                    edges.append(edge)
            position += chunk
        edges.append(stop)
        return [(a, b) for a, b in itertools.pairwise(edges) if b > a]

    def statistics(self, start: int, stop: int) -> Statistics:
        """Mean and variance of states ``start:stop``, one block at a time (Chan et al. 1979)."""
        mean = np.zeros(self.spec.shape)
        squares = np.zeros(self.spec.shape)
        count = 0
        for first, last in self.blocks(start, stop):
            x = self._block(first, last, keep=self._fits(start, stop))
            n = x.shape[0]
            block_mean = x.mean(axis=0, dtype=np.float64)
            block_squares = ((x - block_mean) ** 2).sum(axis=0, dtype=np.float64)
            delta = block_mean - mean
            mean += delta * (n / (count + n))
            squares += block_squares + delta**2 * (count * n / (count + n))
            count += n
        return Statistics(mean, squares / max(count, 1), count, self.holes)

    def batches(
        self, start: int, stop: int, size: int, *, seed: int, epoch: int
    ) -> Iterator[np.ndarray]:
        """Yield one epoch of shuffled batches ``(size, channel, *space)`` of states ``start:stop``.

        The order depends on `seed` and `epoch` alone. A short rest is carried into the next pool
        and dropped at the end of the epoch, unless it is all there is.
        """
        rng = np.random.default_rng([seed, epoch])
        blocks = self.blocks(start, stop)
        rng.shuffle(blocks)
        pools = self._pools(blocks)
        keep = self._fits(start, stop)
        spare = size - 1  # a rest is shorter than a batch
        rest = np.zeros((0, *self.spec.shape), dtype=np.float32)
        emitted = False
        with ThreadPoolExecutor(1) as reader:
            ahead: Future[np.ndarray] = reader.submit(self._pool, pools[0], spare, keep)
            for number in range(len(pools)):
                pool = ahead.result()
                if number + 1 < len(pools):
                    ahead = reader.submit(self._pool, pools[number + 1], spare, keep)
                first_state = spare - rest.shape[0]
                pool[first_state:spare] = rest
                pool = pool[first_state:]
                order = rng.permutation(pool.shape[0])
                whole = pool.shape[0] - pool.shape[0] % size
                for first in range(0, whole, size):
                    emitted = True
                    yield pool[order[first : first + size]]
                rest = pool[order[whole:]]
        if not emitted and rest.shape[0]:
            yield rest

    def _fits(self, start: int, stop: int) -> bool:
        return (stop - start) * self.per_time * self.state_bytes <= self.pool_bytes

    def _pools(self, blocks: list[tuple[int, int]]) -> list[list[tuple[int, int]]]:
        pools: list[list[tuple[int, int]]] = [[]]
        used = 0
        for block in blocks:
            cost = (block[1] - block[0]) * self.per_time * self.state_bytes
            if pools[-1] and used + cost > self.pool_bytes:
                pools.append([])
                used = 0
            pools[-1].append(block)
            used += cost
        return pools

    def _pool(self, blocks: list[tuple[int, int]], spare: int, keep: bool) -> np.ndarray:
        """Read blocks behind `spare` states that are left free, without a second copy of a pool."""
        states = sum(b - a for a, b in blocks) * self.per_time
        pool = np.empty((spare + states, *self.spec.shape), dtype=np.float32)
        position = spare
        for a, b in blocks:
            x = self._block(a, b, keep=keep)
            pool[position : position + x.shape[0]] = x
            position += x.shape[0]
        return pool

    def _block(self, start: int, stop: int, *, keep: bool) -> np.ndarray:
        if (start, stop) in self._memory:
            return self._memory[start, stop]
        x = self.read(start, stop)
        if keep:
            self._memory[start, stop] = x
        return x
