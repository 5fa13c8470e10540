"""Tokenizers for recipes: the one of a model's name, and what renderers need of any."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from thumbs.clients.bases import local_models
from thumbs.data.tokenizers import ByteTokenizer, HfTokenizer, Tokenizer, load_tokenizer
from thumbs.errors import ModelError
from thumbs.models import catalog

_REGISTERED: dict[str, Callable[[], Any]] = {}


def get_tokenizer(model_name: str) -> Any:
    """The tokenizer of a model: a registered name, a folder, a built-in name, one of THUMBS_ALIASES, or one on the hub.

    A `transformers` tokenizer, or a ByteTokenizer for our byte models. Raises ModelError when there is none.
    """
    if model_name in _REGISTERED:
        return _REGISTERED[model_name]()
    return _opened(local_models()[model_name].name if model_name in local_models() else model_name)


def register_tokenizer(name: str, factory: Callable[[], Any]) -> None:
    """Make `get_tokenizer(name)` return factory()."""
    _REGISTERED[name] = factory


def unregister_tokenizer(name: str) -> bool:
    """Forget a registered name; whether there was one."""
    return _REGISTERED.pop(name, None) is not None


def is_tokenizer_registered(name: str) -> bool:
    """Whether a name is registered."""
    return name in _REGISTERED


def get_registered_tokenizer_names() -> list[str]:
    """All registered names."""
    return list(_REGISTERED)


@functools.lru_cache(maxsize=8)
def _opened(source: str) -> Any:
    if source in catalog.BUILTIN or Path(source).suffix == ".gguf":
        source = str(catalog.resolve(source))
    if catalog.is_builtin_byte(source):
        return ByteTokenizer()
    if (Path(source) / "tokenizer_config.json").is_file() and isinstance(load_tokenizer(source), ByteTokenizer):
        return ByteTokenizer()
    from transformers import AutoTokenizer  # here, because it takes a second to import

    try:
        return AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise ModelError(f"no tokenizer for {source!r}: {error}") from None


def text_tokenizer(tokenizer: Any) -> Tokenizer:
    """Our tokenizer with the same vocabulary and chat template.

    A `transformers` tokenizer is one object with settings that its calls change, so that calls from several threads
    fail now and then ("Already borrowed"), and text that spells a special token becomes one. Ours has no settings,
    and text stays text.
    """
    if isinstance(tokenizer, HfTokenizer | ByteTokenizer):
        return tokenizer
    return _through_files(tokenizer, getattr(tokenizer, "chat_template", None))


@functools.lru_cache(maxsize=8)
def _through_files(tokenizer: Any, chat_template: str | None) -> Tokenizer:
    """Made from the files that the tokenizer saves; the template is there because it may have been exchanged since."""
    if not hasattr(tokenizer, "save_pretrained"):
        raise ModelError(
            f"got a tokenizer of class {type(tokenizer).__name__}; it must be one of transformers, as "
            "get_tokenizer(model_name) returns it"
        )
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        return HfTokenizer(folder)
