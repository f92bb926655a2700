"""The scores of one cycle: against the observations, and against a truth where there is one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import xarray as xr

from xr_daisi.ensembles import time_text
from xr_daisi.errors import DaisiTypeError, SettingsError, StateError, problem
from xr_daisi.observation_status import Status
from xr_daisi.user_warnings import warn_user
from xr_daisi.verification import ensemble_scores

__all__ = ["STATUSES", "TruthSource", "departures", "score_dataset", "score_dict", "truth_scores"]

STATUSES = ("analysed", "no_observations", "analysis_failed")
STAGES = ("background", "analysis")
SCORES = ("rmse", "crps", "ssr")


class TruthSource:
    """A truth at any time of a cycle.

    Parameters
    ----------
    truth : xarray.Dataset or callable
        With a time coordinate; or a function of time.
    initial : xarray.Dataset
        The initial ensemble.

    Raises
    ------
    StateError, DaisiTypeError, SettingsError
        If the two have no variable in common, it is neither, or `scores` is not installed.
    """

    def __init__(
        self, truth: xr.Dataset | Callable[[np.datetime64], Any], initial: xr.Dataset, time: str
    ) -> None:
        try:
            import scores  # noqa: F401  needed much later
        except ImportError as error:
            remedy = "install the extra that brings it: pip install 'xr-daisi[verify]'"
            text = problem("truth", "no package scores", "it, for the scores", remedy)
            raise SettingsError(text) from error
        self.truth, self.time = truth, time
        if isinstance(truth, xr.Dataset):
            if time not in truth.coords:
                found = f"coordinates {', '.join(map(str, truth.coords)) or 'none'}"
                raise StateError(problem("truth", found, f"{time!r}, as the ensemble has"))
            known: xr.Dataset | None = truth
        elif callable(truth):
            known = truth(initial[time].values.reshape(-1)[0].astype("datetime64[ns]"))
        else:
            expected = "an xarray.Dataset, or a function of time"
            raise DaisiTypeError(problem("truth", type(truth).__name__, expected))
        there = () if known is None else known.data_vars
        self.names = [str(n) for n in initial.data_vars if n in there]
        if not self.names:
            found = f"variables {', '.join(map(str, there)) or 'none'}"
            expected = f"some of {', '.join(map(str, initial.data_vars))}"
            raise StateError(problem("truth", found, expected))

    def at(self, time: np.datetime64) -> xr.Dataset | None:
        """Return the truth at a time, None where there is none."""
        if isinstance(self.truth, xr.Dataset):
            values = self.truth[self.time]
            if values.ndim == 0:
                return self.truth if values.values == time else None
            where = np.flatnonzero(values.values == time)
            return self.truth.isel({values.dims[0]: int(where[0])}) if where.size else None
        given: xr.Dataset | None = self.truth(time.astype("datetime64[ns]"))
        return given


def truth_scores(
    ensembles: Sequence[xr.Dataset], truth: TruthSource, time: np.datetime64
) -> dict[str, tuple[tuple[str, str], np.ndarray, dict[str, str]]] | None:
    """Score background and analysis, all variables of the truth.

    Parameters
    ----------
    ensembles : sequence of Dataset
        Background and analysis, with a time dimension of length one.
    truth : TruthSource
        The truth.
    time : datetime64
        Which time.

    Returns
    -------
    dict or None
        ``rmse``, ``crps`` and ``ssr``, each ``(stage, variable)``.
    """
    there = truth.at(time)
    values = np.full((len(SCORES), len(STAGES), len(truth.names)), np.nan)
    if there is None:
        warn_user(problem("truth", f"none at {time_text(time)}", "one", "scores there are NaN"))
    else:
        there = there.drop_vars(truth.time, errors="ignore")
        if truth.time in there.dims:
            there = there.isel({truth.time: 0})
        for s, ensemble in enumerate(ensembles):
            now = ensemble.isel({truth.time: 0}, drop=True)
            for v, name in enumerate(truth.names):
                found = ensemble_scores(now, there, name)
                values[:, s, v] = [float(found[key]) for key in SCORES]
    return {
        key: (("stage", "variable"), values[i], {"long_name": long_name})
        for i, (key, long_name) in enumerate(
            zip(
                SCORES,
                (
                    "root mean square error of the ensemble mean",
                    "fair continuous ranked probability score",
                    "spread-skill ratio",
                ),
                strict=True,
            )
        )
    }


def departures(tables: Sequence[xr.Dataset]) -> tuple[int, float, float]:
    """Count the observations used, and measure their departures in units of their errors.

    Parameters
    ----------
    tables : sequence of Dataset
        From `feedback`.

    Returns
    -------
    tuple of int, float, float
        Number used; root mean square of O-B and of O-A over the standard deviation of the error;
        NaN where none was used.
    """
    squares: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for table in tables:
        for status in (str(n) for n in table.data_vars if str(n).endswith("_status")):
            name = status.removesuffix("_status")
            used = table[status].values == Status.USED
            error = table[f"{name}_error"].values[used]
            for letter, out in zip("ba", squares, strict=True):
                out.append((table[f"{name}_o_minus_{letter}"].values[used] / error) ** 2)
    both = [np.concatenate(part) if part else np.zeros(0) for part in squares]
    if not both[0].size:
        return 0, np.nan, np.nan
    return both[0].size, float(np.sqrt(both[0].mean())), float(np.sqrt(both[1].mean()))


def score_dataset(
    time: xr.DataArray,
    status: str,
    members: int,
    sha256: str,
    observed: tuple[int, float, float],
    against_truth: dict[str, Any] | None,
    truth: TruthSource | None,
) -> xr.Dataset:
    """Put the scores of one cycle into a Dataset with a time dimension of length one."""
    name = str(time.name)
    flags = {
        "long_name": "what became of the cycle",
        "flag_values": list(range(len(STATUSES))),
        "flag_meanings": " ".join(STATUSES),
    }
    unit = {"units": "1"}
    data: dict[str, Any] = {
        "status": (name, np.array([STATUSES.index(status)], np.int8), flags),
        "members": (name, np.array([members], np.int32), {"long_name": "members", **unit}),
        "observations": (
            name,
            np.array([observed[0]], np.int64),
            {"long_name": "observations used", **unit},
        ),
        "o_minus_b": (
            name,
            np.array([observed[1]]),
            {"long_name": "RMS of observation minus background over the error", **unit},
        ),
        "o_minus_a": (
            name,
            np.array([observed[2]]),
            {"long_name": "RMS of observation minus analysis over the error", **unit},
        ),
        "observations_sha256": (
            name,
            np.array([sha256], "U64"),
            {"long_name": "checksum of the observations of the window; empty where none"},
        ),
    }
    coords: dict[str, Any] = {name: time}
    if against_truth is not None and truth is not None:
        for key, (dims, values, attrs) in against_truth.items():
            data[key] = ((name, *dims), values[None], attrs)
        coords["stage"] = ("stage", np.array(STAGES))
        coords["variable"] = ("variable", np.array(truth.names))
    return xr.Dataset(data, coords=coords)


def score_dict(scores: xr.Dataset) -> dict[str, float]:
    """Return the scores of one cycle as plain numbers.

    Parameters
    ----------
    scores : xarray.Dataset
        From `score_dataset`.

    Returns
    -------
    dict of str to float
        ``members``, ``observations``, ``o_minus_b``, ``o_minus_a``; with a truth
        ``background_rmse``, ``analysis_rmse``, ``background_crps``, ... of the first variable, and
        with the name at the end, ``analysis_rmse_u``, of the others.
    """
    out = {k: float(scores[k].values[0]) for k in ("members", "observations")}
    out |= {k: float(scores[k].values[0]) for k in ("o_minus_b", "o_minus_a")}
    for key in SCORES if "rmse" in scores else ():
        for s, stage in enumerate(STAGES):
            for v, name in enumerate(scores["variable"].values):
                label = f"{stage}_{key}" + (f"_{name}" if v else "")
                out[label] = float(scores[key].values[0, s, v])
    return out
