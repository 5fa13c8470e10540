"""No key of a row is dropped in silence: each reader names one that it does not know; null is absent at any depth."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from thumbs.cli.main import app
from thumbs.collect.importing import question_for, read_items
from thumbs.collect.records import NewItem
from thumbs.compat.rlhf_pipeline import rows as compat
from thumbs.config.data import DataConfig
from thumbs.data.conversations import read_conversation
from thumbs.data.lint import lint
from thumbs.data.load import (
    load_conversations,
    load_pairs,
    load_preferences,
    load_prompts,
    load_rankings,
    load_ratings,
    load_replies,
    load_stepped_replies,
)
from thumbs.data.preferences import read_preference
from thumbs.data.prompts import read_prompt
from thumbs.data.rankings import read_ranking
from thumbs.data.ratings import read_rating, read_stepped_reply
from thumbs.data.replies import read_judged_reply
from thumbs.data.sources import RowError
from thumbs.data.tokenizers import ByteTokenizer
from thumbs.errors import DataError
from thumbs.records import Message

BYTES = ByteTokenizer()
Q, A = {"role": "user", "content": "Q"}, {"role": "assistant", "content": "a"}
MAKER = {"kind": "model", "name": "m", "checkpoint": "c", "sampling": {"temperature": 1.0}, "seed": 3}
REPLIES = [{"text": text, "generator": MAKER, "stop_reason": "stop"} for text in "ab"]
OWN = {
    "id": "p",
    "prompt": [Q],
    "replies": REPLIES,
    "judgements": [{"annotator": "x", "at": "t", "verdict": "prefer", "strength": -1, "reason": ""}],
    "margin": 0.5,
    "weight": 2.0,
}
ROWS: dict[str, tuple[Callable[[Any], Any], Callable[..., Any], dict[str, Any]]] = {
    "conversations": (read_conversation, load_conversations, {"messages": [Q, A]}),
    "prompt and completion": (read_conversation, load_conversations, {"prompt": "Q", "completion": "a"}),
    "preferences": (read_preference, load_preferences, {"prompt": [Q], "chosen": [A], "rejected": "b", "margin": 1.0}),
    "our own preferences": (read_preference, load_preferences, OWN),
    "rankings": (read_ranking, load_rankings, {"prompt": "Q", "replies": ["a", "b"], "ranks": [1, None]}),
    "judged rankings": (
        read_ranking,
        load_rankings,
        {"prompt": "Q", "replies": REPLIES, "judgements": [{"annotator": "x", "ranks": [2, 1]}]},
    ),
    "ratings": (read_rating, load_ratings, {"prompt": [Q], "reply": "a", "rating": 3.0}),
    "judged ratings": (
        read_rating,
        load_ratings,
        {"prompt": "Q", "reply": REPLIES[0], "judgements": [{"annotator": "x", "value": 3.0}]},
    ),
    "steps": (read_stepped_reply, load_stepped_replies, {"prompt": "Q", "steps": ["a", "b"], "labels": [1, None]}),
    "judged steps": (
        read_stepped_reply,
        load_stepped_replies,
        {"prompt": "Q", "steps": ["a"], "judgements": [{"annotator": "x", "labels": [0.5]}]},
    ),
    "replies": (read_judged_reply, load_replies, {"prompt": "Q", "completion": "a", "label": True}),
    "prompts": (read_prompt, load_prompts, {"prompt": [Q], "answer": "4"}),
}


def write(path: Path, *rows: Any) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def objects(value: Any, path: str = "") -> list[tuple[str, dict[str, Any]]]:
    """Every object in a row but free ones, with the path under which its keys are named."""
    if isinstance(value, list):
        return [found for item in value for found in objects(item, f"{path}[]")]
    if not isinstance(value, dict) or path.endswith("sampling"):
        return []
    inner = [found for key, item in value.items() for found in objects(item, f"{path}.{key}" if path else key)]
    return [(path, value), *inner]


@pytest.mark.parametrize("name", ROWS)
def test_every_reader_names_a_key_that_it_does_not_know(tmp_path: Path, name: str):
    _, load, row = ROWS[name]
    for number, (place, _) in enumerate(objects(row)):
        other = json.loads(json.dumps(row))
        objects(other)[number][1]["never_heard_of"] = 1
        loaded = load(DataConfig(path=write(tmp_path / "rows.jsonl", other, other)), BYTES)
        path = place.replace("reply.", "replies[].") if "generator" in place else place
        (told,) = loaded.ignored
        assert told.endswith("never_heard_of")
        assert told.rpartition(".")[0].split(".")[-1].removesuffix("[]") in (
            path.split(".")[-1].removesuffix("[]"),
            "replies",
        )
        assert loaded.ignored[told] == 2
        assert f"ignored keys: {told} (2 rows)" in loaded.summary()


@pytest.mark.parametrize("name", ROWS)
def test_null_is_absent_at_any_depth(name: str):
    read, _, row = ROWS[name]
    extra = dict.fromkeys(
        ("role", "from", "content", "value", "label", "system", "messages", "chosen", "text", "judgements")
    )
    other = json.loads(json.dumps(row))
    for _, place in objects(other):
        place.update({key: None for key in extra if key not in place})
    assert read(other) == read(row)
    assert read({**row, "conversations": [], "history": [], "images": [], "system": ""}) == read(row)


def test_parquet_fills_gaps_with_null(tmp_path: Path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    given = [
        {"messages": [{"role": "system", "content": "s"}, Q, A], "conversations": None},
        {"messages": None, "conversations": [{"from": "system", "value": "s"}, {"from": "human", "value": "Q"}]},
    ]
    given[1]["conversations"].append({"from": "gpt", "value": "a", "weight": None})  # type: ignore[union-attr]
    mixed = [
        {"messages": [{"role": None, "from": "system", "content": "s"}, {"role": "user", "from": None, "content": "Q"}]}
    ]
    mixed[0]["messages"].append({"role": None, "from": "gpt", "content": "a"})
    wanted = (Message("system", "s"), Message("user", "Q"), Message("assistant", "a"))
    for number, rows in enumerate((given, mixed)):
        path = tmp_path / f"{number}.parquet"
        pq.write_table(pa.Table.from_pylist(rows), path)
        loaded = load_conversations(DataConfig(path=str(path)), BYTES)
        assert loaded.rows == [wanted] * len(rows)


@pytest.mark.parametrize(
    ("kind", "row"),
    [
        ("preferences", {"prompt": "Q", "chosen": "a", "rejected": "b"}),
        ("prompts", {"prompt": "Q"}),
        ("rankings", {"prompt": "Q", "ranking": ["a", "b"]}),
        ("ratings", {"prompt": "Q", "reply": "a", "rating": 1}),
        ("replies", {"prompt": "Q", "completion": "a", "label": True}),
        ("conversations", {"messages": [Q, A]}),
    ],
)
def test_collect_names_them_too(tmp_path: Path, kind: Any, row: dict[str, Any]):
    ignored: Counter[str] = Counter()
    path = write(tmp_path / "rows.jsonl", {**row, "never_heard_of": 1, "system": "Be kind."})
    (item,) = read_items(path, question_for(kind), source="mine", ignored=ignored)
    assert isinstance(item, NewItem)
    assert ignored == {"never_heard_of": 1}
    assert item.messages == (Message("system", "Be kind."), Message("user", "Q"))


def test_items_of_our_own_name_them_too(tmp_path: Path):
    ignored: Counter[str] = Counter()
    row = {"prompt": "Q", "replies": ["a", "b"], "priority": 2, "gold": None, "never_heard_of": 1}
    (item,) = read_items(
        write(tmp_path / "rows.jsonl", row), question_for("preferences"), source="mine", ignored=ignored
    )
    assert isinstance(item, NewItem)
    assert ignored == {"never_heard_of": 1}


def test_a_comparison_is_never_a_writing_task(tmp_path: Path):
    row = {"prompt": "Q", "response_0": "a", "response_1": "b", "better_response_id": 1, "safer_response_id": 0}
    (item,) = read_items(write(tmp_path / "rows.jsonl", row), question_for("preferences"), source="mine")
    assert isinstance(item, NewItem)
    assert [reply.text for reply in item.replies] == ["a", "b"]
    renamed = {"prompt": "Q", "option_1_response": "a", "response_a": "b", "winner": "b"}
    (problem,) = read_items(write(tmp_path / "rows.jsonl", renamed), question_for("prompts"), source="mine")
    assert "would count too" in str(problem)


def test_the_pipeline_api_names_them_too(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    caplog.set_level("INFO")
    path = write(tmp_path / "rows.jsonl", {"question": "Q", "answer": "a", "never_heard_of": 1})
    assert len(compat.load_conversations(path, BYTES, 64)) == 1
    path = write(tmp_path / "pairs.jsonl", {"prompt": "Q", "chosen": "a", "rejected": "b", "never_heard_of": 1})
    assert len(compat.load_pairs(path, BYTES, 64)) == 1
    path = write(tmp_path / "prompts.jsonl", {"prompt": "Q", "never_heard_of": 1})
    assert len(compat.load_prompts(path, BYTES, 64)[0]) == 1
    assert caplog.text.count("ignored keys: never_heard_of (1 row)") == 3


SYSTEM = (Message("system", "Be brief."), Message("user", "Q"))


@pytest.mark.parametrize("key", ["system", "system_prompt", "systemPrompt", "system_message"])
@pytest.mark.parametrize("name", [name for name in ROWS if name != "our own preferences"])
def test_a_system_column_is_heeded_next_to_every_shape(name: str, key: str):
    read, _, row = ROWS[name]
    found = read({key: "Be brief.", **row})
    messages = found if isinstance(found, tuple) else getattr(found, "prompt", None) or found.messages
    assert messages[:2] == SYSTEM


def test_a_system_column_that_differs_from_the_messages_is_refused():
    row = {"system": "Be brief.", "messages": [{"role": "system", "content": "Be long."}, Q, A]}
    with pytest.raises(RowError, match="which have another one"):
        read_conversation(row)


HH = "\n\nHuman: Tell me a fact.\n\nAssistant:"
FACT = [{"role": "user", "content": "Tell me a fact."}]


@pytest.mark.parametrize("prompt", ["Tell me a fact.", HH, FACT])
@pytest.mark.parametrize(
    "whole",
    [
        lambda reply: f"{HH} {reply}",
        lambda reply: [*FACT, {"role": "assistant", "content": reply}],
        lambda reply: f"Tell me a fact.\n{reply}",
        lambda reply: reply,
    ],
)
def test_a_prompt_that_the_replies_repeat_is_taken_off(prompt: Any, whole: Any):
    row = {"prompt": prompt, "chosen": whole("Rice is a grass."), "rejected": whole("No.")}
    pair = read_preference(row)
    assert pair.prompt == (Message("user", "Tell me a fact."),)
    assert [reply.text for reply in pair.replies] == ["Rice is a grass.", "No."]
    assert read_conversation(row) == (*pair.prompt, Message("assistant", "Rice is a grass."))
    alone = read_conversation({"prompt": prompt, "completion": whole("Rice is a grass.")})
    assert alone == (*pair.prompt, Message("assistant", "Rice is a grass."))


def test_what_begins_alike_by_chance_stays_with_a_remark(tmp_path: Path):
    pair = read_preference({"prompt": "Hi", "chosen": "Hi! How are you?", "rejected": "Hi."})
    assert [reply.text for reply in pair.replies] == ["Hi! How are you?", "Hi."]
    other = {"prompt": FACT, "chosen": "\n\nHuman: Another one.\n\nAssistant: x", "rejected": "y"}
    with pytest.raises(RowError, match="the prompt of the row is not in it"):
        read_preference(other)
    row = {"prompt": "Once upon a time", "completion": "Once upon a time there was rice."}
    report = lint(write(tmp_path / "rows.jsonl", row))
    assert (report.rows_left, report.counts) == (1, {"repeated_prompt": 1})


def test_lint_names_what_is_odd(tmp_path: Path):
    rows = [
        {"messages": [Q, Q, A]},
        {"messages": [{"role": "user", "content": "Is 1 &lt; 2?"}, A]},
        {"messages": [Q, A]},
        {"messages": [Q, A]},
    ]
    report = lint(write(tmp_path / "rows.jsonl", *rows))
    assert report.rows_left == 4
    assert report.counts == {"same_role_twice": 1, "html_entities": 1, "duplicate": 1}


def test_lint_takes_a_limit_on_the_command_line(tmp_path: Path):
    path = write(tmp_path / "rows.jsonl", {"prompt": "Q", "completion": "a" * 99}, {"prompt": "Q", "completion": "a"})
    result = CliRunner().invoke(app, ["lint", path, "--max-tokens", "20"])
    assert result.exit_code == 0
    assert "1 of 2 rows usable" in result.output
    assert "too_long: 1" in result.output


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.json", '{"data": [{"prompt": "a"}, {"prompt": "b"}]}', "one object whose 'data' holds the 2 rows"),
        ("a.json", '{\n "train": [\n  {"prompt": "a"}\n ]\n}', "one object whose 'train' holds the 1 rows"),
        ("a.jsonl", '[\n {"prompt": "a"}\n]', "one list of 1 objects; name the file .json"),
        ("a.jsonl", '[{"prompt": "a"}, {"prompt": "b"}]', "one list of 2 objects; name the file .json"),
        ("a.json", '{\n "prompt": "a"\n}', "one object over several lines"),
        ("a.jsonl", '{\n "prompt": "a"\n}\n{\n "prompt": "b"\n}', "JSON values over several lines"),
    ],
)
def test_a_file_in_another_layout_gets_one_message(tmp_path: Path, name: str, text: str, says: str):
    (tmp_path / name).write_text(text, encoding="utf-8")
    report = lint(tmp_path / name)
    assert report.counts == {"unreadable": 1}
    assert says in report.text()
    with pytest.raises(DataError, match=says):
        load_prompts(DataConfig(path=str(tmp_path / name)), BYTES)


def test_an_empty_file_says_so(tmp_path: Path):
    for text in ("", "\n\n"):
        (tmp_path / "a.jsonl").write_text(text)
        assert "the file is empty" in lint(tmp_path / "a.jsonl").text()
        with pytest.raises(DataError, match="the file is empty"):
            load_prompts(DataConfig(path=str(tmp_path / "a.jsonl")), BYTES)


def test_an_axis_that_no_row_has_is_an_error(tmp_path: Path):
    path = write(tmp_path / "rows.jsonl", {"prompt": "Q", "chosen": "a", "rejected": "b"})
    with pytest.raises(DataError, match="axis 'safety' is given, and no row has several judgements"):
        load_preferences(DataConfig(path=path, axis="safety"), BYTES)


def test_two_answers_to_one_prompt_are_a_fault(tmp_path: Path):
    path = write(tmp_path / "rows.jsonl", {"prompt": "Q", "answer": 4}, {"prompt": "Q", "answer": 5})
    loaded = load_prompts(DataConfig(path=path, min_kept=0), BYTES)
    assert [(row.answer, len(loaded.rows)) for row in loaded.rows] == [("4", 1)]
    assert "with another answer" in loaded.summary()


def test_rows_keep_apart_whatever_their_ids_say(tmp_path: Path):
    rows = [
        {"id": i % 2, "prompt": "Q", "reply": reply, "rating": rating}
        for i, (reply, rating) in enumerate((("a", 1), ("b", 2), ("c", 3), ("a", 1)))
    ]
    pairs = load_pairs(DataConfig(path=write(tmp_path / "rows.jsonl", *rows)), "ratings", BYTES)
    assert len(pairs.rows) == 5  # of six pairs of four ratings, one is of a reply with itself
    assert len({pair.id for pair in pairs.rows}) == 5
    ranked = [
        {"id": 1, "prompt": "Q", "ranking": order} for order in (["a", "b", "c"], ["b", "a", "c"], ["a", "b", "c"])
    ]
    pairs = load_pairs(DataConfig(path=write(tmp_path / "rows.jsonl", *ranked)), "rankings", BYTES)
    assert len({pair.id for pair in pairs.rows}) == len(pairs.rows) == 9
