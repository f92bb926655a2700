"""The order in which modules may import each other, and what importing the package may cost."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "xr_daisi"

# From the ground up: a module imports from its own layer and those before it, never a later one.
# The third layer also holds every module that is not named here: the helpers of its rooms.
LAYERS: tuple[set[str], ...] = (
    {"_version", "errors"},
    {"flow", "interpolant", "converters", "mlp", "networks", "patches", "preconditioning"},
    {"state", "observations", "operators", "guidance", "sampling", "priors", "training"},
    {"analysis", "check", "verification", "plotting", "baselines", "forecast", "cycle_plan"}
    | {"cycle_scores", "cycle_forecasts", "cycle_run", "cycle_replay"}
    | {"cycle_config", "cycle_models"}
    | {"score_plots", "skill_plots", "field_plots"},
    {"cycling"},
    {"cli", "cli_check", "cli_cycle", "accessor", "plot_accessor", "demo"},
    {"__init__", "__main__"},
)
HELPERS = 2
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}

TENSORS_ONLY = {
    *("flow", "mlp", "networks", "sampling", "guidance", "tiling"),
    *("ensemble_kalman", "score_filter"),
}
LABELLED = {"xarray", "dask", "pandas", "cf_xarray", "distributed"}

# Needed by some commands and functions only, so imported where they are used.
NOT_AT_IMPORT = {
    "matplotlib",
    "scores",
    "xrft",
    "numpy_groupies",
    "cartopy",
    "distributed",
    "cyclopts",
    "nbformat",
    "IPython",
}


def module_files() -> dict[str, Path]:
    """Dotted name below the package (`flow`, `systems.sqg`) and file of every module."""
    files = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if len(parts) > 1 and parts[-1] == "__init__":
            parts = parts[:-1]
        files[".".join(parts)] = path
    return files


MODULES = module_files()


def imported(name: str) -> set[str]:
    """Absolute names of everything that a module imports, functions and type checking included."""
    path = MODULES[name]
    package = ["xr_daisi", *name.split(".")]
    if path.name != "__init__.py" or name == "__init__":
        package = package[:-1]
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*parts, *([node.module] if node.module else [])])
            # `from xr_daisi import flow` imports a module, `from xr_daisi.flow import Flow` a name
            for alias in node.names:
                full = f"{source}.{alias.name}"
                names.add(full if full.removeprefix("xr_daisi.") in MODULES else source)
    return names


def imported_modules(name: str) -> set[str]:
    """The modules of this package that a module imports, without itself."""
    inner = set()
    for full in imported(name):
        if full == "xr_daisi":
            inner.add("__init__")
        elif full.startswith("xr_daisi."):
            inner.add(full.removeprefix("xr_daisi."))
    return inner - {name}


def rank(name: str) -> int:
    """Layer of a module; those of a subpackage stand where the subpackage stands."""
    return RANK.get(name.split(".")[0], HELPERS)


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_run_one_way(name: str) -> None:
    upward = {other for other in imported_modules(name) if rank(other) > rank(name)}
    assert not upward, f"{name} imports {sorted(upward)}, which stand above it"


def test_no_import_cycles() -> None:
    graph = {name: imported_modules(name) & set(MODULES) for name in MODULES}
    while leaves := {name for name, needs in graph.items() if not needs & set(graph)}:
        graph = {name: needs for name, needs in graph.items() if name not in leaves}
    assert not graph, f"modules that import each other, or depend on such: {sorted(graph)}"


@pytest.mark.parametrize("name", sorted(TENSORS_ONLY))
def test_tensor_modules_know_no_labels(name: str) -> None:
    labelled = {full for full in imported(name) if full.split(".")[0] in LABELLED}
    assert not labelled, f"{name} must stay free of {sorted(labelled)}"


@pytest.mark.parametrize("name", sorted(TENSORS_ONLY))
def test_tensor_modules_import_no_labelled_module(name: str) -> None:
    """Nor by way of another module of the package."""
    seen: set[str] = set()
    todo = {name}
    while todo:
        current = todo.pop()
        seen.add(current)
        todo |= (imported_modules(current) & set(MODULES)) - seen
    labelled = {
        f"{other}: {full}"
        for other in seen
        for full in imported(other)
        if full.split(".")[0] in LABELLED
    }
    assert not labelled


def test_import_is_light() -> None:
    code = "import sys, xr_daisi; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    heavy = NOT_AT_IMPORT & set(done.stdout.split())
    assert not heavy, f"`import xr_daisi` imports {sorted(heavy)}"


def test_modules_of_the_documentation_are_there_after_import() -> None:
    code = (
        "import xr_daisi; print(xr_daisi.plotting.plot_feedback, xr_daisi.systems.sqg,"
        " xr_daisi.verification.__name__, 'plotting' in dir(xr_daisi),"
        " hasattr(xr_daisi, 'nothing'))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split()[-3:] == ["xr_daisi.verification", "True", "False"]


def test_version_is_that_of_the_installed_package() -> None:
    from importlib.metadata import version

    import xr_daisi

    assert version("xr-daisi") == xr_daisi.__version__
