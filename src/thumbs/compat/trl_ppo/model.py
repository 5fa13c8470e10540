"""`AutoModelForCausalLMWithValueHead`: a policy with a value head on its trunk, as a torch module in an engine."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from thumbs.compat.trl_ppo.engine import hidden
from thumbs.compat.trl_ppo.generation import Generation, draw_replies, read_keywords
from thumbs.compat.trl_ppo.loading import describe, load, save
from thumbs.engine.base import Handle
from thumbs.engine.compute import ModuleEngine
from thumbs.errors import ConfigError, DataError
from thumbs.rollout.sampler import Sampler

IGNORED_LABEL = -100
_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.")


class PretrainedModel(nn.Module):
    """The language model without the value head: what tutorials reach as `model.pretrained_model`."""

    def __init__(self, engine: ModuleEngine, handle: Handle) -> None:
        super().__init__()
        model = engine.model(handle)
        self.engine, self.handle = engine, handle
        self.trunk, self.adapter = model.trunk, model.adapter
        self.config = describe(model.spec.model.name, model.trunk)
        self._sampler: tuple[int, Sampler] | None = None

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.trunk.head_weight().device

    @property
    def dtype(self) -> torch.dtype:
        """In which the model computes."""
        return self.trunk.dtype

    def states(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Final hidden states [B, L, D] of rows [B, L] padded on any side; zeros under padding."""
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        real = mask.bool().to(self.device)
        if not bool(real.any(1).all()):
            raise DataError("a row without a token cannot be read; leave empty rows out")
        rows = [row[keep] for row, keep in zip(input_ids.to(self.device), real, strict=True)]
        states = hidden(self.engine.model(self.handle), rows)
        places = real.flatten().nonzero().squeeze(1)
        padded = states.new_zeros(real.numel(), states.shape[1]).index_copy(0, places, states)
        return padded.view(*real.shape, -1)

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits [..., V] in float32 of final hidden states [..., D]."""
        return F.linear(hidden.float(), self.trunk.head_weight().to(hidden.dtype).float())

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None, **_: Any
    ) -> SimpleNamespace:
        """logits [B, L, V], loss (nats per token, of labels that are not -100; None without labels), hidden_states."""
        states = self.states(input_ids, attention_mask)
        logits = self.logits(states)
        return SimpleNamespace(logits=logits, loss=_label_loss(logits, labels), hidden_states=(states,))

    @torch.no_grad()
    def generate(self, input_ids: Tensor, attention_mask: Tensor | None = None, **keywords: Any) -> Tensor:
        """Rows [B, L] with their replies, [B, L + longest reply], filled up with pad_token_id on the right.

        Keywords as of transformers (docs/guides/trl_ppo.md); without do_sample the likeliest tokens.
        """
        generation = read_keywords(keywords)
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        prompts = [row[keep.bool()].tolist() for row, keep in zip(input_ids, mask, strict=True)]
        replies = self.replies(prompts, generation, self.end_tokens())
        pad = next((x for x in (generation.pad_token_id, self.config.pad_token_id) if x is not None), 0)
        longest = max(map(len, replies))
        tail = torch.tensor([reply + [pad] * (longest - len(reply)) for reply in replies], device=input_ids.device)
        return torch.cat([input_ids, tail], dim=1)

    def end_tokens(self) -> tuple[int, ...]:
        """The tokens that end a reply by the model's config."""
        end = self.config.eos_token_id
        return () if end is None else tuple(end) if isinstance(end, Sequence) else (end,)

    def replies(
        self, prompts: Sequence[Sequence[int]], generation: Generation, end_tokens: tuple[int, ...]
    ) -> list[list[int]]:
        """The reply to each prompt, its end token kept."""
        params = generation.params(max(map(len, prompts)), end_tokens)
        return draw_replies(self.sampler(), prompts, params)

    def sampler(self) -> Sampler:
        """A snapshot of the weights as they are, kept until they change or `release_sampler`."""
        version = sum(parameter._version for parameter in self.parameters())
        if self._sampler is None or self._sampler[0] != version:
            self.release_sampler()
            self._sampler = version, self.engine.snapshot(self.handle)
        return self._sampler[1]

    def release_sampler(self) -> None:
        """Frees the snapshot, which is a copy of the weights."""
        self._sampler = None


