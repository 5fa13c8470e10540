"""What a step of the group family hands to the engine, against slow loops, and what a run keeps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import oracles.groups
from byte_world import byte_context, prompt
from thumbs.config.base import build_config
from thumbs.config.engine import RolloutConfig
from thumbs.config.group import GroupConfig
from thumbs.config.group_methods import GROUP_METHODS
from thumbs.config.losses import CROSS_ENTROPY, TokenLoss
from thumbs.engine.base import AdamStep, Handle, ModelSpec
from thumbs.engine.local import LocalEngine
from thumbs.errors import ConfigError
from thumbs.records import Example, Message, Rollout, Score
from thumbs.rewards.base import CallableReward
from thumbs.rewards.shaping import overlong_penalties
from thumbs.stages import group as spine
from thumbs.stages.group import Group, GroupReport, run_group
from thumbs.stages.group_supply import with_signal
from thumbs.stages.rollout_queue import ScoredBatch, batch_as_json, batch_from_json
from thumbs.tracking.files import read_json, write_json

PROMPTS = [prompt(word) for word in ("one", "two", "three", "four", "five", "six", "seven", "eight")]
LIMIT = 6
BASE: dict[str, Any] = {
    "prompts": {"path": "unused"},
    "steps": 4,
    "batch_size": 12,
    "minibatch_size": 12,
    "group_size": 3,
    "optim": {"learning_rate": 1e-3, "schedule": "constant"},
    "sampling": {"max_new_tokens": LIMIT, "stop": [*"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"]},
    "save_every": 2,
    "sample_every": 2,
}


def config(**settings: Any) -> GroupConfig:
    return build_config(GroupConfig, BASE | settings)


def odd(rollout: Rollout) -> float:
    """A score that differs between rollouts."""
    return float((rollout.tokens[rollout.prompt_length :] % 7).sum())


class Recording:
    """An engine that also keeps what goes into forward_backward."""

    def __init__(self, engine: Any) -> None:
        self.engine, self.seen = engine, []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    def forward_backward(self, handle: Handle, data: Sequence[Example], losses: Sequence[Any]) -> Any:
        self.seen.append((list(data), list(losses)))
        return self.engine.forward_backward(handle, data, losses)


def a_group(folder: Path, settings: GroupConfig, staleness: int = 0) -> tuple[Group, Recording]:
    """A group on an untrained model whose reference is a different one, so that the KL is not zero."""
    context = byte_context(folder)
    recording = Recording(context.engine)
    context = replace(context, engine=recording, rollout=RolloutConfig(staleness=staleness))
    policy = context.engine.create(ModelSpec("policy", context.model))
    reference = context.engine.create(ModelSpec("reference", context.model))
    text = [Example.next_token(np.arange(97, 117), weights=np.full(19, 1 / 19))]
    for _ in range(3):
        recording.engine.forward_backward(reference, text, [CROSS_ENTROPY])
        context.engine.optim_step(reference, AdamStep(1e-3, 1e-3))
    context.engine.save(policy, folder / "before")
    return Group(context, settings, policy, CallableReward(odd), PROMPTS, reference), recording


def sampled(rollout: Rollout, column: np.ndarray) -> list[float]:
    return column[rollout.mask > 0].astype(float).tolist()


def expected_advantages(method: str, rollouts: Sequence[Rollout], kl: Sequence[list[float]]) -> list[list[float]]:
    """By the slow loops, one row of numbers for each rollout."""
    preset = GROUP_METHODS[method]
    coef = preset.kl_coef if preset.kl == "reward" else 0.0
    scores = [odd(rollout) for rollout in rollouts]
    if preset.overlong_penalty:  # the last 20 % of six tokens: from 4.8 to 6
        scores = [s - min(max((r.reply_length - 4.8) / 1.2, 0), 1) for s, r in zip(scores, rollouts, strict=True)]
    if preset.advantage == "batch":
        return oracles.groups.whitened([oracles.groups.to_come(s, k, coef) for s, k in zip(scores, kl, strict=True)])
    paid = [s - coef * sum(k) for s, k in zip(scores, kl, strict=True)]
    of = {"group": oracles.groups.group, "leave_one_out": oracles.groups.leave_one_out}
    of |= {"centred": oracles.groups.centred, "centred_batch": oracles.groups.centred}
    each = [a for i in range(0, len(paid), 3) for a in of[preset.advantage](paid[i : i + 3])]
    found = [[a] * r.reply_length for a, r in zip(each, rollouts, strict=True)]
    return oracles.groups.whitened(found) if preset.advantage == "centred_batch" else found


@pytest.mark.parametrize("method", GROUP_METHODS)
def test_what_the_engine_gets_is_what_the_papers_say(tmp_path: Path, method: str):
    group, recording = a_group(tmp_path, config(method=method))
    assert group.reference is not None
    policy = group.context.engine.create(ModelSpec("same", group.context.model, start=group.policy))
    rollouts = group.step(0).rollouts
    assert len({rollout.reply_length for rollout in rollouts}) > 1
    data, losses = recording.seen[0]
    order = [next(i for i, r in enumerate(rollouts) if same(r, datum)) for datum in data]
    forward = [Example.next_token(r.tokens, weights=r.mask) for r in rollouts]
    reference = group.context.engine.forward(group.reference, forward)
    now = group.context.engine.forward(policy, forward)
    kl = [sampled(r, r.logprobs - o.logprobs) for r, o in zip(rollouts, reference, strict=True)]
    wanted = expected_advantages(method, rollouts, kl)
    preset = GROUP_METHODS[method]
    weights = oracles.groups.weights([r.reply_length for r in rollouts], preset.normaliser, LIMIT)
    for i, datum in zip(order, data, strict=True):
        rollout, columns = rollouts[i], datum.columns
        assert sampled(rollout, columns["advantages"]) == pytest.approx(wanted[i], rel=1e-3, abs=1e-4)
        assert sampled(rollout, columns["weights"]) == pytest.approx([weights[i]] * rollout.reply_length)
        assert columns["weights"][rollout.mask == 0].tolist() == [0] * int((rollout.mask == 0).sum())
        np.testing.assert_allclose(sampled(rollout, columns["logprobs"]), sampled(rollout, now[i].logprobs), atol=1e-4)
        if preset.kl == "loss":
            np.testing.assert_allclose(
                sampled(rollout, columns["reference_logprobs"]), sampled(rollout, reference[i].logprobs), atol=1e-5
            )
    assert losses[0] == preset.loss
    assert [loss.formula for loss in losses[1:]] == (["kl_penalty"] if preset.kl == "loss" else [])


def same(rollout: Rollout, datum: Example) -> bool:
    return np.array_equal(rollout.tokens[1:], datum.targets)


@pytest.mark.parametrize("method", GROUP_METHODS)
def test_micro_batches_change_no_gradient(tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch):
    """With a large eps Adam's step is in proportion to the gradient, so equal weights mean equal gradients."""
    adam = {"learning_rate": 1.0, "schedule": "constant", "eps": 1.0, "max_grad_norm": 1e9}
    weights = []
    for name, budget in (("whole", 2048), ("cut", 16)):
        monkeypatch.setattr(LocalEngine, "token_budget", budget)
        group, _ = a_group(tmp_path / name, config(method=method, optim=adam))
        group.step(0)
        group.context.engine.save(group.policy, tmp_path / name / "after")
        weights.append(load_file(tmp_path / name / "after" / "model.safetensors"))
    before = load_file(tmp_path / "whole" / "before" / "model.safetensors")
    for name, tensor in weights[0].items():
        moved = float((tensor - before[name]).abs().max())
        assert torch.allclose(tensor, weights[1][name], rtol=1e-4, atol=1e-3 * moved + 1e-7), name
    assert max(float((tensor - before[name]).abs().max()) for name, tensor in weights[0].items()) > 1e-3


