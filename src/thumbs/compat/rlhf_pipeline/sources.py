"""Where a stage's model comes from: a name, a folder, one of our .pt files, or a function that makes a model."""

from __future__ import annotations

import copy
import hashlib
import logging
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from thumbs.compat.rlhf_pipeline.pt_files import SUFFIXES, read_pt, unpack
from thumbs.config.model import ModelConfig
from thumbs.data.tokenizers import Tokenizer
from thumbs.errors import ModelError, needs
from thumbs.models.base import Trunk
from thumbs.models.byte_lm import byte_shape
from thumbs.models.catalog import is_builtin_byte, resolve
from thumbs.models.content import model_digest
from thumbs.models.module_lm import ModuleLM
from thumbs.models.tensor_files import write_tensors
from thumbs.models.trunk import named_module, open_tokenizer
from thumbs.stages.ppo_run import CRITIC
from thumbs.tracking.digests import file_digest
from thumbs.tracking.files import read_json, write_json

log = logging.getLogger(__name__)

Made = nn.Module | Callable[[], nn.Module]
"""A model that a program brings along: the module itself, or a function that makes it."""

_MODELS_OF_FOLDERS = ("best_model.pt", "final_model.pt")


@dataclass(frozen=True)
class OpenedModel:
    """A model that an engine can create: its settings, the checkpoint that brings its head, and what belongs to it.

    tokenizer: None if the model brings none. vocab_size: None if it is not known. critic: the checkpoint of the value
    model that PPO left with its policy.
    """

    model: ModelConfig
    start: Path | None
    tokenizer: Tokenizer | None
    vocab_size: int | None
    context: int
    config: dict[str, Any]
    critic: Path | None = None


class ModelSource(Protocol):
    """A model that can be opened while a stage runs."""

    label: str

    def identity(self) -> str:
        """The same text for the same weights."""
        ...

    def open(self, work: Path) -> Any:
        """Context manager of an OpenedModel; what it needs on disk is below `work` and goes with it."""
        ...


class NamedSource:
    """A catalog name, a Hugging Face folder, a .gguf file or a hub name."""

    def __init__(self, name: str) -> None:
        folder = Path(name).expanduser()
        self.label = name
        self.model = _settings(str(folder.resolve()) if folder.is_dir() else name, name.startswith("byte-"))
        if not is_builtin_byte(self.model.name):
            self.folder = resolve(self.model.name)  # an unknown name fails here, not when a stage begins
        else:
            byte_shape(self.model.name)

    def identity(self) -> str:
        if is_builtin_byte(self.model.name):
            return self.model.name
        return model_digest(self.folder)

    @contextmanager
    def open(self, work: Path) -> Iterator[OpenedModel]:
        tokenizer = None
        try:
            tokenizer = open_tokenizer(self.model)
        except ModelError as error:  # tokenizer_path may name another one
            log.info("%s", error)
        yield OpenedModel(self.model, None, tokenizer, *_limits(self.model), {})


class PtSource:
    """One of our .pt files; `made` makes the module of one whose architecture is a program's own."""

    def __init__(self, path: Path, made: MadeSource | None) -> None:
        self.path, self.made, self.label = path, made, str(path)
        read_pt(path, mmap=True)  # a file of another program fails here, not when a stage begins

    def identity(self) -> str:
        return file_digest(self.path)

    @contextmanager
    def open(self, work: Path) -> Iterator[OpenedModel]:
        content = read_pt(self.path)
        tokenizer = content.tokenizer()
        # The name comes back when an interrupted stage goes on: its checkpoints hold it.
        folder = work.resolve() / f"{content.config.get('stage', 'model')}-{self.identity()[:12]}"
        with ExitStack() as stack:
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            if content.config["architecture"] is None:
                made, name = self._maker(), f"module:{folder.name}"
                stack.enter_context(named_module(name, lambda: made.loaded(content.trunk())))
                model, limits = _settings(name, small=True), made.limits()
                unpack(content, folder, model.model_dump(mode="json"))
            else:
                model = _settings(str(folder), small=tokenizer.name == "byte")
                unpack(content, folder, model.model_dump(mode="json"))
                limits = _limits(model)
            head, critic = folder if content.is_reward else None, folder / CRITIC if content.value_model else None
            yield OpenedModel(model, head, tokenizer, *limits, content.config, critic)

    def _maker(self) -> MadeSource:
        if self.made is None or self.made.is_hf:
            raise ModelError(
                f"{self.path} holds a torch module of a program's own; call load_base_model with the function that "
                "makes it first"
            )
        return self.made


