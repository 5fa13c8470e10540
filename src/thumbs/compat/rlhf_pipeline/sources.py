"""Where a stage's model comes from: a name, a folder, one of our .pt files, or a function that makes a model."""

from __future__ import annotations

import copy
import hashlib
import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from thumbs.compat.rlhf_pipeline.pt_files import SUFFIXES, read_pt, unpack
from thumbs.config.model import ModelConfig
from thumbs.data.tokenizers import Tokenizer
from thumbs.errors import ModelError, needs
from thumbs.models.catalog import is_builtin_byte, resolve
from thumbs.models.content import model_digest
from thumbs.models.module_lm import ModuleLM
from thumbs.models.trunk import empty_trunk, named_module, open_tokenizer
from thumbs.stages.ppo_run import CRITIC
from thumbs.tracking.digests import file_digest

log = logging.getLogger(__name__)

Made = nn.Module | Callable[[], nn.Module]
"""A model that a program brings along: the module itself, or a function that makes it."""

_MODELS_OF_FOLDERS = ("best_model.pt", "final_model.pt")


@dataclass(frozen=True)
class OpenedModel:
    """A model that an engine can create: its settings, the checkpoint that brings its head, and what belongs to it.

    tokenizer: None if the model brings none. config: the settings of a .pt. critic: the checkpoint of the value model
    that PPO left with its policy.
    """

    model: ModelConfig
    start: Path | None = None
    tokenizer: Tokenizer | None = None
    config: dict[str, Any] = field(default_factory=dict)
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
        self.model = ModelConfig(name=str(folder.resolve()) if folder.is_dir() else name, lora=None)
        empty_trunk(self.model)  # an unknown name fails here, not when a stage begins

    def identity(self) -> str:
        return self.model.name if is_builtin_byte(self.model.name) else model_digest(resolve(self.model.name))

    @contextmanager
    def open(self, work: Path) -> Iterator[OpenedModel]:
        tokenizer = None
        try:
            tokenizer = open_tokenizer(self.model)
        except ModelError as error:  # tokenizer_path may name another one
            log.info("%s", error)
        yield OpenedModel(self.model, tokenizer=tokenizer)


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
        with _scratch(work, f"{content.config.get('stage', 'model')}-{self.identity()[:12]}") as folder:
            is_module = content.config["architecture"] is None
            name = f"module:{folder.name}" if is_module else str(folder)
            model = ModelConfig(name=name, lora=None, dtype="float32" if tokenizer.name == "byte" else "auto")
            unpack(content, folder, model.model_dump(mode="json"))
            opened = OpenedModel(
                model,
                folder if content.is_reward else None,
                tokenizer,
                content.config,
                folder / CRITIC if content.value_model else None,
            )
            if not is_module:
                yield opened
                return
            made = self._maker()
            with named_module(name, lambda: made.loaded(content.trunk())):
                yield opened

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
        self.label = "a model made by " + getattr(made, "__qualname__", type(made).__name__)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.module = made if isinstance(made, nn.Module) else made()
        if not isinstance(self.module, nn.Module):
            raise ModelError(f"{self.label}: got {type(self.module).__name__}; allowed is a torch module")
        self.is_hf = _opens_by_its_config(self.module)
        if not self.is_hf:
            ModuleLM(copy.deepcopy(self.module))  # tries it out

    def identity(self) -> str:
        digest = hashlib.sha256()
        for name, tensor in self.module.state_dict().items():
            data = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()
            digest.update(name.encode() + data.tobytes())
        return digest.hexdigest()

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
        key = self.identity()[:12]
        if not self.is_hf:
            with named_module(f"module:{key}", lambda: copy.deepcopy(self.module)):
                yield OpenedModel(ModelConfig(name=f"module:{key}", lora=None, dtype="float32"))
            return
        with _scratch(work, f"made-{key}") as folder:
            self.module.save_pretrained(folder, max_shard_size="1000GB")  # pyright: ignore[reportCallIssue]
            yield OpenedModel(ModelConfig(name=str(folder), lora=None))


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


@contextmanager
def _scratch(work: Path, name: str) -> Iterator[Path]:
    """The path of a folder that is not there before, nor after."""
    folder = work.resolve() / name
    shutil.rmtree(folder, ignore_errors=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@needs("hf", "a module as a model")
def _opens_by_its_config(module: nn.Module) -> bool:
    """Whether transformers opens it by its config.json; any other module runs as it is."""
    from transformers import PreTrainedModel  # takes seconds, which models of ours do not need
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return (
        isinstance(module, PreTrainedModel)
        and MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(module.config.model_type) == type(module).__name__
    )
