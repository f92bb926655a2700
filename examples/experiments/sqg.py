"""The four SQG experiments: noisy, sparse, saturating and multimodal observations.

SQG turbulence on 64 x 64 points and two levels, an analysis every 3 hours, fixed observed points,
the model itself as forecast model. The truth starts from a spun-up state that ships with the
package: trajectories 1 and 2 are for choosing settings, 0 and 3 for reporting.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr

import xr_daisi
from xr_daisi.demo import spun_up_states
from xr_daisi.systems import SQG, denoised, twin_experiment
from xr_daisi.verification import ensemble_scores

from .runs import Run, execute, prior_name
from .score_file import ScoreFile

WINDOW = "3h"
STD = 8.14
"""Standard deviation of the states, K: what an analysis has to be better than."""


def scaled_square(state: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Return ``(theta / 7 K)^2``: the sign is lost, posteriors have two lobes."""
    return (state["theta"] / 7.0) ** 2


def fading_strength(t: float) -> float:
    """Return the published strength of the guidance by saturating observations."""
    return 20.0 * (1.0 - t)


@dataclass(frozen=True)
class Experiment:
    """Observations of an experiment and the published settings for them.

    Parameters
    ----------
    operator : str or callable
        What is observed, of temperatures in K.
    fraction : float
        Share of the points of both levels.
    obs_error : float
        Standard deviation, in units of what is observed.
    published : dict
        Published settings of DAISI.
    chosen : dict
        Settings chosen for the prior that ships, on trajectory 1.
    localization : float
        Distance at which the taper of the tuned LETKF is zero, km.
    relaxation : float
        Of the tuned LETKF to the prior spread.
    """

    operator: str | Callable[..., Any]
    fraction: float
    obs_error: float
    published: dict[str, Any] = field(default_factory=dict)
    chosen: dict[str, Any] = field(default_factory=dict)
    localization: float = 2500.0
    relaxation: float = 0.5


MMPS: dict[str, Any] = {"guidance": "mmps", "guidance_iterations": 1}
EXPERIMENTS = {
    "noisy": Experiment(
        "identity",
        0.25,
        5.0,
        {"guidance": "dps-normalized", "t_min": 0.4, "strength": 10.0},
        {**MMPS, "t_min": 0.5},
        2500.0,
        0.5,
    ),
    "sparse": Experiment(
        "identity", 0.05, 1.0, {**MMPS, "t_min": 0.3}, {**MMPS, "t_min": 0.4}, 1500.0, 0.5
    ),
    "saturating": Experiment(
        "arctan",
        0.25,
        0.01,
        {**MMPS, "t_min": 0.3, "strength": fading_strength},
        {**MMPS, "t_min": 0.45, "strength": fading_strength},
        4500.0,
        0.9,
    ),
    "multimodal": Experiment(
        scaled_square, 0.25, 1.0, {**MMPS, "t_min": 0.3}, {**MMPS, "t_min": 0.4}, 2500.0, 0.5
    ),
}

PUBLISHED: dict[str, Any] = {"noise": 0.03, "inverse_noise": 0.03}
FLOW_METHODS = ("daisi", "daisi-tuned", "daisi-published", "prior-only", "renoise")
METHODS = (*FLOW_METHODS, "letkf", "ensf")
SCORE_FILTER_RELAXATION = 0.5
"""Of `ensf`, chosen on trajectory 1 as the settings of `daisi` are."""
OTHER_LEVEL = 1000.0
"""Distance in km that the other level counts as in the localisation of the LETKF."""


def keywords(method: str, experiment: Experiment, steps: int | None) -> dict[str, Any]:
    """Return what `xr_daisi.assimilate` is given for a method.

    Parameters
    ----------
    method : str
        One of `METHODS`: ``"daisi"`` is the default of the package, in which nothing is chosen for
        an experiment; ``"daisi-tuned"`` the published method with settings chosen for the prior
        that ships and the package's own solver; ``"daisi-published"`` with the published ones.
    experiment : Experiment
        Which observations.
    steps : int or None
        Solver steps each way of the methods that have any; their own default when None.

    Raises
    ------
    ValueError
        For an unknown method.
    """
    if method not in METHODS:
        raise ValueError(f"--methods: found {method!r}, expected some of {', '.join(METHODS)}")
    counted = {} if steps is None else {"steps": steps}
    if method == "daisi":
        return {"method": "daisi", "t_min": "auto", "bridge": "auto", **counted}
    fixed = PUBLISHED | counted
    if method == "daisi-published":
        return {"method": "daisi", "steps": 100, **fixed, **experiment.published, "solver": "euler"}
    flow = {**fixed, **experiment.chosen, "solver": "adams"}
    if method == "daisi-tuned":
        return {"method": "daisi", **flow}
    if method in ("prior-only", "renoise"):
        del flow["inverse_noise"]
        if method == "prior-only":
            del flow["t_min"]
        return {"method": method, **flow}
    if method == "letkf":
        return {
            "method": "letkf",
            "localization": experiment.localization,
            # The levels are 10 km apart, and count as OTHER_LEVEL.
            "vertical_localization": experiment.localization / OTHER_LEVEL * SQG().parameters.depth,
            "relaxation": experiment.relaxation,
            "periodic": ("y", "x"),
        }
    return {"method": method, "relaxation": SCORE_FILTER_RELAXATION, "periodic": ("y", "x")}


