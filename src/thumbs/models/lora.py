"""Low-rank adapters on the fused products of our decoder, and their PEFT form on disk.

y = x Wᵀ + (alpha / rank) · (x Aᵀ) Bᵀ, with W frozen (arXiv:2106.09685, eq. 3). Weights are kept in float32 and used
in the trunk's precision. PEFT names one adapter a projection; ours stand side by side in a fused product, so the A
matrices of query, key and value are one product and their B matrices the blocks of one diagonal.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from thumbs.config.model import AdapterConfig
from thumbs.errors import ConfigError, ModelError
from thumbs.models.checkpoint_files import some
from thumbs.models.decoder_config import DecoderConfig
from thumbs.models.prepacked import linear, prepack

Part = tuple[Tensor, Tensor]
"""A [r, in] and scale · B [out, r] of one fused product."""

Parts = dict[str, Part]
"""The parts of one layer, by fused product."""

RowParts = Sequence[tuple[slice | Tensor, Parts]]
"""Of several adapters, each with the rows of a batch that are its own; for frozen ones, whose weights are prepacked."""

FUSED = {
    "qkv": ("q_proj", "k_proj", "v_proj"),
    "output": ("o_proj",),
    "gate_up": ("gate_proj", "up_proj"),
    "down": ("down_proj",),
}
_ADAPTER_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
FILLED = 64
"""Widths of the kernels' panels divide it."""

MODULE = {"qkv": "self_attn", "output": "self_attn", "gate_up": "mlp", "down": "mlp"}


class Lora(nn.Module):
    """One set of low-rank weights for every adapted projection of a decoder."""

    def __init__(self, shape: DecoderConfig, config: AdapterConfig, seed: int) -> None:
        super().__init__()
        self.shape, self.config, self.targets = shape, config, _targets(shape, config)
        self.scale = config.alpha / config.rank
        self.first = shape.layers - min(config.layers or shape.layers, shape.layers)
        generator = torch.Generator().manual_seed(seed)
        self.down_maps, self.up_maps = nn.ParameterDict(), nn.ParameterDict()
        self._stems: dict[str, str] = {}  # PEFT's name of each adapted projection
        for layer in range(self.first, shape.layers):
            for fused, (width_in, outs) in projections(shape).items():
                for name, out in outs.items():
                    if name not in self.targets:
                        continue
                    key = f"{layer}_{fused}_{name}"
                    self._stems[key] = f"base_model.model.model.layers.{layer}.{MODULE[fused]}.{name}"
                    # As PEFT: A uniform within 1/√in (Kaiming with a = √5); B zero, so training starts at the base.
                    bound = 1 / math.sqrt(width_in)
                    a = torch.rand(config.rank, width_in, generator=generator) * 2 * bound - bound
                    self.down_maps[key] = nn.Parameter(a)
                    self.up_maps[key] = nn.Parameter(torch.zeros(out, config.rank))

    def layer(self, index: int, dtype: torch.dtype) -> Parts:
        """Fused product → (stacked A [k·r, in], block-diagonal scale · B [out, k·r]) of one layer, in `dtype`."""
        parts: Parts = {}
        if index < self.first:
            return parts
        for fused, (_, outs) in projections(self.shape).items():
            keys = [f"{index}_{fused}_{name}" for name in outs if name in self.targets]
            if not keys:
                continue
            stacked = torch.cat([self.down_maps[key] for key in keys])
            blocks = [
                self.up_maps[f"{index}_{fused}_{name}"] if name in self.targets else torch.zeros(out, 0)
                for name, out in outs.items()
            ]
            blocks = [block.to(stacked.device) for block in blocks]
            parts[fused] = (stacked.to(dtype), (self.scale * torch.block_diag(*blocks)).to(dtype))
        return parts

    def deltas(self, index: int) -> dict[str, Tensor]:
        """scale · B A of each fused product of one layer, float32, zeros where nothing is adapted."""
        result: dict[str, Tensor] = {}
        if index < self.first:
            return result
        for fused, (width_in, outs) in projections(self.shape).items():
            rows = []
            for name, out in outs.items():
                key = f"{index}_{fused}_{name}"
                adapted = name in self.targets
                rows.append(
                    self.scale * self.up_maps[key] @ self.down_maps[key] if adapted else torch.zeros(out, width_in)
                )
            result[fused] = torch.cat([row.to(self.device) for row in rows])
        return result

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def _by_peft_name(self) -> dict[str, nn.Parameter]:
        maps = (("lora_A", self.down_maps), ("lora_B", self.up_maps))
        return {f"{stem}.{kind}.weight": of[key] for key, stem in self._stems.items() for kind, of in maps}

    def peft_state(self) -> dict[str, Tensor]:
        """Tensors under PEFT's names."""
        return {name: weight.detach().contiguous() for name, weight in self._by_peft_name().items()}

    @torch.no_grad()
    def load_peft_state(self, state: Mapping[str, Tensor]) -> None:
        """Reads tensors under PEFT's names; raises ModelError and changes nothing unless `check_peft_state` passes."""
        shapes = {name: tuple(tensor.shape) for name, tensor in self.peft_state().items()}
        check_peft_state(shapes, self.targets, state)
        for name, weight in self._by_peft_name().items():
            weight.copy_(state[name])

    def peft_config(self, base: str | None) -> dict[str, Any]:
        """As the function; with the layers that have an adapter, if not all do."""
        layers = range(self.first, self.shape.layers) if self.first else None
        return peft_config(self.config, base, layers) | {"target_modules": list(self.targets)}


