"""Settings of the held-out evaluation."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from thumbs.config.base import Frozen
from thumbs.config.data import DataConfig
from thumbs.config.sampling import SamplingConfig


class EvaluationConfig(Frozen):
    """What is measured on held-out prompts."""

    prompts: DataConfig
    """Prompts that no stage trained on."""
    judge: str = "vader"
    """The gold judge; only the evaluation and the simulated annotators see it."""
    sampling: SamplingConfig = SamplingConfig()
    """How replies are drawn; the same for every model. Top-k, top-p and temperature 0 are refused: they falsify KL."""
    best_of: int = Field(default=4, ge=1)
    """Answers of SFT and PPO to each prompt; also n of best-of-n from SFT, chosen by the reward model."""
    frontier: tuple[Annotated[float, Field(gt=0)], ...] = ()
    """KL levels (nats per sequence): a method keeps the policy whose replies pass one, and it is judged too."""
