"""Settings of PPO: the KL price, the critic, and the rest."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from thumbs.config.base import Frozen
from thumbs.config.methods import Method
from thumbs.config.optim import AdamConfig
from thumbs.config.rounds import RoundsConfig

PPO_METHODS = (
    Method(
        "ppo",
        "Proximal policy optimisation",
        "arXiv:1707.06347, eq. 7; for language models arXiv:1909.08593, arXiv:2203.02155",
        "a critic says what was expected, a clip how far one batch may move the policy, KL what distance costs",
    ),
)


class KlConfig(Frozen):
    """The price of leaving the reference, and the brakes."""

    coef: float = Field(default=0.1, ge=0)
    """Score units per nat, in the token rewards."""
    target: float | None = Field(default=6.0, gt=0)
    """KL per sequence (nats) that the adaptive controller steers to; null keeps the coefficient fixed."""
    horizon: int = Field(default=10_000, ge=1)
    """Time constant of the controller, episodes (arXiv:1909.08593, section 2.2)."""
    estimator: Literal["k1", "k2", "k3"] = "k1"
    """Per-token estimator inside the reward; k1 is unbiased, k3 is never negative."""
    stop_above: float | None = Field(default=0.1, gt=0)
    """Leave the epoch loop when the mean KL per token of new from old policy (nats) passes this; null: never."""
    budget: float | None = Field(default=None, gt=0)
    """End the run at the first step whose replies are farther from the reference than this (nats per sequence): the
    policy that wrote them is the result."""


class CriticConfig(Frozen):
    """The value function."""

    init: Literal["shared", "reward", "policy"] = "shared"
    """shared: a head on the policy's own trunk; reward, policy: a model of its own from those weights."""
    learning_rate: float | None = Field(default=None, gt=0)
    """Rate of the critic; null: the policy's for a critic of its own, ten times that for a shared trunk's head."""
    value_coef: float = Field(default=0.1, ge=0)
    """Weight of the value loss."""
    value_clip: float | None = Field(default=0.2, gt=0)
    """Values move at most this far from their old prediction in one step (score units); null: no clip."""
    warmup_steps: int = Field(default=0, ge=0)
    """First steps in which only the critic learns."""


class PpoConfig(RoundsConfig):
    """PPO with a critic against a reward."""

    section = "ppo"
    family = "replies_per_prompt"

    minibatch_size: int = Field(default=16, ge=1)
    """Rollouts per optimizer step; must divide batch_size."""
    replies_per_prompt: int = Field(default=1, ge=1)
    """Rollouts to one prompt, side by side in a minibatch, which compute it once; must divide minibatch_size."""
    epochs: int = Field(default=2, ge=1)
    """Passes over the rollouts of a step; 2 to 4 are usual."""
    optim: AdamConfig = AdamConfig(learning_rate=1e-4, schedule="constant", warmup_fraction=0.0)
    """Policy optimizer; 1e-6 to 1e-5 for full training, about ten times that for LoRA."""
    kl: KlConfig = KlConfig()
    """KL penalty and brakes."""
    critic: CriticConfig = CriticConfig()
    """Value function."""
    clip_range: float = Field(default=0.2, gt=0)
    """Half-width of the trusted interval of the ratio, fraction."""
    gamma: float = Field(default=1.0, gt=0, le=1)
    """Discount per token."""
    lam: float = Field(default=0.95, ge=0, le=1)
    """λ of generalised advantage estimation."""
    whiten_advantages: bool = True
    """Advantages of a step get mean 0 and deviation 1 over its sampled tokens."""
    whiten_rewards: bool = False
    """Token rewards get deviation 1, their mean kept."""
    score_scale: bool = True
    """Divide scores by their standard deviation over the replies that the reward model was trained on."""
    score_clip: float | None = Field(default=5.0, gt=0)
    """Bound of the score after scaling (score units); null: none."""
    missing_eos_penalty: float = Field(default=0.0, ge=0)
    """Subtracted from the score of a reply that the length limit cut (score units)."""
    entropy_coef: float = Field(default=0.0, ge=0)
    """Weight of an entropy bonus (per nat)."""
    ptx_coef: float = Field(default=0.0, ge=0)
    """Weight of the SFT loss mixed into each policy step (InstructGPT's PPO-ptx)."""

    def _misfits(self) -> Iterator[str]:
        if self.constraint is not None and not self.whiten_advantages:
            yield "ppo.constraint needs ppo.whiten_advantages, since λ grows and the advantages would grow with it"
        yield from super()._misfits()
