"""An analysis does not depend on how observations are put: order, units, names, longitudes."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import xarray as xr
from labelled import TIMES, forecast, gaussian_prior, stations

from xr_daisi import assimilate
from xr_daisi.observation_keys import identities, in_order
from xr_daisi.observations import match_observations
from xr_daisi.plane import PlaneAxes

PRIOR = gaussian_prior()
SPEC = PRIOR.spec
AXES = PlaneAxes.of(SPEC)
FORECAST = forecast(members=6)
DEFAULT: dict[str, Any] = {"steps": 4, "progress": False, "obs_error": 0.5, "dtype": "float64"}


def analysed(obs: Any, **options: Any) -> np.ndarray:
    found: np.ndarray = assimilate(FORECAST, obs, PRIOR, **{**DEFAULT, **options}).t2m.values
    return found


def batch_of(obs: Any, **options: Any) -> Any:
    return match_observations(obs, SPEC, TIMES, obs_error=0.5, **options).batch(0)


def points(n: int, *, seed: int = 2, **fields: Any) -> xr.Dataset:
    rng = np.random.default_rng(seed)
    where = {"latitude": rng.uniform(50.2, 53.8, n), "longitude": rng.uniform(-2.9, 1.9, n)}
    values = 280.0 + 5.0 * rng.standard_normal(n)
    coords = {name: ("obs", np.asarray(at).round(2)) for name, at in where.items()}
    coords |= {name: ("obs", np.asarray(at)) for name, at in fields.items()}
    coords["time"] = ("obs", np.repeat(TIMES[:1], n))
    return xr.Dataset({"t2m": ("obs", values, {"units": "K"})}, coords=coords)


KINDS: list[dict[str, Any]] = [
    {},
    {"thin": "200 km"},
    {"error_correlation": {"t2m": "50 km"}},
    {"thin": "100 km", "error_correlation": {"t2m": "150 km"}},
    {"t_min": 0.3, "perturb_obs": True},
    {"t_min": 0.3, "bridge": 0.5, "perturb_obs": True},
]


@pytest.mark.parametrize("kind", KINDS)
def test_any_order_gives_the_same(kind: dict[str, Any]) -> None:
    """Of observations, of Datasets, and of how they are divided between Datasets."""
    obs = points(60)
    order = np.random.default_rng(0).permutation(60)
    plain = analysed(obs, **kind)
    np.testing.assert_allclose(analysed(obs.isel(obs=order), **kind), plain, rtol=1e-9)
    two = [obs.isel(obs=slice(40)), obs.isel(obs=slice(40, None))]
    together = analysed(two, **kind)
    other = [two[1].isel(obs=order[order < 20]), two[0].isel(obs=order[order < 40])]
    np.testing.assert_allclose(analysed(other, **kind), together, rtol=1e-9)


def test_units_of_some_do_not_matter() -> None:
    """Also not where two of a place are told apart by their values."""
    warm = points(1, latitude=[52.0], longitude=[0.0]).assign(t2m=("obs", [280.0], {"units": "K"}))
    cold = warm.assign(t2m=("obs", [283.0], {"units": "K"}), t2m_error=("obs", [2.0]))
    degrees = cold.assign(t2m=("obs", [9.85], {"units": "degC"}))
    assert abs(degrees.t2m.item() + 273.15 - 283.0) < 1e-9
    for kind in ({}, {"t_min": 0.3, "perturb_obs": True}):
        plain = analysed([warm, cold], **kind)
        np.testing.assert_allclose(analysed([warm, degrees], **kind), plain, rtol=1e-9)


def test_names_and_longitudes_do_not_matter() -> None:
    obs = points(30)
    plain = analysed(obs)
    named = obs.rename(t2m="temperature")
    named.temperature.attrs["standard_name"] = "air_temperature"
    np.testing.assert_allclose(analysed(named), plain, rtol=1e-12)
    around = obs.assign_coords(longitude=obs.longitude % 360.0)
    np.testing.assert_allclose(analysed(around), plain, rtol=1e-9)
    # of a file in single precision
    single = obs.assign_coords(longitude=obs.longitude.astype(np.float32))
    keys = [identities(in_order(batch_of(o), AXES), AXES) for o in (obs, around, single)]
    assert (keys[0] == keys[1]).all()
    assert (keys[0] == keys[2]).all()
    edges = [points(2, latitude=[51.0, 52.0], longitude=x) for x in ([-1e-9, 0.0], [0.0, 360.0])]
    one, other = (identities(batch_of(edge), AXES) for edge in edges)
    assert (one == other).all()


def test_others_do_not_matter_to_a_key() -> None:
    obs = points(30)
    keys = identities(batch_of(obs), AXES)
    assert np.unique(keys).size == 30
    assert (identities(batch_of(obs.isel(obs=[3, 7, 20])), AXES) == keys[[3, 7, 20]]).all()


def test_observations_between_times_leave_the_errors_of_others_as_they_are() -> None:
    kind = {"time_interpolation": "linear", "t_min": 0.4, "perturb_obs": True}
    kind |= {"guidance": "dps-exact", "strength": 0.1, "noise": 0.0, "inverse_noise": 0.0}
    obs = stations(n=6)
    times = np.array(["2019-03-01T02"], dtype="datetime64[ns]")
    worthless = stations(times=times, n=1, seed=3, error=1e7)
    plain, more = analysed([obs], **kind), analysed([obs, worthless], **kind)
    np.testing.assert_allclose(more, plain, atol=1e-4)
    # and the direction of the forecast's times is not theirs
    backwards = assimilate(
        FORECAST.isel(time=[2, 1, 0]), [obs, worthless], PRIOR, **DEFAULT, **kind
    )
    np.testing.assert_allclose(backwards.t2m.values[::-1], more, rtol=1e-9)


@pytest.mark.parametrize("correlated", [False, True])
def test_a_batch_in_order_is_the_same_batch(correlated: bool) -> None:
    kind = {"error_correlation": {"t2m": "300 km"}} if correlated else {}
    obs = points(20)
    batches = [
        in_order(batch_of(o, **kind), AXES)
        for o in (obs, obs.isel(obs=np.random.default_rng(1).permutation(20)))
    ]
    for one, other in itertools.pairwise([*batches, in_order(batches[0], AXES)]):
        assert (one.values == other.values).all()
        assert (one.positions == other.positions).all()
        for a, b in zip(one.blocks, other.blocks, strict=True):
            assert (a.places == b.places).all()
            assert (np.diff(a.places) > 0).all()
            np.testing.assert_allclose(a.correlation, b.correlation, rtol=1e-12)
    assert bool(batches[0].blocks) == correlated
    # its rows still say which observation of the table each is
    assert (obs.t2m.values[batches[0].rows] == batches[0].values).all()


@pytest.mark.parametrize("some", [1, 2])
def test_lazy_series_for_some_times_of_the_forecast(some: int) -> None:
    obs = stations(times=TIMES[:some])
    lazy = assimilate(FORECAST, obs.chunk(), PRIOR, **DEFAULT).compute()
    np.testing.assert_allclose(lazy.t2m, analysed(obs), rtol=1e-12)
    assert (lazy.t2m[some:] == FORECAST.t2m[some:]).all()
