"""The network as it is against channels-last, bfloat16 and compiled: speed and what it costs.

    python benchmarks/network_forms.py
    python benchmarks/network_forms.py --compile --device cuda

Times one guided evaluation, a forward with graph and three backwards, of the network and grid of
the shipped SQG prior; and compares an analysis in bfloat16 with that in float32.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

import xr_daisi
from xr_daisi.demo import initial_ensemble, sparse_observations, spun_up_states
from xr_daisi.inference import Inference
from xr_daisi.systems.sqg import SQG, to_dataset

WHEN = np.array(["2000-01-01"], dtype="datetime64[ns]")


def evaluation(network: Callable[[Tensor, Tensor], Tensor], x: Tensor) -> float:
    """Seconds of one guided evaluation."""
    t = torch.full((len(x),), 0.5, device=x.device)
    started = time.perf_counter()
    state = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    b = network(state, t)
    for k in range(3):
        torch.autograd.grad(b, state, torch.ones_like(b), retain_graph=k < 2)
    if x.device.type == "cuda":
        torch.cuda.synchronize(x.device)
    return time.perf_counter() - started


def speeds(batch: int, repeats: int, device: torch.device, compiled: bool) -> dict[str, float]:
    """Median over repeats of each form, taken in turn, over that of the plain network."""
    network = xr_daisi.load_prior("sqg64").network
    last = copy.deepcopy(network).to(memory_format=torch.channels_last)
    x = torch.randn(batch, 2, 64, 64, device=device)
    y = x.contiguous(memory_format=torch.channels_last)
    forms: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Tensor]] = {
        "float32": (Inference(network, device, torch.float32), x),
        "channels-last": (Inference(last, device, torch.float32), y),
        "bfloat16": (Inference(network, device, torch.bfloat16), x),
        "bfloat16, channels-last": (Inference(last, device, torch.bfloat16), y),
    }
    if compiled:
        form = Inference(network, device, torch.float32, compiled=True)
        forms["compiled"] = (form, x)
    taken: dict[str, list[float]] = {name: [] for name in forms}
    for repeat in range(repeats + 2):
        for name, (form, state) in forms.items():
            seconds = evaluation(form, state)
            if repeat >= 2:  # the first ones allocate, choose kernels and compile
                taken[name].append(seconds)
    medians = {name: statistics.median(values) for name, values in taken.items()}
    return {name: value / medians["float32"] for name, value in medians.items()}


def loss_of_accuracy(members: int, steps: int) -> dict[str, float]:
    """Compare analyses in bfloat16 and float32 with the truth and each other."""
    prior, model = xr_daisi.load_prior("sqg64"), SQG()
    truth = torch.as_tensor(spun_up_states()[1])
    states = model.advance(initial_ensemble(truth, prior, members, 1), 24.0)
    truth = model.advance(truth[None], 24.0)
    forecast = to_dataset(states[None].numpy(), dims=("time", "member"), times=WHEN)
    true = to_dataset(truth.numpy(), dims=("time",), times=WHEN)
    obs = sparse_observations(true)
    single, half = (
        xr_daisi.assimilate(
            forecast,
            obs,
            prior,
            dtype=d,
            steps=steps,
            t_min=0.2,
            solver="adams",
            device="cpu",
            progress=False,
        ).theta
        for d in ("float32", "bfloat16")
    )
    errors = [float(np.sqrt(((a.mean("member") - true.theta) ** 2).mean())) for a in (single, half)]
    return {
        "difference": float(np.sqrt(((half - single) ** 2).mean() / (single**2).mean())),
        "rmse ratio": errors[1] / errors[0],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true", help="minutes on a CPU")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    batch, repeats = (2, 1) if options.quick else (options.batch, options.repeats)
    found = speeds(batch, repeats, torch.device(options.device), options.compile)
    print("time of a guided evaluation over that in float32:")
    for name, ratio in found.items():
        print(f"  {name:<26}{ratio:6.2f}")
    lost = loss_of_accuracy(*((2, 2) if options.quick else (6, 16)))
    print(
        f"analysis in bfloat16: RMS difference {100 * lost['difference']:.2f} % of the state's, "
        f"RMSE {lost['rmse ratio']:.4f} times that in float32"
    )


if __name__ == "__main__":
    main()
