"""Networks for sampling: compiled where asked for, as they are where that fails."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from labelled import MEAN, QUICK, STD, forecast, stations, template

from xr_daisi import CompileWarning, FlowPrior, assimilate
from xr_daisi.inference import Compiled
from xr_daisi.networks import UNet, UNetConfig
from xr_daisi.priors import FlowPrior as Prior
from xr_daisi.state import Normalization, spec_from_dataset

ONE = np.ones((1, 1, 1))


def network_prior() -> FlowPrior:
    torch.manual_seed(0)
    network = UNet(UNetConfig(1, width=8, multipliers=(1, 2)))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0.0, 0.05)
    return Prior(network, spec_from_dataset(template()), Normalization(MEAN * ONE, STD * ONE))


def analyse(prior: FlowPrior, **more: Any) -> xr.Dataset:
    return assimilate(forecast(), stations(), prior, **{**QUICK, "steps": 2, **more})


def test_a_compiler_that_fails_is_told_and_the_result_is_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = analyse(network_prior())

    def fail(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("no C++ compiler\nand more")

    monkeypatch.setattr(torch, "compile", fail)
    with pytest.warns(
        CompileWarning, match=r"RuntimeError: no C\+\+ compiler\); it runs as it is"
    ) as w:
        found = analyse(network_prior(), compile=True)
    assert len([one for one in w if one.category is CompileWarning]) == 1
    xr.testing.assert_identical(found.drop_attrs(), expected.drop_attrs())


def test_a_compiled_network_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def compile_(network: torch.nn.Module, **kwargs: Any) -> Any:
        def run(*args: Any, **fields: Any) -> Any:
            calls.append(args[0].shape)
            return network(*args, **fields)

        return run

    monkeypatch.setattr(torch, "compile", compile_)
    prior = network_prior()
    fixed: dict[str, Any] = {"t_min": 0.2, "bridge": "auto"}
    found = analyse(prior, compile=True, **fixed)
    assert len(calls) == 3 * (2 + 2)  # three times, two steps each way
    xr.testing.assert_identical(found.drop_attrs(), analyse(prior, **fixed).drop_attrs())
    assert len(calls) == 12  # one without compiling is another one


def test_memory_is_no_reason_to_go_on_uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    def compile_(network: torch.nn.Module, **kwargs: Any) -> Any:
        def run(*args: Any) -> Any:
            raise torch.OutOfMemoryError("too much")

        return run

    monkeypatch.setattr(torch, "compile", compile_)
    with pytest.raises(torch.OutOfMemoryError):
        Compiled(torch.nn.Identity())(torch.zeros(1))
