"""Conversations of several turns with a sampler that says what it is told."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from thumbs.config.environment import EnvironmentConfig
from thumbs.config.sampling import SamplingConfig
from thumbs.data.hf_tokenizer import HfTokenizer
from thumbs.data.tokenizers import ByteTokenizer
from thumbs.envs.base import SingleTurn, Turn
from thumbs.envs.tools import ToolUse, call_tool, describe
from thumbs.errors import ConfigError, RewardError
from thumbs.records import Message, Prompt, Sample
from thumbs.rollout.episodes import Episodes, open_episodes, play
from thumbs.rollout.rounds import seed_of

TOKENIZER = ByteTokenizer()
PROMPT = Prompt("p", (Message("user", "hi"),), "7")


class Saying:
    """A sampler that answers with the given texts in turn, each ended unless it is cut."""

    policy_version = 5

    def __init__(self, *said: str, cut: Sequence[str] = (), ends: bool = True) -> None:
        self.said, self.cut, self.ends = list(said), cut, ends
        self.asked: list[Any] = []

    def sample(self, prompts: Any, params: Any, seeds: Any) -> list[Sample]:
        self.asked.append(([list(tokens) for tokens in prompts], list(seeds)))
        text = self.said.pop(0)
        ended = text not in self.cut
        tokens = np.array([*text.encode(), *([TOKENIZER.EOS] if ended and self.ends else [])])
        logprobs = -np.arange(1, len(tokens) + 1, dtype=np.float32)
        return [Sample(tokens, logprobs, "stop" if ended else "length", self.policy_version) for _ in prompts]


class Asking:
    """Says what is given after each reply; done when there is nothing left to say."""

    def __init__(self, *says: str) -> None:
        self.says = list(says)

    def first(self) -> tuple[Message, ...]:
        return PROMPT.messages

    def step(self, reply: str) -> Turn:
        if not self.says:
            return Turn(1.0)
        return Turn(0.25, False, (Message("user", self.says.pop(0)),))


def held(sampler: Saying, *says: str, **limits: int):
    episodes = Episodes(lambda prompt: Asking(*says), **limits)
    (rollout,) = play(sampler, [PROMPT], TOKENIZER, SamplingConfig(max_new_tokens=4), [11], episodes)
    return rollout


def test_what_was_sampled_stays_and_what_was_said_is_appended():
    sampler = Saying(" a", "bc")
    rollout = held(sampler, "no")
    bos, sep, eos = TOKENIZER.BOS, TOKENIZER.SEP, TOKENIZER.EOS
    assert rollout.tokens.tolist() == [bos, *b"hi", sep, *b" a", eos, bos, *b"no", sep, *b"bc", eos]
    assert rollout.prompt_length == 4
    # target-aligned: entry t belongs to token t + 1
    assert rollout.mask.tolist() == [0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1]
    assert rollout.logprobs.tolist() == [0, 0, 0, -1, -2, -3, 0, 0, 0, 0, -1, -2, -3]
    assert rollout.rewards is not None
    assert rollout.rewards.tolist() == [0, 0, 0, 0, 0, 0.25, 0, 0, 0, 0, 0, 0, 1]
    assert (rollout.text, rollout.stop_reason, rollout.answer) == ("bc", "stop", "7")
    assert (rollout.reply_length, rollout.last_reply_length) == (6, 3)
    assert [(m.role, m.content) for m in rollout.messages] == [
        ("user", "hi"), ("assistant", "a"), ("user", "no"), ("assistant", "bc"),
    ]  # fmt: skip
    # The second turn goes on from the very tokens of the first, with a seed of its own.
    assert [prompts[0] for prompts, _ in sampler.asked][1] == rollout.tokens.tolist()[:11]
    assert [seeds for _, seeds in sampler.asked] == [[11], [seed_of(11, "turn", 1)]]


def test_a_reply_that_a_stop_string_ended_gets_its_end_token_as_text_that_is_not_trained():
    rollout = held(Saying("a", "b", ends=False), "no")
    bos, sep, eos = TOKENIZER.BOS, TOKENIZER.SEP, TOKENIZER.EOS
    assert rollout.tokens.tolist() == [bos, *b"hi", sep, *b"a", eos, bos, *b"no", sep, *b"b"]
    assert rollout.mask.tolist() == [0, 0, 0, 1, 0, 0, 0, 0, 0, 1]


@pytest.mark.parametrize(
    ("sampler", "limits", "reason", "turns"),
    [
        (Saying("a", "b", "c"), {"max_turns": 2}, "turns", 2),
        (Saying("a", "b", "c"), {"max_turns": 9}, "stop", 3),
        (Saying("a", "b", cut=["b"]), {}, "length", 2),
        # 4 + 2 tokens, then 4 of the environment's: 10, and a whole reply of 4 more, is the most for one more turn
        (Saying("a", "b", "c"), {"max_tokens": 14}, "context", 2),
        (Saying("a", "b", "c"), {"max_tokens": 13}, "context", 1),
    ],
)
def test_every_end_says_why(sampler: Saying, limits: dict[str, int], reason: str, turns: int):
    rollout = held(sampler, "no", "no", **limits)
    assert rollout.stop_reason == reason
    assert sum(message.role == "assistant" for message in rollout.messages) == turns
    assert rollout.mask[-1] == 1, "nothing is left hanging after the last reply"


def test_a_prompt_that_leaves_no_room_is_refused():
    with pytest.raises(ConfigError, match=r"prompt p: its first messages have 4 tokens, and .* leaves 3"):
        held(Saying("a"), max_tokens=7)


@pytest.mark.parametrize("reward", [float("nan"), None])
def test_an_environment_that_fails_is_named(reward: Any):
    episodes = Episodes(lambda prompt: SingleTurn(prompt, lambda p, reply: reward))
    with pytest.raises(RewardError, match="environment of prompt p"):
        play(Saying("a"), [PROMPT], TOKENIZER, SamplingConfig(max_new_tokens=4), [1], episodes)


def test_a_template_that_rewrites_the_past_is_refused():
    render = TOKENIZER.render

    class Forgetful(ByteTokenizer):
        def render(self, messages: Sequence[Message]) -> tuple[list[int], list[int]]:
            last = max(i for i, m in enumerate(messages) if m.role == "user")
            kept = [m for i, m in enumerate(messages) if m.role == "user" or i > last]
            return render(kept)

    episodes = Episodes(lambda prompt: Asking("no"))
    with pytest.raises(ConfigError, match="rewrites earlier turns"):
        play(Saying("a", "b"), [PROMPT], Forgetful(), SamplingConfig(max_new_tokens=4), [1], episodes)


@pytest.fixture
def tiny_chatml(tmp_path: Path) -> HfTokenizer:
    """A tokenizer of bytes with the template of the Qwen models."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    tokenizer.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>", "<|endoftext|>"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    template = (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    settings = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "chat_template": template}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return HfTokenizer(tmp_path)


