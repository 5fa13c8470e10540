"""Bases that many adapters are sampled on."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from thumbs.config.model import ModelConfig
from thumbs.models.base import FrozenAdapter, Trunk
from thumbs.models.trunk import open_trunk

__all__ = ["SampledBases", "to_sample_from"]


class SampledBases:
    """Each base is read once, and held once, in the form in which it decodes. device: None is the fastest here."""

    def __init__(self, device: torch.device | None = None) -> None:
        self._device = device
        self._bases: dict[tuple[str, str, int], Trunk] = {}

    def base(self, model: ModelConfig, seed: int = 0) -> Trunk:
        """The base of the model, the same object at every call. seed: of a byte model, which is made of it."""
        key = model.name, model.dtype, seed if model.name.startswith("byte-") else 0
        if key not in self._bases:
            self._bases[key] = to_sample_from(open_trunk(model, seed=seed, trained=False, on=self._device))
        return self._bases[key]

    def adapter(self, model: ModelConfig, state: Mapping[str, Tensor], seed: int = 0) -> FrozenAdapter | None:
        """The adapter with these tensors under PEFT's names, to sample from on the model's base; None without one."""
        if model.lora is None:
            return None
        base = self.base(model, seed)
        adapter = base.new_adapter(model.lora, 0)
        adapter.load_peft_state(state)
        return base.freeze(adapter)


def to_sample_from(trunk: Trunk) -> Trunk:
    """The trunk in the form in which it decodes. On a card, where a copy would take as much again, it is the same."""
    return trunk if trunk.head_weight().is_cuda else trunk.frozen()
