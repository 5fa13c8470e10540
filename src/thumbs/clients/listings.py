"""Records of the store in the form in which clients see them."""

from __future__ import annotations

from thumbs.clients import types
from thumbs.clients.bases import Base
from thumbs.clients.store import Store
from thumbs.clients.tables import CheckpointRecord, ModelRecord
from thumbs.clients.types.records import CHECKPOINT_KINDS


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


def training_run_of(store: Store, run: ModelRecord, owner: str) -> types.TrainingRun:
    """A run with its newest checkpoints; somebody else sees those that are published alone."""
    found = [record for record in store.checkpoints.of_run(run.id) if record.public or run.owner == owner]
    newest = {record.kind: checkpoint_of(record) for record in reversed(found)}
    return types.TrainingRun(
        training_run_id=run.id,
        base_model=run.base_model,
        model_owner=run.owner,
        is_lora=True,
        lora_rank=run.rank,
        last_request_time=run.last_request,
        last_checkpoint=newest.get("weights"),
        last_sampler_checkpoint=newest.get("sampler_weights"),
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


def info_of(run: ModelRecord, base: Base) -> types.GetInfoResponse:
    """What is known of a model, whether or not it is in memory."""
    data = types.ModelData(arch="llama", model_name=run.base_model, tokenizer_id=str(base.tokenizer_folder))
    return types.GetInfoResponse(
        type="get_info",
        model_id=run.id,
        model_data=data,
        is_lora=True,
        lora_rank=run.rank,
        model_name=run.base_model,
    )