def test_turns_of_a_chat_template_are_joined_as_the_template_joins_them(tiny_chatml: HfTokenizer):
    """What stands between two replies is what the template writes there, the newline after the end token too."""
    eos = tiny_chatml.eos_id
    said = [[*tiny_chatml.encode("one"), eos], [*tiny_chatml.encode("two"), eos]]

    class Turns:
        policy_version = 0

        def sample(self, prompts: Any, params: Any, seeds: Any) -> list[Sample]:
            tokens = np.array(said.pop(0))
            return [Sample(tokens, np.zeros(len(tokens), np.float32), "stop", 0)]

    episodes = Episodes(lambda prompt: Asking("more"))
    (rollout,) = play(Turns(), [PROMPT], tiny_chatml, SamplingConfig(max_new_tokens=8), [1], episodes)
    talk = ("user", "hi"), ("assistant", "one"), ("user", "more"), ("assistant", "two")
    tokens, mask = tiny_chatml.render([Message(role, content) for role, content in talk])  # type: ignore[arg-type]
    assert rollout.tokens.tolist() == tokens[: len(rollout.tokens)]
    assert rollout.mask.tolist() == mask[1 : len(rollout.tokens)]


def add(a: int, b: int = 1) -> int:
    """The sum of two numbers."""
    return a + b


TOOLS = {"add": add, "shout": str.upper}


@pytest.mark.parametrize(
    ("call", "result"),
    [
        ('{"name": "add", "arguments": {"a": 2, "b": 3}}', "5"),
        ('{"name": "add", "arguments": {"a": 2}}', "3"),
        ('{"name": "sub", "arguments": {}}', "error: no tool 'sub'; there are add, shout"),
        ('{"name": "add", "arguments": {"c": 2}}', "error: TypeError: "),
        ('{"name": "add"', "error: JSONDecodeError: "),
        ('["add"]', "error: TypeError: "),
    ],
)
def test_calls_of_tools(call: str, result: str):
    assert call_tool(TOOLS, call).startswith(result)


def test_a_reply_with_calls_goes_on_and_one_without_ends():
    env = ToolUse(PROMPT, {"add": add})
    assert env.first()[0].role == "system"
    assert "add(a: 'int', b: 'int' = 1) -> 'int': The sum of two numbers." in describe({"add": add})
    one = '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>'
    turn = env.step(f"let me see {one} and {one.replace('1', '5')}")
    assert (turn.done, turn.reward, turn.messages) == (False, 0.0, (Message("user", "2\n6"),))
    assert env.step("it is 2").done
    system = Prompt("q", (Message("system", "be kind"), Message("user", "hi")))
    first = ToolUse(system, {"add": add}).first()
    assert [m.role for m in first] == ["system", "user"]
    assert first[0].content.startswith("be kind\n\nTo use a tool")


def test_environments_are_opened_by_name():
    assert open_episodes(None) is None
    found = open_episodes(EnvironmentConfig(tools=("math:gcd",), max_turns=3))
    assert found is not None
    env = found.make(PROMPT)
    assert isinstance(env, ToolUse)
    assert list(env.tools) == ["gcd"]
    assert found.max_turns == 3
    own = open_episodes(EnvironmentConfig(factory="thumbs.envs.base:SingleTurn"))
    assert own is not None
    assert own.make(PROMPT).first() == PROMPT.messages
    with pytest.raises(ConfigError, match="has no 'nothing'"):
        open_episodes(EnvironmentConfig(tools=("math:nothing",)))
