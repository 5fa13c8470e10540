"""Budgets of episodes, replies that cannot be read, strategies for failures, and rewards of episodes that were cut."""

from __future__ import annotations

import asyncio

import pytest
from fake_service import FakeServiceClient

from thumbs.clients.types import ModelInput
from thumbs.data.tokenizers import ByteTokenizer
from thumbs.errors import ConfigError, RunError
from thumbs.recipe.completers import TinkerTokenCompleter, TokenCompleter, TokensWithLogprobs
from thumbs.recipe.renderers import get_renderer
from thumbs.recipe.renderers.tools import UnparsedToolCall
from thumbs.recipe.rl import data_processing, train
from thumbs.recipe.rl.message_env import EnvFromMessageEnv, MessageEnv, MessageStepResult
from thumbs.recipe.rl.metrics import compute_trajectory_metrics
from thumbs.recipe.rl.rollout_limits import ParseErrorPolicy, RolloutLimits, TerminationRewardPolicy
from thumbs.recipe.rl.rollout_runner import run_rollout
from thumbs.recipe.rl.rollout_strategy import (
    AllTrajectoriesFailedError,
    FailFast,
    MinViableGroup,
    RetryOnFailure,
    RolloutStrategy,
)
from thumbs.recipe.rl.rollouts import do_group_rollout
from thumbs.recipe.rl.types import Env, EnvGroupBuilder, RLDataset, StepResult, Trajectory

RENDERER = get_renderer("chat_template", ByteTokenizer())
A, END = ord("a"), ByteTokenizer.EOS


class Repeats(TokenCompleter):
    """Always the same tokens, as many as there is room for; `asked` are the rooms."""

    def __init__(self, *tokens: int, stop_reason: str = "stop", delay_s: float = 0.0) -> None:
        self.tokens, self.stop_reason, self.delay_s = list(tokens), stop_reason, delay_s
        self.asked: list[int | None] = []

    async def __call__(self, model_input, stop, *, max_tokens=None):
        self.asked.append(max_tokens)
        await asyncio.sleep(self.delay_s)
        tokens = self.tokens[:max_tokens]
        return TokensWithLogprobs(tokens, [-1.0] * len(tokens), self.stop_reason)


class Goes(Env):
    """Goes on for ever: each observation has what came before, and a token of its own; a reward of 1 a turn."""

    def __init__(self, limits: RolloutLimits | None = None) -> None:
        self.rollout_limits, self.tokens = limits, [1, 2]

    async def initial_observation(self):
        return ModelInput.from_ints(self.tokens), []

    async def step(self, action, *, extra=None):
        self.tokens = [*self.tokens, *action, 3]
        return StepResult(1.0, False, ModelInput.from_ints(self.tokens), [])


@pytest.mark.parametrize(
    ("limits", "rooms", "reason"),
    [
        # Prompts are 2, 5 and 8 tokens long, replies 2.
        ({"max_turns": 3}, [None, None, None], "max_turns"),
        ({"max_trajectory_tokens": 8}, [6, 3], "max_tokens"),
        ({"max_sampled_tokens": 3}, [3, 1], "max_sampled_tokens"),
        ({"max_turn_tokens": 1, "max_turns": 2}, [1, 1], "max_turns"),
        ({"max_trajectory_tokens": 2}, [], "max_tokens"),
    ],
)
def test_a_budget_that_is_used_up_ends_the_episode(limits: dict, rooms: list, reason: str) -> None:
    policy = Repeats(A, A)
    trajectory = asyncio.run(run_rollout(policy, Goes(RolloutLimits(**limits))))
    assert (policy.asked, trajectory.stop_reason) == (rooms, reason)
    last = trajectory.transitions[-1]
    assert (last.episode_done, last.metrics) == (True, {f"stop/{reason}": 1.0})
    assert sum(t.reward for t in trajectory.transitions) == len(rooms)
    assert len(data_processing.trajectory_to_data(trajectory, 1.0)) == (1 if rooms else 0)


def test_an_episode_that_takes_too_long_keeps_what_it_has() -> None:
    class Hangs(Goes):
        async def step(self, action, *, extra=None):
            if len(self.tokens) > 2:
                await asyncio.Event().wait()
            return await super().step(action)

    trajectory = asyncio.run(run_rollout(Repeats(A), Hangs(RolloutLimits(rollout_timeout_seconds=0.05))))
    assert (trajectory.stop_reason, len(trajectory.transitions)) == ("rollout_timeout", 1)


