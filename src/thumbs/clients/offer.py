"""What a backend has on offer: its base models, their tokenizers, and what its runs are made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from thumbs.clients import types
from thumbs.clients.bases import Bases
from thumbs.clients.store import Store
from thumbs.errors import DataError, needs


class Offer:
    """The part of a backend that answers from its records."""

    def __init__(self, store: Store, bases: Bases) -> None:
        self.store, self.bases = store, bases

    def supported_models(self) -> list[types.SupportedModel]:
        """The bases that are offered; the context is in tokens."""
        found = []
        for name in self.bases.names:
            context = self.bases[name].shape.context
            found.append(
                types.SupportedModel(model_name=name, max_context_length=context, trainable=True, sampleable=True)
            )
        return found

    def tokenizer_folder(self, base_model: str) -> Path | None:
        """A folder with the tokenizer's files, as transformers loads them."""
        return self.bases[base_model].tokenizer_folder

    def tokenizer(self, base_model: str) -> Any:
        """The tokenizer of a base as transformers loads it."""
        with needs("hf", "the tokenizer as a Python object"):
            from transformers import AutoTokenizer  # takes seconds, and not every client asks

        return AutoTokenizer.from_pretrained(self.bases[base_model].tokenizer_folder)

    def info(self, run_id: str) -> types.GetInfoResponse:
        """Of a run, in memory or not."""
        run = self.store.run(run_id)
        if run is None:
            raise DataError(f"there is no model {run_id!r}")
        folder = self.tokenizer_folder(run.base_model)
        data = types.ModelData(arch="llama", model_name=run.base_model, tokenizer_id=str(folder))
        return types.GetInfoResponse(
            type="get_info",
            model_id=run_id,
            model_data=data,
            is_lora=True,
            lora_rank=run.rank,
            model_name=run.base_model,
        )