class AutoModelForCausalLMWithValueHead(nn.Module):
    """A causal language model and one linear value head on its final states. Made by `from_pretrained`.

    pretrained_model: the language model; v_head: the value head; is_peft_model: whether adapters are trained.
    Modules run without dropout in either mode.
    """

    def __init__(self, engine: ModuleEngine, handle: Handle) -> None:
        super().__init__()
        self.pretrained_model = PretrainedModel(engine, handle)
        head = engine.model(handle).scalar
        if head is None:
            raise ConfigError(f"{handle.name} was created without a scalar head")
        self.v_head = head
        self.engine, self.handle = engine, handle
        self.is_peft_model = engine.model(handle).spec.model.lora is not None
        self._files: Any = None

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *_: Any, **keywords: Any) -> Any:
        """A model by catalog name, Hugging Face folder, hub name or `save_pretrained` folder, or a transformers object.

        peft_config: PEFT's LoraConfig (or its dictionary, or ours) trains adapters on the frozen model.
        torch_dtype: float32 or bfloat16 to compute in; without it bfloat16 where the processor multiplies it.
        v_head_init_strategy: None starts the value head at zero, "normal" at deviation v_head_initializer_range.
        seed: of adapters and byte models.
        Raises ConfigError for unknown keywords, ModelError for a model that cannot be found or read.
        """
        loaded = load(pretrained_model_name_or_path, keywords)
        model = cls(loaded.engine, loaded.handle)
        model._files = loaded.files
        return model

    @property
    def config(self) -> Any:
        """Sizes and special tokens."""
        return self.pretrained_model.config

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.pretrained_model.device

    def forward(
        self,
        input_ids: Tensor,
        past_key_values: None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        **_: Any,
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """logits [B, L, V] in float32, loss (None without labels), values [B, L] in score units."""
        states = self.pretrained_model.states(input_ids, attention_mask)
        logits = self.pretrained_model.logits(states)
        values = self.v_head(states.flatten(0, 1)).view(states.shape[:2])
        return logits, _label_loss(logits, labels), values

    def generate(self, input_ids: Tensor, *args: Any, **keywords: Any) -> Tensor:
        """Calls `pretrained_model.generate`."""
        return self.pretrained_model.generate(input_ids, *args, **keywords)

    def save_pretrained(self, save_directory: str | Path, **_: Any) -> None:
        """Writes the model and its value head; `from_pretrained` of the folder gives the same logits and values."""
        save(self.engine, self.handle, Path(save_directory), self.config)

    def push_to_hub(self, *_: Any, **__: Any) -> None:
        """Raises ConfigError: nothing is sent anywhere."""
        raise ConfigError("nothing is pushed from here; call save_pretrained(folder) and upload the folder yourself")

    def gradient_checkpointing_enable(self, *_: Any, **__: Any) -> None:
        """Nothing to do: sequences are packed, and logits are never held."""

    gradient_checkpointing_disable = enable_input_require_grads = gradient_checkpointing_enable


def create_reference_model(
    model: AutoModelForCausalLMWithValueHead, num_shared_layers: int | None = None
) -> AutoModelForCausalLMWithValueHead:
    """A frozen copy of the model as it is now.

    num_shared_layers: the embeddings and that many lowest layers are frozen in `model` too and held once, as in a
    hydra; with adapters the frozen base is shared anyway, and this has no meaning.
    """
    spec = replace(model.engine.model(model.handle).spec, name="reference", start=model.handle, trainable=False)
    reference = AutoModelForCausalLMWithValueHead(model.engine, model.engine.create(spec))
    if num_shared_layers is not None:
        if model.is_peft_model:
            raise ConfigError("num_shared_layers: with adapters the reference shares the whole base; leave it out")
        _share(model.pretrained_model.trunk, reference.pretrained_model.trunk, num_shared_layers)
    return reference


def base_reference(model: AutoModelForCausalLMWithValueHead) -> AutoModelForCausalLMWithValueHead:
    """The model without its adapter, on the same base weights."""
    spec = replace(model.engine.model(model.handle).spec, name="reference", start=None, trainable=False)
    return AutoModelForCausalLMWithValueHead(model.engine, model.engine.create(spec))


_AFTER_LAYERS = ("norm", "head")
"""What our decoder holds next to its embedding and uses after its layers."""


def _share(trunk: Any, reference: Any, count: int) -> None:
    """Freezes embeddings and the layers 0 … count - 1 of `trunk`, and has `reference` use these very tensors."""
    names = [name for name, _ in trunk.named_parameters()]
    numbers = {name: int(found[1]) for name in names if (found := _LAYER.search(name))}
    depth = max(numbers.values(), default=-1) + 1
    if not 0 < count < depth:
        raise ConfigError(
            f"num_shared_layers={count}; this model has {depth} layers, so 1 to {depth - 1} can be shared"
        )
    first = next(index for index, name in enumerate(names) if name in numbers)
    embeddings = [name for name in names[:first] if name not in _AFTER_LAYERS]
    for name in [*embeddings, *(name for name, number in numbers.items() if number < count)]:
        parameter, own = trunk.get_parameter(name), reference.get_parameter(name)
        parameter.requires_grad_(False)
        for module in reference.modules():  # a tied output embedding is the same parameter under a second name
            for leaf, held in list(module.named_parameters(recurse=False)):
                if held is own:
                    setattr(module, leaf, parameter)


def _label_loss(logits: Tensor, labels: Tensor | None) -> Tensor | None:
    if labels is None:
        return None
    targets = labels[:, 1:].to(logits.device).flatten()
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), targets, ignore_index=IGNORED_LABEL)
