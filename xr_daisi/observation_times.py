"""To which forecast time an observation belongs: dates, cftime calendars, durations and numbers."""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from xr_daisi.errors import (
    DaisiTypeError,
    ObservationError,
    SettingsError,
    StateError,
    problem,
    raise_problems,
)

__all__ = ["ForecastTimes", "TimeMatch", "TimeTolerance", "duplicate_time", "time_text"]

TimeTolerance = str | float | datetime.timedelta | np.timedelta64

# Calendars that agree with datetime64 since 1582.
STANDARD_CALENDARS = {"standard", "gregorian", "proleptic_gregorian"}
SINGLE_TIME_TOLERANCE = "30min"
_EPOCH = "microseconds since 1970-01-01"


@dataclass(frozen=True, eq=False)
class _Decoded:
    """Times as numbers: microseconds for dates and durations, else what they are."""

    numbers: NDArray[Any]
    missing: NDArray[np.bool_]
    kind: str  # "dates", "durations" or "numbers"
    calendar: str | None = None


class TimeMatch(NamedTuple):
    """Forecast times of observations, all arrays of shape (n,).

    Attributes
    ----------
    nearest : array of int
        Number of the nearest forecast time, -1 where none is near enough. Of two equally near ones
        the earlier.
    missing : array of bool
        Where an observation has no time.
    instants : array
        The observations' times as numbers, equal for equal times.
    other : array of int
        Number of the forecast time on the observation's other side; the nearest where there is
        none, or where the two coincide.
    fraction : array of float
        Weight of `other` in the linear interpolation in time, in [0, 0.5].
    """

    nearest: NDArray[np.int64]
    missing: NDArray[np.bool_]
    instants: NDArray[Any]
    other: NDArray[np.int64]
    fraction: NDArray[np.float64]


def time_text(time: Any) -> str:
    """Write a time without the digits that say nothing: ``2019-03-01T06:00``."""
    if not isinstance(time, np.datetime64) or np.isnat(time):
        return str(time)
    text = np.datetime_as_string(time, unit="auto")
    return str(text if "T" in text and len(text) > 13 else np.datetime_as_string(time, unit="m"))


class ForecastTimes:
    """The times of a forecast, to which observations are assigned.

    Parameters
    ----------
    times : array, shape (n,), or None
        Dates (datetime64 or cftime), timedelta64 or numbers, in any order; None for a forecast
        without time.
    tolerance : str, timedelta or number, optional
        How far from a forecast time an observation may be, that far included: a timedelta, or text
        such as ``"30min"``; a number where the times are numbers. Default: half the smallest step;
        30 minutes for a single time.

    Raises
    ------
    StateError
        Where times of the forecast are missing or occur twice.
    SettingsError, DaisiTypeError
        For a tolerance that is none.
    """

    def __init__(self, times: NDArray[Any] | None, tolerance: TimeTolerance | None = None) -> None:
        self.times = None if times is None else np.atleast_1d(np.asarray(times))
        self.count = 1 if self.times is None else self.times.size
        if self.times is None:
            if tolerance is not None:
                _tolerance(tolerance, "dates")
            return
        decoded = _decode(self.times, "forecast time", StateError)
        if decoded.missing.any():
            where = int(np.argmax(decoded.missing))
            found = f"no time at position {where}"
            raise StateError(problem("forecast time", found, "a time for every state"))
        twice = duplicate_time(self.times)
        if twice is not None:
            remedy = "forecast = forecast.drop_duplicates('time')"
            raise StateError(problem("forecast time", f"{twice} twice", "each time once", remedy))
        self._order = np.argsort(decoded.numbers, kind="stable")
        self._sorted = decoded.numbers[self._order]
        self._kind, self._calendar = decoded.kind, decoded.calendar
        if tolerance is not None:
            self.tolerance = _tolerance(tolerance, self._kind)
        elif self.count > 1:
            self.tolerance = float(np.min(np.diff(self._sorted))) / 2
        elif self._kind == "numbers":
            self.tolerance = 0.0
        else:
            self.tolerance = _tolerance(SINGLE_TIME_TOLERANCE, self._kind)

    def match(self, times: NDArray[Any], subject: str = "time") -> TimeMatch:
        """Nearest forecast time of each observation.

        Parameters
        ----------
        times : array, shape (n,)
            Times of the observations.
        subject : str, optional
            Name for error messages.

        Returns
        -------
        TimeMatch
            The nearest forecast time, and the one on the other side.

        Raises
        ------
        ObservationError
            Where the two kinds of time cannot be compared.
        """
        times = np.asarray(times)
        decoded = _decode(times, subject, ObservationError)
        if self.times is None:
            distinct = np.unique(decoded.numbers[~decoded.missing])
            if distinct.size > 1:
                found = f"{distinct.size} different times where the forecast has none"
                remedy = (
                    "give the forecast its time, forecast.expand_dims(time=[...]), "
                    "or choose one time of the observations with .sel"
                )
                raise ObservationError(problem(subject, found, "one time at most", remedy))
            return _alone(np.where(decoded.missing, -1, 0), decoded)
        if decoded.missing.all():
            return _alone(np.full(times.shape, -1, dtype=np.int64), decoded)
        self._check_comparable(decoded, subject)
        numbers = np.where(decoded.missing, self._sorted[0], decoded.numbers)
        after = np.clip(np.searchsorted(self._sorted, numbers), 0, self.count - 1)
        before = np.maximum(after - 1, 0)
        to_before = np.abs(numbers - self._sorted[before])
        to_after = np.abs(self._sorted[after] - numbers)
        nearest = np.where(to_before <= to_after, before, after)
        near = (np.minimum(to_before, to_after) <= self.tolerance) & ~decoded.missing
        index = np.where(near, self._order[nearest], -1)
        between = near & (self._sorted[before] < numbers) & (numbers < self._sorted[after])
        other = np.where(between, self._order[np.where(nearest == before, after, before)], index)
        span = np.where(between, (self._sorted[after] - self._sorted[before]).astype(float), 1.0)
        share = np.minimum(to_before, to_after).astype(float) / span
        return TimeMatch(
            index, decoded.missing, decoded.numbers, other, np.where(between, share, 0.0)
        )

    def span(self) -> str:
        """First and last time as text."""
        if self.times is None:
            return "no time"
        first, last = (time_text(self.times[self._order[at]]) for at in (0, -1))
        return first if self.count == 1 else f"{first} to {last}"

    def _check_comparable(self, decoded: _Decoded, subject: str) -> None:
        found = _describe(decoded)
        expected = _describe(_Decoded(self._sorted, self._sorted, self._kind, self._calendar))
        if decoded.kind != self._kind:
            remedy = "decode the times of both, e.g. with xr.decode_cf"
            raise ObservationError(
                problem(subject, found, f"{expected} as in the forecast", remedy)
            )
        ours, theirs = self._calendar, decoded.calendar
        if ours == theirs or (ours in STANDARD_CALENDARS and theirs in STANDARD_CALENDARS):
            return
        remedy = f"obs = obs.convert_calendar({ours!r})"
        raise ObservationError(problem(subject, found, f"{expected} as in the forecast", remedy))


