"""Charts are bare SVG in the page's colours, with what they were given in them."""

import math
import re
from typing import Literal
from xml.etree import ElementTree

import numpy as np
import pytest

from thumbs.report.charts import _MOST_POINTS, Alarm, Line, Plane, _running_mean, _thin, draw

SVG = "{http://www.w3.org/2000/svg}"


def test_a_chart_is_well_formed_and_has_no_colour_of_its_own() -> None:
    points = [(i, math.nan if i == 3 else i / 7) for i in range(40)]
    plane = Plane("step", "nats", 'a "title"', ("$target$ <b>", 2.0))
    svg = str(draw(plane, [Line("a & b", "sft", points), Line("$x$", "ppo", points)]).svg)
    root = ElementTree.fromstring(svg)  # noqa: S314  made by us
    assert root.get("aria-label") == 'a "title"'
    texts = {"".join(e.itertext()) for e in root.iter(f"{SVG}text")}
    assert {"a & b", "$x$", "nats", "step", "$target$ <b>"} <= texts
    assert "var(--sft)" in svg
    assert set(re.findall(r"#[0-9a-f]{6}\b", svg)) <= {"#000000"}
    assert "<metadata" not in svg


def test_an_axis_of_almost_equal_values_shows_them_as_equal() -> None:
    svg = str(draw(Plane("step", "fraction", "x"), [Line("a", "sft", [(1, 0.5), (2, 0.5 - 1e-8), (3, 0.5)])]).svg)
    texts = {"".join(e.itertext()) for e in ElementTree.fromstring(svg).iter(f"{SVG}text")}  # noqa: S314
    ticks = [float(text) for text in texts if re.fullmatch(r"0\.\d+", text)]
    assert len(ticks) > 1
    assert all(abs(tick - 0.5) < 1e-3 for tick in ticks)
    assert not any("e" in text for text in texts - {"step"})


def marks(svg: str) -> list[tuple[float, float, str]]:
    """(x, y, words) of the values on a chart."""
    root = ElementTree.fromstring(svg)  # noqa: S314
    found = root.iter(f"{SVG}circle")
    return [(float(e.get("cx", "")), float(e.get("cy", "")), e[0].text or "") for e in found]


def test_every_value_says_what_it_is_where_it_is() -> None:
    line = Line("held out", "ppo", [(1, 0.5), (2, math.nan), (3, 0.25)], "markers")
    chart = draw(Plane("step", "nats", "x"), [line])
    (x1, y1, first), (x3, y3, last) = marks(str(chart.svg))
    assert (first, last) == ("held out · step 1: 0.500", "held out · step 3: 0.250")
    # The drawn line passes the same places: its path begins and ends there.
    drawn = re.findall(r'd="M ([\d.]+) ([\d.]+) ?\nM ([\d.]+) ([\d.]+)', str(chart.svg))
    dots = [(float(x), float(y)) for x, y in re.findall(r'<use [^>]*x="([\d.]+)" y="([\d.]+)"', str(chart.svg))]
    assert drawn or dots
    for place in ((x1, y1), (x3, y3)):
        assert any(math.dist(place, dot) < 0.1 for dot in dots), (place, dots)
    assert chart.rows == [
        {"series": "held out", "step": 1.0, "nats": 0.5},
        {"series": "held out", "step": 2.0, "nats": ""},
        {"series": "held out", "step": 3.0, "nats": 0.25},
    ]


def test_an_alarm_is_marked_and_stands_in_the_table() -> None:
    alarms = [Alarm(2, "length <b>\u202e is gamed"), Alarm(3, "again")]
    plain = draw(Plane("step", "tokens", "x"), [Line("training", "ppo", [(i, float(i)) for i in range(5)])])
    chart = draw(Plane("step", "tokens", "x"), [Line("training", "ppo", [(i, float(i)) for i in range(5)])], alarms)
    said = [words for _, _, words in marks(str(chart.svg))]
    assert said[-2:] == ["alarm at step 2: length <b>U+202E is gamed", "alarm at step 3: again"]
    assert str(chart.svg).count("var(--bad)") > 2
    assert "var(--bad)" not in str(plain.svg)
    assert chart.rows[-1] == {"series": "alarm", "step": 3, "tokens": "", "alarm": "again"}
    assert chart.rows[0] == {"series": "training", "step": 0.0, "tokens": 0.0, "alarm": ""}
    assert "alarm" not in plain.rows[0]


@pytest.mark.parametrize("kind", ["band", "dots"])
def test_an_interval_is_drawn_said_and_listed(kind: Literal["band", "dots"]) -> None:
    line = Line("PPO", "ppo", [(0.0, 0.2, 0.1, 0.3), (4.0, 0.5, 0.4, 0.6)], kind, ["SFT", "PPO"])
    chart = draw(Plane("KL", "gold", "x", square_root=True), [line])
    said = marks(str(chart.svg))
    assert said[1][2] == "PPO · KL 4: 0.500 (0.400 to 0.600)"
    assert chart.rows[0] == {"series": "PPO", "name": "SFT", "KL": 0.0, "gold": 0.2, "low": 0.1, "high": 0.3}


def test_the_axis_of_kl_is_that_of_its_square_root() -> None:
    line = Line("PPO", "ppo", [(kl, 0.0) for kl in (0.0, 1.0, 4.0, 9.0)], "markers")
    x = np.array([x for x, _, _ in marks(str(draw(Plane("KL", "gold", "x", square_root=True), [line]).svg))])
    np.testing.assert_allclose(np.diff(x), np.diff(x)[0], atol=0.2)


def test_running_mean_skips_what_is_not_finite() -> None:
    values = np.array([1.0, 2.0, math.nan, 6.0, math.nan, math.nan, math.nan])
    expected = []
    for i in range(len(values)):
        window = [v for v in values[max(0, i - 2) : i + 1] if math.isfinite(v)]
        expected.append(sum(window) / len(window) if window else math.nan)
    np.testing.assert_allclose(_running_mean(values, 3), expected)


@pytest.mark.parametrize("n", [1, _MOST_POINTS, 1000, 4001])
def test_thinning_keeps_a_straight_line_straight_and_whole(n: int) -> None:
    points = np.stack([np.arange(n), 3.0 * np.arange(n) + 1], axis=1)
    steps, values = _thin(points).T
    assert len(steps) == min(n, _MOST_POINTS)
    np.testing.assert_allclose(values, 3 * steps + 1)
    widest = n / _MOST_POINTS + 1
    assert steps[0] <= widest
    assert steps[-1] >= n - 1 - widest
    assert (np.diff(steps) <= widest).all()
