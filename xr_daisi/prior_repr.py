"""What a prior looks like when printed: text in terminals, a card in notebooks."""

from __future__ import annotations

import html as html_escape
from typing import TYPE_CHECKING, Any

from xr_daisi.holes import share_of_holes
from xr_daisi.networks import UNetConfig

if TYPE_CHECKING:
    from xr_daisi.state import StateSpec

__all__ = ["html", "text"]


def _rows(prior: Any) -> list[tuple[str, str]]:
    card = prior.card
    rows = [("description", card.get("description")), ("variables", _variables(prior.spec))]
    rows += [(d, _dimension(prior.spec, d)) for d in prior.spec.dims]
    if prior.holes is not None and prior.holes.any():
        rows.append(("domain", f"{share_of_holes(prior.holes)}, where states are NaN"))
    rows += [("network", _network(prior)), ("interpolant", prior.interpolant)]
    if card.get("normalization"):
        rows.append(("normalisation", f"per {card['normalization']}"))
    training = card.get("training")
    if isinstance(training, dict):
        rows += _training(training)
    recommended = prior.settings.to_dict()
    rows += [
        ("settings", ", ".join(f"{k}={v}" for k, v in recommended.items())),
        ("licence of the data", card.get("license")),
        ("attribution", card.get("attribution")),
        ("sha256", prior.sha256),
    ]
    return [(key, str(value)) for key, value in rows if value]


def _variables(spec: StateSpec) -> str:
    out = []
    for v in spec.variables:
        parts = [v.name]
        if v.standard_name:
            parts.append(f"({v.standard_name})")
        if v.units:
            parts.append(f"[{v.units}]")
        if v.levels is not None:
            shown = ", ".join(f"{level:g}" for level in v.levels[:8])
            more = ", ..." if v.size > 8 else ""
            parts.append(f"on {v.level_dim} {shown}{more} {v.level_units or ''}".rstrip())
        out.append(" ".join(parts))
    return "; ".join(out)


def _dimension(spec: StateSpec, dim: str) -> str:
    values, units = spec.coords[dim], spec.coord_units.get(dim)
    wraps = ", periodic" if spec.periodic[spec.dims.index(dim)] else ""
    ends = f"{values[0]:g} to {values[-1]:g}{' ' + units if units else ''}"
    return f"{values.size} points, {ends}{wraps}"


def _network(prior: Any) -> str:
    config, count = getattr(prior.network, "config", None), prior.parameter_count
    size = f", {count:,} parameters" if count else ""
    if not isinstance(config, UNetConfig):
        return f"{type(prior.network).__name__}{size}"
    widths = ", ".join(str(config.width * m) for m in config.multipliers)
    fixed = f", {config.static_channels} static fields" if config.static_channels else ""
    return f"U-Net, widths {widths}{size}{fixed}"


def _training(training: dict[str, Any]) -> list[tuple[str, str | None]]:
    """Rows of a training; a card of the user's own may say less than `train_prior` does."""

    def states(count: str, period: str) -> str | None:
        if not training.get(period) or not training.get(count):
            return None
        first, last = training[period]
        return f"{training[count]:,} states, {first} to {last}"

    rows = [
        ("trained on", states("states", "period")),
        ("validated on", states("validation_states", "validation_period")),
    ]
    if {"steps", "batch_size", "minutes", "device"} <= training.keys():
        text = f"{training['steps']:,} steps of {training['batch_size']} states, "
        rows.append(("training", f"{text}{training['minutes']:g} min on {training['device']}"))
    losses = []
    if training.get("loss") is not None:
        losses.append(f"training {training['loss']:g}")
    if training.get("validation_loss") is not None:
        losses.append(
            f"validation {training['validation_loss']:g} at step {training.get('best_step', 0):,}"
        )
    return [*rows, ("loss", ", ".join(losses))]


def text(prior: Any) -> str:
    """Return the card as a table of plain text."""
    rows = _rows(prior)
    width = max(len(key) for key, _ in rows)
    body = "\n".join(f"  {key:<{width}}  {value}" for key, value in rows)
    return f"<FlowPrior {prior.name!r}>\n{body}"


def html(prior: Any) -> str:
    """Return the card as an HTML table."""
    body = "".join(
        "<tr>"
        "<th style='text-align:left;vertical-align:top;font-weight:600;padding:2px 12px 2px 0'>"
        f"{html_escape.escape(key)}</th>"
        "<td style='text-align:left;padding:2px 0;overflow-wrap:anywhere'>"
        f"{html_escape.escape(value)}</td></tr>"
        for key, value in _rows(prior)
    )
    return (
        "<div style='max-width:56rem'>"
        f"<div><strong>FlowPrior</strong> {html_escape.escape(prior.name)}</div>"
        f"<table style='border-collapse:collapse;margin-top:4px'>{body}</table></div>"
    )
