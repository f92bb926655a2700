"""Settings of an analysis: defaults of the public face, checks, plain types."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from xr_daisi.errors import SettingsError
from xr_daisi.settings import Settings


def test_defaults_are_those_of_the_public_face() -> None:
    assert (Settings().share, Settings(t_min=0.3).share) == ("auto", 0.0)
    assert (Settings(t_min=0.3, bridge="auto").share, Settings(bridge=0.5).share) == ("auto", 0.5)
    assert Settings().to_dict() == {
        "t_min": "auto",
        "steps": 20,
        "solver": "adams",
        "noise": 0.008,
        "inverse_noise": 0.008,
        "corrector_steps": 0,
        "guidance": "mmps",
        "guidance_solver": "gmres",
        "guidance_iterations": 3,
        "strength": 1.0,
    }


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"t_min": 1.0}, r"t_min: found 1.0, expected a number in \[0, 1\)"),
        ({"t_min": -0.1}, "t_min: found -0.1"),
        ({"t_min": "automatic"}, "t_min: found 'automatic', expected .* or 'auto'"),
        ({"bridge": 1.5}, r"bridge: found 1.5, expected a number in \[0, 1\], or 'auto'"),
        ({"bridge": True}, "bridge: found True"),
        ({"t_min": 0.0, "bridge": 0.5}, "bridge: found 0.5 with t_min = 0, expected 0"),
        ({"t_min": 0.0, "bridge": "auto"}, "would be forgotten"),
        ({"t_min": "0.5"}, "t_min: found '0.5'"),
        ({"t_min": float("nan")}, "t_min: found nan"),
        ({"t_min": True}, "t_min: found True"),
        ({"steps": 0}, "steps: found 0"),
        ({"steps": 2.5}, "steps: found 2.5"),
        ({"steps": (10, 0)}, r"steps: found \(10, 0\)"),
        ({"steps": (10, 10, 10)}, r"a pair \(inverse, guided\)"),
        ({"steps": "10"}, "steps: found '10'"),
        ({"solver": "rk4"}, "solver: found 'rk4', expected one of 'adams', 'heun', 'euler'"),
        ({"noise": -1.0}, "noise: found -1.0"),
        ({"noise": float("inf")}, "noise: found inf"),
        ({"inverse_noise": "a"}, "inverse_noise: found 'a'"),
        ({"corrector_steps": -1}, "corrector_steps: found -1"),
        ({"guidance": "mpps"}, "guidance: found 'mpps', expected one of 'mmps', 'dps'"),
        ({"guidance_solver": "lu"}, "guidance_solver: found 'lu'"),
        ({"guidance_iterations": 0}, "guidance_iterations: found 0"),
        ({"strength": -1.0}, "strength: found -1.0"),
        ({"strength": "strong"}, "strength: found 'strong'"),
        ({"tmin": 0.1}, "settings: found tmin, expected names among"),
    ],
    ids=str,
)
def test_errors_name_what_was_found_and_expected(changes: dict[str, Any], found: str) -> None:
    with pytest.raises(SettingsError, match=found):
        Settings().updated(changes)


def test_all_errors_at_once() -> None:
    with pytest.raises(SettingsError, match="3 problems") as error:
        Settings(t_min=2.0, noise=-1.0, solver="x")
    assert all(name in str(error.value) for name in ("t_min", "noise", "solver"))


def test_update_leaves_out_none_and_the_original_alone() -> None:
    first = Settings(t_min=0.4)
    second = first.updated({"t_min": None, "steps": (10, 30)})
    assert second.t_min == 0.4
    assert second.step_counts == (10, 30)
    assert first.step_counts == (20, 20)


def test_numbers_of_numpy_become_plain() -> None:
    settings = Settings(
        t_min=np.float32(0.25),
        steps=(np.int64(3), np.int64(4)),
        guidance_iterations=np.int32(2),
        strength=np.float64(2.0),
        noise=0,
    )
    assert json.loads(json.dumps(settings.to_dict()))["steps"] == [3, 4]
    assert type(settings.noise) is float
    assert settings.t_min == 0.25
    assert Settings(steps=np.int64(7)).to_dict()["steps"] == 7


def test_round_trip_through_json() -> None:
    for settings in (Settings(), Settings(t_min=0.0, steps=(5, 6), guidance="none")):
        assert Settings().updated(json.loads(json.dumps(settings.to_dict()))) == settings


def test_callable_strength_is_kept_and_named() -> None:
    def fading(t: float) -> float:
        return 20 * (1 - t)

    settings = Settings(strength=fading)
    assert settings.strength is fading
    assert settings.to_dict()["strength"] == "callable fading"
