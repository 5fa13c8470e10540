"""Charts are bare SVG in the page's colours, with what they were given in them."""

import math
import re
from xml.etree import ElementTree

import numpy as np
import pytest

from thumbs.report.charts import _MOST_POINTS, Line, _running_mean, _thin, curve_chart, frontier_chart


def test_a_chart_is_well_formed_and_has_no_colour_of_its_own() -> None:
    points = [(i, math.nan if i == 3 else i / 7) for i in range(40)]
    level = ("$target$ <b>", 2.0)
    svg = str(curve_chart([Line("a & b", "sft", points), Line("$x$", "ppo", points)], "nats", 'a "title"', level))
    root = ElementTree.fromstring(svg)  # noqa: S314  made by us
    assert root.get("aria-label") == 'a "title"'
    texts = {"".join(e.itertext()) for e in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {"a & b", "$x$", "nats", "step", "$target$ <b>"} <= texts
    assert "var(--sft)" in svg
    assert set(re.findall(r"#[0-9a-f]{6}\b", svg)) <= {"#000000"}
    assert "<metadata" not in svg


def test_frontier_leaves_out_what_was_not_measured() -> None:
    point = {"family": "ppo", "label": "PPO", "low": 0.1, "high": 0.3}
    points = [{**point, "kl": 1.0, "gold": None}, {**point, "kl": 2.0, "gold": 0.2, "label": "seen"}]
    svg = str(frontier_chart(points, "gold", "gold score", "frontier"))
    assert "seen" in svg
    assert "PPO" not in svg


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
