"""Tools: Python functions that a reply may call, with the results as the next message.

A call is JSON between tags, as the chat templates of the Qwen and Hermes models write it:

    <tool_call>{"name": "add", "arguments": {"a": 1, "b": 2}}</tool_call>
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from thumbs.envs.base import Turn
from thumbs.records import Message, Prompt

Tools = Mapping[str, Callable[..., Any]]

_CALL = re.compile(r"<tool_call>(.*?)</tool_call>", re.DOTALL)


class ToolUse:
    """A prompt with tools: a reply that calls some gets their results and goes on; one that calls none ends it.

    No reward is given here; a verifier, a function or a model scores the last reply. A call that cannot be read and a
    tool that fails are answered with the error, from which the policy may learn.
    """

    def __init__(self, prompt: Prompt, tools: Tools) -> None:
        self.prompt, self.tools = prompt, tools

    def first(self) -> tuple[Message, ...]:
        """The prompt with a description of the tools before it, in its system message if it has one."""
        system, *rest = self.prompt.messages
        if system.role != "system":
            return (Message("system", describe(self.tools)), *self.prompt.messages)
        return (Message("system", f"{system.content}\n\n{describe(self.tools)}"), *rest)

    def step(self, reply: str) -> Turn:
        """The results of the reply's calls, a line each in their order, as a user's message; done without a call."""
        calls = _CALL.findall(reply)
        if not calls:
            return Turn()
        results = "\n".join(call_tool(self.tools, call) for call in calls)
        return Turn(done=False, messages=(Message("user", results),))


def call_tool(tools: Tools, call: str) -> str:
    """The result of a call, as JSON unless it is text already; `error: …` where there is none."""
    try:
        asked = json.loads(call)
        name, arguments = asked["name"], asked.get("arguments", {})
        if name not in tools:
            return f"error: no tool {name!r}; there are {', '.join(tools)}"
        result = tools[name](**arguments)
        return result if isinstance(result, str) else json.dumps(result)
    except Exception as error:
        return f"error: {type(error).__name__}: {error}"


def describe(tools: Tools) -> str:
    """The tools as a system message: how to call, then the signature and the first line of the docstring of each."""
    lines = ['To use a tool, write <tool_call>{"name": ..., "arguments": {...}}</tool_call>. Tools:']
    for name, function in tools.items():
        about = (inspect.getdoc(function) or "").partition("\n")[0]
        lines.append(f"{name}{inspect.signature(function)}: {about}")
    return "\n".join(lines)