def test_a_reply_that_takes_too_long_fails_the_rollout() -> None:
    limits = RolloutLimits(sampling_turn_timeout_seconds=0.01, rollout_timeout_seconds=60)
    with pytest.raises(TimeoutError):
        asyncio.run(run_rollout(Repeats(A, delay_s=30), Goes(limits)))


def test_limits_that_cannot_be_are_named() -> None:
    with pytest.raises(ConfigError, match="max_turns=0; it must be above 0"):
        RolloutLimits(max_turns=0)
    with pytest.raises(ConfigError, match=r"must contain \{details\}"):
        ParseErrorPolicy(retry_message_template="Again.")
    with pytest.raises(ConfigError, match="neither may"):
        ParseErrorPolicy(max_consecutive=-1)
    with pytest.raises(ConfigError, match="Goes has no set_max_tool_calls"):
        asyncio.run(run_rollout(Repeats(A), Goes(RolloutLimits(max_tool_calls=1))))
    env = EnvFromMessageEnv(RENDERER, Counts(), rollout_limits=RolloutLimits(max_tool_calls=1))
    with pytest.raises(ConfigError, match="Counts has no set_max_tool_calls"):
        asyncio.run(run_rollout(Repeats(A), env))


class Counts(MessageEnv):
    """Reward: letters in the reply; over after two turns. Takes messages that it is given."""

    def __init__(self, takes: bool = True) -> None:
        self.takes, self.messages, self.turns = takes, [{"role": "user", "content": "q"}], 0

    async def initial_observation(self):
        return self.messages

    async def step(self, message):
        self.turns += 1
        self.messages = [*self.messages, message]
        return MessageStepResult(float(len(message["content"])), self.turns == 2, self.messages)

    async def observe_truncated_response(self, message):
        return await self.add_messages([message])

    async def add_messages(self, messages):
        if not self.takes:
            return None
        self.messages = [*self.messages, *messages]
        return self.messages


def played(env: EnvFromMessageEnv, *replies: TokensWithLogprobs) -> Trajectory:
    rest = iter(replies)

    class Script(TokenCompleter):
        async def __call__(self, model_input, stop, *, max_tokens=None):
            return next(rest)

    return asyncio.run(run_rollout(Script(), env))


def reply(*tokens: int, stop_reason: str = "stop") -> TokensWithLogprobs:
    return TokensWithLogprobs(list(tokens), [-1.0] * len(tokens), stop_reason)


def test_a_reply_that_was_cut_may_be_kept_and_the_episode_goes_on() -> None:
    cut, whole = reply(A, A, A, stop_reason="length"), reply(A, END)
    env = EnvFromMessageEnv(RENDERER, Counts(), terminate_on_length=False)
    trajectory = played(env, cut, whole, whole)
    assert [t.reward for t in trajectory.transitions] == [0.0, 1.0, 1.0]
    assert [m["content"] for m in env.message_env.messages] == ["q", "aaa", "a", "a"]
    trajectory = played(EnvFromMessageEnv(RENDERER, Counts(takes=False), terminate_on_length=False), cut)
    assert ([t.reward for t in trajectory.transitions], trajectory.stop_reason) == ([-0.1], "max_tokens")


def test_a_policy_for_replies_without_their_end() -> None:
    policy = ParseErrorPolicy(max_consecutive=3, terminal_reward=-0.5, mask_error_turns=True)
    env = EnvFromMessageEnv(RENDERER, Counts(), parse_error_policy=policy)
    trajectory = played(env, reply(A, END), reply(A))
    assert [t.reward for t in trajectory.transitions] == [1.0, -0.5]
    assert trajectory.stop_reason == "parse_error"
    (datum,) = data_processing.trajectory_to_data(trajectory, 2.0)
    prompt = trajectory.transitions[0].ob.length
    between = trajectory.transitions[1].ob.length - prompt - 2
    # The first reply is trained on, the one that could not be read is not.
    expected = [0.0] * (prompt - 1) + [1.0, 1.0] + [0.0] * (between + 1)
    assert datum.loss_fn_inputs["mask"].to_numpy().tolist() == expected
    assert datum.loss_fn_inputs["advantages"].to_numpy().tolist() == [2 * one for one in expected]


