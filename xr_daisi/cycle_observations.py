"""The observations of each window of a cycle, from Datasets, files or a function of time."""

from __future__ import annotations

import glob
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from xr_daisi.ensembles import time_text
from xr_daisi.errors import DaisiTypeError, ObservationError, problem
from xr_daisi.formats import read_observations
from xr_daisi.observation_coordinates import find_time
from xr_daisi.observation_times import duplicate_time

__all__ = ["ObservationSource", "Window", "observation_source"]


@dataclass(frozen=True)
class Window:
    """What belongs to one analysis: later than `start`, not later than `stop`.

    Half open, so that every observation is in exactly one window; one in the middle between two
    analyses goes to the earlier.

    Attributes
    ----------
    time : datetime64
        Of the analysis.
    length : timedelta64
        From one analysis to the next.
    """

    time: np.datetime64
    length: np.timedelta64

    def contains(self, times: np.ndarray) -> np.ndarray:
        """Tell which times belong to it; missing ones do not."""
        after = times.astype("datetime64[us]") - self.time
        twice = 2 * after.astype("timedelta64[us]")  # halves of odd lengths are no microseconds
        inside: np.ndarray = (twice > -self.length) & (twice <= self.length)
        return inside


class ObservationSource:
    """Observations in memory: one Dataset or several, in any order of times."""

    #: Whether the same window always has the same observations.
    fixed = True

    def __init__(self, observations: Sequence[xr.Dataset], *, single: bool) -> None:
        self.datasets = [read_observations(ds) for ds in observations]
        self.single = single
        for number, ds in enumerate(self.datasets):
            subject = _subject(number, single)
            times = _times(ds, subject)
            if times is None:
                found = f"no time among the coordinates {', '.join(map(str, ds.coords)) or 'none'}"
                remedy = "obs.assign_coords(time=...), or give a function of time that returns them"
                expected = "times, which tell the analysis that each belongs to"
                raise ObservationError(problem(subject, found, expected, remedy))
            position = find_time(ds, subject)
            is_series = position is not None and position.dims == (position.name,)
            twice = duplicate_time(times) if is_series else None
            if position is not None and twice is not None:
                remedy = f"obs = obs.drop_duplicates({position.name!r}), or average them"
                raise ObservationError(
                    problem(
                        f"{subject}, {position.name}", f"{twice} twice", "each time once", remedy
                    )
                )

    def of_window(self, window: Window) -> list[xr.Dataset]:
        """Return the observations of a window, without Datasets that have none there."""
        found = [
            selected(ds, window, _subject(i, self.single)) for i, ds in enumerate(self.datasets)
        ]
        return [ds for ds in found if ds is not None]

    def last_time(self) -> np.datetime64 | None:
        """Return the time of the last observation, None where that is not known."""
        ends = [_times(ds, "observations") for ds in self.datasets]
        known = [t[~np.isnat(t)].max() for t in ends if t is not None and (~np.isnat(t)).any()]
        return max(known) if known else None


class FunctionSource(ObservationSource):
    """A function of the time of analysis."""

    fixed = False

    def __init__(self, function: Callable[[np.datetime64], Any]) -> None:
        self.function = function
        self.single = False

    def of_window(self, window: Window) -> list[xr.Dataset]:
        """Return what the function gives, where it has times those within the window."""
        given = self.function(window.time.astype("datetime64[ns]"))
        if given is None:
            return []
        several = given if isinstance(given, (list, tuple)) else [given]
        found = [selected(read_observations(ds), window, "observations") for ds in several]
        return [ds for ds in found if ds is not None]

    def last_time(self) -> None:
        """Nothing is known."""
        return


