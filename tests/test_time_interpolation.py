"""Observations between the times of a forecast: interpolated linearly, analysed jointly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from closed_form import kalman, relative
from labelled import LAT, LON, MEAN, QUICK, STD, TIMES, covariance, forecast, gaussian_prior

from xr_daisi import SettingsError, assimilate, feedback
from xr_daisi.observations import match_observations
from xr_daisi.sampling import NoiseSource

PRIOR = gaussian_prior()
LINEAR: dict[str, Any] = {**QUICK, "time_interpolation": "linear"}


def between(*hours: float, error: float = 0.5) -> xr.Dataset:
    """Points on grid nodes, at hours after the first forecast time; each at another node."""
    when = TIMES[0] + np.asarray([int(h * 3600) for h in hours], dtype="timedelta64[s]")
    n = len(hours)
    return xr.Dataset(
        {"t2m": ("obs", MEAN + np.linspace(-6.0, 6.0, n), {"units": "K"})},
        coords={
            "time": ("obs", when.astype("datetime64[ns]")),
            "latitude": ("obs", LAT[np.arange(n) % LAT.size]),
            "longitude": ("obs", LON[(2 * np.arange(n)) % LON.size]),
        },
    ).assign(t2m_error=("obs", np.full(n, error)))


def test_a_field_linear_in_time_is_observed_exactly() -> None:
    ds = forecast(members=3)
    hours = xr.DataArray([0.0, 6.0, 12.0], dims="time", coords={"time": TIMES})
    ds["t2m"] = ds.t2m * 0 + 250 + 0.5 * hours + ds.member
    obs = between(1.5, 5.0, 6.0, 7.5, 12.0)
    table = feedback(ds, obs, assimilate(ds, obs, PRIOR, **LINEAR))
    expected = 250 + 0.5 * np.array([1.5, 5.0, 6.0, 7.5, 12.0]) + np.arange(3)[:, None]
    np.testing.assert_allclose(table.t2m_forecast, expected, rtol=1e-12)


def test_times_are_linked_by_what_lies_between_them() -> None:
    spec = PRIOR.spec

    def windows(obs: xr.Dataset, **options: Any) -> list[tuple[int, ...]]:
        return match_observations(obs, spec, TIMES, **options).windows

    linear = {"time_interpolation": "linear"}
    assert windows(between(1.0, 7.0)) == [(0,), (1,), (2,)]
    assert windows(between(0.0, 6.0), **linear) == [(0,), (1,), (2,)]
    assert windows(between(0.0, 7.0), **linear) == [(0,), (1, 2)]
    assert windows(between(1.0, 11.0), **linear) == [(0, 1, 2)]
    missing = between(1.0, 11.0)
    missing.t2m[0] = np.nan
    assert windows(missing, **linear) == [(0,), (1, 2)]
    # The order of the forecast's times does not matter.
    plan = match_observations(between(7.0), spec, TIMES[[2, 0, 1]], time_interpolation="linear")
    assert plan.windows == [(0, 2), (1,)]


def test_analysis_is_the_kalman_answer_for_the_states_together() -> None:
    """At t_min 0 the analysis is an affine map of the noise: its mean and covariance exactly."""
    times = TIMES[:2]
    obs = between(1.0, 4.5, 6.0)
    n = 2 * LAT.size * LON.size
    members = n + 1
    ds = forecast(members=members, times=times)
    keywords = {
        **LINEAR,
        "steps": 40,
        "solver": "heun",
        "noise": 0.0,
        "t_min": 0.0,
        "guidance_iterations": 3,
    }
    analysis = assimilate(ds, obs, PRIOR, **keywords)
    found = torch.from_numpy(analysis.t2m.transpose("member", "time", ...).values)
    x = (found.reshape(members, n) - MEAN) / STD

    shape = (1, LAT.size, LON.size)
    options = {"dtype": torch.float64, "device": "cpu"}
    z = torch.cat(
        [
            NoiseSource(0, str(time)[:19], range(members)).draw("initial", 0, shape, **options)
            for time in times
        ],
        dim=1,
    ).reshape(members, n)
    ones = torch.ones(members, 1, dtype=torch.float64)
    affine = torch.linalg.solve(torch.cat([ones, z], dim=1), x)
    offset, matrix = affine[0], affine[1:].mT

    one = covariance(LAT.size, LON.size)
    joint = torch.block_diag(one, one)
    h = torch.zeros(3, n, dtype=torch.float64)
    for row, hour in enumerate((1.0, 4.5, 6.0)):
        node = LON.size * row + (2 * row) % LON.size
        h[row, node], h[row, n // 2 + node] = 1 - hour / 6, hour / 6
    values = torch.from_numpy((obs.t2m.values - MEAN) / STD)
    errors = torch.full((3,), 0.5 / STD, dtype=torch.float64)
    mean, posterior = kalman(torch.zeros(n, dtype=torch.float64), joint, h, values, errors)
    assert relative(offset, mean) < 2e-3
    assert relative(matrix @ matrix.mT, posterior) < 2e-3
    # The states, independent in the prior, are not so any more.
    cross = (matrix @ matrix.mT)[: n // 2, n // 2 :]
    assert relative(cross, posterior[: n // 2, n // 2 :]) < 0.02


def test_without_anything_between_it_is_the_analysis_of_each_time() -> None:
    ds, obs = forecast(), between(0.0, 6.0, 12.0)
    xr.testing.assert_equal(
        assimilate(ds, obs, PRIOR, **LINEAR).drop_attrs(),
        assimilate(ds, obs, PRIOR, **QUICK).drop_attrs(),
    )


def test_times_without_observations_are_the_forecast() -> None:
    ds = forecast()
    analysis = assimilate(ds, between(7.0, 8.0), PRIOR, **LINEAR)
    assert (analysis.t2m[0] == ds.t2m[0]).all()
    assert (analysis.t2m[1:] != ds.t2m[1:]).all()


@pytest.mark.parametrize("chunks", [{"time": 1}, {"time": 2, "member": 3}, {"member": 1}])
@pytest.mark.parametrize("background_check", [None, 50.0])
def test_lazy_is_eager(chunks: dict[str, int], background_check: float | None) -> None:
    ds, obs = forecast(), between(1.0, 5.0, 10.0, 11.0)
    keywords = {**LINEAR, "background_check": background_check, "batch": 1}
    eager = assimilate(ds, obs, PRIOR, **keywords)
    for given in (obs, obs.chunk(obs=2)):
        lazy = assimilate(ds.chunk(chunks), given, PRIOR, **keywords)
        assert lazy.chunks
        xr.testing.assert_equal(lazy.compute().drop_attrs(), eager.drop_attrs())


def test_holes_are_carried_through_a_trajectory() -> None:
    ds, obs = forecast(), between(1.0, 5.0)
    ds["t2m"] = ds.t2m.where(ds.longitude < 1.5)
    analysis = assimilate(ds, obs, PRIOR, **LINEAR)
    assert (analysis.t2m.isnull() == ds.t2m.isnull()).all()


def test_feedback_sees_the_states_before_and_after() -> None:
    ds, obs = forecast(), between(1.0, 6.0, 9.0)
    analysis = assimilate(ds, obs, PRIOR, **LINEAR)
    table = feedback(ds, obs, analysis)
    node = ds.t2m.sel(latitude=float(obs.latitude[0]), longitude=float(obs.longitude[0]))
    expected = node.isel(time=0) * 5 / 6 + node.isel(time=1) / 6
    np.testing.assert_allclose(table.t2m_forecast[:, 0], expected.values, rtol=1e-12)
    assert (abs(table.t2m_o_minus_a) < abs(table.t2m_o_minus_b)).all()
    assert (table.t2m_status == 0).all()


def test_unknown_time_interpolation() -> None:
    with pytest.raises(SettingsError, match="time_interpolation: found 'cubic'"):
        assimilate(forecast(), between(1.0), PRIOR, time_interpolation="cubic")  # type: ignore[call-overload]
