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
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from thumbs.config.losses import ScoreLoss
from thumbs.config.reward_model import RewardModelConfig
from thumbs.engine.base import Handle, ModelSpec
from thumbs.engine.checkpoints import HEAD, read_tensors
from thumbs.models.tensor_files import write_tensors
from thumbs.rewards.ensemble import member_paths
from thumbs.rewards.model import member_scores
from thumbs.rollout.rounds import seed_of
from thumbs.stages.context import Context, adam_at, grouped_batch_at
from thumbs.stages.loop import Loop, Metrics, State, optimizer_step
from thumbs.stages.reward_heldout import Held, apart, read_held
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
from thumbs.stages.sequences import by_prompt, distinct_tokens


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

    A third of the held-out prompts chooses the checkpoint, and the others report it (`apart`). Returns score_mean,
    score_std, counts and the scores of the reporting ones; with an ensemble, the scale of each member.
    """
    check_informative(train, config)
    scale = rating_scale(train, config.ordinal_spread)
    items, loss = read_items(context.tokenizer, train, config, scale), loss or loss_of(config, scale)
    held, reporting = (read_held(context.tokenizer, rows, config, scale) for rows in apart(heldout))
    models = create_members(context, config, start)
    paths, groups = member_paths(context.best, len(models)), by_prompt(items)
    steps = math.ceil(len(items) / config.batch_size) * config.epochs
    training = RewardTraining(context, config, models, loss, steps)

    def step(number: int, _: State) -> Metrics:
        return training.step(number, grouped_batch_at(groups, number, config.batch_size, context.seed, "reward"))

    def held_out(_: int, state: State, metrics: Metrics) -> float | None:
        found = held.measure(context.engine, models, loss)
        metrics |= {f"reward/heldout_{name}": value for name, value in found.items()}
        return found.get("loss")

    loop = Loop(
        context,
        title="reward model",
        steps=steps,
        models={"reward" if i == 0 else f"reward-{i + 1}": model for i, model in enumerate(models)},
        keeps=dict(zip(paths, models, strict=True)),
        shown={"loss": "reward/loss", "accuracy": "reward/accuracy", "tokens/s": "reward/tokens_per_s"},
        save_every=config.eval_every,
        held_out=held_out,
        patience=config.patience,
    )
    best = loop.run(step).best
    for model, path in zip(models, paths, strict=True):
        if config.form not in ("steps", "safety"):
            drop_bias(path / HEAD)
        context.engine.load(model, path)
    results = measure(context, config, models, items, reporting) | {"best_step": best.step}
    results |= {f"heldout_{config.form}": len(read_items(context.tokenizer, heldout, config, scale))}
    results |= {f"choosing_{config.form}": len(held.items)}
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


@dataclass(frozen=True)
class RewardTraining:
    """One run's fixed parts."""

    context: Context
    config: RewardModelConfig
    models: Sequence[Handle]
    loss: ScoreLoss
    steps: int

    def step(self, number: int, batch: Sequence[Item]) -> Metrics:
        """One optimizer step of each model on its draw of the batch; returns the metrics, means over the models."""
        c, started, members, tokens = self.config, time.monotonic(), [], 0
        adam = adam_at(c.optim, number, self.steps)
        for place, model in enumerate(self.models):
            heads = range(place * c.heads, (place + 1) * c.heads)
            data = item_data(batch, draw(batch, heads, self.context.seed) if c.members > 1 else None)
            output, report = optimizer_step(self.context, number, model, data, [self.loss], adam)
            metrics = {name.removeprefix(f"{self.loss.formula}/"): value for name, value in output.metrics.items()}
            if "ordered_sum" in metrics:  # of lists: summed over micro-batches, which need not hold equally many
                metrics["accuracy"] = metrics["in_order_sum"] / max(metrics["ordered_sum"], 1e-12)
            members.append({"loss": output.loss, **metrics, "grad_norm": report.grad_norm})
            tokens += distinct_tokens(data)
        logged = [name for name in ("loss", "accuracy", "score_gap", "error", "grad_norm") if name in members[0]]
        means = {f"reward/{name}": sum(metrics[name] for metrics in members) / len(members) for name in logged}
        speed = tokens / (time.monotonic() - started)
        return means | {"reward/learning_rate": adam.learning_rate, "reward/tokens_per_s": speed}


def drop_bias(head: Path) -> None:
    """Sets the bias of a saved head to zero.

    It shifts all scores alike, and everything downstream uses them less their mean, so nothing depends on it; without
    it the model is exactly a sequence classifier of `transformers`. Scores of steps and costs are log-odds and keep
    theirs.
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
