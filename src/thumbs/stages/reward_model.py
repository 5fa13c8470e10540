"""The reward model: scores at the last token, from the SFT weights, that agree with pairs, rankings, ratings or steps.

By default Bradley–Terry on pairs: -log σ(score_preferred - score_other - margin), Stiennon et al. 2020,
arXiv:2009.01325, eq. 1 (with Llama 2's margin, arXiv:2307.09288, eq. 2). Which reply of a pair stands first makes no
difference. Scores carry no absolute meaning; their mean and deviation over the replies seen in training are stored,
and everything downstream uses them normalised.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from thumbs.config.losses import ScoreLoss
from thumbs.config.reward_model import RewardModelConfig
from thumbs.engine.base import AdamStep, Handle, ModelSpec
from thumbs.engine.checkpoints import HEAD, read_tensors
from thumbs.models.tensor_files import write_tensors
from thumbs.rewards.ensemble import member_paths, member_scores
from thumbs.rollout.rounds import seed_of
from thumbs.stages.context import Context, Resume, adam_at, grouped_batch_at, saving_batch
from thumbs.stages.pairs import by_prompt, distinct_tokens
from thumbs.stages.reward_heldout import Held, read_held
from thumbs.stages.reward_items import (
    Item,
    Row,
    check_informative,
    draw,
    item_data,
    loss_of,
    rating_scale,
    read_items,
)
from thumbs.tracking.progress import Progress


def run_reward_model(
    context: Context,
    config: RewardModelConfig,
    start: Path | None,
    train: Sequence[Row],
    heldout: Sequence[Row],
    *,
    loss: ScoreLoss | None = None,
) -> dict[str, Any]:
    """Trains from the checkpoint `start` (None: the base model) on rows of the form that config.loss learns from;
    `loss`: what is minimised in place of that one, on the same rows.

    Returns score_mean, score_std, counts and the held-out scores; with an ensemble, the scale of each member.
    """
    log = context.folder.metrics
    check_informative(train, config)
    scale = rating_scale(train, config.ordinal_spread)
    items, loss = read_items(context.tokenizer, train, config, scale), loss or loss_of(config, scale)
    held = read_held(context.tokenizer, heldout, config, scale)
    models = create_members(context, config, start)
    groups = by_prompt(items)
    steps = math.ceil(len(items) / config.batch_size) * config.epochs
    resume = Resume(context, {"reward" if i == 0 else f"reward-{i + 1}": model for i, model in enumerate(models)})
    step, state = resume.load()
    best = state or {"heldout_loss": math.inf, "step": 0, "misses": 0}
    with Progress("reward model", steps, ("loss", "accuracy", "tokens/s")) as bar:
        bar.advance(step)
        while step < steps and best["misses"] < config.patience:
            batch = grouped_batch_at(groups, step, config.batch_size, context.seed, "reward")
            metrics = train_step(context, config, models, batch, loss, adam_at(config.optim, step, steps), step)
            step += 1
            due = step % config.eval_every == 0 or step == steps
            if due:
                best = keep_best(context, models, held, loss, step, best, metrics)
            log.log(step, metrics)
            if due:
                resume.save(step, best)
            shown = {"accuracy": metrics.get("reward/accuracy"), "tokens/s": metrics["reward/tokens_per_s"]}
            bar.advance(loss=metrics["reward/loss"], **shown)
    for model, path in zip(models, member_paths(context.best, len(models)), strict=True):
        if config.form != "steps":
            drop_bias(path / HEAD)
        context.engine.load(model, path)
    results = measure(context, config, models, items, held) | {"best_step": best["step"]}
    for model in models:
        context.engine.close(model)
    return results


def create_members(context: Context, config: RewardModelConfig, start: Path | None) -> list[Handle]:
    """One model, or of an ensemble of adapters one each."""
    seeds = [seed_of(context.seed, "reward", i) if config.members > 1 else None for i in range(config.adapters)]
    return [
        context.engine.create(
            ModelSpec(
                "reward",
                context.model,
                ("scalar",),
                start,
                freeze_trunk=config.freeze_backbone,
                seed=context.seed,
                adapter_seed=seed,
                scores=config.heads,
            )
        )
        for seed in seeds
    ]


def train_step(
    context: Context,
    config: RewardModelConfig,
    models: Sequence[Handle],
    batch: Sequence[Item],
    loss: ScoreLoss,
    adam: AdamStep,
    step: int,
) -> dict[str, float]:
    """One optimizer step of each model on its draw of the batch; returns the metrics, means over the models."""
    started, found, tokens = time.monotonic(), [], 0
    for place, model in enumerate(models):
        members = range(place * config.heads, (place + 1) * config.heads)
        data = item_data(batch, draw(batch, members, context.seed) if config.members > 1 else None)
        with saving_batch(context, step, data):
            output = context.engine.forward_backward(model, data, [loss])
            report = context.engine.optim_step(model, adam)
        named = {name.removeprefix(f"{loss.formula}/"): value for name, value in output.metrics.items()}
        if "ordered_sum" in named:  # of lists: summed over micro-batches, which need not hold equally many
            named["accuracy"] = named["in_order_sum"] / max(named["ordered_sum"], 1e-12)
        found.append({"loss": output.loss, **named, "grad_norm": report.grad_norm})
        tokens += distinct_tokens(data)
    kept = [name for name in ("loss", "accuracy", "score_gap", "error", "grad_norm") if name in found[0]]
    means = {f"reward/{name}": sum(metrics[name] for metrics in found) / len(found) for name in kept}
    speed = tokens / (time.monotonic() - started)
    return means | {"reward/learning_rate": adam.learning_rate, "reward/tokens_per_s": speed}


def keep_best(
    context: Context,
    models: Sequence[Handle],
    held: Held,
    loss: ScoreLoss,
    step: int,
    best: dict[str, Any],
    metrics: dict[str, float],
) -> dict[str, Any]:
    """Saves the weights when the held-out loss is the lowest so far; counts the evaluations without progress."""
    found = held.measure(context.engine, models, loss)
    metrics |= {f"reward/heldout_{name}": value for name, value in found.items()}
    if not found:
        best = {**best, "step": step}
    elif found["loss"] >= best["heldout_loss"]:
        return {**best, "misses": best["misses"] + 1}
    else:
        best = {"heldout_loss": found["loss"], "step": step, "misses": 0}
    for model, path in zip(models, member_paths(context.best, len(models)), strict=True):
        context.engine.save(model, path)
    return best


def drop_bias(head: Path) -> None:
    """Sets the bias of a saved head to zero.

    It shifts all scores alike, and everything downstream uses them less their mean, so nothing depends on it; without
    it the model is exactly a sequence classifier of `transformers`. Scores of steps are log-odds and keep theirs.
    """
    tensors = read_tensors(head)
    write_tensors(head, tensors | {"bias": torch.zeros_like(tensors["bias"])})


def measure(
    context: Context, config: RewardModelConfig, models: Sequence[Handle], items: Sequence[Item], held: Held
) -> dict[str, Any]:
    """What stays of the stage: the scale of the scores on the training replies, and the held-out scores."""
    sequences = [tokens for item in items for term in item.terms for tokens in term.sequences]
    seen = member_scores(context.engine, models, sequences)
    means, stds = seen.mean(axis=0), np.maximum(seen.std(axis=0), 1e-6)
    results = {
        "score_mean": float(means.mean()),
        "score_std": float(stds.mean()),
        config.form: len(items),
        f"heldout_{config.form}": len(held.items),
        "heldout": asdict(held.scores(context.engine, models)),
    }
    if config.form == "steps":
        results["process"] = config.loss
    if config.members > 1:
        results["ensemble"] = {
            "heads": config.heads,
            "combine": config.combine,
            "std_coef": config.std_coef,
            "means": means.tolist(),
            "stds": stds.tolist(),
        }
    return results
