"""A Hugging Face folder of a Llama-shaped model as one GGUF file, which llama.cpp and Ollama run.

The inverse of `gguf.py`: the same names of tensors, the same order of the rows of queries and keys, the same ways to
cut text. Whatever llama.cpp would compute otherwise than the folder says is refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType
from gguf.quants import quantize
from safetensors import safe_open
from tokenizers import Tokenizer

from thumbs.errors import ModelError
from thumbs.models.gguf import ARCHITECTURES, BLOCK, PRE_TOKENIZERS, TOP, pre_tokenizer

TYPES = {
    "float32": LlamaFileType.ALL_F32,
    "float16": LlamaFileType.MOSTLY_F16,
    "bfloat16": LlamaFileType.MOSTLY_BF16,
    "q8_0": LlamaFileType.MOSTLY_Q8_0,
    "q5_1": LlamaFileType.MOSTLY_Q5_1,
    "q5_0": LlamaFileType.MOSTLY_Q5_0,
    "q4_1": LlamaFileType.MOSTLY_Q4_1,
    "q4_0": LlamaFileType.MOSTLY_Q4_0,
}
"""What the weights of a file may be stored as."""

_STORED = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
_BLOCK_OF = 32
"""Numbers that a quantised type keeps together; a row must be a multiple of it."""
_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5  # values of tokenizer.ggml.token_type
_ELSEWHERE = "export with --format hf and use llama.cpp's convert_hf_to_gguf.py"

# Digits in runs of different lengths, letters after marks, and spaces tell the known ways to cut text apart.
_PROBE = "It's 1 22 333 4444 55555: don't!\n\n  x=3.14;\tnaïve 日本語 (A1b22)\r\n 🎉 end"


def write_gguf(folder: Path, path: Path, dtype: str, name: str) -> None:
    """Writes the model in `folder` (config.json, model.safetensors, tokenizer.json) to the new file `path`.

    dtype: one of TYPES; norms and biases stay float32, and rows that do not fit into blocks become float16. name: of
    the model. Raises ModelError for an architecture, position scaling, tokenizer or tensor that a file could not hold.
    """
    config = _read(folder / "config.json")
    architecture = _architecture(config)
    writer = GGUFWriter(path, architecture, use_temp_file=True)
    writer.add_name(name)
    writer.add_file_type(TYPES[dtype])
    _add_shape(writer, config)
    _add_tokenizer(writer, folder, config)
    for tensor_name, tensor in _tensors(folder / "model.safetensors"):
        if tensor_name == "lm_head.weight" and config.get("tie_word_embeddings"):
            continue
        array = tensor.float().numpy()
        if architecture == "llama" and ".q_proj." in tensor_name:
            array = permute(array, config["num_attention_heads"])
        if architecture == "llama" and ".k_proj." in tensor_name:
            array = permute(array, _kv_heads(config))
        stored = _stored_as(array, dtype)
        writer.add_tensor(_gguf_name(tensor_name), quantize(array, stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def permute(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of a query or key projection [H·C, …] in llama.cpp's order; the inverse of `gguf.unpermute`."""
    halves = weight.reshape(heads, 2, -1, *weight.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(weight.shape)


def _architecture(config: dict[str, Any]) -> str:
    architecture = config.get("model_type", "")
    if architecture not in ARCHITECTURES or config.get("architectures") != [ARCHITECTURES[architecture]]:
        found = ", ".join(config.get("architectures") or [str(architecture)])
        raise ModelError(f"GGUF files are written for {', '.join(ARCHITECTURES)}; this is {found}: {_ELSEWHERE}")
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    odd = {
        "scaled rotary positions": rope.get("rope_type", rope.get("type", "default")) != "default",
        "rotary positions of a part of each head": rope.get("partial_rotary_factor", 1.0) != 1.0,
        "a sliding window": bool(config.get("use_sliding_window")),
        f"the activation {config.get('hidden_act')}": config.get("hidden_act", "silu") != "silu",
    }
    if wrong := [what for what, is_so in odd.items() if is_so]:
        raise ModelError(f"the model has {' and '.join(wrong)}, which is not written to GGUF: {_ELSEWHERE}")
    return architecture


def _kv_heads(config: dict[str, Any]) -> int:
    return config.get("num_key_value_heads") or config["num_attention_heads"]


def _add_shape(writer: GGUFWriter, config: dict[str, Any]) -> None:
    width = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    rope = config.get("rope_parameters") or {}
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(_kv_heads(config))
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_rope_dimension_count(width)
    writer.add_rope_freq_base(rope.get("rope_theta", config.get("rope_theta", 10_000.0)))
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])


