"""Transforms of bounded variables: inverse to each other, within the physical bounds."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from xr_daisi.transforms import TRANSFORMS


@pytest.mark.parametrize("name", sorted(TRANSFORMS))
def test_round_trip_in_numpy_and_torch(name: str) -> None:
    pair = TRANSFORMS[name]
    x = np.array([1e-6, 0.1, 1.0, 30.0, 1e4])
    there = pair.forward(x)
    np.testing.assert_allclose(pair.inverse(there), x, rtol=1e-12)
    np.testing.assert_allclose(pair.inverse(torch.from_numpy(there)).numpy(), x, rtol=1e-12)


@pytest.mark.parametrize("name", sorted(TRANSFORMS))
def test_inverse_stays_within_bounds(name: str) -> None:
    pair = TRANSFORMS[name]
    wild = np.array([-1e4, -1.0, 0.0, 1e4], dtype=np.float32)
    for back in (pair.inverse(wild), pair.inverse(torch.from_numpy(wild)).numpy()):
        assert (back >= 0).all()
        assert np.isfinite(back).all()


@pytest.mark.parametrize("name", sorted(TRANSFORMS))
def test_smallest_value_allowed_is_finite(name: str) -> None:
    pair = TRANSFORMS[name]
    assert np.isfinite(pair.forward(np.float32(pair.lower)))
