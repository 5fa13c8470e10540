"""Numbers to begin with, from a model's shape."""

from __future__ import annotations

import functools
from typing import Any

from thumbs.clients.bases import local_models
from thumbs.config.model import ModelConfig
from thumbs.errors import ConfigError, ModelError
from thumbs.models import catalog
from thumbs.models.trunk import decoder_shape

# Exponents of the cookbook's fits over model sizes, by a word in the model's name.
_EXPONENTS = {"llama": 0.781, "qwen": 0.0775}


def get_lora_lr_over_full_finetune_lr(model_name: str, lora_alpha: int = 32) -> float:
    """10: how much higher the learning rate of LoRA is than that of all weights (Schulman et al. 2025)."""
    del model_name, lora_alpha
    return 10.0


def get_lr(model_name: str, is_lora: bool = True) -> float:
    """5e-5 · 10 for LoRA · (2000 / width)^p, with p = 0.781 for Llama models and 0.0775 for Qwen models.

    Raises ConfigError for others, which nobody has fitted.
    """
    exponent = next((p for word, p in _EXPONENTS.items() if word in model_name.lower()), None)
    if exponent is None:
        raise ConfigError(
            f"no fit of learning rates has a model such as {model_name!r}; choose one, 1e-4 to begin with"
        )
    factor = get_lora_lr_over_full_finetune_lr(model_name) if is_lora else 1.0
    return 5e-5 * factor * (2000 / _shape(model_name)["hidden_size"]) ** exponent


def get_lora_param_count(
    model_name: str,
    lora_rank: int = 32,
    train_mlp: bool = True,
    train_attn: bool = True,
    train_unembed: bool = True,
) -> int:
    """Parameters of a LoRA adapter: rank · (inputs + outputs) for each linear layer that it is on.

    Adapters that are trained in this process are on attention and MLP layers, so train_unembed=False counts theirs.
    Raises ConfigError for a mixture of experts, whose adapters differ between services.
    """
    if not (train_mlp or train_attn or train_unembed):
        raise ConfigError("train_mlp, train_attn and train_unembed are all off; an adapter is on one of them at least")
    shape = _shape(model_name)
    width, layers, heads = shape["hidden_size"], shape["num_hidden_layers"], shape["num_attention_heads"]
    if any("experts" in name for name in shape):
        raise ConfigError(f"{model_name} is a mixture of experts, whose LoRA parameters differ between services")
    head = shape.get("head_dim") or width // heads
    queries, keys = heads * head, (shape.get("num_key_value_heads") or heads) * head
    count = layers * 3 * (width + shape["intermediate_size"]) if train_mlp else 0
    count += layers * 2 * (width + queries + width + keys) if train_attn else 0
    count += width + shape["vocab_size"] if train_unembed else 0
    return lora_rank * count


def _shape(model_name: str) -> dict[str, Any]:
    """The config.json of a model, without its weights; ModelError where there is none."""
    name = model_name.split(":")[0]
    return _read(local_models()[name].name if name in local_models() else name)


@functools.lru_cache(maxsize=32)
def _read(source: str) -> dict[str, Any]:
    if catalog.is_builtin_byte(source):
        shape = decoder_shape(ModelConfig(name=source))
        return {
            "hidden_size": shape.width,
            "intermediate_size": shape.intermediate,
            "num_hidden_layers": shape.layers,
            "num_attention_heads": shape.heads,
            "num_key_value_heads": shape.kv_heads,
            "head_dim": shape.head_dim,
            "vocab_size": shape.vocab_size,
        }
    if source in catalog.BUILTIN:
        source = str(catalog.resolve(source))
    from transformers import AutoConfig  # here, because it takes a second to import

    try:
        config = AutoConfig.from_pretrained(source).to_dict()
    except (OSError, ValueError) as error:
        raise ModelError(f"no config.json of {source!r}: {error}") from None
    return config.get("text_config") or config
