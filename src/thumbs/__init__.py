"""thumbs: the whole of RLHF in one Python package.

run, plan, load_config, open_run and open_engine are its own API (docs/guides/python.md); the other names are Tinker's,
for scripts that `import thumbs as tinker`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from thumbs import errors
from thumbs.errors import needs

if TYPE_CHECKING:
    from thumbs.api import Run, load_config, open_run, plan, run
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
    from thumbs.engine import open_engine

__version__ = "0.1.0"

__all__ = [
    "APIFuture",
    "AdamParams",
    "Datum",
    "EncodedTextChunk",
    "LoraConfig",
    "ModelInput",
    "RestClient",
    "Run",
    "SamplingClient",
    "SamplingParams",
    "ServiceClient",
    "TensorData",
    "TrainingClient",
    "errors",
    "load_config",
    "open_engine",
    "open_run",
    "plan",
    "run",
]

_OWN = dict.fromkeys(("Run", "load_config", "open_run", "plan", "run"), "thumbs.api") | {"open_engine": "thumbs.engine"}
_TINKER = {
    "APIFuture": "thumbs.clients.futures",
    "RestClient": "thumbs.clients.rest_client",
    "SamplingClient": "thumbs.clients.sampling_client",
    "ServiceClient": "thumbs.clients.service_client",
    "TrainingClient": "thumbs.clients.training_client",
}


def __getattr__(name: str) -> Any:
    # Here only when it is asked for: most of it brings torch along, which `thumbs --help` does not wait for.
    if name in _OWN:
        return getattr(importlib.import_module(_OWN[name]), name)
    # What `import thumbs as tinker` leads on to.
    if name == "recipe":
        with needs("cookbook", "thumbs.recipe"):
            return importlib.import_module("thumbs.recipe")
    if name == "types":
        return importlib.import_module("thumbs.types")
    if name not in __all__:
        raise AttributeError(f"module 'thumbs' has no attribute {name!r}")
    with needs("serve", f"thumbs.{name}"):
        return getattr(importlib.import_module(_TINKER.get(name, "thumbs.clients.types")), name)
