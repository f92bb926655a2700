"""The configuration of a cycle in a file: what may stand in it, and everything that is wrong."""

from __future__ import annotations

import difflib
import inspect
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xr_daisi.analysis import assimilate
from xr_daisi.errors import DaisiError, SettingsError, problem, raise_problems

__all__ = ["TEMPLATE", "CycleConfig", "parse_config", "read_config"]

TEMPLATE = """\
# A cycle of forecasts and analyses, for: xr-daisi cycle this-file.toml
# Paths are relative to this file. Lines that begin with # show what may be set.

[cycle]
initial = "initial.nc"          # the ensemble at the time of the first analysis
observations = "obs/*.nc"       # files with times, or one for each time: "obs-{time:%Y%m%d%H}.nc"
store = "cycles.zarr"           # written here; the same command goes on with it
window = "6h"                   # from one analysis to the next
# cycles = 40                   # how many in all; until the observations end when left out
# prior = "uk-t2m.safetensors"  # a file, URL or registered name; the one that fits when left out
# method = "daisi"
# truth = "truth.nc"            # for scores
# on_failure = "stop"           # or "drop-member", "forecast"
# seed = 0

[model]
kind = "persistence"            # the forecast model, or "climatology", "external", "sqg"

# kind = "climatology"
# states = "climatology.nc"     # a state for every time of analysis

# kind = "external"             # a program, run for each member in a folder of its own
# command = "./model --in {input} --out {output} --from {start} --to {until:%Y%m%d%H}"
# timeout = 3600                # seconds
# parallel = 4                  # members at once
# keep = "failed"               # working folders that stay: or "never", "always"
# directory = "work"            # where they are made
# environment = { OMP_NUM_THREADS = "1" }

[assimilate]                    # keywords of xr_daisi.assimilate
# t_min = "auto"
# steps = [20, 20]
# obs_error = { t2m = 0.5 }
# background_check = 5.0
# device = "auto"
"""

TEXT, NUMBER, WHOLE = "a text", "a number", "a whole number"
TEXTS, TABLE = "a text or a list of texts", "a table of texts"

CYCLE = {
    "initial": TEXT,
    "observations": TEXTS,
    "store": TEXT,
    "window": TEXT,
    "cycles": WHOLE,
    "prior": TEXT,
    "method": TEXT,
    "truth": TEXT,
    "on_failure": TEXT,
    "seed": WHOLE,
}
NEEDED = ("initial", "observations", "store", "window")
MODELS: dict[str, dict[str, str]] = {
    "persistence": {},
    "climatology": {"states": TEXT},
    "external": {
        "command": TEXTS,
        "timeout": NUMBER,
        "parallel": WHOLE,
        "keep": TEXT,
        "directory": TEXT,
        "environment": TABLE,
    },
    "sqg": {},
}
NEEDED_BY_MODEL = {"climatology": ("states",), "external": ("command",)}
NOT_HERE = {
    "seed": "[cycle]",
    "method": "[cycle]",
    "prior": "[cycle]",
    "dry_run": "",
    "progress": "",
}
SECTIONS = ("cycle", "model", "assimilate")


@dataclass(frozen=True)
class CycleConfig:
    """A configuration that is complete.

    Attributes
    ----------
    cycle, model, assimilate : dict
        Its sections.
    folder : Path
        What its paths are relative to.
    """

    cycle: dict[str, Any]
    model: dict[str, Any]
    assimilate: dict[str, Any]
    folder: Path

    def path(self, text: str) -> Path:
        """Return a path as seen from where Python runs."""
        return self.folder / Path(text).expanduser()


def read_config(path: Path) -> CycleConfig:
    """Read and check a configuration.

    Parameters
    ----------
    path : Path
        Ending in .toml, .yaml or .yml.

    Raises
    ------
    SettingsError
        Naming every key that is unknown, missing, of another type or out of place, and every input
        file that is not there.
    DaisiError
        If the file cannot be read.
    """
    kind = path.suffix.lower()
    if kind not in (".toml", ".yaml", ".yml"):
        found = f"ending {path.suffix!r}" if path.suffix else "no ending"
        raise DaisiError(problem(str(path), found, ".toml or .yaml", "rename it"))
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        remedy = "xr-daisi cycle --template prints one"
        raise DaisiError(problem(str(path), "no such file", "a configuration", remedy)) from None
    except UnicodeDecodeError as error:
        raise DaisiError(problem(str(path), "no text", "a text file in UTF-8")) from error
    try:
        entries = tomllib.loads(text) if kind == ".toml" else _from_yaml(text)
    except ValueError as error:
        first = " ".join(str(error).split())
        expected = "a file in TOML" if kind == ".toml" else "a file in YAML"
        raise DaisiError(problem(str(path), first, expected)) from error
    config = parse_config(entries, path.parent, subject=str(path))
    _check_files(config, str(path))
    return config


