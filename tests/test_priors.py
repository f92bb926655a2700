"""Priors: files, names, other people's networks, how they look."""

from __future__ import annotations

import copy
import http.server
import json
import os
import pickle
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from safetensors import safe_open
from safetensors.torch import save_file

import xr_daisi
from xr_daisi import prior_files, registry
from xr_daisi.errors import DaisiTypeError, PriorError, SettingsError, StateError
from xr_daisi.networks import UNet, UNetConfig
from xr_daisi.options import get_option
from xr_daisi.priors import FlowPrior
from xr_daisi.settings import Settings
from xr_daisi.state import Normalization, spec_from_dataset
from xr_daisi.transforms import TRANSFORMS

CPU = torch.device("cpu")


def template() -> xr.Dataset:
    """Two variables, one on levels, on a grid of 5 x 6."""
    return xr.Dataset(
        {
            "t": (("level", "latitude", "longitude"), np.zeros((2, 5, 6)), {"units": "K"}),
            "q": (
                ("latitude", "longitude"),
                np.zeros((5, 6)),
                {"units": "kg kg-1", "standard_name": "specific_humidity", "long_name": "Δq"},
            ),
        },
        coords={
            "level": ("level", [500.0, 850.0], {"units": "hPa"}),
            "latitude": ("latitude", np.linspace(60.0, 50.0, 5), {"units": "degrees_north"}),
            "longitude": ("longitude", np.arange(6.0), {"units": "degrees_east"}),
        },
    )


def make(*, seed: int = 0, **options: Any) -> FlowPrior:
    """A prior with random weights, as `train_prior` would return it."""
    torch.manual_seed(seed)
    spec = spec_from_dataset(template())
    config = UNetConfig(channels=3, width=8, multipliers=(1, 2), static_channels=1)
    network = UNet(config, torch.arange(30.0).reshape(1, 5, 6) / 30)
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.1 * torch.randn_like(p))
    rng = np.random.default_rng(seed)
    normalization = Normalization(
        rng.normal(size=(3, 5, 6)), np.full((3, 1, 1), 2.0), (None, None, "log1p")
    )
    card = {
        "name": "toy",
        "description": "a toy <prior> & more",
        "license": "CC-BY-4.0",
        "attribution": "nobody",
        "normalization": "point-mean",
        "training": {
            "states": 1234,
            "period": ["2001-01-01", "2001-02-01"],
            "validation_states": 56,
            "validation_period": ["2001-02-02", "2001-02-09"],
            "steps": 4000,
            "batch_size": 32,
            "minutes": 1.5,
            "device": "cpu",
            "loss": 0.25,
            "validation_loss": 0.27,
            "best_step": 3500,
        },
    }
    settings = Settings(t_min=0.1, steps=(10, 15))
    network.eval().requires_grad_(False)
    return FlowPrior(network, spec, normalization, settings=settings, card=card | options)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "toy.safetensors"
    make().save(path)
    return path


def parts(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    with safe_open(str(path), framework="pt") as opened:
        tensors = {k: opened.get_tensor(k) for k in opened.keys()}  # noqa: SIM118
        return tensors, dict(opened.metadata())


def sample_velocity(prior: FlowPrior, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    x = torch.randn(2, 3, 5, 6, generator=torch.Generator().manual_seed(1), dtype=dtype)
    return prior.flow(CPU, dtype).velocity(x, 0.4)


# -- files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(TRANSFORMS))
def test_every_transform_goes_through_a_file(name: str, tmp_path: Path) -> None:
    prior = make()
    scale = replace(prior.normalization, transforms=(None, None, name))
    other = FlowPrior(prior.network, prior.spec, scale, card=prior.card)
    other.save(tmp_path / "p.safetensors")
    again = FlowPrior.load(tmp_path / "p.safetensors")
    assert again.normalization.transforms == (None, None, name)


def test_round_trip_is_bitwise(file: Path) -> None:
    first, again = make(), FlowPrior.load(file)
    assert isinstance(first.network, UNet)
    assert isinstance(again.network, UNet)
    for name, value in first.network.state_dict().items():
        assert torch.equal(value, again.network.state_dict()[name])
    assert again.network.config == first.network.config
    np.testing.assert_array_equal(again.normalization.mean, first.normalization.mean)
    np.testing.assert_array_equal(again.normalization.std, first.normalization.std)
    assert again.normalization.transforms == (None, None, "log1p")
    assert again.spec.to_dict() == first.spec.to_dict()
    assert again.settings == first.settings
    assert again.card == first.card
    assert again.interpolant == first.interpolant
    assert again.sha256 == first.sha256
    assert torch.equal(sample_velocity(again), sample_velocity(first))
    xr.testing.assert_identical(again.template(), first.template())


def test_saving_what_was_loaded_gives_the_same_contents(file: Path, tmp_path: Path) -> None:
    FlowPrior.load(file).save(tmp_path / "again.safetensors")
    tensors, header = parts(tmp_path / "again.safetensors")
    expected, expected_header = parts(file)
    assert header == expected_header
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[k], expected[k]) for k in expected)


