"""Methods of runs at equal KL, against numbers by hand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from thumbs.cli.main import app
from thumbs.errors import RunError
from thumbs.evaluation.replies import EvaluatedReply, write
from thumbs.records import Message
from thumbs.report.compare import build_comparison, common_reach, compare, paired
from thumbs.report.numbers import number
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


SYSTEMS = {
    "base": system(9.0, -1.0, -3.0),
    "sft": system(0.0, 0.2, 0.0),
    "ppo": system(8.0, 0.4, 3.0),
    "ppo@2": system(2.0, 0.5, 1.0),
    "ppo@4": system(4.0, 0.6, 2.0),
    "best_of_n": system(0.6, 0.3, 0.8),
    "group": system(3.0, 0.5, 1.5),
}


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    second = {name: SYSTEMS[name] for name in ("sft", "group")}
    first = {name: numbers for name, numbers in SYSTEMS.items() if name != "group"}
    return [run(tmp_path / "a<b>", first), run(tmp_path / "second", second)]


def test_curves_begin_at_the_reference_and_go_outwards(runs: list[Path]):
    curves = {curve.name: curve for curve in compare(runs)}
    assert list(curves) == ["a<b> ppo", "a<b> best of n", "second group"]
    ppo = curves["a<b> ppo"]
    assert [(p.kl, p.gold, p.proxy) for p in ppo.places] == [(0, 0.2, 0), (2, 0.5, 1), (4, 0.6, 2), (8, 0.4, 3)]
    assert ppo.win_rate == (0.75, 0.6, 0.9)
    assert curves["second group"].win_rate is None


def test_only_policies_that_were_measured_are_compared(runs: list[Path]):
    ppo, best_of_n, group = compare(runs)
    assert common_reach([ppo, best_of_n, group]) == 3.0  # best of n, which cannot go far, does not hold the others back
    assert common_reach([best_of_n]) == 0.6
    near, far, edge = ppo.within(3.0), ppo.within(7.9), group.within(3.0)
    assert near is not None
    assert far is not None
    assert edge is not None
    assert (near.name, near.kl, near.gold, near.low, near.proxy) == ("ppo@2", 2.0, 0.5, 0.4, 1.0)
    assert (far.name, far.kl, far.gold) == ("ppo@4", 4.0, 0.6)
    assert (edge.name, edge.kl, edge.gold) == ("group", 3.0, 0.5)
    assert group.within(2.9) is None  # the reference is no policy of the method
    assert best_of_n.within(0.5) is None


def test_a_method_that_hardly_moved_does_not_say_where_all_are_compared(runs: list[Path], tmp_path: Path):
    still = run(tmp_path / "still", {"sft": system(0.0, 0.2, 0.0), "group": system(-0.01, 0.2, 0.0)})
    curves = compare([*runs, still])
    assert common_reach(curves) == 3.0
    assert common_reach(compare([still])) == 0.0
    found = dict(build_comparison([*runs, still], tmp_path / "page.html", 2.0))
    assert {curve.name: place and place.gold for curve, place in found.items()} == {
        **{"a<b> ppo": 0.5, "a<b> best of n": 0.3, "second group": None, "still group": 0.2}
    }


def test_the_command_prints_a_table_and_writes_a_page(runs: list[Path], tmp_path: Path):
    out = tmp_path / "page.html"
    result = CliRunner().invoke(app, ["compare", *map(str, runs), "--out", str(out)])
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.stdout.splitlines()]
    last = ["8.00", "0.400", "0.300", "to", "0.500", "3.00", "75", "%"]
    assert lines[1] == ["a<b>", "ppo", *last, "ppo@2", "2.00", "0.500", "0.400", "to", "0.600"]
    page = out.read_text(encoding="utf-8")
    assert page.count("<svg") == 2
    assert "a&lt;b&gt; ppo" in page
    assert "<b> ppo" not in page
    farther = CliRunner().invoke(app, ["compare", *map(str, runs), "--out", str(out), "--at", "2"])
    assert "within 2.00 nats" in farther.stdout
    assert farther.stdout.splitlines()[3].split()[-4:] == ["–"] * 4  # nothing was measured there
    printed = re.findall(r"\d\.\d+", farther.stdout + result.stdout)
    measured = {number(float(v)) for s in SYSTEMS.values() for v in s.values()} | {"2.00", "3.00"}
    assert set(printed) <= measured
    assert page.count("<script>") == 1
    assert not re.search(r"@import|https?://(?!www.w3.org)", page)


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


def test_runs_are_paired_on_the_prompts_that_both_answered(runs: list[Path], tmp_path: Path):
    both = {name: float(number) for number, name in enumerate("abefgh")}
    golds = {"ppo": {**{k: v + 0.5 for k, v in both.items()}, "c": 9.0}, "group": {**both, "d": -9.0}}
    for path, (system_name, by_prompt) in zip(runs, golds.items(), strict=True):
        rows = [
            EvaluatedReply(system_name, (Message("user", p),), p, 0, "text", 3, False, gold)
            for p, gold in by_prompt.items()
        ]
        write(path / "evaluation" / "replies.jsonl", rows)
    (gap,) = paired(runs)  # those of both alone, each 0.5 apart
    assert gap == {
        "left": "a<b> ppo",
        "right": "second group",
        "n": 6,
        "difference": pytest.approx(0.5),
        "low": pytest.approx(0.5),
        "high": pytest.approx(0.5),
        "verdict": "better",
    }
    out = tmp_path / "page.html"
    result = CliRunner().invoke(app, ["compare", *map(str, runs), "--out", str(out)])
    assert "a<b> ppo minus second group, gold on 6 prompts: +0.500 [+0.500, +0.500]: better" in result.stdout
    assert "a&lt;b&gt; ppo minus second group" in out.read_text(encoding="utf-8")
