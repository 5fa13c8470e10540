"""Parameters of OpenAI's API, and of other servers that speak it, that mean nothing here.

Client programs send many of them by themselves. Each is taken only at values at which it makes no difference; at any
other the request is refused by name, since the reply would not be what was asked for. What is in no table and is no
field of a request is refused as unknown.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

ANY = object()
"""Any value of the parameter makes no difference."""


@dataclass(frozen=True)
class Neutral:
    """values: those at which nothing changes, `(ANY,)` for all; reason: why that is so."""

    values: tuple[Any, ...]
    reason: str

    def takes(self, value: Any) -> bool:
        """Whether this value makes no difference. 0 and false differ, 0 and 0.0 do not."""
        return any(
            each is ANY or (each == value and isinstance(each, bool) == isinstance(value, bool)) for each in self.values
        )

    @property
    def allowed(self) -> str:
        """The values in words."""
        return "any" if ANY in self.values else " or ".join(json.dumps(value) for value in self.values)


_SAMPLING = "the sampler has no such setting"
_STOPS = "a reply is its text, up to its stop and without special tokens"
_THINKING = "no reasoning is kept apart from the reply"
_TOOLS = "replies call no tools here"

SHARED: Mapping[str, Neutral] = {
    "user": Neutral((ANY,), "a label for the provider's own watch; nothing is kept of it"),
    "safety_identifier": Neutral((ANY,), "the same under a newer name"),
    "prompt_cache_key": Neutral((ANY,), "a hint for a cache; replies do not depend on it"),
    "prompt_cache_retention": Neutral((ANY,), "a hint for a cache; replies do not depend on it"),
    "metadata": Neutral((ANY,), "labels of stored replies; none is stored"),
    "store": Neutral((False,), "replies are not stored"),
    "service_tier": Neutral(("auto", "default"), "there is one tier"),
    "presence_penalty": Neutral((0,), _SAMPLING),
    "frequency_penalty": Neutral((0,), _SAMPLING),
    "repetition_penalty": Neutral((1,), _SAMPLING),
    "length_penalty": Neutral((1,), _SAMPLING),
    "min_p": Neutral((0,), _SAMPLING),
    "typical_p": Neutral((1,), _SAMPLING),
    "min_tokens": Neutral((0,), _SAMPLING),
    "logit_bias": Neutral(({},), _SAMPLING),
    "use_beam_search": Neutral((False,), _SAMPLING),
    "do_sample": Neutral((True,), "temperature 0 takes the likeliest token, any other draws"),
    "skip_special_tokens": Neutral((True,), _STOPS),
    "spaces_between_special_tokens": Neutral((True,), _STOPS),
    "include_stop_str_in_output": Neutral((False,), _STOPS),
    "response_format": Neutral(({"type": "text"},), "replies are free text"),
    "add_special_tokens": Neutral((False,), "texts and templates get no tokens but their own"),
}
"""Of both APIs."""

COMPLETION: Mapping[str, Neutral] = {**SHARED, "suffix": Neutral(("",), "a text is gone on with, never filled in")}

CHAT: Mapping[str, Neutral] = {
    **SHARED,
    "tools": Neutral(([],), _TOOLS),
    "functions": Neutral(([],), _TOOLS),
    "tool_choice": Neutral(("none", "auto"), _TOOLS),
    "function_call": Neutral(("none", "auto"), _TOOLS),
    "parallel_tool_calls": Neutral((True, False), _TOOLS),
    "modalities": Neutral((["text"],), "replies are text"),
    "verbosity": Neutral(("medium",), "there is no such setting; this is the default of those who have one"),
    "echo": Neutral((False,), "only completions repeat their prompt"),
}

MESSAGE: Mapping[str, Neutral] = {
    "name": Neutral(("",), "templates are told no names of speakers; write them into the content"),
    "tool_calls": Neutral(([],), _TOOLS),
    "annotations": Neutral(([],), "replies that come back to the server hold it"),
    "refusal": Neutral(("",), "replies that come back to the server hold it"),
    "reasoning_content": Neutral(("",), _THINKING),
    "type": Neutral(("message", "text"), "lm-evaluation-harness and the Responses API write it"),
}

PART: Mapping[str, Neutral] = {"annotations": Neutral(([],), "texts that come back to the server hold it")}

STREAM: Mapping[str, Neutral] = {
    "include_obfuscation": Neutral((False,), "no padding is sent"),
    "continuous_usage_stats": Neutral((False,), "usage comes once, at the end"),
}

TABLES: Mapping[str, Mapping[str, Neutral]] = {
    "completions": COMPLETION,
    "chat completions": CHAT,
    "a message": MESSAGE,
    "a part of a message": PART,
    "stream_options": STREAM,
}
