"""Scores of an ensemble against a truth: RMSE, fair CRPS and the spread-skill ratio.

RMSE and CRPS are those of the package `scores`; install ``xr_daisi[verify]``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from xr_daisi.dimensions import Dimensions, find_dimensions
from xr_daisi.errors import DaisiTypeError, StateError, problem
from xr_daisi.units import conversion

if TYPE_CHECKING:
    from collections.abc import Mapping

    import xarray as xr

__all__ = ["ensemble_scores", "overall_scores", "score_table"]

LONG_NAMES = {
    "rmse": "root mean square error of the ensemble mean",
    "crps": "fair continuous ranked probability score",
    "ssr": "spread-skill ratio",
}


def ensemble_scores(
    ensemble: xr.Dataset, truth: xr.Dataset, variable: str | None = None
) -> xr.Dataset:
    """Score an ensemble at every time.

    Parameters
    ----------
    ensemble : xarray.Dataset
        Fields with a member dimension of at least two, and possibly time.
    truth : xarray.Dataset
        The same fields without members, on the same coordinates; NaN where nothing is to be
        scored.
    variable : str, optional
        Which one; the first that both have when None.

    Returns
    -------
    xarray.Dataset
        ``rmse`` of the ensemble mean and fair ``crps`` in the truth's units, and ``ssr``, the
        spread-skill ratio ``sqrt((M + 1) / M * mean variance / mean squared error)`` (1 is
        calibrated), pooled over all points and levels; on time where there is one.

    Raises
    ------
    StateError
        Without common variable or members, or on different dimensions or coordinates.
    UnitsError
        For units that do not convert.
    DaisiTypeError
        If one of the two is no Dataset.

    References
    ----------
    Ferro (2014), https://doi.org/10.1002/qj.2270, for the fair CRPS.
    """
    from scores.continuous import rmse
    from scores.probability import crps_for_ensemble

    name = _variable(ensemble, truth, variable)
    dims = find_dimensions(ensemble, [name], what="ensemble")
    reference = truth[name]
    change = conversion(
        ensemble[name].attrs.get("units"), reference.attrs.get("units"), variable=name
    )
    members = ensemble[name] * change.factor + change.offset
    member = _check_pair(members, reference, dims)
    if members.chunks is not None:
        members = members.chunk({member: -1})  # which the CRPS needs
    count = members.sizes[member]
    kept = [dims.time] if dims.time else []
    mean = members.mean(member, skipna=False)
    squared = (mean - reference) ** 2
    variance = members.var(member, ddof=1, skipna=False).where(squared.notnull())
    points = [d for d in mean.dims if d not in kept]
    ratio = (count + 1) / count * variance.mean(points) / squared.mean(points)
    import xarray as xr

    out = xr.Dataset(
        {
            "rmse": rmse(mean, reference, preserve_dims=kept or None),
            "crps": crps_for_ensemble(
                # A point where a member is missing is not scored, here as above.
                members.where(squared.notnull()),
                reference,
                ensemble_member_dim=member,
                method="fair",
                preserve_dims=kept or None,
            ),
            "ssr": np.sqrt(ratio),
        }
    )
    units = reference.attrs.get("units")
    for key, text in LONG_NAMES.items():
        out[key].attrs = {"long_name": text}
        if key == "ssr" or units:
            out[key].attrs["units"] = "1" if key == "ssr" else units
    return out.drop_vars([c for c in out.coords if c not in kept])


def _variable(ensemble: xr.Dataset, truth: xr.Dataset, variable: str | None) -> str:
    for ds, what in ((ensemble, "ensemble"), (truth, "truth")):
        if not hasattr(ds, "data_vars"):
            raise DaisiTypeError(problem(what, type(ds).__name__, "an xarray.Dataset"))
    common = [str(v) for v in ensemble.data_vars if v in truth.data_vars]
    if variable is None and common:
        return common[0]
    if variable is None or variable not in common:
        both = [", ".join(map(str, ds.data_vars)) or "none" for ds in (ensemble, truth)]
        expected = "a variable of both" if variable is None else f"{variable!r} in both"
        found = f"variables {both[0]} in the ensemble, {both[1]} in the truth"
        raise StateError(problem("scores", found, expected, "rename one of them"))
    return variable


def _check_pair(members: xr.DataArray, reference: xr.DataArray, dims: Dimensions) -> str:
    """Return the member dimension, if the two can be compared."""
    import xarray as xr

    if dims.member is None or members.sizes[dims.member] < 2:
        found = f"dimensions {dict(members.sizes)}"
        raise StateError(problem("ensemble", found, "at least two members"))
    expected = [d for d in members.dims if d != dims.member]
    if set(reference.dims) != set(expected):
        found = f"dimensions {tuple(reference.dims)}"
        remedy = "select the same times and levels of both"
        raise StateError(problem("truth", found, f"{tuple(expected)}, as the ensemble", remedy))
    try:
        xr.align(members, reference, join="exact", copy=False)
    except ValueError as error:
        first = str(error).splitlines()[0]
        remedy = "select the same points of both"
        raise StateError(
            problem("truth", f"other coordinates ({first})", "those of the ensemble", remedy)
        ) from error
    return dims.member


def overall_scores(scores: xr.Dataset, *, pooled: bool = False) -> dict[str, float]:
    """Bring the scores of many times to one number each.

    Parameters
    ----------
    scores : xarray.Dataset
        From `ensemble_scores`.
    pooled : bool
        False averages the scores of the times. True takes all times as one sample: roots are
        taken of mean squares, as usual for independent cases.

    Returns
    -------
    dict of str to float
        ``rmse``, ``crps`` and ``ssr``.
    """
    if not pooled:
        return {key: float(scores[key].mean()) for key in LONG_NAMES}
    squared = scores["rmse"] ** 2
    return {
        "rmse": float(np.sqrt(squared.mean())),
        "crps": float(scores["crps"].mean()),
        "ssr": float(np.sqrt((scores["ssr"] ** 2 * squared).mean() / squared.mean())),
    }


def score_table(
    ensembles: Mapping[str, xr.Dataset],
    truth: xr.Dataset,
    variable: str | None = None,
    *,
    pooled: bool = False,
) -> str:
    """Return a table of scores, one line per ensemble.

    Parameters
    ----------
    ensembles : mapping of str to xarray.Dataset
        What to score, by name.
    truth, variable
        As in `ensemble_scores`.
    pooled : bool
        As in `overall_scores`.

    Raises
    ------
    StateError, UnitsError, DaisiTypeError
        As `ensemble_scores`.
    """
    rows: list[tuple[str, list[float]]] = []
    units = ""
    for name, ensemble in ensembles.items():
        scores = ensemble_scores(ensemble, truth, variable)
        units = scores["rmse"].attrs.get("units", "")
        rows.append((name, list(overall_scores(scores, pooled=pooled).values())))
    width = max([12, *(len(name) for name, _ in rows)])
    unit = f" ({units})" if units else ""
    titles = [f"RMSE{unit}", f"CRPS{unit}", "SSR"]
    columns = [max(12, len(title) + 2) for title in titles]
    head = "".join(f"{title:>{w}}" for title, w in zip(titles, columns, strict=True))
    lines = [f"{'':<{width}}{head}"]
    for name, values in rows:
        cells = zip(values, columns, (3, 3, 2), strict=True)
        body = "".join(f"{value:>{w}.{digits}f}" for value, w, digits in cells)
        lines.append(f"{name:<{width}}{body}")
    return "\n".join(lines)
