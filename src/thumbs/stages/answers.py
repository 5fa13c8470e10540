"""Replies as tokens, for the stages that learn from the logprob of a whole reply."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol, Self, TypeVar

import numpy as np

from thumbs.data.preferences import preferred
from thumbs.data.tokenizers import Tokenizer, conversation_tokens
from thumbs.engine.base import Engine, Handle, ModelSpec
from thumbs.records import Example, ForwardOutput, Message, Preference, Reply
from thumbs.stages.context import Context
from thumbs.tracking.files import read_object_if_there, write_json

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class TokenisedReply:
    """Tokens [N] of a prompt and a reply to it; the last `length` of them are the reply.

    reference: the reference's logprob of the reply (nats), 0 where there is no reference.
    """

    tokens: np.ndarray
    length: int
    reference: float = 0.0


@dataclass(frozen=True, eq=False)
class AnswerPair:
    """Two answers to a prompt, P(first is better), and how much the pair counts."""

    prompt: tuple[Message, ...]
    first: TokenisedReply
    second: TokenisedReply
    preferred: float
    weight: float = 1.0

    @property
    def sides(self) -> tuple[TokenisedReply, TokenisedReply]:
        """Both answers."""
        return self.first, self.second

    def with_sides(self, first: TokenisedReply, second: TokenisedReply) -> AnswerPair:
        """The pair with other answers."""
        return replace(self, first=first, second=second)


class TwoAnswers(Protocol):
    """A row of data with two answers."""

    @property
    def sides(self) -> tuple[TokenisedReply, TokenisedReply]:
        """Both answers."""
        ...

    def with_sides(self, first: TokenisedReply, second: TokenisedReply) -> Self:
        """The row with other answers."""
        ...


R = TypeVar("R", bound=TwoAnswers)


def read_answer(tokenizer: Tokenizer, prompt: Sequence[Message], reply: Reply) -> TokenisedReply:
    """A reply as tokens, with the end token unless it was cut off."""
    tokens, mask = conversation_tokens(tokenizer, (*prompt, Message("assistant", reply.text)))
    before = np.flatnonzero(mask == 0)  # a reply is the last run of the assistant's own tokens
    length = len(mask) - (int(before[-1]) + 1 if len(before) else 0)
    return TokenisedReply(tokens, length) if reply.stop_reason == "stop" else TokenisedReply(tokens[:-1], length - 1)


def read_answer_pairs(
    tokenizer: Tokenizer, preferences: Sequence[Preference], ties: Literal["drop", "half"]
) -> list[AnswerPair]:
    """Tokenised pairs; those without a usable judgement leave, ties as `ties` says."""
    pairs = []
    for preference in preferences:
        better = preferred(preference)
        if better is None or (better == 0.5 and ties == "drop"):
            continue
        first, second = (read_answer(tokenizer, preference.prompt, reply) for reply in preference.replies)
        pairs.append(AnswerPair(preference.prompt, first, second, better, preference.weight))
    return pairs


def answer_datum(answer: TokenisedReply, **columns: float) -> Example:
    """A datum whose weights are 1 on the reply."""
    weights = np.zeros(len(answer.tokens) - 1, dtype=np.float32)
    weights[len(weights) - answer.length :] = 1.0
    return Example.next_token(answer.tokens, weights=weights, **columns)


def reply_logprobs(engine: Engine, handle: Handle, answers: Sequence[TokenisedReply]) -> np.ndarray:
    """The model's logprob of each reply, nats [n]."""
    return summed(engine.forward(handle, [answer_datum(answer) for answer in answers])) if answers else np.empty(0)


def summed(outputs: Sequence[ForwardOutput]) -> np.ndarray:
    """Logprobs of whole replies from those of their tokens, nats [n]."""
    return np.array([output.logprobs.sum(dtype=np.float64) for output in outputs])


def with_reference(context: Context, start: Path | None, answers: Sequence[TokenisedReply]) -> list[TokenisedReply]:
    """The answers with the reference's logprobs, of the model in checkpoint `start` (None: the base model).

    They are computed once and kept in the stage's folder under a key of model, checkpoint and tokens; with another key
    they are computed anew.
    """
    path, key = context.folder.path / "reference.json", _key(context, start, answers)
    kept = read_object_if_there(path)
    if kept.get("key") != key:
        _log.info("reference: logprobs of %d replies", len(answers))
        spec = ModelSpec("reference", context.model, ("lm",), start, trainable=False, seed=context.seed)
        reference = context.engine.create(spec)
        kept = {"key": key, "logprobs": reply_logprobs(context.engine, reference, answers).tolist()}
        context.engine.close(reference)
        write_json(path, kept)
    return [replace(answer, reference=known) for answer, known in zip(answers, kept["logprobs"], strict=True)]


def referenced(context: Context, start: Path | None, *parts: Sequence[R]) -> list[list[R]]:
    """Parts of the data with the reference's logprobs of all answers; no model is made for no rows."""
    if not any(parts):
        return [[] for _ in parts]
    answers = iter(with_reference(context, start, [answer for part in parts for row in part for answer in row.sides]))
    return [[row.with_sides(next(answers), next(answers)) for row in part] for part in parts]


def _key(context: Context, start: Path | None, answers: Sequence[TokenisedReply]) -> str:
    digest = hashlib.sha256(json.dumps([context.model.model_dump(mode="json"), context.seed]).encode())
    for file in sorted(start.glob("*.safetensors")) if start is not None else ():
        with file.open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    for answer in answers:
        digest.update(f"{len(answer.tokens)},{answer.length}:".encode())
        digest.update(answer.tokens.tobytes())
    return digest.hexdigest()
