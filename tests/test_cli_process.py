"""How a command runs: its progress in a terminal, signals, threads."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import dask
import pytest

from xr_daisi import cli_process
from xr_daisi.cli_messages import fail, show_warning
from xr_daisi.cli_process import Terminated, progress_of_chunks, running, stopped


def slowly() -> int:
    time.sleep(0.02)
    return 1


def test_progress_of_chunks(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    work: Callable[[], object] = dask.delayed(slowly)().compute
    with progress_of_chunks(True):
        work()
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(cli_process, "wants_progress", lambda progress: True)
    with progress_of_chunks(False):
        work()
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(cli_process, "MINIMUM", 0.0)
    with progress_of_chunks(True):
        work()
    out, err = capsys.readouterr()
    assert out == ""
    assert "100% Completed" in err


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_termination_becomes_an_exception_for_a_while() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Terminated), running(False):
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


def test_commands_run_in_other_threads() -> None:
    seen = []

    def work() -> None:
        with running(False):
            seen.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


def test_a_stopped_process_ends_at_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    assert stopped(KeyboardInterrupt(), as_process=True) == 130
    assert stopped(Terminated(), as_process=True) == 143
    assert ended == [130, 143]
    assert stopped(Terminated(), as_process=False) == 143
    assert ended == [130, 143]
    assert capsys.readouterr().err.count("no unfinished output was left") == 3


def test_messages_of_several_lines_are_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert fail("2 problems:\n- a: found b\n- c: found d\n") == 2
    show_warning(UserWarning("first\n\n  second"), UserWarning, "file.py", 3)
    assert capsys.readouterr().err.splitlines() == [
        "xr-daisi: error: 2 problems: a: found b; c: found d",
        "xr-daisi: warning: first; second",
    ]


@pytest.mark.parametrize("module", ["xr_daisi", "xr_daisi.cli"])
def test_modules_run_as_the_command(module: str) -> None:
    command = [sys.executable, "-m", module, "info", "nowhere"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "nowhere" in done.stderr
