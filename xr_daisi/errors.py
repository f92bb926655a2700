"""What goes wrong, by kind: every error of the package is a `ValueError` or a `TypeError`.

All messages have one form, ``variable: found ..., expected ...; remedy``, and one error reports
everything that is wrong with an input at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = [
    "DaisiError",
    "DaisiTypeError",
    "DivergenceError",
    "ForecastError",
    "MemoryLimitError",
    "NoObservationsWarning",
    "ObservationError",
    "OperatorError",
    "PriorError",
    "SettingsError",
    "SpaceChunksWarning",
    "StateError",
    "UnitsError",
    "problem",
    "raise_problems",
]


class DaisiError(ValueError):
    """Base of all errors about the values that the package was given."""


class DaisiTypeError(DaisiError, TypeError):
    """An argument of the wrong type; also a `TypeError`."""


class StateError(DaisiError):
    """A forecast, history or template that cannot be taken as a state."""


class ObservationError(DaisiError):
    """Observation Datasets that cannot be used as they are."""


class UnitsError(ObservationError, StateError):
    """Units that are not known or do not convert into each other."""


class OperatorError(ObservationError):
    """An observation operator that is unknown, fails, or returns something of the wrong shape."""


class PriorError(DaisiError):
    """A prior that is damaged, unknown, or does not fit the data."""


class SettingsError(DaisiError):
    """Settings of sampling, guidance or training that are out of range or contradict each other."""


class DivergenceError(DaisiError):
    """Members that became infinite or NaN in the sampler although the forecast was finite."""


class ForecastError(DaisiError):
    """A forecast model that failed, or returned something that cannot go on in a cycle.

    Parameters
    ----------
    message : str
        What went wrong.
    failed : mapping, optional
        ``{label of a member: reason}`` for members that failed on their own.
    survivors : xarray.Dataset, optional
        The forecast of the other members, where there are any.
    """

    def __init__(
        self,
        message: str,
        *,
        failed: Mapping[Any, str] | None = None,
        survivors: Any = None,
    ) -> None:
        super().__init__(message)
        self.failed = dict(failed or {})
        self.survivors = survivors


class MemoryLimitError(DaisiError, MemoryError):
    """A batch of members that does not fit into memory; also a `MemoryError`."""


class NoObservationsWarning(UserWarning):
    """No observation lies in the area and the times of the forecast: it is returned unchanged."""


class SpaceChunksWarning(UserWarning):
    """A dask-backed forecast has chunks along space: they have to be joined to whole fields."""


def problem(subject: object, found: str, expected: str, remedy: str = "") -> str:
    """Text of one thing that is wrong.

    Parameters
    ----------
    subject : object
        The variable, coordinate or argument concerned.
    found, expected : str
        What it is, and what it ought to be.
    remedy : str, optional
        What to do about it.

    Returns
    -------
    str
        ``subject: found ..., expected ...; remedy``.

    Examples
    --------
    >>> problem("t2m", "units 'm'", "units that convert to 'K'", "correct attrs['units']")
    "t2m: found units 'm', expected units that convert to 'K'; correct attrs['units']"
    """
    text = f"{subject}: found {found}, expected {expected}"
    return f"{text}; {remedy}" if remedy else text


def raise_problems(
    kind: type[DaisiError], problems: Sequence[str], cause: BaseException | None = None
) -> None:
    """Raise one error for all problems, or none where there are none.

    Parameters
    ----------
    kind : type of DaisiError
        Class of the error.
    problems : sequence of str
        Texts from `problem`; repetitions are said once.
    cause : BaseException, optional
        The exception behind them.

    Raises
    ------
    DaisiError
        Of class `kind`, where `problems` is not empty.
    """
    texts = list(dict.fromkeys(problems))
    if not texts:
        return
    message = texts[0] if len(texts) == 1 else "\n".join(f"- {text}" for text in texts)
    if len(texts) > 1:
        message = f"{len(texts)} problems:\n{message}"
    raise kind(message) from cause
