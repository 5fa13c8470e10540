"""Files and lines as items: what becomes of each form, its labels, its faults, and of replies that name themselves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from thumbs.collect.errors import CollectError
from thumbs.collect.importing import QUALITY, leaks, question_for, read_items
from thumbs.collect.question import Question
from thumbs.collect.records import Answer, NewItem
from thumbs.collect.store import CollectStore
from thumbs.data.lint import detect_kind
from thumbs.data.sources import Problem
from thumbs.records import Generator, Message, Reply

PAIR = Question(kind="pair")
FILE = Generator("file", "mine")
ASKED = (Message("user", "Hi?"),)


def one(row: Any, question: Question = PAIR) -> NewItem:
    (item,) = read_items([json.dumps(row)], question, source="mine")
    assert isinstance(item, NewItem), str(item)
    return item


def fault(row: Any, question: Question = PAIR) -> Problem:
    (found,) = read_items([row if isinstance(row, str | bytes) else json.dumps(row)], question, source="mine")
    assert isinstance(found, Problem), found
    return found


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ({"prompt": "Hi?", "chosen": "a", "rejected": "b"}, "preferences"),
        ({"chosen": "\n\nHuman: Hi?\n\nAssistant: a", "rejected": "\n\nHuman: Hi?\n\nAssistant: b"}, "preferences"),
        ({"prompt": "Hi?", "ranking": ["a", "b"]}, "rankings"),
        ({"prompt": "Hi?", "replies": ["a", "b"], "best": 1}, "rankings"),
        ({"prompt": "Hi?", "reply": "a", "rating": 4}, "ratings"),
        ({"prompt": "Hi?", "completion": "a", "label": True}, "replies"),
        ({"messages": [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "a"}]}, "conversations"),
        ({"instruction": "Hi?"}, "prompts"),
    ],
)
def test_every_kind_of_file_has_its_task(tmp_path: Path, row: dict[str, Any], kind: str):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    assert detect_kind(path) == kind
    question = question_for(detect_kind(path))
    (item,) = read_items(path, question, source="mine")
    assert isinstance(item, NewItem), str(item)
    assert item.messages == ASKED
    assert [reply.text for reply in item.replies] == {"pair": ["a", "b"], "rank": ["a", "b"], "write": []}.get(
        question.kind, ["a"]
    )
    assert all(reply.generator == FILE for reply in item.replies)
    assert (item.role, item.chosen_by["policy"], item.chosen_by["source"]) == ("work", "file", "mine")


def test_labels_of_a_file_are_kept_and_are_nobodys_judgement():
    item = one({"id": "x7", "prompt": "Hi?", "chosen": "a", "rejected": "b", "label": 0})
    said = {"annotator": "mine", "at": "", "verdict": "prefer", "strength": 1, "reason": ""}
    assert (item.name, item.gold, item.chosen_by["labels"]) == ("x7", None, [said])
    ranked = one({"prompt": "Hi?", "replies": ["a", "b", "c"], "ranks": [2, 1, None]}, Question(kind="rank"))
    assert ranked.chosen_by["labels"][0]["ranks"] == (2, 1, None)
    rated = one({"prompt": "Hi?", "completion": "a", "label": "bad"}, question_for("ratings"))
    assert rated.chosen_by["labels"] == [{"desirable": False}]


def test_replies_of_our_own_format_keep_who_wrote_them():
    maker = {"kind": "model", "name": "m", "checkpoint": "runs/x/ppo", "sampling": {"temperature": 1.0}, "seed": 3}
    replies = [{"text": "a", "generator": maker, "stop_reason": "length"}, {"text": "b", "generator": maker}]
    ours = {"id": "i", "prompt": [{"role": "user", "content": "Hi?"}], "replies": replies, "judgements": []}
    written = Generator("model", "m", "runs/x/ppo", {"temperature": 1.0}, 3)
    assert one(ours).replies == (Reply("a", written, "length"), Reply("b", written))


def test_a_line_may_say_how_it_is_to_be_judged():
    row = {
        "prompt": "Hi?",
        "replies": ["a", "b"],
        "name": "n",
        "priority": 2,
        "target": 3,
        "chosen_by": {"policy": "x"},
    }
    assert one(row) == NewItem(
        ASKED, (Reply("a", FILE), Reply("b", FILE)), name="n", priority=2.0, target=3, chosen_by={"policy": "x"}
    )
    gold = one({"prompt": "Hi?", "replies": ["a", "b"], "gold": {"verdict": "prefer", "strength": -3}})
    assert (gold.role, gold.gold) == ("gold", Answer("prefer", -3))
    tested = one({**row, "role": "qualification", "gold": {"verdict": "tie"}})
    assert (tested.role, tested.gold) == ("qualification", Answer("tie"))


def test_rewrites_are_of_the_last_reply_and_prompts_are_written_to():
    row = {"conversations": [{"from": "human", "value": "Hi?"}, {"from": "gpt", "value": "Ho."}]}
    item = one(row, Question(kind="rewrite"))
    assert (item.messages, item.replies) == (ASKED, (Reply("Ho.", FILE),))
    assert one("Hi?", Question(kind="write")).replies == ()
    row["conversations"] += [{"from": "human", "value": "Sure?"}, {"from": "gpt", "value": "Yes.", "weight": 0}]
    assert "weight 0" in fault(row, Question(kind="rewrite")).text


def test_a_text_file_of_prompts_is_work_for_writers(tmp_path: Path):
    path = tmp_path / "prompts.txt"
    path.write_text("Hi?\n\nWhy?\n", encoding="utf-8")
    found = list(read_items(path, Question(kind="write"), source="mine"))  # a blank line is not a fault
    assert [item.messages[0].content for item in found if isinstance(item, NewItem)] == ["Hi?", "Why?"]
    assert len(found) == 2


@pytest.mark.parametrize(
    ("row", "question", "kind", "says"),
    [
        (b"\xff", PAIR, "bad_text", "not UTF-8"),
        ("{", PAIR, "bad_json", "Expecting"),
        ('{"prompt": NaN}', PAIR, "bad_json", "NaN is not JSON"),
        ({"prompt": "Hi?", "chosen": "a"}, PAIR, "missing_field", "'rejected'"),
        ({"prompt": "Hi?", "replies": "ab"}, PAIR, "missing_field", "must be a list"),
        ({"prompt": "Hi?", "replies": [{"text": "a"}, "b"]}, PAIR, "missing_field", "'generator'"),
        ({"replies": ["a", "b"]}, PAIR, "missing_field", "no 'prompt'"),
        ({"prompt": "Hi?", "replies": ["a", "b"], "target": 0}, PAIR, "bad_label", "1 to 100"),
        ({"prompt": "Hi?", "replies": ["a", "b"], "priority": "high"}, PAIR, "bad_label", "finite number"),
        ({"prompt": "Hi?", "replies": ["a", "b"], "role": "boss"}, PAIR, "bad_label", "attention"),
        ({"prompt": "Hi?", "replies": ["a", "b"], "role": "gold"}, PAIR, "bad_label", "a 'gold' answer"),
        ({"prompt": "Hi?", "replies": ["a", "b"], "gold": {"verdict": "rank"}}, PAIR, "bad_label", "/verdict"),
        ({"prompt": "Hi?", "replies": ["a", "b"], "gold": 7}, PAIR, "not_an_object", "'gold'"),
        ({"prompt": "Hi?", "replies": ["a", "b"], "chosen_by": [1]}, PAIR, "not_an_object", "'chosen_by'"),
        ({"prompt": "Hi?"}, Question(kind="rewrite"), "missing_field", "a row needs"),
        ([1], Question(kind="rank"), "not_an_object", "list"),
    ],
)
def test_a_fault_is_told_with_its_line(row: Any, question: Question, kind: str, says: str):
    found = fault(row, question)
    assert (found.source, found.line, found.kind) == ("mine", 1, kind)
    assert says in found.text


@pytest.mark.parametrize(
    ("part", "says"),
    [
        ({"sampling": "warm"}, "wrong shape"),
        ({"kind": "oracle"}, "model, human, file"),
        ({"name": None}, "has no 'name'"),
    ],
)
def test_a_generator_must_be_one(part: dict[str, Any], says: str):
    replies = ["a", {"text": "b", "generator": {"kind": "model", "name": "m", **part}}]
    assert says in fault({"prompt": "Hi?", "replies": replies}).text


def test_one_bad_line_hides_no_other(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    good = json.dumps({"prompt": "Hi?", "chosen": "a", "rejected": "b"})
    path.write_text(f"{good}\n{{\n{good}\n", encoding="utf-8")
    found = list(read_items(path, PAIR, source="mine"))
    assert [isinstance(item, NewItem) for item in found] == [True, False, True]
    assert str(found[1]).startswith(f"{path}:2: bad_json")


def test_some_files_have_no_task():
    with pytest.raises(CollectError, match="no task for a file of steps"):
        question_for("steps")
    with pytest.raises(CollectError, match="as people talk"):
        list(read_items(["{}"], Question(kind="chat"), source="mine"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("I'm Claude, and I can help.", "I'm Claude"),
        ("Hello! I am ChatGPT.", "I am ChatGPT"),
        ("As an AI language model developed by OpenAI, I cannot.", "AI language model developed by OpenAI"),
        ("As a large language model, trained by Initech, no.", "As a large language model, trained by Initech"),
        ("I was created by Anthropic.", "I was created by Anthropic"),
        ("My name is SmolLM-135M!", "My name is SmolLM"),
        ("The smollm-135m answer is 4.", "smollm-135m"),
        ("Claude Monet painted it. It was trained by ear.", None),
        ("The Chromebook is made by Google.", None),
        ("As an AI language model, I cannot.", None),
        ("Alpacas and llamas are kept in Peru.", None),
    ],
)
def test_replies_that_say_who_wrote_them_are_noted(text: str, words: str | None):
    told = leaks([Reply("fine", FILE), Reply(text, Generator("model", "hub/SmolLM-135M"))])
    assert [slot for slot, _ in told] == ([1] if words else [])
    assert words is None or words.lower() in told[0][1].lower()
    item = one({"prompt": "Hi?", "replies": ["fine", text]})
    assert ("leaks" in item.chosen_by) == (words is not None and "smollm-135m answer" not in text)


def test_short_or_common_names_are_no_leaks():
    assert leaks([Reply("the base of it", Generator("model", "base")), Reply("ppo", Generator("model", "ppo"))]) == []


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_what_is_read_can_be_added_and_comes_but_once(store: CollectStore):
    question = Question(kind="rate", axes=(QUALITY,))
    project = store.projects.create("mine", "Mine", question)
    rows = [json.dumps({"prompt": "Hi?", "reply": text, "rating": 3}) for text in ("a", "b", "a")]
    items = [item for item in read_items(rows, question, source="mine") if isinstance(item, NewItem)]
    assert (store.items.add(project.id, items).created, store.items.add(project.id, items).created) == (2, 0)
