"""Flags, bounds, choice, errors, duplicates, super-observations: what is used, and with which R."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from closed_form import kalman, relative
from labelled import LAT, LON, MEAN, QUICK, STD, TIMES, covariance, forecast, gaussian_prior

from xr_daisi import ObservationError, SettingsError, assimilate, feedback
from xr_daisi.blocks import far_from_ensemble
from xr_daisi.duplicates import RepeatedObservationsWarning
from xr_daisi.errors import NoObservationsWarning
from xr_daisi.observation_options import ObservationOptions
from xr_daisi.observation_quality import FlagWarning
from xr_daisi.observation_status import Status
from xr_daisi.observations import match_observations
from xr_daisi.sampling import NoiseSource

PRIOR = gaussian_prior()
ONE = TIMES[:1]
FORECAST = forecast(times=ONE)


def points(n: int = 6, **variables: Any) -> xr.Dataset:
    """Points on nodes of the grid, all different."""
    ds = xr.Dataset(
        {"t2m": ("obs", MEAN + np.arange(float(n)), {"units": "K"})},
        coords={
            "latitude": ("obs", LAT[np.arange(n) % LAT.size]),
            "longitude": ("obs", LON[np.arange(n) % LON.size]),
            "time": ("obs", np.repeat(ONE, n)),
        },
    )
    for name, value in variables.items():
        ds[name] = value if isinstance(value, xr.Variable) else ("obs", value)
    return ds


def statuses(obs: Any, **options: Any) -> list[int]:
    options = {"obs_error": 1.0, **options}
    plan = match_observations(obs, PRIOR.spec, ONE, **options)
    lazy = match_observations(obs.chunk(), PRIOR.spec, ONE, **options)
    batch, other = plan.batch(0), lazy.batch(0)
    assert batch.rows.tolist() == other.rows.tolist()
    np.testing.assert_array_equal(batch.errors, other.errors)
    table = plan.table["status"]
    for rows, status in other.rejected:
        assert (table[rows] == status).all()
    counts = plan.counts
    assert sum(counts.values()) == obs.t2m.size
    analysis = assimilate(FORECAST, obs, PRIOR, **QUICK, **options)
    found = feedback(FORECAST, obs, analysis).t2m_status.values
    assert found.tolist() == table.tolist()
    assert json.loads(analysis.attrs["daisi_observations"]) == counts
    return [int(code) for code in table]


def flags(values: Any, **attrs: Any) -> xr.Variable:
    return xr.Variable("obs", np.asarray(values), attrs)


# -- quality flags --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "codes", [[1, 2, 3], np.array([1, 2, 3], np.int8), "1, 2, 3", "1 2 3", (1, 2, 3)]
)
def test_meanings_tell_good_from_bad(codes: Any) -> None:
    flag = flags([1, 2, 3, 1, 2, 3], flag_values=codes, flag_meanings="good probably_good bad")
    assert statuses(points(t2m_quality=flag)) == [0, 0, 9, 0, 0, 9]


@pytest.mark.parametrize("where", ["t2m_qc", "t2m_quality", "status_flag", "quality_flag"])
def test_where_flags_are_found(where: str) -> None:
    flag = flags([0, 4, 0, 0, 0, 0], flag_values=[0, 4], flag_meanings="pass fail")
    obs = points(**{where if where.startswith("t2m") else "other": flag})
    if not where.startswith("t2m"):
        obs.other.attrs["standard_name"] = f"air_temperature {where}"
        obs.t2m.attrs["ancillary_variables"] = "other"
    assert statuses(obs) == [0, 9, 0, 0, 0, 0]


VOCABULARIES = {
    "GHRSST": (
        "no_data bad_data worst_quality low_quality acceptable_quality best_quality",
        "000011",
    ),
    "QARTOD": ("pass not_evaluated suspect fail missing", "11000"),
    "Argo": (
        "no_qc_performed good_data probably_good_data bad_data_that_are_potentially_correctable "
        "bad_data value_changed estimated_value missing_value",
        "11100100",
    ),
    "SeaDataNet": (
        "no_quality_control good_value probably_good_value probably_bad_value bad_value "
        "changed_value value_below_detection value_in_excess interpolated_value missing_value",
        "1110010000",
    ),
    "MADIS": ("passed_all_checks failed_level_1 questioned subjective_bad", "1000"),
    "PreQC": ("good_always_used good not_checked good_used_with_care rejected_4", "11110"),
}


@pytest.mark.parametrize("name", VOCABULARIES)
def test_vocabularies_of_the_field(name: str) -> None:
    meanings, good = VOCABULARIES[name]
    n = len(meanings.split())
    flag = flags(np.arange(n), flag_values=np.arange(n), flag_meanings=meanings)
    with warnings.catch_warnings():
        # Of SeaDataNet's some say nothing of fitness.
        warnings.simplefilter("ignore" if name == "SeaDataNet" else "error", FlagWarning)
        plan = match_observations(points(n, t2m_quality=flag), PRIOR.spec, ONE, obs_error=1.0)
    found = "".join("1" if code == 0 else "0" for code in plan.table["status"])
    assert found == good


GOOD = (
    "good probably_good good_data correct corrected passed pass all_tests_passed qc_passed ok "
    "ok_data acceptable accepted valid valid_data nominal best usable reliable good_for_use "
    "no_problem no_error_detected not_bad not_flagged not_evaluated no_qc_performed"
)
NOT_GOOD = (
    "incorrect unacceptable not_acceptable not_accepted non_valid not_usable did_not_pass "
    "not_passed not_reliable off_nominal not_nominal not_correct not_best no_use no_good_value "
    "out_of_valid_range below_valid_minimum above_valid_maximum valid_range_exceeded invalid "
    "off-nominal not_a_good_value without_valid_calibration unreliable do_not_use not_used unused"
)


@pytest.mark.parametrize("meaning", [*GOOD.split(), *NOT_GOOD.split()])
def test_a_good_word_denied_is_not_good(meaning: str) -> None:
    good = meaning in GOOD.split()
    flag = flags([0, 1, 1, 1, 1, 1], flag_values=[0, 1], flag_meanings=f"best_of_all {meaning}")
    with warnings.catch_warnings():
        warnings.simplefilter("error", FlagWarning)
        plan = match_observations(points(t2m_quality=flag), PRIOR.spec, ONE, obs_error=1.0)
    assert plan.used == (6 if good else 1)


def test_what_only_looks_like_a_good_word_is_not_used() -> None:
    """A word that ends in a good one, or goes on after it, may mean anything."""
    flag = flags([0, 1, 2, 3], flag_values=range(4), flag_meanings="good bandpass uncorrected xuse")
    with pytest.warns(FlagWarning, match=r"\['bandpass', 'uncorrected', 'xuse'\]"):
        plan = match_observations(points(4, t2m_quality=flag), PRIOR.spec, ONE, obs_error=1.0)
    assert plan.used == 1


def test_bits() -> None:
    attrs = {"flag_masks": [1, 2, 4], "flag_meanings": "spike range_test_failed good_calibration"}
    flag = flags([0, 1, 2, 4, 5, 3], **attrs)
    assert statuses(points(t2m_quality=flag)) == [0, 9, 9, 0, 9, 9]
    accepted = {"t2m": ["spike", "good_calibration"]}
    assert statuses(points(t2m_quality=flag), quality=accepted) == [0, 0, 9, 0, 0, 9]
    both = flags(
        [0, 1, 2, 3, 4, 6],
        flag_masks=[3, 3, 3, 4],
        flag_values=[1, 2, 3, 4],
        flag_meanings="good suspect bad out_of_range",
    )
    assert statuses(points(t2m_quality=both)) == [0, 0, 9, 9, 9, 9]


@pytest.mark.parametrize("accepted", [["good", "suspect"], [1, 3], ["GOOD", 3], (1, "suspect")])
def test_the_user_decides(accepted: Any) -> None:
    flag = flags([1, 3, 4, 1, 3, 4], flag_values=[1, 3, 4], flag_meanings="good suspect bad")
    assert statuses(points(t2m_quality=flag), quality={"t2m": accepted}) == [0, 0, 9, 0, 0, 9]


def test_flags_without_meanings_need_the_user() -> None:
    obs = points(t2m_qc=flags([1, 4, 1, 1, 1, 1]))
    with pytest.raises(ObservationError, match=r"without flag_values.*quality=\{'t2m'"):
        statuses(obs)
    assert statuses(obs, quality={"t2m": [1, 2]}) == [0, 9, 0, 0, 0, 0]
    text = points(t2m_qc=flags(["1", "4", "1", "1", "1", "1"]))
    assert statuses(text, quality={"t2m": ["1", "2"]}) == [0, 9, 0, 0, 0, 0]


@pytest.mark.parametrize("blank", ["1", None, np.nan, ""])
def test_texts_may_be_objects(blank: Any) -> None:
    """As pandas and netCDF4 give them; without flag a value is as good as one not checked."""
    given = np.array(["1", "4", b"4", blank, "1", "2"], dtype=object)
    obs = points(t2m_qc=flags(given))
    assert statuses(obs, quality={"t2m": ["1", "2"]}) == [0, 9, 9, 0, 0, 0]
    assert statuses(obs, quality={"t2m": [1, 2]}) == [0, 9, 9, 0, 0, 0]
    obs.t2m_qc.attrs = {"flag_values": "1 2 4", "flag_meanings": "good fair_good bad"}
    assert statuses(obs) == [0, 9, 9, 0, 0, 0]
    assert statuses(obs, quality={"t2m": ["2"]}) == [9, 9, 9, 9 if blank == "1" else 0, 9, 0]


@pytest.mark.parametrize("kind", [int, float])
def test_digits_are_the_numbers_of_numeric_flags(kind: type) -> None:
    flag = flags(np.array([1, 4, 1, 2, 1, 1], kind))
    assert statuses(points(t2m_qc=flag), quality={"t2m": ["1", "2.0"]}) == [0, 9, 0, 0, 0, 0]
    with pytest.raises(ObservationError, match=r"\['one'\], expected numbers, as the flags are"):
        statuses(points(t2m_qc=flag), quality={"t2m": ["one"]})
    flag.attrs = {"flag_values": [1, 2, 4], "flag_meanings": "good fair_good bad"}
    assert statuses(points(t2m_qc=flag), quality={"t2m": ["1", "good"]}) == [0, 9, 0, 9, 0, 0]
    with pytest.raises(ObservationError, match=r"\['one'\], expected meanings among \['good'.*4\]"):
        statuses(points(t2m_qc=flag), quality={"t2m": ["one"]})


def test_unknown_meanings_warn_and_are_not_used() -> None:
    flag = flags([1, 2, 1, 1, 1, 1], flag_values=[1, 2], flag_meanings="good wibbly")
    with pytest.warns(FlagWarning, match=r"\['wibbly'\], taken as not good.*quality="):
        plan = match_observations(points(t2m_quality=flag), PRIOR.spec, ONE, obs_error=1.0)
    assert plan.counts == {"used": 5, "quality flag": 1}


def test_missing_flags_and_bad_values_under_bad_flags() -> None:
    flag = flags([1.0, np.nan, 4, 4, 4, 1], flag_values=[1, 4], flag_meanings="good bad")
    obs = points(t2m_quality=flag, t2m_error=[1.0, 1, np.nan, 1, -1, 1])
    obs.t2m[2:4] = [np.inf, np.nan]
    assert statuses(obs) == [0, 0, 9, 1, 9, 0]


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        (xr.Variable("x", [1, 2]), r"t2m_quality: found dimensions \('x',\)"),
        (
            flags([1] * 6, flag_values=[1], flag_meanings="good bad"),
            "1 flag_values and 2",
        ),
        (flags(np.repeat(ONE, 6)), "expected integers"),
        (flags(np.array([1, 1, 1, 1, 1, []], object)), "values of type list, expected integers"),
        (
            flags([1] * 6, flag_masks="a b", flag_meanings="good bad"),
            "flag_masks: found 'a b', expected whole numbers",
        ),
        (
            flags([1] * 6, flag_masks=[1, 2], flag_values=["a", "b"], flag_meanings="good bad"),
            r"flag_values: found \['a', 'b'\], expected whole numbers",
        ),
        (
            flags([1] * 6, flag_masks=[1.5, 2], flag_meanings="good bad"),
            r"flag_masks: found \[1.5, 2\], expected whole numbers",
        ),
        (
            flags([1] * 6, flag_values=["a", "b"], flag_meanings="good bad"),
            r"flag_values: found \['a', 'b'\], expected numbers",
        ),
    ],
)
def test_bad_flags_are_named(flag: xr.Variable, message: str) -> None:
    with pytest.raises(ObservationError, match=message):
        match_observations(points().assign(t2m_quality=flag), PRIOR.spec, ONE, obs_error=1.0)


def test_quality_without_flags_or_with_unknown_meanings() -> None:
    with pytest.raises(ObservationError, match="no quality flag of 't2m'"):
        statuses(points(), quality={"t2m": [1]})
    flag = flags([1] * 6, flag_values=[1, 2], flag_meanings="good bad")
    with pytest.raises(ObservationError, match=r"\['fine'\], expected meanings among"):
        statuses(points(t2m_quality=flag), quality={"t2m": ["fine"]})
    with pytest.raises(SettingsError, match="quality of 't2m'"):
        statuses(points(t2m_quality=flag), quality={"t2m": "good"})


# -- choice, bounds -------------------------------------------------------------------------------


def test_values_left_out_and_one_reason_each() -> None:
    flag = flags([1, 4, 4, 1, 1, 1], flag_values=[1, 4], flag_meanings="good bad")
    obs = points(t2m_use=[1, 1, 0, 0, 1, 1], t2m_quality=flag)
    obs.t2m.attrs["valid_range"] = [MEAN - 1, MEAN + 4.5]
    obs.t2m[4] = np.nan
    assert statuses(obs) == [0, 9, 10, 10, 1, 11]
    assert statuses(points(t2m_use=np.array([1, 0, 1, 1, 1, 1], bool))) == [0, 10, 0, 0, 0, 0]
    with pytest.raises(ObservationError, match="t2m_use"):
        statuses(points(t2m_use=list("abcdef")))


@pytest.mark.parametrize(
    ("attrs", "options"),
    [
        ({"valid_min": MEAN + 1, "valid_max": MEAN + 3}, {}),
        ({"valid_range": np.array([MEAN + 1, MEAN + 3])}, {}),
        ({}, {"bounds": {"t2m": (MEAN + 1, MEAN + 3)}}),
        ({"valid_min": 0.0, "valid_max": 1.0}, {"bounds": {"t2m": [MEAN + 1, MEAN + 3]}}),
    ],
)
def test_bounds(attrs: Any, options: Any) -> None:
    obs = points()
    obs.t2m.attrs.update(attrs)
    assert statuses(obs, **options) == [11, 0, 0, 0, 11, 11]


def test_open_bounds_and_bounds_that_are_none() -> None:
    assert statuses(points(), bounds={"t2m": (None, MEAN + 3)}) == [0, 0, 0, 0, 11, 11]
    for bad in ((3, 1), "low", (1,), (1, "x")):
        with pytest.raises(SettingsError, match="bounds of 't2m'"):
            statuses(points(), bounds={"t2m": bad})


PACKED = [
    {"valid_range": np.array([10, 30], np.int16)},
    {"valid_min": np.int16(10), "valid_max": np.int16(30)},
    # of a wider type than the packed values, so that they are not packed themselves
    {"valid_range": np.array([MEAN + 1, MEAN + 3], np.float32)},
    {"valid_min": MEAN + 1, "valid_max": MEAN + 3},
]


@pytest.mark.parametrize("attrs", PACKED)
def test_bounds_of_packed_data(attrs: dict[str, Any], tmp_path: Path) -> None:
    obs = points()
    obs.t2m.attrs.update(attrs)
    obs.t2m.encoding = {"dtype": "int16", "scale_factor": 0.1, "add_offset": MEAN, "_FillValue": -9}
    obs.to_netcdf(tmp_path / "packed.nc")
    with xr.open_dataset(tmp_path / "packed.nc") as packed:
        assert statuses(packed.load()) == [11, 0, 0, 0, 11, 11]


# -- background check -----------------------------------------------------------------------------

WITHIN = [(3.0, -1e-6, False), (3.0, 1e-6, True), (0.7, -1e-6, False), (0.7, 1e-6, True)]


@pytest.mark.parametrize(("limit", "more", "far"), WITHIN)
@pytest.mark.parametrize("side", [-1.0, 1.0])
def test_spread_and_error_together_decide(
    limit: float, more: float, far: bool, side: float
) -> None:
    """The limit is in roots of the sum of both variances, that of the members unbiased."""
    members = 6
    ds = forecast(members=members, times=ONE)
    obs = points(6)
    where = {
        "latitude": xr.DataArray(obs.latitude.values, dims="obs"),
        "longitude": xr.DataArray(obs.longitude.values, dims="obs"),
    }
    h = ds.t2m.isel(time=0).sel(where).transpose("member", "obs").values
    spread = h.std(axis=0, ddof=1)
    error = spread * np.array([0.5, 0.8, 1.0, 1.2, 1.5, 2.0])
    away = limit * np.sqrt(spread**2 + error**2) * (1.0 + more)
    obs["t2m"] = ("obs", h.mean(axis=0) + side * away, {"units": "K"})
    obs["t2m_error"] = ("obs", error)
    batch = match_observations(obs, PRIOR.spec, ONE).batch(0)
    assert far_from_ensemble(batch, h, limit).tolist() == [far] * 6
    for given in (obs, obs.chunk()):
        options = {"background_check": limit, **QUICK}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NoObservationsWarning)
            analysis = assimilate(ds, given, PRIOR, **options).compute()
        assert bool((analysis.t2m != ds.t2m).any()) != far
        assert (feedback(ds, given, analysis).t2m_status == (Status.FAR if far else 0)).all()


def test_one_member_is_judged_by_the_error_alone() -> None:
    obs = points(2, t2m_error=[1.0, 2.0])
    batch = match_observations(obs, PRIOR.spec, ONE).batch(0)
    h = batch.values[None] - np.array([3.1, 5.9])
    assert far_from_ensemble(batch, h, 3.0).tolist() == [True, False]


# -- errors ---------------------------------------------------------------------------------------


def errors(obs: xr.Dataset, **options: Any) -> list[float]:
    return match_observations(obs, PRIOR.spec, ONE, **options).batch(0).errors.tolist()


def test_errors_by_instrument() -> None:
    obs = points(instrument=["buoy", "ship", "buoy", "drone", "ship", "buoy"])
    given = {"t2m": {"buoy": 0.3, "ship": 1.0, "*": 2.0}}
    assert errors(obs, obs_error=given) == [0.3, 1.0, 0.3, 2.0, 1.0, 0.3]
    del given["t2m"]["*"]
    with pytest.raises(ObservationError, match="no error for 1 values of 'instrument': drone"):
        errors(obs, obs_error=given)
    with pytest.raises(ObservationError, match=r"errors by instrument.*assign_coords\(instrument"):
        errors(points(), obs_error=given)
    numbered = points(station_id=[7, 8, 7, 7, 7, 7])
    assert errors(numbered, obs_error={"t2m": {7: 0.5, 8: 0.7}})[:2] == [0.5, 0.7]


def test_inflation() -> None:
    obs = points(t2m_error=np.arange(1.0, 7))
    assert errors(obs, error_inflation=2.0) == [2, 4, 6, 8, 10, 12]
    assert errors(obs, error_inflation={"t2m": 0.5})[:2] == [0.5, 1.0]
    assert errors(points(), obs_error=1.0, error_inflation=1.5) == [1.5] * 6
    for bad in (0, -1, np.nan, {"t2m": "much"}):
        with pytest.raises(SettingsError, match="error_inflation"):
            errors(obs, error_inflation=bad)


@pytest.mark.parametrize(
    "option",
    [
        {"obs_error": {"t2n": 1.0}},
        {"error_inflation": {"t2n": 1.0}},
        {"error_correlation": {"t2n": 5.0}},
        {"bounds": {"t2n": (0, 1)}},
        {"quality": {"t2n": [1]}},
        {"footprint": {"t2n": 5.0}},
        {"operator": {"t2n": "log"}},
    ],
)
def test_misspelt_names_are_found(option: dict[str, Any]) -> None:
    with pytest.raises(ObservationError, match=r"\['t2n'\], which no .*did you mean 't2m'\?"):
        errors(points(t2m_error=np.ones(6)), **option)


def matrix(n: int) -> np.ndarray:
    i = np.arange(n)
    return np.exp(-np.abs(i[:, None] - i) / 2.0)


def test_a_covariance_brings_deviations_and_follows_what_is_left() -> None:
    deviation = np.linspace(0.5, 1.0, 6)
    full = matrix(6) * np.outer(deviation, deviation)
    obs = points()
    obs["t2m_error_covariance"] = (("obs", "obs2"), full)
    obs.t2m[2] = np.nan
    batch = match_observations(obs, PRIOR.spec, ONE).batch(0)
    kept = [0, 1, 3, 4, 5]
    np.testing.assert_allclose(batch.errors, deviation[kept])
    np.testing.assert_allclose(batch.blocks[0].correlation, matrix(6)[np.ix_(kept, kept)])
    fewer = batch.keep(np.array([True, False, True, False, True]))
    assert fewer.blocks[0].places.tolist() == [0, 1, 2]
    left = [0, 3, 5]
    np.testing.assert_allclose(fewer.blocks[0].correlation, matrix(6)[np.ix_(left, left)])
    # The same errors once more do no harm; others contradict the matrix, where there are values.
    again = deviation.copy()
    again[2] = 7.0
    both = obs.assign(t2m_error=("obs", 1000.0 * again, {"units": "mK"}))
    for given in (both, both.chunk(), both.chunk(obs=4, obs2=3)):
        found = match_observations(given, PRIOR.spec, ONE).batch(0)
        np.testing.assert_allclose(found.errors, deviation[kept])
        np.testing.assert_allclose(found.blocks[0].correlation, batch.blocks[0].correlation)
        other = given.assign(t2m_error=given.t2m_error * 2.0)
        with pytest.raises(ObservationError, match=r"errors other than.* against .*drop one"):
            match_observations(other, PRIOR.spec, ONE).batch(0)


@pytest.mark.parametrize(
    ("units", "factor"),
    [
        *((None, 1.0), ("", 1.0), ("K2", 1.0), ("K^2", 1.0), ("mK2", 1e-6), ("(mK)**2", 1e-6)),
        *(("degC2", 1.0), ("(deg C)2", 1.0), ("degF2", (5 / 9) ** 2), ("kelvin2", 1.0)),
    ],
)
def test_units_of_a_covariance(units: str | None, factor: float) -> None:
    obs = points()
    attrs = {} if units is None else {"units": units}
    obs["t2m_error_covariance"] = (("obs", "obs2"), 4.0 * matrix(6), attrs)
    batch = match_observations(obs, PRIOR.spec, ONE).batch(0)
    np.testing.assert_allclose(batch.errors, 2.0 * np.sqrt(factor))
    np.testing.assert_allclose(batch.blocks[0].correlation, matrix(6))


@pytest.mark.parametrize("units", ["K", "m2", "1", "wibble2"])
def test_units_that_are_no_square(units: str) -> None:
    obs = points()
    obs["t2m_error_covariance"] = (("obs", "obs2"), 4.0 * matrix(6), {"units": units})
    with pytest.raises(ObservationError, match=rf"error_covariance: found units '{units}'.*\(K\)2"):
        match_observations(obs, PRIOR.spec, ONE)


def test_errors_correlated_along_channels_are_blocks_for_each_place() -> None:
    spec = gaussian_prior(levels=True).spec
    obs = xr.Dataset(
        {"t2m": (("obs", "level"), np.full((3, 2), MEAN))},
        coords={
            "level": [850.0, 500.0],
            "latitude": ("obs", LAT[:3]),
            "longitude": ("obs", LON[:3]),
        },
    )
    obs.t2m[1, 0] = np.nan
    obs["t2m_error_correlation"] = (("level", "level2"), [[1.0, 0.4], [0.4, 1.0]])
    batch = match_observations(obs, spec, None, obs_error=1.0).batch(0)
    assert [block.places.tolist() for block in batch.blocks] == [[0, 1], [3, 4]]


@pytest.mark.parametrize("length", ["200 km", 200.0, "200000 m"])
def test_errors_correlated_over_a_length(length: Any) -> None:
    batch = match_observations(
        points(), PRIOR.spec, ONE, obs_error=1.0, error_correlation={"t2m": length}
    ).batch(0)
    (block,) = batch.blocks
    # One degree of latitude and one of longitude at 53.5 degrees.
    apart = np.hypot(111.2, 111.2 * np.cos(np.deg2rad(53.5)))
    expected = (1 + apart / 200) * np.exp(-apart / 200)
    np.testing.assert_allclose(block.correlation[0, 1], expected, rtol=2e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"t2m_error_covariance": (("obs", "k"), np.ones((6, 5)))}, "a square matrix"),
        ({"t2m_error_covariance": (("obs", "k"), -np.eye(6))}, "positive variances"),
        ({"t2m_error_correlation": (("obs", "k"), 2 * np.eye(6))}, "another diagonal than 1"),
        ({"t2m_error_correlation": (("obs", "k"), np.eye(6) + np.eye(6, k=1))}, "not symmetric"),
        ({"t2m_error_correlation": (("obs", "k"), np.full((6, 6), np.nan))}, "NaN or infinite"),
        (
            {"t2m_error_correlation": (("obs", "k"), 3 * np.ones((6, 6)) - 2 * np.eye(6))},
            "not positive definite",
        ),
    ],
)
def test_matrices_that_are_none(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ObservationError, match=message):
        assimilate(FORECAST, points().assign(change), PRIOR, obs_error=1.0, **QUICK)


def affine_of(obs: xr.Dataset, **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and covariance of the analysis at t_min 0, exactly: it is an affine map of the noise."""
    n = LAT.size * LON.size
    ds = forecast(members=n + 1, times=ONE)
    keywords = {**QUICK, "steps": 40, "noise": 0.0, "t_min": 0.0, "guidance_iterations": 6}
    analysis = assimilate(ds, obs, PRIOR, **keywords, **options)
    x = (torch.from_numpy(analysis.t2m.values).reshape(n + 1, n) - MEAN) / STD
    source = NoiseSource(0, str(ONE[0])[:19], range(n + 1))
    shape = (1, LAT.size, LON.size)
    z = source.draw("initial", 0, shape, dtype=torch.float64, device="cpu").reshape(n + 1, n)
    ones = torch.ones(n + 1, 1, dtype=torch.float64)
    affine = torch.linalg.solve(torch.cat([ones, z], dim=1), x)
    return affine[0], affine[1:].mT @ affine[1:]


