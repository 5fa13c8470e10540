"""The base models that clients may train and sample, by the names that they call them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from thumbs.clients.types import SupportedModel
from thumbs.config.model import ModelConfig
from thumbs.data.tokenizers import Tokenizer
from thumbs.errors import ConfigError, ModelError, needs
from thumbs.models.base import Trunk
from thumbs.models.catalog import is_builtin_byte, resolve
from thumbs.models.trunk import empty_trunk, open_tokenizer

DEFAULT = "smollm2-135m"
ALIASES = "THUMBS_ALIASES"


@dataclass(frozen=True)
class Base:
    """A base model under the name that clients use."""

    name: str
    config: ModelConfig

    @cached_property
    def folder(self) -> Path | None:
        """Where its files are; None for a byte model, which has none."""
        return None if is_builtin_byte(self.config.name) else resolve(self.config.name)

    @property
    def tokenizer_folder(self) -> Path:
        """Where files are that transformers loads the tokenizer from; of a byte model a temporary one."""
        return self.folder or Path(self._written_tokenizer.name)

    @cached_property
    def _written_tokenizer(self) -> TemporaryDirectory[str]:
        folder = TemporaryDirectory(prefix="thumbs-tokenizer-")
        self.tokenizer.save(folder.name)
        return folder

    @cached_property
    def shape(self) -> Trunk:
        """Its vocabulary, context and adapters, without its weights; raises ModelError for a model that cannot be used
        here.
        """
        return empty_trunk(self.config)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Its tokenizer; raises ModelError if it cannot be read, or nothing ends a reply."""
        return open_tokenizer(self.config)

    def transformers_tokenizer(self) -> Any:
        """Its tokenizer as transformers loads it."""
        with needs("hf", "the tokenizer as a Python object"):
            from transformers import AutoTokenizer  # takes seconds, and not every client asks

        return AutoTokenizer.from_pretrained(self.tokenizer_folder)

    def check(self) -> None:
        """Raises ModelError if the model cannot be trained or sampled."""
        _ = self.shape, self.tokenizer


def parse_aliases(text: str) -> dict[str, str]:
    """`Qwen/Qwen3-0.6B=smollm2-135m,other=path` → {name that clients use: model}; raises ConfigError."""
    aliases = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        name, equals, model = part.partition("=")
        if not (name and equals and model):
            raise ConfigError(f"alias {part!r}: write NAME=MODEL, as in Qwen/Qwen3-0.6B=smollm2-135m")
        aliases[name.strip()] = model.strip()
    return aliases


def local_models(models: Mapping[str, ModelConfig] | None = None) -> dict[str, ModelConfig]:
    """Those given, or the default one, and the aliases of the environment variable THUMBS_ALIASES."""
    found = dict(models or {DEFAULT: ModelConfig(name=DEFAULT)})
    aliases = parse_aliases(os.environ.get(ALIASES, ""))
    return found | {name: ModelConfig(name=model) for name, model in aliases.items()}


class Bases:
    """Looks base models up; a name that is none of the given ones may still be a folder or a catalog name."""

    def __init__(self, models: Mapping[str, ModelConfig], *, closed: bool) -> None:
        self._known = {name: Base(name, config) for name, config in models.items()}
        self._closed = closed

    @property
    def names(self) -> list[str]:
        """The names of the models that are offered."""
        return list(self._known)

    def supported(self) -> list[SupportedModel]:
        """The models that are offered; the context is in tokens."""
        lengths = {name: self[name].shape.context for name in self.names}
        return [
            SupportedModel(model_name=name, max_context_length=length, trainable=True, sampleable=True)
            for name, length in lengths.items()
        ]

    def __getitem__(self, name: str) -> Base:
        """The base of that name; raises ModelError for one that is not served here."""
        if name not in self._known:
            if self._closed:
                raise ModelError(f"unknown base model {name!r}; supported: {', '.join(self._known)}")
            base = Base(name, ModelConfig(name=name))
            _ = base.shape  # raises where there is no such model
            self._known[name] = base
        return self._known[name]
