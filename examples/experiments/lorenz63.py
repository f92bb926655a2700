"""Lorenz '63: where the exact posterior is known, from a particle filter of 10^5 particles.

Observed is x, its size |x| or x^2 (the posterior has two lobes), or arctan x (which saturates). The
prior is a small dense network trained on a long run.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr

import xr_daisi
from xr_daisi.named_operators import NAMED_OPERATORS
from xr_daisi.systems import Lorenz63, TwinExperiment, twin_experiment
from xr_daisi.verification import ensemble_scores

from .particle_filter import ParticleFilter, crps, energy_distance
from .runs import Run, check_same, claim, execute, prior_name
from .score_file import ScoreFile, markdown_table, write_whole

WINDOW = "6h"
"""A quarter of a time unit: errors grow by a quarter, and lobes change every third window."""

DISTANCES = ("experiment", "method", "seed", "cycle", "energy_distance")
REFERENCE = "particle-filter"
SUBSET = 2000
"""Particles of the reference that distances are computed with."""


@dataclass(frozen=True)
class Experiment:
    """What is observed of x, the standard deviation of its error, and the settings for it."""

    operator: str
    obs_error: float
    settings: dict[str, Any]


DAISI: dict[str, Any] = {"t_min": 0.3, "noise": 0.03, "inverse_noise": 0.03}
EXPERIMENTS = {
    "x": Experiment("identity", 2.0, DAISI),
    "abs": Experiment("abs", 2.0, DAISI),
    "square": Experiment("square", 20.0, DAISI),
    "arctan": Experiment("arctan", 0.1, DAISI),
}
FLOW_METHODS = ("daisi", "daisi-published", "prior-only", "renoise")
METHODS = (*FLOW_METHODS, "etkf", "ensf", REFERENCE)
SCORE_FILTER_RELAXATION = 0.0
"""Of `ensf`, chosen on the truths of seeds 1 to 3: more spread is not needed here."""

TRAINING: dict[str, Any] = {
    "network": "mlp",
    "width": 64,
    "blocks": 3,
    "batch_size": 256,
    "validation": 0.05,
    "patience": None,
    "autocast": False,
    "name": "lorenz63",
    "description": "Lorenz '63, a long run from many states of the attractor",
    "license": "BSD-3-Clause",
    "attribution": "simulated by xr_daisi.systems.Lorenz63 (Lorenz 1963)",
}


def train(out: Path, *, steps: int = 8000, tell: Callable[[str], object] = print) -> Path:
    """Train the prior on a long run, or return the one that is there.

    Parameters
    ----------
    out : Path
        Folder; an interrupted training goes on.
    steps : int
        Of the optimiser.
    tell : callable
        Takes lines of text.

    Returns
    -------
    Path
        Of the prior.

    Raises
    ------
    ValueError
        If what is there was trained otherwise.
    """
    path, card = out / "lorenz63.safetensors", out / "lorenz63.json"
    wanted: dict[str, Any] = {**TRAINING, "steps": steps}
    if card.exists():
        check_same(card, json.loads(card.read_text(encoding="utf-8")), wanted)
    else:
        text = json.dumps(wanted, indent=1)
        write_whole(card, lambda p: p.write_text(text, encoding="utf-8"))
    if not path.exists():
        tell(f"training the prior, {steps} steps")
        # Seeds of the truths start at 0.
        history = Lorenz63().simulate(states=400, every="6h", members=250, seed=6300)
        prior = xr_daisi.train_prior(
            history, steps=steps, checkpoint=out / "lorenz63.checkpoint", **TRAINING
        )
        prior.save(path, overwrite=True)
    return path


def keywords(method: str, experiment: Experiment, steps: int | None) -> dict[str, Any]:
    """Return what `xr_daisi.assimilate` is given for a method.

    Raises
    ------
    ValueError
        For an unknown method.
    """
    if method not in METHODS:
        raise ValueError(f"--methods: found {method!r}, expected some of {', '.join(METHODS)}")
    counted = {} if steps is None else {"steps": steps}
    if method == "daisi":
        return {"method": method, "t_min": "auto", "bridge": "auto", **counted}
    if method == "daisi-published":
        return {"method": "daisi", **experiment.settings, **counted}
    if method == "renoise":
        chosen = {k: v for k, v in experiment.settings.items() if k != "inverse_noise"}
        return {"method": method, **chosen, **counted}
    if method == "prior-only":
        return {"method": method, **counted}
    if method == "ensf":
        return {"method": method, "relaxation": SCORE_FILTER_RELAXATION}
    return {"method": method}


def together(ds: xr.Dataset) -> xr.Dataset:
    """Return the three variables as one on a dimension of components, to be scored together."""
    single = [d for d in ("time", "point") if d in ds.dims]
    fields = ds[["x", "y", "z"]].squeeze(single).drop_vars(["time", "point"], errors="ignore")
    return fields.to_dataarray("component").to_dataset(name="state")


def scores_of(analysis: xr.Dataset, truth: xr.Dataset) -> dict[str, float]:
    """Return the scores of a cycle, pooled over the three variables."""
    scores = ensemble_scores(together(analysis), together(truth), "state")
    return {name: float(scores[name]) for name in ("rmse", "crps", "ssr")}


def sample_scores(sample: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Return the same scores of a sample ``(particle, 3)`` too large for pairs of members."""
    error = float(((sample.mean(axis=0) - truth) ** 2).mean())
    m = sample.shape[0]
    variance = float(sample.var(axis=0, ddof=1).mean())
    return {
        "rmse": error**0.5,
        "crps": crps(sample, truth),
        "ssr": ((m + 1) / m * variance / error) ** 0.5,
    }


