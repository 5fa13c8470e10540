"""Training one model: every call is queued at once, and they run in the order in which they were made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Protocol

from thumbs.clients import types
from thumbs.clients.backend import Backend
from thumbs.clients.checkpoint_store import SaveOptions
from thumbs.clients.custom_loss import CustomLoss
from thumbs.clients.futures import APIFuture, Ready, submitted
from thumbs.clients.rest_client import info_of
from thumbs.clients.sampling_client import SamplingClient

Metadata = Mapping[str, str] | None


class Session(Protocol):
    """What a training client needs of the service client that made it."""

    backend: Backend

    def next_sampler_id(self) -> str: ...
    def base_of(self, model_id: str) -> str: ...
    def create_sampling_client(self, model_path: str) -> SamplingClient: ...


class TrainingClient(Ready):
    """A model under training. Each method that returns a future has a twin, `…_async`, for coroutines."""

    def __init__(self, service: Session, model_id: str, created: Future[Any]) -> None:
        self.service, self.model_id, self._created = service, model_id, created
        self._backend = service.backend

    def forward(
        self,
        data: Sequence[types.Datum],
        loss_fn: str,
        loss_fn_config: Mapping[str, float | str] | None = None,
    ) -> APIFuture[types.ForwardBackwardOutput]:
        """Loss and logprobs, without gradients."""
        return APIFuture(
            self._backend.forward_backward(self.model_id, None, list(data), loss_fn, loss_fn_config, forward_only=True)
        )

    def forward_backward(
        self,
        data: Sequence[types.Datum],
        loss_fn: str,
        loss_fn_config: Mapping[str, float | str] | None = None,
    ) -> APIFuture[types.ForwardBackwardOutput]:
        """Adds the gradients of a loss, a sum over tokens and datums: see docs/service.md for the names."""
        return APIFuture(self._backend.forward_backward(self.model_id, None, list(data), loss_fn, loss_fn_config))

    def forward_backward_custom(
        self, data: Sequence[types.Datum], loss_fn: CustomLoss, *, loss_type_input: str = "logprobs"
    ) -> APIFuture[types.ForwardBackwardOutput]:
        """Adds the gradients of loss_fn(data, logprobs) → (loss, metrics); the logprobs are torch tensors."""
        return APIFuture(self._backend.forward_backward_custom(self.model_id, list(data), loss_fn))

    def optim_step(
        self, optim_params: types.AdamParams | None = None, *, adam_params: types.AdamParams | None = None
    ) -> APIFuture[types.OptimStepResponse]:
        """One AdamW step with the gradients added up since the last one."""
        return APIFuture(
            self._backend.optim_step(self.model_id, None, optim_params or adam_params or types.AdamParams())
        )

    def save_state(
        self, name: str, ttl_seconds: int | None = None, overwrite: bool = False, user_metadata: Metadata = None
    ) -> APIFuture[types.SaveWeightsResponse]:
        """Saves weights and optimizer state as tinker://<model>/weights/<name>."""
        options: SaveOptions = {"overwrite": overwrite, "ttl_seconds": ttl_seconds, "user_metadata": user_metadata}
        saved = self._backend.save(self.model_id, None, "weights", name, **options)
        return APIFuture(saved, lambda path: types.SaveWeightsResponse(path=path, type="save_weights"))

    def load_state(self, path: str, weights_access_token: str | None = None) -> APIFuture[types.LoadWeightsResponse]:
        """Takes the weights of a checkpoint; the optimizer starts afresh."""
        return self._load(path, optimizer=False)

    def load_state_with_optimizer(
        self, path: str, weights_access_token: str | None = None
    ) -> APIFuture[types.LoadWeightsResponse]:
        """Takes the weights of a checkpoint and the state of its optimizer."""
        return self._load(path, optimizer=True)

    def save_weights_for_sampler(
        self, name: str, ttl_seconds: int | None = None, user_metadata: Metadata = None
    ) -> APIFuture[types.SaveWeightsForSamplerResponse]:
        """Saves weights to sample from as tinker://<model>/sampler_weights/<name>."""
        saved = self._backend.save(
            self.model_id, None, "sampler_weights", name, ttl_seconds=ttl_seconds, user_metadata=user_metadata
        )
        return APIFuture(
            saved, lambda path: types.SaveWeightsForSamplerResponse(path=path, type="save_weights_for_sampler")
        )

    def save_weights_external(
        self, name: str, ttl_seconds: int | None = None
    ) -> APIFuture[types.SaveWeightsExternalResponse]:
        """Saves weights for others to read, in PEFT's layout, as tinker://<model>/external_weights/<name>."""
        saved = self._backend.save(self.model_id, None, "external_weights", name, ttl_seconds=ttl_seconds)
        return APIFuture(saved, lambda path: types.SaveWeightsExternalResponse(path=path))

    def save_weights_and_get_sampling_client(
        self,
        name: str | None = None,
        retry_config: object = None,
        record_stability_info: bool = False,
        kind: str = "snapshot",
    ) -> SamplingClient:
        """A sampler of the weights as they are after everything asked for so far; `name` means nothing here.

        record_stability_info: for a loss that is not here (`stable_reinforce`); samples are the same without it.
        """
        sampler_id = self.service.next_sampler_id()
        return SamplingClient(
            self._backend,
            sampler_id,
            self.service.base_of(self.model_id),
            self._backend.snapshot(self.model_id, None, sampler_id),
        )

    def create_sampling_client(
        self, model_path: str, retry_config: object = None, record_stability_info: bool = False
    ) -> SamplingClient:
        """A sampler of a checkpoint."""
        return self.service.create_sampling_client(model_path=model_path)

    def get_info(self) -> types.GetInfoResponse:
        """The model's base, tokenizer and rank; raises what its creation raised."""
        self._created.result()
        run = self._backend.store.run(self.model_id)
        return info_of(run, self._backend.bases[run.base_model])

    def get_tokenizer(self) -> Any:
        """The tokenizer of the base model, as transformers loads it."""
        return self._backend.bases[self.service.base_of(self.model_id)].transformers_tokenizer()

    forward_async = submitted(forward)
    forward_backward_async = submitted(forward_backward)
    forward_backward_custom_async = submitted(forward_backward_custom)
    optim_step_async = submitted(optim_step)
    save_state_async = submitted(save_state)
    load_state_async = submitted(load_state)
    load_state_with_optimizer_async = submitted(load_state_with_optimizer)
    save_weights_for_sampler_async = submitted(save_weights_for_sampler)
    save_weights_external_async = submitted(save_weights_external)
    save_weights_and_get_sampling_client_async = save_weights_and_get_sampling_client
    create_sampling_client_async = create_sampling_client

    async def get_info_async(self) -> types.GetInfoResponse:
        """Does the same as `get_info`, without blocking."""
        return self.get_info()

    def _load(self, path: str, *, optimizer: bool) -> APIFuture[types.LoadWeightsResponse]:
        loaded = self._backend.load(self.model_id, None, path, optimizer)
        return APIFuture(
            loaded, lambda _: types.LoadWeightsResponse(path=path, model_id=self.model_id, type="load_weights")
        )
