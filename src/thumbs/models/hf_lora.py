"""Low-rank adapters on a model of transformers: PEFT's layers compute them, with weights that are held here.

PEFT's layers are put into the model once for each kind of adapter (rank, targets, layers), with weights on the meta
device, which hold no numbers. The weights of an adapter take their place while it computes, so that any number of
adapters, trained or frozen, share one model.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from thumbs.config.model import ATTENTION, FEED_FORWARD, AdapterConfig
from thumbs.errors import ConfigError, needs
from thumbs.models.lora import check_peft_state, peft_config

_IN_LAYER = re.compile(r"\.(\d+)\.")
_IN_ATTENTION = re.compile(r"attn|attention")


@dataclass(frozen=True)
class Slot:
    """A place for adapters of one kind in a model. shapes: of each weight by its name in the model, without the slot's
    own; targets, layers: how adapter_config.json names the adapted layers; transposed: they store W as [in, out].
    """

    name: str
    lora: AdapterConfig
    shapes: Mapping[str, tuple[int, int]]
    targets: tuple[str, ...]
    layers: tuple[int, ...] | None
    transposed: bool


class Placed(NamedTuple):
    """The weights of an adapter by their names in the model."""

    slot: Slot
    weights: dict[str, Tensor]


class HfLora(nn.Module):
    """An adapter: A and B of each adapted layer, float32."""

    def __init__(self, slot: Slot, seed: int) -> None:
        super().__init__()
        self.slot = slot
        self.weights = nn.ParameterDict()
        generator = torch.Generator().manual_seed(seed)
        for name, shape in slot.shapes.items():
            # As PEFT: A uniform within 1/√in (Kaiming with a = √5); B zero, so training starts at the base.
            bound = 1 / math.sqrt(shape[1]) if ".lora_A." in name else 0.0
            self.weights[_key(name)] = nn.Parameter((torch.rand(shape, generator=generator) * 2 - 1) * bound)

    def placed(self) -> Placed:
        """The weights themselves."""
        return Placed(self.slot, {name: self.weights[_key(name)] for name in self.slot.shapes})

    def peft_state(self) -> dict[str, Tensor]:
        """Tensors under PEFT's names."""
        return {f"base_model.model.{name}": weight.detach() for name, weight in self.placed().weights.items()}

    @torch.no_grad()
    def load_peft_state(self, state: Mapping[str, Tensor]) -> None:
        """Reads tensors under PEFT's names; raises ModelError and changes nothing unless `check_peft_state` passes."""
        shapes = {f"base_model.model.{name}": shape for name, shape in self.slot.shapes.items()}
        check_peft_state(shapes, self.slot.targets, state)
        for name, weight in self.placed().weights.items():
            weight.copy_(state[f"base_model.model.{name}"])

    def peft_config(self, base: str | None) -> dict[str, Any]:
        """adapter_config.json for PEFT."""
        slot = self.slot
        config = peft_config(slot.lora, base, slot.layers)
        return config | {"target_modules": list(slot.targets), "fan_in_fan_out": slot.transposed}


class Slots:
    """The slots of a model, and which of them computes now."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._slots: dict[AdapterConfig, Slot] = {}
        self._active: str | None = None
        base = model.base_model
        self._prefix = next(f"{name}." if name else "" for name, module in model.named_modules() if module is base)

    def of(self, lora: AdapterConfig) -> Slot:
        """The slot of such adapters; raises ConfigError for targets that the model has not."""
        if lora not in self._slots:
            self._slots[lora] = self._made(lora)
        return self._slots[lora]

    def run(self, adapter: Placed | None, **inputs: Any) -> Any:
        """What the model without its output layer gives, with the adapter or with none."""
        name, trunk = None if adapter is None else adapter.slot.name, self._model.base_model
        if self._slots and name != self._active:
            for layer in self._layers():
                layer.enable_adapters(name is not None)
                if name is not None:
                    layer.set_adapter(name)
            self._active = name
        if adapter is None:
            return trunk(**inputs)
        weights = {_in_slot(key, adapter.slot.name): weight for key, weight in adapter.weights.items()}
        weights = {key.removeprefix(self._prefix): weight for key, weight in weights.items()}
        return functional_call(trunk, weights, kwargs=inputs, tie_weights=False)

    def deltas(self, adapter: Placed) -> dict[str, Tensor]:
        """What the adapter adds to each weight that it adapts, float32, by the weight's name in the plain model."""
        scale, deltas = adapter.slot.lora.alpha / adapter.slot.lora.rank, {}
        for name in (name for name in adapter.weights if ".lora_A." in name):
            module = name.partition(".lora_A.")[0]
            down, up = adapter.weights[name].float(), adapter.weights[f"{module}.lora_B.weight"].float()
            delta = scale * up @ down
            transposed = getattr(self._model.get_submodule(module), "fan_in_fan_out", False)
            deltas[f"{module}.weight"] = delta.T if transposed else delta
        return deltas

    def _layers(self) -> list[Any]:
        from peft.tuners.tuners_utils import BaseTunerLayer

        return [module for module in self._model.modules() if isinstance(module, BaseTunerLayer)]

    def _made(self, lora: AdapterConfig) -> Slot:
        with needs("hf", f"an adapter of {type(self._model).__name__}"):
            import peft

        linear = _without_experts(_linear_layers(self._model), self._model)
        chosen = _chosen(linear, lora, type(self._model).__name__)
        name = f"slot{len(self._slots)}"
        alpha: Any = lora.alpha  # PEFT takes any number, and says int
        config = peft.LoraConfig(r=lora.rank, lora_alpha=alpha, target_modules=list(chosen), lora_dropout=0.0)
        wanted = {parameter: parameter.requires_grad for parameter in self._model.parameters()}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it tells that it sets fan_in_fan_out, as it must
            peft.inject_adapter_in_model(config, self._model, name, low_cpu_mem_usage=True)
        for parameter, grad in wanted.items():
            parameter.requires_grad_(grad)
        self._active = name
        shapes = {
            key.replace(f".{name}.", "."): (parameter.shape[0], parameter.shape[1])
            for key, parameter in self._model.named_parameters()
            if f".{name}." in key
        }
        targets, layers = _named(linear, chosen, lora)
        return Slot(name, lora, shapes, targets, layers, any(isinstance(linear[key], Conv1D) for key in chosen))


