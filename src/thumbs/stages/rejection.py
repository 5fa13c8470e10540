"""Rejection-sampling fine-tuning (RAFT, arXiv:2304.06767): best-of-n, put into the weights.

    for each round: sample n replies per prompt → score → keep the best → supervised fine-tuning on them

No ratio, no critic, and no KL term: n, the rounds and the learning rate say how far the policy goes. What a round
learns from is in `round-K.json`, so a run that was interrupted trains on the same replies.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from thumbs.config.losses import CROSS_ENTROPY
from thumbs.config.rejection import RejectionConfig
from thumbs.engine.base import Handle, ModelSpec
from thumbs.errors import ConfigError, DataError
from thumbs.records import Example, Prompt, Rollout
from thumbs.rewards.base import RewardSource
from thumbs.rollout.rounds import is_warped
from thumbs.stages.context import Context, adam_at, batch_at
from thumbs.stages.filtering import filtered
from thumbs.stages.loop import Loop, State, optimizer_step
from thumbs.stages.milestones import check_frontier, keep_milestones
from thumbs.stages.rollouts import roll_out
from thumbs.stages.sequences import token_mean
from thumbs.stages.watch import OpenWatch
from thumbs.tracking.files import read_object, write_json


@dataclass(frozen=True)
class Rejection:
    """One run's fixed parts."""

    context: Context
    config: RejectionConfig
    policy: Handle
    reference: Handle
    reward: RewardSource
    prompts: Sequence[Prompt]

    def sample(self, number: int) -> dict[str, Any]:
        """The kept replies of a round, as tokens, and its metrics."""
        c, n, started = self.config, self.config.replies_per_prompt, time.monotonic()
        rollouts = roll_out(self.context, self.policy, self.prompts, n, c.sampling, "rejection", number)
        scores = np.array([score.value for score in self.reward.score(rollouts)]).reshape(-1, n)
        left, filtered_rows = filtered(self.context.filters, rollouts, 1)
        is_left = np.isin(np.arange(scores.size), left).reshape(scores.shape)
        ranked = best(np.where(is_left, scores, -np.inf), c.keep, c.above)
        places = [row * n + place for row, place in ranked if is_left[row, place]]
        kept = [rollouts[i] for i in places]
        if not kept:
            raise DataError(
                f"round {number + 1}: none of {scores.size} replies scores above rejection.above={c.above}; the best "
                f"has {scores.max():.3g}. Lower it, or sample more replies"
            )
        metrics = {
            "rejection/score": float(scores.mean()),
            "rejection/kept_score": float(scores.flat[places].mean()),
            "rejection/kept": float(len(kept)),
            "rejection/length": float(np.mean([rollout.reply_length for rollout in rollouts])),
            "rejection/kept_length": float(np.mean([rollout.reply_length for rollout in kept])),
            "rejection/rollout_s": time.monotonic() - started,
        }
        if self.context.filters is not None:
            metrics["rejection/filtered"] = float(len(filtered_rows))
        if not is_warped(c.sampling):
            metrics["rejection/kl"] = self.kl(rollouts)
        rows = [{"tokens": r.tokens.tolist(), "prompt_length": r.prompt_length, "text": r.text} for r in kept]
        return {"metrics": metrics, "kept": rows, "filtered": filtered_rows}

    def kl(self, rollouts: Sequence[Rollout]) -> float:
        """Mean of log π(y) - log π_start(y), nats per sequence (k1)."""
        data = [Example.next_token(r.tokens, weights=r.mask) for r in rollouts]
        temperature = self.config.sampling.temperature
        theirs = self.context.engine.forward(self.reference, data, temperature=temperature)
        return float(np.mean([(r.logprobs - t.logprobs).sum() for r, t in zip(rollouts, theirs, strict=True)]))

    def round(self, number: int, state: State) -> dict[str, float]:
        """One round of sampling and training; logs each optimizer step but the last, whose numbers come back.

        `logged` in the state counts the optimizer steps of all rounds.
        """
        c, found = self.config, _once(self.context.folder.path / f"round-{number + 1}.json", self, number)
        data = [_datum(row) for row in found["kept"]]
        steps, metrics = math.ceil(len(data) / c.batch_size) * c.epochs, dict(found["metrics"])
        for row in found.get("filtered", ()):
            self.context.folder.filtered.append(state["logged"] + 1, row)
        keep_milestones(self.context, self.policy, metrics.get("rejection/kl", 0.0))
        for i in range(steps):
            batch = batch_at(data, i, c.batch_size, self.context.seed, "rejection-order", number)
            metrics |= self.train_step(batch, number * steps + i, c.rounds * steps)
            state["logged"] += 1
            if i < steps - 1:
                self.context.folder.metrics.log(state["logged"], metrics)
        return metrics

    def train_step(self, batch: Sequence[Example], step: int, steps: int) -> dict[str, float]:
        """One optimizer step on kept replies; every token of the batch weighs the same."""
        data, started = token_mean(batch), time.monotonic()
        adam = adam_at(self.config.optim, step, steps)
        output, report = optimizer_step(self.context, step, self.policy, data, [CROSS_ENTROPY], adam)
        return {
            "rejection/loss": output.loss,
            "rejection/grad_norm": report.grad_norm,
            "rejection/learning_rate": adam.learning_rate,
            "rejection/tokens_per_s": sum(map(len, data)) / (time.monotonic() - started),
        }