def _add_tokenizer(writer: GGUFWriter, folder: Path, config: dict[str, Any]) -> None:
    path = folder / "tokenizer.json"
    content = _read(path) if path.exists() else {}
    if (content.get("model") or {}).get("type") != "BPE":
        raise ModelError(f"the model has no byte-level BPE tokenizer, and no other is written to GGUF: {_ELSEWHERE}")
    tokenizer, settings = Tokenizer.from_file(str(path)), _read(folder / "tokenizer_config.json")
    added = {token["id"]: _CONTROL if token["special"] else _USER_DEFINED for token in content["added_tokens"]}
    tokens = [tokenizer.id_to_token(i) for i in range(config["vocab_size"])]
    if tokenizer.get_vocab_size() > len(tokens):
        raise ModelError(
            f"the tokenizer has {tokenizer.get_vocab_size()} tokens and the model {len(tokens)}: {_ELSEWHERE}"
        )
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_way_to_cut(tokenizer, path))
    writer.add_token_list([f"[PAD{i}]" if token is None else token for i, token in enumerate(tokens)])
    writer.add_token_types([_UNUSED if t is None else added.get(i, _NORMAL) for i, t in enumerate(tokens)])
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in content["model"]["merges"]])
    ids = {kind: _id_of(tokenizer, settings.get(f"{kind}_token")) for kind in ("bos", "unk", "pad")}
    adders = {"bos": writer.add_bos_token_id, "unk": writer.add_unk_token_id, "pad": writer.add_pad_token_id}
    for kind, identity in ids.items():
        if identity is not None:
            adders[kind](identity)
    generation = _read(folder / "generation_config.json") if (folder / "generation_config.json").exists() else config
    ends = generation["eos_token_id"]
    ends = ends if isinstance(ends, list) else [ends]
    marks = (writer.add_eos_token_id, writer.add_eot_token_id, writer.add_eom_token_id)
    for end, add in zip(ends, marks, strict=False):
        add(end)
    begins = tokenizer.encode("a").ids
    writer.add_add_bos_token(len(begins) > 1 and begins[0] == ids["bos"])
    template = folder / "chat_template.jinja"
    writer.add_chat_template(template.read_text("utf-8") if template.exists() else settings.get("chat_template") or "")


def _way_to_cut(tokenizer: Tokenizer, path: Path) -> str:
    """llama.cpp's name for how the tokenizer cuts text before it merges."""
    own = tokenizer.pre_tokenizer
    cut = None if own is None else own.pre_tokenize_str(_PROBE)
    for name in PRE_TOKENIZERS:
        if cut == pre_tokenizer(name, path).pre_tokenize_str(_PROBE):
            return name
    raise ModelError(f"{path.name} cuts text in none of the known ways ({', '.join(PRE_TOKENIZERS)}): {_ELSEWHERE}")


def _id_of(tokenizer: Tokenizer, token: Any) -> int | None:
    text = token.get("content") if isinstance(token, dict) else token
    return None if text is None else tokenizer.token_to_id(text)


def _tensors(path: Path) -> Iterator[tuple[str, torch.Tensor]]:
    with safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 - not a dict
            yield name, file.get_tensor(name)


def _stored_as(array: np.ndarray, dtype: str) -> GGMLQuantizationType:
    if array.ndim == 1:
        return GGMLQuantizationType.F32
    quantised = dtype not in _STORED
    if quantised and array.shape[-1] % _BLOCK_OF:
        return GGMLQuantizationType.F16
    return GGMLQuantizationType[dtype.upper() if quantised else _STORED[dtype]]


def _gguf_name(name: str) -> str:
    top = {theirs: ours for ours, theirs in TOP.items()}
    block = {theirs: ours for ours, theirs in BLOCK.items()}
    stem, _, kind = name.rpartition(".")
    if stem in top and kind == "weight":
        return f"{top[stem]}.weight"
    match stem.split(".", 3):
        case ["model", "layers", index, part] if part in block and kind in ("weight", "bias"):
            return f"blk.{index}.{block[part]}.{kind}"
    raise ModelError(f"the tensor {name!r} has no name in GGUF: {_ELSEWHERE}")


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))
