"""Figures as inline SVG that follow the page's colours, light or dark.

Every colour is drawn as a code that stands for nothing else and then replaced by one of its CSS variables.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from markupsafe import Markup

from thumbs.config.pipeline import METHODS
from thumbs.errors import MissingExtra, needs

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = {
    name: f"#0101{i:02x}"
    for i, name in enumerate(("ink", "muted", "grid", "page", "base", "sft", "best_of_n", *METHODS), start=1)
}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 8.5,
    "axes.edgecolor": COLOURS["muted"],
    "axes.labelcolor": COLOURS["muted"],
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "grid.color": COLOURS["grid"],
    "grid.linewidth": 0.6,
    "text.color": COLOURS["ink"],
    "xtick.color": COLOURS["muted"],
    "ytick.color": COLOURS["muted"],
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.facecolor": COLOURS["page"],
    "legend.edgecolor": "none",
    "legend.fontsize": 8.5,
}
_GUIDE: dict[str, Any] = {"color": COLOURS["muted"], "linewidth": 0.9, "linestyle": (0, (4, 3))}
_COMPARED = ("ppo", "sft", "best_of_n", "direct", "group", "rejection", "base")
"""Colours of compared curves, in order; then again dashed, then dotted."""
_MOST_POINTS = 400
_SMALL, _WIDE = (3.1, 2.1), (4.3, 2.5)
"""Inches: a third and a half of the page, so that text has one size in both."""


@dataclass(frozen=True)
class Line:
    """A named series of a chart: a training curve, or the few points of a held-out measurement."""

    name: str
    colour: str
    points: Sequence[tuple[float, float]]
    kind: Literal["curve", "markers"] = "curve"


def curve_chart(
    lines: Iterable[Line],
    unit: str,
    about: str,
    level: tuple[str, float] | None = None,
    *,
    wide: bool = False,
) -> Markup:
    """Series against the step: raw values faint, running mean strong; `level` is a named horizontal line."""

    def paint(axes: Axes) -> None:
        for line in lines:
            _paint_line(axes, line)
        if level:
            axes.axhline(level[1], **_GUIDE)
            edge = axes.get_yaxis_transform()
            axes.text(1.02, level[1], level[0], transform=edge, va="center", color=COLOURS["muted"])
        axes.set_xlabel("step")
        axes.set_ylabel(unit)
        axes.margins(x=0.02, y=0.1)
        axes.locator_params(axis="x", integer=True, nbins=5)
        if len(axes.get_legend_handles_labels()[0]) > 1:
            axes.legend(loc="best", handlelength=1.4)

    return _draw(paint, about, _WIDE if wide else _SMALL)


def calibration_chart(bins: Sequence[Mapping[str, Any]], about: str) -> Markup:
    """Observed against predicted preference: a circle a bin, its area by the number of pairs."""

    def paint(axes: Axes) -> None:
        filled = [b for b in bins if b.get("n") and b.get("observed") is not None]
        n = np.array([b["n"] for b in filled], dtype=float)
        axes.plot([0, 1], [0, 1], **_GUIDE)
        predicted, observed = [b["predicted"] for b in filled], [b["observed"] for b in filled]
        axes.plot(predicted, observed, color=COLOURS["sft"], linewidth=1.2)
        area = 18 + 160 * n / n.max() if len(n) else n
        axes.scatter(predicted, observed, s=area, color=COLOURS["sft"], alpha=0.75, linewidths=0, zorder=3)
        axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
        axes.set_xlabel("predicted P(first reply is better)")
        axes.set_ylabel("observed fraction")

    return _draw(paint, about, _WIDE)


def frontier_chart(points: Sequence[Mapping[str, Any]], key: str, unit: str, about: str) -> Markup:
    """`key` (gold or proxy score) against KL; policies of a method are joined in the order of their KL.

    A point has name, label, family (a colour), kl and `key`, and may have an interval as low and high.
    """

    def paint(axes: Axes) -> None:
        shown = [p for p in points if p.get("kl") is not None and p.get(key) is not None]
        for family in METHODS:
            path = sorted((p["kl"], p[key]) for p in shown if p["family"] == family)
            if path:
                axes.plot(*zip(*path, strict=True), color=COLOURS[family], linewidth=1.2, alpha=0.6)
        for point in shown:
            _paint_point(axes, point, point[key])
        axes.margins(x=0.2, y=0.2)
        axes.set_xlabel("KL from the SFT model, nats per sequence")
        axes.set_ylabel(unit)

    return _draw(paint, about, _WIDE)


def compared_chart(curves: Sequence[tuple[str, Sequence[tuple[float, float]]]], unit: str, level: float) -> Markup:
    """Named curves of (KL, score) on one plane; `level` is the KL at which they are compared."""

    def paint(axes: Axes) -> None:
        for i, (name, points) in enumerate(curves):
            colour, dash = COLOURS[_COMPARED[i % len(_COMPARED)]], ("-", "--", ":")[i // len(_COMPARED) % 3]
            axes.plot(*zip(*points, strict=True), color=colour, linestyle=dash, marker="o", markersize=4, label=name)
        if level > 0:
            axes.axvline(level, **_GUIDE)
        axes.margins(x=0.05, y=0.12)
        axes.set_xlabel("KL from the reference, nats per sequence")
        axes.set_ylabel(unit)
        axes.legend(loc="best", handlelength=2.0)

    return _draw(paint, f"{unit} against KL", _WIDE)


def _paint_line(axes: Axes, line: Line) -> None:
    steps, values = _thin(np.array(line.points, dtype=float).reshape(-1, 2)).T
    colour = COLOURS[line.colour]
    if line.kind == "markers":
        axes.plot(steps, values, color=colour, linewidth=1.2, marker="o", markersize=3, label=line.name)
        return
    width = max(1, len(values) // 10)
    if width > 1:
        axes.plot(steps, values, color=colour, linewidth=0.8, alpha=0.35)
    axes.plot(steps, _running_mean(values, width), color=colour, linewidth=1.6, label=line.name)


def _paint_point(axes: Axes, point: Mapping[str, Any], value: float) -> None:
    colour = COLOURS[point["family"]]
    if point.get("low") is not None and point.get("high") is not None:
        axes.plot([point["kl"]] * 2, [point["low"], point["high"]], color=colour, linewidth=1.2)
    axes.scatter([point["kl"]], [value], s=30, color=colour, linewidths=0, zorder=3)
    if point["label"]:
        right = point["family"] in METHODS
        place = {"xytext": (6 if right else -6, 4), "textcoords": "offset points"}
        side = "left" if right else "right"
        axes.annotate(point["label"], (point["kl"], value), color=colour, ha=side, **place)


def _running_mean(values: np.ndarray, width: int) -> np.ndarray:
    """Mean of the finite ones among the last `width` values at each place."""
    finite = np.isfinite(values)
    kernel = np.ones(width)
    total = np.convolve(np.where(finite, values, 0.0), kernel)[: len(values)]
    count = np.convolve(finite, kernel)[: len(values)]
    return np.divide(total, count, out=np.full(len(values), np.nan), where=count > 0)


def _thin(points: np.ndarray) -> np.ndarray:
    """At most _MOST_POINTS points, means of neighbours: a long run stays a small file."""
    if len(points) <= _MOST_POINTS:
        return points
    return np.array([part.mean(axis=0) for part in np.array_split(points, _MOST_POINTS)])


def _draw(paint: Callable[[Axes], None], about: str, size: tuple[float, float]) -> Markup:
    try:
        with needs("report", "the chart"):
            import matplotlib as mpl
            from matplotlib.backends.backend_svg import FigureCanvasSVG
            from matplotlib.figure import Figure
    except MissingExtra as error:  # the numbers of the page are worth having without it
        return Markup('<p class="note">{}</p>').format(error)
    with mpl.rc_context({**_STYLE, "svg.hashsalt": about}):
        figure = Figure(figsize=size, layout="constrained")
        paint(figure.add_subplot())
        file = io.StringIO()
        FigureCanvasSVG(figure).print_svg(file, metadata={"Date": None})
    return _inline(file.getvalue(), about)


def _inline(svg: str, about: str) -> Markup:
    """The <svg> element alone, without size, in the page's colours."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg)
    for name, code in COLOURS.items():
        svg = svg.replace(code, f"var(--{name})")
    start = Markup('<svg role="img" aria-label="{}" ').format(about)
    return start + Markup(svg.removeprefix("<svg "))  # noqa: S704  matplotlib escapes the texts in it
