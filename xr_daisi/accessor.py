"""``ds.daisi``: the functions of the package as methods of a Dataset."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import xarray as xr

from xr_daisi.analysis import assimilate
from xr_daisi.check import check
from xr_daisi.delegation import method_of
from xr_daisi.feedback import feedback
from xr_daisi.latent import invert, sample
from xr_daisi.withholding import withhold

if TYPE_CHECKING:
    from xr_daisi.plot_accessor import DaisiPlots

__all__ = ["DaisiAccessor"]


@xr.register_dataset_accessor("daisi")
class DaisiAccessor:
    """Flow-prior data assimilation for the Dataset at hand; it keeps no state of its own."""

    def __init__(self, obj: xr.Dataset) -> None:
        self._obj = obj

    def __repr__(self) -> str:
        return "<xr_daisi accessor: assimilate, invert, sample, feedback, check, withhold, plot>"

    assimilate: Any = method_of(assimilate)
    invert = method_of(invert)
    sample = method_of(sample)
    feedback = method_of(feedback)
    check = method_of(check)
    withhold = method_of(withhold)

    @property
    def plot(self) -> DaisiPlots:
        """Pictures: ``analysis.daisi.plot.rank_histogram(truth)`` and others."""
        from xr_daisi.plot_accessor import DaisiPlots

        return DaisiPlots(self._obj)
