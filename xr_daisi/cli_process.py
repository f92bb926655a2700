"""How a command runs as a process: its log, its progress, and its end before the time."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator

from xr_daisi.cli_messages import fail, show_warning
from xr_daisi.progress import wants_progress

__all__ = ["Terminated", "logger", "progress_of_chunks", "running", "stopped"]

MINIMUM = 1.0
"""Work that takes less shows no progress, seconds."""

logger = logging.getLogger("xr_daisi")


@contextlib.contextmanager
def progress_of_chunks(lazy: bool) -> Iterator[None]:
    """Show how far dask is, in a terminal."""
    if not (lazy and wants_progress(None)):
        yield
        return
    from dask.diagnostics.progress import ProgressBar

    with ProgressBar(minimum=MINIMUM, out=sys.stderr):
        yield


@contextlib.contextmanager
def running(verbose: bool) -> Iterator[None]:
    """Run a command: log, or warnings of one line; cleaning up when terminated.

    Parameters
    ----------
    verbose : bool
        Log on stderr, and leave warnings as Python has them.
    """
    with _log_to_stderr(verbose), _tidy_termination(), warnings.catch_warnings():
        if not verbose:
            warnings.showwarning = show_warning
        yield


@contextlib.contextmanager
def _log_to_stderr(verbose: bool) -> Iterator[None]:
    """Log what the package does on stderr, where that is wanted."""
    if not verbose:
        yield
        return
    handler, level = logging.StreamHandler(), logger.level
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s", "%H:%M:%S"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


class Terminated(BaseException):
    """The system asked the process to end, as batch schedulers do at the end of their time."""


@contextlib.contextmanager
def _tidy_termination() -> Iterator[None]:
    """Let a termination clean up like an interruption: temporary outputs go."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def terminate(*_: object) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def stopped(error: BaseException, *, as_process: bool) -> int:
    """Say that a command was stopped, and return the exit status.

    Parameters
    ----------
    error : Terminated or KeyboardInterrupt
        What stopped it, after the outputs were cleaned up.
    as_process : bool
        End the process here: Python would wait for threads that are in the middle of an analysis.
    """
    if isinstance(error, Terminated):
        status = fail("terminated; no unfinished output was left", 143)
    else:
        status = fail("interrupted; no unfinished output was left", 130)
    if as_process:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(status)
    return status
