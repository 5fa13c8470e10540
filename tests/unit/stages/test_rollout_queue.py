"""Rollouts drawn ahead: an asynchronous run is its own simulation, survives a kill, and cuts only what it says."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from byte_world import byte_context, prompt
from late_sampler import LateEngine
from thumbs.config.base import build_config
from thumbs.config.direct import DirectConfig
from thumbs.config.engine import RolloutConfig
from thumbs.config.group import GroupConfig
from thumbs.config.ppo import PpoConfig
from thumbs.config.sampling import SamplingConfig
from thumbs.engine.base import ModelSpec
from thumbs.envs.base import Turn
from thumbs.errors import RewardError
from thumbs.records import Example, Message, Prompt, Rollout, Score
from thumbs.rewards.base import CallableReward, RewardSource
from thumbs.rewards.mix import Mix, Part
from thumbs.rollout.episodes import Episodes
from thumbs.rollout.rounds import collect, seed_of
from thumbs.rollout.sampler import SampleRequest
from thumbs.stages.context import Context, batch_at
from thumbs.stages.group import run_group
from thumbs.stages.online_dpo import run_online_dpo
from thumbs.stages.ppo_run import run_ppo
from thumbs.stages.rollout_queue import BatchSpec, RolloutQueue

PROMPTS = [prompt(word) for word in ("one", "two", "three", "four", "five", "six", "seven", "eight")]
SAMPLING = SamplingConfig(max_new_tokens=6)
ROUNDS: dict[str, Any] = {
    "prompts": {"path": "unused"},
    "steps": 5,
    "batch_size": 8,
    "minibatch_size": 8,
    "optim": {"learning_rate": 1e-3, "schedule": "constant"},
    "sampling": {"max_new_tokens": 6},
    "save_every": 2,
    "sample_every": 2,
}
CLOCKS = ("rollout_s", "update_s", "tokens_per_s", "wall_s")


def odd(rollout: Rollout) -> float:
    return float((rollout.tokens[rollout.prompt_length :] % 7).sum())


class OfEngine:
    """A score that only an engine gives: what a frozen model says of the reply."""

    def __init__(self, context: Context) -> None:
        self.engine, self.threads = context.engine, set[int]()
        self.handle = context.engine.create(ModelSpec("judge", context.model, ("scalar",), trainable=False, seed=3))

    def score(self, rollouts: Any) -> list[Score]:
        self.threads.add(threading.get_ident())
        data = [Example.whole_sequence(rollout.tokens) for rollout in rollouts]
        return [Score(float(output.values[-1])) for output in self.engine.forward(self.handle, data)]


def mixed(context: Context) -> RewardSource:
    return Mix([Part("odd", CallableReward(odd)), Part("model", OfEngine(context), 0.5)])


def guessing() -> Episodes:
    """Conversations that go on until a reply has an even length, three turns at most."""

    class Env:
        def __init__(self, asked: Prompt) -> None:
            self.asked = asked

        def first(self) -> tuple[Message, ...]:
            return self.asked.messages

        def step(self, reply: str) -> Turn:
            done = len(reply) % 2 == 0
            return Turn(float(done), done, () if done else (Message("user", "no"),))

    return Episodes(Env, max_turns=3, max_tokens=80, concurrency=3)


def ppo(context: Context) -> None:
    run_ppo(context, build_config(PpoConfig, ROUNDS | {"replies_per_prompt": 2}), mixed(context), None, PROMPTS)


def grpo(context: Context) -> None:
    run_group(context, build_config(GroupConfig, ROUNDS | {"group_size": 4}), mixed(context), None, PROMPTS)


def dapo(context: Context) -> None:
    settings = ROUNDS | {"group_size": 2, "method": "dapo", "dynamic_sampling": 2}
    few = CallableReward(lambda rollout: float(rollout.tokens[-1] % 2))
    run_group(context, build_config(GroupConfig, settings), few, None, PROMPTS)


def turns(context: Context) -> None:
    settings = ROUNDS | {"group_size": 4, "environment": {"factory": "unused:unused"}}
    run_group(context, build_config(GroupConfig, settings), mixed(context), None, PROMPTS, episodes=guessing())


def online_dpo(context: Context) -> None:
    online = {"prompts": {"path": "unused"}, "steps": 5, "sampling": {"max_new_tokens": 6}}
    settings = {"method": "online_dpo", "online": online, "batch_size": 4, "eval_every": 2, "optim": ROUNDS["optim"]}
    run_online_dpo(context, build_config(DirectConfig, settings), mixed(context), None, PROMPTS)


STAGES = pytest.mark.parametrize("stage", [ppo, grpo, dapo, turns, online_dpo])


def numbers(folder: Path) -> list[dict[str, Any]]:
    """What a run logged, without its clocks."""
    rows = byte_context(folder).folder.metrics.read()
    return [{k: v for k, v in row.items() if not k.endswith(CLOCKS)} for row in rows]


def ahead(context: Context, staleness: int, **more: Any) -> Context:
    return replace(context, rollout=RolloutConfig(staleness=staleness, **more))


@pytest.mark.parametrize("staleness", [1, 3])
@STAGES
def test_an_asynchronous_run_has_the_numbers_of_its_simulation(
    tmp_path: Path, stage: Callable[[Context], None], staleness: int
):
    stage(ahead(byte_context(tmp_path / "simulated"), staleness))
    context = byte_context(tmp_path / "late")
    with LateEngine(context.engine) as engine:
        stage(ahead(replace(context, engine=engine), staleness))
    assert numbers(tmp_path / "late") == numbers(tmp_path / "simulated")
    weights = [load_file(tmp_path / name / "model" / "model.safetensors") for name in ("simulated", "late")]
    assert all(bool((tensor == weights[1][name]).all()) for name, tensor in weights[0].items())


def test_a_step_trains_on_what_the_weights_of_k_steps_ago_say(tmp_path: Path):
    """Against a sampler of those weights that is kept and asked for the same prompts with the same seeds."""
    context = ahead(byte_context(tmp_path), 2)
    samplers, taken, snapshot = [], [], context.engine.snapshot
    context.engine.snapshot = lambda handle: samplers.append(snapshot(handle)) or samplers[-1]  # type: ignore
    take = RolloutQueue.take

    def taking(self: RolloutQueue, number: int) -> Any:
        taken.append(take(self, number))
        return taken[-1]

    RolloutQueue.take = taking  # type: ignore[method-assign]
    try:
        grpo(context)
    finally:
        RolloutQueue.take = take  # type: ignore[method-assign]
    assert [batch.step for batch in taken] == [0, 0, 0, 1, 2]
    for number, batch in enumerate(taken):
        prompts = [p for p in batch_at(PROMPTS, number, 2, 0, "group-prompts") for _ in range(4)]
        seeds = [seed_of(0, "group", number, row) for row in range(8)]
        wanted = collect(samplers[batch.step], prompts, context.tokenizer, SAMPLING, seeds)
        for rollout, other in zip(batch.rollouts, wanted, strict=True):
            assert rollout.tokens.tolist() == other.tokens.tolist()
            assert np.array_equal(rollout.logprobs, other.logprobs)


class KilledError(Exception):
    """The process was killed."""


@STAGES
@pytest.mark.parametrize("at", [1, 2, 3, 4])
def test_a_killed_run_loses_no_rollout_and_repeats_none(
    tmp_path: Path, stage: Callable[[Context], None], at: int, monkeypatch: pytest.MonkeyPatch
):
    """Stopped after `at` steps, while batches are on their way; another process goes on."""
    stage(ahead(byte_context(tmp_path / "whole"), 2))
    take = RolloutQueue.take

    def stopping(self: RolloutQueue, number: int) -> Any:
        if number == at:
            raise KilledError
        return take(self, number)

    context = byte_context(tmp_path / "parts")
    with LateEngine(context.engine) as engine, monkeypatch.context() as patch:
        patch.setattr(RolloutQueue, "take", stopping)
        with pytest.raises(KilledError):
            stage(ahead(replace(context, engine=engine), 2))
    context = byte_context(tmp_path / "parts")
    with LateEngine(context.engine) as engine:
        stage(ahead(replace(context, engine=engine), 2))
    assert numbers(tmp_path / "parts") == numbers(tmp_path / "whole")


def a_queue(context: Context, reward: RewardSource, each: int = 2, episodes: Episodes | None = None) -> RolloutQueue:
    policy = context.engine.create(ModelSpec("policy", context.model))
    return RolloutQueue(context, policy, reward, BatchSpec(PROMPTS, 4, each, SAMPLING, "ppo", episodes))


def test_functions_score_while_others_train_and_models_where_the_engine_is_used(tmp_path: Path):
    context = ahead(byte_context(tmp_path), 1)
    where, model = set[int](), OfEngine(context)

    def function(rollout: Rollout) -> float:
        where.add(threading.get_ident())
        return odd(rollout)

    queue = a_queue(context, Mix([Part("odd", CallableReward(function)), Part("model", model)]))
    with queue.open():
        queue.take(0)
    assert model.threads == {threading.get_ident()}
    assert where
    assert threading.get_ident() not in where


def test_an_error_of_a_reward_or_an_environment_reaches_the_step_and_names_the_sample(tmp_path: Path):
    second = batch_at(PROMPTS, 0, 4, 0, "ppo-prompts")[1].id

    def failing(rollout: Rollout) -> float:
        if rollout.prompt_id == second:
            raise OSError("no answer")
        return 0.0

    queue = a_queue(ahead(byte_context(tmp_path), 1), CallableReward(failing, "judge"))
    with queue.open(), pytest.raises(RewardError, match=rf"(?s)judge.*{second}.*no answer"):
        queue.take(0)

    class Slow:
        def __init__(self, asked: Prompt) -> None:
            self.asked = asked

        def first(self) -> tuple[Message, ...]:
            return self.asked.messages

        def step(self, reply: str) -> Turn:
            threading.Event().wait(30)
            return Turn()

    episodes = Episodes(Slow, time_limit_s=0.05)
    for staleness in (0, 1):
        queue = a_queue(ahead(byte_context(tmp_path), staleness), CallableReward(odd), episodes=episodes)
        with queue.open(), pytest.raises(RewardError, match=r"prompt \w+ took longer than the 0.05 s.*time_limit_s"):
            queue.take(0)


def stuck_on(word: str) -> Callable[[SampleRequest], bool]:
    return lambda request: word.encode() in bytes(token for token in request.prompt if token < 256)


def test_stragglers_are_cut_when_their_time_is_over_logged_and_cut_again(tmp_path: Path):
    context = byte_context(tmp_path)
    with LateEngine(context.engine, stuck=stuck_on("two")) as engine:
        late = ahead(replace(context, engine=engine), 0, cut_after_s=0.1)
        queue = a_queue(late, CallableReward(odd))
        asked = [p.id for p in batch_at(PROMPTS, 0, 4, 0, "ppo-prompts")]
        number = 0 if "two" in asked else 1
        asked = [p.id for p in batch_at(PROMPTS, number, 4, 0, "ppo-prompts")]
        with queue.open():
            batch = queue.take(number)
        assert batch.cut == 1
        assert [r.prompt_id for r in batch.rollouts] == [p for p in asked if p != "two" for _ in range(2)]
        assert queue.metrics(number, batch) == {"cut": 1.0}
    (record,) = context.folder.stragglers.read()
    assert (record["step"], record["rows"]) == (number, [asked.index("two")])
    # A run that goes on cuts the same prompt, although nothing is late now, and has the same rollouts.
    again = a_queue(ahead(byte_context(tmp_path), 0, cut_after_s=1000), CallableReward(odd))
    with again.open():
        same = again.take(number)
    assert same.cut == 1
    assert [r.tokens.tolist() for r in same.rollouts] == [r.tokens.tolist() for r in batch.rollouts]


def test_half_of_the_prompts_are_always_waited_for(tmp_path: Path):
    """Three of four are stuck until they have waited longer than the limit; then none of them is cut."""
    context, waited = byte_context(tmp_path), threading.Event()
    words = [p.id for p in batch_at(PROMPTS, 0, 4, 0, "ppo-prompts")]
    slow = [stuck_on(word) for word in words[:3]]

    def stuck(request: SampleRequest) -> bool:
        if any(of(request) for of in slow):
            waited.wait(1.0)
        return False

    with LateEngine(context.engine, stuck=stuck) as engine:
        queue = a_queue(ahead(replace(context, engine=engine), 0, cut_after_s=0.01), CallableReward(odd))
        threading.Timer(0.2, waited.set).start()
        with queue.open():
            batch = queue.take(0)
    assert len(batch.rollouts) >= 4
    assert batch.cut <= 2


def test_what_nobody_takes_is_cancelled(tmp_path: Path):
    context = byte_context(tmp_path)
    with LateEngine(context.engine) as engine:
        pass  # nothing is answered any more
    queue = a_queue(ahead(replace(context, engine=engine), 1), CallableReward(odd))
    with queue.open():
        sampler = engine.snapshot(queue.policy)
        queue._pending[0] = queue._begin(0, 0, sampler)
    assert len(engine.jobs) == 4
    assert all(future.cancelled() for *_, future in engine.jobs)
