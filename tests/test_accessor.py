"""``ds.daisi``: the functions as methods, and nothing of its own."""

from __future__ import annotations

import copy
import inspect
import json
from typing import Any

import pytest
import xarray as xr
from labelled import QUICK, forecast, gaussian_prior, stations

import xr_daisi
from xr_daisi.accessor import DaisiAccessor

METHODS = [
    name
    for name, what in vars(DaisiAccessor).items()
    if not name.startswith("_") and not isinstance(what, property)
]


def test_the_methods_are_there() -> None:
    assert set(METHODS) >= {"assimilate", "invert", "sample", "feedback"}
    for name in METHODS:
        assert name in repr(xr.Dataset().daisi)


@pytest.mark.parametrize("name", METHODS)
def test_methods_are_the_functions(name: str) -> None:
    function, method = getattr(xr_daisi, name), getattr(xr.Dataset().daisi, name)
    assert method.__doc__ == function.__doc__
    assert method.__name__ == name
    first, *rest = inspect.signature(function).parameters.values()
    assert first.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    assert list(inspect.signature(method).parameters.values()) == rest
    unbound = list(inspect.signature(getattr(DaisiAccessor, name)).parameters)
    assert unbound[0] == "self"


@pytest.mark.parametrize("name", METHODS)
def test_docstrings_name_every_parameter(name: str) -> None:
    doc = inspect.getdoc(getattr(xr_daisi, name)) or ""
    section = doc.split("Parameters\n")[1].split("Returns\n")[0]
    for parameter in inspect.signature(getattr(xr_daisi, name)).parameters:
        assert parameter in section, parameter
    assert "Raises\n" in doc


@pytest.mark.parametrize("name", ["assimilate", "invert", "sample"])
def test_settings_are_keywords(name: str) -> None:
    parameters = list(inspect.signature(getattr(xr_daisi, name)).parameters.values())
    positional = [p.name for p in parameters if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    assert positional[-1] == "prior"
    given = {p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}
    assert given["seed"] == 0
    assert given["steps"] is None  # the card's


def test_methods_give_what_functions_give() -> None:
    ds, obs, prior = forecast(), stations(), gaussian_prior()
    calls: dict[str, Any] = {
        "assimilate": ((obs, prior), QUICK),
        "invert": ((prior,), QUICK),
        "sample": ((prior,), {"members": 2, "steps": 2}),
    }
    for name, (given, keywords) in calls.items():
        method = getattr(ds.daisi, name)(*given, **keywords)
        function = getattr(xr_daisi, name)(ds, *given, **keywords)
        xr.testing.assert_equal(method, function)
    analysis = ds.daisi.assimilate(obs, prior=prior, **QUICK)
    xr.testing.assert_identical(
        ds.daisi.feedback(obs, analysis), xr_daisi.feedback(ds, obs, analysis)
    )


def test_a_copy_of_an_analysis_loses_nothing() -> None:
    ds, obs, prior = forecast(), stations(), gaussian_prior()
    analysis = copy.deepcopy(ds.daisi.assimilate(obs, prior, **QUICK))
    assert json.loads(analysis.attrs["daisi_settings"])["steps"] == 4
    ds.daisi.feedback(obs, analysis)
    assert vars(ds.daisi) == {"_obj": ds}


def test_the_package_names_what_design_promises() -> None:
    for name in ("assimilate", "invert", "sample", "feedback", "train_prior", "load_prior"):
        assert name in xr_daisi.__all__
    for name in xr_daisi.__all__:
        assert getattr(xr_daisi, name) is not None