def _alone(index: NDArray[np.int64], decoded: _Decoded) -> TimeMatch:
    """Match without interpolation in time."""
    return TimeMatch(index, decoded.missing, decoded.numbers, index, np.zeros(index.shape))


def duplicate_time(times: NDArray[Any]) -> str | None:
    """First time that occurs more than once, as text.

    Parameters
    ----------
    times : array, shape (n,)
        Times of any kind; missing ones do not count.

    Returns
    -------
    str or None
        None where all differ.
    """
    index = pd.Index(times)
    again = index.duplicated() & ~np.asarray(index.isna())
    return str(times[int(np.argmax(again))]) if again.any() else None


def _describe(decoded: _Decoded) -> str:
    if decoded.kind != "dates":
        return decoded.kind
    return f"dates of the calendar {decoded.calendar!r}"


def _tolerance(tolerance: Any, kind: str) -> float:
    """Tolerance in the numbers that times are decoded to."""
    name = "time_tolerance"
    if kind == "numbers":
        if isinstance(tolerance, bool) or not isinstance(tolerance, (int, float, np.number)):
            found = repr(tolerance)
            raise DaisiTypeError(problem(name, found, "a number, as the forecast's times are"))
        value = float(tolerance)
    else:
        text = isinstance(tolerance, str) and not re.fullmatch(r"[\d.\s]*", tolerance)
        if not text and not isinstance(tolerance, (datetime.timedelta, np.timedelta64)):
            expected = "a timedelta or text such as '30min'"
            raise DaisiTypeError(problem(name, repr(tolerance), expected, "name the unit"))
        try:
            span = np.asarray(pd.to_timedelta([tolerance]), dtype="timedelta64[us]")[0]
        except ValueError as error:
            expected = "a timedelta or text such as '30min'"
            raise SettingsError(problem(name, repr(tolerance), expected)) from error
        value = np.nan if np.isnat(span) else float(span.astype(np.int64))
    if not value >= 0:
        raise SettingsError(problem(name, repr(tolerance), "zero or more"))
    return value


def _decode(
    times: NDArray[Any], subject: str, kind: type[StateError | ObservationError]
) -> _Decoded:
    """Turn times into numbers, in a common unit for each kind of time."""
    if times.dtype.kind == "O":
        return _decode_objects(times, subject, kind)
    if times.dtype.kind in "Mm":
        unit = "datetime64[us]" if times.dtype.kind == "M" else "timedelta64[us]"
        missing = np.isnat(times)
        numbers = times.astype(unit).astype(np.int64)
        if times.dtype.kind == "m":
            return _Decoded(numbers, missing, "durations")
        return _Decoded(numbers, missing, "dates", "proleptic_gregorian")
    if times.dtype.kind in "iuf":
        numbers = times.astype(np.float64)
        return _Decoded(numbers, ~np.isfinite(numbers), "numbers")
    found, remedy = f"values of type {times.dtype}", "decode the times, e.g. with xr.decode_cf"
    raise kind(problem(subject, found, "dates", remedy))


def _decode_objects(
    times: NDArray[Any], subject: str, kind: type[StateError | ObservationError]
) -> _Decoded:
    """Turn Python objects into numbers: cftime, datetime or pandas."""
    import cftime

    missing = np.asarray(pd.isna(times))
    present = times[~missing]
    if present.size == 0:
        return _Decoded(np.zeros(times.shape, dtype=np.int64), missing, "dates")
    numbers = np.zeros(times.shape, dtype=np.int64)
    calendars = sorted({getattr(time, "calendar", "") for time in present})
    if len(calendars) > 1:
        found = f"several calendars {calendars}"
        raise_problems(kind, [problem(subject, found, "one calendar")])
    if isinstance(present[0], cftime.datetime):
        numbers[~missing] = cftime.date2num(present, _EPOCH, calendar=calendars[0])
        return _Decoded(numbers, missing, "dates", calendars[0])
    try:
        dates = pd.to_datetime(present).to_numpy()
    except (ValueError, TypeError) as error:
        found = f"values such as {present[0]!r}"
        remedy = "decode the times, e.g. with xr.decode_cf"
        raise kind(problem(subject, found, "dates", remedy)) from error
    numbers[~missing] = dates.astype("datetime64[us]").astype(np.int64)
    return _Decoded(numbers, missing, "dates", "proleptic_gregorian")
