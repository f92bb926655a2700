"""Agreement with the published implementation on a Gaussian prior, in double precision.

The arrays hold its inputs and outputs: 2 x 8 x 8 states, t_min 0.3, 50 + 50 Euler steps without
noise, strength 1, errors of 0.5 and one GMRES iteration.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from closed_form import GaussianVelocity, PointObservations
from torch import Tensor

from xr_daisi.flow import Flow
from xr_daisi.guidance import GuidedFlow
from xr_daisi.sampling import generate, invert

TOLERANCE = 1e-10
EULER = {"t_min": 0.3, "steps": 50, "solver": "euler"}
GUIDANCE = {"DPS": "dps", "DPS_scale": "dps-normalized", "MMPS": "mmps"}

guidances = pytest.mark.parametrize("name", GUIDANCE)


@pytest.fixture(scope="module")
def published() -> dict[str, Tensor]:
    with np.load(Path(__file__).parents[1] / "data" / "parity.npz") as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


@pytest.fixture
def flow(published: dict[str, Tensor]) -> Flow:
    return Flow(GaussianVelocity(published["m"].flatten(), published["C"]))


@pytest.fixture
def observations(published: dict[str, Tensor]) -> PointObservations:
    matrix = torch.eye(128, dtype=torch.float64)[published["mask"].flatten()]
    return PointObservations(matrix, published["obs_linear"], 0.5)


def difference(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max())


def guided(flow: Flow, observations: PointObservations, name: str) -> GuidedFlow:
    return GuidedFlow(flow, observations, guidance=GUIDANCE[name], solver="gmres", iterations=1)


def test_inversion(flow: Flow, published: dict[str, Tensor]) -> None:
    z = invert(flow, published["forecast"], **EULER)
    assert difference(z, published["z_tmin"]) < TOLERANCE


def test_sampling_without_guidance(flow: Flow, published: dict[str, Tensor]) -> None:
    x = generate(flow, published["z_tmin"], **EULER)
    assert difference(x, published["xa_none"]) < TOLERANCE


@guidances
def test_analysis(
    flow: Flow, observations: PointObservations, published: dict[str, Tensor], name: str
) -> None:
    x = generate(guided(flow, observations, name), published["z_tmin"], **EULER)
    assert difference(x, published[f"xa_linear_{name}"]) < TOLERANCE


def test_velocity_and_score_at_one_time(flow: Flow, published: dict[str, Tensor]) -> None:
    drift = flow.evaluate(published["z_tmin"], 0.65)
    assert difference(drift.velocity, published["b_t0.65"]) < TOLERANCE
    assert difference(drift.score, published["s_t0.65"]) < TOLERANCE


@guidances
def test_observation_terms_at_one_time(
    flow: Flow, observations: PointObservations, published: dict[str, Tensor], name: str
) -> None:
    drift = guided(flow, observations, name).evaluate(published["z_tmin"], 0.65)
    b_obs = drift.velocity - published["b_t0.65"]
    s_obs = drift.score - published["s_t0.65"]
    assert difference(b_obs, published[f"bobs_linear_{name}_t0.65"]) < TOLERANCE
    assert difference(s_obs, published[f"sobs_linear_{name}_t0.65"]) < TOLERANCE
