"""The recipes on our own clients: a byte model, in this process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import chz
import pytest
from test_preference_recipe import COMMON as PAIRS
from test_preference_recipe import DPODatasetBuilderFromComparisons, config, rows
from test_rl_recipe import Builder
from test_supervised_recipe import CHATS, COMMON

from thumbs.clients.backend import Backend
from thumbs.clients.service_client import ServiceClient
from thumbs.clients.store import Store
from thumbs.data.tokenizers import ByteTokenizer
from thumbs.recipe import get_tokenizer
from thumbs.recipe.checkpoints import get_last_checkpoint
from thumbs.recipe.preference import train_dpo
from thumbs.recipe.preference.data import ComparisonBuilderFromJsonl
from thumbs.recipe.rl import train as rl_train
from thumbs.recipe.rl.schedule import AsyncConfig
from thumbs.recipe.supervised import train
from thumbs.recipe.supervised.data import FromConversationFileBuilder


@pytest.fixture
def service(tmp_path: Path) -> Iterator[ServiceClient]:
    backend = Backend(Store(tmp_path / "store"), {}, closed=False)
    yield ServiceClient(backend=backend)
    backend.close()


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_supervised_then_reinforcement(tmp_path: Path, service: ServiceClient) -> None:
    chats = tmp_path / "chats.jsonl"
    chats.write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in CHATS))
    settings = train.Config(
        log_path=str(tmp_path / "sft"),
        model_name="byte-tiny",
        dataset_builder=FromConversationFileBuilder(common_config=COMMON, file_path=str(chats)),
        learning_rate=1e-2,
        num_epochs=5,
        lora_rank=8,
    )
    asyncio.run(train.main(settings, service))
    metrics = lines(tmp_path / "sft" / "metrics.jsonl")
    assert [row["step"] for row in metrics] == list(range(10))
    assert metrics[9]["train_mean_nll"] < metrics[0]["train_mean_nll"] - 0.5
    path = get_last_checkpoint(tmp_path / "sft").state_path
    again = chz.replace(settings, log_path=str(tmp_path / "again"), load_checkpoint_path=path, max_steps=1)
    asyncio.run(train.main(again, service))
    assert lines(tmp_path / "again" / "metrics.jsonl")[0]["train_mean_nll"] < metrics[0]["train_mean_nll"] - 0.5
    base = rl_train.Config(
        log_path=str(tmp_path / "rl"),
        model_name="byte-tiny",
        dataset_builder=Builder(count=3),
        learning_rate=1e-3,
        max_tokens=4,
        load_checkpoint_path=path,
        kl_penalty_coef=0.1,
    )
    asyncio.run(rl_train.main(base, service))
    first, *others = lines(tmp_path / "rl" / "metrics.jsonl")
    assert first["kl_policy_base"] == pytest.approx(0, abs=1e-5)  # the reference is the policy that training began with
    for row in (first, *others):
        # The sampler's logprobs are those of the training pass.
        assert row["optim/kl_sample_train_v1"] == pytest.approx(0, abs=1e-5)
    late = AsyncConfig(max_steps_off_policy=1, groups_per_batch=4)
    asyncio.run(rl_train.main(chz.replace(base, log_path=str(tmp_path / "async"), async_config=late), service))
    assert [row["sampling_client/steps_behind_max"] for row in lines(tmp_path / "async" / "metrics.jsonl")] == [0, 1, 1]


def test_preferences(tmp_path: Path, service: ServiceClient) -> None:
    comparisons = ComparisonBuilderFromJsonl(train_path=rows(tmp_path / "pairs.jsonl", ["A", "B", "A", "B"]))
    builder = DPODatasetBuilderFromComparisons(common_config=PAIRS, comparison_builder=comparisons)
    settings = config(tmp_path / "dpo", comparisons, learning_rate=1e-3, num_epochs=2)
    train_dpo.main(chz.replace(settings, dataset_builder=builder), service)
    metrics = lines(tmp_path / "dpo" / "metrics.jsonl")
    assert metrics[0]["margin"] == pytest.approx(0, abs=1e-4)
    assert metrics[-1]["margin"] > 0.1


def test_tokenizers_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THUMBS_ALIASES", "Qwen/Nobody-Has-This=byte-tiny")
    assert isinstance(get_tokenizer("Qwen/Nobody-Has-This"), ByteTokenizer)
    assert isinstance(get_tokenizer("byte-small"), ByteTokenizer)
