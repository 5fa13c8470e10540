"""Which weights to start from and how they are trained."""

from __future__ import annotations

import datetime
from typing import Literal

from pydantic import Field, JsonValue

from thumbs.config.base import Frozen

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
FEED_FORWARD = ("gate_proj", "up_proj", "down_proj")
ADAPTED = (*ATTENTION, *FEED_FORWARD)


class AdapterConfig(Frozen):
    """Low-rank adapters (arXiv:2106.09685): W x + (alpha / rank) · B A x, with W frozen."""

    rank: int = Field(default=16, ge=1)
    """Inner width of the adapter."""
    alpha: float = Field(default=32.0, gt=0)
    """Numerator of the scale alpha / rank."""
    targets: tuple[str, ...] = ADAPTED
    """Names of the linear layers that get an adapter. In families with other names the four of attention together mean
    every linear layer of attention, and the other three every other linear layer of the blocks."""
    layers: int | None = Field(default=None, ge=1)
    """Adapt the last n layers only: what lies below is the same for policy, critic, reference and reward model, and is
    computed once a sequence. null: all layers."""


class TemplateConfig(Frozen):
    """What the model's chat template is given with the messages, wherever this model trains, samples or answers."""

    variables: dict[str, JsonValue] = Field(default_factory=dict)
    """Variables of the template, such as enable_thinking: false. One that the template never reads is refused."""
    date: datetime.date = datetime.date(2026, 1, 1)
    """What a template that writes the date takes for today, so that the same messages are the same tokens on any
    day."""


class ModelConfig(Frozen):
    """A base model and the way it is trained."""

    name: str = "smollm2-135m"
    """Catalog name (smollm2-135m, byte-tiny, byte-small), a local folder, a .gguf file, or a Hugging Face hub name."""
    lora: AdapterConfig | None = AdapterConfig()
    """Adapters on a frozen base; null trains every weight."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Compute precision; auto takes bfloat16 where the processor multiplies it."""
    template: TemplateConfig = TemplateConfig()
    """Settings of the model's chat template."""
