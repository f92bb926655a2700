"""Flow priors for data assimilation, as an xarray accessor.

Importing the package registers ``.daisi`` on `xarray.Dataset`.
"""

from typing import TYPE_CHECKING

from xr_daisi import accessor as _accessor  # noqa: F401  registers .daisi
from xr_daisi._version import __version__
from xr_daisi.analysis import assimilate
from xr_daisi.check import check
from xr_daisi.cycle_replay import Replay, replay
from xr_daisi.cycling import CycleRecord, cycle
from xr_daisi.duplicates import RepeatedObservationsWarning
from xr_daisi.errors import (
    DaisiError,
    DaisiTypeError,
    DivergenceError,
    ForecastError,
    MemoryLimitError,
    NoObservationsWarning,
    ObservationError,
    OperatorError,
    PriorError,
    SettingsError,
    SpaceChunksWarning,
    StateError,
    UnitsError,
)
from xr_daisi.estimate import AnalysisPlan
from xr_daisi.feedback import feedback
from xr_daisi.feedback_statistics import feedback_summary
from xr_daisi.feedback_table import summary_table
from xr_daisi.formats import convert_observations, read_observations, write_observations
from xr_daisi.guidance import GuidanceWarning
from xr_daisi.inference import CompileWarning
from xr_daisi.latent import invert, sample
from xr_daisi.observation_quality import FlagWarning
from xr_daisi.operators import on_grid
from xr_daisi.options import set_options
from xr_daisi.prior_grid import SpacingWarning
from xr_daisi.priors import FlowPrior
from xr_daisi.registry import load_prior, register_prior, registered_priors
from xr_daisi.training import train_prior
from xr_daisi.trust_report import TrustReport
from xr_daisi.withholding import withhold

__all__ = [
    "AnalysisPlan",
    "CompileWarning",
    "CycleRecord",
    "DaisiError",
    "DaisiTypeError",
    "DivergenceError",
    "FlagWarning",
    "FlowPrior",
    "ForecastError",
    "GuidanceWarning",
    "MemoryLimitError",
    "NoObservationsWarning",
    "ObservationError",
    "OperatorError",
    "PriorError",
    "RepeatedObservationsWarning",
    "Replay",
    "SettingsError",
    "SpaceChunksWarning",
    "SpacingWarning",
    "StateError",
    "TrustReport",
    "UnitsError",
    "__version__",
    "assimilate",
    "check",
    "convert_observations",
    "cycle",
    "feedback",
    "feedback_summary",
    "invert",
    "load_prior",
    "on_grid",
    "read_observations",
    "register_prior",
    "registered_priors",
    "replay",
    "sample",
    "set_options",
    "summary_table",
    "train_prior",
    "withhold",
    "write_observations",
]

_LATER = ("forecast", "plotting", "systems", "verification")

if TYPE_CHECKING:
    from xr_daisi import forecast, plotting, systems, verification  # noqa: F401
else:

    def __getattr__(name):
        """Import the modules that not every analysis needs when they are first asked for."""
        if name in _LATER:
            from importlib import import_module

            return import_module(f"xr_daisi.{name}")
        raise AttributeError(f"module 'xr_daisi' has no attribute {name!r}")

    def __dir__():
        return sorted({*globals(), *_LATER})
