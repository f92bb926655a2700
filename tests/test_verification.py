"""Scores against their formulas."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr

from xr_daisi.errors import DaisiTypeError, StateError, UnitsError
from xr_daisi.verification import ensemble_scores, overall_scores, score_table


def ensemble(members: int = 5, *, times: int = 3, seed: int = 0, spread: float = 1.0) -> xr.Dataset:
    """Calibrated: members and truth are draws around one signal."""
    rng = np.random.default_rng(seed)
    signal = np.random.default_rng(1).normal(280.0, 5.0, (times, 1, 2, 6, 7))
    values = signal + spread * rng.standard_normal((times, members, 2, 6, 7))
    coords = {"time": np.arange(times), "member": np.arange(members), "level": [850.0, 500.0]}
    dims = ("time", "member", "level", "y", "x")
    return xr.Dataset({"t": (dims, values, {"units": "K"})}, coords=coords)


def truth(*, times: int = 3, seed: int = 9) -> xr.Dataset:
    return ensemble(1, times=times, seed=seed).isel(member=0, drop=True)


def fair_crps(members: np.ndarray, true: np.ndarray) -> float:
    """Mean of |x - y| minus half the mean |x - x'| over pairs of different members."""
    m = len(members)
    skill = np.abs(members - true).mean()
    pairs = np.abs(members[:, None] - members[None]).sum(axis=(0, 1)) / (m * (m - 1))
    return float(skill - 0.5 * pairs.mean())


def test_every_time_against_the_formulas() -> None:
    ens, true = ensemble(), truth()
    scores = ensemble_scores(ens, true)
    assert scores.sizes == {"time": 3}
    np.testing.assert_array_equal(scores.time, ens.time)
    for i in range(3):
        x, y = ens.t.values[i], true.t.values[i]
        mse = np.mean((x.mean(axis=0) - y) ** 2)
        variance = x.var(axis=0, ddof=1).mean()
        assert float(scores.rmse[i]) == pytest.approx(np.sqrt(mse), rel=1e-12)
        assert float(scores.crps[i]) == pytest.approx(fair_crps(x, y), rel=1e-10)
        assert float(scores.ssr[i]) == pytest.approx(np.sqrt(6 / 5 * variance / mse), rel=1e-12)
    assert scores.rmse.attrs["units"] == scores.crps.attrs["units"] == "K"
    assert scores.ssr.attrs["units"] == "1"


@pytest.mark.parametrize("members", [2, 5, 20])
def test_calibrated_ensembles_have_ratio_one(members: int) -> None:
    ens, true = ensemble(members, times=60), truth(times=60)
    ratio = np.sqrt(float((ensemble_scores(ens, true).ssr ** 2).mean()))
    assert ratio == pytest.approx(1.0, abs=0.05)
    narrow = ensemble_scores(ensemble(members, times=60, spread=0.2), true).ssr
    assert float(narrow.mean()) < 0.5


def test_fair_crps_does_not_reward_size() -> None:
    """The expectation is that of the distribution, whatever the number of members."""
    few, many = (
        float(ensemble_scores(ensemble(m, times=100), truth(times=100)).crps.mean())
        for m in (2, 30)
    )
    assert few == pytest.approx(many, rel=0.03)


def test_without_time_and_in_any_order() -> None:
    ens, true = ensemble().isel(time=0, drop=True), truth().isel(time=0, drop=True)
    expected = ensemble_scores(ensemble(), truth()).isel(time=0)
    turned = true.transpose("x", "level", "y")
    for scores in (ensemble_scores(ens, true), ensemble_scores(ens, turned, "t")):
        assert scores.sizes == {}
        for key in ("rmse", "crps", "ssr"):
            assert float(scores[key]) == pytest.approx(float(expected[key]), rel=1e-12)


def test_lazy_data_give_the_same() -> None:
    lazy = ensemble_scores(ensemble().chunk(time=1, member=2), truth().chunk(time=1))
    assert lazy.rmse.chunks is not None
    xr.testing.assert_allclose(lazy.compute(), ensemble_scores(ensemble(), truth()))


def test_units_of_the_truth() -> None:
    celsius = truth() - 273.15
    celsius.t.attrs["units"] = "degC"
    scores = ensemble_scores(ensemble(), celsius)
    assert scores.rmse.attrs["units"] == "degC"
    expected = ensemble_scores(ensemble(), truth())
    for key in ("rmse", "crps", "ssr"):
        np.testing.assert_allclose(scores[key], expected[key], rtol=1e-9)
    celsius.t.attrs["units"] = "m"
    with pytest.raises(UnitsError, match="'m'"):
        ensemble_scores(ensemble(), celsius)
    del celsius.t.attrs["units"]
    assert "units" not in ensemble_scores(ensemble(), celsius).rmse.attrs


