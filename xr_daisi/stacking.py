"""Variables of a forecast to one array of states, of a block as of a whole forecast."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Piece", "Stacking"]


@dataclass(frozen=True)
class Piece:
    """How one variable lies in a state.

    Attributes
    ----------
    present : tuple of bool
        Which of time, member, level and the space dimensions its array has, in this order.
    take : tuple of slice or ndarray
        What is taken along level and the space dimensions, to have the state's order.
    """

    present: tuple[bool, ...]
    take: tuple[Any, ...]


@dataclass(frozen=True)
class Stacking:
    """Puts variables along one channel dimension.

    Attributes
    ----------
    pieces : tuple of Piece
        One for each variable.
    dtype : numpy dtype
        Of the result.
    """

    pieces: tuple[Piece, ...]
    dtype: np.dtype[Any]

    def __call__(self, *arrays: np.ndarray) -> np.ndarray:
        """Stack NumPy arrays.

        Parameters
        ----------
        *arrays : ndarray
            One for each piece, its dimensions the present ones.

        Returns
        -------
        ndarray
            ``(time, member, channel, *space)``; dimensions that no array has are of size 1.
        """
        states = []
        for array, piece in zip(arrays, self.pieces, strict=True):
            state = np.asarray(array).astype(self.dtype, copy=False)
            absent = tuple(axis for axis, here in enumerate(piece.present) if not here)
            state = np.expand_dims(state, absent)
            for axis, index in enumerate(piece.take, start=2):
                state = state[(slice(None),) * axis + (index,)]
            states.append(state)
        times, members = (max(s.shape[axis] for s in states) for axis in (0, 1))
        states = [np.broadcast_to(s, (times, members, *s.shape[2:])) for s in states]
        return states[0] if len(states) == 1 else np.concatenate(states, axis=2)

    def lazy(self, arrays: Sequence[Any], shape: tuple[int, ...]) -> Any:
        """Stack NumPy and dask arrays block by block.

        Parameters
        ----------
        arrays : sequence of ndarray or dask array
            As for a call.
        shape : tuple of int
            Of the result.

        Returns
        -------
        dask array
            Chunks over times and members are those of `arrays`; a state is always whole. One
            blockwise layer: dask joins it with those that read the arrays and those that use it,
            so that a block is read by the task that needs it, wherever that runs.
        """
        import dask.array as da
        from dask.base import tokenize

        # Aligned over times and members alone: levels differ in number from variable to variable.
        aligned: list[Any] = []
        for number, (array, piece) in enumerate(zip(arrays, self.pieces, strict=True)):
            names = ("time", "member", *(f"{number}, {i}" for i in range(len(shape) - 2)))
            aligned += [da.asarray(array), _present(names, piece)]
        lazy = da.core.unify_chunks(*aligned, warn=False)[1]
        out = ("time", "member", "channel", *(f"space {i}" for i in range(len(shape) - 3)))
        pairs: list[Any] = []
        for array, piece in zip(lazy, self.pieces, strict=True):
            dims = _present(out, piece)
            whole = {axis: -1 for axis, name in enumerate(dims) if name not in ("time", "member")}
            pairs += [array.rechunk(whole), dims]
        sizes = dict(zip(out, shape, strict=True))
        have = {name for dims in pairs[1::2] for name in dims}
        return da.blockwise(
            self,
            out,
            *pairs,
            new_axes={name: size for name, size in sizes.items() if name not in have},
            adjust_chunks={name: (sizes[name],) for name in out[2:] if name in have},
            align_arrays=False,
            name=f"daisi-states-{tokenize(self, *lazy)}",
            dtype=self.dtype,
            meta=np.empty((0,) * len(shape), self.dtype),
        )


def _present(names: Sequence[str], piece: Piece) -> tuple[str, ...]:
    return tuple(name for name, here in zip(names, piece.present, strict=True) if here)
