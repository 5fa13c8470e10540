"""What is said of a policy's answers; KL of its own samples, against both models' forward passes."""

from __future__ import annotations

import numpy as np
import pytest

from thumbs.config.data import DataConfig
from thumbs.config.evaluation import EvaluationConfig
from thumbs.config.model import ModelConfig
from thumbs.config.sampling import SamplingConfig
from thumbs.data.tokenizers import ByteTokenizer
from thumbs.engine.base import ModelSpec
from thumbs.engine.local import LocalEngine
from thumbs.errors import ConfigError
from thumbs.evaluation.heldout import Evaluation
from thumbs.evaluation.replies import EvaluatedReply
from thumbs.evaluation.results import Findings
from thumbs.records import Example, Message, Prompt
from thumbs.rewards.model import RewardModel
from thumbs.rollout.rounds import collect

CONFIG = EvaluationConfig(prompts=DataConfig(path="unused"))


@pytest.mark.parametrize("sampling", [{"temperature": 0.7}, {"temperature": 1.3}])
def test_kl_is_the_mean_log_ratio_of_the_samples(sampling):
    tokenizer = ByteTokenizer()
    engine, model = LocalEngine(tokenizer.decode), ModelConfig(name="byte-tiny", lora=None, dtype="float32")
    policy, reference = (engine.create(ModelSpec(name, model, ("lm",), seed=i)) for i, name in enumerate("pr"))
    scorer = engine.create(ModelSpec("s", model, ("scalar",)))
    config = EvaluationConfig(prompts=DataConfig(path="unused"), sampling=SamplingConfig(max_new_tokens=6, **sampling))
    prompts = [Prompt(text, (Message("user", text),)) for text in ("a", "bcd", "efghi")]
    evaluation = Evaluation(engine, tokenizer, config, RewardModel(engine, scorer), prompts, seed=0)
    rollouts = collect(engine.snapshot(policy), prompts, tokenizer, config.sampling, [1, 2, 3])

    ratios = []
    for rollout in rollouts:
        data = [Example.next_token(rollout.tokens, weights=rollout.mask)]
        ours, theirs = (
            engine.forward(handle, data, temperature=sampling["temperature"])[0].logprobs
            for handle in (policy, reference)
        )
        ratios.append(sum(a - b for a, b, m in zip(ours, theirs, rollout.mask, strict=True) if m))
    found = np.mean(evaluation.log_ratios(rollouts, reference))
    assert abs(np.mean(ratios)) > 0.01
    assert found == pytest.approx(np.mean(ratios), abs=1e-4)


@pytest.mark.parametrize("warped", [{"top_k": 5}, {"top_p": 0.9}, {"temperature": 0.0}])
def test_an_evaluation_whose_sampling_falsifies_its_kl_is_refused(warped: dict[str, float]):
    engine, sampling = LocalEngine(), SamplingConfig.model_validate(warped)
    with pytest.raises(ConfigError, match=r"evaluation\.sampling has temperature"):
        Evaluation(engine, ByteTokenizer(), EvaluationConfig(prompts=CONFIG.prompts, sampling=sampling), None, [], 0)


def test_the_base_model_answers_once_and_the_trained_ones_as_often_as_best_of_says():
    tokenizer = ByteTokenizer()
    engine, model = LocalEngine(tokenizer.decode), ModelConfig(name="byte-tiny", lora=None, dtype="float32")
    policies = {
        name: engine.create(ModelSpec(name, model, ("lm",), seed=i)) for i, name in enumerate(("base", "sft", "ppo"))
    }
    config = EvaluationConfig(prompts=DataConfig(path="unused"), sampling=SamplingConfig(max_new_tokens=3), best_of=3)
    scorer = RewardModel(engine, engine.create(ModelSpec("s", model, ("scalar",))))
    prompts = [Prompt(text, (Message("user", text),)) for text in ("a", "bcd")]
    results, rows = Evaluation(engine, tokenizer, config, scorer, prompts, seed=0).run(policies, "sft", [])
    found = {name: system["draws"] for name, system in results["systems"].items()}
    assert found == {"base": 1, "sft": 3, "ppo": 3, "best_of_n": 1}
    assert [(row.system, row.draw, row.prompt_id) for row in rows[:5]] == [
        ("base", 0, "a"), ("base", 0, "bcd"), ("sft", 0, "a"), ("sft", 0, "bcd"), ("sft", 1, "a"),
    ]  # fmt: skip
    assert {row.log_ratio for row in rows if row.system == "sft"} == {0.0}
    ratios = [row.log_ratio or 0.0 for row in rows if row.system == "ppo"]
    tokens = [row.tokens for row in rows if row.system == "ppo"]
    ppo = results["systems"]["ppo"]
    assert len(ratios) == 6
    assert ppo["kl"] == pytest.approx(sum(ratios) / 6)
    assert ppo["kl_per_token"] == pytest.approx(sum(ratios) / sum(tokens))
    assert ppo["kl_low"] <= ppo["kl"] <= ppo["kl_high"]


def test_means_over_two_draws_by_hand():
    def reply(prompt, draw, text, tokens, gold, proxy, ratio, cut=False):
        return EvaluatedReply("ppo", (), prompt, draw, text, tokens, cut, gold, {"proxy": proxy}, ratio)

    rows = [
        reply("p", 0, "a b c", 4, 0.0, 1.0, 1.0),
        reply("q", 0, "a b c", 6, 1.0, 3.0, 2.0, cut=True),
        reply("p", 1, "d e", 2, 0.0, 0.0, 0.0),
        reply("q", 1, "f", 4, 0.6, 0.0, 7.0),
    ]
    found = Findings(rows, "ppo", 2, 0).system("ppo")
    intervals = {name: found.pop(name) for name in list(found) if name.endswith(("_low", "_high"))}
    assert (intervals["gold_low"], intervals["gold_high"]) == pytest.approx((0.0, 0.8))  # prompts of means 0.0 and 0.8
    assert found == pytest.approx(
        {
            "gold": 0.4,
            "proxy": 1.0,
            "kl": 2.5,
            "kl_per_token": 10 / 16,
            "length": 4.0,
            "distinct2": (2 / 4 + 1 / 1) / 2,
            "truncated": 0.25,
            "n": 2,
            "draws": 2,
        }
    )
