"""What guidance asks of observations: values, errors, H, and more where errors are correlated."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from xr_daisi.errors import OperatorError, problem

__all__ = ["IndependentErrors", "Observations", "StructuredObservations", "check_observed"]


class Observations(Protocol):
    """Observations of one time, as tensors on the state's device."""

    @property
    def values(self) -> Tensor:
        """Observed values, shape ``(n,)``, in the observations' own units."""
        ...

    @property
    def error_std(self) -> Tensor:
        """Standard deviation of each value's error, shape ``(n,)``, in the same units."""
        ...

    def observe(self, x: Tensor, /) -> Tensor:
        """Apply H: normalised states ``(batch, channel, *space)`` to ``(batch, n)``."""
        ...


class StructuredObservations(Observations, Protocol):
    """Observations that know more than independent errors and plain differences."""

    def residual(self, observed: Tensor, /) -> Tensor:
        """Return ``y - H(x)``, shape ``(batch, n)``; of angles the shorter way round."""
        ...

    def whiten(self, v: Tensor, /) -> Tensor:
        """Return ``W v`` with ``W' W = R^-1``, for v of shape ``(batch, n)``."""
        ...

    def whiten_transpose(self, v: Tensor, /) -> Tensor:
        """Return ``W' v``, for v of shape ``(batch, n)``."""
        ...


class IndependentErrors:
    """What `StructuredObservations` adds, for observations with independent errors.

    Parameters
    ----------
    observations : Observations
        Values and standard deviations.
    dtype : torch.dtype
        Of the residuals.
    """

    def __init__(self, observations: Observations, dtype: torch.dtype) -> None:
        self._values = observations.values.to(dtype)
        self._error_std = observations.error_std.to(dtype)

    def residual(self, observed: Tensor) -> Tensor:
        """Return ``y - H(x)``, shape ``(batch, n)``."""
        return self._values - observed

    def whiten(self, v: Tensor) -> Tensor:
        """Divide by the standard deviations, shape ``(batch, n)``."""
        return v / self._error_std

    whiten_transpose = whiten


def check_observed(observed: Tensor, time: str) -> None:
    """Raise where H of the forecast is not finite: a function outside its domain.

    Parameters
    ----------
    observed : Tensor
        H of some members, ``(batch, n)``.
    time : str
        Label for the message.

    Raises
    ------
    OperatorError
        With the number of observations concerned.
    """
    bad = ~torch.isfinite(observed).all(dim=0)
    if bad.any():
        raise OperatorError(
            problem(
                "observation operator" + (f" at {time}" if time else ""),
                f"NaN or infinite values for {int(bad.sum())} of {bad.numel()} observations of "
                "the forecast",
                "finite values",
                "correct the function in operator=..., e.g. keep its argument in its domain",
            )
        )
