"""The packaged data keeps what its README promises."""

from __future__ import annotations

import json
import re
import string
from collections import Counter
from importlib import resources
from itertools import combinations
from typing import Any

import pytest
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

PROMPTS = ("prompts_train", "prompts_heldout")
SAFE = ("safe_demonstrations", "safe_pairs", "safe_prompts_train", "safe_prompts_heldout")
TINY_PROMPTS = ("tiny_prompts_train", "tiny_prompts_heldout")
DEMONSTRATIONS = ("demonstrations", "tiny_demonstrations")
MOODS = {
    "warm": ("good", "nice", "happy"),
    "neutral": ("calm", "plain", "usual"),
    "cold": ("bad", "sad", "grim"),
}
ALLOWED = set(string.ascii_letters + string.digits + " .,!?;:'\"()[]/-+=~_<>%")


def read(name: str) -> list[dict[str, Any]]:
    text = (resources.files("thumbs.data") / "builtin" / f"{name}.jsonl").read_text(encoding="utf-8")
    assert text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


def turns(role: str) -> list[str]:
    """Every message of one role in the demonstrations."""
    return [m["content"] for row in read("demonstrations") for m in row["messages"] if m["role"] == role]


def requests() -> list[str]:
    """Every user text of the tone task: what must not repeat within or across the files."""
    return turns("user") + [row["prompt"] for name in PROMPTS for row in read(name)]


def words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"[a-z0-9]+", text.lower()))


def test_folder_holds_exactly_the_documented_files() -> None:
    folder = resources.files("thumbs.data") / "builtin"
    found = {item.name for item in folder.iterdir() if item.name.endswith(".jsonl")}
    assert found == {f"{name}.jsonl" for name in (*DEMONSTRATIONS, *PROMPTS, *TINY_PROMPTS, *SAFE)}


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("demonstrations", 295),
        ("safe_demonstrations", 660),
        ("safe_pairs", 440),
        ("safe_prompts_train", 220),
        ("safe_prompts_heldout", 60),
        ("prompts_train", 200),
        ("prompts_heldout", 100),
        ("tiny_demonstrations", 288),
        ("tiny_prompts_train", 32),
        ("tiny_prompts_heldout", 16),
    ],
)
def test_counts_are_those_of_the_readme(name: str, rows: int) -> None:
    readme = (resources.files("thumbs.data") / "builtin" / "README.md").read_text(encoding="utf-8")
    assert len(read(name)) == rows
    assert re.search(rf"`{name}\.jsonl` \| {rows}\b", readme)


@pytest.mark.parametrize("name", DEMONSTRATIONS)
def test_conversations_alternate_and_end_with_the_assistant(name: str) -> None:
    for row in read(name):
        assert set(row) == {"messages"}
        roles = [message["role"] for message in row["messages"]]
        assert roles in (["user", "assistant"], ["user", "assistant"] * 2)
        assert all(set(m) == {"role", "content"} and m["content"].strip() == m["content"] for m in row["messages"])


@pytest.mark.parametrize("name", PROMPTS + TINY_PROMPTS)
def test_prompts_are_one_stripped_string_each(name: str) -> None:
    for row in read(name):
        assert set(row) == {"prompt"}
        assert row["prompt"] == row["prompt"].strip() != ""


def test_about_a_tenth_of_the_demonstrations_has_two_rounds() -> None:
    rows = read("demonstrations")
    assert 0.07 <= sum(len(row["messages"]) == 4 for row in rows) / len(rows) <= 0.13


def test_replies_are_short_and_complete() -> None:
    replies = turns("assistant")
    lengths = [len(reply.split()) for reply in replies]
    assert min(lengths) >= 12
    assert max(lengths) <= 22
    assert 16 <= sum(lengths) / len(lengths) <= 19
    assert [reply for reply in replies if reply[-1] not in ".!?"] == []
    assert len(set(replies)) == len(replies)


def test_prompts_have_four_to_twenty_five_words() -> None:
    prompts = [row["prompt"] for name in PROMPTS for row in read(name)]
    assert [p for p in prompts if not 4 <= len(p.split()) <= 25] == []


def test_text_uses_letters_digits_and_common_punctuation_only() -> None:
    strange = {text: set(text) - ALLOWED for text in requests() + turns("assistant")}
    assert {text: signs for text, signs in strange.items() if signs} == {}


def test_no_request_repeats_or_nearly_repeats_another() -> None:
    bags = [(text, words(text)) for text in requests()]
    near = [(one, two) for (one, a), (two, b) in combinations(bags, 2) if len(a & b) > 0.8 * len(a | b)]
    assert len(bags) == 619
    assert near == []


def test_replies_are_half_warm_half_plain_and_equally_long() -> None:
    judge = SentimentIntensityAnalyzer()
    replies = turns("assistant")
    warmth = {reply: judge.polarity_scores(reply)["compound"] for reply in replies}
    warm = [len(reply.split()) for reply in replies if warmth[reply] >= 0.6]
    plain = [len(reply.split()) for reply in replies if -0.35 <= warmth[reply] <= 0.2]
    assert 0.45 <= len(warm) / len(replies) <= 0.55
    assert len(plain) / len(replies) >= 0.4
    assert sum(warm) / len(warm) == pytest.approx(sum(plain) / len(plain), rel=0.05)


def test_both_rounds_of_a_conversation_are_by_the_same_writer() -> None:
    judge = SentimentIntensityAnalyzer()
    for row in read("demonstrations"):
        replies = [m["content"] for m in row["messages"] if m["role"] == "assistant"]
        assert len({judge.polarity_scores(reply)["compound"] >= 0.6 for reply in replies}) == 1


def test_tiny_replies_are_the_name_and_a_mood_balanced_by_hand_counts() -> None:
    """48 names x 2 of 3 moods in each of 3 groups = 288 rows; 288 / 9 moods = 32 rows a mood."""
    pairs = []
    for row in read("tiny_demonstrations"):
        user, assistant = (message["content"] for message in row["messages"])
        match = re.fullmatch(r"([A-Z][a-z]{2,5}), ([a-z]+) day\.", assistant)
        assert match is not None
        assert match[1] == user
        pairs.append((user, match[2]))
    groups = {mood: group for group, moods in MOODS.items() for mood in moods}
    assert len(set(pairs)) == len(pairs)
    assert Counter(mood for _, mood in pairs) == dict.fromkeys(groups, 32)
    per_name = Counter((name, groups[mood]) for name, mood in pairs)
    assert len(per_name) == 48 * 3
    assert set(per_name.values()) == {2}


def test_tiny_heldout_names_are_demonstrated_but_not_trained_on() -> None:
    train, heldout = ({row["prompt"] for row in read(name)} for name in TINY_PROMPTS)
    names = {row["messages"][0]["content"] for row in read("tiny_demonstrations")}
    assert (len(train), len(heldout)) == (32, 16)
    assert train.isdisjoint(heldout)
    assert train | heldout == names


def test_names_carry_no_warmth_of_their_own() -> None:
    judge = SentimentIntensityAnalyzer()
    names = [row["prompt"] for name in TINY_PROMPTS for row in read(name)]
    assert [name for name in names if judge.polarity_scores(name)["compound"] != 0] == []
