"""Metric names with units and one-line meanings, and the log they go to."""

from __future__ import annotations

import difflib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from thumbs.errors import ThumbsError
from thumbs.tracking.files import StepLog


class Metric(NamedTuple):
    """A number that a stage reports at each step."""

    name: str
    unit: str
    meaning: str


class UnknownMetricError(ThumbsError, LookupError):
    """A stage logged a name that METRICS does not list: a mistake in the program, not of its user."""


_SFT = (
    Metric("sft/loss", "nats a token", "Cross-entropy of the assistant's tokens in the batch."),
    Metric(
        "sft/heldout_loss",
        "nats a token",
        "The same on held-out conversations; its lowest is the checkpoint kept.",
    ),
    Metric("sft/grad_norm", "L2 norm", "Gradient before clipping."),
    Metric("sft/learning_rate", "per step", "Rate of the optimizer at this step."),
    Metric("sft/tokens_per_s", "tokens/s", "Training tokens, prompts included."),
)
_PREFERENCES = (
    Metric("preferences/pairs", "pairs", "Judged pairs, ties included."),
    Metric("preferences/ties", "fraction", "Pairs that were judged a tie."),
    Metric("preferences/label_noise", "fraction", "Untied pairs whose label contradicts the gold judge."),
)
_REWARD = (
    Metric("reward/loss", "nats a pair", "Bradley–Terry loss of the batch."),
    Metric("reward/accuracy", "fraction", "Untied pairs of the batch whose preferred reply scores higher."),
    Metric("reward/heldout_loss", "nats a pair", "The loss on held-out pairs; its lowest is the checkpoint kept."),
    Metric("reward/heldout_accuracy", "fraction", "The accuracy on held-out pairs."),
    Metric("reward/score_gap", "score", "Mean score of the preferred reply minus that of the other."),
    Metric("reward/grad_norm", "L2 norm", "Gradient before clipping."),
    Metric("reward/learning_rate", "per step", "Rate of the trunk or its adapters at this step."),
    Metric(
        "reward/tokens_per_s", "tokens/s", "Training tokens, prompts included; a reply in several pairs counts once."
    ),
)
_PPO_ROLLOUT = (
    Metric("ppo/score", "score", "Mean score of the reward model, before scaling, clipping and penalties."),
    Metric("ppo/score_std", "score", "Standard deviation of the scores within the step."),
    Metric("ppo/reward", "score", "Mean sum of a sequence's token rewards: shaped score minus the KL penalty."),
    Metric("ppo/kl", "nats a sequence", "Mean log-ratio of policy to reference, summed over the reply (k1)."),
    Metric("ppo/kl_coef", "score a nat", "Price of KL in the token rewards at this step."),
    Metric("ppo/entropy", "nats a token", "Mean entropy of the policy at the sampled tokens."),
    Metric("ppo/length", "tokens", "Mean reply length, EOS included."),
    Metric("ppo/truncated", "fraction", "Replies that the length limit cut."),
    Metric("ppo/repetition", "fraction", "Repeated n-grams in the replies; a rise warns of collapse."),
    Metric(
        "ppo/sampler_gap",
        "nats a token",
        "Mean absolute difference of sampling and training logprobs; almost 0.",
    ),
    Metric("ppo/advantage_std", "score", "Standard deviation of the advantages before whitening."),
)
_PPO_UPDATE = (
    Metric("ppo/policy_loss", "advantage", "Clipped surrogate, mean a token."),
    Metric("ppo/value_loss", "score²", "Half the squared error of the values, clipped variant, mean a token."),
    Metric("ppo/ptx_loss", "nats a token", "Cross-entropy of the SFT data that is mixed in."),
    Metric("ppo/approx_kl", "nats a token", "KL of new from old policy in the last minibatch (k3)."),
    Metric("ppo/clip_fraction", "fraction", "Tokens whose ratio the clip bounds."),
    Metric("ppo/value_clip_fraction", "fraction", "Tokens whose value the clip bounds."),
    Metric("ppo/ratio_first", "ratio", "Mean π/π_old in the first minibatch of the first epoch; must be 1."),
    Metric("ppo/ratio_max", "ratio", "Largest π/π_old of the step."),
    Metric("ppo/explained_variance", "fraction", "1 − Var(returns − values)/Var(returns); 1 is a perfect critic."),
    Metric("ppo/value_error", "score", "Mean absolute difference of returns and values before the update."),
    Metric("ppo/grad_norm", "L2 norm", "Policy gradient before clipping, mean over the step."),
    Metric("ppo/critic_grad_norm", "L2 norm", "The same of a critic with weights of its own."),
    Metric("ppo/learning_rate", "per step", "Rate of the policy optimizer at this step."),
    Metric("ppo/epochs_done", "epochs", "Passes over the rollouts before the KL brake ended them."),
    Metric("ppo/tokens_per_s", "tokens/s", "Sampled tokens over the time of the whole step."),
    Metric("ppo/rollout_s", "seconds", "Time for sampling."),
    Metric("ppo/update_s", "seconds", "Time for the epochs of policy and critic."),
)

