"""Renderers: messages to tokens with training weights, and sampled tokens back to messages."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any

from thumbs.errors import ConfigError
from thumbs.recipe.renderers.base import (
    Message,
    ParseTermination,
    RenderContext,
    RenderedMessage,
    Renderer,
    Role,
    StopCondition,
    TextPart,
    ThinkingPart,
    TrainOnWhat,
    TurnRenderer,
    get_text_content,
)
from thumbs.recipe.renderers.chat_template import ChatTemplateRenderer
from thumbs.recipe.renderers.formats import (
    Llama3Renderer,
    Qwen3DisableThinkingRenderer,
    Qwen3InstructRenderer,
    Qwen3Renderer,
    RoleColonRenderer,
)

_RENDERERS: dict[str, Callable[[Any], Renderer]] = {
    "chat_template": ChatTemplateRenderer,
    "llama3": Llama3Renderer,
    "qwen3": Qwen3Renderer,
    "qwen3_disable_thinking": Qwen3DisableThinkingRenderer,
    "qwen3_instruct": Qwen3InstructRenderer,
    "role_colon": RoleColonRenderer,
}


def get_renderer(name: str, tokenizer: Any, image_processor: None = None, model_name: str | None = None) -> Renderer:
    """The renderer of that name for a tokenizer.

    `model_name` changes nothing; it is there for scripts that pass it. Raises ConfigError for an unknown name, an image
    processor (text only), or a tokenizer without the tokens of the format.
    """
    if image_processor is not None:
        raise ConfigError("got an image_processor; these renderers write text only")
    if name not in _RENDERERS:
        close = difflib.get_close_matches(name, _RENDERERS, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ConfigError(
            f"unknown renderer {name!r}.{hint} There are {', '.join(_RENDERERS)}; 'chat_template' fits any model, and "
            "register_renderer adds your own"
        )
    return _RENDERERS[name](tokenizer)


def register_renderer(name: str, factory: Callable[[Any], Renderer]) -> None:
    """Make `get_renderer(name, tokenizer)` return factory(tokenizer)."""
    _RENDERERS[name] = factory


__all__ = [
    "ChatTemplateRenderer",
    "Llama3Renderer",
    "Message",
    "ParseTermination",
    "Qwen3DisableThinkingRenderer",
    "Qwen3InstructRenderer",
    "Qwen3Renderer",
    "RenderContext",
    "RenderedMessage",
    "Renderer",
    "Role",
    "RoleColonRenderer",
    "StopCondition",
    "TextPart",
    "ThinkingPart",
    "TrainOnWhat",
    "TurnRenderer",
    "get_renderer",
    "get_text_content",
    "register_renderer",
]