def peft_config(config: AdapterConfig, base: str | None, layers: Sequence[int] | None = None) -> dict[str, Any]:
    """adapter_config.json for PEFT; base: a hub id or a path (`base_identity.public_name`); layers: None is all."""
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": config.rank,
        "lora_alpha": config.alpha,
        "lora_dropout": 0.0,
        "target_modules": list(config.targets),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "layers_to_transform": None if layers is None else list(layers),
        "modules_to_save": None,
        "use_dora": False,
        "use_rslora": False,
    }


class FrozenLora:
    """The weights of an adapter as they are now, prepacked, to sample from while training goes on.

    A few dozen megabytes in a 135M model, which is what a client's sampler takes besides the one base that all share.
    """

    def __init__(self, adapter: Lora, dtype: torch.dtype) -> None:
        layers = range(adapter.shape.layers)
        with torch.no_grad():
            self.parts = [{k: _packed(*part) for k, part in adapter.layer(i, dtype).items()} for i in layers]

    def layer(self, index: int, dtype: torch.dtype) -> RowParts:
        """The parts of one layer, for all rows."""
        return [(slice(None), self.parts[index])]


def check_peft_state(
    wanted: Mapping[str, tuple[int, ...]], targets: Sequence[str], state: Mapping[str, Tensor]
) -> None:
    """Raises ModelError unless the tensors are exactly those that are wanted, for an adapter on these targets.

    Names and shapes must be the same, so that nothing is left out and nothing broadcasts; numbers must be of a floating
    type of 16 bits or more, and finite in float32, in which they are held.
    """
    if missing := wanted.keys() - state.keys():
        raise ModelError(f"the adapter lacks {some(missing)}; its targets are {', '.join(targets)}")
    if extra := state.keys() - wanted.keys():
        raise ModelError(f"the adapter holds {some(extra)}, which no adapter of this model on {', '.join(targets)} has")
    for name, size in wanted.items():
        tensor = state[name]
        if tuple(tensor.shape) != size:
            raise ModelError(f"the adapter's {name} has shape {tuple(tensor.shape)}; {size} is needed")
        if tensor.dtype not in _ADAPTER_DTYPES:
            allowed = ", ".join(str(dtype).removeprefix("torch.") for dtype in _ADAPTER_DTYPES)
            raise ModelError(f"the adapter's {name} is {str(tensor.dtype).removeprefix('torch.')}; allowed: {allowed}")
        if not torch.isfinite(tensor.float()).all():
            raise ModelError(f"the adapter's {name} holds NaN or infinity; train or save it again")


def adapted_linear(
    x: Tensor,
    weight: Tensor,
    adapter: Parts | RowParts | None,
    name: str,
    bias: Tensor | None = None,
    plus: Tensor | None = None,
) -> Tensor:
    """x Wᵀ (+ bias) (+ plus), and the adapter's part; `weight` may be held in float32 while x is bfloat16."""
    if isinstance(adapter, Sequence):
        y = linear(x, weight, bias)
        for rows, parts in adapter:
            if name in parts:
                down, up = parts[name]
                y[rows] = linear(linear(x[rows], down), up, plus=y[rows])
    elif adapter is None or name not in adapter:
        return linear(x, weight, bias, plus)
    else:
        stacked, up = adapter[name]
        y = torch.addmm(linear(x, weight, bias), F.linear(x, stacked), up.T)
    return y if plus is None else plus + y


def _packed(down: Tensor, up: Tensor) -> Part:
    """Prepacked, the inner width filled up with zeros to what the kernels take."""
    missing = -len(down) % FILLED
    return prepack(F.pad(down, (0, 0, 0, missing))), prepack(F.pad(up, (0, missing)))


def projections(shape: DecoderConfig) -> dict[str, tuple[int, dict[str, int]]]:
    """Fused product → (input width, {projection: output width})."""
    q, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    qkv, gate_up = {"q_proj": q, "k_proj": kv, "v_proj": kv}, dict.fromkeys(FUSED["gate_up"], shape.intermediate)
    if shape.fused:
        qkv, gate_up = {"qkv_proj": q + 2 * kv}, {"gate_up_proj": 2 * shape.intermediate}
    return {
        "qkv": (shape.width, qkv),
        "output": (q, {"o_proj": shape.width}),
        "gate_up": (shape.width, gate_up),
        "down": (shape.intermediate, {"down_proj": shape.width}),
    }


def _targets(shape: DecoderConfig, config: AdapterConfig) -> tuple[str, ...]:
    """The projections that get an adapter: those named, and one that is fused on disk if all of its parts are named."""
    outs = {name: fused for fused, (_, names) in projections(shape).items() for name in names}
    named = set(config.targets)
    whole = {name: set(FUSED[fused]) for name, fused in outs.items() if named >= set(FUSED[fused])}
    if unknown := sorted(named - outs.keys() - {part for parts in whole.values() for part in parts}):
        raise ConfigError(f"model.lora.targets: got {unknown}; allowed are {sorted(outs)}")
    chosen = (named & outs.keys()) | (whole.keys() if shape.fused else set())
    return tuple(sorted(chosen, key=[*config.targets, *outs].index))