def run_rejection(
    context: Context,
    config: RejectionConfig,
    reward: RewardSource,
    start: Path | None,
    prompts: Sequence[Prompt],
    *,
    watch: OpenWatch | None = None,
) -> dict[str, Any]:
    """Improves the policy in checkpoint `start` (None: the base model) by its own best replies.

    Leaves the last policy in the stage's `model` folder; returns the last metrics. Raises DataError if no reply
    passes `above`. `watch` looks at the policy after each round.
    """
    if misfit := config.misfit():
        raise ConfigError(misfit)
    if not prompts:
        raise ConfigError("rejection got no prompts")
    check_frontier(context, config.sampling, "rejection")
    engine, seed = context.engine, context.seed
    policy = engine.create(ModelSpec("policy", context.model, ("lm",), start, seed=seed))
    reference = engine.create(ModelSpec("reference", context.model, ("lm",), start, trainable=False, seed=seed))
    rejection = Rejection(context, config, policy, reference, reward, prompts)
    loop = Loop(
        context,
        title="rejection",
        steps=config.rounds,
        models={"policy": policy},
        keeps={context.best: policy},
        shown={"score": "rejection/score", "kept score": "rejection/kept_score", "loss": "rejection/loss"},
        save_every=1,
        watch=None if watch is None else watch(context=context, policy=policy, reference=reference),
        logged=lambda state: state["logged"],
    )
    ended = loop.run(rejection.round, begin=lambda: {"logged": 0})
    for handle in (policy, reference):
        engine.close(handle)
    return {"rounds": config.rounds, "steps": ended.state["logged"], "last": ended.metrics}


def best(scores: np.ndarray, keep: int, above: float | None) -> list[tuple[int, int]]:
    """(prompt, reply) of the `keep` highest of each row of scores [P, n] that lie above `above`, best first.

    Equal scores: the earlier reply.
    """
    order = np.argsort(-scores, axis=1, kind="stable")[:, :keep]
    return [
        (row, int(place))
        for row, places in enumerate(order)
        for place in places
        if above is None or scores[row, place] > above
    ]


def _once(path: Path, rejection: Rejection, number: int) -> dict[str, Any]:
    if not path.exists():
        write_json(path, rejection.sample(number))
    return read_object(path)


def _datum(row: dict[str, Any]) -> Example:
    tokens = np.array(row["tokens"], dtype=np.int64)
    return Example.next_token(tokens, weights=np.arange(1, len(tokens)) >= row["prompt_length"])
