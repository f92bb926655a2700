"""Twin experiments: what is made from one seed, and whether it is what it says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

from xr_daisi import FlowPrior, assimilate
from xr_daisi.errors import ObservationError, OperatorError, SettingsError, StateError
from xr_daisi.systems import (
    SQG,
    Lorenz63,
    Lorenz96,
    SQGParameters,
    System,
    denoised,
    twin_experiment,
)

SMALL_SQG = SQG(SQGParameters(n=8))
SYSTEMS: list[System] = [Lorenz63(), Lorenz96(8), SMALL_SQG]


def twin(system: System, **options: Any) -> Any:
    if isinstance(system, SQG):
        options.setdefault("start", system.random_state()[0])
    defaults: dict[str, Any] = {"members": 4, "cycles": 3, "window": "6h", "seed": 1}
    return twin_experiment(system, **(defaults | options))


@pytest.mark.parametrize("system", SYSTEMS, ids=lambda s: s.name)
def test_everything_from_one_seed(system: System) -> None:
    one, same, other = twin(system), twin(system), twin(system, seed=2)
    for name in ("truth", "observations", "guess", "initial"):
        xr.testing.assert_identical(getattr(one, name), getattr(same, name))
    assert not one.observations.equals(other.observations)
    assert not one.initial.equals(other.initial)


@pytest.mark.parametrize("system", SYSTEMS, ids=lambda s: s.name)
def test_more_continues_less(system: System) -> None:
    """Longer runs and larger ensembles begin as the shorter and smaller ones."""
    small, large = twin(system, fraction=0.5), twin(system, fraction=0.5, cycles=5, members=6)
    xr.testing.assert_identical(large.truth.isel(time=slice(3)), small.truth)
    xr.testing.assert_identical(large.observations.isel(time=slice(3)), small.observations)
    xr.testing.assert_identical(large.initial.isel(member=slice(4)), small.initial)


@pytest.mark.parametrize("system", SYSTEMS, ids=lambda s: s.name)
def test_initial_ensemble_is_noise_on_a_first_guess(system: System) -> None:
    """The truth itself, or one as far from it as members are from the guess."""
    around, like = (twin(system, members=40, centred=c) for c in (True, False))
    truth = system.tensor(around.truth.isel(time=0))
    assert torch.equal(system.tensor(around.guess), truth)
    assert around.guess.attrs == around.truth.attrs
    assert around.guess.sizes == around.truth.isel(time=0).sizes
    wrong, spread = [], []
    for seed in range(1 if truth.numel() > 100 else 100):
        made = twin(system, members=40, centred=False, seed=seed, start=truth[0])
        wrong.append(system.tensor(made.guess) - truth)
        spread.append(system.tensor(made.initial).std(dim=0))
    sd = torch.cat(wrong).square().mean().sqrt()
    assert float(sd) == pytest.approx(system.initial_error, rel=0.2)
    assert float(torch.stack(spread).mean()) == pytest.approx(system.initial_error, rel=0.1)
    # The same noise on the one and on the other, whatever they are.
    moved = system.tensor(like.initial) - system.tensor(like.guess)
    torch.testing.assert_close(moved, system.tensor(around.initial) - truth, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("system", SYSTEMS, ids=lambda s: s.name)
def test_the_truth_is_a_run_of_the_model(system: System) -> None:
    made = twin(system)
    state = made.truth.isel(time=0).expand_dims("member")
    for k in (1, 2):
        state = system(state, made.truth.time.values[k])
        xr.testing.assert_allclose(
            state.isel(member=0).reset_coords(drop=True),
            made.truth.isel(time=k).reset_coords(drop=True),
            rtol=1e-5,
            atol=1e-4,
        )


def test_observations_are_the_truth_with_errors() -> None:
    made = twin(SMALL_SQG, fraction=0.5, obs_error=2.0, cycles=60, window="1h")
    obs = made.observations
    assert obs.theta.dims == ("time", "station")
    assert obs.sizes["station"] == 64
    assert obs.theta.attrs["units"] == obs.theta_error.attrs["units"] == "K"
    assert obs.theta.attrs["ancillary_variables"] == "theta_error"
    exact = made.truth.theta.sel(level=obs.level, y=obs.y, x=obs.x)
    departures = (obs.theta - exact).transpose("time", "station").values
    assert departures.std() == pytest.approx(2.0, rel=0.05)
    assert abs(departures.mean()) < 0.1
    assert abs(np.corrcoef(departures[:, :4].T)[np.triu_indices(4, 1)]).max() < 0.5
    assert (obs.theta_error == 2.0).all()
    assert made.obs_error == {"theta": 2.0}
    assert made.operator is None


def test_observed_points_are_distinct() -> None:
    obs = twin(SMALL_SQG, fraction=1.0).observations
    places = set(zip(obs.level.values, obs.y.values, obs.x.values, strict=True))
    assert len(places) == obs.sizes["station"] == 128


def test_initial_ensemble_is_the_truth_with_white_noise() -> None:
    made = twin(Lorenz96(40), members=400, initial_error=0.7)
    noise = (made.initial.u - made.truth.u.isel(time=0)).values
    assert noise.std() == pytest.approx(0.7, rel=0.02)
    assert abs(noise.mean()) < 0.02
    assert made.initial.time.values == made.truth.time.values[0]


@pytest.mark.parametrize(
    ("operator", "function"),
    [("square", np.square), ("abs", np.abs), ("arctan", np.arctan), ("identity", np.asarray)],
)
def test_operators(operator: str, function: Any) -> None:
    made = twin(Lorenz63(), observed="x", operator=operator, obs_error=1e-6)
    assert list(made.observations.data_vars) == ["x", "x_error"]
    expected = function(made.truth.x.values)
    np.testing.assert_allclose(made.observations.x.values, expected, atol=1e-4)
    assert made.operator == {"x": operator}
    kept = operator in ("abs", "identity")
    assert (made.observations.x.attrs.get("units") == "1") == kept


def test_functions_of_several_variables() -> None:
    def product(state: Any) -> torch.Tensor:
        return state["x"] * state["z"]

    made = twin(Lorenz63(), operator={"xz": product}, obs_error={"xz": 1e-6})
    expected = (made.truth.x * made.truth.z).values
    np.testing.assert_allclose(made.observations.xz.values, expected, atol=1e-4)
    assert made.observations.xz.attrs["long_name"] == "product of xz"


@pytest.mark.parametrize("system", SYSTEMS, ids=lambda s: s.name)
def test_assimilate_takes_all_of_it(system: System) -> None:
    """A Gaussian prior of wide spread: the analysis is drawn towards accurate observations."""

    def velocity(x: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        t = float(times[0])
        return x * ((2.0 * t - 1.0) / (t**2 + (1.0 - t) ** 2))

    made = twin(system, obs_error=0.3, initial_error=5.0)
    prior = FlowPrior.from_velocity(
        velocity, made.truth.isel(time=0, drop=True), std=10.0, periodic=system.periodic
    )
    analysis = assimilate(
        made.initial, made.observations.isel(time=0), prior, steps=8, progress=False
    )
    name = system.spec.names[0]
    truth = made.truth[name].isel(time=0)
    error = [float(abs(ds[name].mean("member") - truth).mean()) for ds in (made.initial, analysis)]
    assert error[1] < 0.5 * error[0]


def test_denoised_members_of_a_gaussian_prior() -> None:
    """Along the ODE the member with noise e, std s of the prior N(0, s^2), becomes
    (x + e) s / sqrt(s^2 + e^2): variance s^2 again."""
    std, error = 2.0, 1.5
    system = Lorenz96(40)

    def velocity(x: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        t = float(times[0])
        return x * ((2.0 * t - 1.0) / (t**2 + (1.0 - t) ** 2))

    made = twin(system, initial_error=error)
    prior = FlowPrior.from_velocity(
        velocity, made.truth.isel(time=0, drop=True), std=std, periodic=("x",)
    )
    before = made.initial.copy(deep=True)
    out = denoised(made.initial, prior, error=error, steps=60)
    xr.testing.assert_identical(made.initial, before)
    expected = made.initial.u * std / np.hypot(std, error)
    np.testing.assert_allclose(out.u.values, expected.values, rtol=2e-3, atol=1e-4)
    assert out.u.dtype == made.initial.u.dtype


def test_the_noise_is_that_of_the_demo() -> None:
    from xr_daisi.demo import INITIAL_NOISE

    assert SMALL_SQG.initial_error == INITIAL_NOISE


def test_errors() -> None:
    system = Lorenz63()
    with pytest.raises(SettingsError) as caught:
        twin(system, members=1, cycles=0, initial_error=-1.0)
    for text in ("members: found 1", "cycles: found 0", "initial_error: found -1.0"):
        assert text in str(caught.value)
    with pytest.raises(SettingsError) as caught:
        twin(system, observed=["x", "w"], fraction=0.0, obs_error={"x": 0.0})
    for text in ("fraction: found 0.0", "obs_error of 'x'", "obs_error of 'w'", "observed: found"):
        assert text in str(caught.value)
    with pytest.raises(SettingsError, match="operator: found one for 'y', expected observed"):
        twin(system, observed="x", operator={"y": "abs"})
    with pytest.raises(OperatorError, match="the operator 'cube'"):
        twin(system, operator="cube")
    with pytest.raises(ObservationError, match=r"operator of 'x': found .* not finite"):
        twin(system, observed="x", operator=lambda state: state["x"] * float("nan"))
    with pytest.raises(StateError, match="start: found a batch of 2, expected one state"):
        twin(system, start=np.zeros((2, 3)))
    with pytest.raises(SettingsError, match="every: found 1s"):
        twin(system, window="1s")
