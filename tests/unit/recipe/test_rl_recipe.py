"""Reinforcement learning: datums by hand, learning in every schedule, staleness, resuming, environments."""

from __future__ import annotations

import asyncio
import json
import math
import threading
from dataclasses import dataclass, field
from pathlib import Path

import chz
import numpy as np
import pytest
from fake_service import FakeSamplingClient, FakeServiceClient

from thumbs.clients.types import Datum, ModelInput
from thumbs.data.tokenizers import ByteTokenizer
from thumbs.errors import ConfigError, DataError
from thumbs.recipe.completers import TinkerMessageCompleter, TinkerTokenCompleter, TokenCompleter, TokensWithLogprobs
from thumbs.recipe.renderers import Message, get_renderer
from thumbs.recipe.rl import data_processing, train
from thumbs.recipe.rl.message_env import EnvFromMessageEnv, MessageEnv, MessageStepResult
from thumbs.recipe.rl.metrics import compute_kl_sample_train, compute_trajectory_metrics
from thumbs.recipe.rl.problem_env import ProblemEnv, ProblemGroupBuilder
from thumbs.recipe.rl.rollout_strategy import RetryOnFailure
from thumbs.recipe.rl.rollouts import do_group_rollout
from thumbs.recipe.rl.schedule import AsyncConfig, RolloutSchedule, StreamMinibatchConfig
from thumbs.recipe.rl.types import (
    EnvGroupBuilder,
    RLDataset,
    RLDatasetBuilder,
    Trajectory,
    TrajectoryGroup,
    Transition,
)

RENDERER = get_renderer("chat_template", ByteTokenizer())
A = ord("a")


class SaysLetters(MessageEnv):
    """Reward: the share of small letters in the reply; one token in ten is one."""

    async def initial_observation(self) -> list[Message]:
        return [{"role": "user", "content": "q"}]

    async def step(self, message: Message) -> MessageStepResult:
        text = message["content"]
        share = sum("a" <= letter <= "z" for letter in text) / max(len(text), 1)
        return MessageStepResult(share, True, [], metrics={"correct": float(share > 0.5)})


@dataclass(frozen=True)
class LettersGroup(EnvGroupBuilder):
    size: int = 8
    tags: tuple = ("letters",)

    async def make_envs(self):
        return [
            EnvFromMessageEnv(RENDERER, SaysLetters(), failed_parse_reward=None, context_overflow_reward=None)
            for _ in range(self.size)
        ]

    def logging_tags(self):
        return list(self.tags)


@dataclass
class Batches(RLDataset):
    count: int
    groups: int = 4
    asked: list = field(default_factory=list)

    def get_batch(self, index):
        self.asked.append(index)
        return [LettersGroup() for _ in range(self.groups)]

    def __len__(self):
        return self.count


@chz.chz
class Builder(RLDatasetBuilder):
    count: int
    test: bool = False

    async def __call__(self):
        return Batches(self.count), Batches(1, 2) if self.test else None


def config(log_path: Path, count: int = 25, **fields) -> train.Config:
    defaults = {"dataset_builder": Builder(count=count), "learning_rate": 0.3, "max_tokens": 6, "save_every": 0}
    return train.Config(log_path=str(log_path), model_name="byte-tiny", **{**defaults, **fields})


def run(config: train.Config, service: FakeServiceClient | None = None) -> FakeServiceClient:
    service = service or FakeServiceClient()
    asyncio.run(train.main(config, service_client=service))
    return service


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


