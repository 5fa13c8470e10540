"""What PPO and the group family have in common: rounds of rollout and update."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal, TypeAlias

from pydantic import Field

from thumbs.config.base import Frozen
from thumbs.config.constraint import ConstraintConfig
from thumbs.config.data import DataConfig
from thumbs.config.environment import EnvironmentConfig
from thumbs.config.optim import AdamConfig
from thumbs.config.reward_parts import COST, RewardPart, reward_misfit
from thumbs.config.sampling import SamplingConfig

Importance: TypeAlias = Literal["truncate", "mask_tokens", "mask_replies"]
"""What is done about samplers whose numbers are not the policy's."""


class RoundsConfig(Frozen):
    """Rounds of rollouts, which are scored, and of an update on minibatches of whole families."""

    section: ClassVar[str]
    """Its key in the file of a run."""
    family: ClassVar[str]
    """The setting that says how many rollouts to one prompt stay together."""

    prompts: DataConfig
    """Prompts to roll out on; a row may have an `answer`, which verifiers compare with."""
    reward: tuple[RewardPart, ...] = ()
    """Parts of a reply's score, added up; none: the run's reward model, or with an environment its rewards."""
    constraint: ConstraintConfig | None = None
    """A limit on what replies cost; null: none."""
    environment: EnvironmentConfig | None = None
    """Conversations of several turns, with tools; null: one reply to each prompt."""
    steps: int = Field(default=40, ge=1)
    """Rollout-and-update rounds."""
    batch_size: int = Field(default=32, ge=1)
    """Rollouts per step."""
    minibatch_size: int = Field(default=32, ge=1)
    """Rollouts per optimizer step, all those to one prompt together; must divide batch_size."""
    epochs: int = Field(default=1, ge=1)
    """Passes over the rollouts of a step."""
    optim: AdamConfig
    """Optimizer; 1e-6 to 1e-5 for full training, about ten times that for LoRA."""
    sampling: SamplingConfig = SamplingConfig()
    """How rollouts are drawn; top-k and top-p are refused, since they falsify ratio and KL."""
    save_every: int = Field(default=5, ge=1)
    """Steps between checkpoints."""
    sample_every: int = Field(default=10, ge=1)
    """Steps between samples for the fixed prompts, and between measurements of a KL that the method does not read."""
    importance: Importance = "truncate"
    """How tokens of an older sampler (rollout.staleness), or of another program (rollout.kind), are weighted. truncate:
    by min(π/π_sampler, importance_cap). mask_tokens: by π/π_sampler, and by 0 if that lies outside 1/importance_cap to
    importance_cap. mask_replies: the same, but of all tokens of a reply at once, by the geometric mean of their
    ratios, where 1.01 to 1.1 is a usual cap."""
    importance_cap: float = Field(default=2.0, gt=0)
    """The bound of `importance`."""

    def misfit(self) -> str | None:
        """What is wrong with the settings together; None if they fit."""
        return next(self._misfits(), None)

    def _misfits(self) -> Iterator[str]:
        """All that is wrong, most telling first."""
        if self.environment is not None and (wrong := self.environment.misfit()):
            yield f"{self.section}.environment: {wrong}"
        if wrong := reward_misfit(self.section, self.reward, has_environment=self.environment is not None):
            yield wrong
        if self.importance != "truncate" and self.importance_cap <= 1:
            cap = f"{self.section}.importance_cap={self.importance_cap:g}"
            yield f"{cap} would mask everything; {self.section}.importance {self.importance} needs more than 1"
        if self.constraint is not None:
            yield from self.constraint.misfits(self.section)
            if COST in [part.title for part in self.reward]:
                yield f"{self.section}.reward: `{COST}` is what the constraint limits; give that part another `name`"
        for whole, part in (("batch_size", "minibatch_size"), ("minibatch_size", self.family)):
            a, b = getattr(self, whole), getattr(self, part)
            if a % b:
                yield f"{self.section}.{whole}={a} is not a multiple of {self.section}.{part}={b}"
