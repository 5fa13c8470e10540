"""A GGUF file of a Llama-shaped model, rewritten as a Hugging Face folder: weights, config, tokenizer.

The weights are de-quantised once and stored as bfloat16: half the file and the time to load it. Blocks of 4
or 8 bits hold hardly more than its 8 bits of significand, and these models were published in bfloat16 before
they were quantised. Whoever reads the folder, `transformers` included, starts from the same numbers, so
equality tests hold in float32.

The tokenizer is rebuilt here because `transformers` builds a wrong one from SmolLM2's file: newline becomes
the unknown token, five ids lie beyond the embedding, and the end-of-sequence token is another one.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGUFReader, ReaderTensor
from gguf.quants import dequantize
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from thumbs.errors import ModelError
from thumbs.models.tensor_files import write_tensors

ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}

TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
"""Tensors outside of the layers: their names in GGUF and in a Hugging Face folder."""

BLOCK = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
"""Tensors of a layer, likewise."""

_KEYS = {
    "context_length", "embedding_length", "block_count", "feed_forward_length", "vocab_size", "rope.freq_base",
    "rope.dimension_count", "rope.scaling.type", "attention.head_count", "attention.head_count_kv",
    "attention.key_length", "attention.value_length", "attention.layer_norm_rms_epsilon",
}  # fmt: skip
"""Fields of an architecture that are read or checked; any other that is set is refused by its name."""

_CONTROL, _USER_DEFINED = 3, 4  # values of tokenizer.ggml.token_type

# How text is cut before the merges apply; names are llama.cpp's (tokenizer.ggml.pre). GPT-2's own expression
# is built into ByteLevel. The Llama 3 and Qwen 2 expressions differ in how many digits make a piece.
_CUT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_GPT2 = {"gpt-2", "default"}
_DIGITS_THEN_GPT2 = {"smollm", "starcoder"}
_REGEX = {"llama-bpe": _CUT % "{1,3}", "qwen2": _CUT % ""}
PRE_TOKENIZERS = ("gpt-2", "smollm", *_REGEX)
"""Names of the ways to cut text that differ; a file may use others for the same."""


@dataclass(frozen=True)
class _Header:
    """Key-value part of a GGUF file, with errors that name the file."""

    path: Path
    reader: GGUFReader

    @staticmethod
    def read(path: Path) -> _Header:
        try:
            return _Header(path, GGUFReader(path))
        except (OSError, ValueError, IndexError) as error:
            raise ModelError(f"{path} cannot be read as GGUF ({error}); fetch or convert it again") from None

    def find(self, key: str, default: Any = None) -> Any:
        field = self.reader.get_field(key)
        return default if field is None else field.contents()

    def require(self, key: str) -> Any:
        value = self.find(key)
        if value is None:
            raise ModelError(f"{self.path} has no field {key!r}; a language model's GGUF file needs it")
        return value

    @property
    def architecture(self) -> str:
        architecture = self.require("general.architecture")
        if architecture not in ARCHITECTURES:
            known = ", ".join(ARCHITECTURES)
            raise ModelError(
                f"{self.path} holds architecture {architecture!r}; GGUF files can be converted for {known}. "
                "Use the model's Hugging Face folder or hub name instead."
            )
        return architecture


def convert(gguf_path: Path, folder: Path) -> None:
    """Writes config.json, model.safetensors, generation_config.json and the tokenizer's files into `folder`.

    The folder must exist; the caller moves it into place when this returns, so a failure leaves nothing
    half-made. Raises ModelError for a file that is not GGUF, an architecture other than `ARCHITECTURES`,
    scaled rotary positions, and tokenizers other than byte-level BPE.
    """
    header = _Header.read(gguf_path)
    config = read_config(header)
    tokenizer, tokenizer_config = read_tokenizer(header)
    config |= _special_ids(tokenizer, tokenizer_config)
    write_tensors(folder / "model.safetensors", read_weights(header, config))
    tokenizer.save(str(folder / "tokenizer.json"))
    _write_json(folder / "tokenizer_config.json", tokenizer_config)
    _write_json(folder / "config.json", config)
    special = {k: v for k, v in config.items() if k.endswith("token_id")}
    ends = (config["eos_token_id"], *(header.find(f"tokenizer.ggml.{kind}_token_id") for kind in ("eot", "eom")))
    several = list(dict.fromkeys(end for end in ends if end is not None))
    _write_json(folder / "generation_config.json", special | ({"eos_token_id": several} if several[1:] else {}))


def read_config(header: _Header) -> dict[str, Any]:
    """config.json content, without the ids of special tokens."""
    architecture = header.architecture
    names = {tensor.name for tensor in header.reader.tensors}
    if "rope_freqs.weight" in names or header.find(f"{architecture}.rope.scaling.type", "none") != "none":
        raise ModelError(f"{header.path}: scaled rotary positions are not converted; use the Hugging Face folder")
    _check_fields(header)
    width, heads = (header.require(f"{architecture}.{k}") for k in ("embedding_length", "attention.head_count"))
    theta = header.find(f"{architecture}.rope.freq_base", 10_000.0)
    embedding = next((t for t in header.reader.tensors if t.name == "token_embd.weight"), None)
    if embedding is None:
        raise ModelError(f"{header.path} has no tensor 'token_embd.weight'; it is not a language model's file")
    return {
        "architectures": [ARCHITECTURES[architecture]],
        "model_type": architecture,
        "vocab_size": int(embedding.shape[1]),
        "hidden_size": width,
        "intermediate_size": header.require(f"{architecture}.feed_forward_length"),
        "num_hidden_layers": header.require(f"{architecture}.block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": header.find(f"{architecture}.attention.head_count_kv", heads),
        "head_dim": header.find(f"{architecture}.attention.key_length", width // heads),
        "max_position_embeddings": header.require(f"{architecture}.context_length"),
        # transformers 5 reads rope_parameters, everything older reads rope_theta.
        "rope_theta": theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": theta},
        # GGUF stores float32, where 1e-5 is 9.9999997e-06; the published value has few digits.
        "rms_norm_eps": float(f"{header.require(f'{architecture}.attention.layer_norm_rms_epsilon'):.6g}"),
        "tie_word_embeddings": "output.weight" not in names,
        "hidden_act": "silu",
        "dtype": "bfloat16",
    }


def _check_fields(header: _Header) -> None:
    """Raises ModelError for a field of the architecture that is not read, and for heads of unequal widths."""
    prefix = f"{header.architecture}."
    fields = {name.removeprefix(prefix): header.find(name) for name in header.reader.fields if name.startswith(prefix)}
    if unknown := sorted(k for k, v in fields.items() if k not in _KEYS and v not in (None, 0, False)):
        raise ModelError(
            f"{header.path} sets {', '.join(prefix + name for name in unknown)}, which the conversion does not know; "
            "use the model's Hugging Face folder or hub name instead"
        )
    if listed := sorted(name for name, value in fields.items() if isinstance(value, list)):
        raise ModelError(f"{header.path}: {prefix}{listed[0]} differs from layer to layer, which is not converted")
    width = fields.get("attention.key_length") or fields["embedding_length"] // fields["attention.head_count"]
    for name in ("attention.value_length", "rope.dimension_count"):
        if fields.get(name, width) != width:
            raise ModelError(
                f"{header.path}: {prefix}{name} is {fields[name]}, heads are {width} wide; use the Hugging Face folder"
            )


def read_weights(header: _Header, config: dict[str, Any]) -> dict[str, torch.Tensor]:
    """All weights as bfloat16 under their Hugging Face names."""
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    weights = {}
    for tensor in header.reader.tensors:
        part = tensor.name.split(".")[-2]
        array = _dequantised(tensor, header.path)
        if header.architecture == "llama" and part in heads:
            array = unpermute(array, heads[part])
        weights[_hugging_face_name(tensor.name, header.path)] = torch.from_numpy(array).to(torch.bfloat16)
    return weights


def unpermute(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of a query or key projection [H·C, D] in Hugging Face's order.

    llama.cpp rotates neighbouring pairs (2i, 2i + 1) where Hugging Face rotates (i, i + C/2), so its
    converter for Llama interleaves the two halves of every head; here they are taken apart again.
    """
    pairs = weight.reshape(heads, -1, 2, *weight.shape[1:])
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(weight.shape)


