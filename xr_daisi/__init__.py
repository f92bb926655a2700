"""Flow priors for data assimilation, as an xarray accessor.

Importing the package registers ``.daisi`` on `xarray.Dataset`.
"""

from xr_daisi._version import __version__
from xr_daisi.prior_files import load_prior, register_prior, registered_priors
from xr_daisi.priors import FlowPrior
from xr_daisi.training import train_prior

__all__ = [
    "FlowPrior",
    "__version__",
    "load_prior",
    "register_prior",
    "registered_priors",
    "train_prior",
]
