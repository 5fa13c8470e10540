"""Servers behind a proxy: what it tells of a request, the prefix of all paths, and whose page a request is of."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Mapping, Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Receive, Scope, Send

from thumbs.errors import ConfigError

_PREFIX = re.compile(r"(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)+")
_HOST = re.compile(r"[A-Za-z0-9._-]+(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]+\](:[0-9]{1,5})?")
_DEFAULT_PORTS = {"http": 80, "https": 443}

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def checked_prefix(prefix: str) -> str:
    """The prefix as /NAME/NAME, "" for none; raises ConfigError."""
    plain = prefix.rstrip("/")
    if plain and not _PREFIX.fullmatch(plain):
        raise ConfigError(f"--root-path {prefix!r}: write it as in /label, with letters, digits and - . _ ~")
    return plain


def proxies_of(addresses: Sequence[str]) -> tuple[Network, ...]:
    """The networks of `--proxy`, each an address or ADDRESS/BITS; raises ConfigError."""
    found: list[Network] = []
    for address in addresses:
        try:
            found.append(ipaddress.ip_network(address, strict=False))
        except ValueError:
            raise ConfigError(
                f"--proxy {address!r}: give the address from which the proxy calls, such as 127.0.0.1 or 10.0.0.0/24"
            ) from None
    return tuple(found)


def route_path(scope: Scope) -> str:
    """The path of a request without the prefix."""
    path, prefix = scope["path"], scope.get("root_path", "")
    within = prefix and (path == prefix or path.startswith(f"{prefix}/"))
    return (path[len(prefix) :] or "/") if within else path


class Forwarded:
    """Middleware: sets scheme, Host, client and prefix of a request to what the visitor's browser knows.

    `prefix` stands before the paths of this server, whether a proxy takes it away or not. X-Forwarded-Proto, -Host,
    -Port, -Prefix and -For are believed only when they come from one of `proxies`, since anybody can send them.
    """

    def __init__(self, app: ASGIApp, prefix: str = "", proxies: Collection[Network] = ()) -> None:
        self._app, self._prefix, self._proxies = app, prefix, tuple(proxies)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes everything on."""
        if scope["type"] == "http":
            client = scope.get("client")
            told = Headers(scope=scope) if client and self._is_proxy(client[0]) else {}
            scope = self._as_sent(scope, told)
        await self._app(scope, receive, send)

    def _as_sent(self, scope: Scope, told: Mapping[str, str]) -> Scope:
        changes: dict[str, object] = {}
        scheme = _last(told, "x-forwarded-proto").lower()
        if scheme in _DEFAULT_PORTS:
            changes["scheme"] = scheme
        host, port = _last(told, "x-forwarded-host"), _last(told, "x-forwarded-port")
        if _HOST.fullmatch(host):
            bare = not host.endswith("]") and ":" not in host.rpartition("]")[2]
            known = port.isascii() and port.isdigit() and int(port) != _DEFAULT_PORTS.get(scheme)
            named = f"{host}:{port}" if known and (bare or host.endswith("]")) else host
            headers = MutableHeaders(raw=list(scope["headers"]))
            headers["host"] = named
            changes["headers"] = headers.raw
        if (client := self._visitor(told)) is not None:
            changes["client"] = (client, 0)
        given = _last(told, "x-forwarded-prefix").rstrip("/")
        prefix = given if _PREFIX.fullmatch(given) else self._prefix
        if prefix:
            path = scope["path"]
            within = path == prefix or path.startswith(f"{prefix}/")
            changes |= {"root_path": prefix, "path": path if within else prefix + path}
        return {**scope, **changes}

    def _visitor(self, told: Mapping[str, str]) -> str | None:
        """The address before the last proxy that we know; what stands before that anybody may have written."""
        for address in reversed([one.strip() for one in told.get("x-forwarded-for", "").split(",")]):
            try:
                ipaddress.ip_address(address)
            except ValueError:
                return None
            if not self._is_proxy(address):
                return address
        return None

    def _is_proxy(self, address: str) -> bool:
        try:
            found = ipaddress.ip_address(address)
        except ValueError:  # a test's client, or a socket without an address
            return False
        return any(found in network for network in self._proxies)


def is_own_page(
    headers: Mapping[str, str], scheme: str, names: Collection[str] = (), *, secure: bool | None = False
) -> bool:
    """Whether a request with an Origin was sent by a page of this server.

    Browsers say so themselves (Sec-Fetch-Site), whatever a proxy makes of the Host header. Older ones, and those that
    came by plain http, are asked for an Origin that is the Host, or one of `names` if a proxy hands on another Host or
    leaves out its port. `secure`: pages of this server are reached by https alone; None: by whichever scheme.
    """
    if (site := headers.get("sec-fetch-site")) is not None:
        return site in ("same-origin", "none")
    try:
        origin, host = urlsplit(headers.get("origin", "")), urlsplit(f"//{headers.get('host', '')}")
        port, at = origin.port, host.port
    except ValueError:
        return False
    if origin.scheme not in _DEFAULT_PORTS or origin.hostname is None:  # "null" too
        return False
    by_https = secure or scheme == "https"
    if origin.scheme != "https" and by_https and secure is not None:
        return False
    default = _DEFAULT_PORTS[origin.scheme]
    if origin.hostname == host.hostname and (port or default) == (at or default):
        return by_https or secure is None or origin.scheme == scheme or bool(names)
    told = f"{origin.hostname}:{port or default}"
    bare = origin.hostname in {name.lower() for name in names}
    port_unknown = origin.hostname != host.hostname or at is None
    return told in {name.lower() for name in names} or (bare and port_unknown)


def _last(headers: Mapping[str, str], name: str) -> str:
    """What the nearest proxy says, if several did."""
    return headers.get(name, "").rpartition(",")[2].strip()
