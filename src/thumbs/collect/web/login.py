"""The ways in and out: a token in the first URL at this machine; names, passwords and invitations for a team."""

from __future__ import annotations

import getpass
from hmac import compare_digest
from urllib.parse import urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from thumbs.collect.errors import CollectError
from thumbs.collect.passwords import SHORTEST
from thumbs.collect.records import Account
from thumbs.collect.web.render import page
from thumbs.collect.web.requests import address_of, caller_of, form_body, redirect
from thumbs.collect.web.sessions import begin_visit, delete_cookies, drop_cookie, set_cookie
from thumbs.collect.web.site import IdentityProvider, site_of


def routes() -> list[Route]:
    """Login, logout, invitations."""
    return [
        Route("/login", show_login, methods=["GET"]),
        Route("/login", log_in, methods=["POST"]),
        Route("/login/oidc", go_to_provider, methods=["GET"]),
        Route("/login/oidc/back", come_from_provider, methods=["GET"]),
        Route("/logout", log_out, methods=["POST"]),
        Route("/invite/{secret}", show_invitation, methods=["GET"]),
        Route("/invite/{secret}", accept_invitation, methods=["POST"]),
    ]


async def show_login(request: Request) -> Response:
    """The form."""
    if site_of(request).local:
        raise HTTPException(401, "open the address that `thumbs collect` printed in the terminal")
    after = local_path(request.query_params.get("next", ""))
    return _visited(request, "login.html", next=after, handle="", failed=False, provider=_provider_name(request))


async def log_in(request: Request) -> Response:
    """A session for the right name and password; one answer for all that is wrong."""
    site, limits = site_of(request), request.app.state.limits
    limits.door.take(address_of(request))
    form = await form_body(request, "handle", "password", "next")
    handle, password, after = (_text(form.get(name)) for name in ("handle", "password", "next"))
    limits.handle.take(handle.strip().lower()[:100])
    account = None if site.local else await run_in_threadpool(site.store.people.authenticate, handle, password)
    if account is None:
        shown = {"next": local_path(after), "handle": handle[:100], "provider": _provider_name(request)}
        return _visited(request, "login.html", 401, failed=True, **shown)
    return await begin_session(request, account, local_path(after))


async def go_to_provider(request: Request) -> Response:
    """To the identity provider's page; raises HTTPException 404 where there is none."""
    return await _provider(request).begin(request, local_path(request.query_params.get("next", "")))


async def come_from_provider(request: Request) -> Response:
    """A session for whom the provider vouches for."""
    account, after = await _provider(request).end(request)
    response = await begin_session(request, account, after)
    drop_cookie(response, request, "oidc")
    return response


def _provider(request: Request) -> IdentityProvider:
    if (provider := site_of(request).provider) is None:
        raise HTTPException(404, "this site has no identity provider; log in with a password")
    return provider


def _provider_name(request: Request) -> str:
    provider = site_of(request).provider
    return "" if provider is None else urlsplit(provider.issuer).hostname or ""


async def log_out(request: Request) -> Response:
    """Ends the session, here and in the database."""
    caller_of(request)
    await form_body(request)
    await run_in_threadpool(site_of(request).store.people.log_out, request.state.secret)
    response = redirect(request, "/login")
    delete_cookies(response, request)
    return response


async def show_invitation(request: Request) -> Response:
    """The form for a first password; raises HTTPException 404 where the invitation is void."""
    account = await _invited(request)
    return _visited(request, "invite.html", handle=account.handle, shortest=SHORTEST, fault="")


async def accept_invitation(request: Request) -> Response:
    """Sets the password and begins a session."""
    account = await _invited(request)
    form = await form_body(request, "username", "password", "again")
    password, again = (_text(form.get(name)) for name in ("password", "again"))
    try:
        if password != again:
            raise CollectError("the two passwords differ; type the same one twice")
        account = await run_in_threadpool(site_of(request).store.people.accept, request.path_params["secret"], password)
    except CollectError as error:
        return _visited(request, "invite.html", 422, handle=account.handle, shortest=SHORTEST, fault=str(error))
    return await begin_session(request, account, "/")


async def begin_session(request: Request, account: Account, after: str, *, embedded: bool = False) -> Response:
    """Sends the browser to `after` with a session of its own; one that it had before ends."""
    site = site_of(request)
    if request.state.secret:
        await run_in_threadpool(site.store.people.log_out, request.state.secret)
    secret = await run_in_threadpool(site.store.people.log_in, account.id)
    response = redirect(request, after)
    set_cookie(response, request, "embedded" if embedded else "login", secret)
    return response


def local_path(target: str) -> str:
    """`target` where it is a path of this site, else "/": browsers take "//" and backslashes for other hosts."""
    plain = target.startswith("/") and not target.startswith("//") and target.isascii() and target.isprintable()
    return target if plain and "\\" not in target and len(target) <= 500 else "/"


async def enter(request: Request, token: str) -> Response:
    """Exchanges the token in the URL of a local site for a session, so that it leaves the address bar; raises
    HTTPException 401 for a wrong one.
    """
    site = site_of(request)
    after = local_path(request.query_params.get("next", ""))
    if request.state.caller is not None:
        return redirect(request, after)
    request.app.state.limits.door.take(address_of(request))
    if not site.token or not compare_digest(site.token.encode(), token.encode("utf-8", "replace")):
        raise HTTPException(401, "open the address that `thumbs collect` printed in the terminal")
    account = await run_in_threadpool(site.store.people.at_home, getpass.getuser())
    return await begin_session(request, account, after)


async def _invited(request: Request) -> Account:
    request.app.state.limits.door.take(address_of(request))
    account = await run_in_threadpool(site_of(request).store.people.invited, request.path_params["secret"])
    if account is None:
        raise HTTPException(404, "this invitation was used already or replaced; ask for a new one")
    return account


def _visited(request: Request, template: str, status: int = 200, **content: object) -> Response:
    """A page with a form for somebody who may not be logged in."""
    visit = "" if request.state.caller else begin_visit(request)
    response = page(request, template, status, **content)
    if visit:
        set_cookie(response, request, "visit", visit)
    return response


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
