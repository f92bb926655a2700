"""What the command line says on stderr: errors and warnings of one line, in terms of options."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Mapping
from typing import Any

import torch
from cyclopts import CycloptsError, UnusedCliTokensError
from tqdm import tqdm

from xr_daisi.errors import DaisiError

__all__ = [
    "analysed_by",
    "counted",
    "fail",
    "in_options",
    "report",
    "show_warning",
    "tell_table",
    "usage_error",
]

PYTHON_FORMS = (
    # Remedies are written for Python; these have another form in a terminal.
    (r", xr_daisi\.set_options\(prior=\.\.\.\)", ""),
    (r"use batch='auto'", "leave out --batch"),
    (r"xr_daisi\.train_prior\(history\)", "xr-daisi train"),
    (r"\bobs_error=\{'?([^':}]+)'?: number\}", r"--obs-error \1=NUMBER"),
    (r"\boperator=\{'?([^':}]+)'?: function\}", r"--operator \1=NAME"),
    (r"\bprior\.on_grid\(forecast\)", "--on-grid"),
)
OPTIONS = (
    *("background_error", "inflation", "localization", "method", "relaxation_method"),
    *("bridge", "perturb_obs", "relaxation", "vertical_localization"),
    *("background_check", "batch_size", "batch", "bounds", "checkpoint", "corrector_steps"),
    *("device", "error_correlation", "error_inflation", "footprint", "interpolation", "quality"),
    *(
        "thin",
        "time_interpolation",
        "dropout",
        "dtype",
        "guidance_iterations",
        "guidance_solver",
        "guidance",
        "init",
    ),
    *("inverse_noise", "max_minutes", "noise", "normalization", "obs_error", "operator"),
    *(
        "overlap",
        "overwrite",
        "patch",
        "periodic",
        "roll",
        "seed",
        "solver",
        "static",
        "steps",
        "strength",
    ),
    *("t_min", "tile", "time_tolerance", "transform", "validation", "variables", "width", "prior"),
)
SUBJECT = re.compile(rf"^(- )?({'|'.join(OPTIONS[:-1])}):", re.MULTILINE)
KEYWORD = re.compile(
    rf"(?<![\w.(-])({'|'.join(OPTIONS)})="
    r"""(\.\.\.|\[\.\.\.\]|True\b|'[^']*'|"[^"]*"|\d[\w.]*|)"""
)


def in_options(text: str) -> str:
    """Write keywords of Python in a message as options of the command line.

    Parameters
    ----------
    text : str
        A message of the package.

    Examples
    --------
    >>> in_options("t_min: found 2.0, expected a number in [0, 1)")
    '--t-min: found 2.0, expected a number in [0, 1)'
    >>> in_options("lower strength, or use guidance='mmps'")
    'lower strength, or use --guidance mmps'
    """
    for pattern, replacement in PYTHON_FORMS:
        text = re.sub(pattern, replacement, text)
    text = SUBJECT.sub(lambda m: f"{m[1] or ''}{_option(m[2])}:", text)

    def with_value(match: re.Match[str]) -> str:
        value = match[2].strip("'\"")
        told = "" if value in ("", "...", "[...]", "True") else f" {value}"
        return _option(match[1]) + told

    return KEYWORD.sub(with_value, text)


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _one_line(message: object) -> str:
    lines = [line.strip().removeprefix("- ") for line in in_options(str(message)).splitlines()]
    text = "; ".join(line for line in lines if line)
    return re.sub(r"^(\d+ problems:);", r"\1", text)


def counted(counts: str) -> str:
    """Return counts, as an analysis has them in its attributes, in words.

    Examples
    --------
    >>> counted('{"used": 1200, "missing": 3}')
    '1,200 used, 3 missing'
    """
    return ", ".join(f"{n:,} {what}" for what, n in json.loads(counts).items()) or "none"


def analysed_by(attrs: Mapping[str, Any]) -> str:
    """Say by which method and with which prior an analysis was made.

    Examples
    --------
    >>> analysed_by({"daisi_prior": "sqg64", "daisi_settings": '{"method": "daisi"}'})
    'with prior sqg64'
    """
    method = json.loads(attrs["daisi_settings"])["method"]
    words = [] if method == "daisi" else [f"by {method}"]
    if "daisi_prior" in attrs:
        words.append(f"with prior {attrs['daisi_prior']}")
    return " ".join(words)


def tell_table(table: object) -> None:
    """Print rows of a name and a text; in a terminal, long texts are wrapped in their column.

    Parameters
    ----------
    table : object
        Printed as lines ``name  text``, the texts below each other.
    """
    lines = str(table).splitlines()
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
    for line in lines:
        row = re.match(r" *\S+(?: \S+)*  +", line)
        if not row or len(line) <= width or not width:
            print(line)
            continue
        indent = " " * row.end()
        print(
            textwrap.fill(
                line[row.end() :],
                width,
                initial_indent=row[0],
                subsequent_indent=indent,
                break_long_words=False,
                break_on_hyphens=False,
            )
        )


def report(error: Exception) -> int:
    """Say in one line what went wrong, and return the exit status.

    Parameters
    ----------
    error : Exception
        Whatever a command raised.

    Returns
    -------
    int
        2 where the user can do something about it, else 1.
    """
    if isinstance(error, BrokenPipeError):
        # Whoever read the output has seen enough. Nothing may be written at the exit either.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    if isinstance(error, OSError):
        return fail(_from_system(error))
    if isinstance(error, DaisiError):
        return fail(error)
    if isinstance(error, ImportError):
        return fail(f"{error}; install the extra that brings it: pip install 'xr-daisi[demo]'")
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return fail("out of memory; --batch 1, --chunks time=1 or --tile need less")
    if isinstance(error, RuntimeError) and str(error).startswith("NetCDF"):
        return fail(f"a NetCDF file is damaged or cannot be written ({error})")
    text = f"unexpected {type(error).__name__}: {error}; --verbose shows where: please report it"
    return fail(text, 1)


def _from_system(error: OSError) -> str:
    """Return what the system says, without its number."""
    if error.strerror is None:
        return str(error)
    return f"{error.filename}: {error.strerror}" if error.filename else error.strerror


def usage_error(error: CycloptsError, tokens: list[str], commands: set[str]) -> str:
    """Return what is wrong with a command line, and where help is.

    Parameters
    ----------
    error : CycloptsError
        What cyclopts found.
    tokens : list of str
        The command line.
    commands : set of str
        Names of the commands.
    """
    text = str(error)
    if isinstance(error, UnusedCliTokensError):
        text = f"unexpected argument: {' '.join(error.unused_tokens or [])}"
    named = f" {tokens[0]}" if tokens and tokens[0] in commands else ""
    return f"{text.strip().rstrip('.')} (see xr-daisi{named} --help)"


def fail(message: object, status: int = 2) -> int:
    """Print an error as one line, and return the exit status."""
    _say(f"error: {_one_line(message)}")
    return status


def show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    """Print a warning as one line; stands in for `warnings.showwarning`."""
    _say(f"warning: {_one_line(message)}")


def _say(text: str) -> None:
    tqdm.write(f"xr-daisi: {text}", file=sys.stderr)  # beside a progress bar, not into it
