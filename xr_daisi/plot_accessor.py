"""``ds.daisi.plot``: the pictures of the package as methods."""

from __future__ import annotations

from typing import Any

import xarray as xr

from xr_daisi.delegation import method_of
from xr_daisi.plotting import (
    plot_feedback,
    plot_increments,
    plot_map,
    plot_rank_histogram,
    plot_reliability,
    plot_scores,
    plot_spectrum,
    plot_spread_skill,
)

__all__ = ["DaisiPlots"]


class DaisiPlots:
    """Pictures of the Dataset at hand, an ensemble or a feedback; it keeps no state of its own."""

    def __init__(self, obj: xr.Dataset) -> None:
        self._obj = obj

    def __repr__(self) -> str:
        names = [name for name in vars(type(self)) if not name.startswith("_")]
        return f"<xr_daisi plots: {', '.join(names)}>"

    feedback: Any = method_of(plot_feedback)
    increments: Any = method_of(plot_increments)
    map: Any = method_of(plot_map)
    rank_histogram: Any = method_of(plot_rank_histogram)
    reliability: Any = method_of(plot_reliability)
    scores: Any = method_of(plot_scores)
    spectrum: Any = method_of(plot_spectrum)
    spread_skill: Any = method_of(plot_spread_skill)
