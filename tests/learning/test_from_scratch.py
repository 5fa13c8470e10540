"""The example in one file reaches what it promises (the other seeds: examples/from_scratch/README.md)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from example_files import FOLDER, load_example


def test_it_learns(tmp_path: Path):
    command = [sys.executable, str(FOLDER / "from_scratch" / "instructgpt.py"), "--seed", "0", "--out", str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True, timeout=600)
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert (tmp_path / "curves.png").stat().st_size > 10_000
    right = [answer for _, answer in load_example("from_scratch/instructgpt.py").DEMONSTRATIONS]
    assert results["sft"]["half"]["loss"] <= 0.6
    assert results["sft"]["whole"]["answers"] == right
    assert results["reward"]["accuracy"] == 1.0
    assert results["reward"]["loss"] < 0.0086
    ppo = results["ppo"]
    assert ppo["reward_last"] >= ppo["reward_first"] + 0.5
    assert 0 < max(row["kl"] for row in ppo["history"]) < 10
    # Answers are still text: none is empty, none has bytes that are no UTF-8, and most words are those of the data.
    words = {word for answer in right for word in answer.split()}
    said = [word for answer in ppo["answers"] for word in answer.split()]
    assert all(ppo["answers"])
    assert not any("\ufffd" in answer for answer in ppo["answers"])
    assert sum(word in words for word in said) >= 0.5 * len(said)
