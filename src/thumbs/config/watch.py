"""Settings of the watch that is kept on a policy while it trains."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from thumbs.config.base import Frozen
from thumbs.config.evaluation import GoldConfig


class WatchConfig(Frozen):
    """A fixed set of prompts that the policy answers again and again, and a second opinion on the answers."""

    every: int = Field(default=1, ge=1)
    """Steps between looks."""
    prompts: int = Field(default=128, ge=8)
    """Prompts of the watch set. They are among those that the method trains on, since the prompts of the evaluation
    must not choose the policy that is evaluated.
    """
    second_proxy: str | None = None
    """Who gives the second opinion: the path of a reward model or the name of a sequence classifier; null: the run
    trains another reward model on its held-out pairs.
    """
    gold: GoldConfig | None = None
    """What is trusted to say which reply is better, as in evaluation.gold, all but people. A judge of pairs compares
    with the replies of the first look. The value of a policy is then what gold says, and there is a second opinion
    only if second_proxy names one; null: the value is that of the second opinion.
    """
    kl_price: float = Field(default=0.1, ge=0)
    """What a nat of distance from the reference has to earn in the second opinion (deviations of its score per nat)."""
    act: Literal["log", "stop", "rollback"] = "log"
    """What an alarm about the value of the policy does: log writes it down, stop ends the stage with the policy as it
    is, rollback ends it with the policy that had the highest value.
    """
    kl_after: float | None = Field(default=None, gt=0)
    """With act=rollback in PPO: the first rollback does not end the stage, which goes on from that policy with this
    ppo.kl.coef, and leaves the policy with the highest value in the end; null: it ends.
    """
