"""The usable observations of one forecast time: NumPy arrays that can travel to other processes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from xr_daisi.interpolation import Ints
from xr_daisi.operators import Group, StateLayout
from xr_daisi.tensor_operators import TensorObservations

if TYPE_CHECKING:
    import torch

    from xr_daisi.state import Normalization

__all__ = ["ObservationBatch"]


@dataclass(frozen=True, eq=False)
class ObservationBatch:
    """All usable observations of one forecast time; no tensors, so it travels to other processes.

    Parameters
    ----------
    values : array of float, shape (n,)
        Observed values, in the observations' own units.
    errors : array of float, shape (n,)
        Standard deviations of their errors, in the same units; finite and positive.
    rows : array of int, shape (n,)
        Row of each observation in the plan's table.
    groups : tuple of Group
        The observed variables; their places follow each other as the values do.
    layout : StateLayout
        The state's variables and grid.
    """

    values: NDArray[np.float64]
    errors: NDArray[np.float64]
    rows: Ints
    groups: tuple[Group, ...]
    layout: StateLayout

    def __len__(self) -> int:
        return self.values.size

    def keep(self, mask: NDArray[np.bool_]) -> ObservationBatch:
        """Pick some of the observations.

        Parameters
        ----------
        mask : array of bool, shape (n,)
            Which ones stay.

        Returns
        -------
        ObservationBatch
            With those alone.
        """
        ends = np.cumsum([len(group.points) for group in self.groups])
        parts = np.split(mask, ends[:-1]) if self.groups else []
        groups = tuple(
            replace(group, points=group.points.take(np.flatnonzero(part)))
            for group, part in zip(self.groups, parts, strict=True)
        )
        return replace(
            self,
            values=self.values[mask],
            errors=self.errors[mask],
            rows=self.rows[mask],
            groups=tuple(group for group in groups if len(group.points)),
        )

    def to_tensors(
        self,
        normalization: Normalization | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype | None = None,
    ) -> TensorObservations:
        """Values, errors and H as tensors.

        Parameters
        ----------
        normalization : Normalization, optional
            Of the states that H will see; None where they are physical.
        device : str or torch.device, optional
            Where the tensors live.
        dtype : torch.dtype, optional
            Of the states; float32 by default. Half precision is raised to float32 here, since it
            cannot tell 280.1 K from 280.6 K.

        Returns
        -------
        TensorObservations
            For `xr_daisi.guidance`.
        """
        arrays = self.values, self.errors
        return TensorObservations(*arrays, self.groups, self.layout, normalization, device, dtype)
