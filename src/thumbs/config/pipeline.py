"""The whole run in one file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Self

from pydantic import Field, field_validator, model_validator

from thumbs.config.base import Frozen
from thumbs.config.cost_model import CostModelConfig
from thumbs.config.direct import DirectConfig
from thumbs.config.engine import EngineConfig, RolloutConfig
from thumbs.config.evaluation import EvaluationConfig
from thumbs.config.former_names import RUN_SETTINGS
from thumbs.config.group import GroupConfig
from thumbs.config.labels import LabelsConfig
from thumbs.config.model import ModelConfig
from thumbs.config.ppo import PpoConfig
from thumbs.config.rejection import RejectionConfig
from thumbs.config.reward_model import RewardModelConfig
from thumbs.config.safety import SafetyConfig
from thumbs.config.sft import SftConfig
from thumbs.config.tracking import TrackerConfig
from thumbs.config.watch import WatchConfig

METHODS = ("direct", "ppo", "group", "rejection")
"""Stages that make a policy better than the one they start from: the SFT model, or the base model without one."""

STAGES = ("sft", "cost_model", "labels", "reward_model", *METHODS, "evaluation")
"""All stages in the order in which a run takes them."""


LOOP = STAGES[2:-1]
"""What every iteration runs; SFT and the cost model come before the first, the evaluation after the last."""


def place(stage: str, iteration: int) -> str:
    """The folder of a stage within the run's: its name, from the second iteration on under `iteration-2` and so on."""
    return f"iteration-{iteration}/{stage}" if iteration > 1 and stage in LOOP else stage


class PipelineConfig(Frozen):
    """SFT → cost model → labels → reward model → methods → evaluation; a stage that is left out is skipped."""

    former_keys: ClassVar[Mapping[str, str]] = RUN_SETTINGS

    run: str = "runs/run"
    """The run folder."""
    seed: int = Field(default=0, ge=0)
    """The same config and seed give the same numbers on the same machine."""
    system: str | None = None
    """A system message put before every conversation that has none; null: what the chat template does by itself."""
    model: ModelConfig = ModelConfig()
    """The base model and how it is trained."""
    engine: EngineConfig = EngineConfig()
    """What computes."""
    rollout: RolloutConfig = RolloutConfig()
    """What samples."""
    sft: SftConfig | None = None
    """Supervised fine-tuning."""
    cost_model: CostModelConfig | None = None
    """The cost model, which says how likely a reply is to be unsafe."""
    labels: LabelsConfig | None = None
    """Pairs for the reward model."""
    reward_model: RewardModelConfig | None = None
    """The reward model."""
    direct: DirectConfig | None = None
    """Training on the pairs directly, without a reward model."""
    ppo: PpoConfig | None = None
    """Reinforcement learning with a critic."""
    group: GroupConfig | None = None
    """Reinforcement learning from the scores of several replies to a prompt."""
    rejection: RejectionConfig | None = None
    """Fine-tuning on the policy's own best replies."""
    watch: WatchConfig | None = None
    """A second opinion on the policy while a method trains it; null: none."""
    safety: SafetyConfig | None = None
    """Filters of what rollouts read and say, and the gate before an export; null: neither."""
    evaluation: EvaluationConfig | None = None
    """Held-out evaluation."""
    iterations: int = Field(default=1, ge=1)
    """Rounds of sampling pairs, labelling and training; each starts from the policy that the one before left."""
    tracking: tuple[TrackerConfig, ...] = ()
    """Programs that show the run's numbers while it trains, next to the run folder, which has them all."""
    fixed_prompts: tuple[str, ...] = ()
    """Prompts whose replies are kept over time and shown side by side in the report."""

    @field_validator("tracking")
    @classmethod
    def _has_one_of_a_kind(cls, given: tuple[TrackerConfig, ...]) -> tuple[TrackerConfig, ...]:
        kinds = [tracker.kind for tracker in given]
        if twice := sorted({kind for kind in kinds if kinds.count(kind) > 1}):
            raise ValueError(f"{', '.join(twice)} is there twice, and what was sent is kept by kind; leave one out")
        return given

    @model_validator(mode="after")
    def _corrects_what_is_off(self) -> Self:
        for section in (self.ppo, self.group):
            if section is not None and not self.rollout.is_off_policy and section.importance != "truncate":
                raise ValueError(
                    f"{section.section}.importance {section.importance} is for replies of older weights or of another "
                    "program; set rollout.staleness or rollout.kind, or leave it out"
                )
        return self
