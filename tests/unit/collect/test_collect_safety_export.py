"""Labels on two axes, as a reward model and a cost model read them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from collect_world import ON_SQLITE, model, pair
from export_world import BOTH_BAD, config, first, rows, say, second
from thumbs.collect.errors import CollectError
from thumbs.collect.question import Axis, Question
from thumbs.collect.records import Answer, NewItem, Project
from thumbs.collect.settings import ProjectSettings
from thumbs.collect.store import CollectStore
from thumbs.data.load import load_preferences, load_safety
from thumbs.data.preferences import preferred
from thumbs.data.tokenizers import ByteTokenizer
from thumbs.records import Message, Reply

pytestmark = ON_SQLITE
AXES = (Axis(key="helpfulness", label="Helpful"), Axis(key="safety", label="Safe"))
BOTH = Question(axes=AXES, flags=("rude", "unsafe"))


def project(store: CollectStore, question: Question, *items: NewItem, people: int = 2) -> Project:
    made = store.projects.create("two", "Two", question, settings=ProjectSettings(overlap=people))
    store.items.add(made.id, items)
    return made


def ask(store: CollectStore, made: Project, **told: tuple[Answer, ...]) -> None:
    for handle, answers in told.items():
        say(store, made, handle, {f"question {i}": answer for i, answer in enumerate(answers)})


def marks(row: dict[str, Any]) -> tuple[Any, ...]:
    return (
        *(row["is_response_0_safe"], row["is_response_1_safe"]),
        *(row["better_response_id"], row["safer_response_id"]),
    )


def test_a_reward_and_a_cost_model_read_two_axes(store: CollectStore, tmp_path: Path):
    made = project(store, BOTH, *(pair(i) for i in range(3)))
    unsafe, none = ((), ("unsafe",)), ((), ("rude",))
    ask(
        store,
        made,
        ann=(
            first(4, axes={"helpfulness": 3, "safety": -2}, flags=unsafe),
            first(1, axes={"helpfulness": -1}),
            BOTH_BAD,
        ),
        ben=(
            second(1, axes={"helpfulness": 1}, flags=none),
            second(2, axes={"helpfulness": 1}, flags=unsafe),
            BOTH_BAD,
        ),
    )
    told = rows(store, made, tmp_path, "safety")
    assert [row["prompt"] for row in told] == ["question 0", "question 1"]  # nobody compared the last for helpfulness
    # the axis, not the verdict, says which is more helpful; one of two people finds the second reply unsafe
    assert [marks(row) for row in told] == [(1.0, 0.5, 1, 0), (1.0, 0.5, "tie", 0)]
    assert set(told[0]) == {
        *("prompt", "response_0", "response_1", "is_response_0_safe", "is_response_1_safe"),
        *("better_response_id", "safer_response_id"),
    }
    data = config(tmp_path, "safety")
    read = load_safety(data, ByteTokenizer()).rows
    assert [(row.unsafe, row.safer) for row in read] == [((0.0, 0.5), 1.0), ((0.0, 0.5), 1.0)]
    assert [reply.text for reply in read[0].replies] == ["first reply 0", "second reply 0"]
    for axis, better in (("helpfulness", [0.0, 0.5]), ("safety", [1.0, 1.0])):
        pairs = load_preferences(data.model_copy(update={"axis": axis}), ByteTokenizer()).rows
        assert [preferred(row) for row in pairs] == better


def test_the_verdict_stands_for_the_axis_that_its_question_has_not(store: CollectStore, tmp_path: Path):
    helpful = project(store, Question(flags=("unsafe",)), pair(0))
    ask(store, helpful, ann=(first(flags=(("unsafe",), ())),), ben=(first(),))
    assert [marks(row) for row in rows(store, helpful, tmp_path, "safety")] == [(0.5, 1.0, 0, 1)]


def test_who_chose_the_more_harmful_reply_said_which_is_safer(store: CollectStore, tmp_path: Path):
    question = Question(direction="more_harmful", axes=AXES[:1], flags=("harmful",))
    made = project(store, question, pair(0), people=1)
    ask(store, made, ann=(first(axes={"helpfulness": -1}, flags=(("harmful",), ("harmful",))),))
    assert [marks(row) for row in rows(store, made, tmp_path, "safety")] == [(0.0, 0.0, 0, 1)]


def test_ratings_on_two_axes_give_every_pair(store: CollectStore, tmp_path: Path):
    axes = (Axis(key="helpful", label="Helpful"), Axis(key="harmless", label="Harm", best="low"))
    replies = tuple(Reply(text, model(text)) for text in ("one", "two", "three"))
    prompt = (Message("user", "hello"), Message("assistant", "yes?"), Message("user", "question 0"))
    made = project(store, Question(kind="rate", axes=axes), NewItem(prompt, replies), people=1)
    given = ({"helpful": 5, "harmless": 1}, {"helpful": 2, "harmless": 3}, {"helpful": 5, "harmless": 4})
    ask(store, made, ann=(Answer("rate", ratings=given),))
    told = rows(store, made, tmp_path, "safety")
    # harm from 1 to 5, low is best: safe, in the middle, unsafe
    assert [marks(row) for row in told] == [(1.0, 0.5, 0, 0), (1.0, 0.0, "tie", 0), (0.5, 0.0, 1, 0)]
    read = load_safety(config(tmp_path, "safety"), ByteTokenizer()).rows
    assert [row.prompt for row in read] == [prompt] * 3


def test_answers_to_a_question_without_the_mark_say_nothing_of_safety(store: CollectStore, tmp_path: Path):
    made = project(store, Question(), pair(0))
    ask(store, made, ann=(first(),))
    store.projects.ask(made.id, Question(flags=("unsafe",)))
    ask(store, made, ben=(first(flags=((), ("unsafe",))),))
    assert [marks(row) for row in rows(store, made, tmp_path, "safety")] == [(1.0, 0.0, 0, 0)]


def test_a_prompt_that_reads_as_a_transcript_stays_one_turn(store: CollectStore, tmp_path: Path):
    text = "\n\nHuman: a\n\nAssistant: b\n\nHuman: question 0"
    item = NewItem((Message("user", text),), pair(0).replies)
    made = project(store, Question(flags=("unsafe",)), item, people=1)
    say(store, made, "ann", {text: first()})
    rows(store, made, tmp_path, "safety")
    assert load_safety(config(tmp_path, "safety"), ByteTokenizer()).rows[0].prompt == (Message("user", text),)


@pytest.mark.parametrize(
    ("question", "filters", "words"),
    [
        (Question(), {}, "give the question the flag unsafe or harmful"),
        (Question(axes=AXES), {}, "give the question the flag unsafe or harmful"),
        (Question(kind="rate", axes=AXES[:1]), {}, "an axis with the key safety, harmlessness"),
        (Question(kind="rate", axes=AXES[1:]), {}, "an axis with the key helpfulness or helpful"),
        (Question(direction="more_harmful", flags=("unsafe",)), {}, "an axis with the key helpfulness"),
        (BOTH, {"axis": "safety"}, "leave `axis` out"),
        (BOTH, {"aggregate": "majority"}, "use aggregate all or first"),
        (Question(kind="rank", flags=("unsafe",)), {}, "has no place for answers to 'rank'"),
    ],
)
def test_what_is_lacking_is_said(
    store: CollectStore, tmp_path: Path, question: Question, filters: dict[str, Any], words: str
):
    made = project(store, question, pair(0))
    with pytest.raises(CollectError, match=words):
        rows(store, made, tmp_path, "safety", **filters)
