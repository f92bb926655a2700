"""All members and times at once, in memory; the counterpart of `xr_daisi.lazy_blocks`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xr_daisi.ensemble_work import bridged
from xr_daisi.errors import NoObservationsWarning
from xr_daisi.progress import progress_bar
from xr_daisi.user_warnings import warn_user
from xr_daisi.windows import Window

if TYPE_CHECKING:
    import numpy as np

    from xr_daisi.blocks import Work
    from xr_daisi.bridge import Choice
    from xr_daisi.observation_status import Status
    from xr_daisi.observations import ObservationPlan

__all__ = ["run_eager"]


def run_eager(
    states: np.ndarray, plan: ObservationPlan | None, work: Work, *, progress: bool | None
) -> tuple[np.ndarray, dict[Status, int], list[tuple[list[int], Choice]]]:
    """Work through all times at once.

    Parameters
    ----------
    states : ndarray
        ``(time, member, channel, *space)`` in the forecast's units; not modified.
    plan : ObservationPlan or None
        None inverts only.
    work : Work
        What to do.
    progress : bool or None
        Whether to show a bar.

    Returns
    -------
    ndarray
        Analysis or latents, shape and dtype of `states`.
    dict of Status to int
        Number of observations that were rejected in view of the forecast.
    list of (times, Choice)
        What the bridge chose.
    """
    times, members = states.shape[:2]
    holes = work.holes(states)
    if plan is None:
        with progress_bar(progress, total=times * members, unit="member", desc="invert") as bar:
            return work.invert(states, holes, 0, 0, bar.update), {}, []
    work.check(states, holes, 0, 0)
    given = [plan.window_batch(window) for window in plan.windows]
    batches = [
        work.filtered(states[list(window)], batch, holes)
        for window, batch in zip(plan.windows, given, strict=True)
    ]
    rejected: dict[Status, int] = {}
    for before, after in zip(given, batches, strict=True):
        for rows, status in after.rejected[len(before.rejected) :]:
            rejected[status] = rejected.get(status, 0) + rows.size
    if rejected and not any(map(len, batches)):
        words = ", ".join(f"{count} {status.reason}" for status, count in rejected.items())
        total = sum(rejected.values())
        text = f"the forecast rejected all {total} observations ({words}): it stays as is"
        warn_user(NoObservationsWarning(text))
    total = members * sum(len(b) > 0 for b in batches)
    windows = [Window(times, batch) for times, batch in zip(plan.windows, batches, strict=True)]
    with progress_bar(progress, total=total, unit="member", desc="assimilate") as bar:
        states, windows = bridged(work, states, windows, holes, 0)
        chosen = [(list(w.times), w.choice) for w in windows if w.choice is not None]
        return work.analyse(states, windows, holes, 0, 0, bar.update), rejected, chosen
