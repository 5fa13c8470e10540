"""The watch on a policy: what it sees, what it keeps, what its alarms do, and that a killed run sees the same."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from byte_world import byte_context, prompt
from thumbs.config.base import build_config
from thumbs.config.data import DataConfig
from thumbs.config.direct import DirectConfig
from thumbs.config.group import GroupConfig
from thumbs.config.optim import AdamConfig
from thumbs.config.ppo import KlConfig, PpoConfig
from thumbs.config.rejection import RejectionConfig
from thumbs.config.sampling import SamplingConfig
from thumbs.config.watch import WatchConfig
from thumbs.engine.base import ModelSpec
from thumbs.engine.checkpoints import read_tensors
from thumbs.errors import ConfigError
from thumbs.records import Example, Rollout
from thumbs.rewards.base import CallableReward
from thumbs.stages.context import Context
from thumbs.stages.group import run_group
from thumbs.stages.online_dpo import run_online_dpo
from thumbs.stages.ppo_run import run_ppo
from thumbs.stages.rejection import run_rejection
from thumbs.stages.watch import Watch, sampled, watch_set

PROMPTS = [prompt(letter) for letter in "abcdefghijkl"]
SAMPLING = SamplingConfig(max_new_tokens=6)


def share_of_e(rollout: Rollout) -> float:
    return rollout.text.count("e") / 6


class Fickle:
    """A second opinion that likes a policy less at each look, after two."""

    def __init__(self) -> None:
        self.looks = 0

    def score(self, rollouts: Any) -> Any:
        self.looks += 1
        level = {1: 0.0, 2: 1.0, 3: 2.0}.get(self.looks, 2.0 - 3 * (self.looks - 3))
        return CallableReward(lambda rollout: level + 0.01 * len(rollout.text)).score(rollouts)


def watched(context: Context, act: str, second: Any, steps: int = 6, every: int = 1, **more: Any) -> dict[str, Any]:
    config = PpoConfig(
        prompts=DataConfig(path="unused"),
        steps=steps,
        batch_size=8,
        minibatch_size=8,
        optim=AdamConfig(learning_rate=1e-3, schedule="constant", warmup_fraction=0.0),
        sampling=SAMPLING,
        kl=KlConfig(coef=0.0, target=None),
        save_every=2,
    )
    proxy = CallableReward(last_token)
    settings = WatchConfig.model_validate({"act": act, "prompts": 8, "kl_price": 0.0, "every": every} | more)
    watch = partial(Watch, config=settings, proxy=proxy, second=second, prompts=PROMPTS, sampling=SAMPLING)
    return run_ppo(context, config, proxy, None, PROMPTS, watch=watch)


def weights(folder: Path) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in read_tensors(folder / "model.safetensors").items()}


def test_an_alarm_rolls_back_to_the_policy_of_the_best_look(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    context = byte_context(tmp_path)
    result = watched(context, "rollback", Fickle())
    assert result["steps"] == 4  # looks after 0, 1, 2 steps rise; those after 3 and 4 are below the start
    rows = context.folder.metrics.read()
    assert [row["step"] for row in rows] == [0, 1, 2, 3, 4]
    assert [row["watch/best_step"] for row in rows] == [0, 1, 2, 2, 2]
    gained = {name: rows[2][f"watch/{name}"] - rows[0][f"watch/{name}"] for name in ("proxy", "second_proxy")}
    assert rows[2]["watch/gap"] == pytest.approx(gained["proxy"] - gained["second_proxy"])
    (alarm,) = context.folder.alarms.read()
    assert alarm["step"] == 4
    assert "is being gamed" in alarm["alarm"]
    assert "is that of step 2 again" in capsys.readouterr().err

    other = byte_context(tmp_path / "two")  # two steps of the same run are the same policy
    watched(other, "log", Fickle(), steps=2)
    for name, tensor in weights(other.best).items():
        np.testing.assert_array_equal(weights(context.best)[name], tensor)


@pytest.mark.parametrize(("act", "steps"), [("log", 6), ("stop", 4)])
def test_log_goes_on_and_stop_leaves_the_policy_as_it_is(act: str, steps: int, tmp_path: Path):
    context = byte_context(tmp_path)
    assert watched(context, act, Fickle())["steps"] == steps
    assert [(row["step"], row["sign"]) for row in context.folder.alarms.read()] == [(4, "value")]  # once
    unwatched = byte_context(tmp_path / "two")
    watched(unwatched, "log", CallableReward(share_of_e), steps=steps)
    for name, tensor in weights(unwatched.best).items():  # looking changes nothing
        np.testing.assert_array_equal(weights(context.best)[name], tensor)


def test_a_rollback_may_go_on_at_a_higher_price_and_leaves_the_best_policy_in_the_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    context = byte_context(tmp_path)
    assert watched(context, "rollback", Fickle(), steps=8, kl_after=0.7)["steps"] == 6  # and a second alarm ends it
    rows = context.folder.metrics.read()
    assert [row.get("ppo/kl_coef") for row in rows] == [None, 0.0, 0.0, 0.0, 0.0, 0.7, 0.7]
    assert [row["step"] for row in context.folder.alarms.read() if row["sign"] == "value"] == [4, 6]
    assert "goes on from step 2 with a KL price of 0.7" in capsys.readouterr().err
    other = byte_context(tmp_path / "two")
    watched(other, "log", Fickle(), steps=2)
    for name, tensor in weights(other.best).items():
        np.testing.assert_array_equal(weights(context.best)[name], tensor)

    assert rows[5]["ppo/kl"] < rows[4]["ppo/kl"]  # of the policies after steps 2 and 3


def test_one_bad_look_is_no_alarm(tmp_path: Path):
    class Stumbles:
        looks = 0

        def score(self, rollouts: Any) -> Any:
            self.looks += 1
            level = -5.0 if self.looks == 4 else float(self.looks)
            return CallableReward(lambda rollout: level + 0.01 * len(rollout.text)).score(rollouts)

    context = byte_context(tmp_path)
    assert watched(context, "rollback", Stumbles())["steps"] == 6
    assert context.folder.alarms.read() == []


def test_a_killed_run_sees_what_it_would_have_seen(tmp_path: Path):
    class Killed(Fickle):
        def score(self, rollouts: Any) -> Any:
            if self.looks == 4:
                raise KeyboardInterrupt
            return super().score(rollouts)

    whole, parts = byte_context(tmp_path / "whole"), byte_context(tmp_path / "parts")
    watched(whole, "log", Fickle())
    with pytest.raises(KeyboardInterrupt):
        watched(parts, "log", Killed())
    again = Fickle()
    again.looks = 3  # the checkpoint is of step 2, after three looks
    watched(byte_context(tmp_path / "parts"), "log", again)

    def seen(context: Context) -> list[Any]:
        rows = context.folder.metrics.read()
        return [{name: value for name, value in row.items() if name.startswith("watch/")} for row in rows]

    assert seen(whole) == seen(parts)
    assert whole.folder.alarms.read() == parts.folder.alarms.read()


def test_the_numbers_of_a_look_are_those_of_a_slow_loop(tmp_path: Path):
    context = byte_context(tmp_path)
    spec = ModelSpec("policy", context.model)
    policy = context.engine.create(spec)
    reference = context.engine.create(ModelSpec("other", context.model, seed=7, trainable=False))
    watch = Watch(
        context,
        WatchConfig(kl_price=0.3),
        policy,
        reference,
        CallableReward(share_of_e),
        CallableReward(lambda rollout: float(len(rollout.text))),
        PROMPTS,
        SAMPLING,
    )
    state: dict[str, Any] = {}
    metrics, alarms = watch.look(0, state)
    assert alarms == {}
    values, ratios, tokens = [], [], 0
    for rollout in watch.replies():
        data = [Example.next_token(rollout.tokens)]
        ours, theirs = (context.engine.forward(handle, data)[0].logprobs for handle in (policy, reference))
        drawn = [i for i, m in enumerate(rollout.mask) if m]
        ratios.append(sum(float(ours[i] - theirs[i]) for i in drawn))
        values.append(len(rollout.text) - 0.3 * ratios[-1])
        tokens += len(drawn)
        assert sampled(rollout) == [int(rollout.tokens[i + 1]) for i in drawn]
    assert metrics["watch/kl"] == pytest.approx(np.mean(ratios), abs=1e-4)
    assert metrics["watch/kl_per_token"] == pytest.approx(sum(ratios) / tokens, abs=1e-5)
    assert metrics["watch/value"] == pytest.approx(np.mean(values), abs=1e-4)
    assert state["watch"]["start"] == pytest.approx(values, abs=1e-4)


def test_a_judge_of_pairs_compares_with_the_replies_of_the_first_look_and_alarms_go_by_it(tmp_path: Path):
    class Judge:
        """Likes a reply by how many looks there were, in one order only, and says nothing in the other."""

        def __init__(self) -> None:
            self.asked: list[Any] = []
            self.levels = iter([0.5, 0.9, 0.0, 0.0])

        def both_orders(self, pairs: Any) -> Any:
            self.asked.append(list(pairs))
            level = next(self.levels)
            return [(level + 0.001 * (i % 2), None) for i in range(len(pairs))]

    context, judge = byte_context(tmp_path), Judge()
    policy = context.engine.create(ModelSpec("policy", context.model))
    reward = CallableReward(last_token)
    settings = WatchConfig(act="rollback")
    watch = Watch(context, settings, policy, policy, reward, reward, PROMPTS, SAMPLING, gold=judge, by_gold=True)
    state: dict[str, Any] = {}
    looks = [watch.look(step, state) for step in range(4)]
    first = watch.replies()
    assert judge.asked[2] == [(r.messages[:-1], r.text, r.text) for r in first]
    assert [round(numbers["watch/gold"], 2) for numbers, _ in looks] == [0.5, 0.9, 0.0, 0.0]
    assert [[*alarms] for _, alarms in looks] == [[], [], [], ["value"]]
    assert "gold has fallen from 0.90 at step 1" in (watch.why_ended(state) or "")
    assert watch.roll_back(state) == 1


def last_token(rollout: Rollout) -> float:
    """Differs between replies of an untrained model."""
    return float(rollout.tokens[-1] % 7)


FAST = {"optim": {"learning_rate": 1e-3, "schedule": "constant"}}
ROUNDS = {"prompts": {"path": "unused"}, "sampling": {"max_new_tokens": 6}}
METHODS: dict[str, Any] = {
    "group": lambda context, watch: run_group(
        context,
        build_config(GroupConfig, ROUNDS | {"steps": 6, "batch_size": 8, "minibatch_size": 8, "group_size": 4} | FAST),
        CallableReward(last_token), None, PROMPTS, watch=watch,
    ),
    "rejection": lambda context, watch: run_rejection(
        context,
        build_config(RejectionConfig, ROUNDS | {"rounds": 6, "replies_per_prompt": 2, "batch_size": 8} | FAST),
        CallableReward(last_token), None, PROMPTS, watch=watch,
    ),
    "online DPO": lambda context, watch: run_online_dpo(
        context,
        build_config(
            DirectConfig,
            {"method": "online_dpo", "batch_size": 4, "eval_every": 1, "online": ROUNDS | {"steps": 6}} | FAST,
        ),
        CallableReward(last_token), None, PROMPTS, watch=watch,
    ),
}  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
def test_every_method_leaves_the_policy_that_it_went_back_to(method: str, tmp_path: Path):
    """Also one that keeps weights at each checkpoint, the gamed ones among them."""
    context = byte_context(tmp_path)
    settings = WatchConfig(act="rollback", prompts=8, kl_price=0.0)
    proxy = CallableReward(last_token)
    watch = partial(Watch, config=settings, proxy=proxy, second=Fickle(), prompts=PROMPTS, sampling=SAMPLING)
    METHODS[method](context, watch)
    assert context.folder.metrics.read()[-1]["watch/best_step"] == 2
    assert len(context.folder.alarms.read()) == 1
    best = weights(context.folder.path / "watch")
    (last,) = (context.folder.path / "checkpoints").glob("step-*/policy")  # of the step after the best one
    assert any((tensor != best[name]).any() for name, tensor in weights(last).items())
    for name, tensor in weights(context.best).items():
        np.testing.assert_array_equal(tensor, best[name])


def test_sampling_that_falsifies_the_kl_is_refused(tmp_path: Path):
    context = byte_context(tmp_path)
    policy = context.engine.create(ModelSpec("policy", context.model))
    reward = CallableReward(share_of_e)
    with pytest.raises(ConfigError, match="top_p"):
        Watch(context, WatchConfig(), policy, policy, reward, reward, PROMPTS, SamplingConfig(top_p=0.9))


def test_the_watch_set_has_no_prompt_twice_and_does_not_depend_on_their_order_of_repetition():
    chosen = watch_set([*PROMPTS, *PROMPTS], 8, seed=3)
    assert len({p.id for p in chosen}) == 8
    assert [p.id for p in chosen] == [p.id for p in watch_set(PROMPTS, 8, seed=3)]
    assert {p.id for p in watch_set(PROMPTS, 100, seed=3)} == {p.id for p in PROMPTS}
