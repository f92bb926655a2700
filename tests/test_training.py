"""Training: it learns, it can be interrupted, it says what is wrong before hours are spent."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from closed_form import smooth_covariance

import xr_daisi
from xr_daisi import trainer as trainer_module
from xr_daisi.errors import (
    DaisiTypeError,
    DivergenceError,
    PriorError,
    SettingsError,
    StateError,
)
from xr_daisi.networks import UNet, UNetConfig
from xr_daisi.priors import FlowPrior

TINY: dict[str, Any] = {"width": 8, "multipliers": (1, 2), "progress": False}


def gaussian(n: int = 16, states: int = 600, *, seed: int = 0, scale: float = 3.0) -> xr.Dataset:
    """States of a smooth Gaussian field on a ring, mean 280, variance scale^2."""
    root = torch.linalg.cholesky(smooth_covariance(n)).numpy()
    x = np.random.default_rng(seed).standard_normal((states, n)) @ root.T
    return xr.Dataset(
        {"t2m": (("time", "x"), (280.0 + scale * x).astype(np.float32), {"units": "K"})},
        coords={
            "time": pd.date_range("2001-01-01", periods=states, freq="6h"),
            "x": ("x", np.arange(n) * 10.0, {"units": "km"}),
        },
        attrs={"title": "a smooth Gaussian field", "history": "made up"},
    )


def two_dimensional(states: int = 40) -> xr.Dataset:
    """Two variables, one on levels, with latitude and longitude."""
    rng = np.random.default_rng(1)
    return xr.Dataset(
        {
            "tp": (
                ("time", "latitude", "longitude"),
                rng.gamma(0.5, 2.0, (states, 7, 9)),
                {"units": "mm", "standard_name": "precipitation_amount"},
            ),
            "t": (
                ("time", "level", "latitude", "longitude"),
                rng.normal(250.0, 10.0, (states, 2, 7, 9)),
                {"units": "K", "standard_name": "air_temperature"},
            ),
        },
        coords={
            "time": pd.date_range("2001-01-01", periods=states, freq="1D"),
            "level": ("level", [850.0, 500.0], {"units": "hPa"}),
            "latitude": ("latitude", np.linspace(60.0, 54.0, 7), {"units": "degrees_north"}),
            "longitude": ("longitude", np.arange(9.0), {"units": "degrees_east"}),
        },
    )


def train(ds: xr.Dataset, variables: Any = None, **options: Any) -> FlowPrior:
    tiny = {"progress": False} if "init" in options else TINY
    return xr_daisi.train_prior(ds, variables, **({"steps": 4, "autocast": False} | tiny | options))


def weights(prior: FlowPrior) -> dict[str, torch.Tensor]:
    assert isinstance(prior.network, UNet)
    return prior.network.state_dict()


def same_weights(one: FlowPrior, other: FlowPrior) -> bool:
    first, second = weights(one), weights(other)
    return all(torch.equal(first[k], second[k]) for k in first)


# -- it learns ------------------------------------------------------------------------------------


def minimum_loss(covariance: torch.Tensor) -> float:
    """Mean squared error per point that is left when the velocity is exact, mean over t.

    Given x_t, the target x1 - z has variance 1 / ((1 - t)^2 / c + t^2)... per eigenvalue c of the
    covariance: c / (t^2 c + (1 - t)^2).
    """
    c = torch.linalg.eigvalsh(covariance)
    t = (torch.arange(2000, dtype=torch.float64)[:, None] + 0.5) / 2000
    return float((c / (t**2 * c + (1 - t) ** 2)).mean())


@pytest.mark.slow
def test_training_approaches_the_closed_form_of_a_gaussian() -> None:
    prior = train(
        gaussian(states=4000),
        steps=500,
        periodic=["x"],
        roll=["x"],
        batch_size=64,
        width=16,
        learning_rate=3e-3,
        normalization="variable",
    )
    covariance = smooth_covariance(16)
    variance = float(covariance.diagonal().mean())
    covariance = covariance / variance
    least = minimum_loss(covariance)
    independent = minimum_loss(torch.eye(16, dtype=torch.float64))
    training = prior.card["training"]
    # An untrained network has the loss of independent points.
    assert training["losses"][0][2] > 0.8 * independent
    assert training["validation_loss"] < least + 0.08 * (independent - least)
    assert abs(training["loss"] - training["validation_loss"]) < 0.1 * least
    eye = torch.eye(16, dtype=torch.float64)
    flow = prior.flow(torch.device("cpu"), torch.float64)
    for t in (0.3, 0.6, 0.9):
        spread = t**2 * covariance + (1 - t) ** 2 * eye
        root = torch.linalg.cholesky(spread)
        z = torch.randn(200, 16, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
        x = z @ root.mT
        exact = x @ torch.linalg.solve(spread, t * covariance - (1 - t) * eye)
        found = flow.velocity(x[:, None], t)[:, 0]
        assert (found - exact).norm() < 0.25 * exact.norm()


def test_minimum_loss_of_independent_points_is_that_of_the_untrained_network() -> None:
    """For white noise there is nothing to learn: the loss starts at its minimum, pi / 2."""
    rng = np.random.default_rng(0)
    noise = xr.Dataset({"a": (("time", "x"), rng.standard_normal((2000, 16)))})
    prior = train(noise, steps=40, batch_size=64, learning_rate=1e-9, patience=None)
    expected = minimum_loss(torch.eye(16, dtype=torch.float64))
    assert expected == pytest.approx(math.pi / 2, rel=1e-4)
    assert prior.card["training"]["validation_loss"] == pytest.approx(expected, rel=0.03)
    assert prior.card["training"]["loss"] == pytest.approx(expected, rel=0.03)


def test_a_short_training_lowers_the_loss() -> None:
    prior = train(gaussian(), steps=60, batch_size=32, learning_rate=3e-3, periodic=["x"])
    losses = prior.card["training"]["losses"]
    assert losses[-1][2] < 0.8 * losses[0][2]


# -- what is trained on ---------------------------------------------------------------------------


def test_the_last_part_of_the_period_validates() -> None:
    ds = gaussian(states=100)
    training = train(ds, validation=0.2).card["training"]
    assert training["states"] == 80
    assert training["validation_states"] == 20
    assert training["period"] == ["2001-01-01T00:00:00", "2001-01-20T18:00:00"]
    assert training["validation_period"] == ["2001-01-21T00:00:00", "2001-01-25T18:00:00"]
    # What is held out has no influence on weights before the first validation, nor on statistics.
    other = ds.copy(deep=True)
    other.t2m[80:] += 5.0
    one, two = train(ds, validation=0.2, steps=1), train(other, validation=0.2, steps=1)
    np.testing.assert_array_equal(one.normalization.mean, two.normalization.mean)
    assert same_weights(one, two)
    assert one.card["training"]["validation_loss"] != two.card["training"]["validation_loss"]


def test_without_validation_the_last_weights_are_kept() -> None:
    training = train(gaussian(states=40), validation=0.0, steps=3).card["training"]
    assert training["validation_loss"] is None
    assert training["validation_period"] is None
    assert training["best_step"] == training["steps"] == 3
    assert all(len(entry) == 2 for entry in training["losses"])


def test_lazy_and_loaded_histories_train_alike(tmp_path: Path) -> None:
    ds = two_dimensional()
    ds.to_netcdf(tmp_path / "h.nc")
    with xr.open_dataset(tmp_path / "h.nc", chunks={"time": 100}) as lazy:
        assert same_weights(train(ds), train(lazy))
    with xr.open_dataset(tmp_path / "h.nc") as opened:
        assert same_weights(train(ds), train(opened))


def test_inputs_are_not_modified() -> None:
    ds = two_dimensional()
    before = ds.copy(deep=True)
    static = ds[["tp"]].isel(time=0, drop=True)
    static_before = static.copy(deep=True)
    train(ds, transform={"tp": "log1p"}, static=static)
    xr.testing.assert_identical(ds, before)
    xr.testing.assert_identical(static, static_before)


def test_torchs_own_random_numbers_are_left_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train(gaussian(states=40), dropout=0.1)
    assert torch.equal(torch.rand(3), expected)


def test_the_seed_decides() -> None:
    ds = gaussian(states=40)
    first = train(ds)
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002  what a user's script may have done
    assert same_weights(first, train(ds))
    assert not same_weights(first, train(ds, seed=1))


def test_several_variables_with_levels_and_transform() -> None:
    ds = two_dimensional()
    prior = train(ds, ["t", "tp"], transform={"tp": "log1p"})
    assert prior.spec.names == ("t", "tp")
    assert prior.spec.shape == (3, 7, 9)
    assert prior.spec.variable("t").levels == (850.0, 500.0)
    assert prior.normalization.transforms == (None, None, "log1p")
    rain = np.log1p(ds.tp.values[:34].astype(np.float32))
    np.testing.assert_allclose(prior.normalization.mean.ravel()[2], rain.mean(), rtol=1e-5)
    np.testing.assert_allclose(prior.normalization.std.ravel()[2], rain.std(), rtol=1e-5)


@pytest.mark.parametrize(
    ("kind", "shapes"),
    [
        ("variable", ((3, 1, 1), (3, 1, 1))),
        ("point", ((3, 7, 9), (3, 7, 9))),
        ("point-mean", ((3, 7, 9), (3, 1, 1))),
    ],
)
def test_kinds_of_normalisation(kind: str, shapes: tuple[tuple[int, ...], ...]) -> None:
    prior = train(two_dimensional(), normalization=kind)
    assert prior.card["normalization"] == kind
    assert (prior.normalization.mean.shape, prior.normalization.std.shape) == shapes


def test_a_variable_that_never_varies() -> None:
    ds = gaussian(states=40)
    ds["t2m"] = ds.t2m * 0.0
    with pytest.raises(PriorError, match="standard deviations that are zero"):
        train(ds)


def test_static_fields_become_part_of_the_prior(tmp_path: Path) -> None:
    ds = two_dimensional()
    static = xr.Dataset({"land": (("latitude", "longitude"), np.eye(7, 9))}, coords=ds.coords)
    static = static.drop_vars(["time", "level"])
    prior = train(ds, static=static)
    assert isinstance(prior.network, UNet)
    assert prior.network.config.static_channels == 1
    prior.save(tmp_path / "p.safetensors")
    again = FlowPrior.load(tmp_path / "p.safetensors")
    assert torch.equal(weights(again)["static"], weights(prior)["static"])
    assert not same_weights(prior, train(ds, static=1.0 - 2.0 * static.isel(latitude=0)))


def test_periodic_dimensions_and_global_longitudes() -> None:
    ds = gaussian(states=40)
    assert train(ds).spec.periodic == (False,)
    assert train(ds, periodic="x").spec.periodic == (True,)
    globe = two_dimensional()
    globe = globe.assign_coords(longitude=np.arange(9) * 40.0)
    prior = train(globe)
    assert prior.spec.periodic == (False, True)
    assert isinstance(prior.network, UNet)
    assert prior.network.config.periodic == (False, True)


def test_rolled_states_share_their_statistics() -> None:
    ds = gaussian(states=40)
    ds["t2m"] = ds.t2m + xr.DataArray(np.arange(16.0), dims="x")
    kept = train(ds, periodic="x", normalization="point").normalization
    rolled = train(ds, periodic="x", roll="x", normalization="point").normalization
    assert np.ptp(kept.mean) > 5.0
    assert np.ptp(rolled.mean) == 0.0
    part = ds.t2m.values[:34]
    np.testing.assert_allclose(rolled.std[0], np.full(16, part.std()), rtol=1e-5)


def test_rolling_keeps_states_whole() -> None:
    """Every state is shifted as a whole, by its own random amount."""
    ds = gaussian(states=40)
    seen: list[torch.Tensor] = []
    original = trainer_module.Trainer._shifted

    def watch(self: Any, x: torch.Tensor) -> torch.Tensor:
        out = original(self, x)
        for before, after in zip(x, out, strict=True):
            shifts = [k for k in range(16) if torch.equal(before.roll(k, -1), after)]
            assert len(shifts) == 1
            seen.append(torch.tensor(shifts[0]))
        return out

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer_module.Trainer, "_shifted", watch)
        train(ds, periodic="x", roll="x", steps=6)
    assert len({int(s) for s in seen}) > 4


# -- budget, patience, arithmetic, progress -------------------------------------------------------


def test_early_stopping_keeps_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    """A validation loss that rises after the third validation."""
    kept: list[dict[str, torch.Tensor]] = []
    original = trainer_module.Trainer._validate
    losses = itertools.chain([3.0, 2.0, 1.0], itertools.count(2.0))

    def validate(self: Any, batches: Any) -> None:
        loss = next(losses)
        monkeypatch.setattr(self, "_loss", lambda *_: torch.tensor(loss))
        original(self, batches)
        monkeypatch.undo()
        monkeypatch.setattr(trainer_module.Trainer, "_validate", validate)
        kept.append({k: v.clone() for k, v in self.average.state_dict().items()})

    monkeypatch.setattr(trainer_module.Trainer, "_validate", validate)
    prior = train(gaussian(states=60), steps=400, patience=4, learning_rate=1e-2)
    training = prior.card["training"]
    assert training["stopped_by"] == "no improvement"
    assert len(training["losses"]) == 3 + 4
    assert training["validation_loss"] == 1.0
    assert training["best_step"] == training["losses"][2][0] < training["steps"] < 400
    assert all(torch.equal(v, kept[2][k]) for k, v in weights(prior).items())
    assert not all(torch.equal(v, kept[-1][k]) for k, v in weights(prior).items())


def test_a_budget_in_minutes_ends_in_time() -> None:
    options = {"max_minutes": 0.03, "steps": None, "patience": None}
    training = train(gaussian(), **options).card["training"]
    assert training["stopped_by"] == "budget"
    assert training["steps"] > 0
    assert training["minutes"] >= 0.029


def test_the_shorter_budget_counts() -> None:
    assert train(gaussian(), max_minutes=60.0, steps=3).card["training"]["steps"] == 3
    budget = trainer_module.Budget(10, 1.0)
    assert budget.fraction(5, 15.0) == 0.5
    assert budget.fraction(1, 45.0) == 0.75
    assert budget.fraction(100, 0.0) == 1.0
    assert trainer_module.Budget().fraction(2000, 1e9) == 0.5


def test_learning_rate_rises_then_falls(monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    original = trainer_module.Trainer._step

    def step(self: Any, x: Any, fraction: float) -> float:
        loss = original(self, x, fraction)
        rates.append(self.optimizer.param_groups[0]["lr"])
        return loss

    monkeypatch.setattr(trainer_module.Trainer, "_step", step)
    train(gaussian(states=60), steps=40, warmup=0.2, learning_rate=1e-2, patience=None)
    top = int(np.argmax(rates))
    assert top == 8
    assert rates[top] == pytest.approx(1e-2, rel=0.02)
    assert rates[0] < 1e-3
    assert (np.diff(rates[:top]) > 0).all()
    assert (np.diff(rates[top:]) < 0).all()
    assert rates[-1] < 1e-3


def test_bfloat16_on_and_off() -> None:
    ds = gaussian(states=60)
    exact, rough = train(ds, autocast=False), train(ds, autocast=True)
    assert exact.card["training"]["autocast"] is None
    assert rough.card["training"]["autocast"] == "bfloat16"
    assert not same_weights(exact, rough)
    assert all(v.dtype == torch.float32 for v in weights(rough).values())
    assert rough.card["training"]["loss"] == pytest.approx(exact.card["training"]["loss"], rel=0.05)


def test_gradients_are_clipped(monkeypatch: pytest.MonkeyPatch) -> None:
    norms: list[float] = []
    original = torch.optim.AdamW.step

    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        grads = [p.grad for g in self.param_groups for p in g["params"] if p.grad is not None]
        norms.append(float(torch.stack([g.norm() for g in grads]).norm()))
        return original(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    train(gaussian(states=60), clip=1e-3)
    assert max(norms) <= 1.001e-3


def test_a_loss_that_explodes_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        trainer_module.Trainer, "_loss", lambda *_: torch.tensor(math.nan, requires_grad=True)
    )
    with pytest.raises(DivergenceError, match=r"training loss: found nan at step 0.*learning_rate"):
        train(gaussian(states=60))


def test_progress_shows_both_losses(capsys: pytest.CaptureFixture[str]) -> None:
    train(gaussian(states=60), steps=20, progress=True, patience=None)
    shown = capsys.readouterr().err
    assert "training" in shown
    assert "100%" in shown
    assert "loss=" in shown
    assert "validation=" in shown


# -- interruption ---------------------------------------------------------------------------------


class Interrupted(Exception):
    pass


def interrupt(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Let a training die after some steps; every step is followed by a checkpoint."""
    original = trainer_module.Trainer._step
    monkeypatch.setattr(trainer_module, "CHECKPOINT_SECONDS", -1.0)

    def step(self: Any, x: Any, fraction: float) -> float:
        if self.progress.step == after:
            raise Interrupted
        return original(self, x, fraction)

    monkeypatch.setattr(trainer_module.Trainer, "_step", step)


