"""A picture of each stage's numbers over its steps, for people who look into the folders."""

from __future__ import annotations

import logging

from thumbs.errors import MissingExtra, needs
from thumbs.tracking.files import replacing, writing
from thumbs.tracking.metrics import METRICS
from thumbs.tracking.run_folder import StageFolder

log = logging.getLogger(__name__)

_DRAWN = ("loss", "heldout_loss", "accuracy", "score", "kl", "policy_loss", "value_loss")
"""Metrics that are drawn, without the section that stands before them."""


def draw_curves(folder: StageFolder) -> None:
    """Writes curves.png next to the metrics: one axis for each number of _DRAWN that the stage logged."""
    rows = folder.metrics.read()
    names = [name for name in METRICS if name.rpartition("/")[2] in _DRAWN and any(name in row for row in rows)]
    if not names:
        return
    try:
        with needs("report", "curves.png"):
            from matplotlib.figure import Figure
    except MissingExtra as error:  # the stage has trained; its numbers are in metrics.jsonl
        log.warning("%s", error)
        return
    figure = Figure(figsize=(4.5 * len(names), 3.5), layout="constrained")
    for axis, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        points = [(row["step"], row[name]) for row in rows if name in row]
        axis.plot(*zip(*points, strict=True), marker="." if len(points) < 40 else "")
        axis.set(title=name, ylabel=METRICS[name].unit, xlabel="step")
    path = folder.path / "curves.png"
    with writing(path), replacing(path) as temporary:
        figure.savefig(temporary, dpi=100, format="png")
