"""The loops of TRL's tutorials as written, with the import changed and a stand-in for the sentiment model."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoTokenizer

import thumbs.compat.trl_ppo as trl
from thumbs.compat.trl_ppo import (
    AutoModelForCausalLMWithValueHead,
    PPOConfig,
    PPOTrainer,
    create_reference_model,
    set_seed,
)
from thumbs.compat.trl_ppo.core import LengthSampler, respond_to_batch
from thumbs.errors import ConfigError
from trl_world import WORDS, write_world

NAMES = {
    "objective/kl", "objective/kl_dist", "objective/logprobs", "objective/ref_logprobs", "objective/kl_coef",
    "objective/entropy", "ppo/mean_non_score_reward", "ppo/mean_scores", "ppo/std_scores", "tokens/queries_len_mean",
    "tokens/queries_len_std", "tokens/queries_dist", "tokens/responses_len_mean", "tokens/responses_len_std",
    "tokens/responses_dist", "ppo/loss/policy", "ppo/loss/value", "ppo/loss/total", "ppo/policy/entropy",
    "ppo/policy/approxkl", "ppo/policy/policykl", "ppo/policy/clipfrac", "ppo/policy/advantages",
    "ppo/policy/advantages_mean", "ppo/policy/ratio", "ppo/returns/mean", "ppo/returns/var", "ppo/val/vpred",
    "ppo/val/error", "ppo/val/clipfrac", "ppo/val/mean", "ppo/val/var", "ppo/val/var_explained", "ppo/learning_rate",
    "time/ppo/forward_pass", "time/ppo/compute_rewards", "time/ppo/compute_advantages", "time/ppo/optimize_step",
    "time/ppo/calc_stats", "time/ppo/total",
}  # fmt: skip
"""What `step` of TRL 0.11.4 returned."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_world(tmp_path_factory.mktemp("world")))


def sentiment_pipe(texts: list[str], **_: object) -> list[list[dict[str, float]]]:
    """Negative and positive: how many of the words are odd."""
    shares = [sum(word in WORDS and WORDS.index(word) % 2 for word in text.split()) / 20 for text in texts]
    return [[{"score": -share}, {"score": share}] for share in shares]


def collator(data: list[dict]) -> dict[str, list]:
    return {key: [d[key] for d in data] for key in data[0]}


def build_dataset(tokenizer: AutoTokenizer) -> Dataset:
    ds = Dataset.from_dict({"review": [f"w{i} w{i + 1} w{i + 2}"[: 6 + i] for i in range(5, 21)]})

    def tokenize(sample: dict) -> dict:
        sample["input_ids"] = tokenizer.encode(sample["review"])
        sample["query"] = tokenizer.decode(sample["input_ids"])
        return sample

    ds = ds.map(tokenize, batched=False)
    ds.set_format(type="torch")
    return ds


def test_quickstart(world: str):
    model = AutoModelForCausalLMWithValueHead.from_pretrained(world)
    ref_model = AutoModelForCausalLMWithValueHead.from_pretrained(world)
    tokenizer = AutoTokenizer.from_pretrained(world)
    tokenizer.pad_token = tokenizer.eos_token

    config = PPOConfig(batch_size=1, mini_batch_size=1)
    ppo_trainer = PPOTrainer(config, model, ref_model, tokenizer)

    query_txt = "w10 w11 w12 w13"
    query_tensor = tokenizer.encode(query_txt, return_tensors="pt").to(model.pretrained_model.device)
    generation_kwargs = {
        "min_length": -1,
        "top_k": 0.0,
        "top_p": 1.0,
        "do_sample": True,
        "pad_token_id": tokenizer.eos_token_id,
        "max_new_tokens": 20,
    }
    response_tensor = ppo_trainer.generate(list(query_tensor), return_prompt=False, **generation_kwargs)
    assert isinstance(tokenizer.decode(response_tensor[0]), str)
    reward = [torch.tensor(1.0, device=model.pretrained_model.device)]
    train_stats = ppo_trainer.step([query_tensor[0]], [response_tensor[0]], reward)

    assert set(train_stats) == NAMES
    assert train_stats["ppo/std_scores"] == 0.0  # TRL gave NaN for one sample
    assert not [name for name, value in train_stats.items() if isinstance(value, float) and math.isnan(value)]


