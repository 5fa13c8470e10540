"""Gold and proxies against KL: where over-optimisation shows (Gao et al. 2022, arXiv:2210.10760)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from thumbs.config.pipeline import METHODS
from thumbs.evaluation import statistics
from thumbs.evaluation.results import BEST_OF_N, PROXY, SECOND, Findings
from thumbs.report.charts import Line, Plane, draw
from thumbs.report.figures import Figure
from thumbs.report.record import RunRecord
from thumbs.report.systems import SYSTEMS, family, reference_of, system_title

MEASURES = {"gold": ("Gold", "-"), PROXY: ("Proxy", "--"), SECOND: ("Second opinion", ":")}
"""Title and dash of each score, in the order in which they are trusted."""
_CAPTIONS = {
    "gold": "Mean gold score with its 95 % interval, a bootstrap over prompts.",
    PROXY: "Mean score of the reward model, which is what training sees.",
    SECOND: "Mean score of a reward model of held-out pairs, which training does not see.",
}
_KL = "KL from the reference, nats per sequence"
_Measured = Callable[[str], Sequence[float] | None]


def frontier_figures(run: RunRecord) -> list[Figure]:
    """All scores on one plane in common units, then each in its own; none before the evaluation."""
    systems = run.evaluation.get("systems", {})
    gains = _gains(run)
    return [*([gains] if gains else []), *(f for key in MEASURES if (f := _in_its_unit(run, systems, key)))]


def _in_its_unit(run: RunRecord, systems: Mapping[str, Mapping[str, Any]], key: str) -> Figure | None:
    def measured(name: str) -> Sequence[float] | None:
        return _numbers(systems[name], key, f"{key}_low", f"{key}_high")

    curve = [
        (row["kl"], *found)
        for row in run.evaluation.get("best_of_n", ())
        if (found := _numbers(row, key, *(("low", "high") if key == "gold" else (f"{key}_low", f"{key}_high"))))
    ]
    if not curve and BEST_OF_N in systems and (found := measured(BEST_OF_N)):
        curve = [(systems[BEST_OF_N]["kl"], *found)]
    lines = _lines(run, measured, curve)
    title = MEASURES[key][0]
    plane = Plane(_KL, f"{title.lower()} score", f"{title} score against KL", square_root=True, size="wide")
    return Figure(title, _CAPTIONS[key], draw(plane, lines)) if lines else None


def _gains(run: RunRecord) -> Figure | None:
    """Gain of each score over the reference, in deviations of the reference's replies."""
    reference = reference_of(run)
    found = Findings(run.replies, reference, int(run.setting("evaluation.best_of") or 1), 0)
    if reference not in found.names:
        return None
    lines: list[Line] = []
    for key, (title, dash) in MEASURES.items():
        theirs = found.column(reference, key)
        mean, deviation = theirs.mean(), theirs.std()
        if not np.isfinite(mean) or deviation == 0:
            continue

        def gain(values: np.ndarray, mean: float = mean, deviation: float = deviation) -> Sequence[float] | None:
            measured = statistics.mean((values - mean) / deviation, run.seed)
            if not np.isfinite(measured.value):
                return None
            return tuple(measured) if np.isfinite(measured).all() else (measured.value,)  # too few prompts for a band

        curve = [
            (row["kl"], *bounds)
            for row in run.evaluation.get("best_of_n", ())
            if row["n"] <= found.pool and (bounds := gain(found.best_of(row["n"], key)))
        ]
        lines += _lines(
            run, lambda name, key=key, gain=gain: gain(found.column(name, key)), curve, f", {title.lower()}", dash
        )
    if not lines:
        return None
    plane = Plane(
        _KL, "gain, deviations of the reference", "Gain of gold and proxies against KL", ("reference", 0.0),
        square_root=True, size="full",
    )  # fmt: skip
    caption = (
        "What each score has gained over the reference's replies, in their standard deviations, with 95 % intervals; "
        "the horizontal axis is that of √KL. Where a proxy goes on rising and gold does not, the reward is being gamed."
    )
    return Figure("Gold and proxies against KL", caption, draw(plane, lines))


def _lines(
    run: RunRecord, measured: _Measured, best_of_n: Sequence[Sequence[float]], suffix: str = "", dash: str = "-"
) -> list[Line]:
    """A line for each method from the reference outwards, and one for best-of-n."""
    systems, reference = run.evaluation.get("systems", {}), reference_of(run)
    lines = []
    for method in METHODS:
        names = [name for name in systems if family(name) == method and systems[name].get("kl") is not None]
        names = [name for name in sorted(names, key=lambda name: systems[name]["kl"]) if measured(name)]
        if names:
            shown = [name for name in [reference, *names] if name in systems and measured(name)]
            points = [(max(systems[name]["kl"] or 0.0, 0.0), *(measured(name) or ())) for name in shown]
            titles = [f"{system_title(run, name)}{suffix}" for name in shown]
            lines.append(Line(f"{SYSTEMS[method]}{suffix}", method, _even(points), "band", titles, dash))
    if best_of_n:
        lines.append(Line(f"Best of n{suffix}", BEST_OF_N, _even(best_of_n), "band", dash=dash))
    return lines


def _numbers(row: Mapping[str, Any], key: str, low: str, high: str) -> Sequence[float] | None:
    """(value, low, high), or (value,) where no interval was kept; None where there is no value."""
    if row.get(key) is None:
        return None
    return (row[key],) if row.get(low) is None or row.get(high) is None else (row[key], row[low], row[high])


def _even(points: Sequence[Sequence[float]]) -> Sequence[Sequence[float]]:
    """Points of one length: without intervals if one of them has none."""
    return [point[: min(map(len, points))] for point in points]
