"""Pairs in every shape, our own format there and back, and a store that a kill cannot break."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thumbs.data.preferences import (
    PreferenceStore,
    preference_from_json,
    preference_to_json,
    preferred,
    read_preference,
)
from thumbs.data.sources import RowError
from thumbs.errors import DataError
from thumbs.records import Generator, Judgement, Message, Preference, Reply

Q = {"role": "user", "content": "Q"}
GOOD, BAD = "good", "bad"
ASSISTANT = {name: {"role": "assistant", "content": name} for name in (GOOD, BAD)}
HH = "\n\nHuman: Q\n\nAssistant: "

SHAPES = {
    "strings": {"prompt": "Q", "chosen": GOOD, "rejected": BAD},
    "prompt messages, reply texts": {"prompt": [Q], "chosen": GOOD, "rejected": BAD},
    "messages": {"prompt": [Q], "chosen": [ASSISTANT[GOOD]], "rejected": [ASSISTANT[BAD]]},
    "whole conversations": {"chosen": [Q, ASSISTANT[GOOD]], "rejected": [Q, ASSISTANT[BAD]]},
    "prompt and whole": {"prompt": "Q", "chosen": [Q, ASSISTANT[GOOD]], "rejected": [Q, ASSISTANT[BAD]]},
    "transcripts": {"chosen": HH + GOOD, "rejected": HH + BAD},
    "transcript prompt": {"prompt": HH, "chosen": " good", "rejected": " bad"},
    "nulls": {"prompt": "Q", "chosen": GOOD, "rejected": BAD, "margin": None, "label": None, "id": None},
}


@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_is_the_same_pair(name):
    preference = read_preference(SHAPES[name], source="set")
    assert preference.prompt == (Message("user", "Q"),)
    assert [reply.text.strip() for reply in preference.replies] == [GOOD, BAD]
    assert preference.judgements == (Judgement("set", "", "prefer", strength=-1),)
    assert all(reply.generator == Generator("file", "set") for reply in preference.replies)
    assert preferred(preference) == 1.0


def test_multi_turn_transcripts_part_at_the_last_assistant_turn():
    start = "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: "
    preference = read_preference({"chosen": start + "x", "rejected": start + "y"})
    assert [message.content for message in preference.prompt] == ["a", "b", "c"]
    assert [reply.text for reply in preference.replies] == ["x", "y"]


@pytest.mark.parametrize(
    ("extra", "first_better"),
    [
        ({"label": 1}, 1.0),
        ({"label": "chosen"}, 1.0),
        ({"label": 0}, 0.0),
        ({"label": "rejected"}, 0.0),
        ({"label": 0.5}, 0.5),
        ({"label": "tie"}, 0.5),
        ({"tie": True}, 0.5),
        ({"tie": False}, 1.0),
    ],
)
def test_labels_and_ties(extra, first_better):
    assert preferred(read_preference({**SHAPES["strings"], **extra})) == first_better


def test_margin_and_id():
    row = {**SHAPES["strings"], "margin": 2, "id": 17}
    assert read_preference(row).margin == 2.0
    assert read_preference(row).weight == 1.0
    assert read_preference({**row, "weight": 0.25}).weight == 0.25
    assert read_preference(row).id == "17"
    same, other = (
        read_preference(SHAPES["messages"]),
        read_preference({**SHAPES["messages"], "rejected": "b"}),
    )
    assert read_preference(SHAPES["strings"]).id == same.id != other.id


BASE = SHAPES["strings"]
FAULTS = [
    ([], "not_an_object"),
    ({"prompt": "Q", "chosen": "a"}, "missing_field"),
    ({**BASE, "rejected": " good "}, "identical_replies"),
    ({**BASE, "rejected": "\n"}, "empty_reply"),
    ({**BASE, "prompt": " "}, "empty_prompt"),
    ({**BASE, "prompt": [ASSISTANT[GOOD]]}, "no_user_turn"),
    ({**BASE, "prompt": [Q, ASSISTANT[GOOD]]}, "no_user_turn"),
    ({"chosen": HH + "a", "rejected": "\n\nHuman: other\n\nAssistant: b"}, "different_prompts"),
    ({"chosen": HH + "a\n\nHuman: x", "rejected": HH + "b"}, "no_assistant_turn"),
    ({"chosen": "a", "rejected": "b"}, "missing_field"),
    ({**BASE, "label": 2}, "bad_label"),
    ({**BASE, "label": ["tie"]}, "bad_label"),
    ({**BASE, "margin": "big"}, "bad_label"),
    ({**BASE, "weight": -0.5}, "bad_label"),
    ({**BASE, "weight": "much"}, "bad_label"),
    ({**BASE, "margin": 10**400}, "bad_label"),
    ({**BASE, "margin": float("nan")}, "bad_label"),
    ({**BASE, "id": "\ud800"}, "bad_text"),
    ({"prompt": "Q", "replies": 3, "judgements": [{"verdict": "tie"}]}, "not_an_object"),
    ({"replies": []}, "missing_field"),
]


@pytest.mark.parametrize(("value", "kind"), FAULTS)
def test_every_fault_has_its_name(value, kind):
    with pytest.raises(RowError) as caught:
        read_preference(value)
    assert caught.value.kind == kind


TEXT = st.text(max_size=12)
STRENGTHS = st.sampled_from([-4, -3, -2, -1, 1, 2, 3, 4])
JUDGEMENTS = st.one_of(
    st.builds(Judgement, TEXT, TEXT, st.just("prefer"), STRENGTHS, TEXT),
    st.builds(Judgement, TEXT, TEXT, st.sampled_from(["tie", "both_bad", "skip"]), st.just(0), TEXT),
)
SAMPLING = st.dictionaries(TEXT, st.integers() | TEXT | st.floats(allow_nan=False) | st.booleans(), max_size=2)
KINDS = st.sampled_from(["model", "human", "file"])
GENERATORS = st.builds(Generator, KINDS, TEXT, TEXT, SAMPLING, st.none() | st.integers())
REPLIES = st.builds(Reply, TEXT, GENERATORS, st.sampled_from(["stop", "length"]))
MESSAGES = st.lists(st.builds(Message, st.sampled_from(["system", "user", "assistant"]), TEXT), min_size=1, max_size=3)
PREFERENCES = st.builds(
    Preference,
    id=TEXT,
    prompt=MESSAGES.map(tuple),
    replies=st.tuples(REPLIES, REPLIES),
    judgements=st.lists(JUDGEMENTS, max_size=3).map(tuple),
    margin=st.floats(-1e9, 1e9),
)


@given(preference=PREFERENCES)
def test_our_format_goes_there_and_back(preference):
    line = json.dumps(preference_to_json(preference), ensure_ascii=False)
    assert preference_from_json(json.loads(line)) == preference


def test_our_format_by_hand():
    maker = {"kind": "model", "name": "m", "checkpoint": "c", "sampling": {"temperature": 1.0}, "seed": 3}
    value = {
        "id": "p1",
        "prompt": [{"role": "user", "content": "Q"}],
        "replies": [{"text": text, "stop_reason": "stop", "generator": maker} for text in (GOOD, BAD)],
        "judgements": [{"annotator": "a", "at": "t", "verdict": "prefer", "strength": 2, "reason": ""}],
        "margin": 0.0,
        "weight": 1.0,
    }
    preference = preference_from_json(value)
    assert read_preference(value) == preference
    assert preferred(preference) == 0.0
    assert json.loads(json.dumps(preference_to_json(preference))) == value
    for field in ("id", "prompt", "judgements"):
        with pytest.raises(RowError, match=field):
            preference_from_json({key: item for key, item in value.items() if key != field})
    for judgement in (
        {"verdict": "prefer", "strength": 0},
        {"verdict": "tie", "strength": 1},
        {"verdict": "?"},
    ):
        with pytest.raises(RowError) as caught:
            preference_from_json({**value, "judgements": [{"annotator": "a", "at": "t", **judgement}]})
        assert caught.value.kind == "bad_label"
    for wrong in ({"replies": ["a", "b"]}, {"judgements": 3}, {"replies": value["replies"] * 2}):
        with pytest.raises(RowError):
            preference_from_json({**value, **wrong})


def judged(*verdicts, name="p"):
    reply = Reply("x", Generator("human", "h"))
    return Preference(name, (Message("user", "Q"),), (reply, replace(reply, text="y")), tuple(verdicts))


def test_preferred_is_the_mean_of_signs():
    def vote(strength):
        return Judgement("a", "t", "prefer", strength)

    tie, skip, bad = (Judgement("a", "t", verdict) for verdict in ("tie", "skip", "both_bad"))
    assert preferred(judged(vote(-4), vote(1))) == 0.5
    assert preferred(judged(vote(-1), vote(-1), vote(3), tie)) == 2.5 / 4
    assert preferred(judged(vote(2), skip, bad)) == 0.0
    assert preferred(judged(skip, bad)) is None
    assert preferred(judged()) is None


def test_store_appends_once_and_keeps_the_order(tmp_path):
    path = tmp_path / "labels" / "preferences.jsonl"
    store = PreferenceStore(path)
    assert len(store) == 0
    assert store.append([judged(name="b"), judged(name="a"), judged(name="b")]) == 2
    assert store.append([judged(name="a"), judged(name="c")]) == 1
    assert store.append([]) == 0
    for view in (store, PreferenceStore(path)):
        assert [preference.id for preference in view.load()] == ["b", "a", "c"]
        assert view.ids() == {"a", "b", "c"}
        assert len(view) == 3
        assert view.note == ""
    assert path.read_text().count("\n") == 3


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_store_takes_no_number_that_json_has_not(tmp_path, number):
    row = judged(name="a")
    store = PreferenceStore(tmp_path / "preferences.jsonl")
    with pytest.raises(ValueError, match="not JSON compliant"):
        store.append([replace(row, margin=number)])
    assert not (tmp_path / "preferences.jsonl").exists()


def test_store_cut_at_any_byte_goes_on_to_the_same_file(tmp_path):
    path = tmp_path / "preferences.jsonl"
    rows = [judged(name=f"é{i}") for i in range(3)]
    PreferenceStore(path).append(rows)
    whole = path.read_bytes()
    ends = [i for i, byte in enumerate(whole) if byte == ord("\n")]
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        store = PreferenceStore(path)
        assert len(store) == sum(end < cut for end in ends)
        assert bool(store.note) == (cut > 0 and whole[cut - 1] != ord("\n"))
        store.append(rows)
        assert path.read_bytes() == whole


def test_store_names_a_broken_line(tmp_path):
    path = tmp_path / "preferences.jsonl"
    PreferenceStore(path).append([judged(name="a"), judged(name="b")])
    for broken in (b"{}\n", b"\n", b"\xff\n", b"3\n", b'{"a": \n'):
        path.write_bytes(path.read_bytes().split(b"\n")[0] + b"\n" + broken)
        with pytest.raises(DataError, match=r"preferences\.jsonl:2: not a preference"):
            PreferenceStore(path)
