"""Rankings, ratings and labelled steps in every shape, the pairs in them, and what is refused with file and line."""

import json
from typing import Any

import pytest

from thumbs.config.data import DataConfig
from thumbs.data.lint import detect_kind, lint
from thumbs.data.load import load_pairs, load_rankings, load_ratings, load_stepped_replies
from thumbs.data.preferences import preferred
from thumbs.data.rankings import pairs_of, read_ranking
from thumbs.data.ratings import mean_rating, pairs_of_ratings, read_rating, read_stepped_reply
from thumbs.data.sources import RowError
from thumbs.data.tokenizers import ByteTokenizer
from thumbs.errors import DataError
from thumbs.records import Message

OWN = {"text": "a", "generator": {"kind": "model", "name": "m"}, "stop_reason": "length"}


def texts(row):
    return [reply.text for reply in row.replies]


def test_a_ranking_is_a_list_from_best_to_worst_or_replies_with_ranks():
    listed = read_ranking({"prompt": "Q", "ranking": ["a", "b", "c"]}, source="set")
    assert listed.prompt == (Message("user", "Q"),)
    assert (texts(listed), listed.judgements[0].ranks, listed.judgements[0].annotator) == (
        ["a", "b", "c"],
        (1, 2, 3),
        "set",
    )
    ranked = read_ranking({"prompt": "Q", "replies": ["a", "b", "c"], "ranks": [2, 1, 2]})
    assert ranked.judgements[0].ranks == (2, 1, 2)
    assert listed.id == ranked.id  # it names prompt and replies
    best = read_ranking({"prompt": "Q", "replies": ["a", "b", "c"], "best": 1})
    assert best.judgements[0].ranks == (None, 1, None)


def test_several_annotators_keep_their_rankings():
    judgements = [
        {"annotator": "ana", "at": "2026-01-31", "ranks": [1, 2], "reason": "clear"},
        {"annotator": "ben", "ranks": [1, 1]},
    ]
    row = read_ranking({"id": 7, "prompt": "Q", "replies": [OWN, "b"], "judgements": judgements})
    assert row.id == "7"
    assert row.replies[0].stop_reason == "length"
    assert [(j.annotator, j.at, j.ranks) for j in row.judgements] == [
        ("ana", "2026-01-31", (1, 2)),
        ("ben", "", (1, 1)),
    ]


def test_the_pairs_of_a_ranking():
    row = read_ranking(
        {
            "prompt": "Q",
            "replies": ["a", "b", "c"],
            "judgements": [{"annotator": "x", "ranks": [2, 1, 2]}, {"annotator": "y", "ranks": [None, 1, None]}],
        }
    )
    ab, ac, bc = pairs_of(row)
    assert [reply.text for reply in ac.replies] == ["a", "c"]
    assert [j.verdict for j in ac.judgements] == ["tie", "skip"]
    assert (preferred(ab), preferred(ac), preferred(bc)) == (0.0, 0.5, 1.0)
    assert len({pair.id for pair in (ab, ac, bc)}) == 3


@pytest.mark.parametrize(
    ("row", "kind", "says"),
    [
        ([], "not_an_object", "list"),
        ({"ranking": ["a", "b"]}, "missing_field", "prompt"),
        ({"prompt": "Q"}, "missing_field", "ranking"),
        ({"prompt": "Q", "ranking": ["a"]}, "missing_field", "two replies"),
        ({"prompt": "Q", "ranking": ["a", " "]}, "empty_reply", "reply 1"),
        ({"prompt": "Q", "ranking": ["a", "a "]}, "identical_replies", "same"),
        ({"prompt": "Q", "replies": ["a", "b"]}, "missing_field", "'ranks'"),
        ({"prompt": "Q", "replies": ["a", "b"], "ranks": [1]}, "bad_label", "2 numbers"),
        ({"prompt": "Q", "replies": ["a", "b"], "ranks": [1, 0]}, "bad_label", "from 1"),
        ({"prompt": "Q", "replies": ["a", "b"], "ranks": [1, True]}, "bad_label", "from 1"),
        ({"prompt": "Q", "replies": ["a", "b"], "ranks": [None, None]}, "bad_label", "no reply"),
        ({"prompt": "Q", "replies": ["a", "b"], "best": 2}, "bad_label", "0 to 1"),
        ({"prompt": "Q", "replies": list("abcdefghi"), "ranks": [1] * 9}, "bad_label", "9 replies share a rank"),
        ({"prompt": "Q", "replies": ["a", "b"], "judgements": [{"ranks": [1, 2]}]}, "missing_field", "annotator"),
        ({"prompt": "Q", "replies": [{"text": "a"}, "b"], "best": 0}, "missing_field", "generator"),
    ],
)
def test_what_is_no_ranking_is_refused(row: Any, kind: str, says: str):
    with pytest.raises(RowError, match=says) as caught:
        read_ranking(row)
    assert caught.value.kind == kind


