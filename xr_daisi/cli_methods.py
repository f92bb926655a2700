"""Arguments of the command line that choose the method of an analysis."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from cyclopts import Group, Parameter

from xr_daisi.cli_arguments import Texts, pairs
from xr_daisi.cli_reading import length
from xr_daisi.ensemble_settings import Method, Relaxation
from xr_daisi.errors import DaisiError, problem

__all__ = ["MethodChoice"]

METHOD = Group("Method", sort_key=1)


@Parameter(name="*", group=METHOD)
@dataclass(frozen=True)
class MethodChoice:
    """The method, and settings of those that need no prior.

    Attributes
    ----------
    method
        daisi, renoise and prior-only need a prior; letkf, etkf, ensf and oi do not.
    localization
        Distance from which on an observation has no influence: 1500km, or a number in km (in units
        of the coordinates on a plain grid).
    vertical_localization
        The same along levels: 300hPa, or a number in their units.
    inflation
        Factor of the forecast's perturbations where observations are within reach.
    relaxation
        How much of the forecast's spread is restored, 0 to 1.
    relaxation_method
        Relaxation to the spread, or to the perturbations, of the forecast.
    background_error
        Standard deviation of the forecast's errors for oi: 2.0, or t2m=2.0; may be repeated.
    periodic
        A periodic dimension, where there is no prior that knows; may be repeated.
    """

    method: Literal["daisi", "letkf", "etkf", "ensf", "oi", "prior-only", "renoise"] = "daisi"
    localization: str | None = None
    vertical_localization: str | None = None
    inflation: float = 1.0
    relaxation: float = 0.0
    relaxation_method: Literal["spread", "perturbations"] = "spread"
    background_error: Texts = ()
    periodic: Texts = ()

    def keywords(self) -> dict[str, Any]:
        """Return the options as `assimilate` takes them.

        Raises
        ------
        DaisiError
            For entries of another form.
        """
        method: Method = self.method
        relaxation_method: Relaxation = self.relaxation_method
        given = {**asdict(self), "method": method, "relaxation_method": relaxation_method}
        for name in ("localization", "vertical_localization"):
            if given[name] is not None:
                given[name] = length(given[name])
        given["background_error"] = self._deviations()
        given["periodic"] = list(self.periodic) or None
        return given

    def _deviations(self) -> float | dict[str, float] | None:
        if not self.background_error:
            return None
        try:
            if "=" not in self.background_error[0]:
                (text,) = self.background_error
                return float(text)
            named = pairs("--background-error", self.background_error)
            return {name: float(value) for name, value in named.items()}
        except ValueError as error:
            if isinstance(error, DaisiError):
                raise
            found = " ".join(self.background_error)
            expected = "one number, or NAME=NUMBER for each variable"
            raise DaisiError(problem("--background-error", repr(found), expected)) from None
