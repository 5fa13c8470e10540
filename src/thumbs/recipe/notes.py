"""What environments note for people to read, such as `logtree.log_text(…)`: lines of the log, at level DEBUG.

rl.train writes episodes to rollouts.jsonl, and with them what a step returns in its `logs`.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

log = logging.getLogger(__name__)


def log_text(text: str, **_: Any) -> None:
    """Note a text."""
    log.debug("%s", text)


def details(text: str, *, summary: str = "", **_: Any) -> None:
    """Note a long text under a heading."""
    log.debug("%s: %s", summary, text)


@contextlib.contextmanager
def scope_header(title: str, **_: Any) -> Iterator[None]:
    """Note a heading for what the block notes."""
    log.debug("== %s", title)
    yield


def table_from_dict(data: Mapping[Any, Any], *, caption: str = "", **_: Any) -> None:
    """Note a table of keys and values."""
    log.debug("%s: %s", caption, dict(data))


def table(rows: Sequence[Any], *, caption: str = "", **_: Any) -> None:
    """Note a table."""
    log.debug("%s: %s", caption, list(rows))


def log_formatter(formatter: Any) -> None:
    """Note a conversation or another object that can show itself."""
    log.debug("%s", formatter)