def _dequantised(tensor: ReaderTensor, path: Path) -> np.ndarray:
    try:
        return np.array(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
    except NotImplementedError:
        raise ModelError(f"{path}: cannot read tensors of type {tensor.tensor_type.name}; use a Q8_0 file") from None


def _hugging_face_name(name: str, path: Path) -> str:
    match name.split("."):
        case [top, "weight"] if top in TOP:
            return f"{TOP[top]}.weight"
        case ["blk", index, part, "weight" | "bias" as kind] if part in BLOCK:
            return f"model.layers.{index}.{BLOCK[part]}.{kind}"
    raise ModelError(f"{path} has a tensor {name!r} that no Llama, Qwen2 or Qwen3 decoder has")


def read_tokenizer(header: _Header) -> tuple[Tokenizer, dict[str, Any]]:
    """The byte-level BPE tokenizer of a GGUF file, and the content of its tokenizer_config.json."""
    if (kind := header.require("tokenizer.ggml.model")) != "gpt2":
        raise ModelError(
            f"{header.path} has a tokenizer of kind {kind!r}; only byte-level BPE ('gpt2') is rebuilt "
            "from GGUF. Use the model's Hugging Face folder or hub name instead."
        )
    tokens: list[str] = header.require("tokenizer.ggml.tokens")
    merges = [tuple(merge.split(" ")) for merge in header.require("tokenizer.ggml.merges")]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    pre = header.find("tokenizer.ggml.pre", "default")
    tokenizer.pre_tokenizer = pre_tokenizer(pre, header.path)
    tokenizer.decoder = decoders.ByteLevel()
    if pre == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    types = header.require("tokenizer.ggml.token_type")
    tokenizer.add_tokens([_added(t) for t, k in zip(tokens, types, strict=True) if k == _USER_DEFINED])
    tokenizer.add_special_tokens([_added(t) for t, k in zip(tokens, types, strict=True) if k == _CONTROL])
    return tokenizer, _tokenizer_config(header, tokens)


def pre_tokenizer(name: str, path: Path) -> pre_tokenizers.PreTokenizer:
    """The way to cut text that llama.cpp calls `name`; raises ModelError, which names the file, for an unknown one."""
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=name not in _REGEX)
    if name in _GPT2:
        return byte_level
    if name in _DIGITS_THEN_GPT2:
        return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level])
    if name in _REGEX:
        split = pre_tokenizers.Split(Regex(_REGEX[name]), behavior="isolated")
        return pre_tokenizers.Sequence([split, byte_level])
    known = ", ".join(sorted(_GPT2 | _DIGITS_THEN_GPT2 | set(_REGEX)))
    raise ModelError(f"{path} cuts text in the manner of {name!r}; known: {known}. Use the Hugging Face folder.")


def _added(token: str) -> AddedToken:
    return AddedToken(token, normalized=False)


def _tokenizer_config(header: _Header, tokens: list[str]) -> dict[str, Any]:
    ids = {
        "bos_token": header.find("tokenizer.ggml.bos_token_id"),
        "eos_token": header.require("tokenizer.ggml.eos_token_id"),
        "unk_token": header.find("tokenizer.ggml.unknown_token_id"),
        "pad_token": header.find("tokenizer.ggml.padding_token_id"),
    }
    # A trainer that hides padding by its id must not hide the end of every answer with it.
    if ids["pad_token"] in (None, ids["eos_token"]) and ids["unk_token"] != ids["eos_token"]:
        ids["pad_token"] = ids["unk_token"]
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **{name: tokens[index] for name, index in ids.items() if index is not None},
        "model_max_length": header.require(f"{header.architecture}.context_length"),
        "clean_up_tokenization_spaces": False,
        "chat_template": header.find("tokenizer.chat_template"),
    }


def _special_ids(tokenizer: Tokenizer, config: dict[str, Any]) -> dict[str, int | None]:
    return {f"{k}_token_id": tokenizer.token_to_id(config.get(f"{k}_token", "")) for k in ("bos", "eos", "pad")}


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
