"""Progress bars: where they show."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from xr_daisi.progress import progress_bar, wants_progress


def test_as_asked() -> None:
    assert wants_progress(True)
    assert not wants_progress(False)


def test_in_terminals_and_notebooks_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", SimpleNamespace(isatty=lambda: False))
    monkeypatch.setitem(sys.modules, "IPython", None)
    assert not wants_progress(None)
    monkeypatch.setattr(sys, "stderr", SimpleNamespace(isatty=lambda: True))
    assert wants_progress(None)
    monkeypatch.setattr(sys, "stderr", SimpleNamespace(isatty=lambda: False))
    shell = type("ZMQInteractiveShell", (), {})()
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    assert wants_progress(None)


def test_silent_bar_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar(False, total=3) as bar:
        bar.update(1)
        bar.set_postfix({"loss": 1.0})
    assert capsys.readouterr() == ("", "")
