"""The cost model: P(unsafe) of a reply, from pairs of which each reply is safe or not.

Trained as the reward model is, with the loss of Safe RLHF's cost model (`functional/reward_losses.py`: cost). Its zero
parts safe from unsafe, and Platt's scaling makes a probability of it: σ(scale · value + shift). Held-out prompts are
halved. One half chooses the checkpoint and fits the scaling, the other is what is reported of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from thumbs.config.cost_model import CostModelConfig
from thumbs.data.splits import is_heldout
from thumbs.data.tokenizers import reply_tokens
from thumbs.engine.base import ModelSpec
from thumbs.errors import DataError
from thumbs.functional.calibration import auroc, brier, ece_by_chance, over_prompts, platt, reliability, sigmoid
from thumbs.records import SafetyPair
from thumbs.rewards.model import member_scores
from thumbs.rollout.rounds import seed_of
from thumbs.stages.context import Context
from thumbs.stages.reward_model import run_reward_model


def run_cost_model(
    context: Context,
    config: CostModelConfig,
    start: Path | None,
    train: Sequence[SafetyPair],
    heldout: Sequence[SafetyPair],
) -> dict[str, Any]:
    """Trains from the checkpoint `start` (None: the base model); returns counts, `cost` (scale and shift) and
    `calibration`, what `calibration_of` gives.

    Raises DataError if the held-out half for the scaling has replies of one kind only.
    """
    fit, test = halves(heldout, config.data.holdout)
    _require_both("the held-out half that calibrates", fit)
    _require_both("the held-out half that is reported", test)
    results = run_reward_model(context, config.training(), start, train, fit)
    spec = ModelSpec("cost", context.model, ("scalar",), context.best, trainable=False, seed=context.seed)
    handle = context.engine.create(spec)

    def values(rows: Sequence[SafetyPair]) -> tuple[np.ndarray, np.ndarray]:
        """Value at the end, and length in tokens, of both replies of each pair, [2 · rows]."""
        sequences = [reply_tokens(context.tokenizer, row.prompt, reply) for row in rows for reply in row.replies]
        heads = [len(context.tokenizer.render_prompt(row.prompt)) for row in rows]
        lengths = np.array([len(tokens) for tokens in sequences]) - np.repeat(heads, 2)
        return member_scores(context.engine, [handle], sequences)[:, 0], lengths.astype(float)

    scale, shift = platt(values(fit)[0], _labels(fit))
    scores, lengths = values(test)
    context.engine.close(handle)
    return {
        "pairs": results["safety"],
        "heldout_pairs": len(heldout),
        "best_step": results["best_step"],
        "cost": {"scale": scale, "shift": shift},
        "calibration": calibration_of(sigmoid(scale * scores + shift), lengths, test, seed_of(context.seed, "cost")),
    }


def halves(rows: Sequence[SafetyPair], holdout: float) -> tuple[list[SafetyPair], list[SafetyPair]]:
    """(for checkpoint and scaling, for the report): held-out rows, which are `holdout` of all, by the same hash."""
    reported = [is_heldout(row.prompt, holdout / 2) for row in rows]
    return (
        [row for row, own in zip(rows, reported, strict=True) if not own],
        [row for row, own in zip(rows, reported, strict=True) if own],
    )


def calibration_of(p: np.ndarray, lengths: np.ndarray, rows: Sequence[SafetyPair], seed: int) -> dict[str, Any]:
    """How far P(unsafe) [2 · rows] of the replies can be trusted; every number with NAME_low and NAME_high, 95 % of a
    bootstrap over prompts.

    auroc, next to that of length alone; brier, next to that of the mean label; ece, next to what chance gives
    (`ece_by_chance` and its 95th percentile); accuracy: pairs in the order of their harm. unsafe: mean label.
    """
    labels, place = _labels(rows), {prompt: i for i, prompt in enumerate(dict.fromkeys(row.prompt for row in rows))}
    prompts = np.array([place[row.prompt] for row in rows for _ in row.replies])
    first_safer = np.array([row.safer for row in rows])
    right, clear = (p[1::2] > p[::2]) == (first_safer > 0.5), first_safer != 0.5

    def numbers(weights: np.ndarray) -> Mapping[str, float]:
        mean, pairs = float(weights @ labels / weights.sum()), weights[::2] * clear
        return {
            "auroc": auroc(p, labels, weights),
            "auroc_of_length": auroc(lengths, labels, weights),
            "brier": brier(p, labels, weights),
            "brier_of_mean": brier(np.full(len(p), mean), labels, weights),
            "ece": reliability(p, labels, weights)["ece"],
            "accuracy": float(pairs @ right / pairs.sum()) if pairs.sum() else float("nan"),
            "unsafe": mean,
        }

    chance, most = ece_by_chance(p, seed)
    found = {"replies": len(p), "prompts": len(place), **over_prompts(numbers, prompts, seed)}
    return found | {
        "ece_by_chance": chance,
        "ece_by_chance_high": most,
        "bins": reliability(p, labels, np.ones(len(p)))["bins"],
    }


def told(calibration: Mapping[str, Any]) -> str:
    """The same in a line for the person who watches."""

    def number(name: str) -> str:
        return f"{calibration[name]:.3f} [{calibration[f'{name}_low']:.3f}, {calibration[f'{name}_high']:.3f}]"

    return (
        f"cost model on {calibration['replies']} replies to {calibration['prompts']} prompts that chose nothing: AUROC "
        f"{number('auroc')} (length alone {calibration['auroc_of_length']:.3f}), Brier score {number('brier')} (the "
        f"mean alone {calibration['brier_of_mean']:.3f}), calibration error {number('ece')} (by chance up to "
        f"{calibration['ece_by_chance_high']:.3f})"
    )


def _labels(rows: Sequence[SafetyPair]) -> np.ndarray:
    return np.array([label for row in rows for label in row.unsafe])


def _require_both(what: str, rows: Sequence[SafetyPair]) -> None:
    if not rows or len({label > 0.5 for label in _labels(rows).tolist()}) < 2:
        raise DataError(
            f"{what} has {len(rows)} pairs, and needs safe and unsafe replies; raise cost_model.data.holdout, or add "
            "pairs"
        )
