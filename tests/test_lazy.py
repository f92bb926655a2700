"""Laziness: building computes nothing, and the result does not depend on how it is computed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import dask
import dask.array
import numpy as np
import pytest
import torch
import xarray as xr
from labelled import MEAN, QUICK, STD, forecast, gaussian_prior, stations, template

from xr_daisi import (
    FlowPrior,
    ObservationError,
    SpaceChunksWarning,
    StateError,
    assimilate,
    load_prior,
)
from xr_daisi import invert as to_latent
from xr_daisi.files import write_file
from xr_daisi.networks import UNet, UNetConfig
from xr_daisi.state import Normalization, spec_from_dataset

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


class Logged(torch.nn.Module):
    """Writes the number of each process that unpickles it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def __reduce__(self) -> Any:
        return unpickle, (self.path,)

    def __deepcopy__(self, memo: Any) -> Logged:
        return Logged(self.path)


def unpickle(path: Path) -> Logged:
    with open(path, "a") as file:
        file.write(f"{os.getpid()}\n")
    return Logged(path)


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
        {"member": (1, 3)},
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


def test_chunks_along_space_are_joined_with_a_warning(eager: xr.Dataset) -> None:
    ds = FORECAST.chunk(time=1, latitude=2, longitude=4)
    with pytest.warns(SpaceChunksWarning) as caught:
        lazy = analyse(ds)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    said = str(caught[0].message)
    assert said.startswith("forecast chunks along 'latitude' and 'longitude': found several for ")
    assert "(3 along 'latitude', 2 along 'longitude')" in said
    # 3 times x 4 members x 5 x 6 points of 8 bytes; a chunk has one time
    assert "2.88 kB are copied to join them" in said
    assert "into chunks of up to 960 bytes" in said
    assert ".chunk(latitude=-1, longitude=-1)" in said
    assert lazy.chunksizes["latitude"] == (5,)
    xr.testing.assert_allclose(lazy.compute().drop_attrs(), eager.drop_attrs(), rtol=1e-12)


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
    fixed: dict[str, Any] = {**QUICK, "t_min": 0.2, "bridge": "auto"}
    lazy = assimilate(FORECAST.chunk(time=1, member=2), OBS, prior, **fixed)
    one = lazy.isel(time=1, member=slice(2, 4)).compute()
    assert prior.network.calls == 4 + 4
    whole = assimilate(FORECAST, OBS, prior, **fixed)
    xr.testing.assert_allclose(one, whole.isel(time=1, member=slice(2, 4)), rtol=1e-12)


@pytest.mark.parametrize("scheduler", ["synchronous", "threads", "processes"])
def test_schedulers(eager: xr.Dataset, scheduler: Any) -> None:
    lazy = analyse(FORECAST.chunk(member=2, time=2), OBS.chunk(time=1))
    found = lazy.compute(scheduler=scheduler, num_workers=1 if scheduler == "processes" else 2)
    xr.testing.assert_allclose(found.drop_attrs(), eager.drop_attrs(), rtol=1e-12)


@pytest.mark.slow
def test_workers_of_a_cluster(tmp_path: Path) -> None:
    """They need no file of the prior, and each of them loads it once."""
    distributed = pytest.importorskip("distributed")
    network_prior().save(tmp_path / "prior.safetensors")
    prior = load_prior(tmp_path / "prior.safetensors")
    prior.network.register_module("log", Logged(tmp_path / "loaded"))
    options: dict[str, Any] = {"background_check": 50.0, "batch": 1, **SINGLE}
    lazy = assimilate(FORECAST.chunk(member=1, time=1), OBS.chunk(time=1), prior, **options)
    again = assimilate(FORECAST.chunk(member=2), OBS, prior, **options)
    os.unlink(tmp_path / "prior.safetensors")
    with (
        dask.config.set({"distributed.worker.daemon": True}),
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster),
    ):
        found, second = lazy.compute(), again.compute()
    loaded = (tmp_path / "loaded").read_text().split()
    assert len(loaded) == len(set(loaded)) <= 2
    wanted = assimilate(FORECAST, OBS, prior, **options)
    xr.testing.assert_equal(found, wanted)
    xr.testing.assert_equal(second, wanted)


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


# -- nothing twice ----------------------------------------------------------------------------


