"""The file of replies is read as it was written; what stands in it was written by models."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from thumbs.errors import CheckpointError
from thumbs.evaluation import replies
from thumbs.evaluation.replies import EvaluatedReply, column, read, table
from thumbs.records import Message

HOSTILE = 'a\u2028b\r\n\x00 {"system": 1} \U0001f469 </script>'
ROWS = [
    EvaluatedReply("sft", (Message("user", HOSTILE),), "p", 1, HOSTILE, 3, True, 0.5, {"proxy": 1.0}, 0.0),
    EvaluatedReply("sft", (Message("user", HOSTILE),), "p", 0, "", 1, False, None, {}, None, {"ppo": (0.25, 0.75)}),
]


def test_what_was_written_is_read(tmp_path: Path):
    replies.write(tmp_path / "replies.jsonl", ROWS)
    assert read(tmp_path / "replies.jsonl") == ROWS
    lines = (tmp_path / "replies.jsonl").read_text(encoding="utf-8").split("\n")
    assert json.loads(lines[1]) == {
        "system": "sft", "prompt": [{"role": "user", "content": HOSTILE}], "prompt_id": "p", "draw": 0, "text": "",
        "tokens": 1, "cut": False, "gold": None, "proxies": {}, "log_ratio": None, "judged": {"ppo": [0.25, 0.75]},
    }  # fmt: skip


def test_what_is_not_finite_is_null_and_read_as_absent(tmp_path: Path):
    replies.write(tmp_path / "r", [EvaluatedReply("sft", (), "p", 0, "x", 1, False, math.nan, {"proxy": math.inf})])
    (row,) = read(tmp_path / "r")
    assert (row.gold, row.proxies) == (None, {"proxy": None})
    assert np.isnan(column([[row]], "proxy")).all()


@pytest.mark.parametrize("line", ["{", "[]", '{"system": "sft"}', '{"sytem": "sft"}', "null"])
def test_a_damaged_line_is_named(line: str, tmp_path: Path):
    replies.write(tmp_path / "r", ROWS)
    with (tmp_path / "r").open("a", encoding="utf-8") as file:
        file.write(line + "\n")
    with pytest.raises(CheckpointError, match="line 3"):
        read(tmp_path / "r")


def test_replies_by_prompt_and_draw():
    found = table(ROWS, "sft")
    assert [[row.draw for row in draws] for draws in found] == [[0, 1]]
    assert column(found, "tokens").tolist() == [[1.0, 3.0]]
    assert column(found, "cut").tolist() == [[0.0, 1.0]]
    assert np.isnan(column(found, "gold")[0, 0])