def test_an_older_sampler_is_corrected_for(tmp_path: Path):
    """The ratio's old logprobs are the policy's, and advantages are multiplied by min(π / π_sampler, cap)."""
    group, recording = a_group(tmp_path, config(method="dr_grpo", importance_cap=1.01), staleness=1)
    group.step(0)
    policy = group.context.engine.create(ModelSpec("same", group.context.model, start=group.policy))
    report = group.step(1)
    data, _ = recording.seen[1]
    forward = [Example.next_token(r.tokens, weights=r.mask) for r in report.rollouts]
    now, capped = group.context.engine.forward(policy, forward), 0
    scores = [odd(rollout) for rollout in report.rollouts]
    plain = [a for i in range(0, 12, 3) for a in oracles.groups.centred(scores[i : i + 3])]
    for datum in data:
        i = next(i for i, r in enumerate(report.rollouts) if same(r, datum))
        rollout = report.rollouts[i]
        ratios = np.exp(np.array(sampled(rollout, now[i].logprobs)) - np.array(sampled(rollout, rollout.logprobs)))
        capped += int((ratios > 1.01).sum())
        np.testing.assert_allclose(
            sampled(rollout, datum.columns["advantages"]), plain[i] * np.minimum(ratios, 1.01), rtol=1e-3, atol=1e-4
        )
        np.testing.assert_allclose(
            sampled(rollout, datum.columns["logprobs"]), sampled(rollout, now[i].logprobs), atol=1e-4
        )
    assert capped > 0
    assert report.metrics["group/staleness"] == 1
    assert report.rollouts[0].policy_version == 0


