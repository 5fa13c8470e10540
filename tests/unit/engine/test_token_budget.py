"""How many tokens a micro-batch may have."""

from __future__ import annotations

import torch

from thumbs.config.model import ModelConfig
from thumbs.engine.memory import LARGEST_BUDGET, budget_within, token_budget
from thumbs.engine.plan import TOKEN_BUDGET
from thumbs.models.trunk import open_trunk


def test_a_processor_keeps_its_own():
    trunk = open_trunk(ModelConfig(name="byte-tiny"), seed=0, on=torch.device("cpu"))
    assert token_budget(trunk, 10**9) == TOKEN_BUDGET


def test_a_card_gives_half_of_what_is_left_to_activations():
    # Llama 8B in 16 bits: 34 bytes · 4096 · 32 layers are 4,456,448 bytes per token; 40 GB of 80 for them.
    assert budget_within(80 * 10**9, 32, 4096, 2) == 40 * 10**9 // 4_456_448 == 8975
    assert budget_within(0, 32, 4096, 2) == TOKEN_BUDGET
    assert budget_within(10**12, 4, 64, 2) == LARGEST_BUDGET
