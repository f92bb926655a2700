"""Rank histograms: where the truth, or an observation, lies among the members."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xr_daisi.feedback_statistics import feedback_summary
from xr_daisi.keyed_numbers import bits, hashed, uniform
from xr_daisi.verification_pairs import By, Pair, Regions, find_pair, over_variables, with_units

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["observation_rank_histogram", "rank_histogram"]


def rank_histogram(
    ensemble: xr.Dataset,
    truth: xr.Dataset,
    variable: str | Sequence[str] | None = None,
    *,
    by: By = (),
    regions: Regions = None,
    seed: int = 0,
) -> xr.DataArray:
    """Count how often the truth has each rank among the members.

    Flat for a reliable ensemble, a valley for too small a spread, a hill for too large a one, a
    slope for a bias. It does not have to be reliable to be flat, see the reference.

    Parameters
    ----------
    ensemble, truth, variable, by, regions
        As in `ensemble_scores`; here nothing is kept unless asked for.
    seed : int
        Ranks of members that equal the truth are drawn among the possible ones. The numbers
        depend on the seed and the coordinates of the point, not on chunks or other points.

    Returns
    -------
    xarray.DataArray
        Number of points by ``rank``, the number of members below the truth: 0 to M. Points where
        the truth or a member is missing are not counted. Lazy where the input is.

    Raises
    ------
    StateError, UnitsError, SettingsError, DaisiTypeError
        As `ensemble_scores`.

    References
    ----------
    Hamill (2001), https://doi.org/10.1175/1520-0493(2001)129<0550:IORHFV>2.0.CO;2
    """

    def calculate(name: str | None) -> xr.Dataset:
        pair = find_pair(ensemble, truth, name, by=by, regions=regions)
        rank = _ranks(pair, seed)
        every = xr.DataArray(np.arange(pair.size + 1), dims="rank")
        counts = pair.count(rank == every)
        label = f"number of points by rank of {pair.long_name} among {pair.size} members"
        out = xr.Dataset({"rank_histogram": with_units(counts, label, "1")})
        attrs = {"long_name": "members below the truth", "units": "1"}
        return pair.finished(out.assign_coords(rank=("rank", every.values, attrs)))

    return over_variables(variable, calculate)["rank_histogram"]


def observation_rank_histogram(
    feedback: xr.Dataset | Sequence[xr.Dataset],
    by: str | Sequence[str] | None = None,
    *,
    status: str = "used",
) -> xr.DataArray:
    """Count how often an observation has each rank among the members of the forecast.

    The members in observation space are perturbed by the observation's error, without which a
    perfect ensemble would not be flat.

    Parameters
    ----------
    feedback : xarray.Dataset or sequence of them
        From `xr_daisi.feedback`.
    by, status
        As in `xr_daisi.feedback_summary`.

    Returns
    -------
    xarray.DataArray
        Number of values on ``variable``, groups and ``rank``.

    Raises
    ------
    StateError, DaisiTypeError
        As `xr_daisi.feedback_summary`.
    """
    return feedback_summary(feedback, by, status=status)["rank_histogram"]


def _ranks(pair: Pair, seed: int) -> xr.DataArray:
    """Rank of the truth at every point; NaN where something is missing."""
    below = (pair.members < pair.truth).sum(pair.member)
    ties = (pair.members == pair.truth).sum(pair.member)
    columns = _point_keys(pair.truth)
    start = np.uint64(zlib.crc32(pair.name.encode())) ^ np.uint64(seed & 0xFFFFFFFFFFFFFFFF)

    def broken(
        below: NDArray[np.int64], ties: NDArray[np.int64], *keys: NDArray[np.uint64]
    ) -> NDArray[np.float64]:
        key = hashed(np.full(below.shape, start, dtype=np.uint64))
        for column in keys:
            key = hashed(key ^ column)
        return np.asarray(below + np.floor(uniform(key) * (ties + 1.0)))

    rank: xr.DataArray = xr.apply_ufunc(
        broken, below, ties, *columns, dask="parallelized", output_dtypes=[np.float64]
    )
    return rank.where(pair.valid())


def _point_keys(field: xr.DataArray) -> list[xr.DataArray]:
    """Numbers along each dimension that tell its coordinates apart; positions without any."""
    columns = []
    for dim in sorted(map(str, field.dims)):
        index = field.indexes.get(dim)
        values = np.arange(field.sizes[dim]) if index is None else index.to_numpy()
        salt = np.uint64(zlib.crc32(dim.encode()))
        columns.append(xr.DataArray(hashed(bits(values) ^ salt), dims=dim))
    return columns