@pytest.mark.parametrize(("importance", "cap"), [("mask_tokens", 1.003), ("mask_replies", 1.01)])
def test_what_an_older_sampler_is_far_off_in_is_masked(tmp_path: Path, importance: str, cap: float):
    settings = config(method="dr_grpo", importance=importance, importance_cap=cap)
    group, recording = a_group(tmp_path, settings, staleness=1)
    group.step(0)
    policy = group.context.engine.create(ModelSpec("same", group.context.model, start=group.policy))
    report = group.step(1)
    now = group.context.engine.forward(policy, [Example.next_token(r.tokens, weights=r.mask) for r in report.rollouts])
    scores = [odd(rollout) for rollout in report.rollouts]
    plain = [a for i in range(0, 12, 3) for a in oracles.groups.centred(scores[i : i + 3])]
    masked = tokens = 0
    for datum in recording.seen[1][0]:
        i = next(i for i, r in enumerate(report.rollouts) if same(r, datum))
        rollout = report.rollouts[i]
        gaps = np.array(sampled(rollout, now[i].logprobs)) - np.array(sampled(rollout, rollout.logprobs))
        off = np.abs(gaps if importance == "mask_tokens" else np.full(len(gaps), gaps.mean())) > np.log(cap)
        expected = np.where(off, 0.0, plain[i] * np.exp(gaps))
        np.testing.assert_allclose(sampled(rollout, datum.columns["advantages"]), expected, rtol=1e-3, atol=1e-4)
        masked, tokens = masked + int(off.sum()), tokens + len(off)
    assert 0 < masked < tokens
    assert report.metrics["group/importance_masked"] == pytest.approx(masked / tokens)


def a_batch(step: int, *groups: Sequence[float]) -> ScoredBatch:
    tokens = np.array([1, 2, 3])
    scores = [score for group in groups for score in group]
    rollouts = tuple(
        Rollout(
            f"p{step}", tokens, 1, np.ones(2, np.float32), np.array([-0.1, -1 / 3], np.float32), "stop", step, "t",
            (Message("user", "q"),), "4", np.array([0, 0.7], np.float32),
        )
        for _ in scores
    )  # fmt: skip
    return ScoredBatch(step, rollouts, tuple(Score(s, {"part": s / 3}, (s / 7, s), counts=s > 1e-9) for s in scores))


GOOD, FLAT = (1.0, 0.0), (0.5, 0.5)


def values(batch: ScoredBatch) -> list[float]:
    return [score.value for score in batch.scores]


def test_groups_without_signal_are_replaced_and_what_is_not_needed_is_dropped():
    asked = []

    def redraw(number: int) -> ScoredBatch:
        asked.append(number)
        return a_batch(7, GOOD, GOOD)

    found = with_signal(a_batch(7, GOOD, FLAT), redraw, size=2, more=3)
    assert (found.redraws, found.dropped, values(found), asked) == (1, 1, [*GOOD, *GOOD], [0])
    assert with_signal(a_batch(7, GOOD, GOOD), redraw, size=2, more=3).redraws == 0


def test_groups_without_signal_stay_where_nothing_better_comes():
    found = with_signal(a_batch(0, FLAT, FLAT), lambda n: a_batch(0, FLAT, GOOD if n else FLAT), size=2, more=2)
    assert (found.redraws, found.dropped, values(found)) == (2, 0, [*GOOD, *FLAT])


def test_batches_that_wait_survive_the_disk_bit_for_bit(tmp_path: Path):
    before = replace(a_batch(1, (0.1, 2 / 3), (1e-30,)), cut=2)
    write_json(tmp_path / "p.json", batch_as_json(before))
    after = batch_from_json(read_json(tmp_path / "p.json"))
    assert (before.step, before.scores, before.cut) == (after.step, after.scores, after.cut)
    for r, s in zip(before.rollouts, after.rollouts, strict=True):
        for name, value in r.__dict__.items():
            other = getattr(s, name)
            if isinstance(value, np.ndarray):
                assert value.dtype == other.dtype
                assert np.array_equal(value, other)
            else:
                assert value == other


class KilledError(Exception):
    """The run was killed."""


