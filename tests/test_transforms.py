"""Transforms of bounded variables: inverse to each other, within the physical bounds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr
from closed_form import GaussianVelocity
from labelled import LAT, LON, QUICK, TIMES, covariance, forecast, template

from xr_daisi import FlowPrior, StateError, assimilate, feedback, summary_table
from xr_daisi.feedback_statistics import feedback_summary
from xr_daisi.state import Normalization, spec_from_dataset
from xr_daisi.transforms import TRANSFORMS


@pytest.mark.parametrize("name", sorted(TRANSFORMS))
def test_round_trip_in_numpy_and_torch(name: str) -> None:
    pair = TRANSFORMS[name]
    x = np.array([1e-6, 0.1, 1.0, 30.0, 1e4])
    x = x if np.isinf(pair.upper) else np.array([0.0, 1e-6, 0.1, 0.5, 0.999, 1.0])
    there = pair.forward(x)
    np.testing.assert_allclose(pair.inverse(there), x, rtol=1e-12, atol=1e-15)
    back = pair.inverse(torch.from_numpy(there)).numpy()
    np.testing.assert_allclose(back, x, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", sorted(TRANSFORMS))
def test_inverse_stays_within_bounds(name: str) -> None:
    pair = TRANSFORMS[name]
    wild = np.array([-1e4, -1.0, 0.0, 1e4], dtype=np.float32)
    for back in (pair.inverse(wild), pair.inverse(torch.from_numpy(wild)).numpy()):
        assert (back >= 0).all()
        assert (back <= pair.upper).all()
        assert np.isfinite(back).all()


@pytest.mark.parametrize("name", sorted(TRANSFORMS))
def test_smallest_and_largest_value_allowed_are_finite(name: str) -> None:
    pair = TRANSFORMS[name]
    assert np.isfinite(pair.forward(np.float32(pair.lower)))
    assert np.isinf(pair.upper) or np.isfinite(pair.forward(np.float32(pair.upper)))


@pytest.mark.parametrize("name", sorted(TRANSFORMS))
def test_slopes_are_never_negative_and_those_inside_are_exact(name: str) -> None:
    inverse = TRANSFORMS[name].inverse
    x = torch.tensor([-3.0, -0.5, 0.3, 2.0], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(inverse(x).sum(), x)
    assert (slope > 0).all()
    assert torch.autograd.gradcheck(inverse, (x.detach()[2:].requires_grad_(),))


def bounded_prior(kind: str, mean: float, std: float) -> FlowPrior:
    """Gaussian in the transformed variable."""
    like = template(name="x", units="1", standard_name="unknown")
    c = covariance(LAT.size, LON.size)
    velocity = GaussianVelocity(torch.zeros(len(c), dtype=torch.float64), c)
    one = np.ones((1, 1, 1))
    scale = Normalization(mean * one, std * one, (kind,))
    return FlowPrior(velocity, spec_from_dataset(like), scale, card={"name": kind})


def one_point(value: float, units: str = "1") -> xr.Dataset:
    return xr.Dataset(
        {"x": ("p", [value], {"units": units})},
        {"latitude": ("p", LAT[2:3]), "longitude": ("p", LON[2:3]), "time": TIMES[0]},
    )


@pytest.mark.parametrize("guidance", ["mmps", "dps-exact"])
@pytest.mark.parametrize(
    ("kind", "mean", "std", "t_min", "start", "seen"),
    [
        ("log1p", -0.5, 0.5, 0.2, 0.0, 3.0),
        ("log1p", 0.0, 1.0, 0.6, 0.0, 3.0),
        ("sqrt", -0.5, 0.5, 0.2, 0.0, 3.0),
        ("logit", 0.0, 2.7, 0.2, 0.0, 0.7),
        ("logit", 0.0, 2.7, 0.6, 1.0, 0.3),
    ],
)
def test_guidance_takes_members_off_their_bound(
    kind: str, mean: float, std: float, t_min: float, start: float, seen: float, guidance: str
) -> None:
    """Where all members are dry and rain was measured, none stays dry."""
    ds = forecast(times=TIMES[:1], members=20).rename(t2m="x") * 0.0 + start
    ds.x.attrs = {"units": "1"}
    options = {**QUICK, "steps": 20, "guidance": guidance, "t_min": t_min}
    prior = bounded_prior(kind, mean, std)
    analysis = assimilate(ds, one_point(seen), prior, obs_error=abs(seen - start) / 10, **options)
    there = analysis.x[:, :, 2, 2].values
    assert (there != start).all()
    assert abs(there.mean() - seen) < 0.5 * abs(start - seen)
    assert (analysis.x >= 0).all()
    assert (analysis.x <= TRANSFORMS[kind].upper).all()


def test_fractions_stay_between_their_bounds_and_both_are_counted() -> None:
    """Ice concentration in percent, for a prior of fractions."""
    ds = forecast(times=TIMES[:1], members=6).rename(t2m="x") * 0.0 + 50.0
    ds.x[0, :, 0] = 0.0
    ds.x[0, :, 4, :2] = 100.0
    ds.x.attrs = {"units": "%"}
    obs = one_point(80.0, "%")
    prior = bounded_prior("logit", 0.0, 8.0)  # wide: much is clipped
    analysis = assimilate(ds, obs, prior, obs_error=5.0, **QUICK, t_min=0.2)
    assert float(analysis.x.min()) == 0.0
    assert float(analysis.x.max()) == 100.0
    found = feedback(ds, obs, analysis)
    before, after = found.x_at_bound_forecast, found.x_at_bound_analysis
    assert before.attrs["at_lower_bound"] == 6 * 6
    assert before.attrs["at_upper_bound"] == 6 * 2
    assert int(before) == 6 * 8
    assert int(after) == int((analysis.x <= 1e-3).sum() + (analysis.x >= 100 - 1e-3).sum())
    assert after.attrs["at_upper_bound"] > 0
    assert (after.attrs["lower_bound"], after.attrs["upper_bound"]) == (0.0, 1.0)
    assert "values of the analysis at their bounds" in summary_table(feedback_summary(found))
    too_much = ds + 60.0
    too_much.x.attrs = ds.x.attrs
    with pytest.raises(StateError, match=r"above 1, first .*at least 0 and at most 1 for.*'logit'"):
        assimilate(too_much, obs, prior, obs_error=5.0, **QUICK)
