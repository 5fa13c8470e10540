"""The RLHF example: what its stages learn, and that each goes on from the one before."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from example_files import load_example
from thumbs.clients.backend import Backend
from thumbs.clients.service_client import ServiceClient
from thumbs.clients.store import Store
from thumbs.clients.types import Datum, ModelInput
from thumbs.data.tokenizers import ByteTokenizer
from thumbs.errors import DataError
from thumbs.recipe.renderers import get_renderer


@pytest.fixture(scope="module")
def example() -> ModuleType:
    return load_example("02_rlhf_with_recipes.py")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceClient]:
    backend = Backend(Store(tmp_path_factory.mktemp("store")), {}, closed=False)
    yield ServiceClient(backend=backend)
    backend.close()


SHORT: dict[str, Any] = {
    "model": "byte-tiny",
    "sft_steps": 4,
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
def run(example: ModuleType, service: ServiceClient, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run that has been through all stages."""
    run = example.Run(service, tmp_path_factory.mktemp("run"), **SHORT)
    asyncio.run(example.train(run, "preference"))
    return run


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def logprobs_of(service: ServiceClient, **source: str) -> list[float | None]:
    text = ModelInput.from_ints(list(b"Good morning, how are you?"))
    return service.create_sampling_client(**source).compute_logprobs(text).result()


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
    tokens, weights = example.verdict(get_renderer("chat_template", ByteTokenizer()), "A question", "A reply")
    ids = tokens.to_ints()
    assert bytes(token for token, weight in zip(ids, weights, strict=True) if weight) == b"Yes"
    assert ids[-3:] == list(b"Yes")
    assert ByteTokenizer().decode(ids).index("A question") < ByteTokenizer().decode(ids).index("A reply")


def test_stages_learn(example: ModuleType, run: Any) -> None:
    loss = [row["train_mean_nll"] for row in lines(run.out / "sft" / "metrics.jsonl") if "train_mean_nll" in row]
    assert loss[-1] < loss[0] - 0.3
    first, *_, last, after = lines(run.out / "preference" / "metrics.jsonl")
    assert first["loss"] == pytest.approx(math.log(2), abs=0.02)  # nothing is known of the pairs
    assert last["loss"] < first["loss"] - 0.1
    assert {"held_out_accuracy"} <= first.keys() & after.keys()
    trained = [line.split(" | ") for line in example.PAIRS.splitlines()[1 : -example.HELD_OUT]]
    score = asyncio.run(example.prefer(run, ""))  # a finished stage needs no start
    assert asyncio.run(example.accuracy(score, trained)) == 1


def test_rl_begins_with_the_sft_weights(run: Any, service: ServiceClient) -> None:
    (sft,) = lines(run.out / "sft" / "checkpoints.jsonl")
    *_, rl = lines(run.out / "rl-preference" / "checkpoints.jsonl")
    after_sft = logprobs_of(service, model_path=sft["sampler_path"])
    assert logprobs_of(service, model_path=rl["sampler_path"]) == after_sft
    assert logprobs_of(service, base_model="byte-tiny") != after_sft
    assert lines(run.out / "rl-preference" / "metrics.jsonl")[0]["kl_policy_base"] == pytest.approx(0, abs=1e-5)


def test_the_reward_is_the_score(example: ModuleType, run: Any) -> None:
    score = asyncio.run(example.prefer(run, ""))
    requests = [row["prompt"] for row in lines(example.BUILTIN / "prompts_train.jsonl")]
    episodes = lines(run.out / "rl-preference" / "rollouts.jsonl")
    assert len(episodes) == 4
    for episode in episodes:
        reply = episode["turns"][0]["logs"]["reply"]
        assert episode["reward"] == pytest.approx(asyncio.run(score(requests[episode["group"]], reply)), abs=1e-3)


def test_again_trains_nothing(example: ModuleType, run: Any) -> None:
    files = {path: path.read_bytes() for path in run.out.rglob("*.jsonl")}
    asyncio.run(example.train(run, "preference"))
    assert {path: path.read_bytes() for path in run.out.rglob("*.jsonl")} == files


def test_the_rule_only_by_name(
    example: ModuleType, service: ServiceClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(data: Any, logprobs: Any) -> Any:
        return logprobs[0].sum() * float("nan"), {}

    monkeypatch.setattr(example, "bradley_terry", broken)
    run = example.Run(service, tmp_path, **SHORT | {"sft_steps": 1})
    with pytest.raises(DataError, match="custom loss"):
        asyncio.run(example.train(run, "preference"))
    assert not list(tmp_path.glob("rl-*"))
    asyncio.run(example.train(run, "rule"))
    assert [path.name for path in tmp_path.glob("rl-*")] == ["rl-rule"]
    assert asyncio.run(example.friendly_words("", "I am GLAD to help, my friend")) == 2