@pytest.mark.parametrize("after", [1, 7, 18])
@pytest.mark.parametrize("kind", ["plain", "rolled, dropout, lazy"])
def test_an_interrupted_training_goes_on_as_if_nothing_had_been(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int, kind: str
) -> None:
    ds = gaussian(states=80)
    options: dict[str, Any] = {"steps": 20, "batch_size": 8, "patience": None}
    if kind != "plain":
        ds = ds.chunk(time=9)
        options |= {"periodic": "x", "roll": "x", "dropout": 0.2}
    file = tmp_path / "deep" / "training.checkpoint"
    with monkeypatch.context() as patch:
        interrupt(patch, after)
        with pytest.raises(Interrupted):
            train(ds, checkpoint=file, **options)
    assert list(file.parent.iterdir()) == [file]
    steps: list[int] = []
    original = trainer_module.Trainer._step

    def counted(self: Any, x: Any, fraction: float) -> float:
        steps.append(self.progress.step)
        return original(self, x, fraction)

    with monkeypatch.context() as patch:
        patch.setattr(trainer_module.Trainer, "_step", counted)
        resumed = train(ds, checkpoint=file, **options)
    assert steps == list(range(after, 20))
    assert not file.exists(), "removed when complete"
    whole = train(ds, **options)
    assert same_weights(resumed, whole)
    one, two = resumed.card["training"], whole.card["training"]
    assert {k: v for k, v in one.items() if k != "minutes"} == {
        k: v for k, v in two.items() if k != "minutes"
    }


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The checkpoint of a training of `gaussian(states=60)` that died after five steps."""
    file = tmp_path / "training.checkpoint"
    with monkeypatch.context() as patch:
        interrupt(patch, 5)
        with pytest.raises(Interrupted):
            train(gaussian(states=60), steps=10, checkpoint=file)
    return file


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"steps": 11}, "steps"),
        ({"seed": 1}, "seed"),
        ({"width": 16}, "network"),
        ({"batch_size": 5}, "batch_size"),
        ({"learning_rate": 1e-4}, "optimiser"),
        ({"validation": 0.4}, "train"),
        ({"ds": gaussian(states=60, seed=3)}, "data"),
        ({"ds": gaussian(states=60).assign_coords(x=np.arange(16) * 20.0)}, "state"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_checkpoint_of_another_training(
    checkpoint: Path, change: dict[str, Any], named: str
) -> None:
    options = {"ds": gaussian(states=60), "steps": 10, "checkpoint": checkpoint} | change
    ds = options.pop("ds")
    with pytest.raises(
        SettingsError, match=rf"checkpoint .*with another .*{named}.*delete the file, or name"
    ):
        train(ds, **options)
    assert checkpoint.exists()


def test_the_checkpoint_of_other_static_fields(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "training.checkpoint"
    ds = gaussian(states=60)
    static = xr.Dataset({"mask": ("x", np.arange(16.0))})
    with monkeypatch.context() as patch:
        interrupt(patch, 2)
        with pytest.raises(Interrupted):
            train(ds.drop_vars("x"), static=static, checkpoint=file)
    with pytest.raises(SettingsError, match="with another static fields"):
        train(ds.drop_vars("x"), static=static**2, checkpoint=file)


@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "foreign", "directory"])
def test_damaged_checkpoints(checkpoint: Path, damage: str) -> None:
    content = checkpoint.read_bytes()
    checkpoint.unlink()
    if damage == "directory":
        checkpoint.mkdir()
    elif damage == "foreign":
        from safetensors.torch import save_file

        save_file({"a": torch.zeros(1)}, checkpoint)
    else:
        changed = {"truncated": content[: len(content) // 2], "empty": b"", "text": b"hello" * 9}
        checkpoint.write_bytes(changed[damage])
    with pytest.raises(SettingsError, match=r"no readable checkpoint \(.*delete the file"):
        train(gaussian(states=60), steps=10, checkpoint=checkpoint)
    assert checkpoint.exists()


def test_a_checkpoint_that_cannot_be_written_does_not_end_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import safetensors.torch

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    monkeypatch.setattr(trainer_module, "CHECKPOINT_SECONDS", -1.0)
    file = tmp_path / "training.checkpoint"
    with pytest.warns(RuntimeWarning, match="No space left on device.*the training goes on"):
        prior = train(gaussian(states=60), steps=3, checkpoint=file)
    assert prior.card["training"]["steps"] == 3
    assert list(tmp_path.iterdir()) == []


# -- continuing a prior ---------------------------------------------------------------------------


def test_init_continues(tmp_path: Path) -> None:
    ds = two_dimensional()
    static = ds[["tp"]].isel(time=0, drop=True)
    first = train(
        ds,
        ["tp", "t"],
        transform={"tp": "log1p"},
        static=static,
        normalization="point-mean",
        periodic="longitude",
        settings={"t_min": 0.1},
    )
    more = ds.assign_coords(time=ds.time + np.timedelta64(400, "D"))
    before = {k: v.clone() for k, v in weights(first).items()}
    second = train(more, init=first, learning_rate=1e-12, steps=1)
    for name, kept in before.items():  # a negligible learning rate
        torch.testing.assert_close(weights(second)[name], kept, atol=1e-9, rtol=1e-6)
    assert all(torch.equal(v, before[k]) for k, v in weights(first).items())
    assert second.normalization is first.normalization
    assert second.normalization.transforms == ("log1p", None, None)
    assert second.spec.periodic == (False, True)
    assert second.settings.t_min == 0.1
    assert second.card["normalization"] == "point-mean"
    assert second.card["training"]["initial_prior"] == first.sha256
    third = train(more, init=first, settings={"steps": 7})
    assert not same_weights(first, third)
    assert (third.settings.t_min, third.settings.steps) == (0.1, 7)
    file = tmp_path / "first.safetensors"
    first.save(file)
    assert same_weights(third, train(more, init=file))
    assert same_weights(third, train(more, init=str(file)))
    # What agrees with the prior may be said again.
    again = {"width": 8, "multipliers": [1, 2], "normalization": "point-mean"}
    assert same_weights(third, train(more, init=first, transform={"tp": "log1p"}, **again))


def test_init_keeps_its_interpolant() -> None:
    ds = gaussian(states=40)
    plain = train(ds)
    torch.manual_seed(0)
    config = UNetConfig(channels=1, periodic=(False,), width=8, interpolant="trig")
    first = FlowPrior(UNet(config), plain.spec, plain.normalization, interpolant="trig")
    assert train(ds, init=first).interpolant == "trig"


def test_init_starts_better_than_nothing() -> None:
    ds = gaussian()
    first = train(ds, steps=60, batch_size=32, learning_rate=3e-3)
    second = train(ds, init=first, steps=2, learning_rate=1e-5)
    fresh = train(ds, steps=2, learning_rate=1e-5)
    one, two = (p.card["training"]["losses"][0][2] for p in (second, fresh))
    assert one < 0.8 * two


@pytest.mark.parametrize(
    ("change", "options", "kind", "found"),
    [
        (lambda ds: ds.rename(t2m="t"), {}, StateError, "t2m"),
        (lambda ds: ds.isel(x=slice(8)), {}, PriorError, r"init: shape: found \(1, 8\)"),
        (
            lambda ds: ds.assign_coords(x=ds.x + 5.0),
            {},
            PriorError,
            "init: coordinate 'x': found 5 to 155 in the history, expected 0 to 150",
        ),
        (lambda ds: ds.rename(x="y"), {}, PriorError, "init: dimensions"),
        (
            lambda ds: ds.assign(t2m=ds.t2m.assign_attrs(units="degC")),
            {},
            PriorError,
            "units of 't2m': found degC in the history, expected K",
        ),
        (None, {"periodic": ["x"]}, PriorError, "init: periodic"),
        (None, {"width": 16}, SettingsError, "width: found 16, expected 8, as 't2m' of init"),
        (None, {"multipliers": (1,)}, SettingsError, r"multipliers: found \(1,\), expected \(1, 2"),
        (None, {"normalization": "point"}, SettingsError, "normalization: found 'point', expected"),
        (None, {"dropout": 0.1}, SettingsError, "dropout: found 0.1, expected 0.0"),
        (None, {"static": xr.Dataset()}, SettingsError, "static: found fields, expected those"),
        (None, {"transform": {"t2m": "log"}}, SettingsError, "transform: found {'t2m': 'log'}"),
        (None, {"init": 3.0}, DaisiTypeError, "init: found float, expected a FlowPrior"),
        (None, {"init": "nowhere.safetensors"}, PriorError, "no file 'nowhere.safetensors'"),
    ],
)
def test_init_that_does_not_fit(
    change: Any, options: dict[str, Any], kind: type[Exception], found: str
) -> None:
    ds = gaussian(states=40)
    first = train(ds, steps=1)
    changed = change(ds) if change else ds
    with pytest.raises(kind, match=found):
        xr_daisi.train_prior(changed, **({"init": first, "steps": 1, "progress": False} | options))


def test_init_with_a_network_of_the_users_own() -> None:
    ds = gaussian(states=40)
    own = FlowPrior.from_velocity(lambda x, t: -x, ds.isel(time=0))
    with pytest.raises(PriorError, match="init: found a prior with a network of its own"):
        xr_daisi.train_prior(ds, init=own)


# -- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"validation": 1.0}, r"validation: found 1.0, expected a share in \[0, 1\)"),
        ({"validation": "a"}, "validation: found 'a'"),
        ({"steps": 0}, "steps: found 0"),
        ({"steps": 2.5}, "steps: found 2.5"),
        ({"max_minutes": 0}, "max_minutes: found 0"),
        ({"max_minutes": math.inf}, "max_minutes: found inf"),
        ({"batch_size": 0}, "batch_size: found 0"),
        ({"seed": -1}, "seed: found -1"),
        ({"normalization": "none"}, "normalization: found 'none', expected one of variable, point"),
        ({"learning_rate": 0.0}, "learning_rate: found 0.0"),
        ({"learning_rate": math.nan}, "learning_rate: found nan"),
        ({"warmup": 1.0}, "warmup: found 1.0"),
        ({"weight_decay": -1.0}, "weight_decay: found -1.0"),
        ({"ema": 1.0}, "ema: found 1.0"),
        ({"clip": 0.0}, "clip: found 0.0"),
        ({"patience": 0}, "patience: found 0"),
        ({"width": 12}, "width: found 12, expected a positive multiple of 8"),
        ({"width": 0}, "width: found 0"),
        ({"multipliers": ()}, "multipliers: found"),
        ({"blocks": 0}, "blocks: found 0"),
        ({"patch": 0}, "patch: found 0"),
        ({"dropout": 1.5}, "dropout: found 1.5"),
        ({"transform": {"q": "log"}}, "transform: found variable 'q', expected one of t2m"),
        ({"transform": {"t2m": "cube"}}, "transform of 't2m': found 'cube', expected one of log"),
        ({"roll": ["x"]}, r"roll: found \['x'\], expected periodic dimensions"),
        ({"device": "gpu"}, "device: found 'gpu'"),
        ({"settings": {"t_min": 2.0}}, "t_min: found 2.0"),
        ({"settings": {"tmin": 0.2}}, "settings: found tmin"),
    ],
    ids=str,
)
def test_options_out_of_range_are_found_before_any_work(
    options: dict[str, Any], found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from xr_daisi.streaming import History

    def read(*_: Any) -> None:
        raise AssertionError("nothing may be read")

    monkeypatch.setattr(History, "read", read)
    with pytest.raises(SettingsError, match=found):
        train(gaussian(states=40), **options)


def test_all_options_out_of_range_at_once() -> None:
    with pytest.raises(SettingsError, match="3 problems") as error:
        train(gaussian(states=40), steps=0, ema=2.0, clip=-1.0)
    assert all(name in str(error.value) for name in ("steps", "ema", "clip"))


@pytest.mark.parametrize(
    ("change", "options", "found"),
    [
        (lambda ds: ds.isel(time=0), {}, "history: found dimensions"),
        (lambda ds: ds.isel(time=slice(2)), {}, "history: found 2 states along 'time'"),
        (lambda ds: ds.isel(time=slice(1)), {}, "history: found 1 states along 'time'"),
        (lambda ds: ds, {"variables": ["t"]}, "found t2m, expected t"),
        (lambda ds: ds, {"periodic": ["lon"]}, r"periodic: found \['lon'\]"),
        (
            lambda ds: ds.where((ds.x > 20) | (ds.time.dt.hour < 6)),
            {},
            "values that are not finite, first at time=2001-01-01",
        ),
        (lambda ds: xr.concat([ds, ds], "time"), {}, "times that repeat"),
        (lambda ds: ds, {"static": xr.Dataset({"a": ("x", [1.0])})}, "another grid along"),
    ],
)
def test_histories_that_cannot_be_used(change: Any, options: dict[str, Any], found: str) -> None:
    with pytest.raises(StateError, match=found):
        train(change(gaussian(states=40)), **options)


def test_a_history_that_is_no_dataset() -> None:
    with pytest.raises(DaisiTypeError, match=r"history: found DataArray.*to_dataset"):
        train(gaussian(states=40).t2m)  # type: ignore[arg-type]


def test_one_variable_by_name() -> None:
    assert train(two_dimensional(), "tp").spec.names == ("tp",)


# -- the card -------------------------------------------------------------------------------------


def test_the_card_is_complete(tmp_path: Path) -> None:
    ds = two_dimensional()
    prior = train(
        ds,
        validation=0.25,
        name="toy",
        description="a toy",
        license="CC-BY-4.0",
        attribution="nobody",
        settings={"t_min": 0.1, "steps": (10, 20)},
    )
    prior.save(tmp_path / "p.safetensors")
    from safetensors import safe_open

    with safe_open(str(tmp_path / "p.safetensors"), framework="pt") as file:
        header = file.metadata()
    import json

    card, settings = json.loads(header["card"]), json.loads(header["settings"])
    assert card["format_version"] == 1
    assert card["name"] == "toy"
    assert card["description"] == "a toy"
    assert card["license"] == "CC-BY-4.0"
    assert card["attribution"] == "nobody"
    assert card["normalization"] == "variable"
    assert card["interpolant"] == "linear"
    assert card["network"]["kind"] == "unet"
    assert card["network"]["channels"] == 3
    assert card["software"]["xr_daisi"] == xr_daisi.__version__
    tp, t = card["state"]["variables"]
    assert (tp["standard_name"], tp["units"], tp["levels"]) == ("precipitation_amount", "mm", None)
    assert (t["levels"], t["level_units"]) == ([850.0, 500.0], "hPa")
    assert card["state"]["coords"]["latitude"] == ds.latitude.values.tolist()
    assert card["state"]["periodic"] == [False, False]
    training = card["training"]
    assert training["states"] == 30
    assert training["period"] == ["2001-01-01T00:00:00", "2001-01-30T00:00:00"]
    assert training["validation_period"] == ["2001-01-31T00:00:00", "2001-02-09T00:00:00"]
    assert training["seed"] == 0
    assert training["device"] == "cpu"
    assert training["parameters"] == prior.parameter_count
    assert all(math.isfinite(x) for entry in training["losses"] for x in entry)
    assert {"loss", "validation_loss", "best_step", "minutes", "epochs"} <= training.keys()
    assert settings["t_min"] == 0.1
    assert settings["steps"] == [10, 20]
    assert header["sha256"] == prior.sha256


def test_the_card_says_what_the_data_are() -> None:
    training = train(gaussian(states=40)).card["training"]
    assert training["data"] == {"title": "a smooth Gaussian field"}


def test_a_history_without_time_coordinate_is_numbered() -> None:
    prior = train(gaussian(states=40).drop_vars("time"))
    assert prior.card["training"]["period"] == ["0", "33"]
    assert prior.name == "t2m"
