"""Messages: roles, parts of content, what to train on, and how a reply ended."""

from __future__ import annotations

from enum import StrEnum
from typing import NotRequired, TypedDict

from thumbs.errors import DataError
from thumbs.recipe.renderers.streaming import StreamingMessageHeader, StreamingTextDelta, StreamingThinkingDelta
from thumbs.recipe.renderers.tools import ToolCall, UnparsedToolCall

Role = str
StopCondition = list[str] | list[int]


class TextPart(TypedDict):
    """Words of a message."""

    type: str  # "text"
    text: str


class ThinkingPart(TypedDict):
    """Reasoning before an answer."""

    type: str  # "thinking"
    thinking: str


ContentPart = TextPart | ThinkingPart
Content = str | list[ContentPart]


class Message(TypedDict):
    """One turn; content is text, or parts of text and thinking. `trainable` is for TrainOnWhat.CUSTOMIZED."""

    role: Role
    content: Content
    tool_calls: NotRequired[list[ToolCall]]
    unparsed_tool_calls: NotRequired[list[UnparsedToolCall]]
    tool_call_id: NotRequired[str]
    trainable: NotRequired[bool]
    name: NotRequired[str]


MessageDelta = StreamingMessageHeader | StreamingTextDelta | StreamingThinkingDelta | Message


class TrainOnWhat(StrEnum):
    """Which messages of a conversation get weight 1."""

    LAST_ASSISTANT_MESSAGE = "last_assistant_message"
    LAST_ASSISTANT_TURN = "last_assistant_turn"
    ALL_ASSISTANT_MESSAGES = "all_assistant_messages"
    ALL_MESSAGES = "all_messages"
    ALL_TOKENS = "all_tokens"
    ALL_USER_AND_SYSTEM_MESSAGES = "all_user_and_system_messages"
    CUSTOMIZED = "customized"


class ParseTermination(StrEnum):
    """How a reply ended. True where it ended as it should, so that `message, ok = parse_response(…)` reads well."""

    STOP_SEQUENCE = "stop_sequence"
    EOS = "eos"
    MALFORMED = "malformed"

    @property
    def is_clean(self) -> bool:
        """Ended by a stop sequence or the end-of-text token."""
        return self is not ParseTermination.MALFORMED

    @property
    def is_stop_sequence(self) -> bool:
        """Ended by a stop sequence of the renderer."""
        return self is ParseTermination.STOP_SEQUENCE

    def __bool__(self) -> bool:
        return self.is_clean


def get_text_content(message: Message) -> str:
    """The words of a message without its thinking."""
    content = message["content"]
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content if part["type"] == "text")  # type: ignore[typeddict-item]


def ensure_text(content: Content) -> str:
    """The text of a content that is nothing else; raises DataError for thinking, or more parts than one."""
    if isinstance(content, str):
        return content
    if len(content) == 1 and content[0]["type"] == "text":
        return content[0]["text"]  # type: ignore[typeddict-item]
    raise DataError(f"got a content of the parts {[part['type'] for part in content]}; it must be one text")


def ensure_list(content: Content) -> list[ContentPart]:
    """The parts of a content; text is one."""
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def format_content_as_string(content: Content, separator: str = "\n") -> str:
    """All parts as text; thinking stands between its tags."""
    if isinstance(content, str):
        return content
    return separator.join(
        part["text"] if part["type"] == "text" else f"<think>{part['thinking']}</think>"  # type: ignore[typeddict-item]
        for part in content
    )


class ParseFailureKind(StrEnum):
    """What is wrong with a reply: its end, after which nothing can follow, or the calls in it, which may be mended."""

    STRUCTURAL = "structural"
    CONTENT = "content"


def classify_parse_failure(message: Message, termination: ParseTermination) -> tuple[ParseFailureKind, str] | None:
    """What is wrong with the result of parse_response, in words; None where nothing is."""
    if not termination.is_clean:
        return ParseFailureKind.STRUCTURAL, f"the reply ended as {termination.value}, without its stop token"
    if unparsed := message.get("unparsed_tool_calls"):
        return ParseFailureKind.CONTENT, "\n".join(call.error for call in unparsed)
    return None