def test_the_analysis_uses_the_whole_r() -> None:
    n = LAT.size * LON.size
    obs = points()
    obs["t2m_error_covariance"] = (("obs", "obs2"), 2.25 * matrix(6))
    mean, found = affine_of(obs)
    h = torch.zeros(6, n, dtype=torch.float64)
    for i in range(6):
        h[i, (i % LAT.size) * LON.size + i % LON.size] = 1.0
    values = torch.from_numpy((obs.t2m.values - MEAN) / STD)
    c = covariance(LAT.size, LON.size)
    r = torch.from_numpy(2.25 * matrix(6) / STD**2)
    gain = c @ h.mT @ torch.linalg.inv(h @ c @ h.mT + r)
    assert relative(mean, gain @ values) < 2e-3
    assert relative(found, c - gain @ h @ c) < 2e-3
    alone, _ = kalman(torch.zeros(n, dtype=torch.float64), c, h, values, r.diagonal().sqrt())
    assert relative(mean, alone) > 0.05  # and not the diagonal alone


# -- duplicates -----------------------------------------------------------------------------------


def test_values_that_came_twice_count_once() -> None:
    obs = points(t2m_error=np.full(6, 0.5))
    celsius = obs.copy(deep=True).assign(t2m=(obs.t2m - 273.15).assign_attrs(units="degC"))
    celsius["longitude"] = celsius.longitude + 360.0
    celsius["t2m_error"] = celsius.t2m_error * np.array([2, 2, 2, 0.5, 2, 2])
    best = obs.assign(t2m_error=obs.t2m_error * np.array([1, 1, 1, 0.5, 1, 1]))
    expected = assimilate(FORECAST, best, PRIOR, **QUICK).drop_attrs()
    for order in ([obs, celsius], [celsius, obs]):
        found = assimilate(FORECAST, order, PRIOR, **QUICK)
        counts = json.loads(found.attrs["daisi_observations"])
        assert counts == {"used": 6, "duplicate": 6}
        xr.testing.assert_allclose(found.drop_attrs(), expected, rtol=1e-9)
    lazily = assimilate(FORECAST, [obs.chunk(), celsius.chunk()], PRIOR, **QUICK).compute()
    xr.testing.assert_allclose(lazily.drop_attrs(), expected, rtol=1e-9)
    table = feedback(FORECAST, [obs, celsius], found)
    assert [sum(t.t2m_status.values == 12) for t in table] == [1, 5]


