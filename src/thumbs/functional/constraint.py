"""Rewards under a limit on expected cost: what a reply is worth at a multiplier λ, and how λ follows the cost.

    max over π of  E[score] - β KL(π ‖ π_ref)   such that  E[cost] ≤ limit

Dai et al. 2023, arXiv:2310.12773 (Safe RLHF). We differ: the cost is taken off the score before advantages are
estimated, so one critic learns what is left, and advantages are whitened in place of a division by 1 + λ.

Its dual is a game: the policy maximises score - λ · cost, and λ rises while the limit is broken. For a KL price β the
policy at the solution is π* ∝ π_ref · exp((score - λ* · cost) / β), with λ* = 0, or else E[cost] = limit.
"""

from __future__ import annotations

import math

from torch import Tensor

from thumbs.functional.formulas import by_name


def lagrangian(scores: Tensor, costs: Tensor, multiplier: float) -> Tensor:
    """score - λ · cost, score units; scores and costs have one shape."""
    return scores - multiplier * costs


def safe_rlhf(scores: Tensor, costs: Tensor, multiplier: float) -> Tensor:
    """(score - λ · cost) / (1 + λ), score units: safe-rlhf's ppo_lag, whose price of KL is not divided either.

    The division bounds what a cost can weigh against a fixed price of KL: for λ → ∞ the policy is π_ref · exp(-cost /
    β), and no λ holds a limit below its cost.
    """
    return (scores - multiplier * costs) / (1.0 + multiplier)


RULES = by_name(lagrangian, safe_rlhf)
"""What a reply is worth, by name."""


def ascend(multiplier: float, cost: float, limit: float, *, rate: float, most: float, least: float = 1e-6) -> float:
    """The next λ: ln λ + rate · λ · (cost - limit), at least `least` and at most `most` (score units a unit of cost).

    Gradient ascent of the dual λ · (cost - limit) in ln λ, so that λ stays above 0 (Safe RLHF, arXiv:2310.12773).
    """
    log = math.log(multiplier) + rate * multiplier * (cost - limit)
    return most if log >= math.log(most) else max(math.exp(log), least)
