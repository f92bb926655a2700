"""Scores and differences of whole fields: the energy score, increments."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from xr_daisi.dimensions import find_dimensions
from xr_daisi.errors import DaisiTypeError, StateError, problem, raise_problems
from xr_daisi.units import conversion
from xr_daisi.verification_pairs import (
    By,
    Pair,
    Regions,
    find_pair,
    over_variables,
    with_units,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["energy_score", "increments"]


def energy_score(
    ensemble: xr.Dataset,
    truth: xr.Dataset,
    variable: str | Sequence[str] | None = None,
    *,
    by: By = "time",
    regions: Regions = None,
    weights: str | xr.DataArray | None = None,
) -> xr.DataArray:
    """Score fields as a whole: the CRPS of many dimensions.

    The CRPS judges every point for itself. The energy score also notices members whose
    points do not belong together.

    Parameters
    ----------
    ensemble, truth, variable, by, regions, weights
        As in `ensemble_scores`. Fields run over all dimensions that are not kept.

    Returns
    -------
    xarray.DataArray
        ``mean |x_m - y| - 1/2 mean |x_m - x_n|`` over members m and pairs m, n of different members
        (the fair form, whose expectation does not depend on their number), in the truth's units.
        The distance ``|.|`` is the root mean square over the points of a field, weighted; for the
        Euclidean distance multiply by the root of their number. With one point it is the fair
        CRPS. Lazy where the input is.

    Raises
    ------
    StateError, UnitsError, SettingsError, DaisiTypeError
        As `ensemble_scores`.

    References
    ----------
    Gneiting and Raftery (2007), https://doi.org/10.1198/016214506000001437
    """

    def calculate(name: str | None) -> xr.Dataset:
        pair = find_pair(ensemble, truth, name, by=by, regions=regions, weights=weights)
        label = f"energy score of {pair.long_name}"
        out = xr.Dataset({"energy_score": with_units(_energy(pair), label, pair.units)})
        return pair.finished(out)

    return over_variables(variable, calculate)["energy_score"]


def _energy(pair: Pair) -> xr.DataArray:
    """Distances between all members come from one product of their anomalies with themselves."""
    member = pair.member
    valid = pair.valid()
    # float64: a distance is a difference of products.
    anomaly = pair.members.astype(np.float64) - pair.truth.astype(np.float64)
    anomaly = anomaly.reset_coords(drop=True).drop_vars(member, errors="ignore")
    center = anomaly.mean(member)
    to_truth = pair.mean((anomaly**2).where(valid))
    anomaly = (anomaly - center).where(valid, 0.0)
    other = anomaly.rename({member: "daisi_other_member"})
    weight = valid.astype(np.float64)
    if pair.weights is not None:
        weight = weight * pair.weights
    product = xr.dot(anomaly, other, weight, dim=list(pair.points)) / weight.sum(pair.points)
    own = xr.dot(anomaly, anomaly, weight, dim=list(pair.points)) / weight.sum(pair.points)
    squares = own + own.rename({member: "daisi_other_member"}) - 2.0 * product
    number = np.arange(pair.size)
    same = xr.DataArray(number[:, None] == number, dims=(member, "daisi_other_member"))
    distances = squares.where(~same, 0.0).clip(0.0) ** 0.5
    between = distances.sum([member, "daisi_other_member"], skipna=False)
    spread: xr.DataArray = between / (2.0 * pair.size * (pair.size - 1))
    skill: xr.DataArray = (to_truth**0.5).mean(member)
    return skill - spread


def increments(
    analysis: xr.Dataset, forecast: xr.Dataset, variable: str | Sequence[str] | None = None
) -> xr.Dataset:
    """Subtract a forecast from its analysis.

    Parameters
    ----------
    analysis, forecast : xarray.Dataset
        Fields with or without members, on the same coordinates.
    variable : str or sequence of str, optional
        Which ones; all that both have when None.

    Returns
    -------
    xarray.Dataset
        For each variable ``v``, in the units of the forecast: ``v_increment`` (analysis minus
        forecast, member by member), ``v_mean_increment`` (of the ensemble means), and with at
        least two members ``v_spread_change`` (standard deviation of the analysis minus that of the
        forecast: negative where observations narrowed the ensemble). Lazy where the input is.

    Raises
    ------
    StateError
        Without common variables, or on different dimensions, members or coordinates.
    UnitsError
        For units that do not convert.
    DaisiTypeError
        If one of the two is no Dataset.
    """
    for ds, what in ((analysis, "analysis"), (forecast, "forecast")):
        if not isinstance(ds, xr.Dataset):
            raise DaisiTypeError(problem(what, type(ds).__name__, "an xarray.Dataset"))
    common = [str(v) for v in forecast.data_vars if v in analysis.data_vars]
    wanted = common if variable is None else [variable] if isinstance(variable, str) else variable
    names = [str(name) for name in wanted]
    _check_common(analysis, forecast, names, common)
    data: dict[str, xr.DataArray] = {}
    for name in names:
        member = find_dimensions(forecast, [name]).member
        before = forecast[name]
        units = before.attrs.get("units")
        change = conversion(analysis[name].attrs.get("units"), units, variable=name)
        after = change.apply(analysis[name]) if not change.is_identity else analysis[name]
        after = after.transpose(*before.dims)
        text = str(before.attrs.get("long_name", name))
        difference = after - before
        parts = {"increment": (f"analysis minus forecast of {text}", difference)}
        label = f"analysis minus forecast of the ensemble mean of {text}"
        mean = difference if member is None else difference.mean(member, skipna=False)
        parts["mean_increment"] = (label, mean)
        if member is not None and before.sizes[member] > 1:
            spread = [part.std(member, ddof=1, skipna=False) for part in (after, before)]
            label = f"analysis minus forecast of the ensemble standard deviation of {text}"
            parts["spread_change"] = (label, spread[0] - spread[1])
        for key, (label, values) in parts.items():
            data[f"{name}_{key}"] = with_units(values, label, units)
    return xr.Dataset(data, attrs={"title": "Increments: analysis minus forecast"})


def _check_common(
    analysis: xr.Dataset, forecast: xr.Dataset, names: list[str], common: list[str]
) -> None:
    problems = []
    if not names:
        found = f"variables {', '.join(map(str, analysis.data_vars)) or 'none'}"
        problems.append(problem("analysis", found, "at least one of the forecast"))
    for name in names:
        if name not in common:
            problems.append(problem(name, f"variables {', '.join(common)} in both", "it in both"))
            continue
        first, second = analysis[name], forecast[name]
        if set(first.dims) != set(second.dims):
            found = f"dimensions {tuple(first.dims)} in the analysis"
            problems.append(problem(name, found, f"{tuple(second.dims)}, as in the forecast"))
            continue
        try:
            xr.align(first, second, join="exact", copy=False)
        except ValueError as error:
            text = str(error).splitlines()[0]
            found, remedy = f"other coordinates ({text})", "select the same points of both"
            problems.append(problem(name, found, "those of the forecast", remedy))
    raise_problems(StateError, problems)
