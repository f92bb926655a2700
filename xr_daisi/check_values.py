"""Lines of a trust report about the values of a forecast: normalisation, bounds, distribution."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from xr_daisi.holes import fill_holes, holes_of
from xr_daisi.trust_report import Line, Verdict

if TYPE_CHECKING:
    from xr_daisi.blocks import Work
    from xr_daisi.engine import Engine

__all__ = ["bound_lines", "distribution_lines", "graded", "guess", "normalisation_lines"]

# What goes wrong with units: the change that would mend it, and its name.
CHANGES = (
    ("degrees Celsius given as kelvin", 1.0, 273.15),
    ("kelvin given as degrees Celsius", 1.0, -273.15),
    ("hPa given as Pa (or g kg-1 as ...)", 100.0, 0.0),
    ("Pa given as hPa", 0.01, 0.0),
    ("a unit 1000 times larger", 1000.0, 0.0),
    ("a unit 1000 times smaller", 0.001, 0.0),
    ("geopotential height given as geopotential", 9.80665, 0.0),
    ("geopotential given as geopotential height", 1 / 9.80665, 0.0),
)

MOST_NAMED = 10
"""Members that are named."""

NOT_NEGATIVE = (
    *("humidity", "precipitation", "rainfall", "snowfall", "ice_thickness", "concentration"),
    *(
        "cloud",
        "wind_speed",
        "mixing_ratio",
        "mole_fraction",
        "mass_fraction",
        "significant_height",
    ),
)


def graded(value: float, warn: float, fail: float) -> Verdict:
    """Verdict on a value that should be small; NaN fails."""
    return "pass" if value <= warn else "warn" if value <= fail else "fail"


def guess(values: np.ndarray, mean: float, std: float) -> str:
    """Name the change of units that brings values near a mean; empty where none does.

    Parameters
    ----------
    values : ndarray
        Physical values.
    mean, std : float
        What they should be like.
    """
    middle, spread = float(np.nanmean(values)), float(np.nanstd(values))
    for name, factor, offset in CHANGES:
        near = abs(factor * middle + offset - mean) < 3 * std
        if near and 0.1 * std < factor * spread < 5 * std:
            return f"they look like {name}: correct attrs['units'], or the values"
    return ""


def normalisation_lines(work: Work, states: np.ndarray) -> list[Line]:
    """Compare the forecast's values with the prior's normalisation.

    An ensemble of one time is not a climatology: a mean up to 2, and a deviation of 0.2 to 4
    standard deviations of the prior pass.

    Parameters
    ----------
    work : Work
        Layout and prior.
    states : ndarray
        ``(member, channel, *space)`` of one time, in the prior's units.
    """
    normalization = work.engine.prior.normalization
    z = normalization.normalize(states)
    lines = []
    for v in work.layout.spec.variables:
        channels = work.layout.spec.channel_slice(v.name)
        own = z[:, channels]
        mean, std, largest = float(np.nanmean(own)), float(np.nanstd(own)), np.nanmax(np.abs(own))
        narrow = graded(1.0 / max(std, 1e-30), 5.0, 50.0)
        verdicts = [graded(abs(mean), 2.0, 6.0), graded(std, 4.0, 15.0), narrow]
        verdicts.append(graded(float(largest), 12.0, 30.0))
        worst = max(verdicts, key=["pass", "warn", "fail"].index)
        found = (
            f"mean {mean:.2g}, standard deviation {std:.2g}, largest {float(largest):.2g} "
            "in standard deviations of the prior"
        )
        remedy = ""
        if worst != "pass":
            physical = states[:, channels]
            centre = np.broadcast_to(normalization.mean, z.shape[1:])[channels]
            width = np.broadcast_to(normalization.std, z.shape[1:])[channels]
            remedy = guess(physical, float(centre.mean()), float(width.mean()))
            remedy = remedy or "check its units, and that the prior is for such data"
        lines.append(Line(f"values of {v.name}", worst, found, remedy))
    return lines


def bound_lines(work: Work, states: np.ndarray) -> list[Line]:
    """Look for negative values of what cannot be negative, and fractions beyond 1."""
    lines = []
    for v in work.layout.spec.variables:
        kind = v.standard_name or ""
        own = states[:, work.layout.spec.channel_slice(v.name)]
        fraction = kind.endswith("area_fraction")
        if not fraction and not any(word in kind for word in NOT_NEGATIVE):
            continue
        negative = int((own < -1e-6 * np.nanmax(np.abs(own))).sum())
        beyond = int((own > 1.001).sum()) if fraction and v.units in (None, "1") else 0
        if negative or beyond:
            found = f"{negative} negative values" + (f", {beyond} above 1" if beyond else "")
            remedy = f"clip them: forecast.assign({v.name}=forecast.{v.name}.clip(min=0))"
            lines.append(Line(f"bounds of {v.name}", "warn", found, remedy))
        else:
            lines.append(Line(f"bounds of {v.name}", "pass", "no value out of physical bounds"))
    return lines


def distribution_lines(engine: Engine, states: np.ndarray, count: int, time: str) -> list[Line]:
    """Say whether members could have come from the prior.

    Carried to t = 0 without noise, a state drawn from the prior becomes standard normal: its mean
    square is 1, give or take ``sqrt(2 / d)`` for d values. There and back it is the same again, as
    far as the solver is accurate.

    Parameters
    ----------
    engine : Engine
        With the settings of the analysis.
    states : ndarray
        ``(member, channel, *space)``, in the prior's units: all members.
    count : int
        How many of them go there and back.
    time : str
        Label of the time.
    """
    quiet = {"inverse_noise": 0.0, "noise": 0.0, "corrector_steps": 0}
    settings = engine.settings.updated(quiet)
    some = states[:count]
    back = engine.with_settings(settings).there_and_back(some, time=time)
    normalization, holes = engine.prior.normalization, holes_of(states[0])
    before, after = (fill_holes(normalization.normalize(x), holes) for x in (some, back))
    size = before[0].size - (0 if holes is None else int(holes.sum()))
    axes = tuple(range(1, before.ndim))
    error = np.sqrt(((after - before) ** 2).sum(axis=axes) / size)
    worst = float(error.max())
    verdict = graded(worst, 0.1, 0.5)
    remedy = "more steps, e.g. steps=40" if verdict != "pass" else ""
    if verdict == "fail":
        remedy += "; if that does not help, the prior was not trained on such states"
    found = (
        f"error of {worst:.2g} standard deviations there and back at t_min "
        f"{engine.settings.start:g} ({len(some)} of {len(states)} members)"
    )
    lines = [Line("inversion", verdict, found, remedy)]

    steps = max(20, engine.settings.step_counts[0])
    exact = {"t_min": 0.0, "steps": steps, "solver": "adams"}
    latent = engine.with_settings(settings.updated(exact)).invert(states, time=time)
    norm = (fill_holes(latent, holes) ** 2).sum(axis=axes) / size
    low, high = float(norm.min()), float(norm.max())
    least, most = _by_chance(size)
    verdict = max(
        graded(high, max(2.0, most), max(10.0, 2 * most)),
        graded(1 / max(low, 1e-30), 1 / min(0.5, least), 1 / min(0.1, least / 2)),
        key=["pass", "warn", "fail"].index,
    )
    found = (
        f"mean square of latents of all {len(states)} members {low:.2f} to {high:.2f} "
        "(1 for states of the prior)"
    )
    remedy = ""
    if verdict != "pass":
        odd = [int(i) for i in np.flatnonzero((norm > max(2.0, most)) | (norm < min(0.5, least)))]
        more = f" and {len(odd) - MOST_NAMED} more" if len(odd) > MOST_NAMED else ""
        remedy = (
            f"members {odd[:MOST_NAMED]}{more} are "
            f"{'rougher or further off' if high > 2 else 'smoother'} than what the prior knows: "
            "train it on such states, or raise t_min"
        )
    return [*lines, Line("distribution", verdict, found, remedy)]


def _by_chance(size: int) -> tuple[float, float]:
    """Range of the mean square of standard normal numbers that one in 30,000 leaves at an end.

    By the cube root, which is nearly normal (Wilson and Hilferty 1931).
    """
    share = 2.0 / (9.0 * size)
    low, high = (max(1.0 - share + z * np.sqrt(share), 0.0) ** 3 for z in (-4.0, 4.0))
    return max(float(low), 1e-3), float(high)
