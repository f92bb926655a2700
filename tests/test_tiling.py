"""Tiles of a large grid: cutting, blending, and the analysis that must not know of them."""

from __future__ import annotations

import itertools
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from cli_files import arguments, everything, make_files
from closed_form import (
    GaussianVelocity,
    PointObservations,
    UnitNoise,
    kalman,
    normal,
    relative,
    selection,
)
from labelled import unchanged
from torch import Tensor

import xr_daisi
from xr_daisi import FlowPrior, PriorError, SettingsError, StateError, assimilate, invert, sample
from xr_daisi import tiling as tiling_module
from xr_daisi.cli import main
from xr_daisi.demo import initial_ensemble, sparse_observations, spun_up_states
from xr_daisi.engine import Engine
from xr_daisi.flow import Flow
from xr_daisi.guidance import GUIDANCE, GuidedFlow
from xr_daisi.networks import UNet, UNetConfig
from xr_daisi.prior_grid import SpacingWarning
from xr_daisi.sampling import generate
from xr_daisi.settings import Settings
from xr_daisi.state import Normalization, spec_from_dataset
from xr_daisi.systems.sqg import to_dataset
from xr_daisi.tiling import TileAxis, TiledFlow, Tiling

QUICK: dict[str, Any] = {"steps": 3, "dtype": "float64", "device": "cpu", "progress": False}


def tiled(flow: Flow, sizes: tuple[int, ...], tile: Any, overlap: Any, periodic: Any) -> TiledFlow:
    tiling = Tiling.of(tile, overlap, len(sizes))
    assert tiling is not None
    made = tiling.tiled(flow, sizes, periodic)
    assert isinstance(made, TiledFlow)
    return made


# -- places and weights -------------------------------------------------------------------------


@pytest.mark.parametrize("periodic", [False, True])
@pytest.mark.parametrize("stride", [1, 4, 8])
@pytest.mark.parametrize("size", [64, 100, 721])
@pytest.mark.parametrize(("tile", "overlap"), [(9, 2), (32, 8), (32, 16), (48, 0), (56, 14)])
def test_weights_add_up_to_one(
    size: int, tile: int, overlap: int, stride: int, periodic: bool
) -> None:
    axis = TileAxis.of(size, tile, overlap, periodic, stride=stride)
    assert axis.count > 1
    assert tile <= axis.length <= tile + 2 * stride
    total = torch.zeros(size, dtype=torch.float64)
    total.index_add_(0, axis.indices.flatten(), axis.weights.flatten())
    torch.testing.assert_close(total, torch.ones_like(total))
    assert axis.weights.min() >= 0.0
    starts = axis.indices[:, 0]
    assert (starts % stride == 0).all()
    gaps = torch.diff(starts, append=starts[:1] + size) if periodic else torch.diff(starts)
    assert (axis.length - gaps >= min(overlap, axis.length - stride)).all()
    # A tile has no weight at an edge that is not one of the domain, and is alone at one that is.
    if overlap >= 4:
        artificial = axis.weights[:, 0] if periodic else axis.weights[1:, 0]
        assert (artificial == 0.0).all()
    if not periodic:
        assert axis.weights[0, 0] == axis.weights[-1, -1] == 1.0
        assert axis.indices[0, 0] == 0
        assert axis.indices[-1, -1] == size - 1


def test_one_tile_that_covers_an_axis_leaves_it_whole() -> None:
    assert TileAxis.of(50, 60, 10, True).is_whole
    assert TileAxis.of(50, 50, 10).is_whole
    flow = Flow(lambda x, t: x)
    tiling = Tiling.of(99, None, 2)
    assert tiling is not None
    assert tiling.tiled(flow, (50, 60), (True, False)) is flow


