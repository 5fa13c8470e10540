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
    Metric("sft/loss", "nats per token", "Cross-entropy of the assistant's tokens in the batch."),
    Metric(
        "sft/heldout_loss",
        "nats per token",
        "The same on held-out conversations; its lowest is the checkpoint kept.",
    ),
    Metric("sft/grad_norm", "L2 norm", "Gradient before clipping."),
    Metric("sft/learning_rate", "per step", "Rate of the optimizer at this step."),
    Metric("sft/tokens_per_s", "tokens/s", "Training tokens, prompts included."),
)
_PREFERENCES = (
    Metric("labels/pairs", "pairs", "Judged pairs, ties included."),
    Metric("labels/ties", "fraction", "Pairs that were judged a tie."),
    Metric("labels/label_noise", "fraction", "Untied pairs whose label contradicts the gold judge."),
)
_REWARD = (
    Metric(
        "reward/loss", "nats per row", "Loss of the batch, a pair, ranking, rating or reply; squares for regression."
    ),
    Metric(
        "reward/accuracy",
        "fraction",
        "Untied pairs (of lists too) whose preferred reply scores higher; ratings and steps on their level.",
    ),
    Metric("reward/heldout_loss", "nats per row", "The loss on held-out rows; its lowest is the checkpoint kept."),
    Metric("reward/heldout_accuracy", "fraction", "The accuracy on held-out rows."),
    Metric("reward/error", "score", "Mean distance of score and label in a regression."),
    Metric("reward/heldout_error", "score", "The same on held-out rows."),
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
    Metric("ppo/part/*", "score", "Mean of a part of the score before its weight, where the score is a mix."),
    Metric("ppo/cost", "cost", "Mean cost of the replies, which ppo.constraint limits; of a cost model P(unsafe)."),
    Metric("ppo/lambda", "score a cost", "Multiplier λ of the constraint at this step."),
    Metric("ppo/reward", "score", "Mean sum of a sequence's token rewards: shaped score minus the KL penalty."),
    Metric("ppo/kl", "nats per sequence", "Mean log-ratio of policy to reference, summed over the reply (k1)."),
    Metric("ppo/kl_coef", "score per nat", "Price of KL in the token rewards at this step."),
    Metric("ppo/entropy", "nats per token", "Mean entropy of the policy at the sampled tokens."),
    Metric("ppo/length", "tokens", "Mean reply length, EOS included."),
    Metric("ppo/truncated", "fraction", "Replies that the length limit cut."),
    Metric("ppo/repetition", "fraction", "Repeated n-grams in the replies; a rise warns of collapse."),
    Metric(
        "ppo/sampler_gap",
        "nats per token",
        "Mean absolute difference of sampling and training logprobs; almost 0.",
    ),
    Metric("ppo/sampler_gap_p95", "nats per token", "Its 95th percentile over the tokens."),
    Metric("ppo/sampler_off", "fraction", "Tokens whose ratio of trainer to sampler lies outside 0.9 to 1.1."),
    Metric("ppo/advantage_std", "score", "Standard deviation of the advantages before whitening."),
)
_WATCH = (
    Metric("watch/proxy", "score", "Mean score of the watch set by what the policy is paid by."),
    Metric("watch/second_proxy", "score", "Mean score of the watch set by the second opinion."),
    Metric("watch/gap", "score", "What the proxy has gained since the start, less what the second opinion has."),
    Metric("watch/value", "score", "Second opinion less watch.kl_price per nat, or gold; rollback is to its maximum."),
    Metric("watch/gold", "score", "Mean score of the watch set by the judge of watch.gold."),
    Metric("watch/best_step", "steps", "Step whose policy has the highest value so far."),
    Metric("watch/kl", "nats per sequence", "Mean log-ratio of policy to reference on the watch set (k1)."),
    Metric("watch/kl_per_token", "nats per token", "The same over all tokens."),
    Metric("watch/length", "tokens", "Mean reply length on the watch set."),
    Metric("watch/repetition", "fraction", "Repeated 3-grams of tokens in the replies."),
    Metric("watch/entropy", "nats per token", "Mean negative logprob of the tokens drawn."),
    Metric("watch/ended", "fraction", "Replies that ended by themselves."),
    Metric("watch/sampler_off", "fraction", "Tokens with a ratio of trainer to sampler outside 0.9 to 1.1."),
)
_PPO_UPDATE = (
    Metric("ppo/policy_loss", "advantage", "Clipped surrogate, mean a token."),
    Metric("ppo/value_loss", "score²", "Half the squared error of the values, clipped variant, mean a token."),
    Metric("ppo/ptx_loss", "nats per token", "Cross-entropy of the SFT data that is mixed in."),
    Metric("ppo/approx_kl", "nats per token", "KL of new from old policy in the last minibatch (k3)."),
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
    Metric("ppo/staleness", "steps", "Age of the rollouts: steps since the weights that sampled them."),
    Metric("ppo/importance", "ratio", "Mean weight π/π_sampler of the tokens of another sampler."),
    Metric("ppo/importance_masked", "fraction", "Tokens of another sampler that count nothing (ppo.importance)."),
    Metric("ppo/cut", "prompts", "Prompts left out because their replies were late (rollout.cut_after_s)."),
    Metric(
        "ppo/filtered", "replies", "Replies that a filter found something in; with those to the same prompt dropped."
    ),
    Metric("ppo/rollout_s", "seconds", "Time that the step waited for its rollouts and their scores."),
    Metric("ppo/update_s", "seconds", "Time for the epochs of policy and critic."),
)

