"""Online DPO: the loss of DPO on pairs of the policy's own replies, which the run's reward compares (arXiv:2402.04792).

    roll out replies → score → best and worst of each prompt → reference logprobs → loss of pairs

Two replies per prompt and a judge are the paper's; with more, best against worst. Equal scores are ties.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from thumbs.config.direct import DirectConfig, OnlineConfig
from thumbs.engine.base import Handle, ModelSpec
from thumbs.errors import ConfigError
from thumbs.records import Preference, Prompt, Rollout, TrainOutput
from thumbs.rewards.base import RewardSource
from thumbs.rollout.rounds import is_warped
from thumbs.stages.answers import (
    AnswerPair,
    TokenisedReply,
    read_answer_pairs,
    referenced,
    reply_logprobs,
    summed,
)
from thumbs.stages.context import Context, adam_at, saving_batch
from thumbs.stages.direct import PairTraining
from thumbs.stages.direct_batch import pair_data, pair_metrics
from thumbs.stages.direct_watch import Baseline, train_policy
from thumbs.stages.loop import Metrics, State
from thumbs.stages.milestones import check_frontier, keep_milestones
from thumbs.stages.rollout_queue import BatchSpec, RolloutQueue
from thumbs.stages.watch import OpenWatch


def run_online_dpo(
    context: Context,
    config: DirectConfig,
    reward: RewardSource,
    start: Path | None,
    prompts: Sequence[Prompt],
    heldout: Sequence[Preference] = (),
    *,
    watch: OpenWatch | None = None,
) -> dict[str, Any]:
    """Optimises the policy in checkpoint `start` (None: the base model) on pairs that `reward` decides.

    `heldout`: pairs that others judged, to measure on; `watch` looks at the policy meanwhile. The last weights stay.
    Returns as `run_direct` does.
    """
    if config.online is None or not prompts:
        raise ConfigError("online_dpo needs direct.online with prompts")
    check_frontier(context, config.online.sampling, "direct.online")
    steps, spec = config.online.steps, ModelSpec("policy", context.model, ("lm",), start, seed=context.seed)
    (held,) = referenced(context, start, read_answer_pairs(context.tokenizer, heldout, config.ties))
    policy = context.engine.create(spec)
    reference = context.engine.create(replace(spec, name="reference", trainable=False))
    online = OnlineDpo(context, config, config.online, policy, reference, reward, prompts)
    measuring = PairTraining(context, config, policy, steps)

    def step(number: int, state: State) -> Metrics:
        online.queue.restore(state)
        return online.step(number)

    def measure(_: State) -> dict[str, float]:
        return measuring.measure(held, Baseline())

    shown = {"score": "preference/score", "length": "preference/length"}
    with online.queue.open():
        results = train_policy(
            context,
            config,
            policy,
            steps,
            step,
            measure,
            shown,
            before_save=online.queue.save,
            watch=None if watch is None else watch(context=context, policy=policy, reference=reference),
        )
    context.engine.close(reference)
    return {"method": config.method, "steps": steps, "heldout_pairs": len(held)} | results


@dataclass(frozen=True)
class OnlineDpo:
    """One run's fixed parts."""

    context: Context
    config: DirectConfig
    online: OnlineConfig
    policy: Handle
    reference: Handle
    reward: RewardSource
    prompts: Sequence[Prompt]

    @cached_property
    def queue(self) -> RolloutQueue:
        """Where the replies of a round come from."""
        n = self.online.replies_per_prompt
        spec = BatchSpec(self.prompts, self.config.batch_size, n, self.online.sampling, "online")
        return RolloutQueue(self.context, self.policy, self.reward, spec)

    def step(self, number: int) -> dict[str, float]:
        """One round of replies and update; depends only on its number, the weights and the batches in the queue."""
        n, started = self.online.replies_per_prompt, time.monotonic()
        batch = self.queue.take(number)
        rollouts, rollout_s = batch.rollouts, time.monotonic() - started
        scores = np.array([score.value for score in batch.scores]).reshape(-1, n)
        groups = [rollouts[i : i + n] for i in range(0, len(rollouts), n)]
        pairs = [best_and_worst(*of) for of in zip(groups, scores, strict=True)]
        known = reply_logprobs(self.context.engine, self.reference, [a for pair in pairs for a in pair.sides])
        pairs = [
            pair.with_sides(replace(pair.first, reference=a), replace(pair.second, reference=b))
            for pair, a, b in zip(pairs, known[0::2].tolist(), known[1::2].tolist(), strict=True)
        ]
        decided = [pair for pair in pairs if pair.preferred != 0.5]
        taken = decided if self.config.ties == "drop" else pairs
        metrics = self.update(number, taken) if taken else {}
        metrics |= {
            "score": float(scores.mean()),
            "score_std": float(scores.std(axis=1).mean()),
            "decided": len(decided) / len(pairs),
            "length": float(np.mean([rollout.reply_length for rollout in rollouts])),
            "truncated": float(np.mean([rollout.stop_reason == "length" for rollout in rollouts])),
            "rollout_s": rollout_s,
            "update_s": time.monotonic() - started - rollout_s,
        } | self.queue.metrics(number, batch)
        return {f"preference/{name}": value for name, value in metrics.items()}

    def update(self, number: int, pairs: Sequence[AnswerPair]) -> dict[str, float]:
        """Passes over the pairs of a round, an optimizer step each; the numbers of the first, before it moves."""
        c, engine, data, found = self.config, self.context.engine, pair_data(pairs), {}
        loss, adam = c.pair_loss(), adam_at(c.optim, number, self.online.steps)
        for epoch in range(c.epochs):
            with saving_batch(self.context, number, data):
                output = engine.forward_backward(self.policy, data, [loss])
                if epoch == 0:
                    found = self.measure(pairs, output)
                    keep_milestones(self.context, self.policy, found.get("kl", 0.0))
                report = engine.optim_step(self.policy, adam)
            if epoch == 0:
                found |= {"grad_norm": report.grad_norm, "learning_rate": adam.learning_rate}
        return found

    def measure(self, pairs: Sequence[AnswerPair], output: TrainOutput) -> dict[str, float]:
        """What the policy says of the pairs before it learns from them; their KL only if the replies are draws from
        the distribution that is trained, at temperature 1.
        """
        logprobs, beta = summed(output.outputs).reshape(-1, 2), float(self.config.settings()["beta"])
        reference = np.array([[answer.reference for answer in pair.sides] for pair in pairs])
        found = pair_metrics(pairs, logprobs, beta, per_token=self.config.preset.per_token) | {"loss": output.loss}
        if not is_warped(self.online.sampling) and self.online.sampling.temperature == 1:
            found["kl"] = float(np.mean(logprobs - reference))
        return found


def best_and_worst(rollouts: Sequence[Rollout], scores: np.ndarray) -> AnswerPair:
    """The replies with the highest and the lowest score, the first of those that are equal; a tie where all are."""
    tied = scores.max() == scores.min()
    best, worst = (0, 1) if tied else (int(scores.argmax()), int(scores.argmin()))
    first, second = (TokenisedReply(rollouts[i].tokens, rollouts[i].reply_length) for i in (best, worst))
    return AnswerPair(rollouts[0].messages[:-1], first, second, 0.5 if tied else 1.0)
