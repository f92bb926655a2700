"""Cycle the LETKF on SQG turbulence with the settings of the published experiments.

``python benchmarks/letkf_sqg.py sparse`` (or ``noisy``, ``saturating``, ``multimodal``) takes 20
members, 100 cycles of 3 h, fixed observed points, and the truth plus white noise as first ensemble.
It prints RMSE, fair CRPS and spread-skill ratio of the analysis in kelvin, averaged over all cycles
and over the last half.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

import xr_daisi
from xr_daisi.systems.sqg import SQG, to_dataset

SETTINGS = {
    # operator, fraction of points, error; localisation (km), relaxation to prior spread
    "noisy": (None, 0.25, 5.0, 2500.0, 0.5),
    "sparse": (None, 0.05, 1.0, 1500.0, 0.5),
    "saturating": ("arctan", 0.25, 0.01, 4500.0, 0.9),
    "multimodal": ("square", 0.25, 1.0, 2500.0, 0.5),
}
FUNCTIONS = {None: lambda x: x, "arctan": np.arctan, "square": lambda x: (x / 7.0) ** 2}
OPERATORS = {"arctan": "arctan", "square": lambda state: (state["theta"] / 7.0) ** 2}


def scores(members: np.ndarray, truth: np.ndarray) -> tuple[float, float, float]:
    """RMSE, fair CRPS and spread-skill ratio of members ``(m, ...)``."""
    count = len(members)
    square = np.mean((members.mean(0) - truth) ** 2)
    away = np.mean(np.abs(members - truth))
    ranked = np.sort(members, axis=0)
    weights = (2 * np.arange(1, count + 1) - count - 1).reshape(-1, *[1] * truth.ndim)
    between = np.mean((weights * ranked).sum(0)) / (count * (count - 1))
    spread = (count + 1) / count * np.mean(members.var(0, ddof=1))
    return float(square**0.5), float(away - between), float((spread / square) ** 0.5)


def main() -> None:
    """Run one experiment."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("experiment", choices=sorted(SETTINGS))
    parser.add_argument("--members", type=int, default=20)
    parser.add_argument("--cycles", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--spin-up-days", type=int, default=300)
    parser.add_argument("--method", default="letkf")
    given = parser.parse_args()
    operator, fraction, error, length, relaxation = SETTINGS[given.experiment]
    rng = np.random.default_rng(given.seed)
    model = SQG()
    truth = model.random_state(1, seed=given.seed)[0]
    truth = model.advance(truth, hours=24.0 * given.spin_up_days)
    shape = tuple(truth.shape)
    noise = torch.from_numpy(3.06 * rng.standard_normal((given.members, *shape))).to(truth.dtype)
    ensemble = truth + noise
    points = int(fraction * shape[1] * shape[2])
    seen = np.zeros(shape, dtype=bool)
    for level in seen.reshape(2, -1):
        level[rng.choice(level.size, points, replace=False)] = True
    table, seconds = [], 0.0
    for _ in range(given.cycles):
        values = FUNCTIONS[operator](truth.numpy()) + error * rng.standard_normal(shape)
        obs = to_dataset(np.where(seen, values, np.nan), dims=())
        if operator is not None:
            obs.theta.attrs = {}
        started = time.perf_counter()
        analysis = xr_daisi.assimilate(
            to_dataset(ensemble),
            obs,
            method=given.method,
            localization=length,
            vertical_localization=length / 1000.0 * 10_000.0,  # 1000 km for the depth of 10 km
            relaxation=relaxation,
            obs_error=error,
            operator=None if operator is None else {"theta": OPERATORS[operator]},
            periodic=("y", "x"),
            progress=False,
        )
        seconds += time.perf_counter() - started
        table.append(scores(analysis.theta.values.astype(float), truth.double().numpy()))
        ensemble = model.advance(torch.from_numpy(analysis.theta.values), hours=3.0)
        truth = model.advance(truth, hours=3.0)
    print(f"{given.experiment}, seed {given.seed}: {seconds / given.cycles:.2f} s an analysis")
    for name, rows in (("all cycles", table), ("last half", table[len(table) // 2 :])):
        rmse, crps, ssr = np.mean(rows, axis=0)
        print(f"{name:>10}: RMSE {rmse:.2f} K, CRPS {crps:.2f} K, SSR {ssr:.2f}")


if __name__ == "__main__":
    main()
