"""Records of the store in the form in which clients see them."""

from __future__ import annotations

from thumbs.clients import types
from thumbs.clients.store import Store
from thumbs.clients.tables import CheckpointRecord, RunRecord
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


def training_run_of(store: Store, run: RunRecord, *, only_public: bool = False) -> types.TrainingRun:
    """A run with its newest checkpoints; `only_public`: of those that are published."""
    found = [record for record in store.checkpoints_of(run.id) if record.public or not only_public]
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


def weights_info_of(run: RunRecord) -> types.WeightsInfoResponse:
    """What the checkpoints of a run were trained from."""
    return types.WeightsInfoResponse(
        base_model=run.base_model,
        is_lora=True,
        lora_rank=run.rank,
        train_unembed=run.train_unembed,
        train_mlp=run.train_mlp,
        train_attn=run.train_attn,
    )
