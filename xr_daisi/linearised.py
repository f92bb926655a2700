"""The observation operator as a sparse matrix, at one state."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from xr_daisi.observation_batch import ObservationBatch

__all__ = ["linearised"]

AT_ONCE = 20_000_000
"""Numbers in the derivatives that are taken together: memory."""


def linearised(batch: ObservationBatch, state: np.ndarray) -> Any:
    """Return the derivative of H at a state.

    Parameters
    ----------
    batch : ObservationBatch
        Observations of one time, maybe averaged.
    state : ndarray
        Physical state ``(channel, *space)``, finite everywhere. Interpolations do not depend on it,
        functions do.

    Returns
    -------
    scipy.sparse.csr_array
        ``(n, channel * space)``, in units of the observations per unit of the state.
    """
    from scipy import sparse

    parts, start = [], 0
    for group in batch.groups:
        part = slice(start, start + len(group.points))
        start = part.stop
        if group.operator.function is None:
            gather = batch.layout.gather(group.operator.variables[0], group.points)
            row = np.broadcast_to(np.arange(len(group.points)), gather.index.shape)
            weight = gather.weight * group.operator.conversion.factor
            entries = weight.ravel(), (row.ravel(), gather.index.ravel())
            parts.append(sparse.csr_array(entries, shape=(len(group.points), state.size)))
        else:
            alone = np.zeros(len(batch), dtype=bool)
            alone[part] = True
            own = replace(batch, averaging=None, blocks=()).keep(alone)
            parts.append(_derivative(own, state))
    matrix = sparse.csr_array(sparse.vstack(parts))
    if batch.averaging is not None:
        average = batch.averaging
        entries = average.weight, (average.group, np.arange(len(batch)))
        matrix = sparse.csr_array(entries, shape=(len(average), len(batch))) @ matrix
    matrix.sum_duplicates()
    return matrix


def _derivative(batch: ObservationBatch, state: np.ndarray) -> Any:
    """Rows by automatic differentiation, of which most entries are zero."""
    from scipy import sparse

    x = torch.from_numpy(state[None].copy()).requires_grad_()
    with torch.enable_grad():
        observed = batch.to_tensors(None, "cpu", torch.float64).observe(x)[0]
    step, rows = max(1, AT_ONCE // state.size), []
    for first in range(0, len(batch), step):
        chosen = range(first, min(first + step, len(batch)))
        gradients = [
            torch.autograd.grad(
                observed[i], x, retain_graph=True, allow_unused=True, materialize_grads=True
            )[0]
            for i in chosen
        ]
        rows.append(sparse.csr_array(torch.stack(gradients).reshape(len(chosen), -1).numpy()))
    return sparse.vstack(rows)
