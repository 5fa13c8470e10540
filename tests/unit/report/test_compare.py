"""Methods of runs at equal KL, against numbers by hand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from thumbs.cli.main import app
from thumbs.errors import RunError
from thumbs.report.compare import build_comparison, common_reach, compare
from thumbs.tracking import write_json


def system(kl: float, gold: float, proxy: float) -> dict[str, float]:
    return {"kl": kl, "gold": gold, "gold_low": gold - 0.1, "gold_high": gold + 0.1, "proxy": proxy}


def run(path: Path, systems: dict[str, Any], judge: str = "vader") -> Path:
    path.mkdir(parents=True)
    write_json(path / "config.json", {"evaluation": {"judge": judge, "prompts": {"path": "p"}, "sampling": {}}})
    wins = {"ppo": {"rate": 0.75, "low": 0.6, "high": 0.9, "n": 40}} if "ppo" in systems else {}
    results = {"judge": judge, "systems": systems, "win_rates": wins}
    write_json(path / "evaluation" / "results.json", results)
    return path


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    first = {
        "base": system(9.0, -1.0, -3.0),
        "sft": system(0.0, 0.2, 0.0),
        "ppo": system(8.0, 0.4, 3.0),
        "ppo@2": system(2.0, 0.5, 1.0),
        "ppo@4": system(4.0, 0.6, 2.0),
        "best_of_n": system(0.6, 0.3, 0.8),
    }
    second = {"sft": system(0.0, 0.2, 0.0), "group": system(3.0, 0.5, 1.5)}
    return [run(tmp_path / "a<b>", first), run(tmp_path / "second", second)]


def test_curves_begin_at_the_reference_and_go_outwards(runs: list[Path]):
    curves = {curve.name: curve for curve in compare(runs)}
    assert list(curves) == ["a<b> ppo", "a<b> best of n", "second group"]
    ppo = curves["a<b> ppo"]
    assert [(p.kl, p.gold, p.proxy) for p in ppo.places] == [(0, 0.2, 0), (2, 0.5, 1), (4, 0.6, 2), (8, 0.4, 3)]
    assert ppo.win_rate == (0.75, 0.6, 0.9)
    assert curves["second group"].win_rate is None


def test_at_equal_kl_by_hand(runs: list[Path]):
    ppo, best_of_n, group = compare(runs)
    assert common_reach([ppo, best_of_n, group]) == 0.6
    assert common_reach([ppo, group]) == 3.0
    there = ppo.at(3.0)  # half of the way from ppo@2 to ppo@4
    assert there is not None
    assert (there.gold, there.proxy, there.low) == pytest.approx((0.55, 1.5, 0.45))
    farther, edge = ppo.at(7.0), group.at(3.0)
    assert farther is not None
    assert (farther.gold, farther.proxy) == pytest.approx((0.45, 2.75))  # over-optimised: gold falls, the proxy rises
    assert edge is not None
    assert edge.gold == 0.5
    assert group.at(3.5) is None


def test_a_method_that_hardly_moved_does_not_say_where_all_are_compared(runs: list[Path], tmp_path: Path):
    still = run(tmp_path / "still", {"sft": system(0.0, 0.2, 0.0), "group": system(-0.01, 0.2, 0.0)})
    curves = compare([*runs, still])
    assert common_reach(curves) == 0.6
    assert common_reach(compare([still])) == 0.0
    found = dict(build_comparison([*runs, still], tmp_path / "page.html", 2.0))
    assert {curve.name: place and place.gold for curve, place in found.items()} == pytest.approx(
        {"a<b> ppo": 0.5, "a<b> best of n": None, "second group": 0.4, "still group": None}
    )


def test_the_command_prints_a_table_and_writes_a_page(runs: list[Path], tmp_path: Path):
    out = tmp_path / "page.html"
    result = CliRunner().invoke(app, ["compare", *map(str, runs), "--out", str(out)])
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.stdout.splitlines()]
    assert lines[1] == ["a<b>", "ppo", "8.00", "0.400", "3.00", "75", "%", "0.290", "0.300"]
    page = out.read_text(encoding="utf-8")
    assert page.count("<svg") == 2
    assert "a&lt;b&gt; ppo" in page
    assert "<b> ppo" not in page
    farther = CliRunner().invoke(app, ["compare", *map(str, runs), "--out", str(out), "--at", "2"])
    assert "gold at 2.00 nats" in farther.stdout
    assert farther.stdout.splitlines()[2].split()[-2:] == ["–", "–"]  # best of n did not go so far
    assert not re.search(r"<script|@import|https?://(?!www.w3.org)", page)


def test_runs_that_were_not_judged_alike_are_refused(runs: list[Path], tmp_path: Path):
    other = run(tmp_path / "other", {"sft": system(0, 0, 0), "ppo": system(1, 1, 1)}, judge="tiny-mood")
    with pytest.raises(RunError, match=r"not judged alike: evaluation.judge is 'tiny-mood' and 'vader'"):
        compare([*runs, other])
    bare = tmp_path / "bare"
    bare.mkdir()
    write_json(bare / "config.json", {})
    with pytest.raises(RunError, match="has no evaluation"):
        build_comparison([bare], tmp_path / "x.html")
    with pytest.raises(RunError, match="not a run folder"):
        compare([tmp_path / "nowhere"])
