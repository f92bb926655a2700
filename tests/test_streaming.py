"""Streaming of training states: statistics, batches, memory, messages."""

from __future__ import annotations

from typing import Any

import dask.array
import numpy as np
import pandas as pd
import pytest
import xarray as xr

from xr_daisi.errors import StateError
from xr_daisi.state import spec_from_dataset
from xr_daisi.streaming import History, Statistics
from xr_daisi.transforms import TRANSFORMS

TIMES = 37


def values(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(3.0, 2.0, shape)


def dataset(*, members: int = 0, levels: int = 0, times: int = TIMES) -> xr.Dataset:
    """Two variables, one of them on levels; dimensions of the second in another order."""
    coords: dict[str, Any] = {
        "time": pd.date_range("2020-01-01", periods=times, freq="6h"),
        "lat": [10.0, 11.0, 12.0],
        "lon": [0.0, 1.0, 2.0, 3.0],
    }
    first = values(times, 3, 4, seed=1)
    data: dict[str, Any] = {"t2m": (("time", "lat", "lon"), first)}
    dims: tuple[str, ...] = ("time", "lat", "lon")
    shape: tuple[int, ...] = (times, 3, 4)
    if levels:
        coords["level"] = np.arange(levels) * 100.0 + 500.0
        dims, shape = ("level", *dims), (levels, *shape)
    if members:
        coords["member"] = np.arange(members)
        dims, shape = (*dims, "member"), (*shape, members)
        data["t2m"] = (("member", "time", "lat", "lon"), values(members, times, 3, 4, seed=1))
    data["q"] = (dims, values(*shape, seed=2))
    return xr.Dataset(data, coords=coords)


def history(ds: xr.Dataset, transforms: dict[str, str] | None = None, **options: Any) -> History:
    return History(ds, spec_from_dataset(ds, what="history"), transforms or {}, **options)


def stack(ds: xr.Dataset) -> np.ndarray:
    """The states as History orders them, by plain NumPy."""
    t2m = ds.t2m.transpose("time", *(["member"] if "member" in ds.dims else []), "lat", "lon")
    first = t2m.values.reshape(-1, 1, 3, 4)
    extra = [d for d in ("member", "level") if d in ds.dims]
    q = ds.q.transpose("time", *extra, "lat", "lon").values
    return np.concatenate([first, q.reshape(first.shape[0], -1, 3, 4)], axis=1)


KINDS = [(0, 0), (3, 0), (0, 2), (3, 2)]


@pytest.mark.parametrize(("members", "levels"), KINDS)
@pytest.mark.parametrize("chunks", [None, {"time": 5}, {"time": 8, "lat": 2}], ids=str)
def test_states_are_read_in_channel_order(
    members: int, levels: int, chunks: dict[str, int] | None
) -> None:
    ds = dataset(members=members, levels=levels)
    expected = stack(ds)
    source = history(ds if chunks is None else ds.chunk(chunks))
    per_time = members or 1
    np.testing.assert_array_equal(source.read(0, TIMES), expected.astype(np.float32))
    np.testing.assert_array_equal(
        source.read(7, 11), expected[7 * per_time : 11 * per_time].astype(np.float32)
    )
    assert source.read(7, 11).dtype == np.float32


@pytest.mark.parametrize(("members", "levels"), KINDS)
@pytest.mark.parametrize("pool", [1 << 30, 2000])
@pytest.mark.parametrize("chunked", [False, True])
def test_statistics_are_those_of_numpy(members: int, levels: int, pool: int, chunked: bool) -> None:
    ds = dataset(members=members, levels=levels)
    part = stack(ds.isel(time=slice(4, 30))).astype(np.float32).astype(float)
    found = history(ds.chunk(time=5) if chunked else ds, pool_bytes=pool).statistics(4, 30)
    np.testing.assert_allclose(found.mean, part.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(found.variance, part.var(axis=0), rtol=1e-5)
    assert found.count == part.shape[0]


def test_statistics_of_large_numbers_keep_their_variance() -> None:
    ds = dataset()
    ds["t2m"] = 1e5 + ds.t2m
    found = history(ds, pool_bytes=2000).statistics(0, TIMES)
    part = ds.t2m.values.astype(np.float32).astype(float)
    np.testing.assert_allclose(found.variance[0], part.var(axis=0), rtol=1e-5)


def test_kinds_of_normalisation() -> None:
    x = values(50, 2, 3, 4)
    found = Statistics(x.mean(axis=0), x.var(axis=0), 50)
    each = found.normalization("variable", (None, None))
    assert each.mean.shape == each.std.shape == (2, 1, 1)
    np.testing.assert_allclose(each.mean.ravel(), x.mean(axis=(0, 2, 3)))
    np.testing.assert_allclose(each.std.ravel(), x.std(axis=(0, 2, 3)))
    point = found.normalization("point", (None, None))
    np.testing.assert_allclose(point.std, x.std(axis=0))
    mixed = found.normalization("point-mean", (None, None))
    np.testing.assert_allclose(mixed.mean, x.mean(axis=0))
    anomalies = x - x.mean(axis=0)
    np.testing.assert_allclose(mixed.std.ravel(), anomalies.std(axis=(0, 2, 3)))


def test_points_that_never_vary_stay_finite() -> None:
    x = values(50, 1, 3, 4)
    x[:, :, 0, 0] = 7.0
    normalization = Statistics(x.mean(axis=0), x.var(axis=0), 50).normalization("point", (None,))
    assert (normalization.std > 0).all()
    assert np.isfinite(normalization.normalize(x)).all()


def test_statistics_pooled_along_a_dimension() -> None:
    x = values(50, 2, 3, 4) + np.arange(4.0)
    found = Statistics(x.mean(axis=0), x.var(axis=0), 50).averaged((2,))
    assert found.mean.shape == (2, 3, 4)
    np.testing.assert_allclose(found.mean, np.broadcast_to(x.mean((0, 3))[..., None], (2, 3, 4)))
    np.testing.assert_allclose(found.variance, np.broadcast_to(x.var((0, 3))[..., None], (2, 3, 4)))
    assert found.count == 200


def batches(source: History, size: int, *, epoch: int = 0, seed: int = 0) -> list[np.ndarray]:
    return list(source.batches(2, 35, size, seed=seed, epoch=epoch))


def labels(parts: list[np.ndarray]) -> list[float]:
    """One number that tells a state from all others."""
    return [float(state[0, 0, 0]) for part in parts for state in part]


@pytest.mark.parametrize("members", [0, 3])
@pytest.mark.parametrize("size", [1, 4, 7])
@pytest.mark.parametrize("pool", [1 << 30, 1500, 1])
@pytest.mark.parametrize("chunks", [None, 5, 1])
def test_an_epoch_sees_each_state_once(
    members: int, size: int, pool: int, chunks: int | None
) -> None:
    ds = dataset(members=members)
    everything = labels([stack(ds.isel(time=slice(2, 35))).astype(np.float32)])
    source = history(ds if chunks is None else ds.chunk(time=chunks), pool_bytes=pool)
    seen = labels(batches(source, size))
    assert len(seen) == len(set(seen)) == len(everything) - len(everything) % size
    assert set(seen) <= set(everything)
    assert all(part.shape == (size, 2, 3, 4) for part in batches(source, size))


@pytest.mark.parametrize("pool", [1 << 30, 1500])
def test_order_depends_on_seed_and_epoch_alone(pool: int) -> None:
    def order(**options: Any) -> list[float]:
        return labels(batches(history(dataset().chunk(time=4), pool_bytes=pool), 4, **options))

    source = history(dataset().chunk(time=4), pool_bytes=pool)
    first = labels(batches(source, 4))
    assert labels(batches(source, 4)) == first, "a second look at the same epoch"
    assert order() == first
    assert order(epoch=1) != first
    assert order(seed=1) != first
    assert first != sorted(first)


def test_a_history_shorter_than_a_batch_is_one_batch() -> None:
    parts = batches(history(dataset()), 100)
    assert [part.shape[0] for part in parts] == [33]


def test_a_small_history_is_read_once() -> None:
    source, reads = counting(dataset().chunk(time=5))
    source.statistics(2, 35)
    for epoch in range(3):
        batches(source, 4, epoch=epoch)
    assert sum(reads) <= 8 * 5 * 2 * 12 * 8  # each chunk of float64 once


def counting(ds: xr.Dataset, **options: Any) -> tuple[History, list[int]]:
    """A history whose chunks note their bytes when they are computed."""
    reads: list[int] = []

    def noted(block: np.ndarray) -> np.ndarray:
        reads.append(block.nbytes)
        return block

    lazy = ds.map(
        lambda da: da.copy(data=dask.array.map_blocks(noted, da.data, dtype=da.dtype, meta=da.data))
    )
    return history(lazy, **options), reads


def test_lazy_data_bigger_than_the_pool_are_never_loaded_at_once() -> None:
    ds = dataset(times=400)[["t2m"]].chunk(time=10)
    pool = 4 * 12 * 40  # bytes of 40 states
    source, reads = counting(ds, pool_bytes=pool)
    seen, loaded = 0, []
    read = source.read

    def watched(start: int, stop: int) -> np.ndarray:
        x = read(start, stop)
        loaded.append(x.nbytes)
        return x

    source.read = watched  # type: ignore[method-assign]
    source.statistics(0, 400)
    assert max(loaded) <= pool / 4
    assert not source._memory, "nothing is kept"
    reads.clear()
    for batch in source.batches(0, 400, 8, seed=0, epoch=0):
        seen += batch.shape[0]
        # At most the pool in use and the one read ahead, whatever has not been trained on.
        ahead = sum(reads) // (8 * 12) - seen
        assert ahead <= 2 * 40 + 8
    assert seen == 400
    assert sum(reads) == 400 * 12 * 8, "every chunk once per epoch"


def test_blocks_follow_chunks() -> None:
    source = history(dataset().chunk(time=10))
    assert source.blocks(3, 35) == [(3, 10), (10, 20), (20, 30), (30, 35)]


@pytest.mark.parametrize("name", ["log1p", "log", "sqrt"])
def test_transforms_come_before_statistics(name: str) -> None:
    ds = np.exp(dataset() / 4.0)
    source = history(ds, {"q": name})
    assert source.transforms == (None, name)
    function = {"log1p": np.log1p, "log": np.log, "sqrt": np.sqrt}[name]
    before = ds.copy(deep=True)
    np.testing.assert_allclose(
        source.read(0, TIMES)[:, 1], function(ds.q.values.astype(np.float32)), rtol=1e-6
    )
    xr.testing.assert_identical(ds, before)
    found = source.statistics(0, TIMES).normalization("variable", source.transforms)
    normal = found.normalize(stack(ds))
    np.testing.assert_allclose(normal.mean(axis=(0, 2, 3)), 0.0, atol=1e-5)
    np.testing.assert_allclose(found.denormalize(normal), stack(ds), rtol=1e-5)


def test_values_below_a_transform_are_named() -> None:
    ds = dataset()
    with pytest.raises(StateError, match=r"'q': found values down to -.*at least 0 .*'log1p'"):
        history(ds, {"q": "log1p"}).read(0, TIMES)


def test_fractions_are_no_percent() -> None:
    ds = np.exp(dataset() / 4.0)
    share = ds / ds.max()
    normal = history(share, {"q": "logit"}).read(0, TIMES)[:, 1]
    back = TRANSFORMS["logit"].inverse(normal)
    np.testing.assert_allclose(back, share.q.values.reshape(back.shape), atol=1e-6)
    percent = r"'q': found values up to 100, expected at least 0 and at most 1 .*percent"
    with pytest.raises(StateError, match=percent):
        history(100.0 * share, {"q": "logit"}).read(0, TIMES)


def test_a_value_too_small_for_the_logarithm_in_float32() -> None:
    ds = np.exp(dataset())
    ds.q[3, 0, 0] = 1e-60
    with pytest.raises(StateError, match="'q': found values down to 0"):
        history(ds, {"q": "log"}).read(0, TIMES)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300])
