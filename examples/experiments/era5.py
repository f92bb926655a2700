"""ERA5 2 m temperature over the British Isles: real fields, March 2019.

The prior is trained on 1-18 March, settings are chosen on 19-22 March, and 24-31 March is reported
once: 16 analyses, each from an ensemble of the fields of the same hour on each of the 10 days
before, with 40 stations off the grid nodes and errors of 0.5 K. Scores are at the grid points.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import xarray as xr

import xr_daisi
from examples import era5_uk
from xr_daisi.fingerprints import dataset_sha256, described
from xr_daisi.verification import ensemble_scores, overall_scores

from .runs import Run, check_same, claim, prior_name
from .score_file import ScoreFile, write_whole

EXPERIMENT = "era5"
OBS_ERROR = 0.5
BACKGROUND = "background"
FLOW_METHODS = ("daisi", "daisi-tuned", "daisi-published", "prior-only", "renoise")
PUBLISHED_NOISE = 0.03
METHODS = (BACKGROUND, *FLOW_METHODS, "letkf", "ensf", "oi")


def candidates(method: str, steps: int) -> list[dict[str, Any]]:
    """Return the settings that are tried on 19-22 March, in this order.

    Parameters
    ----------
    method : str
        One of `METHODS`.
    steps : int
        Solver steps each way of the methods that have any.

    Raises
    ------
    ValueError
        For an unknown method.
    """
    if method not in METHODS:
        raise ValueError(f"--methods: found {method!r}, expected some of {', '.join(METHODS)}")
    solver: dict[str, Any] = {"steps": steps}
    if method == "daisi":
        return [{**solver, "t_min": "auto", "bridge": "auto"}]
    if method in FLOW_METHODS:
        solver["noise"] = PUBLISHED_NOISE
    if method in ("daisi-published", "daisi-tuned"):
        solver["inverse_noise"] = PUBLISHED_NOISE
    if method == "daisi-published":
        return [{**solver, "t_min": 0.3, "guidance_iterations": 1, "solver": "euler"}]
    if method in ("daisi-tuned", "renoise"):
        pairs = itertools.product((0.03, 0.1, 0.2), (1.0, 1.5))
        return [{**solver, "t_min": t_min, "strength": strength} for t_min, strength in pairs]
    if method == "prior-only":
        return [{**solver, "strength": strength} for strength in (1.0, 1.5)]
    if method == "letkf":
        # A Gaussian of 100 km is about a Gaspari-Cohn taper that ends at 365 km.
        pairs = itertools.product(("250 km", "365 km", "500 km"), (0.0, 0.2, 0.3))
        return [{"localization": length, "relaxation": r} for length, r in pairs]
    if method == "oi":
        return [{"localization": length} for length in ("250 km", "365 km", "500 km")]
    return [{}]


def train(
    field: xr.Dataset, out: Path, *, steps: int, tell: Callable[[str], object] = print
) -> Path:
    """Train the prior on 1-18 March, go on with an interrupted training, or return what is there.

    Raises
    ------
    ValueError
        If what is there was trained otherwise or on other data.
    """
    path, card = out / "uk-t2m.safetensors", out / "uk-t2m.json"
    wanted = {"steps": steps, "data_sha256": dataset_sha256(field[["t2m"]])}
    if card.exists():
        check_same(card, json.loads(card.read_text(encoding="utf-8")), wanted)
    else:
        text = json.dumps(wanted, indent=1)
        write_whole(card, lambda p: p.write_text(text, encoding="utf-8"))
    if not path.exists():
        tell(f"training the prior on 1-18 March, {steps} steps")
        era5_uk.train(field, steps, out / "training.checkpoint").save(path, overwrite=True)
    return path


def choose(
    method: str,
    field: xr.Dataset,
    prior: xr_daisi.FlowPrior | None,
    *,
    members: int,
    steps: int,
    seed: int,
    device: str,
    tell: Callable[[str], object] = print,
) -> dict[str, Any]:
    """Return the settings of the lowest CRPS on 19-22 March."""
    tried = candidates(method, steps)
    if len(tried) == 1:
        return tried[0]
    times = era5_uk.TUNING
    forecast, obs = ensemble(field, times, members), observations(field, times, seed=2)
    truth = field[["t2m"]].sel(time=times)
    found = []
    for settings in tried:
        analysis = analyse(forecast, obs, method, prior, settings, seed=seed, device=device)
        scores = overall_scores(ensemble_scores(analysis, truth), pooled=True)
        found.append(scores["crps"])
        tell(
            f"  {method} {settings}: RMSE {scores['rmse']:.3f} K, CRPS {scores['crps']:.3f} K, "
            f"SSR {scores['ssr']:.2f}"
        )
    chosen = tried[found.index(min(found))]
    tell(f"{method}, chosen on 19-22 March: {chosen}")
    return chosen


def ensemble(field: xr.Dataset, times: Any, members: int) -> xr.Dataset:
    """Return the fields of the same hour on each of the days before."""
    return era5_uk.forecasts(field, times).isel(member=slice(0, members))


def observations(field: xr.Dataset, times: Any, seed: int) -> xr.Dataset:
    """Return the series of the 40 stations."""
    return era5_uk.stations(field, times, seed, withheld=0, error=(OBS_ERROR, OBS_ERROR))


def analyse(
    forecast: xr.Dataset,
    obs: xr.Dataset,
    method: str,
    prior: xr_daisi.FlowPrior | None,
    settings: Mapping[str, Any],
    *,
    seed: int,
    device: str,
) -> xr.Dataset:
    """Return the analysis by a method; the background itself is one."""
    if method == BACKGROUND:
        return forecast
    flow = method in FLOW_METHODS
    return xr_daisi.assimilate(
        forecast,
        obs,
        prior if flow else None,
        method="daisi" if method.startswith("daisi") else method,
        seed=seed,
        progress=False,
        **({"device": device} if flow else {}),
        **settings,
    )


def run_era5(
    methods: Sequence[str],
    out: Path,
    *,
    data: Path | None = None,
    members: int = 10,
    cycles: int = 16,
    steps: int | None = None,
    seed: int = 1,
    prior: xr_daisi.FlowPrior | None = None,
    device: str = "auto",
    overrides: Mapping[str, Any] | None = None,
    training_steps: int = 4000,
    tell: Callable[[str], object] = print,
) -> ScoreFile:
    """Train, choose settings, and report each method once.

    Parameters
    ----------
    methods : sequence of str
        Some of `METHODS`.
    out : Path
        Folder for `scores.csv`, the prior and the settings chosen.
    data : Path, optional
        The fields; fetched when None.
    members : int
        Days before that make the ensemble, at most 10.
    cycles : int
        How many of the 16 times.
    steps : int, optional
        Solver steps each way; 10.
    seed : int
        Of stations, errors and analyses.
    prior : FlowPrior, optional
        One trained into `out` when None.
    device : str
        For the network.
    overrides : mapping, optional
        Keywords of `xr_daisi.assimilate` instead of chosen ones.
    training_steps : int
        Of the prior.
    tell : callable
        Takes lines of text.

    Returns
    -------
    ScoreFile
        Of all rows in `out`.

    Raises
    ------
    ValueError
        For what does not exist, or a folder with runs of another configuration.
    """
    times = era5_uk.TEST[:cycles]
    problems = []
    if not 2 <= members <= 10:
        problems.append(f"--members: found {members}, expected 2 to 10 days before")
    if not 1 <= cycles <= era5_uk.TEST.size:
        problems.append(f"--cycles: found {cycles}, expected 1 to {era5_uk.TEST.size} times")
    if problems:
        raise ValueError("\n".join(problems))
    number = era5_uk.STEPS if steps is None else steps
    for method in methods:
        candidates(method, number)
    out.mkdir(parents=True, exist_ok=True)
    field = era5_uk.load(data)
    scores = ScoreFile(out / "scores.csv")
    if prior is None and any(m in FLOW_METHODS for m in methods):
        prior = xr_daisi.load_prior(train(field, out, steps=training_steps, tell=tell))
    obs = observations(field, era5_uk.TEST, seed)
    for method in methods:
        flow = method in FLOW_METHODS
        run = Run(
            experiment=EXPERIMENT,
            method=method,
            seed=seed,
            keywords=dict(overrides or {}),
            configuration={
                "members": members,
                "steps": number if flow else None,
                "prior": prior_name(prior) if flow else None,
                "data_sha256": dataset_sha256(field[["t2m"]]),
            },
        )
        path = claim(out, run).with_suffix(".settings.json")
        if path.exists():
            settings = json.loads(path.read_text(encoding="utf-8"))
        else:
            settings = choose(
                method,
                field,
                prior,
                members=members,
                steps=number,
                seed=seed,
                device=device,
                tell=tell,
            )
            text = json.dumps(described(settings))
            write_whole(path, lambda p, text=text: p.write_text(text, encoding="utf-8"))
        key = {"experiment": EXPERIMENT, "method": method, "seed": seed}
        for cycle, time in enumerate(times):
            if scores.has(**key, cycle=cycle):
                continue
            forecast = ensemble(field, times[cycle : cycle + 1], members)
            analysis = analyse(
                forecast,
                obs.sel(time=[time]),
                method,
                prior,
                {**settings, **(overrides or {})},
                seed=seed,
                device=device,
            )
            found = overall_scores(ensemble_scores(analysis, field[["t2m"]].sel(time=[time])))
            scores.append(**key, cycle=cycle, **found)
            tell(
                f"{EXPERIMENT} {method} {str(time)[:13]}: RMSE {found['rmse']:.3f}, "
                f"CRPS {found['crps']:.3f}, SSR {found['ssr']:.2f}"
            )
    return scores
