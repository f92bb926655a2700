"""What a prior looks like when printed: text in terminals, a card in notebooks."""

from __future__ import annotations

import html as html_escape
from typing import Any

__all__ = ["html", "text"]


def _rows(prior: Any) -> list[tuple[str, str]]:
    spec, card, settings = prior.spec, prior.card, prior.settings
    rows = []
    if card.get("description"):
        rows.append(("description", str(card["description"])))
    variables = []
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
        variables.append(" ".join(parts))
    rows.append(("variables", "; ".join(variables)))
    for d, periodic in zip(spec.dims, spec.periodic, strict=True):
        values = spec.coords[d]
        units = spec.coord_units.get(d)
        wraps = ", periodic" if periodic else ""
        rows.append(
            (
                d,
                f"{values.size} points, {values[0]:g} to {values[-1]:g}"
                f"{' ' + units if units else ''}{wraps}",
            )
        )
    config = getattr(prior.network, "config", None)
    count = prior.parameter_count
    if config is not None:
        widths = ", ".join(str(config.width * m) for m in config.multipliers)
        fixed = f", {config.static_channels} static fields" if config.static_channels else ""
        rows.append(("network", f"U-Net, widths {widths}, {count:,} parameters{fixed}"))
    else:
        size = f", {count:,} parameters" if count else ""
        rows.append(("network", f"{type(prior.network).__name__}{size}"))
    rows.append(("interpolant", prior.interpolant))
    if card.get("normalization"):
        rows.append(("normalisation", f"per {card['normalization']}"))
    training = card.get("training")
    if training:
        first, last = training["period"]
        rows.append(("trained on", f"{training['states']:,} states, {first} to {last}"))
        if training.get("validation_period"):
            first, last = training["validation_period"]
            states = training["validation_states"]
            rows.append(("validated on", f"{states:,} states, {first} to {last}"))
        rows.append(
            (
                "training",
                f"{training['steps']:,} steps of {training['batch_size']} states, "
                f"{training['minutes']:g} min on {training['device']}",
            )
        )
        validated = training.get("validation_loss")
        after = f", validation {validated:g} at step {training['best_step']:,}"
        loss = f"training {training['loss']:g}{after if validated is not None else ''}"
        rows.append(("loss", loss))
    recommended = settings.to_dict()
    rows.append(("settings", ", ".join(f"{k}={v}" for k, v in recommended.items())))
    for key, label in (("license", "licence of the data"), ("attribution", "attribution")):
        if card.get(key):
            rows.append((label, str(card[key])))
    if prior.sha256:
        rows.append(("sha256", prior.sha256))
    return rows


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
