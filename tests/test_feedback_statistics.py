"""Statistics of feedback: a scalar Gaussian system with optimal weights, and direct computation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from xr_daisi.errors import DaisiTypeError, StateError
from xr_daisi.feedback_statistics import feedback_summary
from xr_daisi.feedback_table import summary_table
from xr_daisi.feedback_values import with_value_statistics

ERROR, BACKGROUND = 1.5, 4.0  # variances
MEANINGS = ("used", "missing_value", "outside_the_grid", "withheld")


def comparison(
    values: np.ndarray,
    background: np.ndarray,
    analysis: np.ndarray,
    error: np.ndarray | float,
    *,
    dims: tuple[str, ...] = ("obs",),
    coords: dict[str, Any] | None = None,
    name: str = "t2m",
    period: float | None = None,
    **attrs: Any,
) -> xr.Dataset:
    """A feedback Dataset from observations and members in observation space."""

    def departure(members: np.ndarray) -> np.ndarray:
        own = values - members
        if period:
            own = (own + period / 2) % period - period / 2
        return own.mean(axis=0)

    units = {"units": "K", "long_name": "temperature", **attrs}
    flags = {"flag_values": np.arange(4, dtype="i1"), "flag_meanings": " ".join(MEANINGS)}
    status = np.where(np.isnan(values), 1, 0).astype("i1")
    data: dict[str, Any] = {
        name: (dims, values, units),
        f"{name}_error": (dims, np.broadcast_to(error, values.shape), units),
        f"{name}_forecast": (("member", *dims), background, units),
        f"{name}_analysis": (("member", *dims), analysis, units),
        f"{name}_o_minus_b": (dims, departure(background), units),
        f"{name}_o_minus_a": (dims, departure(analysis), units),
        f"{name}_status": (dims, status, flags),
    }
    return xr.Dataset(data, coords=coords)


def gaussian_system(n: int, members: int, seed: int = 0) -> xr.Dataset:
    """Truth and members from one distribution; weights optimal for the error of the mean."""
    rng = np.random.default_rng(seed)
    center = rng.normal(280.0, 10.0, n)
    spread = np.sqrt(BACKGROUND)
    truth = center + spread * rng.standard_normal(n)
    background = center + spread * rng.standard_normal((members, n))
    values = truth + np.sqrt(ERROR) * rng.standard_normal(n)
    own = BACKGROUND * (1 + 1 / members)
    gain = own / (own + ERROR)
    mean = background.mean(axis=0)
    analysis = mean + gain * (values - mean) + np.sqrt(1 - gain) * (background - mean)
    return comparison(values, background, analysis, np.sqrt(ERROR))


def test_a_scalar_gaussian_system() -> None:
    """Desroziers et al. recover R, HBH' and HAH', chi-square is 1, ranks are uniform."""
    n, members = 20000, 40
    ds = gaussian_system(n, members)
    found = feedback_summary(ds).isel(variable=0)
    assert int(found["count"]) == n
    own = BACKGROUND * (1 + 1 / members)  # of the mean of the members
    gain = own / (own + ERROR)
    wanted = {"error": ERROR, "background": own, "analysis": (1 - gain) * own}
    for key, variance in wanted.items():
        # each is a multiple of the mean of squared departures
        slack = 4 * variance * np.sqrt(2 / n)
        assert abs(float(found[f"{key}_variance_diagnosed"]) - variance) < slack, key
    assert float(found.error_variance) == pytest.approx(ERROR)
    assert float(found.background_variance) == pytest.approx(BACKGROUND, rel=0.02)
    assert float(found.analysis_variance) == pytest.approx((1 - gain) * BACKGROUND, rel=0.02)
    assert float(found.o_minus_b_std) == pytest.approx(np.sqrt(own + ERROR), rel=0.02)
    # The estimated variance in the denominator: slightly more than 1, by a chi-square integral.
    scale = BACKGROUND / (members - 1)
    inverse = stats.chi2(members - 1).expect(lambda s: 1 / (scale * s * (1 + 1 / members) + ERROR))
    expected = (own + ERROR) * inverse
    assert 1.0 < expected < 1.04
    assert abs(float(found.chi_square) - expected) < 4 * expected * np.sqrt(2 / n)
    histogram = found.rank_histogram.values
    assert histogram.sum() == n
    assert histogram.size == members + 1
    assert stats.chisquare(histogram).pvalue > 1e-3


def test_what_does_not_fit_shows() -> None:
    """Errors of twice the assumed deviation, members of half the spread."""
    good = gaussian_system(4000, 20)
    bold = good.assign(t2m_error=0.5 * good.t2m_error)
    found = feedback_summary(bold).isel(variable=0)
    assert float(found.error_variance_diagnosed) > 3.0 * float(found.error_variance)
    assert float(found.chi_square) > 1.2
    mean = good.t2m_forecast.mean("member")
    narrow = good.assign(t2m_forecast=mean + 0.5 * (good.t2m_forecast - mean))
    histogram = feedback_summary(narrow).rank_histogram.values[0]
    assert histogram[[0, -1]].min() > 1.5 * histogram[1:-1].max()
    assert float(feedback_summary(narrow).chi_square[0]) > 1.5


def series(seed: int = 1) -> xr.Dataset:
    """Two variables on time x station, some values missing, outside or withheld."""
    rng = np.random.default_rng(seed)
    dims, shape = ("time", "station"), (6, 4)
    coords = {
        "time": np.datetime64("2019-03-01", "ns") + np.arange(6) * np.timedelta64(6, "h"),
        "station": ["03772", "03882", "03808", "03740"],
        "latitude": ("station", [51.5, 50.9, 50.1, 51.0], {"units": "degrees_north"}),
        "longitude": ("station", [-0.5, 0.3, -5.3, -2.0]),
        "instrument": ("station", ["a", "b", "a", ""]),
    }
    parts = []
    for name, units in (("t2m", "K"), ("u10", "m s-1")):
        values = rng.normal(0.0, 2.0, shape)
        values[0, 0] = np.nan
        members = rng.normal(0.0, 1.5, (5, *shape))
        after = 0.5 * members + 0.5 * values
        ds = comparison(
            values, members, after, 0.5, dims=dims, coords=coords, name=name, units=units
        )
        for part in ("forecast", "analysis"):
            ds[f"{name}_{part}"] = ds[f"{name}_{part}"].where(ds.station != "03740")
        for part in ("o_minus_b", "o_minus_a"):
            ds[f"{name}_{part}"] = ds[f"{name}_{part}"].where(ds.station != "03740")
        ds[f"{name}_status"][:, 3] = 2
        ds[f"{name}_status"][5] = 3
        parts.append(ds)
    return xr.merge(parts, compat="override", join="outer")


def test_numbers_are_those_of_a_direct_computation() -> None:
    ds = series()
    before = ds.copy(deep=True)
    found = feedback_summary(ds)
    xr.testing.assert_identical(ds, before)
    assert found["count"].values.tolist() == [14, 14]
    assert found.units.values.tolist() == ["K", "m s-1"]
    own = ds.where(ds.u10_status == 0)
    b, a = own.u10_o_minus_b.values, own.u10_o_minus_a.values
    b, a = b[np.isfinite(b)], a[np.isfinite(a)]
    spread = own.u10_forecast.var("member", ddof=1)
    one = found.sel(variable="u10")
    expected = {
        "o_minus_b_mean": b.mean(),
        "o_minus_b_std": b.std(ddof=1),
        "o_minus_a_rms": np.sqrt((a**2).mean()),
        "background_spread": np.sqrt(spread.mean()),
        "chi_square": (own.u10_o_minus_b**2 / (1.2 * spread + 0.25)).mean(),
        "error_variance": 0.25,
        "error_variance_diagnosed": (a * b).mean(),
        "background_variance_diagnosed": ((b - a) * b).mean(),
        "analysis_variance_diagnosed": ((b - a) * a).mean(),
    }
    for key, value in expected.items():
        np.testing.assert_allclose(one[key], value, rtol=1e-12, err_msg=key)
    counts = dict(zip(found.reason.values.tolist(), one["values"].values.tolist(), strict=True))
    assert counts == {"used": 14, "missing value": 1, "outside the grid": 5, "withheld": 4}


def test_groups() -> None:
    ds = series()
    whole = feedback_summary(ds)
    by_station = feedback_summary(ds, by="station")
    assert by_station.o_minus_b_mean.dims == ("variable", "station")
    assert by_station.station.values.tolist() == ["03740", "03772", "03808", "03882"]
    np.testing.assert_array_equal(by_station.latitude, ds.latitude.sel(station=by_station.station))
    assert by_station["count"].sel(variable="t2m").values.tolist() == [0, 4, 5, 5]
    one = ds.isel(station=[1])
    for key in ("o_minus_a_std", "chi_square", "rank_histogram", "values"):
        expected = feedback_summary(one)[key]
        found = by_station[key].sel(station="03882")
        np.testing.assert_allclose(found, expected, err_msg=key)
    assert np.isnan(by_station.o_minus_b_mean.sel(station="03740")).all()
    np.testing.assert_array_equal(by_station.rank_histogram.sum("station"), whole.rank_histogram)
    np.testing.assert_array_equal(by_station["values"].sum("station"), whole["values"])
    # missing labels belong to no group
    by_instrument = feedback_summary(ds, by="instrument")
    assert by_instrument.instrument.values.tolist() == ["a", "b"]
    both = feedback_summary(ds, by=["time", "instrument"])
    assert both["count"].sizes == {"variable": 2, "time": 6, "instrument": 2}
    assert both["count"].sel(variable="t2m").values[:2].tolist() == [[1, 1], [2, 1]]
    assert both.time.dtype.kind == "M"
    unnamed = ds.drop_vars("station")
    assert feedback_summary(unnamed, "station").station.values.tolist() == [0, 1, 2, 3]
    named = ds.rename(station="p").rename_vars(p="wmo_id")
    found = feedback_summary(named, "station")
    np.testing.assert_array_equal(found.station, by_station.station)
    assert feedback_summary(ds, by="latitude").sizes["latitude"] == 4


def test_withheld_values() -> None:
    ds = series()
    found = feedback_summary(ds, status="withheld")
    assert found["count"].values.tolist() == [3, 3]
    assert found.attrs["status"] == "withheld"
    assert not any("diagnosed" in str(name) for name in found)
    own = ds.isel(time=5, station=slice(3))
    expected = own.t2m_o_minus_a**2 / (1.2 * own.t2m_analysis.var("member", ddof=1) + 0.25)
    np.testing.assert_allclose(found.analysis_chi_square[0], expected.mean())


def test_a_list_of_feedbacks_is_one() -> None:
    ds = series()
    parts = [ds.isel(station=[0, 1]), ds.isel(station=[2, 3])]
    xr.testing.assert_allclose(feedback_summary(parts), feedback_summary(ds))
    parts[1] = parts[1].drop_vars([n for n in ds.data_vars if str(n).startswith("u10")])
    found = feedback_summary(parts)
    assert found["count"].values.tolist() == [14, 9]
    parts[1].t2m.attrs["units"] = "degC"
    with pytest.raises(StateError, match=r"t2m: found units \['K', 'degC'\]"):
        feedback_summary(parts)


def test_ranks() -> None:
    """Of a member far below and one far above, whatever the noise; and each value's own noise."""
    values = np.array([[1.0, -100.0, np.nan], [100.0, 1.0, 1.0]])
    members = np.stack([np.full((2, 3), -30.0), np.full((2, 3), 30.0)])
    members[0, 1, 2] = np.nan
    ds = comparison(values, members, members, 1.0, dims=("time", "station"))
    found = with_value_statistics(ds)
    np.testing.assert_array_equal(found.t2m_rank, [[1, 0, np.nan], [2, 1, np.nan]])
    expected = (values - members.mean(0)) / np.sqrt(1.5 * members.var(0, ddof=1) + 1.0)
    np.testing.assert_allclose(found.t2m_normalized_o_minus_b, expected)
    assert found.t2m_rank.attrs["valid_range"].tolist() == [0.0, 2.0]

    ds = series()
    found = with_value_statistics(ds)
    turned = ds.isel(station=[2, 0, 3, 1], time=[4, 1, 0]).transpose("station", ...)
    again = with_value_statistics(turned).transpose("time", "station", ...)
    expected_ranks = found.t2m_rank.isel(station=[2, 0, 3, 1], time=[4, 1, 0])
    np.testing.assert_array_equal(again.t2m_rank, expected_ranks)
    assert (with_value_statistics(ds, seed=1).t2m_rank != found.t2m_rank).any()


