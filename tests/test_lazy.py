"""Laziness: building computes nothing, and the result does not depend on how it is computed."""

from __future__ import annotations

from typing import Any

import cloudpickle
import dask
import dask.array
import numpy as np
import pytest
import torch
import xarray as xr
from labelled import MEAN, QUICK, STD, forecast, gaussian_prior, stations, template

from xr_daisi import FlowPrior, ObservationError, StateError, assimilate
from xr_daisi import invert as to_latent

FORECAST = forecast()
OBS = stations()


def closure_prior() -> FlowPrior:
    """A prior whose network is a lambda over a local tensor: it travels by cloudpickle only."""
    weight = torch.tensor(0.5, dtype=torch.float64)

    def gain(t: torch.Tensor) -> torch.Tensor:
        t = t.reshape(-1, 1, 1, 1)
        return (2 * t - 1) / (t**2 + (1 - t) ** 2) * (2 * weight)

    return FlowPrior.from_velocity(lambda x, t: gain(t) * x, template(), mean=MEAN, std=STD)


PRIOR = closure_prior()


def analyse(ds: xr.Dataset, obs: xr.Dataset = OBS, **more: Any) -> xr.Dataset:
    return assimilate(ds, obs, PRIOR, **{**QUICK, **more})


@pytest.fixture(scope="module")
def eager() -> xr.Dataset:
    return analyse(FORECAST)


@pytest.mark.parametrize(
    "chunks",
    [
        {"member": 1, "time": 1},
        {"member": 3, "time": 2},
        {"member": 4, "time": 3},
        {"time": 1},
        {"member": (1, 3), "latitude": 2, "longitude": 4},
    ],
)
@pytest.mark.parametrize("lazy_obs", [False, True])
def test_any_chunks(eager: xr.Dataset, chunks: Any, lazy_obs: bool, raise_if_computes: Any) -> None:
    obs = OBS.chunk(time=2, station=3) if lazy_obs else OBS
    ds = FORECAST.chunk(chunks)
    with raise_if_computes():
        lazy = analyse(ds, obs, background_check=50.0)
        assert dask.is_dask_collection(lazy)
        assert lazy.t2m.dtype == FORECAST.t2m.dtype
        assert lazy.t2m.dims == FORECAST.t2m.dims
    xr.testing.assert_allclose(lazy.compute().drop_attrs(), eager.drop_attrs(), rtol=1e-12)
    assert lazy.chunksizes["latitude"] == (5,)
    if "member" in chunks and isinstance(chunks["member"], int):
        assert max(lazy.chunksizes["member"]) == chunks["member"]


def test_lazy_observations_make_the_result_lazy(eager: xr.Dataset, raise_if_computes: Any) -> None:
    with raise_if_computes():
        lazy = analyse(FORECAST, OBS.chunk(time=1))
    assert lazy.chunks
    xr.testing.assert_allclose(lazy.compute().drop_attrs(), eager.drop_attrs(), rtol=1e-12)


def test_building_calls_no_network() -> None:
    prior = gaussian_prior()
    lazy = assimilate(FORECAST.chunk(time=1), OBS, prior, **QUICK)
    assert prior.network.calls == 0
    lazy.isel(time=[0], member=[0]).compute()
    assert prior.network.calls > 0


def test_a_part_computes_only_its_blocks() -> None:
    prior = gaussian_prior()
    lazy = assimilate(FORECAST.chunk(time=1, member=2), OBS, prior, **QUICK)
    one = lazy.isel(time=1, member=slice(2, 4)).compute()
    assert prior.network.calls == 4 + 4
    whole = assimilate(FORECAST, OBS, prior, **QUICK)
    xr.testing.assert_allclose(one, whole.isel(time=1, member=slice(2, 4)), rtol=1e-12)


@pytest.mark.parametrize("scheduler", ["synchronous", "threads", "processes"])
def test_schedulers(eager: xr.Dataset, scheduler: Any) -> None:
    lazy = analyse(FORECAST.chunk(member=2, time=2), OBS.chunk(time=1))
    found = lazy.compute(scheduler=scheduler, num_workers=1 if scheduler == "processes" else 2)
    xr.testing.assert_allclose(found.drop_attrs(), eager.drop_attrs(), rtol=1e-12)


@pytest.mark.slow
def test_workers_of_a_cluster(eager: xr.Dataset) -> None:
    distributed = pytest.importorskip("distributed")
    with (
        dask.config.set({"distributed.worker.daemon": True}),
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster),
    ):
        lazy = analyse(FORECAST.chunk(member=2, time=1), OBS.chunk(time=1), background_check=50.0)
        found = lazy.compute()
    xr.testing.assert_allclose(found.drop_attrs(), eager.drop_attrs(), rtol=1e-12)


def test_graphs_survive_cloudpickle(eager: xr.Dataset) -> None:
    lazy = analyse(FORECAST.chunk(member=2))
    again = cloudpickle.loads(cloudpickle.dumps(lazy))
    xr.testing.assert_allclose(again.compute().drop_attrs(), eager.drop_attrs(), rtol=1e-12)


def test_the_prior_is_in_the_graph_once() -> None:
    lazy = analyse(FORECAST.chunk(member=1, time=1), OBS.chunk(time=1), background_check=9.0)
    graph = dict(lazy.t2m.data.__dask_graph__())
    assert sum(str(key).startswith("daisi-prior-") for key in graph) == 1
    small = FlowPrior.from_velocity(lambda x, t: x, template())
    heavy = torch.zeros(300_000, dtype=torch.float64)
    large = FlowPrior.from_velocity(lambda x, t: x + 0 * heavy[0], template())
    sizes = [
        len(cloudpickle.dumps(assimilate(FORECAST.chunk(member=1, time=1), OBS, p, **QUICK)))
        for p in (small, large)
    ]
    assert sizes[1] - sizes[0] < 1.5 * 8 * 300_000


def test_bad_values_in_lazy_data_raise_when_computed(raise_if_computes: Any) -> None:
    ds = FORECAST.copy(deep=True)
    ds.t2m[1, 3, 2, 4] = np.nan
    with raise_if_computes():
        lazy = analyse(ds.chunk(member=2, time=1))
    with pytest.raises(
        StateError, match=r"first at time 2019-03-01T06:00:00, member 3, latitude=52, longitude=1"
    ):
        lazy.compute()
    lazy.isel(time=0).compute()
    bad = OBS.copy(deep=True)
    bad.t2m_error[0, 1] = -1.0
    with raise_if_computes():
        lazy = analyse(FORECAST, bad.chunk(time=1))
    with pytest.raises(ObservationError, match="t2m: found 1 observation error"):
        lazy.compute()


def test_latents(raise_if_computes: Any) -> None:
    with raise_if_computes():
        lazy = to_latent(FORECAST.chunk(time=1, member=3), PRIOR, **QUICK)
    wanted = to_latent(FORECAST, PRIOR, **QUICK)
    xr.testing.assert_allclose(lazy.compute().drop_attrs(), wanted.drop_attrs(), rtol=1e-12)


def test_forecasts_larger_than_memory_are_read_by_block() -> None:
    """No task holds more than a chunk of the forecast, though times are many."""
    seen = []

    def read(block: np.ndarray) -> np.ndarray:
        seen.append(block.shape)
        return block

    ds = FORECAST.copy()
    ds["t2m"] = ds.t2m.copy(data=FORECAST.chunk(time=1, member=2).t2m.data.map_blocks(read))
    seen.clear()
    analyse(ds).isel(time=2).compute()
    # The two of this time, and the very first, which shows where the forecast has holes.
    assert seen == [(1, 2, 5, 6)] * 3
