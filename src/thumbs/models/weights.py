"""Reading and writing weights in Hugging Face form: separate projections on disk, fused ones in memory."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from thumbs.errors import ModelError
from thumbs.models.causal_lm import CausalLM, Layer
from thumbs.models.checkpoint_files import INDEX, read_json_object, weight_files
from thumbs.models.decoder_config import DecoderConfig, read_config
from thumbs.models.lora import MODULE, Adapter, projections
from thumbs.models.prepacked import prepack
from thumbs.models.quantised import check_plain, dequantise, quantisation

log = logging.getLogger(__name__)

HARMLESS = re.compile(r"(^|\.)rotary_emb\.inv_freq$|\.masked_bias$|^v_head\.")
"""Tensors that may be left over: rotary frequencies and the number in masked places, which old versions of transformers
saved although config.json says them, and a value head of TRL's, which `compat.trl_ppo` reads and no policy needs.
"""


def load_decoder(folder: Path, dtype: torch.dtype, *, master: bool) -> CausalLM:
    """Our decoder with the weights of a Hugging Face folder.

    master: hold the weights in float32 (they will be trained) and compute in `dtype`; else hold them in `dtype`.
    Raises ModelError that names the tensors missing, left over, of another shape or not finite.
    """
    raw = read_json_object(folder / "config.json")
    with torch.device("meta"):
        model = CausalLM(read_config(raw), dtype)
    load_state(model, read_tensors(folder), torch.float32 if master else dtype, str(folder))
    return model


def load_state(model: CausalLM, state: dict[str, Tensor], dtype: torch.dtype, source: str) -> None:
    """Puts tensors under Hugging Face names into a decoder (which may be on the meta device).

    Every tensor is used, apart from `HARMLESS` and an output embedding equal to the input embedding it is tied to.
    """
    check_plain(state, source)
    state = without_harmless(state, source)
    if model.config.tied:
        _drop_tied_head(state, source)
    wanted = tensor_shapes(model.config)
    if missing := [name for name in wanted if name not in state]:
        raise ModelError(
            f"{source}: {some(missing)} is missing; the folder does not hold a complete model under the names of "
            f"{model.config.architecture}"
        )
    if left := sorted(state.keys() - wanted.keys()):
        raise ModelError(
            f"{source}: {some(left)} would be left out, because {model.config.architecture} with this config.json has "
            "no such tensor; the weights and the config.json belong to different models"
        )
    for name, shape in wanted.items():
        if tuple(state[name].shape) != shape:
            raise ModelError(f"{source}: {name} has shape {tuple(state[name].shape)}, its config.json asks for {shape}")
        check_finite(state[name], f"{source}: {name}")
    fused = dict(_fuse(model.config, state))
    # A live model keeps its parameters, since an optimizer may hold them, and with them its device.
    fill = model.embedding.is_meta
    model.load_state_dict({name: tensor.to(dtype) for name, tensor in fused.items()}, assign=fill)


def tensor_shapes(config: DecoderConfig) -> dict[str, tuple[int, ...]]:
    """What a decoder of that shape consists of: Hugging Face's name of each tensor → its shape."""
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (config.vocab_size, config.width),
        "model.norm.weight": (config.width,),
    }
    if not config.tied:
        shapes["lm_head.weight"] = (config.vocab_size, config.width)
    for stem in (f"model.layers.{index}" for index in range(config.layers)):
        for fused, (width, outs) in projections(config).items():
            for name, out in outs.items():
                shapes[f"{stem}.{MODULE[fused]}.{name}.weight"] = (out, width)
                if fused == "qkv" and config.qkv_bias:
                    shapes[f"{stem}.{MODULE[fused]}.{name}.bias"] = (out,)
        for norm in ("q_norm", "k_norm") if config.qk_norm else ():
            shapes[f"{stem}.self_attn.{norm}.weight"] = (config.head_dim,)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"{stem}.{norm}.weight"] = (config.width,)
    return shapes


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
        if names is not None and (extra := sorted(there.keys() - indexed)):
            raise ModelError(f"{file} holds {some(extra)}, which {INDEX} does not name; save the model again")
        state |= {name: there[name] for name in names} if names is not None else there
    return state if how is None else dequantise(state, how, str(folder))


def without_harmless(state: dict[str, Tensor], source: str) -> dict[str, Tensor]:
    """The tensors apart from `HARMLESS`, which the log names."""
    if ignored := sorted(name for name in state if HARMLESS.search(name)):
        log.info("%s: %s is not needed and ignored", source, some(ignored))
    return {name: tensor for name, tensor in state.items() if not HARMLESS.search(name)}


def check_finite(tensor: Tensor, what: str) -> None:
    """Raises ModelError, which names the tensor, where it holds NaN or infinity."""
    low, high = tensor.aminmax() if tensor.numel() else (tensor.sum(), tensor.sum())
    if not (torch.isfinite(low) and torch.isfinite(high)):
        raise ModelError(f"{what} holds NaN or infinity; the training that wrote it failed, take an earlier checkpoint")


