"""What vLLM's workers are taught: to take weights from a folder in place, and to tell which ones they compute with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from thumbs.models.tensor_files import checksum


class WeightsInPlace:
    """vLLM mixes it into its worker (`worker_extension_cls`); `collective_rpc` calls its methods by name."""

    get_model: Any
    model_runner: Any
    reload_weights: Any

    def read_folder(self, folder: str) -> None:
        """Reads a Hugging Face folder into the weights that are there.

        On a CPU vLLM multiplies by packed copies. Those of an output matrix that is the input embedding stay the old
        ones when it reads weights again (0.32), so they are packed anew.
        """
        self.reload_weights(weights_path=folder)
        for _, module in _packed(self.get_model()):
            if module.weight.numel():
                module.quant_method.process_weights_after_loading(module)

    def held_checksums(self, adapter: int | None) -> dict[str, str]:
        """SHA-256 of what products are computed with, by the names in the folder: of the whole model, or of an adapter,
        whose B matrices vLLM keeps multiplied by alpha / rank. An engine of one GPU holds all of each.
        """
        tensors = model_tensors(self.get_model()) if adapter is None else self._adapter_tensors(adapter)
        return {name: checksum(tensor) for name, tensor in tensors}

    def _adapter_tensors(self, number: int) -> Iterator[tuple[str, Tensor]]:
        manager = self.model_runner.lora_manager._adapter_manager
        place, rank = manager.lora_index_to_id.index(number), manager.get_adapter(number).rank
        for name, module in manager.modules.items():
            if not isinstance(getattr(module, "lora_a_stacked", None), tuple):
                continue  # not a linear layer
            names = _published_names(self.get_model(), name)
            for own, a, b in zip(names, module.lora_a_stacked, module.lora_b_stacked, strict=True):
                yield f"base_model.model.{own}.lora_A.weight", a[place, 0, :rank]
                yield f"base_model.model.{own}.lora_B.weight", b[place, 0, :, :rank]


def model_tensors(model: Any) -> Iterator[tuple[str, Tensor]]:
    """Parameters of a model of vLLM as they are in the folder: fused matrices apart, without the padding of the
    vocabulary. What is packed is found by multiplying the identity, which is exact.
    """
    packed = dict(_packed(model))
    for name, module in model.named_modules(remove_duplicate=False):
        for kind, parameter in module.named_parameters(recurse=False):
            whole = _product_weight(module) if kind == "weight" and name in packed else parameter
            whole = whole[: getattr(module, "org_vocab_size", None)]
            names = _published_names(model, name.replace(".base_layer", ""))
            sizes = module.output_partition_sizes if len(names) > 1 else [len(whole)]
            for own, tensor in zip(names, whole.split(sizes), strict=True):
                yield f"{own}.{kind}", tensor


def _packed(model: Any) -> Iterator[tuple[str, Any]]:
    """The modules that multiply by a packed copy of their weight, with their names; an embedding only reads its own."""
    for name, module in model.named_modules(remove_duplicate=False):
        if hasattr(module, "cpu_linear") and not name.endswith("embed_tokens"):
            yield name, module


def _product_weight(module: Any) -> Tensor:
    """The matrix [out, in] that a linear layer multiplies by."""
    like = next(module.parameters())
    width = getattr(module, "input_size_per_partition", None) or module.embedding_dim
    return module.quant_method.apply(module, torch.eye(width, dtype=like.dtype), None).T


def _published_names(model: Any, name: str) -> list[str]:
    """The names in the folder of the matrices that one of vLLM's is made of."""
    above, _, last = name.rpartition(".")
    return [f"{above}.{each}" for each in getattr(model, "packed_modules_mapping", {}).get(last, ())] or [name]
