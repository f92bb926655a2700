"""Which errors of observations are correlated: a covariance that the Dataset brings, or a length.

Errors of different variables, and of different forecast times, are independent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from xr_daisi.errors import ObservationError, problem
from xr_daisi.interpolation import Floats, Ints
from xr_daisi.observation_options import ObservationOptions
from xr_daisi.units import variance_factor

if TYPE_CHECKING:
    import xarray as xr

    from xr_daisi.error_covariance import CovarianceBlock
    from xr_daisi.observation_layout import Layout
    from xr_daisi.plane import PlaneAxes

__all__ = ["ErrorStructure", "error_structure"]

LARGEST_BLOCK = 4000
"""Observations with errors correlated with each other: their matrix is dense."""


@dataclass(frozen=True, eq=False)
class ErrorStructure:
    """Correlation of the errors of one observed variable.

    Parameters
    ----------
    subject : str
        The variable, for messages.
    dim : str or None
        Dimension along which a matrix correlates errors.
    correlation : array of float, shape (m, m), or None
        That matrix.
    deviation : array of float, shape (m,), or None
        Standard deviations, where a covariance gave them.
    length : str, float or None
        Length over which errors are correlated instead.
    """

    subject: str
    dim: str | None = None
    correlation: NDArray[np.float64] | None = None
    deviation: NDArray[np.float64] | None = None
    length: str | float | None = None

    def blocks(
        self, layout: Layout, times: Ints, places: Ints, where: Floats, axes: PlaneAxes, first: int
    ) -> list[CovarianceBlock]:
        """Correlated errors among the observations of one time.

        Parameters
        ----------
        layout : Layout
            Of the variable.
        times, places : array of int, shape (n,)
            Numbers of the observations' times and places.
        where : array of float, shape (d, n)
            Their positions.
        axes : PlaneAxes
            What distances are.
        first : int
            Number of the first of them in the batch.

        Returns
        -------
        list of CovarianceBlock
            Errors outside of them, and in different ones, are independent.

        Raises
        ------
        ObservationError
            Where too many errors are correlated for a dense matrix.
        """
        from xr_daisi.error_covariance import CovarianceBlock, correlation_by_distance

        if self.correlation is not None:
            index = np.unravel_index(layout.flat_index(times, places), layout.shape)
            along = layout.dims.index(str(self.dim))
            rest = [i for k, i in enumerate(index) if k != along]
            groups = _groups(rest, places.size)
            return [
                CovarianceBlock(
                    first + g, self.correlation[np.ix_(index[along][g], index[along][g])]
                )
                for g in groups
                if g.size > 1
            ]
        length = axes.length(self.length, f"error_correlation of {self.subject}")
        vertical = [
            row for pair in layout.points.vertical.values() for part in pair for row in part
        ]
        out = []
        for group in _groups([row[places] for row in vertical], places.size):
            if group.size > LARGEST_BLOCK:
                found = f"{group.size} observations at one time with correlated errors"
                remedy = "thin them (thin=...), or leave out error_correlation"
                raise ObservationError(
                    problem(self.subject, found, f"at most {LARGEST_BLOCK}", remedy)
                )
            if group.size > 1:
                embedded = axes.embedded(where[:, group])
                out.append(
                    CovarianceBlock(first + group, correlation_by_distance(embedded, length))
                )
        return out


def _groups(columns: Sequence[NDArray[Any]], size: int) -> list[Ints]:
    """Numbers of the observations that agree in all columns, group by group."""
    if not columns:
        return [np.arange(size, dtype=np.int64)]
    _, number = np.unique(np.stack(columns), axis=1, return_inverse=True)
    number = number.reshape(-1)
    order = np.argsort(number, kind="stable").astype(np.int64)
    return list(np.split(order, np.flatnonzero(np.diff(number[order])) + 1))


def error_structure(
    ds: xr.Dataset, name: str, options: ObservationOptions, subject: str
) -> ErrorStructure | None:
    """Find how the errors of a variable are correlated.

    Parameters
    ----------
    ds : Dataset
        Observations.
    name : str
        The observed variable.
    options : ObservationOptions
        ``error_correlation`` may name a length.
    subject : str
        Name for messages.

    Returns
    -------
    ErrorStructure or None
        From ``<name>_error_covariance`` or ``<name>_error_correlation``, dimensions (d, d2) with d
        a dimension of the variable; else from a length; None for independent errors. A covariance
        is converted from its units, which are the square of the variable's where it has none.

    Raises
    ------
    ObservationError
        Where the matrix does not fit the variable, or both are given.
    UnitsError
        Where a covariance does not convert to the square of the variable's units.
    """
    length = options.of_variable("error_correlation", name)
    present = [f"{name}_error_{kind}" for kind in ("covariance", "correlation")]
    present = [other for other in present if other in ds.variables]
    if not present:
        return None if length is None else ErrorStructure(subject, length=length)
    other = present[0]
    if length is not None or len(present) > 1:
        found = " and ".join([*present, *(["error_correlation=..."] if length is not None else [])])
        raise ObservationError(problem(subject, found, "one of them"))
    variable = ds.variables[other]
    sizes, label = ds.variables[name].sizes, f"{subject}, {other}"
    along = [d for d in variable.dims if d in sizes]
    square = variable.ndim == 2 and variable.shape[0] == variable.shape[1]
    if len(along) != 1 or not square or variable.dtype.kind not in "fiu":
        found = f"dimensions {dict(variable.sizes)} and type {variable.dtype}"
        expected = f"a square matrix of numbers over one dimension of {tuple(sizes)} and its like"
        raise ObservationError(problem(label, found, expected))
    matrix = np.asarray(variable.values, dtype=np.float64)
    deviation = None
    if other.endswith("_covariance"):
        own, units = variable.attrs.get("units"), ds.variables[name].attrs.get("units")
        matrix = matrix * variance_factor(own, units, variable=label)
        variance = np.diag(matrix)
        if not (np.isfinite(variance).all() and (variance > 0).all()):
            found = "a diagonal with values that are not positive"
            raise ObservationError(problem(label, found, "positive variances"))
        deviation = np.sqrt(variance)
        matrix = matrix / np.outer(deviation, deviation)
    if not np.isfinite(matrix).all():
        raise ObservationError(problem(label, "values that are NaN or infinite", "numbers"))
    if not np.allclose(matrix, matrix.T, atol=1e-6) or not np.allclose(np.diag(matrix), 1.0):
        found = "a matrix that is not symmetric, or of another diagonal than 1"
        raise ObservationError(problem(label, found, "a covariance or correlation matrix"))
    return ErrorStructure(subject, str(along[0]), matrix, deviation)
