"""Forecast models that a configuration can name."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr

from xr_daisi.ensembles import form_of, instant
from xr_daisi.errors import ForecastError, problem
from xr_daisi.files import open_file
from xr_daisi.forecast import Climatology, ExternalModel, ForecastModel, Persistence
from xr_daisi.systems.sqg import SQG, SQGParameters

if TYPE_CHECKING:
    from xr_daisi.cycle_config import CycleConfig

__all__ = ["SQGForecast", "model_of"]


class SQGForecast:
    """The surface quasi-geostrophic model of `xr_daisi.systems.sqg` as a forecast model."""

    @property
    def configuration(self) -> dict[str, Any]:
        """What it is, as plain JSON."""
        return {"model": "sqg"}

    def __repr__(self) -> str:
        return "SQGForecast()"

    def __call__(self, ensemble: xr.Dataset, until: np.datetime64, /) -> xr.Dataset:
        """Integrate the variable ``theta`` until a time.

        Raises
        ------
        ForecastError
            If the ensemble is none of that model.
        """
        form = form_of(ensemble)
        if "theta" not in ensemble or not {"level", "y", "x"} <= set(ensemble["theta"].dims):
            found = ", ".join(map(str, ensemble.data_vars))
            expected = "theta on level, y and x, as xr_daisi.systems makes it"
            raise ForecastError(problem("ensemble for the SQG model", found, expected))
        theta = ensemble["theta"].transpose(..., "level", "y", "x")
        hours = (until.astype("datetime64[us]") - instant(ensemble, form.time)) / np.timedelta64(
            1, "h"
        )
        model = SQG(SQGParameters(n=theta.sizes["x"]))
        later = model.advance(torch.from_numpy(np.array(theta.values)), float(hours)).numpy()
        moved = theta.copy(data=later).transpose(*ensemble["theta"].dims)
        return form.at(ensemble.assign(theta=moved), until)


def model_of(config: CycleConfig, files: ExitStack) -> ForecastModel:
    """Return the model that a configuration names.

    Parameters
    ----------
    config : CycleConfig
        Checked.
    files : ExitStack
        Closes the files that the model reads from.

    Raises
    ------
    DaisiError
        If its settings cannot be.
    """
    options = {k: v for k, v in config.model.items() if k != "kind"}
    kind = config.model["kind"]
    if kind == "external":
        command = options.pop("command")
        if "directory" in options:
            options["directory"] = config.path(options["directory"])
        return ExternalModel(command, base=config.folder, **options)
    if kind == "climatology":
        return Climatology(files.enter_context(open_file(config.path(options["states"]))))
    return SQGForecast() if kind == "sqg" else Persistence()
