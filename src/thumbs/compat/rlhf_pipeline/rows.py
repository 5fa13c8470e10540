"""Data files as the pipeline API takes them: the forms of `data/`, some looser ones, and what was skipped, by line."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from thumbs.config.data import DataConfig
from thumbs.data.conversations import read_conversation
from thumbs.data.load import CONVERSATIONS, PREFERENCES, PROMPTS, Form, Loaded
from thumbs.data.messages import Conversation
from thumbs.data.prompts import read_prompt
from thumbs.data.sources import read_mixed_lines
from thumbs.data.tokenizers import Tokenizer
from thumbs.pipeline.labels import split
from thumbs.records import Preference, Prompt

T = TypeVar("T")

log = logging.getLogger(__name__)

HELD_OUT = 0.1
"""Share of the rows that only chooses the best checkpoint."""

FEWEST_HELD_OUT = 4
"""With fewer held-out rows than this they say nothing, and all rows are trained on."""


def load_conversations(path: str, tokenizer: Tokenizer, max_tokens: int) -> list[Conversation]:
    """Conversations with at least one user → assistant turn; absent roles alternate, beginning with the user."""
    return _load(path, replace(CONVERSATIONS, read=_read_conversation), tokenizer, max_tokens).rows


def load_pairs(path: str, tokenizer: Tokenizer, max_tokens: int) -> list[Preference]:
    """Rows of prompt, chosen and rejected; incomplete ones are skipped and counted."""
    return _load(path, PREFERENCES, tokenizer, max_tokens).rows


def load_prompts(path: str, tokenizer: Tokenizer, max_tokens: int) -> tuple[list[Prompt], int]:
    """Prompts as JSON objects, JSON strings or plain lines, and the tokens of the longest."""
    form = replace(PROMPTS, read=_read_prompt, rows=read_mixed_lines)
    loaded = _load(path, form, tokenizer, max_tokens)
    return loaded.rows, max(loaded.lengths)


def parts_of(rows: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """(training, held-out) conversations or pairs by a hash of their prompts; nothing is held out if that were few."""
    train, held = split(rows, lambda row: getattr(row, "prompt", row), HELD_OUT)
    return (train, held) if train and len(held) >= FEWEST_HELD_OUT else (list(rows), [])


def _load(path: str, form: Form[T], tokenizer: Tokenizer, max_tokens: int) -> Loaded[T]:
    loaded = form.load(DataConfig(path=path, max_tokens=max_tokens, min_kept=0.0), tokenizer)
    log.log(logging.WARNING if loaded.problems else logging.INFO, "%s", loaded.summary())
    return loaded


def _read_conversation(value: object) -> Conversation:
    """A conversation, also as a bare list of messages, and with turns that are mere text."""
    given = {"messages": value} if isinstance(value, list) else value
    if isinstance(given, Mapping):
        for key in ("messages", "conversations"):
            if isinstance(given.get(key), list):
                turns = [{"content": turn} if isinstance(turn, str) else turn for turn in given[key]]
                given = {**given, key: turns}
    return read_conversation(given)


def _read_prompt(value: object) -> Prompt:
    return read_prompt({"messages": value} if isinstance(value, list) else value)
