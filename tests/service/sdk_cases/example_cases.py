"""The RLHF example: what its stages learn, that each goes on from the one before, and that a second start goes on."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import thumbs
from thumbs import recipe
from thumbs.clients.types import Datum, ModelInput
from thumbs.errors import DataError

FILE = Path(__file__).resolve().parents[3] / "examples" / "02_rlhf_with_recipes.py"
SHORT: dict[str, Any] = {
    "model": "byte-tiny",
    "sft_steps": 6,
    "sft_rate": 3e-3,
    "preference_steps": 8,
    "preference_rate": 1e-3,
    "rl_steps": 1,
    "rl_rate": 0.0,  # so that the policy after RL is still the one that it began with
    "prompts": 2,
    "attempts": 2,
    "max_tokens": 8,
}


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("example", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up by name
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def run(example: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run that has been through all stages."""
    run = example.Run(tmp_path_factory.mktemp("run"), **SHORT)
    asyncio.run(example.train(run, "preference"))
    return run


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def logprobs_of(**source: str) -> list[float | None]:
    text = ModelInput.from_ints(list(b"Good morning, how are you?"))
    return thumbs.ServiceClient().create_sampling_client(**source).compute_logprobs(text).result()


def test_scores_are_log_odds(example: ModuleType) -> None:
    logprobs = torch.tensor([0.5, 0.9, 0.01]).log()
    assert example.log_odds(logprobs).tolist() == pytest.approx([0, math.log(9), -math.log(99)], abs=1e-5)
    assert math.isfinite(example.log_odds(torch.tensor(0.0)))


def test_bradley_terry_by_hand(example: ModuleType) -> None:
    """Two pairs; the first target of each datum has no weight, so its logprob counts for nothing."""
    datum = Datum(ModelInput.from_ints([1, 2]), {"target_tokens": [2, 3], "weights": [0.0, 1.0]})
    warm, plain, warm_2, plain_2 = (torch.tensor([-9.0, math.log(p)]) for p in (0.8, 0.5, 0.2, 0.5))
    loss, metrics = example.bradley_terry([datum] * 4, [warm, plain, warm_2, plain_2])
    # The margins are log 4 and -log 4; -log sigmoid of them is log(5/4) and log 5.
    assert float(loss) == pytest.approx((math.log(5 / 4) + math.log(5)) / 2)
    assert metrics == {"loss": pytest.approx(float(loss)), "accuracy": 0.5}


def test_the_verdict_is_what_is_weighted(example: ModuleType) -> None:
    tokenizer = recipe.get_tokenizer("byte-tiny")
    tokens, weights = example.verdict(recipe.renderers.get_renderer("role_colon", tokenizer), "A question", "A reply")
    ids = tokens.to_ints()
    assert bytes(token for token, weight in zip(ids, weights, strict=True) if weight) == b"Yes"
    assert ids[-3:] == list(b"Yes")
    assert tokenizer.decode(ids).index("A question") < tokenizer.decode(ids).index("A reply")


def test_stages_learn(example: ModuleType, run: Any) -> None:
    loss = [row["train_mean_nll"] for row in lines(run.out / "sft" / "metrics.jsonl")]
    assert loss[-1] < loss[0] - 0.3
    first, *_, last, after = lines(run.out / "preference" / "metrics.jsonl")
    assert first["loss"] == pytest.approx(math.log(2), abs=0.02)  # nothing is known of the pairs
    assert last["loss"] < first["loss"] - 0.1
    assert {"held_out_accuracy"} <= first.keys() & after.keys()
    trained = [line.split(" | ") for line in example.PAIRS.splitlines()[1 : -example.HELD_OUT]]
    score = asyncio.run(example.prefer(run))
    assert asyncio.run(example.accuracy(score, trained)) == 1


def test_rl_begins_with_the_sft_weights(run: Any) -> None:
    sft, rl = (lines(run.out / stage / "checkpoints.jsonl")[-1] for stage in ("sft", "rl-preference"))
    after_sft = logprobs_of(model_path=sft["sampler_path"])
    assert logprobs_of(model_path=rl["sampler_path"]) == after_sft
    assert logprobs_of(base_model="byte-tiny") != after_sft
    metrics = lines(run.out / "rl-preference" / "metrics.jsonl")[0]
    assert metrics["kl_policy_base"] == pytest.approx(0, abs=1e-5)
    assert metrics["optim/kl_sample_train_v1"] == pytest.approx(0, abs=1e-6)


def test_the_reward_is_the_score_of_a_reply_that_was_cut_off_too(example: ModuleType, run: Any) -> None:
    async def score(request: str, text: str) -> float:
        return 100.0 * len(request) + len(text)

    async def rewards() -> tuple[list[Any], list[str]]:
        attempts = example.Attempts(run, "Hello?", score)
        client = run.service.create_sampling_client(base_model="byte-tiny")
        completer = recipe.completers.TinkerTokenCompleter(client, max_tokens=8)
        group = await recipe.rl.rollouts.do_group_rollout(attempts, completer)
        texts = [
            recipe.renderers.get_text_content(run.renderer.parse_response(each.transitions[-1].ac.tokens)[0])
            for each in group.trajectories_G
        ]
        return group.get_total_rewards(), texts

    totals, texts = asyncio.run(rewards())
    assert totals == [600.0 + len(text) for text in texts]
    assert any(texts)


def test_again_trains_nothing(example: ModuleType, run: Any) -> None:
    files = {path: path.read_bytes() for path in run.out.rglob("*.jsonl")}
    asyncio.run(example.train(run, "preference"))
    assert {path: path.read_bytes() for path in run.out.rglob("*.jsonl")} == files


def test_a_stage_that_was_killed_goes_on_from_its_last_checkpoint(example: ModuleType, tmp_path: Path) -> None:
    whole, killed = (example.Run(tmp_path / name, **SHORT) for name in ("whole", "killed"))
    asyncio.run(example.imitate(whole))
    (tmp_path / "killed").mkdir()
    (tmp_path / "whole" / "sft").rename(tmp_path / "killed" / "sft")
    file = tmp_path / "killed" / "sft" / "checkpoints.jsonl"
    saved = file.read_text(encoding="utf-8").splitlines(keepends=True)
    assert [json.loads(line)["name"] for line in saved] == ["000004", "final"]
    file.write_text(saved[0], encoding="utf-8")  # as if it had ended before the last save
    asyncio.run(example.imitate(killed))
    assert example.finished(killed.out / "sft")
    steps = [row["step"] for row in lines(file.with_name("metrics.jsonl"))]
    assert set(steps) == set(range(6))
    assert steps.count(0) == 1  # it did not begin again
    assert json.loads(file.read_text(encoding="utf-8").splitlines()[-1]) != json.loads(saved[-1])


def test_the_rule_only_by_name(example: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(data: Any, logprobs: Any) -> Any:
        return logprobs[0].sum() * float("nan"), {}

    monkeypatch.setattr(example, "bradley_terry", broken)
    run = example.Run(tmp_path, **SHORT | {"sft_steps": 1})
    with pytest.raises(DataError, match="custom loss"):
        asyncio.run(example.train(run, "preference"))
    assert not list(tmp_path.glob("rl-*"))
    asyncio.run(example.train(run, "rule"))
    assert [path.name for path in tmp_path.glob("rl-*")] == ["rl-rule"]
    assert asyncio.run(example.friendly_words("", "I am GLAD to help, my friend")) == 2
