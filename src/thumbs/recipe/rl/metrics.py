"""Numbers of rollouts and updates."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from thumbs.clients.types import Datum
from thumbs.recipe.any_client import as_array
from thumbs.recipe.rl.types import STOP_METRIC_PREFIX, TrajectoryGroup

_GOOD = 0.5


def compute_trajectory_metrics(
    trajectory_groups_P: Sequence[TrajectoryGroup],
    taglist_P: Sequence[Sequence[str]],
) -> dict[str, float]:
    """Means over all groups as env/all/…, and over those of each tag as env/{tag}/…."""
    by_tag: dict[str, list[TrajectoryGroup]] = defaultdict(list)
    for group, tags in zip(trajectory_groups_P, taglist_P, strict=True):
        for tag in dict.fromkeys(["all", *tags]):
            by_tag[tag].append(group)
    metrics = {f"env/{tag}/{name}": v for tag, groups in by_tag.items() for name, v in _of_groups(groups).items()}
    errors = Counter(error.error_type for group in trajectory_groups_P for error in group.rollout_errors)
    return metrics | {f"rollout_errors/{name}": float(count) for name, count in errors.items()}


def _of_groups(groups: Sequence[TrajectoryGroup]) -> dict[str, float]:
    trajectories = [trajectory for group in groups for trajectory in group.trajectories_G]
    transitions = [transition for trajectory in trajectories for transition in trajectory.transitions]
    sampled = sum(len(transition.ac.tokens) for transition in transitions)
    observed = sum(transition.ob.length for transition in transitions)
    rewards_P = [group.get_total_rewards() for group in groups]
    constant = [rewards[0] for rewards in rewards_P if len(set(rewards)) == 1]
    good = sum(reward >= _GOOD for reward in constant)
    endings = [trajectory.transitions[-1].ac.stop_reason for trajectory in trajectories]
    stops = Counter(trajectory.stop_reason for trajectory in trajectories if trajectory.stop_reason)
    own = [transition.metrics for transition in transitions] + [m for group in groups for m in group.metrics_G]
    return {
        "ac_tokens_per_turn": sampled / len(transitions),
        "ob_tokens_per_turn": observed / len(transitions),
        "turns_per_episode": len(transitions) / len(trajectories),
        "total_episodes": len(trajectories),
        "total_turns": len(transitions),
        "total_ac_tokens": sampled,
        "total_ob_tokens": observed,
        "truncated_episodes": sum(last == "length" for last in endings) / len(trajectories),
        "reward/total": float(np.mean([reward for rewards in rewards_P for reward in rewards])),
        "by_group/frac_mixed": 1 - len(constant) / len(groups),
        "by_group/frac_all_good": good / len(groups),
        "by_group/frac_all_bad": (len(constant) - good) / len(groups),
        **_means(own),
        **{f"{STOP_METRIC_PREFIX}{reason}": count / len(trajectories) for reason, count in stops.items()},
    }


def _means(records: Iterable[dict[str, float]]) -> dict[str, float]:
    """The mean of each key over the records that have it."""
    values: dict[str, list[float]] = defaultdict(list)
    for record in records:
        for name, value in record.items():
            values[name].append(float(value))
    return {name: float(np.mean(items)) for name, items in values.items()}


def compute_kl_sample_train(
    data_D: Sequence[Datum],
    logprobs_D: Sequence[Any],
    prefix: str = "optim/kl_sample_train",
) -> dict[str, float]:
    """How far other logprobs of the chosen tokens are from the sampler's: mean difference (v1), half its mean square
    (v2), and the sampler's entropy, nats a token. Empty where no token was chosen.
    """
    chosen = [as_array(datum.loss_fn_inputs["mask"]) > 0 for datum in data_D]
    sampled = [as_array(datum.loss_fn_inputs["logprobs"]) for datum in data_D]
    pairs = [
        np.stack([old[mask], np.asarray(new)[mask]])
        for old, new, mask in zip(sampled, logprobs_D, chosen, strict=True)
        if mask.any()
    ]
    if not pairs:
        return {}
    old, new = np.concatenate(pairs, axis=1)
    gap = old - new
    return {
        f"{prefix}_v1": float(gap.mean()),
        f"{prefix}_v2": float(0.5 * (gap**2).mean()),
        "optim/entropy": float(-old.mean()),
    }


def discounted_future_sum_vectorized(x: np.ndarray, gamma: float) -> np.ndarray:
    """Entry t: Σ over s ≥ t of gamma^(s − t) · x[s]."""
    sums = np.zeros_like(x)
    running = 0.0
    for t in reversed(range(len(x))):
        running = x[t] + gamma * running
        sums[t] = running
    return sums
