"""A prompt and its answer as tokens and datums, the same way for every stage."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from thumbs.data.tokenizers import Tokenizer
from thumbs.records import Datum, Message, Preference, Reply


def conversation_tokens(tokenizer: Tokenizer, messages: Sequence[Message]) -> tuple[np.ndarray, np.ndarray]:
    """Tokens [N] up to the last one of the assistant, and the target-aligned mask [N - 1] of the assistant's tokens."""
    tokens, mask = tokenizer.render(messages)
    end = max(i for i, own in enumerate(mask) if own) + 1
    return np.asarray(tokens[:end], dtype=np.int64), np.asarray(mask[1:end], dtype=np.float32)


def reply_tokens(tokenizer: Tokenizer, prompt: Sequence[Message], reply: Reply) -> np.ndarray:
    """Tokens of a prompt and a reply, with the end token unless the reply was cut off."""
    tokens, _ = conversation_tokens(tokenizer, (*prompt, Message("assistant", reply.text)))
    return tokens if reply.stop_reason == "stop" else tokens[:-1]


def pair_tokens(tokenizer: Tokenizer, preference: Preference) -> tuple[np.ndarray, np.ndarray]:
    """Both sides of a preference."""
    first, second = preference.replies
    return reply_tokens(tokenizer, preference.prompt, first), reply_tokens(tokenizer, preference.prompt, second)


def token_mean(data: Sequence[Datum], coef: float = 1.0) -> list[Datum]:
    """The same datums with weights · coef / (sum of all weights): every sampled token of the batch counts the same."""
    total = sum(float(datum.columns["weights"].sum()) for datum in data)
    return [
        Datum(d.inputs, d.targets, {**d.columns, "weights": d.columns["weights"] * np.float32(coef / total)})
        for d in data
    ]