SCHEDULES = {
    "synchronous": {},
    "substeps": {"num_substeps": 2},
    "stream": {"stream_minibatch_config": StreamMinibatchConfig(groups_per_batch=4, num_minibatches=2)},
    "asynchronous": {"async_config": AsyncConfig(max_steps_off_policy=2, groups_per_batch=4)},
}


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_reward_rises(tmp_path: Path, schedule: str) -> None:
    service = run(config(tmp_path, max_tokens=2, **SCHEDULES[schedule]))
    rows = lines(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(25))
    rewards = [row["env/all/reward/total"] for row in rows]
    assert rewards[0] < 0.2
    assert np.mean(rewards[-3:]) > 0.4
    assert rows[-1]["env/letters/reward/total"] == rewards[-1]
    assert rows[0]["optim/entropy"] == pytest.approx(math.log(260), rel=1e-4)
    passes = [call for call in service.calls if call in ("forward_backward", "optim_step")]
    step = {
        "synchronous": ["forward_backward", "optim_step"],
        "substeps": ["forward_backward", "optim_step"] * 2,
        "stream": ["forward_backward", "forward_backward", "optim_step"],
        "asynchronous": ["forward_backward", "optim_step"],
    }[schedule]
    assert passes == step * 25
    behind = [row["sampling_client/steps_behind_max"] for row in rows]
    assert max(behind) == (2 if schedule == "asynchronous" else 0)
    on_policy = [abs(row["optim/kl_sample_train_v1"]) < 1e-6 for row in rows]
    assert all(on_policy) == (schedule in ("synchronous", "stream"))


def test_the_last_update_is_evaluated_and_everything_is_written(tmp_path: Path) -> None:
    run(
        config(
            tmp_path, 4, dataset_builder=Builder(count=4, test=True), eval_every=2, save_every=2, compute_post_kl=True
        )
    )
    rows = lines(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows if "test/env/all/reward/total" in row] == [0, 2, 4]
    assert rows[0]["kl_pre_post_v1"] != 0
    assert rows[3]["progress/done_frac"] == 1
    checkpoints = lines(tmp_path / "checkpoints.jsonl")
    assert [(c["name"], c["batch"], c.get("final")) for c in checkpoints] == [
        ("000002", 2, False),
        ("000004", 4, False),
        ("final-000004", 4, True),
    ]
    episodes = lines(tmp_path / "rollouts.jsonl")
    assert len(episodes) == 4 * 4 * 8
    assert isinstance(episodes[0]["turns"][0]["logs"]["reply"], str)
    assert json.loads((tmp_path / "config.json").read_text())["dataset_builder"]["count"] == 4


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_stopped_run_goes_on_with_the_next_batch(tmp_path: Path, schedule: str) -> None:
    service = run(config(tmp_path, 6, max_steps=4, **SCHEDULES[schedule]))
    dataset = Batches(6)

    class Watched(RLDatasetBuilder):
        async def __call__(self):
            return dataset, None

    run(config(tmp_path, 6, dataset_builder=Watched(), **SCHEDULES[schedule]), service)
    assert dataset.asked == [4, 5]
    assert [row["step"] for row in lines(tmp_path / "metrics.jsonl")] == list(range(6))
    assert lines(tmp_path / "checkpoints.jsonl")[-1]["batch"] == 6


def test_kl_keeps_the_policy_near_the_reference_and_a_resumed_run_keeps_its_reference(tmp_path: Path) -> None:
    free, held = tmp_path / "free", tmp_path / "held"
    run(config(free, 15))
    service = run(config(held, 15, kl_penalty_coef=1.0, max_steps=8))
    path = lines(held / "checkpoints.jsonl")[-1]["reference_path"]
    assert path.endswith("sampler_weights/reference")
    run(config(held, 15, kl_penalty_coef=1.0), service)
    rows = lines(held / "metrics.jsonl")
    assert lines(held / "checkpoints.jsonl")[-1]["reference_path"] == path
    assert rows[0]["kl_policy_base"] == pytest.approx(0, abs=1e-6)
    assert np.mean([row["kl_policy_base"] for row in rows]) > 0.05
    mean_rewards = [
        np.mean([row["env/all/reward/total"] for row in lines(folder / "metrics.jsonl")[-5:]])
        for folder in (free, held)
    ]
    assert mean_rewards[0] > mean_rewards[1]


