"""What each family that our decoder computes has beyond a plain Llama, as its config.json says it.

A description gives `keys`, the keys of config.json that it reads beyond the common ones; `defaults`, what a key means
that is not there; and `read`, fields of `DecoderConfig` from those keys. What differs in the computation is a field.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Raw = Mapping[str, Any]
Fields = dict[str, Any]


def _plain(raw: Raw) -> Fields:
    return {}


@dataclass(frozen=True)
class DecoderFamily:
    """See the module."""

    keys: frozenset[str] = frozenset()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    read: Callable[[Raw], Fields] = _plain


def _windows(raw: Raw, width: int | None, windowed: Callable[[int], bool]) -> Fields:
    """A window for each layer that has one; none if no layer has."""
    kinds, layers = raw.get("layer_types"), range(raw["num_hidden_layers"])
    if kinds is not None:
        chosen = [width if kind == "sliding_attention" else None for kind in kinds]
    else:
        chosen = [width if windowed(layer) else None for layer in layers]
    return {"windows": tuple(chosen)} if any(chosen) else {}


def _mistral(raw: Raw) -> Fields:
    return _windows(raw, raw.get("sliding_window"), lambda _: True)


def _qwen(raw: Raw) -> Fields:
    """The lowest `max_window_layers` layers see everything."""
    width = raw.get("sliding_window") if raw.get("use_sliding_window") else None
    return _windows(raw, width, lambda layer: layer >= raw.get("max_window_layers", 28))


def _smollm3(raw: Raw) -> Fields:
    """Every fourth layer has no rotary positions (arXiv:2501.18795)."""
    interval, layers = raw.get("no_rope_layer_interval") or 4, range(raw["num_hidden_layers"])
    rotated = raw.get("no_rope_layers") or [(layer + 1) % interval != 0 for layer in layers]
    return {"unrotated": tuple(layer for layer in layers if not rotated[layer])} | _qwen(raw)


def _granite(raw: Raw) -> Fields:
    """Four multipliers (muP, arXiv:2203.03466): of embeddings, residuals, scores of attention and logits."""
    width = raw.get("head_dim") or raw["hidden_size"] // raw["num_attention_heads"]
    return {
        "embedding_scale": float(raw.get("embedding_multiplier", 1.0)),
        "residual_scale": float(raw.get("residual_multiplier", 1.0)),
        "query_scale": float(raw.get("attention_multiplier", 1.0)) * math.sqrt(width),
        "logit_scale": 1.0 / float(raw.get("logits_scaling", 1.0)),
    }


_QWEN_KEYS = frozenset({"sliding_window", "use_sliding_window", "max_window_layers", "layer_types"})

FAMILIES = {
    "LlamaForCausalLM": DecoderFamily(defaults={"max_position_embeddings": 2048}),
    "MistralForCausalLM": DecoderFamily(
        frozenset({"sliding_window", "layer_types"}),
        {"max_position_embeddings": 131_072, "num_key_value_heads": 8, "sliding_window": 4096},
        _mistral,
    ),
    "Qwen2ForCausalLM": DecoderFamily(
        _QWEN_KEYS,
        {"max_position_embeddings": 32_768, "num_key_value_heads": 32, "sliding_window": 4096},
        lambda raw: {"qkv_bias": True} | _qwen(raw),
    ),
    "Qwen3ForCausalLM": DecoderFamily(
        _QWEN_KEYS,
        {"max_position_embeddings": 32_768, "num_key_value_heads": 32, "head_dim": 128, "sliding_window": 4096},
        lambda raw: {"qk_norm": "head"} | _qwen(raw),
    ),
    "Phi3ForCausalLM": DecoderFamily(
        frozenset({"sliding_window", "original_max_position_embeddings", "embd_pdrop", "resid_pdrop", "pad_token_id"}),
        {"max_position_embeddings": 4096, "rms_norm_eps": 1e-5},
        lambda raw: {"fused": True} | _mistral(raw),
    ),
    "Olmo2ForCausalLM": DecoderFamily(
        defaults={"max_position_embeddings": 2048, "rms_norm_eps": 1e-5},
        read=lambda _: {"qk_norm": "all", "norms_after": True},
    ),
    "SmolLM3ForCausalLM": DecoderFamily(
        _QWEN_KEYS | {"no_rope_layers", "no_rope_layer_interval", "pad_token_id"},
        {
            "max_position_embeddings": 32_768,
            "num_key_value_heads": 4,
            "tie_word_embeddings": True,
            "rope_theta": 2_000_000.0,
        },
        _smollm3,
    ),
    "GraniteForCausalLM": DecoderFamily(
        frozenset({"embedding_multiplier", "residual_multiplier", "attention_multiplier", "logits_scaling"}),
        {"max_position_embeddings": 2048},
        _granite,
    ),
}