def test_ties_are_broken_evenly() -> None:
    """Errors too small for double precision: all members equal the observation."""
    n, members = 6000, 5
    values = np.full(n, 280.0)
    same = np.full((members, n), 280.0)
    ds = comparison(values, same, same, 0.0)
    ranks = with_value_statistics(ds).t2m_rank.values.astype(int)
    assert stats.chisquare(np.bincount(ranks, minlength=members + 1)).pvalue > 1e-3


def test_directions_go_the_shorter_way_round() -> None:
    """The same system around 0 degrees, and turned by half a circle."""
    rng = np.random.default_rng(2)
    n, members = 300, 8
    background = rng.normal(0.0, 10.0, (members, n))
    values = rng.normal(0.0, 12.0, n)
    analysis = 0.4 * background + 0.6 * values
    attrs = {"units": "degree", "standard_name": "wind_from_direction"}
    results = []
    for turn in (0.0, 180.0):
        parts = [(part + turn) % 360.0 for part in (values, background, analysis)]
        ds = comparison(*parts, 6.0, period=360.0, **attrs)
        ds = ds.assign_coords(obs=np.arange(n))
        results.append(feedback_summary(ds))
    for key in ("o_minus_b_std", "background_spread", "chi_square", "analysis_variance_diagnosed"):
        np.testing.assert_allclose(results[0][key], results[1][key], rtol=1e-9)
    assert float(results[0].background_spread[0]) == pytest.approx(10.0, rel=0.05)
    histograms = [result.rank_histogram.values[0] for result in results]
    # apart from each value's own noise the ranks are the same
    assert stats.chi2_contingency(np.stack(histograms)).pvalue > 1e-3