class Scripted(TokenCompleter):
    """Says the given replies, one after the other."""

    def __init__(self, *replies: list[int], stop_reason: str = "stop") -> None:
        self.replies, self.stop_reason = list(replies), stop_reason

    async def __call__(self, model_input, stop, *, max_tokens=None):
        tokens = self.replies.pop(0)
        return TokensWithLogprobs(tokens, [-1.0] * len(tokens), self.stop_reason)


def transition(observation: list[int], action: list[int], reward: float = 0.0, **metrics: float) -> Transition:
    ac = TokensWithLogprobs(action, [-0.5] * len(action))
    return Transition(ModelInput.from_ints(observation), ac, reward, True, metrics)


def group(*rewards: float, final: float = 0.0) -> TrajectoryGroup:
    episodes = [Trajectory([transition([1], [2], reward, correct=reward)], ModelInput.empty()) for reward in rewards]
    return TrajectoryGroup(episodes, [final] * len(rewards), [{"bonus": final}] * len(rewards))


def test_turns_that_extend_each_other_are_one_datum() -> None:
    trajectory = Trajectory(
        [transition([1, 2], [3]), transition([1, 2, 3, 4], [5, 6]), transition([9, 4], [7])], ModelInput.empty()
    )
    first, second = data_processing.trajectory_to_data(trajectory, 2.0)
    assert first.model_input.to_ints() == [1, 2, 3, 4, 5]
    assert {name: tensor.tolist() for name, tensor in first.loss_fn_inputs.items()} == {
        "target_tokens": [2, 3, 4, 5, 6],
        "logprobs": [0.0, -0.5, 0.0, -0.5, -0.5],
        "advantages": [0.0, 2.0, 0.0, 2.0, 2.0],
        "mask": [0.0, 1.0, 0.0, 1.0, 1.0],
    }
    assert second.model_input.to_ints() == [9, 4]
    assert second.loss_fn_inputs["advantages"].tolist() == [0.0, 2.0]


@pytest.mark.parametrize("reward", [0.1, 1e3 / 3, 1e17 / 7])
def test_equal_rewards_have_no_advantage_however_large_they_are(reward: float):
    (found,) = data_processing.compute_advantages([group(*[reward] * 6)])
    assert found.tolist() == [0.0] * 6


def test_advantages_and_metrics_by_hand() -> None:
    groups = [group(0.0, 1.0), group(1.0, 1.0, final=0.5)]
    assert [a.tolist() for a in data_processing.compute_advantages(groups)] == [[-0.5, 0.5], [0.0, 0.0]]
    assert data_processing.remove_constant_reward_groups(groups) == groups[:1]
    metrics = compute_trajectory_metrics(groups, [["x"], []])
    assert metrics["env/all/reward/total"] == pytest.approx((0 + 1 + 1.5 + 1.5) / 4)
    assert metrics["env/x/reward/total"] == 0.5
    assert (metrics["env/all/correct"], metrics["env/all/bonus"]) == (0.75, 0.25)
    assert (metrics["env/all/by_group/frac_mixed"], metrics["env/all/by_group/frac_all_good"]) == (0.5, 0.5)
    assert metrics["env/all/total_episodes"] == 4


def test_kl_penalty_by_hand() -> None:
    table = np.zeros((260, 260))
    table[1, 2] = 1.0
    reference = FakeSamplingClient(FakeServiceClient(), table)
    data = data_processing.trajectory_to_data(Trajectory([transition([0, 1], [2, 3])], ModelInput.empty()), 1.0)
    penalised, metrics = asyncio.run(data_processing.incorporate_kl_penalty(data, reference, 0.1, 0.5))
    gaps = [-0.5 - (1 - math.log(259 + math.e)), -0.5 + math.log(260)]
    mean = sum(gaps) / 2
    assert metrics["kl_policy_base"] == pytest.approx(mean, rel=1e-5)
    second = 0.1 * (mean - gaps[1])
    expected = [0.0, 1 + 0.1 * (mean - gaps[0]) + 0.5 * second, 1 + second]
    np.testing.assert_allclose(penalised[0].loss_fn_inputs["advantages"].tolist(), expected, rtol=1e-5)


