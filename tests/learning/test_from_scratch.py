"""The example in one file reaches what it promises (the other seeds: examples/from_scratch/README.md)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

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
    # Answers are still text: none is empty, none has bytes that are not UTF-8, and most words are those of the data.
    words = {word for answer in right for word in answer.split()}
    said = [word for answer in ppo["answers"] for word in answer.split()]
    assert all(ppo["answers"])
    assert not any("\ufffd" in answer for answer in ppo["answers"])
    assert sum(word in words for word in said) >= 0.5 * len(said)


def test_chinese_rows_are_learned_word_for_word(tmp_path: Path):
    """A character is three bytes: answers are longer than those of the file, and none is cut within a character."""
    rows = {
        "demonstrations": [
            ["什么是奖励模型?", "它从人的偏好中学会给回答打分。"],
            ["写一句问候语", "你好,很高兴认识你!"],
            ["2+2 等于几?", "2+2 等于 4。"],
        ],
        "preferences": [["写一句问候语", "你好,很高兴认识你!", "喂。"], ["2+2 等于几?", "2+2 等于 4。", "不知道。"]],
    }
    example = load_example("from_scratch/instructgpt.py")
    example.use_rows(rows)
    _, _, sft = example.run_sft(0, 60)
    assert sft["whole"]["answers"] == [answer for _, answer in rows["demonstrations"]]
    with pytest.raises(SystemExit, match="at most 128 are allowed"):
        example.use_rows({"demonstrations": [["问", "答" * 50]], "preferences": []})


def test_advantages_by_hand_are_those_of_the_paper(capsys: pytest.CaptureFixture[str]):
    load_example("from_scratch/instructgpt.py").show_gae()
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[2:] if "answer" not in line]
    advantages, returns = ([float(row[i]) for row in rows] for i in (5, 6))
    assert advantages == [0.9801, 0.2, 0.4423, 0.7085, 1.0, 0.6623, -0.0326, 0.1886, 0.4323, 0.7]
    assert returns == [0.9801, 1.0, 1.0423, 1.1085, 1.2, 0.6623, 0.6674, 0.6886, 0.7323, 0.8]
