"""Settings of reinforcement learning from groups of replies."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

from pydantic import Field, field_validator

from thumbs.config.group_methods import GROUP_METHODS, Advantage, GroupMethod, KlPlace, Normaliser
from thumbs.config.methods import preset
from thumbs.config.optim import AdamConfig
from thumbs.config.rounds import RoundsConfig

PIECES = ("advantage", "normaliser", "kl", "kl_coef", "kl_estimator", "dynamic_sampling")
PIECES += ("overlong_buffer", "overlong_penalty")
"""Settings that every method reads; next to them it reads those of its loss."""


class GroupConfig(RoundsConfig):
    """Reinforcement learning from the scores of several replies to a prompt, without a critic (GRPO and its family).

    A setting that is null is that of the method.
    """

    section = "group"
    family = "group_size"

    method: str = "grpo"
    """The preset that gives what is null below."""
    group_size: int = Field(default=8, ge=1)
    """Replies to one prompt, which are compared with each other; must divide minibatch_size."""
    optim: AdamConfig = AdamConfig(learning_rate=1e-5, schedule="constant", warmup_fraction=0.0)
    """Optimizer; 1e-6 for full training, about ten times that for LoRA."""
    advantage: Advantage | None = None
    """How scores become advantages: in deviations of the group, less its mean, less the mean of the others, or what is
    still to come at each token (batch), normalised over the step; centred_batch: less the group's mean, then so."""
    normaliser: Normaliser | None = None
    """A minibatch's loss is the mean over its tokens, the mean of the means of its replies, the sum over replies ·
    max_new_tokens (constant), or the mean of the sums of its replies (sum)."""
    clip_range: float | None = Field(default=None, gt=0)
    """How far the ratio is trusted below 1, and above it unless clip_range_high is given, fraction."""
    clip_range_high: float | None = Field(default=None, gt=0)
    """How far the ratio is trusted above 1, fraction."""
    beta: float | None = Field(default=None, ge=0)
    """Weight of DRO's square penalty (score units per nat²)."""
    kl: KlPlace | None = None
    """Where distance from the reference is paid for: nowhere, in the reward at each token, or as a term of the loss."""
    kl_coef: float | None = Field(default=None, ge=0)
    """Price of KL, score units per nat."""
    kl_estimator: Literal["k1", "k2", "k3"] | None = None
    """Estimate of KL at a token; k1 is for the reward alone, since its gradient says nothing."""
    dynamic_sampling: int | None = Field(default=None, ge=0)
    """More batches of prompts that a step may draw to replace groups whose scores are all equal."""
    overlong_buffer: float | None = Field(default=None, ge=0, lt=1)
    """Last fraction of max_new_tokens in which a reply's score falls, from 0 to overlong_penalty."""
    overlong_penalty: float | None = Field(default=None, ge=0)
    """What a reply loses that the length limit cuts (score units)."""

    @field_validator("method")
    @classmethod
    def _exists(cls, name: str) -> str:
        return preset(name, GROUP_METHODS).name

    def chosen(self) -> GroupMethod:
        """The method's preset with the settings that are given here in place of its own."""
        method = GROUP_METHODS[self.method]
        given = {name: value for name in PIECES if (value := getattr(self, name)) is not None}
        own = {name: value for name in method.loss.settings if (value := getattr(self, name)) is not None}
        return replace(method, loss=method.loss.having(**own, temperature=self.sampling.temperature), **given)

    def _misfits(self) -> Iterator[str]:
        method = self.chosen()
        reads = (*method.loss.settings, *PIECES)
        for name in ("clip_range", "clip_range_high", "beta"):
            if getattr(self, name) is not None and name not in reads:
                yield f"group.{name} means nothing to method {self.method}, which reads {', '.join(reads)}"
        if method.kl == "none" and (self.kl_coef is not None or self.kl_estimator is not None):
            yield f"method {self.method} has no KL term; set group.kl to `reward` or `loss`, or leave kl_coef out"
        if method.kl == "loss" and method.kl_estimator == "k1":
            yield "group.kl_estimator=k1 has no gradient on average; with group.kl=loss give k2 or k3"
        if method.compares and self.group_size < 2:
            yield f"method {self.method} compares replies to one prompt, so group.group_size must be at least 2"
        if method.dynamic_sampling and self.group_size < 2:
            yield "group.dynamic_sampling replaces groups of equal scores; with group.group_size=1 every group is one"
        yield from super()._misfits()
