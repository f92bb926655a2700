"""Test systems as labelled Datasets, each a forecast model, and twin experiments with them."""

from xr_daisi.systems import lorenz63, lorenz96, sqg
from xr_daisi.systems.base import System
from xr_daisi.systems.lorenz63 import Lorenz63
from xr_daisi.systems.lorenz96 import Lorenz96
from xr_daisi.systems.sqg import SQG, SQGParameters
from xr_daisi.systems.twin import TwinExperiment, denoised, observe, twin_experiment

__all__ = [
    "SQG",
    "Lorenz63",
    "Lorenz96",
    "SQGParameters",
    "System",
    "TwinExperiment",
    "denoised",
    "lorenz63",
    "lorenz96",
    "observe",
    "sqg",
    "twin_experiment",
]
