"""Tool calls in the text of replies, as Qwen3 and others of the Hermes format write them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

from pydantic import BaseModel, ValidationError

from thumbs.errors import DataError

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"
_BLOCK = re.compile(rf"\n?{_OPEN}(.*?){_CLOSE}", re.DOTALL)

_PREFIX = """# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{tools}
</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:
<tool_call>
{{"name": <function-name>, "arguments": <args-json-object>}}
</tool_call>"""


class ToolSpec(TypedDict):
    """A tool that a model may call; `parameters` is a JSON schema."""

    name: str
    description: str
    parameters: dict[str, Any]


class ToolCall(BaseModel):
    """A call of a tool; its arguments are JSON text."""

    class FunctionBody(BaseModel):
        """Which function, and with what."""

        name: str
        arguments: str

    type: Literal["function"] = "function"
    id: str | None = None
    function: FunctionBody


class UnparsedToolCall(BaseModel):
    """Text that should have been a call, and why it is none."""

    raw_text: str
    error: str


def split_calls(text: str) -> tuple[str, list[ToolCall], list[UnparsedToolCall]]:
    """The words of a reply without the calls in it, the calls, and those that cannot be read."""
    found = [_read(match.group(1), match.group(0).lstrip("\n")) for match in _BLOCK.finditer(text)]
    words = _BLOCK.sub("", text)
    if _OPEN in words:
        found.append(UnparsedToolCall(raw_text=words[words.index(_OPEN) :], error=f"no {_CLOSE} after {_OPEN}"))
    calls = [call for call in found if isinstance(call, ToolCall)]
    return words, calls, [call for call in found if isinstance(call, UnparsedToolCall)]


def _read(body: str, raw: str) -> ToolCall | UnparsedToolCall:
    try:
        call = json.loads(body)
    except ValueError as error:
        return UnparsedToolCall(raw_text=raw, error=f"not JSON: {error}")
    if not isinstance(call, dict) or not isinstance(call.get("name"), str):
        return UnparsedToolCall(raw_text=raw, error="must be a JSON object with a 'name' that is text")
    if not isinstance(call.get("arguments"), dict):
        return UnparsedToolCall(raw_text=raw, error="'arguments' must be a JSON object")
    function = ToolCall.FunctionBody(name=call["name"], arguments=_json(call["arguments"]))
    return ToolCall(id=call["id"] if isinstance(call.get("id"), str) else None, function=function)


def write_calls(words: str, calls: Sequence[ToolCall | Mapping[str, Any]]) -> str:
    """The words with calls after them; raises DataError for a call that is none."""
    blocks = [f"{_OPEN}\n{_payload(call)}\n{_CLOSE}" for call in calls]
    return "\n".join([words, *blocks] if words else blocks)


def _payload(call: ToolCall | Mapping[str, Any]) -> str:
    if not isinstance(call, ToolCall):
        call = _from_mapping(call)
    return f'{{"name": {_json(call.function.name)}, "arguments": {call.function.arguments}}}'


def _from_mapping(call: Mapping[str, Any]) -> ToolCall:
    function = call.get("function", call)  # {"function": {"name", "arguments"}} or without the outer part
    try:
        arguments = function["arguments"]
        text = arguments if isinstance(arguments, str) else _json(arguments)
        return ToolCall(id=call.get("id"), function=ToolCall.FunctionBody(name=function["name"], arguments=text))
    except (KeyError, TypeError, ValidationError) as error:
        raise DataError(
            f"got the tool call {call!r}; it needs 'function' with 'name' and 'arguments' ({error})"
        ) from None


def tools_prefix(tools: Sequence[ToolSpec], system_prompt: str) -> str:
    """The system message that tells a model of its tools."""
    lines = "\n".join(_json({"type": "function", "function": tool}) for tool in tools)
    parts = [system_prompt, _PREFIX.format(tools=lines) if tools else ""]
    return "\n\n".join(part for part in parts if part)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
