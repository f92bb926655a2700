"""Variables of a forecast become states, in one piece or block by block."""

from __future__ import annotations

from typing import Any

import dask.array as da
import numpy as np
import pytest
from dask.blockwise import optimize_blockwise
from labelled import QUICK, forecast, stations

from xr_daisi import assimilate, train_prior
from xr_daisi.stacking import Piece, Stacking

ALL = slice(None)
TIMES, MEMBERS, LEVELS, SIDE = 4, 6, 3, 5


def stacking(order: Any = ALL) -> tuple[Stacking, list[np.ndarray]]:
    """A variable with levels, one without, one without members, one that is a field."""
    rng = np.random.default_rng(0)
    presence = [
        (True, True, True, True, True),
        (True, True, False, True, True),
        (True, False, False, True, True),
        (False, False, True, True, True),
    ]
    sizes = (TIMES, MEMBERS, LEVELS, SIDE, SIDE)
    arrays = [
        rng.normal(size=[n for n, here in zip(sizes, present, strict=True) if here])
        for present in presence
    ]
    takes: list[tuple[Any, ...]] = [
        (np.array([2, 0]) if present[2] else ALL, order, ALL) for present in presence
    ]
    pieces = tuple(Piece(p, t) for p, t in zip(presence, takes, strict=True))
    return Stacking(pieces, np.dtype(np.float32)), arrays


def by_hand(arrays: list[np.ndarray], order: Any) -> np.ndarray:
    levels, surface, without_members, field = arrays
    out = np.empty((TIMES, MEMBERS, 6, SIDE, SIDE), np.float32)
    out[:, :, 0], out[:, :, 1] = levels[:, :, 2], levels[:, :, 0]
    out[:, :, 2] = surface
    out[:, :, 3] = without_members[:, None]
    out[:, :, 4], out[:, :, 5] = field[2], field[0]
    return out[:, :, :, order]


@pytest.mark.parametrize("order", [ALL, slice(None, None, -1), np.array([3, 0, 1, 2, 4])])
@pytest.mark.parametrize("lazy", [(), (0,), (0, 1, 2, 3)])
def test_stacks(order: Any, lazy: tuple[int, ...]) -> None:
    stack, arrays = stacking(order)
    wanted = by_hand(arrays, order)
    np.testing.assert_array_equal(stack(*arrays), wanted)
    mixed: list[Any] = [
        da.from_array(array, chunks=2) if i in lazy else array for i, array in enumerate(arrays)
    ]
    found = stack.lazy(mixed, wanted.shape)
    assert found.shape == wanted.shape
    assert found.chunks[2:] == ((6,), (SIDE,), (SIDE,))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found.compute(), wanted)


def test_a_task_reads_and_analyses_its_block() -> None:
    """Where nothing else needs them, the forecast's blocks have no tasks of their own."""
    history = forecast().isel(member=0, drop=True)
    prior = train_prior(history, max_minutes=1, steps=1, width=8, progress=False, validation=0.34)
    assert prior.holes is not None
    ds = forecast().chunk(time=1, member=2)
    blockwise = {n: v.copy(data=v.data.map_blocks(np.copy)) for n, v in ds.data_vars.items()}
    # an update of the ensemble, or a search for t_min, would need all members of a time
    lazy = assimilate(ds.assign(blockwise), stations(), prior, bridge=0.0, t_min=0.2, **QUICK)
    graph = optimize_blockwise(lazy.__dask_graph__(), keys=list(lazy.__dask_layers__()))
    names = [str(name) for name in graph.layers]
    assert any("daisi-analysis" in name for name in names)
    assert not any("daisi-states" in name or "copy" in name for name in names)
