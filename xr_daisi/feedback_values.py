"""Departures, spreads and ranks of single observations, from a feedback Dataset."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xr_daisi.coordinate_values import read_coordinate
from xr_daisi.errors import DaisiTypeError, StateError, problem
from xr_daisi.keyed_numbers import bits, hashed, normal, uniform

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "PERIOD",
    "Compared",
    "compared",
    "compared_names",
    "mean_departure",
    "period_of",
    "with_value_statistics",
]

PERIOD = "daisi_period"
"""Attribute of a feedback's variables: values that differ by it are the same; in their units."""

Floats = NDArray[np.float64]
Keys = NDArray[np.uint64]


@dataclass(frozen=True, eq=False)
class Compared:
    """One observed variable of a feedback Dataset; arrays have its shape.

    Parameters
    ----------
    name : str
        The variable.
    dims : tuple of str
        Its dimensions.
    units : str or None
        Its units.
    o_minus_b, o_minus_a, error : array of float
        Departures from the means of forecast and analysis, and the error's standard deviation.
    a_minus_b : array of float
        Increment.
    background, analysis : array of float, shape (member, ...)
        Members minus their mean, in observation space.
    status : array of int
        What became of each value.
    reasons : dict of str to int
        Codes in `status` by their meaning.
    """

    name: str
    dims: tuple[str, ...]
    units: str | None
    o_minus_b: Floats
    o_minus_a: Floats
    a_minus_b: Floats
    error: Floats
    background: Floats
    analysis: Floats
    status: NDArray[Any]
    reasons: dict[str, int]

    @property
    def members(self) -> int:
        """Number of members."""
        return int(self.background.shape[0])

    def variance(self, which: str) -> Floats:
        """Variance of the members, unbiased; NaN for a single one.

        Parameters
        ----------
        which : str
            ``"background"`` or ``"analysis"``.
        """
        members: Floats = getattr(self, which)
        if self.members < 2:
            return np.full(members.shape[1:], np.nan)
        return np.asarray(members.var(axis=0, ddof=1))

    def departure_variance(self, which: str) -> Floats:
        """Variance that the departure from the mean of M members should have.

        It is that of the observation's error, of a member, and 1/M of it for the mean's own noise.

        Parameters
        ----------
        which : str
            ``"background"`` or ``"analysis"``.
        """
        return np.asarray((1.0 + 1.0 / self.members) * self.variance(which) + self.error**2)


def compared_names(feedback: xr.Dataset) -> list[str]:
    """Names of the observed variables of a feedback Dataset.

    Parameters
    ----------
    feedback : xarray.Dataset
        From `xr_daisi.feedback`.

    Raises
    ------
    DaisiTypeError, StateError
        Where it is none.
    """
    if not isinstance(feedback, xr.Dataset):
        raise DaisiTypeError(problem("feedback", type(feedback).__name__, "an xarray.Dataset"))
    parts = ("error", "forecast", "analysis", "o_minus_b", "o_minus_a", "status")
    names = [
        str(name)
        for name in feedback.data_vars
        if all(f"{name}_{part}" in feedback.variables for part in parts)
    ]
    if not names:
        found = f"variables {', '.join(map(str, feedback.data_vars)) or 'none'}"
        expected = "v with v_o_minus_b, v_o_minus_a, v_status..."
        remedy = "make it with forecast.daisi.feedback(obs, analysis)"
        raise StateError(problem("feedback", found, expected, remedy))
    return names


def compared(feedback: xr.Dataset, name: str) -> Compared:
    """Read one variable of a feedback Dataset.

    Parameters
    ----------
    feedback : xarray.Dataset
        From `xr_daisi.feedback`, possibly read from a file.
    name : str
        One of `compared_names`.
    """
    dims = tuple(map(str, feedback[name].dims))
    period = period_of(feedback[name].attrs)

    def array(part: str) -> Floats:
        return np.asarray(feedback[f"{name}_{part}"].transpose(*dims).to_numpy(), dtype=np.float64)

    o_minus_b, o_minus_a = array("o_minus_b"), array("o_minus_a")
    members = []
    for part, departure in (("forecast", o_minus_b), ("analysis", o_minus_a)):
        h = feedback[f"{name}_{part}"].transpose(..., *dims).to_numpy().astype(np.float64)
        h = h.reshape(-1, *departure.shape)
        # By way of departures: those of directions are wrapped, their values are not.
        own = _wrapped(feedback[name].to_numpy() - h, period)
        members.append(_wrapped(departure - own, period))
    flags = feedback[f"{name}_status"]
    codes = np.atleast_1d(flags.attrs.get("flag_values", []))
    words = [word.replace("_", " ") for word in str(flags.attrs.get("flag_meanings", "")).split()]
    return Compared(
        name=name,
        dims=dims,
        units=feedback[name].attrs.get("units"),
        o_minus_b=o_minus_b,
        o_minus_a=o_minus_a,
        a_minus_b=_wrapped(o_minus_b - o_minus_a, period),
        error=array("error"),
        background=members[0],
        analysis=members[1],
        status=flags.transpose(*dims).to_numpy(),
        reasons=dict(zip(words, map(int, codes), strict=True)),
    )