class BadCalls:
    """Reads a reply of one letter as a tool call that is none."""

    def __init__(self, tokenizer) -> None:
        self._inner = get_renderer("chat_template", tokenizer)

    def __getattr__(self, name):
        return getattr(self._inner, name)

    def parse_response(self, response):
        message, ending = self._inner.parse_response(response)
        if len(message["content"]) == 1:
            message["unparsed_tool_calls"] = [UnparsedToolCall(raw_text="a", error="not JSON")]
        return message, ending


def test_tool_calls_that_cannot_be_read_are_asked_for_again() -> None:
    policy = ParseErrorPolicy(max_consecutive=1, penalty_per_error=0.25, terminal_reward=-2.0)
    env = EnvFromMessageEnv(BadCalls(ByteTokenizer()), Counts(), parse_error_policy=policy)
    bad, good = reply(A, END), reply(A, A, END)
    trajectory = played(env, bad, good, bad, bad)
    assert [t.reward for t in trajectory.transitions] == [-0.25, 2.0, -0.25, -2.0]  # a good one begins the count anew
    advice = "The previous message had a formatting issue.\nError: not JSON"
    assert [m["content"] for m in env.message_env.messages] == ["q", "a", advice, "aa", "a", advice]
    assert trajectory.stop_reason == "parse_error"


@pytest.mark.parametrize("takes", [True, False])
def test_without_a_policy_or_a_way_to_ask_again(takes: bool) -> None:
    """The message environment sees the message; with a policy and no way to ask again the episode ends."""
    bad = reply(A, END)
    trajectory = played(EnvFromMessageEnv(BadCalls(ByteTokenizer()), Counts(takes)), bad, bad)
    assert [t.reward for t in trajectory.transitions] == [1.0, 1.0]
    policy = ParseErrorPolicy(max_consecutive=1, terminal_reward=-2.0)
    env = EnvFromMessageEnv(BadCalls(ByteTokenizer()), Counts(takes), parse_error_policy=policy)
    assert [t.reward for t in played(env, bad, bad).transitions] == ([0.0, -2.0] if takes else [-2.0])


class Fails(Env):
    """Ends with its number as reward, or fails."""

    def __init__(self, number: int, fails: bool) -> None:
        self.number, self.fails = number, fails

    async def initial_observation(self):
        if self.fails:
            raise ConnectionError("gone")
        return ModelInput.from_ints([1]), []

    async def step(self, action, *, extra=None):
        return StepResult(float(self.number), True, ModelInput.empty(), [])


class FailingGroup(EnvGroupBuilder):
    """Environments 0, 1, …; those at `broken` fail the first `times` times."""

    def __init__(self, size: int, broken: set[int], times: int = 99) -> None:
        self.size, self.broken, self.left = size, broken, times + 1
        self.cleaned = 0

    async def make_envs(self):
        self.left -= 1
        return [Fails(i, i in self.broken and self.left > 0) for i in range(self.size)]

    async def cleanup(self):
        self.cleaned += 1


@pytest.mark.parametrize(
    ("strategy", "broken", "times", "rewards", "errors"),
    [
        (RetryOnFailure(), {1}, 2, [0.0, 1.0, 2.0, 3.0], 2),
        (MinViableGroup(), {1}, 99, [0.0, 2.0, 3.0], None),
        (MinViableGroup(min_successful=2, max_retries=0), {0, 3}, 99, [1.0, 2.0], 2),
    ],
)
def test_groups_survive_failures(strategy: RolloutStrategy, broken: set, times: int, rewards: list, errors) -> None:
    builder = FailingGroup(4, broken, times)
    group = asyncio.run(do_group_rollout(builder, Repeats(A), strategy))
    assert (group.get_total_rewards(), builder.cleaned) == (rewards, 1)
    assert {(error.error_type, error.error_message) for error in group.rollout_errors} == {("ConnectionError", "gone")}
    assert errors is None or len(group.rollout_errors) == errors


@pytest.mark.parametrize(
    ("strategy", "error"),
    [
        (FailFast(), ConnectionError),
        (RetryOnFailure(max_retries=2), ConnectionError),
        (MinViableGroup(max_retries=1), AllTrajectoriesFailedError),
        (MinViableGroup(min_successful=4, max_retries=0), AllTrajectoriesFailedError),
    ],
)
def test_groups_fail(strategy: RolloutStrategy, error: type[Exception]) -> None:
    builder = FailingGroup(4, {0, 2})
    with pytest.raises(error):
        asyncio.run(do_group_rollout(builder, Repeats(A), strategy))
    assert builder.cleaned == 1


