"""Conversations with one or two policies, and the votes that are kept of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from thumbs.cli.main import app
from thumbs.config.sampling import SamplingConfig
from thumbs.data.preferences import PreferenceStore, preferred, read_preference
from thumbs.errors import DataError, RunError
from thumbs.pipeline.chat import Dialogue
from thumbs.pipeline.reply_source import open_stages
from thumbs.records import Generator, Message, Reply


@dataclass
class Echo:
    """A policy that says its name and what it was asked."""

    name: str

    def asked(self, messages: Sequence[Message]) -> tuple[Message, ...]:
        return (Message("system", "Be brief."), *messages)

    def write(self, messages: Sequence[Message], n: int, seed: int) -> list[Reply]:
        if len(messages) > 5:
            raise DataError("the conversation is too long")
        text = f"{self.name}: {' / '.join(m.content for m in messages)} ({seed})"
        return [Reply(text, Generator("model", "echo", self.name))] * n


def two(tmp_path: Path, seed: int = 0) -> Dialogue:
    return Dialogue([Echo("a"), Echo("b")], PreferenceStore(tmp_path / "votes.jsonl"), seed)  # pyright: ignore


def makers(replies: Sequence[Reply]) -> list[str]:
    return [reply.generator.checkpoint for reply in replies]


def test_a_conversation_grows_by_what_was_said():
    chat = Dialogue([Echo("a")])  # pyright: ignore
    first = chat.ask("one")[0].text
    chat.ask("two")
    assert [m.role for m in chat.messages] == ["user", "assistant", "user", "assistant"]
    assert chat.messages[3].content.startswith(f"a: one / {first} / two")
    chat.forget()
    assert chat.ask("three")[0].text.startswith("a: three")


def test_again_answers_the_same_message_with_another_draw():
    chat = Dialogue([Echo("a")])  # pyright: ignore
    first = chat.ask("one")[0].text
    second = chat.again()[0].text
    assert first != second
    assert second.startswith("a: one (")
    with pytest.raises(RunError, match="no message yet"):
        Dialogue([Echo("a")]).again()  # pyright: ignore


def test_the_order_tells_nothing_and_comes_again_with_its_seed(tmp_path: Path):
    orders = [makers(two(tmp_path, seed).ask("hello")) for seed in range(40)]
    assert 10 <= sum(order == ["a", "b"] for order in orders) <= 30
    assert orders == [makers(two(tmp_path, seed).ask("hello")) for seed in range(40)]


@pytest.mark.parametrize(("verdict", "better"), [("first", 0), ("second", 1)])
def test_a_vote_is_a_pair_and_the_better_reply_goes_on(tmp_path: Path, verdict: str, better: int):
    chat = two(tmp_path)
    replies = chat.ask("hello")
    assert chat.vote(verdict)  # pyright: ignore
    assert chat.messages[-1].content == replies[better].text
    (kept,) = PreferenceStore(tmp_path / "votes.jsonl").load()
    assert kept.prompt == (Message("system", "Be brief."), Message("user", "hello"))
    assert [reply.text for reply in kept.replies] == [reply.text for reply in replies]
    assert preferred(kept) == 1.0 - better


def test_ties_count_half_and_both_bad_does_not_count(tmp_path: Path):
    chat = two(tmp_path)
    for text, verdict in (("one", "tie"), ("two", "both_bad")):
        chat.forget()
        chat.ask(text)
        assert chat.vote(verdict)  # pyright: ignore
    assert [preferred(vote) for vote in PreferenceStore(tmp_path / "votes.jsonl").load()] == [0.5, None]


def test_a_message_that_cannot_be_answered_is_not_kept(tmp_path: Path):
    chat = two(tmp_path)
    for text in ("one", "two", "three"):
        chat.ask(text)
    before = list(chat.messages)
    with pytest.raises(DataError, match="too long"):
        chat.ask("four")
    assert chat.messages == before


def test_equal_replies_give_no_vote(tmp_path: Path):
    chat = Dialogue([Echo("a"), Echo("a")], PreferenceStore(tmp_path / "votes.jsonl"))  # pyright: ignore
    chat.ask("hello")
    assert not chat.vote("first")
    assert len(PreferenceStore(tmp_path / "votes.jsonl")) == 0


def test_one_policy_has_no_votes():
    chat = Dialogue([Echo("a")])  # pyright: ignore
    chat.ask("hello")
    with pytest.raises(RunError, match="--against"):
        chat.vote("first")


def test_policies_of_one_run_share_its_base(tiny_run: Path):
    base, sft = open_stages(tiny_run, ["base", "sft"], SamplingConfig(max_new_tokens=5))
    assert base.tokenizer is sft.tokenizer
    assert makers(sft.write([Message("user", "Ana")], 1, 0)) == [f"{tiny_run}/sft/model"]
    with pytest.raises(RunError, match="no model of stage 'group'"):
        open_stages(tiny_run, ["sft", "group"], SamplingConfig())


def chatted(run: Path, *options: str, said: str) -> str:
    result = CliRunner().invoke(app, ["chat", str(run), "--max-new-tokens", "6", *options], input=said)
    assert result.exit_code == 0, result.output
    return result.output


def test_the_command_talks_votes_and_leaves_pairs_that_training_reads(tiny_run: Path, tmp_path: Path):
    votes = tmp_path / "votes.jsonl"
    said = "Ana\nx\n1\n/help\n/new\nBen\n\n/again\n2\n"
    shown = chatted(tiny_run, "--stage", "sft", "--against", "base", "--votes", str(votes), said=said)
    assert shown.count("[1] ") == shown.count("[2] ") == 3
    assert "1, 2, t, b or Enter" in shown
    assert "/new starts over" in shown
    assert shown.count(" was sft") == shown.count(" was base") == 3
    pairs = [read_preference(json.loads(line)) for line in votes.read_text("utf-8").splitlines()]
    # An untrained model may say nothing, which is no pair.
    assert len(pairs) + shown.count("there is no vote to keep") == 2
    assert [preferred(pair) for pair in pairs if pair.prompt[-1].content == "Ben"] in ([0.0], [])
    assert pairs


def test_the_command_answers_as_the_last_method_by_default(tiny_run: Path):
    shown = chatted(tiny_run, said="Ana\n/quit\nnever read\n")
    assert shown.startswith(f"ppo of {tiny_run}")
    assert "[1]" not in shown


def test_the_command_refuses_a_policy_against_itself(tiny_run: Path):
    result = CliRunner().invoke(app, ["chat", str(tiny_run), "--stage", "sft", "--against", "sft"])
    assert result.exit_code == 2
    assert "name another one" in result.output