def _from_yaml(text: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


def parse_config(entries: Any, folder: Path, *, subject: str = "configuration") -> CycleConfig:
    """Check the entries of a configuration.

    Parameters
    ----------
    entries : mapping
        Sections ``cycle``, ``model`` and ``assimilate``.
    folder : Path
        What its paths are relative to.
    subject : str
        Name for messages.

    Raises
    ------
    SettingsError
        With everything that is wrong.
    """
    if not isinstance(entries, Mapping):
        raise SettingsError(problem(subject, type(entries).__name__, "sections [cycle], [model]"))
    problems = [
        problem(
            f"{subject}, {name}",
            "an unknown section",
            f"[{'], ['.join(SECTIONS)}]",
            _hint(name, SECTIONS),
        )
        for name in map(str, entries)
        if name not in SECTIONS
    ]
    sections: dict[str, dict[str, Any]] = {}
    for name in SECTIONS:
        given = entries.get(name)
        if given is None and name != "assimilate":
            problems.append(problem(f"{subject}, [{name}]", "no such section", "one"))
        elif given is not None and not isinstance(given, Mapping):
            problems.append(problem(f"{subject}, [{name}]", repr(given), "a section"))
        sections[name] = dict(given) if isinstance(given, Mapping) else {}
    if isinstance(entries.get("cycle"), Mapping):
        problems += _section(sections["cycle"], CYCLE, NEEDED, f"{subject}, [cycle]")
    if isinstance(entries.get("model"), Mapping):
        problems += _model(sections["model"], f"{subject}, [model]")
    problems += _keywords(sections["assimilate"], f"{subject}, [assimilate]")
    raise_problems(SettingsError, problems)
    return CycleConfig(sections["cycle"], sections["model"], sections["assimilate"], folder)


def _section(
    given: Mapping[str, Any], known: Mapping[str, str], needed: tuple[str, ...], subject: str
) -> list[str]:
    problems = [
        problem(
            f"{subject} {key}",
            "an unknown key",
            f"some of {', '.join(known) or 'none'}",
            _hint(key, known),
        )
        for key in given
        if key not in known
    ]
    problems += [
        problem(f"{subject} {key}", "no such key", known[key]) for key in needed if key not in given
    ]
    return problems + [
        problem(f"{subject} {key}", repr(value), known[key])
        for key, value in given.items()
        if key in known and not _is(value, known[key])
    ]


def _model(given: Mapping[str, Any], subject: str) -> list[str]:
    kinds = ", ".join(map(repr, MODELS))
    kind = given.get("kind")
    if not isinstance(kind, str) or kind not in MODELS:
        found = "no such key" if kind is None else repr(kind)
        hint = _hint(kind, MODELS) if isinstance(kind, str) else ""
        return [problem(f"{subject} kind", found, f"one of {kinds}", hint)]
    rest = {k: v for k, v in given.items() if k != "kind"}
    # Keys of another kind contradict this one.
    owners = {k: name for name, keys in MODELS.items() for k in keys if name != kind}
    problems = [
        problem(f"{subject} {key}", f"a key of kind {owners[key]!r}", f"none, for kind {kind!r}")
        for key in rest
        if key in owners and key not in MODELS[kind]
    ]
    rest = {k: v for k, v in rest.items() if k in MODELS[kind] or k not in owners}
    return problems + _section(rest, MODELS[kind], NEEDED_BY_MODEL.get(kind, ()), subject)


def _keywords(given: Mapping[str, Any], subject: str) -> list[str]:
    signature = inspect.signature(assimilate)
    known = [
        name
        for name, parameter in signature.parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY and name not in NOT_HERE
    ]
    problems = []
    for key in given:
        if key in NOT_HERE:
            place = f"in {NOT_HERE[key]}" if NOT_HERE[key] else "none in a configuration"
            problems.append(problem(f"{subject} {key}", "a key that is not for here", place))
        elif key not in known:
            found, expected = "an unknown key", "a keyword of xr_daisi.assimilate"
            problems.append(problem(f"{subject} {key}", found, expected, _hint(key, known)))
    return problems


def _is(value: Any, kind: str) -> bool:
    if kind == TEXT:
        return isinstance(value, str) and bool(value.strip())
    if kind == TEXTS:
        several = value if isinstance(value, list) else [value]
        return bool(several) and all(isinstance(v, str) and v.strip() for v in several)
    if kind == TABLE:
        return isinstance(value, Mapping) and all(isinstance(v, str) for v in value.values())
    number = isinstance(value, int if kind == WHOLE else (int, float))
    return number and not isinstance(value, bool)


def _hint(key: str, known: Any) -> str:
    close = difflib.get_close_matches(key, list(known), 1)
    return f"did you mean {close[0]!r}?" if close else ""


def _check_files(config: CycleConfig, subject: str) -> None:
    named = {
        "[cycle] initial": config.cycle["initial"],
        "[cycle] truth": config.cycle.get("truth"),
        "[model] states": config.model.get("states"),
    }
    raise_problems(
        SettingsError,
        [
            problem(f"{subject}, {key}", f"no file {text!r}", "one that is there")
            for key, text in named.items()
            if text is not None and not config.path(text).exists()
        ],
    )