def test_quickstart_of_version_0_4(world: str):
    model = AutoModelForCausalLMWithValueHead.from_pretrained(world)
    model_ref = create_reference_model(model)
    tokenizer = AutoTokenizer.from_pretrained(world)
    ppo_config = PPOConfig(batch_size=1, mini_batch_size=1, forward_batch_size=None)
    query_tensor = tokenizer.encode("w40 w41 w42", return_tensors="pt")
    response_tensor = respond_to_batch(model, query_tensor)
    ppo_trainer = PPOTrainer(ppo_config, model, model_ref, tokenizer)
    train_stats = ppo_trainer.step([query_tensor[0]], [response_tensor[0]], [torch.tensor(1.0)])
    assert train_stats["tokens/responses_len_mean"] == 20


def test_sentiment(world: str, tmp_path: Path):
    config = PPOConfig(
        model_name=world,
        learning_rate=1.41e-5,
        log_with=None,
        batch_size=4,
        mini_batch_size=2,
        project_kwargs={"logging_dir": str(tmp_path / "logs")},
    )
    sent_kwargs = {"return_all_scores": True, "function_to_apply": "none", "batch_size": 16}
    tokenizer = AutoTokenizer.from_pretrained(config.model_name)
    tokenizer.pad_token = tokenizer.eos_token
    dataset = build_dataset(tokenizer)
    model = AutoModelForCausalLMWithValueHead.from_pretrained(config.model_name)
    ref_model = AutoModelForCausalLMWithValueHead.from_pretrained(config.model_name)

    ppo_trainer = PPOTrainer(config, model, ref_model, tokenizer, dataset=dataset, data_collator=collator)

    device = ppo_trainer.accelerator.device
    if ppo_trainer.accelerator.num_processes == 1:
        device = 0 if torch.cuda.is_available() else "cpu"
    assert device is not None
    gen_kwargs = {
        "min_length": -1,
        "top_k": 0.0,
        "top_p": 1.0,
        "do_sample": True,
        "pad_token_id": tokenizer.eos_token_id,
    }
    output_length_sampler = LengthSampler(4, 8)

    for epoch, batch in enumerate(ppo_trainer.dataloader):
        query_tensors = batch["input_ids"]
        response_tensors = []
        for query in query_tensors:
            gen_len = output_length_sampler()
            gen_kwargs["max_new_tokens"] = gen_len
            response = ppo_trainer.generate(query, **gen_kwargs)
            response_tensors.append(response.squeeze()[-gen_len:])
        batch["response"] = [tokenizer.decode(r.squeeze()) for r in response_tensors]
        texts = [q + r for q, r in zip(batch["query"], batch["response"], strict=True)]
        pipe_outputs = sentiment_pipe(texts, **sent_kwargs)
        rewards = [torch.tensor(output[1]["score"]) for output in pipe_outputs]
        stats = ppo_trainer.step(query_tensors, response_tensors, rewards)
        ppo_trainer.log_stats(stats, batch, rewards)
        assert epoch < 4

    lines = (tmp_path / "logs" / "ppo_stats.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4]
    last = json.loads(lines[-1])
    assert last["env/reward_mean"] == pytest.approx(sum(float(r) for r in rewards) / 4)
    assert len(last["game_log/response"]) == 4
    model.save_pretrained(tmp_path / "gpt2-imdb-pos-v2")
    tokenizer.save_pretrained(tmp_path / "gpt2-imdb-pos-v2")
    assert AutoModelForCausalLMWithValueHead.from_pretrained(tmp_path / "gpt2-imdb-pos-v2").config.eos_token_id == 1


def test_stack_llama(world: str, tmp_path: Path):
    tokenizer = AutoTokenizer.from_pretrained(world)
    dataset = build_dataset(tokenizer)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what does nothing here
        config = PPOConfig(
            steps=12, model_name=world, learning_rate=1.4e-5, log_with=None, batch_size=4, mini_batch_size=1,
            gradient_accumulation_steps=4, optimize_cuda_cache=True, early_stopping=True, target_kl=0.1, ppo_epochs=2,
            seed=0, init_kl_coef=0.2, adap_kl_ctrl=True,
        )  # fmt: skip
        set_seed(config.seed)
        lora_config = LoraConfig(r=16, lora_alpha=32, lora_dropout=0.05, bias="none", task_type="CAUSAL_LM")
        model = AutoModelForCausalLMWithValueHead.from_pretrained(
            config.model_name, load_in_8bit=True, device_map={"": 0}, peft_config=lora_config
        )
    optimizer = torch.optim.Adam(filter(lambda p: p.requires_grad, model.parameters()), lr=config.learning_rate)
    ppo_trainer = PPOTrainer(
        config, model, ref_model=None, tokenizer=tokenizer, dataset=dataset, data_collator=collator, optimizer=optimizer
    )
    generation_kwargs = {
        "top_k": 0.0,
        "top_p": 1.0,
        "do_sample": True,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": 100_000,
    }
    output_length_sampler = LengthSampler(4, 8)
    before = [parameter.detach().clone() for parameter in model.parameters()]

    for epoch, batch in enumerate(ppo_trainer.dataloader):
        if epoch >= config.total_ppo_epochs:
            break
        question_tensors = batch["input_ids"]
        response_tensors = ppo_trainer.generate(
            question_tensors, return_prompt=False, length_sampler=output_length_sampler, **generation_kwargs
        )
        batch["response"] = tokenizer.batch_decode(response_tensors, skip_special_tokens=True)
        texts = [q + r for q, r in zip(batch["query"], batch["response"], strict=True)]
        rewards = [torch.tensor(output[0]["score"] - 0.5) for output in sentiment_pipe(texts)]
        stats = ppo_trainer.step(question_tensors, response_tensors, rewards)
        ppo_trainer.log_stats(stats, batch, rewards)
        assert stats["objective/kl"] == pytest.approx(0, abs=0.2)
        ppo_trainer.save_pretrained(str(tmp_path / f"step_{epoch}"))

    assert epoch == config.total_ppo_epochs == 3
    moved = [not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)]
    assert moved == [parameter.requires_grad for parameter in model.parameters()]
    assert (tmp_path / "step_2" / "adapter_model.safetensors").is_file()
    assert (tmp_path / "step_2" / "tokenizer.json").is_file()


