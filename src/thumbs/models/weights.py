"""Reading and writing weights in Hugging Face form: separate projections on disk, fused ones in memory."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from thumbs.errors import ModelError
from thumbs.models.checkpoint_files import INDEX, read_json_object, some, weight_files
from thumbs.models.decoder_config import DecoderConfig
from thumbs.models.lora import MODULE, projections
from thumbs.models.quantised import check_plain, dequantise, quantisation

log = logging.getLogger(__name__)

T = TypeVar("T")

HARMLESS = re.compile(r"(^|\.)rotary_emb\.inv_freq$|\.masked_bias$|^v_head\.")
"""Tensors that may be left over: rotary frequencies and the number in masked places, which old versions of transformers
saved although config.json says them, and a value head of TRL's, which `compat.trl_ppo` reads and no policy needs.
"""


def tensor_shapes(config: DecoderConfig) -> dict[str, tuple[int, ...]]:
    """What a decoder of that shape consists of: Hugging Face's name of each tensor → its shape."""
    inner = {fused: width for fused, (width, _) in projections(config).items()}
    inner |= {"embedding": config.width, "head": config.width}
    return {
        name: (rows, *([inner[part]] if (part := ours.rpartition(".")[2]) in inner else []))
        for ours, names in parts_on_disk(config).items()
        for name, rows in names.items()
    }


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """All weights of a folder, de-quantised where config.json says that they are quantised.

    `checkpoint_files.weight_files` says which files are read. Raises ModelError when one is damaged or lacks a tensor,
    or when it has one that the index does not name, and for a quantisation that is not read.
    """
    config = read_json_object(folder / "config.json") if (folder / "config.json").is_file() else {}
    how = quantisation(folder, config)
    files = weight_files(folder)
    indexed = {name for names in files.values() for name in names or ()}
    state: dict[str, Tensor] = {}
    for file, names in files.items():
        there = _read(file, names)
        if names is not None and (extra := there.keys() - indexed):
            raise ModelError(f"{file} holds {some(extra)}, which {INDEX} does not name; save the model again")
        state |= {name: there[name] for name in names} if names is not None else there
    return state if how is None else dequantise(state, how, str(folder))


def without_harmless(state: Mapping[str, T], source: str) -> dict[str, T]:
    """The tensors apart from `HARMLESS`, which the log names."""
    if ignored := [name for name in state if HARMLESS.search(name)]:
        log.info("%s: %s is not needed and ignored", source, some(ignored))
    return {name: tensor for name, tensor in state.items() if not HARMLESS.search(name)}


def check_finite(tensor: Tensor, what: str) -> None:
    """Raises ModelError, which names the tensor, if it holds NaN or infinity."""
    low, high = tensor.aminmax() if tensor.numel() else (tensor.sum(), tensor.sum())
    if not (torch.isfinite(low) and torch.isfinite(high)):
        raise ModelError(f"{what} holds NaN or infinity; the training that wrote it failed, take an earlier checkpoint")


def require_fit(missing: Collection[str], left: Collection[str], model: str, source: str) -> None:
    """Raises ModelError, which names them, if tensors of a model are missing in a folder, or some would be left out."""
    if missing:
        raise ModelError(
            f"{source}: {some(missing)} is missing; the folder does not hold a complete model under the names of "
            f"{model}"
        )
    if left:
        raise ModelError(
            f"{source}: {some(left)} would be left out, because {model} with this config.json has no such tensor; the "
            "weights and the config.json belong to different models"
        )


def checked(config: DecoderConfig, state: dict[str, Tensor], source: str) -> dict[str, Tensor]:
    """The tensors that a decoder of that shape consists of, out of those under Hugging Face names.

    Every tensor is used, apart from `HARMLESS` and an output embedding equal to the input embedding it is tied to.
    Raises ModelError that names the tensors missing, left over, of another shape or not finite.
    """
    check_plain(state, source)
    state = without_harmless(state, source)
    if config.tied:
        _drop_tied_head(state, source)
    check_shapes(config, {name: tuple(tensor.shape) for name, tensor in state.items()}, source)
    for name, tensor in state.items():
        check_finite(tensor, f"{source}: {name}")
    return state


