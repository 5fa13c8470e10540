"""Chat templates: the Jinja program that comes with a model and writes messages as one text."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from thumbs.data.sources import RowError
from thumbs.errors import ModelError
from thumbs.records import Message

ROLE_COLON = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ message['role'] | capitalize }}:\n{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\n\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:\n' }}{% endif %}"
)
"""For models without a template. The reply begins after a newline, not a space, which would belong to its
first token.
"""

_GENERATION_TAG = re.compile(r"(\{%[-+]?\s*)(end)?generation(\s*[-+]?%\})")


class ChatTemplate:
    """A template in Jinja's sandbox, with the functions that `transformers` gives it.

    It is a program from a stranger, so it sees the messages and the names of special tokens and nothing else.
    """

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        """Compiles the template; raises ModelError when it is not Jinja."""
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = _strftime_now
        self._special_tokens = dict(special_tokens)
        # The tag only marks assistant text; the mask here comes from where a reply begins and ends.
        source = _GENERATION_TAG.sub(lambda tag: tag[1] + ("endif" if tag[2] else "if true") + tag[3], source)
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise ModelError(f"the chat template is not valid Jinja: {error} (line {error.lineno})") from None

    def render(self, messages: Sequence[Message], opens_reply: bool) -> str:
        """Text of the messages, and where `opens_reply` the beginning of an assistant turn after them.

        Raises RowError when the template refuses the messages (an unknown role order, no system turn
        allowed).
        """
        try:
            return self._template.render(
                messages=[{"role": message.role, "content": message.content} for message in messages],
                add_generation_prompt=opens_reply,
                tools=None,
                documents=None,
                **self._special_tokens,
            )
        except (jinja2.TemplateError, TypeError, ValueError, LookupError, ArithmeticError) as error:
            raise RowError("template", f"the model's chat template refuses the messages: {error}") from None


def _tojson(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
    # Jinja's own filter escapes for HTML, which is not what models were trained on.
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.now().astimezone().strftime(pattern)
