"""Preferences as tokens, for the stages that learn from pairs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from thumbs.config.losses import BradleyTerry, Dpo
from thumbs.data.preferences import preferred
from thumbs.data.tokenizers import Tokenizer
from thumbs.engine.base import AdamStep, Handle
from thumbs.records import Datum, Message, Preference
from thumbs.stages.context import Context, saving_batch
from thumbs.stages.sequences import pair_tokens


@dataclass(frozen=True, eq=False)
class Pair:
    """A prompt, two tokenised answers to it, P(first is better), and the margin (score units).

    reference: the reference's logprobs of both, where a stage needs them.
    """

    prompt: tuple[Message, ...]
    first: np.ndarray
    second: np.ndarray
    preferred: float
    margin: float
    reference: tuple[np.ndarray, np.ndarray] | None = None


def read_pairs(
    tokenizer: Tokenizer,
    preferences: Sequence[Preference],
    ties: Literal["drop", "half"],
    *,
    use_margin: bool = False,
) -> list[Pair]:
    """Tokenised pairs; those without a usable judgement leave, ties as `ties` says."""
    pairs = []
    for preference in preferences:
        better = preferred(preference)
        if better is None or (better == 0.5 and ties == "drop"):
            continue
        margin = preference.margin if use_margin and better != 0.5 else 0.0
        pairs.append(Pair(preference.prompt, *pair_tokens(tokenizer, preference), better, margin))
    return pairs


def pair_columns(number: int, pair: Pair, of: int) -> dict[str, float]:
    """What both losses read of pair `number` of a batch `of` so many; each pair weighs the same."""
    return {"unit": number, "preferred": pair.preferred, "margin": pair.margin, "unit_weight": 1.0 / of}


def train_step(
    stage: str, context: Context, model: Handle, data: list[Datum], loss: BradleyTerry | Dpo, adam: AdamStep, step: int
) -> dict[str, float]:
    """One optimizer step on pairs; returns its metrics, whose names begin with the stage's."""
    started = time.monotonic()
    with saving_batch(context, step, data):
        output = context.engine.forward_backward(model, data, [loss])
        report = context.engine.optim_step(model, adam)
    return {
        f"{stage}/loss": output.loss,
        f"{stage}/accuracy": output.metrics[f"{loss.name}/accuracy"],
        f"{stage}/score_gap": output.metrics[f"{loss.name}/score_gap"],
        f"{stage}/grad_norm": report.grad_norm,
        f"{stage}/learning_rate": adam.learning_rate,
        f"{stage}/tokens_per_s": distinct_tokens(data) / (time.monotonic() - started),
    }


def by_prompt(pairs: Sequence[Pair]) -> list[list[Pair]]:
    """Pairs of one prompt together: they share it and replies, and the engine computes once what is shared."""
    groups: dict[tuple[Message, ...], list[Pair]] = {}
    for pair in pairs:
        groups.setdefault(pair.prompt, []).append(pair)
    return list(groups.values())


def distinct_tokens(data: Sequence[Datum]) -> int:
    """Tokens, a reply that stands in several pairs counted once, as it is computed."""
    return sum({datum.inputs.tobytes(): len(datum) for datum in data}.values())
