"""Checks of forecast blocks: infinite values, NaN outside holes, values that a transform forbids.

A block is ``(time, member, channel, *space)`` in the forecast's units; every error says where the
first bad value stands.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from xr_daisi.errors import StateError, problem, raise_problems
from xr_daisi.holes import share_of_holes
from xr_daisi.transforms import TRANSFORMS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from xr_daisi.forecast_state import DescribedState
    from xr_daisi.layout import Layout

    Bools = NDArray[np.bool_]

__all__ = ["check_block", "forecast_holes"]

NAMED = 5
"""How many members an error names."""


def forecast_holes(state: np.ndarray, layout: Layout, prior: DescribedState) -> Bools:
    """Return where a forecast has to be NaN, and nowhere else.

    Parameters
    ----------
    state : ndarray
        ``(channel, *space)``: the first member of the forecast's first time.
    layout : Layout
        Of the forecast.
    prior : FlowPrior
        Its holes decide, where it knows them.

    Returns
    -------
    ndarray of bool
        Shape of the state.

    Raises
    ------
    StateError
        For variables that are NaN everywhere.
    """
    if prior.holes is not None:
        return prior.holes
    holes: Bools = np.isnan(state)
    problems = []
    for v, name in zip(layout.spec.variables, layout.names, strict=True):
        empty = holes[layout.spec.channel_slice(v.name)].reshape(v.size, -1).all(axis=1)
        if empty.any():
            bad = np.zeros((1, 1, *holes.shape), dtype=bool)
            bad[0, 0, layout.spec.channel_slice(v.name)] = holes[layout.spec.channel_slice(v.name)]
            bad[0, 0, layout.spec.channel_slice(v.name)][~empty] = False
            found = _found(layout, bad, 0, 0, "that are NaN, no other on the whole grid")
            remedy = "leave out what has none, or fill them"
            problems.append(problem(f"forecast variable {name!r}", found, "values", remedy))
    raise_problems(StateError, problems)
    return holes


def check_block(
    block: np.ndarray,
    holes: Bools,
    layout: Layout,
    prior: DescribedState,
    *,
    first_time: int,
    first_member: int,
) -> None:
    """Raise where a forecast is not what it has to be.

    Parameters
    ----------
    block : ndarray
        ``(time, member, channel, *space)`` in the forecast's units.
    holes : ndarray of bool
        ``(channel, *space)``, from `forecast_holes`.
    layout : Layout
        Of the forecast.
    prior : FlowPrior
        The prior.
    first_time, first_member : int
        Where the block begins in the whole forecast.

    Raises
    ------
    StateError
        For infinite values, NaN outside the holes, values in them, and values that the prior's
        transform does not take.
    """
    infinite = np.isinf(block)
    if infinite.any():
        dims = layout.dims
        over = dims.member or dims.time
        remedy = f", e.g. forecast.dropna({over!r})" if over else ""
        problems = [
            problem(
                f"forecast variable {name!r}",
                _found(layout, bad, first_time, first_member, "that are infinite"),
                "finite values",
                f"fill them, or leave out what has them{remedy}",
            )
            for name, _, bad in _by_variable(infinite, layout)
        ]
        raise_problems(StateError, problems)
    nan = np.isnan(block)
    if nan.any() or holes.any():
        _check_holes(nan, holes, layout, prior, first_time, first_member)
    _check_transforms(block, layout, prior, first_time, first_member)


def _check_holes(
    nan: Bools, holes: Bools, layout: Layout, prior: DescribedState, time: int, member: int
) -> None:
    differs = nan != holes
    if not differs.any():
        return
    odd = differs.any(axis=tuple(range(2, nan.ndim)))
    alike = nan[odd]
    alike = bool((alike == alike[0]).all())
    if prior.holes is None and alike and not odd.all() and 2 * odd.sum() > odd.size:
        # Most states agree with each other: it is the first one that does not.
        most = nan[odd][0]
        nan, holes, odd, time, member = holes[None, None], most, np.ones((1, 1), bool), 0, 0
    if prior.holes is not None and alike and odd.all():
        who, others = "", f"the holes of prior {prior.name!r}"
    else:
        who, others = _who(odd, layout, time, member)
    members = {member + int(m) for m in np.argwhere(odd)[:, 1]}
    problems = []
    for name, state_name, bad in _by_variable(nan & ~holes, layout):
        what = f"that are NaN{f' in {who}' if who else ''}, but not in {others}"
        remedy = _fill(name, state_name, layout, prior)
        if who and layout.dims.member and len(members) < layout.members:
            drop = f"forecast.drop_isel({layout.dims.member}={sorted(members)[:NAMED]})"
            remedy += f", or leave out what has them, e.g. {drop}"
        found = _found(layout, bad, time, member, what)
        subject = f"forecast variable {name!r}"
        problems.append(problem(subject, found, _expected(prior), remedy))
    for name, state_name, bad in _by_variable(~nan & holes, layout):
        what = f"that are not NaN{f' in {who}' if who else ''}, as those in {others} are"
        found = _found(layout, bad, time, member, what)
        subject = f"forecast variable {name!r}"
        remedy = _mask(name, state_name, layout, prior)
        problems.append(problem(subject, found, _expected(prior), remedy))
    raise_problems(StateError, problems)


def _expected(prior: DescribedState) -> str:
    if prior.holes is None:
        return "NaN at the same points of all members and times, if anywhere"
    if not prior.holes.any():
        return f"finite values, since prior {prior.name!r} has no holes"
    return f"NaN in the holes of prior {prior.name!r} ({share_of_holes(prior.holes)}) alone"


def _fill(name: str, state_name: str, layout: Layout, prior: DescribedState) -> str:
    over = [d for d in (layout.dims.time, layout.dims.member) if d]
    if prior.holes is None and over:
        return f"fill them, e.g. forecast[{name!r}].fillna(forecast[{name!r}].mean({over}))"
    text = f"fill them, e.g. forecast[{name!r}].fillna(forecast[{name!r}].mean())"
    if prior.holes is not None and prior.holes.any():
        text += f".where(prior.template()[{state_name!r}].notnull())"
    return text


def _mask(name: str, state_name: str, layout: Layout, prior: DescribedState) -> str:
    if prior.holes is not None:
        return f"mask them: forecast[{name!r}].where(prior.template()[{state_name!r}].notnull())"
    over = [d for d in (layout.dims.time, layout.dims.member) if d]
    return f"mask them: forecast[{name!r}].where(forecast[{name!r}].notnull().all({over}))"


def _who(odd: Bools, layout: Layout, time: int, member: int) -> tuple[str, str]:
    """Name the states that are unlike the others, and the others."""
    times = [layout.time_label(time + int(t)) for t in np.flatnonzero(odd.any(axis=1))]
    times = [label for label in times if label]
    if layout.members == 1:
        return f"the state at {times[0]}" if times else "one state", "the other times"
    if odd.shape[1] == layout.members and odd.any(axis=0).all() and times:
        return f"all members at {times[0]}", "the other times"
    members = [_member(layout, member + int(m)) for m in np.flatnonzero(odd.any(axis=0))]
    more = f" and {len(members) - NAMED} more" if len(members) > NAMED else ""
    word = "member" if len(members) == 1 else "members"
    return f"{word} {', '.join(members[:NAMED])}{more}", "the other members"


def _member(layout: Layout, index: int) -> str:
    """Position of a member, and its label where that is another."""
    if layout.member_values is None:
        return str(index)
    label = str(layout.member_values[index])
    return str(index) if label == str(index) else f"{index} ({layout.dims.member}={label})"


def _by_variable(bad: Bools, layout: Layout) -> list[tuple[str, str, Bools]]:
    """Split bad values ``(time, member, channel, *space)`` by variable, leaving out good ones.

    Names in the forecast and in the state, and the bad values of this variable alone.
    """
    parts = []
    for v, name in zip(layout.spec.variables, layout.names, strict=True):
        channels = layout.spec.channel_slice(v.name)
        if bad[:, :, channels].any():
            own = np.zeros_like(bad)
            own[:, :, channels] = bad[:, :, channels]
            parts.append((name, v.name, own))
    return parts


def _check_transforms(
    block: np.ndarray, layout: Layout, prior: DescribedState, time: int, member: int
) -> None:
    for channel, name in enumerate(prior.normalization.transforms):
        if name is None:
            continue
        transform = TRANSFORMS[name]
        factor, offset = layout.factor[channel].item(), layout.offset[channel].item()
        bad = np.zeros(block.shape, dtype=bool)
        physical = block[:, :, channel] * factor + offset
        bad[:, :, channel] = transform.outside(physical)
        below = bool((physical < transform.lower).any())
        what = f"below {transform.lower:g}" if below else f"above {transform.upper:g}"
        for variable, _, own in _by_variable(bad, layout):
            raise StateError(
                problem(
                    f"forecast variable {variable!r}",
                    _found(layout, own, time, member, what),
                    f"{transform.allowed} for the prior's transform {name!r}",
                    f"clip them: forecast.clip({'min' if below else 'max'}=...)",
                )
            )


def _found(layout: Layout, bad: Bools, time: int, member: int, what: str) -> str:
    """Say how many values of a block are bad, and where the first stands."""
    first = [int(i) for i in np.argwhere(bad)[0]]
    channel, place = first[2], first[3:]
    spec = layout.spec
    v = next(v for v in spec.variables if channel < spec.channel_slice(v.name).stop)
    at = [f"member {_member(layout, member + first[1])}"]
    label = layout.time_label(time + first[0])
    if label:
        at.insert(0, f"time {label}")
    if v.levels is not None:
        at.append(f"{v.level_dim}={v.levels[channel - spec.channel_slice(v.name).start]:g}")
    at += [f"{d}={spec.coords[d][i]:g}" for d, i in zip(spec.dims, place, strict=True)]
    return f"{int(bad.sum())} values {what}, first at {', '.join(at)}"
