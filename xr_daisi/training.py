"""Training a flow prior on a history of states: `train_prior`.

The loss is the one of flow matching, ``E || velocity(x_t, t) - (alpha' z + beta' x1) ||^2`` with
``t ~ U(0, 1)``. Everything random depends on the seed and the step alone, so that a training
continued from a checkpoint is the training that was interrupted.

References
----------
.. [1] M. S. Albergo, N. M. Boffi, E. Vanden-Eijnden, arXiv:2303.08797.
"""

from __future__ import annotations

import datetime
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from xr_daisi._version import __version__
from xr_daisi.devices import resolve_device
from xr_daisi.errors import SettingsError, StateError, problem, raise_problems
from xr_daisi.networks import UNet, UNetConfig
from xr_daisi.registry import load_prior
from xr_daisi.priors import FlowPrior
from xr_daisi.settings import Settings
from xr_daisi.state import Normalization, StateSpec, spec_from_dataset
from xr_daisi.statics import static_fields
from xr_daisi.streaming import History
from xr_daisi.trainer import Budget, Trainer
from xr_daisi.transforms import TRANSFORMS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import xarray as xr

__all__ = ["train_prior"]

NORMALIZATIONS = ("variable", "point", "point-mean")


def train_prior(
    ds: xr.Dataset,
    variables: Sequence[str] | None = None,
    *,
    validation: float = 0.15,
    steps: int | None = None,
    max_minutes: float | None = None,
    batch_size: int | None = None,
    width: int | None = None,
    static: xr.Dataset | None = None,
    transform: Mapping[str, str] | None = None,
    periodic: Sequence[str] | None = None,
    init: FlowPrior | str | Path | None = None,
    checkpoint: str | Path | None = None,
    seed: int = 0,
    device: str = "auto",
    progress: bool | None = None,
    normalization: str = "variable",
    roll: Sequence[str] = (),
    multipliers: Sequence[int] | None = None,
    blocks: int | None = None,
    patch: int | None = None,
    dropout: float = 0.0,
    learning_rate: float = 1e-3,
    warmup: float = 0.03,
    weight_decay: float = 1e-2,
    ema: float = 0.999,
    clip: float = 1.0,
    patience: int | None = 10,
    autocast: bool | None = None,
    settings: Mapping[str, Any] | None = None,
    name: str | None = None,
    description: str | None = None,
    license: str | None = None,
    attribution: str | None = None,
) -> FlowPrior:
    """Train a flow prior on a history of states.

    Parameters
    ----------
    ds : xarray.Dataset
        Fields with a time dimension (and possibly a member dimension: each member is a state of
        its own), in memory or dask-backed. A lazy Dataset is streamed and may exceed memory.
    variables : sequence of str, optional
        Variables of the state, in channel order; every variable when None.
    validation : float
        Share of the period, its last part, that validates and is not trained on.
    steps : int, optional
        Optimiser steps. With neither `steps` nor `max_minutes`: 4000.
    max_minutes : float, optional
        Wall-clock budget of the training. The learning-rate schedule fits whichever ends first.
    batch_size : int, optional
        States per step; 32, or fewer where the history is short.
    width : int, optional
        Channels of the network at full resolution, a multiple of 8; 32.
    static : xarray.Dataset, optional
        Fixed fields on the same grid (land mask, orography, position) that the network sees;
        each is standardised.
    transform : mapping, optional
        ``{variable: name}`` with names ``"log1p"``, ``"log"`` or ``"sqrt"``: for bounded
        variables, applied before normalisation.
    periodic : sequence of str, optional
        Periodic space dimensions; when None, longitudes that go round the globe.
    init : FlowPrior, str or Path, optional
        Continue from the weights and normalisation of this prior, of the same variables and grid.
    checkpoint : str or Path, optional
        File to write the state of the training to, about every minute; an interrupted training
        called again with it goes on from there. Removed when the training is complete.
    seed : int
        Of initial weights, batches and noise.
    device : str
        ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ...
    progress : bool, optional
        Show a bar with the losses; when None, in a terminal or notebook.
    normalization : str
        ``"variable"``: one mean and deviation per variable and level; ``"point"``: both per grid
        point; ``"point-mean"``: mean per grid point, one deviation per variable and level.
    roll : sequence of str
        Periodic dimensions along which the statistics do not change: states are shifted along
        them at random, which multiplies the data.
    multipliers, blocks, patch
        Shape of the network, see `xr_daisi.networks.UNetConfig`.
    dropout : float
        Share of features left out at random in training: against overfitting of short histories.
    learning_rate, warmup, weight_decay : float
        Peak rate of AdamW, share of the budget over which it rises (a cosine decay follows), decay.
    ema : float
        Decay of the moving average of the weights, which is what validates and is kept.
    clip : float
        Largest norm of the gradient.
    patience : int, optional
        Stop after this many validations without improvement; None never stops early. There are 40
        validations in a budget; the weights of the best are kept.
    autocast : bool, optional
        bfloat16 arithmetic in the network; when None, where the processor has it.
    settings : mapping, optional
        Sampling settings to recommend on the card; the defaults of `assimilate` else.
    name, description, license, attribution : str, optional
        For the card: what the prior is; licence and attribution of the data.

    Returns
    -------
    FlowPrior
        On the CPU, in evaluation mode.

    Raises
    ------
    StateError
        For data without time, with too few states, or with values that are not finite.
    SettingsError
        For options out of range, or a checkpoint of another training.

    References
    ----------
    arXiv:2303.08797.
    """
    _check_options(validation, steps, max_minutes, batch_size, normalization, clip, ema)
    previous = load_prior(init) if isinstance(init, (str, Path)) else init
    if previous is not None and variables is None:
        variables = previous.spec.names
    spec = spec_from_dataset(ds, variables, periodic=periodic, what="history")
    transforms = _check_transforms(transform or {}, spec)
    unknown = [d for d in roll if d not in spec.dims or not spec.periodic[spec.dims.index(d)]]
    if unknown:
        raise SettingsError(
            problem("roll", f"{unknown}", f"periodic dimensions among {spec.dims}", "see periodic=")
        )
    history = History(ds, spec, transforms)
    train, valid = _split(history, validation)
    fixed = static_fields(static, spec)
    target = resolve_device(device)
    if previous is None:
        statistics = history.statistics(*train)
        norm = statistics.normalization(normalization, history.transforms)
        config = UNetConfig(
            channels=spec.channels,
            static_channels=0 if fixed is None else fixed.shape[0],
            periodic=spec.periodic,
            width=width or 32,
            multipliers=tuple(multipliers or _default_multipliers(spec)),
            blocks=blocks or 1,
            patch=patch or 1,
            dropout=dropout,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = UNet(config, fixed)
    else:
        network, norm = _continue_from(previous, spec)
    states = (train[1] - train[0]) * history.per_time
    batch = batch_size or min(32, max(4, states // 8))
    trainer = Trainer(
        network,
        history,
        norm,
        train=train,
        valid=valid,
        batch_size=batch,
        budget=Budget(steps, max_minutes),
        device=target,
        seed=seed,
        roll=tuple(2 + spec.dims.index(d) for d in roll),
        learning_rate=learning_rate,
        warmup=warmup,
        weight_decay=weight_decay,
        ema=ema,
        clip=clip,
        patience=patience,
        autocast=autocast,
        checkpoint=None if checkpoint is None else Path(checkpoint),
        progress=progress,
    )
    report = trainer.run()
    card = {
        "name": name or "+".join(spec.names),
        "description": description,
        "license": license,
        "attribution": attribution,
        "created": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "software": {"xr_daisi": __version__, "torch": torch.__version__.split("+")[0]},
        "normalization": normalization if previous is None else f"that of {previous.name}",
        "training": {
            "states": states,
            "period": _period(history, *train),
            "validation_states": (valid[1] - valid[0]) * history.per_time,
            "validation_period": _period(history, *valid) if valid[1] > valid[0] else None,
            "seed": seed,
            "batch_size": batch,
            "initial_prior": None if previous is None else previous.sha256,
            **report,
        },
    }
    return FlowPrior(
        trainer.best_network(), spec, norm, settings=Settings().updated(settings or {}), card=card
    )


def _check_options(
    validation: float,
    steps: int | None,
    max_minutes: float | None,
    batch_size: int | None,
    normalization: str,
    clip: float,
    ema: float,
) -> None:
    problems = []
    if not 0.0 <= validation < 1.0:
        problems.append(problem("validation", repr(validation), "a share in [0, 1)"))
    if steps is not None and steps < 1:
        problems.append(problem("steps", repr(steps), "at least 1"))
    if max_minutes is not None and not (math.isfinite(max_minutes) and max_minutes > 0):
        problems.append(problem("max_minutes", repr(max_minutes), "a positive number"))
    if batch_size is not None and batch_size < 1:
        problems.append(problem("batch_size", repr(batch_size), "at least 1"))
    if normalization not in NORMALIZATIONS:
        problems.append(
            problem("normalization", repr(normalization), f"one of {', '.join(NORMALIZATIONS)}")
        )
    if clip <= 0 or not 0.0 <= ema < 1.0:
        problems.append(problem("clip, ema", f"{clip}, {ema}", "clip > 0 and ema in [0, 1)"))
    raise_problems(SettingsError, problems)


def _check_transforms(transform: Mapping[str, str], spec: StateSpec) -> dict[str, str]:
    problems = [
        problem("transform", f"variable {v!r}", f"one of {', '.join(spec.names)}")
        for v in transform
        if v not in spec.names
    ]
    problems += [
        problem(f"transform of {v!r}", repr(t), f"one of {', '.join(sorted(TRANSFORMS))}")
        for v, t in transform.items()
        if t not in TRANSFORMS
    ]
    raise_problems(SettingsError, problems)
    return dict(transform)


def _default_multipliers(spec: StateSpec) -> tuple[int, ...]:
    """Go down until about eight points are left along the longest dimension, at most four times."""
    levels = 1 + max(0, round(math.log2(max(spec.space_shape) / 8.0)))
    return (1, 2, 2, 4, 4)[: min(levels, 5)]


def _split(history: History, validation: float) -> tuple[tuple[int, int], tuple[int, int]]:
    """Split along time: the first part trains, the last validates."""
    held_out = round(history.size * validation)
    if validation > 0 and history.size > 1:
        held_out = max(1, held_out)
    cut = history.size - held_out
    if cut * history.per_time < 2:
        raise StateError(
            problem(
                "history",
                f"{history.size} states along {history.along!r}",
                "at least two that train, beside those that validate",
                "give a longer history",
            )
        )
    return (0, cut), (cut, history.size)


def _period(history: History, start: int, stop: int) -> list[str]:
    if history.along not in history.ds.coords:
        return [str(start), str(stop - 1)]
    values = history.ds[history.along].isel({history.along: [start, stop - 1]}).values
    return [
        str(v.astype("datetime64[s]")) if isinstance(v, np.datetime64) else str(v) for v in values
    ]


def _continue_from(previous: FlowPrior, spec: StateSpec) -> tuple[UNet, Normalization]:
    if not isinstance(previous.network, UNet):
        raise SettingsError(
            problem("init", "a prior with a network of its own", "one trained by train_prior")
        )
    if previous.spec.names != spec.names or previous.spec.shape != spec.shape:
        raise SettingsError(
            problem(
                "init",
                f"a prior of {', '.join(previous.spec.names)} with shape {previous.spec.shape}",
                f"{', '.join(spec.names)} with shape {spec.shape}",
                "choose a prior of the same variables and grid",
            )
        )
    network = UNet(
        previous.network.config,
        previous.network.static if previous.network.static.numel() else None,
    )
    network.load_state_dict(previous.network.state_dict())
    return network, previous.normalization
