"""Rows as other libraries document them, against the messages that a person reads in them."""

from __future__ import annotations

from typing import Any

import pytest

from thumbs.data.conversations import read_conversation
from thumbs.data.preferences import preferred, read_preference
from thumbs.data.prompts import read_prompt
from thumbs.data.sources import RowError
from thumbs.records import Message

S, U, A = "system", "user", "assistant"


def said(messages: tuple[Message, ...]) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in messages]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (  # LLaMA-Factory, alpaca
            {
                "instruction": "Add.",
                "input": "2 2",
                "output": "4",
                "system": "Be brief.",
                "history": [["Hi", "Hello"], ["Ready?", "Yes"]],
            },
            [(S, "Be brief."), (U, "Hi"), (A, "Hello"), (U, "Ready?"), (A, "Yes"), (U, "Add.\n\n2 2"), (A, "4")],
        ),
        ({"instruction": "Add.", "input": "", "output": "4", "system": "", "history": []}, [(U, "Add."), (A, "4")]),
        (  # LLaMA-Factory, sharegpt
            {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yo"}], "system": "Be."},
            [(S, "Be."), (U, "Hi"), (A, "Yo")],
        ),
        ({"input": "What?", "output": "That."}, [(U, "What?"), (A, "That.")]),  # OpenRLHF
        ({"input": [{"role": U, "content": "What?"}], "output": "That."}, [(U, "What?"), (A, "That.")]),
        ({"messages": [{"role": U, "content": "q"}, {"role": A, "content": "a"}]}, [(U, "q"), (A, "a")]),  # TRL
    ],
)
def test_conversations(row: dict[str, Any], expected: list[tuple[str, str]]):
    assert said(read_conversation(row)) == expected


COMPARISON = {
    "prompt_conversation": [{"role": U, "content": "q"}],
    "completion_A": [{"role": A, "content": "first"}],
    "completion_B": [{"role": A, "content": "second"}],
}


@pytest.mark.parametrize(
    ("row", "prompt", "texts", "better"),
    [
        (
            {"instruction": "Add.", "input": "2 2", "chosen": "4", "rejected": "5", "margin": 1.5},
            [(U, "Add.\n\n2 2")],
            ("4", "5"),
            1.0,
        ),
        (
            {
                "conversations": [
                    {"from": "human", "value": "q1"},
                    {"from": "gpt", "value": "a1"},
                    {"from": "human", "value": "q2"},
                ],
                "chosen": {"from": "gpt", "value": "good"},
                "rejected": {"from": "gpt", "value": "bad"},
                "system": "Be.",
            },
            [(S, "Be."), (U, "q1"), (A, "a1"), (U, "q2")],
            ("good", "bad"),
            1.0,
        ),
        ({"comparison": COMPARISON, "label": "A"}, [(U, "q")], ("first", "second"), 1.0),
        ({"comparison": COMPARISON, "label": "B"}, [(U, "q")], ("first", "second"), 0.0),
        ({"comparison": COMPARISON, "label": "Tie"}, [(U, "q")], ("first", "second"), 0.5),
        (
            {"prompt": [{"role": U, "content": "q"}], "chosen": [{"role": A, "content": "x"}], "rejected": "y"},
            [(U, "q")],
            ("x", "y"),
            1.0,
        ),
    ],
)
def test_pairs(row: dict[str, Any], prompt: list[tuple[str, str]], texts: tuple[str, str], better: float):
    found = read_preference(row)
    assert said(found.prompt) == prompt
    assert tuple(reply.text for reply in found.replies) == texts
    assert preferred(found) == better
    assert found.margin == row.get("margin", 0.0)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"input": "What?"}, [(U, "What?")]),
        ({"instruction": "Go.", "input": "", "history": [["a", "b"]], "output": "x"}, [(U, "a"), (A, "b"), (U, "Go.")]),
    ],
)
def test_prompts(row: dict[str, Any], expected: list[tuple[str, str]]):
    assert said(read_prompt(row).messages) == expected


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"comparison": COMPARISON, "label": "C"}, "label 'C'; use one of A, B, Tie"),
        ({"comparison": COMPARISON}, "label None; use one of"),
        ({"comparison": {"prompt_conversation": []}, "label": "A"}, "a comparison without 'completion_A'"),
        ({"comparison": "A is better", "label": "A"}, "must be an object, got str"),
        ({"instruction": "x", "history": [["only one"]], "chosen": "a", "rejected": "b"}, "holds .question, answer."),
    ],
)
def test_broken_rows_are_named(row: dict[str, Any], words: str):
    with pytest.raises(RowError, match=words):
        read_preference(row)