@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4), (1, 2, 0, 3, 4), (4, 3, 1, 0, 2)])
def test_arguments_stand_in_any_order(world: str, order: tuple[int, ...]):
    tokenizer = AutoTokenizer.from_pretrained(world)
    model, ref_model = (AutoModelForCausalLMWithValueHead.from_pretrained(world) for _ in range(2))
    given = (PPOConfig(batch_size=2, mini_batch_size=1), model, ref_model, tokenizer, build_dataset(tokenizer))
    trainer = PPOTrainer(*(given[i] for i in order), data_collator=collator)
    assert trainer.config is given[0]
    assert (trainer.model is model, trainer.ref_model is ref_model, trainer.tokenizer is tokenizer) == (True,) * 3
    assert len(next(iter(trainer.dataloader))["input_ids"]) == 2


def test_columns_that_nothing_reads_are_left_out(world: str):
    tokenizer = AutoTokenizer.from_pretrained(world)
    model = AutoModelForCausalLMWithValueHead.from_pretrained(world)
    config = PPOConfig(batch_size=2, mini_batch_size=1)
    trainer = PPOTrainer(
        config=config, model=model, tokenizer=tokenizer, dataset=build_dataset(tokenizer), data_collator=collator
    )
    assert set(next(iter(trainer.dataloader))) == {"input_ids", "query"}


def test_arguments_that_do_not_fit(world: str):
    tokenizer = AutoTokenizer.from_pretrained(world)
    model = AutoModelForCausalLMWithValueHead.from_pretrained(world)
    config = PPOConfig(batch_size=2, mini_batch_size=1)
    with pytest.raises(ConfigError, match="config must be a PPOConfig"):
        PPOTrainer(model=model, tokenizer=tokenizer)
    with pytest.raises(ConfigError, match="tokenizer must be"):
        PPOTrainer(config=config, model=model)
    with pytest.raises(ConfigError, match="argument 3, a float"):
        PPOTrainer(config, model, 0.5)
    with pytest.raises(ConfigError, match="argument 1, a str"):
        PPOTrainer("gpt2", model)
    with pytest.raises(ConfigError, match="the model itself"):
        PPOTrainer(config, model, model, tokenizer)
    with pytest.raises(ConfigError, match="1 rows, fewer than a batch of 2"):
        PPOTrainer(config, model, None, tokenizer, dataset=[{"input_ids": torch.tensor([1])}])
    with pytest.raises(ConfigError, match="none of the model's parameters"):
        PPOTrainer(config, model, None, tokenizer, optimizer=torch.optim.Adam([torch.nn.Parameter(torch.ones(1))]))
    with pytest.raises(ImportError, match="thumbs direct"):
        _ = trl.DPOTrainer
