"""A policy from pairs, without a reward model: DPO (Rafailov et al. 2023, arXiv:2305.18290) and its family.

    reference logprobs, once → batch of pairs → loss of the method → held-out loss and accuracy now and then

The reference is the policy before its first step. Formulas are in `functional/preference_losses.py`, presets in
`config/direct_methods.py`. Sums of logprobs run over the whole reply.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from thumbs.config.direct import DirectConfig
from thumbs.engine.base import Handle, ModelSpec
from thumbs.errors import DataError
from thumbs.records import Preference
from thumbs.stages.answers import AnswerPair, read_answer_pairs, referenced, reply_logprobs, summed
from thumbs.stages.context import Context, adam_at, grouped_batch_at
from thumbs.stages.direct_batch import SORTS, loss_on, pair_data, pair_metrics
from thumbs.stages.direct_watch import Baseline, train_policy
from thumbs.stages.loop import Metrics, State, optimizer_step
from thumbs.stages.sequences import by_prompt, distinct_tokens


def run_direct(
    context: Context,
    config: DirectConfig,
    start: Path | None,
    train: Sequence[Preference],
    heldout: Sequence[Preference] = (),
) -> dict[str, Any]:
    """Trains from the checkpoint `start` (None: the base model) with a method of pairs.

    Returns counts, the held-out loss of the weights kept and their step, and warnings in words.
    """
    pairs, held = (read_answer_pairs(context.tokenizer, part, config.ties) for part in (train, heldout))
    if all(pair.preferred == 0.5 for pair in pairs):
        raise DataError(f"none of {len(train)} preferences says which reply is better; there is nothing to learn")
    if config.preset.reference:
        pairs, held = referenced(context, start, pairs, held)
    policy = context.engine.create(ModelSpec("policy", context.model, ("lm",), start, seed=context.seed))
    steps, prompts = math.ceil(len(pairs) / config.batch_size) * config.epochs, by_prompt(pairs)
    training = PairTraining(context, config, policy, steps)

    def step(number: int, state: State) -> Metrics:
        batch = grouped_batch_at(prompts, number, config.batch_size, context.seed, "preference")
        metrics, baseline = training.step(number, batch, Baseline(**state["baseline"]))
        state["baseline"] = vars(baseline)
        return metrics

    def measure(state: State) -> dict[str, float]:
        return training.measure(held, Baseline(**state["baseline"]))

    shown = {"loss": "preference/loss", "accuracy": "preference/accuracy", "tokens/s": "preference/tokens_per_s"}
    counts = {"method": config.method, "steps": steps, "pairs": len(pairs), "heldout_pairs": len(held)}
    return counts | train_policy(context, config, policy, steps, step, measure, shown)


@dataclass(frozen=True)
class PairTraining:
    """One run's fixed parts."""

    context: Context
    config: DirectConfig
    policy: Handle
    steps: int

    def step(self, number: int, batch: Sequence[AnswerPair], baseline: Baseline) -> tuple[Metrics, Baseline]:
        """One optimizer step on pairs; depends only on its arguments and the weights."""
        started, adam, ready = (
            time.monotonic(),
            adam_at(self.config.optim, number, self.steps),
            self.config.preset.ready,
        )
        trained, now = batch, None
        if ready in SORTS:
            now = self.logprobs(batch)
            trained, _ = SORTS[ready](batch, now)
        data = pair_data(trained, baseline.mean)
        output, report = optimizer_step(self.context, number, self.policy, data, [self.config.pair_loss()], adam)
        logprobs = summed(output.outputs).reshape(-1, 2) if now is None else now
        metrics = {
            "loss": output.loss,
            **self.metrics(batch, logprobs),
            "grad_norm": report.grad_norm,
            "learning_rate": adam.learning_rate,
            "tokens_per_s": distinct_tokens(data) / (time.monotonic() - started),
        }
        if ready == "baseline":
            metrics["baseline"] = baseline.mean
            baseline = baseline.after(self.mean_reward(batch, logprobs), len(batch))
        return {f"preference/{name}": value for name, value in metrics.items()}, baseline

    def measure(self, pairs: Sequence[AnswerPair], baseline: Baseline) -> dict[str, float]:
        """Loss and metrics of pairs that are not trained on; nothing of no pairs."""
        if not pairs:
            return {}
        logprobs, ready = self.logprobs(pairs), self.config.preset.ready
        trained, order = SORTS[ready](pairs, logprobs) if ready in SORTS else (pairs, np.arange(2 * len(pairs)))
        loss = loss_on(self.config.pair_loss(), trained, logprobs.ravel()[order].reshape(-1, 2), baseline.mean)
        return {"loss": loss, **self.metrics(pairs, logprobs)}

    def logprobs(self, pairs: Sequence[AnswerPair]) -> np.ndarray:
        """What the policy gives the sides of the pairs now, nats [P, 2]."""
        answers = [answer for pair in pairs for answer in pair.sides]
        return reply_logprobs(self.context.engine, self.policy, answers).reshape(-1, 2)

    def metrics(self, pairs: Sequence[AnswerPair], logprobs: np.ndarray) -> dict[str, float]:
        """Means over pairs; the ratios only where there is a reference."""
        found = pair_metrics(pairs, logprobs, self.beta, per_token=self.config.preset.per_token)
        return {name: x for name, x in found.items() if self.config.preset.reference or not name.endswith("ratio")}

    def mean_reward(self, pairs: Sequence[AnswerPair], logprobs: np.ndarray) -> float:
        """Mean of beta · log-ratio over both sides (score units)."""
        known = np.array([[answer.reference for answer in pair.sides] for pair in pairs])
        return self.beta * float(np.mean(logprobs - known))

    @property
    def beta(self) -> float:
        """The method's beta."""
        return float(self.config.settings()["beta"])
