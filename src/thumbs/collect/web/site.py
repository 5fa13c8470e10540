"""What all routes share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from starlette.requests import HTTPConnection, Request
from starlette.responses import Response

from thumbs.collect.records import Account
from thumbs.collect.store import CollectStore
from thumbs.web.guards import LOOPBACK
from thumbs.web.proxies import Network

if TYPE_CHECKING:
    from thumbs.collect.supply import ReplySource


class IdentityProvider(Protocol):
    """Where people of a team sign in (`oidc.py`)."""

    @property
    def issuer(self) -> str:
        """Its address."""
        ...

    async def begin(self, request: Request, after: str) -> Response:
        """Sends the browser to the provider, and from there to `after`."""
        ...

    async def end(self, request: Request) -> tuple[Account, str]:
        """(whose session begins, where they wanted to go) of a browser that comes back."""
        ...


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
    names: tuple[str, ...] = ()
    """Names under which people reach it through a proxy, the first one in links; with a port if it is not the usual."""
    prefix: str = ""
    """What stands before all paths, as /label; "" for nothing."""
    proxies: tuple[Network, ...] = ()
    """Where proxies call from, whose X-Forwarded headers are believed."""
    provider: IdentityProvider | None = None
    """Through whom people of a team may sign in, next to passwords."""
    sources: Mapping[str, ReplySource] = field(default_factory=dict)
    """Live policies by project, for chats."""


def root_of(connection: HTTPConnection) -> str:
    """What stands before all paths of the site, as this visitor knows them."""
    return connection.state.root  # the scope's own is longer within what is mounted


def public_url(connection: HTTPConnection) -> str:
    """The site's address as people reach it, without a slash at its end."""
    site = site_of(connection)
    scheme = "https" if site.secure else connection.url.scheme
    host = connection.headers.get("host", "")
    known = {name.partition(":")[0] for name in site.names}
    if site.names and host.partition(":")[0] not in known:
        host = site.names[0]
    return f"{scheme}://{host}{root_of(connection)}"


def site_of(connection: HTTPConnection) -> Site:
    """The site that serves this request."""
    return connection.app.state.site
