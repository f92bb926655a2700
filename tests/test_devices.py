"""Devices and number formats by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from xr_daisi.devices import fast_bfloat16, resolve_device, resolve_dtype
from xr_daisi.errors import SettingsError


def test_auto_is_a_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device("auto") == torch.device("cuda")


def test_devices_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("cpu").type == "cpu"
    assert resolve_device("cuda:1") == torch.device("cuda:1")
    assert resolve_device(torch.device("cpu")) == torch.device("cpu")
    with pytest.raises(SettingsError, match=r"'cuda:2' with 2 GPUs visible.*device='cpu'"):
        resolve_device("cuda:2")


@pytest.mark.parametrize("device", ["gpu", "cuda:x", 1.5, None])
def test_unknown_devices(device: Any) -> None:
    with pytest.raises(SettingsError, match="device: found"):
        resolve_device(device)


def test_a_gpu_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(SettingsError, match="with 0 GPUs visible"):
        resolve_device("cuda")


def test_dtypes() -> None:
    assert resolve_dtype("float32") is torch.float32
    assert resolve_dtype("bfloat16") is torch.bfloat16
    assert resolve_dtype(torch.float64) is torch.float64
    with pytest.raises(SettingsError, match="dtype: found 'float16', expected one of float32"):
        resolve_dtype("float16")


def test_bfloat16_is_fast_where_the_processor_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    for flag in ("avx512_bf16", "amx_bf16"):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda f=flag: {f: True}, raising=False)
        assert fast_bfloat16(cpu)
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict, raising=False)
    assert not fast_bfloat16(cpu)
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert not fast_bfloat16(cpu)
    assert not fast_bfloat16(torch.device("meta"))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    assert fast_bfloat16(torch.device("cuda"))
