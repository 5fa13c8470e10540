"""A tutorial of TRL as its readers write it: a reward model by `RewardTrainer`, then PPO with whole batches."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForSequenceClassification as TransformersClassifier

from thumbs.compat import trl_ppo
from thumbs.compat.trl_ppo import (
    AutoModelForCausalLMWithValueHead,
    AutoModelForSequenceClassification,
    PPOConfig,
    PPOTrainer,
    RewardConfig,
    RewardTrainer,
)
from thumbs.compat.trl_ppo.inputs import numbers_of, rows_of, without_queries
from thumbs.errors import ConfigError, DataError
from trl_world import word_tokenizer, write_world

GOOD, BAD = "w5 w6", "w9 w9"
PAIRS = [{"prompt": f"w{i}", "chosen": GOOD, "rejected": BAD} for i in range(10, 22)]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("world"))


def settings(**changes: Any) -> PPOConfig:
    given = {"learning_rate": 1e-3, "batch_size": 4, "mini_batch_size": 2, "ppo_epochs": 1, "target": 6.0}
    return PPOConfig(**{**given, **changes})


def trainer(world: Path, **changes: Any) -> PPOTrainer:
    model = AutoModelForCausalLMWithValueHead.from_pretrained(str(world), dtype="float32")
    return PPOTrainer(config=settings(**changes), model=model, tokenizer=word_tokenizer())


def test_the_tutorial_runs_with_its_imports_changed_and_nothing_else(world: Path, tmp_path: Path):
    sft_model, preference_dataset, tokenizer = str(world), PAIRS, word_tokenizer()

    # 2. Reward model
    reward_model = AutoModelForSequenceClassification.from_pretrained(sft_model, num_labels=1)
    reward_config = RewardConfig(
        output_dir=str(tmp_path / "reward_model"),
        per_device_train_batch_size=4,
        num_train_epochs=8,
        learning_rate=3e-3,
    )
    reward_trainer = RewardTrainer(
        model=reward_model, args=reward_config, train_dataset=preference_dataset, tokenizer=tokenizer
    )
    reward_trainer.train()

    # 3. PPO
    model = AutoModelForCausalLMWithValueHead.from_pretrained(sft_model)
    ref_model = AutoModelForCausalLMWithValueHead.from_pretrained(sft_model)
    ppo_config = PPOConfig(
        learning_rate=1e-5,
        batch_size=4,
        mini_batch_size=2,
        gradient_accumulation_steps=2,
        ppo_epochs=2,
        kl_penalty="kl",
        init_kl_coef=0.2,
        target_kl=6.0,
    )
    dataset = [{"input_ids": torch.tensor([10 + i, 11 + i, 12 + i])} for i in range(8)]
    ppo_trainer = PPOTrainer(model=model, ref_model=ref_model, config=ppo_config, tokenizer=tokenizer, dataset=dataset)
    for batch in torch.utils.data.DataLoader(dataset, batch_size=4):
        query_tensors = batch["input_ids"]
        response_tensors = ppo_trainer.generate(query_tensors)
        rewards = reward_model(response_tensors)
        stats = ppo_trainer.step(query_tensors, response_tensors, rewards)
    assert stats["tokens/queries_len_mean"] == 3
    assert stats["tokens/responses_len_mean"] <= 20  # the default of generate, the query not among them
    assert math.isfinite(stats["ppo/loss/total"])


def test_the_reward_model_learns_what_was_chosen_and_transformers_opens_it(world: Path, tmp_path: Path):
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(world), word_tokenizer()
    config = RewardConfig(
        tmp_path / "rm", per_device_train_batch_size=2, gradient_accumulation_steps=2, num_train_epochs=8,
        learning_rate=3e-3, seed=1,
    )  # fmt: skip
    turned = [row | {"label": 0} for row in PAIRS[:2]]  # whoever wrote these preferred what they call rejected
    report = RewardTrainer(model, config, PAIRS[2:], PAIRS[:2] + turned, tokenizer).train()
    assert report.global_step == 24
    assert report.metrics["eval_accuracy"] == 0.5
    rows = [tokenizer(f"w30\n{text}")["input_ids"] + [tokenizer.eos_token_id] for text in (GOOD, BAD, GOOD + " w7")]
    ours = model([torch.tensor(row) for row in rows]).logits.flatten()
    assert ours[0] > ours[1]
    theirs = TransformersClassifier.from_pretrained(tmp_path / "rm")
    assert type(theirs).__name__ == type(model).__name__
    with torch.no_grad():
        each = torch.cat([theirs(torch.tensor([row])).logits.flatten() for row in rows])
    torch.testing.assert_close(ours.detach(), each, atol=1e-5, rtol=0)


def test_accumulated_passes_are_one_batch(world: Path, tmp_path: Path):
    losses = []
    for size, passes in ((4, 1), (1, 4)):
        torch.manual_seed(0)
        model = AutoModelForSequenceClassification.from_pretrained(world)
        config = RewardConfig(
            tmp_path / str(size), per_device_train_batch_size=size, gradient_accumulation_steps=passes,
            learning_rate=1e-3, center_rewards_coefficient=0.1,
        )  # fmt: skip
        made = RewardTrainer(model, config, PAIRS, tokenizer=word_tokenizer())
        made.train()
        losses.append([row["loss"] for row in made.log_history])
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_what_reward_training_does_not_know_is_named(world: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match="did you mean 'learning_rate'"):
        RewardConfig(learing_rate=1e-5)
    with pytest.warns(UserWarning, match=r"save_steps=.* does nothing here"):
        RewardConfig(save_steps=3)
    with pytest.raises(ConfigError, match="num_labels must be 1"):
        AutoModelForSequenceClassification.from_pretrained(world, num_labels=3)
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(world), word_tokenizer()

    def made(rows: Any, **changes: Any) -> RewardTrainer:
        return RewardTrainer(model, RewardConfig(tmp_path / "x", **changes), rows, tokenizer=tokenizer)

    with pytest.warns(UserWarning, match=r"ignored keys: mood"):
        made([row | {"mood": "good"} for row in PAIRS])
    with pytest.raises(DataError, match=r"train_dataset\[1\]: "):
        made([PAIRS[0], {"prompt": "w5", "chosen": "w6"}])
    with pytest.raises(DataError, match=r"train_dataset\[0\] has .* more than max_length=2"):
        made(PAIRS, max_length=2)
    with pytest.raises(ConfigError, match="train_dataset is empty"):
        made([])
    with pytest.raises(ConfigError, match="tokenizer must be one of transformers"):
        RewardTrainer(model, None, PAIRS)


def test_stacked_batches_are_their_rows_without_padding():
    stacked = torch.tensor([[2, 2, 5, 6], [7, 8, 2, 2], [2, 2, 2, 2]])
    assert [row.tolist() for row in rows_of(stacked, 2)] == [[5, 6], [7, 8], [2, 2, 2, 2]]
    assert rows_of(stacked[0], 2) is not None
    assert [row.tolist() for row in rows_of(stacked, None)] == stacked.tolist()
    listed = [torch.tensor([1])]
    assert rows_of(listed, 2) is listed


@pytest.mark.parametrize("shape", [(3,), (3, 1)])
def test_rewards_of_any_form_are_numbers(shape: tuple[int, ...]):
    values = torch.tensor([0.5, -1.0, 2.0])

    class Output:
        logits = values.view(shape)

    for given in (values.view(shape), values.view(shape).numpy(), Output()):
        assert [float(number) for number in numbers_of(given)] == [0.5, -1.0, 2.0]
    assert numbers_of([1.0, 2.0]) == [1.0, 2.0]


def test_a_response_that_repeats_its_query_is_trained_on_without_it(world: Path, monkeypatch: pytest.MonkeyPatch):
    queries = [torch.tensor([10 + i, 11 + i]) for i in range(4)]
    replies = [torch.tensor([5, 6, 7 + i]) for i in range(4)]
    whole = [torch.cat(pair) for pair in zip(queries, replies, strict=True)]
    scores = [1.0, 0.0, -1.0, 2.0]
    weights = []
    for responses in (replies, whole):
        learner = trainer(world)
        if responses is whole:
            with pytest.warns(UserWarning, match="every response begins with its own query"):
                stats = learner.step(queries, responses, torch.tensor(scores)[:, None])
        else:
            stats = learner.step(torch.stack(queries), responses, scores)
        assert stats["tokens/responses_len_mean"] == 3
        weights.append([weight.detach().clone() for weight in learner.model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


def test_one_response_that_quotes_its_query_stays_whole():
    queries = [torch.tensor([5, 6]), torch.tensor([7, 8])]
    responses = [torch.tensor([5, 6, 9]), torch.tensor([9, 9])]
    assert without_queries(queries, responses, [1.0, 2.0], None) == (responses, [1.0, 2.0], None)
    both: list[Tensor] = [torch.tensor([5, 6, 9]), torch.tensor([7, 8, 9, 9])]
    per_token = [torch.tensor([0.0, 0.0, 1.0]), 2.0]
    masks = [torch.tensor([1, 1, 1]), torch.tensor([1, 1, 0, 1])]
    with pytest.warns(UserWarning, match="left out"):
        rest, scores, kept = without_queries(queries, both, per_token, masks)
    assert [row.tolist() for row in rest] == [[9], [9, 9]]
    assert (scores[0].tolist(), scores[1]) == ([1.0], 2.0)
    assert [mask.tolist() for mask in kept] == [[1], [0, 1]]


def test_training_stops_past_its_target_if_that_is_asked(world: Path, tmp_path: Path):
    assert settings(target=None, target_kl=6.0, early_stopping=True).stop_at == 6.0
    assert settings(target_kl=0.1, early_stopping=True).stop_at is None  # nats per token, which ends the epochs
    with pytest.warns(UserWarning, match=r"early_stopping=True to stop once responses are more than 6\.0 nats"):
        assert settings(target=None, target_kl=6.0).stop_at is None
    learner = trainer(world, target_kl=6.0, early_stopping=True)
    queries, replies = [torch.tensor([10])] * 4, [torch.tensor([5, 6, 7])] * 4
    learner.step(queries, replies, [1.0, 0.0, 0.0, 0.5])
    assert not learner.stopped
    with torch.no_grad():  # sure of its replies, which the reference is not
        learner.model.pretrained_model.trunk.head_weight().mul_(50)
    replies = learner.generate(queries, return_prompt=False, max_new_tokens=6)
    learner.save_pretrained(tmp_path / "before")
    kl = learner.step(queries, replies, [1.0, 0.0, 0.0, 0.5])["objective/kl"]
    learner.save_pretrained(tmp_path / "after")
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("before", "after"))
    same = all(torch.equal(before[name], after[name]) for name in before)
    assert (learner.stopped, same) == ((kl > 6.0), (kl > 6.0))
    assert kl > 6.0


@pytest.mark.parametrize("name", ["SFTTrainer", "DPOTrainer", "GRPOConfig", "PPOv2Trainer", "BestOfNSampler"])
def test_names_that_are_not_here_say_what_to_write(name: str):
    with pytest.raises(ImportError, match=rf"has no {name}; take "):
        getattr(trl_ppo, name)
    with pytest.raises(AttributeError, match=r"there are .*RewardTrainer"):
        _ = trl_ppo.NothingLikeIt