def test_a_single_member_has_no_spread() -> None:
    ds = gaussian_system(50, 2).isel(member=[0])
    for one in (ds, ds.isel(member=0)):
        found = feedback_summary(one)
        assert np.isnan(found.background_spread).all()
        assert np.isnan(found.chi_square).all()
        assert found.rank_histogram.values.sum() == 50
        assert np.isfinite(found.error_variance_diagnosed).all()
        assert "-" in summary_table(found)


@pytest.mark.filterwarnings("ignore:The data type .FixedLengthUTF32")
def test_files(tmp_path: Path) -> None:
    ds = with_value_statistics(series())
    found = feedback_summary(ds, ["time", "station"])
    for one, name in ((ds, "feedback"), (found, "summary")):
        one.to_netcdf(tmp_path / f"{name}.nc")
        one.to_zarr(tmp_path / f"{name}.zarr", consolidated=False)
        with xr.open_dataset(tmp_path / f"{name}.nc") as again:
            xr.testing.assert_allclose(again.load(), one)
        again = xr.open_zarr(tmp_path / f"{name}.zarr", consolidated=False)
        xr.testing.assert_allclose(again.load(), one)
        if name == "feedback":
            # a Zarr store lists its variables in no fixed order
            summary = feedback_summary(again, ["time", "station"]).sel(variable=found["variable"])
            xr.testing.assert_allclose(summary, found)


