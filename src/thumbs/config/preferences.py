"""Settings of the pairs: where they come from, or how they are sampled and judged."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from thumbs.config.base import Frozen
from thumbs.config.data import DataConfig
from thumbs.config.sampling import SamplingConfig


class PreferenceConfig(Frozen):
    """Pairs for the reward model: either a file of preferences, or sampled from the SFT model and judged."""

    data: DataConfig | None = None
    """Preferences that exist already; null: sample pairs from the SFT model and ask the annotators."""
    form: Literal["pairs", "rankings", "ratings"] = "pairs"
    """What the rows of `data` are; of rankings, and of rated replies to one prompt, all pairs are taken."""
    prompts: DataConfig | None = None
    """Prompts to sample replies for."""
    replies_per_prompt: int = Field(default=4, ge=2)
    """Replies sampled a prompt."""
    pairs_per_prompt: int = Field(default=3, ge=1)
    """Pairs made of them."""
    sampling: SamplingConfig = SamplingConfig()
    """How the replies are drawn."""
    judge: str = "vader"
    """The gold judge that the simulated annotators look at."""
    judge_model: str | None = None
    """A model (catalog name or folder) that judges the pairs, by the probability of its answers, instead of simulated
    annotators.
    """
    annotators: int = Field(default=3, ge=1)
    """Simulated annotators, one a pair in turn."""
    label_noise: float = Field(default=0.05, ge=0, lt=0.5)
    """Probability that an annotator prefers the worse reply."""
    tie_below: float = Field(default=0.05, ge=0)
    """Differences of gold scores smaller than this are judged a tie."""
