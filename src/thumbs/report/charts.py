"""Figures as inline SVG that follow the page's colours, light or dark.

Every colour is drawn as a code that stands for nothing else and then replaced by one of its CSS variables.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from markupsafe import Markup

from thumbs.config.pipeline import METHODS
from thumbs.errors import MissingExtra, needs
from thumbs.report.numbers import number
from thumbs.web.safe_text import visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = {
    name: f"#0101{i:02x}"
    for i, name in enumerate(("ink", "muted", "grid", "page", "bad", "base", "sft", "best_of_n", *METHODS), start=1)
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
_ALARM: dict[str, Any] = {"color": COLOURS["bad"], "linewidth": 0.9, "alpha": 0.45}
_MOST_POINTS = 400
_LEAST_SPAN = 1e-3
"""Of the vertical axis, as a part of the values: what varies by less is rounding, and looks flat."""
_SIZES = {"small": (3.1, 2.1), "wide": (4.3, 2.5), "full": (8.9, 3.4)}
"""Inches: a third and a half of the page and all of it, so that text has one size in all."""


@dataclass(frozen=True)
class Line:
    """A named series of a chart; its points are (x, y), or (x, y, low, high) with the interval of y, or with that of x
    after it.

    kind: `curve` is faint with a strong running mean, `markers` are joined, `band` is joined and has its intervals as
    an area, `dots` stand alone, each with its interval as a bar. `labels` name the points, where they have names.
    """

    name: str
    colour: str
    points: Sequence[Sequence[float]]
    kind: Literal["curve", "markers", "band", "dots"] = "curve"
    labels: Sequence[str] = ()
    dash: str = "-"


@dataclass(frozen=True)
class Alarm:
    """What looked wrong at a place of the horizontal axis."""

    x: float
    text: str


@dataclass(frozen=True)
class Chart:
    """A drawing with the values on it, and a table of them, a row each.

    smoothed: it has faint values and a running mean of them. size: that of its plane.
    """

    svg: Markup
    rows: Sequence[Mapping[str, Any]]
    smoothed: bool = False
    size: str = "small"


@dataclass(frozen=True)
class Plane:
    """The axes of a chart: their names, and what is drawn besides the values.

    level, upright: named lines at a height and at a place of the horizontal axis. square_root: the horizontal axis is
    that of √x. fractions: both axes go from 0 to 1.
    """

    x: str
    y: str
    about: str
    level: tuple[str, float] | None = None
    upright: tuple[str, float] | None = None
    square_root: bool = False
    fractions: bool = False
    size: Literal["small", "wide", "full"] = "small"


def draw(plane: Plane, lines: Sequence[Line], alarms: Sequence[Alarm] = ()) -> Chart:
    """The chart of some series. Every value is in it twice more, in words to be shown on demand and as a row."""
    lines = [_shown(line) for line in lines if len(line.points)]
    alarms = [Alarm(alarm.x, _plain(alarm.text)) for alarm in alarms]
    smoothed = any(_width(line) > 1 for line in lines)
    rows = [row for line in lines for row in _rows(plane, line)]
    rows += [{"series": "alarm", plane.x: alarm.x, "alarm": alarm.text} for alarm in alarms if lines]
    columns = dict.fromkeys(name for row in rows for name in row)
    rows = [{name: row.get(name, "") for name in columns} for row in rows]
    try:
        with needs("report", "the chart"):
            import matplotlib as mpl
            from matplotlib.backends.backend_svg import FigureCanvasSVG
            from matplotlib.figure import Figure
    except MissingExtra as error:  # the numbers of the page are worth having without it
        return Chart(Markup('<p class="note">{}</p>').format(error), rows)
    with mpl.rc_context({**_STYLE, "svg.hashsalt": plane.about}):
        figure = Figure(figsize=_SIZES[plane.size], dpi=72, layout="constrained")
        axes = figure.add_subplot()
        _paint(axes, plane, lines, alarms)
        file = io.StringIO()
        FigureCanvasSVG(figure).print_svg(file, metadata={"Date": None})
        marks = _marks(axes, figure.get_figheight() * 72, plane, lines, alarms)
    return Chart(_inline(file.getvalue(), plane.about, marks), rows, smoothed, plane.size)


def _shown(line: Line) -> Line:
    """The series as it is drawn."""
    points = _thin(line.points)
    labels = [_plain(label) for label in line.labels] if len(points) == len(line.points) else ()
    return replace(line, name=_plain(line.name), labels=labels, points=points)


def _plain(text: str) -> str:
    """A short text in which nothing is invisible, for places that cannot hold tags."""
    return visible(text, 300).striptags()


def _paint(axes: Axes, plane: Plane, lines: Sequence[Line], alarms: Sequence[Alarm]) -> None:
    if plane.square_root:
        axes.set_xscale("function", functions=(lambda x: np.sign(x) * np.sqrt(np.abs(x)), lambda x: x * np.abs(x)))
    for alarm in alarms:
        axes.axvline(alarm.x, **_ALARM)
        axes.plot(
            [alarm.x], [1.0], "v", transform=axes.get_xaxis_transform(), color=COLOURS["bad"], ms=4, clip_on=False
        )
    for line in lines:
        _paint_line(axes, line)
    if plane.level:
        axes.axhline(plane.level[1], **_GUIDE)
        edge = axes.get_yaxis_transform()
        axes.text(1.02, plane.level[1], plane.level[0], transform=edge, va="center", color=COLOURS["muted"])
    if plane.upright:
        axes.axvline(plane.upright[1], **_GUIDE)
    axes.set_xlabel(plane.x)
    axes.set_ylabel(plane.y)
    axes.margins(x=0.02, y=0.1)
    axes.yaxis.get_major_formatter().set_useOffset(False)  # pyright: ignore[reportAttributeAccessIssue]
    low, high = axes.get_ylim()
    if high - low < (least := _LEAST_SPAN * max(abs(low), abs(high))):
        axes.set_ylim((low + high - least) / 2, (low + high + least) / 2)
    if plane.fractions:
        axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
    axes.locator_params(axis="x", integer=plane.x == "step", nbins=5)
    if len(axes.get_legend_handles_labels()[0]) > 1:
        axes.legend(loc="best", handlelength=1.8)


def _paint_line(axes: Axes, line: Line) -> None:
    points, colour = np.array(line.points), COLOURS[line.colour]
    x, y = points[:, 0], points[:, 1]
    strong: dict[str, Any] = {"color": colour, "linewidth": 1.6, "linestyle": line.dash, "label": line.name}
    if line.kind == "curve":
        if _width(line) > 1:
            axes.plot(x, y, color=colour, linewidth=0.8, alpha=0.35)
        axes.plot(x, _running_mean(y, _width(line)), **strong)
    elif line.kind == "dots":
        axes.scatter(x, y, s=30, color=colour, linewidths=0, zorder=3, label=line.name)
    else:
        axes.plot(x, y, marker="o", markersize=3, **strong)
    if points.shape[1] > 2 and line.kind == "band":
        axes.fill_between(x, points[:, 2], points[:, 3], color=colour, alpha=0.15, linewidth=0)
    elif points.shape[1] > 2:
        axes.vlines(x, points[:, 2], points[:, 3], color=colour, linewidth=1.2)
    if points.shape[1] > 4:
        axes.hlines(y, points[:, 4], points[:, 5], color=colour, linewidth=1.2)


def _rows(plane: Plane, line: Line) -> Iterator[dict[str, Any]]:
    """A row for each point of a series; what was not finite is empty."""
    for i, point in enumerate(line.points):
        x, y, *interval = (value if math.isfinite(value) else "" for value in point)
        named = {"name": line.labels[i]} if line.labels else {}
        bounds = dict(zip(("low", "high", f"{plane.x}, low", f"{plane.x}, high"), interval, strict=False))
        yield {"series": line.name, **named, plane.x: x, plane.y: y, **bounds}


def _marks(axes: Axes, height: float, plane: Plane, lines: Sequence[Line], alarms: Sequence[Alarm]) -> Markup:
    """Circles on the values, unseen until they are asked for, each with its words."""
    places: list[tuple[Any, str]] = []
    for line in lines:
        for i, (x, y, *interval) in enumerate(line.points):
            if math.isfinite(y):
                name = line.labels[i] if line.labels else line.name
                bounds = f" ({number(interval[0])} to {number(interval[1])})" if interval else ""
                said = f"{name} · {plane.x} {_short(x)}: {number(float(y))}{bounds}"
                places.append((axes.transData.transform((x, y)), said))
    for alarm in alarms:
        place = axes.get_xaxis_transform().transform((alarm.x, 1.0))
        places.append((place, f"alarm at {plane.x} {_short(alarm.x)}: {alarm.text}"))
    form = Markup('<circle class="mark" cx="{}" cy="{}" r="5"><title>{}</title></circle>')
    return Markup("").join(form.format(f"{x:.1f}", f"{height - y:.1f}", said) for (x, y), said in places)


def _short(x: float) -> str:
    return number(int(x)) if float(x).is_integer() else number(float(x))


def _width(line: Line) -> int:
    """Of how many values the running mean is taken."""
    return max(1, len(line.points) // 10) if line.kind == "curve" else 1


def _running_mean(values: np.ndarray, width: int) -> np.ndarray:
    """Mean of the finite ones among the last `width` values at each place."""
    finite = np.isfinite(values)
    kernel = np.ones(width)
    total = np.convolve(np.where(finite, values, 0.0), kernel)[: len(values)]
    count = np.convolve(finite, kernel)[: len(values)]
    return np.divide(total, count, out=np.full(len(values), np.nan), where=count > 0)


def _thin(points: Sequence[Sequence[float]]) -> np.ndarray:
    """At most _MOST_POINTS points, means of neighbours: a long run stays a small file."""
    array = np.array(points, dtype=float)
    if len(array) <= _MOST_POINTS:
        return array
    return np.array([part.mean(axis=0) for part in np.array_split(array, _MOST_POINTS)])


def _inline(svg: str, about: str, marks: Markup) -> Markup:
    """The <svg> element alone, without size, in the page's colours, with the marks on top."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg)
    for name, code in COLOURS.items():
        svg = svg.replace(code, f"var(--{name})")
    start = Markup('<svg role="img" aria-label="{}" ').format(about)
    svg = svg.strip().removeprefix("<svg ").removesuffix("</svg>")
    return start + Markup(svg) + marks + Markup("</svg>")  # noqa: S704  matplotlib escapes the texts in it  # noqa: S704  matplotlib escapes the texts in it
