"""The shape of a Llama-like decoder, read from and written to a Hugging Face config.json."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

COVERED = {
    "LlamaForCausalLM": {},
    "MistralForCausalLM": {},
    "Qwen2ForCausalLM": {"qkv_bias": True},
    "Qwen3ForCausalLM": {"qk_norm": True},
}


@dataclass(frozen=True)
class DecoderConfig:
    """RMSNorm, rotary positions, grouped-query attention, SwiGLU; optional biases and q/k norms."""

    architecture: str
    vocab_size: int
    width: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    context: int
    rope_theta: float = 10_000.0
    rms_eps: float = 1e-5
    tied: bool = True
    qkv_bias: bool = False
    qk_norm: bool = False


def why_not_covered(raw: dict[str, Any]) -> str | None:
    """None when our decoder computes this config.json exactly; else the reason, for the log."""
    architecture = (raw.get("architectures") or ["?"])[0]
    if architecture not in COVERED:
        return f"architecture {architecture} is not Llama-shaped"
    rope = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        return f"rotary scaling {kind!r}"
    if raw.get("hidden_act", "silu") != "silu":
        return f"activation {raw['hidden_act']!r}"
    if raw.get("mlp_bias") or (raw.get("attention_bias") and architecture != "Qwen2ForCausalLM"):
        return "biases in the output projections"
    # Mistral has a window unless its config.json says null.
    if raw.get("use_sliding_window") or (architecture == "MistralForCausalLM" and raw.get("sliding_window", 4096)):
        return "sliding-window attention"
    return None


def read_config(raw: dict[str, Any]) -> DecoderConfig:
    """DecoderConfig of a covered config.json."""
    architecture = raw["architectures"][0]
    heads = raw["num_attention_heads"]
    rope = raw.get("rope_parameters") or {}
    return DecoderConfig(
        architecture=architecture,
        vocab_size=raw["vocab_size"],
        width=raw["hidden_size"],
        intermediate=raw["intermediate_size"],
        layers=raw["num_hidden_layers"],
        heads=heads,
        kv_heads=raw.get("num_key_value_heads") or heads,
        head_dim=raw.get("head_dim") or raw["hidden_size"] // heads,
        context=raw.get("max_position_embeddings", 2048),
        rope_theta=float(raw.get("rope_theta") or rope.get("rope_theta") or 10_000.0),
        rms_eps=raw.get("rms_norm_eps", 1e-6),
        tied=raw.get("tie_word_embeddings", False),
        **COVERED[architecture],
    )


def write_config(config: DecoderConfig) -> dict[str, Any]:
    """config.json content that `transformers` reads."""
    no_window = {"sliding_window": None} if config.architecture == "MistralForCausalLM" else {}
    return no_window | {
        "architectures": [config.architecture],
        "model_type": config.architecture.removesuffix("ForCausalLM").lower(),
        "vocab_size": config.vocab_size,
        "hidden_size": config.width,
        "intermediate_size": config.intermediate,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "max_position_embeddings": config.context,
        "rope_theta": config.rope_theta,
        "rms_norm_eps": config.rms_eps,
        "tie_word_embeddings": config.tied,
        "hidden_act": "silu",
    }
