"""Pictures: what is in the six panels."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import xr_daisi
from xr_daisi.errors import DaisiTypeError, SettingsError, StateError
from xr_daisi.field_plots import _middle
from xr_daisi.plot_accessor import DaisiPlots
from xr_daisi.plotting import (
    plot_analysis,
    plot_feedback,
    plot_increments,
    plot_map,
    plot_rank_histogram,
    plot_reliability,
    plot_scores,
    plot_spectrum,
    plot_spread_skill,
)
from xr_daisi.verification import (
    ensemble_scores,
    increments,
    power_spectrum,
    rank_histogram,
    reliability,
    spread_skill,
)

Y, X = np.arange(6) * 10.0, np.arange(9) * 10.0


def fields(*, lat_lon: bool = False) -> tuple[xr.Dataset, xr.Dataset, xr.Dataset, xr.Dataset]:
    """Forecast, analysis, observations and truth of one time."""
    rng = np.random.default_rng(0)
    if lat_lon:
        names = ("latitude", "longitude")
        axes: dict[str, Any] = {
            "latitude": ("latitude", np.linspace(65.0, 55.0, 6), {"units": "degrees_north"}),
            "longitude": ("longitude", np.linspace(-8.0, 8.0, 9), {"units": "degrees_east"}),
        }
    else:
        names = ("y", "x")
        axes = {"y": ("y", Y, {"units": "km", "long_name": "northward"}), "x": ("x", X)}
    attrs = {"units": "K", "long_name": "temperature"}
    true = rng.normal(280.0, 5.0, (6, 9))
    truth = xr.Dataset({"t": (names, true, attrs)}, coords=axes)
    forecast, analysis = (
        xr.Dataset(
            {"t": (("member", *names), true + s * rng.standard_normal((4, 6, 9)), attrs)},
            coords=axes,
        )
        for s in (2.0, 0.5)
    )
    places = {
        name: ("station", rng.choice(truth[name].values, 12), truth[name].attrs) for name in names
    }
    obs = xr.Dataset({"t": ("station", rng.normal(280.0, 5.0, 12), {"units": "K"})}, coords=places)
    return forecast, analysis, obs, truth


def panels(figure: Figure) -> dict[str, Axes]:
    """Axes of a drawn figure by title."""
    figure.savefig(io.BytesIO(), format="png", dpi=40)
    return {axis.get_title(): axis for axis in figure.axes if axis.get_title()}


def values(axis: Axes) -> np.ndarray:
    array = axis.collections[0].get_array()
    assert array is not None
    return np.ma.filled(np.ma.asarray(array, float), np.nan).ravel()


def test_six_panels() -> None:
    forecast, analysis, obs, truth = fields()
    before = [ds.copy(deep=True) for ds in (forecast, analysis, obs, truth)]
    figure = plot_analysis(forecast, analysis, obs, truth, "t", title="a test")
    drawn = panels(figure)
    error = {n: ds.t.mean("member") - truth.t for n, ds in (("f", forecast), ("a", analysis))}
    rmse = {name: float(np.sqrt((e**2).mean())) for name, e in error.items()}
    expected = {
        "truth": truth.t,
        "forecast mean": forecast.t.mean("member"),
        "analysis mean": analysis.t.mean("member"),
        "observations (12)": obs.t,
        f"forecast mean − truth, RMSE {rmse['f']:.2f} K": error["f"],
        f"analysis mean − truth, RMSE {rmse['a']:.2f} K": error["a"],
    }
    assert set(drawn) == set(expected)
    for title, field in expected.items():
        np.testing.assert_allclose(values(drawn[title]), field.values.ravel())
    limits = [drawn[t].collections[0].get_clim() for t in list(expected)[:4]]
    assert len(set(limits)) == 1
    assert drawn["truth"].get_ylabel() == "northward (km)"
    assert drawn["observations (12)"].get_xlabel() == "x"
    bars = [axis.get_ylabel() for axis in figure.axes if not axis.get_title()]
    assert bars == ["temperature (K)", "error (K)"]
    low, high = drawn[list(expected)[4]].collections[0].get_clim()
    assert low == -high
    assert figure.get_suptitle() == "a test"
    boxes = [axis.get_position() for axis in drawn.values()]  # all of one size
    assert np.ptp([box.width for box in boxes]) < 1e-6
    assert np.ptp([box.height for box in boxes]) < 1e-6
    for ds, old in zip((forecast, analysis, obs, truth), before, strict=True):
        xr.testing.assert_identical(ds, old)


def test_places_of_observations() -> None:
    forecast, analysis, obs, truth = fields()
    axis = panels(plot_analysis(forecast, analysis, obs, truth, "t"))["observations (12)"]
    offsets = np.asarray(axis.collections[0].get_offsets())
    np.testing.assert_allclose(offsets, np.stack([obs.x, obs.y], axis=1))


def test_degrees_of_longitude_are_shorter() -> None:
    forecast, analysis, obs, truth = fields(lat_lon=True)
    drawn = panels(plot_analysis(forecast, analysis, obs, truth, "t"))
    for axis in drawn.values():
        assert axis.get_aspect() == pytest.approx(2.0)  # 1 / cos 60°
        assert axis.get_ylim()[1] > axis.get_ylim()[0]  # north is up
    assert all(axis.get_aspect() == 1.0 for axis in panels(plot_analysis(*fields(), "t")).values())


def test_dimensions_in_any_order_and_longitudes_of_either_kind() -> None:
    forecast, analysis, obs, truth = fields(lat_lon=True)
    expected = panels(plot_analysis(forecast, analysis, obs, truth, "t"))
    turned = truth.transpose("longitude", "latitude").expand_dims("time")
    moved = obs.assign_coords(longitude=obs.longitude % 360.0)
    found = panels(
        plot_analysis(forecast.transpose(), analysis.expand_dims("time"), moved, turned, "t")
    )
    for title, axis in expected.items():
        np.testing.assert_allclose(values(found[title]), values(axis))
        assert found[title].get_xlim() == pytest.approx(axis.get_xlim())
        assert found[title].get_ylim() == pytest.approx(axis.get_ylim())


def test_missing_values() -> None:
    forecast, analysis, obs, truth = fields()
    truth.t[0, :3] = np.nan
    forecast.t[:, 5, 5] = np.nan
    obs.t[3] = np.nan
    drawn = panels(plot_analysis(forecast, analysis, obs, truth, "t"))
    assert "observations (11)" in drawn
    assert np.isnan(values(drawn["truth"])).sum() == 3
    low, high = drawn["truth"].collections[0].get_clim()
    assert 260.0 < low < high < 300.0
    error = next(axis for title, axis in drawn.items() if title.startswith("forecast mean −"))
    assert np.isfinite(error.collections[0].get_clim()).all()
    assert "nan" not in error.get_title()


def test_nothing_observed_and_nothing_wrong() -> None:
    forecast, _, obs, truth = fields()
    obs.t[:] = np.nan
    perfect = truth.expand_dims(member=2)
    drawn = panels(plot_analysis(perfect, perfect, obs, truth, "t"))
    assert "observations (0)" in drawn
    empty = truth * np.nan
    panels(plot_analysis(forecast, forecast, obs, empty, "t"))


def test_everything_in_the_units_of_the_truth() -> None:
    kelvin = fields()
    celsius = [ds.assign(t=(ds.t - 273.15).assign_attrs(units="degC")) for ds in kelvin]
    expected = panels(plot_analysis(*kelvin, "t"))
    found = panels(plot_analysis(*celsius[:3], kelvin[3], "t"))
    for title, axis in expected.items():
        np.testing.assert_allclose(values(found[title]), values(axis), atol=1e-9)


def test_a_single_member() -> None:
    forecast, analysis, obs, truth = fields()
    one = forecast.isel(member=0)
    drawn = panels(plot_analysis(one, analysis, obs, truth, "t"))
    np.testing.assert_allclose(values(drawn["forecast mean"]), one.t.values.ravel())


def test_gridded_observations() -> None:
    forecast, analysis, _, truth = fields()
    sparse = truth.where((truth.x == 20.0) & (truth.y > 20.0))
    drawn = panels(plot_analysis(forecast, analysis, sparse, truth, "t"))
    assert "observations (3)" in drawn


def test_fields_that_cannot_be_drawn() -> None:
    forecast, analysis, obs, truth = fields()
    two = truth.expand_dims(time=2)
    with pytest.raises(StateError, match=r"truth 't': found dimensions .*isel\(time=-1\)"):
        plot_analysis(forecast, analysis, obs, two, "t")
    with pytest.raises(StateError, match="forecast 't': found dimensions"):
        plot_analysis(forecast.expand_dims(time=2), analysis, obs, truth, "t")
    with pytest.raises(StateError, match=r"observations: found variables .*expected y too"):
        plot_analysis(forecast, analysis, obs.drop_vars("y"), truth, "t")


def departures(*, withheld: bool = True, **sizes: int) -> xr.Dataset:
    """Feedback of four stations, one of them outside the grid, one withheld."""
    sizes = {"time": 5, "station": 4, **sizes}
    rng = np.random.default_rng(6)
    dims, shape = tuple(sizes), tuple(sizes.values())
    values = rng.normal(280.0, 2.0, shape)
    status = np.zeros(shape, "i1")
    status[:, 3] = 1
    status[:, 2] = 2 if withheld else 0
    units = {"units": "K", "long_name": "temperature"}
    flags = {"flag_values": np.arange(3, dtype="i1"), "flag_meanings": "used outside withheld"}
    data: dict[str, Any] = {"t": (dims, values, units), "t_error": (dims, np.ones(shape), units)}
    for part, letter, scale in (("forecast", "b", 2.0), ("analysis", "a", 0.5)):
        members = values + scale * rng.standard_normal((6, *shape))
        members[:, :, 3] = np.nan
        data[f"t_{part}"] = (("member", *dims), members, units)
        data[f"t_o_minus_{letter}"] = (dims, values - members.mean(0), units)
    data["t_status"] = (dims, status, flags)
    coords = {
        "latitude": ("station", [51.0, 52.0, 53.0, 53.1], {"units": "degrees_north"}),
        "longitude": ("station", [359.0, 0.5, 1.0, 1.0], {"units": "degrees_east"}),
    }
    return xr.Dataset(data, coords=coords)


def test_feedback() -> None:
    ds = departures()
    before = ds.copy(deep=True)
    figure = plot_feedback(ds, "t", title="a test")
    drawn = panels(figure)
    xr.testing.assert_identical(ds, before)
    maps = [drawn["observation − background"], drawn["observation − analysis"]]
    for axis, letter in zip(maps, "ba", strict=True):
        crosses, used, withheld = axis.collections
        mean = ds[f"t_o_minus_{letter}"].mean("time").values
        order = np.argsort(ds.latitude.values)
        np.testing.assert_allclose(np.asarray(used.get_array()), mean[order][:2])
        np.testing.assert_allclose(np.asarray(withheld.get_array()), mean[[2]])
        np.testing.assert_allclose(crosses.get_offsets(), [[1.0, 53.1]])
        # around Greenwich, not round the globe
        np.testing.assert_allclose(used.get_offsets(), [[-1.0, 51.0], [0.5, 52.0]])
        assert used.get_clim() == withheld.get_clim() == maps[0].collections[1].get_clim()
        assert used.get_clim()[0] == -used.get_clim()[1]
    texts = [label.get_text() for label in maps[0].get_xticklabels()]
    assert {"0°", "1°E"} & set(texts)
    assert all(text.endswith("°N") for text in (t.get_text() for t in maps[0].get_yticklabels()))
    histogram = drawn["departures of 15 values"]
    b, a = ds.t_o_minus_b[:, :3], ds.t_o_minus_a[:, :2]
    legend = histogram.get_legend()
    assert legend is not None
    words = [text.get_text() for text in legend.get_texts()]
    assert words[0] == (
        f"observation − background: {float(b.mean()):.2g} ± {float(b.std(ddof=1)):.2g} K"
    )
    assert f"{float(a.mean()):.2g} ± {float(a.std(ddof=1)):.2g} K" in words[1]
    assert words[2].startswith("withheld − analysis")
    ranks = drawn["rank among the members of the forecast"]
    heights = [bar.get_height() for bar in ranks.patches[:7]]  # type: ignore[attr-defined]
    assert sum(heights) == 15
    assert "temperature: mean departure (K)" in [axis.get_ylabel() for axis in figure.axes]
    assert figure.get_suptitle() == "a test"


def test_feedback_of_less() -> None:
    ds = departures(withheld=False)
    once = ds.isel(time=0)
    labels = [axis.get_ylabel() for axis in plot_feedback(once, "t").axes]
    assert "temperature: departure (K)" in labels
    nowhere = panels(plot_feedback(ds.drop_vars(["latitude", "longitude"]), "t"))
    assert set(nowhere) == {"departures of 15 values", "rank among the members of the forecast"}
    nothing = ds.assign(t_status=(ds.t_status * 0 + 1).assign_attrs(ds.t_status.attrs))
    assert "departures of 0 values" in panels(plot_feedback(nothing, "t"))
    plain = ds.rename(latitude="y", longitude="x")
    for name in ("y", "x"):
        plain[name].attrs = {"units": "km"}
    assert panels(plot_feedback(plain, "t"))["observation − analysis"].get_xlabel() == "x (km)"
    with pytest.raises(StateError, match="variables t, expected 'u'"):
        plot_feedback(ds, "u")


# -- scores -----------------------------------------------------------------------------------


def ensembles(members: int = 5) -> tuple[xr.Dataset, xr.Dataset, xr.Dataset]:
    """Analysis, forecast and truth on a plane, four times, two pressure levels."""
    rng = np.random.default_rng(2)
    times = np.datetime64("2019-03-01", "ns") + np.arange(4) * np.timedelta64(6, "h")
    coords: dict[str, Any] = {
        "time": times,
        "level": ("level", [850.0, 500.0], {"units": "hPa", "long_name": "pressure"}),
        "y": ("y", np.arange(8) * 50.0, {"units": "km"}),
        "x": ("x", np.arange(8) * 50.0, {"units": "km"}),
    }
    attrs = {"units": "K", "long_name": "temperature"}
    dims = ("time", "level", "y", "x")
    true = rng.normal(280.0, 5.0, (4, 2, 8, 8))
    truth = xr.Dataset({"t": (dims, true, attrs)}, coords=coords)
    one, two = (
        truth.assign(
            t=(("member", *dims), true + s * rng.standard_normal((members, 4, 2, 8, 8)), attrs)
        )
        for s in (1.0, 3.0)
    )
    return one, two, truth


def texts(axis: Axes) -> list[str]:
    legend = axis.get_legend()
    return [] if legend is None else [text.get_text() for text in legend.get_texts()]


def drawn(figure: Any) -> list[Any]:
    figure.savefig(io.BytesIO(), format="png", dpi=40)
    return list(figure.axes)


def test_plots_are_the_functions() -> None:
    plots = xr.Dataset().daisi.plot
    names = [name for name in vars(DaisiPlots) if not name.startswith("_")]
    for name in names:
        function = getattr(xr_daisi.plotting, f"plot_{name}")
        assert getattr(plots, name).__doc__ == function.__doc__
        assert name in repr(plots)
        assert "Raises\n" in (function.__doc__ or "")
    analysis, _, truth = ensembles()
    assert isinstance(analysis.daisi.plot.rank_histogram(truth), Figure)
    assert isinstance(departures().daisi.plot.feedback("t"), Figure)


def test_rank_histogram() -> None:
    analysis, forecast, truth = ensembles()
    figure = plot_rank_histogram(analysis, truth, compare={"forecast": forecast}, independent=100)
    (axis,) = drawn(figure)
    counts = rank_histogram(analysis, truth)
    heights = [bar.get_height() for bar in axis.containers[0]]
    np.testing.assert_allclose(heights, 6 * counts / counts.sum())
    steps = next(p for p in axis.patches if hasattr(p, "get_data"))
    other = rank_histogram(forecast, truth)
    np.testing.assert_allclose(steps.get_data().values, 6 * other / other.sum())
    assert set(texts(axis)) == {
        "95 % of samples of 100 independent values",
        "reliable ensemble",
        "forecast",
        "analysis",
    }
    assert axis.get_xlabel() == "members below the truth (of 5)"
    assert axis.get_title() == "temperature"
    given = Figure().subplots()
    assert plot_rank_histogram(analysis, truth, ax=given) is given.figure
    (axis,) = drawn(plot_rank_histogram(analysis, truth, regions={"a": {"y": slice(0, 100)}}))
    assert "95 % of samples of 192 independent values" in texts(axis)
    with pytest.raises(SettingsError, match="found 3, 5 members, expected ensembles of the same"):
        plot_rank_histogram(analysis, truth, compare={"b": forecast.isel(member=slice(3))})
    two = {"a": {"y": 0.0}, "b": {"y": 50.0}}
    with pytest.raises(SettingsError, match="regions: found 2 regions"):
        plot_rank_histogram(analysis, truth, regions=two)
    with pytest.raises(SettingsError, match="compare: found 'analysis', which is the name"):
        plot_rank_histogram(analysis, truth, compare={"analysis": forecast})
    with pytest.raises(DaisiTypeError, match="compare: found Dataset"):
        plot_rank_histogram(analysis, truth, compare=forecast)  # type: ignore[arg-type]
    many = {str(k): forecast for k in range(6)}
    with pytest.raises(SettingsError, match="compare: found 6, expected at most 5"):
        plot_rank_histogram(analysis, truth, compare=many)


def test_spectrum() -> None:
    analysis, forecast, truth = ensembles()
    figure = plot_spectrum(analysis, truth, compare={"forecast": forecast})
    (axis,) = drawn(figure)
    lines = {line.get_label(): line for line in axis.lines}
    assert set(lines) == {"analysis", "forecast", "truth"} | {k for k in lines if "slope" in str(k)}
    for name, ds in (("analysis", analysis), ("forecast", forecast), ("truth", truth)):
        expected = power_spectrum(ds).mean(["time", "level"])
        np.testing.assert_allclose(lines[name].get_ydata(), expected)
        np.testing.assert_allclose(lines[name].get_xdata(), expected.wavenumber)
    assert axis.get_xscale() == axis.get_yscale() == "log"
    assert axis.get_xlabel() == "wavenumber (km⁻¹)"
    assert axis.get_ylabel() == "power spectral density (K² km)"
    assert axis.child_axes[0].get_xlabel() == "wavelength (km)"
    (axis,) = drawn(plot_spectrum(analysis.isel(member=0), slope=None))
    assert [line.get_label() for line in axis.lines] == ["analysis"]


def test_reference_slope() -> None:
    fields = np.random.default_rng(0).standard_normal((3, 32, 32))
    axes = {"y": np.arange(32.0), "x": np.arange(32.0)}
    ds = xr.Dataset({"t": (("member", *axes), fields)}, coords=axes)
    for slope, text in ((-5 / 3, "slope −5/3"), (-2.0, "slope −2"), (-0.3, "slope −0.3")):
        (axis,) = drawn(plot_spectrum(ds, slope=slope))
        line = axis.lines[-1]
        assert line.get_label() == text
        x, y = np.log(line.get_xdata()), np.log(line.get_ydata())
        np.testing.assert_allclose(np.diff(y) / np.diff(x), slope)


def test_scores_in_time_and_along_levels() -> None:
    analysis, forecast, truth = ensembles()
    expected = ensemble_scores(analysis, truth)
    axes = drawn(plot_scores(analysis, truth, compare={"forecast": forecast}))
    assert [a.get_ylabel() for a in axes] == ["RMSE (K)", "fair CRPS (K)", "spread-skill ratio"]
    for axis, score in zip(axes, ("rmse", "crps", "ssr"), strict=True):
        line = next(line for line in axis.lines if line.get_label() == "analysis")
        np.testing.assert_allclose(line.get_ydata(), expected[score])
        assert axis.get_ylim()[0] == 0.0
    axes = drawn(plot_scores(analysis, truth, by="level", scores=["rmse", "bias"]))
    levels = ensemble_scores(analysis, truth, by="level")
    for axis, score in zip(axes, ("rmse", "bias"), strict=True):
        line = next(line for line in axis.lines if line.get_label() == "analysis")
        np.testing.assert_allclose(line.get_xdata(), levels[score])
        np.testing.assert_allclose(line.get_ydata(), [850.0, 500.0])
    assert axes[0].get_ylim()[0] > axes[0].get_ylim()[1]  # pressure falls upward
    assert axes[0].get_ylabel() == "pressure (hPa)"
    once = [ds.isel(time=0) for ds in (analysis, truth)]
    axes = drawn(plot_scores(*once, scores=["crps"]))
    assert axes[0].containers[0][0].get_height() == pytest.approx(float(expected.crps[0]))
    assert [a.get_title() for a in axes] == ["fair CRPS (K)"]
    bare = [ds.drop_vars("level") for ds in (analysis, truth)]
    assert drawn(plot_scores(*bare, by="level"))[0].get_ylabel() == "level"
    for scores in (["rmsd"], [], "rmse"):
        with pytest.raises(SettingsError, match="scores: found"):
            plot_scores(analysis, truth, scores=scores)
    with pytest.raises(SettingsError, match="regions: found 2 regions"):
        plot_scores(analysis, truth, regions={"a": {"y": 0.0}, "b": {"y": 50.0}})


def test_spread_against_error() -> None:
    analysis, forecast, truth = ensembles()
    figure = plot_spread_skill(analysis, truth, compare={"forecast": forecast}, bins=5)
    (axis,) = drawn(figure)
    expected = spread_skill(analysis, truth, bins=5)
    np.testing.assert_allclose(axis.lines[0].get_xdata(), expected.spread)
    np.testing.assert_allclose(axis.lines[0].get_ydata(), expected.rmse)
    assert texts(axis) == ["analysis", "forecast", "reliable ensemble"]
    assert axis.get_xlabel() == "spread (K)"
    assert axis.get_xlim() == axis.get_ylim()


def test_reliability() -> None:
    analysis, forecast, truth = ensembles()
    region = {"a": {"y": slice(0, 200)}}
    options: dict[str, Any] = {"threshold": 282.0, "regions": region}
    figure = plot_reliability(analysis, truth, compare={"forecast": forecast}, **options)
    upper, lower = drawn(figure)
    expected = reliability(analysis, truth, **options).isel(region=0)
    line = next(n for n in upper.lines if str(n.get_label()).startswith("analysis"))
    assert line.get_label() == f"analysis, Brier score {float(expected.brier_score):.3g}"
    there = expected["count"] > 0
    np.testing.assert_allclose(line.get_ydata(), expected.observed_frequency[there.values])
    share = expected["count"] / expected["count"].sum()
    np.testing.assert_allclose(lower.lines[0].get_ydata(), share)
    assert upper.get_title() == "temperature above 282 K"
    rows = [np.asarray(s) for s in upper.collections[0].get_segments()]
    assert all(0.0 <= row[0, 1] <= row[1, 1] <= 1.0 for row in rows)


def without_cartopy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xr_daisi.field_plots.find_spec", lambda _: None)


def test_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    without_cartopy(monkeypatch)
    forecast, _, _, truth = fields(lat_lon=True)
    axes = drawn(plot_map(forecast, title="a test"))
    titles = {axis.get_title(): axis for axis in axes if axis.get_title()}
    assert set(titles) == {"temperature: mean", "temperature: spread"}
    np.testing.assert_allclose(
        values(titles["temperature: spread"]), forecast.t.std("member", ddof=1).values.ravel()
    )
    assert titles["temperature: mean"].get_aspect() == pytest.approx(2.0)
    assert [axis.get_ylabel() for axis in axes if not axis.get_title()] == ["K", "K"]
    axes = drawn(plot_map(truth.transpose()))
    np.testing.assert_allclose(values(axes[0]), truth.t.values.ravel())
    assert axes[0].get_xlabel() == "longitude (°E)"
    plane = fields()[3]
    np.testing.assert_allclose(values(drawn(plot_map(plane.chunk()))[0]), plane.t.values.ravel())
    bare = plane.drop_vars(["y", "x"]).transpose("x", "y")
    assert drawn(plot_map(bare))[0].get_xlabel() == "x"
    y, x = xr.broadcast(truth.latitude, truth.longitude)
    curved = truth.drop_vars(["latitude", "longitude"]).rename(latitude="j", longitude="i")
    places = {"lat": (("j", "i"), y.values), "lon": (("j", "i"), x.values)}
    assert drawn(plot_map(curved.assign_coords(places)))[0].get_xlabel() == "lon"
    with pytest.raises(StateError, match=r"t: found dimensions .*isel\(time=-1\)"):
        plot_map(plane.expand_dims(time=2))
    with pytest.raises(StateError, match="found variables t, expected 'q'"):
        plot_map(plane, "q")
    with pytest.raises(DaisiTypeError, match="fields: found DataArray"):
        plot_map(plane.t)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("first", "last", "middle"),
    [(0, 355, 180), (-180, 175, 0), (-180, 180, 0), (-12, 12, 0), (350, 370, 360), (170, 190, 180)],
)
def test_middle_of_a_map(first: float, last: float, middle: float) -> None:
    assert _middle(np.linspace(first, last, 9)) == middle


def test_increment_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    without_cartopy(monkeypatch)
    forecast, analysis, _, _ = fields()
    axes = drawn(plot_increments(analysis, forecast))
    titles = {axis.get_title(): axis for axis in axes if axis.get_title()}
    out = increments(analysis, forecast)
    parts = {"increment of the mean": "mean_increment", "change of spread": "spread_change"}
    for title, part in parts.items():
        axis = titles[f"temperature: {title}"]
        np.testing.assert_allclose(values(axis), out[f"t_{part}"].values.ravel())
        low, high = axis.collections[0].get_clim()
        assert low == -high
    single = [ds.isel(member=0) for ds in (analysis, forecast)]
    assert [a.get_title() for a in drawn(plot_increments(*single)) if a.get_title()] == [
        "temperature: increment of the mean"
    ]


def test_a_missing_matplotlib_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError("No module named 'matplotlib'", name="matplotlib")

    monkeypatch.setattr("xr_daisi.optional_packages.import_module", missing)
    with pytest.raises(ImportError, match=r"'matplotlib'.*pip install 'xr-daisi\[plot\]'"):
        plot_map(fields()[3])
