"""Input that is not wrong in form, but in meaning: it is said, never passed over."""

from __future__ import annotations

import json
import warnings

import pytest
import torch
import xarray as xr
from labelled import forecast, gaussian_prior, stations

from xr_daisi.errors import NoObservationsWarning, OperatorError

PRIOR = gaussian_prior().with_settings(steps=2)
FORECAST = forecast()
OBS = stations()


def test_forecast_far_from_the_prior_is_said_once() -> None:
    kelvin_as_celsius = FORECAST.copy(deep=True)
    for name in kelvin_as_celsius.data_vars:
        kelvin_as_celsius[name] = (kelvin_as_celsius[name] - 273.15).drop_attrs()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        kelvin_as_celsius.daisi.assimilate(OBS, PRIOR, batch=1)
    texts = [str(w.message) for w in caught if "standard deviations" in str(w.message)]
    assert len(texts) == 1
    assert "check its units" in texts[0]


def test_plausible_forecast_is_not_warned_of() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        FORECAST.daisi.assimilate(OBS, PRIOR)


@pytest.mark.parametrize("lazy", [False, True])
def test_operator_outside_its_domain(lazy: bool) -> None:
    ds = FORECAST.chunk(member=1) if lazy else FORECAST

    def root(state: dict[str, torch.Tensor]) -> torch.Tensor:
        return torch.sqrt(state["t2m"] - 1e4)

    with pytest.raises(OperatorError, match=r"NaN or infinite values for \d+ of \d+"):
        ds.daisi.assimilate(OBS, PRIOR, operator={"t2m": root}).compute()


def test_background_check_that_rejects_all() -> None:
    with pytest.warns(NoObservationsWarning, match="rejected all"):
        analysis = FORECAST.daisi.assimilate(OBS, PRIOR, background_check=1e-9)
    xr.testing.assert_equal(analysis.drop_attrs(), FORECAST.drop_attrs())
    counts = json.loads(analysis.attrs["daisi_observations"])
    assert counts["used"] == 0
    assert counts["too far from the forecast"] > 0


def test_counts_of_a_background_check() -> None:
    obs = OBS.copy(deep=True)
    obs.t2m[0, 0] = 500.0
    counts = [
        json.loads(a.attrs["daisi_observations"])
        for a in (
            FORECAST.daisi.assimilate(OBS, PRIOR, background_check=20.0),
            FORECAST.daisi.assimilate(obs, PRIOR, background_check=20.0),
            FORECAST.chunk(member=1).daisi.assimilate(obs, PRIOR, background_check=20.0),
        )
    ]
    assert counts[0]["too far from the forecast"] == 0
    assert counts[1]["too far from the forecast"] == 1
    assert counts[1]["used"] == counts[0]["used"] - 1
    assert counts[2] == {"used unless the background check rejects": counts[0]["used"]}
