"""Supervised fine-tuning: next-token loss on the assistant's turns.

Each conversation is one datum with weight 1 / (assistant tokens of the batch) on the assistant's targets, so the loss
is a mean over tokens whatever the micro-batches are. The checkpoint with the lowest held-out loss is what stays.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

from thumbs.config.losses import CrossEntropy
from thumbs.config.sft import SftConfig
from thumbs.data.messages import Conversation
from thumbs.data.tokenizers import training_sequences
from thumbs.engine.base import Handle, ModelSpec
from thumbs.records import Datum
from thumbs.stages.context import Context, Resume, adam_at, batch_at, saving_batch
from thumbs.tracking.progress import Progress


def run_sft(
    context: Context, config: SftConfig, train: Sequence[Conversation], heldout: Sequence[Conversation]
) -> dict[str, Any]:
    """Trains from the base model; returns the best held-out loss (nats a token), its step, and counts.

    Without held-out conversations the last checkpoint stays.
    """
    engine, log = context.engine, context.folder.metrics
    policy = engine.create(ModelSpec("policy", context.model, seed=context.seed))
    rows = [row for messages in train for row in training_sequences(context.tokenizer, messages)]
    held = [row for messages in heldout for row in training_sequences(context.tokenizer, messages)]
    steps = math.ceil(len(rows) / config.batch_size) * config.epochs
    resume = Resume(context, {"policy": policy})
    step, state = resume.load()
    best = state or {"heldout_loss": math.inf, "step": 0}
    with Progress("SFT", steps, ("loss", "tokens/s")) as bar:
        bar.advance(step)
        while step < steps:
            started = time.monotonic()
            data = weighted(batch_at(rows, step, config.batch_size, context.seed, "sft"))
            adam = adam_at(config.optim, step, steps)
            with saving_batch(context, step, data):
                output = engine.forward_backward(policy, data, [CrossEntropy()])
                report = engine.optim_step(policy, adam)
            step += 1
            metrics = {
                "sft/loss": output.loss,
                "sft/grad_norm": report.grad_norm,
                "sft/learning_rate": adam.learning_rate,
                "sft/tokens_per_s": sum(map(len, data)) / (time.monotonic() - started),
            }
            if step % config.eval_every == 0 or step == steps:
                best = keep_best(context, policy, held, step, best, metrics)
                log.log(step, metrics)
                resume.save(step, best)
            else:
                log.log(step, metrics)
            bar.advance(loss=output.loss, **{"tokens/s": metrics["sft/tokens_per_s"]})
    engine.close(policy)
    return {
        "heldout_loss": best["heldout_loss"],
        "best_step": best["step"],
        "steps": steps,
        "conversations": len(rows),
    }


def keep_best(
    context: Context,
    policy: Handle,
    held: list[Any],
    step: int,
    best: dict[str, Any],
    metrics: dict[str, float],
) -> dict[str, Any]:
    """Saves the weights when the held-out loss is the lowest so far; puts that loss into `metrics`."""
    loss = heldout_loss(context, policy, held) if held else None
    if loss is not None:
        metrics["sft/heldout_loss"] = loss
        if loss >= best["heldout_loss"]:
            return best
    context.engine.save(policy, context.best)
    return {"heldout_loss": loss, "step": step}


def heldout_loss(context: Context, policy: Handle, held: list[Any]) -> float:
    """Mean negative logprob of the assistant's tokens (nats a token)."""
    data = weighted(held)
    outputs = context.engine.forward(policy, data)
    return -float(sum((o.logprobs * d.columns["weights"]).sum() for o, d in zip(outputs, data, strict=True)))


def weighted(rows: Sequence[Any]) -> list[Datum]:
    """Datums whose weights are the mask over the number of masked tokens of all rows."""
    total = sum(float(mask.sum()) for _, mask in rows)
    return [Datum.next_token(tokens, weights=mask / total) for tokens, mask in rows]
