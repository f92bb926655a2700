"""The dense network: its prior, training, file and limits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from safetensors import safe_open

import xr_daisi
from xr_daisi.errors import PriorError, SettingsError, StateError
from xr_daisi.mlp import MLP, MLPConfig
from xr_daisi.networks import build_network

QUICK: dict[str, Any] = {"network": "mlp", "width": 16, "blocks": 1, "progress": False}


def history(states: int = 400, seed: int = 0) -> xr.Dataset:
    """Two correlated scalars in a field of one point."""
    rng = np.random.default_rng(seed)
    a = rng.standard_normal(states)
    b = 0.8 * a + 0.6 * rng.standard_normal(states)
    time = np.datetime64("2000-01-01", "ns") + np.arange(states) * np.timedelta64(1, "h")
    fields = {"a": 5.0 + 2.0 * a, "b": -1.0 + 3.0 * b}
    data = {k: (("time", "point"), v[:, None], {"units": "1"}) for k, v in fields.items()}
    return xr.Dataset(data, coords={"time": time, "point": [0]})


@pytest.fixture(scope="module")
def prior() -> xr_daisi.FlowPrior:
    return xr_daisi.train_prior(history(), steps=20, **QUICK)


def test_untrained_it_is_the_standard_normal_prior() -> None:
    """b(x, t) = (2 t - 1) / (t^2 + (1 - t)^2) x, as for every network of the package."""
    network = MLP(MLPConfig(2, (3,), width=8))
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    t = torch.linspace(0.0, 1.0, 5, dtype=torch.float64)
    expected = ((2 * t - 1) / (t**2 + (1 - t) ** 2))[:, None, None] * x
    found = network.double()(x, t)
    assert found.shape == x.shape
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_every_number_sees_every_other() -> None:
    torch.manual_seed(0)
    network = MLP(MLPConfig(2, (2, 2), width=16, blocks=1)).double()
    for p in network.parameters():
        torch.nn.init.normal_(p, std=0.3)
    x = torch.randn(1, 2, 2, 2, dtype=torch.float64)
    t = torch.tensor([0.4], dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda v: network(v, t), x).reshape(8, 8)
    assert (jacobian.abs() > 1e-9).all()


def test_members_do_not_mix() -> None:
    torch.manual_seed(0)
    network = MLP(MLPConfig(1, (4,), width=8)).double()
    for p in network.parameters():
        torch.nn.init.normal_(p, std=0.3)
    x, t = torch.randn(3, 1, 4, dtype=torch.float64), torch.full((3,), 0.3, dtype=torch.float64)
    torch.testing.assert_close(network(x, t)[1:2], network(x[1:2], t[1:2]))


def test_there_and_back(prior: xr_daisi.FlowPrior, tmp_path: Path) -> None:
    prior.save(tmp_path / "mlp.safetensors")
    again = xr_daisi.load_prior(tmp_path / "mlp.safetensors")
    assert again.sha256 == prior.sha256
    assert again.spec.to_dict() == prior.spec.to_dict()
    assert isinstance(again.network, MLP)
    assert again.network.config == prior.network.config  # type: ignore[attr-defined]
    x, t = torch.randn(3, 2, 1), torch.full((3,), 0.5)
    torch.testing.assert_close(again.network(x, t), prior.network(x, t), rtol=0, atol=0)
    with safe_open(str(tmp_path / "mlp.safetensors"), framework="pt") as file:
        card = json.loads(file.metadata()["card"])
    assert card["network"] == {
        "kind": "mlp",
        "channels": 2,
        "space": [1],
        "width": 16,
        "blocks": 1,
        "interpolant": "linear",
        "dropout": 0.0,
    }
    assert card["format_version"] == 3  # what knows no dense networks says so


def test_configuration_there_and_back() -> None:
    config = MLPConfig(2, (3, 4), width=8, blocks=2, dropout=0.1)
    again = build_network(json.loads(json.dumps(config.to_dict())))
    assert isinstance(again, MLP)
    assert again.config == config
    assert again.parameter_count == sum(p.numel() for p in again.parameters())


def test_training_continues_from_a_prior(prior: xr_daisi.FlowPrior) -> None:
    more = xr_daisi.train_prior(history(seed=1), steps=2, init=prior, progress=False)
    assert isinstance(more.network, MLP)
    with pytest.raises(SettingsError, match=r"network: found 'unet', expected 'mlp', as"):
        xr_daisi.train_prior(history(), steps=2, init=prior, network="unet", progress=False)


def test_checkpoint_is_that_of_the_same_training(tmp_path: Path) -> None:
    """A run that was interrupted ends as one that was not."""
    from xr_daisi.trainer import Trainer

    kwargs = {"steps": 12, "seed": 3, **QUICK}
    whole = xr_daisi.train_prior(history(), **kwargs)
    path = tmp_path / "checkpoint"
    original = Trainer._step

    def failing(self: Trainer, x: np.ndarray, fraction: float) -> float:
        if self.progress.step == 6:
            self._save(path)
            raise KeyboardInterrupt
        return original(self, x, fraction)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_step", failing)
        with pytest.raises(KeyboardInterrupt):
            xr_daisi.train_prior(history(), checkpoint=path, **kwargs)
    resumed = xr_daisi.train_prior(history(), checkpoint=path, **kwargs)
    for a, b in zip(whole.network.parameters(), resumed.network.parameters(), strict=True):  # type: ignore[attr-defined]
        torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.slow
def test_it_learns_a_gaussian() -> None:
    """Moments of samples are those of the history, correlation included."""
    data = history(4000)
    options = QUICK | {"width": 64, "blocks": 2, "patience": None, "validation": 0.0}
    prior = xr_daisi.train_prior(data, steps=1000, batch_size=256, autocast=False, **options)
    drawn = xr_daisi.sample(prior=prior, members=4000, steps=20)
    for name in ("a", "b"):
        assert float(drawn[name].mean()) == pytest.approx(float(data[name].mean()), abs=0.2)
        assert float(drawn[name].std()) == pytest.approx(float(data[name].std()), rel=0.06)
    found = np.corrcoef(drawn.a.values.ravel(), drawn.b.values.ravel())[0, 1]
    assert found == pytest.approx(0.8, abs=0.04)


def test_assimilation_with_it(prior: xr_daisi.FlowPrior) -> None:
    forecast = history(3).isel(time=[0]).expand_dims(member=4).copy(deep=True)
    obs = xr.Dataset({"a": ("time", [6.0])}, coords={"time": forecast.time.values})
    obs = obs.expand_dims(station=1).assign_coords(point=("station", [0]))
    analysis = forecast.daisi.assimilate(obs, prior, obs_error=1.0, steps=4, progress=False)
    assert analysis.a.dims == forecast.a.dims
    assert np.isfinite(analysis.b).all()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"multipliers": (1, 2), "patch": 2}, r"multipliers: found \(1, 2\).*\n?.*patch: found 2"),
        ({"width": 7}, "width: found 7, expected a positive multiple of 2"),
        ({"network": "transformer"}, "network: found 'transformer', expected one of mlp, unet"),
        ({"dropout": 1.0}, "dropout: found 1.0"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], text: str) -> None:
    with pytest.raises(SettingsError, match=text):
        xr_daisi.train_prior(history(), steps=1, **QUICK | options)


def test_limits(prior: xr_daisi.FlowPrior) -> None:
    with pytest.raises(SettingsError, match=r"static: found 1 fields, expected none for network"):
        MLP(MLPConfig(1, (2,)), torch.zeros(1, 2))
    with pytest.raises(SettingsError, match=r"states of 8192 numbers.* use network='unet'"):
        MLPConfig(2, (64, 64))
    with pytest.raises(StateError, match=r"state: found shape \(2, 3\), expected \(2, 1\)"):
        prior.network(torch.zeros(1, 2, 3), torch.zeros(1))
    wide = history(2).isel(point=[0, 0, 0]).assign_coords(point=[0, 1, 2])
    with pytest.raises(PriorError, match="a dense network, which knows one grid"):
        prior.on_grid(wide)
