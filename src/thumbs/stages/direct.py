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
from thumbs.stages.answers import AnswerPair, pairs_with_reference, read_answer_pairs, reply_logprobs, summed
from thumbs.stages.context import Context, Resume, adam_at, grouped_batch_at, saving_batch
from thumbs.stages.direct_batch import SORTS, loss_on, pair_data, pair_metrics
from thumbs.stages.direct_watch import State, Watch
from thumbs.stages.pairs import by_prompt, distinct_tokens
from thumbs.tracking.progress import Progress


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
        known = pairs_with_reference(context, start, [*pairs, *held])
        pairs, held = known[: len(pairs)], known[len(pairs) :]
    policy = context.engine.create(ModelSpec("policy", context.model, ("lm",), start, seed=context.seed))
    steps, prompts = math.ceil(len(pairs) / config.batch_size) * config.epochs, by_prompt(pairs)
    training, watch = PairTraining(context, config, policy, steps), Watch(context, config, policy)
    resume = Resume(context, {"policy": policy})
    step, saved = resume.load()
    state = State(**saved) if saved else watch.begin(training.measure(held, State()))
    with Progress(config.method, steps, ("loss", "accuracy", "tokens/s")) as bar:
        bar.advance(step)
        while step < steps:
            batch = grouped_batch_at(prompts, step, config.batch_size, context.seed, "preference")
            metrics, state = training.step(step, batch, state)
            step += 1
            due = step % config.eval_every == 0 or step == steps
            if due:
                state = watch.look(step, state, training.measure(held, state), metrics)
            context.folder.metrics.log(step, metrics)
            if due:
                resume.save(step, vars(state))
            shown = {"accuracy": metrics.get("preference/accuracy"), "tokens/s": metrics["preference/tokens_per_s"]}
            bar.advance(loss=metrics["preference/loss"], **shown)
    context.engine.close(policy)
    counts = {"method": config.method, "steps": steps, "pairs": len(pairs), "heldout_pairs": len(held)}
    return counts | watch.results(state)


@dataclass(frozen=True)
class PairTraining:
    """One run's fixed parts."""

    context: Context
    config: DirectConfig
    policy: Handle
    steps: int

    def step(self, number: int, batch: Sequence[AnswerPair], state: State) -> tuple[dict[str, float], State]:
        """One optimizer step on pairs; depends only on its arguments and the weights."""
        c, started, trained, now = self.config, time.monotonic(), batch, None
        engine, adam = self.context.engine, adam_at(self.config.optim, number, self.steps)
        if c.preset.ready in SORTS:
            now = self.logprobs(batch)
            trained, _ = SORTS[c.preset.ready](batch, now)
        data = pair_data(trained, state.baseline)
        with saving_batch(self.context, number, data):
            output = engine.forward_backward(self.policy, data, [c.pair_loss()])
            report = engine.optim_step(self.policy, adam)
        logprobs = summed(output.outputs).reshape(-1, 2) if now is None else now
        metrics = {
            "loss": output.loss,
            **self.metrics(batch, logprobs),
            "grad_norm": report.grad_norm,
            "learning_rate": adam.learning_rate,
            "tokens_per_s": distinct_tokens(data) / (time.monotonic() - started),
        }
        if c.preset.ready == "baseline":
            metrics["baseline"] = state.baseline
            state = state.counting(self.mean_reward(batch, logprobs), len(batch))
        return {f"preference/{name}": value for name, value in metrics.items()}, state

    def measure(self, pairs: Sequence[AnswerPair], state: State) -> dict[str, float]:
        """Loss and metrics of pairs that are not trained on; nothing of no pairs."""
        if not pairs:
            return {}
        logprobs, ready = self.logprobs(pairs), self.config.preset.ready
        trained, order = SORTS[ready](pairs, logprobs) if ready in SORTS else (pairs, np.arange(2 * len(pairs)))
        loss = loss_on(self.config.pair_loss(), trained, logprobs.ravel()[order].reshape(-1, 2), state.baseline)
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
