"""Rank histograms in observation space and spread against error, from the stores of SQG runs.

For folders that `python -m examples.experiments.run sqg` filled::

    python -m examples.experiments.calibration out-* --png calibration.png --spread spread.png

A rank histogram counts where each observation falls among the members' counterparts, to which
random errors of the observation's size are added: it is flat where the ensemble is calibrated. It
is that of the background, of which the observation is independent. Spread and error are those of
the analysis at all grid points.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
import xarray as xr

from xr_daisi.demo import spun_up_states
from xr_daisi.named_operators import NAMED_OPERATORS
from xr_daisi.plotting import plot_spread_skill
from xr_daisi.systems import SQG, TwinExperiment, twin_experiment

from .sqg import EXPERIMENTS, WINDOW

METHODS = ("daisi", "daisi-published", "letkf")


def twin_of(experiment: str, seed: int, trajectory: int, cycles: int) -> TwinExperiment:
    """Return truth and observations of a run."""
    e = EXPERIMENTS[experiment]
    return twin_experiment(
        SQG(),
        members=2,
        cycles=cycles,
        window=WINDOW,
        operator=e.operator,
        fraction=e.fraction,
        obs_error=e.obs_error,
        start=np.asarray(spun_up_states()[trajectory]),
        seed=seed,
    )


def ranks(
    store: Path, experiment: str, seed: int, trajectory: int, half: bool = True
) -> np.ndarray:
    """Return the rank of every observation among the members of the background.

    Parameters
    ----------
    store : Path
        Of one run.
    experiment : str
        Key of `EXPERIMENTS`.
    seed, trajectory : int
        Of the run.
    half : bool
        Leave out the first half of the cycles, which the initial ensemble decides.

    Returns
    -------
    ndarray of int
        0 to M.
    """
    background = xr.open_zarr(store, group="background").theta
    e = EXPERIMENTS[experiment]
    cycles = background.sizes["time"]
    twin = twin_of(experiment, seed, trajectory, cycles)
    obs = twin.observations
    here = {d: obs[d] for d in ("level", "y", "x")}
    rng = np.random.default_rng(seed)
    found = []
    for cycle in range(cycles // 2 if half else 0, cycles):
        theta = torch.from_numpy(background.isel(time=cycle).sel(here, method="nearest").values)
        function = e.operator
        if isinstance(function, str):
            seen = NAMED_OPERATORS[function][0].function(theta) if function != "identity" else theta
        else:
            seen = function({"theta": theta})
        noisy = seen.numpy() + e.obs_error * rng.standard_normal(seen.shape)
        found.append((noisy < obs.theta.isel(time=cycle).values).sum(axis=0))
    return np.concatenate(found)


def outermost(counts: np.ndarray) -> float:
    """Return the larger of the outermost bins over the mean bin."""
    return float(max(counts[0], counts[-1]) / counts.mean())


def stores(folders: Sequence[Path]) -> Iterator[tuple[str, str, Path, int, int, int]]:
    """Yield experiment, method, store, seed, trajectory and number of members of every run."""
    for folder in folders:
        for card in sorted((folder / "runs").glob("*.json")):
            for experiment, method in itertools.product(EXPERIMENTS, METHODS):
                start = f"{experiment}-{method}-"
                if card.stem.startswith(start) and card.stem[len(start) :].isdigit():
                    run = json.loads(card.read_text(encoding="utf-8"))
                    seed = int(card.stem[len(start) :])
                    store = card.with_suffix(".zarr")
                    yield experiment, method, store, seed, run["trajectory"], run["members"]


def draw(folders: Sequence[Path], png: Path) -> None:
    """Draw histograms of every experiment and method, pooled over folders."""
    pooled: dict[tuple[str, str], list[np.ndarray]] = {}
    members = 10
    for experiment, method, store, seed, trajectory, count in stores(folders):
        one, members = ranks(store, experiment, seed, trajectory), count
        pooled.setdefault((experiment, method), []).append(one)
    names = [e for e in EXPERIMENTS if any(key[0] == e for key in pooled)]
    figure, axes = plt.subplots(
        len(names), len(METHODS), figsize=(9.0, 2.0 * len(names)), sharex=True, squeeze=False
    )
    for row, experiment in zip(axes, names, strict=True):
        for ax, method in zip(row, METHODS, strict=True):
            parts = pooled.get((experiment, method), [])
            if not parts:
                ax.set_axis_off()
                continue
            counts = np.bincount(np.concatenate(parts), minlength=members + 1)
            share = counts / counts.mean()
            ax.bar(np.arange(members + 1), share, width=0.9, color="0.55")
            ax.axhline(1.0, color="k", lw=0.8)
            ax.set_ylim(0.0, 3.3)
            ax.set_title(f"{experiment}, {method}: outermost {outermost(counts):.2f}", fontsize=8)
            print(f"{experiment} {method}: outermost bin {outermost(counts):.2f} of the mean")
    for ax in axes[-1]:
        ax.set_xlabel("rank of the observation")
    for ax in axes[:, 0]:
        ax.set_ylabel("count over mean count")
    figure.tight_layout()
    figure.savefig(png, dpi=110)


def draw_spread(folders: Sequence[Path], png: Path) -> None:
    """Draw the error of the analysis against its spread, of the first run of each method."""
    found: dict[str, dict[str, xr.Dataset]] = {}
    truths: dict[str, xr.Dataset] = {}
    for experiment, method, store, seed, trajectory, _ in stores(folders):
        analysis = xr.open_zarr(store, group="analysis")[["theta"]]
        half = slice(analysis.sizes["time"] // 2, None)
        if experiment not in truths:
            twin = twin_of(experiment, seed, trajectory, analysis.sizes["time"])
            truths[experiment] = twin.truth.isel(time=half)
        found.setdefault(experiment, {}).setdefault(method, analysis.isel(time=half).load())
    names = [e for e in EXPERIMENTS if e in found]
    figure, axes = plt.subplots(1, len(names), figsize=(3.6 * len(names), 3.8), squeeze=False)
    for ax, experiment in zip(axes[0], names, strict=True):
        first, *others = (m for m in METHODS if m in found[experiment])
        compare = {m: found[experiment][m] for m in others}
        given = found[experiment][first], truths[experiment], "theta"
        plot_spread_skill(*given, name=first, compare=compare, ax=ax)
        ax.set_title(experiment, fontsize=10)
        handles, texts = ax.get_legend_handles_labels()
        ax.get_legend().remove()
    figure.tight_layout()
    # Below the panels: in one of them it would cover the notes.
    below: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, 0.02)}
    figure.legend(handles, texts, ncols=len(texts), frameon=False, **below)
    figure.savefig(png, dpi=90, bbox_inches="tight")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--png", type=Path, required=True, help="rank histograms")
    parser.add_argument("--spread", type=Path, help="error against spread")
    arguments = parser.parse_args()
    draw(arguments.folders, arguments.png)
    if arguments.spread:
        draw_spread(arguments.folders, arguments.spread)


if __name__ == "__main__":
    main()
