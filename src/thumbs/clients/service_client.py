"""The Tinker surface in process: no server, no key. Code for a hosted service runs after a change of one import."""

from __future__ import annotations

import atexit
import itertools
import logging
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from thumbs.clients import types
from thumbs.clients.backend import Backend
from thumbs.clients.bases import local_models
from thumbs.clients.futures import APIFuture, Ready
from thumbs.clients.rest_client import RestClient
from thumbs.clients.sampling_client import SamplingClient
from thumbs.clients.store import Store
from thumbs.clients.training_client import TrainingClient

log = logging.getLogger(__name__)

OWNER = "local"
STORE = "THUMBS_STORE"

Metadata = Mapping[str, str] | None

_shared: list[Backend] = []
_lock = threading.Lock()


def store_folder() -> Path:
    """Where checkpoints are kept: THUMBS_STORE, else ~/.thumbs/store."""
    return Path(os.environ.get(STORE) or "~/.thumbs/store").expanduser()


def shared_backend() -> Backend:
    """The backend of this process, made at the first call; all clients share its base models."""
    with _lock:
        if not _shared:
            _shared.append(Backend(Store(store_folder()), local_models(), closed=False))
            atexit.register(_shared[0].close)
        return _shared[0]


class ServiceClient(Ready):
    """Makes training and sampling clients. Usable in a `with` block.

    Base models are those of THUMBS_ALIASES, smollm2-135m, and whatever `ModelConfig.name` takes: a folder, a .gguf
    file, a name on the hub. Arguments of hosted clients that mean nothing here are ignored, with a word in the log.
    """

    def __init__(self, user_metadata: Metadata = None, *, backend: Backend | None = None, **hosted: Any) -> None:
        if ignored := sorted(name for name, value in hosted.items() if value is not None):
            log.warning("ServiceClient runs in this process; it makes no use of %s", ", ".join(ignored))
        self.backend = backend or shared_backend()
        self.session_id = self.backend.store.add_session(OWNER, user_metadata=user_metadata)
        self._models, self._samplers = itertools.count(), itertools.count()
        self._bases: dict[str, str] = {}

    def create_lora_training_client(
        self,
        base_model: str,
        rank: int = 32,
        seed: int | None = None,
        train_mlp: bool = True,
        train_attn: bool = True,
        train_unembed: bool = True,
        user_metadata: Metadata = None,
    ) -> TrainingClient:
        """A fresh adapter on a base model. `train_unembed` is stored and reported, but embeddings never get an
        adapter.
        """
        lora = types.LoraConfig(
            rank=rank, seed=seed, train_unembed=train_unembed, train_mlp=train_mlp, train_attn=train_attn
        )
        model_id = self._next_model_id()
        created = self.backend.create_model(model_id, self.session_id, OWNER, base_model, lora, user_metadata)
        return TrainingClient(self, model_id, created)

    def create_training_client_from_state(
        self, path: str, base_model: str | None = None, user_metadata: Metadata = None
    ) -> TrainingClient:
        """A model with the weights of a checkpoint and a fresh optimizer."""
        return self._from(path, optimizer=False, user_metadata=user_metadata)

    def create_training_client_from_state_with_optimizer(
        self, path: str, base_model: str | None = None, user_metadata: Metadata = None
    ) -> TrainingClient:
        """A model that goes on from a checkpoint as if it had not stopped."""
        return self._from(path, optimizer=True, user_metadata=user_metadata)

    def create_sampling_client(
        self,
        model_path: str | None = None,
        base_model: str | None = None,
        retry_config: object = None,
        record_stability_info: bool = False,
    ) -> SamplingClient:
        """A sampler of a checkpoint, or of a bare base model.

        record_stability_info: for a loss that is not here (`stable_reinforce`); samples are the same without it.
        """
        sampler_id = self.next_sampler_id()
        self.backend.samplers.open(sampler_id, self.session_id, OWNER, base_model=base_model, path=model_path)
        return SamplingClient(self.backend, sampler_id, self.backend.store.sampler(sampler_id).base_model)

    def create_rest_client(self) -> RestClient:
        """What the store holds: runs, checkpoints, sessions."""
        return RestClient(self.backend, OWNER)

    def get_server_capabilities(self) -> types.GetServerCapabilitiesResponse:
        """The base models that are offered by name."""
        return types.GetServerCapabilitiesResponse(supported_models=self.backend.bases.supported())

    async def get_server_capabilities_async(self) -> types.GetServerCapabilitiesResponse:
        """Does the same as `get_server_capabilities`, without blocking."""
        return self.get_server_capabilities()

    create_lora_training_client_async = create_lora_training_client
    create_training_client_from_state_async = create_training_client_from_state
    create_training_client_from_state_with_optimizer_async = create_training_client_from_state_with_optimizer
    create_sampling_client_async = create_sampling_client

    def close(self, status: str = "success", detail: str | None = None) -> APIFuture[None]:
        """Ends the session: its models and samplers leave memory, its checkpoints stay."""
        self.backend.end_session(self.session_id, status)
        return APIFuture.of(None)

    def __enter__(self) -> ServiceClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close("success" if error is None else "errored")

    def next_sampler_id(self) -> str:
        """An id that this session has not used."""
        return f"{self.session_id}:sample:{next(self._samplers)}"

    def base_of(self, model_id: str) -> str:
        """The name of the base model of one of this session's models."""
        if model_id not in self._bases:
            self._bases[model_id] = self.backend.store.run(model_id).base_model
        return self._bases[model_id]

    def _next_model_id(self) -> str:
        return f"{self.session_id}:train:{next(self._models)}"

    def _from(self, path: str, *, optimizer: bool, user_metadata: Metadata) -> TrainingClient:
        model_id = self._next_model_id()
        created = self.backend.create_from(model_id, self.session_id, OWNER, path, optimizer, user_metadata)
        return TrainingClient(self, model_id, created)
