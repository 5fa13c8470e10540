"""What the store holds, as a hosted service's REST interface tells it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from thumbs.clients import types
from thumbs.clients.futures import APIFuture
from thumbs.clients.tables import CheckpointRecord, ModelRecord
from thumbs.clients.types.records import CHECKPOINT_KINDS
from thumbs.storage import MissingError

if TYPE_CHECKING:
    from thumbs.clients.backend import Backend
    from thumbs.clients.bases import Base
    from thumbs.clients.store import Store


class RestClient:
    """Runs, checkpoints and sessions of one owner."""

    def __init__(self, backend: Backend, owner: str) -> None:
        self._backend, self._store, self._owner = backend, backend.store, owner

    def get_server_capabilities(self) -> APIFuture[types.GetServerCapabilitiesResponse]:
        """The base models that are offered by name."""
        return APIFuture.of(types.GetServerCapabilitiesResponse(supported_models=self._backend.bases.supported()))

    def get_training_run(self, training_run_id: str, access_scope: str = "owned") -> APIFuture[types.TrainingRun]:
        """One run; somebody else's where they published a checkpoint of it."""
        run = self._store.run(training_run_id)
        if run.owner != self._owner and not any(c.public for c in self._store.checkpoints.of_run(run.id)):
            raise MissingError(f"there is no model {training_run_id!r} of yours")
        return APIFuture.of(_training_run_of(self._store, run, self._owner))

    def get_training_run_by_tinker_path(
        self, tinker_path: str, access_scope: str = "owned"
    ) -> APIFuture[types.TrainingRun]:
        """The run that a checkpoint is of."""
        return self.get_training_run(types.ParsedCheckpointTinkerPath.from_tinker_path(tinker_path).training_run_id)

    def get_weights_info_by_tinker_path(self, tinker_path: str) -> APIFuture[types.WeightsInfoResponse]:
        """The base model and the adapter's settings of a checkpoint."""
        record = self._store.checkpoints.find(tinker_path, self._owner)
        return APIFuture.of(_weights_info_of(self._store.run(record.run_id)))

    def list_training_runs(
        self, limit: int = 20, offset: int = 0, access_scope: str = "owned", project_id: str | None = None
    ) -> APIFuture[types.TrainingRunsResponse]:
        """Runs, newest first."""
        runs, total = self._store.runs(self._owner, limit, offset)
        cursor = types.Cursor(offset=offset, limit=limit, total_count=total)
        listed = [_training_run_of(self._store, run, self._owner) for run in runs]
        return APIFuture.of(types.TrainingRunsResponse(training_runs=listed, cursor=cursor))

    def list_checkpoints(self, training_run_id: str) -> APIFuture[types.CheckpointsListResponse]:
        """Checkpoints of a run, newest first."""
        run = self._store.run(training_run_id, self._owner)
        found = [_checkpoint_of(record) for record in self._store.checkpoints.of_run(run.id)]
        return APIFuture.of(types.CheckpointsListResponse(checkpoints=found))

    def list_user_checkpoints(self, limit: int = 100, offset: int = 0) -> APIFuture[types.CheckpointsListResponse]:
        """Checkpoints of all runs, newest first."""
        records, total = self._store.checkpoints.page(self._owner, limit, offset)
        cursor = types.Cursor(offset=offset, limit=limit, total_count=total)
        found = [_checkpoint_of(record) for record in records]
        return APIFuture.of(types.CheckpointsListResponse(checkpoints=found, cursor=cursor))

    def delete_checkpoint(self, training_run_id: str, checkpoint_id: str) -> APIFuture[None]:
        """Deletes a checkpoint by its run and its kind/name."""
        return self.delete_checkpoint_from_tinker_path(f"tinker://{training_run_id}/{checkpoint_id}")

    def delete_checkpoint_from_tinker_path(self, tinker_path: str) -> APIFuture[None]:
        """Deletes a checkpoint."""
        return APIFuture.of(self._store.checkpoints.delete(self._own(tinker_path)))

    def publish_checkpoint_from_tinker_path(self, tinker_path: str) -> APIFuture[None]:
        """Lets others read a checkpoint."""
        return APIFuture.of(self._store.checkpoints.publish(self._own(tinker_path), True))

    def unpublish_checkpoint_from_tinker_path(self, tinker_path: str) -> APIFuture[None]:
        """Keeps it to its owner again."""
        return APIFuture.of(self._store.checkpoints.publish(self._own(tinker_path), False))

    def set_checkpoint_ttl_from_tinker_path(self, tinker_path: str, ttl_seconds: int | None) -> APIFuture[None]:
        """Lets a checkpoint expire after that many seconds; None: never."""
        return APIFuture.of(self._store.checkpoints.set_ttl(self._own(tinker_path), ttl_seconds))

    def list_sessions(
        self, limit: int = 20, offset: int = 0, access_scope: str = "owned"
    ) -> APIFuture[types.ListSessionsResponse]:
        """Ids of sessions, newest first."""
        sessions, _ = self._store.sessions(self._owner, limit, offset)
        return APIFuture.of(types.ListSessionsResponse(sessions=[session.id for session in sessions]))

    def get_session(self, session_id: str, access_scope: str = "owned") -> APIFuture[types.GetSessionResponse]:
        """The runs and samplers of a session."""
        session = self._store.session(session_id, self._owner)
        return APIFuture.of(
            types.GetSessionResponse(
                training_run_ids=[run.id for run in self._store.runs_of(session_id)],
                sampler_ids=[sampler.id for sampler in self._store.samplers_of(session_id)],
                user_metadata=session.user_metadata,
                display_name=session.display_name,
            )
        )

    def get_sampler(self, sampler_id: str) -> APIFuture[types.GetSamplerResponse]:
        """What a sampler samples from."""
        sampler = self._store.sampler(sampler_id, self._owner)
        return APIFuture.of(
            types.GetSamplerResponse(
                sampler_id=sampler.id, base_model=sampler.base_model, model_path=sampler.model_path
            )
        )

    def _own(self, tinker_path: str) -> str:
        return self._store.checkpoints.find(tinker_path, self._owner, own=True).path

    get_training_run_async = get_training_run
    get_training_run_by_tinker_path_async = get_training_run_by_tinker_path
    get_weights_info_by_tinker_path_async = get_weights_info_by_tinker_path
    list_training_runs_async = list_training_runs
    list_checkpoints_async = list_checkpoints
    list_user_checkpoints_async = list_user_checkpoints
    delete_checkpoint_async = delete_checkpoint
    delete_checkpoint_from_tinker_path_async = delete_checkpoint_from_tinker_path
    publish_checkpoint_from_tinker_path_async = publish_checkpoint_from_tinker_path
    unpublish_checkpoint_from_tinker_path_async = unpublish_checkpoint_from_tinker_path
    set_checkpoint_ttl_from_tinker_path_async = set_checkpoint_ttl_from_tinker_path
    list_sessions_async = list_sessions
    get_session_async = get_session
    get_sampler_async = get_sampler


def _checkpoint_of(record: CheckpointRecord) -> types.Checkpoint:
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


def _training_run_of(store: Store, run: ModelRecord, owner: str) -> types.TrainingRun:
    """A run with its newest checkpoints; somebody else sees those that are published alone."""
    found = [record for record in store.checkpoints.of_run(run.id) if record.public or run.owner == owner]
    newest = {record.kind: _checkpoint_of(record) for record in reversed(found)}
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


def _weights_info_of(run: ModelRecord) -> types.WeightsInfoResponse:
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
