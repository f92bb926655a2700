"""Devices and number formats: what "auto" means."""

from __future__ import annotations

import torch

from xr_daisi.errors import SettingsError, problem

__all__ = [
    "DTYPES",
    "automatic_batch",
    "double_device",
    "fast_bfloat16",
    "resolve_device",
    "resolve_dtype",
]

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}


def resolve_device(device: str | torch.device) -> torch.device:
    """Return the device that a name means; ``"auto"`` is a GPU where there is one.

    Raises
    ------
    SettingsError
        For names torch does not know and GPUs that are not there.
    """
    if isinstance(device, str) and device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    expected = "'auto', 'cpu', 'cuda' or 'cuda:1'"
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise SettingsError(problem("device", repr(device), expected)) from error
    if found.type == "cuda":
        count = torch.cuda.device_count()
        if (found.index or 0) >= count:
            raise SettingsError(
                problem(
                    "device",
                    f"{device!r} with {count} GPUs visible to torch",
                    expected,
                    "use device='cpu' or install a CUDA build of torch",
                )
            )
    return found


def double_device(device: torch.device) -> torch.device:
    """Return the device, or the CPU where it has no double precision."""
    return torch.device("cpu") if device.type == "mps" else device


def resolve_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """Return the torch dtype of a name.

    Raises
    ------
    SettingsError
        For any other than float32, float64 and bfloat16.
    """
    name = str(dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise SettingsError(problem("dtype", repr(dtype), f"one of {', '.join(DTYPES)}"))
    return DTYPES[name]


def fast_bfloat16(device: torch.device) -> bool:
    """Tell whether bfloat16 arithmetic is native on a device, so that autocast saves time."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        # The instruction sets with bf16 dot products; without them the conversions cost more than
        # they save.
        # Newer than the oldest torch allowed.
        find = getattr(torch.cpu, "get_capabilities", None)
        found = find() if find is not None else {}
        return bool(found.get("avx512_bf16") or found.get("amx_bf16"))
    return False


POINTS_PER_BATCH = {"cpu": 1 << 17, "cuda": 1 << 22}

BYTES_PER_POINT = 8192
"""What a point of a state takes with the graph of one guided evaluation. U-Nets of this package
keep 2 kB (patch=2) to 12 kB (width=64); where it is too little, batches halve."""


def automatic_batch(points: int, device: torch.device) -> int:
    """Return how many members to push through the network at once.

    Parameters
    ----------
    points : int
        Grid points of a state.
    device : torch.device
        A CPU gains nothing from batches beyond its caches; a GPU needs them to be busy, as many
        as its free memory holds.
    """
    most = POINTS_PER_BATCH.get(device.type, 1 << 17)
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        # What torch holds in reserve is free to us.
        free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        most = min(most, free // BYTES_PER_POINT)
    return max(1, most // max(points, 1))
