"""The notebook runs from top to bottom, and shows the prior's card."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).resolve().parents[1] / "examples" / "quickstart.ipynb"


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[nbformat.NotebookNode]:
    """The notebook with its outputs, run where a test's backend for pictures does not count."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MPLBACKEND", raising=False)
        yield _execute(tmp_path_factory)


def _execute(tmp_path_factory: pytest.TempPathFactory) -> nbformat.NotebookNode:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    folder = tmp_path_factory.mktemp("notebook")
    client = NotebookClient(
        notebook, timeout=600, resources={"metadata": {"path": str(folder)}}, kernel_name="python3"
    )
    return client.execute()


def output_text(cell: nbformat.NotebookNode, kind: str) -> str:
    return "".join(o["data"].get(kind, "") for o in cell.outputs if "data" in o)


def cell_with(notebook: nbformat.NotebookNode, text: str) -> nbformat.NotebookNode:
    return next(c for c in notebook.cells if c.cell_type == "code" and text in c.source)


def test_prior_is_shown_as_its_card(executed: nbformat.NotebookNode) -> None:
    card = output_text(cell_with(executed, "load_prior"), "text/html")
    for fact in ("FlowPrior", "sqg64", "theta", "trained on", "sha256"):
        assert fact in card


def test_analysis_is_better_than_the_forecast(executed: nbformat.NotebookNode) -> None:
    table = output_text(cell_with(executed, "to_dataframe"), "text/plain")
    rmse = {line.split()[0]: float(line.split()[1]) for line in table.splitlines()[2:]}
    assert rmse["analysis"] < 0.95 * rmse["forecast"]


def test_lazy_result_agrees_with_the_eager_one(executed: nbformat.NotebookNode) -> None:
    assert output_text(cell_with(executed, "np.allclose"), "text/plain") == "True"


def test_pictures_are_drawn(executed: nbformat.NotebookNode) -> None:
    pictures = [
        o
        for c in executed.cells
        if c.cell_type == "code"
        for o in c.outputs
        if "data" in o and "image/png" in o["data"]
    ]
    assert len(pictures) == 3
