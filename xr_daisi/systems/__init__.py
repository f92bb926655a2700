"""Test systems as labelled Datasets: surface quasi-geostrophic turbulence."""

from xr_daisi.systems import sqg

__all__ = ["sqg"]