@pytest.mark.parametrize(
    ("tile", "overlap", "message"),
    [
        ((8, 8, 8), None, "tile: found"),
        (0, None, "tile: found 0, expected an integer, or 2 of them, at least 1"),
        (8.0, None, "tile: found 8.0"),
        (True, None, "tile: found True"),
        ("88", None, "tile: found '88'"),
        (8, -1, "overlap: found -1"),
        (8, (1,), "overlap: found"),
        (8, 5, "overlap: found 5 of a tile of 8, expected at most half of it, 4"),
        ((8, 20), (4, 12), "overlap: found 12 of a tile of 20"),
        (8, 8, "overlap: found 8 of a tile of 8"),
        (None, 4, "overlap: found 4, expected none without tile"),
    ],
)
def test_tiles_that_cannot_be(tile: Any, overlap: Any, message: str) -> None:
    with pytest.raises(SettingsError, match=message.replace("(", r"\(")):
        Tiling.of(tile, overlap, 2)


def test_defaults_of_tiles() -> None:
    assert Tiling.of(None, None, 2) is None
    assert Tiling.of(np.int64(40), None, 2) == Tiling((40, 40), (10, 10))
    assert Tiling.of([40, 20], 6, 2) == Tiling((40, 20), (6, 6))
    assert Tiling.of(16, None, 1) == Tiling((16,), (4,))


# -- networks -----------------------------------------------------------------------------------


class Convolutions(torch.nn.Module):
    """Three convolutions that see three points each way; `periodic` as a `UNet` has it."""

    stride = 1

    def __init__(self, ndim: int, channels: int, periodic: tuple[bool, ...]) -> None:
        super().__init__()
        make: Any = torch.nn.Conv1d if ndim == 1 else torch.nn.Conv2d
        widths = [channels, 6, 6, channels]
        self.layers = torch.nn.ModuleList(make(a, b, 3) for a, b in itertools.pairwise(widths))
        self.periodic = periodic
        self.static = torch.zeros(0)

    def with_periodic(self, periodic: tuple[bool, ...]) -> Convolutions:
        other = Convolutions(len(periodic), self.layers[0].in_channels, periodic)
        other.layers = self.layers
        return other

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        for layer in self.layers:
            for dim, wraps in enumerate(self.periodic):
                pad = [0, 0] * len(self.periodic)
                pad[2 * (len(self.periodic) - 1 - dim)] = 1
                pad[2 * (len(self.periodic) - 1 - dim) + 1] = 1
                x = torch.nn.functional.pad(x, pad, mode="circular" if wraps else "replicate")
            x = torch.tanh(layer(x)) * (1 + t[0])
        return x


def convolutions(*periodic: bool, channels: int = 2) -> Flow:
    network = Convolutions(len(periodic), channels, periodic).double().requires_grad_(False)
    return Flow(network)


@pytest.mark.parametrize("periodic", [(False, True), (True, True), (False, False), (True,)])
def test_a_network_that_sees_less_than_the_margin_is_the_same_in_tiles(
    periodic: tuple[bool, ...],
) -> None:
    sizes = (43, 50)[: len(periodic)]
    flow = convolutions(*periodic)
    parts = tiled(flow, sizes, 24, 12, periodic)
    x = normal((3, 2, *sizes), 0)
    torch.testing.assert_close(parts.velocity(x, 0.3), flow.velocity(x, 0.3))
    gradients = [gradient(f, x) for f in (parts, flow)]
    torch.testing.assert_close(*gradients)


def gradient(flow: Flow, x: Tensor, t: float = 0.3, repeats: int = 1) -> Tensor:
    state = x.clone().requires_grad_()
    b = flow.velocity(state, t)
    v = normal(tuple(b.shape), 9).to(b.dtype)
    for _ in range(repeats):
        (g,) = torch.autograd.grad(b, state, v, retain_graph=True)
    return g


def random_unet(static: bool = False, **config: Any) -> UNet:
    torch.manual_seed(1)
    given: dict[str, Any] = {"width": 8, "multipliers": (1, 2), **config}
    fields = torch.randn(1, 40, 48) if static else None
    network = UNet(UNetConfig(2, static_channels=int(static), **given), fields)
    for p in network.parameters():
        if p.ndim > 1:
            torch.nn.init.normal_(p, std=0.1)
    return network.eval().requires_grad_(False)


