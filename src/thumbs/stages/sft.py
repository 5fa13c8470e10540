"""Supervised fine-tuning: next-token loss on the assistant's turns.

Each conversation is one datum with weight 1 / (assistant tokens of the batch) on the assistant's targets, so the loss
is a mean over tokens whatever the micro-batches are. The checkpoint with the lowest held-out loss is what stays.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

from thumbs.config.losses import CROSS_ENTROPY
from thumbs.config.sft import SftConfig
from thumbs.data.messages import Conversation
from thumbs.data.tokenizers import training_sequences
from thumbs.engine.base import Engine, Handle, ModelSpec
from thumbs.records import Example
from thumbs.stages.context import Context, adam_at, batch_at
from thumbs.stages.loop import Loop, Metrics, State, optimizer_step


def run_sft(
    context: Context, config: SftConfig, train: Sequence[Conversation], heldout: Sequence[Conversation]
) -> dict[str, Any]:
    """Trains from the base model; returns the best held-out loss (nats per token), its step, and counts.

    Without held-out conversations the last checkpoint stays.
    """
    policy = context.engine.create(ModelSpec("policy", context.model, seed=context.seed))
    rows = [row for messages in train for row in training_sequences(context.tokenizer, messages)]
    held = [row for messages in heldout for row in training_sequences(context.tokenizer, messages)]
    steps = math.ceil(len(rows) / config.batch_size) * config.epochs

    def step(number: int, _: State) -> Metrics:
        started = time.monotonic()
        data = weighted(batch_at(rows, number, config.batch_size, context.seed, "sft"))
        adam = adam_at(config.optim, number, steps)
        output, report = optimizer_step(context, number, policy, data, [CROSS_ENTROPY], adam)
        return {
            "sft/loss": output.loss,
            "sft/grad_norm": report.grad_norm,
            "sft/learning_rate": adam.learning_rate,
            "sft/tokens_per_s": sum(map(len, data)) / (time.monotonic() - started),
        }

    def held_out(_: int, state: State, metrics: Metrics) -> float | None:
        if held:
            metrics["sft/heldout_loss"] = heldout_loss(context.engine, policy, held)
        return metrics.get("sft/heldout_loss")

    loop = Loop(
        context,
        title="SFT",
        steps=steps,
        models={"policy": policy},
        keeps={context.best: policy},
        shown={"loss": "sft/loss", "tokens/s": "sft/tokens_per_s"},
        save_every=config.eval_every,
        held_out=held_out,
    )
    best = loop.run(step).best
    context.engine.close(policy)
    return {"heldout_loss": best.loss, "best_step": best.step, "steps": steps, "conversations": len(rows)}


def heldout_loss(engine: Engine, policy: Handle, held: Sequence[Any]) -> float:
    """Mean negative logprob of the assistant's tokens (nats per token); held: token rows and their masks."""
    data = weighted(held)
    outputs = engine.forward(policy, data)
    return -float(sum((o.logprobs * d.columns["weights"]).sum() for o, d in zip(outputs, data, strict=True)))


def weighted(rows: Sequence[Any]) -> list[Example]:
    """Datums whose weights are the mask over the number of masked tokens of all rows."""
    total = sum(float(mask.sum()) for _, mask in rows)
    return [Example.next_token(tokens, weights=mask / total) for tokens, mask in rows]
