"""A forecast model that is a program: NetCDF in, NetCDF out, one run for each member."""

from __future__ import annotations

import os
import shlex
import shutil
import string
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import xarray as xr

from xr_daisi.ensembles import EnsembleForm, form_of, instant, member_labels
from xr_daisi.errors import DaisiError, ForecastError, SettingsError, problem, raise_problems
from xr_daisi.files import open_file, write_file
from xr_daisi.forecast_checks import checked_forecast
from xr_daisi.programs import Failure, Programs, said

__all__ = ["ExternalModel"]

FIELDS = ("input", "output", "start", "until", "member")
INPUT, OUTPUT = "input.nc", "output.nc"


class ExternalModel:
    """A model that is a program, run once for each member in a folder of its own.

    Parameters
    ----------
    command : str or sequence of str
        The program and its arguments, run without a shell. ``{input}`` and ``{output}`` become the
        NetCDF files to read and to write, ``{start}`` and ``{until}`` the times (ISO 8601, or as
        ``{until:%Y%m%d%H}`` says), ``{member}`` the member's label. Text is split as a shell would.
    timeout : float, optional
        Seconds that a member may take; it is ended then. No limit when None.
    parallel : int
        Members that run at once.
    keep : {"failed", "never", "always"}
        Which working folders stay: an error names those of members that failed.
    directory : str or Path, optional
        Where the working folders are made; the system's place for temporary files when None.
    environment : mapping, optional
        Variables of the environment to set beside those that are there.
    base : str or Path, optional
        The folder in which files that the command names are looked for; the current one when None.

    Raises
    ------
    SettingsError
        Naming everything that cannot be.

    Notes
    -----
    The program starts in its working folder. Arguments that name a file in `base`, such as
    ``model.py`` or ``./ocean``, are given to it as absolute paths. The input holds the
    variables of one member at one time. The output must hold the same, labelled with ``until``; of
    several times that one is taken.

    Examples
    --------
    >>> model = ExternalModel("./ocean --in {input} --out {output} --until {until:%Y%m%d%H}")
    >>> model
    ExternalModel('./ocean --in {input} --out {output} --until {until:%Y%m%d%H}')
    """

    def __init__(
        self,
        command: str | Sequence[str],
        *,
        timeout: float | None = None,
        parallel: int = 1,
        keep: Literal["failed", "never", "always"] = "failed",
        directory: str | Path | None = None,
        environment: Mapping[str, str] | None = None,
        base: str | Path | None = None,
    ) -> None:
        parts, problems = _parts(command)
        if timeout is not None and not (_is_number(timeout) and timeout > 0):
            problems.append(problem("timeout", repr(timeout), "a positive number of seconds"))
        if not (_is_number(parallel) and parallel == int(parallel) and parallel >= 1):
            problems.append(problem("parallel", repr(parallel), "a whole number of at least 1"))
        if keep not in ("failed", "never", "always"):
            problems.append(problem("keep", repr(keep), "'failed', 'never' or 'always'"))
        raise_problems(SettingsError, problems)
        self.command = parts
        self.timeout, self.parallel, self.keep = timeout, parallel, keep
        self.directory = None if directory is None else Path(directory).expanduser()
        self.environment = dict(environment or {})
        self.base = Path("." if base is None else base).expanduser()

    @property
    def configuration(self) -> dict[str, Any]:
        """What it is, as plain JSON; how it is run does not belong to it."""
        return {
            "model": "external",
            "command": list(self.command),
            "environment": dict(self.environment),
        }

    def __repr__(self) -> str:
        return f"ExternalModel({' '.join(self.command)!r})"

    def __call__(self, ensemble: xr.Dataset, until: np.datetime64, /) -> xr.Dataset:
        """Run the program for every member.

        Parameters
        ----------
        ensemble : xarray.Dataset
            At one time.
        until : datetime64
            The time to reach.

        Returns
        -------
        xarray.Dataset
            The forecast of all members.

        Raises
        ------
        ForecastError
            Naming each member that failed and why, with the end of what its program said; the
            forecast of the others comes with the error.
        """
        form = form_of(ensemble)
        labels = member_labels(ensemble, form.member)
        members = [
            ensemble if form.member is None else ensemble.isel({form.member: [i]})
            for i in range(len(labels))
        ]
        if self.directory is not None:
            self.directory.mkdir(parents=True, exist_ok=True)
        # Files are read and written here alone: the NetCDF library is not made for threads.
        running, rooms = Programs(), []
        with ThreadPoolExecutor(int(self.parallel)) as pool:
            try:
                work = []
                for one, label in zip(members, labels, strict=True):
                    rooms.append(
                        Path(tempfile.mkdtemp(prefix=f"member-{label}-", dir=self.directory))
                    )
                    arguments = self._prepare(one, label, form, until, rooms[-1])
                    options: dict[str, Any] = {
                        "environment": self.environment,
                        "timeout": self.timeout,
                    }
                    work.append(pool.submit(running.run, arguments, rooms[-1], **options))
                results = [
                    self._result(task.result(), one, form, until, room)
                    for task, one, room in zip(work, members, rooms, strict=True)
                ]
            except BaseException:  # an interruption ends the programs too
                pool.shutdown(wait=False, cancel_futures=True)
                running.stop()
                for room in rooms:
                    shutil.rmtree(room, ignore_errors=True)
                raise
        failed = {
            label: result
            for label, result in zip(labels, results, strict=True)
            if isinstance(result, Failure)
        }
        done = [result for result in results if isinstance(result, xr.Dataset)]
        forecast = _joined(done, form) if done else None
        if failed:
            message = "\n".join(failure.told(label) for label, failure in failed.items())
            reasons = {label: failure.what + failure.said for label, failure in failed.items()}
            raise ForecastError(message, failed=reasons, survivors=forecast)
        if forecast is None:
            raise ForecastError(problem("ensemble", "no members", "at least one"))
        return forecast

    def _prepare(
        self, one: xr.Dataset, label: Any, form: EnsembleForm, until: np.datetime64, room: Path
    ) -> list[str]:
        """Write the input of one member; return its command."""
        alone = one if form.member is None else one.isel({form.member: 0}, drop=True)
        alone = alone.drop_encoding()
        # Whole days, which a time at midnight would be written in, have no room for the next one.
        alone[form.time].encoding = {"units": "seconds since 1970-01-01", "dtype": "float64"}
        write_file(alone, room / INPUT, overwrite=True)
        values = {
            "input": room / INPUT,
            "output": room / OUTPUT,
            "start": _Time(instant(one, form.time)),
            "until": _Time(until),
            "member": label,
        }
        return [part.format(**values) for part in _found(self.command, self.base)]

    def _result(
        self,
        failure: Failure | None,
        one: xr.Dataset,
        form: EnsembleForm,
        until: np.datetime64,
        room: Path,
    ) -> xr.Dataset | Failure:
        """Return the forecast of one member, or why there is none."""
        target = room / OUTPUT
        result: xr.Dataset | Failure
        if failure is not None:
            result = failure
        elif not target.exists():
            there = sorted(p.name for p in room.iterdir() if p.suffix in (".nc", ".nc4"))
            found = f"no output {OUTPUT} (its folder has {', '.join(there)})"
            result = Failure(found, said(room))
        else:
            try:
                result = _read(target, one, form, until)
            except DaisiError as error:
                result = Failure(f"an output that cannot be used ({error})")
        failed = isinstance(result, Failure)
        if self.keep == "never" or (self.keep == "failed" and not failed):
            shutil.rmtree(room, ignore_errors=True)
        elif isinstance(result, Failure):
            result = result._replace(what=f"{result.what}, kept in {room}")
        return result


