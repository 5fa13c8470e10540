"""Where a server listens, and what the address is called."""

from __future__ import annotations

import ipaddress
import socket
from typing import TYPE_CHECKING, Any

from thumbs.errors import ConfigError, needs

if TYPE_CHECKING:
    import uvicorn


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches that address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def listen(host: str, port: int, ports: int = 1) -> socket.socket:
    """A socket that listens at that port, or at the first free one of so many `ports` from there on.

    Raises ConfigError if there can be none.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    reason = ""
    for number in range(port, min(port + ports, 65536)):
        try:
            return socket.create_server((host, number), family=family, backlog=2048)
        except OSError as error:
            reason = error.strerror or str(error)
    after = f" nor on the {ports - 1} ports after it" if ports > 1 else ""
    raise ConfigError(f"cannot listen on {host}:{port}{after}: {reason}; choose another port")


def url_of(listener: socket.socket, host: str) -> str:
    """How to reach the socket."""
    name = socket.gethostname() if host in ("0.0.0.0", "::") else host  # noqa: S104
    return f"http://{f'[{name}]' if ':' in name else name}:{listener.getsockname()[1]}"


@needs("serve", "a server")
def server_of(app: Any, **settings: Any) -> uvicorn.Server:
    """What serves an application without a log of its own; further settings are uvicorn's."""
    import uvicorn

    return uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, server_header=False, **settings))
