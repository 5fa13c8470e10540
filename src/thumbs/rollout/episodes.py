"""Conversations of several turns: the policy replies, its environment answers, until one of them is done.

What the policy sampled stays as it was sampled. What the environment says is appended as the tokens that the chat
template puts between a reply and the next one, with mask 0: the policy does not learn to say it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from thumbs.config.environment import EnvironmentConfig
from thumbs.config.named import load_callable
from thumbs.config.sampling import SamplingConfig
from thumbs.data.tokenizers import Tokenizer, conversation_tokens
from thumbs.envs.base import MakeEnv, MessageEnv
from thumbs.envs.limits import OutOfTimeError, within
from thumbs.envs.tools import ToolUse
from thumbs.errors import ConfigError, RewardError
from thumbs.records import Message, Prompt, Rollout, Sample, StopReason
from thumbs.rollout.rounds import Conversation, hold, reply_text, sampling_params, seed_of
from thumbs.rollout.sampler import Sampler

T = TypeVar("T")


@dataclass(frozen=True)
class Episodes:
    """How conversations are held: the environment of each, replies at most, tokens of a whole conversation at most,
    seconds that an environment has for an answer, environments that answer at the same time.
    """

    make: MakeEnv
    max_turns: int = 4
    max_tokens: int = 1024
    time_limit_s: float = 600.0
    concurrency: int = 1


def open_episodes(config: EnvironmentConfig | None) -> Episodes | None:
    """Conversations as the settings say; raises ConfigError for a function or a factory that is not there."""
    if config is None:
        return None
    limits = (config.max_turns, config.max_tokens, config.time_limit_s, config.concurrency)
    if config.factory is not None:
        return Episodes(load_callable(config.factory), *limits)
    tools = {name.rpartition(":")[2]: load_callable(name) for name in config.tools}
    return Episodes(lambda prompt: ToolUse(prompt, tools), *limits)


@dataclass(eq=False)
class _Episode:
    """A conversation in progress; mask, logprobs and rewards are aligned with the tokens (one too many in front)."""

    prompt: Prompt
    env: MessageEnv
    limit_s: float
    messages: list[Message]
    tokens: list[int]
    prompt_length: int
    mask: list[float] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    text: str = ""
    over: StopReason | None = None


def play(
    sampler: Sampler,
    prompts: Sequence[Prompt],
    tokenizer: Tokenizer,
    sampling: SamplingConfig,
    seeds: Sequence[int],
    episodes: Episodes,
) -> list[Rollout]:
    """One rollout per prompt, in order; each turn of all that are not over is sampled together."""
    conversations = [
        converse(prompt, tokenizer, sampling, seed, episodes) for prompt, seed in zip(prompts, seeds, strict=True)
    ]
    return hold(sampler, conversations, sampling_params(sampling, tokenizer))


def converse(
    prompt: Prompt, tokenizer: Tokenizer, sampling: SamplingConfig, seed: int, episodes: Episodes
) -> Conversation:
    """A conversation with the environment of a prompt.

    It is over when its environment says so (stop), when a reply is cut (length), after max_turns replies (turns), or
    when what the environment says leaves no room for a whole reply in max_tokens (context); the environment sees, and
    may reward, every reply. Raises RewardError if an environment fails or takes longer than it may, ConfigError if not
    even the first messages leave room.
    """
    room = episodes.max_tokens - sampling.max_new_tokens
    episode, turn, version = _begin(prompt, tokenizer, episodes, room), 0, 0
    while episode.over is None:
        sample = yield list(episode.tokens), seed if turn == 0 else seed_of(seed, "turn", turn)
        turn, version = turn + 1, sample.policy_version
        text = reply_text(tokenizer, sample.tokens.tolist(), sampling)
        _reply(episode, sample, text, tokenizer, room, last=turn == episodes.max_turns)
    return _rollout(episode, version)


def _begin(prompt: Prompt, tokenizer: Tokenizer, episodes: Episodes, room: int) -> _Episode:
    env, limit_s = episodes.make(prompt), episodes.time_limit_s
    messages = list(_asked(prompt, "its first message", limit_s, env.first))
    head = tokenizer.render_prompt(messages)
    if len(head) > room:
        raise ConfigError(
            f"prompt {prompt.id}: its first messages have {len(head)} tokens, and environment.max_tokens less "
            f"sampling.max_new_tokens leaves {room}; raise max_tokens or shorten the prompts"
        )
    zeros = [0.0] * len(head)
    return _Episode(prompt, env, limit_s, messages, list(head), len(head), list(zeros), list(zeros), list(zeros))


def _asked(prompt: Prompt, at: str, limit_s: float, call: Callable[[], T]) -> T:
    """What an environment answers, which has `limit_s` seconds for it."""
    where = f"the environment of prompt {prompt.id}"
    try:
        return within(limit_s, call)
    except OutOfTimeError:
        raise RewardError(
            f"{where} took longer than the {limit_s:g} s that it has at {at}; make it faster, or raise "
            "environment.time_limit_s"
        ) from None
    except Exception as error:
        raise RewardError(f"{where} failed at {at}: {error!r}") from error


def _reply(episode: _Episode, sample: Sample, text: str, tokenizer: Tokenizer, room: int, *, last: bool) -> None:
    """Takes a reply into the conversation, and what the environment says to it."""
    e, count = episode, len(sample.tokens)
    e.tokens += sample.tokens.tolist()
    e.mask += [1.0] * count
    e.logprobs += sample.logprobs.tolist()
    e.text = text
    e.messages.append(Message("assistant", e.text))
    turn = _asked(e.prompt, repr(e.text[:80]), e.limit_s, lambda: e.env.step(e.text))
    reward = _asked(e.prompt, repr(e.text[:80]), e.limit_s, lambda: float(turn.reward))
    if not math.isfinite(reward):
        raise RewardError(f"the environment of prompt {e.prompt.id} gave the reward {reward} for {e.text[:80]!r}")
    e.rewards += [0.0] * (count - 1) + [reward]
    if turn.done or sample.stop_reason == "length" or last:
        e.over = sample.stop_reason if turn.done or sample.stop_reason == "length" else "turns"
        return
    between = _between(tokenizer, e, turn.messages)
    if len(e.tokens) + len(between) > room:
        e.over = "context"
        return
    e.messages += turn.messages
    e.tokens += between
    for column in (e.mask, e.logprobs, e.rewards):
        column += [0.0] * len(between)


def _between(tokenizer: Tokenizer, episode: _Episode, said: Sequence[Message]) -> list[int]:
    """Tokens from the end of the last reply to the beginning of the next: what the template adds for these messages.

    With the token that ends a reply, where a stop string ended it. Raises ConfigError for a template that writes what
    came before in another way once more follows: what the policy saw then would not be what it is trained on.
    """
    before = conversation_tokens(tokenizer, episode.messages)[0].tolist()
    after = tokenizer.render_prompt([*episode.messages, *said])
    if after[: len(before)] != before:
        raise ConfigError(
            "the model's chat template rewrites earlier turns when a conversation goes on (it drops reasoning, say), "
            "so its tokens would not be those that were sampled; use a template that only appends"
        )
    ended = episode.tokens[-1] in tokenizer.stop_ids
    return after[len(before) if ended else len(before) - 1 :]


def _rollout(episode: _Episode, policy_version: int) -> Rollout:
    e = episode
    return Rollout(
        prompt_id=e.prompt.id,
        tokens=np.array(e.tokens, dtype=np.int64),
        prompt_length=e.prompt_length,
        mask=np.array(e.mask[1:], dtype=np.float32),
        logprobs=np.array(e.logprobs[1:], dtype=np.float32),
        stop_reason=e.over or "turns",
        policy_version=policy_version,
        text=e.text,
        messages=tuple(e.messages),
        answer=e.prompt.answer,
        rewards=np.array(e.rewards[1:], dtype=np.float32),
    )