def test_kl_of_samples_by_hand() -> None:
    inputs = {"target_tokens": [1, 2], "logprobs": [-1.0, -2.0], "mask": np.array([0.0, 1.0], np.float32)}
    metrics = compute_kl_sample_train([Datum(ModelInput.from_ints([0, 1]), inputs)], [np.array([-9.0, -2.5])])
    assert metrics["optim/kl_sample_train_v1"] == 0.5
    assert metrics["optim/kl_sample_train_v2"] == 0.125
    assert metrics["optim/entropy"] == 2.0
    assert compute_kl_sample_train([], []) == {}


class Counts(MessageEnv):
    """Two turns; the reward of each is the length of the reply."""

    def __init__(self) -> None:
        self.seen: list[Message] = [{"role": "user", "content": "q"}]

    async def initial_observation(self) -> list[Message]:
        return list(self.seen)

    async def step(self, message: Message) -> MessageStepResult:
        self.seen += [message, {"role": "user", "content": "more"}]
        return MessageStepResult(len(message["content"]), len(self.seen) > 3, list(self.seen), {"turn": 1.0})


def play(env: EnvFromMessageEnv, *replies: list[int], stop_reason: str = "stop") -> Trajectory:
    class One(EnvGroupBuilder):
        async def make_envs(self):
            return [env]

    done = asyncio.run(do_group_rollout(One(), Scripted(*replies, stop_reason=stop_reason)))
    return done.trajectories_G[0]


END = ByteTokenizer.EOS


def test_a_conversation_of_two_turns() -> None:
    trajectory = play(EnvFromMessageEnv(RENDERER, Counts()), [A, END], [A, A, END])
    assert [t.reward for t in trajectory.transitions] == [1, 2]
    first, second = (t.ob.to_ints() for t in trajectory.transitions)
    assert second[: len(first) + 2] == [*first, A, END]
    assert len(data_processing.trajectory_to_data(trajectory, 1.0)) == 1
    assert trajectory.transitions[0].logs == {"reply": "a"}


@pytest.mark.parametrize(
    ("fields", "reply", "stop_reason", "rewards", "metric"),
    [
        ({}, [A], "length", [-0.1], "truncated"),
        ({}, [A], "stop", [-1.0], "parse_error"),
        ({"context_overflow_reward": None}, [A, A], "length", [2.0], "truncated"),
        ({"failed_parse_reward": None}, [A, A], "stop", [2.0, 2.0], "parse_error"),
        ({"terminate_on_parse_error": False}, [A], "stop", [-1.0, -1.0], "parse_error"),
        ({"terminate_on_length": False}, [A], "length", [-0.1], "truncated"),
        ({"max_trajectory_tokens": 8}, [A, END], "stop", [0.9], "context_overflow"),
    ],
)
def test_replies_that_do_not_end_well(fields: dict, reply: list, stop_reason: str, rewards: list, metric: str) -> None:
    env = EnvFromMessageEnv(RENDERER, Counts(), **fields)
    if fields == {"terminate_on_parse_error": False}:
        trajectory = play(env, reply, reply, [A, END], [A, END], stop_reason=stop_reason)
        assert [t.reward for t in trajectory.transitions] == [-1.0, -1.0, 1, 1]
    else:
        trajectory = play(env, reply, reply, stop_reason=stop_reason)
        assert [t.reward for t in trajectory.transitions] == rewards
    assert trajectory.transitions[0].metrics[metric] == 1.0