def test_graphs_that_are_computed_anew_are_those_that_are_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = random_unet(static=True, periodic=(False, True)).double()
    x = normal((2, 2, 40, 48), 2)
    found = []
    monkeypatch.setattr(tiling_module, "automatic_batch", lambda points, device: 5)
    for limit in (1 << 30, 0):
        monkeypatch.setattr(tiling_module, "KEPT_BYTES", limit)
        flow = tiled(Flow(network), (40, 48), (20, 24), 8, (False, True))
        found.append((flow.velocity(x, 0.4), gradient(flow, x, repeats=3), flow.graph_bytes))
    kept, again = found
    torch.testing.assert_close(kept[0], again[0], rtol=0.0, atol=0.0)
    torch.testing.assert_close(kept[1], again[1])
    assert again[2] < kept[2]
    assert gradient(flow, x).isfinite().all()


def test_static_fields_are_cut_with_the_state() -> None:
    """Where each tile is the whole field but for its position, the fields belong to the places."""
    network = random_unet(static=True, periodic=(False, True))
    flow = Flow(network)
    parts = tiled(flow, (40, 48), (20, 24), 4, (False, True))
    x = torch.zeros(2, 2, 40, 48)
    places = parts.axes[0].indices[1], parts.axes[1].indices[-1]
    with torch.no_grad():
        seen = parts._cut(network.static[None])[2 * parts.axes[1].count - 1]
        assert (seen[0] == network.static[:, places[0]][:, :, places[1]]).all()
        b = parts.velocity(x, 0.5)
        assert b.shape == x.shape
        torch.testing.assert_close(b[0], b[1])
    constant = random_unet(static=True, periodic=(False, True))
    constant.static = torch.zeros_like(constant.static)
    assert (tiled(Flow(constant), (40, 48), 24, 4, (False, True)).velocity(x, 0.5) != b).any()


