"""The U-Net: any grid, periodic where it should be, exact prior N(0, I) before training."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from xr_daisi.errors import SettingsError
from xr_daisi.interpolant import INTERPOLANTS
from xr_daisi.networks import UNet, UNetConfig, build_network, schedule_at


def make(shape: tuple[int, ...], *, seed: int = 0, trained: bool = True, **options: Any) -> UNet:
    """A small network; `trained` fills the weights that start at zero."""
    static = options.pop("static", None)
    defaults: dict[str, Any] = {
        "channels": 2,
        "width": 8,
        "multipliers": (1, 2),
        "periodic": (False,) * len(shape),
        "static_channels": 0 if static is None else static.shape[0],
    }
    torch.manual_seed(seed)
    network = UNet(UNetConfig(**(defaults | options)), static)
    if trained:
        with torch.no_grad():
            for p in network.parameters():
                p.add_(0.1 * torch.randn_like(p))
    return network.eval()


def states(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=dtype)


@pytest.mark.parametrize("patch", [1, 2, 3])
@pytest.mark.parametrize(
    "shape", [(33, 49), (8, 8), (7, 5), (1, 6), (2, 3), (40,), (41,), (3,), (1,)], ids=str
)
@pytest.mark.parametrize("periodic", [False, True], ids=["open", "periodic"])
def test_any_grid(shape: tuple[int, ...], patch: int, periodic: bool) -> None:
    network = make(shape, patch=patch, periodic=(periodic,) * len(shape), multipliers=(1, 1, 2))
    x = states(2, 2, *shape)
    b = network(x, torch.tensor([0.3, 0.8]))
    assert b.shape == x.shape
    assert b.dtype == x.dtype
    assert torch.isfinite(b).all()


def test_one_dimension_periodic_and_the_other_not() -> None:
    network = make((9, 12), periodic=(False, True), multipliers=(1,))
    x, t = states(1, 2, 9, 12), torch.tensor([0.5])
    b = network(x, t)
    along_x = network(x.roll(5, dims=3), t)
    torch.testing.assert_close(along_x, b.roll(5, dims=3), atol=1e-5, rtol=1e-4)
    along_y = network(x.roll(5, dims=2), t)
    assert (along_y - b.roll(5, dims=2)).abs().max() > 1e-3


@pytest.mark.parametrize(("patch", "stride"), [(1, 2), (2, 4)])
@pytest.mark.parametrize("ndim", [1, 2])
def test_periodic_networks_commute_with_shifts(ndim: int, patch: int, stride: int) -> None:
    """By as many points as the coarsest resolution merges."""
    shape = (16, 24)[:ndim]
    dims = tuple(range(2, 2 + ndim))
    x, t = states(2, 2, *shape), torch.tensor([0.4, 0.4])
    closed = make(shape, patch=patch, periodic=(True,) * ndim)
    shifted = closed(x.roll((stride,) * ndim, dims), t)
    torch.testing.assert_close(
        shifted, closed(x, t).roll((stride,) * ndim, dims), atol=1e-5, rtol=1e-4
    )
    open_ = make(shape, patch=patch)
    shifted = open_(x.roll((stride,) * ndim, dims), t)
    assert (shifted - open_(x, t).roll((stride,) * ndim, dims)).abs().max() > 1e-3


@pytest.mark.parametrize("name", sorted(INTERPOLANTS))
def test_untrained_network_is_the_exact_standard_normal(name: str) -> None:
    """For N(0, 1): velocity = (alpha alpha' + beta beta') / (alpha^2 + beta^2) x."""
    network = make((6, 7), trained=False, interpolant=name).double()
    x = states(5, 2, 6, 7, dtype=torch.float64)
    t = torch.tensor([0.0, 0.2, 0.5, 0.9, 1.0], dtype=torch.float64)
    i = INTERPOLANTS[name]
    factor = torch.tensor(
        [
            (i.alpha(s) * i.d_alpha(s) + i.beta(s) * i.d_beta(s))
            / (i.alpha(s) ** 2 + i.beta(s) ** 2)
            for s in t.tolist()
        ],
        dtype=torch.float64,
    )
    torch.testing.assert_close(network(x, t), factor.reshape(-1, 1, 1, 1) * x)


def test_members_do_not_interact() -> None:
    network = make((9, 8), periodic=(True, True))
    x, t = states(4, 2, 9, 8), torch.tensor([0.1, 0.4, 0.7, 1.0])
    one_by_one = torch.cat([network(x[i : i + 1], t[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(network(x, t), one_by_one, atol=1e-5, rtol=1e-4)


def test_static_fields_are_seen_and_kept_with_the_weights() -> None:
    static = states(1, 9, 8)
    network = make((9, 8), static=static)
    x, t = states(2, 2, 9, 8), torch.tensor([0.5, 0.5])
    other = make((9, 8), static=static + 1.0)
    assert (network(x, t) - other(x, t)).abs().max() > 1e-4
    assert torch.equal(network.state_dict()["static"], static)
    other.load_state_dict(network.state_dict())
    torch.testing.assert_close(other(x, t), network(x, t))


def test_double_precision_agrees_with_single() -> None:
    network = make((8, 9))
    x, t = states(2, 2, 8, 9), torch.tensor([0.25, 0.75])
    single = network(x, t)
    double = network.double()(x.double(), t.double())
    assert double.dtype == torch.float64
    torch.testing.assert_close(single.double(), double, atol=1e-4, rtol=1e-3)


def test_gradients_reach_every_weight_and_the_state() -> None:
    network = make((8, 9), patch=2, static=states(1, 8, 9)).train()
    x = states(2, 2, 8, 9).requires_grad_()
    network(x, torch.tensor([0.2, 0.6])).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()


def test_vector_jacobian_product_is_that_of_finite_differences() -> None:
    network = make((5, 6), periodic=(True, False)).double()
    x, v, w = (states(1, 2, 5, 6, dtype=torch.float64).roll(k, 3) for k in range(3))
    t = torch.tensor([0.5], dtype=torch.float64)
    _, pull = torch.func.vjp(lambda s: network(s, t), x)
    h = 1e-5
    forward = (network(x + h * w, t) - network(x - h * w, t)) / (2 * h)
    torch.testing.assert_close((pull(v)[0] * w).sum(), (v * forward).sum(), rtol=1e-6, atol=1e-8)


def test_dropout_only_in_training() -> None:
    network = make((8, 8), dropout=0.5)
    x, t = states(2, 2, 8, 8), torch.tensor([0.5, 0.5])
    assert torch.equal(network(x, t), network(x, t))
    network.train()
    assert not torch.equal(network(x, t), network(x, t))


def test_parameter_names_are_those_of_saved_files() -> None:
    """Files depend on them: a change here makes every saved prior unreadable."""
    names = set(make((8, 8), multipliers=(1, 2), patch=2).state_dict())
    assert {
        "static",
        "frequencies",
        "embed.0.weight",
        "embed.2.bias",
        "enter.conv.weight",
        "down.0.norm1.weight",
        "down.0.modulation.weight",
        "down.1.conv.weight",
        "middle.conv2.conv.bias",
        "up.1.weight",
        "up.2.conv1.conv.weight",
        "norm.weight",
        "leave.conv.weight",
    } <= names
    assert make((8, 8)).parameter_count == sum(p.numel() for p in make((8, 8)).parameters())


def test_config_round_trip() -> None:
    import json

    config = UNetConfig(
        channels=3, static_channels=1, periodic=(True, False), width=16, multipliers=(1, 3), patch=2
    )
    text = json.dumps(config.to_dict())
    assert UNetConfig.from_dict(json.loads(text)) == config
    network = build_network(json.loads(text), torch.zeros(1, 4, 4))
    assert isinstance(network, UNet)
    assert network.config == config


def test_a_config_without_newer_options_is_still_read() -> None:
    entries = UNetConfig(channels=1).to_dict()
    del entries["dropout"]
    assert build_network(entries).config == UNetConfig(channels=1)


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"channels": 0}, "channels: found 0"),
        ({"static_channels": -1}, "static_channels: found -1"),
        ({"periodic": ()}, r"periodic: found \(\)"),
        ({"periodic": (True,) * 3}, "periodic: found"),
        ({"width": 12}, "width: found 12, expected a positive multiple of 8"),
        ({"width": 0}, "width: found 0"),
        ({"multipliers": ()}, r"multipliers: found \(\)"),
        ({"multipliers": (1, 0)}, r"multipliers: found \(1, 0\)"),
        ({"blocks": 0}, "blocks: found 0"),
        ({"patch": 0}, "patch: found 0"),
        ({"dropout": 1.0}, "dropout: found 1.0"),
        ({"interpolant": "cubic"}, "interpolant: found 'cubic', expected one of linear, trig"),
    ],
)
def test_config_errors(options: dict[str, Any], found: str) -> None:
    with pytest.raises(SettingsError, match=found):
        UNetConfig(**({"channels": 1} | options))


def test_all_config_errors_at_once() -> None:
    with pytest.raises(
        SettingsError, match=r"(?s)2 problems.*width.*patch|2 problems.*patch.*width"
    ):
        UNetConfig(channels=1, width=3, patch=0)


def test_build_errors() -> None:
    entries = UNetConfig(channels=1).to_dict()
    with pytest.raises(SettingsError, match="kind 'transformer', expected one of mlp, unet"):
        build_network({**entries, "kind": "transformer"})
    with pytest.raises(SettingsError, match="attention"):
        build_network({**entries, "attention": True})
    with pytest.raises(SettingsError, match="static: found 0 fields, expected 2"):
        build_network({**entries, "static_channels": 2})
    with pytest.raises(SettingsError, match="static: found 1 fields, expected 0"):
        UNet(UNetConfig(channels=1), torch.zeros(1, 4, 4))


def test_schedule_has_one_value_per_state() -> None:
    like = states(3, 1, 4)
    values = schedule_at(INTERPOLANTS["linear"], torch.tensor([0.0, 0.25, 1.0]), like)
    alpha, beta, d_alpha, d_beta = (v.flatten().tolist() for v in values)
    assert alpha == [1.0, 0.75, 0.0]
    assert beta == [0.0, 0.25, 1.0]
    assert d_alpha == [-1.0] * 3
    assert d_beta == [1.0] * 3
    assert values[0].shape == (3, 1, 1)