def test_sha256_is_that_of_weights_and_card_but_not_of_settings(file: Path) -> None:
    prior = make()
    assert prior.sha256 == make().sha256
    assert prior.with_settings(t_min=0.7).sha256 == prior.sha256
    assert make(seed=1).sha256 != prior.sha256
    assert make(license="MIT").sha256 != prior.sha256
    other = make()
    assert isinstance(other.network, UNet)
    with torch.no_grad():
        other.network.norm.bias[0] += 1e-7
    assert other.sha256 != prior.sha256
    assert parts(file)[1]["sha256"] == prior.sha256


def test_settings_are_saved(tmp_path: Path) -> None:
    path = tmp_path / "p.safetensors"
    prior = make().with_settings(t_min=0.35, guidance="dps", strength=2.0)
    prior.save(path)
    again = FlowPrior.load(path)
    assert again.settings == prior.settings
    assert again.settings.strength == 2.0
    assert make().settings.t_min == 0.1


def test_with_settings_leaves_the_original_alone() -> None:
    prior = make()
    other = prior.with_settings(steps=7)
    other.card["name"] = "other"
    other.card["training"]["states"] = 0
    assert prior.settings.steps == (10, 15)
    assert prior.name == "toy"
    assert prior.card["training"]["states"] == 1234
    assert other.network is prior.network
    assert other.flow(CPU, torch.float64) is prior.flow(CPU, torch.float64)
    with pytest.raises(SettingsError, match="settings: found tmin"):
        prior.with_settings(tmin=0.2)
    with pytest.raises(SettingsError, match=r"t_min: found 1\.5"):
        prior.with_settings(t_min=1.5)


def test_a_callable_strength_cannot_be_saved(tmp_path: Path) -> None:
    prior = make().with_settings(strength=lambda t: 1 - t)
    with pytest.raises(PriorError, match="strength: found a callable, expected a number"):
        prior.save(tmp_path / "p.safetensors")
    assert not list(tmp_path.iterdir())


def test_numbers_of_numpy_on_the_card(tmp_path: Path) -> None:
    """From attributes of files; hours of training must not be lost to one."""
    path = tmp_path / "p.safetensors"
    prior = make(extra=np.float32(1.5), count=np.int64(3), values=np.arange(2), when=Path("x"))
    prior.save(path)
    again = FlowPrior.load(path)
    assert again.sha256 == prior.sha256
    assert again.card["extra"] == 1.5
    assert again.card["count"] == 3
    assert again.card["values"] == [0, 1]


@pytest.mark.parametrize("keep", [0.0, 0.001, 0.3, 0.9, 0.9999])
def test_truncated_files(file: Path, keep: float) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(PriorError, match=r"toy.safetensors: found .*damaged or was edited"):
        FlowPrior.load(file)


