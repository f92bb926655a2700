"""Few evaluations of the default solver give what 100 + 100 of the published one give."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from xr_daisi.settings import Settings


@pytest.fixture(scope="module")
def benchmark(repository: Path) -> ModuleType:
    path = repository / "benchmarks" / "solver_accuracy.py"
    spec = importlib.util.spec_from_file_location("solver_accuracy", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["solver_accuracy"] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize(("prior", "cases"), [("gaussian", 12), ("mixture", 40)])
def test_twenty_evaluations_match_the_published_hundred(
    prior: str, cases: int, benchmark: ModuleType
) -> None:
    default = Settings()
    assert (default.solver, default.steps) == ("adams", 20)
    make = getattr(benchmark, prior)
    rows = benchmark.measure(lambda: make(cases), (("euler", 100), ("adams", 20)))
    assert rows[1]["evaluations"] == 20
    assert rows[1]["rmse_ratio"] < 1.01
    assert rows[1]["crps_ratio"] < 1.01
    assert rows[0]["rmse_ratio"] == rows[0]["crps_ratio"] == 1.0
