"""What an episode may cost, what becomes of replies that cannot be read, and what rewards become of cut episodes."""

from __future__ import annotations

from dataclasses import dataclass, fields

from thumbs.errors import ConfigError
from thumbs.recipe.rl.types import StopReason, Trajectory

LIMIT_STOPS: tuple[str, ...] = (
    StopReason.MAX_TOKENS,
    StopReason.MAX_SAMPLED_TOKENS,
    StopReason.MAX_TURNS,
    StopReason.MAX_TOOL_CALLS,
    StopReason.ROLLOUT_TIMEOUT,
)
"""The reasons that are budgets: the episode did not end by itself."""


@dataclass(frozen=True, kw_only=True)
class RolloutLimits:
    """Budgets of one episode; None is unlimited. One that is used up ends the episode, which stays in its group.

    max_turns: replies. max_trajectory_tokens: prompt and replies together. max_sampled_tokens: replies together.
    max_turn_tokens: one reply. rollout_timeout_seconds: the whole episode. sampling_turn_timeout_seconds: one reply;
    over it the rollout fails with a TimeoutError, which a RolloutStrategy may retry. max_tool_calls: handed to the
    environment, which alone knows of tools; ConfigError where it has no set_max_tool_calls.
    """

    max_turns: int | None = None
    max_trajectory_tokens: int | None = None
    max_sampled_tokens: int | None = None
    max_tool_calls: int | None = None
    max_turn_tokens: int | None = None
    rollout_timeout_seconds: float | None = None
    sampling_turn_timeout_seconds: float | None = None

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if value is not None and not value > 0:
                raise ConfigError(f"{item.name}={value!r}; it must be above 0, or None for no limit")

    def used_up(self, turns: int, sampled_tokens: int, prompt_tokens: int) -> StopReason | None:
        """Which budget leaves no room for another reply; None where there is room."""
        if self.max_turns is not None and turns >= self.max_turns:
            return StopReason.MAX_TURNS
        if self.max_trajectory_tokens is not None and prompt_tokens >= self.max_trajectory_tokens:
            return StopReason.MAX_TOKENS
        if self.max_sampled_tokens is not None and sampled_tokens >= self.max_sampled_tokens:
            return StopReason.MAX_SAMPLED_TOKENS
        return None

    def room(self, sampled_tokens: int, prompt_tokens: int) -> int | None:
        """Longest next reply, tokens; None is unlimited."""
        rooms = [self.max_turn_tokens]
        if self.max_trajectory_tokens is not None:
            rooms.append(self.max_trajectory_tokens - prompt_tokens)
        if self.max_sampled_tokens is not None:
            rooms.append(self.max_sampled_tokens - sampled_tokens)
        return min((room for room in rooms if room is not None), default=None)


@dataclass(frozen=True, kw_only=True)
class ParseErrorPolicy:
    """What follows a reply that cannot be read, in place of failed_parse_reward and terminate_on_parse_error.

    A reply that did not end as the format asks ends the episode with `terminal_reward`. One that did, and whose tool
    calls cannot be read, may be repaired: up to `max_consecutive` times in a row the policy is told so by
    `retry_message_template`, with the reason at {details}, and the turn's reward is −penalty_per_error.
    mask_error_turns: such replies are not trained on.
    """

    max_consecutive: int = 0
    retry_message_template: str = "The previous message had a formatting issue.\nError: {details}"
    penalty_per_error: float = 0.0
    terminal_reward: float = 0.0
    mask_error_turns: bool = False

    def __post_init__(self) -> None:
        if self.max_consecutive < 0 or self.penalty_per_error < 0:
            raise ConfigError(
                f"max_consecutive={self.max_consecutive} and penalty_per_error={self.penalty_per_error}; neither may "
                "be negative"
            )
        if "{details}" not in self.retry_message_template:
            raise ConfigError(f"retry_message_template={self.retry_message_template!r}; it must contain {{details}}")


@dataclass(frozen=True, kw_only=True)
class TerminationRewardPolicy:
    """What rewards become of episodes that a budget has cut.

    zero_reward_on_limit: the whole reward of an episode with one of `limit_stop_reasons` becomes min(reward, 0).
    skip_grading_on_timeout: a group in which every episode timed out is not graded where that could only lower rewards.
    grader_timeout_seconds: of EnvGroupBuilder.compute_group_rewards; over it the group fails with a TimeoutError.
    """

    zero_reward_on_limit: bool = False
    limit_stop_reasons: tuple[str, ...] = LIMIT_STOPS
    skip_grading_on_timeout: bool = False
    grader_timeout_seconds: float | None = None

    def skips_grading(self, trajectories: list[Trajectory]) -> bool:
        """Whether a group need not be graded."""
        timed_out = all(trajectory.stop_reason == StopReason.ROLLOUT_TIMEOUT for trajectory in trajectories)
        clamped = self.zero_reward_on_limit and StopReason.ROLLOUT_TIMEOUT in self.limit_stop_reasons
        return self.skip_grading_on_timeout and clamped and timed_out

    def final_reward(self, trajectory: Trajectory, final_reward: float) -> float:
        """The group's part of a reward, lowered so that the whole is at most 0 where a budget has cut the episode."""
        if not self.zero_reward_on_limit or trajectory.stop_reason not in self.limit_stop_reasons:
            return final_reward
        return min(final_reward, -sum(transition.reward for transition in trajectory.transitions))
