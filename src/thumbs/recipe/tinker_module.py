"""What `import tinker` gives in this process: the clients and types of thumbs under the SDK's names."""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import thumbs
from thumbs.clients import types
from thumbs.clients.bases import local_models
from thumbs.clients.service_client import ServiceClient, shared_backend
from thumbs.errors import ConfigError, DataError, ThumbsError
from thumbs.models.byte_lm import SIZES
from thumbs.models.catalog import HUB_IDS

VERSION = "0.38.0"
"""Of the SDK whose names, fields and defaults `thumbs.clients` has."""
TRANSPORT_ERRORS = ("APIConnectionError", "APIError", "APIStatusError", "APITimeoutError", "AuthenticationError")
TRANSPORT_ERRORS += ("InternalServerError", "NotFoundError", "PermissionDeniedError", "RateLimitError")
TRANSPORT_ERRORS += ("ConflictError", "RequestFailedError", "UnprocessableEntityError")
"""Errors of a connection. Code may catch them; nothing raises them here."""
_tokenizing = threading.RLock()


class LocalServiceClient(ServiceClient):
    """The service client of this process; it refuses the address of a server, which it would not call."""

    def __init__(self, user_metadata: Any = None, *, base_url: str | None = None, **hosted: Any) -> None:
        if base_url is not None:
            raise ConfigError(
                f"base_url={base_url!r}, but recipes train in this process: `import tinker` before `thumbs.recipe`, or "
                "set TINKER_BASE_URL, to send them to that server through the SDK"
            )
        super().__init__(user_metadata, **hosted)


def install() -> None:
    """Puts the module and its submodules where `import tinker` looks first."""
    offered: dict[str, Any] = {name: getattr(types, name) for name in types.__all__}
    clients = {name: getattr(thumbs, name) for name in ("APIFuture", "RestClient", "SamplingClient", "TrainingClient")}
    errors = {name: type(name, (ThumbsError,), {"__module__": "tinker"}) for name in TRANSPORT_ERRORS}
    errors |= {"TinkerError": ThumbsError, "BadRequestError": DataError}
    _module("tinker", offered | clients | errors, ServiceClient=LocalServiceClient, __version__=VERSION)
    _module("tinker.types", offered)
    _module("tinker.types.tensor_data", {"TensorData": types.TensorData})
    _module("tinker.types.image_chunk", {"ImageChunk": types.ImageChunk})
    _module("tinker.lib", {})
    _module("tinker.lib.public_interfaces", clients)
    _module("tinker.lib.public_interfaces.rest_client", {"RestClient": thumbs.RestClient})


def register_tokenizers(register: Callable[[str, Callable[[], Any]], None]) -> None:
    """Names the tokenizers of models that transformers does not find by their names."""
    for name in {*local_models(), *HUB_IDS, *HUB_IDS.values(), *SIZES}:
        register(name, functools.partial(_tokenizer, name))


@functools.cache
def _tokenizer(name: str) -> Any:
    return one_at_a_time(shared_backend().bases[name].transformers_tokenizer())


def one_at_a_time(tokenizer: Any) -> Any:
    """The tokenizer, which from now on encodes and decodes for one thread at a time.

    Environments render in threads, and the qwen3 renderers change a setting of the tokenizer for each text; a tokenizer
    that is at work in another thread meanwhile raises "Already borrowed".
    """
    for name in {"_encode_plus", "_decode"} & set(dir(type(tokenizer))) - vars(tokenizer).keys():
        vars(tokenizer)[name] = functools.partial(_alone, getattr(tokenizer, name))
    return tokenizer


def _alone(method: Callable[..., Any], *arguments: Any, **settings: Any) -> Any:
    with _tokenizing:
        return method(*arguments, **settings)


def _module(name: str, content: dict[str, Any], **more: Any) -> ModuleType:
    module = ModuleType(name)
    module.__dict__.update(content, **more)
    module.__path__ = []
    module.__spec__ = ModuleSpec(name, loader=None, is_package=True)
    sys.modules[name] = module
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, module)
    return module
