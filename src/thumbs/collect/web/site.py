"""What all routes share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from starlette.requests import HTTPConnection

from thumbs.collect.store import CollectStore
from thumbs.web.guards import LOOPBACK

if TYPE_CHECKING:
    from thumbs.collect.supply import ReplySource


@dataclass(frozen=True)
class Site:
    """One server's parts and how it is reached."""

    store: CollectStore
    key: bytes
    """Signs what the pages of Mechanical Turk's workers carry; several servers of one database need the same."""
    local: bool = False
    """One person at this machine, let in by `token` in the first URL; else accounts with passwords."""
    token: str = ""
    secure: bool = False
    """Reached by https alone: cookies are not sent otherwise."""
    hosts: tuple[str, ...] = LOOPBACK
    """Values of the Host header that are served; ("*",) where others reach the server under names of their own."""
    sources: Mapping[str, ReplySource] = field(default_factory=dict)
    """Live policies by project, for chats."""


def site_of(connection: HTTPConnection) -> Site:
    """The site that serves this request."""
    return connection.app.state.site
