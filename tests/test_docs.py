"""The pages name what exists, and every public name is in the reference."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pytest

import xr_daisi

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])


def test_reference_lists_the_public_names() -> None:
    reference = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    listed = re.findall(r"^ {3}(\w+)$", reference, flags=re.MULTILINE)
    assert len(listed) == len(set(listed))
    assert set(listed) == set(xr_daisi.__all__) - {"__version__"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_files_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    targets = re.findall(r"\]\((?!https?://|#)([^)#]+)", text)
    missing = [target for target in targets if not (page.parent / target).exists()]
    assert not missing


def run_page(page: str, *, at_least: int) -> dict[str, object]:
    """Run a page's Python, block after block as a reader would; return what it made.

    What is marked as not run, for it needs a script, a GPU, a cluster or a program, is compiled.
    """
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    blocks = re.findall(
        r"(<!-- not run -->\n)?^```python\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL
    )
    assert len(blocks) >= at_least
    namespace: dict[str, object] = {"__name__": "page"}
    for number, (not_run, block) in enumerate(blocks):
        code = compile(block, f"block {number} of {page}.md", "exec")
        if not not_run:
            exec(code, namespace)
    return namespace


def test_readme_has_the_two_commands() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for marker, ending in (("demo", "xr-daisi demo"), ("test", "-m pytest -n 2")):
        block = re.search(rf"<!-- {marker} command -->\n```bash\n(.+)\n```", text)
        assert block is not None
        assert block.group(1).endswith(ending)


def test_examples_of_the_page_on_observations_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    warnings.simplefilter("error", xr_daisi.NoObservationsWarning)
    run_page("observations", at_least=13)


@pytest.mark.parametrize(
    ("page", "made", "at_least"),
    [
        ("scaling", "result", 6),
        ("cycling", "feedback", 6),
        ("experiments", "scores", 3),
        ("baselines", "analysis", 4),
    ],
)
def test_examples_of_other_pages_run(
    page: str, made: str, at_least: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert made in run_page(page, at_least=at_least)


def test_examples_of_the_page_on_verification_run(capsys: pytest.CaptureFixture[str]) -> None:
    """All of them, and every score and picture that the page's table names is used."""
    run_page("verification", at_least=8)
    text = (ROOT / "docs" / "verification.md").read_text(encoding="utf-8")
    for name in xr_daisi.verification.__all__:
        assert name in text or name in ("overall_scores",), name
    assert "dB" in capsys.readouterr().out


def test_commands_of_the_page_on_experiments_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every option and name in them is one of the runner's."""
    import shlex

    monkeypatch.syspath_prepend(str(ROOT))
    from examples.experiments import era5, lorenz63, sqg
    from examples.experiments.run import parser

    known = {"sqg": sqg, "lorenz63": lorenz63, "era5": era5}
    text = (ROOT / "docs" / "experiments.md").read_text(encoding="utf-8")
    commands = re.findall(r"^python -m examples\.experiments\.run (.*)$", text, flags=re.MULTILINE)
    assert len(commands) >= 6
    for command in commands:
        given = parser().parse_args(shlex.split(command))
        assert set(given.methods.split(",")) <= set(known[given.system].METHODS)
        if given.system != "era5" and given.experiment != "all":
            assert set(given.experiment.split(",")) <= set(known[given.system].EXPERIMENTS)
