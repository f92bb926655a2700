"""Counts of values at the bounds that transforms keep analyses to."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from xr_daisi.bounds import BoundCounter, bound_variables, with_transforms
from xr_daisi.state import Normalization, StateSpec, spec_from_dataset


@pytest.mark.parametrize("transform", ["log1p", "log", "logit", "sqrt"])
def test_values_that_were_clipped_are_counted(transform: str) -> None:
    """Whatever the transform clips, and nothing else: not the other variable, not NaN."""
    fields = xr.Dataset({n: (("level", "y", "x"), np.zeros((2, 3, 4))) for n in ("t", "q")})
    spec = spec_from_dataset(fields)
    ones = np.ones((4, 1, 1))
    normalization = Normalization(0 * ones, ones, (None, None, transform, transform))
    rng = np.random.default_rng(0)
    normalised = rng.uniform(0.5, 2.0, (5, 4, 3, 4))
    normalised[:, 2, 0, :2] = -100.0  # below all bounds: ten values
    normalised[3, :, 2, 3] = np.nan
    states = normalization.denormalize(normalised).astype(np.float32)
    states[:, 0] = 0.0
    entries = with_transforms(spec.to_dict(), spec, normalization.transforms)
    assert [v.get("transform") for v in entries["variables"]] == [None, transform]
    assert StateSpec.from_dict(entries).names == spec.names
    counter = BoundCounter(spec, entries)
    for _ in range(2):
        counter.add(states)
    assert counter.counts == {"q": 20}
    assert counter.values == {"q": 2 * (5 * 24 - 2)}
    found = bound_variables(BoundCounter(spec, entries), counter)
    assert list(found) == ["q_at_bound_forecast", "q_at_bound_analysis"]
    assert found["q_at_bound_analysis"][1] == 20


def test_without_transforms_nothing_is_counted() -> None:
    spec = spec_from_dataset(xr.Dataset({"t": (("y", "x"), np.zeros((3, 4)))}))
    for entries in (None, {}, spec.to_dict(), with_transforms(spec.to_dict(), spec, ())):
        counter = BoundCounter(spec, entries)
        counter.add(np.zeros((2, 1, 3, 4)))
        assert bound_variables(counter, counter) == {}
