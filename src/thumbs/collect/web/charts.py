"""Figures of the team's pages as inline SVG: presentation attributes and classes alone, as the page's policy asks.

Every figure has a sentence for those who do not see it; the numbers stand in a table next to it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

Words = Callable[..., str]
"""A translator, as words.py gives it."""

_WIDTH, _HEIGHT = 360, 150
_LEFT, _TOP, _BOTTOM = 34, 10, 24
"""Room for the numbers at the side, above the highest column, and for the names below."""
_ROW = 200
"""Width of a figure that stands in a cell of a table."""


@dataclass(frozen=True)
class Column:
    """A chart's column: its name below (empty: none), its height, what is said of it, and the class that colours it."""

    name: str
    value: float
    about: str
    kind: str = ""


def columns(given: Sequence[Column], about: str) -> Markup:
    """Columns from zero, with a line at the highest round number that they do not pass."""
    top = _round_up(max((column.value for column in given), default=0.0))
    tall = _HEIGHT - _TOP - _BOTTOM
    step = (_WIDTH - _LEFT) / max(len(given), 1)
    thick = max(step * (0.9 if step < 8 else 0.72), 0.5)
    parts = []
    for share in (0.0, 0.5, 1.0):
        y = _TOP + tall * (1 - share)
        parts.append(_line(_LEFT, y, _WIDTH, y, "c-grid"))
        parts.append(_words(_LEFT - 6, y + 4, f"{top * share:g}", "c-side"))
    for place, column in enumerate(given):
        high = tall * column.value / top
        x = _LEFT + step * (place + 0.5)
        box = _box(x - thick / 2, _TOP + tall - high, thick, high, f"c-bar {column.kind}".strip())
        parts.append(Markup("<g>{}<title>{}</title></g>").format(box, column.about))
        if column.name:
            parts.append(_words(x, _HEIGHT - 7, column.name, "c-name"))
    return _figure(_WIDTH, _HEIGHT, about, parts)


def interval(low: float, middle: float, high: float, ends: tuple[float, float], about: str) -> Markup:
    """A dot and its interval on a line from ends[0] to ends[1]; for a cell of a table."""
    span = (ends[1] - ends[0]) or 1.0
    x_low, x, x_high = (6 + (_ROW - 12) * (min(max(v, ends[0]), ends[1]) - ends[0]) / span for v in (low, middle, high))
    parts = [_line(6, 9, _ROW - 6, 9, "c-grid"), _line(x_low, 9, max(x_high, x_low + 1), 9, "c-interval")]
    parts.append(Markup('<circle cx="{}" cy="9" r="4.5" class="c-dot"/>').format(_n(x)))
    return _figure(_ROW, 18, about, parts, "c-row")


def progress(parts: Sequence[tuple[str, float]], about: str) -> Markup:
    """A bar made of named parts (class, amount), one after the other, that fill it."""
    total = sum(amount for _, amount in parts) or 1.0
    x, drawn = 0.0, [_box(0, 0, 100, 10, "c-empty")]
    for kind, amount in parts:
        wide = 100 * amount / total
        drawn.append(_box(x, 0, wide, 10, f"c-{kind}"))
        x += wide
    frame = Markup('<svg class="c-progress" viewBox="0 0 100 10" preserveAspectRatio="none" role="img">{}{}</svg>')
    return frame.format(_title(about), Markup("").join(drawn))


def _round_up(value: float) -> float:
    """The least of 1, 2, 5 times a power of ten, and of 4, that is not below `value`; 1 for none."""
    if value <= 0:
        return 1.0
    power = 10.0 ** (len(str(int(value))) - 1) if value >= 1 else 10.0 ** _exponent(value)
    return next(power * step for step in (1, 2, 4, 5, 10) if power * step >= value * (1 - 1e-12))


def _exponent(value: float) -> int:
    return int(f"{value:e}".partition("e")[2])


def _figure(width: float, height: float, about: str, parts: Sequence[Markup], kind: str = "c-figure") -> Markup:
    frame = Markup('<svg class="{}" viewBox="0 0 {} {}" role="img">{}{}</svg>')
    return frame.format(kind, _n(width), _n(height), _title(about), Markup("").join(parts))


def _title(about: str) -> Markup:
    return Markup("<title>{}</title>").format(about)


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    shape = Markup('<line x1="{}" y1="{}" x2="{}" y2="{}" class="{}"/>')
    return shape.format(_n(x1), _n(y1), _n(x2), _n(y2), kind)


def _box(x: float, y: float, width: float, height: float, kind: str) -> Markup:
    shape = Markup('<rect x="{}" y="{}" width="{}" height="{}" class="{}"/>')
    return shape.format(_n(x), _n(y), _n(width), _n(height), kind)


def _words(x: float, y: float, text: str, kind: str) -> Markup:
    return Markup('<text x="{}" y="{}" class="{}">{}</text>').format(_n(x), _n(y), kind, escape(text))


def _n(value: float) -> str:
    return f"{round(value, 2):g}"
