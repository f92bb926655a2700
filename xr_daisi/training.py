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
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr

from xr_daisi._version import __version__
from xr_daisi.devices import resolve_device
from xr_daisi.errors import DaisiTypeError, SettingsError, StateError, problem
from xr_daisi.networks import build_network
from xr_daisi.priors import FlowPrior
from xr_daisi.registry import load_prior
from xr_daisi.settings import Settings
from xr_daisi.state import spec_from_dataset
from xr_daisi.statics import static_fields
from xr_daisi.streaming import History
from xr_daisi.trainer import Budget, Trainer
from xr_daisi.training_options import (
    as_names,
    check_initial,
    check_options,
    check_roll,
    check_same_state,
    check_transforms,
    copy_network,
    network_entries,
    transforms_of,
    with_holes,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["train_prior"]

DATA_ATTRIBUTES = ("title", "source", "institution", "references")
"""Attributes of the history that its card repeats."""


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
    network: str | None = None,
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
        Points that are NaN in all states are holes (land of an ocean): the prior knows them, and
        they train nothing.
    variables : sequence of str, optional
        Variables of the state, in channel order; every variable (those of `init`) when None.
    validation : float
        Share of the period, its last part, that validates and is not trained on.
    steps : int, optional
        Optimiser steps. With neither `steps` nor `max_minutes`: 4000.
    max_minutes : float, optional
        Wall-clock budget of the training, after the statistics are taken. The learning-rate
        schedule fits whichever ends first.
    batch_size : int, optional
        States per step; 32, or fewer where the history is short.
    width : int, optional
        Channels of the network at full resolution, a multiple of 8; 32 of a U-Net.
    static : xarray.Dataset, optional
        Fixed fields on the same grid (land mask, orography, position) that the network sees;
        each is standardised.
    transform : mapping, optional
        ``{variable: name}`` for bounded variables, applied before normalisation: ``"log1p"`` and
        ``"sqrt"`` for values from 0, ``"log"`` for positive ones, ``"logit"`` for fractions from
        0 to 1 (not percent).
    periodic : sequence of str, optional
        Periodic space dimensions; when None, longitudes that go round the globe.
    init : FlowPrior, str or Path, optional
        Continue from the weights of this prior, of the same variables, units and grid. Its
        normalisation, transforms, static fields and shape of the network are kept.
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
        them at random, which multiplies the data. Statistics are pooled along them.
    network : {"unet", "mlp"}, optional
        ``"mlp"`` is a dense network for states of few numbers, such as the Lorenz systems; that
        of `init`, else ``"unet"``, when None.
    multipliers, blocks, patch
        Shape of the network, see `xr_daisi.networks.UNetConfig`; a dense network has `width`
        (128) and `blocks` (3) alone.
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
        For data without time, with times that repeat, with too few states, with infinite values
        or NaN that comes and goes.
    PriorError
        For a variable that never varies, or an `init` that is no prior of this state.
    SettingsError
        For options out of range or in contradiction, or a checkpoint of another training.
    DaisiTypeError
        If `ds`, `static` or `init` are of another type.
    DivergenceError
        If the loss becomes infinite or NaN.

    References
    ----------
    arXiv:2303.08797.
    """
    check_options(
        validation=validation,
        steps=steps,
        max_minutes=max_minutes,
        batch_size=batch_size,
        seed=seed,
        normalization=normalization,
        learning_rate=learning_rate,
        warmup=warmup,
        weight_decay=weight_decay,
        ema=ema,
        clip=clip,
        patience=patience,
    )
    if not isinstance(ds, xr.Dataset):
        raise DaisiTypeError(
            problem("history", type(ds).__name__, "an xarray.Dataset", "use .to_dataset(name=...)")
        )
    shape: dict[str, Any] = {
        "width": width,
        "multipliers": None if multipliers is None else tuple(multipliers),
        "blocks": blocks,
        "patch": patch,
    }
    shape = {k: v for k, v in shape.items() if v is not None}
    previous = load_prior(init) if isinstance(init, (str, Path)) else init
    if previous is not None:
        wanted = {
            **shape,
            "network": network,
            "static": static,
            "transform": transform and dict(transform),
        }
        # The defaults of these two do not tell whether they were asked for.
        wanted["normalization"] = None if normalization == "variable" else normalization
        wanted["dropout"] = dropout or None
        check_initial(previous, wanted)
        names = as_names(variables) or previous.spec.names
        wraps = as_names(periodic)
        if wraps is None:
            pairs = zip(previous.spec.dims, previous.spec.periodic, strict=True)
            wraps = tuple(d for d, closed in pairs if closed)
        spec = spec_from_dataset(ds, names, periodic=wraps, what="history")
        check_same_state(previous.spec, spec)
        transforms = transforms_of(previous)
    else:
        spec = spec_from_dataset(
            ds, as_names(variables), periodic=as_names(periodic), what="history"
        )
        transforms = check_transforms(transform or {}, spec)
    rolled = as_names(roll) or ()
    unknown = [d for d in rolled if d not in spec.dims or not spec.periodic[spec.dims.index(d)]]
    if unknown:
        raise SettingsError(
            problem("roll", f"{unknown}", f"periodic dimensions among {spec.dims}", "see periodic=")
        )
    recommended = (previous.settings if previous else Settings()).updated(settings or {})
    target = resolve_device(device)
    history = History(ds, spec, transforms)
    train, valid = _split(history, validation)
    axes = tuple(1 + spec.dims.index(d) for d in rolled)
    if previous is None:
        fixed = static_fields(static, spec, roll=rolled)
        fields = 0 if fixed is None else fixed.shape[0]
        entries = network_entries(network, spec, fields, dropout, shape)
        statistics = history.statistics(*train)
        check_roll(rolled, spec, statistics.holes)
        norm = statistics.averaged(axes).normalization(normalization, history.transforms)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            velocity = build_network(entries, fixed)
    else:
        velocity = copy_network(previous)
        history.read(0, 1)
        norm = with_holes(previous, history.holes)
        check_roll(rolled, spec, norm.holes)
    states = (train[1] - train[0]) * history.per_time
    batch = min(32, max(4, states // 8)) if batch_size is None else batch_size
    trainer = Trainer(
        velocity,
        history,
        norm,
        train=train,
        valid=valid,
        batch_size=batch,
        budget=Budget(steps, max_minutes),
        device=target,
        seed=seed,
        roll=tuple(1 + axis for axis in axes),
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
        "normalization": previous.card.get("normalization") if previous else normalization,
        "training": {
            "data": {k: str(ds.attrs[k]) for k in DATA_ATTRIBUTES if k in ds.attrs},
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
        trainer.best_network(),
        spec,
        norm,
        settings=recommended,
        interpolant=velocity.config.interpolant,
        card=card,
    )


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
