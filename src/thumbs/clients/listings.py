"""What a backend tells clients: its base models, and records of the store in the form in which clients see them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from thumbs.clients import types
from thumbs.clients.bases import Bases
from thumbs.clients.store import Store
from thumbs.clients.tables import CheckpointRecord, ModelRecord
from thumbs.clients.types.records import CHECKPOINT_KINDS
from thumbs.errors import DataError, needs


def checkpoint_of(record: CheckpointRecord) -> types.Checkpoint:
    """A checkpoint, as listings show it."""
    return types.Checkpoint(
        checkpoint_id=f"{record.kind}/{record.name}",
        checkpoint_type=CHECKPOINT_KINDS[record.kind],
        time=record.created,
        tinker_path=record.path,
        size_bytes=record.size_bytes,
        public=record.public,
        user_metadata=record.user_metadata,
        expires_at=record.expires,
    )


def training_run_of(store: Store, run: ModelRecord, *, only_public: bool = False) -> types.TrainingRun:
    """A run with its newest checkpoints; `only_public`: of those that are published."""
    found = [record for record in store.checkpoints.of_run(run.id) if record.public or not only_public]
    newest = {kind: next((r for r in found if r.kind == kind), None) for kind in ("weights", "sampler_weights")}
    trained, sampled = (None if record is None else checkpoint_of(record) for record in newest.values())
    return types.TrainingRun(
        training_run_id=run.id,
        base_model=run.base_model,
        model_owner=run.owner,
        is_lora=True,
        lora_rank=run.rank,
        last_request_time=run.last_request,
        last_checkpoint=trained,
        last_sampler_checkpoint=sampled,
        user_metadata=run.user_metadata,
    )


def weights_info_of(run: ModelRecord) -> types.WeightsInfoResponse:
    """What the checkpoints of a run were trained from."""
    return types.WeightsInfoResponse(
        base_model=run.base_model,
        is_lora=True,
        lora_rank=run.rank,
        train_unembed=run.train_unembed,
        train_mlp=run.train_mlp,
        train_attn=run.train_attn,
    )


class Catalog:
    """What a backend has on offer, and what its runs are made of."""

    def __init__(self, store: Store, bases: Bases) -> None:
        self.store, self.bases = store, bases

    def supported_models(self) -> list[types.SupportedModel]:
        """The bases that are offered; the context is in tokens."""
        lengths = {name: self.bases[name].shape.context for name in self.bases.names}
        return [
            types.SupportedModel(model_name=name, max_context_length=length, trainable=True, sampleable=True)
            for name, length in lengths.items()
        ]

    def tokenizer_folder(self, base_model: str) -> Path | None:
        """A folder with the tokenizer's files, as transformers loads them."""
        return self.bases[base_model].tokenizer_folder

    def tokenizer(self, base_model: str) -> Any:
        """The tokenizer of a base as transformers loads it."""
        with needs("hf", "the tokenizer as a Python object"):
            from transformers import AutoTokenizer  # takes seconds, and not every client asks

        return AutoTokenizer.from_pretrained(self.bases[base_model].tokenizer_folder)

    def info(self, run_id: str) -> types.GetInfoResponse:
        """What is known of a run, whether or not its model is in memory."""
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
