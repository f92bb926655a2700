"""Scores of an ensemble against a truth: RMSE, fair CRPS and the spread-skill ratio.

RMSE and CRPS are those of the package `scores`; install ``xr_daisi[verify]``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from xr_daisi.dimensions import find_dimensions
from xr_daisi.errors import StateError, problem

if TYPE_CHECKING:
    from collections.abc import Mapping

    import xarray as xr

__all__ = ["ensemble_scores", "score_table"]


def ensemble_scores(
    ensemble: xr.Dataset, truth: xr.Dataset, variable: str | None = None
) -> xr.Dataset:
    """Score an ensemble at every time.

    Parameters
    ----------
    ensemble : xarray.Dataset
        Fields with a member dimension of at least two, and possibly time.
    truth : xarray.Dataset
        The same fields without members, on the same coordinates.
    variable : str, optional
        Which one; the first that both have when None.

    Returns
    -------
    xarray.Dataset
        ``rmse`` of the ensemble mean and fair ``crps`` in the variable's units, and ``ssr``, the
        spread-skill ratio ``sqrt((M + 1) / M * mean variance / mean squared error)`` (1 is
        calibrated), pooled over all points and levels; on time where there is one.

    Raises
    ------
    StateError
        Without common variable or members, or on different coordinates.
    """
    from scores.continuous import rmse
    from scores.probability import crps_for_ensemble

    common = [str(v) for v in ensemble.data_vars if v in truth.data_vars]
    if variable is None and not common:
        raise StateError(
            problem(
                "ensemble",
                f"variables {', '.join(map(str, ensemble.data_vars))}",
                f"one of {', '.join(map(str, truth.data_vars))}",
            )
        )
    name = variable or common[0]
    dims = find_dimensions(ensemble, [name], what="ensemble")
    if dims.member is None or ensemble.sizes[dims.member] < 2:
        raise StateError(
            problem("ensemble", f"dimensions {dict(ensemble[name].sizes)}", "at least two members")
        )
    members, reference = ensemble[name], truth[name]
    count = members.sizes[dims.member]
    kept = [dims.time] if dims.time else []
    try:
        import xarray as xr

        xr.align(members, reference, join="exact", copy=False)
    except ValueError as error:
        raise StateError(
            problem("truth", f"other coordinates ({error})", "those of the ensemble")
        ) from error
    mean = members.mean(dims.member)
    variance = members.var(dims.member, ddof=1)
    squared = (mean - reference) ** 2
    reduced = [d for d in mean.dims if d not in kept]
    crps = crps_for_ensemble(
        members, reference, ensemble_member_dim=dims.member, method="fair", preserve_dims=kept or None
    )
    ratio = (count + 1) / count * variance.mean(reduced) / squared.mean(reduced)
    out = xr.Dataset(
        {
            "rmse": rmse(mean, reference, preserve_dims=kept or None),
            "crps": crps,
            "ssr": np.sqrt(ratio),
        }
    )
    units = reference.attrs.get("units", "")
    for key, text in (
        ("rmse", "root mean square error of the ensemble mean"),
        ("crps", "fair continuous ranked probability score"),
        ("ssr", "spread-skill ratio"),
    ):
        out[key].attrs = {"long_name": text, "units": "1" if key == "ssr" else units}
    return out.drop_vars([c for c in out.coords if c not in kept])


def score_table(
    ensembles: Mapping[str, xr.Dataset], truth: xr.Dataset, variable: str | None = None
) -> str:
    """Return a table of scores, one line per ensemble, averaged over times.

    Parameters
    ----------
    ensembles : mapping of str to xarray.Dataset
        What to score, by name.
    truth, variable
        As in `ensemble_scores`.
    """
    rows = []
    units = ""
    for name, ensemble in ensembles.items():
        scores = ensemble_scores(ensemble, truth, variable)
        units = scores["rmse"].attrs["units"]
        rows.append((name, *(float(scores[k].mean()) for k in ("rmse", "crps", "ssr"))))
    width = max(12, *(len(r[0]) for r in rows))
    unit = f" ({units})" if units else ""
    titles = (f"RMSE{unit}", f"CRPS{unit}", "SSR")
    lines = [f"{'':<{width}}" + "".join(f"{t:>12}" for t in titles)]
    lines += [f"{r[0]:<{width}}{r[1]:>12.3f}{r[2]:>12.3f}{r[3]:>12.2f}" for r in rows]
    return "\n".join(lines)
