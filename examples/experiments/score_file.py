"""`scores.csv`: one row per experiment, method, seed and cycle, appended as each cycle ends."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

COLUMNS = ("experiment", "method", "seed", "cycle", "rmse", "crps", "ssr")
KEYS = ("experiment", "method", "seed", "cycle")
POOLED = ("lorenz63", "era5")
"""Experiments whose cycles are taken as one sample: a ratio of a few numbers has no mean."""


class ScoreFile:
    """Rows of a CSV file that a crash may have cut short; none is written twice.

    Parameters
    ----------
    path : Path
        The file; made with its header when the first row is written.
    columns : sequence of str
        Names of the columns; those of `KEYS` that are among them identify a row.
    """

    def __init__(self, path: Path, columns: tuple[str, ...] = COLUMNS) -> None:
        self.path, self.columns = path, columns
        self.failed: list[str] = []
        self.keys = [c for c in columns if c in KEYS]
        self._repair()
        self.known = {tuple(str(row[k]) for k in self.keys) for row in self._rows()}

    def _rows(self) -> list[dict[str, str]]:
        if not self.path.exists():
            return []
        with self.path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def _repair(self) -> None:
        """Cut off a last line that was not written to its end."""
        if not self.path.exists():
            return
        text = self.path.read_bytes()
        whole = text[: text.rfind(b"\n") + 1]
        if whole != text:
            os.truncate(self.path, len(whole))
        header = ",".join(self.columns)
        found = whole.decode("utf-8").splitlines()
        if found and found[0] != header:
            raise ValueError(
                f"{self.path}: found the columns {found[0]!r}, expected {header!r}; "
                "name another --out"
            )

    def append(self, **row: object) -> None:
        """Write a row durably, unless one with the same keys is there."""
        key = tuple(str(row[k]) for k in self.keys)
        if key in self.known:
            return
        new = not self.path.exists() or self.path.stat().st_size == 0
        cells = [f"{v:.8g}" if isinstance(v, float) else str(v) for v in map(row.get, self.columns)]
        line = ",".join(cells) + "\n"
        with self.path.open("a", encoding="utf-8", newline="") as file:
            # In one piece, so that runs of several methods may share a file.
            file.write((",".join(self.columns) + "\n" if new else "") + line)
            file.flush()
            os.fsync(file.fileno())
        self.known.add(key)

    def has(self, **key: object) -> bool:
        """Whether a row is there."""
        return tuple(str(key[k]) for k in self.keys) in self.known

    def frame(self) -> pd.DataFrame:
        """Return all rows, ordered by their keys, methods in the order of their first row."""
        if not self.path.exists():
            return pd.DataFrame(columns=list(self.columns))
        return pd.read_csv(self.path)


def averages(scores: pd.DataFrame) -> pd.DataFrame:
    """Average scores over all cycles and over the last half, by experiment and method.

    Parameters
    ----------
    scores : DataFrame
        Rows of `ScoreFile`; seeds are averaged too. Scores are averaged, but for experiments whose
        name begins as one of `POOLED` roots are taken of mean squares.

    Returns
    -------
    DataFrame
        Columns experiment, method, cycles, then each score and ``<score> (last half)``.
    """
    rows = []
    for (experiment, method), part in scores.groupby(["experiment", "method"], sort=False):
        cycles = int(part["cycle"].max()) + 1
        last = part[part["cycle"] >= cycles // 2]
        row: dict[str, object] = {"experiment": experiment, "method": method, "cycles": cycles}
        average = _pooled if str(experiment).startswith(POOLED) else _averaged
        whole, half = average(part), average(last)
        for name in ("rmse", "crps", "ssr"):
            row[name], row[f"{name} (last half)"] = whole[name], half[name]
        rows.append(row)
    return pd.DataFrame(rows)


def _averaged(part: pd.DataFrame) -> dict[str, float]:
    return {name: float(part[name].mean()) for name in ("rmse", "crps", "ssr")}


def _pooled(part: pd.DataFrame) -> dict[str, float]:
    squared = part["rmse"] ** 2
    variance = (part["ssr"] ** 2 * squared).mean()
    return {
        "rmse": float(squared.mean() ** 0.5),
        "crps": float(part["crps"].mean()),
        "ssr": float((variance / squared.mean()) ** 0.5),
    }


def markdown_table(frame: pd.DataFrame, digits: int = 3) -> str:
    """Return a table in Markdown, floats with `digits` digits."""
    head = [str(c) for c in frame.columns]
    body = [
        [f"{v:.{digits}f}" if isinstance(v, float) else str(v) for v in row]
        for row in frame.itertuples(index=False)
    ]
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def draw(scores: pd.DataFrame, path: Path, *, units: str = "K") -> None:
    """Draw each score against the cycle, one row of panels per experiment, seeds averaged.

    Parameters
    ----------
    scores : DataFrame
        Rows of `ScoreFile`.
    path : Path
        PNG file, replaced when complete.
    units : str
        Of RMSE and CRPS.
    """
    from matplotlib.figure import Figure

    experiments = list(dict.fromkeys(scores["experiment"]))
    methods = list(dict.fromkeys(scores["method"]))
    figure = Figure(figsize=(11, 2.9 * len(experiments)), layout="constrained")
    axes = figure.subplots(len(experiments), 3, squeeze=False)
    unit = f" ({units})" if units else ""
    titles = {"rmse": f"RMSE{unit}", "crps": f"CRPS{unit}", "ssr": "spread-skill ratio"}
    for row, experiment in zip(axes, experiments, strict=True):
        part = scores[scores["experiment"] == experiment]
        for axis, (name, title) in zip(row, titles.items(), strict=True):
            for number, method in enumerate(methods):
                series = part[part["method"] == method].groupby("cycle")[name].mean()
                if len(series):
                    marker = "." if len(series) < 3 else None
                    axis.plot(series.index, series, color=f"C{number}", label=method, marker=marker)
            axis.set_title(f"{experiment}: {title}", fontsize=10)
            axis.grid(alpha=0.3)
            if name == "ssr":
                axis.axhline(1.0, color="0.5", linewidth=0.8)
    for axis in axes[-1]:
        axis.set_xlabel("cycle")
    axes[0, 0].legend(fontsize=8)
    write_whole(path, lambda temporary: figure.savefig(temporary, dpi=120, format="png"))


def write_whole(path: Path, write: object) -> None:
    """Write a file under a temporary name and move it into place."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(temporary)  # type: ignore[operator]
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def summarise(
    scores: pd.DataFrame, out: Path, *, units: str = "K", experiments: Iterable[str] = ()
) -> str:
    """Draw `scores.png`, write `summary.md`, and return the table of some experiments.

    Parameters
    ----------
    scores : DataFrame
        Rows of `ScoreFile`.
    out : Path
        Folder.
    units : str
        Of RMSE and CRPS.
    experiments : iterable of str
        Which the returned table is of; all without.
    """
    table = averages(scores)
    write_whole(
        out / "summary.md",
        lambda p: p.write_text(markdown_table(table) + "\n", encoding="utf-8"),
    )
    draw(scores, out / "scores.png", units=units)
    chosen = list(experiments)
    return markdown_table(table[table["experiment"].isin(chosen)] if chosen else table)
