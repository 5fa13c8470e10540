"""A limit on cost in a round of PPO or of a group method: what replies are worth, and the next multiplier λ."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from thumbs.config.reward_parts import COST
from thumbs.config.rounds import RoundsConfig
from thumbs.errors import ConfigError, RewardError
from thumbs.functional.constraint import RULES, ascend
from thumbs.records import Score
from thumbs.rewards.base import RewardSource
from thumbs.rewards.mix import with_cost

Signs = Callable[[dict[str, float], dict[str, float]], dict[str, str]]
"""What looks wrong in the numbers of a step next to those of the first: texts by sign."""


@dataclass(frozen=True, eq=False)
class Priced:
    """Scores [B] that are trained on, less what the replies cost; the next λ, and the numbers of the step.

    Without a constraint the scores are as they were, and λ is 0.
    """

    scores: Tensor
    multiplier: float = 0.0
    metrics: dict[str, float] = field(default_factory=dict)


def costed(config: RoundsConfig, reward: RewardSource, cost: RewardSource | None) -> RewardSource:
    """The reward, whose scores say what replies cost if the config limits that; raises ConfigError without a cost."""
    if config.constraint is None:
        return reward
    if cost is None:
        raise ConfigError(f"{config.section}.constraint limits a cost; give the stage the source of it")
    return with_cost(reward, cost)


def price(config: RoundsConfig, shaped: Tensor, scores: Sequence[Score], multiplier: float | None) -> Priced:
    """Takes λ · cost off the shaped scores [B], after any clipping, which would bound λ, and lets λ follow the cost.

    multiplier: λ of this step, None at the first one. Raises RewardError for a reply without a cost.
    """
    c = config.constraint
    if c is None:
        return Priced(shaped)
    if missing := [place for place, score in enumerate(scores) if COST not in score.parts]:
        raise RewardError(
            f"reply {missing[0]} of the step has no cost, which {config.section}.constraint limits; its cost must give "
            "a number for every reply"
        )
    now = c.start if multiplier is None else multiplier
    costs = torch.tensor([score.parts[COST] for score in scores], dtype=shaped.dtype)
    mean = float(costs.double().mean())
    after = ascend(now, mean, c.limit, rate=c.rate, most=c.max)
    metrics = {f"{config.section}/cost": mean, f"{config.section}/lambda": now}
    return Priced(RULES[c.rule](shaped, costs, now), after, metrics)


def and_infeasible(config: RoundsConfig, alarms: Signs) -> Signs:
    """The alarms, and the sign `infeasible` while λ is at its maximum."""
    c, section = config.constraint, config.section
    if c is None:
        return alarms

    def all_alarms(first: dict[str, float], now: dict[str, float]) -> dict[str, str]:
        found, multiplier = dict(alarms(first, now)), now[f"{section}/lambda"]
        if multiplier >= c.max:
            found["infeasible"] = (
                f"λ is at its maximum, {section}.constraint.max = {c.max:g}, and the cost is "
                f"{now[f'{section}/cost']:.3g}: the limit of {c.limit:g} is infeasible; raise it, lower the price of "
                "KL, or raise max"
            )
        return found

    return all_alarms