class MadeSource:
    """A model of the program's own; a function is called with a fixed seed, so that it makes the same model again."""

    def __init__(self, made: Made) -> None:
        self._made = made
        self.label = "a model made by " + getattr(made, "__qualname__", type(made).__name__)
        self.module = self._make()
        self.is_hf = isinstance(self.module, Trunk) or _opens_by_its_config(self.module)
        if not self.is_hf:
            self._limits = _limits_of(ModuleLM(copy.deepcopy(self.module)))

    def identity(self) -> str:
        digest = hashlib.sha256()
        for name, tensor in self.module.state_dict().items():
            data = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()
            digest.update(name.encode() + data.tobytes())
        return digest.hexdigest()

    def limits(self) -> tuple[int, int]:
        """Vocabulary and longest sequence, tokens."""
        return self._limits

    def loaded(self, weights: dict[str, torch.Tensor]) -> nn.Module:
        """A new module with these weights."""
        module = copy.deepcopy(self.module)
        try:
            module.load_state_dict(weights)
        except RuntimeError as error:
            raise ModelError(f"{self.label} does not take the weights of the .pt: {error}") from None
        return module

    @contextmanager
    def open(self, work: Path) -> Iterator[OpenedModel]:
        if not self.is_hf:
            name = f"module:{self.identity()[:12]}"
            with named_module(name, lambda: copy.deepcopy(self.module)):
                yield OpenedModel(_settings(name, small=True), None, None, *self._limits, {})
            return
        folder = work.resolve() / f"made-{self.identity()[:12]}"
        shutil.rmtree(folder, ignore_errors=True)
        _save(self.module, folder)
        try:
            model = _settings(str(folder), small=False)
            yield OpenedModel(model, None, None, *_limits(model), {})
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _make(self) -> nn.Module:
        if isinstance(self._made, nn.Module):
            return self._made
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            module = self._made()
        if not isinstance(module, nn.Module):
            raise ModelError(f"{self.label}: got {type(module).__name__}; allowed is a torch module")
        return module


def source_of(given: Made | str | Path, made: MadeSource | None) -> ModelSource:
    """Where a model comes from, by what was given; raises ModelError for what names none."""
    if callable(given):
        return MadeSource(given)
    if not isinstance(given, str | Path):
        raise ModelError(f"got {type(given).__name__}; allowed are a name, a path, a torch module, or what makes one")
    path = Path(given).expanduser()
    if path.suffix.lower() in SUFFIXES:
        return PtSource(path, made)
    if path.is_dir() and not any(path.glob("*.safetensors")):
        for name in _MODELS_OF_FOLDERS:
            if (path / name).is_file():
                return PtSource(path / name, made)
    return NamedSource(str(given))


def _settings(name: str, small: bool) -> ModelConfig:
    """Full training; a model of bytes or of a program's own computes in float32."""
    return ModelConfig(name=name, lora=None, dtype="float32" if small else "auto")


def _limits(model: ModelConfig) -> tuple[int | None, int]:
    if is_builtin_byte(model.name):
        shape = byte_shape(model.name)
        return shape.vocab_size, shape.context
    raw = read_json(resolve(model.name) / "config.json")
    named = (raw.get(key) for key in ("max_position_embeddings", "n_positions", "n_ctx"))
    return raw.get("vocab_size"), next((context for context in named if context), sys.maxsize)


def _limits_of(model: ModuleLM) -> tuple[int, int]:
    return model.vocab_size, model.context


@needs("hf", "a module as a model")
def _opens_by_its_config(module: nn.Module) -> bool:
    """Whether transformers opens it by its config.json; any other module runs as it is."""
    from transformers import PreTrainedModel  # takes seconds, which models of ours do not need
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return (
        isinstance(module, PreTrainedModel)
        and MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(module.config.model_type) == type(module).__name__
    )


def _save(module: Any, folder: Path) -> None:
    if not isinstance(module, Trunk):
        module.save_pretrained(folder, max_shard_size="1000GB")
        return
    folder.mkdir(parents=True)
    write_tensors(folder / "model.safetensors", {name: tensor.clone() for name, tensor in module.tensors().items()})
    for name, content in module.files().items():
        write_json(folder / name, content)
