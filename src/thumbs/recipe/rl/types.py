"""Environments, what a rollout leaves, and the datasets of reinforcement learning.

Names end in the letter of their axis: _P problems, _G the group of a problem, _D datums.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypedDict

from thumbs.recipe.completers import TokensWithLogprobs
from thumbs.recipe.renderers import StopCondition

Action = list[int]
Observation = Any  # a ModelInput of ours or of an SDK
Metrics = dict[str, float]
Logs = dict[str, Any]


STOP_METRIC_PREFIX = "stop/"
"""Begins the name of the metric by which an environment says why an episode ended: stop/<reason> = 1."""

PARSE_ERROR_MASKED_METRIC_KEY = "parse_error_masked"
"""Metric of a turn that is not trained on, as its reply could not be read."""


class StopReason(StrEnum):
    """Why an episode ended, where its environment or a budget says so."""

    COMPLETED = "completed"
    TOOL_STOPPED = "tool_stopped"
    MAX_TURNS = "max_turns"
    MAX_TOKENS = "max_tokens"
    MAX_SAMPLED_TOKENS = "max_sampled_tokens"
    MAX_TOOL_CALLS = "max_tool_calls"
    CONTEXT_OVERFLOW = "context_overflow"
    PARSE_ERROR = "parse_error"
    ROLLOUT_TIMEOUT = "rollout_timeout"


class ActionExtra(TypedDict, total=False):
    """What is known of an action beside its tokens."""

    stop_reason: str


@dataclass(frozen=True)
class InitialObservationOverflow:
    """What an environment answers instead of a first observation where that is too long: the episode is over."""

    reward: float
    metrics: Metrics = field(default_factory=dict)
    logs: Logs = field(default_factory=dict)


@dataclass
class StepResult:
    """What an environment answers to an action."""

    reward: float
    episode_done: bool
    next_observation: Observation
    next_stop_condition: StopCondition
    metrics: Metrics = field(default_factory=dict)
    logs: Logs = field(default_factory=dict)


@dataclass
class Transition:
    """One observation, the action on it and its reward."""

    ob: Observation
    ac: TokensWithLogprobs
    reward: float
    episode_done: bool
    metrics: Metrics = field(default_factory=dict)
    logs: Logs = field(default_factory=dict)


@dataclass(frozen=True)
class Trajectory:
    """An episode; `stop_reason` is a StopReason, None where nothing has said why it ended."""

    transitions: list[Transition]
    final_ob: Observation
    stop_reason: str | None = None


@dataclass(frozen=True)
class RolloutError:
    """An exception in a rollout."""

    error_type: str
    error_message: str


@dataclass
class TrajectoryGroup:
    """Episodes of the environments of one group, with the rewards that only the group as a whole could give."""

    trajectories_G: list[Trajectory]  # noqa: N815
    final_rewards_G: list[float]  # noqa: N815
    metrics_G: list[Metrics]  # noqa: N815
    rollout_errors: list[RolloutError] = field(default_factory=list)

    def get_total_rewards(self) -> list[float]:
        """The reward of each episode: its steps' and the group's."""
        return [
            sum(transition.reward for transition in trajectory.transitions) + final
            for trajectory, final in zip(self.trajectories_G, self.final_rewards_G, strict=True)
        ]


class Env(ABC):
    """A token-level environment for one episode."""

    @abstractmethod
    async def initial_observation(self) -> tuple[Observation, StopCondition] | InitialObservationOverflow:
        """The prompt and what stops the first action."""

    @abstractmethod
    async def step(self, action: Action, *, extra: ActionExtra | None = None) -> StepResult:
        """What follows from the sampled tokens."""


class EnvGroupBuilder(ABC):
    """Makes the environments of a group: attempts at one problem, or the players of a game.

    Rewards are compared within the group.
    """

    @abstractmethod
    async def make_envs(self) -> Sequence[Env]:
        """New environments; they are used for one episode each."""

    async def compute_group_rewards(
        self, trajectory_group: list[Trajectory], env_group: Sequence[Env]
    ) -> list[tuple[float, Metrics]]:
        """A reward for each trajectory that depends on all of them, added to those of the steps; zeros here."""
        return [(0.0, {}) for _ in trajectory_group]

    async def cleanup(self) -> None:
        """Called once when the group is done or has failed."""
        return None

    def logging_tags(self) -> list[str]:
        """Names under which this group's metrics are averaged apart."""
        return []


class RLDataset(ABC):
    """Batches of groups by index."""

    @abstractmethod
    def get_batch(self, index: int) -> Sequence[EnvGroupBuilder]:
        """The groups of a batch."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of batches."""


class RLDatasetBuilder(ABC):
    """A callable config that builds the dataset. Subclass it as a chz class, a dataclass, or a class of your own."""

    @abstractmethod
    async def __call__(self) -> tuple[RLDataset, RLDataset | None]:
        """Datasets to train on and, if there is one, to test on."""