def test_within_one_dataset_whatever_the_order() -> None:
    twice = xr.concat([points(), points()], dim="obs")
    rng = np.random.default_rng(0)
    for _ in range(3):
        order = rng.permutation(12)
        plan = match_observations(twice.isel(obs=order), PRIOR.spec, ONE, obs_error=1.0)
        assert plan.counts == {"used": 6, "duplicate": 6}
        assert sorted(plan.batch(0).values) == points().t2m.values.tolist()


@pytest.mark.parametrize("start", [0.0, -180.0])
@pytest.mark.parametrize("units", ["K", "degC"])
def test_a_copy_in_single_precision_is_a_duplicate(units: str, start: float) -> None:
    rng = np.random.default_rng(0)
    n = 200
    obs = xr.Dataset(
        {"t2m": ("obs", rng.normal(MEAN, STD, n), {"units": "K"})},
        coords={
            "latitude": ("obs", rng.uniform(50.0, 54.0, n)),
            "longitude": ("obs", (rng.uniform(-3.0, 2.0, n) - start) % 360.0 + start),
            "time": ("obs", np.repeat(ONE, n)),
        },
    )
    if units == "degC":
        obs["t2m"] = (obs.t2m - 273.15).assign_attrs(units="degC")
    single = obs.astype(np.float32)
    for name in ("latitude", "longitude"):
        single[name] = obs[name].astype(np.float32)
    for pair in ([obs, single], [single, obs]):
        counts = match_observations(pair, PRIOR.spec, ONE, obs_error=1.0).counts
        assert counts == {"used": n, "duplicate": n}
    # A little more than rounding is another measurement.
    other = single.assign(t2m=(single.t2m + np.float32(1e-2)).assign_attrs(single.t2m.attrs))
    counts = match_observations([obs, other], PRIOR.spec, ONE, obs_error=1.0).counts
    assert counts == {"used": 2 * n}