def period_of(attrs: Mapping[str, Any]) -> float | None:
    """Return what a direction is periodic in, in its units; None for other quantities.

    Parameters
    ----------
    attrs : mapping
        Attributes of the observed variable; `PERIOD` among them comes before the standard name.
    """
    if PERIOD in attrs:
        return float(attrs[PERIOD])
    kind = str(attrs.get("standard_name", ""))
    if not kind.endswith(("from_direction", "to_direction")):
        return None
    units = str(attrs.get("units", "")).strip().lower()
    return 2.0 * np.pi if units.startswith("rad") else 360.0


def mean_departure(values: Floats, members: Floats, attrs: Mapping[str, Any]) -> Floats:
    """Observations minus the mean of the members; of directions, by the shorter way round.

    Parameters
    ----------
    values : array of float
        Observations.
    members : array of float, shape (member, ...)
        H of each member.
    attrs : mapping
        Attributes of the observed variable.
    """
    period = period_of(attrs)
    if period is None:
        return np.asarray(values - members.mean(axis=0))
    turns = 2j * np.pi / period
    middle = np.angle(np.exp(turns * (values - members)).mean(axis=0)) / abs(turns)
    around = _wrapped(values - members - middle, period)
    return _wrapped(middle + around.mean(axis=0), period)


def _wrapped(difference: Any, period: float | None) -> Floats:
    if period is None:
        return np.asarray(difference)
    return np.asarray((difference + 0.5 * period) % period - 0.5 * period)


def with_value_statistics(feedback: xr.Dataset, *, seed: int = 0) -> xr.Dataset:
    """Add what follows for each value: its rank among the members, its normalised departure.

    Parameters
    ----------
    feedback : xarray.Dataset
        With ``v``, ``v_error``, ``v_forecast``, ``v_o_minus_b``... for each variable ``v``; not
        modified.
    seed : int
        Of the noise in the ranks. Noise depends on it and on the value's own place and time, not
        on other values.

    Returns
    -------
    xarray.Dataset
        With ``v_rank``, how many of the M members of the forecast, each perturbed by the
        observation's error, lie below the observation (0 to M, ties broken at random), and
        ``v_normalized_o_minus_b``, the departure over the standard deviation that it should have.
        NaN where nothing was compared.

    References
    ----------
    Hamill (2001), https://doi.org/10.1175/1520-0493(2001)129<0550:IORHFV>2.0.CO;2, for ranks with
    errors of observations.
    """
    out = feedback.copy()
    for name in compared_names(feedback):
        pair = compared(feedback, name)
        text = str(feedback[name].attrs.get("long_name", name))
        out[f"{name}_rank"] = (
            pair.dims,
            _ranks(pair, _keys(feedback, pair), seed),
            {
                "long_name": f"rank of {text} among the perturbed members of the forecast",
                "units": "1",
                "valid_range": np.asarray([0.0, pair.members], dtype=np.float32),
            },
        )
        expected = pair.departure_variance("background")
        normalized = pair.o_minus_b / np.sqrt(np.where(expected > 0, expected, np.nan))
        label = f"{text} minus the mean of the forecast, over its expected standard deviation"
        attrs = {"long_name": label, "units": "1"}
        out[f"{name}_normalized_o_minus_b"] = (pair.dims, normalized, attrs)
    return out


def _ranks(pair: Compared, keys: Keys, seed: int) -> NDArray[np.float32]:
    """Ranks by departures alone, so that directions are ranked by the shorter way round."""
    start = hashed(keys ^ hashed(np.full(1, seed, dtype=np.uint64))).reshape(keys.shape)
    below = np.zeros(pair.o_minus_b.shape)
    ties = np.zeros(pair.o_minus_b.shape)
    for number, member in enumerate(pair.background):
        noise = pair.error * normal(start, number + 1)
        above = pair.o_minus_b - member - noise
        below += above > 0
        ties += above == 0
    rank = below + np.floor(uniform(hashed(start)) * (ties + 1.0))
    unknown = np.isnan(pair.o_minus_b + pair.error + pair.background.sum(axis=0))
    return np.where(unknown, np.nan, rank).astype(np.float32)


def _keys(feedback: xr.Dataset, pair: Compared) -> Keys:
    """Numbers that tell values apart, whatever others there are: by coordinates and value."""
    sizes = {d: feedback.sizes[d] for d in pair.dims}
    key = np.full(tuple(sizes.values()), zlib.crc32(pair.name.encode()), dtype=np.uint64)
    parts = {
        str(name): xr.Variable(c.dims, bits(read_coordinate(c)))
        for name, c in feedback.coords.items()
        if c.ndim and set(c.dims) <= set(pair.dims)
    }
    covered = {d for part in parts.values() for d in part.dims}
    for dim in set(pair.dims) - covered:
        parts[dim] = xr.Variable((dim,), np.arange(sizes[dim], dtype=np.uint64))
    for name in sorted(parts):
        spread = parts[name].set_dims(sizes).transpose(*pair.dims)
        key = hashed(key ^ spread.values)
    return hashed(key ^ bits(feedback[pair.name].to_numpy()))
