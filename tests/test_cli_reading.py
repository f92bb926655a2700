"""Options of the command line that say how observations are read."""

from __future__ import annotations

from typing import Any

import pytest

from xr_daisi import DaisiError
from xr_daisi.cli_reading import Reading


@pytest.mark.parametrize(
    ("options", "keywords"),
    [
        ({"obs_error": ("0.5",)}, {"obs_error": 0.5}),
        ({"obs_error": ("t2m=0.5", "u=1")}, {"obs_error": {"t2m": 0.5, "u": 1.0}}),
        (
            {"obs_error": ("t2m:buoy=0.3", "t2m:*=1", "u=2")},
            {"obs_error": {"t2m": {"buoy": 0.3, "*": 1.0}, "u": 2.0}},
        ),
        ({"error_inflation": ("1.5",)}, {"error_inflation": 1.5}),
        ({"error_inflation": ("t2m=1.5",)}, {"error_inflation": {"t2m": 1.5}}),
        ({"error_correlation": ("sst=50km",)}, {"error_correlation": {"sst": "50km"}}),
        ({"footprint": ("sst=25", "x=3 km")}, {"footprint": {"sst": 25.0, "x": "3 km"}}),
        ({"operator": ("rain=threshold(0.1)",)}, {"operator": {"rain": "threshold(0.1)"}}),
        ({"quality": ("t2m=good,2,-1",)}, {"quality": {"t2m": ["good", 2, -1]}}),
        (
            {"bounds": ("t2m=180:350", "tp=0:", "q=:1")},
            {"bounds": {"t2m": (180.0, 350.0), "tp": (0.0, None), "q": (None, 1.0)}},
        ),
        ({"thin": "50km"}, {"thin": "50km"}),
        ({"thin": "50"}, {"thin": 50.0}),
        ({"background_check": 4.0, "time_tolerance": "2h"}, {"background_check": 4.0}),
    ],
)
def test_options_become_keywords(options: dict[str, Any], keywords: dict[str, Any]) -> None:
    found = Reading(**options).keywords()
    assert {k: found[k] for k in keywords} == keywords


def test_nothing_given_is_nothing_asked_for() -> None:
    found = Reading().keywords()
    assert {k: v for k, v in found.items() if v is not None} == {
        "interpolation": "linear",
        "time_interpolation": "nearest",
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"obs_error": ("much",)}, "--obs-error: found 'much', expected a number"),
        ({"obs_error": ("t2m=1", "t2m:buoy=2")}, "use t2m:\\*=NUMBER"),
        ({"obs_error": ("t2m:buoy=2", "t2m=1")}, "one for each instrument"),
        ({"error_inflation": ("t2m=much",)}, "--error-inflation"),
        ({"error_correlation": ("sst",)}, "--error-correlation: found 'sst', expected NAME=VALUE"),
        ({"bounds": ("t2m=180",)}, "lowest:highest"),
        ({"bounds": ("t2m=a:b",)}, "--bounds: found 'a', expected a number"),
    ],
)
def test_other_forms_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DaisiError, match=message):
        Reading(**options).keywords()
