"""From prompts to finished rollouts: render, sample, and record what the policy sampled and what it did not."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Sequence
from typing import TypeAlias

import numpy as np

from thumbs.config.sampling import SamplingConfig
from thumbs.data.tokenizers import Tokenizer
from thumbs.errors import ConfigError
from thumbs.records import Message, Prompt, Rollout, Sample
from thumbs.rollout.sampler import DecodingParams, Sampler

Ask: TypeAlias = tuple[list[int], int]
"""The tokens that a reply goes on from, and the seed that it is drawn with."""

Conversation: TypeAlias = Generator[Ask, Sample, Rollout]
"""Gives what is to be sampled, gets the sample, until it returns its rollout; it holds nothing of a sampler."""


def collect(
    sampler: Sampler,
    prompts: Sequence[Prompt],
    tokenizer: Tokenizer,
    sampling: SamplingConfig,
    seeds: Sequence[int],
) -> list[Rollout]:
    """One rollout per prompt, in order. mask is 1 on the sampled targets, the end token among them."""
    replies = [reply(prompt, tokenizer, sampling, seed) for prompt, seed in zip(prompts, seeds, strict=True)]
    return hold(sampler, replies, sampling_params(sampling, tokenizer))


def hold(sampler: Sampler, conversations: Sequence[Conversation], params: DecodingParams) -> list[Rollout]:
    """Rollouts of the conversations, in order; each turn of all that go on is sampled together."""
    asks, rollouts = [next(conversation) for conversation in conversations], dict[int, Rollout]()
    places = list(range(len(asks)))
    while places:
        samples = sampler.sample([tokens for tokens, _ in asks], params, [seed for _, seed in asks])
        asks, spoken, places = [], places, []
        for place, sample in zip(spoken, samples, strict=True):
            try:
                asks.append(conversations[place].send(sample))
                places.append(place)
            except StopIteration as end:
                rollouts[place] = end.value
    return [rollouts[place] for place in range(len(conversations))]


def reply(prompt: Prompt, tokenizer: Tokenizer, sampling: SamplingConfig, seed: int) -> Conversation:
    """A prompt and one reply to it."""
    head = tokenizer.render_prompt(prompt.messages)
    sample = yield head, seed
    text = reply_text(tokenizer, sample.tokens.tolist(), sampling)
    unsampled = np.zeros(len(head) - 1, dtype=np.float32)
    return Rollout(
        prompt_id=prompt.id,
        tokens=np.concatenate([np.asarray(head, dtype=np.int64), sample.tokens]),
        prompt_length=len(head),
        mask=np.concatenate([unsampled, np.ones(len(sample.tokens), dtype=np.float32)]),
        logprobs=np.concatenate([unsampled, sample.logprobs]),
        stop_reason=sample.stop_reason,
        policy_version=sample.policy_version,
        text=text,
        messages=(*prompt.messages, Message("assistant", text)),
        answer=prompt.answer,
        as_text=prompt.as_text,
    )


def reply_text(tokenizer: Tokenizer, tokens: Sequence[int], sampling: SamplingConfig) -> str:
    """Text of a reply, up to the end of the first stop string in it; what else its last token holds is left out."""
    text = tokenizer.decode(tokens)
    ends = [place + len(stop) for stop in sampling.stop if (place := text.find(stop)) >= 0]
    return text[: min(ends, default=len(text))].strip()


def sampling_params(sampling: SamplingConfig, tokenizer: Tokenizer) -> DecodingParams:
    """What a sampler needs, with the tokenizer's end tokens; the name of a special token is that token.

    Raises ConfigError for a stop string that holds such a name among other text, which no reply would ever show.
    """
    names = [stop for stop in sampling.stop if stop in tokenizer.marks]
    texts = tuple(stop for stop in sampling.stop if stop not in tokenizer.marks)
    for stop in texts:
        if hidden := [name for name in tokenizer.marks if name in stop]:
            raise ConfigError(
                f"sampling.stop has {stop!r}, but {hidden[0]} is a special token, which is not part of a reply's text; "
                f"write {hidden[0]!r} alone, or plain text"
            )
    return DecodingParams(
        max_new_tokens=sampling.max_new_tokens,
        stop_tokens=tuple(dict.fromkeys((*tokenizer.stop_ids, *(tokenizer.marks[name] for name in names)))),
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        stop_strings=texts,
    )


def is_warped(sampling: SamplingConfig) -> bool:
    """Whether replies are drawn from another distribution than the model's, so that logprobs say nothing of it."""
    return bool(sampling.top_k) or sampling.top_p < 1 or sampling.temperature == 0


def require_unwarped(sampling: SamplingConfig, section: str) -> None:
    """Raises ConfigError for sampling of a section whose logprobs enter a ratio or a KL, which warping falsifies."""
    if is_warped(sampling):
        raise ConfigError(
            f"{section}.sampling has temperature={sampling.temperature}, top_k={sampling.top_k}, "
            f"top_p={sampling.top_p}; the KL and the ratio need temperature > 0, top_k=0 and top_p=1, because the "
            "replies are otherwise drawn from another distribution than the one whose logprobs are known"
        )


def seed_of(*parts: int | str) -> int:
    """A 63-bit seed from what names a draw (run seed, stage, step, row …): no state to save, none to restore."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
