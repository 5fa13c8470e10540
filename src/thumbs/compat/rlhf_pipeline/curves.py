"""A picture of each stage's numbers over its steps, for people who look into the folders."""

from __future__ import annotations

import logging

from thumbs.errors import MissingExtra, needs
from thumbs.tracking.files import replacing, writing
from thumbs.tracking.run_folder import StageFolder

log = logging.getLogger(__name__)

_CURVES = {
    "sft/loss": "loss, nats per token",
    "sft/heldout_loss": "held-out loss, nats per token",
    "reward/loss": "loss, nats per pair",
    "reward/heldout_loss": "held-out loss, nats per pair",
    "reward/accuracy": "accuracy",
    "preference/loss": "loss",
    "preference/heldout_loss": "held-out loss",
    "preference/accuracy": "accuracy",
    "ppo/score": "score",
    "ppo/kl": "KL from the start, nats per sequence",
    "ppo/policy_loss": "policy loss",
    "ppo/value_loss": "value loss",
}
"""Metrics that are drawn, with the titles of their axes."""


def draw_curves(folder: StageFolder) -> None:
    """Writes curves.png next to the metrics: one axis for each number that the stage logged."""
    rows = folder.metrics.read()
    drawn = {name: points for name in _CURVES if (points := [(r["step"], r[name]) for r in rows if name in r])}
    if not drawn:
        return
    try:
        with needs("report", "curves.png"):
            from matplotlib.figure import Figure
    except MissingExtra as error:  # the stage has trained; its numbers are in metrics.jsonl
        log.warning("%s", error)
        return
    figure = Figure(figsize=(4.5 * len(drawn), 3.5), layout="constrained")
    for axis, (name, points) in zip(figure.subplots(1, len(drawn), squeeze=False)[0], drawn.items(), strict=True):
        axis.plot(*zip(*points, strict=True), marker="." if len(points) < 40 else "")
        axis.set(title=name, ylabel=_CURVES[name], xlabel="step")
    path = folder.path / "curves.png"
    with writing(path), replacing(path) as temporary:
        figure.savefig(temporary, dpi=100, format="png")