class FileSource(ObservationSource):
    """Files, looked for again in every cycle: some may not be there yet.

    Parameters
    ----------
    pattern : str
        A path; with wildcards; or with the time of analysis, as ``obs-{time:%Y%m%d%H}.nc``.
    """

    fixed = False

    def __init__(self, pattern: str) -> None:
        self.pattern = str(Path(pattern).expanduser())
        self.single = False
        self.spans: dict[tuple[str, int, int], tuple[np.datetime64, np.datetime64] | None] = {}

    def paths(self, time: np.datetime64 | None = None) -> list[str]:
        """Return the files that are there, sorted by name."""
        pattern = self.pattern
        if "{time" in pattern:
            if time is None:
                return []
            pattern = pattern.format(time=pd.Timestamp(time))
        # Not a wildcard in a name that is there as it stands.
        return [pattern] if Path(pattern).exists() else sorted(glob.glob(pattern, recursive=True))

    def of_window(self, window: Window) -> list[xr.Dataset]:
        """Return the observations of a window in all files that are there."""
        found = []
        for path in self.paths(window.time):
            key = self._key(path)
            span = self.spans.get(key)
            if span is not None and not _meets(span, window):
                continue
            with read_observations(path) as ds:
                times = _times(ds, path)
                if times is not None:
                    self.spans[key] = _span(times)
                elif "{time" not in self.pattern:
                    expected = "times, which tell the analysis that each belongs to"
                    remedy = "or name the files by time: obs-{time:%Y%m%d%H}.nc"
                    raise ObservationError(problem(path, "no times", expected, remedy))
                chosen = selected(ds, window, path)
            found += [] if chosen is None else [chosen]
        return found

    def last_time(self) -> np.datetime64 | None:
        """Return the time of the last observation in the files that are there."""
        ends = []
        for path in self.paths():
            with read_observations(path) as ds:
                times = _times(ds, path)
                span = None if times is None else _span(times)
                self.spans[self._key(path)] = span
                ends += [] if span is None else [span[1]]
        return max(ends) if ends else None

    @staticmethod
    def _key(path: str) -> tuple[str, int, int]:
        stat = Path(path).stat()
        return path, stat.st_mtime_ns, stat.st_size


def observation_source(observations: Any) -> ObservationSource:
    """Take observations in one of the forms that a cycle knows.

    Parameters
    ----------
    observations : Dataset, sequence of Dataset, callable, str or Path
        With times; or a function of the time of analysis; or files.

    Raises
    ------
    ObservationError, DaisiTypeError
        Where they have no times, or are none of these.
    """
    if isinstance(observations, (str, Path)):
        return FileSource(str(observations))
    if isinstance(observations, xr.Dataset):
        return ObservationSource([observations], single=True)
    if isinstance(observations, (list, tuple)) and observations:
        return ObservationSource(observations, single=False)
    if callable(observations):
        return FunctionSource(observations)
    expected = "a Dataset, a list of them, a function of time, or files"
    found = type(observations).__name__
    raise DaisiTypeError(problem("observations", found, expected))


def selected(ds: xr.Dataset, window: Window, subject: str) -> xr.Dataset | None:
    """Return what of a Dataset belongs to a window, in memory; None where nothing does.

    A Dataset without times belongs as a whole.
    """
    position = find_time(ds, subject)
    if position is None:
        return ds.compute()
    inside = window.contains(_dates(position.values, f"{subject}, {position.name}"))
    if not inside.any():
        return None
    if inside.all():
        return ds.compute()
    if inside.ndim == 1:
        return ds.isel({position.dims[0]: np.flatnonzero(inside)}).compute()
    rows = np.flatnonzero(inside.any(axis=tuple(range(1, inside.ndim))))
    mask = xr.DataArray(inside[rows], dims=position.dims)
    part = ds.isel({position.dims[0]: rows})
    # Values of a swath whose times lie in another window are used there.
    masked = {
        n: v.where(mask)
        for n, v in part.data_vars.items()
        if v.dtype.kind == "f" and set(position.dims) <= set(v.dims)
    }
    return part.assign(masked).compute()


def _times(ds: xr.Dataset, subject: str) -> np.ndarray | None:
    position = find_time(ds, subject)
    return None if position is None else _dates(position.values, f"{subject}, {position.name}")


def _dates(values: Any, subject: str) -> np.ndarray:
    times = np.asarray(values)
    if times.dtype.kind == "O":
        try:
            return np.asarray(pd.to_datetime(times.ravel()), dtype="datetime64[us]").reshape(
                times.shape
            )
        except (ValueError, TypeError):
            pass
    if times.dtype.kind != "M":
        found = f"values of type {times.dtype}"
        remedy = "decode the times, e.g. with xr.decode_cf"
        raise ObservationError(problem(subject, found, "dates of the standard calendar", remedy))
    return times.astype("datetime64[us]")


def _span(times: np.ndarray) -> tuple[np.datetime64, np.datetime64] | None:
    known = times[~np.isnat(times)]
    return (known.min(), known.max()) if known.size else None


def _meets(span: tuple[np.datetime64, np.datetime64], window: Window) -> bool:
    first, last = span
    return bool(
        2 * (first - window.time) <= window.length and 2 * (last - window.time) > -window.length
    )


def _subject(number: int, single: bool) -> str:
    return "observations" if single else f"observations {number}"


def told_window(window: Window) -> str:
    """Return a window in words."""
    return f"the window of {time_text(window.time)}"
