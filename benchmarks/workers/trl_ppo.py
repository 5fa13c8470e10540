"""PPO of trl 1.12.0, the last release that had it, one step a turn."""

from __future__ import annotations

import tempfile
from itertools import chain
from types import SimpleNamespace
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, inject_adapter_in_model
from torch.utils.data import DataLoader
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
)
from trl.experimental.ppo import PPOConfig, PPOTrainer
from trl_turns import OneStepATurn
from turns import Turns

turns = Turns("trl", "transformers", "torch", "peft", "accelerate", "datasets")
job = turns.job
dtype = getattr(torch, job["dtype"])
tokenizer = AutoTokenizer.from_pretrained(job["model"], padding_side="left")
tokenizer.pad_token = job["pad_token"]
lora = LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear") if job["lora"] else None


def language_model() -> Any:
    return AutoModelForCausalLM.from_pretrained(job["model"], dtype=dtype)


def scorer() -> Any:
    model = AutoModelForSequenceClassification.from_pretrained(job["model"], num_labels=1, dtype=dtype)
    model.config.pad_token_id = tokenizer.pad_token_id
    return model


class OddShare(torch.nn.Module):
    """A reward model in the form that the trainer asks for: at every position the share of odd tokens in the reply."""

    base_model_prefix = "shares"

    def __init__(self) -> None:
        super().__init__()
        self.score = torch.nn.Identity()

    def shares(self, input_ids: torch.Tensor, **kwargs: Any) -> Any:
        share = (input_ids[:, -job["new_tokens"] :] % 2).float().mean(dim=1)
        return SimpleNamespace(hidden_states=[share[:, None, None].expand(*input_ids.shape, 1)])


class WithScore(OneStepATurn):
    """Reports the mean score of the step too, where it can be compared."""

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **kwargs: Any) -> None:
        if job["odd_reward"]:
            self.figures["score"] = logs["objective/scores"]


critic = scorer()
if lora is not None:
    critic = inject_adapter_in_model(lora, critic)
    critic.score.requires_grad_(True)
share = job.get("rows_per_device", job["batch_size"])
rows = [{"input_ids": r["ids"]} for r in chain(*job["batches"])]
trainer = PPOTrainer(
    args=PPOConfig(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=share,
        gradient_accumulation_steps=job["batch_size"] // share,
        total_episodes=len(rows),
        num_ppo_epochs=job["epochs"],
        num_sample_generations=0,
        response_length=job["new_tokens"],
        temperature=1.0,
        learning_rate=job["learning_rate"],
        lr_scheduler_type="constant",
        kl_coef=job["kl_coef"],
        report_to=[],
        save_strategy="no",
        bf16=job.get("autocast", False),
        gradient_checkpointing=False,
        use_cpu=job["device"] == "cpu",
    ),
    processing_class=tokenizer,
    model=language_model(),
    ref_model=None,
    reward_model=OddShare() if job["odd_reward"] else scorer(),
    value_model=critic,
    train_dataset=Dataset.from_list(rows),
    callbacks=[WithScore(turns)],
    peft_config=lora,
)
# The rows in their order, as everybody else gets them.
trainer.dataloader = DataLoader(
    trainer.train_dataset, batch_size=job["batch_size"], collate_fn=DataCollatorWithPadding(tokenizer)
)
trainer.train()
