"""Answers: what is allowed, and how the screen's order becomes the item's."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

import thumbs.collect
from thumbs.collect.question import STRENGTHS, AnswerError, Axis, Question, is_right, read_answer, shown_answer
from thumbs.collect.records import Answer

HELPFUL = Axis(key="helpful", label="Helpful", low=1, high=7)
PAIR = Question(axes=(HELPFUL,), flags=("wrong", "rude"), rewrite=True)
RANK = Question(kind="rank")
RATE = Question(kind="rate", axes=(HELPFUL, Axis(key="safe", label="Safe", required=True)), flags=("wrong",))


@pytest.mark.parametrize("strength", STRENGTHS)
def test_choosing_the_left_reply_chooses_the_slot_that_was_shown_there(strength: int):
    body = {"verdict": "prefer", "strength": strength}
    assert read_answer(PAIR, (0, 1), body).strength == strength
    assert read_answer(PAIR, (1, 0), body).strength == -strength


def test_axes_and_flags_turn_with_the_sides():
    body = {"verdict": "tie", "axes": {"helpful": 3}, "flags": [["rude"], []], "text": "Better: hello."}
    straight, turned = read_answer(PAIR, (0, 1), body), read_answer(PAIR, (1, 0), body)
    assert (straight.axes, straight.flags) == ({"helpful": 3}, (("rude",), ()))
    assert (turned.axes, turned.flags) == ({"helpful": -3}, ((), ("rude",)))
    assert turned.text == "Better: hello."


def test_ranks_belong_to_the_slots_and_have_no_gaps():
    # On the screen stand slots 2, 0, 1; the person gave them 1, 3, 3.
    assert read_answer(RANK, (2, 0, 1), {"verdict": "rank", "ranks": [1, 3, 3]}).ranks == (2, 2, 1)


def test_ratings_belong_to_the_slots():
    body = {"verdict": "rate", "ratings": [{"safe": 5, "helpful": 7}, {"safe": 1}], "flags": [[], ["wrong"]]}
    answer = read_answer(RATE, (1, 0), body)
    assert answer.ratings == ({"safe": 1}, {"helpful": 7, "safe": 5})
    assert answer.flags == (("wrong",), ())


@given(
    st.sampled_from([(0, 1), (1, 0)]),
    st.sampled_from(["prefer", "tie", "both_bad"]),
    st.sampled_from(STRENGTHS),
    st.dictionaries(st.just("helpful"), st.integers(-4, 4)),
    st.lists(st.lists(st.sampled_from(["wrong", "rude"]), unique=True), min_size=2, max_size=2),
)
def test_what_is_kept_can_be_shown_again(
    display: tuple[int, int], verdict: str, strength: int, axes: dict[str, int], flags: list[list[str]]
):
    body: dict[str, Any] = {"verdict": verdict, "axes": axes, "flags": flags, "reason": "so"}
    body |= {"strength": strength} if verdict == "prefer" else {}
    answer = read_answer(PAIR, display, body)
    assert read_answer(PAIR, display, shown_answer(answer, display)) == answer
    turned = shown_answer(answer, display[::-1])
    assert read_answer(PAIR, display[::-1], turned) == answer
    if verdict == "prefer":
        assert turned["strength"] == -strength


@given(st.permutations(range(4)), st.lists(st.integers(1, 4), min_size=4, max_size=4))
def test_ranks_can_be_shown_again(display: list[int], ranks: list[int]):
    answer = read_answer(RANK, display, {"verdict": "rank", "ranks": ranks})
    for place, slot in enumerate(display):
        for other_place, other in enumerate(display):
            assert (ranks[place] < ranks[other_place]) == (answer.ranks[slot] < answer.ranks[other])
    assert read_answer(RANK, display, shown_answer(answer, display)) == answer


WRONG: list[tuple[Question, dict[str, Any], str]] = [
    (PAIR, {}, "/verdict"),
    (PAIR, {"verdict": "rank", "ranks": [1, 2]}, "/verdict"),
    (PAIR, {"verdict": "prefer"}, "/strength"),
    (PAIR, {"verdict": "prefer", "strength": 0}, "/strength"),
    (PAIR, {"verdict": "prefer", "strength": 5}, "/strength"),
    (PAIR, {"verdict": "prefer", "strength": True}, "/strength"),
    (PAIR, {"verdict": "prefer", "strength": 1.0}, "/strength"),
    (PAIR, {"verdict": "prefer", "strength": "1"}, "/strength"),
    (PAIR, {"verdict": "tie", "strength": 2}, "/strength"),
    (PAIR, {"verdict": "tie", "axes": {"kind": 1}}, "/axes/kind"),
    (PAIR, {"verdict": "tie", "axes": {"helpful": 5}}, "/axes/helpful"),
    (PAIR, {"verdict": "tie", "axes": [1]}, "/axes"),
    (PAIR, {"verdict": "tie", "flags": [["rude"]]}, "/flags"),
    (PAIR, {"verdict": "tie", "flags": [["unknown"], []]}, "/flags"),
    (PAIR, {"verdict": "tie", "flags": ["rude", "rude"]}, "/flags/0"),
    (PAIR, {"verdict": "tie", "reason": 3}, "/reason"),
    (PAIR, {"verdict": "tie", "reason": "x" * 20_001}, "/reason"),
    (PAIR, {"verdict": "tie", "reason": "a\0b"}, "/reason"),
    (PAIR, {"verdict": "tie", "reason": "\ud800"}, "/reason"),
    (PAIR, {"verdict": "skip"}, "/skip_reason"),
    (PAIR, {"verdict": "skip", "skip_reason": "other", "axes": {"helpful": 1}}, "/axes"),
    (PAIR, {"verdict": "skip", "skip_reason": "bored"}, "/skip_reason"),
    (PAIR, {"verdict": "tie", "skip_reason": "other"}, "/skip_reason"),
    (PAIR, {"verdict": "tie", "winner": "A"}, "/winner"),
    (Question(tie=False), {"verdict": "tie"}, "/verdict"),
    (Question(both_bad=False), {"verdict": "both_bad"}, "/verdict"),
    (Question(reason="never"), {"verdict": "tie", "reason": "so"}, "/reason"),
    (Question(reason="required"), {"verdict": "tie", "reason": "  "}, "/reason"),
    (Question(), {"verdict": "tie", "text": "mine"}, "/text"),
    (RANK, {"verdict": "rank"}, "/ranks"),
    (RANK, {"verdict": "rank", "ranks": [1]}, "/ranks"),
    (RANK, {"verdict": "rank", "ranks": [0, 1]}, "/ranks"),
    (RANK, {"verdict": "rank", "ranks": [1, 3]}, "/ranks"),
    (RATE, {"verdict": "rate", "ratings": [{"helpful": 3}, {"safe": 3}]}, "/ratings/safe"),
    (RATE, {"verdict": "rate", "ratings": [{"safe": 6}, {"safe": 3}]}, "/ratings/safe"),
    (Question(kind="write"), {"verdict": "write", "text": " "}, "/text"),
]


@pytest.mark.parametrize(("question", "body", "pointer"), WRONG)
def test_what_is_not_allowed_is_named(question: Question, body: dict[str, Any], pointer: str):
    with pytest.raises(AnswerError) as caught:
        read_answer(question, (0, 1) if question.kind != "write" else (), body)
    assert pointer in [fault[0] for fault in caught.value.faults]


def test_a_skip_needs_nothing_but_its_reason():
    question = Question(kind="rate", axes=(Axis(key="safe", label="Safe", required=True),), reason="required")
    answer = read_answer(question, (0,), {"verdict": "skip", "skip_reason": "language"})
    assert answer == Answer("skip", skip_reason="language")


GOLD: list[tuple[Answer, Answer, bool]] = [
    (Answer("prefer", -1), Answer("prefer", -4), True),
    (Answer("prefer", 1), Answer("prefer", -4), False),
    (Answer("tie"), Answer("prefer", -1), False),
    (Answer("tie"), Answer("tie"), True),
    (Answer("skip", skip_reason="other"), Answer("skip"), False),
    (Answer("rank", ranks=(1, 2, 3)), Answer("rank", ranks=(1, 3, 2)), True),
    (Answer("rank", ranks=(1, 1, 2)), Answer("rank", ranks=(1, 2, 3)), False),
    (Answer("rate", ratings=({"safe": 4},)), Answer("rate", ratings=({"safe": 5},)), True),
    (Answer("rate", ratings=({"safe": 3},)), Answer("rate", ratings=({"safe": 5},)), False),
    (Answer("rate", ratings=({},)), Answer("rate", ratings=({"safe": 5},)), False),
]


@pytest.mark.parametrize(("answer", "gold", "right"), GOLD)
def test_gold(answer: Answer, gold: Answer, right: bool):
    assert is_right(answer, gold) is right


def test_a_question_that_cannot_be_answered_is_refused():
    with pytest.raises(ValidationError, match="a rating needs `axes`"):
        Question(kind="rate")
    with pytest.raises(ValidationError, match="two axes have one key"):
        Question(axes=(HELPFUL, HELPFUL))
    with pytest.raises(ValidationError, match="must rise"):
        Question(axes=(Axis(key="flat", label="Flat", low=5, high=5),))
    with pytest.raises(ValidationError, match="extra"):
        Question.model_validate({"kind": "pair", "stars": 5})


def test_judgements_are_read_in_one_place():
    folder = Path(thumbs.collect.__file__).parent
    readers = [
        path.name
        for path in folder.rglob("*.py")
        if re.search(
            r"JUDGEMENTS\.c\.answer|JUDGEMENTS\.c\[[^\]]*\"answer|row\.answer|Answer\(\*\*", path.read_text("utf-8")
        )
    ]
    assert readers == ["judgement.py"]
