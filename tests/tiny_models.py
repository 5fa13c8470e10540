"""Tiny random models as Hugging Face folders: real architectures, two layers, a vocabulary of 97."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    Phi3Config,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
)

VOCABULARY = 97
SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
LLAMA = LlamaConfig(**SHAPE, tie_word_embeddings=True)
GRANITE: dict[str, float] = {
    "logits_scaling": 8.0,
    "embedding_multiplier": 6.0,
    "attention_multiplier": 0.3,
    "residual_multiplier": 0.4,
}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
FAMILIES = {
    "llama": LLAMA,
    "llama, own output embedding": LlamaConfig(**SHAPE, tie_word_embeddings=False),
    "llama, a key head each": LlamaConfig(**SHAPE | {"num_key_value_heads": 4}, tie_word_embeddings=True),
    "llama, wide heads, other base": LlamaConfig(**SHAPE, head_dim=12, rope_theta=5e5, rms_norm_eps=1e-3),
    "llama 3": LlamaConfig(
        **SHAPE, tie_word_embeddings=True, rope_parameters={**LLAMA3, "original_max_position_embeddings": 32}
    ),
    "mistral": MistralConfig(**SHAPE, sliding_window=None),
    "qwen2, biases": Qwen2Config(**SHAPE, tie_word_embeddings=True),
    "qwen3, query and key norms": Qwen3Config(**SHAPE, head_dim=16, tie_word_embeddings=True),
}
BEYOND_LLAMA = {
    "mistral, a window": MistralConfig(**SHAPE, sliding_window=5),
    "qwen3, a window above": Qwen3Config(
        **SHAPE, head_dim=16, use_sliding_window=True, sliding_window=4, max_window_layers=1
    ),
    "phi 3, fused on disk": Phi3Config(**SHAPE, sliding_window=6),
    "olmo 2, norms after": Olmo2Config(**SHAPE),
    "smollm 3, a layer without positions": SmolLM3Config(**SHAPE, no_rope_layers=[1, 0], tie_word_embeddings=True),
    "granite, multipliers": GraniteConfig(**SHAPE, **GRANITE),
}


def save_random(config: PretrainedConfig, folder: Path, seed: int = 0) -> Path:
    """A model with every weight random: the norms, which start at one, and the biases, which start at zero, too."""
    generator = torch.Generator().manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(0.2 * noise if "norm" not in name else 1 + 0.2 * noise)
    model.save_pretrained(folder)
    return folder


def load_reference(folder: Path) -> PreTrainedModel:
    """The same folder through `transformers`, float32."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@torch.no_grad()
def logits_of_each(model: torch.nn.Module, sequences: list[list[int]]) -> list[torch.Tensor]:
    """Logits [T, V] of each sequence, run alone: no padding, no packing, no cache."""
    return [model(input_ids=torch.tensor([sequence]), use_cache=False).logits[0] for sequence in sequences]


def random_sequences(seed: int, lengths: list[int]) -> list[list[int]]:
    """Token sequences of the given lengths."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(VOCABULARY, (length,), generator=generator).tolist() for length in lengths]