@pytest.mark.parametrize("where", ["truth", "ensemble"])
def test_missing_points_are_left_out_of_every_score(where: str) -> None:
    ens, true = ensemble(), truth()
    holes: Any = {"time": 1, "level": 0, "y": [0, 1]}
    damaged = (true if where == "truth" else ens).copy(deep=True)
    if where == "truth":
        damaged.t[holes] = np.nan
        found = ensemble_scores(ens, damaged)
    else:
        damaged.t[{**holes, "member": 2}] = np.nan
        found = ensemble_scores(damaged, true)
    x, y = (ds.t.values[1].copy() for ds in (ens, true))
    keep = np.ones((2, 6, 7), bool)
    keep[0, :2] = False
    x, y = x[:, keep], y[keep]
    mse = np.mean((x.mean(axis=0) - y) ** 2)
    assert float(found.rmse[1]) == pytest.approx(np.sqrt(mse), rel=1e-12)
    assert float(found.crps[1]) == pytest.approx(fair_crps(x, y), rel=1e-10)
    ratio = np.sqrt(6 / 5 * x.var(axis=0, ddof=1).mean() / mse)
    assert float(found.ssr[1]) == pytest.approx(ratio, rel=1e-12)
    expected = ensemble_scores(ens, true).isel(time=[0, 2])
    xr.testing.assert_allclose(found.isel(time=[0, 2]), expected)


def test_pairs_that_cannot_be_scored() -> None:
    ens, true = ensemble(), truth()
    for first, second, expected in (
        (ens, true.rename(t="q"), "variables t in the ensemble, q in the truth"),
        (ens.isel(member=[0]), true, "at least two members"),
        (ens.isel(member=0), true, "at least two members"),
        (ens, true.isel(time=0), r"truth: found dimensions \('level', 'y', 'x'\)"),
        (ens, ens, "truth: found dimensions"),
        (ens, true.isel(time=[0, 1]), "other coordinates"),
        (ens, true.isel(x=slice(1, None)), "other coordinates"),
        (ens, true.assign_coords(level=[850.0, 300.0]), "other coordinates"),
    ):
        with pytest.raises(StateError, match=expected):
            ensemble_scores(first, second)
    with pytest.raises(StateError, match="expected 'q' in both"):
        ensemble_scores(ens, true, "q")
    with pytest.raises(DaisiTypeError, match="truth: found DataArray"):
        ensemble_scores(ens, true.t)  # type: ignore[arg-type]


def test_inputs_are_not_changed() -> None:
    ens, true = ensemble(), truth()
    before = ens.copy(deep=True), true.copy(deep=True)
    ensemble_scores(ens, true)
    xr.testing.assert_identical(ens, before[0])
    xr.testing.assert_identical(true, before[1])


def test_table() -> None:
    true = truth()
    text = score_table({"a": ensemble(), "a name that is longer": ensemble(seed=5)}, true)
    lines = text.splitlines()
    assert lines[0].split() == ["RMSE", "(K)", "CRPS", "(K)", "SSR"]
    assert len({len(line) for line in lines}) == 1
    scores = ensemble_scores(ensemble(), true).mean()
    expected = [
        f"{float(scores.rmse):.3f}",
        f"{float(scores.crps):.3f}",
        f"{float(scores.ssr):.2f}",
    ]
    assert lines[1].split() == ["a", *expected]
    true.t.attrs["units"] = "kelvin"
    wide = score_table({"a": ensemble()}, true).splitlines()
    assert len(wide[0]) == len(wide[1])
    del true.t.attrs["units"]
    assert score_table({"a": ensemble()}, true).splitlines()[0].split() == ["RMSE", "CRPS", "SSR"]


def test_many_times_as_one_sample() -> None:
    """Pooled scores are those of a single time with all the points of all times."""
    ens, true = ensemble(), truth()
    scores = ensemble_scores(ens, true)
    together = [ds.stack(place=["time", "y"]).reset_index("place") for ds in (ens, true)]
    expected = ensemble_scores(*(ds.drop_vars(["time", "y"], errors="ignore") for ds in together))
    pooled = overall_scores(scores, pooled=True)
    for key, value in pooled.items():
        assert value == pytest.approx(float(expected[key]), rel=1e-12)
    assert overall_scores(scores)["rmse"] == pytest.approx(float(scores.rmse.mean()))
    assert overall_scores(scores)["rmse"] < pooled["rmse"]
    table = score_table({"a": ens}, true, pooled=True).splitlines()
    assert table[1].split()[1] == f"{pooled['rmse']:.3f}"
