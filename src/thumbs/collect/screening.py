"""What filters found in the texts of an item: hidden from people until they ask, and left out of exports on request.

The findings are made once, when the item is, and stand in its `chosen_by["filtered"]`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from thumbs.collect.records import NewItem, Texts
from thumbs.collect.settings import ProjectSettings
from thumbs.config.safety import SafetyConfig
from thumbs.records import Message
from thumbs.safety.filters import FilterSet, Hit, open_filters

FOUND = "filtered"
"""Key of the findings: [place (message, reply), number, filter, reason] each."""

Hidden = Mapping[str, tuple[str, str]]
"""(filter, reason) by the text that is hidden."""


def filters_of(settings: ProjectSettings) -> FilterSet | None:
    """The project's filters; None if it has none."""
    return open_filters(SafetyConfig(filters=settings.filters, guard=settings.guard))


def screened(filters: FilterSet | None, item: NewItem) -> NewItem:
    """The item with what the filters found in its messages and replies, whatever its file says was found."""
    item = replace(item, chosen_by={key: value for key, value in item.chosen_by.items() if key != FOUND})
    if filters is None:
        return item
    messages, texts = item.messages, [reply.text for reply in item.replies]
    hits = [_of_message(filters, messages, number) for number in range(len(messages))]
    found = [["message", n, hit.filter, hit.reason] for n, hit in enumerate(hits) if hit is not None]
    hits = filters.of_replies([messages] * len(texts), texts) if texts else []
    found += [["reply", n, hit.filter, hit.reason] for n, hit in enumerate(hits) if hit is not None]
    return replace(item, chosen_by={**item.chosen_by, FOUND: found}) if found else item


def _of_message(filters: FilterSet, messages: Sequence[Message], number: int) -> Hit | None:
    """What is found in one turn; in one of the assistant's as in a reply to those before."""
    message = messages[number]
    if message.role == "assistant":
        return filters.of_replies([messages[:number]], [message.content])[0]
    return filters.of_prompts([[message]])[0]


def hidden_of(texts: Texts) -> Hidden:
    """What is hidden of an item."""
    given = {
        "message": [message.content for message in texts.messages],
        "reply": [reply.text for reply in texts.replies],
    }
    found: list[tuple[str, int, str, str]] = texts.chosen_by.get(FOUND, [])
    return {given[place][number]: (name, reason) for place, number, name, reason in found}