def test_values_that_are_not_finite_are_placed(bad: float) -> None:
    ds = dataset(members=3, levels=2)
    ds.q.loc[{"time": "2020-01-03T06", "level": 600.0, "lat": 11.0, "lon": 3.0, "member": 1}] = bad
    source = history(ds.chunk(time=4))
    with pytest.raises(StateError) as error:
        source.statistics(0, TIMES)
    text = str(error.value)
    assert "history variable 'q': found 1 values that are not finite" in text
    for place in ("time=2020-01-03T06:00", "level=600.0", "lat=11.0", "lon=3.0", "member=1"):
        assert place in text
    assert "fill them or leave out" in text


def test_place_without_coordinates_is_an_index() -> None:
    ds = xr.Dataset({"a": (("time", "x"), values(20, 5))})
    ds.a[13, 2] = np.nan
    with pytest.raises(StateError, match=r"first at time=13, x=2,"):
        history(ds.chunk(time=3)).statistics(0, 20)


def test_members_without_time_are_states() -> None:
    ds = dataset(members=3).isel(time=0, drop=True)
    source = history(ds)
    assert (source.along, source.inner, source.size, source.per_time) == ("member", None, 3, 1)
    assert source.read(1, 3).shape == (2, 2, 3, 4)


def test_a_variable_without_the_member_dimension_is_repeated() -> None:
    ds = dataset(members=3)
    ds["t2m"] = ds.t2m.isel(member=0, drop=True)
    x = history(ds).read(0, 4)
    assert x.shape == (12, 2, 3, 4)
    np.testing.assert_array_equal(x[0, 0], x[2, 0])


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda ds: ds.isel(time=0), r"history: found dimensions .*expected a time"),
        (
            lambda ds: ds.isel(time=[0, 1, 1, 2]),
            r"times that repeat, first 2020-01-01 06.*drop_dup",
        ),
        (lambda ds: ds.isel(time=[0, 2, 1]), r"not in order.*ds.sortby\('time'\)"),
        (lambda ds: ds.assign_coords(time=[np.datetime64("NaT"), *ds.time.values[1:]]), "missing"),
        (lambda ds: ds.assign(q=ds.q.astype(str)), r"variable 'q': found values of type <U"),
    ],
    ids=["no time", "duplicates", "order", "NaT", "text"],
)
def test_histories_that_cannot_be_used(change: Any, found: str) -> None:
    with pytest.raises(StateError, match=found):
        history(change(dataset()))


def test_calendars_other_than_the_standard_one() -> None:
    ds = dataset().assign_coords(
        time=xr.date_range("2000-02-28", periods=TIMES, calendar="noleap", use_cftime=True)
    )
    ds.q[3, 0, 0] = np.nan
    with pytest.raises(StateError, match="time=2000-03-03"):
        history(ds).statistics(0, TIMES)
