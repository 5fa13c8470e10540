"""The shape of a Llama-like decoder, read from and written to a Hugging Face config.json.

Every key of a config.json is used, or must have the one value that our decoder computes, or is in `HARMLESS`. With any
other key the model is not ours, and `why_not_covered` names it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from thumbs.errors import ModelError
from thumbs.models.families import FAMILIES
from thumbs.models.rope import Rope, read_rope, why_not_computed

_NEEDED = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
USED = {
    *_NEEDED, "architectures", "model_type", "num_key_value_heads", "head_dim", "max_position_embeddings", "rope_theta",
    "rope_parameters", "rope_scaling", "rms_norm_eps", "tie_word_embeddings", "quantization_config",
    "compression_config",
}  # fmt: skip

FIXED: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu",),
    "mlp_bias": (False,),
    "attention_bias": (False,),
    "partial_rotary_factor": (1, 1.0),
    "rope_interleaved": (False,),
    "is_encoder_decoder": (False,),
    "add_cross_attention": (False,),
    "tie_encoder_decoder": (False,),
    "use_mrope": (False,),
    "pruned_heads": ({},),
    "chunk_size_feed_forward": (0,),
}
"""Keys that would change the computation, and the values with which they do not."""

HARMLESS = {
    # Tokens and settings of generation, which the tokenizer and generation_config.json say.
    "bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "decoder_start_token_id", "max_length",
    "min_length", "max_new_tokens", "do_sample", "early_stopping", "num_beams", "num_beam_groups", "diversity_penalty",
    "temperature", "top_k", "top_p", "typical_p", "repetition_penalty", "length_penalty", "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size", "bad_words_ids", "num_return_sequences", "forced_bos_token_id",
    "forced_eos_token_id", "remove_invalid_values", "exponential_decay_length_penalty", "suppress_tokens",
    "begin_suppress_tokens", "output_scores", "return_dict_in_generate", "use_cache",
    # How a model was trained or begun; there is no dropout here (see `CausalLM`).
    "initializer_range", "attention_dropout", "hidden_dropout", "gradient_checkpointing", "pretraining_tp", "loss_type",
    # What is returned and stored in which form.
    "torch_dtype", "dtype", "torchscript", "use_bfloat16", "tf_legacy_loss", "return_dict", "output_attentions",
    "output_hidden_states", "transformers_version", "_name_or_path", "_commit_hash", "name_or_path",
    "_attn_implementation", "attn_implementation", "_attn_implementation_autoset", "_flash_attn_2_enabled",
    # Classifiers, translation and other tasks.
    "id2label", "label2id", "num_labels", "problem_type", "finetuning_task", "task_specific_params", "tokenizer_class",
    "prefix", "is_decoder", "cross_attention_hidden_size",
    # Notes of other tools.
    "unsloth_version", "unsloth_fixed", "is_llama_config", "transformers.js_config", "base_model_name_or_path",
}  # fmt: skip
"""Keys without effect on what our decoder computes."""


@dataclass(frozen=True)
class DecoderConfig:
    """RMSNorm, rotary positions, grouped-query attention, SwiGLU, and what families add to that.

    qk_norm: of queries and keys, each head by itself or all together. norms_after: of what attention and feed-forward
    give, not of what they read. windows: tokens that a layer sees, itself included. unrotated: layers without rotary
    positions. The scales multiply embeddings, what is added to the residual stream, queries and logits. fused: query,
    key and value are one tensor on disk, gate and up another. extra: the family's own keys of config.json.
    """

    architecture: str
    vocab_size: int
    width: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    context: int
    rope: Rope = field(default_factory=Rope)
    rms_eps: float = 1e-5
    tied: bool = True
    qkv_bias: bool = False
    qk_norm: Literal["", "head", "all"] = ""
    norms_after: bool = False
    windows: tuple[int | None, ...] = ()
    unrotated: tuple[int, ...] = ()
    embedding_scale: float = 1.0
    residual_scale: float = 1.0
    query_scale: float = 1.0
    logit_scale: float = 1.0
    fused: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def plain(self) -> bool:
        """Whether it is what decoding plans and remembered states compute, apart from biases and norms of q and k."""
        scales = (self.embedding_scale, self.residual_scale, self.query_scale)
        return not (self.norms_after or self.windows or self.unrotated) and scales == (1.0, 1.0, 1.0)


def why_not_covered(raw: Mapping[str, Any]) -> str | None:
    """None when our decoder computes this config.json exactly; else the reason, for the log."""
    architecture = (raw.get("architectures") or ["?"])[0]
    if architecture not in FAMILIES:
        return f"architecture {architecture} is none of our decoder's"
    given = {key: value for key, value in raw.items() if value is not None}
    family = architecture.removesuffix("ForCausalLM").lower()
    if (given.get("model_type") or family) != family:
        return f"model_type {given['model_type']!r} does not belong to {architecture}"
    if reason := why_not_computed(raw):
        return reason
    if given.get("hidden_act", "silu") != "silu":
        return f"activation {given['hidden_act']!r}"
    biased = architecture == "Qwen2ForCausalLM"
    if given.get("mlp_bias") or (given.get("attention_bias") and not biased):
        return "biases in the output projections"
    if others := set(raw.get("layer_types") or ()) - {"full_attention", "sliding_attention"}:
        return f"layers of the kind {', '.join(sorted(others))}"
    for key, values in FIXED.items():
        if key in given and given[key] not in values and not (key == "attention_bias" and biased):
            return f"config.json sets {key} to {given[key]!r}"
    known = USED | FIXED.keys() | HARMLESS | FAMILIES[architecture].keys
    if unknown := sorted(given.keys() - known):
        return f"config.json sets {', '.join(unknown)}, which our decoder does not know"
    return None


def read_config(raw: Mapping[str, Any]) -> DecoderConfig:
    """DecoderConfig of a covered config.json; raises ModelError, which names the key, for a size that is missing."""
    architecture = raw["architectures"][0]
    family = FAMILIES[architecture]
    size = dict(family.defaults) | {key: value for key, value in raw.items() if value is not None}
    heads, width = _size(size, "num_attention_heads"), _size(size, "hidden_size")
    context = _size(size, "max_position_embeddings")
    config = DecoderConfig(
        architecture=architecture,
        vocab_size=_size(size, "vocab_size"),
        width=width,
        intermediate=_size(size, "intermediate_size"),
        layers=_size(size, "num_hidden_layers"),
        heads=heads,
        kv_heads=_size({"num_key_value_heads": heads} | size, "num_key_value_heads"),
        head_dim=_size({"head_dim": width // heads} | size, "head_dim"),
        context=context,
        rope=read_rope(size, context),
        rms_eps=float(size.get("rms_norm_eps") or 1e-6),
        tied=bool(size.get("tie_word_embeddings")),
        extra={key: raw[key] for key in family.keys if key in raw},
        **family.read(dict(family.defaults) | dict(raw)),
    )
    if config.heads % config.kv_heads or config.head_dim % 2:
        raise ModelError(
            f"config.json: {config.heads} heads of {config.head_dim} numbers over {config.kv_heads} key heads; heads "
            "must be a multiple of key heads, and their width even"
        )
    return config


def write_config(config: DecoderConfig) -> dict[str, Any]:
    """config.json content that `transformers` reads."""
    return dict(config.extra) | {
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
        **config.rope.written(),
        "rms_norm_eps": config.rms_eps,
        "tie_word_embeddings": config.tied,
        "hidden_act": "silu",
    }


def _size(sizes: Mapping[str, Any], key: str) -> int:
    value = sizes.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ModelError(f"config.json: {key} is {value!r}; a positive whole number is needed")
    return value