_DPO = (
    Metric("dpo/loss", "nats a pair", "Bradley–Terry loss of the implicit rewards."),
    Metric(
        "dpo/accuracy", "fraction", "Untied pairs of the batch whose preferred reply has the higher implicit reward."
    ),
    Metric("dpo/score_gap", "score", "Mean implicit reward of the preferred reply minus that of the other."),
    Metric("dpo/grad_norm", "L2 norm", "Gradient before clipping."),
    Metric("dpo/learning_rate", "per step", "Rate of the optimizer at this step."),
    Metric("dpo/tokens_per_s", "tokens/s", "Training tokens, prompts included."),
)
_GROUP = (
    Metric("group/score", "score", "Mean score of the replies."),
    Metric("group/score_std", "score", "Mean over the groups of the deviation inside one; 0 teaches nothing."),
    Metric("group/length", "tokens", "Mean reply length, EOS included."),
    Metric("group/truncated", "fraction", "Replies that the length limit cut."),
    Metric("group/policy_loss", "advantage", "Clipped surrogate, mean a token."),
    Metric("group/approx_kl", "nats a token", "KL of the policy from its sampler (k3)."),
    Metric("group/clip_fraction", "fraction", "Tokens whose ratio the clip bounds."),
    Metric("group/entropy", "nats a token", "Mean entropy of the policy at the sampled tokens."),
    Metric("group/grad_norm", "L2 norm", "Gradient before clipping, mean over the step."),
    Metric("group/rollout_s", "seconds", "Time for sampling."),
    Metric("group/update_s", "seconds", "Time for the update."),
)
_REJECTION = (
    Metric("rejection/score", "score", "Mean score of all replies of the round."),
    Metric("rejection/kept_score", "score", "Mean score of the kept ones, which the round trains on."),
    Metric("rejection/kept", "replies", "How many were kept."),
    Metric("rejection/kl", "nats a sequence", "Mean log-ratio of policy to its start over the round's replies."),
    Metric("rejection/length", "tokens", "Mean reply length, EOS included."),
    Metric("rejection/kept_length", "tokens", "The same of the kept ones; longer than all: length is paid."),
    Metric("rejection/loss", "nats a token", "Cross-entropy of the kept replies in the batch."),
    Metric("rejection/grad_norm", "L2 norm", "Gradient before clipping."),
    Metric("rejection/learning_rate", "per step", "Rate of the optimizer at this step."),
    Metric("rejection/tokens_per_s", "tokens/s", "Training tokens, prompts included."),
    Metric("rejection/rollout_s", "seconds", "Time for sampling and scoring the round."),
)

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (*_SFT, *_PREFERENCES, *_REWARD, *_PPO_ROLLOUT, *_PPO_UPDATE, *_DPO, *_GROUP, *_REJECTION)
}
"""Every metric a stage may log, by name; docs/metrics.md shows the same list."""


class MetricLog:
    """metrics.jsonl of a stage: one {"step", "wall_s", name: value…} a line, on the disk's way at once.

    `wall_s` (seconds) counts from the making of this object and goes on from the last record of an
    interrupted run, so it is computing time and not the calendar's.
    """

    def __init__(self, path: str | Path) -> None:
        self._log = StepLog(path)
        self._opened_s = time.monotonic()
        self._before_s: float | None = None

    @property
    def path(self) -> Path:
        """The file."""
        return self._log.path

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Append the values of a step; NaN and ±∞ become null. Raises UnknownMetricError for a new name."""
        for name in values:
            if name not in METRICS:
                raise UnknownMetricError(_unknown(name))
        wall_s = round(self._earlier_s() + time.monotonic() - self._opened_s, 3)
        self._log.append(step, {"wall_s": wall_s, **{name: float(value) for name, value in values.items()}})

    def truncate_after(self, step: int) -> None:
        """Drop the records of steps later than `step`, which a resumed stage will log again."""
        self._log.truncate_after(step)
        self._before_s = None

    def read(self) -> list[dict[str, Any]]:
        """All whole records in order; empty where nothing was logged."""
        return self._log.read()

    def _earlier_s(self) -> float:
        """What earlier processes spent on the steps that are kept, seconds."""
        if self._before_s is None:
            self._before_s = max((float(record.get("wall_s", 0.0)) for record in self.read()), default=0.0)
        return self._before_s


def _unknown(name: str) -> str:
    close = difflib.get_close_matches(name, METRICS, n=1)
    hint = (
        f"did you mean {close[0]!r}?"
        if close
        else "add it to METRICS in thumbs/tracking/metrics.py and docs/metrics.md"
    )
    return f"unknown metric {name!r}; {hint}"
