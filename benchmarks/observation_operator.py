"""What a large set of point observations costs: built once, applied and differentiated often.

    python benchmarks/observation_operator.py

Prints seconds for a million points on a global quarter-degree grid (721 x 1440) on one core: to
match and locate them, to make tensors of them, to apply the operator H and to differentiate it, per
member. Footprints and correlated errors are timed on a smaller set.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import xarray as xr

from xr_daisi.observations import match_observations
from xr_daisi.state import Normalization, spec_from_dataset

SHAPE = (721, 1440)


def grid() -> xr.Dataset:
    """One field on the globe."""
    return xr.Dataset(
        {"t2m": (("latitude", "longitude"), np.zeros(SHAPE, dtype=np.float32), {"units": "K"})},
        coords={
            "latitude": np.linspace(90, -90, SHAPE[0]),
            "longitude": np.arange(SHAPE[1]) * 0.25,
        },
    )


def points(count: int) -> xr.Dataset:
    """Random places in the other convention of longitude."""
    rng = np.random.default_rng(0)
    latitude = np.rad2deg(np.arcsin(rng.uniform(-1, 1, count)))
    return xr.Dataset(
        {
            "t2m": ("obs", rng.normal(10, 5, count), {"units": "degC"}),
            "t2m_error": ("obs", rng.uniform(0.5, 1.5, count), {"units": "K"}),
        },
        coords={
            "latitude": ("obs", latitude),
            "longitude": ("obs", rng.uniform(-180, 180, count)),
        },
    )


def median(work: Callable[[], Any], repeats: int) -> float:
    """Median seconds of several calls."""
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def measure(count: int, repeats: int, **options: Any) -> dict[str, float]:
    """Seconds of each part, per member where members matter."""
    spec, obs = spec_from_dataset(grid()), points(count)
    scale = Normalization(np.full((1, *SHAPE), 280.0), np.full((1, *SHAPE), 10.0))
    plan = match_observations(obs, spec, None, **options)
    batch = plan.batch(0)
    tensors = batch.to_tensors(scale)
    x = torch.randn(1, 1, *SHAPE, requires_grad=True)
    y = tensors.observe(x)
    cotangent = torch.randn_like(y)
    return {
        "matched and located": median(lambda: match_observations(obs, spec, None, **options), 3),
        "batch": median(lambda: plan.batch(0), 3),
        "tensors": median(lambda: batch.to_tensors(scale), 3),
        "applied": median(lambda: tensors.observe(x.detach()), repeats),
        "differentiated": median(
            lambda: torch.autograd.grad(y, x, cotangent, retain_graph=True), repeats
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10**6)
    parser.add_argument("--repeats", type=int, default=9)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    few = max(1, arguments.count // 100)
    cases: dict[str, tuple[int, dict[str, Any]]] = {
        "points": (arguments.count, {}),
        "discs of 100 km": (few, {"footprint": {"t2m": "100 km"}}),
    }
    for name, (count, options) in cases.items():
        found = measure(count, arguments.repeats, **options)
        print(f"{count:,} {name} on {SHAPE[0]} x {SHAPE[1]}, one core")
        for part, seconds in found.items():
            print(f"  {part:<20} {seconds * 1e3:10.1f} ms")
        built = sum(found[part] for part in ("matched and located", "batch", "tensors"))
        used = found["applied"] + found["differentiated"]
        print(f"  {'built':<20} {built:10.2f} s")
        print(f"  {'used, per member':<20} {used * 1e3:10.1f} ms")


if __name__ == "__main__":
    main()