def test_equal_values_around_zero_in_the_units_of_the_state() -> None:
    celsius = gaussian_prior().spec
    variable = replace(celsius.variables[0], units="degC")
    spec = replace(celsius, variables=(variable,))
    obs = points(3)
    obs["t2m"][:] = [273.15, 273.16, 273.14]
    single = obs.assign(t2m=obs.t2m.astype(np.float32).assign_attrs(units="K"))
    counts = match_observations([obs, single], spec, ONE, obs_error=1.0).counts
    assert counts == {"used": 3, "duplicate": 3}


def test_what_differs_is_no_duplicate() -> None:
    obs = points(2, t2m_footprint=xr.Variable("obs", [100.0, 0.0], {"units": "km"}))
    obs["latitude"][:], obs["longitude"][:], obs["t2m"][:] = 52.0, 0.5, MEAN
    assert match_observations(obs, PRIOR.spec, ONE, obs_error=1.0).counts == {"used": 2}
    later = points(2)
    later["latitude"][:], later["longitude"][:], later["t2m"][:] = 52.0, 0.5, MEAN
    later["time"] = ("obs", ONE[0] + np.array([0, 600], dtype="timedelta64[s]"))
    assert match_observations(later, PRIOR.spec, ONE, obs_error=1.0).counts == {"used": 2}


