"""The result of `check`: lines that pass, warn or fail, as text, table and HTML."""

from __future__ import annotations

import html
import textwrap
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Line", "TrustReport", "Verdict"]

Verdict = Literal["pass", "warn", "fail"]

WIDTH = 100
RANK = {"pass": 0, "warn": 1, "fail": 2}
# Readable on white and on black; the word is there as well.
COLOURS = {"pass": "#2e8b57", "warn": "#c77700", "fail": "#d64545"}
MARKS = {"pass": "\u2713", "warn": "!", "fail": "\u2717"}


@dataclass(frozen=True)
class Line:
    """One thing that was looked at.

    Attributes
    ----------
    name : str
        What it is.
    verdict : {"pass", "warn", "fail"}
        Whether it is as it should be.
    found : str
        What was found.
    remedy : str
        What to do about it; empty for what passes.
    """

    name: str
    verdict: Verdict
    found: str
    remedy: str = ""


@dataclass(frozen=True, repr=False)
class TrustReport:
    """Whether a prior fits a forecast and its observations; printed as a table.

    Attributes
    ----------
    lines : tuple of Line
        In the order in which things were looked at. What could not be looked at, because of a
        failure before, is not there.
    """

    lines: tuple[Line, ...]

    @property
    def verdict(self) -> Verdict:
        """The worst of all lines."""
        worst: Verdict = "pass"
        for line in self.lines:
            if RANK[line.verdict] > RANK[worst]:
                worst = line.verdict
        return worst

    @property
    def counts(self) -> dict[str, int]:
        """Number of lines of each verdict."""
        return {v: sum(line.verdict == v for line in self.lines) for v in RANK}

    def to_dataframe(self) -> pd.DataFrame:
        """Return the lines as a table of pandas, one row each."""
        import pandas as pd

        return pd.DataFrame([asdict(line) for line in self.lines])

    def _summary(self) -> str:
        counts = ", ".join(f"{n} {v}" for v, n in self.counts.items())
        return f"{self.verdict.upper()} ({counts})"

    def __str__(self) -> str:
        width = max((len(line.name) for line in self.lines), default=0)
        room = WIDTH - width - 8
        rows = []
        for line in self.lines:
            text = textwrap.wrap(line.found, room) or [""]
            if line.remedy:
                text += textwrap.wrap(f"-> {line.remedy}", room, subsequent_indent="   ")
            rows.append(f"{line.verdict.upper():<6}{line.name:<{width}}  {text[0]}")
            rows += [" " * (width + 8) + more for more in text[1:]]
        return "\n".join([*rows, "", self._summary()])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        rows = []
        for line in self.lines:
            mark = (
                f"<span style='color:{COLOURS[line.verdict]};font-weight:bold;white-space:nowrap'>"
                f"{MARKS[line.verdict]} {line.verdict}</span>"
            )
            remedy = ""
            if line.remedy:
                remedy = f"<div style='opacity:0.75'>\u2192 {html.escape(line.remedy)}</div>"
            cell = "text-align:left;vertical-align:top;padding:0.25em 0.75em"
            rows.append(
                f"<tr><td style='{cell}'>{mark}</td>"
                f"<th style='{cell};white-space:nowrap'>{html.escape(line.name)}</th>"
                f"<td style='{cell}'>{html.escape(line.found)}{remedy}</td></tr>"
            )
        summary = html.escape(self._summary())
        colour = COLOURS[self.verdict]
        style = "border-collapse:collapse;margin-top:0.5em"
        return (
            f"<div><strong style='color:{colour}'>{summary}</strong>"
            f"<table style='{style}'>{''.join(rows)}</table></div>"
        )

    def to_html(self) -> str:
        """Return a page of its own."""
        return (
            "<!DOCTYPE html>\n<html lang='en'><head><meta charset='utf-8'>"
            "<meta name='color-scheme' content='light dark'>"
            "<title>Trust report of xr_daisi</title></head>"
            "<body style='font-family:system-ui,sans-serif;max-width:60em;margin:2em auto'>"
            f"<h1>Trust report</h1>{self._repr_html_()}</body></html>\n"
        )