def test_a_rollout_that_hangs_is_done_again() -> None:
    calls = []

    class Hangs(EnvGroupBuilder):
        async def make_envs(self):
            calls.append(1)
            return [Goes(RolloutLimits(max_turns=1)) if len(calls) > 1 else Waits()]

    class Waits(Goes):
        async def initial_observation(self):
            await asyncio.Event().wait()

    group = asyncio.run(do_group_rollout(Hangs(), Repeats(A), RetryOnFailure(1, per_rollout_timeout=0.05)))
    assert [error.error_type for error in group.rollout_errors] == ["TimeoutError"]
    assert len(calls) == 2


def graded(limits: RolloutLimits, reward: float, policy: TerminationRewardPolicy) -> list[float]:
    class Group(EnvGroupBuilder):
        async def make_envs(self):
            return [Goes(limits)]

        async def compute_group_rewards(self, trajectory_group, env_group):
            if reward == 99:
                await asyncio.Event().wait()
            return [(reward, {})]

    return asyncio.run(do_group_rollout(Group(), Repeats(A), termination=policy)).get_total_rewards()


@pytest.mark.parametrize(
    ("reward", "reasons", "total"),
    [(5.0, None, 0.0), (-7.0, None, -5.0), (5.0, ("max_tokens",), 7.0)],  # two turns give 2
)
def test_a_cut_episode_is_worth_nothing_at_best(reward: float, reasons, total: float) -> None:
    fields = {} if reasons is None else {"limit_stop_reasons": reasons}
    limits = RolloutLimits(max_turns=2)
    assert graded(limits, reward, TerminationRewardPolicy(zero_reward_on_limit=True, **fields)) == [total]
    assert graded(limits, reward, TerminationRewardPolicy()) == [2 + reward]


def test_grading_is_bounded_and_skipped() -> None:
    with pytest.raises(TimeoutError):
        graded(RolloutLimits(max_turns=1), 99, TerminationRewardPolicy(grader_timeout_seconds=0.01))
    policy = TerminationRewardPolicy(zero_reward_on_limit=True, skip_grading_on_timeout=True)
    (total,) = graded(RolloutLimits(rollout_timeout_seconds=0.02), 99, policy)  # a grader that was called would hang
    assert total <= 0


def test_metrics_tell_how_episodes_ended() -> None:
    class Group(EnvGroupBuilder):
        async def make_envs(self):
            return [Goes(RolloutLimits(max_turns=turns)) for turns in (1, 2)] + [Fails(1, fails=False)]

    group = asyncio.run(do_group_rollout(Group(), Repeats(A)))
    metrics = compute_trajectory_metrics([group], [[]])
    assert metrics["env/all/stop/max_turns"] == pytest.approx(2 / 3)


class SomeFail(RLDataset):
    """Two groups a batch, of which so many fail always."""

    def __init__(self, failing: int) -> None:
        self.failing = failing

    def get_batch(self, index):
        return [FailingGroup(2, {0} if place < self.failing else set()) for place in range(2)]

    def __len__(self):
        return 1


@pytest.mark.parametrize(("failing", "tolerance"), [(1, True), (2, True), (1, None)])
def test_training_leaves_failed_groups_out_unless_all_fail(tmp_path, failing: int, tolerance) -> None:
    class Builder:
        async def __call__(self):
            return SomeFail(failing), None

    config = train.Config(
        log_path=str(tmp_path),
        model_name="byte-tiny",
        dataset_builder=Builder(),
        learning_rate=0.1,
        max_tokens=2,
        rollout_error_tolerance=tolerance,
    )
    if failing == 2 or tolerance is None:
        with pytest.raises(RunError if tolerance else ConnectionError):
            asyncio.run(train.main(config, FakeServiceClient()))
        return
    asyncio.run(train.main(config, FakeServiceClient()))
    assert '"rollout_errors/groups_left_out": 1' in (tmp_path / "metrics.jsonl").read_text()
    assert '"env/all/total_episodes": 2' in (tmp_path / "metrics.jsonl").read_text()


def test_a_completer_samples_the_lesser_of_both_limits() -> None:
    sampler = FakeServiceClient().create_sampling_client()
    completer = TinkerTokenCompleter(sampler, 3)
    lengths = [
        len(asyncio.run(completer(ModelInput.from_ints([1]), [], max_tokens=room)).tokens) for room in (2, 5, None)
    ]
    assert lengths == [2, 3, 3]