def test_ratings_of_one_or_several_annotators():
    assert mean_rating(read_rating({"prompt": "Q", "response": "a", "rating": 4})) == 4.0
    several = read_rating({"prompt": "Q", "reply": "a", "ratings": [3, 4.5]}, source="set")
    assert [(j.annotator, j.value) for j in several.judgements] == [("set-1", 3.0), ("set-2", 4.5)]
    own = {"prompt": "Q", "reply": OWN, "judgements": [{"annotator": "ana", "value": -1}]}
    assert [(j.annotator, j.value) for j in read_rating(own).judgements] == [("ana", -1.0)]


def test_pairs_of_ratings_are_those_of_one_prompt():
    rows = [("P", "a", 2), ("P", "b", 5), ("Q", "a", 1), ("P", "c", 2), ("P", "a", 4)]
    pairs = pairs_of_ratings([read_rating({"prompt": p, "reply": r, "rating": n}) for p, r, n in rows])
    found = {tuple(reply.text for reply in pair.replies): preferred(pair) for pair in pairs if pair.id}
    assert found == {("a", "b"): 0.0, ("a", "c"): 0.5, ("b", "c"): 1.0, ("b", "a"): 1.0, ("c", "a"): 0.0}


def test_steps_make_the_reply_with_a_line_break_where_there_is_none():
    row = read_stepped_reply({"prompt": "Q", "steps": [" one", "two\n\n", "three"], "labels": [True, 0.25, None]})
    assert row.steps == ("one\n", "two\n\n", "three")
    assert row.reply.text == "one\ntwo\n\nthree"
    assert row.judgements[0].labels == (1.0, 0.25, None)
    assert read_stepped_reply({"prompt": "Q", "completions": ["x"], "labels": [False]}).judgements[0].labels == (0.0,)


@pytest.mark.parametrize(
    ("read", "row", "says"),
    [
        (read_rating, {"prompt": "Q", "rating": 1}, "'reply'"),
        (read_rating, {"prompt": "Q", "reply": "a"}, "its 'rating'"),
        (read_rating, {"prompt": "Q", "reply": "a", "rating": "5"}, "finite number"),
        (read_rating, {"prompt": "Q", "reply": "a", "ratings": 4}, "list of numbers"),
        (read_rating, {"prompt": "Q", "reply": " ", "rating": 1}, "empty reply"),
        (read_stepped_reply, {"prompt": "Q", "labels": [1]}, "list of 'steps'"),
        (read_stepped_reply, {"prompt": "Q", "steps": ["a"], "labels": [1, 0]}, "list of 1"),
        (read_stepped_reply, {"prompt": "Q", "steps": ["a", " "], "labels": [1, 0]}, "empty step"),
        (read_stepped_reply, {"prompt": "Q", "steps": ["a"], "labels": [2]}, "from 0"),
        (read_stepped_reply, {"prompt": "Q", "steps": ["a"], "labels": [None]}, "no step has a label"),
    ],
)
def test_what_is_no_rating_is_refused(read: Any, row: Any, says: str):
    with pytest.raises(RowError, match=says):
        read(row)


@pytest.fixture
def files(tmp_path):
    rows = {
        "rankings": [{"prompt": "Q", "ranking": ["a", "b", "c"]}, {"prompt": "Q", "ranking": ["a"]}],
        "ratings": [{"prompt": "Q", "reply": "a", "rating": 1}, {"prompt": "Q", "reply": "b", "rating": 2}],
        "steps": [{"prompt": "Q", "steps": ["a", "b"], "labels": [1, 0]}],
    }
    for name, values in rows.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(v) + "\n" for v in values), encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("kind", ["rankings", "ratings", "steps"])
def test_lint_knows_them_by_their_keys(files, kind):
    assert detect_kind(files / f"{kind}.jsonl") == kind
    assert lint(files / f"{kind}.jsonl").rows_left == (1 if kind != "ratings" else 2)


def test_loading_names_file_and_line_and_adds_the_system_message(files):
    config = DataConfig(path=str(files / "rankings.jsonl"))
    loaded = load_rankings(config, ByteTokenizer(), "Be kind.")
    assert [m.role for m in loaded.rows[0].prompt] == ["system", "user"]
    assert "rankings.jsonl:2: missing_field: a ranking needs two replies or more, got 1" in loaded.summary()
    assert load_ratings(DataConfig(path=str(files / "ratings.jsonl")), ByteTokenizer()).total == 2
    assert load_stepped_replies(DataConfig(path=str(files / "steps.jsonl")), ByteTokenizer()).rows[0].steps == (
        "a\n",
        "b",
    )


def test_stages_that_need_pairs_take_those_of_rankings_and_ratings(files):
    pairs = load_pairs(DataConfig(path=str(files / "rankings.jsonl")), "rankings", ByteTokenizer())
    assert (len(pairs.rows), len(pairs.lengths), pairs.total) == (3, 3, 2)
    rated = load_pairs(DataConfig(path=str(files / "ratings.jsonl")), "ratings", ByteTokenizer())
    assert [preferred(pair) for pair in rated.rows] == [0.0]
    (files / "alone.jsonl").write_text('{"prompt": "Q", "reply": "a", "rating": 1}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"alone\.jsonl: no two replies to one prompt are rated"):
        load_pairs(DataConfig(path=str(files / "alone.jsonl")), "ratings", ByteTokenizer())
