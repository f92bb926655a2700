"""A summary of feedback as text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from xr_daisi.errors import StateError, problem

if TYPE_CHECKING:
    from collections.abc import Sequence

    import xarray as xr

__all__ = ["summary_table"]

COLUMNS = {
    "count": "values",
    "o_minus_b_mean": "O-B mean",
    "o_minus_b_rms": "O-B RMS",
    "o_minus_a_mean": "O-A mean",
    "o_minus_a_rms": "O-A RMS",
    "background_spread": "B spread",
    "analysis_spread": "A spread",
    "chi_square": "chi2 B",
    "analysis_chi_square": "chi2 A",
}
# Standard deviations are easier to read than variances.
CONSISTENCY = {
    "error_variance": "error",
    "background_variance": "background",
    "analysis_variance": "analysis",
}


def summary_table(summary: xr.Dataset) -> str:
    """Return a summary of feedback as text, one line for each variable and group.

    Parameters
    ----------
    summary : xarray.Dataset
        From `xr_daisi.feedback_summary`. Groups without values are left out.

    Returns
    -------
    str
        Departures and spreads; below, for used values, standard deviations as assumed and as
        diagnosed from the departures; then how many values were used, and why others were not.

    Raises
    ------
    StateError
        Where it is no summary.
    """
    missing = [n for n in ("count", "values", "rank_histogram") if n not in summary.variables]
    if missing:
        found = f"a Dataset without {', '.join(missing)}"
        raise StateError(problem("summary", found, "a result of xr_daisi.feedback_summary"))
    groups = [str(d) for d in summary["count"].dims if d != "variable"]
    cells = [
        dict(zip(("variable", *groups), index, strict=True))
        for index in np.ndindex(summary["count"].shape)
        if int(summary["count"].values[index])
    ]
    titles = ["variable", *groups]
    labels = [_labels(summary, cell) for cell in cells]
    kinds = [name for name in COLUMNS if name in summary]
    rows = [
        [*label, *(_number(summary[name].isel(cell).item()) for name in kinds)]
        for label, cell in zip(labels, cells, strict=True)
    ]
    status = summary.attrs.get("status", "used")
    lines = [f"{status} values", *_aligned([*titles, *map(COLUMNS.get, kinds)], rows, len(titles))]
    known = [name for name in CONSISTENCY if f"{name}_diagnosed" in summary]
    if known:
        rows = [
            [
                *label,
                *(
                    _number(_root(summary[f"{name}{end}"].isel(cell).item()))
                    for name in known
                    for end in ("", "_diagnosed")
                ),
            ]
            for label, cell in zip(labels, cells, strict=True)
        ]
        heads = [f"{CONSISTENCY[n]}{end}" for n in known for end in ("", " diag.")]
        lines += ["", "standard deviations, assumed and diagnosed (-: negative variance)"]
        lines += _aligned([*titles, *heads], rows, len(titles))
    return "\n".join([*lines, "", *_reasons(summary, groups), *_bounds(summary)])


def _labels(summary: xr.Dataset, cell: dict[str, int]) -> list[str]:
    texts = []
    for dim, index in cell.items():
        label = summary[dim].values[index]
        text = str(label)
        if isinstance(label, np.datetime64):
            text = text[:16]
        if dim == "variable":
            units = str(summary["units"].values[index])
            text = f"{text} ({units})" if units else text
        texts.append(text)
    return texts


def _number(value: float) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    if not np.isfinite(value):
        return "-"
    return f"{value:.3g}" if 1e-3 <= abs(value) < 1e4 else f"{value:.2e}" if value else "0"


def _root(variance: float) -> float:
    return float(np.sqrt(variance)) if variance >= 0 else float("nan")


def _aligned(titles: Sequence[Any], rows: list[list[str]], left: int) -> list[str]:
    texts = [list(map(str, titles)), *rows]
    widths = [max(len(row[k]) for row in texts) for k in range(len(titles))]
    return [
        "  ".join(
            text.ljust(width) if k < left else text.rjust(width)
            for k, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in texts
    ]


def _reasons(summary: xr.Dataset, groups: list[str]) -> list[str]:
    counts = summary["values"].sum(groups)
    lines = []
    for index, name in enumerate(summary["variable"].values):
        own = zip(counts["reason"].values, counts.isel(variable=index).values, strict=True)
        words = [f"{int(count):,} {reason}" for reason, count in own if count]
        lines.append(f"{name}: {', '.join(words) or 'no values'}")
    return lines


def _bounds(summary: xr.Dataset) -> list[str]:
    lines = []
    for name in map(str, summary.data_vars):
        variable, found, _ = name.partition("_at_bound_analysis")
        before = f"{variable}_at_bound_forecast"
        if found and before in summary:
            values = summary[name].attrs.get("values", "all")
            bound = "bounds" if "upper_bound" in summary[name].attrs else "lower bound"
            values = f"{int(values):,}" if isinstance(values, (int, np.integer)) else values
            lines.append(
                f"{variable}: {int(summary[name]):,} of {values} values of the analysis at their "
                f"{bound}, {int(summary[before]):,} of the forecast"
            )
    return lines
