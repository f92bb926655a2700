"""Domains with holes: carried exactly, without influence, and the same for all members."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from closed_form import GaussianVelocity, kalman, normal, relative, smooth_covariance
from labelled import LAT, LON, MEAN, QUICK, STD, TIMES, covariance, forecast, stations, template

from xr_daisi import FlowPrior, StateError, assimilate, invert, sample, train_prior
from xr_daisi.engine import Engine
from xr_daisi.errors import PriorError
from xr_daisi.flow import Flow
from xr_daisi.guidance import GuidedFlow
from xr_daisi.holes import MaskedFlow, MaskedNoise, fill_holes, share_of_holes
from xr_daisi.interpolation import Points
from xr_daisi.observation_batch import ObservationBatch
from xr_daisi.observation_holes import outside_holes
from xr_daisi.observation_layout import Status
from xr_daisi.operators import Group, Operator, StateLayout
from xr_daisi.sampling import NoiseSource, generate
from xr_daisi.state import Normalization

LAND = np.zeros((LAT.size, LON.size), dtype=bool)
LAND[:2, :2] = LAND[3, 4] = LAND[4, 4:] = True
WET = torch.from_numpy(~LAND.ravel())


class WetVelocity:
    """N(0, C) on the points outside holes; in holes whatever the network likes."""

    def __init__(self) -> None:
        c = covariance(LAT.size, LON.size)
        self.covariance = c[WET][:, WET]
        self.wet = GaussianVelocity(torch.zeros(len(self.covariance)).double(), self.covariance)

    def __call__(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(len(x), -1)
        out = 1e3 + 7.0 * flat
        out[:, WET] = self.wet(flat[:, WET], t)
        return out.reshape(x.shape)


VELOCITY = WetVelocity()


def prior_of(velocity: Any = VELOCITY) -> FlowPrior:
    return FlowPrior.from_velocity(velocity, template(), mean=MEAN, std=STD)


def masked(ds: xr.Dataset, land: np.ndarray = LAND) -> xr.Dataset:
    return ds.where(xr.DataArray(~land, dims=("latitude", "longitude"), coords=template().coords))


PRIOR = prior_of()
FORECAST = masked(forecast())
OBS = stations(n=30, seed=3)


# -- tensors --------------------------------------------------------------------------------------


def test_a_masked_flow_knows_nothing_of_holes() -> None:
    keep = torch.from_numpy(~LAND)[None]
    flow = MaskedFlow(Flow(VELOCITY), keep)
    x = normal((3, 1, *LAND.shape), 1)
    other = torch.where(keep, x, float("nan"))
    for t in (0.0, 0.3, 1.0):
        for name in ("velocity", "score", "denoise"):
            found = getattr(flow, name)(x, t)
            assert (found[:, ~keep] == 0.0).all()
            assert torch.equal(found, getattr(flow, name)(other, t))
            assert torch.equal(found[:, keep], getattr(Flow(VELOCITY), name)(x, t)[:, keep])


def test_masked_noise_is_the_same_noise_outside_holes() -> None:
    keep = torch.from_numpy(~LAND)[None]
    source = NoiseSource(3, "now", range(4))
    wanted = source.draw("initial", 2, keep.shape, dtype=torch.float64, device="cpu")
    found = MaskedNoise(source, keep).draw(
        "initial", 2, keep.shape, dtype=torch.float64, device="cpu"
    )
    assert torch.equal(found, torch.where(keep, wanted, 0.0))
    part = MaskedNoise(source, keep).select(slice(1, 3))
    part_noise = part.draw("initial", 2, keep.shape, dtype=torch.float64, device="cpu")
    assert torch.equal(part_noise, found[1:3])


class GridMean:
    """One observation of the sum of all points, holes included: a leak would show."""

    values = torch.tensor([30.0], dtype=torch.float64)
    error_std = torch.tensor([0.5], dtype=torch.float64)

    def observe(self, x: torch.Tensor, /) -> torch.Tensor:
        return x.flatten(1).sum(1, keepdim=True)


@pytest.mark.parametrize("guidance", ["mmps", "dps", "dps-normalized"])
def test_guidance_does_not_leak_into_holes(guidance: str) -> None:
    keep = torch.from_numpy(~LAND)[None]
    guided = GuidedFlow(MaskedFlow(Flow(VELOCITY), keep), GridMean(), guidance=guidance)
    x = normal((2, 1, *LAND.shape), 2)
    drift = guided.evaluate(x, 0.5)
    assert (drift.velocity[:, ~keep] == 0.0).all()
    assert (drift.score[:, ~keep] == 0.0).all()
    moved = torch.where(keep, x, 100.0)
    assert torch.equal(guided.evaluate(moved, 0.5).velocity, drift.velocity)
    source = MaskedNoise(NoiseSource(0, "", range(2)), keep)
    y = generate(guided, torch.where(keep, x, 0.0), t_min=0.2, steps=3, noise=0.1, source=source)
    assert (y[:, ~keep] == 0.0).all()


def test_filling() -> None:
    states = np.ones((2, 1, *LAND.shape), dtype=np.float32)
    filled = fill_holes(states, LAND[None], np.nan)
    assert filled.dtype == np.float32
    assert np.isnan(filled[:, 0, LAND]).all()
    assert (filled[:, 0, ~LAND] == 1.0).all()
    assert (states == 1.0).all()
    assert fill_holes(states, None, np.nan) is states
    assert share_of_holes(LAND) == f"{100 * LAND.mean():.0f} % holes"


# -- theory ---------------------------------------------------------------------------------------


def test_linear_guidance_is_kalman_on_the_points_outside_holes() -> None:
    """MMPS with a tiny noise level at the end: mean of many samples from scratch."""
    obs = xr.Dataset(
        {"t2m": ("obs", [284.0, 277.0, 282.0], {"units": "K"})},
        coords={
            "latitude": ("obs", LAT[[2, 3, 1]]),
            "longitude": ("obs", LON[[2, 1, 4]]),
        },
    )
    places = [2 * 6 + 2, 3 * 6 + 1, 1 * 6 + 4]
    wet_places = [int(WET[:p].sum()) for p in places]
    c = VELOCITY.covariance
    matrix = torch.eye(len(c), dtype=torch.float64)[wet_places]
    values = torch.tensor(obs.t2m.values - MEAN) / STD
    mean, spread = kalman(
        torch.zeros(len(c)).double(), c, matrix, values, torch.full((3,), 0.2).double()
    )
    ds = masked(forecast(times=TIMES[:1], members=400)).isel(time=0, drop=True)
    found = assimilate(
        ds,
        obs,
        PRIOR,
        t_min=0.0,
        obs_error=0.2 * STD,
        **{**QUICK, "steps": 30, "noise": 0.0, "guidance_iterations": 3},
    )
    normalised = (found.t2m.values.reshape(400, -1)[:, WET.numpy()] - MEAN) / STD
    error = np.abs(normalised.mean(axis=0) - mean.numpy())
    assert (error < 4.5 * np.sqrt(spread.diagonal().numpy() / 400) + 0.02).all()
    deviation = normalised.std(axis=0, ddof=1) / np.sqrt(spread.diagonal().numpy())
    assert np.abs(deviation - 1.0).mean() < 0.08


def test_there_and_back() -> None:
    quick = {**QUICK, "steps": 200}
    back = assimilate(FORECAST, OBS, PRIOR, guidance="none", noise=0.0, inverse_noise=0.0, **quick)
    xr.testing.assert_allclose(back.t2m, FORECAST.t2m, rtol=1e-5)
    assert (np.isnan(back.t2m) == np.isnan(FORECAST.t2m)).all()
    assert back.t2m.dtype == FORECAST.t2m.dtype


def test_the_analysis_is_that_of_a_prior_of_the_other_points_alone() -> None:
    """On a line: with the left half of the grid a hole, or with half a grid."""
    n, half = 12, 6
    c = smooth_covariance(n)[half:, half:]
    inner = GaussianVelocity(torch.zeros(half).double(), c)

    def outer(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return torch.cat([3.0 * x[..., :half] - 5.0, inner(x[..., half:], t)], dim=-1)

    line = xr.Dataset({"a": ("x", np.zeros(n))}, coords={"x": np.arange(float(n))})
    whole = FlowPrior.from_velocity(outer, line)
    part = FlowPrior.from_velocity(inner, line.isel(x=slice(half, None)))
    root = np.linalg.cholesky(c.numpy())
    members = np.random.default_rng(0).standard_normal((5, half)) @ root.T
    ds = line.isel(x=slice(half, None)).expand_dims(member=5).copy(deep=True)
    ds["a"] = (("member", "x"), members)
    obs = xr.Dataset({"a": ("obs", [1.0, -1.0])}, coords={"x": ("obs", [7.3, 10.0])})
    options = {**QUICK, "noise": 0.0, "inverse_noise": 0.0, "obs_error": 0.3}
    # The noise that "auto" takes is not the same for both grids.
    options |= {"t_min": 0.2, "bridge": "auto"}
    small = assimilate(ds, obs, part, **options)
    large = assimilate(ds.reindex(x=line.x), obs, whole, **options)
    assert np.isnan(large.a[:, :half]).all()
    np.testing.assert_allclose(large.a[:, half:], small.a, rtol=1e-12)
    assert relative(torch.from_numpy(small.a.values), torch.from_numpy(members)) > 0.05


# -- labelled -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_output_has_the_holes_and_what_stands_there_has_no_influence(dtype: Any) -> None:
    def other(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return torch.where(torch.from_numpy(~LAND), VELOCITY(x, t), float("inf"))

    ds = FORECAST.astype(dtype)
    before = ds.copy(deep=True)
    found = assimilate(ds, OBS, PRIOR, **QUICK)
    again = assimilate(ds, OBS, prior_of(other), **QUICK)
    assert found.t2m.dtype == dtype
    xr.testing.assert_identical(ds, before)
    assert (np.isnan(found.t2m.values) == np.broadcast_to(LAND, found.t2m.shape)).all()
    xr.testing.assert_equal(found, again)
    assert float(abs(found.t2m - ds.t2m).mean()) > 0.1


@pytest.mark.parametrize("background_check", [None, 50.0])
@pytest.mark.parametrize("chunks", [{"member": 1, "time": 1}, {"member": 3, "time": 2}])
def test_lazy_is_eager(chunks: Any, background_check: float | None, raise_if_computes: Any) -> None:
    wanted = assimilate(FORECAST, OBS, PRIOR, background_check=background_check, **QUICK)
    with raise_if_computes():
        lazy = assimilate(
            FORECAST.chunk(chunks), OBS, PRIOR, background_check=background_check, **QUICK
        )
    xr.testing.assert_allclose(lazy.compute().drop_attrs(), wanted.drop_attrs(), rtol=1e-12)
    part = lazy.isel(time=[2], member=[1]).compute()
    xr.testing.assert_allclose(part.drop_attrs(), wanted.isel(time=[2], member=[1]).drop_attrs())
    latent = invert(FORECAST.chunk(chunks), PRIOR, **QUICK).compute()
    expected = invert(FORECAST, PRIOR, **QUICK)
    xr.testing.assert_allclose(latent.drop_attrs(), expected.drop_attrs(), rtol=1e-12)
    assert (np.isnan(latent.t2m) == np.isnan(FORECAST.t2m)).all()


def test_batches_do_not_matter() -> None:
    one = assimilate(FORECAST, OBS, PRIOR, batch=1, **QUICK)
    xr.testing.assert_allclose(one, assimilate(FORECAST, OBS, PRIOR, batch=4, **QUICK), rtol=1e-12)


def test_variables_with_holes_of_their_own() -> None:
    """Sea temperature has holes on land, air temperature none; any order of dimensions."""
    both = xr.merge([template(), template(name="sst", standard_name="sea_surface_temperature")])
    c = torch.block_diag(*[covariance(LAT.size, LON.size)] * 2)
    wet = torch.cat([torch.ones(LAND.size, dtype=torch.bool), WET])
    c = torch.where(wet[:, None] & wet, c, torch.eye(len(c)).double())
    velocity = GaussianVelocity(torch.zeros(len(c)).double(), c)
    prior = FlowPrior.from_velocity(velocity, both, mean=MEAN, std=STD)
    assert prior.spec.names == ("t2m", "sst")
    ds = forecast().assign(sst=masked(forecast(seed=4)).t2m)
    obs = OBS.assign(sst=OBS.t2m, sst_error=OBS.t2m_error)
    found = assimilate(ds, obs, prior, **QUICK)
    assert np.isfinite(found.t2m).all()
    assert (np.isnan(found.sst) == np.isnan(ds.sst)).all()
    turned = ds.sortby("latitude").transpose("longitude", "member", "latitude", "time")
    again = assimilate(turned, obs, prior, **QUICK)
    xr.testing.assert_allclose(
        again.transpose(*found.dims).sortby("latitude"), found.sortby("latitude")
    )
    # Independent variables do not know of each other; DPS has no solver to couple them.
    quick = {**QUICK, "guidance": "dps-exact", "strength": 0.05, "t_min": 0.2}
    found = assimilate(ds, obs, prior, **quick)
    alone = assimilate(ds[["t2m"]], OBS, prior_of(velocity_of_t2m()), **quick)
    xr.testing.assert_allclose(found.t2m.drop_attrs(), alone.t2m.drop_attrs(), rtol=1e-9)


def velocity_of_t2m() -> GaussianVelocity:
    c = covariance(LAT.size, LON.size)
    return GaussianVelocity(torch.zeros(len(c)).double(), c)


def test_holes_are_no_divergence_and_not_far() -> None:
    engine = Engine(PRIOR, PRIOR.settings.updated({"steps": 2}), dtype="float64", device="cpu")
    states = FORECAST.t2m.values[0][:, None]
    assert not engine.is_far(states)
    assert engine.is_far(states + 1e4)
    assert np.isnan(engine.invert(states)[:, 0, LAND]).all()


# -- NaN that differs -----------------------------------------------------------------------------


def with_nan(ds: xr.Dataset, *places: tuple[int, ...]) -> xr.Dataset:
    ds = ds.copy(deep=True)
    for place in places:
        ds.t2m[place] = np.nan
    return ds


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (
            lambda ds: with_nan(ds, (1, 3, 2, 2), (1, 3, 2, 3)),
            r"'t2m': found 2 values that are NaN in member 3, but not in the other members, first "
            r"at time 2019-03-01T06:00:00, member 3, latitude=52, longitude=-1, expected NaN at "
            r"the same points.*drop_isel\(member=\[3\]\)",
        ),
        (
            lambda ds: with_nan(ds, (0, 0, 2, 2)).isel(time=[0]),
            r"found 1 values that are NaN in member 0, but not in the other members",
        ),
        (
            lambda ds: with_nan(ds, (0, 0, 2, 2)),
            r"found 1 values that are NaN in member 0, but not in the other members",
        ),
        (
            lambda ds: with_nan(ds, *((2, m, 2, 2) for m in range(4))),
            r"4 values that are NaN in all members at 2019-03-01T12:00:00, but not in the other "
            r"times, first at time 2019-03-01T12",
        ),
        (
            lambda ds: with_nan(ds, (1, 1, 2, 2), (2, 3, 2, 2)),
            r"2 values that are NaN in members 1, 3, but not in the other members, first at time "
            r"2019-03-01T06:00:00, member 1",
        ),
        (
            lambda ds: ds.fillna(ds.where(ds.member == 2, drop=True).isel(member=[0]) * 0 + 280),
            None,
        ),
        (
            lambda ds: ds.where(~((ds.member == 2) & np.isnan(ds.t2m)), 280.0),
            r"found \d+ values that are not NaN in member 2, as those in the other members are, "
            r"first at time 2019-03-01T00:00:00, member 2, latitude=54, longitude=-3.*mask them: "
            r"forecast\['t2m'\].where",
        ),
        (
            lambda ds: ds.where(ds.member != 1).assign_coords(member=[5, 6, 7, 8]),
            r"NaN in member 1 \(member=6\), but not in the other members",
        ),
        (lambda ds: ds.where(ds.t2m.isnull()), "no other on the whole grid, first at time"),
        (
            lambda ds: ds.isel(member=0).where(
                (ds.time != TIMES[1]) | (ds.latitude > 53), drop=False
            ),
            r"NaN in the state at 2019-03-01T06:00:00, but not in the other times",
        ),
    ],
)
def test_nan_that_differs(change: Any, found: str | None) -> None:
    ds = change(FORECAST)
    if found is None:
        assimilate(ds, OBS, PRIOR, **QUICK)
        return
    with pytest.raises(StateError, match=found):
        assimilate(ds, OBS, PRIOR, **QUICK)
    with pytest.raises(StateError, match=found):
        invert(ds, PRIOR, **QUICK)


def test_the_remedies_are_remedies() -> None:
    ds = with_nan(FORECAST, (1, 3, 2, 2))
    filled = ds.assign(t2m=ds["t2m"].fillna(ds["t2m"].mean(["time", "member"])))
    without = ds.drop_isel(member=[3])
    everywhere = ds.assign(t2m=ds["t2m"].where(ds["t2m"].notnull().all(["time", "member"])))
    for cured in (filled, without, everywhere):
        assimilate(cured, OBS, PRIOR, **QUICK)
    assert (np.isnan(filled.t2m) == np.isnan(FORECAST.t2m)).all()


def test_nan_that_differs_in_lazy_work(raise_if_computes: Any) -> None:
    ds = with_nan(FORECAST, (1, 3, 2, 2))
    with raise_if_computes():
        lazy = assimilate(ds.chunk(time=1, member=2), OBS, PRIOR, **QUICK)
    with pytest.raises(StateError, match=r"1 values that are NaN in member 3.*T06.*member 3, lat"):
        lazy.compute()
    lazy.isel(time=[0, 2]).compute()
    # Times of different blocks are compared as well.
    ds = with_nan(FORECAST, *((2, m, 2, 2) for m in range(4)))
    lazy = assimilate(ds.chunk(time=1), OBS, PRIOR, **QUICK)
    with pytest.raises(StateError, match=r"NaN in all members at 2019-03-01T12.*the other times"):
        lazy.compute()


def test_infinite_values_are_no_holes() -> None:
    ds = FORECAST.where(FORECAST.longitude < 2, np.inf)
    with pytest.raises(StateError, match="'t2m': found 60 values that are infinite"):
        assimilate(ds, OBS, PRIOR, **QUICK)


# -- priors that know their holes -----------------------------------------------------------------


def history(land: np.ndarray = LAND, states: int = 40) -> xr.Dataset:
    times = np.datetime64("2001-01-01", "ns") + np.arange(states) * np.timedelta64(6, "h")
    ds = forecast(times=times, members=1, dtype=np.float32).isel(member=0, drop=True)
    return masked(ds, land)


TRAIN: dict[str, Any] = {
    "steps": 4, "width": 8, "multipliers": (1, 2), "progress": False, "autocast": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def trained() -> FlowPrior:
    return train_prior(history(), normalization="point", **TRAIN)


@pytest.mark.parametrize("kind", ["variable", "point", "point-mean"])
def test_statistics_leave_holes_out(kind: str) -> None:
    ds = history()
    norm = train_prior(ds, normalization=kind, validation=0.0, **TRAIN).normalization
    x = ds.t2m.values[:, ~LAND]
    mean = np.broadcast_to(norm.mean, (1, *LAND.shape))[0]
    std = np.broadcast_to(norm.std, (1, *LAND.shape))[0]
    assert norm.holes is not None
    assert (norm.holes[0] == LAND).all()
    by_point = kind in ("point", "point-mean")
    wanted = x.mean(axis=0) if by_point else np.full(x.shape[1], x.mean())
    np.testing.assert_allclose(mean[~LAND], wanted, rtol=1e-6)
    spread = {
        "variable": x.std(),
        "point": x.std(axis=0),
        "point-mean": (x - x.mean(axis=0)).std(),
    }[kind]
    np.testing.assert_allclose(std[~LAND], np.broadcast_to(spread, x.shape[1:]), rtol=1e-5)
    assert np.isfinite(mean).all()


def test_loss_and_network_see_the_other_points_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Zeros go in, and what comes out in holes has no gradient."""
    from xr_daisi import networks

    seen, gradients = [], []
    forward = networks.UNet.forward

    def watched(self: Any, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        seen.append(x.detach().clone())
        out: torch.Tensor = forward(self, x, t)
        if out.requires_grad:
            out.register_hook(lambda g: gradients.append(g.clone()))
        return out

    monkeypatch.setattr(networks.UNet, "forward", watched)
    train_prior(history(), **TRAIN)
    assert all((x[:, 0, LAND] == 0.0).all() for x in seen)
    assert all((g[:, 0, LAND] == 0.0).all() and (g[:, 0, ~LAND] != 0.0).all() for g in gradients)
    assert len(gradients) == 4


def test_streamed_histories_have_the_same_holes(monkeypatch: pytest.MonkeyPatch) -> None:
    eager = train_prior(history(), **TRAIN).normalization
    monkeypatch.setattr("xr_daisi.streaming.History._fits", lambda *_: False)
    lazy = train_prior(history().chunk(time=7), **TRAIN).normalization
    np.testing.assert_array_equal(eager.holes, lazy.holes)
    np.testing.assert_allclose(eager.mean, lazy.mean, rtol=1e-7)
    np.testing.assert_allclose(eager.std, lazy.std, rtol=1e-6)


@pytest.mark.parametrize("chunks", [None, 7])
@pytest.mark.parametrize(
    ("change", "found"),
    [
        (
            lambda ds: with_nan(ds, (13, 2, 2), (13, 2, 3)),
            r"'t2m': found 2 values that are not finite, first at time=2001-01-04T06.*latitude=52",
        ),
        (
            lambda ds: ds.fillna(280.0).where(ds.time > ds.time[20], ds),
            r"found \d+ values that are not NaN, as they are at time=2001-01-01T00.*first at time="
            r"2001-01-06T06.*notnull\(\).all\(\['time'\]\)",
        ),
        (lambda ds: ds * np.nan, "found NaN everywhere at time=2001-01-01"),
    ],
)
def test_nan_that_comes_and_goes(change: Any, found: str, chunks: int | None) -> None:
    ds = change(history())
    with pytest.raises(StateError, match=found):
        train_prior(ds if chunks is None else ds.chunk(time=chunks), **TRAIN)


def test_nan_in_the_validation_period() -> None:
    with pytest.raises(StateError, match=r"1 values that are not finite, first at time=2001-01-10"):
        train_prior(with_nan(history(), (39, 2, 2)), **TRAIN)


def test_from_history_to_analysis(trained: FlowPrior, tmp_path: Path) -> None:
    share = f"{100 * LAND.mean():.0f} % holes"
    assert share in repr(trained)
    trained.save(tmp_path / "p.safetensors")
    prior = FlowPrior.load(tmp_path / "p.safetensors")
    assert prior.sha256 == trained.sha256
    assert prior.holes is not None
    np.testing.assert_array_equal(prior.holes[0], LAND)
    np.testing.assert_array_equal(np.isnan(prior.template().t2m), LAND)
    assert share in prior._repr_html_()
    quick = {**QUICK, "steps": 2}
    found = assimilate(FORECAST, OBS, prior, **quick)
    assert (np.isnan(found.t2m) == np.isnan(FORECAST.t2m)).all()
    lazy = assimilate(FORECAST.chunk(time=1, member=2), OBS, prior, **quick)
    xr.testing.assert_allclose(lazy.compute().drop_attrs(), found.drop_attrs(), rtol=1e-12)
    drawn = sample(prior=prior, members=3, **{k: v for k, v in quick.items() if k != "progress"})
    assert (np.isnan(drawn.t2m.values) == LAND).all()
    assert trained.with_settings(t_min=0.5).holes is trained.holes


@pytest.mark.parametrize("name", ["log1p", "log", "sqrt", "logit"])
@pytest.mark.filterwarnings("error")
def test_transforms_leave_holes_alone(name: str) -> None:
    share = 1e-3 if name == "logit" else 1.0
    prior = train_prior(history() * share, transform={"t2m": name}, **TRAIN)
    found = invert(FORECAST * share, prior, **{**QUICK, "steps": 1})
    assert (np.isnan(found.t2m) == np.isnan(FORECAST.t2m)).all()


def test_a_prior_without_holes_has_none(tmp_path: Path) -> None:
    prior = train_prior(history(np.zeros_like(LAND)), **TRAIN)
    assert prior.holes is not None
    assert not prior.holes.any()
    assert "holes" not in repr(prior)
    prior.save(tmp_path / "p.safetensors")
    again = FlowPrior.load(tmp_path / "p.safetensors")
    assert again.holes is not None
    assert not again.holes.any()
    assert PRIOR.holes is None
    # Every NaN is one too many then, even for a single state.
    one = with_nan(forecast(), (0, 0, 2, 2)).isel(time=0, member=0)
    with pytest.raises(StateError, match=r"1 values that are NaN, but not in the holes of prior"):
        invert(one, again, **QUICK)
    invert(with_nan(forecast(), (0, 0, 2, 2)).isel(time=0, member=0), PRIOR, **QUICK)


@pytest.mark.parametrize("chunks", [None, {"time": 1, "member": 1}])
def test_other_holes_than_the_priors(trained: FlowPrior, chunks: Any) -> None:
    other = LAND.copy()
    other[2, 2], other[0, 0], other[0, 1] = True, False, False
    ds = masked(forecast(), other)
    with pytest.raises(StateError) as error:
        assimilate(ds if chunks is None else ds.chunk(chunks), OBS, trained, **QUICK).compute()
    text = str(error.value)
    assert "2 problems" in text
    assert "values that are NaN, but not in the holes of prior 't2m', first at time" in text
    assert "values that are not NaN, as those in the holes of prior 't2m' are, first at" in text
    assert ".fillna(forecast['t2m'].mean()).where(prior.template()['t2m'].notnull())" in text
    prior = trained
    cured = ds.assign(
        t2m=ds["t2m"].fillna(ds["t2m"].mean()).where(prior.template()["t2m"].notnull())
    )
    assimilate(cured, OBS, trained, **{**QUICK, "steps": 1})


def test_continuing_needs_the_same_holes(trained: FlowPrior) -> None:
    again = train_prior(history(), init=trained, steps=2, progress=False, autocast=False)
    np.testing.assert_array_equal(again.holes, trained.holes)
    other = LAND.copy()
    other[2, 2], other[0, 0] = True, False
    expected = r"init: holes of 't2m': found 1 NaN points .* 1 of its \d+ holes with values"
    with pytest.raises(PriorError, match=expected):
        train_prior(history(other), init=trained, steps=2, progress=False)


def test_states_with_holes_are_not_shifted() -> None:
    with pytest.raises(StateError, match=r"holes .* vary along \['longitude'\]"):
        train_prior(history(), periodic=["longitude"], roll=["longitude"], **TRAIN)
    strip = np.zeros_like(LAND)
    strip[0] = True
    prior = train_prior(history(strip), periodic=["longitude"], roll=["longitude"], **TRAIN)
    assert prior.holes is not None
    assert prior.holes[0, 0].all()


# -- observations ---------------------------------------------------------------------------------


def batch_of(
    points: Points, *variables: str, channels: int = 1, levels: Any = None, function: Any = None
) -> ObservationBatch:
    n = len(points)
    layout = StateLayout({"a": (0, levels), "b": (channels, None)}, channels + 1, (2, 3))
    group = Group(Operator("a", "identity", variables, function), points)
    return ObservationBatch(np.zeros(n), np.ones(n), np.arange(n), (group,), layout)


def holes_at(*places: tuple[int, int, int], channels: int = 2) -> np.ndarray:
    holes = np.zeros((channels, 2, 3), dtype=bool)
    for place in places:
        holes[place] = True
    return holes


def four(*weights: tuple[float, float, float, float]) -> Points:
    """Observations in the first cell of a 2 x 3 grid."""
    index = np.repeat(np.array([[0], [1], [3], [4]]), len(weights), axis=1)
    return Points(index, np.array(weights).T)


def test_weights_of_holes_go_to_the_other_nodes() -> None:
    points = four(
        (0.4, 0.3, 0.2, 0.1), (0.1, 0.3, 0.2, 0.4), (0.0, 0.0, 0.0, 1.0), (0.6, 0.4, 0, 0)
    )
    found = outside_holes(batch_of(points, "a"), holes_at((0, 0, 0)))
    (group,) = found.groups
    assert [(rows.tolist(), status) for rows, status in found.rejected] == [([3], Status.HOLE)]
    np.testing.assert_allclose(
        group.points.weight,
        np.array([[0, 0.3, 0.2, 0.1], [0, 0.3, 0.2, 0.4], [0, 0, 0, 1]]).T
        / np.array([0.6, 0.9, 1.0]),
    )
    assert not (group.points.index == 0).any(), "not even with weight zero"
    np.testing.assert_allclose(group.points.weight.sum(axis=0), 1.0)
    # What is left is exact: NaN in the hole does not matter.
    state = torch.arange(12.0, dtype=torch.float64).reshape(1, 2, 2, 3)
    state[0, 0, 0, 0] = float("nan")
    y = found.to_tensors(None, "cpu", torch.float64).observe(state)
    np.testing.assert_allclose(y[0], [1.3 / 0.6, 2.5 / 0.9, 4.0])


def test_half_of_the_weight_is_too_little() -> None:
    points = four((0.25, 0.25, 0.25, 0.25), (0.24, 0.25, 0.25, 0.26))
    found = outside_holes(batch_of(points, "a"), holes_at((0, 0, 0), (0, 1, 0)))
    assert [rows.tolist() for rows, _ in found.rejected] == [[0]]


def test_the_variables_of_an_operator_decide() -> None:
    points = four((0.4, 0.3, 0.2, 0.1))
    holes = holes_at((1, 0, 0))
    assert outside_holes(batch_of(points, "a"), holes).groups[0].points.weight[0, 0] == 0.4
    for variables, function in ((("b",), None), (("a", "b"), None), ((), lambda s: s["a"])):
        batch = batch_of(points, *variables, function=function)
        assert outside_holes(batch, holes).groups[0].points.weight[0, 0] == 0.0


def test_no_holes_leave_the_batch_as_it_is() -> None:
    batch = batch_of(four((0.4, 0.3, 0.2, 0.1)), "a")
    assert outside_holes(batch, None) is batch
    assert outside_holes(batch, holes_at()) is batch


def test_below_the_ground() -> None:
    """Two levels, of which the lower is a hole at some points."""
    levels = (850.0, 500.0)
    level = np.array([[0, 0, 0], [1, 1, 1]])
    share = np.array([[0.3, 0.3, 0.7], [0.7, 0.7, 0.3]])
    points = four((0.4, 0.3, 0.2, 0.1), (0.1, 0.2, 0.3, 0.4), (0.4, 0.3, 0.2, 0.1))
    points = Points(points.index, points.weight, {levels: (level, share)})
    batch = batch_of(points, "a", channels=2, levels=levels)
    found = outside_holes(batch, holes_at((0, 0, 0), channels=3))
    (group,) = found.groups
    index, weights = group.points.vertical[levels]
    # The first loses the lower level (30 %) rather than the node (40 %); the second the node
    # (10 %) rather than the level (30 %); the third the node (40 %) rather than the level (70 %).
    np.testing.assert_allclose(weights[:, 0], [0.0, 1.0])
    np.testing.assert_allclose(group.points.weight[:, 0], [0.4, 0.3, 0.2, 0.1])
    np.testing.assert_allclose(weights[:, 1:], share[:, 1:])
    np.testing.assert_allclose(group.points.weight[0, 1:], 0.0)
    state = torch.ones(1, 3, 2, 3, dtype=torch.float64)
    state[0, 0, 0, 0] = float("nan")
    y = found.to_tensors(None, "cpu", torch.float64).observe(state)
    np.testing.assert_allclose(y, 1.0)
    assert (index[weights == 0.0] == 1).all()
    # A whole level below ground: what has most of its weight there is rejected.
    ground = holes_at(*((0, i, j) for i in range(2) for j in range(3)), channels=3)
    found = outside_holes(batch, ground)
    assert [rows.tolist() for rows, _ in found.rejected] == [[2]]


def test_observations_in_holes_change_nothing() -> None:
    """A station on land is left out; the others are as if it had not been there."""
    coast = stations(n=5, seed=8)
    inland = coast.isel(station=[0]).assign_coords(
        latitude=("station", [53.6]), longitude=("station", [-2.6])
    )
    both = xr.concat([coast, inland], "station")
    found = assimilate(FORECAST, both, PRIOR, **QUICK)
    xr.testing.assert_allclose(
        found.drop_attrs(), assimilate(FORECAST, coast, PRIOR, **QUICK).drop_attrs(), rtol=1e-12
    )
    with pytest.warns(UserWarning, match="hole"):
        alone = assimilate(FORECAST, inland, PRIOR, **QUICK)
    xr.testing.assert_equal(alone, FORECAST)


def test_normalisation_without_word_of_holes() -> None:
    assert Normalization(np.zeros((1, 1)), np.ones((1, 1))).holes is None


def test_observations_with_fewer_nodes_touch_no_hole() -> None:
    """Groups of different numbers of nodes are merged; the first point of the grid is a hole."""
    one = batch_of(Points(np.array([[4]]), np.ones((1, 1))), "a")
    two = batch_of(four((0.0, 0.5, 0.25, 0.25)), "a")
    batch = ObservationBatch(
        np.zeros(2), np.ones(2), np.arange(2), one.groups + two.groups, one.layout
    )
    found = outside_holes(batch, holes_at((0, 0, 0)))
    state = torch.ones(1, 2, 2, 3, dtype=torch.float64)
    state[0, 0, 0, 0] = float("nan")
    assert found.to_tensors(None, "cpu", torch.float64).observe(state).tolist() == [[1.0, 1.0]]
