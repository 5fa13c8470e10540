"""Direct preference optimisation (Rafailov et al. 2023, arXiv:2305.18290): pairs straight to a policy, no reward model.

The loss is Bradley–Terry on implicit rewards, beta times the log-ratio of policy and reference (eq. 7). The reference
is the policy before its first step, so its logprobs are taken once, before training.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from thumbs.config.losses import Dpo
from thumbs.config.preference import DpoConfig
from thumbs.engine.base import Engine, Handle, ModelSpec
from thumbs.errors import DataError
from thumbs.models.prefixes import shared_length
from thumbs.records import Datum, Preference
from thumbs.stages.context import Context, Resume, adam_at, grouped_batch_at
from thumbs.stages.pairs import Pair, by_prompt, pair_columns, read_pairs, train_step
from thumbs.tracking.progress import Progress


def run_dpo(context: Context, config: DpoConfig, start: Path | None, train: Sequence[Preference]) -> dict[str, Any]:
    """Trains from the checkpoint `start` (None: the base model); returns the last metrics and counts."""
    engine, log = context.engine, context.folder.metrics
    reference = engine.create(ModelSpec("reference", context.model, ("lm",), start, trainable=False, seed=context.seed))
    policy = engine.create(ModelSpec("policy", context.model, ("lm",), start, seed=context.seed))
    pairs = read_pairs(context.tokenizer, train, config.ties)
    if all(pair.preferred == 0.5 for pair in pairs):
        raise DataError(f"none of {len(train)} preferences says which reply is better; there is nothing to learn")
    prompts = by_prompt(with_reference(context.engine, reference, pairs))
    engine.close(reference)
    loss = Dpo(beta=config.beta)
    steps = math.ceil(len(pairs) / config.batch_size) * config.epochs
    resume = Resume(context, {"policy": policy})
    step, metrics = resume.load()
    with Progress("DPO", steps, ("loss", "accuracy", "tokens/s")) as bar:
        bar.advance(step)
        while step < steps:
            batch = grouped_batch_at(prompts, step, config.batch_size, context.seed, "dpo")
            metrics = train_step(
                "dpo", context, policy, pair_data(batch), loss, adam_at(config.optim, step, steps), step
            )
            step += 1
            log.log(step, metrics)
            if step % config.save_every == 0 or step == steps:
                resume.save(step, metrics)
            shown = {"accuracy": metrics["dpo/accuracy"], "tokens/s": metrics["dpo/tokens_per_s"]}
            bar.advance(loss=metrics["dpo/loss"], **shown)
    engine.save(policy, context.best)
    engine.close(policy)
    return {"steps": steps, "pairs": len(pairs), "last": metrics}


def with_reference(engine: Engine, reference: Handle, pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs with the reference's logprobs of their sides."""
    known = [output.logprobs for output in engine.forward(reference, pair_data(pairs))]
    return [
        replace(pair, reference=(first, second))
        for pair, first, second in zip(pairs, known[0::2], known[1::2], strict=True)
    ]


def pair_data(pairs: Sequence[Pair]) -> list[Datum]:
    """Two datums a pair. Weights are 1 from where the replies part: before it both sides are equal, and cancel."""
    data = []
    for number, pair in enumerate(pairs):
        parted = shared_length(pair.first, pair.second)
        for side, tokens in enumerate((pair.first, pair.second)):
            columns = {"weights": (np.arange(1, len(tokens)) >= parted).astype(np.float32)}
            if pair.reference is not None:
                columns["reference_logprobs"] = pair.reference[side]
            data.append(Datum.next_token(tokens, **columns, **pair_columns(number, pair, len(pairs))))
    return data
