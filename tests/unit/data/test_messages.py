"""The inside of a message: every key is read, refused by name, or named as ignored, in every reader."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thumbs.config.data import DataConfig
from thumbs.data.conversations import read_conversation
from thumbs.data.load import load_conversations
from thumbs.data.messages import REFUSED, ROLES, read_messages
from thumbs.data.preferences import preference_to_json, read_preference
from thumbs.data.prompts import read_prompt
from thumbs.data.rankings import read_ranking
from thumbs.data.ratings import read_rating, read_stepped_reply
from thumbs.data.reading import reading
from thumbs.data.replies import read_judged_reply
from thumbs.data.sources import RowError
from thumbs.data.tokenizers import ByteTokenizer, training_sequences
from thumbs.records import Message


def user(**keys):
    return {"role": "user", "content": "Hi", **keys}


def bot(content="Hello", **keys):
    return {"role": "assistant", "content": content, **keys}


WEIGHTED = [
    ({"weight": 0}, False),
    ({"weight": 1}, True),
    ({"weight": 0.0}, False),
    ({"weight": None}, True),
    ({"train": False}, False),
    ({"train": True, "weight": 1}, True),
    ({"training": False}, False),
    ({"trainable": False}, False),
    ({"loss": False}, False),
]


@pytest.mark.parametrize(("keys", "trained"), WEIGHTED)
def test_a_turn_that_is_not_to_be_learned_is_not(keys, trained):
    messages = read_conversation({"messages": [user(), bot("WRONG", **keys), user(), bot("It is 1.")]})
    assert [m.trained for m in messages] == [True, trained, True, True]
    ((tokens, mask),) = training_sequences(ByteTokenizer(), messages)
    learned = bytes(tokens[1:][mask > 0].clip(max=255).astype("uint8").tolist())
    assert (b"WRONG" in learned, b"It is 1." in learned) == (trained, True)


def test_share_gpt_rows_of_axolotl_are_weighted_too():
    turns = [
        ("human", "Hi", {}),
        ("gpt", "no", {"train": False}),
        ("human", "Sure?", {"weight": 0}),
        ("gpt", "yes", {"weight": 1}),
    ]
    rows = [{"from": name, "value": text, **keys} for name, text, keys in turns]
    assert [m.trained for m in read_conversation({"conversations": rows})] == [True, False, True, True]


UNUSABLE = [
    (bot(weight=0.5), "weight 0.5"),
    (bot(weight=2), "weight 2"),
    (bot(weight=True), "weight True"),
    (bot(weight="1"), "weight '1'"),
    (bot(train="no"), "'train': 'no'"),
    (bot(train=True, weight=0), "to be learned from and not"),
    (user(weight=1), "only the assistant's turns"),
    (user(train=True), "only the assistant's turns"),
    (bot(**{"from": "human"}), "'role' and 'from', and they differ"),
    (bot(value="other"), "'content' and 'value', and they differ"),
    ({"role": "assistant"}, "without 'content'"),
    (bot([{"type": "image_url", "image_url": {"url": "x"}}]), "part of type 'image_url'"),
    (bot([{"type": "input_audio", "text": "x"}]), "part of type 'input_audio'"),
    (bot([{"type": "thinking", "thinking": "x"}]), "part of type 'thinking'"),
    (bot([{"type": "text", "text": "x", "image_url": "y"}]), "'image_url'"),
    (bot([{"type": "text"}]), "part of a message without 'text'"),
    ({"role": "tool", "content": "sunny", "tool_call_id": "1"}, "unknown role 'tool'; use one of system, developer"),
    ({"role": "function", "content": "x"}, "unknown role 'function'"),
    ({"from": "observation", "value": "x"}, "unknown role 'observation'"),
]


@pytest.mark.parametrize(("message", "match"), UNUSABLE)
def test_what_training_cannot_honour_is_refused_in_words(message, match):
    with pytest.raises(RowError, match=match):
        read_messages([user(), message], "messages")


NEVER_DROPPED = {
    "reasoning_content": "write the reasoning into 'content'",
    "thinking": "write the reasoning into 'content'",
    "tool_calls": "calls of tools are not trained on",
    "function_call": "calls of tools are not trained on",
    "tool_call_id": "calls of tools are not trained on",
    "tools": "definitions of tools are not rendered",
    "functions": "definitions of tools are not rendered",
    "images": "only text is trained on",
    "audio": "only text is trained on",
    "loss_mask": "a turn counts whole or not at all",
    "train_detail": "a turn counts whole or not at all",
    "refusal": "write the refusal into 'content'",
    "prefix": "a reply that is begun",
}
"""Keys that messages of well-known data and services have, and what is said of them."""


@pytest.mark.parametrize("key", NEVER_DROPPED)
def test_keys_of_services_and_data_sets_are_refused_with_what_to_do(key):
    with pytest.raises(RowError, match=f"has '{key}': {NEVER_DROPPED[key]}"):
        read_messages([user(), bot(**{key: ["x"]})], "messages")


@pytest.mark.parametrize("key", REFUSED)
def test_a_key_that_changes_what_is_said_is_refused_by_name(key):
    with pytest.raises(RowError, match=f"has '{key}': ") as caught:
        read_messages([user(), bot(**{key: ["x"]})], "messages")
    assert caught.value.kind == "unsupported"
    for nothing in (None, [], {}, "", False):
        assert read_messages([user(), bot(**{key: nothing})], "messages")[1] == Message("assistant", "Hello")


def test_roles_of_well_known_data():
    """Vicuna's, OpenAssistant's, ShareGPT's and Gemma's names, written out here."""
    asking, answering = ("user", "human", "prompter"), ("assistant", "gpt", "chatgpt", "bing", "bard", "model", "bot")
    names = [("system", n) for n in ("system", "developer")]
    names += [("user", n) for n in asking] + [("assistant", n) for n in answering]
    for role, name in names:
        assert read_messages([{"role": name, "content": "x"}], "messages")[0].role == role


@pytest.mark.parametrize("name", [*ROLES, *map(str.upper, ROLES), *map(str.capitalize, ROLES), " user "])
def test_roles_have_many_names(name):
    (message,) = read_messages([{"role": name, "content": "x"}], "messages")
    assert message.role == ROLES[name.strip().lower()]


def test_null_is_absent():
    row = {
        "role": None,
        "from": "gpt",
        "content": None,
        "value": "Hello",
        "weight": None,
        "train": None,
        "tool_calls": None,
    }
    assert read_messages([user(), row], "messages")[1] == Message("assistant", "Hello")
    parts = [{"type": "text", "text": "a", "image_url": None}, "b", {"type": None, "text": "c"}]
    assert read_messages([user(content=parts)], "messages")[0].content == "abc"


READERS = {
    "messages": (read_conversation, lambda m: {"messages": [m, bot()]}),
    "conversations": (read_conversation, lambda m: {"conversations": [m, bot()]}),
    "prompt and completion": (read_conversation, lambda m: {"prompt": [m], "completion": [bot()]}),
    "chosen conversation": (read_conversation, lambda m: {"chosen": [m, bot()]}),
    "prompt": (read_prompt, lambda m: {"prompt": [m]}),
    "prompt in messages": (read_prompt, lambda m: {"messages": [m]}),
    "pair": (read_preference, lambda m: {"prompt": [m], "chosen": "a", "rejected": "b"}),
    "whole pair": (read_preference, lambda m: {"chosen": [m, bot("a")], "rejected": [m, bot("b")]}),
    "our own pair": (
        read_preference,
        lambda m: (
            preference_to_json(read_preference({"prompt": "Hi", "chosen": "a", "rejected": "b"})) | {"prompt": [m]}
        ),
    ),
    "ranking": (read_ranking, lambda m: {"prompt": [m], "ranking": ["a", "b"]}),
    "rating": (read_rating, lambda m: {"prompt": [m], "reply": "a", "rating": 1}),
    "steps": (read_stepped_reply, lambda m: {"prompt": [m], "steps": ["a"], "labels": [1]}),
    "judged reply": (read_judged_reply, lambda m: {"messages": [m, bot()], "label": True}),
}


@pytest.mark.parametrize("name", READERS)
def test_every_reader_names_or_refuses_what_it_does_not_know_in_a_message(name):
    read, row = READERS[name]
    with reading() as notes:
        plain = read(row(user(mood="odd", name="ben", gone=None)))
    inside = {path.rpartition(".")[2] for path in notes.ignored if "[]." in path}
    assert {"mood", "name"} <= inside
    assert "gone" not in inside
    assert plain == read(row(user()))
    with pytest.raises(RowError, match="'reasoning_content'"):
        read(row(user(reasoning_content="hm")))
    with pytest.raises(RowError, match=r"unknown role 'tool'.*user"):
        read(row({"role": "tool", "content": "x"}))


JUDGED = {
    "pair": (read_preference, lambda m: {"prompt": "Hi", "chosen": [m], "rejected": [bot("b")]}),
    "whole pair": (read_preference, lambda m: {"chosen": [user(), m], "rejected": [user(), bot("b")]}),
    "ranking": (read_ranking, lambda m: {"prompt": "Hi", "ranking": [[m], "b"]}),
    "rating": (read_rating, lambda m: {"prompt": "Hi", "reply": [m], "rating": 1}),
    "judged reply": (read_judged_reply, lambda m: {"messages": [user(), m], "label": True}),
}


@pytest.mark.parametrize("name", JUDGED)
def test_a_judged_reply_that_is_not_to_be_learned_is_refused(name):
    read, row = JUDGED[name]
    assert read(row(bot(weight=1))) == read(row(bot()))
    with pytest.raises(RowError, match=r"weight 0|train: false"):
        read(row(bot(weight=0)))


def test_a_reply_is_one_message():
    with pytest.raises(RowError, match="one message of the assistant"):
        read_rating({"prompt": "Hi", "reply": [bot("lost"), user(), bot()], "rating": 1})


def test_turns_of_a_prompt_are_not_learned_whatever_they_say():
    turns = [user(), bot("a", weight=0), user()]
    for row in ({"prompt": turns}, {"messages": turns}):
        assert read_prompt(row) == read_prompt({"prompt": [user(), bot("a"), user()]})
    pair = read_preference({"prompt": turns, "chosen": "x", "rejected": "y"})
    assert all(message.trained for message in pair.prompt)


def test_a_conversation_of_which_nothing_is_learned_is_refused():
    with pytest.raises(RowError, match="every assistant turn has weight 0") as caught:
        read_conversation({"messages": [user(), bot(weight=0)]})
    assert caught.value.kind == "empty_mask"


def test_ignored_keys_of_messages_are_counted_by_load(tmp_path):
    rows = [{"messages": [user(name="ben"), bot()]}, {"messages": [user(), bot(annotations=[1])]}]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    loaded = load_conversations(DataConfig(path=str(path)), ByteTokenizer())
    assert loaded.ignored == {"messages[].name": 1, "messages[].annotations": 1}


@given(
    st.dictionaries(
        st.sampled_from([*REFUSED, "weight", "train", "name", "zzz"]),
        st.none() | st.booleans() | st.integers(-1, 2) | st.text(max_size=3) | st.lists(st.integers(), max_size=1),
    )
)
def test_a_message_is_read_whole_or_refused(keys):
    with reading() as notes:
        try:
            message = read_messages([user(), bot(**keys)], "messages")[1]
        except RowError:
            return
    there = {key for key, value in keys.items() if value is not None and value is not False and value not in ("", [])}
    given_keys = there - {"weight", "train"}
    assert {f"messages[].{key}" for key in given_keys} == notes.ignored
    assert not given_keys & REFUSED.keys()
    assert message.content == "Hello"


def test_two_words_for_one_role_agree():
    turns = [user(**{"from": "human"}), bot(**{"from": " GPT "}), user(**{"from": "user"}), bot("Yes.")]
    assert [m.role for m in read_conversation({"messages": turns})] == ["user", "assistant"] * 2