def test_a_prompt_that_is_too_long_ends_the_episode_before_it_begins(caplog: pytest.LogCaptureFixture) -> None:
    trajectory = play(EnvFromMessageEnv(RENDERER, Counts(), max_trajectory_tokens=3, max_generation_tokens=2))
    assert "max_trajectory_tokens=3" in caplog.text
    assert (trajectory.stop_reason, [t.reward for t in trajectory.transitions]) == ("max_tokens", [-0.1])
    assert data_processing.trajectory_to_data(trajectory, 1.0) == []


class Adds(ProblemEnv):
    def get_question(self):
        return "1+1?"

    def check_answer(self, sample_str):
        return sample_str == "2"

    def check_format(self, sample_str):
        return sample_str.isdigit()

    def get_reference_answer(self):
        return "2"


@pytest.mark.parametrize(("reply", "reward"), [(b"2\xff", 1.0), (b"3\xff", 0.0), (b"x\xff", -0.1), (b"2", 0.9)])
def test_problems(reply: bytes, reward: float) -> None:
    tokens = [END if byte == 255 else byte for byte in reply]
    builder = ProblemGroupBuilder(lambda: Adds(RENDERER), num_envs=2, dataset_name="sums")
    done = asyncio.run(do_group_rollout(builder, Scripted(tokens, tokens)))
    assert done.get_total_rewards() == pytest.approx([reward, reward])
    assert builder.logging_tags() == ["sums"]


class Old(EnvGroupBuilder):
    """Written for an earlier version: fewer arguments, and the first attempt fails."""

    def __init__(self, failures: int) -> None:
        self.failures, self.cleaned = failures, 0

    async def make_envs(self):
        outer = self

        class OldEnv:
            async def initial_observation(self):
                return ModelInput.from_ints([1]), [END]

            async def step(self, action):
                outer.failures -= 1
                if outer.failures >= 0:
                    raise TimeoutError("gone")
                return train_step_result(1.0)

        return [OldEnv()]

    async def compute_group_rewards(self, trajectory_group):
        return [(0.5, {"group": 1.0}) for _ in trajectory_group]

    async def cleanup(self):
        self.cleaned += 1


def train_step_result(reward: float):
    from thumbs.recipe.rl.types import StepResult

    return StepResult(reward, True, ModelInput.empty(), [END])


def test_failures_are_tried_again_and_counted() -> None:
    builder = Old(failures=2)
    done = asyncio.run(do_group_rollout(builder, Scripted([2], [2], [2]), RetryOnFailure(2)))
    assert done.get_total_rewards() == [1.5]
    assert ([error.error_type for error in done.rollout_errors], builder.cleaned) == (["TimeoutError"] * 2, 1)
    assert compute_trajectory_metrics([done], [[]])["rollout_errors/TimeoutError"] == 2
    failing = Old(failures=1)
    with pytest.raises(TimeoutError):
        asyncio.run(do_group_rollout(failing, Scripted([2])))
    assert failing.cleaned == 1


def test_a_failing_rollout_ends_the_run_and_leaves_nothing_behind(tmp_path: Path) -> None:
    class Breaks(RLDataset):
        def get_batch(self, index):
            return [LettersGroup(), Old(failures=1)]

        def __len__(self):
            return 3

    class BreaksBuilder(RLDatasetBuilder):
        def __call__(self):  # a builder that is not asynchronous is taken as well
            return Breaks(), None

    fields = {"async_config": AsyncConfig(max_steps_off_policy=2, groups_per_batch=2)}
    with pytest.raises(TimeoutError):
        run(config(tmp_path, dataset_builder=BreaksBuilder(), **fields))
    assert not (tmp_path / "checkpoints.jsonl").exists()


