"""Kahneman–Tversky optimisation: a policy from single replies that are good or bad (arXiv:2402.01306).

    reference logprobs, once → batch of replies → z0 from mismatched replies, no gradient → loss, eq. 8

z0 estimates KL(policy ‖ reference): max(0, mean log-ratio of replies to other prompts than their own). The paper shifts
the replies of a batch by one; here each prompt has one foreign reply for the whole run, so its reference is cached too.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from thumbs.config.direct import DirectConfig
from thumbs.data.preferences import preferred
from thumbs.data.replies import JudgedReply
from thumbs.data.tokenizers import Tokenizer
from thumbs.engine.base import Handle, ModelSpec
from thumbs.errors import DataError
from thumbs.functional.preference_losses import REPLIES
from thumbs.records import Example, Generator, Message, Preference, Reply
from thumbs.rollout.rounds import seed_of
from thumbs.stages.answers import TokenisedReply, answer_datum, read_answer, referenced, reply_logprobs, summed
from thumbs.stages.context import Context, adam_at, grouped_batch_at
from thumbs.stages.direct_batch import side
from thumbs.stages.direct_watch import train_policy
from thumbs.stages.loop import Metrics, State, optimizer_step
from thumbs.stages.sequences import by_prompt, distinct_tokens

Row = tuple[tuple[Message, ...], Reply, bool]
"""A prompt, a reply, and whether it is desirable."""

_FILE = Generator("file", "file")


@dataclass(frozen=True, eq=False)
class LabelledReply:
    """A reply that is desirable or not, and a reply to another prompt as if it were one to this."""

    prompt: tuple[Message, ...]
    desirable: bool
    own: TokenisedReply
    foreign: TokenisedReply

    @property
    def sides(self) -> tuple[TokenisedReply, TokenisedReply]:
        """Both answers."""
        return self.own, self.foreign

    def with_sides(self, first: TokenisedReply, second: TokenisedReply) -> LabelledReply:
        """The row with other answers."""
        return replace(self, own=first, foreign=second)


def judged_of_pairs(preferences: Sequence[Preference]) -> list[Row]:
    """Both sides of each pair that is not a tie."""
    decided = [(row, better) for row in preferences if (better := preferred(row)) is not None and better != 0.5]
    return [
        (row.prompt, reply, (better > 0.5) == (side == 0))
        for row, better in decided
        for side, reply in enumerate(row.replies)
    ]


def judged_of_rows(rows: Sequence[JudgedReply]) -> list[Row]:
    """Rows of labelled conversations."""
    return [(row.messages[:-1], Reply(row.messages[-1].content, _FILE), row.desirable) for row in rows]


def read_judged(
    tokenizer: Tokenizer, rows: Sequence[Row], pool: Sequence[Row], *seed: int | str
) -> list[LabelledReply]:
    """Tokenised replies, each with a foreign one: the next of the shuffled `pool` that answers another prompt.

    Raises DataError if all of the pool answer the same prompt as a row.
    """
    shuffled = [pool[i] for i in np.random.default_rng(seed_of(*seed, "foreign")).permutation(len(pool))]
    judged = []
    for number, (prompt, reply, desirable) in enumerate(rows):
        others = (shuffled[(number + k) % len(pool)] for k in range(len(pool)))
        foreign = next((other for asked, other, _ in others if asked != prompt), None)
        if foreign is None:
            raise DataError(
                f"kto got {len(pool)} judged replies, all to one prompt; it needs some to two different prompts, to "
                "estimate the distance from the start"
            )
        own, shifted = (read_answer(tokenizer, prompt, answer) for answer in (reply, foreign))
        judged.append(LabelledReply(prompt, desirable, own, shifted))
    return judged


def run_kto(
    context: Context,
    config: DirectConfig,
    start: Path | None,
    train: Sequence[Row],
    heldout: Sequence[Row] = (),
) -> dict[str, Any]:
    """Trains from the checkpoint `start` (None: the base model); returns as `run_direct` does."""
    if not train:
        raise DataError("kto got no reply that is judged good or bad; there is nothing to learn")
    rows, held = (read_judged(context.tokenizer, part, train, context.seed, "kto") for part in (train, heldout))
    rows, held = referenced(context, start, rows, held)
    policy = context.engine.create(ModelSpec("policy", context.model, ("lm",), start, seed=context.seed))
    steps, prompts = math.ceil(len(rows) / config.batch_size) * config.epochs, by_prompt(rows)
    training = KtoTraining(context, config, policy, steps)

    def step(number: int, _: State) -> Metrics:
        return training.step(number, grouped_batch_at(prompts, number, config.batch_size, context.seed, "kto"))

    shown = {"loss": "preference/loss", "tokens/s": "preference/tokens_per_s"}
    good = sum(row.desirable for row in rows)
    counts = {"method": "kto", "steps": steps, "replies": len(rows), "desirable": good, "heldout_replies": len(held)}
    return counts | train_policy(context, config, policy, steps, step, lambda _: training.measure(held), shown)


@dataclass(frozen=True)
class KtoTraining:
    """One run's fixed parts."""

    context: Context
    config: DirectConfig
    policy: Handle
    steps: int

    def step(self, number: int, batch: Sequence[LabelledReply]) -> dict[str, float]:
        """One optimizer step on replies; depends only on its arguments and the weights."""
        started, adam = time.monotonic(), adam_at(self.config.optim, number, self.steps)
        distance = self.distance(batch)
        data = judged_data(batch, distance)
        output, report = optimizer_step(self.context, number, self.policy, data, [self.config.reply_loss()], adam)
        metrics = {
            "loss": output.loss,
            **self.metrics(batch, summed(output.outputs)),
            "baseline": distance,
            "grad_norm": report.grad_norm,
            "learning_rate": adam.learning_rate,
            "tokens_per_s": distinct_tokens(data) / (time.monotonic() - started),
        }
        return {f"preference/{name}": value for name, value in metrics.items()}

    def distance(self, rows: Sequence[LabelledReply]) -> float:
        """z0: the mean log-ratio of the foreign replies, not below 0 (nats)."""
        now = reply_logprobs(self.context.engine, self.policy, [row.foreign for row in rows])
        return max(0.0, float(np.mean(now - [row.foreign.reference for row in rows])))

    def measure(self, rows: Sequence[LabelledReply]) -> dict[str, float]:
        """Loss and metrics of replies that are not trained on; nothing of no rows."""
        if not rows:
            return {}
        own, loss = [row.own for row in rows], self.config.reply_loss()
        now = reply_logprobs(self.context.engine, self.policy, own)
        desirable = torch.tensor([float(row.desirable) for row in rows], dtype=torch.float64)
        losses = REPLIES[loss.formula](side(own, now, self.distance(rows)), desirable, **loss.settings)
        return {"loss": float(losses.mean()), **self.metrics(rows, now)}

    def metrics(self, rows: Sequence[LabelledReply], logprobs: np.ndarray) -> dict[str, float]:
        """Means over the desirable (chosen) and the other (rejected) replies, nats per reply; and where both are there
        the margin between them (score units) and the share of couples, one of each, whose desirable reply is ahead.
        """
        good = np.array([row.desirable for row in rows])
        ratio = logprobs - np.array([row.own.reference for row in rows])
        found: dict[str, float] = {}
        for name, chosen in (("chosen", good), ("rejected", ~good)):
            if chosen.any():
                found[f"{name}_logprob"] = float(logprobs[chosen].mean())
                found[f"{name}_ratio"] = float(ratio[chosen].mean())
        if good.any() and not good.all():
            found["margin"] = float(self.config.settings()["beta"]) * (found["chosen_ratio"] - found["rejected_ratio"])
            found["accuracy"] = float(np.mean(ratio[good][:, None] > ratio[~good][None, :]))
        return found


def judged_data(rows: Sequence[LabelledReply], distance: float) -> list[Example]:
    """A datum per reply; each weighs 1 / (replies of the batch)."""
    of = {"baseline": distance, "unit_weight": 1.0 / len(rows)}
    return [answer_datum(row.own, reference=row.own.reference, desirable=float(row.desirable), **of) for row in rows]