def test_values_that_differ_at_one_place_are_told_about() -> None:
    obs = points(3)
    obs["latitude"][:2], obs["longitude"][:2] = 52.0, 0.5
    with pytest.warns(RepeatedObservationsWarning, match="2 values that share.*thin="):
        plan = match_observations(obs, PRIOR.spec, ONE, obs_error=1.0)
    assert plan.counts == {"used": 3}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        named = obs.assign_coords(instrument=("obs", ["a", "b", "c"]))
        match_observations(named, PRIOR.spec, ONE, obs_error=1.0)
        other = obs.isel(obs=[1, 2])
        match_observations([obs.isel(obs=[0]), other], PRIOR.spec, ONE, obs_error=1.0)


# -- super-observations ---------------------------------------------------------------------------


@pytest.mark.parametrize("rho", [0.0, 0.5])
def test_n_at_one_place_are_one_with_the_error_of_the_mean(rho: float) -> None:
    n, error = 4, 1.2
    many = points(n)
    many["latitude"][:], many["longitude"][:] = 52.0, 1.0
    many = many.assign_coords(instrument=("obs", list("abcd")))
    if rho:
        many["t2m_error_correlation"] = (
            ("obs", "obs2"),
            np.full((n, n), rho) + (1 - rho) * np.eye(n),
        )
    one = points(1)
    one["latitude"][:], one["longitude"][:] = 52.0, 1.0
    one["t2m"][:] = many.t2m.mean().item()
    reduced = error * np.sqrt((1 + (n - 1) * rho) / n)
    found = assimilate(FORECAST, many, PRIOR, obs_error=error, thin="10 km", **QUICK)
    expected = assimilate(FORECAST, one, PRIOR, obs_error=reduced, **QUICK)
    np.testing.assert_allclose(found.t2m, expected.t2m, rtol=1e-9)
    # Feedback sees each of them.
    assert (feedback(FORECAST, many, found).t2m_status == 0).all()