def scores_of(analysis: xr.Dataset, truth: xr.Dataset) -> dict[str, float]:
    """Return the scores of a cycle, pooled over both levels and all points, K."""
    scores = ensemble_scores(analysis.squeeze(drop=True), truth.drop_vars("time"), "theta")
    return {name: float(scores[name]) for name in ("rmse", "crps", "ssr")}


def run_sqg(
    experiments: Sequence[str],
    methods: Sequence[str],
    out: Path,
    *,
    members: int = 20,
    cycles: int = 40,
    steps: int | None = None,
    seed: int = 0,
    trajectory: int = 0,
    prior: xr_daisi.FlowPrior | None = None,
    device: str = "auto",
    initial: str = "published",
    overrides: Mapping[str, Any] | None = None,
    tell: Callable[[str], object] = print,
) -> ScoreFile:
    """Run experiments with several methods on the same truth and the same observations.

    Parameters
    ----------
    experiments, methods : sequence of str
        Keys of `EXPERIMENTS`, and some of `METHODS`.
    out : Path
        Folder for `scores.csv` and the stores.
    members, cycles : int
        Ensemble size and number of analyses.
    steps : int, optional
        As in `keywords`.
    seed : int
        Of observations, initial ensemble and analyses.
    trajectory : int
        Of the truth, 0 to 3.
    prior : FlowPrior, optional
        The shipped one when None.
    device : str
        For the network.
    initial : {"published", "noise", "prior"}
        The initial ensemble is the truth with white noise of 3.06 K; run through the prior for
        the methods that have one, for none, or for all.
    overrides : mapping, optional
        Keywords of `xr_daisi.assimilate` for all methods.
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
    starts = spun_up_states()
    problems = [
        f"--experiment: found {name!r}, expected some of {', '.join(EXPERIMENTS)}"
        for name in experiments
        if name not in EXPERIMENTS
    ]
    if not 0 <= trajectory < len(starts):
        problems.append(f"--trajectory: found {trajectory}, expected 0 to {len(starts) - 1}")
    if problems:
        raise ValueError("\n".join(problems))
    todo = [(e, m, keywords(m, EXPERIMENTS[e], steps)) for e in experiments for m in methods]
    prior = prior or xr_daisi.load_prior("sqg64")
    out.mkdir(parents=True, exist_ok=True)
    scores = ScoreFile(out / "scores.csv")
    for name, method, settings in todo:
        experiment = EXPERIMENTS[name]
        system = SQG()
        twin = twin_experiment(
            system,
            members=members,
            cycles=cycles,
            window=WINDOW,
            operator=experiment.operator,
            fraction=experiment.fraction,
            obs_error=experiment.obs_error,
            start=np.asarray(starts[trajectory]),
            seed=seed,
        )
        flow = method in FLOW_METHODS
        through_prior = initial == "prior" or (initial == "published" and flow)
        start = twin.initial
        if through_prior:
            start = denoised(start, prior, error=system.initial_error)
        settings = {**settings, **(overrides or {})}
        if flow:
            settings["device"] = device
        run = Run(
            experiment=name,
            method=method,
            seed=seed,
            keywords=settings,
            configuration={
                "members": members,
                "trajectory": trajectory,
                "initial": "through the prior" if through_prior else "white noise",
                "prior": prior_name(prior) if flow or through_prior else None,
            },
        )
        execute(
            run,
            out,
            twin=twin,
            initial=start,
            system=system,
            prior=prior if flow else None,
            window=WINDOW,
            cycles=cycles,
            scorer=scores_of,
            scores=scores,
            tell=tell,
        )
    return scores
