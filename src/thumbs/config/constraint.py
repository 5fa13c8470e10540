"""Settings of a limit on what replies may cost."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field, field_validator

from thumbs.config.base import Frozen
from thumbs.config.reward_parts import OWN_COST, RewardPart


class ConstraintConfig(Frozen):
    """A limit on the mean cost of replies, held by a multiplier λ: what is optimised is score - λ · cost."""

    cost: RewardPart | None = None
    """What a reply costs, as a part of a reward is given; a text alone is a model, or a function as `module:name`;
    null: the run's cost model, whose cost is P(unsafe).
    """
    limit: float
    """What replies may cost on average (units of the cost; for a cost model the share of unsafe replies)."""
    rate: float = Field(default=0.1, gt=0)
    """Step of λ's ascent: ln λ grows by rate · λ · (cost - limit) a step."""
    max: float = Field(default=10.0, gt=0)
    """λ grows no further (score units a unit of cost). There it is an alarm: the limit cannot be held. With
    ppo.score_clip 5 an unsafe reply is then worse than any safe one.
    """
    start: float = Field(default=1.0, gt=0)
    """λ at the first step."""
    rule: Literal["lagrangian", "safe_rlhf"] = "lagrangian"
    """lagrangian: score - λ · cost; safe_rlhf divides that by 1 + λ, so against a price of KL not every limit can be
    held (docs/guides/safety.md).
    """

    @field_validator("cost", mode="before")
    @classmethod
    def _by_name(cls, given: Any) -> Any:
        if not isinstance(given, str):
            return given
        is_function = ":" in given and "/" not in given
        return {"function": given} if is_function else {"model": given}

    @property
    def source(self) -> RewardPart:
        """What a reply costs."""
        return RewardPart(model=OWN_COST) if self.cost is None else self.cost

    def misfits(self, section: str) -> Iterator[str]:
        """What is wrong with it."""
        where, cost = f"{section}.constraint", self.source
        if wrong := cost.misfit():
            yield f"{where}.cost: {wrong}"
        if cost.environment:
            yield f"{where}.cost: an environment gives rewards and no costs; give a model, function, verifier or judge"
        if cost.weight != 1.0:
            yield f"{where}.cost: its weight is λ, which is found; leave weight={cost.weight:g} out and set the limit"
        if cost.name is not None:
            yield f"{where}.cost: metrics call it {section}/cost; leave name={cost.name} out"
        if self.start > self.max:
            yield f"{where}.start={self.start:g} is above {where}.max={self.max:g}"
