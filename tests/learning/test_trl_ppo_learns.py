"""The loop of the step API on a task whose best reward is known: 1 for replies of nothing but odd tokens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from thumbs.compat.trl_ppo import AutoModelForCausalLMWithValueHead, PPOConfig, PPOTrainer
from thumbs.data.tokenizers import ByteTokenizer
from tiny_models import LLAMA, save_random

KEYWORDS = {"do_sample": True, "top_k": 0, "top_p": 1.0, "max_new_tokens": 4, "eos_token_id": -1}
ADAPTERS = {"r": 8, "lora_alpha": 16}


def share(reply: torch.Tensor) -> torch.Tensor:
    """Of odd tokens, 1 at best; about half of it by chance."""
    return (reply % 2).float().mean()


def by_token(reply: torch.Tensor) -> torch.Tensor:
    """The same, said of each token."""
    return (reply % 2).float() / len(reply)


@pytest.mark.parametrize(
    ("model", "adapters", "reward"),
    [("byte-tiny", None, share), ("byte-tiny", None, by_token), ("tiny llama", ADAPTERS, share)],
)
def test_the_reward_rises_to_its_optimum(
    model: str, adapters: Any, reward: Callable[[torch.Tensor], torch.Tensor], tmp_path: Path
):
    source = save_random(LLAMA, tmp_path) if model == "tiny llama" else model
    rate = 2e-3 if adapters is None else 2e-2
    config = PPOConfig(batch_size=16, mini_batch_size=16, ppo_epochs=2, learning_rate=rate, init_kl_coef=0.01)
    policy = AutoModelForCausalLMWithValueHead.from_pretrained(source, peft_config=adapters, torch_dtype="float32")
    queries = [torch.tensor([10 + i % 4, 20, 30]) for i in range(16)]
    trainer = PPOTrainer(config=config, model=policy, tokenizer=ByteTokenizer())
    means = []
    for _ in range(25):
        replies = trainer.generate(queries, return_prompt=False, temperature=0.8, **KEYWORDS)
        stats = trainer.step(queries, replies, [reward(reply) for reply in replies])
        means.append(stats["ppo/mean_scores"])
    assert means[0] < 0.7
    assert np.mean(means[-3:]) > 0.85