class _Time:
    """A time in a command: ISO 8601, or as a format says."""

    def __init__(self, time: np.datetime64) -> None:
        self.time = pd.Timestamp(time)

    def __format__(self, spec: str) -> str:
        return str(self.time.strftime(spec)) if spec else str(self.time.isoformat())


def _parts(command: str | Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the parts of a command, and what is wrong with it."""
    expected = "a program and its arguments"
    try:
        parts = shlex.split(command) if isinstance(command, str) else list(command)
    except ValueError as error:
        return [], [problem("command", f"{command!r} ({error})", expected)]
    if not parts or not all(isinstance(part, str) for part in parts):
        return [], [problem("command", repr(command), expected)]
    known = ", ".join(f"{{{name}}}" for name in FIELDS)
    problems = []
    for part in parts:
        try:
            names = [name for _, name, _, _ in string.Formatter().parse(part) if name is not None]
        except ValueError as error:
            remedy = "write {{ and }} for braces that stay"
            problems.append(problem("command", f"{part!r} ({error})", known, remedy))
            continue
        problems += [
            problem(
                "command", f"{{{name}}}", f"only {known}", "write {{ and }} for braces that stay"
            )
            for name in names
            if name not in FIELDS
        ]
    return parts, problems


def _found(parts: Sequence[str], base: Path) -> list[str]:
    """Return the command with the files that it names as absolute paths."""
    out = []
    for number, part in enumerate(parts):
        # A plain name of a program is looked for by the system, as in a shell.
        is_file = (number > 0 or "/" in part) and not part.startswith("-")
        is_file = is_file and (base / part).is_file()
        out.append(os.path.abspath(base / part) if is_file else part)
    return out


def _read(path: Path, one: xr.Dataset, form: EnsembleForm, until: np.datetime64) -> xr.Dataset:
    """Read the forecast of one member, in the form of the ensemble."""
    with open_file(path) as ds:
        forecast = ds.load()
    if form.time in forecast.dims and forecast.sizes[form.time] > 1:
        here = np.flatnonzero(forecast[form.time].values == until)
        forecast = forecast.isel({form.time: here[:1]}) if here.size else forecast
    if form.member is not None:
        forecast = forecast.drop_vars(form.member, errors="ignore")
        forecast = forecast.isel({form.member: 0}) if form.member in forecast.dims else forecast
        lacking = [n for n in one.data_vars if form.member in one[n].dims and n in forecast]
        with_member = {
            n: forecast[n].expand_dims({form.member: one[form.member].values})
            if form.member in one.coords
            else forecast[n].expand_dims(form.member)
            for n in lacking
        }
        forecast = forecast.assign(with_member)
    return checked_forecast(forecast, one, until, what=path.name)


def _joined(members: Sequence[xr.Dataset], form: EnsembleForm) -> xr.Dataset:
    if form.member is None:
        return members[0]
    first = members[0]
    moving = {
        n: xr.Variable.concat([m[n].variable for m in members], form.member).transpose(
            *first[n].dims
        )
        for n in first.variables
        if form.member in first[n].dims
    }
    rest = first.drop_vars(list(moving))
    out = rest.assign_coords({n: v for n, v in moving.items() if n in first.coords})
    return out.assign({n: v for n, v in moving.items() if n in first.data_vars})[
        list(first.data_vars)
    ].assign_attrs(first.attrs)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
