"""The bridge behind `assimilate`: chunks, labels, and what it is not for."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from labelled import QUICK, forecast, gaussian_prior, stations

from xr_daisi import DaisiError, FlowPrior, assimilate
from xr_daisi.errors import SettingsError
from xr_daisi.localization import Places
from xr_daisi.reach import ObservedPlaces, choose_reach

FORECAST = forecast(members=6, dtype=np.float64)
OBS = stations()
PRIOR = gaussian_prior()


def analyse(ds: xr.Dataset = FORECAST, obs: xr.Dataset = OBS, **options: Any) -> xr.Dataset:
    return assimilate(ds, obs, PRIOR, **{**QUICK, **options})


def same(found: xr.Dataset, expected: xr.Dataset) -> None:
    xr.testing.assert_allclose(found.drop_attrs(), expected.drop_attrs(), rtol=1e-9)


WHOLE = analyse()


def test_it_is_the_default_and_says_what_it_chose() -> None:
    same(analyse(t_min="auto", bridge="auto"), WHOLE)
    chosen = json.loads(WHOLE.attrs["daisi_chosen"])
    assert list(chosen) == [str(t)[:19] for t in FORECAST.time.values]
    for one in chosen.values():
        assert 0.0 < one["t_min"] < 1.0
        assert 0.0 < one["bridge"] <= 1.0
        assert one["localization"] > 0.0
        assert 0.5 < one["inflation"] < 2.0
    settings = json.loads(WHOLE.attrs["daisi_settings"])
    assert (settings["t_min"], settings["bridge"]) == ("auto", "auto")
    again = assimilate(FORECAST, OBS, PRIOR, **{**QUICK, **settings})
    np.testing.assert_array_equal(again.t2m, WHOLE.t2m)


def test_a_number_for_t_min_is_the_published_method() -> None:
    published = analyse(t_min=0.2)
    same(published, analyse(t_min=0.2, bridge=0))
    assert "daisi_chosen" not in published.attrs
    few = FORECAST.isel(member=slice(3))  # too few members to conclude from
    same(analyse(few), analyse(few, t_min=0.2))
    # and the attributes say so
    for analysis, used in (
        (WHOLE, ("auto", "auto", True)),
        (published, (0.2, 0.0, False)),
        (analyse(few), (0.2, 0.0, False)),
        (analyse(few, perturb_obs=True), (0.2, 0.0, True)),
    ):
        settings = json.loads(analysis.attrs["daisi_settings"])
        assert tuple(settings[name] for name in ("t_min", "bridge", "perturb_obs")) == used


@pytest.mark.parametrize("chunks", [{"time": 1}, {"member": 2}, {"time": 2, "member": 4}])
@pytest.mark.parametrize("settings", [{}, {"bridge": 0.5, "t_min": 0.3}, {"bridge": 0}])
def test_chunks_do_not_matter(chunks: dict[str, int], settings: dict[str, Any]) -> None:
    lazy = analyse(FORECAST.chunk(chunks), **settings)
    assert lazy.chunks["member"] == FORECAST.chunk(chunks).chunks["member"]
    same(lazy.compute(scheduler="threads"), analyse(**settings))


@pytest.mark.parametrize("settings", [{}, {"bridge": 1.0, "localization": "300 km"}])
def test_columns_are_tasks(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xr_daisi.column_update.COLUMNS", 12)
    eager = analyse(**settings)
    same(eager, analyse(**settings) if settings else WHOLE)
    lazy = analyse(FORECAST.chunk(time=2, member=4), **settings)
    assert any(name.startswith("daisi-columns") for name in lazy.t2m.data.dask.layers)
    assert lazy.chunks["member"] == (4, 2)
    same(lazy.compute(scheduler="threads"), eager)


def test_a_task_names_what_went_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xr_daisi.column_update.COLUMNS", 12)
    far = OBS.isel(time=[0]).copy(deep=True)
    far.t2m[0, 0] = 1e9
    with pytest.raises(DaisiError, match="1e"):
        analyse(FORECAST.chunk(time=1, member=3), far).compute(scheduler="synchronous")


def test_times_are_independent_and_those_without_observations_stay() -> None:
    obs = OBS.isel(time=[0, 2])
    found = analyse(obs=obs)
    np.testing.assert_array_equal(found.t2m[1], FORECAST.t2m[1])
    same(found.isel(time=[0, 2]), WHOLE.isel(time=[0, 2]))
    lazy = analyse(FORECAST.chunk(time=1, member=3), obs).compute()
    same(lazy, found)


def test_inputs_stay_as_they_were() -> None:
    before, given = FORECAST.copy(deep=True), OBS.copy(deep=True)
    analyse()
    xr.testing.assert_identical(FORECAST, before)
    xr.testing.assert_identical(OBS, given)


def test_it_is_a_filter_carried_through_the_prior_where_all_is_its() -> None:
    """bridge=1 without noise: the members of the filter, whatever the prior."""
    quick = {"noise": 0.0, "inverse_noise": 0.0, "steps": 60}
    found = analyse(bridge=1.0, t_min=0.5, localization="500 km", **quick)
    other = analyse(bridge=1.0, t_min=0.8, localization="500 km", **quick)
    xr.testing.assert_allclose(found.t2m, other.t2m, atol=0.02)


def test_settings_of_the_update_go_on_top() -> None:
    relaxed = analyse(relaxation=1.0, guidance="none", bridge="auto")
    spread = analyse(guidance="none", bridge="auto").t2m.std("member").mean()
    assert float(relaxed.t2m.std("member").mean()) > float(spread)
    fixed = analyse(localization="300 km", bridge=0.5)
    chosen = json.loads(fixed.attrs["daisi_chosen"])
    assert {one["localization"] for one in chosen.values()} == {300.0}
    assert json.loads(fixed.attrs["daisi_settings"])["localization"] == "300 km"


def test_observations_far_from_linear_are_left_to_the_flow() -> None:
    cold = (OBS.t2m > 280).astype(float).drop_attrs()
    obs = xr.Dataset({"cold": cold, "cold_error": 0.0 * cold + 0.05})
    operator = {"cold": lambda s: torch.sigmoid((s["t2m"] - 280.0) * 3.0)}
    found = analyse(obs=obs, operator=operator, strength=0.1)
    shares = [one["bridge"] for one in json.loads(found.attrs["daisi_chosen"]).values()]
    assert max(shares) < 0.5, shares


@pytest.mark.parametrize(
    "options",
    [
        {"thin": "400 km"},
        {"error_correlation": {"t2m": "300 km"}},
        {"time_interpolation": "linear"},
        {"background_check": 4.0},
    ],
    ids=str,
)
def test_it_goes_with_other_options(options: dict[str, Any]) -> None:
    found = analyse(**options)
    assert np.isfinite(found.t2m).all()
    error = abs(found.t2m - FORECAST.t2m).max()
    assert float(error) > 0.1
    same(analyse(FORECAST.chunk(member=2), **options).compute(), found)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"bridge": 2.0}, r"bridge: found 2.0, expected a number in \[0, 1\], or 'auto'"),
        ({"bridge": "yes"}, "bridge: found 'yes'"),
        ({"bridge": 0.5, "t_min": 0.0}, "would be forgotten"),
        ({"localization": "300 km", "t_min": 0.2}, "localization: found a value without"),
        ({"localization": "300 km", "relaxation": 0.3, "bridge": 0}, "with bridge = 0"),
        ({"localization": "3 kg"}, "localization"),
        ({"vertical_localization": 3.0}, "vertical_localization: found a state without levels"),
        ({"method": "prior-only", "bridge": 0.5}, "does not serve method 'prior-only'"),
    ],
    ids=str,
)
def test_errors_name_the_setting(options: dict[str, Any], says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        analyse(**options)


def test_a_fixed_share_needs_members() -> None:
    with pytest.raises(SettingsError, match=r"bridge: found 0\.5 for 3 members"):
        analyse(FORECAST.isel(member=slice(3)), bridge=0.5)


def test_a_wild_observation_is_named() -> None:
    obs = OBS.copy(deep=True)
    obs.t2m[0, 0] = -9999.0
    with pytest.raises(DaisiError, match=r"t2m = -9999 with an error of 0\.5"):
        analyse(obs=obs)


@pytest.mark.parametrize(("shared", "least", "most"), [(1.0, 5.0, np.inf), (0.0, 0.0, 4.0)])
def test_reach_along_levels(shared: float, least: float, most: float) -> None:
    """Levels that vary together reach each other, independent ones do not."""
    ds = xr.Dataset(
        {"u": (("lev", "x"), np.zeros((3, 40)))},
        coords={
            "lev": ("lev", [0.0, 2.0, 4.0], {"axis": "Z", "units": "km"}),
            "x": np.arange(40.0),
        },
    )
    spec = FlowPrior.from_velocity(lambda x, t: x, ds).spec
    z = np.random.default_rng(0).standard_normal((2, 12, 3, 40))
    states = np.sqrt(shared) * z[0, :, :1] + np.sqrt(1.0 - shared) * z[1]
    y = torch.from_numpy(states[:, 0, ::10] - states[:, 0, ::10].mean(axis=0)) / 3.0
    seen = ObservedPlaces(y, Places.of(spec).at(slice(None, None, 10)), {})
    found = choose_reach(states, spec, seen).vertical
    assert least < min(found.values(), default=np.inf) <= most


def test_an_observation_reaches_the_nodes_around_it() -> None:
    """White errors ask for no reach at all; what is taken of an observation has to go somewhere."""
    x = np.arange(24.0)
    template = xr.Dataset({"u": ("x", np.zeros(24))}, coords={"x": x})
    prior = FlowPrior.from_velocity(lambda x, t: 0.0 * x, template)
    states = 0.5 * np.random.default_rng(1).standard_normal((12, 24))
    ds = xr.Dataset({"u": (("member", "x"), states)}, coords={"x": x})
    places = np.arange(2.5, 22.0, 4.0)
    obs = xr.Dataset({"u": ("obs", np.full(5, 2.0)), "u_error": ("obs", np.full(5, 0.1))})
    found = assimilate(ds, obs.assign_coords(x=("obs", places)), prior, bridge=1.0, **QUICK)
    (chosen,) = json.loads(found.attrs["daisi_chosen"]).values()
    assert chosen["localization"] >= 1.5
    moved = abs(found.u - ds.u).mean("member").values
    assert (moved[[2, 3, 6, 7]] > 0.1).all()


def test_guidance_that_cannot_take_a_part_takes_all() -> None:
    for guidance in ("dps-normalized", "none"):
        same(analyse(guidance=guidance), analyse(guidance=guidance, bridge=0))


def test_recommended_bridge_and_other_inversion_times() -> None:
    card = PRIOR.with_settings(bridge="auto")
    found = assimilate(FORECAST, OBS, card, t_min=0.0, **QUICK)
    same(found, analyse(t_min=0.0))
    again = assimilate(WHOLE, OBS, PRIOR, t_min=0.2, **QUICK)
    assert "daisi_chosen" not in again.attrs


def test_wild_observations_are_named() -> None:
    wild = OBS.isel(time=[0]).copy(deep=True)
    wild.t2m[0, :6] = 500.0
    with pytest.warns(UserWarning, match="after the analysis of .* background_check=5.*t2m = 500"):
        analyse(FORECAST, wild, bridge=0.9, t_min=0.9, guidance="none")


def test_members_on_a_flat_of_an_operator_are_not_carried_anywhere() -> None:
    """All of them saturate on the wrong side: the line through them leads to thousands."""
    x = np.arange(24.0)
    template = xr.Dataset({"u": ("x", np.zeros(24))}, coords={"x": x})
    prior = FlowPrior.from_velocity(lambda x, t: -0.5 * x, template)
    rng = np.random.default_rng(2)
    common = rng.standard_normal((12, 1))
    ds = xr.Dataset({"u": (("member", "x"), 0.2 * common - 6.0 + np.zeros(24))}, coords={"x": x})
    obs = xr.Dataset({"u": ("obs", np.full(6, 1.45)), "u_error": ("obs", np.full(6, 0.01))})
    obs = obs.assign_coords(x=("obs", x[::4]))
    options = {**QUICK, "guidance": "none", "bridge": "auto", "noise": 0.0, "inverse_noise": 0.0}
    found = assimilate(ds, obs, prior, operator={"u": "arctan"}, **options)
    (chosen,) = json.loads(found.attrs["daisi_chosen"]).values()
    assert chosen["bridge"] < 1e-3
    assert chosen["inflation"] == pytest.approx(1.0, abs=0.05)  # how wrong they do not say
    whole = assimilate(ds, obs, prior, operator={"u": "arctan"}, method="etkf")
    assert float(abs(whole.u - ds.u).max()) > 50.0  # which is what must not happen
    assert float(abs(found.u - ds.u).max()) < 5.0


def test_forecast_that_is_plainly_wrong_is_spread_whoever_takes_the_observations(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where the update takes nothing: the members that go to the flow are farther apart."""
    monkeypatch.setattr("xr_daisi.bridge.fraction_of_information", lambda *_: 0.0)
    ds, near = FORECAST.isel(time=[0]), OBS.isel(time=[0])
    found = [
        json.loads(analyse(ds, near.assign(t2m=near.t2m + off)).attrs["daisi_chosen"])
        for off in (0.0, 60.0)
    ]
    (right,), (wrong,) = (list(one.values()) for one in found)
    assert right["bridge"] == wrong["bridge"] == 0.0
    assert wrong["inflation"] > 1.5 > right["inflation"]
    assert wrong["t_min"] < right["t_min"]


def test_members_that_have_lost_the_truth_are_left_to_the_flow() -> None:
    """A line through them leads far away, above all where nothing is observed."""
    near, far = (
        json.loads(analyse(FORECAST.isel(time=[0]), obs).attrs["daisi_chosen"])
        for obs in (OBS.isel(time=[0]), OBS.isel(time=[0]).assign(t2m=OBS.t2m[[0]] + 60.0))
    )
    (right,), (wrong,) = near.values(), far.values()
    assert wrong["bridge"] < 0.5 * right["bridge"]
