"""What a service tells about its models, sessions, training runs and checkpoints."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from thumbs.clients.types.base import Response
from thumbs.errors import DataError

CheckpointType = Literal["training", "sampler", "external"]
CHECKPOINT_KINDS: dict[str, CheckpointType] = {
    "weights": "training",
    "sampler_weights": "sampler",
    "external_weights": "external",
}
"""The middle part of a checkpoint's path, and the type that listings give it."""


class SupportedModel(Response):
    """A base model; its context length is in tokens."""

    model_name: str | None = None
    max_context_length: int | None = None
    trainable: bool | None = None
    sampleable: bool | None = None


class GetServerCapabilitiesResponse(Response):
    """The base models that can be trained or sampled."""

    supported_models: list[SupportedModel]


class ModelData(Response):
    """A model's base and where its tokenizer comes from: a folder or a name on a hub."""

    arch: str | None = None
    model_name: str | None = None
    tokenizer_id: str | None = None


class GetInfoResponse(Response):
    """A model under training."""

    type: Literal["get_info"] | None = None
    model_data: ModelData
    model_id: str
    is_lora: bool | None = None
    lora_rank: int | None = None
    model_name: str | None = None


class SaveWeightsResponse(Response):
    """The path of a checkpoint to train on from."""

    path: str
    type: Literal["save_weights"] | None = None


class SaveWeightsForSamplerResponse(Response):
    """The path of a checkpoint to sample from."""

    path: str
    type: Literal["save_weights_for_sampler"] | None = None


class SaveWeightsExternalResponse(Response):
    """The path of a checkpoint for download."""

    path: str
    type: Literal["save_weights_external"] | None = None


class LoadWeightsResponse(Response):
    """What was loaded, and the model that it was loaded into."""

    path: str | None = None
    model_id: str | None = None
    type: Literal["load_weights"] | None = None


class WeightsInfoResponse(Response):
    """What a checkpoint was trained from, and how."""

    base_model: str
    is_lora: bool
    lora_rank: int | None = None
    train_unembed: bool | None = None
    train_mlp: bool | None = None
    train_attn: bool | None = None


class Checkpoint(Response):
    """A saved checkpoint; `checkpoint_id` is the kind and the name of its path, expires_at None is never."""

    checkpoint_id: str
    checkpoint_type: CheckpointType
    time: datetime
    tinker_path: str
    size_bytes: int | None = None
    public: bool = False
    user_metadata: dict[str, str] | None = None
    expires_at: datetime | None = None


class ParsedCheckpointTinkerPath(Response):
    """The parts of tinker://<training run>/<kind>/<name>."""

    tinker_path: str
    training_run_id: str
    checkpoint_type: CheckpointType
    checkpoint_id: str

    @classmethod
    def from_tinker_path(cls, tinker_path: str) -> ParsedCheckpointTinkerPath:
        """Parse a path, also one that begins with mint://; raises DataError if it has another form."""
        scheme, _, rest = tinker_path.partition("://")
        parts = rest.split("/")
        if scheme not in ("tinker", "mint") or len(parts) != 3 or not all(parts) or parts[1] not in CHECKPOINT_KINDS:
            kinds = ", ".join(CHECKPOINT_KINDS)
            raise DataError(
                f"got {tinker_path!r}; a checkpoint is tinker://<training run>/<kind>/<name>, kind: {kinds}"
            )
        return cls(
            tinker_path=tinker_path,
            training_run_id=parts[0],
            checkpoint_type=CHECKPOINT_KINDS[parts[1]],
            checkpoint_id=f"{parts[1]}/{parts[2]}",
        )


class Cursor(Response):
    """Which part of a listing this is."""

    offset: int
    limit: int
    total_count: int


class CheckpointsListResponse(Response):
    """Checkpoints, newest first; no cursor where they are all."""

    checkpoints: list[Checkpoint]
    cursor: Cursor | None = None


class ExternalWeightsUrlsResponse(Response):
    """Where to fetch each file of a checkpoint, by its path inside, until when."""

    urls: dict[str, str]
    expires: datetime


class TrainingRun(Response):
    """A model that is or was under training."""

    training_run_id: str
    base_model: str
    model_owner: str
    is_lora: bool
    corrupted: bool = False
    lora_rank: int | None = None
    last_request_time: datetime
    last_checkpoint: Checkpoint | None = None
    last_sampler_checkpoint: Checkpoint | None = None
    user_metadata: dict[str, str] | None = None


class TrainingRunsResponse(Response):
    """A page of training runs."""

    training_runs: list[TrainingRun]
    cursor: Cursor


class GetSamplerResponse(Response):
    """What a sampler samples from."""

    sampler_id: str
    base_model: str
    model_path: str | None = None


class GetSessionResponse(Response):
    """The training runs and samplers of a session."""

    training_run_ids: list[str]
    sampler_ids: list[str]
    user_metadata: dict[str, str] | None = None
    display_name: str | None = None


class ListSessionsResponse(Response):
    """Ids of sessions."""

    sessions: list[str]
