"""How good an analysis is for a number of network evaluations: solvers against 100 Euler steps.

    python benchmarks/solver_accuracy.py                # Gaussian and mixture, in closed form
    python benchmarks/solver_accuracy.py --sqg 3        # and three cases of SQG turbulence

The same forecasts, observations and noise keys for every solver; RMSE of the ensemble mean and fair
CRPS against the truth, and their ratio to those of the published discretisation. A network
evaluation is a forward pass; a guided one has the backward passes of the guidance besides.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from xr_daisi.flow import Flow
from xr_daisi.guidance import GuidedFlow, Observations
from xr_daisi.sampling import NoiseSource, generate, invert

# The priors in closed form are those of the tests.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from closed_form import GaussianMixtureVelocity, GaussianVelocity, PointObservations, selection

MEMBERS = 20
PUBLISHED = ("euler", 100)
SOLVERS = (
    PUBLISHED,
    ("heun", 20),
    ("heun", 10),
    ("adams", 20),
    ("adams", 15),
    ("adams", 10),
    ("euler", 20),
)


@dataclass(frozen=True)
class Case:
    """One forecast, its observations and the truth, normalised."""

    flow: Flow
    observations: Observations
    forecast: Tensor
    truth: Tensor
    t_min: float
    noise: float


def gaussian(cases: int = 12, n: int = 64) -> Iterator[Case]:
    """A ring of n points with a steep spectrum: small scales have 1e-4 of the variance."""
    wavenumber = torch.fft.fftfreq(n, 1 / n).abs()
    spectrum = (1 + wavenumber / 2) ** -4.0
    row = torch.fft.ifft(spectrum * (n / spectrum.sum())).real.double()
    covariance = torch.stack([torch.roll(row, shift) for shift in range(n)])
    root = torch.linalg.cholesky(covariance + 1e-12 * torch.eye(n))
    flow = Flow(GaussianVelocity(torch.zeros(n, dtype=torch.float64), covariance))
    h = selection(list(range(0, n, 4)), n)
    for k in range(cases):
        generator = torch.Generator().manual_seed(k)

        def draw(*shape: int, generator: torch.Generator = generator) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        truth = root @ draw(n)
        departures = 0.6 * (root @ draw(n, MEMBERS + 1)).mT
        forecast = 0.9 * (truth + departures[0]) + departures[1:]
        values = h @ truth + 0.1 * draw(len(h))
        yield Case(flow, PointObservations(h, values, 0.1), forecast, truth, 0.1, 0.03)


def mixture(cases: int = 100) -> Iterator[Case]:
    """Three components in the plane, one coordinate observed."""
    weights = torch.tensor([0.3, 0.5, 0.2], dtype=torch.float64)
    means = torch.tensor([[-1.2, 0.0], [1.0, 0.7], [0.6, -1.3]], dtype=torch.float64)
    covariance = torch.tensor([[0.12, 0.05], [0.05, 0.08]], dtype=torch.float64)
    root = torch.linalg.cholesky(covariance)
    flow = Flow(GaussianMixtureVelocity(weights, means, covariance))
    h = selection([0], 2)
    for k in range(cases):
        generator = torch.Generator().manual_seed(k)
        component = int(torch.multinomial(weights, 1, generator=generator))
        noise = torch.randn(MEMBERS + 2, 2, generator=generator, dtype=torch.float64)
        truth = means[component] + root @ noise[0]
        forecast = truth + 0.4 * noise[1] + 0.4 * noise[2:]
        values = h @ truth + 0.2 * torch.randn(1, generator=generator, dtype=torch.float64)
        yield Case(flow, PointObservations(h, values, 0.2), forecast, truth, 0.1, 0.03)


def sqg(cases: int, members: int = 6) -> Iterator[Case]:
    """The shipped prior: forecasts of some days without observations, 5 % of points observed."""
    import xr_daisi
    from xr_daisi.demo import initial_ensemble, sparse_observations, spun_up_states
    from xr_daisi.observations import match_observations
    from xr_daisi.systems.sqg import SQG, to_dataset

    prior, model = xr_daisi.load_prior("sqg64"), SQG()
    truth = torch.as_tensor(spun_up_states()[1])
    states = model.advance(initial_ensemble(truth, prior, members, 1), 24.0)
    truth = model.advance(truth[None], 24.0)
    when = np.array(["2000-01-01"], dtype="datetime64[ns]")
    for _ in range(cases):
        states, truth = model.advance(states, 12.0), model.advance(truth, 12.0)
        obs = sparse_observations(
            to_dataset(truth.numpy().astype(np.float32), dims=("time",), times=when)
        )
        plan = match_observations(obs, prior.spec, when)
        yield Case(
            prior.flow(torch.device("cpu"), torch.float32),
            plan.batch(0).to_tensors(prior.normalization, "cpu", torch.float32),
            torch.from_numpy(prior.normalization.normalize(states.double().numpy())).float(),
            torch.from_numpy(prior.normalization.normalize(truth[0].double().numpy())).float(),
            0.15,
            0.03,
        )


def analyse(case: Case, solver: str, steps: int, key: str) -> Tensor:
    source = NoiseSource(0, key, range(len(case.forecast)))
    how = {"t_min": case.t_min, "steps": steps, "solver": solver, "noise": case.noise}
    z = invert(case.flow, case.forecast, source=source, **how)  # type: ignore[arg-type]
    guided = GuidedFlow(case.flow, case.observations, iterations=3)
    return generate(guided, z, source=source, **how)  # type: ignore[arg-type]


def scores(members: Tensor, truth: Tensor) -> tuple[float, float]:
    """Mean squared error of the mean, and fair CRPS."""
    m = len(members)
    error = (members - truth).abs().mean(0)
    spread = (members[:, None] - members).abs().sum((0, 1)) / (2 * m * (m - 1))
    return float((members.mean(0) - truth).square().mean()), float((error - spread).mean())


def measure(
    cases: Callable[[], Iterator[Case]], solvers: tuple[tuple[str, int], ...] = SOLVERS
) -> list[dict[str, float | str]]:
    """Score every solver on the same cases.

    Returns
    -------
    list of dict
        ``solver``, network evaluations each way, RMSE and CRPS (normalised), both over those of
        the published discretisation, and seconds.
    """
    found: dict[tuple[str, int], list[tuple[float, float]]] = {s: [] for s in solvers}
    seconds = dict.fromkeys(solvers, 0.0)
    for number, case in enumerate(cases()):
        for solver in solvers:
            started = time.perf_counter()
            members = analyse(case, *solver, key=str(number))
            seconds[solver] += time.perf_counter() - started
            found[solver].append(scores(members, case.truth))
    rows: list[dict[str, float | str]] = []
    means = {s: np.mean(values, axis=0) for s, values in found.items()}
    base = means[PUBLISHED]
    for solver, steps in solvers:
        squared, crps = means[solver, steps]
        rows.append(
            {
                "solver": solver,
                "evaluations": float(steps * (2 if solver == "heun" else 1)),
                "rmse": float(np.sqrt(squared)),
                "crps": float(crps),
                "rmse_ratio": float(np.sqrt(squared / base[0])),
                "crps_ratio": float(crps / base[1]),
                "seconds": seconds[solver, steps],
            }
        )
    return rows


def table(name: str, rows: list[dict[str, float | str]]) -> str:
    lines = [
        f"| {name} | evaluations | RMSE | CRPS | RMSE ratio | CRPS ratio |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        n = f"{row['evaluations']:.0f} + {row['evaluations']:.0f}"
        lines.append(
            f"| {row['solver']} | {n} | {row['rmse']:.4f} | {row['crps']:.4f} "
            f"| {row['rmse_ratio']:.3f} | {row['crps_ratio']:.3f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sqg", type=int, default=0, metavar="CASES")
    parser.add_argument("--quick", action="store_true", help="few cases and solvers")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    solvers = (PUBLISHED, ("adams", 20)) if arguments.quick else SOLVERS
    few = {"cases": 2} if arguments.quick else {}
    found = {
        "Gaussian": measure(lambda: gaussian(**few), solvers),
        "mixture": measure(lambda: mixture(**few), solvers),
    }
    if arguments.sqg:
        found["SQG"] = measure(lambda: sqg(arguments.sqg))
    print("\n\n".join(table(name, rows) for name, rows in found.items()))
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
