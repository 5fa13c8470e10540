"""TRL's trainers, one step a turn: SFT, reward, DPO, GRPO, RLOO."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from itertools import chain
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from torch.utils.data import SequentialSampler
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from trl import (
    DPOConfig,
    DPOTrainer,
    GRPOConfig,
    GRPOTrainer,
    RewardConfig,
    RewardTrainer,
    RLOOConfig,
    RLOOTrainer,
    SFTConfig,
    SFTTrainer,
)
from trl_turns import OneStepATurn
from turns import Turns

turns = Turns("trl", "transformers", "torch", "peft", "accelerate", "datasets")
job = turns.job
dtype = getattr(torch, job["dtype"])
tokenizer = AutoTokenizer.from_pretrained(job["model"])
tokenizer.pad_token = job["pad_token"]
callback = OneStepATurn(turns)


def watched(trainer_class: type) -> type:
    """The trainer, in the order of the data, that reports the loss and the tokens of its last step."""

    class Watched(trainer_class):
        def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
            loss = super().training_step(model, inputs, *args, **kwargs)
            parts = self.args.gradient_accumulation_steps
            found = {"loss": float(loss)}
            for theirs, ours in (("accuracy", "accuracy"), ("reward", "score")):
                if values := self._metrics["train"].get(theirs):
                    found[ours] = values[-1] / parts
            if isinstance(inputs, dict) and "input_ids" in inputs:
                found["tokens"] = float((inputs["input_ids"] != tokenizer.pad_token_id).sum())
            for name, value in found.items():
                callback.figures[name] = callback.figures.get(name, 0.0) + value
            return loss

    if trainer_class is DPOTrainer:  # it would tokenise text; ours is tokens already, the same for everybody
        Watched._prepare_dataset = lambda self, dataset, *args, **kwargs: dataset
    if trainer_class not in (GRPOTrainer, RLOOTrainer):  # these repeat each prompt by their sampler
        Watched._get_train_sampler = lambda self, dataset=None: SequentialSampler(dataset or self.train_dataset)
    return Watched


def settings(config: Callable[..., Any], batch: int, **more: Any) -> Any:
    """batch: rows of an optimizer step."""
    rows = min(job.get("rows_per_device", batch), batch)
    return config(
        output_dir=tempfile.mkdtemp(),
        max_steps=len(job["batches"]),
        learning_rate=job["learning_rate"],
        lr_scheduler_type="constant",
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        bf16=job.get("autocast", False),
        gradient_checkpointing=False,
        use_cpu=job["device"] == "cpu",
        per_device_train_batch_size=rows,
        gradient_accumulation_steps=batch // rows,
        **more,
    )


def language_model() -> Any:
    return AutoModelForCausalLM.from_pretrained(job["model"], dtype=dtype)


def pairs() -> Dataset:
    return Dataset.from_list(list(chain(*job["batches"])))


def sft() -> dict[str, Any]:
    rows = [
        {"input_ids": r["ids"], "labels": [t if own else -100 for t, own in zip(r["ids"], r["mask"], strict=True)]}
        for r in chain(*job["batches"])
    ]
    packing = {"packing": True, "packing_strategy": job["packing"]} if job["packing"] else {}
    batch = job["packed_batch_size"] if packing else job["batch_size"]
    config = settings(SFTConfig, batch, max_length=job["max_length"], **packing)
    return {"trainer": SFTTrainer, "model": language_model(), "args": config, "train_dataset": Dataset.from_list(rows)}


def reward() -> dict[str, Any]:
    model = AutoModelForSequenceClassification.from_pretrained(job["model"], num_labels=1, dtype=dtype)
    rows = pairs().map(
        lambda r: {"chosen_ids": r["prompt"] + r["chosen"], "rejected_ids": r["prompt"] + r["rejected"]},
        remove_columns=["prompt", "chosen", "rejected"],
    )
    config = settings(RewardConfig, job["batch_size"], max_length=job["max_length"])
    return {"trainer": RewardTrainer, "model": model, "args": config, "train_dataset": rows}


def dpo() -> dict[str, Any]:
    names = {"prompt": "prompt_ids", "chosen": "chosen_ids", "rejected": "rejected_ids"}
    # Twice over the data: the reference logprobs are then worth keeping, which is this trainer's best setting too.
    config = settings(
        DPOConfig, job["batch_size"], max_length=job["max_length"], precompute_ref_log_probs=True, beta=job["beta"]
    )
    rows = pairs().rename_columns(names)
    return {"trainer": DPOTrainer, "model": language_model(), "args": config, "train_dataset": rows}


def online(trainer: type, config: Callable[..., Any]) -> dict[str, Any]:
    args = settings(
        config,
        job["group_size"],
        num_generations=job["group_size"],
        max_completion_length=job["new_tokens"],
        generation_kwargs={"min_new_tokens": job["new_tokens"]},
        temperature=1.0,
        beta=0.0,
        shuffle_dataset=False,
    )
    rows = Dataset.from_list([{"prompt": r["text"]} for r in chain(*job["batches"])])
    return {
        "trainer": trainer,
        "model": language_model(),
        "args": args,
        "train_dataset": rows,
        "reward_funcs": odd_tokens,
    }


def odd_tokens(completion_ids: list[list[int]], **columns: Any) -> list[float]:
    """A reward that costs nothing, the same as ours: which share of the tokens is odd."""
    return [sum(token % 2 for token in ids) / len(ids) for ids in completion_ids]


MAKE: dict[str, Callable[[], dict[str, Any]]] = {
    "sft": sft,
    "reward": reward,
    "dpo": dpo,
    "grpo": lambda: online(GRPOTrainer, GRPOConfig),
    "rloo": lambda: online(RLOOTrainer, RLOOConfig),
}

made = MAKE[job["kind"]]()
trainer_class = watched(made.pop("trainer"))
if job["lora"]:
    task = "SEQ_CLS" if job["kind"] == "reward" else "CAUSAL_LM"
    lora = LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear", task_type=task)
    made["peft_config"] = lora
trainer = trainer_class(**made, processing_class=tokenizer, callbacks=[callback])
trainer.train()
