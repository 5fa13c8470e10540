"""Renderers: messages to tokens with training weights, and sampled tokens back to messages."""

from __future__ import annotations

import difflib
import inspect
import logging
from collections.abc import Callable
from typing import Any

from thumbs.errors import ConfigError
from thumbs.recipe.renderers.base import RenderContext, RenderedMessage, Renderer, TurnRenderer
from thumbs.recipe.renderers.chat_template import ChatTemplateRenderer
from thumbs.recipe.renderers.formats import (
    Llama3Renderer,
    Qwen3DisableThinkingRenderer,
    Qwen3InstructRenderer,
    Qwen3Renderer,
    Qwen35DisableThinkingRenderer,
    Qwen35Renderer,
    RoleColonRenderer,
)
from thumbs.recipe.renderers.messages import (
    ContentPart,
    Message,
    MessageDelta,
    ParseFailureKind,
    ParseTermination,
    Role,
    StopCondition,
    TextPart,
    ThinkingPart,
    TrainOnWhat,
    classify_parse_failure,
    ensure_text,
    format_content_as_string,
    get_text_content,
)
from thumbs.recipe.renderers.streaming import (
    StreamingMessageHeader,
    StreamingTextDelta,
    StreamingThinkingDelta,
    Utf8TokenDecoder,
    split_thinking,
)
from thumbs.recipe.renderers.tools import ToolCall, ToolSpec, UnparsedToolCall, split_calls

log = logging.getLogger(__name__)

Factory = Callable[..., Renderer]

_BUILTIN: dict[str, Factory] = {
    "chat_template": ChatTemplateRenderer,
    "llama3": Llama3Renderer,
    "qwen3": Qwen3Renderer,
    "qwen3_5": Qwen35Renderer,
    "qwen3_5_disable_thinking": Qwen35DisableThinkingRenderer,
    "qwen3_disable_thinking": Qwen3DisableThinkingRenderer,
    "qwen3_instruct": Qwen3InstructRenderer,
    "role_colon": RoleColonRenderer,
}
_RENDERERS = dict(_BUILTIN)
# Formats that tinker_cookbook writes by hand; each is the chat template of the models that it is named for.
_OTHER_FAMILIES = ("deepseek", "glm", "gpt_oss", "kimi", "nemotron", "qwen3_8", "qwen3_vl", "tml")


def get_renderer(name: str, tokenizer: Any, image_processor: None = None, model_name: str | None = None) -> Renderer:
    """The renderer of that name for a tokenizer; ChatTemplateRenderer for names of other model families.

    `model_name` changes nothing; it is there for scripts that pass it. Raises ConfigError for an unknown name, an image
    processor (text only), or a tokenizer without the tokens of the format.
    """
    if image_processor is not None:
        raise ConfigError("got an image_processor; these renderers write text only")
    if name.startswith(_OTHER_FAMILIES) and name not in _RENDERERS:
        log.warning("there is no renderer %r here; the tokenizer's own chat template is used instead", name)
        return ChatTemplateRenderer(tokenizer)
    if name not in _RENDERERS:
        close = difflib.get_close_matches(name, _RENDERERS, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ConfigError(
            f"unknown renderer {name!r}.{hint} There are {', '.join(_RENDERERS)}; 'chat_template' fits any model, and "
            "register_renderer adds your own"
        )
    factory = _RENDERERS[name]
    # Factories written for tinker_cookbook take an image processor too, with or without a default.
    takes_two = not isinstance(factory, type) and len(inspect.signature(factory).parameters) > 1
    return factory(tokenizer, None) if takes_two else factory(tokenizer)


def register_renderer(name: str, factory: Factory) -> None:
    """Make `get_renderer(name, tokenizer)` return factory(tokenizer), or factory(tokenizer, None)."""
    _RENDERERS[name] = factory


def unregister_renderer(name: str) -> bool:
    """Forget a registered name; whether there was one. Those that come with the package stay."""
    return name not in _BUILTIN and _RENDERERS.pop(name, None) is not None


def is_renderer_registered(name: str) -> bool:
    """Whether a name was registered beside those that come with the package."""
    return name in _RENDERERS and name not in _BUILTIN


def get_registered_renderer_names() -> list[str]:
    """The names that were registered."""
    return [name for name in _RENDERERS if name not in _BUILTIN]


def parse_content_blocks(content: str) -> tuple[list[ContentPart], list[ToolCall | UnparsedToolCall]] | None:
    """Text and thinking of a reply, and its tool calls; None where it has neither thinking nor calls."""
    if "<think>" not in content and "<tool_call>" not in content:
        return None
    words, calls, unparsed = split_calls(content)
    parts: list[ContentPart] = []
    for delta in split_thinking([words]):
        if isinstance(delta, StreamingThinkingDelta):
            parts.append({"type": "thinking", "thinking": delta.thinking})
        else:
            parts.append({"type": "text", "text": delta.text})
    return parts, [*calls, *unparsed]


__all__ = [
    "ChatTemplateRenderer",
    "ContentPart",
    "Llama3Renderer",
    "Message",
    "MessageDelta",
    "ParseFailureKind",
    "ParseTermination",
    "Qwen3DisableThinkingRenderer",
    "Qwen3InstructRenderer",
    "Qwen3Renderer",
    "Qwen35DisableThinkingRenderer",
    "Qwen35Renderer",
    "RenderContext",
    "RenderedMessage",
    "Renderer",
    "Role",
    "RoleColonRenderer",
    "StopCondition",
    "StreamingMessageHeader",
    "StreamingTextDelta",
    "StreamingThinkingDelta",
    "TextPart",
    "ThinkingPart",
    "ToolCall",
    "ToolSpec",
    "TrainOnWhat",
    "TurnRenderer",
    "UnparsedToolCall",
    "Utf8TokenDecoder",
    "classify_parse_failure",
    "ensure_text",
    "format_content_as_string",
    "get_registered_renderer_names",
    "get_renderer",
    "get_text_content",
    "is_renderer_registered",
    "parse_content_blocks",
    "register_renderer",
    "unregister_renderer",
]