def test_an_environment_may_block_on_a_sampler() -> None:
    """Scripts call sampler.sample(…).result() inside step, in the event loop."""
    service = FakeServiceClient()
    sampler = service.create_sampling_client(base_model="byte-tiny")

    class Judge(SaysLetters):
        async def step(self, message):
            judge = TinkerTokenCompleter(sampler, 2)
            from thumbs.clients.types import SamplingParams

            response = judge.sampling_client.sample(ModelInput.from_ints([1]), 1, SamplingParams(max_tokens=2)).result()
            return MessageStepResult(float(len(response.sequences[0].tokens)), True, [])

    class Judged(EnvGroupBuilder):
        async def make_envs(self):
            return [EnvFromMessageEnv(RENDERER, Judge(), None, context_overflow_reward=None) for _ in range(4)]

    policy = TinkerTokenCompleter(sampler, max_tokens=3)
    done = asyncio.run(asyncio.wait_for(do_group_rollout(Judged(), policy), 20))
    assert done.get_total_rewards() == [2.0] * 4


def test_a_schedule_begins_no_batch_too_early_and_uses_the_newest_weights() -> None:
    log: list[tuple[int, str]] = []

    async def roll(builder, sampler):
        log.append((builder, sampler))
        await asyncio.sleep(0)
        return group(0.0)

    class Numbers(RLDataset):
        def get_batch(self, index):
            return [index, index]

        def __len__(self):
            return 5

    async def main() -> None:
        schedule = RolloutSchedule(Numbers(), 5, roll, ahead=1, at_once=2)
        for step in range(5):
            schedule.begin(step, f"weights {step}")
            async for rolled in schedule.groups(step, 1):
                assert [item.builder for item in rolled] == [step, step]
                assert all(step - 1 <= item.version <= step for item in rolled)
        await schedule.close()

    asyncio.run(main())
    assert [builder for builder, _ in log] == sorted(builder for builder, _ in log)
    assert all(int(weights.split()[1]) >= builder - 1 for builder, weights in log)


def test_completers() -> None:
    service = FakeServiceClient()
    table = np.zeros((260, 260))
    table[ByteTokenizer.SEP, A] = table[A, END] = 100
    sampler = FakeSamplingClient(service, table)
    message = asyncio.run(TinkerMessageCompleter(sampler, RENDERER, 9)([{"role": "user", "content": "q"}]))
    assert message == {"role": "assistant", "content": "a"}
    short = asyncio.run(TinkerTokenCompleter(sampler, 9, context_window=3)(ModelInput.from_ints([1, 2]), []))
    assert (len(short.tokens), short.stop_reason) == (1, "length")
    with pytest.raises(DataError, match="no room"):
        asyncio.run(TinkerTokenCompleter(sampler, 9, context_window=2)(ModelInput.from_ints([1, 2]), []))
    with pytest.raises(DataError, match="no logprobs"):
        _ = TokensWithLogprobs([1], None).logprobs


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({**SCHEDULES["stream"], **SCHEDULES["asynchronous"]}, "exclude each other"),
        ({**SCHEDULES["stream"], "num_substeps": 3}, "multiple"),
        ({"enable_trace": True}, "py-spy"),
        ({"max_tokens": 0}, "at least 1"),
        ({"async_config": AsyncConfig(max_steps_off_policy=1, groups_per_batch=2)}, "make them equal"),
        ({"load_checkpoint_path": "tinker://x/sampler_weights/y"}, "state_path"),
    ],
)
def test_wrong_rl_settings_are_named(tmp_path: Path, fields: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run(config(tmp_path, **fields))


def test_a_policy_is_not_evaluated_where_nobody_asks_for_it(tmp_path: Path) -> None:
    """Not after the last step either: the test set may be large."""
    run(config(tmp_path, 2, dataset_builder=Builder(count=2, test=True), eval_every=0))
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 2
    assert "test/" not in "".join(lines)


def test_an_executor_for_rollouts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="coroutines of this process"):
        asyncio.run(train.main(config(tmp_path), FakeServiceClient(), rollout_executor=object()))  # type: ignore[arg-type]


def test_runs_leave_no_threads_waiting(tmp_path: Path) -> None:
    before = threading.active_count()
    run(config(tmp_path, 2))
    assert threading.active_count() <= before + 1  # the fake service's own
