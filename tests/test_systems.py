"""Test systems against what is known of them, and as forecast models."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

from xr_daisi.errors import DaisiTypeError, PriorError, SettingsError, StateError
from xr_daisi.systems import SQG, Lorenz63, Lorenz96, SQGParameters, System
from xr_daisi.systems.runge_kutta import integrate

DAY = np.datetime64("2000-01-01", "ns")
SMALL: list[System] = [Lorenz63(), Lorenz96(8), SQG(SQGParameters(n=8))]
ids = [s.name for s in SMALL]


def start_of(system: System, members: int = 3) -> torch.Tensor:
    if isinstance(system, SQG):
        return system.random_state(members)
    return system.spun_up(members, seed=4)


def ensemble_of(system: System, members: int = 3) -> xr.Dataset:
    return system.label(start_of(system, members)).assign_coords(time=DAY)


# -- dynamics -------------------------------------------------------------------------------------


def test_fixed_points_of_lorenz63() -> None:
    """The origin, and (+-sqrt(beta (rho - 1)), same, rho - 1): Lorenz (1963)."""
    m = Lorenz63()
    c = (m.beta * (m.rho - 1.0)) ** 0.5
    points = torch.tensor([[0.0, 0.0, 0.0], [c, c, m.rho - 1], [-c, -c, m.rho - 1]]).double()
    points[1:, :2] = points[1:, :2].sign() * c  # the constants above pass through single precision
    assert m.tendency(points).abs().max() < 1e-12
    assert (m.run(points, 10) - points).abs().max() < 1e-10


def test_lorenz63_contracts_volumes() -> None:
    """The divergence of the flow is -(sigma + 1 + beta) everywhere."""
    m = Lorenz63()
    for state in torch.randn(3, 3, dtype=torch.float64) * 10.0:
        jacobian = torch.autograd.functional.jacobian(m.tendency, state)
        assert torch.trace(jacobian).item() == pytest.approx(-(m.sigma + 1.0 + m.beta))


def test_lorenz63_statistics() -> None:
    """Long-run moments of the classical parameters: mean z 23.5, deviations 7.9, 9.0 and 8.6."""
    run = Lorenz63().simulate(states=300, every="6h", members=100, seed=0)
    assert float(run.x.mean()) == pytest.approx(0.0, abs=0.4)
    assert float(run.z.mean()) == pytest.approx(23.55, abs=0.1)
    for name, expected in {"x": 7.92, "y": 9.01, "z": 8.62}.items():
        assert float(run[name].std()) == pytest.approx(expected, rel=0.02)


def test_symmetry_of_lorenz63() -> None:
    m = Lorenz63()
    state = m.spun_up(2, seed=1)
    mirror = torch.tensor([-1.0, -1.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(m.run(state * mirror, 20), m.run(state, 20) * mirror)


def test_lorenz96_against_a_loop() -> None:
    m = Lorenz96(7, forcing=3.0)
    x = torch.randn(7, dtype=torch.float64)
    naive = [(x[(i + 1) % 7] - x[i - 2]) * x[i - 1] - x[i] + 3.0 for i in range(7)]
    torch.testing.assert_close(m.tendency(x), torch.stack(naive))


def test_energy_of_lorenz96() -> None:
    """Advection keeps sum x^2: its rate of change is 2 (F sum x - sum x^2)."""
    m = Lorenz96()
    x = m.spun_up(5, seed=2)
    rate = 2.0 * (x * m.tendency(x)).sum(-1)
    expected = 2.0 * (m.forcing * x.sum(-1) - (x**2).sum(-1))
    torch.testing.assert_close(rate, expected, rtol=1e-10, atol=1e-9)
    steady = torch.full((1, 40), 8.0, dtype=torch.float64)
    torch.testing.assert_close(m.run(steady, 3), steady)


def test_lorenz96_statistics() -> None:
    """For F = 8 the mean is 2.34 and the deviation 3.64; sum x^2 = F sum x on average."""
    run = Lorenz96().simulate(states=100, every="6h", members=50, seed=0)
    assert float(run.u.mean()) == pytest.approx(2.34, abs=0.05)
    assert float(run.u.std()) == pytest.approx(3.64, rel=0.02)
    assert float((run.u**2).mean()) == pytest.approx(8.0 * float(run.u.mean()), rel=0.03)


@pytest.mark.parametrize("kind", [Lorenz63, Lorenz96])
def test_order_of_convergence(kind: Any) -> None:
    """Half the step, a sixteenth of the error."""
    start = kind().spun_up(20, seed=3)
    exact = kind(step=0.4 / 640).run(start, 640)
    errors = [
        float((kind(step=0.4 / n).run(start, n) - exact).square().mean().sqrt()) for n in (40, 80)
    ]
    assert np.log2(errors[0] / errors[1]) == pytest.approx(4.0, abs=0.3)


def test_runge_kutta_of_an_exponential() -> None:
    """One step is the Taylor series of exp to fourth order, exactly."""
    start = torch.ones(1, dtype=torch.float64)
    h = 0.3
    series = 1 + h + h**2 / 2 + h**3 / 6 + h**4 / 24
    assert integrate(lambda x: x, start, h, 2).item() == pytest.approx(series**2, rel=1e-14)
    assert start.item() == 1.0


def test_members_are_independent() -> None:
    for system in SMALL:
        start = start_of(system)
        together = system.run(start, 4)
        for k in range(3):
            torch.testing.assert_close(together[k : k + 1], system.run(start[k : k + 1], 4))


def test_spun_up_states_of_sqg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xr_daisi.systems.sqg.SPIN_UP_DAYS", 0.25)
    m = SQG(SQGParameters(n=8))
    expected = m.advance(m.random_state(2, seed=5), 6.0)
    torch.testing.assert_close(m.spun_up(2, seed=5), expected)


# -- forecast models ------------------------------------------------------------------------------


@pytest.mark.parametrize("system", SMALL, ids=ids)
def test_a_system_is_a_forecast_model(system: System) -> None:
    ensemble = ensemble_of(system).assign_attrs(title="kept", daisi_settings="of an analysis")
    before = ensemble.copy(deep=True)
    until = DAY + 2 * system.time_step
    later = system(ensemble, until)
    xr.testing.assert_identical(ensemble, before)
    assert later.time.values == until
    assert later.attrs == {"title": "kept"}
    expected = system.run(start_of(system), 2)
    torch.testing.assert_close(system.tensor(later), expected)
    for name in ensemble.data_vars:
        assert later[name].dims == ensemble[name].dims
        assert later[name].dtype == ensemble[name].dtype
        assert later[name].attrs == ensemble[name].attrs
    xr.testing.assert_identical(system(ensemble, DAY).drop_attrs(), ensemble.drop_attrs())


@pytest.mark.parametrize("system", SMALL, ids=ids)
def test_any_order_of_dimensions(system: System) -> None:
    ensemble = ensemble_of(system)
    until = DAY + system.time_step
    expected = system(ensemble, until)
    name = str(next(iter(ensemble.data_vars)))
    turned = ensemble.expand_dims("time").transpose(*reversed(["time", *ensemble[name].dims]))
    turned = turned.rename(member="number")
    later = system(turned, until)
    assert later[name].dims == turned[name].dims
    assert later.time.dims == ("time",)
    back = later.rename(number="member").isel(time=0).transpose(*expected[name].dims)
    xr.testing.assert_allclose(back, expected)


def test_points_are_found_by_their_coordinates() -> None:
    system = SMALL[2]
    ensemble = ensemble_of(system)
    until = DAY + system.time_step
    flipped = system(ensemble.isel(y=slice(None, None, -1)), until)
    xr.testing.assert_allclose(flipped.sortby("y"), system(ensemble, until))


def test_a_long_forecast_is_two_short_ones() -> None:
    system = Lorenz96(8)
    ensemble = ensemble_of(system)
    middle, end = DAY + np.timedelta64(12, "h"), DAY + np.timedelta64(24, "h")
    xr.testing.assert_identical(system(system(ensemble, middle), end), system(ensemble, end))


def test_errors_of_the_forecast_model() -> None:
    system = Lorenz63()
    ensemble = ensemble_of(system)
    with pytest.raises(StateError, match="ensemble: found no time, expected one time"):
        system(ensemble.drop_vars("time"), DAY)
    two = xr.concat([ensemble, ensemble.assign_coords(time=DAY + 1)], dim="time")
    with pytest.raises(StateError, match="ensemble: found 2 times"):
        system(two, DAY)
    with pytest.raises(SettingsError, match="non-negative multiple of the model's step, 0 days 00"):
        system(ensemble, DAY + np.timedelta64(1, "s"))
    with pytest.raises(SettingsError, match="non-negative multiple"):
        system(ensemble, DAY - np.timedelta64(1, "D"))
    with pytest.raises(PriorError, match="z"):
        system(ensemble.drop_vars("z"), DAY)
    sqg = SMALL[2]
    bad = ensemble_of(sqg)
    bad.theta.attrs["units"] = "m"
    with pytest.raises(StateError, match="units 'm'"):
        sqg(bad, DAY)
    with pytest.raises(StateError):
        sqg(ensemble_of(sqg).isel(x=slice(4)), DAY)


# -- runs -----------------------------------------------------------------------------------------


def test_simulate() -> None:
    system = Lorenz96(8)
    run = system.simulate(states=3, every="12h", members=2, seed=1, start_time="2001-02-03")
    assert run.u.dims == ("time", "member", "x")
    assert str(run.time.values[1])[:13] == "2001-02-03T12"
    torch.testing.assert_close(torch.from_numpy(run.u.values[0]), system.spun_up(2, seed=1))
    again = system.simulate(run.isel(time=1), states=2, every="12h")
    np.testing.assert_array_equal(again.u.values, run.u.values[1:])
    one = system.simulate(run.isel(time=0, member=0), states=2, every="12h")
    assert one.u.dims == ("time", "x")
    np.testing.assert_allclose(one.u.values[1], run.u.values[1, 0])


def test_errors_of_simulate() -> None:
    system = Lorenz63()
    with pytest.raises(SettingsError, match=r"states: found 0.*\n?.*members: found 0"):
        system.simulate(states=0, every="6h", members=0)
    with pytest.raises(SettingsError, match="every: found 1s, expected a non-negative multiple"):
        system.simulate(states=2, every="1s")
    for bad in (6, "soon", None):
        with pytest.raises(SettingsError, match="every: found"):
            system.simulate(states=2, every=bad)
    with pytest.raises(StateError, match=r"state: found shape \(4,\), expected \(3,\)"):
        system.simulate(np.zeros(4), states=2, every="6h")
    with pytest.raises(DaisiTypeError, match="state: found list"):
        system.tensor([1.0, 2.0, 3.0])  # type: ignore[arg-type]


def test_labels() -> None:
    with pytest.raises(StateError, match=r"states: found shape \(2, 4\), expected \(member, 3\)"):
        Lorenz63().label(np.zeros((2, 4)))
    with pytest.raises(StateError, match=r"states: found shape \(3,\), expected \(member, 40\)"):
        Lorenz96().label(np.zeros(3))
    with pytest.raises(SettingsError, match=r"n: found 3.*\n?.*step: found 0"):
        Lorenz96(3, step=0.0)
    with pytest.raises(SettingsError, match="step: found -1"):
        Lorenz63(step=-1)
    ds = Lorenz96(8).label(np.zeros((2, 8)))
    assert ds.u.attrs["units"] == "1"
    assert SMALL[1].spec.periodic == (True,)
    assert SMALL[2].spec.periodic == (True, True)


def test_configurations_tell_systems_apart() -> None:
    found = [s.configuration for s in (*SMALL, Lorenz63(rho=20.0), SQG(SQGParameters(n=16)))]
    assert all(a != b for i, a in enumerate(found) for b in found[:i])
    assert Lorenz63().configuration == Lorenz63().configuration
