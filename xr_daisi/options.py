"""Options of a session, set by `set_options`."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

from xr_daisi.errors import DaisiTypeError, SettingsError, problem
from xr_daisi.priors import FlowPrior

__all__ = ["get_option", "set_options"]

_OPTIONS: dict[str, Any] = {"prior": None}


def get_option(name: str) -> Any:
    """Return the value of an option."""
    return _OPTIONS[name]


class set_options:  # a function that is also a context manager, as in xarray
    """Set options for the session, or within a ``with`` block.

    Parameters
    ----------
    prior : FlowPrior, str, Path or None
        The prior that is used where none is named.

    Raises
    ------
    SettingsError
        For an option that does not exist.
    DaisiTypeError
        For a prior of another type.

    Notes
    -----
    A path, URL or name is loaded when the prior is first needed.

    Examples
    --------
    >>> import xr_daisi
    >>> with xr_daisi.set_options(prior="sqg64"):
    ...     pass                                   # forecast.daisi.assimilate(obs)
    """

    def __init__(self, **options: Any) -> None:
        unknown = sorted(set(options) - set(_OPTIONS))
        if unknown:
            raise SettingsError(
                problem("options", ", ".join(unknown), f"names among {', '.join(_OPTIONS)}")
            )
        prior = options.get("prior")
        if prior is not None and not isinstance(prior, (FlowPrior, str, Path)):
            raise DaisiTypeError(
                problem("prior", type(prior).__name__, "a FlowPrior, a path or a registered name")
            )
        self._before = {name: _OPTIONS[name] for name in options}
        _OPTIONS.update(options)

    def __enter__(self) -> None:
        return None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _OPTIONS.update(self._before)
