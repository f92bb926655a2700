"""Checks of the options of `train_prior`, before hours are spent on them."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np

from xr_daisi.errors import (
    DaisiTypeError,
    PriorError,
    SettingsError,
    StateError,
    problem,
    raise_problems,
)
from xr_daisi.networks import KNOWN_NETWORKS, NETWORKS, Network, build_network
from xr_daisi.priors import FlowPrior
from xr_daisi.transforms import TRANSFORMS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from xr_daisi.state import Normalization, StateSpec

__all__ = [
    "as_names",
    "check_initial",
    "check_options",
    "check_roll",
    "check_same_state",
    "check_transforms",
    "copy_network",
    "network_entries",
    "transforms_of",
    "with_holes",
]

NORMALIZATIONS = ("variable", "point", "point-mean")


def as_names(value: str | Sequence[str] | None) -> tuple[str, ...] | None:
    """Return names as a tuple; a single string is one name, not a sequence of letters."""
    if value is None:
        return None
    return (value,) if isinstance(value, str) else tuple(value)


def check_options(**options: Any) -> None:
    """Check the numbers among the options of `train_prior`.

    Raises
    ------
    SettingsError
        Naming every option out of range.
    """
    share = "a share in [0, 1)"
    wanted = {
        "validation": (_is_share, share),
        "steps": (_is_count_or_none, "a positive integer"),
        "max_minutes": (lambda v: v is None or _is_positive(v), "a positive number"),
        "batch_size": (_is_count_or_none, "a positive integer"),
        "seed": (lambda v: _is_count(v, least=0), "an integer >= 0"),
        "normalization": (NORMALIZATIONS.__contains__, f"one of {', '.join(NORMALIZATIONS)}"),
        "learning_rate": (_is_positive, "a positive number"),
        "warmup": (_is_share, share),
        "weight_decay": (lambda v: _is_number(v) and v >= 0, "a number >= 0"),
        "ema": (_is_share, share),
        "clip": (_is_positive, "a positive number"),
        "patience": (_is_count_or_none, "a positive integer, or None to train to the end"),
    }
    raise_problems(
        SettingsError,
        [
            problem(name, repr(value), wanted[name][1])
            for name, value in options.items()
            if not wanted[name][0](value)
        ],
    )


def check_transforms(transform: Mapping[str, str], spec: StateSpec) -> dict[str, str]:
    """Return the transforms of a training.

    Raises
    ------
    SettingsError
        For variables that are not in the state and transforms that do not exist.
    """
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


def transforms_of(prior: FlowPrior) -> dict[str, str]:
    """Return the transform of each variable of a prior that has one."""
    per_channel = prior.normalization.transforms
    found = {}
    for name in prior.spec.names:
        first = prior.spec.channel_slice(name).start
        kind = per_channel[first] if per_channel else None
        if kind:
            found[name] = kind
    return found


def check_initial(previous: FlowPrior, wanted: Mapping[str, Any]) -> None:
    """Check that a training can continue from a prior.

    Parameters
    ----------
    previous : FlowPrior
        The prior.
    wanted : mapping
        Options that the prior has decided, with None for those not asked for.

    Raises
    ------
    DaisiTypeError, PriorError
        If it is no prior, or one with a network of the user's own.
    SettingsError
        Naming every option that contradicts the prior.
    """
    if not isinstance(previous, FlowPrior):
        raise DaisiTypeError(
            problem("init", type(previous).__name__, "a FlowPrior, a path or a registered name")
        )
    if not isinstance(previous.network, KNOWN_NETWORKS):
        raise PriorError(
            problem("init", "a prior with a network of its own", "one trained by train_prior")
        )
    kept = asdict(previous.network.config)
    kept |= {
        "transform": transforms_of(previous),
        "normalization": previous.card.get("normalization"),
        "network": previous.network.config.kind,
    }
    remedy = "leave it out, or train without init"
    problems = []
    for name, value in wanted.items():
        if value is None:
            continue
        if name == "static":
            problems.append(problem(name, "fields", "those that init brings", remedy))
        elif value != kept.get(name):
            expected = f"{kept.get(name)!r}, as {previous.name!r} of init has it"
            problems.append(problem(name, repr(value), expected, remedy))
    raise_problems(SettingsError, problems)


def check_same_state(previous: StateSpec, spec: StateSpec) -> None:
    """Check that a history has the variables, units, levels and grid of a prior.

    Raises
    ------
    PriorError
        Naming everything that differs.
    """
    problems = []

    def check(what: str, found: object, expected: object, same: bool) -> None:
        if not same:
            problems.append(problem(f"init: {what}", f"{found} in the history", f"{expected}"))

    check("variables", spec.names, previous.names, spec.names == previous.names)
    check("shape", spec.shape, previous.shape, spec.shape == previous.shape)
    check("dimensions", spec.dims, previous.dims, spec.dims == previous.dims)
    check("periodic", spec.periodic, previous.periodic, spec.periodic == previous.periodic)
    raise_problems(PriorError, problems)
    for new, old in zip(spec.variables, previous.variables, strict=True):
        same = new.units == old.units or None in (new.units, old.units)
        check(f"units of {new.name!r}", new.units, old.units, same)
        check(f"levels of {new.name!r}", new.levels, old.levels, new.levels == old.levels)
    for d in spec.dims:
        new_values, old_values = spec.coords[d], previous.coords[d]
        found = f"{new_values[0]:g} to {new_values[-1]:g}"
        expected = f"{old_values[0]:g} to {old_values[-1]:g}"
        step = np.abs(np.diff(old_values)).min(initial=np.inf)
        same = np.allclose(new_values, old_values, rtol=0.0, atol=1e-3 * min(step, 1e300))
        check(f"coordinate {d!r}", found, expected, same)
    raise_problems(PriorError, problems)


def check_roll(roll: Sequence[str], spec: StateSpec, holes: np.ndarray | None) -> None:
    """Check that states with holes can be shifted along dimensions.

    Raises
    ------
    StateError
        Where the holes would be shifted to other points.
    """
    if holes is None or not holes.any():
        return
    axes = {d: 1 + spec.dims.index(d) for d in roll}
    moved = [d for d, a in axes.items() if (holes.any(axis=a) != holes.all(axis=a)).any()]
    if moved:
        raise StateError(
            problem(
                "history",
                f"holes (NaN in all states) that vary along {moved}",
                "holes that are the same where states are shifted",
                "leave these dimensions out of roll=",
            )
        )


def with_holes(previous: FlowPrior, holes: np.ndarray | None) -> Normalization:
    """Return the normalisation of a prior for a history with holes.

    Parameters
    ----------
    previous : FlowPrior
        The prior to continue from.
    holes : ndarray of bool
        Of the history.

    Raises
    ------
    PriorError
        If the prior was trained with other holes.
    """
    if previous.holes is None or holes is None:
        return replace(previous.normalization, holes=holes)
    problems = []
    for name in previous.spec.names:
        channels = previous.spec.channel_slice(name)
        new, old = holes[channels], previous.holes[channels]
        if (new != old).any():
            found = (
                f"{int((new & ~old).sum())} NaN points of the history where it has none, and "
                f"{int((old & ~new).sum())} of its {int(old.sum())} holes with values"
            )
            remedy = "fill or mask the history, or train without init"
            problems.append(problem(f"init: holes of {name!r}", found, "the same holes", remedy))
    raise_problems(PriorError, problems)
    return previous.normalization


def copy_network(prior: FlowPrior) -> Network:
    """Return a copy of a prior's network, ready to be trained."""
    if not isinstance(prior.network, KNOWN_NETWORKS):
        raise TypeError("copy_network takes priors that check_initial has passed")
    static = prior.network.static
    network = build_network(prior.network.config.to_dict(), static if static.numel() else None)
    network.load_state_dict(prior.network.state_dict())
    return network