def two_variables(read: Callable[[np.ndarray], np.ndarray] = lambda block: block) -> xr.Dataset:
    """A lazy forecast of two variables, of which reading can be watched."""
    ds = xr.Dataset({"t2m": FORECAST.t2m, "d2m": FORECAST.t2m - 5.0})
    ds["d2m"].attrs = {"units": "K", "standard_name": "dew_point_temperature"}
    chunked = ds.chunk(time=1, member=2)
    lazy = {n: chunked[n].data.map_blocks(read, meta=np.zeros(())) for n in ds}
    return ds.assign({n: ds[n].copy(data=data) for n, data in lazy.items()})


@pytest.mark.parametrize("background_check", [None, 50.0])
@pytest.mark.parametrize("way", ["compute", "zarr"])
def test_every_block_is_read_and_analysed_once(
    tmp_path: Path, background_check: float | None, way: str
) -> None:
    """All variables share the work, and so does the block that shows the holes."""
    read, calls = [], []
    ds = two_variables(lambda block: (read.append(1), block)[1])

    def velocity(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        calls.append(len(x))
        return -x

    prior = FlowPrior.from_velocity(velocity, two_variables().isel(time=0, member=0), mean=MEAN)
    fixed: dict[str, Any] = {**QUICK, "t_min": 0.2, "bridge": "auto"}
    lazy = assimilate(ds, OBS, prior, **fixed, background_check=background_check)
    read.clear()
    with dask.config.set(scheduler="synchronous"):
        if way == "compute":
            lazy.compute()
        else:
            write_file(lazy, tmp_path / "a.zarr", overwrite=False)
    assert len(read) == 2 * 3 * 2
    # steps of two evaluations each, both ways, for every block of two members
    assert calls == [2] * ((4 + 4) * 3 * 2)


# -- bit by bit -------------------------------------------------------------------------------


def network_prior() -> FlowPrior:
    """A small U-Net with random weights, as training makes it."""
    torch.manual_seed(3)
    network = UNet(UNetConfig(1, width=8, multipliers=(1, 2)))
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.02 * torch.randn_like(p))
    normalization = Normalization(np.full((1, 1, 1), MEAN), np.full((1, 1, 1), STD))
    return FlowPrior(network, spec_from_dataset(template()), normalization)


# A network with random weights knows no state, so that "auto" finds nothing; and the farther it
# carries members, the more it makes of rounding.
SINGLE: dict[str, Any] = {
    "steps": 2,
    "device": "cpu",
    "progress": False,
    "t_min": 0.6,
    "bridge": "auto",
}


@pytest.mark.parametrize("chunks", [{"member": 1, "time": 1}, {"member": 3}, {"time": 2}])
@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
def test_a_network_gives_the_same_bits_for_the_same_batch(chunks: Any, scheduler: str) -> None:
    prior = network_prior()
    wanted = assimilate(FORECAST, OBS, prior, batch=1, **SINGLE)
    lazy = assimilate(FORECAST.chunk(chunks), OBS, prior, batch=1, **SINGLE)
    found = lazy.compute(scheduler=scheduler, num_workers=2)
    xr.testing.assert_equal(found, wanted)
    # Batches are cut within chunks: with others the rounding differs, no more.
    other = assimilate(FORECAST.chunk(chunks), OBS, prior, batch=4, **SINGLE).compute()
    np.testing.assert_allclose((other - wanted).t2m.values / STD, 0.0, atol=5e-5)


def test_processes_give_the_same_bits_and_read_the_prior_once(tmp_path: Path) -> None:
    prior = network_prior()
    log = tmp_path / "loaded"
    prior.network.register_module("log", Logged(log))
    wanted = assimilate(FORECAST, OBS, prior, batch=1, **SINGLE)
    lazy = assimilate(FORECAST.chunk(member=1, time=1), OBS, prior, batch=1, **SINGLE)
    with dask.config.set({"temporary-directory": str(tmp_path)}):
        found = lazy.compute(scheduler="processes", num_workers=2, chunksize=1)
    xr.testing.assert_equal(found, wanted)
    loaded = log.read_text().split()
    assert len(loaded) == len(set(loaded)) <= 2
    assert [path.name for path in tmp_path.iterdir()] == ["loaded"]  # no copy of the weights stays