def test_boxes_and_weights() -> None:
    obs = points(6, t2m_error=[1.0, 2, 1, 1, 1, 1])
    obs["latitude"][:] = [52.0, 52.01, 53.0, 53.0, 50.0, 51.0]
    obs["longitude"][:] = [1.0, 1.01, 0.0, -2.5, 0.0, 0.0]
    plan = match_observations(obs, PRIOR.spec, ONE)
    from xr_daisi.thinning import thinned

    for order in (np.arange(6), np.random.default_rng(1).permutation(6)):
        batch = match_observations(obs.isel(obs=order), PRIOR.spec, ONE).batch(0)
        averaging = thinned(batch, plan.axes, 20.0).averaging
        assert averaging is not None
        assert len(averaging) == 5
        pair = np.argsort(order)[:2]
        assert averaging.group[pair[0]] == averaging.group[pair[1]]
        np.testing.assert_allclose(averaging.weight[pair], [0.8, 0.2])
    assert thinned(plan.batch(0), plan.axes, 0.1).averaging is None
    for bad in ("wide", -3, "0 km", "5 K"):
        with pytest.raises((SettingsError, ObservationError), match="thin"):
            assimilate(FORECAST, obs, PRIOR, thin=bad, **QUICK)


def test_thinning_is_the_same_for_lazy_work_and_any_order() -> None:
    rng = np.random.default_rng(0)
    obs = points(40, t2m_error=rng.uniform(0.5, 1, 40))
    obs["latitude"][:], obs["longitude"][:] = rng.uniform(50, 54, 40), rng.uniform(-3, 2, 40)
    eager = assimilate(FORECAST, obs, PRIOR, thin="150 km", **QUICK)
    lazy = assimilate(FORECAST.chunk(member=1), obs.chunk(obs=7), PRIOR, thin="150 km", **QUICK)
    np.testing.assert_allclose(lazy.t2m, eager.t2m, rtol=1e-9)
    shuffled = obs.isel(obs=rng.permutation(40))
    again = assimilate(FORECAST, shuffled, PRIOR, thin="150 km", **QUICK)
    np.testing.assert_allclose(again.t2m, eager.t2m, rtol=1e-9)
    plain = assimilate(FORECAST, obs, PRIOR, **QUICK)
    assert abs(plain.t2m - eager.t2m).max() > 1e-3


