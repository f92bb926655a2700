"""What the labelled states of all systems have in common."""

from __future__ import annotations

import numpy as np
import torch

from xr_daisi.errors import StateError, problem

__all__ = ["checked_values", "sample_coordinates"]


def checked_values(
    states: torch.Tensor | np.ndarray,
    dims: tuple[str, ...],
    shape: tuple[int, ...],
    *,
    what: str = "states",
) -> np.ndarray:
    """Return states ``(*dims, *shape)`` as a NumPy array.

    Raises
    ------
    StateError
        If the shape does not fit.
    """
    values = states.detach().cpu().numpy() if isinstance(states, torch.Tensor) else states
    values = np.asarray(values)
    if values.ndim != len(dims) + len(shape) or values.shape[len(dims) :] != shape:
        expected = f"({', '.join([*dims, *map(str, shape)])})"
        raise StateError(problem(what, f"shape {values.shape}", expected, "see dims="))
    return values


def sample_coordinates(
    values: np.ndarray, dims: tuple[str, ...], times: np.ndarray | None
) -> dict[str, object]:
    """Return the coordinates of members and times, where there are any."""
    coords: dict[str, object] = {}
    if "member" in dims:
        members = np.arange(values.shape[dims.index("member")])
        coords["member"] = ("member", members, {"standard_name": "realization"})
    if times is not None:
        coords["time"] = ("time", times, {"standard_name": "time"})
    return coords
