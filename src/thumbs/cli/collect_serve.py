"""`thumbs collect serve`: the site of a team."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from thumbs.cli.collect import Db, Host, Port, opened_store
from thumbs.cli.collect_team import app
from thumbs.errors import ConfigError, needs
from thumbs.web.listening import is_loopback, listen, server_of, url_of

if TYPE_CHECKING:
    import socket

    from thumbs.collect.store import CollectStore
    from thumbs.collect.supply import ReplySource
    from thumbs.collect.web.oidc import Provider
    from thumbs.collect.web.site import Site

_KEY_FILE = "site.key"

Names = Annotated[
    list[str],
    typer.Option(
        metavar="HOST[:PORT]", help="A name under which people reach the site through a proxy. May be repeated."
    ),
]
RootPath = Annotated[
    str, typer.Option(metavar="/PATH", help="What a proxy puts before the paths of this site, such as /label.")
]
Proxies = Annotated[
    list[str],
    typer.Option(
        metavar="ADDRESS[/BITS]",
        help="Where the proxy calls from; its X-Forwarded headers are believed. May be repeated.",
    ),
]
Issuer = Annotated[
    str | None, typer.Option(metavar="URL", help="An identity provider's issuer address, to sign in through.")
]
ClientId = Annotated[
    str, typer.Option(metavar="ID", help="What the provider calls this site; its secret is in THUMBS_OIDC_SECRET.")
]
Domains = Annotated[
    list[str], typer.Option(metavar="DOMAIN", help="Whose addresses get an annotator's account. May be repeated.")
]


@app.command()
def serve(
    *,
    db: Db = "",
    host: Host = "127.0.0.1",
    port: Port = 8765,
    secure: Annotated[
        bool, typer.Option("--secure", help="People come by https, through a proxy: cookies demand it.")
    ] = False,
    name: Names = [],  # noqa: B006 - typer copies it
    root_path: RootPath = "",
    proxy: Proxies = [],  # noqa: B006
    oidc: Issuer = None,
    oidc_client: ClientId = "",
    oidc_domain: Domains = [],  # noqa: B006
    policy: Annotated[
        list[str],
        typer.Option(metavar="PROJECT=MODEL", help="Who answers in a project's chats: a model, or RUN:STAGE."),
    ] = [],  # noqa: B006
) -> None:
    """Serve a team: accounts with passwords, roles, several projects.

    Pages of Mechanical Turk embed the site and need --secure.

    \b
    Example:
      thumbs collect account add ann --role owner --password
      thumbs collect serve --host 0.0.0.0
      thumbs collect serve --secure --name collect.example.org        behind a proxy on this machine
      thumbs collect serve --secure --name example.org --root-path /label
    """
    from thumbs.collect.desk import database
    from thumbs.collect.web.site import Site
    from thumbs.web.proxies import checked_prefix, proxies_of
    from thumbs.web.signing import load_key

    prefix, proxies = checked_prefix(root_path), proxies_of(proxy)
    provider = _provider(oidc, oidc_client, oidc_domain)
    with opened_store(db) as store:
        if not store.people.has_owner():
            make = "thumbs collect account add NAME --role owner --password"
            if not is_loopback(host):
                raise ConfigError(f"--host {host} lets others in, and no owner has a password yet; make one: {make}")
            typer.echo(f"no owner has a password yet; make one: {make}", err=True)
        sources = dict(_policy(store, given) for given in policy)
        with listen(host, port) as listener:
            where = database(db)
            key = where.with_name(_KEY_FILE) if isinstance(where, Path) else Path("thumbs-collect") / _KEY_FILE
            site = Site(
                store,
                load_key(key),
                secure=secure,
                hosts=_hosts(host, name, trusts_proxies=bool(proxies)),
                names=tuple(name),
                prefix=prefix,
                proxies=proxies,
                sources=sources,
                provider=provider,
            )
            _serve_team(site, listener, host)
    typer.echo("stopped; all answers that were acknowledged are kept")


def _provider(issuer: str | None, client: str, domains: list[str]) -> Provider | None:
    """Raises ConfigError if a part is missing: without its secret anybody could pose as this site."""
    secret = os.environ.get("THUMBS_OIDC_SECRET", "")
    if issuer is None:
        if client or domains:
            raise ConfigError("--oidc-client and --oidc-domain belong to --oidc URL; give the provider's address")
        return None
    if not client or not secret:
        raise ConfigError("--oidc needs --oidc-client ID, and the client's secret in the variable THUMBS_OIDC_SECRET")
    with needs("sso", "signing in through an identity provider"):
        from thumbs.collect.web.oidc import Provider
    return Provider(issuer, client, secret, tuple(domain.lower().lstrip("@") for domain in domains))


def _policy(store: CollectStore, given: str) -> tuple[str, ReplySource]:
    from thumbs.pipeline.reply_source import open_model, open_stage

    slug, equals, model = given.partition("=")
    if not equals or not model:
        raise ConfigError(f"--policy {given!r}: expected PROJECT=MODEL or PROJECT=RUN:STAGE")
    project = store.projects.find(slug)
    run, colon, stage = model.rpartition(":")
    return project.slug, open_stage(Path(run), stage) if colon else open_model(model)


def _hosts(host: str, names: list[str], *, trusts_proxies: bool) -> tuple[str, ...]:
    """Host headers that are served: any if others reach the server directly, under names that it cannot know, or if a
    proxy that is believed says under which name.
    """
    from thumbs.web.guards import LOOPBACK

    if trusts_proxies and not names:
        return ("*",)
    known = tuple(name.partition(":")[0] for name in names)
    return (*LOOPBACK, host, *known) if is_loopback(host) or names else ("*",)


def _serve_team(site: Site, listener: socket.socket, host: str) -> None:
    from thumbs.collect.web.app import create_app

    # Where a proxy is believed, `Forwarded` reads its headers.
    server = server_of(create_app(site), timeout_graceful_shutdown=2, proxy_headers=not site.proxies)
    typer.echo(f"serving {url_of(listener, host)}{site.prefix}; Ctrl-C ends")
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises it again after it has ended
        server.run(sockets=[listener])
