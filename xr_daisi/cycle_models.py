"""Forecast models that a configuration can name."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from xr_daisi.files import open_file
from xr_daisi.forecast import Climatology, ExternalModel, ForecastModel, Persistence
from xr_daisi.systems import SQG

if TYPE_CHECKING:
    from xr_daisi.cycle_config import CycleConfig

__all__ = ["model_of"]


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
    return SQG() if kind == "sqg" else Persistence()