def test_the_table() -> None:
    ds = series().assign(
        tp_at_bound_forecast=((), 7), tp_at_bound_analysis=((), 9, {"values": 1200})
    )
    text = summary_table(feedback_summary(ds, "station"))
    lines = text.splitlines()
    assert lines[1].split()[:3] == ["variable", "station", "values"]
    assert sum("t2m (K)" in line for line in lines) == 6  # three stations, two tables
    assert "03740" not in text
    assert "t2m: 14 used, 1 missing value, 5 outside the grid, 4 withheld" in lines
    assert (
        lines[-1] == "tp: 9 of 1,200 values of the analysis at their lower bound, 7 of the forecast"
    )
    assert max(map(len, lines)) < 120
    assert "chi2 A" in summary_table(feedback_summary(ds, status="withheld"))
    with pytest.raises(StateError, match=r"a result of xr_daisi\.feedback_summary"):
        summary_table(ds)


def test_what_is_no_feedback() -> None:
    ds = series()
    with pytest.raises(DaisiTypeError, match="found str"):
        feedback_summary("feedback.nc")  # type: ignore[arg-type]
    with pytest.raises(StateError, match=r"forecast\.daisi\.feedback"):
        feedback_summary(ds.drop_vars(["t2m_status", "u10_status"]))
    with pytest.raises(StateError, match="an empty list"):
        feedback_summary([])
    with pytest.raises(StateError, match="2 problems") as caught:
        feedback_summary(ds, ["height", "buoy"])
    assert "expected one of instrument, latitude" in str(caught.value)
    with pytest.raises(StateError, match="'good', expected one of 'used', 'missing value'"):
        feedback_summary(ds, status="good")
    nowhere = ds.assign_coords(instrument=("station", ["", "", "", ""]))
    with pytest.raises(StateError, match="'instrument' missing everywhere"):
        feedback_summary(nowhere, "instrument")
    with pytest.raises(StateError, match="groups along dimensions of 't2m'"):
        feedback_summary(ds, "member")
