"""Single replies with a label."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from thumbs.config.data import DataConfig
from thumbs.data.lint import lint
from thumbs.data.load import load_replies
from thumbs.data.replies import read_judged_reply
from thumbs.data.sources import RowError
from thumbs.data.tokenizers import ByteTokenizer


@pytest.mark.parametrize("label", [True, 1, 1.0, "desirable", "good", False, 0, -1, "undesirable", "bad"])
def test_a_label_is_good_or_bad(label: Any):
    found = read_judged_reply({"prompt": "hi", "completion": "yes", "label": label})
    assert found.desirable is (label in (True, "desirable", "good"))
    assert [message.content for message in found.messages] == ["hi", "yes"]


def test_messages_are_read_too():
    turns = [{"role": role, "content": text} for role, text in (("user", "a"), ("assistant", "b"))]
    assert read_judged_reply({"messages": turns, "label": False}).messages[-1].content == "b"


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ({"prompt": "hi", "completion": "yes"}, "missing_field"),
        ({"prompt": "hi", "completion": "yes", "label": None}, "missing_field"),
        ({"prompt": "hi", "completion": "yes", "label": 0.5}, "bad_label"),
        ({"prompt": "hi", "completion": "yes", "label": "maybe"}, "bad_label"),
        ({"prompt": "hi", "completion": "yes", "label": [1]}, "bad_label"),
        ({"prompt": "hi", "label": True}, "missing_field"),
        ("hi", "not_an_object"),
    ],
)
def test_rows_without_a_judgement_are_refused(row: Any, kind: str):
    with pytest.raises(RowError) as error:
        read_judged_reply(row)
    assert error.value.kind == kind


def test_lint_knows_them_by_their_label(tmp_path: Path):
    path = tmp_path / "judged.jsonl"
    path.write_text(json.dumps({"prompt": "a", "completion": "b", "label": True}) + "\n", encoding="utf-8")
    found = lint(str(path))
    assert (found.kind, found.rows_left) == ("replies", 1)


def test_faulty_rows_of_a_file_are_counted_with_their_lines(tmp_path: Path):
    path = tmp_path / "judged.jsonl"
    rows = [{"prompt": "a", "completion": "b", "label": True}, {"prompt": "a", "completion": "b"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    loaded = load_replies(DataConfig(path=str(path)), ByteTokenizer(), "be brief")
    assert [row.messages[0].content for row in loaded.rows] == ["be brief"]
    assert [(problem.line, problem.kind) for problem in loaded.problems] == [(2, "missing_field")]
