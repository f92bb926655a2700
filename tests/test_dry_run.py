"""The dry run: counts that come true, and nothing done."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from labelled import MEAN, QUICK, STD, forecast, gaussian_prior, stations, template

from xr_daisi import AnalysisPlan, FlowPrior, assimilate
from xr_daisi.estimate import _duration, _size, evaluations
from xr_daisi.priors import Settings

FORECAST = forecast()
OBS = stations()


class Counted(torch.autograd.Function):
    """Identity that counts, per member, how often it is passed forward and backward."""

    forwards = 0
    backwards = 0

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        Counted.forwards += len(x)
        return x.clone()

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> torch.Tensor:
        Counted.backwards += len(g)
        return g


def counting_prior() -> FlowPrior:
    inner = gaussian_prior().network

    def velocity(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return inner(Counted.apply(x), t)

    return FlowPrior.from_velocity(velocity, template(), mean=MEAN, std=STD)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"solver": "euler"},
        {"solver": "heun"},
        {"t_min": 0.0},
        {"t_min": 0.0, "solver": "euler"},
        {"t_min": 0.0, "solver": "heun"},
        {"t_min": 0.0, "steps": 1},
        {"t_min": 0.0, "steps": 1, "solver": "euler"},
        {"t_min": 0.0, "steps": 1, "solver": "heun"},
        {"steps": 1},
        {"steps": (2, 3), "corrector_steps": 2},
        {"steps": (2, 3), "corrector_steps": 2, "solver": "heun"},
        {"t_min": 0.0, "steps": 3, "corrector_steps": 1},
        {"guidance": "none"},
        {"guidance": "dps", "strength": 0.01},
        {"guidance": "dps-normalized"},
        {"guidance": "dps-exact", "strength": lambda t: 0.01 * t, "batch": 3},
        {"guidance_iterations": 1},
        {"guidance_iterations": 9},
        {"strength": 0.0},
    ],
)
def test_counts_come_true(settings: dict[str, Any]) -> None:
    prior, keywords = counting_prior(), {**QUICK, **settings}
    obs = OBS.isel(time=[0, 2])
    Counted.forwards = Counted.backwards = 0
    plan = assimilate(FORECAST, obs, prior, dry_run=True, **keywords)
    assert (Counted.forwards, Counted.backwards) == (0, 0)
    assimilate(FORECAST, obs, prior, **keywords)
    searched = Counted.forwards - plan.forwards
    assert plan.backwards == Counted.backwards
    assert plan.times_with_observations == 2
    if "t_min" in keywords:
        assert searched == plan.searching == 0
    else:  # of states of 30 values, as many as have 10 000, each member as often
        assert searched % 336 == 0
        assert plan.searching == 2 * 9 * 336
        assert searched == pytest.approx(plan.searching, rel=0.7)


def test_what_it_says(raise_if_computes: Any) -> None:
    prior = gaussian_prior()
    obs = OBS.copy(deep=True)
    obs.t2m[:, 0] = np.nan
    with raise_if_computes():
        plan = FORECAST.chunk(member=1).daisi.assimilate(obs, prior, dry_run=True, batch=2, **QUICK)
    assert prior.network.calls == 0
    assert isinstance(plan, AnalysisPlan)
    assert (plan.members, plan.times, plan.batch, plan.lazy) == (4, 3, 2, True)
    assert plan.observations == {"used": 9, "missing value": 3}
    text = str(plan)
    for part in ("custom", "9 used, 3 missing value", "3, of which 3", "(2 at once)", "lazy"):
        assert part in text
    assert repr(plan) == text
    assert "<table>" in plan._repr_html_()
    assert 0.0 < plan.seconds < 10.0
    assert plan.memory_bytes > 3 * 4 * 8 * 30
    assert "in memory" in str(assimilate(FORECAST, obs, prior, dry_run=True, **QUICK))


def test_lazy_observations_are_not_read(raise_if_computes: Any) -> None:
    with raise_if_computes():
        plan = assimilate(FORECAST, OBS.chunk(time=1), gaussian_prior(), dry_run=True, **QUICK)
        str(plan)
    assert plan.lazy
    assert plan.observations == {"in place and time, value not read yet": 12}
    assert plan.times_with_observations == 3


def test_times_that_have_missing_values_only_cost_nothing() -> None:
    obs = OBS.copy(deep=True)
    obs.t2m[1] = np.nan
    plan = assimilate(FORECAST, obs, gaussian_prior(), dry_run=True, **QUICK)
    assert plan.times_with_observations == 2
    assert plan.forwards == 2 * 4 * 8


def test_evaluations_without_observations() -> None:
    assert evaluations(Settings(), 0) == (0, 0)
    assert evaluations(Settings(), 1)[1] == 20  # one observation, one iteration


def test_plans_fail_as_the_analysis_would() -> None:
    with pytest.raises(ValueError, match="no observation error"):
        assimilate(FORECAST, OBS.drop_vars("t2m_error"), gaussian_prior(), dry_run=True)
    with pytest.raises(ValueError, match="t2m"):
        assimilate(xr.Dataset(), OBS, gaussian_prior(), dry_run=True)


@pytest.mark.parametrize(
    ("count", "text"), [(999, "999 B"), (1500, "1.5 KB"), (2e6, "2 MB"), (5e12, "5e+03 GB")]
)
def test_sizes(count: float, text: str) -> None:
    assert _size(int(count)) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0123, "0.012 s"), (42.4, "42 s"), (600.0, "10 min"), (36000.0, "10.0 h")],
)
def test_durations(seconds: float, text: str) -> None:
    assert _duration(seconds) == text
