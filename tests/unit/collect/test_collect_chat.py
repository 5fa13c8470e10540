"""Conversations: each turn is a pair, and the chosen reply is what was said."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from collect_world import Clock, model, person
from thumbs.collect.errors import CollectError, NotFound
from thumbs.collect.question import Question
from thumbs.collect.store import CollectStore
from thumbs.records import Message, Reply


def write(messages: Sequence[Message], n: int, seed: int) -> list[Reply]:
    """Replies that tell what they answer."""
    return [Reply(f"{chr(97 + i)} to {messages[-1].content}", model("live", seed + i)) for i in range(n)]


def stutter(messages: Sequence[Message], n: int, seed: int) -> list[Reply]:
    return [Reply("yes", model("live", seed))] * n


@pytest.fixture
def ann(store: CollectStore) -> int:
    store.projects.create("talk", "Talk", Question(kind="chat"))
    return person(store, "ann")


def test_the_chosen_reply_goes_on(store: CollectStore, ann: int):
    project = store.projects.find("talk")
    assert store.work.claim(project.id, ann) == "your_turn"
    talk = store.chat.start(project.id, ann, goal="be polite")
    assert store.chat.current(project.id, ann) == talk
    task = store.chat.say(talk, ann, "hello", write)
    claimed = store.work.claim(project.id, ann)
    assert not isinstance(claimed, str)
    assert claimed.assignment == task.assignment
    with pytest.raises(CollectError, match="choose between"):
        store.chat.say(talk, ann, "more", write)
    b_is_left = task.replies[0].startswith("b")
    store.work.submit(task.assignment, ann, "key-turn-1", {"verdict": "prefer", "strength": -1 if b_is_left else 1})
    said = [("user", "hello"), ("assistant", "b to hello")]
    assert [(m.role, m.content) for m in store.chat.messages(talk, ann)] == said
    second = store.chat.say(talk, ann, "and then", write)
    assert [(m.role, m.content) for m in second.messages] == [*said, ("user", "and then")]
    store.work.submit(second.assignment, ann, "key-turn-2", {"verdict": "tie"})
    assert store.chat.messages(talk, ann)[-1].content == second.replies[0]
    store.chat.end(talk, ann, success=3)
    with pytest.raises(CollectError, match="is over"):
        store.chat.say(talk, ann, "still there", write)
    items = store.items.page(project.id)
    assert [item.chosen_by["turn"] for item in items] == [1, 2]
    assert {item.state for item in items} == {"done"}


def test_a_conversation_is_nobody_elses(store: CollectStore, ann: int, clock: Clock):
    project = store.projects.find("talk")
    talk = store.chat.start(project.id, ann)
    ben = person(store, "ben")
    for attempt in (
        lambda: store.chat.say(talk, ben, "hello", write),
        lambda: store.chat.messages(talk, ben),
        lambda: store.chat.end(talk, ben),
    ):
        with pytest.raises(NotFound):
            attempt()
    store.chat.say(talk, ann, "hello", write)
    assert store.work.claim(project.id, ben) == "your_turn"
    clock.forward(100_000)
    store.work.expire()
    assert store.work.claim(project.id, ben) == "your_turn"
    assert store.work.claim(project.id, ann) != "your_turn"


def test_a_model_that_has_one_reply_is_said_so(store: CollectStore, ann: int):
    talk = store.chat.start(store.projects.find("talk").id, ann)
    with pytest.raises(CollectError, match="raise its temperature"):
        store.chat.say(talk, ann, "hello", stutter)
    for text in ("", "  ", "x" * 20_001, "a\0"):
        with pytest.raises(CollectError, match="1 to 20000"):
            store.chat.say(talk, ann, text, write)
