"""One way to call any client with the Tinker surface: ours in process, or an SDK's over HTTP.

The SDK checks the classes of what it is given, so datums and prompts are rebuilt with its own where need be.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import AsyncIterator, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from thumbs.clients import types
from thumbs.clients.service_client import ServiceClient
from thumbs.errors import ConfigError, DataError
from thumbs.recipe.futures import call

if TYPE_CHECKING:
    from thumbs.recipe.checkpoints import CheckpointRecord


@contextlib.asynccontextmanager
async def connected(service_client: Any, base_url: str | None) -> AsyncIterator[Any]:
    """The given service client, or one made for the block by `connect`.

    The models of one that was made for the block leave memory after it; checkpoints stay.
    """
    if service_client is not None:
        yield service_client
        return
    made = await call(connect, base_url)
    status = "errored"
    try:
        yield made
        status = "success"
    finally:
        if hasattr(made, "close"):  # earlier SDKs have none
            await call(made.close, status)


def connect(base_url: str | None) -> Any:
    """A service client: ours in process, or with a `base_url` the tinker SDK's; ConfigError where that is missing."""
    if base_url is None:
        return ServiceClient()
    try:
        tinker = importlib.import_module("tinker")
    except ImportError:
        raise ConfigError(
            f"base_url={base_url!r} needs the tinker SDK: `pip install tinker`; base_url=None trains in this process"
        ) from None
    return tinker.ServiceClient(base_url=base_url)


def types_of(client: Any) -> ModuleType:
    """The module with the record classes that this client takes: the SDK's for its clients, else ours."""
    if any(cls.__module__.split(".")[0] == "tinker" for cls in type(client).__mro__):
        return importlib.import_module("tinker").types
    return types


def to_model_input(model_input: Any, target: ModuleType) -> Any:
    """The same tokens as a ModelInput of `target`; raises DataError where a chunk is not text."""
    if isinstance(model_input, target.ModelInput):
        return model_input
    chunks = []
    for index, chunk in enumerate(model_input.chunks):
        if not hasattr(chunk, "tokens"):
            raise DataError(
                f"chunk {index} of a model input is a {type(chunk).__name__}; build inputs that are not text with the "
                f"classes of {target.__name__}, which this client takes"
            )
        chunks.append(target.EncodedTextChunk(tokens=[int(token) for token in chunk.tokens]))
    return target.ModelInput(chunks=chunks)


def to_data(data: Sequence[Any], target: ModuleType) -> list[Any]:
    """The same datums as those of `target`."""
    return [datum if isinstance(datum, target.Datum) else _to_datum(datum, target) for datum in data]


def _to_datum(datum: Any, target: ModuleType) -> Any:
    inputs = {name: target.TensorData.from_numpy(as_array(tensor)) for name, tensor in datum.loss_fn_inputs.items()}
    return target.Datum(model_input=to_model_input(datum.model_input, target), loss_fn_inputs=inputs)


def as_array(tensor: Any) -> np.ndarray:
    """The numbers of a TensorData of any client."""
    return np.asarray(tensor.to_numpy())


def adam(client: Any, learning_rate: float, config: Any) -> Any:
    """AdamParams of this client for one step, with the optimizer fields of a config."""
    return types_of(client).AdamParams(
        learning_rate=learning_rate,
        beta1=config.adam_beta1,
        beta2=config.adam_beta2,
        eps=config.adam_eps,
        weight_decay=config.weight_decay,
        grad_clip_norm=config.grad_clip_norm,
    )


def optimizer_metrics(answer: Any) -> dict[str, float]:
    """What a service tells of an optimizer step, as optim/…; it may use any name, `step` among them."""
    return {f"optim/{name}": value for name, value in (answer.metrics or {}).items()}


RENDERER_NAME_KEY = "renderer_name"


def add_renderer_name_to_user_metadata(user_metadata: dict[str, str], renderer_name: str | None) -> None:
    """Write into the metadata of a training run which renderer its data was made with."""
    if renderer_name:
        user_metadata[RENDERER_NAME_KEY] = renderer_name


async def training_client(service: Any, config: Any, last: CheckpointRecord | None) -> Any:
    """The client to train with.

    It goes on from the last checkpoint of an interrupted run with its optimizer, or takes the weights of
    `load_checkpoint_path`, or begins with a new adapter. Raises ConfigError where a path is a sampler's.
    """
    metadata: dict[str, str] = {}
    add_renderer_name_to_user_metadata(metadata, config.renderer_name)
    if last is not None:
        return await call(
            service.create_training_client_from_state_with_optimizer, last.state_path, user_metadata=metadata
        )
    if config.load_checkpoint_path:
        refuse_sampler_path(config.load_checkpoint_path)
        return await call(
            service.create_training_client_from_state, config.load_checkpoint_path, user_metadata=metadata
        )
    return await call(
        service.create_lora_training_client,
        base_model=config.model_name,
        rank=config.lora_rank,
        user_metadata=metadata,
    )


def refuse_sampler_path(path: str) -> None:
    """Raises ConfigError where a path names weights for sampling, which cannot be trained on from."""
    if "/sampler_weights/" in path:
        raise ConfigError(
            f"load_checkpoint_path={path!r} is for sampling; give the state_path of the same line in checkpoints.jsonl "
            "(…/weights/…)"
        )
