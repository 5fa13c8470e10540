"""Opens a base model by name: the one place that chooses between the kinds of `base.Trunk`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import torch
from torch import nn

from thumbs.config.model import ModelConfig
from thumbs.config.named import Registry
from thumbs.data.tokenizers import Tokenizer, byte_tokenizer, load_tokenizer
from thumbs.errors import ModelError, needs
from thumbs.models.base import Trunk
from thumbs.models.byte_lm import build_byte_lm, byte_shape
from thumbs.models.catalog import is_builtin_byte, resolve
from thumbs.models.causal_lm import CausalLM, load_decoder
from thumbs.models.checkpoint_files import read_json_object, some
from thumbs.models.decoder_config import DecoderConfig, read_config, why_not_covered
from thumbs.models.module_lm import ModuleLM
from thumbs.models.precision import compute_dtype, device
from thumbs.models.quantised import quantisation

log = logging.getLogger(__name__)

MODULES: Registry[Callable[[], nn.Module]] = Registry("model.name", {})
"""Modules of a program's own. Files of others name models too, so only what was registered is ever called."""


@contextmanager
def named_module(name: str, make: Callable[[], nn.Module]) -> Iterator[None]:
    """Within it, configs may name a torch module of the program's own; `make` gives a new one, always equal."""
    MODULES.register(name, make)
    try:
        yield
    finally:
        MODULES.forget(name)


def open_trunk(config: ModelConfig, *, seed: int, trained: bool = True, on: torch.device | None = None) -> Trunk:
    """The base model of `config`, on the device `on` (None: this machine's fastest).

    One that will be trained itself, without adapters, holds its weights in float32; any other is frozen and holds them
    in the format in which it computes, which takes half the memory in bfloat16.
    """
    dtype, master = compute_dtype(config, on), trained and config.lora is None
    if config.name in MODULES:
        trunk: Trunk = ModuleLM(MODULES[config.name]())
    elif is_builtin_byte(config.name):
        trunk = build_byte_lm(config.name, seed, dtype)
    else:
        trunk = _open_folder(resolve(config.name), dtype, master=master)
    return trunk.to(on or device()).requires_grad_(master)


def plain_decoder(config: ModelConfig) -> tuple[Path, DecoderConfig] | None:
    """Folder and shape of a model that our decoder computes with its weights as they lie there, readable by rows."""
    if config.name in MODULES or is_builtin_byte(config.name):
        return None
    folder = resolve(config.name)
    raw = read_json_object(folder / "config.json")
    return None if why_not_covered(raw) or quantisation(folder, raw) else (folder, read_config(raw))


def empty_trunk(config: ModelConfig) -> Trunk:
    """The base model of `config` without its weights: its sizes, and which adapters it takes. A module of a program's
    own has some.
    """
    if config.name in MODULES:
        return ModuleLM(MODULES[config.name]())
    if is_builtin_byte(config.name):
        shape = byte_shape(config.name)
    else:
        folder = resolve(config.name, weights=False)
        raw = read_json_object(folder / "config.json")
        if reason := why_not_covered(raw):
            return _transformers(folder, reason).empty_hf(folder)
        shape = read_config(raw)
    with torch.device("meta"):
        return CausalLM(shape, torch.float32)


def open_tokenizer(config: ModelConfig) -> Tokenizer:
    """The tokenizer that belongs to `config.name`; raises ModelError for tokens beyond the model's embedding."""
    if is_builtin_byte(config.name):
        return byte_tokenizer(config.template)
    folder = resolve(config.name, weights=False)
    tokenizer = load_tokenizer(folder, config.template)
    raw = read_json_object(folder / "config.json")
    inner = raw.get("text_config")
    rows = raw.get("vocab_size") or (inner.get("vocab_size") if isinstance(inner, dict) else None)
    if isinstance(rows, int):
        check_fit(tokenizer, rows, str(folder))
    return tokenizer


def check_fit(tokenizer: Tokenizer, rows: int, source: str) -> None:
    """Raises ModelError for a token beyond an embedding of so many rows; the log names those that cannot occur."""
    given, unused = tokenizer.tokens_beyond(rows)
    if given:
        raise ModelError(
            f"{source}: the tokenizer has {some(given)} beyond the {rows} rows of the embedding; resize the embedding "
            "with transformers (resize_token_embeddings(len(tokenizer))) and save both, or take the tokens out of "
            "tokenizer.json"
        )
    if unused:
        log.warning("%s: the embedding has no row for %s, which no text gives", source, some(unused))


def _open_folder(folder: Path, dtype: torch.dtype, *, master: bool) -> Trunk:
    reason = why_not_covered(read_json_object(folder / "config.json"))
    if reason is None:
        return load_decoder(folder, dtype, master=master)
    log.warning("%s: %s; it runs through transformers, which is slower", folder, reason)
    return _transformers(folder, reason).load_hf(folder, torch.float32 if master else dtype)


def _transformers(folder: Path, reason: str) -> ModuleType:
    """What runs models of transformers; importing that takes seconds, which our decoder does not need."""
    with needs("hf", f"{folder} ({reason})"):
        from thumbs.models import hf
    return hf
