"""Filters of prompts and replies: each says why a text is not to be used, or nothing.

Rollouts drop what is filtered. Every filtered text is a row of a file `filtered.jsonl` with its reason, and what is
secret in it is masked there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from thumbs.config.named import Registry
from thumbs.config.safety import CATEGORIES, FilterConfig, SafetyConfig
from thumbs.errors import ConfigError
from thumbs.records import Message
from thumbs.safety.guard import Ask, Guard, ask_endpoint
from thumbs.safety.text_rules import Span, WordList, cards, emails, masked, plain, secrets

Messages = Sequence[Message]
FILTERED = "filtered.jsonl"


class TextFilter(Protocol):
    """One reason, or several of a kind, not to use a text."""

    def reasons(self, prompts: Sequence[Messages], replies: Sequence[str] | None = None) -> list[str | None]:
        """Why each reply, given the conversation in its place, is filtered; without replies, why each conversation is.

        None for what may be used. A reason says what was found, and shows nothing secret.
        """
        ...


class RuleFilter:
    """A filter by a rule that reads a text alone. rule: the first reason that it gives counts."""

    def __init__(self, rule: Callable[[str], str | None]) -> None:
        self.rule = rule

    def reasons(self, prompts: Sequence[Messages], replies: Sequence[str] | None = None) -> list[str | None]:
        """The rule's reason for each reply, or for each conversation: the text of all its turns."""
        texts = replies if replies is not None else [_joined(prompt) for prompt in prompts]
        return [self.rule(text) for text in texts]


@dataclass(frozen=True)
class Hit:
    """Why a text is filtered, and by which filter."""

    filter: str
    reason: str

    def __str__(self) -> str:
        return f"{self.filter}: {self.reason}"

    def row(self, place: Literal["prompt", "reply"], text: str) -> dict[str, str]:
        """The row of filtered.jsonl; secrets, card numbers and addresses in the text are masked."""
        return {"place": place, "filter": self.filter, "reason": self.reason, "text": masked(text)}


class FilterSet:
    """Filters by name, in their order; the first one that finds something gives the reason."""

    def __init__(self, filters: Mapping[str, TextFilter]) -> None:
        self.filters = filters

    def of_prompts(self, prompts: Sequence[Messages]) -> list[Hit | None]:
        """What is found in each conversation; None for nothing."""
        return self._first(prompts, None)

    def of_replies(self, prompts: Sequence[Messages], replies: Sequence[str]) -> list[Hit | None]:
        """What is found in each reply to the conversation in its place."""
        return self._first(prompts, replies)

    def of_text(self, text: str) -> Hit | None:
        """What is found in a text that stands alone."""
        return self.of_prompts([[Message("user", text)]])[0]

    def _first(self, prompts: Sequence[Messages], replies: Sequence[str] | None) -> list[Hit | None]:
        hits: list[Hit | None] = [None] * len(prompts)
        for name, each in self.filters.items():
            left = [i for i, hit in enumerate(hits) if hit is None]
            if not left:
                break
            asked = [prompts[i] for i in left]
            reasons = each.reasons(asked, None if replies is None else [replies[i] for i in left])
            if len(reasons) != len(left):
                raise ConfigError(f"filter {name} gave {len(reasons)} reasons for {len(left)} texts; give one for each")
            for i, reason in zip(left, reasons, strict=True):
                hits[i] = None if reason is None else Hit(name, reason)
        return hits


OpenFilter = Callable[[FilterConfig], TextFilter]


def _by_spans(rule: Callable[[str], Iterator[Span]]) -> OpenFilter:
    def reason(text: str) -> str | None:
        span = next(rule(plain(text)), None)
        return None if span is None else span.reason

    return lambda _: RuleFilter(reason)


def _words(config: FilterConfig) -> TextFilter:
    words = WordList([*config.terms, *(_lines(Path(config.path)) if config.path else ())])

    def reason(text: str) -> str | None:
        term = words.find(text)
        return None if term is None else f"the listed term {term!r}"

    return RuleFilter(reason)


def _lines(path: Path) -> list[str]:
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"safety.filters: the word list {path} cannot be read as a text file: {error}") from None
    if not (terms := [line for line in lines if line and not line.startswith("#")]):
        raise ConfigError(f"safety.filters: the word list {path} has no terms; write one on each line")
    return terms


FILTERS: Registry[OpenFilter] = Registry(
    "filter", {"secrets": _by_spans(secrets), "cards": _by_spans(cards), "emails": _by_spans(emails), "words": _words}
)
"""Filters that configs name; each is made of its section."""


def open_filters(config: SafetyConfig | None, ask: Ask | None = None) -> FilterSet | None:
    """The filters of a section; None if there are none. ask: puts questions to a guard's model that runs here.

    Raises ConfigError for a name that is none, or a guard that is to run here where nothing runs models.
    """
    if config is None or not config.filters:
        return None
    return FilterSet({each.name: _opened(each, config, ask) for each in config.filters})


def _opened(each: FilterConfig, config: SafetyConfig, ask: Ask | None) -> TextFilter:
    if each.name != "guard":
        return FILTERS[each.name](each)
    return open_guard(config, ask)


def open_guard(config: SafetyConfig, ask: Ask | None = None) -> Guard:
    """The judge of the section, at its endpoint or by `ask`."""
    guard = config.guard
    if guard is None:
        raise ConfigError("safety.guard names no model; give it")
    if guard.endpoint is not None:
        return Guard(ask_endpoint(guard), guard.categories or CATEGORIES)
    if ask is None:
        raise ConfigError(
            f"safety.guard: {guard.model} would have to run here, where no model can; serve it with "
            f"`thumbs serve --model {guard.model}` and give its address as safety.guard.endpoint"
        )
    return Guard(ask, guard.categories or CATEGORIES)


def _joined(messages: Messages) -> str:
    return "\n".join(message.content for message in messages)
