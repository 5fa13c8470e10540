"""The setting with which a peer is compared is its fastest, whatever else fails or hangs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from example_files import FOLDER

BENCHMARKS = FOLDER.parent / "benchmarks"

PEER = """
import json, os, sys, time
job = json.loads(sys.stdin.readline())
if job.get("weights") == "broken":
    sys.exit("no such weights")
print(json.dumps({"versions": {}}), flush=True)
for line in sys.stdin:
    if job.get("weights") == "slow" and json.loads(line)["turn"]:
        time.sleep(60)
    seconds = 8.0 / job["rows"] + (0.0 if os.environ.get("FASTER") else 1.0)
    print(json.dumps({"seconds": seconds}), flush=True)
"""


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import best_setting
    import jobs
    import machine
    import process

    monkeypatch.setattr(process, "HERE", tmp_path)
    yield best_setting, jobs, machine
    for name in ("best_setting", "jobs", "machine", "process", "environments"):
        sys.modules.pop(name, None)


def test_the_fastest_setting_is_found_one_choice_after_the_other(benchmarks, tmp_path: Path):
    best_setting, jobs, _ = benchmarks
    (tmp_path / "peer.py").write_text(PEER, encoding="utf-8")
    choices = (
        ({"rows": 2}, {"rows": 4}, {"rows": 1}),
        ({}, {"env": {"FASTER": "1"}}),
        ({"weights": "broken"}, {"weights": "whole"}),
    )
    peer = jobs.Worker("peer", "thumbs", str(tmp_path / "peer.py"), {}, choices)
    job = jobs.Job("work", "rows", (peer,), {}, [[], []], ["", "all"], len)
    found = best_setting.best_setting(job, peer, {"threads": 1, "device": "cpu"})
    assert found["chosen"] == {"rows": 4, "env": {"FASTER": "1"}}
    assert [one.get("seconds") for one in found["tried"]] == [5.0, 3.0, 9.0, 2.0, None, 2.0]
    assert "no such weights" in found["tried"][4]["error"]


def test_a_setting_that_takes_several_times_the_best_is_given_up(benchmarks, tmp_path: Path, monkeypatch):
    best_setting, jobs, _ = benchmarks
    (tmp_path / "peer.py").write_text(PEER, encoding="utf-8")
    monkeypatch.setattr(best_setting, "PATIENCE", 0.1)
    peer = jobs.Worker("peer", "thumbs", str(tmp_path / "peer.py"), {"rows": 8}, (({}, {"weights": "slow"}),))
    job = jobs.Job("work", "rows", (peer,), {}, [[], []], ["", "all"], len)
    found = best_setting.best_setting(job, peer, {"threads": 1, "device": "cpu"})
    assert found["chosen"] == {}
    assert "work-peer took more than 0 s" in found["tried"][1]["error"]


def test_a_batch_is_cut_in_halves_as_far_as_it_goes(benchmarks):
    _, jobs, _ = benchmarks
    rows = [[one["rows_per_device"] for one in jobs.rows_per_device(batch)] for batch in (8, 6, 1)]
    assert rows == [[8, 4, 2, 1], [6, 3], [1]]


def test_the_floor_of_a_step_of_ppo_by_hand(benchmarks):
    """One layer of width 2: 4·2·2 + 3·2·4 = 40 weights, 10 words; 3 rows of 4 + 2 tokens, 2 epochs."""
    from thumbs.models.decoder_config import DecoderConfig

    _, _, machine = benchmarks
    shape = {"layers": 1, "width": 2, "heads": 1, "kv_heads": 1, "head_dim": 2, "intermediate": 4, "vocab_size": 10}
    config = DecoderConfig(architecture="LlamaForCausalLM", context=64, **shape)
    measured = {"flops": 1000.0, "bandwidth": 1e12}
    step = {"rows": 3, "prompt": 4.0, "new": 2, "size": 4, "epochs": 2}
    # Rollout: 3·4 prompt tokens through 80 FLOP, then two steps of 3 rows through 2·(40 + 20) FLOP.
    rollout = (80 * 12 + 2 * 3 * 120) / 1000
    whole, ends = 18 * 80, 6 * 40
    lora = (3 * whole + 2 * ends) + 2 * 2 * (whole + ends)
    full = (4 * whole + 2 * ends) + 2 * 3 * (2 * whole + ends)
    for shared, flop in ((True, lora), (False, full)):
        assert machine.ppo_floor(config, measured, lora=shared, **step) == pytest.approx(3 / (rollout + flop / 1000))
