"""Reading and writing weights in Hugging Face form: separate projections on disk, fused ones in memory."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from thumbs.errors import ModelError
from thumbs.models.causal_lm import CausalLM, Layer
from thumbs.models.decoder_config import DecoderConfig, read_config
from thumbs.models.lora import MODULE, Adapter, projections
from thumbs.models.prepacked import prepack


def load_decoder(folder: Path, dtype: torch.dtype, *, master: bool) -> CausalLM:
    """Our decoder with the weights of a Hugging Face folder.

    master: hold the weights in float32 (they will be trained) and compute in `dtype`; else hold them in `dtype`.
    Raises ModelError that names the tensors missing or of another shape.
    """
    raw = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    with torch.device("meta"):
        model = CausalLM(read_config(raw), dtype)
    load_state(model, read_tensors(folder), torch.float32 if master else dtype, str(folder))
    return model


def load_state(model: CausalLM, state: dict[str, Tensor], dtype: torch.dtype, source: str) -> None:
    """Puts tensors under Hugging Face names into a decoder (which may be on the meta device)."""
    try:
        fused = dict(_fuse(model.config, state))
    except KeyError as error:
        raise ModelError(f"{source}: tensor {error} is missing; the folder does not hold a complete model") from None
    for name, parameter in model.named_parameters():
        if fused[name].shape != parameter.shape:
            got, want = tuple(fused[name].shape), tuple(parameter.shape)
            raise ModelError(f"{source}: {name} has shape {got}, its config.json asks for {want}")
    # A live model keeps its parameters, since an optimizer may hold them, and with them its device.
    fill = model.embedding.is_meta
    model.load_state_dict({name: tensor.to(dtype) for name, tensor in fused.items()}, assign=fill)


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder's safetensors files; raises ModelError when there are none or one is damaged."""
    files = sorted(folder.glob("model*.safetensors"))
    if not files:
        raise ModelError(f"{folder}: no model*.safetensors; other formats may hold code and are not read")
    state: dict[str, Tensor] = {}
    for file in files:
        try:
            with safe_open(file, framework="pt") as handle:
                state |= {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{file}: unreadable ({error}); fetch or save it again") from None
    return state


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
