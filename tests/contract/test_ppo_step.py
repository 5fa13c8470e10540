"""What one PPO step promises: the first ratio is 1, the brakes brake, and every switch does what it says."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from byte_world import byte_context, prompt
from thumbs.config.data import DataConfig
from thumbs.config.engine import RolloutConfig
from thumbs.config.model import AdapterConfig
from thumbs.config.optim import AdamConfig
from thumbs.config.ppo import CriticConfig, KlConfig, PpoConfig
from thumbs.config.sampling import SamplingConfig
from thumbs.engine.base import AdamStep, Handle, ModelSpec
from thumbs.errors import ConfigError
from thumbs.records import Example, Rollout
from thumbs.rewards.base import CallableReward
from thumbs.stages import ppo as spine
from thumbs.stages.context import Context
from thumbs.stages.ppo import Models, Ppo, StepReport
from thumbs.stages.ppo_run import create_models, run_ppo
from thumbs.stages.rollouts import check_rounds

PROMPTS = [prompt(word) for word in ("one", "two", "three", "four", "five", "six", "seven", "eight")]
CONFIG = PpoConfig(
    prompts=DataConfig(path="unused"),
    steps=4,
    batch_size=8,
    minibatch_size=4,
    epochs=2,
    optim=AdamConfig(learning_rate=1e-3, schedule="constant", warmup_fraction=0),
    sampling=SamplingConfig(max_new_tokens=6),
)
CRITICS = (CriticConfig(), CriticConfig(init="policy"))


def vowels(rollout: Rollout) -> float:
    """A score that differs between rollouts."""
    return float(np.isin(rollout.tokens[rollout.prompt_length :] % 7, (1, 2)).sum())


def changed(config: PpoConfig, **fields: Any) -> PpoConfig:
    """The config with other fields, checked again."""
    return PpoConfig.model_validate({**config.model_dump(), **fields})


class Recording:
    """An engine that also keeps what went into and came out of forward_backward."""

    def __init__(self, engine: Any) -> None:
        self.engine, self.seen = engine, []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    def forward_backward(self, handle: Handle, data: Sequence[Example], losses: Sequence[Any]) -> Any:
        output = self.engine.forward_backward(handle, data, losses)
        self.seen.append((handle, list(data), output))
        return output


def a_run(
    folder: Path, config: PpoConfig = CONFIG, lora: AdapterConfig | None = None, **more: Any
) -> tuple[Ppo, Recording]:
    """A PPO run on an untrained model, its reference a different one, so that the KL is not zero."""
    context = byte_context(folder, lora=lora)
    recording = Recording(context.engine)
    context = replace(context, engine=recording)
    other = context.engine.create(ModelSpec("other", context.model, ("lm",)))
    text = [Example.next_token(np.arange(97, 117), weights=np.full(19, 1 / 19))]
    for _ in range(3):
        context.engine.engine.forward_backward(other, text, [spine.CROSS_ENTROPY])
        context.engine.optim_step(other, AdamStep(1e-3, 1e-3))
    context.engine.save(other, folder / "other")
    models = create_models(context, config, None, None)
    context.engine.load(models.reference, folder / "other")
    return Ppo(context, config, models, CallableReward(vowels), PROMPTS, **more), recording


def step(ppo: Ppo, number: int = 0, kl_coef: float = 0.1) -> StepReport:
    return ppo.step(number, kl_coef)


def logprobs(context: Context, handle: Handle) -> np.ndarray:
    """Of a fixed text."""
    datum = Example.next_token(np.frombuffer(b"any text at all", dtype=np.uint8))
    return context.engine.forward(handle, [datum])[0].logprobs


@pytest.mark.parametrize("critic", CRITICS)
@pytest.mark.parametrize("lora", [None, AdapterConfig(rank=4, layers=2)])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_first_ratio_is_one(tmp_path: Path, critic: CriticConfig, lora: AdapterConfig | None, temperature: float):
    sampling = SamplingConfig(max_new_tokens=6, temperature=temperature)
    ppo, recording = a_run(tmp_path, changed(CONFIG, critic=critic, sampling=sampling), lora)
    metrics = step(ppo).metrics
    first = recording.seen[0][2].metrics
    assert first["ppo_clip/ratio"] == pytest.approx(1.0, abs=1e-5)
    assert first["ppo_clip/ratio_max"] == pytest.approx(1.0, abs=1e-5)
    assert first["ppo_clip/approx_kl"] == pytest.approx(0.0, abs=1e-8)
    assert first["ppo_clip/clip_fraction"] == 0.0
    assert metrics["ppo/ratio_first"] == pytest.approx(1.0, abs=1e-5)
    assert metrics["ppo/sampler_gap"] < 1e-4
    last = recording.seen[-2 if critic.init == "policy" else -1][2].metrics
    assert last["ppo_clip/approx_kl"] > 1e-6, "the policy never moved"


@pytest.mark.parametrize("critic", CRITICS)
def test_shared_and_separate_critics_learn(tmp_path: Path, critic: CriticConfig):
    ppo, recording = a_run(tmp_path, changed(CONFIG, critic=critic, kl=KlConfig(stop_above=None)))
    assert ppo.models.shared_critic == (critic.init == "shared")
    before = logprobs(ppo.context, ppo.models.policy)
    metrics = step(ppo).metrics
    passes = 4 if critic.init == "shared" else 8  # 2 epochs of 2 minibatches
    assert len(recording.seen) == passes
    assert ("ppo/critic_grad_norm" in metrics) == (critic.init == "policy")
    assert not np.allclose(logprobs(ppo.context, ppo.models.policy), before)
    data = [Example.whole_sequence([1, 2, 3])]
    assert ppo.context.engine.forward(ppo.models.critic, data)[0].values[-1] != 0.0


def test_a_critic_can_start_from_the_reward_model(tmp_path: Path):
    context = byte_context(tmp_path)
    config = changed(CONFIG, critic=CriticConfig(init="reward"))
    with pytest.raises(ConfigError, match=r"critic\.init=reward needs a trained reward model"):
        create_models(context, config, None, None)
    reward = context.engine.create(ModelSpec("reward", context.model, ("scalar",), seed=5))
    with torch.no_grad():
        context.engine.model(reward).scalar.bias.fill_(2.0)  # type: ignore[attr-defined]
    context.engine.save(reward, tmp_path / "reward_model")
    models = create_models(context, config, None, tmp_path / "reward_model")
    data = [Example.whole_sequence([1, 2, 3])]
    assert context.engine.forward(models.critic, data)[0].values.tolist() == [2.0, 2.0, 2.0]


@pytest.mark.parametrize("init", ["shared", "policy"])
def test_the_warm_up_trains_the_critic_alone(tmp_path: Path, init: str):
    critic = CriticConfig.model_validate({"init": init, "warmup_steps": 2})
    ppo, _ = a_run(tmp_path, changed(CONFIG, critic=critic))
    before, data = logprobs(ppo.context, ppo.models.policy), [Example.whole_sequence([1, 2, 3])]
    for number in (0, 1):
        step(ppo, number)
        np.testing.assert_array_equal(logprobs(ppo.context, ppo.models.policy), before)
    assert ppo.context.engine.forward(ppo.models.critic, data)[0].values[-1] != 0.0
    step(ppo, 2)
    assert not np.allclose(logprobs(ppo.context, ppo.models.policy), before)


def test_the_epoch_loop_ends_past_the_kl_threshold(tmp_path: Path):
    fast = AdamConfig(learning_rate=1e-2, schedule="constant", warmup_fraction=0)
    free, _ = a_run(tmp_path / "free", changed(CONFIG, optim=fast, epochs=4, kl=KlConfig(stop_above=None)))
    assert step(free).metrics["ppo/epochs_done"] == 4.0
    held, recording = a_run(tmp_path / "held", changed(CONFIG, optim=fast, epochs=4, kl=KlConfig(stop_above=0.01)))
    metrics = step(held).metrics
    kls = [output.metrics["ppo_clip/approx_kl"] for _, _, output in recording.seen]
    assert kls[-1] > 0.01 >= max(kls[:-1])
    assert metrics["ppo/epochs_done"] == len(kls) / 2 < 4
    assert metrics["ppo/approx_kl"] == kls[-1]


def test_ptx_adds_its_multiple_of_the_sft_gradient(tmp_path: Path):
    pretraining = [Example.next_token(np.arange(97, 117), weights=np.ones(19)) for _ in range(4)]

    def gradients(folder: Path, coef: float) -> np.ndarray:
        ppo, _ = a_run(folder, changed(CONFIG, ptx_coef=coef), pretraining=pretraining)
        found: list[np.ndarray] = []

        def keep(handle: Handle, adam: AdamStep) -> Any:
            model = ppo.context.engine.model(handle)  # type: ignore[attr-defined]
            found.append(np.concatenate([p.grad.flatten().numpy().copy() for p in model.trunk.parameters()]))
            return ppo.context.engine.engine.optim_step(handle, adam)  # type: ignore[attr-defined]

        ppo.context.engine.optim_step = keep  # type: ignore[method-assign]
        metrics = step(ppo).metrics
        assert ("ppo/ptx_loss" in metrics) == bool(coef)
        return found[0]

    none, one, two = (gradients(tmp_path / str(coef), coef) for coef in (0.0, 1.0, 2.0))
    np.testing.assert_allclose(two - none, 2 * (one - none), atol=1e-5)
    context = byte_context(tmp_path)
    model = context.engine.create(ModelSpec("m", context.model))
    text = [Example.next_token(np.arange(97, 117), weights=np.full(19, 1 / 19))]
    context.engine.forward_backward(model, text, [spine.CROSS_ENTROPY])
    trunk = context.engine.model(model).trunk  # type: ignore[attr-defined]
    sft = np.concatenate([p.grad.flatten().numpy() for p in trunk.parameters()])
    np.testing.assert_allclose(one - none, sft, atol=1e-5)


@pytest.mark.parametrize("warped", [{"top_k": 5}, {"top_p": 0.9}, {"temperature": 0.0}])
def test_warped_sampling_is_refused(tmp_path: Path, warped: dict[str, float]):
    sampling = SamplingConfig.model_validate({"max_new_tokens": 4, **warped})
    with pytest.raises(ConfigError, match=r"ppo\.sampling has temperature"):
        run_ppo(byte_context(tmp_path), changed(CONFIG, sampling=sampling), CallableReward(vowels), None, PROMPTS)


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(ConfigError, match=r"ppo\.batch_size=8 is not a multiple of ppo\.minibatch_size=3"):
        check_rounds(changed(CONFIG, minibatch_size=3))
    with pytest.raises(ConfigError, match=r"ppo\.minibatch_size=4 is not a multiple of ppo\.replies_per_prompt=8"):
        check_rounds(changed(CONFIG, replies_per_prompt=8))


def test_no_prompts_are_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="PPO got no prompts"):
        run_ppo(byte_context(tmp_path), CONFIG, CallableReward(vowels), None, [])


def test_the_kl_metric_counts_sampled_tokens_alone(tmp_path: Path):
    ppo, _ = a_run(tmp_path)
    report = step(ppo)
    first, _ = a_run(tmp_path / "again")  # the policy before the step
    sums = []
    for rollout in report.rollouts:
        datum = [Example.next_token(rollout.tokens)]
        ours, theirs = (
            first.context.engine.forward(h, datum)[0].logprobs for h in (first.models.policy, first.models.reference)
        )
        sums.append(sum(ours[t] - theirs[t] for t in range(len(ours)) if t + 1 >= rollout.prompt_length))
    assert abs(np.mean(sums)) > 0.01
    assert report.metrics["ppo/kl"] == pytest.approx(np.mean(sums), rel=1e-3)


def test_the_reward_metric_is_score_less_the_price_of_kl(tmp_path: Path):
    ppo, _ = a_run(tmp_path)
    report = step(ppo, kl_coef=0.3)
    scores = np.clip([vowels(rollout) for rollout in report.rollouts], -5, 5)
    assert report.metrics["ppo/score"] == pytest.approx(np.mean([vowels(r) for r in report.rollouts]))
    assert report.metrics["ppo/reward"] == pytest.approx(scores.mean() - 0.3 * report.metrics["ppo/kl"], rel=1e-4)


@pytest.mark.parametrize(("target", "direction"), [(1e-3, 1), (1e3, -1)])
def test_the_coefficient_steers_the_kl_to_its_target(tmp_path: Path, target: float, direction: int):
    ppo, _ = a_run(tmp_path, changed(CONFIG, kl=KlConfig(target=target, horizon=100)))
    report = step(ppo, kl_coef=0.1)
    assert report.metrics["ppo/kl"] > 0.01
    assert report.metrics["ppo/kl_coef"] == 0.1
    assert report.kl_coef == pytest.approx(0.1 * (1 + direction * 0.2 * 8 / 100))  # the error is clipped to ±0.2


def test_a_fixed_coefficient_stays(tmp_path: Path):
    ppo, _ = a_run(tmp_path, changed(CONFIG, kl=KlConfig(target=None)))
    assert step(ppo, kl_coef=0.1).kl_coef == 0.1


@pytest.mark.parametrize("minibatch", [4, 8])
def test_every_rollout_is_seen_once_an_epoch(tmp_path: Path, minibatch: int):
    ppo, recording = a_run(tmp_path, changed(CONFIG, minibatch_size=minibatch, epochs=3, kl=KlConfig(stop_above=None)))
    report = step(ppo)
    wanted = sorted(tuple(rollout.tokens[:-1].tolist()) for rollout in report.rollouts)
    per_epoch = 8 // minibatch
    assert len(recording.seen) == 3 * per_epoch
    for epoch in range(3):
        batches = [data for _, data, _ in recording.seen[epoch * per_epoch : (epoch + 1) * per_epoch]]
        assert sorted(tuple(datum.inputs.tolist()) for data in batches for datum in data) == wanted
        for data in batches:
            assert sum(d.columns["weights"].sum() for d in data) == pytest.approx(1.0)


def test_replies_to_one_prompt_stay_together(tmp_path: Path):
    ppo, recording = a_run(tmp_path, changed(CONFIG, replies_per_prompt=2, kl=KlConfig(stop_above=None)))
    report = step(ppo)
    asked = [tuple(rollout.tokens[: rollout.prompt_length].tolist()) for rollout in report.rollouts]
    assert len(asked) == 8
    assert asked[::2] == asked[1::2]
    assert len(set(asked)) == 4
    replies = {tuple(rollout.tokens.tolist()) for rollout in report.rollouts}
    assert len(replies) == 8  # each is drawn with a seed of its own
    of_a_prompt = {tuple(r.tokens[:-1].tolist()): prompt for prompt, r in zip(asked, report.rollouts, strict=True)}
    for epoch in (recording.seen[:2], recording.seen[2:]):
        seen = [of_a_prompt[tuple(datum.inputs.tolist())] for _, data, _ in epoch for datum in data]
        assert seen[::2] == seen[1::2]
        assert sorted(seen) == sorted(asked)


def test_whitened_advantages_have_mean_0_and_deviation_1_over_sampled_tokens(tmp_path: Path):
    ppo, recording = a_run(tmp_path, changed(CONFIG, minibatch_size=8, epochs=1))
    step(ppo)
    data = recording.seen[0][1]
    values = np.concatenate([d.columns["advantages"][d.columns["weights"] > 0] for d in data])
    assert values.mean() == pytest.approx(0.0, abs=1e-5)
    assert values.std() == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("importance", ["truncate", "mask_tokens", "mask_replies"])
def test_what_an_older_sampler_drew_counts_as_the_correction_says(tmp_path: Path, importance: str):
    cap, settings = 1.002, {"importance": importance, "importance_cap": 1.002, "whiten_advantages": False}
    ppo, recording = a_run(tmp_path, changed(CONFIG, minibatch_size=8, epochs=1, **settings))
    ppo = replace(ppo, context=replace(ppo.context, rollout=RolloutConfig(staleness=1)))
    engine, policy = ppo.context.engine, ppo.models.policy
    step(ppo)
    before = engine.create(ModelSpec("same", ppo.context.model, ("lm", "scalar"), start=policy))
    report = step(ppo, 1)
    now = engine.forward(before, [Example.next_token(r.tokens, weights=r.mask) for r in report.rollouts])
    weighted = []
    for rollout, output in zip(report.rollouts, now, strict=True):
        gap = (output.logprobs - rollout.logprobs)[rollout.mask > 0].astype(float)
        far = abs(gap if importance == "mask_tokens" else np.full(len(gap), gap.mean())) > np.log(cap)
        weight = np.minimum(np.exp(gap), cap) if importance == "truncate" else np.where(far, 0, np.exp(gap))
        weighted.append(weight)
    shares = np.concatenate(weighted)
    assert report.metrics["ppo/importance"] == pytest.approx(shares.mean(), abs=1e-4)
    assert report.metrics["ppo/importance_masked"] == pytest.approx((shares == 0).mean(), abs=1e-6)
    for datum in recording.seen[-1][1]:
        rows = (i for i, r in enumerate(report.rollouts) if np.array_equal(r.tokens[:-1], datum.inputs))
        advantages = datum.columns["advantages"][datum.columns["weights"] > 0]
        assert any(np.array_equal(advantages == 0, weighted[i] == 0) for i in rows)
    assert (importance == "truncate") == (0 not in shares)


def test_models_of_their_own_are_told_apart():
    policy, critic, reference = Handle(1, "policy"), Handle(2, "critic"), Handle(3, "reference")
    assert Models(policy, policy, reference).shared_critic
    assert not Models(policy, critic, reference).shared_critic


def test_a_run_ends_once_its_budget_of_kl_is_spent(tmp_path: Path):
    """With the weights that wrote the replies it was judged by; started again, it is done and scores nothing."""

    def nothing(rollout: Rollout) -> float:
        raise AssertionError("a run that has ended went on")

    fast = changed(CONFIG, optim={"learning_rate": 3e-3, "schedule": "constant", "warmup_fraction": 0}, steps=6)
    for n in (1, 6):
        run_ppo(byte_context(tmp_path / f"free{n}"), changed(fast, steps=n), CallableReward(vowels), None, PROMPTS)
    kls = [json.loads(line)["ppo/kl"] for line in (tmp_path / "free6" / "metrics.jsonl").read_text().splitlines()]
    assert abs(kls[0]) < 1e-6 < kls[1]
    held = changed(fast, kl=KlConfig(budget=kls[1] / 2))
    for reward in (vowels, nothing):
        report = run_ppo(byte_context(tmp_path / "held"), held, CallableReward(reward), None, PROMPTS)
        assert report["steps"] == 2
        assert report["last"]["ppo/kl"] == kls[1]
    assert len((tmp_path / "held" / "metrics.jsonl").read_text().splitlines()) == 2
    weights = [load_file(tmp_path / name / "model" / "model.safetensors") for name in ("held", "free1")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
