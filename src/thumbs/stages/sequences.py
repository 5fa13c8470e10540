"""Prompts and replies as tokens and datums, the same way for every stage."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Protocol, TypeVar

import numpy as np
import torch

from thumbs.config.group_methods import Normaliser
from thumbs.data.tokenizers import Tokenizer, reply_tokens
from thumbs.functional.normalise import length_mean_weights, sequence_mean_weights, token_mean_weights
from thumbs.records import Example, Message, Preference


class Asked(Protocol):
    """Something that answers a prompt."""

    @property
    def prompt(self) -> tuple[Message, ...]:
        """The prompt's messages."""
        ...


T = TypeVar("T", bound=Asked)


def pair_tokens(tokenizer: Tokenizer, preference: Preference) -> tuple[np.ndarray, np.ndarray]:
    """Both sides of a preference."""
    first, second = preference.replies
    return reply_tokens(tokenizer, preference.prompt, first), reply_tokens(tokenizer, preference.prompt, second)


def token_mean(data: Sequence[Example], coef: float = 1.0) -> list[Example]:
    """The same datums with weights · coef / (sum of all weights): every sampled token of the batch counts the same."""
    total = sum(float(datum.columns["weights"].sum()) for datum in data)
    return [
        Example(d.inputs, d.targets, {**d.columns, "weights": d.columns["weights"] * np.float32(coef / total)})
        for d in data
    ]


def normalised(data: Sequence[Example], normaliser: Normaliser, length: int) -> list[Example]:
    """The datums of one optimizer step, weights 0 or 1, weighted as the normaliser says (`constant`: length)."""
    masks = [torch.from_numpy(datum.columns["weights"]) for datum in data]
    weights = {
        "token": token_mean_weights,
        "sequence": sequence_mean_weights,
        "constant": partial(length_mean_weights, length=length),
        "sum": partial(length_mean_weights, length=1),
    }[normaliser](masks)
    return [
        Example(d.inputs, d.targets, {**d.columns, "weights": w.numpy()}) for d, w in zip(data, weights, strict=True)
    ]


def by_prompt(pairs: Sequence[T]) -> list[list[T]]:
    """Pairs of one prompt together: they share it and replies, and the engine computes once what is shared."""
    groups: dict[tuple[Message, ...], list[T]] = {}
    for pair in pairs:
        groups.setdefault(pair.prompt, []).append(pair)
    return list(groups.values())


def distinct_tokens(data: Sequence[Example]) -> int:
    """Tokens, a reply that stands in several pairs counted once, as it is computed."""
    return sum({datum.inputs.tobytes(): len(datum) for datum in data}.values())
