"""H and the observations of one time as tensors, for guidance.

Interpolation is a gather and a weighted sum, with normalisation and change of units folded into the
weights; functions get state variables at the observations' places. All of it is differentiable, in
reverse, forward and twice.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from xr_daisi.averaging import Averaging, averaged
from xr_daisi.circular import periods_of
from xr_daisi.error_covariance import CovarianceBlock, Whitening
from xr_daisi.errors import OperatorError, problem
from xr_daisi.operators import GridFunction, Group, StateLayout
from xr_daisi.tensor_functions import FieldFunction, PlaceFunction
from xr_daisi.tensor_interpolation import Interpolations, Part

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from xr_daisi.state import Normalization

__all__ = ["TensorObservations"]


class TensorObservations:
    """Observations of one time as tensors, with the operator H.

    Parameters
    ----------
    values, errors : array of float, shape (n,)
        Observed values and standard deviations of their errors.
    groups : sequence of Group
        Where they lie and what they observe, in the order of the values.
    layout : StateLayout
        The state's variables and grid.
    normalization : Normalization or None
        Of the states.
    device : str or torch.device
        Where the tensors live.
    dtype : torch.dtype or None
        Of the states.
    blocks : sequence of CovarianceBlock
        Observations with correlated errors.
    averaging : Averaging, optional
        Super-observations that are made of them: values, errors and H are then theirs.

    Attributes
    ----------
    values, error_std : Tensor, shape (n,)
        In the observations' own units.
    """

    def __init__(
        self,
        values: NDArray[np.float64],
        errors: NDArray[np.float64],
        groups: Sequence[Group],
        layout: StateLayout,
        normalization: Normalization | None,
        device: str | torch.device,
        dtype: torch.dtype | None,
        *,
        blocks: Sequence[CovarianceBlock] = (),
        averaging: Averaging | None = None,
    ) -> None:
        import torch

        work = torch.promote_types(dtype or torch.float32, torch.float32)
        tensors = Interpolations(layout, normalization, torch.device(device), work)
        self._shape = (layout.channels, *layout.space_shape)
        self._parts: list[Part] = []
        for corners, run in itertools.groupby(groups, tensors.corners):
            if corners:
                self._parts.append(tensors.linear(list(run)))
            else:
                self._parts.extend(_part(group, tensors) for group in run)
        self._averages: tuple[Tensor, Tensor] | None = None
        if averaging is not None:
            self._averages = tensors.indices(averaging.group), tensors.floats(averaging.weight)
            values, errors, blocks = averaged(values, errors, blocks, averaging)
        self.values: Tensor = tensors.floats(values)
        self.error_std: Tensor = tensors.floats(errors)
        periods = periods_of(groups)
        # Circular quantities are not averaged, so they are themselves among the averages.
        if averaging is not None:
            share = averaging.weight * periods
            periods = np.bincount(averaging.group, share, len(averaging)).astype(np.float64)
        self._periods = tensors.floats(periods) if periods.any() else None
        self._whitening = Whitening(self.error_std, blocks)

    def observe(self, x: Tensor, /) -> Tensor:
        """Apply H.

        Parameters
        ----------
        x : Tensor, shape (batch, channel, *space)
            Normalised states.

        Returns
        -------
        Tensor, shape (batch, n)
            In the observations' own units.

        Raises
        ------
        OperatorError
            Where a user's function fails or returns something else than (batch, n).
        """
        import torch

        if tuple(x.shape[1:]) != self._shape:
            found, expected = (
                f"shape {tuple(x.shape)}",
                f"(batch, {', '.join(map(str, self._shape))})",
            )
            raise OperatorError(problem("state", found, expected))
        flat = x.reshape(x.shape[0], -1)
        if not self._parts:
            return flat[:, :0].to(self.values.dtype)
        parts = [part(flat) for part in self._parts]
        observed = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        if self._averages is None:
            return observed
        group, weight = self._averages
        averages = observed.new_zeros(len(x), len(self.values))
        return averages.index_add(1, group, observed * weight)

    def residual(self, observed: Tensor, /) -> Tensor:
        """Return ``y - H(x)``, of angles the shorter way round.

        Parameters
        ----------
        observed : Tensor, shape (batch, n)
            H(x).

        Returns
        -------
        Tensor, shape (batch, n)
            In the observations' own units.
        """
        return self.shorter(self.values.to(observed.dtype) - observed)

    def shorter(self, difference: Tensor, /) -> Tensor:
        """Return differences of observations (batch, n), of angles the shorter way round."""
        if self._periods is None:
            return difference
        period = self._periods.to(difference.dtype)
        turns = (difference / period.where(period > 0, 1.0)).round()
        return difference - turns * period

    def whiten(self, v: Tensor, /) -> Tensor:
        """Return ``W v`` with ``W' W = R^-1``, for v of shape (batch, n)."""
        return self._whitening.whiten(v)

    def whiten_transpose(self, v: Tensor, /) -> Tensor:
        """Return ``W' v``, for v of shape (batch, n)."""
        return self._whitening.whiten_transpose(v)

    def colour(self, v: Tensor, /) -> Tensor:
        """Return white noise v of shape (batch, n) with the covariance R of the errors."""
        return self._whitening.colour(v)


def _part(group: Group, tensors: Interpolations) -> Part:
    """H of one group."""
    function = group.operator.function
    if function is None:
        return tensors.of(group)
    if isinstance(function, GridFunction):
        return FieldFunction(group, tensors, function)
    return PlaceFunction(group, tensors, function)
