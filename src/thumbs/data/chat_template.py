"""Chat templates: the Jinja program that comes with a model and writes messages as one text."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import jinja2
from jinja2 import meta, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from thumbs.config.model import TemplateConfig
from thumbs.data.sources import RowError
from thumbs.errors import ConfigError, ModelError
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

SET = ("messages", "add_generation_prompt", "tools", "documents", "raise_exception", "strftime_now")
"""What every template gets from us, with the names of special tokens such as bos_token; tools and documents are
None.
"""

_FAILURES = (
    jinja2.TemplateError,
    TypeError,
    ValueError,
    LookupError,
    ArithmeticError,
    AttributeError,
    RuntimeError,
)
"""What a program in Jinja's sandbox can raise; RuntimeError is that of endless recursion."""

_GENERATION_TAG = re.compile(r"(\{%[-+]?\s*)(end)?generation(\s*[-+]?%\})")


class ChatTemplate:
    """A template in Jinja's sandbox, with the functions that `transformers` gives it.

    It is a program from a stranger, so it sees the messages, the names of special tokens, the user's variables and a
    fixed date, and nothing else. `as_parts`: the roles whose content it gets as a list of parts, [{"type": "text",
    "text": …}].
    `reads`: the variables that it reads and that nobody sets.
    """

    def __init__(self, source: str, special_tokens: Mapping[str, str], config: TemplateConfig | None = None) -> None:
        """Compiles the template; raises ModelError when it is not Jinja, ConfigError for a variable that it never
        reads.
        """
        config = config or TemplateConfig()
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = datetime.datetime.combine(config.date, datetime.time()).strftime
        # The tag only marks assistant text; the mask here comes from where a reply begins and ends.
        source = _GENERATION_TAG.sub(lambda tag: tag[1] + ("endif" if tag[2] else "if true") + tag[3], source)
        try:
            self._template = environment.from_string(source)
            read = _variables(environment.parse(source))
            tokens = list(environment.lex(source))
        except jinja2.TemplateSyntaxError as error:
            raise ModelError(f"the chat template is not valid Jinja: {error} (line {error.lineno})") from None
        self.as_parts: tuple[str, ...] = ()
        self.is_dated = any(kind == "name" and text == "strftime_now" for _, kind, text in tokens)
        self.literals = "\n".join(text for _, kind, text in tokens if kind in ("data", "string"))
        own = {*SET, *special_tokens, *environment.globals}
        _check_variables(config.variables, read, own)
        self.reads = tuple(sorted(name for name in read - own - set(config.variables) if not name.endswith("_token")))
        self._given = {**config.variables, **special_tokens}

    def render(self, messages: Sequence[Message], opens_reply: bool) -> str:
        """Text of the messages, and where `opens_reply` the beginning of an assistant turn after them.

        Raises RowError when the template refuses the messages (an unknown role order, no system turn
        allowed).
        """
        try:
            return self._template.render(
                messages=[{"role": message.role, "content": self._content(message)} for message in messages],
                add_generation_prompt=opens_reply,
                tools=None,
                documents=None,
                **self._given,
            )
        except _FAILURES as error:
            raise RowError("template", f"the model's chat template refuses the messages: {error}") from None

    def _content(self, message: Message) -> Any:
        as_part = message.role in self.as_parts
        return [{"type": "text", "text": message.content}] if as_part else message.content


def _variables(tree: nodes.Template) -> set[str]:
    """Names that a template takes from outside: those that it only sets itself, in a branch, are none."""
    asked = {test.node.name for test in tree.find_all(nodes.Test) if isinstance(test.node, nodes.Name)}
    asked |= {
        default.node.name
        for default in tree.find_all(nodes.Filter)
        if default.name in ("default", "d") and isinstance(default.node, nodes.Name)
    }
    stored = {name.name for name in tree.find_all(nodes.Name) if name.ctx == "store"}
    return meta.find_undeclared_variables(tree) - (stored - asked)


def _check_variables(given: Mapping[str, Any], read: set[str], own: set[str]) -> None:
    for name in given:
        if name in own:
            raise ConfigError(f"model.template.variables sets {name!r}, which thumbs sets itself; leave it out")
        if name not in read:
            known = ", ".join(sorted(read - own)) or "none"
            raise ConfigError(
                f"model.template.variables sets {name!r}, which the model's chat template never reads; the variables "
                f"that it reads are: {known}"
            )


def _tojson(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
    # Jinja's own filter escapes for HTML, which is not what models were trained on.
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)