def test_one_flipped_byte_anywhere(file: Path) -> None:
    content = bytearray(file.read_bytes())
    header = int.from_bytes(content[:8], "little")
    text = bytes(content[8 : 8 + header]).decode()
    places = [
        8 + text.index(mark) + len(mark) + 2
        for mark in ('"card"', '"settings"', '"sha256"', '"settings_sha256"', "t_min", "hPa")
    ]
    places += [8 + header + 1, 8 + header + (len(content) - header) // 2, len(content) - 1]
    places += list(range(0, len(content), len(content) // 40))
    for place in places:
        damaged = bytearray(content)
        damaged[place] ^= 0x02
        file.write_bytes(damaged)
        with pytest.raises(PriorError, match=r"toy\.safetensors"):
            FlowPrior.load(file)


def test_foreign_files(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.safetensors"
    save_file({"weight": torch.zeros(3)}, foreign)
    with pytest.raises(PriorError, match="a safetensors file without the card of a flow prior"):
        FlowPrior.load(foreign)
    save_file({"weight": torch.zeros(3)}, foreign, {"card": "[1, 2]"})
    with pytest.raises(PriorError, match="without the card of a flow prior"):
        FlowPrior.load(foreign)
    card = json.dumps({"format": "another", "format_version": 1})
    save_file({"weight": torch.zeros(3)}, foreign, {"card": card})
    with pytest.raises(PriorError, match="format 'another'"):
        FlowPrior.load(foreign)


def test_files_that_are_no_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    for content in (b"", b"hello", b"\x80\x04]", b"\xff" * 100):
        path.write_bytes(content)
        with pytest.raises(PriorError, match="no readable safetensors file"):
            FlowPrior.load(path)
    with pytest.raises(PriorError, match="found a directory"):
        FlowPrior.load(tmp_path)
    with pytest.raises(PriorError, match=r"no such file.*check the path"):
        FlowPrior.load(tmp_path / "nowhere.safetensors")


def rewrite(path: Path, **changes: Any) -> None:
    """Change the card of a file and sign it anew, as another version of the package might."""
    tensors, header = parts(path)
    card = {**json.loads(header["card"]), **changes}
    header["card"] = prior_files._json(card)
    header["sha256"] = prior_files.digest(tensors, card)
    save_file(tensors, path, header)


def test_newer_formats_are_refused_clearly(file: Path) -> None:
    rewrite(file, format_version=4)
    with pytest.raises(PriorError, match="format version 4, expected at most 3; upgrade xr_daisi"):
        FlowPrior.load(file)
    # Even where nothing else in it can be understood.
    save_file({}, file, {"card": json.dumps({"format": prior_files.FORMAT, "format_version": 9})})
    with pytest.raises(PriorError, match="format version 9"):
        FlowPrior.load(file)


def test_older_cards_without_newer_entries_load(file: Path) -> None:
    _, header = parts(file)
    network = json.loads(header["card"])["network"]
    del network["dropout"]
    rewrite(file, network=network)
    assert torch.equal(sample_velocity(FlowPrior.load(file)), sample_velocity(make()))


@pytest.mark.parametrize(
    "changes",
    [
        {"network": {"kind": "transformer"}},
        {"network": None},
        {"state": {}},
        {"transforms": ["cube", None, None]},
        {"interpolant": "cubic"},
    ],
    ids=str,
)
def test_cards_that_cannot_be_used(file: Path, changes: dict[str, Any]) -> None:
    rewrite(file, **changes)
    with pytest.raises(PriorError, match=r"toy\.safetensors: found a card that cannot be used"):
        FlowPrior.load(file)


def test_weights_of_another_size(file: Path) -> None:
    _, header = parts(file)
    rewrite(file, network={**json.loads(header["card"])["network"], "width": 16})
    with pytest.raises(PriorError, match=r"a card that cannot be used .*size mismatch"):
        FlowPrior.load(file)


def test_existing_files_need_overwrite(file: Path) -> None:
    before = file.read_bytes()
    with pytest.raises(
        FileExistsError, match=r"toy\.safetensors: found an existing file.*overwrite"
    ):
        make(seed=1).save(file)
    assert file.read_bytes() == before
    make(seed=1).save(file, overwrite=True)
    assert file.read_bytes() != before


@pytest.mark.parametrize("kind", ["OSError", "SafetensorError"])
def test_a_full_disk_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    import safetensors.torch

    def full(tensors: Any, path: Path, **_: Any) -> None:
        Path(path).write_bytes(b"half")
        if kind == "OSError":
            raise OSError(28, "No space left on device")
        raise safetensors.SafetensorError("I/O error: No space left on device (os error 28)")

    path = tmp_path / "p.safetensors"
    make().save(path)
    before = path.read_bytes()
    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(OSError, match=r"p\.safetensors: found .*No space left.*nothing was left"):
        make(seed=1).save(path, overwrite=True)
    assert path.read_bytes() == before
    with pytest.raises(OSError, match="No space left"):
        make().save(tmp_path / "other.safetensors")
    assert os.listdir(tmp_path) == ["p.safetensors"]


def test_a_path_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OSError, match="file"):
        make().save(tmp_path / "file" / "p.safetensors")


def test_nothing_in_a_file_is_executed(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("pickle must not be used")

    monkeypatch.setattr(torch, "load", refuse)
    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    FlowPrior.load(file)


# -- names, paths, addresses, options -------------------------------------------------------------


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> None:
    """A registry that forgets afterwards."""
    monkeypatch.setattr(registry, "_REGISTERED", {})
    monkeypatch.setattr(registry, "_LOADED", {})


def test_load_by_path(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = make().sha256
    assert xr_daisi.load_prior(file).sha256 == expected
    assert xr_daisi.load_prior(str(file)).sha256 == expected
    monkeypatch.setenv("HOME", str(file.parent))
    assert xr_daisi.load_prior("~/toy.safetensors").sha256 == expected
    with pytest.raises(PriorError, match=r"no file 'nowhere'.*registered are: .*sqg64"):
        xr_daisi.load_prior("nowhere")
    with pytest.raises(PriorError, match="a directory"):
        xr_daisi.load_prior(file.parent)


def test_expected_sha256(file: Path) -> None:
    expected = make().sha256
    assert expected is not None
    assert xr_daisi.load_prior(file, sha256=expected.upper()).sha256 == expected
    with pytest.raises(PriorError, match=f"found sha256 {expected}, expected 0000"):
        xr_daisi.load_prior(file, sha256="0000")


@pytest.mark.usefixtures("names")
def test_registered_names(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prior = make()
    xr_daisi.register_prior("mine", prior)
    xr_daisi.register_prior("from-file", file)
    assert xr_daisi.registered_priors() == ["from-file", "mine", "sqg64"]
    assert xr_daisi.load_prior("mine") is prior
    first = xr_daisi.load_prior("from-file")
    assert first.sha256 == prior.sha256
    assert xr_daisi.load_prior("from-file") is first, "read once"
    monkeypatch.chdir(file.parent)
    xr_daisi.register_prior("from-file", "toy.safetensors")
    monkeypatch.chdir("/")
    assert xr_daisi.load_prior("from-file") is not first
    xr_daisi.register_prior("gone", file.parent / "gone.safetensors")
    with pytest.raises(PriorError, match="no file"):
        xr_daisi.load_prior("gone")


@pytest.mark.usefixtures("names")
def test_names_that_are_taken() -> None:
    with pytest.raises(PriorError, match="name: found 'sqg64', expected one that is not shipped"):
        xr_daisi.register_prior("sqg64", make())
    with pytest.raises(PriorError, match="name: found ''"):
        xr_daisi.register_prior("", make())
    with pytest.raises(DaisiTypeError, match="prior: found float"):
        xr_daisi.register_prior("x", 1.0)  # type: ignore[arg-type]


def test_the_shipped_prior() -> None:
    prior = xr_daisi.load_prior("sqg64")
    assert prior.spec.shape == (2, 64, 64)
    assert prior.spec.periodic == (True, True)
    assert prior.parameter_count is not None
    assert prior.parameter_count <= 1_000_000
    assert prior.name == "sqg64"
    assert xr_daisi.load_prior("sqg64") is prior
    assert prior.normalization.std.mean() == pytest.approx(8.1, abs=0.5)


@pytest.fixture
def server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[str, Path, list[str]]]:
    """Files of a folder by http, the requests made, and a cache of downloads of the test's own."""
    folder = tmp_path / "served"
    folder.mkdir()
    requests: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, directory=str(folder), **kwargs)

        def log_message(self, *args: Any) -> None:
            requests.append(self.path)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}", folder, requests
        running.shutdown()
        thread.join()


def test_load_by_address(server: tuple[str, Path, list[str]]) -> None:
    address, folder, requests = server
    prior = make()
    prior.save(folder / "p.safetensors")
    url = f"{address}/p.safetensors"
    assert xr_daisi.load_prior(url, sha256=prior.sha256).sha256 == prior.sha256
    assert xr_daisi.load_prior(url).sha256 == prior.sha256
    assert len(requests) == 1, "downloaded once"
    # The file changes: whoever expects another one gets it at the second call at the latest.
    make(seed=1).save(folder / "p.safetensors", overwrite=True)
    new = make(seed=1).sha256
    with pytest.raises(PriorError, match=f"found sha256 {prior.sha256}, expected {new}"):
        xr_daisi.load_prior(url, sha256=new)
    assert xr_daisi.load_prior(url, sha256=new).sha256 == new


def test_downloads_that_fail(server: tuple[str, Path, list[str]]) -> None:
    address, folder, _ = server
    with pytest.raises(PriorError, match=r"no download of .*404.*check the address"):
        xr_daisi.load_prior(f"{address}/nothing.safetensors")
    with pytest.raises(PriorError, match="no download of"):
        xr_daisi.load_prior("http://127.0.0.1:1/x.safetensors")
    (folder / "bad.safetensors").write_bytes(b"not yet")
    with pytest.raises(PriorError, match="no readable safetensors file"):
        xr_daisi.load_prior(f"{address}/bad.safetensors")
    make().save(folder / "bad.safetensors", overwrite=True)
    xr_daisi.load_prior(f"{address}/bad.safetensors")  # what was damaged is not kept


def test_options() -> None:
    prior = make()
    assert get_option("prior") is None
    with xr_daisi.set_options(prior=prior):
        assert get_option("prior") is prior
        with xr_daisi.set_options(prior="sqg64"):
            assert get_option("prior") == "sqg64"
        assert get_option("prior") is prior
    assert get_option("prior") is None
    xr_daisi.set_options(prior=prior)
    assert get_option("prior") is prior
    xr_daisi.set_options(prior=None)
    assert get_option("prior") is None


def test_options_are_restored_after_an_error() -> None:
    def fail() -> None:
        with xr_daisi.set_options(prior="sqg64"):
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert get_option("prior") is None


def test_option_errors() -> None:
    with pytest.raises(SettingsError, match="options: found priors, expected names among prior"):
        xr_daisi.set_options(priors=None)
    with pytest.raises(DaisiTypeError, match="prior: found int"):
        xr_daisi.set_options(prior=3)
    assert get_option("prior") is None


# -- networks of the user's own -------------------------------------------------------------------


def standard_normal(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """The exact velocity for N(0, I)."""
    t = t.reshape(-1, *[1] * (x.ndim - 1))
    return (2 * t - 1) / (t**2 + (1 - t) ** 2) * x


def test_from_velocity() -> None:
    prior = FlowPrior.from_velocity(
        standard_normal, template(), mean=280.0, std=5.0, periodic=("longitude",), name="normal"
    )
    assert prior.spec.shape == (3, 5, 6)
    assert prior.spec.periodic == (False, True)
    assert prior.name == "normal"
    assert prior.sha256 is None
    assert prior.parameter_count is None
    assert (prior.normalization.mean == 280.0).all()
    assert prior.normalization.mean.shape == (3, 1, 1)
    x = torch.randn(2, 3, 5, 6, dtype=torch.float64)
    velocity = prior.flow(CPU, torch.float64).velocity(x, 0.25)
    torch.testing.assert_close(velocity, -0.5 / 0.625 * x)


def test_a_single_periodic_dimension_by_name() -> None:
    prior = FlowPrior.from_velocity(standard_normal, template(), periodic="longitude")
    assert prior.spec.periodic == (False, True)


def test_the_network_gets_the_solvers_dtype_and_equal_times() -> None:
    seen: list[tuple[torch.dtype, torch.dtype, list[float]]] = []

    def watched(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        seen.append((x.dtype, t.dtype, t.tolist()))
        return -x

    prior = FlowPrior.from_velocity(watched, template())
    for dtype in (torch.float32, torch.float64):
        prior.flow(CPU, dtype).velocity(torch.zeros(3, 3, 5, 6, dtype=dtype), 0.5)
        assert seen.pop() == (dtype, dtype, [0.5] * 3)


def test_from_denoiser() -> None:
    """The exact denoiser of N(0, I): D(y, sigma) = y / (1 + sigma^2)."""

    def edm(y: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return y / (1 + sigma.reshape(-1, 1, 1, 1) ** 2)

    def schedule(s: float) -> float:
        return (1 - s) ** 2

    def epsilon(u: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        return (1 - (1 - s.reshape(-1, 1, 1, 1)) ** 2).sqrt() * u

    def v(u: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        return 0.0 * u

    x = torch.randn(2, 3, 5, 6, dtype=torch.float64)
    expected = standard_normal(x, torch.tensor([0.6, 0.6]).double())
    wrapped = [
        FlowPrior.from_denoiser(edm, template(), schedule="edm", sigma_max=100.0),
        FlowPrior.from_denoiser(epsilon, template(), schedule="epsilon", alpha_bar=schedule),
        FlowPrior.from_denoiser(v, template(), schedule="v", alpha_bar=schedule, std=3.0),
    ]
    for prior in wrapped:
        velocity = prior.flow(CPU, torch.float64).velocity(x, 0.6)
        torch.testing.assert_close(velocity, expected, atol=1e-6, rtol=1e-6)
        assert prior.sha256 is None
    assert (wrapped[2].normalization.std == 3.0).all()
    with pytest.raises(
        PriorError, match="schedule: found 'ddim', expected one of 'edm', 'epsilon'"
    ):
        FlowPrior.from_denoiser(edm, template(), schedule="ddim")


def statistics(per: str) -> tuple[xr.Dataset, xr.Dataset, np.ndarray]:
    """Mean and deviation Datasets and the mean as an array."""
    ds = template()
    ds["t"] += xr.DataArray([250.0, 280.0], dims="level")
    ds["q"] += 0.01
    if per == "point":
        ds = ds + xr.DataArray(np.arange(30.0).reshape(5, 6), dims=("latitude", "longitude"))
    reduced = {"variable": ["level", "latitude", "longitude"], "level": ["latitude", "longitude"]}
    mean = ds.mean([d for d in reduced.get(per, [])]) if per in reduced else ds
    expected = np.concatenate(
        [
            np.broadcast_to(mean.t.values.reshape(-1, *mean.t.shape[1:]), (2, *mean.t.shape[1:])),
            mean.q.values[None],
        ]
    ).reshape(3, *((5, 6) if per == "point" else (1, 1)))
    return mean, xr.ones_like(mean) * 2.0, expected


@pytest.mark.parametrize("per", ["variable", "level", "point"])
def test_statistics_per(per: str) -> None:
    mean, std, expected = statistics(per)
    found = FlowPrior.from_velocity(standard_normal, template(), mean=mean, std=std).normalization
    np.testing.assert_allclose(found.mean, expected)
    assert (found.std == 2.0).all()


def test_statistics_are_matched_by_coordinates() -> None:
    mean, std, expected = statistics("point")
    turned = mean.isel(latitude=slice(None, None, -1), level=slice(None, None, -1))
    turned = turned.transpose("longitude", "latitude", "level", missing_dims="ignore")
    turned = turned.assign_coords(longitude=(turned.longitude.values % 360))
    found = FlowPrior.from_velocity(standard_normal, template(), mean=turned, std=std)
    np.testing.assert_allclose(found.normalization.mean, expected)
    bare = mean.drop_vars(["latitude", "longitude", "level"])
    found = FlowPrior.from_velocity(standard_normal, template(), mean=bare, std=1.0)
    np.testing.assert_allclose(found.normalization.mean, expected)


def test_statistics_mixed_per_variable_and_per_point() -> None:
    mean, _, _ = statistics("point")
    mean["q"] = mean.q.mean()
    found = FlowPrior.from_velocity(standard_normal, template(), mean=mean).normalization.mean
    assert found.shape == (3, 5, 6)
    np.testing.assert_allclose(found[2], mean.q.item())


def test_statistics_in_other_units() -> None:
    mean, std, expected = statistics("level")
    mean["t"] = (mean.t - 273.15).assign_attrs(units="degC")
    std["t"] = std.t.assign_attrs(units="degC")
    found = FlowPrior.from_velocity(standard_normal, template(), mean=mean, std=std).normalization
    np.testing.assert_allclose(found.mean, expected)
    assert (found.std == 2.0).all()


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda ds: ds.drop_vars("q"), "mean: found variables t, expected 'q' too"),
        (lambda ds: ds.expand_dims(time=3), r"mean of 't': found dimensions \('time'"),
        (lambda ds: ds.isel(latitude=0), r"mean of 't': found dimensions \('level', 'longitude'\)"),
        (lambda ds: ds.isel(latitude=slice(3)), "mean of 't': found other values along 'latitude'"),
        (
            lambda ds: ds.isel(latitude=slice(3)).drop_vars("latitude"),
            "mean of 't': found 3 values along 'latitude'",
        ),
        (
            lambda ds: ds.assign_coords(level=[500.0, 700.0]),
            "mean of 't': found other values along 'level'.*expected 2 values, 500 to 850",
        ),
        (lambda ds: ds.assign(t=ds.t.assign_attrs(units="m")), "mean of 't': found units"),
        (lambda ds: ds.where(ds.latitude < 60), "a mean that is not finite"),
    ],
)
def test_statistics_that_do_not_fit(change: Any, found: str) -> None:
    mean, std, _ = statistics("point")
    with pytest.raises(PriorError, match=found):
        FlowPrior.from_velocity(standard_normal, template(), mean=change(mean), std=std)


def test_more_errors_of_from_velocity() -> None:
    with pytest.raises(PriorError, match="1 standard deviations that are zero"):
        FlowPrior.from_velocity(standard_normal, template().isel(level=0)[["t"]], std=0.0)
    with pytest.raises(DaisiTypeError, match="std: found str"):
        FlowPrior.from_velocity(standard_normal, template(), std="1")  # type: ignore[arg-type]
    with pytest.raises(StateError, match=r"periodic: found \['x'\]"):
        FlowPrior.from_velocity(standard_normal, template(), periodic=("x",))
    with pytest.raises(
        PriorError, match="interpolant: found 'cubic', expected one of linear, trig"
    ):
        FlowPrior.from_velocity(standard_normal, template(), interpolant="cubic")
    with pytest.raises(DaisiTypeError, match="network: found float"):
        FlowPrior.from_velocity(1.0, template())  # type: ignore[arg-type]
    with pytest.raises(PriorError, match="interpolant: found 'trig', expected 'linear'"):
        FlowPrior.from_velocity(make().network, template(), interpolant="trig")


def test_networks_of_the_users_own_cannot_be_saved(tmp_path: Path) -> None:
    own = FlowPrior.from_velocity(standard_normal, template(), name="own")
    with pytest.raises(PriorError, match=r"prior 'own': found a network of type function.*saved"):
        own.save(tmp_path / "p.safetensors")
    module = FlowPrior.from_velocity(torch.nn.Identity(), template())
    with pytest.raises(PriorError, match="a network of type Identity"):
        module.save(tmp_path / "p.safetensors")
    assert not list(tmp_path.iterdir())


def test_a_network_of_this_package_can_be_wrapped_and_saved(tmp_path: Path) -> None:
    prior = FlowPrior.from_velocity(make().network, template(), mean=280.0)
    prior.save(tmp_path / "p.safetensors")
    assert FlowPrior.load(tmp_path / "p.safetensors").sha256 == prior.sha256 is not None


# -- flow, pickling -------------------------------------------------------------------------------


class Learned(torch.nn.Module):
    """A user's module with what changes between training and evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Conv2d(3, 3, 1)
        self.dropout = torch.nn.Dropout(0.5)

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.dropout(self.layer(x))
        return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_flow_in_any_dtype(dtype: torch.dtype) -> None:
    solver = torch.float32 if dtype == torch.bfloat16 else dtype
    x = torch.randn(2, 3, 5, 6, generator=torch.Generator().manual_seed(1)).to(solver)
    for prior in (make(), FlowPrior.from_velocity(Learned(), template())):
        assert isinstance(prior.network, torch.nn.Module)
        expected = (
            copy.deepcopy(prior.network)
            .eval()
            .double()(x.double(), torch.full((2,), 0.4, dtype=torch.float64))
        )
        velocity = prior.flow(CPU, dtype).velocity(x, 0.4)
        assert velocity.dtype == solver
        assert not velocity.requires_grad
        tolerance = {torch.float64: 1e-12, torch.float32: 1e-4, torch.bfloat16: 0.1}[dtype]
        assert (velocity - expected).abs().max() < tolerance * expected.abs().max()
        assert prior.flow(CPU, dtype) is prior.flow(CPU, dtype)


def test_flow_leaves_the_users_network_as_it_is() -> None:
    network = Learned()
    prior = FlowPrior.from_velocity(network, template())
    prior.flow(CPU, torch.float64).velocity(torch.zeros(1, 3, 5, 6, dtype=torch.float64), 0.5)
    prior.flow(CPU, torch.float32).velocity(torch.zeros(1, 3, 5, 6), 0.5)
    assert network.training
    assert all(p.requires_grad and p.dtype == torch.float32 for p in network.parameters())


def test_the_velocity_can_be_differentiated() -> None:
    flow = make().flow(CPU, torch.float32)
    x = torch.zeros(1, 3, 5, 6, requires_grad=True)
    flow.velocity(x, 0.5).sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0


@pytest.mark.parametrize("module", [pickle, cloudpickle], ids=lambda m: m.__name__)
def test_pickling(module: Any) -> None:
    prior = make()
    prior.flow(CPU, torch.float64)
    again = pickle.loads(module.dumps(prior))
    assert again.sha256 == prior.sha256
    assert again.settings == prior.settings
    assert torch.equal(sample_velocity(again), sample_velocity(prior))
    assert len(module.dumps(prior)) < 1.2 * len(module.dumps(make())), "without copies on devices"


def test_networks_of_the_users_own_travel_by_cloudpickle() -> None:
    factor = 3.0
    prior = FlowPrior.from_velocity(lambda x, t: factor * x, template())
    again = pickle.loads(cloudpickle.dumps(prior))
    x = torch.ones(1, 3, 5, 6)
    assert torch.equal(again.flow(CPU, torch.float32).velocity(x, 0.5), 3.0 * x)


# -- how it looks ---------------------------------------------------------------------------------

FACTS = (
    "toy",
    "q (specific_humidity) [kg kg-1]",
    "t [K] on level 500, 850 hPa",
    "5 points, 60 to 50 degrees_north",
    "U-Net, widths 8, 16",
    "1 static fields",
    "per point-mean",
    "1,234 states, 2001-01-01 to 2001-02-01",
    "56 states, 2001-02-02 to 2001-02-09",
    "4,000 steps of 32 states, 1.5 min on cpu",
    "training 0.25, validation 0.27 at step 3,500",
    "t_min=0.1, steps=[10, 15]",
    "CC-BY-4.0",
    "nobody",
)


def test_text() -> None:
    shown = repr(make())
    assert shown.startswith("<FlowPrior 'toy'>")
    assert all(fact in shown for fact in FACTS)
    assert str(make().sha256) in shown
    assert "a toy <prior> & more" in shown


def test_html_is_escaped_and_complete() -> None:
    shown = make(name="<script>alert(1)</script>")._repr_html_()
    assert "<script>" not in shown
    assert "&lt;script&gt;" in shown
    assert "a toy &lt;prior&gt; &amp; more" in shown
    assert all(fact in shown for fact in FACTS if fact != "toy")
    from xml.etree import ElementTree

    ElementTree.fromstring(shown)  # well-formed


def test_cards_that_say_little_are_shown() -> None:
    own = FlowPrior.from_velocity(standard_normal, template())
    assert "function" in repr(own)
    assert "sha256" not in repr(own)
    assert "3 parameters" not in repr(own)
    assert "12 parameters" in repr(FlowPrior.from_velocity(Learned(), template()))
    for training in ({}, {"loss": 0.1}, {"states": 5, "period": None}, "long ago"):
        assert "<FlowPrior" in repr(make(training=training))
    nameless = make(name=None)
    assert nameless.name == "unnamed"


def test_many_levels_are_cut_short() -> None:
    ds = xr.Dataset({"t": (("level", "x"), np.zeros((20, 5)))}, coords={"level": np.arange(20)})
    shown = repr(FlowPrior.from_velocity(standard_normal, ds))
    assert "0, 1, 2, 3, 4, 5, 6, 7, ..." in shown


def test_a_period_of_cftime_or_pandas_is_text() -> None:
    period = [str(t) for t in pd.date_range("2001", periods=2)]
    training = {"states": 5, "period": period}
    assert "5 states, 2001-01-01 00:00:00" in repr(make(training=training))
