"""Scores of an ensemble against a truth.

`ensemble_scores` gives RMSE, fair CRPS and the spread-skill ratio by variable, level, region and
time; beside it are rank histograms, spectra, reliability, the energy score and increments. The
CRPS and the Brier score are those of the package `scores`, Fourier transforms those of `xrft`:
install ``xr_daisi[verify]``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from xr_daisi.optional_packages import needed
from xr_daisi.verification_fields import energy_score, increments
from xr_daisi.verification_pairs import By, Regions, find_pair, over_variables, with_units
from xr_daisi.verification_probabilities import reliability, spread_skill
from xr_daisi.verification_ranks import observation_rank_histogram, rank_histogram
from xr_daisi.verification_spectra import log_spectral_distance, power_spectrum

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = [
    "energy_score",
    "ensemble_scores",
    "increments",
    "log_spectral_distance",
    "observation_rank_histogram",
    "overall_scores",
    "power_spectrum",
    "rank_histogram",
    "reliability",
    "score_table",
    "spread_skill",
]

LONG_NAMES = {
    "rmse": "root mean square error of the ensemble mean",
    "crps": "fair continuous ranked probability score",
    "ssr": "spread-skill ratio",
}
MORE_NAMES = {
    "bias": "mean of the ensemble mean minus the truth",
    "spread": "root mean variance of the members",
}


def ensemble_scores(
    ensemble: xr.Dataset,
    truth: xr.Dataset,
    variable: str | Sequence[str] | None = None,
    *,
    by: By = "time",
    regions: Regions = None,
    weights: str | xr.DataArray | None = None,
) -> xr.Dataset:
    """Score an ensemble at every time.

    Parameters
    ----------
    ensemble : xarray.Dataset
        Fields with a member dimension of at least two, and possibly time.
    truth : xarray.Dataset
        The same fields without members, on the same coordinates; NaN where nothing is to be
        scored.
    variable : str or sequence of str, optional
        Which one; the first that both have when None. Several are put along a dimension
        ``variable``, with a coordinate ``units``.
    by : str or sequence of str, optional
        Dimensions that the scores keep: ``"time"``, ``"level"``, both, or any of the fields' own,
        such as ``"latitude"``. All others are pooled; nothing is kept with ``()``.
    regions : mapping, optional
        Name to box ``{coordinate: slice(first, last)}`` (longitudes eastward from first to last)
        or to a boolean mask; scores then have a dimension ``region``.
    weights : "area" or xarray.DataArray, optional
        Weights of the points: the cosine of latitude, or numbers on dimensions of the fields.
        Every point counts once when None.

    Returns
    -------
    xarray.Dataset
        ``rmse`` of the ensemble mean and fair ``crps`` in the truth's units, and ``ssr``, the
        spread-skill ratio ``sqrt((M + 1) / M * mean variance / mean squared error)`` of M members
        (1 is calibrated). Also ``bias`` of the ensemble mean, and ``spread``, the root mean
        variance (ddof 1) without the factor. Lazy where the input is.

    Raises
    ------
    StateError
        Without common variable or members, or on different dimensions or coordinates.
    UnitsError
        For units that do not convert.
    SettingsError
        For dimensions to keep, regions or weights that do not fit the fields.
    DaisiTypeError
        If one of the two is no Dataset.
    ImportError
        Without the extra ``verify``.

    References
    ----------
    Ferro (2014), https://doi.org/10.1002/qj.2270, for the fair CRPS. Fortin, Abaza, Anctil and
    Turcotte (2014), https://doi.org/10.1175/JHM-D-14-0008.1, for the factor of the ratio.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> rng = np.random.default_rng(0)
    >>> grid = {"latitude": np.linspace(-80, 80, 9), "x": np.arange(200)}
    >>> values = rng.normal(size=(20, 9, 200))
    >>> states = xr.Dataset({"t": (("member", *grid), values, {"units": "K"})}, grid)
    >>> truth, ensemble = states.isel(member=0), states.isel(member=slice(1, None))
    >>> boxes = {"tropics": {"latitude": slice(-20, 20)}, "south": {"latitude": slice(None, -20)}}
    >>> scores = ensemble_scores(ensemble, truth, regions=boxes, weights="area")
    >>> scores.ssr.dims, scores.ssr.round(1).values.tolist()
    (('region',), [1.0, 1.0])
    """
    crps_for_ensemble = needed("scores.probability").crps_for_ensemble

    def calculate(name: str | None) -> xr.Dataset:
        pair = find_pair(ensemble, truth, name, by=by, regions=regions, weights=weights)
        member, members, reference = pair.member, pair.members, pair.truth
        if members.chunks is not None:
            members = members.chunk({member: -1})  # which the CRPS needs
        mean = members.mean(member, skipna=False)
        error = mean - reference
        # A point where a member is missing is not scored.
        variance = members.var(member, ddof=1, skipna=False).where(error.notnull())
        crps = crps_for_ensemble(
            members.where(error.notnull()),
            reference,
            ensemble_member_dim=member,
            method="fair",
            preserve_dims="all",
        )
        squared, square_spread = pair.mean(error**2), pair.mean(variance)
        ratio = (pair.size + 1) / pair.size * square_spread / squared
        data = {
            "rmse": squared**0.5,
            "crps": pair.mean(crps),
            "ssr": ratio**0.5,
            "bias": pair.mean(error),
            "spread": square_spread**0.5,
        }
        names = {**LONG_NAMES, **MORE_NAMES}
        units: dict[str, Any] = {key: pair.units for key in names} | {"ssr": "1"}
        labelled = {key: with_units(v, names[key], units[key]) for key, v in data.items()}
        return pair.finished(xr.Dataset(labelled))

    return over_variables(variable, calculate)


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
