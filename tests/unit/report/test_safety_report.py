"""What the report shows of costs, refusals, the gate and benchmarks, against numbers by hand."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from thumbs.report.build import build_report
from thumbs.report.evidence import not_shown, shown
from thumbs.report.figures import Figure
from thumbs.report.record import read_run
from thumbs.report.safety import safety_figures
from thumbs.tracking import RunFolder, write_json


def share(hits: int, n: int, low: float, high: float) -> dict[str, Any]:
    return {"n": n, "hits": hits, "rate": hits / n, "low": low, "high": high}


def gate(hits: int, upper: float, allowed: float | None, passes: bool | None) -> dict[str, Any]:
    found = {**share(hits, 150, 0.0, upper), "by": "guard", "prompts": "probes", "excluded": 0}
    return found | {"upper": upper, "confidence": 0.95, "max_unsafe": allowed, "passes": passes}


SYSTEMS = {
    "sft": {
        "probes": {"harmful": share(140, 150, 0.88, 0.97), "benign": share(30, 150, 0.14, 0.27)},
        "gate": gate(0, 0.0198, 0.02, passes=True),
    },
    "ppo": {
        "probes": {"harmful": share(15, 150, 0.06, 0.16), "benign": share(3, 150, 0.0, 0.06)},
        "gate": gate(9, 0.1026, 0.02, passes=False),
    },
}
CONFIG = {
    "seed": 0,
    "ppo": {"reward": [{"model": "reward_model"}, {"model": "cost_model", "name": "unsafe", "weight": 0}]},
    "group": {"constraint": {"limit": 0.05, "max": 20}},
}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    with RunFolder(tmp_path).open(CONFIG) as folder:
        for step, cost, multiplier in ((1, 0.2, 1.0), (2, 0.1, 1.5), (3, 0.04, 1.25)):
            folder.stage("group").metrics.log(step, {"group/cost": cost, "group/lambda": multiplier})
            folder.stage("ppo").metrics.log(step, {"ppo/score": 1.0, "ppo/part/unsafe": 0.2 * step})
        folder.stage("group").alarms.append(2, {"alarm": "λ is at its maximum"})
        write_json(tmp_path / "safety" / "summary.json", {"systems": SYSTEMS})
    return tmp_path


def figures(run: Path) -> dict[str, Figure]:
    return {figure.title: figure for figure in safety_figures(read_run(run))}


def test_cost_is_drawn_by_step_next_to_that_of_a_method_without_a_limit(run: Path) -> None:
    rows = figures(run)["Cost"].chart.rows
    told = [(row["series"], row["step"], row["cost"]) for row in rows if row["series"] != "alarm"]
    assert told == [
        *(("PPO", float(step), pytest.approx(0.2 * step)) for step in (1, 2, 3)),
        *(("Group", float(step), cost) for step, cost in ((1, 0.2), (2, 0.1), (3, 0.04))),
    ]
    assert [row["alarm"] for row in rows if row["series"] == "alarm"] == ["Group: λ is at its maximum"]
    assert ">limit<" in str(figures(run)["Cost"].chart.svg)


def test_cost_is_drawn_against_the_multiplier(run: Path) -> None:
    rows = figures(run)["Cost against λ, Group"].chart.rows
    assert [(row["name"], row["λ"], row["cost"]) for row in rows] == [
        ("step 1", 1.0, 0.2),
        ("step 2", 1.5, 0.1),
        ("step 3", 1.25, 0.04),
    ]
    assert "Cost against λ, PPO" not in figures(run)


def test_refusals_are_drawn_on_both_sides_with_both_intervals(run: Path) -> None:
    sft, ppo = figures(run)["Refusals on both sides"].chart.rows
    x, y = "refuses what is harmless", "refuses what is harmful"
    assert (sft["series"], sft[x], sft[y], sft["low"], sft["high"]) == ("SFT", 0.2, 140 / 150, 0.88, 0.97)
    assert (sft[f"{x}, low"], sft[f"{x}, high"]) == (0.14, 0.27)
    assert (ppo[x], ppo[y]) == (0.02, 0.1)


def test_only_what_passes_the_gate_is_called_shown(run: Path) -> None:
    page = build_report(run).read_text(encoding="utf-8")
    shown, not_shown = re.findall(r"<h3>(?:Shown|Not shown)</h3><ul>(.*?)</ul>", page, re.DOTALL)
    passed = "SFT: 0 of 150 replies unsafe (by guard), so at 95% confidence at most 1.98%, and 2.00% is allowed."
    assert passed in shown
    assert passed not in not_shown
    assert "PPO: 9 of 150 replies unsafe (by guard), so at 95% confidence at most 10.26%" in not_shown
    assert page.count("✓ passes") == 1
    assert page.count("✗ held back") == 1


def test_a_gate_that_asks_for_nothing_has_no_verdict(run: Path) -> None:
    systems = {"ppo": {**SYSTEMS["ppo"], "gate": gate(0, 0.0198, None, passes=None)}}
    write_json(run / "safety" / "summary.json", {"systems": systems})
    page = build_report(run).read_text(encoding="utf-8")
    assert "✓ passes" not in page
    assert "✗ held back" not in page
    assert "at most 1.98%." in page.partition("Not shown")[2]


def test_a_run_without_measurements_of_safety_says_so(tmp_path: Path) -> None:
    RunFolder(tmp_path).open({"seed": 0, "ppo": {}}).close()
    page = build_report(tmp_path).read_text(encoding="utf-8")
    assert "`thumbs safety` was not run" in page.partition("Not shown")[2]
    assert '<section id="safety">' not in page


def test_benchmarks_stand_in_the_report(run: Path) -> None:
    score = {"system": "ppo", "program": "lm-eval", "task": "<b>arc", "metric": "acc", "value": 0.25, "error": 0.031}
    write_json(run / "benchmarks" / "results.json", [{**score, "samples": 200}])
    page = build_report(run).read_text(encoding="utf-8")
    row = re.sub("<[^>]+>", " ", page.partition('id="benchmarks"')[2].partition("</table>")[0]).split()
    assert row[-7:] == ["PPO", "&lt;b&gt;arc", "acc", "0.250", "0.031", "200", "lm-eval"]


@pytest.mark.parametrize(("low", "length", "known"), [(0.70, 0.60, True), (0.70, 0.25, False), (0.49, 0.45, False)])
def test_a_cost_model_that_knows_no_more_than_length_is_not_called_shown(
    run: Path, low: float, length: float, known: bool
) -> None:
    """A low AUROC of length is as good as a high one: then shorter replies are the unsafe ones."""
    found = {"auroc_low": low, "auroc_high": 0.8, "auroc_of_length": length}
    record = replace(read_run(run), done={"cost_model": {"calibration": found}, "reward_model": {}})
    assert any("cost model knows more" in line for line in shown(record)) == known
    assert any("cost model knows more" in line for line in not_shown(record)) != known


@pytest.mark.parametrize(("limit", "held"), [(0.3, True), (0.1, False)])
def test_a_limit_that_the_last_step_is_above_is_named(tmp_path: Path, limit: float, held: bool) -> None:
    RunFolder(tmp_path).open({"seed": 0, "ppo": {"constraint": {"limit": limit}}}).close()
    (tmp_path / "ppo").mkdir()
    rows = [{"step": step, "ppo/cost": cost, "ppo/lambda": 1.0} for step, cost in ((1, 0.9), (2, 0.2))]
    (tmp_path / "ppo" / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    told = [line for line in not_shown(read_run(tmp_path)) if "holds its limit" in line]
    wanted = "That PPO holds its limit: at its last step replies cost 0.200, and 0.100 is allowed."
    assert told == ([] if held else [wanted])


def test_the_cost_model_is_shown_next_to_its_nulls(run: Path) -> None:
    values = {"auroc": 0.9, "brier": 0.1, "ece": 0.05, "accuracy": 0.8}
    intervals = {f"{k}_{side}": v + d for k, v in values.items() for side, d in (("low", -0.02), ("high", 0.02))}
    nulls = {"auroc_of_length": 0.6, "brier_of_mean": 0.24, "ece_by_chance": 0.03, "ece_by_chance_high": 0.07}
    bins = [{"low": 0.1, "high": 0.2, "predicted": 0.15, "observed": 0.2, "n": 40.0}]
    found = {**values, **intervals, **nulls, "replies": 80, "prompts": 20, "bins": bins}
    write_json(run / "cost_model" / "done.json", {"calibration": found})
    record = read_run(run)
    if "cost_model" not in record.done:
        pytest.skip("this version has no cost model")
    page = build_report(run).read_text(encoding="utf-8")
    text = " ".join(re.sub("<[^>]+>", " ", page.partition('id="cost_model"')[2].partition("</section>")[0]).split())
    assert "AUROC 0.900 0.880 to 0.920 length alone 0.600" in text
    assert "Calibration error 0.050 0.030 to 0.070 by chance up to 0.070" in text
    assert "Calibration of the cost model" in page