def test_a_view_shares_weights_and_wraps_only_where_it_should() -> None:
    network = random_unet(periodic=(True, True), patch=2)
    view = network.with_periodic((False, True))
    assert all(a is b for a, b in zip(network.parameters(), view.parameters(), strict=True))
    assert network.config.periodic == (True, True)
    assert network.stride == 4
    x = torch.randn(1, 2, 24, 24, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([0.5])

    def moved(network: UNet, dim: int) -> float:
        turned = network(x.roll(4, dim), t).roll(-4, dim)
        return float((turned - network(x, t)).abs().max())

    assert moved(network, 2) < 1e-5
    assert moved(view, 3) < 1e-5
    assert moved(view, 2) > 1e-3


# -- seams --------------------------------------------------------------------------------------
# The exact velocity of a Gaussian field on a ring, of long correlations. A tile's network is
# the exact one for what a tile can know, the marginal of the field; the rest is for the blending.

RING, PART, LENGTH = 96, 48, 3.0


def ring_covariance(places: Tensor) -> Tensor:
    away = (places[:, None] - places).abs().double()
    away = torch.minimum(away, RING - away)
    return 0.98 * torch.exp(-0.5 * (away / LENGTH) ** 2) + 0.02 * torch.eye(len(places))


class RingVelocity:
    """``(batch, 1, n)``, with n of the ring or of a tile."""

    def __init__(self) -> None:
        self.parts = {
            n: GaussianVelocity(torch.zeros(n).double(), ring_covariance(torch.arange(n)))
            for n in (RING, PART)
        }

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        return self.parts[x.shape[-1]](x[:, 0], t)[:, None]


class OnRing:
    """An evaluable for states ``(batch, n)`` from one for ``(batch, 1, n)``."""

    def __init__(self, flow: Any) -> None:
        self.flow = flow
        self.interpolant = flow.interpolant

    def evaluate(self, x: Tensor, t: float) -> Any:
        drift = self.flow.evaluate(x[:, None], t)
        return type(drift)(*(part[:, 0] for part in drift))


def seam_metric(covariance: Tensor, flow: TiledFlow) -> float:
    """Mean size of the jump across tile edges over the mean elsewhere, of a Gaussian: exact."""
    n = len(covariance)
    step = torch.eye(n).double().roll(1, 1) - torch.eye(n).double()
    jumps = (step @ covariance @ step.mT).diagonal().sqrt()  # from i to i + 1
    edges = torch.zeros(n, dtype=torch.bool)
    for place in flow.axes[0].indices:
        edges[(place[0] - 1) % n] = edges[place[-1]] = True
    return float(jumps[edges].mean() / jumps[~edges].mean())


def moments(flow: Any) -> tuple[Tensor, Tensor]:
    """Mean and covariance of what is sampled from noise: exact, the flow is affine."""
    kicks = [("guided", k) for k in range(12)]
    source = UnitNoise(RING, kicks)
    out = generate(OnRing(flow), source.start(), t_min=0.0, steps=12, noise=0.1, source=source)  # type: ignore[arg-type]
    zero, one = torch.zeros(RING).double(), torch.eye(RING).double()
    return source.moments(out, zero, one)


@pytest.mark.parametrize("overlap", [12, 24])
def test_seams_of_samples_do_not_show(overlap: int) -> None:
    flow = Flow(RingVelocity())
    _, whole = moments(flow)
    parts = tiled(flow, (RING,), PART, overlap, (True,))
    _, found = moments(parts)
    assert abs(seam_metric(found, parts) - 1.0) < 0.02
    assert relative(found, whole) < 0.01
    hard = tiled(flow, (RING,), PART, 0, (True,))
    assert seam_metric(moments(hard)[1], hard) > 1.1


def test_the_ring_is_closed() -> None:
    """The jump from the last point to the first is that of any other two, in tiles as without."""
    flow = tiled(Flow(RingVelocity()), (RING,), PART, 12, (True,))
    _, found = moments(flow)
    variance = found.diagonal()
    jump = variance + variance.roll(-1) - 2 * torch.diagonal(found.roll(-1, 1))
    assert abs(float(jump[-1] / jump.mean()) - 1.0) < 0.02
    # Tiles begin somewhere else when the field is turned; what comes out turns with it.
    x = normal((2, 1, RING), 3)
    turn = RING // flow.axes[0].count
    turned = flow.velocity(x.roll(turn, 2), 0.4).roll(-turn, 2)
    torch.testing.assert_close(turned, flow.velocity(x, 0.4))


@pytest.mark.parametrize("guidance", ["mmps", "dps-exact"])
def test_observations_that_straddle_tiles_count_once(guidance: str) -> None:
    """Means over points of two or three tiles: the answer is that of the whole field."""
    parts = tiled(Flow(RingVelocity()), (RING,), PART, 24, (True,))
    edges = [int(place[k]) for place in parts.axes[0].indices for k in (0, -1)]
    matrix = torch.stack(
        [selection([(e + k) % RING for k in range(-3, 4)], RING).mean(0) for e in edges]
    )
    errors = torch.full((len(edges),), 0.3).double()
    obs = PointObservations(matrix, 2.0 * normal((len(edges),), 4), errors)
    means, covariances = [], []
    for flow in (Flow(RingVelocity()), parts):
        guided = GuidedFlow(flow, obs, guidance=guidance, strength=0.5, iterations=len(edges))
        mean, covariance = moments(guided)
        means.append(mean)
        covariances.append(covariance)
    assert relative(means[1], means[0]) < 0.01
    assert relative(covariances[1], covariances[0]) < 0.01
    assert abs(seam_metric(covariances[1], parts) / seam_metric(covariances[0], parts) - 1) < 0.02


def test_the_analysis_in_tiles_is_the_kalman_answer() -> None:
    prior = torch.zeros(RING).double(), ring_covariance(torch.arange(RING))
    matrix = selection([5, 23, 47, 48, 70, 95], RING)
    errors = torch.full((6,), 0.3).double()
    obs = PointObservations(matrix, 2.0 * normal((6,), 4), errors)
    flow = tiled(Flow(RingVelocity()), (RING,), PART, 24, (True,))
    guided = OnRing(GuidedFlow(flow, obs, iterations=6))
    z = torch.cat([torch.zeros(1, RING), torch.eye(RING)]).double()
    out = generate(guided, z, t_min=0.0, steps=60)
    mean, covariance = kalman(*prior, matrix, obs.values, errors)
    assert relative(out[0], mean) < 0.01
    linear = (out[1:] - out[0]).mT
    assert relative(linear @ linear.mT, covariance) < 0.01


# -- analyses -----------------------------------------------------------------------------------


def grid(rows: int = 36, columns: int = 48, **attrs: Any) -> xr.Dataset:
    """One state of a globe of coarse points, two levels."""
    attrs = {"units": "K", "standard_name": "air_temperature", **attrs}
    latitude = np.linspace(87.5, 87.5 - 5.0 * (rows - 1), rows)
    coords = {
        "level": ("level", [850.0, 500.0], {"units": "hPa"}),
        "latitude": ("latitude", latitude, {"units": "degrees_north"}),
        "longitude": ("longitude", np.arange(columns) * 7.5, {"units": "degrees_east"}),
    }
    values = np.zeros((2, rows, columns))
    return xr.Dataset({"t": (("level", "latitude", "longitude"), values, attrs)}, coords=coords)


def prior_of(template: xr.Dataset, flow: Flow | None = None) -> FlowPrior:
    """Of local support, so that an analysis in tiles is the one without, to rounding."""
    spec = spec_from_dataset(template)
    network = (flow or convolutions(*spec.periodic)).network
    return FlowPrior(network, spec, Normalization(*np.full((2, 2, 1, 1), [[[[280.0]]], [[[5.0]]]])))


def forecast_on(template: xr.Dataset, members: int = 2, times: int = 3) -> xr.Dataset:
    when = np.datetime64("2019-03-01", "ns") + np.arange(times) * np.timedelta64(6, "h")
    ds = template.expand_dims(time=when, member=np.arange(members)).copy(deep=True)
    ds["t"] = ds.t + 280.0 + 5.0 * np.random.default_rng(3).standard_normal(ds.t.shape)
    return ds


def points(ds: xr.Dataset, n: int = 30, hours: int = 0) -> xr.Dataset:
    rng = np.random.default_rng(4)
    when = ds.time.values[rng.integers(0, ds.sizes["time"] - 1, n)] + np.timedelta64(hours, "h")
    south, north = float(ds.latitude.min()), float(ds.latitude.max())
    return xr.Dataset(
        {
            "t": ("obs", 280 + 5 * rng.standard_normal(n), {"units": "K"}),
            "t_error": ("obs", np.full(n, 0.5), {"units": "K"}),
        },
        coords={
            "time": ("obs", when),
            "level": ("obs", rng.choice([850.0, 500.0], n), {"units": "hPa"}),
            "latitude": ("obs", rng.uniform(south, north, n)),
            "longitude": ("obs", rng.uniform(0, 360, n)),
        },
    )


PRIOR = prior_of(grid())
FORECAST = forecast_on(grid())
OBS = points(FORECAST)
TILES: dict[str, Any] = {"tile": (24, 28), "overlap": 12}


def same(one: xr.Dataset, other: xr.Dataset) -> None:
    xr.testing.assert_allclose(one.drop_attrs(), other.drop_attrs(), rtol=1e-9)


@pytest.mark.parametrize("guidance", GUIDANCE)
def test_the_analysis_in_tiles_is_that_of_the_whole(guidance: Any) -> None:
    keywords: dict[str, Any] = {**QUICK, "guidance": guidance, "strength": 0.02}
    before = FORECAST.copy(deep=True)
    whole = assimilate(FORECAST, OBS, PRIOR, **keywords)
    found = assimilate(FORECAST, OBS, PRIOR, **TILES, **keywords)
    same(found, whole)
    unchanged(FORECAST, before)
    assert float(abs(found.t - FORECAST.t).max()) > 0.1


@pytest.mark.parametrize("chunks", [{"time": 1}, {"member": 1}, {"longitude": 10}])
def test_lazy_in_tiles(chunks: dict[str, int], raise_if_computes: Callable[..., Any]) -> None:
    eager = assimilate(FORECAST, OBS, PRIOR, **TILES, **QUICK)
    with raise_if_computes():
        lazy = assimilate(FORECAST.chunk(chunks), OBS, PRIOR, **TILES, **QUICK)
    same(lazy.compute(), eager)


def test_holes_and_trajectories_in_tiles() -> None:
    ds = FORECAST.copy(deep=True)
    ds["t"] = ds.t.where((ds.latitude < 40) | (ds.longitude > 60))
    obs = points(ds, hours=2)
    keywords: dict[str, Any] = {**QUICK, "time_interpolation": "linear"}
    whole = assimilate(ds, obs, PRIOR, **keywords)
    found = assimilate(ds, obs, PRIOR, **TILES, **keywords)
    same(found, whole)
    assert (found.t.isnull() == ds.t.isnull()).all()
    assert int((found.t != ds.t).any(["member", "level", "latitude", "longitude"]).sum()) > 1


def test_inversion_and_samples_in_tiles() -> None:
    same(invert(FORECAST, PRIOR, **TILES, **QUICK), invert(FORECAST, PRIOR, **QUICK))
    keywords: dict[str, Any] = {"members": 2, "steps": 3, "dtype": "float64", "device": "cpu"}
    found = sample(prior=PRIOR, **TILES, **keywords)
    same(found, sample(prior=PRIOR, **keywords))
    settings = json.loads(found.daisi_settings)
    assert (settings["tile"], settings["overlap"]) == ([24, 28], [12, 12])


def test_the_settings_are_recorded_and_repeat_the_call() -> None:
    found = assimilate(FORECAST, OBS, PRIOR, tile=24, **QUICK)
    settings = json.loads(found.daisi_settings)
    assert (settings["tile"], settings["overlap"]) == ([24, 24], [6, 6])
    again = assimilate(
        FORECAST, OBS, PRIOR, **{**QUICK, "tile": settings["tile"], "overlap": settings["overlap"]}
    )
    same(again, found)
    assert "tile" not in json.loads(assimilate(FORECAST, OBS, PRIOR, **QUICK).daisi_settings)
    assert json.loads(invert(FORECAST, PRIOR, tile=24, **QUICK).daisi_settings)["tile"] == [24, 24]


def test_a_dry_run_counts_the_graph_of_tiles() -> None:
    plan = assimilate(FORECAST, OBS, PRIOR, dry_run=True, **TILES, **QUICK)
    assert plan.memory_bytes > 0
    engine = Engine(PRIOR, Settings(), device="cpu", tiling=Tiling.of(24, 12, 2))
    assert isinstance(engine.device_and_flow()[1], TiledFlow)


def test_the_shipped_prior_in_tiles_is_as_good() -> None:
    """Its network looks further than any overlap here, and takes statistics over each tile."""
    prior = xr_daisi.load_prior("sqg64")
    truth = spun_up_states()[0]
    when = np.array(["2000-01-01"], dtype="datetime64[ns]")
    ensemble = initial_ensemble(torch.from_numpy(truth), prior, 2, 0).numpy()
    forecast = to_dataset(ensemble[None], dims=("time", "member"), times=when)
    obs = sparse_observations(to_dataset(truth[None], dims=("time",), times=when))
    keywords: dict[str, Any] = {"device": "cpu", "progress": False, "steps": 4}
    keywords |= {"t_min": 0.15, "solver": "heun", "guidance_iterations": 3}
    whole = assimilate(forecast, obs, prior, **keywords).theta
    found = assimilate(forecast, obs, prior, tile=48, overlap=16, **keywords).theta

    def rmse(theta: xr.DataArray) -> float:
        return float(((theta.mean("member") - truth) ** 2).mean() ** 0.5)

    def seam(theta: xr.DataArray, dim: str) -> float:
        jumps = abs(theta - theta.roll({dim: -1})).transpose(dim, ...).values
        jumps = jumps.reshape(len(jumps), -1).mean(1)
        edges = np.isin(np.arange(64), [15, 31, 47, 63])  # tiles from 0 to 47 and from 32 to 15
        return float(jumps[edges].mean() / jumps[~edges].mean())

    assert rmse(found) == pytest.approx(rmse(whole), rel=0.015)
    assert float(((found - whole) ** 2).mean() ** 0.5) < 0.07 * float(whole.std())
    for dim in ("y", "x"):
        assert seam(found, dim) == pytest.approx(seam(whole, dim), rel=0.02)


# -- other grids --------------------------------------------------------------------------------


def unet_prior(template: xr.Dataset, **more: Any) -> FlowPrior:
    spec = spec_from_dataset(template)
    network = random_unet(periodic=spec.periodic)
    norm = {"mean": np.full((2, 1, 1), 280.0), "std": np.full((2, 1, 1), 5.0), **more}
    return FlowPrior(network, spec, Normalization(**norm), card={"name": "small"})


SMALL = unet_prior(grid(16, 24).isel(longitude=slice(0, 20)))


def test_a_prior_on_a_larger_grid() -> None:
    forecast = forecast_on(grid(), times=2)
    large = SMALL.on_grid(forecast)
    assert large.spec.space_shape == (36, 48)
    assert large.spec.periodic == (False, True)
    assert SMALL.spec.periodic == (False, False)
    assert large.sha256 == SMALL.sha256 is not None
    assert large.name == SMALL.name
    assert SMALL.spec.space_shape == (16, 20)
    assert large.network.embed[0].weight is SMALL.network.embed[0].weight  # type: ignore[attr-defined]
    found = assimilate(forecast, points(forecast), large, tile=24, **QUICK)
    assert float(abs(found.t - forecast.t).max()) > 0.1
    assert found.daisi_prior_sha256 == SMALL.sha256
    assert large.on_grid(SMALL.template()).spec.periodic == (False, False)


def test_units_and_directions_on_another_grid() -> None:
    forecast = forecast_on(grid(), times=2)
    other = forecast.sortby("latitude").rename(t="temp")
    other["temp"] = (other.temp - 273.15).assign_attrs(
        units="degC", standard_name="air_temperature"
    )
    large, turned = SMALL.on_grid(forecast), SMALL.on_grid(other)
    assert turned.spec.variables == SMALL.spec.variables
    np.testing.assert_array_equal(turned.spec.coords["latitude"], large.spec.coords["latitude"])
    obs = points(forecast)
    found = assimilate(other, obs, turned, **QUICK).temp.sortby("latitude", ascending=False)
    wanted = assimilate(forecast, obs, large, **QUICK).t
    np.testing.assert_allclose(found + 273.15, wanted, rtol=1e-9)


def test_plain_dimensions_stay_periodic_unless_told() -> None:
    prior = xr_daisi.load_prior("sqg64")
    template = prior.template().isel(x=slice(0, 40))
    assert prior.on_grid(template).spec.periodic == (True, True)
    assert prior.on_grid(template, periodic="y").spec.periodic == (True, False)
    network: Any = prior.on_grid(template, periodic=()).network
    assert network.config.periodic == (False, False)
    with pytest.raises(StateError, match=r"periodic: found \['z'\]"):
        prior.on_grid(template, periodic=["z"])
    assert not prior.on_grid(template).holes.any()  # type: ignore[union-attr]


def test_another_spacing_is_said() -> None:
    coarse = grid().assign_coords(latitude=grid().latitude * 0.5)
    with pytest.warns(SpacingWarning, match="grid spacing along 'latitude': found 2.5 degrees_n"):
        SMALL.on_grid(coarse)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SMALL.on_grid(grid())


def test_priors_that_belong_to_their_points() -> None:
    template = grid(16, 20)
    per_point = unet_prior(template, mean=280 + np.arange(2 * 16 * 20).reshape(2, 16, 20))
    holes = np.zeros((2, 16, 20), dtype=bool)
    holes[:, :4] = True
    with_holes = unet_prior(template, holes=holes)
    spec = spec_from_dataset(grid(40, 48))
    network = random_unet(static=True, periodic=spec.periodic)
    with_static = FlowPrior(network, spec, Normalization(np.zeros((2, 1, 1)), np.ones((2, 1, 1))))
    for prior, message in (
        (per_point, 'normalisation for each grid point, .*normalization="variable"'),
        (with_holes, "holes in its own grid"),
        (with_static, "1 static fields on its own grid"),
    ):
        with pytest.raises(PriorError, match=message):
            prior.on_grid(grid())
    constant = unet_prior(template, mean=np.full((2, 16, 20), 280.0))
    assert constant.on_grid(grid()).normalization.mean.shape == (2, 1, 1)


def test_templates_that_do_not_fit() -> None:
    with pytest.raises(PriorError, match="forecast variables"):
        SMALL.on_grid(grid().rename(t="u").drop_attrs())
    with pytest.raises(StateError, match="level"):
        SMALL.on_grid(grid().isel(level=[0]))
    with pytest.raises(StateError, match="horizontal dimensions"):
        SMALL.on_grid(grid().isel(latitude=0))


def test_a_forecast_on_a_larger_grid_is_told_of_on_grid() -> None:
    forecast = forecast_on(grid(), times=1)
    with pytest.raises(StateError, match=r"select the prior's points.*prior\.on_grid\(forecast\)"):
        assimilate(forecast, OBS, SMALL)
    with pytest.raises(StateError, match=r"prior\.on_grid\(forecast\)"):
        invert(forecast, SMALL)
    # Not where the spacing is another, or nothing is known of the network.
    for ds, prior in (
        (forecast.isel(latitude=slice(None, None, 2)), SMALL),
        (forecast, prior_of(grid(16, 24))),
    ):
        with pytest.raises(StateError) as caught:
            assimilate(ds, OBS, prior)
        assert "on_grid" not in str(caught.value)


# -- command line -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_files(tmp_path_factory.mktemp("files"))


def test_tiles_on_the_command_line(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "analysis.nc"
    assert main(arguments(folder, out, "--tile", "5", "8", "--overlap", "2")) == 0
    with xr.open_dataset(out) as analysis:
        settings = json.loads(analysis.daisi_settings)
        assert (settings["tile"], settings["overlap"]) == ([5, 8], [2, 2])
        prior = xr_daisi.load_prior(folder / "prior.safetensors")
        with (
            xr.open_dataset(folder / "forecast.nc") as forecast,
            xr.open_dataset(folder / "obs.nc") as obs,
        ):
            wanted = assimilate(forecast, obs, prior, steps=2, device="cpu", tile=(5, 8), overlap=2)
        xr.testing.assert_equal(analysis.drop_attrs(), wanted.drop_attrs())


def test_another_grid_on_the_command_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with xr.open_dataset(folder / "forecast.nc") as ds:
        larger = ds.pad(longitude=(0, 6), mode="wrap")
        larger["longitude"] = ("longitude", -4.0 + np.arange(15.0), ds.longitude.attrs)
        larger.to_netcdf(tmp_path / "forecast.nc")
    (tmp_path / "obs.nc").write_bytes((folder / "obs.nc").read_bytes())
    named = str(folder / "prior.safetensors")
    before = everything(tmp_path)
    assert main(arguments(tmp_path, tmp_path / "a.nc", prior=named)) == 2
    assert "--on-grid" in capsys.readouterr().err
    assert everything(tmp_path) == before
    assert main(arguments(tmp_path, tmp_path / "a.nc", "--on-grid", prior=named)) == 0
    with xr.open_dataset(tmp_path / "a.nc") as analysis:
        assert analysis.sizes["longitude"] == 15
    paths = [str(tmp_path / name) for name in ("forecast.nc", "obs.nc", "b.nc")]
    assert main(["assimilate", *paths, "--on-grid"]) == 2
    assert "--on-grid: found no --prior" in capsys.readouterr().err
