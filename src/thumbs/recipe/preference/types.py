"""Comparisons of two completions, and who prefers one of them."""

from __future__ import annotations

import asyncio
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal

import torch

from thumbs.clients.types import ModelInput
from thumbs.errors import ConfigError, DataError
from thumbs.recipe import any_client
from thumbs.recipe.configs import config_class
from thumbs.recipe.futures import finished, resolved
from thumbs.recipe.renderers import Message, Renderer, get_renderer
from thumbs.recipe.tokenizers import get_tokenizer

Label = Literal["A", "B", "Tie"]


@dataclass(frozen=True)
class Comparison:
    """A conversation and two ways to go on."""

    prompt_conversation: list[Message]
    completion_A: list[Message]  # noqa: N815
    completion_B: list[Message]  # noqa: N815

    def swap(self) -> Comparison:
        """With the completions exchanged."""
        return Comparison(self.prompt_conversation, self.completion_B, self.completion_A)


@dataclass(frozen=True)
class LabeledComparison:
    """A comparison and which completion is better."""

    comparison: Comparison
    label: Label

    def __post_init__(self) -> None:
        if self.label not in ("A", "B", "Tie"):
            raise DataError(f"label {self.label!r}; it must be 'A', 'B' or 'Tie'")

    def swap(self) -> LabeledComparison:
        """With the completions exchanged, and the label with them."""
        exchanged: dict[Label, Label] = {"A": "B", "B": "A", "Tie": "Tie"}
        return LabeledComparison(self.comparison.swap(), exchanged[self.label])


class ComparisonRenderer(ABC):
    """Writes comparisons for a judge that answers with a label."""

    @property
    @abstractmethod
    def tokenizer(self) -> Any:
        """The tokenizer of the judge."""

    @abstractmethod
    def build_generation_prompt(self, comparison: Comparison) -> ModelInput:
        """Tokens up to where the label begins."""

    @abstractmethod
    def to_model_input_weights(self, labeled_comparison: LabeledComparison) -> tuple[ModelInput, torch.Tensor]:
        """Tokens with the label, and their weights."""


class ComparisonRendererFromChatRenderer(ComparisonRenderer):
    """Writes a comparison as a conversation that the judge ends with `A` or `B`.

    The label is where the tokens of the two possible endings part. So it is found behind whatever a format writes
    before a reply, an empty thought for instance, and it alone has weight.
    """

    def __init__(self, convo_renderer: Renderer) -> None:
        self.convo_renderer = convo_renderer

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of the judge."""
        return self.convo_renderer.tokenizer

    def build_generation_prompt(self, comparison: Comparison) -> ModelInput:
        """Tokens up to where the label begins."""
        return ModelInput.from_ints(self.endings(comparison)[0][:-1])

    def to_model_input_weights(self, labeled_comparison: LabeledComparison) -> tuple[ModelInput, torch.Tensor]:
        """Tokens up to the label, which alone has weight 1; raises DataError for a tie, which has no label."""
        if labeled_comparison.label == "Tie":
            raise DataError("a tie has no label to learn; leave it out")
        tokens = self.endings(labeled_comparison.comparison)["AB".index(labeled_comparison.label)]
        weights = torch.zeros(len(tokens))
        weights[-1] = 1
        return ModelInput.from_ints(tokens), weights

    def endings(self, comparison: Comparison) -> tuple[list[int], list[int]]:
        """The tokens up to and including the label A, and the same with B."""
        opening: list[Message] = [
            *comparison.prompt_conversation,
            {"role": "system", "content": "==== Completion A ===="},
            *comparison.completion_A,
            {"role": "system", "content": "==== Completion B ===="},
            *comparison.completion_B,
            {"role": "system", "content": "==== Preference ===="},
        ]
        a, b = (
            self.convo_renderer.build_supervised_example([*opening, {"role": "assistant", "content": label}])[
                0
            ].to_ints()
            for label in "AB"
        )
        place = next(i for i, (first, second) in enumerate(zip(a, b, strict=False)) if first != second)
        return a[: place + 1], b[: place + 1]


class PreferenceModel(ABC):
    """Says which completion is better."""

    @abstractmethod
    async def __call__(self, comparison: Comparison) -> float:
        """From −1, the first is better, to +1, the second is."""


class PreferenceModelBuilder(ABC):
    """A callable config that builds a preference model."""

    @abstractmethod
    def __call__(self) -> PreferenceModel:
        """The preference model."""


class PreferenceModelFromChatRenderer(PreferenceModel):
    """A judge's probability of the label B over A, scaled to −1 … 1; no sampling."""

    def __init__(self, convo_renderer: Renderer, sampling_client: Any) -> None:
        self._renderer = ComparisonRendererFromChatRenderer(convo_renderer)
        self._client = sampling_client

    async def __call__(self, comparison: Comparison) -> float:
        """2 · p(B) − 1, where p(A) + p(B) = 1."""
        target = any_client.types_of(self._client)
        inputs = [ModelInput.from_ints(tokens) for tokens in self._renderer.endings(comparison)]
        futures = [self._client.compute_logprobs(any_client.to_model_input(one, target)) for one in inputs]
        a, b = await asyncio.gather(*(resolved(future) for future in futures))
        return math.tanh((b[-1] - a[-1]) / 2)


@config_class
class PreferenceModelBuilderFromChatRenderer(PreferenceModelBuilder):
    """The judge at `rm_weights_path`, a sampler_path; None is the base model itself."""

    renderer_name: str
    model_name: str
    rm_weights_path: str | None
    base_url: str | None = None

    def __call__(self) -> PreferenceModel:
        """The judge."""
        if self.rm_weights_path and "/sampler_weights/" not in self.rm_weights_path:
            raise ConfigError(f"rm_weights_path={self.rm_weights_path!r}; give the sampler_path of checkpoints.jsonl")
        source = {"model_path": self.rm_weights_path} if self.rm_weights_path else {"base_model": self.model_name}
        client = finished(any_client.connect(self.base_url).create_sampling_client(**source))
        return PreferenceModelFromChatRenderer(get_renderer(self.renderer_name, get_tokenizer(self.model_name)), client)