def plain_name(name: str) -> str:
    """The name that a parameter of the base has where there are no adapters."""
    return name.replace(".base_layer.", ".")


def _linear_layers(model: PreTrainedModel) -> dict[str, nn.Module]:
    """The linear layers of the model's blocks by their names."""
    plain: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | Conv1D) and _IN_LAYER.search(name) and ".lora_" not in name:
            plain[name.removesuffix(".base_layer")] = module
    return plain


def _without_experts(linear: Mapping[str, nn.Module], model: PreTrainedModel) -> dict[str, nn.Module]:
    """The modules whose names PEFT does not take for parts of experts, which transformers holds as one tensor each."""
    from peft import LoraConfig as PeftConfig
    from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers

    def kept(leaf: str) -> bool:
        config = PeftConfig(target_modules=[leaf])
        try:
            convert_peft_config_for_transformers(config, model, None)
        except ValueError:  # a part of what is fused
            return False
        return leaf in (config.target_modules or ())

    leaves = {leaf: kept(leaf) for leaf in {name.rpartition(".")[2] for name in linear}}
    return {name: module for name, module in linear.items() if leaves[name.rpartition(".")[2]]}


def _chosen(linear: Mapping[str, nn.Module], lora: AdapterConfig, model: str) -> list[str]:
    """Names of the layers that get an adapter.

    The four names of attention together mean all linear layers of attention, whatever a family calls them, and the
    three of the feed-forward part all others; any other name must be there.
    """
    targets, families = set(lora.targets), []
    for names, inside in ((ATTENTION, True), (FEED_FORWARD, False)):
        if targets >= set(names):
            families.append(inside)
            targets -= set(names)
    leaves = {name.rpartition(".")[2] for name in linear}
    if unknown := sorted(targets - leaves):
        raise ConfigError(
            f"model.lora.targets: {model} has no {', '.join(unknown)}; allowed are {', '.join(sorted(leaves))}, "
            f"{', '.join(ATTENTION)} for all of attention, and {', '.join(FEED_FORWARD)} for all of the rest"
        )
    first = 0 if lora.layers is None else 1 + max(_layer_of(name) for name in linear) - lora.layers
    chosen = [
        name
        for name in linear
        if _layer_of(name) >= first
        and (name.rpartition(".")[2] in targets or bool(_IN_ATTENTION.search(name)) in families)
    ]
    if not chosen:
        raise ConfigError(f"model.lora.targets: none of the linear layers of {model} is meant; {', '.join(leaves)} are")
    return chosen


def _named(
    linear: Mapping[str, nn.Module], chosen: Sequence[str], lora: AdapterConfig
) -> tuple[tuple[str, ...], tuple[int, ...] | None]:
    """The chosen layers as PEFT is told of them: by last names and layers where these mean no others, else in full."""
    leaves = {name.rpartition(".")[2] for name in chosen}
    layers = sorted({_layer_of(name) for name in chosen})
    meant = [name for name in linear if name.rpartition(".")[2] in leaves and _layer_of(name) in layers]
    if len(meant) != len(chosen):
        return tuple(chosen), None
    return tuple(sorted(leaves)), None if lora.layers is None else tuple(layers)


def _layer_of(name: str) -> int:
    found = _IN_LAYER.search(name)
    return int(found[1]) if found else -1


def _in_slot(name: str, slot: str) -> str:
    return re.sub(r"\.(lora_[AB])\.", rf".\1.{slot}.", name)


def _key(name: str) -> str:
    """A name as a key of a ParameterDict, which takes no dots."""
    return name.replace(".", "-")
