"""Programs that run beside Python: started, waited for, ended, and what they said."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from xr_daisi.errors import problem

__all__ = ["Failure", "Programs", "said"]

TAIL = 20
"""Lines of what a program said that an error repeats."""
GRACE = 5.0
"""Seconds that a program has to end after it was asked to."""


class Failure(NamedTuple):
    """Why there is no forecast of a member: what was found, and what the program said."""

    what: str
    said: str = ""

    def told(self, label: Any) -> str:
        """Return it as a message about a member."""
        return problem(f"member {label}", self.what, "a forecast") + self.said


class Programs:
    """The programs that are running, to end them with Python."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.processes: set[subprocess.Popen[bytes]] = set()
        self.stopped = False

    def run(
        self,
        arguments: Sequence[str],
        room: Path,
        *,
        environment: Mapping[str, str],
        timeout: float | None,
    ) -> Failure | None:
        """Run a program to its end.

        Parameters
        ----------
        arguments : sequence of str
            The program and its arguments; no shell.
        room : Path
            Where it starts; what it says is kept there, in ``stdout.txt`` and ``stderr.txt``.
        environment : mapping
            Variables to set beside those that are there.
        timeout : float or None
            Seconds after which it is ended.

        Returns
        -------
        Failure or None
            What went wrong; None for exit status 0.
        """
        with (room / "stdout.txt").open("wb") as out, (room / "stderr.txt").open("wb") as err:
            try:
                # A session of its own, so that what the program starts can be ended with it.
                process = subprocess.Popen(
                    arguments,
                    cwd=room,
                    env={**os.environ, **environment},
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=err,
                    start_new_session=True,
                )
            except OSError as error:
                return Failure(f"no way to start {arguments[0]!r} ({error.strerror or error})")
            with self._listed(process):
                try:
                    status = process.wait(timeout)
                except subprocess.TimeoutExpired:
                    _end(process)
                    return Failure(f"no end after {timeout:g} s", said(room))
        if status < 0:
            return Failure(f"an end by signal {signal.Signals(-status).name}", said(room))
        return Failure(f"exit status {status}", said(room)) if status else None

    @contextlib.contextmanager
    def _listed(self, process: subprocess.Popen[bytes]) -> Iterator[None]:
        with self.lock:
            self.processes.add(process)
            late = self.stopped
        if late:
            _end(process)
        try:
            yield
        finally:
            with self.lock:
                self.processes.discard(process)

    def stop(self) -> None:
        """End all that run, and what is started from now on."""
        with self.lock:
            self.stopped = True
            processes = list(self.processes)
        for process in processes:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a program and what it started."""
    for kind in ("SIGTERM", "SIGKILL"):
        with contextlib.suppress(OSError):
            if hasattr(os, "killpg"):
                os.killpg(process.pid, getattr(signal, kind))
            else:
                process.kill()
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            continue
        return


def said(room: Path) -> str:
    """Return the end of what a program said, as part of a message."""
    for name in ("stderr.txt", "stdout.txt"):
        with contextlib.suppress(OSError):
            text = (room / name).read_text(encoding="utf-8", errors="replace").strip()
            if text:
                lines = text[-4000:].splitlines()[-TAIL:]
                return f"; {name.removesuffix('.txt')} ends with:\n" + "\n".join(lines)
    return "; it said nothing"
