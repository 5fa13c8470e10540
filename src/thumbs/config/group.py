"""Settings of group-relative policy optimisation."""

from __future__ import annotations

from pydantic import Field

from thumbs.config.base import Frozen
from thumbs.config.data import DataConfig
from thumbs.config.minibatches import misfit
from thumbs.config.optim import AdamConfig
from thumbs.config.sampling import SamplingConfig


class GroupConfig(Frozen):
    """Group-relative policy optimisation: advantages from the scores of several replies to a prompt, no critic."""

    prompts: DataConfig
    """Prompts to roll out on."""
    steps: int = Field(default=40, ge=1)
    """Rollout-and-update rounds."""
    batch_size: int = Field(default=32, ge=1)
    """Rollouts a step."""
    group_size: int = Field(default=8, ge=2)
    """Replies to one prompt, which are compared with each other; must divide minibatch_size."""
    minibatch_size: int = Field(default=32, ge=1)
    """Rollouts an optimizer step, whole groups; must divide batch_size."""
    epochs: int = Field(default=1, ge=1)
    """Passes over the rollouts of a step."""
    optim: AdamConfig = AdamConfig(learning_rate=1e-5, schedule="constant", warmup_fraction=0.0)
    """Optimizer; 1e-6 for full training, about ten times that for LoRA."""
    sampling: SamplingConfig = SamplingConfig()
    """How rollouts are drawn; top-k and top-p are refused, since they falsify the ratio."""
    clip_range: float = Field(default=0.2, gt=0)
    """Half-width of the trusted interval of the ratio, fraction."""
    scale: bool = True
    """Divide a group's advantages by the deviation of its scores (GRPO); false: only less the mean (Dr. GRPO)."""
    save_every: int = Field(default=5, ge=1)
    """Steps between checkpoints."""

    def misfit(self) -> str | None:
        """What is wrong with the sizes of batch, minibatch and group; None where they fit."""
        return misfit(self, "group", "group_size")