def network_entries(
    kind: str | None, spec: StateSpec, static_channels: int, dropout: float, shape: dict[str, Any]
) -> dict[str, Any]:
    """Return the configuration of a new network.

    Parameters
    ----------
    kind : str or None
        ``"unet"``, also for None, or ``"mlp"``.
    spec : StateSpec
        The state.
    static_channels : int
        Number of static fields.
    dropout : float
        Share of features left out.
    shape : dict
        What was asked for of width, multipliers, blocks and patch.

    Raises
    ------
    SettingsError
        For an unknown kind, or options that it has not.
    """
    kind = kind or "unet"
    if kind not in NETWORKS:
        expected = f"one of {', '.join(sorted(NETWORKS))}"
        raise SettingsError(problem("network", repr(kind), expected))
    entries = {"kind": kind, "channels": spec.channels, "dropout": dropout, **shape}
    if kind == "mlp":
        raise_problems(
            SettingsError,
            [
                problem(name, repr(shape[name]), "none for network='mlp'", "leave it out")
                for name in ("multipliers", "patch")
                if name in shape
            ],
        )
        entries["space"] = tuple(spec.space_shape)
    else:
        entries.setdefault("multipliers", _default_multipliers(spec))
        entries |= {"static_channels": static_channels, "periodic": spec.periodic}
    found: dict[str, Any] = NETWORKS[kind][0].from_dict(entries).to_dict()
    return found


def _default_multipliers(spec: StateSpec) -> tuple[int, ...]:
    """Go down until about eight points are left along the longest dimension, at most four times."""
    levels = 1 + max(0, round(math.log2(max(spec.space_shape) / 8.0)))
    return (1, 2, 2, 4, 4)[: min(levels, 5)]


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, Real):
        return False
    return math.isfinite(value)


def _is_positive(value: Any) -> bool:
    return _is_number(value) and value > 0


def _is_share(value: Any) -> bool:
    return _is_number(value) and 0.0 <= value < 1.0


def _is_count(value: Any, *, least: int = 1) -> bool:
    return hasattr(value, "__index__") and not isinstance(value, bool) and value >= least


def _is_count_or_none(value: Any) -> bool:
    return value is None or _is_count(value)
