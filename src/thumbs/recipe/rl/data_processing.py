"""From groups of trajectories to datums with advantages."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np

from thumbs.clients.types import Datum, ModelInput
from thumbs.recipe.any_client import as_array, to_model_input, types_of
from thumbs.recipe.futures import resolved
from thumbs.recipe.rl.metrics import discounted_future_sum_vectorized
from thumbs.recipe.rl.types import PARSE_ERROR_MASKED_METRIC_KEY, Trajectory, TrajectoryGroup


def compute_advantages(trajectory_groups_P: Sequence[TrajectoryGroup]) -> list[np.ndarray]:
    """For each group [G]: reward minus the mean of the group. One advantage for all tokens of a trajectory."""
    rewards_P = [np.array(group.get_total_rewards()) for group in trajectory_groups_P]
    # As differences from the first, whose mean is exactly 0 if all are equal; the rewards' own mean rounds.
    from_first_P = [rewards_G - rewards_G[0] for rewards_G in rewards_P]
    return [from_first_G - from_first_G.mean() for from_first_G in from_first_P]


def trajectory_to_data(traj: Trajectory, traj_advantage: float) -> list[Datum]:
    """One datum as long as each observation begins with the observation and action before it; then another.

    Loss inputs: target_tokens, logprobs (of the sampler), advantages, and mask: 1 where the policy chose the token.
    Replies that their environment has marked as parse_error_masked have neither; turns without tokens leave nothing.
    """
    data: list[Datum] = []
    tokens: list[int] = []
    logprobs: list[float] = []
    mask: list[float] = []
    for transition in traj.transitions:
        if not transition.ac.tokens:
            continue  # the prompt was too long to begin
        observation = transition.ob.to_ints()
        if observation[: len(tokens)] != tokens:
            data.append(_datum(tokens, logprobs, mask, traj_advantage))
            tokens, logprobs, mask = [], [], []
        new = observation[len(tokens) :]
        action = transition.ac
        tokens = [*observation, *action.tokens]
        logprobs += [0.0] * len(new) + action.logprobs
        chosen = float(not transition.metrics.get(PARSE_ERROR_MASKED_METRIC_KEY))
        mask += [0.0] * len(new) + [chosen] * len(action.tokens)
    return [*data, _datum(tokens, logprobs, mask, traj_advantage)] if tokens else data


def _datum(tokens: list[int], logprobs: list[float], mask: list[float], advantage: float) -> Datum:
    chosen = np.array(mask[1:], dtype=np.float32)
    return Datum(
        ModelInput.from_ints(tokens[:-1]),
        {"target_tokens": tokens[1:], "logprobs": logprobs[1:], "advantages": advantage * chosen, "mask": chosen},
    )


def assemble_training_data(
    trajectory_groups_P: Sequence[TrajectoryGroup],
    advantages_P: Sequence[np.ndarray],
) -> list[Datum]:
    """The datums of all trajectories."""
    return [
        datum
        for group, advantages_G in zip(trajectory_groups_P, advantages_P, strict=True)
        for trajectory, advantage in zip(group.trajectories_G, advantages_G, strict=True)
        for datum in trajectory_to_data(trajectory, float(advantage))
    ]


def remove_constant_reward_groups(trajectory_groups_P: Sequence[TrajectoryGroup]) -> list[TrajectoryGroup]:
    """The groups whose rewards differ; the others have no gradient."""
    return [group for group in trajectory_groups_P if len(set(group.get_total_rewards())) > 1]


async def sequence_logprobs(sampling_client: Any, data_D: Sequence[Datum]) -> list[np.ndarray]:
    """Logprobs of each datum's targets by a sampling client, nats at temperature 1; all are asked for at once."""
    target = types_of(sampling_client)
    sequences = [
        ModelInput.from_ints([*datum.model_input.to_ints(), int(as_array(datum.loss_fn_inputs["target_tokens"])[-1])])
        for datum in data_D
    ]
    futures = [sampling_client.compute_logprobs(to_model_input(sequence, target)) for sequence in sequences]
    rows = await asyncio.gather(*(resolved(future) for future in futures))
    return [np.array(row[1:], dtype=np.float32) for row in rows]


async def incorporate_kl_penalty(
    data_D: list[Datum],
    reference_client: Any,
    kl_penalty_coef: float,
    kl_discount_factor: float = 0.0,
) -> tuple[list[Datum], dict[str, float]]:
    """The datums with the KL penalty in their advantages, and its size before.

    Δ = logprob of the sampler minus that of the reference; each chosen token gets coef · (mean of Δ over all chosen
    tokens − its own Δ), which moves no advantage on average; with a discount factor also those of the tokens after it.
    """
    reference_D = await sequence_logprobs(reference_client, data_D)
    mask_D = [as_array(datum.loss_fn_inputs["mask"]) for datum in data_D]
    gap_D = [
        (as_array(datum.loss_fn_inputs["logprobs"]) - reference) * mask
        for datum, reference, mask in zip(data_D, reference_D, mask_D, strict=True)
    ]
    mean = float(sum(gap.sum() for gap in gap_D) / max(1, sum(mask.sum() for mask in mask_D)))
    penalised = []
    for datum, gap, mask in zip(data_D, gap_D, mask_D, strict=True):
        penalty = kl_penalty_coef * mask * (mean - gap)
        if kl_discount_factor > 0:
            penalty = discounted_future_sum_vectorized(penalty, kl_discount_factor) * mask
        inputs = dict(datum.loss_fn_inputs)
        inputs["advantages"] = as_array(inputs["advantages"]) + penalty
        penalised.append(Datum(datum.model_input, inputs))
    return penalised, {"kl_policy_base": mean}