def some(names: Sequence[str]) -> str:
    """The first of the names, and how many more there are."""
    return repr(names[0]) + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def named_tensors(model: CausalLM, adapter: Adapter | None = None) -> dict[str, Tensor]:
    """The weights under Hugging Face names, with `adapter` merged into them in float32 where one is given."""
    dtype = model.embedding.dtype
    state: dict[str, Tensor] = {"model.embed_tokens.weight": model.embedding, "model.norm.weight": model.norm}
    if model.head is not None:
        state["lm_head.weight"] = model.head
    for index, layer in enumerate(model.blocks):
        stem = f"model.layers.{index}"
        deltas = adapter.deltas(index) if adapter is not None else {}
        for fused, (_, outs) in projections(model.config).items():
            weight = getattr(layer, fused)
            if fused in deltas:
                weight = (weight.float() + deltas[fused]).to(dtype)
            for name, piece in zip(outs, weight.split(list(outs.values())), strict=True):
                state[f"{stem}.{MODULE[fused]}.{name}.weight"] = piece
        if layer.qkv_bias is not None:
            outs = projections(model.config)["qkv"][1]
            for name, piece in zip(outs, layer.qkv_bias.split(list(outs.values())), strict=True):
                state[f"{stem}.self_attn.{name}.bias"] = piece
        if layer.query_norm is not None and layer.key_norm is not None:
            state[f"{stem}.self_attn.q_norm.weight"] = layer.query_norm
            state[f"{stem}.self_attn.k_norm.weight"] = layer.key_norm
        state[f"{stem}.input_layernorm.weight"] = layer.attention_norm
        state[f"{stem}.post_attention_layernorm.weight"] = layer.mlp_norm
    return {name: tensor.detach().contiguous() for name, tensor in state.items()}


@torch.no_grad()
def merged_copy(model: CausalLM, adapter: Adapter | None, dtype: torch.dtype) -> CausalLM:
    """A frozen decoder with `adapter` merged in, held in `dtype`; shares what the adapter does not touch."""
    with torch.device("meta"):
        copy = CausalLM(model.config, dtype)
    state = {name: parameter.detach().to(dtype) for name, parameter in model.named_parameters()}
    for index in range(model.config.layers):
        for fused, delta in (adapter.deltas(index) if adapter is not None else {}).items():
            name = f"layers.{index}.{fused}"
            state[name] = (model.get_parameter(name).float() + delta).to(dtype)
    if adapter is None and dtype == model.embedding.dtype:
        state = {name: tensor.clone() for name, tensor in state.items()}  # training goes on under the sampler
    copy.load_state_dict(state, assign=True)
    return copy.requires_grad_(False)


def prepacked_layer(layer: Layer) -> Layer:
    """The layer, frozen, with prepacked weights; norms and biases are the layer's own."""
    with torch.device("meta"):
        twin = Layer(layer.config)
    for name, parameter in layer.named_parameters():
        weight = prepack(parameter) if parameter.ndim == 2 else parameter.detach()
        setattr(twin, name, nn.Parameter(weight, requires_grad=False))
    return twin


def prepack_decoder(model: CausalLM, lowest: Sequence[Layer] = ()) -> CausalLM:
    """A frozen decoder that will only be sampled from, its weights prepacked; `lowest`: layers that are so already."""
    for index, layer in enumerate(model.blocks):
        model.layers[index] = lowest[index] if index < len(lowest) else prepacked_layer(layer)
    model.prepacked_head = prepack(model.head_weight())
    return model


def _drop_tied_head(state: dict[str, Tensor], source: str) -> None:
    head, embedding = state.pop("lm_head.weight", None), state.get("model.embed_tokens.weight")
    if head is None:
        return
    if embedding is None:
        state["model.embed_tokens.weight"] = head
    elif not torch.equal(head, embedding):
        raise ModelError(
            f"{source}: lm_head.weight differs from model.embed_tokens.weight, but config.json ties them; write "
            "tie_word_embeddings: false into config.json if the model has an output embedding of its own"
        )


def _read(file: Path, names: list[str] | None) -> dict[str, Tensor]:
    try:
        with safe_open(file, framework="pt") as handle:
            there = list(handle.keys())
            if missing := sorted(set(names or ()) - set(there)):
                raise ModelError(f"{file} lacks {some(missing)}, which {INDEX} says it holds; fetch or save it again")
            return {name: handle.get_tensor(name) for name in there}
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{file}: unreadable ({error}); fetch or save it again") from None


def _fuse(config: DecoderConfig, state: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    yield "embedding", state["model.embed_tokens.weight"]
    yield "norm", state["model.norm.weight"]
    if not config.tied:
        yield "head", state["lm_head.weight"]
    for index in range(config.layers):
        stem, ours = f"model.layers.{index}", f"layers.{index}"
        for fused, (_, outs) in projections(config).items():
            names = [f"{stem}.{MODULE[fused]}.{name}" for name in outs]
            yield f"{ours}.{fused}", torch.cat([state[f"{name}.weight"] for name in names])
            if fused == "qkv" and config.qkv_bias:
                yield f"{ours}.qkv_bias", torch.cat([state[f"{name}.bias"] for name in names])
        if config.qk_norm:
            yield f"{ours}.query_norm", state[f"{stem}.self_attn.q_norm.weight"]
            yield f"{ours}.key_norm", state[f"{stem}.self_attn.k_norm.weight"]
        yield f"{ours}.attention_norm", state[f"{stem}.input_layernorm.weight"]
        yield f"{ours}.mlp_norm", state[f"{stem}.post_attention_layernorm.weight"]
