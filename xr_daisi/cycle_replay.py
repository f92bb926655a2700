"""A stored cycle computed again and compared: `replay`."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from xr_daisi.analysis import assimilate
from xr_daisi.cycle_plan import versions
from xr_daisi.cycle_store import CycleStore
from xr_daisi.errors import DaisiError, NoObservationsWarning, PriorError, SettingsError, problem
from xr_daisi.fingerprints import dataset_sha256
from xr_daisi.registry import load_prior

if TYPE_CHECKING:
    from xr_daisi.priors import FlowPrior

__all__ = ["Replay", "replay"]

PAIRS = ("steps", "tile", "overlap")


@dataclass(frozen=True)
class Replay:
    """What came of computing a stored cycle again.

    Attributes
    ----------
    cycle : int
        Its number.
    time : str
        Of its analysis.
    status : str
        What became of it when it ran.
    analysis : xarray.Dataset
        Computed now.
    differences : dict of str to float
        Largest difference from the stored analysis by variable, in its units.
    intact : bool
        Whether background and analysis are still what was written, by their checksums.
    other_versions : dict of str to str
        Libraries that have another version now than when it ran: what it was.
    """

    cycle: int
    time: str
    status: str
    analysis: xr.Dataset
    differences: dict[str, float]
    intact: bool
    other_versions: dict[str, str]

    @property
    def identical(self) -> bool:
        """Whether it is the stored analysis, bit for bit."""
        return self.intact and not any(self.differences.values())

    def __str__(self) -> str:
        rows = [("cycle", f"{self.cycle}, {self.time} ({self.status.replace('_', ' ')})")]
        told = "as written" if self.intact else "not as written: their checksums differ"
        rows.append(("stored fields", told))
        rows += [(name, f"largest difference {d:.3g}") for name, d in self.differences.items()]
        if self.other_versions:
            told = ", ".join(f"{k} {v}" for k, v in self.other_versions.items())
            rows.append(("versions", f"it ran with {told}"))
        rows.append(("result", "identical, bit for bit" if self.identical else "different"))
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {text}" for name, text in rows)


def replay(
    store: str | Path,
    cycle: int,
    *,
    prior: FlowPrior | str | Path | None = None,
    **assimilate_keywords: Any,
) -> Replay:
    """Compute the analysis of a stored cycle again, and compare it with what is stored.

    Background, observations, seed and settings are those of the store.

    Parameters
    ----------
    store : str or Path
        What `xr_daisi.cycle` wrote.
    cycle : int
        Which cycle, from 0; from the end where negative.
    prior : FlowPrior, str or Path, optional
        The prior; when None, the file or registered name that the cycle was given.
    **assimilate_keywords
        Keywords that a store cannot hold, such as operators that are functions; others replace
        those of the store, such as ``device``.

    Returns
    -------
    Replay
        The analysis, and how it differs; printing it gives a table.

    Raises
    ------
    DaisiError
        If there is no such store or cycle.
    PriorError
        If the prior is not that of the cycle.
    SettingsError
        If keywords are missing.
    """
    kept = CycleStore.read_only(Path(store).expanduser())
    number = cycle + kept.finished if cycle < 0 else cycle
    record = kept.record(number)
    configuration = kept.state["configuration"]
    background, stored = kept.read("background", number), kept.read("analysis", number)
    member = kept.state.get("member")
    if member is not None and record["lost"]:
        left = [
            i for i, v in enumerate(background[member].values.tolist()) if v not in record["lost"]
        ]
        background, stored = (ds.isel({member: left}) for ds in (background, stored))
    intact = (
        dataset_sha256(background) == record["background_sha256"]
        and dataset_sha256(stored) == record["analysis_sha256"]
    )
    observations = kept.tables("observations", number)
    analysis = background
    if record["status"] == "analysed":
        if not observations:
            raise DaisiError(problem(f"cycle {number}", "no observations stored", "some"))
        keywords = {**_stored(configuration["keywords"], assimilate_keywords)}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NoObservationsWarning)
            analysis = assimilate(
                background,
                observations[0] if len(observations) == 1 else observations,
                _prior(configuration["prior"], prior, kept.state["sessions"][-1]["prior"]),
                method=configuration["method"],
                seed=configuration["seed"],
                **{"progress": False, **keywords, **assimilate_keywords},
            )
    then = kept.state["sessions"][-1]
    for session in kept.state["sessions"]:
        if session["from_cycle"] <= number:
            then = session
    return Replay(
        cycle=number,
        time=str(record["time"]),
        status=str(record["status"]),
        analysis=analysis,
        differences={
            str(n): _distance(analysis[n].values, v.values)
            for n, v in stored.data_vars.items()
            if v.dtype.kind in "fiu"
        },
        intact=intact,
        other_versions={k: str(then.get(k)) for k, v in versions().items() if then.get(k) != v},
    )


def _distance(one: np.ndarray, other: np.ndarray) -> float:
    """Largest difference; NaN only where both are counts as none, elsewhere as infinite."""
    if np.array_equal(one, other, equal_nan=one.dtype.kind == "f"):
        return 0.0
    difference = np.abs(one.astype(float) - other.astype(float))
    both = np.isnan(one.astype(float)) & np.isnan(other.astype(float))
    return float(np.where(np.isnan(difference) & ~both, np.inf, np.nan_to_num(difference)).max())


def _stored(keywords: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Return the keywords of a store, those that are pairs as such; raise for functions."""
    names = {k: v for k, v in keywords.items() if k not in given}
    lost = [k for k, v in names.items() if k == "strength" and isinstance(v, str)]
    lost += [
        f"operator of {name!r}"
        for name, what in (names.get("operator") or {}).items()
        if isinstance(what, str) and "." in what and "(" not in what
    ]
    if lost:
        found = f"functions for {', '.join(lost)}, which a store cannot hold"
        raise SettingsError(problem("replay", found, "them as keywords", "pass operator=... again"))
    return {k: tuple(v) if k in PAIRS and isinstance(v, list) else v for k, v in names.items()}


def _prior(
    entries: dict[str, Any] | None, given: FlowPrior | str | Path | None, before: str | None
) -> Any:
    if entries is None:
        return given
    prior = given
    if prior is None:
        named = before or (entries["name"] if entries["sha256"] else None)
        if named is None:
            found = f"{entries['name']!r}, a prior that was only in memory"
            raise PriorError(problem("prior", found, "the prior itself", "pass prior=..."))
        prior = named
    loaded = load_prior(prior) if isinstance(prior, (str, Path)) else prior
    if entries["sha256"] and loaded.sha256 != entries["sha256"]:
        found = f"{loaded.name!r} with sha256 {str(loaded.sha256)[:12]}"
        expected = f"{entries['name']!r} with sha256 {entries['sha256'][:12]}, as in the store"
        raise PriorError(problem("prior", found, expected, "pass that prior"))
    return loaded
