"""How many values of a state lie at the bound that the prior's transform keeps them to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from xr_daisi.transforms import TRANSFORMS

if TYPE_CHECKING:
    from xr_daisi.state import StateSpec

__all__ = ["BoundCounter", "bound_variables", "with_transforms"]

# Single precision, once to other units and back.
SLACK = 1e-5


def with_transforms(
    entries: dict[str, Any], spec: StateSpec, transforms: tuple[str | None, ...]
) -> dict[str, Any]:
    """Note the transform of each variable in a description of a state.

    Parameters
    ----------
    entries : dict
        From `StateSpec.to_dict`; a changed copy is returned.
    spec : StateSpec
        The state.
    transforms : tuple of str or None
        Of each channel, as in `Normalization`; empty where there are none.
    """
    variables = []
    for entry in entries["variables"]:
        name = transforms[spec.channel_slice(entry["name"]).start] if transforms else None
        variables.append({**entry, "transform": name} if name else entry)
    return {**entries, "variables": variables}


class BoundCounter:
    """Counts values at the bounds of bounded variables, state by state.

    An analysis is clipped there: a transform takes no value beyond its bound.

    Parameters
    ----------
    spec : StateSpec
        The state.
    entries : mapping or None
        Its description by `with_transforms`; None where transforms are not known.
    """

    def __init__(self, spec: StateSpec, entries: Mapping[str, Any] | None) -> None:
        found = {e["name"]: e.get("transform") for e in (entries or {}).get("variables", [])}
        self.bounds = {
            name: float(TRANSFORMS[kind].inverse(np.float64(-np.inf)))
            for name, kind in found.items()
            if kind in TRANSFORMS and name in spec.names
        }
        self.upper = {
            name: TRANSFORMS[str(found[name])].upper
            for name in self.bounds
            if np.isfinite(TRANSFORMS[str(found[name])].upper)
        }
        self._channels = {name: spec.channel_slice(name) for name in self.bounds}
        self.counts = dict.fromkeys(self.bounds, 0)
        self.above = dict.fromkeys(self.upper, 0)
        self.values = dict.fromkeys(self.bounds, 0)

    def add(self, states: NDArray[Any]) -> None:
        """Count.

        Parameters
        ----------
        states : ndarray
            Physical states ``(member, channel, *space)``; NaN is not counted.
        """
        for name, bound in self.bounds.items():
            own = states[:, self._channels[name]]
            self.counts[name] += int((own <= bound + SLACK * abs(bound)).sum())
            if name in self.upper:
                high = self.upper[name]
                self.above[name] += int((own >= high - SLACK * abs(high)).sum())
            self.values[name] += int(np.isfinite(own).sum())


def bound_variables(
    forecast: BoundCounter, analysis: BoundCounter
) -> dict[str, tuple[tuple[()], Any, dict[str, Any]]]:
    """Return the counts as scalar variables of a Dataset.

    Parameters
    ----------
    forecast, analysis : BoundCounter
        Of the same times.

    Returns
    -------
    dict
        ``x_at_bound_forecast`` and ``x_at_bound_analysis`` for each bounded variable ``x``; their
        attribute ``values`` is the number of values looked at. Where there is an upper bound, too,
        ``at_lower_bound`` and ``at_upper_bound`` are the counts that were added.
    """
    out: dict[str, tuple[tuple[()], Any, dict[str, Any]]] = {}
    for what, counter in (("forecast", forecast), ("analysis", analysis)):
        for name, bound in counter.bounds.items():
            count, two = counter.counts[name], name in counter.upper
            which = "lower or upper bound" if two else "lower bound"
            attrs: dict[str, Any] = {
                "long_name": f"number of values of {name} in the {what} at their {which}",
                "units": "1",
                "lower_bound": bound,
                "values": np.int64(counter.values[name]),
            }
            if two:
                attrs["upper_bound"] = counter.upper[name]
                attrs["at_lower_bound"] = np.int64(count)
                attrs["at_upper_bound"] = np.int64(counter.above[name])
                count += counter.above[name]
            out[f"{name}_at_bound_{what}"] = ((), np.int64(count), attrs)
    return out
