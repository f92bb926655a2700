"""Observations in the forms they come in: read, written, read again, assimilated."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from labelled import LAT, LON, QUICK, TIMES, forecast, gaussian_prior, stations

import xr_daisi
from xr_daisi import DaisiError, DaisiTypeError, ObservationError, SettingsError, assimilate
from xr_daisi.formats import convert_observations, read_observations, write_observations

PRIOR = gaussian_prior()
FORECAST = forecast()
NAMES = ["Brest", "Cork", "Dover", "Eday"]


def series() -> xr.Dataset:
    """Station series with errors, flags and identifiers, a value missing."""
    obs = stations(n=4).assign_coords(station=("station", NAMES))
    obs.t2m.attrs["standard_name"] = "air_temperature"
    obs["t2m_error"] = obs.t2m_error * np.linspace(1, 2, 4)
    obs["t2m_quality"] = (
        ("time", "station"),
        np.tile(np.array([0, 0, 1, 0], dtype=np.int8), (3, 1)),
        {"flag_values": np.array([0, 1], np.int8), "flag_meanings": "good suspect"},
    )
    obs.t2m[1, 0] = np.nan
    obs.latitude.attrs = {"standard_name": "latitude", "units": "degrees_north"}
    obs.longitude.attrs = {"standard_name": "longitude", "units": "degrees_east"}
    return obs


def reference() -> xr.Dataset:
    return assimilate(FORECAST, series(), PRIOR, **QUICK)


def same_analysis(obs: Any) -> None:
    found = assimilate(FORECAST, read_observations(obs), PRIOR, **QUICK)
    xr.testing.assert_allclose(found.drop_attrs(), reference().drop_attrs(), rtol=1e-12)


def table() -> pd.DataFrame:
    obs = series()
    rows = [
        {
            "time": obs.time.values[i],
            "lat": float(obs.latitude[j]),
            "lon": float(obs.longitude[j]),
            "variable": "t2m",
            "observation": float(obs.t2m[i, j]),
            "error": float(obs.t2m_error[i, j]),
            "units": "K",
            "station": NAMES[j],
        }
        for i in range(3)
        for j in range(4)
        if j != 2  # the table has no quality flags
    ]
    return pd.DataFrame(rows)


# -- reading ------------------------------------------------------------------------------------


def test_the_labelled_form_is_returned_as_it_is() -> None:
    obs = series()
    assert read_observations(obs) is obs
    assert read_observations(obs.t2m).t2m.identical(obs.t2m)


def contiguous(obs: xr.Dataset) -> xr.Dataset:
    return convert_observations(obs, "contiguous")  # type: ignore[no-any-return]


@pytest.mark.parametrize("to", ["point", "contiguous", "indexed", "ioda", "ioda-v1"])
@pytest.mark.parametrize("through", ["memory", "file"])
def test_the_same_analysis_in_each_form(to: str, through: str, tmp_path: Path) -> None:
    obs = series()
    if through == "memory":
        same_analysis(convert_observations(obs, to))
        return
    write_observations(obs, tmp_path / "obs.nc", to)
    same_analysis(tmp_path / "obs.nc")


@pytest.mark.parametrize("to", ["point", "contiguous", "indexed"])
def test_undecoded_files(to: str, tmp_path: Path) -> None:
    write_observations(series(), tmp_path / "obs.nc", to)
    raw = xr.open_dataset(tmp_path / "obs.nc", decode_cf=False)
    assert "units" in raw.time.attrs
    same_analysis(raw)


def test_tables_in_memory_and_in_files(tmp_path: Path) -> None:
    obs = series().isel(station=[0, 1, 3]).drop_vars("t2m_quality")
    expected = assimilate(FORECAST, obs, PRIOR, **QUICK).drop_attrs()
    table().to_csv(tmp_path / "obs.csv", index=False)
    for source in (table(), tmp_path / "obs.csv", convert_observations(obs, "table")):
        found = assimilate(FORECAST, read_observations(source), PRIOR, **QUICK)
        xr.testing.assert_allclose(found.drop_attrs(), expected, rtol=1e-12)


def test_torch_assimilate() -> None:
    obs = series().isel(station=[0, 1, 3]).drop_vars("t2m_quality")
    obs["t2m_error"] = obs.t2m_error[0]
    written = convert_observations(obs, "torch-assimilate")
    assert set(written.data_vars) == {"observations", "covariance"}
    np.testing.assert_allclose(written.covariance, obs.t2m_error**2)
    expected = assimilate(FORECAST, obs, PRIOR, **QUICK).drop_attrs()
    dense = written.assign(covariance=(("obs_grid_1", "obs_grid_2"), np.diag(written.covariance)))
    for source in (written, dense):
        found = assimilate(FORECAST, read_observations(source), PRIOR, **QUICK)
        xr.testing.assert_allclose(found.drop_attrs(), expected, rtol=1e-9)
    nameless = dense.copy()
    del nameless.observations.attrs["variable"], nameless.observations.attrs["standard_name"]
    with pytest.raises(ObservationError, match="no name of what was observed"):
        read_observations(nameless)
    assert "t2m" in read_observations(nameless, variable="t2m")


def test_assimilate_takes_any_form() -> None:
    obs = series().isel(station=[0, 1, 3]).drop_vars("t2m_quality")
    expected = assimilate(FORECAST, obs, PRIOR, **QUICK).drop_attrs()
    found = assimilate(FORECAST, table(), PRIOR, **QUICK)
    xr.testing.assert_allclose(found.drop_attrs(), expected, rtol=1e-12)
    both = assimilate(FORECAST, [table(), obs.isel(station=[])], PRIOR, **QUICK)
    xr.testing.assert_allclose(both.drop_attrs(), expected, rtol=1e-12)


# -- round trips --------------------------------------------------------------------------------


def sorted_points(obs: xr.Dataset) -> xr.Dataset:
    points = convert_observations(obs, "point")
    keys = np.lexsort([points.time.values, points.station.values.astype(str)])
    return points.isel({d: keys for d in points.t2m.dims})


@pytest.mark.parametrize("to", ["point", "contiguous", "indexed", "ioda", "ioda-v1", "table"])
def test_nothing_is_lost_on_the_way(to: str) -> None:
    obs = series()
    back = read_observations(convert_observations(obs, to))
    if to == "table":  # which has a row for each value
        back = back.rename(lat="latitude", lon="longitude")
    identifier = "station" if "station" in back.coords else "stationIdentification"
    back = back.rename({identifier: "station"}) if identifier != "station" else back
    one, other = sorted_points(obs), sorted_points(back)
    for name in ("t2m", "t2m_error", "t2m_quality", "latitude", "longitude", "time", "station"):
        np.testing.assert_array_equal(
            np.asarray(other[name].values).astype(one[name].dtype)
            if one[name].dtype.kind not in "OU"
            else other[name].values.astype(str),
            one[name].values if one[name].dtype.kind not in "OU" else one[name].values.astype(str),
        )
    assert other.t2m.attrs["units"] == "K"
    assert other.t2m.attrs["standard_name"] == "air_temperature"
    assert other.t2m_quality.attrs["flag_meanings"] == "good suspect"
    assert list(other.t2m_quality.attrs["flag_values"]) == [0, 1]


def test_profiles_contiguous_and_stations_of_profiles() -> None:
    """Values of profiles, profiles of stations: two steps of ragged arrays."""
    ds = xr.Dataset(
        {
            "row_size": ("profile", [2, 0, 3], {"sample_dimension": "z"}),
            "which": ("profile", [1, 0, 1], {"instance_dimension": "station"}),
            "time": ("profile", TIMES),
            "lat": ("station", [51.0, 52.0], {"standard_name": "latitude"}),
            "lon": ("station", [0.0, 1.0], {"standard_name": "longitude"}),
            "name": ("station", ["a", "b"], {"cf_role": "timeseries_id"}),
            "pressure": ("z", [1000.0, 900, 800, 700, 600], {"axis": "Z", "units": "hPa"}),
            "t": ("z", np.arange(5.0), {"units": "K"}),
        },
        attrs={"featureType": "timeSeriesProfile"},
    )
    obs = read_observations(ds)
    assert obs.t.dims == ("z",)
    assert obs.lat.values.tolist() == [52.0] * 5
    assert obs.name.values.tolist() == ["b"] * 5
    assert obs.time.values.tolist() == TIMES[[0, 0, 2, 2, 2]].astype("datetime64[ns]").tolist()
    assert {"lat", "lon", "time", "pressure", "name"} <= set(obs.coords)
    assert list(obs.data_vars) == ["t"]


def test_incomplete_arrays_and_trajectories() -> None:
    time = np.array([TIMES, [TIMES[0], TIMES[1], np.datetime64("NaT")]])
    ds = xr.Dataset(
        {"t2m": (("trajectory", "obs"), [[281.0, 282, 283], [284, 285, np.nan]], {"units": "K"})},
        coords={
            "time": (("trajectory", "obs"), time),
            "lat": (("trajectory", "obs"), [[51.0, 52, 53], [50, 51, np.nan]]),
            "lon": (("trajectory", "obs"), [[0.0, 0, 0], [1, 1, np.nan]]),
            "ship": ("trajectory", ["A", "B"], {"cf_role": "trajectory_id"}),
        },
        attrs={"featureType": "trajectory"},
    )
    found = assimilate(FORECAST, ds, PRIOR, obs_error=1.0, **QUICK)
    points = ds.stack(p=("trajectory", "obs")).reset_index("p").dropna("p")
    points.attrs.clear()
    expected = assimilate(FORECAST, points, PRIOR, obs_error=1.0, **QUICK)
    xr.testing.assert_allclose(found.drop_attrs(), expected.drop_attrs(), rtol=1e-12)


def test_ioda_names_match_by_standard_name_and_bad_flags_are_left_out() -> None:
    n = 4
    groups = {
        "MetaData": xr.Dataset(
            {
                "latitude": ("Location", LAT[:n].astype("f4")),
                "longitude": ("Location", LON[:n].astype("f4")),
                "dateTime": (
                    "Location",
                    np.arange(n) * 21600 % 64800,
                    {"units": "seconds since 2019-03-01T00:00:00Z"},
                ),
                "stationIdentification": ("Location", list("abcd")),
            }
        ),
        "ObsValue": xr.Dataset(
            {"airTemperature": ("Location", np.array([281, 282, 283, -3.3687953e38], "f4"))}
        ),
        "ObsError": xr.Dataset({"airTemperature": ("Location", np.full(n, 0.5, "f4"))}),
        "PreQC": xr.Dataset({"airTemperature": ("Location", np.array([2, 3, 15, 0], "i4"))}),
        "hofx": xr.Dataset({"airTemperature": ("Location", np.arange(4.0))}),
    }
    obs = read_observations(groups)
    assert obs.airTemperature.attrs["units"] == "K"
    table = FORECAST.daisi.feedback(obs, assimilate(FORECAST, obs, PRIOR, **QUICK))
    assert table.airTemperature_status.values.tolist() == [0, 0, 9, 1]
    assert obs["airTemperature@hofx"].values.tolist() == [0, 1, 2, 3]
    back = convert_observations(obs, "ioda")
    assert set(back.children) == set(groups)
    again = read_observations(back)
    xr.testing.assert_identical(again.drop_attrs(deep=False), obs.drop_attrs(deep=False))


@pytest.mark.parametrize("ending", ["nc", "zarr", "csv"])
def test_writing_is_whole_and_does_not_overwrite(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"obs.{ending}"
    write_observations(series(), path)
    before = [p.name for p in tmp_path.iterdir()]
    assert before == [path.name]
    with pytest.raises(FileExistsError, match="overwrite"):
        write_observations(series(), path)
    write_observations(series(), path, overwrite=True)
    assert read_observations(path).t2m.size == 12


def test_forms_that_cannot_hold_something_say_so() -> None:
    obs = series()
    matrix = obs.assign(t2m_error_correlation=(("station", "station2"), np.eye(4)))
    for to in ("point", "contiguous", "ioda", "table"):
        with pytest.raises(ObservationError, match="t2m_error_correlation"):
            convert_observations(matrix, to)
    chosen = obs.assign(t2m_use=("station", [1, 1, 0, 1]))
    for to in ("ioda", "table"):
        with pytest.raises(ObservationError, match="t2m_use"):
            convert_observations(chosen, to)
    with pytest.raises(ObservationError, match=r"t2m_quality.*values and errors alone"):
        convert_observations(obs, "torch-assimilate")
    with pytest.raises(ObservationError, match="no identifier"):
        convert_observations(stations(), "contiguous")
    with pytest.raises(SettingsError, match="to: found 'bufr'"):
        convert_observations(obs, "bufr")
    with pytest.raises(DaisiTypeError, match="found DataFrame, expected a Dataset"):
        convert_observations(table(), "point")  # type: ignore[arg-type]
    with pytest.raises(DaisiError, match="rename it"):
        write_observations(obs, "obs.nc", "table")


def test_inputs_stay_as_they_are() -> None:
    for make in (series, contiguous_series, table):
        one, other = make(), make()
        read_observations(one)
        if isinstance(one, pd.DataFrame):
            pd.testing.assert_frame_equal(one, other)
        else:
            convert_observations(read_observations(one), "table")
            xr.testing.assert_identical(one, other)


def contiguous_series() -> xr.Dataset:
    return contiguous(series())


# -- levels, units and attributes ---------------------------------------------------------------

SOUNDED = forecast(levels=True)
SOUNDING = gaussian_prior(levels=True)


def points(**coords: Any) -> xr.Dataset:
    return xr.Dataset(
        {
            "t2m": ("obs", [281.0, 280.0, 279.0], {"units": "K"}),
            "t2m_error": ("obs", [0.5, 0.6, 0.7], {"units": "K"}),
        },
        coords={
            "lat": ("obs", [51.2, 52.3, 53.1]),
            "lon": ("obs", [0.3, -1.0, 1.2]),
            "time": ("obs", TIMES),
            "station": ("obs", list("abc")),
            **coords,
        },
    )


def ways(obs: xr.Dataset, folder: Path, *forms: str) -> dict[str, xr.Dataset]:
    """Read again what was written, in memory and in files."""
    out = {}
    for form in forms:
        out[form] = read_observations(convert_observations(obs, form))
        path = folder / f"{form}.{'csv' if form == 'table' else 'nc'}"
        write_observations(obs, path, form)
        out[f"{form} file"] = read_observations(path)
    return out


EVERY = ("point", "contiguous", "indexed", "table", "ioda", "ioda-v1")


@pytest.mark.parametrize("name", ["level", "plev", "pres"])
def test_pressures_stay_on_their_level(name: str, tmp_path: Path) -> None:
    attrs = {"units": "hPa", "standard_name": "air_pressure"}
    obs = points(**{name: ("obs", [700.0, 850.0, 500.0], attrs)})
    expected = assimilate(SOUNDED, obs, SOUNDING, **QUICK)
    assert '"used": 3' in expected.attrs["daisi_observations"]
    for back in ways(obs, tmp_path, *EVERY).values():
        found = assimilate(SOUNDED, back, SOUNDING, **QUICK)
        xr.testing.assert_allclose(found.drop_attrs(), expected.drop_attrs(), rtol=1e-12)


@pytest.mark.parametrize(("name", "units"), [("depth", "m"), ("height", "km")])
def test_depths_and_heights_are_no_pressures(name: str, units: str, tmp_path: Path) -> None:
    obs = points(**{name: ("obs", [1.0, 2.0, 3.0], {"units": units})})
    for back in ways(obs, tmp_path, "table").values():
        scale = 1000 if units == "km" else 1
        assert back[name].values.tolist() == [scale, 2 * scale, 3 * scale]
        assert back[name].attrs["units"] == "m"
        assert "pres" not in back


def test_levels_whose_meaning_a_column_would_lose_are_named(tmp_path: Path) -> None:
    for name, attrs in (("z", {"units": "m"}), ("sigma", {"axis": "Z"}), ("depth", {})):
        obs = points(**{name: ("obs", [1.0, 2.0, 3.0], attrs)})
        back = read_observations(convert_observations(obs, "table"))
        assert back[name].attrs == attrs
        with pytest.raises(ObservationError, match=f"CSV, {name}"):
            write_observations(obs, tmp_path / "obs.csv")
    with pytest.raises(ObservationError, match="pres: found no units"):
        convert_observations(points(pres=("obs", [1.0, 2.0, 3.0])), "table")


def test_errors_in_other_units_than_values(tmp_path: Path) -> None:
    obs = points()
    obs["t2m_error"] = (obs.t2m_error * 1000).assign_attrs(units="mK")
    expected = assimilate(FORECAST, points(), PRIOR, **QUICK).drop_attrs()
    for back in ways(obs, tmp_path, *EVERY).values():
        found = assimilate(FORECAST, back, PRIOR, **QUICK).drop_attrs()
        xr.testing.assert_allclose(found, expected, rtol=1e-9)
    single = obs.drop_vars("time").assign_coords(time=TIMES[0])
    written = convert_observations(single, "torch-assimilate")
    np.testing.assert_allclose(written.covariance, points().t2m_error ** 2)


def test_ioda_errors_without_units_have_those_of_the_values() -> None:
    obs = points().rename(t2m="stationPressure", t2m_error="stationPressure_error")
    obs.stationPressure.attrs["units"] = "hPa"
    del obs.stationPressure_error.attrs["units"]
    back = read_observations(convert_observations(obs, "ioda"))
    assert back.stationPressure_error.attrs["units"] == "hPa"


def test_attributes_that_change_the_analysis_survive(tmp_path: Path) -> None:
    obs = points()
    obs.t2m.attrs.update(valid_range=[270.0, 280.5], footprint="25 km")
    obs["t2m_quality"] = (
        "obs",
        np.array([0, 1, 0], np.int8),
        {"flag_values": np.array([0, 1], np.int8), "flag_meanings": "good suspect"},
    )
    obs.t2m.attrs["standard_name"] = "air_temperature"
    obs = obs.rename(t2m="temp", t2m_error="temp_error", t2m_quality="temp_quality")
    expected = assimilate(FORECAST, obs, PRIOR, **QUICK)
    assert "outside its valid range" in expected.attrs["daisi_observations"]
    assert "quality flag" in expected.attrs["daisi_observations"]
    for back in ways(obs, tmp_path, *EVERY).values():
        found = assimilate(FORECAST, back, PRIOR, **QUICK)
        assert found.attrs["daisi_observations"] == expected.attrs["daisi_observations"]
        xr.testing.assert_allclose(found.drop_attrs(), expected.drop_attrs(), rtol=1e-12)
    json.dumps(convert_observations(obs, "table").attrs)  # as Parquet keeps them


def test_valid_ranges_of_packed_values(tmp_path: Path) -> None:
    obs = points()
    obs.t2m.attrs["valid_range"] = np.array([-2800, -2805], np.int16)
    obs.t2m.encoding = {"scale_factor": -0.1, "dtype": "int16"}
    for back in ways(obs, tmp_path, *EVERY).values():
        counts = assimilate(FORECAST, back, PRIOR, **QUICK).attrs["daisi_observations"]
        assert '"outside its valid range": 2' in counts


def test_padded_profiles_keep_their_levels() -> None:
    pressure = [[800.0, 700.0, 600.0], [820.0, 510.0, np.nan]]
    obs = xr.Dataset(
        {"t2m": (("profile", "level"), [[281.0, 280, 279], [270, 271, np.nan]], {"units": "K"})},
        coords={
            "lat": ("profile", [51.0, 52.0]),
            "lon": ("profile", [0.0, 1.0]),
            "time": ("profile", TIMES[:2]),
            "p": (("profile", "level"), pressure, {"units": "hPa", "axis": "Z"}),
        },
    )
    options: dict[str, Any] = {"obs_error": 1.0, **QUICK}
    expected = assimilate(SOUNDED, obs.rename(level="row"), SOUNDING, **options)
    assert '"used": 5' in expected.attrs["daisi_observations"]
    for to in ("point", "table", "ioda", "ioda-v1"):
        back = read_observations(convert_observations(obs, to))
        assert "level" not in back.coords
        found = assimilate(SOUNDED, back, SOUNDING, **options)
        xr.testing.assert_allclose(found.drop_attrs(), expected.drop_attrs(), rtol=1e-12)


def test_numbers_along_a_dimension_are_kept_where_nothing_else_says_where_it_lies() -> None:
    field = xr.Dataset({"t2m": (("y", "x"), np.zeros((2, 3)))})
    assert convert_observations(field, "point").x.values.tolist() == [0, 1, 2, 0, 1, 2]


LINE = xr.Dataset(
    {"t2m": ("path", [282.4, 281.0]), "t2m_error": ("path", [0.3, 0.3])},
    coords={
        "lat": (("path", "node"), [[51.0, 53.0, 53.0], [51.0, 52.0, np.nan]]),
        "lon": (("path", "node"), [[-2.0, -2.0, 0.0], [0.0, 1.0, np.nan]]),
        "time": ("path", TIMES[:2]),
        "station": ("path", ["a", "b"]),
    },
)
BOX = xr.Dataset(
    {"t2m": (("lat", "lon"), [[282.0, 283.0], [280.0, 281.0]], {"cell_methods": "area: mean"})},
    coords={
        "lat": ("lat", [51.0, 53.0], {"bounds": "lat_bnds"}),
        "lon": ("lon", [-2.0, 0.0], {"bounds": "lon_bnds"}),
        "lat_bnds": (("lat", "nv"), [[50.0, 52.0], [52.0, 54.0]]),
        "lon_bnds": (("lon", "nv"), [[-3.0, -1.0], [-1.0, 1.0]]),
        "time": TIMES[0],
    },
).assign(t2m_error=0.5)


@pytest.mark.parametrize("obs", [LINE, BOX, LINE.reset_coords(), BOX.reset_coords()])
def test_lines_and_boxes_are_kept_or_named(obs: xr.Dataset) -> None:
    expected = assimilate(FORECAST, obs, PRIOR, **QUICK)
    back = read_observations(convert_observations(obs, "point"))
    found = assimilate(FORECAST, back, PRIOR, **QUICK)
    xr.testing.assert_allclose(found.drop_attrs(), expected.drop_attrs(), rtol=1e-12)
    names = "lat_bnds.*lon_bnds" if "lat_bnds" in obs else "'lat'.*'lon'"
    for to in ("table", "ioda", "ioda-v1"):
        with pytest.raises(ObservationError, match=names):
            convert_observations(obs, to)
    if "lat_bnds" in obs:  # nothing depends on them
        obs = obs.assign(t2m=obs.t2m.variable.copy())
        obs.t2m.attrs.clear()
        for to in ("table", "ioda", "ioda-v1"):
            assert read_observations(convert_observations(obs, to)).t2m.size == 4


# -- what is observed, what a coordinate --------------------------------------------------------


@pytest.mark.parametrize("kind", ["point", "timeSeries", "profile"])
def test_pressure_may_be_observed(kind: str) -> None:
    obs = points().reset_coords().assign_attrs(featureType=kind)
    obs["ps"] = ("obs", [1e5, 1e5, 1e5], {"units": "Pa", "standard_name": "air_pressure"})
    assert "ps" in read_observations(obs).coords
    erring = obs.assign(ps_error=("obs", [100.0] * 3))
    assert {"ps", "ps_error"} <= set(read_observations(erring).data_vars)
    ancillary = obs.assign(q=("obs", [0, 0, 0]))
    ancillary.ps.attrs["ancillary_variables"] = "q"
    # Levels of a profile are checked, too.
    assert ("ps" in read_observations(ancillary).data_vars) == (kind != "profile")
    alone = obs.drop_vars(["t2m", "t2m_error"])
    assert list(read_observations(alone).data_vars) == ["ps"]
    stated = obs.assign(ps=obs.ps.assign_attrs(axis="Z"))
    assert "ps" in read_observations(stated).coords


def test_what_a_point_file_does_not_list_as_coordinate_is_observed(tmp_path: Path) -> None:
    obs = points()
    obs["ps"] = ("obs", [1e5, 1e5, 1e5], {"units": "Pa", "standard_name": "air_pressure"})
    for back in ways(obs, tmp_path, "point", "contiguous").values():
        assert "ps" in back.data_vars


# -- tables -------------------------------------------------------------------------------------


def test_columns_in_any_case_of_letters() -> None:
    renamed = table().drop(columns="units").rename(columns=str.title).assign(Units="degC", Pres=7e4)
    obs = read_observations(renamed)
    assert obs.t2m.attrs["units"] == "degC"
    assert "t2m_error" in obs
    assert obs.pres.attrs["units"] == "Pa"
    assert "station" in obs.coords


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "texts",
    [
        ["2019-03-01T00:00:00Z", "2019-03-01 06:00", "2019-03-01T12:00+00:00"],
        ["1 March 2019", "2019.03.01 06:00", "2019-03-01 12:00 UTC"],
        [pd.Timestamp(TIMES[0]), pd.Timestamp(TIMES[1]).to_pydatetime(), TIMES[2]],
    ],
)
def test_times_of_tables(texts: list[Any]) -> None:
    rows = table().iloc[:3].assign(time=pd.Series(texts, dtype=object))
    np.testing.assert_array_equal(read_observations(rows).time, TIMES)


@pytest.mark.filterwarnings("error")
def test_dates_of_either_order_and_missing_ones() -> None:
    rows = table().iloc[:3].assign(time=["25/03/2019", None, ""])
    expected = np.array(["2019-03-25", "NaT", "NaT"], dtype="datetime64[ns]")
    np.testing.assert_array_equal(read_observations(rows).time, expected)


@pytest.mark.parametrize(
    "values",
    [[281.0, None, 280], pd.array([281, None, 280], dtype="Int64"), ["281", None, "280.0"]],
)
def test_missing_values_of_tables(values: Any) -> None:
    obs = read_observations(table().iloc[:3].assign(observation=values))
    np.testing.assert_array_equal(obs.t2m, [281.0, np.nan, 280.0])


def test_what_a_table_cannot_hold() -> None:
    for change, message in (
        (lambda d: d.drop_vars("time"), "a coordinate for the column 'time'"),
        (lambda d: d.assign(t2m_qc=("obs", list("abc"))), "t2m_qc: found values of type"),
        (lambda d: d.assign(note=("obs", list("abc"))), "set_coords"),
        (lambda d: d.assign_coords(units=("obs", list("abc"))), "two columns 'units'"),
        (lambda d: d.convert_calendar("noleap", dim="time"), "calendar 'noleap'"),
    ):
        obs = points().swap_dims(obs="time") if "calendar" in message else points()
        with pytest.raises(ObservationError, match=message):
            convert_observations(change(obs), "table")


# -- IODA ---------------------------------------------------------------------------------------


def test_ioda_keeps_channels(tmp_path: Path) -> None:
    obs = xr.Dataset(
        {"brightnessTemperature": (("Location", "Channel"), np.full((3, 2), 250.0))},
        coords={
            "Channel": [4, 7],
            "latitude": ("Location", [51.0, 52.0, 53.0]),
            "longitude": ("Location", [0.0, 1.0, 1.0]),
            "time": ("Location", TIMES),
        },
    )
    for back in ways(obs, tmp_path, "ioda", "ioda-v1").values():
        assert back.Channel.values.tolist() == [4, 7]


def test_ioda_times_missing_or_between_seconds(tmp_path: Path) -> None:
    odd = TIMES[2] + np.timedelta64(250, "ms")
    obs = points(time=("obs", [TIMES[0], np.datetime64("NaT"), odd]))
    for back in ways(obs, tmp_path, "ioda", "ioda-v1").values():
        np.testing.assert_array_equal(back.time, obs.time)


@pytest.mark.parametrize(
    ("values", "attrs", "seconds"),
    [
        (np.array(["2019-03-01T00:00:00Z", "", "NaT"], object), {}, [0, None, None]),
        ([0.0, 0.5, np.nan], {"units": "hours since 2019-03-01T00:00:00Z"}, [0, 1800, None]),
        ([0, 1, -99], {"units": "hours since 2019-03-01", "_FillValue": -99}, [0, 3600, None]),
    ],
)
def test_ioda_times_of_several_kinds(values: Any, attrs: dict[str, Any], seconds: Any) -> None:
    flat = convert_observations(points(), "ioda-v1")
    flat["datetime@MetaData"] = ("nlocs", values, attrs)
    expected = [
        np.datetime64("NaT") if s is None else TIMES[0] + np.timedelta64(s, "s") for s in seconds
    ]
    np.testing.assert_array_equal(read_observations(flat).time, np.array(expected))


# -- bad input ----------------------------------------------------------------------------------


def ragged(**changes: Any) -> xr.Dataset:
    ds = contiguous(series())
    for name, values in changes.items():
        ds[name] = (ds[name].dims, np.asarray(values), ds[name].attrs)
    return ds


def indexed(values: Any) -> xr.Dataset:
    ds = convert_observations(series(), "indexed")
    ds["instance_index"] = ("obs", np.asarray(values), ds.instance_index.attrs)
    return ds  # type: ignore[no-any-return]


def ioda(without: str = "", **changes: Any) -> dict[str, xr.Dataset]:
    tree = convert_observations(series(), "ioda")
    groups = {str(n): c.to_dataset() for n, c in tree.children.items()}
    group, _, name = without.partition("/")
    if name:
        groups[group] = groups[group].drop_vars(name)
    elif group:
        del groups[group]
    for key, (values, attrs) in changes.items():
        groups["MetaData"][key] = ("Location", values, attrs)
    return groups


def with_attrs(ds: xr.Dataset, name: str, **attrs: Any) -> xr.Dataset:
    return ds.assign({name: ds[name].assign_attrs(attrs)})


def covariance(values: Any, dims: Any = ("obs_grid_1", "obs_grid_2")) -> xr.Dataset:
    return xr.Dataset(
        {
            "observations": ("obs_grid_1", [281.0, 282.0], {"variable": "t2m"}),
            "covariance": (dims, np.asarray(values)),
        },
        coords={"latitude": ("obs_grid_1", [51.0, 52.0]), "longitude": ("obs_grid_1", [0.0, 1.0])},
    )


BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "no latitude": (lambda: contiguous(series()).drop_vars("latitude"), "no latitude among"),
    "neither position": (
        lambda: contiguous(series()).drop_vars(["latitude", "longitude"]),
        "no longitude among",
    ),
    "unknown feature": (
        lambda: series().assign_attrs(featureType="swath"),
        "featureType: found 'swath'",
    ),
    "counts too few": (lambda: ragged(row_size=[3, 3, 3, 2]), "add up to 11"),
    "negative counts": (lambda: ragged(row_size=[-3, 9, 3, 3]), "row_size: found counts"),
    "counts that are texts": (lambda: ragged(row_size=list("3333")), "expected whole numbers"),
    "counts with halves": (lambda: ragged(row_size=[2.5, 3.5, 3, 3]), "expected whole numbers"),
    "sample dimension that is none": (
        lambda: with_attrs(contiguous(series()), "row_size", sample_dimension="time2"),
        "sample_dimension 'time2'",
    ),
    "instance dimension that is none": (
        lambda: with_attrs(
            indexed(np.repeat(range(4), 3)), "instance_index", instance_dimension="float"
        ),
        "instance_dimension 'float'",
    ),
    "index out of range": (lambda: indexed(np.full(12, 4)), "indices from 4 to 4, expected 0 to 3"),
    "negative index": (lambda: indexed(np.full(12, -1)), "indices from -1"),
    "time that cannot be decoded": (
        lambda: (
            series()
            .drop_vars("time")
            .assign(time=("time", [0, 1, 2], {"units": "hours since yesterday"}))
        ),
        "what cannot be decoded",
    ),
    "table without variable": (lambda: table().drop(columns="variable"), "a column 'variable'"),
    "table without time and place": (
        lambda: table().drop(columns=["time", "lat"]),
        "a column 'lat': latitude",
    ),
    "time in the index": (lambda: table().set_index("time"), "reset_index"),
    "columns twice": (
        lambda: pd.concat([table(), table()[["lat"]]], axis=1),
        r"columns \['lat'\] twice",
    ),
    "text in numbers": (lambda: table().assign(observation=["warm"] * 9), "values such as 'warm'"),
    "text in latitudes": (lambda: table().assign(lat=["51N"] * 9), "values such as '51N'"),
    "text in errors": (lambda: table().assign(error=["big"] * 9), "column 'error'"),
    "dates that are none": (lambda: table().assign(time="soon"), "9 values such as 'soon'"),
    "seconds": (lambda: table().assign(time=1551398400), r"such as 1551398400.*unit='s'"),
    "days as numbers": (lambda: table().assign(time=20190301), r"such as 20190301.*format="),
    "day or month": (lambda: table().assign(time="01/03/2019"), "read in one way"),
    "times of some day": (lambda: table().assign(time="06:00"), "9 values such as '06:00'"),
    "durations": (lambda: table().assign(time=pd.Timedelta(1, "h")), "column 'time'"),
    "two latitudes": (
        lambda: table().assign(latitude=51.0),
        r"\['latitude', 'lat'\] for 'lat', expected one of them",
    ),
    "two columns of units": (lambda: table().assign(Units="K"), r"\['units', 'Units'\]"),
    "a column named as a variable": (lambda: table().assign(t2m=1.0), "the name 't2m' for values"),
    "rows without variable": (lambda: table().assign(variable=None), "9 rows without name"),
    "two units of one variable": (
        lambda: table().assign(units=["K", "degC", "K"] * 3),
        "several units of 't2m'",
    ),
    "IODA without values": (lambda: ioda("ObsValue"), "a group ObsValue"),
    "IODA without places": (lambda: ioda("MetaData"), "a group MetaData"),
    "IODA without latitude": (lambda: ioda("MetaData/latitude"), "without latitude"),
    "IODA without time": (lambda: ioda("MetaData/dateTime"), "without dateTime"),
    "IODA epoch that is none": (
        lambda: ioda(dateTime=(np.arange(12), {"units": "seconds since creation"})),
        "dateTime: found units 'seconds since creation'",
    ),
    "IODA texts that are no dates": (lambda: ioda(dateTime=(["noon"] * 12, {})), "the text 'noon'"),
    "groups of another kind": (lambda: {"data": series()}, r"the groups \['data'\]"),
    "covariance not square": (
        lambda: covariance([[1.0, 0, 0], [0, 1, 0]], ("obs_grid_1", "k")),
        "covariance: found",
    ),
    "covariance of another size": (
        lambda: covariance(np.eye(3)[:2], ("obs_grid_1", "obs_grid_2")),
        "of size 2",
    ),
    "no covariance": (lambda: covariance(np.eye(2)).drop_vars("covariance"), "no variable 'cov"),
    "nothing": (lambda: None, "found NoneType"),
    "an array": (lambda: np.zeros(3), "found ndarray"),
    "a file that is not there": (lambda: "nowhere.nc", "no such file"),
    "a table that is not there": (lambda: Path("nowhere.csv"), "no such file"),
    "no name": (lambda: xr.DataArray([1.0]), "without name"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named(case: str) -> None:
    make, message = BAD[case]
    with pytest.raises(DaisiError, match=message) as caught:
        read_observations(make())
    assert "expected" in str(caught.value)


def test_a_damaged_file(tmp_path: Path) -> None:
    for name in ("obs.nc", "obs.csv", "obs.parquet"):
        (tmp_path / name).write_bytes(b"\x00\x01nothing")
        with pytest.raises(DaisiError):
            read_observations(tmp_path / name)


def test_it_is_public() -> None:
    assert xr_daisi.read_observations is read_observations


def test_periods_in_seconds_are_numbers(tmp_path: Path) -> None:
    """Files are decoded by a rule that takes anything in seconds for a duration."""
    ds = series().rename(t2m="period", t2m_error="period_error", t2m_quality="period_quality")
    ds.period.attrs = {"units": "s", "standard_name": "sea_surface_wave_mean_period"}
    ds.to_netcdf(tmp_path / "waves.nc")
    for source in (
        tmp_path / "waves.nc",
        xr.open_dataset(tmp_path / "waves.nc", decode_cf=False),
        xr.open_dataset(tmp_path / "waves.nc", decode_timedelta=True),
    ):
        obs = read_observations(source)
        assert obs.period.dtype.kind == "f"
        assert obs.period.attrs["units"] == "s"
        np.testing.assert_allclose(obs.period, ds.period, rtol=1e-6)