_PREFERENCE = (
    Metric(
        "preference/loss",
        "nats per pair",
        "Loss of the method on the batch (kto: a reply); its unit differs between methods.",
    ),
    Metric(
        "preference/chosen_logprob", "nats per reply", "Mean logprob of the chosen replies of the batch, ties left out."
    ),
    Metric("preference/rejected_logprob", "nats per reply", "The same of the rejected ones."),
    Metric("preference/chosen_ratio", "nats per reply", "Mean log-ratio of policy to reference of the chosen replies."),
    Metric("preference/rejected_ratio", "nats per reply", "The same of the rejected ones."),
    Metric(
        "preference/margin",
        "score",
        "Mean reward of the chosen less the rejected; reward = beta · log-ratio, or its mean a token.",
    ),
    Metric("preference/accuracy", "fraction", "Untied pairs of the batch with a margin above 0."),
    Metric(
        "preference/heldout_loss", "nats per pair", "The loss on held-out pairs; its lowest is the checkpoint kept."
    ),
    Metric(
        "preference/heldout_chosen_logprob", "nats per reply", "Mean logprob of the chosen replies of held-out pairs."
    ),
    Metric("preference/heldout_rejected_logprob", "nats per reply", "The same of the rejected ones."),
    Metric(
        "preference/heldout_chosen_ratio",
        "nats per reply",
        "Mean log-ratio to the reference of the chosen replies of held-out pairs.",
    ),
    Metric("preference/heldout_rejected_ratio", "nats per reply", "The same of the rejected ones."),
    Metric("preference/heldout_margin", "score", "The margin on held-out pairs."),
    Metric("preference/heldout_accuracy", "fraction", "The accuracy on held-out pairs."),
    Metric(
        "preference/both_fell",
        "0 or 1",
        "1 where the logprobs of chosen and of rejected replies are more than 2 nats below where they began.",
    ),
    Metric(
        "preference/baseline",
        "nats or score",
        "What rewards count from: z0 of kto (nats), the running mean reward of bco and mpo (score).",
    ),
    Metric("preference/score", "score", "Online: mean score of the policy's replies."),
    Metric("preference/score_std", "score", "Online: mean over the prompts of the deviation of their replies' scores."),
    Metric("preference/decided", "fraction", "Online: prompts whose replies' scores differ."),
    Metric(
        "preference/kl",
        "nats per sequence",
        "Online: mean log-ratio to the reference of the replies that are compared.",
    ),
    Metric("preference/length", "tokens", "Online: mean reply length, EOS included."),
    Metric("preference/truncated", "fraction", "Online: replies that the length limit cut."),
    Metric("preference/staleness", "steps", "Online: age of the replies, steps since the weights that sampled them."),
    Metric("preference/cut", "prompts", "Online: prompts left out because their replies were late."),
    Metric(
        "preference/filtered",
        "replies",
        "Online: replies that a filter found something in; with those to the same prompt dropped.",
    ),
    Metric("preference/rollout_s", "seconds", "Online: time that the step waited for its replies and their scores."),
    Metric("preference/update_s", "seconds", "Online: time for reference and update."),
    Metric("preference/grad_norm", "L2 norm", "Gradient before clipping."),
    Metric("preference/learning_rate", "per step", "Rate of the optimizer at this step."),
    Metric(
        "preference/tokens_per_s",
        "tokens/s",
        "Training tokens, prompts included; a reply in several pairs counts once.",
    ),
)
_GROUP = (
    Metric("group/score", "score", "Mean score of the replies."),
    Metric("group/sampler_gap", "nats per token", "As ppo/sampler_gap; if replies are old or another program's."),
    Metric("group/sampler_gap_p95", "nats per token", "Its 95th percentile over the tokens."),
    Metric("group/sampler_off", "fraction", "Tokens whose ratio of trainer to sampler lies outside 0.9 to 1.1."),
    Metric("group/score_std", "score", "Mean over the groups of the deviation inside one; 0 teaches nothing."),
    Metric("group/part/*", "score", "Mean of a part of the score before its weight, where the score is a mix."),
    Metric("group/cost", "cost", "Mean cost of the replies, which group.constraint limits; of a cost model P(unsafe)."),
    Metric("group/lambda", "score a cost", "Multiplier λ of the constraint at this step."),
    Metric("group/without_signal", "fraction", "Groups of the step whose scores are all equal."),
    Metric("group/redraws", "batches", "Batches of prompts drawn in place of groups without signal."),
    Metric("group/dropped", "groups", "Groups with a signal that were drawn in place of others and not needed."),
    Metric("group/staleness", "steps", "Age of the rollouts: steps since the weights that sampled them."),
    Metric("group/cut", "prompts", "Prompts left out because their replies were late (rollout.cut_after_s)."),
    Metric(
        "group/filtered", "replies", "Replies that a filter found something in; with those to the same prompt dropped."
    ),
    Metric("group/importance", "ratio", "Mean weight π/π_sampler of the tokens; 1 without staleness."),
    Metric("group/importance_masked", "fraction", "Tokens of another sampler that count nothing (group.importance)."),
    Metric("group/length", "tokens", "Mean reply length, EOS included."),
    Metric("group/truncated", "fraction", "Replies that the length limit cut."),
    Metric("group/overlong", "score", "Mean penalty for replies near the length limit."),
    Metric("group/repetition", "fraction", "Repeated n-grams in the replies; a rise warns of collapse."),
    Metric("group/kl", "nats per sequence", "Mean log-ratio of policy to reference, summed over the reply (k1)."),
    Metric("group/policy_loss", "advantage", "The method's loss without its KL term, over its normaliser."),
    Metric("group/kl_loss", "score", "The KL term of the loss, its price included."),
    Metric("group/approx_kl", "nats per token", "KL of the policy from the one before the step (k3)."),
    Metric("group/clip_fraction", "fraction", "Tokens whose ratio the clip bounds."),
    Metric("group/ratio_first", "ratio", "Mean π/π_old in the first minibatch of the first epoch; must be 1."),
    Metric("group/entropy", "nats per token", "Mean of -logprob at the sampled tokens, an estimate of the entropy."),
    Metric("group/grad_norm", "L2 norm", "Gradient before clipping, mean over the step."),
    Metric("group/rollout_s", "seconds", "Time that the step waited for its rollouts and their scores."),
    Metric("group/update_s", "seconds", "Time for the update."),
)
_REJECTION = (
    Metric("rejection/score", "score", "Mean score of all replies of the round."),
    Metric("rejection/kept_score", "score", "Mean score of the kept ones, which the round trains on."),
    Metric("rejection/kept", "replies", "How many were kept."),
    Metric("rejection/filtered", "replies", "Replies that a filter found something in; not kept."),
    Metric("rejection/kl", "nats per sequence", "Mean log-ratio of policy to its start over the round's replies."),
    Metric("rejection/length", "tokens", "Mean reply length, EOS included."),
    Metric("rejection/kept_length", "tokens", "The same of the kept ones; longer than all: length is paid."),
    Metric("rejection/loss", "nats per token", "Cross-entropy of the kept replies in the batch."),
    Metric("rejection/grad_norm", "L2 norm", "Gradient before clipping."),
    Metric("rejection/learning_rate", "per step", "Rate of the optimizer at this step."),
    Metric("rejection/tokens_per_s", "tokens/s", "Training tokens, prompts included."),
    Metric("rejection/rollout_s", "seconds", "Time for sampling and scoring the round."),
)

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        *_SFT,
        *_PREFERENCES,
        *_REWARD,
        *_PPO_ROLLOUT,
        *_PPO_UPDATE,
        *_WATCH,
        *_PREFERENCE,
        *_GROUP,
        *_REJECTION,
    )
}
"""Every metric a stage may log, by name; docs/metrics.md shows the same list. `*` stands for a name that users give."""


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
            if name not in METRICS and f"{name.rpartition('/')[0]}/*" not in METRICS:
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
