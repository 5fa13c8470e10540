"""Settings of rejection-sampling fine-tuning."""

from __future__ import annotations

from pydantic import Field

from thumbs.config.base import Frozen
from thumbs.config.data import DataConfig
from thumbs.config.methods import Method
from thumbs.config.optim import AdamConfig
from thumbs.config.reward_parts import RewardPart
from thumbs.config.sampling import SamplingConfig

REJECTION_METHODS = (
    Method(
        "rejection",
        "Rejection-sampling fine-tuning (RAFT)",
        "arXiv:2304.06767, algorithm 1; arXiv:2307.09288, section 3.2.3",
        "supervised fine-tuning on the best of n replies by the reward, `rounds` times from the policy of the last",
    ),
)


class RejectionConfig(Frozen):
    """Rejection-sampling fine-tuning: sample, keep the best replies, train on them, and again."""

    prompts: DataConfig
    """Prompts to sample replies for; every round takes all of them. A row may have an `answer`, for verifiers."""
    reward: tuple[RewardPart, ...] = ()
    """Parts of a reply's score (a judge, a model, a function, a rule), added up; none: the run's reward model."""
    rounds: int = Field(default=2, ge=1)
    """Rounds of sampling and training; each samples from the policy that the one before left."""
    replies_per_prompt: int = Field(default=8, ge=2)
    """Replies sampled to each prompt, n of best-of-n."""
    keep: int = Field(default=1, ge=1)
    """Best replies kept of them; less than replies_per_prompt."""
    above: float | None = None
    """Keep only replies that score more than this (score units, normalised); null: the best, whatever it is."""
    epochs: int = Field(default=1, ge=1)
    """Passes over the kept replies of a round."""
    batch_size: int = Field(default=16, ge=1)
    """Replies an optimizer step."""
    optim: AdamConfig = AdamConfig(learning_rate=1e-4, schedule="constant", warmup_fraction=0.0)
    """Optimizer; as for SFT."""
    sampling: SamplingConfig = SamplingConfig()
    """How replies are drawn; top-k and top-p are allowed, since nothing is divided by their probability."""

    def misfit(self) -> str | None:
        """What is wrong with the sizes; None if they fit."""
        if self.keep >= self.replies_per_prompt:
            return (
                f"rejection.keep={self.keep} rejects nothing of rejection.replies_per_prompt={self.replies_per_prompt}"
            )
        return None
