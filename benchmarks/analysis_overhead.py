"""How much an analysis costs beyond the network: ratios, measured in one run.

    python benchmarks/analysis_overhead.py

Prints the time of `assimilate` over the time of the bare network evaluations it needs: as many
forwards, with and without graph, and backwards as the dry run counts.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
import xarray as xr

import xr_daisi
from xr_daisi.demo import sparse_observations, spun_up_states
from xr_daisi.networks import UNet, UNetConfig
from xr_daisi.priors import FlowPrior
from xr_daisi.state import Normalization
from xr_daisi.systems.sqg import SQGParameters, to_dataset


def sqg_prior() -> FlowPrior:
    """A network of the size of the shipped prior; its weights do not matter for the speed."""
    network = UNet(
        UNetConfig(2, periodic=(True, True), width=40, multipliers=(1, 2, 2), patch=2)
    ).requires_grad_(False)
    spec = xr_daisi.FlowPrior.from_velocity(
        network, to_dataset(spun_up_states()[0], dims=()), periodic=("y", "x")
    ).spec
    return FlowPrior(
        network.eval(), spec, Normalization(np.zeros((2, 1, 1)), np.full((2, 1, 1), 8.0))
    )


def network_seconds(prior: FlowPrior, members: int, settings: dict[str, int]) -> float:
    """Time the bare evaluations: inverse forwards, guided forwards with graph, backwards."""
    x = torch.randn(members, *prior.spec.shape)
    t = torch.full((members,), 0.5)
    steps, iterations = settings["steps"], settings["guidance_iterations"]
    started = time.perf_counter()
    with torch.no_grad():
        for _ in range(steps):
            prior.network(x, t)
    for _ in range(steps):
        state = x.clone().requires_grad_()
        b = prior.network(state, t)
        for k in range(iterations):
            torch.autograd.grad(b, state, torch.ones_like(b), retain_graph=k + 1 < iterations)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--members", type=int, default=10)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    prior = sqg_prior()
    members = np.repeat(spun_up_states()[:1], arguments.members, axis=0)
    members = members + np.random.default_rng(0).normal(size=members.shape)
    times = np.array(["2000-01-01"], dtype="datetime64[ns]")
    forecast: xr.Dataset = to_dataset(
        members[None].astype(np.float32), dims=("time", "member"), times=times
    )
    truth = to_dataset(spun_up_states()[None, 0], dims=("time",), times=times)
    obs = sparse_observations(truth)
    settings = {"steps": arguments.steps, "guidance_iterations": 3, "t_min": 0.2}
    ratios = []
    for _ in range(arguments.repeats + 1):
        bare = network_seconds(prior, arguments.members, settings)
        started = time.perf_counter()
        forecast.daisi.assimilate(obs, prior, batch=arguments.members, progress=False, **settings)
        ratios.append((time.perf_counter() - started) / bare)
    ratios = sorted(ratios[1:])  # the first pays for one-time set-up
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, grid {SQGParameters().n}^2"
    )
    print(
        f"assimilate / bare network: median {np.median(ratios):.2f} "
        f"({ratios[0]:.2f} to {ratios[-1]:.2f}, {arguments.repeats} pairs)"
    )


if __name__ == "__main__":
    main()
