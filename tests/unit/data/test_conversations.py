"""One conversation in every shape that people keep it in, and what each fault is called."""

import pytest

from thumbs.data.conversations import read_conversation
from thumbs.data.prompts import prompt_id, read_prompt
from thumbs.data.sources import RowError
from thumbs.records import Message

HI, HELLO = Message("user", "Hi"), Message("assistant", "Hello!")
PAIR = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]

SHAPES = {
    "messages": {"messages": PAIR},
    "messages without roles": {"messages": [{"content": "Hi"}, {"content": "Hello!"}]},
    "content in parts": {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}, PAIR[1]]},
    "ShareGPT": {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello!"}]},
    "prompt and completion": {"prompt": "Hi", "completion": "Hello!"},
    "prompt and completion as messages": {"prompt": PAIR[:1], "completion": PAIR[1:]},
    "completion without role": {"prompt": PAIR[:1], "completion": [{"content": "Hello!"}]},
    "prompt and response": {"prompt": "Hi", "response": "Hello!"},
    "the chosen of a pair": {"prompt": "Hi", "chosen": "Hello!", "rejected": "No."},
    "the whole as chosen": {"prompt": "Hi", "chosen": PAIR, "rejected": PAIR},
    "chosen messages alone": {"chosen": PAIR},
    "Alpaca": {"instruction": "Hi", "input": "", "output": "Hello!"},
    "Alpaca with nulls": {"messages": None, "instruction": "Hi", "input": None, "output": "Hello!"},
    "Anthropic": {"chosen": "\n\nHuman: Hi\n\nAssistant: Hello!"},
    "transcript": {"text": "Human: Hi\n\nAssistant: Hello!"},
    "transcript alone": "\n\nHuman: Hi\n\nAssistant: Hello!\n",
    "transcript prompt": {"prompt": "\n\nHuman: Hi\n\nAssistant:", "completion": "Hello!"},
}


@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_is_the_same_conversation(name):
    assert read_conversation(SHAPES[name]) == (HI, HELLO)


def test_system_more_turns_and_input():
    value = {"messages": [{"role": "system", "content": "s"}, {"content": "Hi"}, *PAIR[1:], {"content": "Why?"}]}
    assert read_conversation(value) == (Message("system", "s"), HI, HELLO, Message("user", "Why?"))
    assert read_conversation({"instruction": "Add", "input": "1+1", "output": "2"})[0].content == "Add\n\n1+1"
    text = "\n\nHuman: Hi\n\nAssistant: Hello!\n\nWho says Human: stays.\n\nHuman: x\n\nAssistant: y"
    assert read_conversation(text)[1].content == "Hello!\n\nWho says Human: stays."


FAULTS = [
    (7, "not_an_object"),
    (None, "not_an_object"),
    ({}, "missing_field"),
    ({"foo": 1}, "missing_field"),
    ("just text", "missing_field"),
    ({"messages": []}, "missing_field"),
    ({"messages": "Hi"}, "missing_field"),
    ({"messages": [{"role": "user"}]}, "missing_field"),
    ({"messages": ["Hi"]}, "not_an_object"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "bad_role"),
    ({"messages": [{"role": ["user"], "content": "x"}]}, "bad_role"),
    ({"messages": PAIR[1:]}, "no_user_turn"),
    ({"messages": [*PAIR, {"role": "system", "content": "x"}]}, "bad_role"),
    ({"messages": PAIR[:1]}, "no_assistant_turn"),
    ({"messages": [PAIR[0], {"role": "assistant", "content": " \n"}]}, "empty_reply"),
    ({"messages": [{"role": "user", "content": ""}, PAIR[1]]}, "empty_prompt"),
    ({"messages": [{"role": "user", "content": 3}]}, "bad_text"),
    ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "unsupported"),
    ({"prompt": "Hi", "completion": "\ud83d"}, "bad_text"),
    ({"prompt": "Hi"}, "missing_field"),
    ({"prompt": "Hi", "completion": ""}, "empty_reply"),
    ({"instruction": "Hi"}, "missing_field"),
    ({"text": "\n\nHuman: Hi\n\nAssistant:"}, "empty_reply"),
]


@pytest.mark.parametrize(("value", "kind"), FAULTS)
def test_every_fault_has_its_name(value, kind):
    with pytest.raises(RowError) as caught:
        read_conversation(value)
    assert caught.value.kind == kind
    assert str(caught.value)


PROMPTS = ["Hi", {"prompt": "Hi"}, {"prompt": PAIR[:1]}, {"messages": PAIR[:1]}, {"instruction": "Hi"}]


@pytest.mark.parametrize("value", [*PROMPTS, "\n\nHuman: Hi\n\nAssistant:", {"prompt": "Hi", "chosen": "x"}])
def test_every_shape_is_the_same_prompt(value):
    prompt = read_prompt(value)
    assert prompt.messages == (HI,)
    assert prompt.id == read_prompt("Hi").id


def test_prompt_ids_are_stable_and_tell_messages_apart():
    # printf '%s' '[["user","Hi"]]' | sha256sum
    assert prompt_id([HI]) == "8b1450277179b15b"
    others = [
        [Message("user", "Hi ")],
        [Message("system", "Hi")],
        [HI, HI],
        [Message("user", 'Hi"],["user","')],
    ]
    assert len({prompt_id(messages) for messages in [[HI], *others]}) == 5


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (3, "not_an_object"),
        ({"text": "Hi"}, "missing_field"),
        ({"messages": PAIR}, "no_user_turn"),
        ({"prompt": [{"role": "system", "content": "x"}]}, "no_user_turn"),
        ({"prompt": "  "}, "empty_prompt"),
        ("\n\nHuman:", "empty_prompt"),
    ],
)
def test_what_is_no_prompt(value, kind):
    with pytest.raises(RowError) as caught:
        read_prompt(value)
    assert caught.value.kind == kind