@pytest.mark.parametrize(("settings", "staleness"), [({"method": "grpo"}, 0), ({"method": "dapo", "kl": "none"}, 1)])
def test_a_run_that_was_stopped_ends_with_the_same_weights(
    tmp_path: Path, settings: dict[str, Any], staleness: int, monkeypatch: pytest.MonkeyPatch
):
    c = config(steps=5, **settings)

    def train(name: str) -> dict[str, Any]:
        context = replace(byte_context(tmp_path / name), rollout=RolloutConfig(staleness=staleness))
        return run_group(context, c, CallableReward(odd), None, PROMPTS, fixed_prompts=PROMPTS[:2])

    whole = train("whole")
    step = Group.step

    def stopping(self: Group, number: int, *rest: Any) -> GroupReport:
        if number == 3:
            raise KilledError
        return step(self, number, *rest)

    monkeypatch.setattr(spine.Group, "step", stopping)
    with pytest.raises(KilledError):
        train("parts")
    monkeypatch.undo()
    resumed = train("parts")
    clocks = ("group/rollout_s", "group/update_s")
    assert {k: v for k, v in resumed["last"].items() if k not in clocks} == {
        k: v for k, v in whole["last"].items() if k not in clocks
    }
    first, second = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("whole", "parts"))
    assert all(bool((first[name] == second[name]).all()) for name in first)
    logs = [byte_context(tmp_path / name).folder.metrics.read() for name in ("whole", "parts")]
    drop = {"wall_s", *clocks}
    assert [{k: v for k, v in r.items() if k not in drop} for r in logs[0]] == [
        {k: v for k, v in r.items() if k not in drop} for r in logs[1]
    ]
    samples = [byte_context(tmp_path / name).folder.samples.read() for name in ("whole", "parts")]
    assert samples[0] == samples[1]
    assert {row["step"] for row in samples[0]} == {0, 2, 4, 5}


def test_a_setting_takes_the_place_of_the_presets():
    c = config(method="dapo", clip_range_high=0.5, normaliser="sequence", kl="loss", kl_coef=0.1, kl_estimator="k3")
    chosen = c.chosen()
    assert chosen.loss == TokenLoss.of("ppo_clip", clip_range=0.2, clip_range_high=0.5)
    assert (chosen.normaliser, chosen.kl, chosen.kl_coef, chosen.dynamic_sampling) == ("sequence", "loss", 0.1, 10)
    assert config(method="cispo", clip_range=0.4, clip_range_high=2.0).chosen().loss == TokenLoss.of(
        "cispo", clip_range=0.4, clip_range_high=2.0
    )
    assert config(method="dro", beta=0.2).chosen().loss == TokenLoss.of("dro", beta=0.2)
    assert config(method="gspo").chosen().loss == TokenLoss.of("gspo", clip_range=3e-4, clip_range_high=4e-4)
    assert config(sampling={"temperature": 0.7}).chosen().loss.temperature == 0.7


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"method": "dro", "clip_range": 0.1}, "group.clip_range means nothing to method dro, which reads beta, adv"),
        ({"method": "rloo", "beta": 0.1}, "group.beta means nothing to method rloo, which reads clip_range, clip_r"),
        ({"method": "dapo", "kl_coef": 0.1}, "method dapo has no KL term; set group.kl to `reward` or `loss`"),
        ({"method": "grpo", "kl_estimator": "k1"}, "k1 has no gradient on average"),
        ({"method": "grpo", "group_size": 1}, "compares replies to one prompt"),
        ({"method": "reinforce_pp", "group_size": 1, "dynamic_sampling": 2}, "replaces groups of equal scores"),
        ({"reward": [{"verifier": "exact", "model": "reward"}]}, r"reward\[0\]: .*got model and verifier"),
        ({"reward": [{"verifier": "regex"}]}, "`pattern` belongs to verifier: regex"),
        ({"reward": [{"verifier": "exact"}, {"verifier": "exact"}]}, "exact comes twice"),
        ({"reward": [{"environment": True}]}, "environment needs group.environment"),
        ({"environment": {}}, "give `tools` or `factory`"),
    ],
)
def test_settings_that_mean_nothing_are_refused(tmp_path: Path, settings: dict[str, Any], said: str):
    context = byte_context(tmp_path)
    policy = context.engine.create(ModelSpec("p", context.model))
    with pytest.raises(ConfigError, match=said):
        Group(context, config(**settings), policy, CallableReward(odd), PROMPTS, policy)


def test_one_reply_a_prompt_is_enough_without_groups(tmp_path: Path):
    settings = config(method="reinforce_pp", group_size=1, batch_size=8, minibatch_size=8)
    group, _ = a_group(tmp_path, settings)
    report = group.step(0)
    assert len({rollout.prompt_id for rollout in report.rollouts}) == 8


def test_long_replies_lose_before_the_limit():
    """Of 100 tokens the last 20 are the buffer: 80 lose nothing, 90 half, 100 all."""
    lengths = torch.tensor([10.0, 80.0, 90.0, 95.0, 100.0])
    assert overlong_penalties(lengths, 100, 0.2, 2.0).tolist() == pytest.approx([0, 0, 1.0, 1.5, 2.0])
    assert overlong_penalties(lengths, 100, 0.0, 2.0).tolist() == [0, 0, 0, 0, 2.0]