def check_shapes(config: DecoderConfig, shapes: Mapping[str, tuple[int, ...]], source: str) -> None:
    """Raises ModelError that names the tensors missing, left over or of another shape than the decoder's."""
    wanted = tensor_shapes(config)
    require_fit(
        [name for name in wanted if name not in shapes], shapes.keys() - wanted.keys(), config.architecture, source
    )
    for name, shape in wanted.items():
        if shapes[name] != shape:
            raise ModelError(f"{source}: {name} has shape {shapes[name]}, its config.json asks for {shape}")


def fuse(config: DecoderConfig, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under Hugging Face names as parameters of our decoder."""
    return {
        ours: torch.cat([state[name] for name in names]) if len(names) > 1 else state[next(iter(names))]
        for ours, names in parts_on_disk(config).items()
    }


def separate(config: DecoderConfig, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Parameters of our decoder as tensors under Hugging Face names."""
    state: dict[str, Tensor] = {}
    for ours, names in parts_on_disk(config).items():
        pieces = parameters[ours].detach().split(list(names.values()))
        state |= {name: piece.contiguous() for name, piece in zip(names, pieces, strict=True)}
    return state


def _drop_tied_head(state: dict[str, Tensor], source: str) -> None:
    head, embedding = state.pop("lm_head.weight", None), state.get("model.embed_tokens.weight")
    if head is None:
        return
    if embedding is None:
        state["model.embed_tokens.weight"] = head
    elif not torch.equal(head, embedding):
        raise untied(source)


def untied(source: str) -> ModelError:
    """What is said of a model whose output embedding is not the input embedding that it is tied to."""
    return ModelError(
        f"{source}: lm_head.weight differs from model.embed_tokens.weight, but config.json ties them; write "
        "tie_word_embeddings: false into config.json if the model has an output embedding of its own"
    )


def _read(file: Path, names: list[str] | None) -> dict[str, Tensor]:
    try:
        with safe_open(file, framework="pt") as handle:
            there = list(handle.keys())
            if missing := set(names or ()) - set(there):
                raise ModelError(f"{file} lacks {some(missing)}, which {INDEX} says it holds; fetch or save it again")
            return {name: handle.get_tensor(name) for name in there}
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{file}: unreadable ({error}); fetch or save it again") from None


def parts_on_disk(config: DecoderConfig) -> dict[str, dict[str, int]]:
    """Each parameter of our decoder → the Hugging Face tensors that lie below each other in it, with their rows."""
    layout = {
        "embedding": {"model.embed_tokens.weight": config.vocab_size},
        "norm": {"model.norm.weight": config.width},
    }
    if not config.tied:
        layout["head"] = {"lm_head.weight": config.vocab_size}
    for index in range(config.layers):
        stem, ours = f"model.layers.{index}", f"layers.{index}"
        for fused, (_, outs) in projections(config).items():
            modules = {f"{stem}.{MODULE[fused]}.{name}": out for name, out in outs.items()}
            layout[f"{ours}.{fused}"] = {f"{name}.weight": out for name, out in modules.items()}
            if fused == "qkv" and config.qkv_bias:
                layout[f"{ours}.qkv_bias"] = {f"{name}.bias": out for name, out in modules.items()}
        if config.qk_norm:
            query, key = (n if config.qk_norm == "all" else 1 for n in (config.heads, config.kv_heads))
            layout[f"{ours}.query_norm"] = {f"{stem}.self_attn.q_norm.weight": query * config.head_dim}
            layout[f"{ours}.key_norm"] = {f"{stem}.self_attn.k_norm.weight": key * config.head_dim}
        before, after = ("post_attention", "post_feedforward") if config.norms_after else ("input", "post_attention")
        layout[f"{ours}.attention_norm"] = {f"{stem}.{before}_layernorm.weight": config.width}
        layout[f"{ours}.mlp_norm"] = {f"{stem}.{after}_layernorm.weight": config.width}
    return layout