def log_likelihood(experiment: Experiment, value: float) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return ``log p(y | x)`` of particles ``(particle, 3)``."""
    function = NAMED_OPERATORS[experiment.operator][0].function
    sigma = experiment.obs_error
    constant = -0.5 * np.log(2.0 * np.pi * sigma**2)
    return lambda x: constant - 0.5 * ((value - function(x[:, 0])) / sigma) ** 2


def reference(
    twin: TwinExperiment, experiment: Experiment, *, particles: int, seed: int
) -> list[np.ndarray]:
    """Return the posterior of every cycle, ``(particle, 3)`` each, from the particle filter."""
    system = Lorenz63()
    rng = np.random.default_rng([seed, 5])
    first = system.tensor(twin.guess).numpy()
    start = first + system.initial_error * rng.standard_normal((particles, 3))
    filtering = ParticleFilter(torch.from_numpy(start), seed=seed)
    steps = system.steps(WINDOW)
    posteriors = []
    for cycle, value in enumerate(twin.observations.x.values[:, 0]):
        if cycle:
            filtering.forecast(lambda x: system.run(x, steps))
        posterior = filtering.analyse(log_likelihood(experiment, float(value)))
        posteriors.append(posterior.particles)
    return posteriors


def run_lorenz63(
    experiments: Sequence[str],
    methods: Sequence[str],
    out: Path,
    *,
    members: int = 20,
    cycles: int = 100,
    steps: int | None = None,
    seed: int = 0,
    prior: xr_daisi.FlowPrior | None = None,
    device: str = "auto",
    overrides: Mapping[str, Any] | None = None,
    particles: int = 100_000,
    training_steps: int = 8000,
    tell: Callable[[str], object] = print,
) -> ScoreFile:
    """Run experiments, and compare every analysis with the posterior of the particle filter.

    Parameters
    ----------
    experiments, methods : sequence of str
        Keys of `EXPERIMENTS`, and some of `METHODS`.
    out : Path
        Folder for `scores.csv`, `distances.csv`, the prior and the stores.
    members, cycles, steps, seed
        As in `sqg.run_sqg`; the seed is also that of the truth.
    prior : FlowPrior, optional
        One trained into `out` when None.
    device : str
        For the network.
    overrides : mapping, optional
        Keywords of `xr_daisi.assimilate` for all methods but the particle filter.
    particles : int
        Of the reference.
    training_steps : int
        Of the prior.
    tell : callable
        Takes a line of text per cycle.

    Returns
    -------
    ScoreFile
        Of all rows in `out`.

    Raises
    ------
    ValueError
        For what does not exist, or a folder with runs of another configuration.
    """
    unknown = [name for name in experiments if name not in EXPERIMENTS]
    if unknown:
        raise ValueError(
            f"--experiment: found {', '.join(unknown)}, expected some of {', '.join(EXPERIMENTS)}"
        )
    todo = {m: [keywords(m, EXPERIMENTS[e], steps) for e in experiments] for m in methods}
    out.mkdir(parents=True, exist_ok=True)
    if prior is None and any(m in FLOW_METHODS for m in todo):
        prior = xr_daisi.load_prior(train(out, steps=training_steps, tell=tell))
    scores, distances = (
        ScoreFile(out / "scores.csv"),
        ScoreFile(out / "distances.csv", DISTANCES),
    )
    system = Lorenz63()
    for index, name in enumerate(experiments):
        experiment = EXPERIMENTS[name]
        label = f"lorenz63-{name}"
        twin = twin_experiment(
            system,
            members=members,
            cycles=cycles,
            window=WINDOW,
            observed="x",
            operator=experiment.operator,
            obs_error=experiment.obs_error,
            centred=False,
            seed=seed,
        )
        exact = reference(twin, experiment, particles=particles, seed=seed)
        for method, settings in todo.items():
            run = Run(
                experiment=label,
                method=method,
                seed=seed,
                keywords={**settings[index], **(overrides or {})},
                configuration={
                    "members": members,
                    "particles": particles,
                    "obs_error": experiment.obs_error,
                    "prior": prior_name(prior) if method in FLOW_METHODS else None,
                },
            )
            row = {"experiment": label, "method": method, "seed": seed}

            def compare(
                cycle: int, analysis: xr.Dataset, row: dict[str, Any] = row, exact: Any = exact
            ) -> None:
                sample = system.tensor(analysis).numpy()
                distance = energy_distance(sample, exact[cycle][:: particles // SUBSET or 1])
                distances.append(**row, cycle=cycle, energy_distance=distance)

            if method == REFERENCE:
                claim(out, run)
                for cycle, sample in enumerate(exact):
                    truth = system.tensor(twin.truth.isel(time=cycle)).numpy()[0]
                    scores.append(**row, cycle=cycle, **sample_scores(sample, truth))
                continue
            if method in FLOW_METHODS:
                run.keywords["device"] = device
            execute(
                run,
                out,
                twin=twin,
                initial=twin.initial,
                system=system,
                prior=prior if method in FLOW_METHODS else None,
                window=WINDOW,
                cycles=cycles,
                scorer=scores_of,
                scores=scores,
                tell=tell,
                on_analysis=compare,
            )
    return scores


def summarise_distances(out: Path) -> str:
    """Write `distances.md`, the energy distances to the exact posterior, and return its table."""
    frame = ScoreFile(out / "distances.csv", DISTANCES).frame()
    if frame.empty:
        return ""
    mean = frame.groupby(["experiment", "method"], sort=False)["energy_distance"].mean()
    text = markdown_table(mean.reset_index())
    write_whole(out / "distances.md", lambda p: p.write_text(text + "\n", encoding="utf-8"))
    return text
