"""The reward model: Bradley–Terry on a scalar head at the last token, from the SFT weights.

-log σ(score_preferred - score_other - margin), Stiennon et al. 2020, arXiv:2009.01325, eq. 1 (with Llama 2's margin,
arXiv:2307.09288, eq. 2). Which reply of a pair stands first makes no difference. Scores carry no absolute meaning;
their mean and deviation over the replies seen in training are stored, and everything downstream uses them normalised.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from thumbs.config.losses import BradleyTerry
from thumbs.config.reward import RewardConfig
from thumbs.engine.base import Handle, ModelSpec
from thumbs.errors import DataError
from thumbs.records import Datum, Preference
from thumbs.rewards.model import raw_scores
from thumbs.stages.context import Context, Resume, adam_at, grouped_batch_at
from thumbs.stages.pairs import Pair, by_prompt, pair_columns, read_pairs, train_step
from thumbs.tracking.progress import Progress


@dataclass(frozen=True)
class HeldOut:
    """Scores of the held-out pairs, for the audit: raw scores, P(first is better), reply lengths in tokens."""

    scores_a: list[float]
    scores_b: list[float]
    preferred: list[float]
    lengths_a: list[int]
    lengths_b: list[int]


def run_reward(
    context: Context,
    config: RewardConfig,
    start: Path | None,
    train: Sequence[Preference],
    heldout: Sequence[Preference],
) -> dict[str, Any]:
    """Trains from the checkpoint `start` (None: the base model).

    Returns score_mean, score_std, counts and the held-out scores.
    """
    engine, log = context.engine, context.folder.metrics
    spec = ModelSpec(
        "reward", context.model, ("scalar",), start, freeze_trunk=config.freeze_backbone, seed=context.seed
    )
    model = engine.create(spec)
    pairs, held = (
        read_pairs(context.tokenizer, part, config.ties, use_margin=config.use_margin) for part in (train, heldout)
    )
    if all(pair.preferred == 0.5 for pair in pairs):
        raise DataError(
            f"none of {len(train)} preferences says which reply is better; the reward model has nothing to learn"
        )
    prompts, loss = by_prompt(pairs), BradleyTerry(center_coef=config.center_coef)
    steps = math.ceil(len(pairs) / config.batch_size) * config.epochs
    resume = Resume(context, {"reward": model})
    step, state = resume.load()
    best = state or {"heldout_loss": math.inf, "step": 0, "misses": 0}
    with Progress("reward model", steps, ("loss", "accuracy", "tokens/s")) as bar:
        bar.advance(step)
        while step < steps and best["misses"] < config.patience:
            batch = grouped_batch_at(prompts, step, config.batch_size, context.seed, "reward")
            metrics = train_step(
                "reward", context, model, pair_data(batch), loss, adam_at(config.optim, step, steps), step
            )
            step += 1
            due = step % config.eval_every == 0 or step == steps
            if due:
                best = keep_best(context, model, heldout_scores(context, model, held), step, best, metrics)
            log.log(step, metrics)
            if due:
                resume.save(step, best)
            shown = {"accuracy": metrics["reward/accuracy"], "tokens/s": metrics["reward/tokens_per_s"]}
            bar.advance(loss=metrics["reward/loss"], **shown)
    engine.load(model, context.best)
    results = measure(context, model, pairs, held) | {"best_step": best["step"]}
    engine.close(model)
    return results


def measure(context: Context, model: Handle, pairs: Sequence[Pair], held: Sequence[Pair]) -> dict[str, Any]:
    """What stays of the stage: the scale of the scores on the training replies, and the held-out scores."""
    seen = raw_scores(context.engine, model, [tokens for pair in pairs for tokens in (pair.first, pair.second)])
    return {
        "score_mean": float(seen.mean()),
        "score_std": max(float(seen.std()), 1e-6),
        "pairs": len(pairs),
        "heldout_pairs": len(held),
        "heldout": asdict(heldout_scores(context, model, held)),
    }


def pair_data(pairs: Sequence[Pair]) -> list[Datum]:
    """Two datums a pair; each pair weighs 1 / (pairs of the batch), each sequence is read at its last token."""
    data = []
    for number, pair in enumerate(pairs):
        for tokens in (pair.first, pair.second):
            weights = np.zeros(len(tokens), dtype=np.float32)
            weights[-1] = 1.0
            data.append(Datum.whole_sequence(tokens, weights=weights, **pair_columns(number, pair, len(pairs))))
    return data


def keep_best(
    context: Context,
    model: Handle,
    found: HeldOut,
    step: int,
    best: dict[str, Any],
    metrics: dict[str, float],
) -> dict[str, Any]:
    """Saves the weights when the held-out loss is the lowest so far; counts the evaluations without progress."""
    if found.preferred:
        gap, better = np.subtract(found.scores_a, found.scores_b), np.array(found.preferred)
        loss = float(np.mean(better * np.logaddexp(0, -gap) + (1 - better) * np.logaddexp(0, gap)))
        clear = better != 0.5
        metrics["reward/heldout_loss"] = loss
        if clear.any():
            metrics["reward/heldout_accuracy"] = float(np.mean((gap > 0)[clear] == (better > 0.5)[clear]))
        if loss >= best["heldout_loss"]:
            return {**best, "misses": best["misses"] + 1}
        best = {"heldout_loss": loss, "step": step, "misses": 0}
    else:
        best = {**best, "step": step}
    context.engine.save(model, context.best)
    return best


def heldout_scores(context: Context, model: Handle, held: Sequence[Pair]) -> HeldOut:
    """Raw scores of both sides of each held-out pair."""
    scores = raw_scores(context.engine, model, [t for pair in held for t in (pair.first, pair.second)]) if held else []
    return HeldOut(
        scores_a=[float(s) for s in scores[0::2]],
        scores_b=[float(s) for s in scores[1::2]],
        preferred=[pair.preferred for pair in held],
        lengths_a=[len(pair.first) for pair in held],
        lengths_b=[len(pair.second) for pair in held],
    )