# -- what is remembered ---------------------------------------------------------------------------


def test_options_go_through_the_attributes_of_a_file(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "obs_error": {"t2m": {"buoy": 0.3, "*": 0.7}},
        "time_tolerance": "45min",
        "background_check": 30.0,
        "error_inflation": {"t2m": 1.5},
        "error_correlation": {"t2m": "30 km"},
        "quality": {"t2m": ["good", 3]},
        "bounds": {"t2m": (None, 400.0)},
        "thin": "20 km",
        "interpolation": "nearest",
        "time_interpolation": "linear",
    }
    flag = flags([1, 3, 4, 1, 1, 1], flag_values=[1, 3, 4], flag_meanings="good suspect bad")
    obs = points(t2m_quality=flag, instrument=["buoy", "ship"] * 3)
    analysis = assimilate(FORECAST, obs, PRIOR, **QUICK, **options)
    analysis.to_netcdf(tmp_path / "analysis.nc")
    with xr.open_dataset(tmp_path / "analysis.nc") as back:
        settings = json.loads(back.attrs["daisi_settings"])
        again = ObservationOptions.from_dict(settings)
        table = feedback(FORECAST, obs, back)
    assert again.to_dict() == {
        **ObservationOptions(**options).to_dict(),
        "bounds": {"t2m": [None, 400]},
    }
    assert table.t2m_status.values.tolist() == [0, 0, 9, 0, 0, 0]
    np.testing.assert_allclose(table.t2m_error[:2], [0.45, 1.05])


def test_too_many_correlated_errors_for_a_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xr_daisi.error_structure.LARGEST_BLOCK", 5)
    with pytest.raises(ObservationError, match=r"6 observations.*at most 5; thin them"):
        assimilate(
            FORECAST, points(), PRIOR, obs_error=1.0, error_correlation={"t2m": 5.0}, **QUICK
        )


def test_directions_are_not_averaged_and_levels_not_mixed() -> None:
    from xr_daisi.thinning import thinned

    prior = gaussian_prior(levels=True)
    obs = points(4)
    obs["latitude"][:], obs["longitude"][:] = 52.0, 1.0
    obs = obs.assign_coords(level=("obs", [850.0, 850.0, 500.0, 510.0]))
    obs = obs.assign_coords(instrument=("obs", list("abcd")))
    plan = match_observations(obs, prior.spec, ONE, obs_error=1.0)
    averaging = thinned(plan.batch(0), plan.axes, 20.0).averaging
    assert averaging is not None
    assert averaging.group.tolist() in ([0, 0, 1, 1], [1, 1, 0, 0])
