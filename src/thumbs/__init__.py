"""thumbs: the whole of RLHF in one Python package."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from thumbs.errors import needs

if TYPE_CHECKING:
    from thumbs.clients.futures import APIFuture
    from thumbs.clients.rest_client import RestClient
    from thumbs.clients.sampling_client import SamplingClient
    from thumbs.clients.service_client import ServiceClient
    from thumbs.clients.training_client import TrainingClient
    from thumbs.clients.types import (
        AdamParams,
        Datum,
        EncodedTextChunk,
        LoraConfig,
        ModelInput,
        SamplingParams,
        TensorData,
    )

__version__ = "0.1.0"

__all__ = [
    "APIFuture",
    "AdamParams",
    "Datum",
    "EncodedTextChunk",
    "LoraConfig",
    "ModelInput",
    "RestClient",
    "SamplingClient",
    "SamplingParams",
    "ServiceClient",
    "TensorData",
    "TrainingClient",
]

_HOMES = {
    "APIFuture": "clients.futures",
    "RestClient": "clients.rest_client",
    "SamplingClient": "clients.sampling_client",
    "ServiceClient": "clients.service_client",
    "TrainingClient": "clients.training_client",
}


def __getattr__(name: str) -> Any:
    # Here only when it is asked for: the clients bring torch along, which `thumbs --help` does not wait for.
    # What `import thumbs as tinker` leads on to.
    if name == "recipe":
        with needs("cookbook", "thumbs.recipe"):
            return importlib.import_module("thumbs.recipe")
    if name == "types":
        return importlib.import_module("thumbs.types")
    if name not in __all__:
        raise AttributeError(f"module 'thumbs' has no attribute {name!r}")
    with needs("serve", f"thumbs.{name}"):
        return getattr(importlib.import_module(f"thumbs.{_HOMES.get(name, 'clients.types')}"), name)
