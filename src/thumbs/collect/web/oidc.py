"""Sign-in through a team's identity provider: OpenID Connect's code flow with PKCE (RFC 7636).

An account is the e-mail address that the provider vouches for. What a sign-in began with waits in a signed cookie of
the browser, so nothing is kept here.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from hmac import compare_digest
from typing import Any
from urllib.parse import urlsplit

import httpx
import jwt
from authlib.integrations.httpx_client import AsyncOAuth2Client
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from thumbs.collect.errors import NotFound
from thumbs.collect.people import Accounts
from thumbs.collect.records import Account
from thumbs.collect.web.requests import address_of
from thumbs.collect.web.sessions import cookie_of, set_cookie
from thumbs.collect.web.site import public_url, site_of
from thumbs.errors import ConfigError
from thumbs.web.signing import Signer

_MINUTES = 10
"""How long a sign-in at the provider may take."""
_PURPOSE = "oidc"
_ALGORITHMS = ["RS256", "RS384", "RS512", "ES256", "ES384", "PS256", "EdDSA"]
"""Of signatures with a public key: a token that is signed with a shared secret, or not at all, is none."""
_WAIT_S = 10.0


@dataclass(frozen=True)
class Provider:
    """Where people sign in. domains: of e-mail addresses whose owners get an annotator's account when they come first;
    all others need an account of the name of their address.
    """

    issuer: str
    client: str
    secret: str
    domains: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        parts = urlsplit(self.issuer)
        if parts.scheme != "https" and parts.hostname not in ("localhost", "127.0.0.1"):
            raise ConfigError(f"--oidc {self.issuer!r}: give the issuer's address, which begins with https://")

    @cached_property
    def _known(self) -> dict[str, Any]:
        """What the provider says of itself, once it was asked."""
        return {}

    async def _metadata(self) -> dict[str, Any]:
        """The provider's endpoints; raises HTTPException 502 if it does not answer as the standard says."""
        if not self._known:
            found = await self._fetched(f"{self.issuer.rstrip('/')}/.well-known/openid-configuration")
            if found.get("issuer") != self.issuer:
                raise _refused(f"it calls itself {found.get('issuer')!r:.100}, not {self.issuer!r}")
            self._known.update(found)
        return self._known

    async def begin(self, request: Request, after: str) -> Response:
        """Sends the browser to the provider, and from there to `after`."""
        request.app.state.limits.door.take(address_of(request))
        begun = {name: secrets.token_urlsafe(32) for name in ("state", "nonce", "verifier")}
        response = RedirectResponse(await self._address(_back(request), begun), 303)
        ends = int(time.time()) + 60 * _MINUTES
        signed = Signer(site_of(request).key).sign(_PURPOSE, {**begun, "next": after, "exp": ends})
        set_cookie(response, request, "oidc", signed)
        return response

    async def end(self, request: Request) -> tuple[Account, str]:
        """(whose session begins, where they wanted to go) of a browser that comes back from the provider.

        Raises HTTPException for a sign-in that did not begin here, was refused, or is of nobody with an account.
        """
        request.app.state.limits.door.take(address_of(request))
        begun = Signer(site_of(request).key).read(_PURPOSE, cookie_of(request, "oidc")) or {}
        asked = request.query_params
        if not begun or not compare_digest(str(begun["state"]).encode(), asked.get("state", "").encode()):
            raise HTTPException(400, "this sign-in has ended or began in another browser; log in again")
        if "code" not in asked:
            raise HTTPException(403, f"the identity provider refused: {asked.get('error', 'it gave no reason')[:100]}")
        claims = await self._claims(_back(request), begun, asked["code"])
        return await run_in_threadpool(_account, site_of(request).store.people, self.domains, claims), begun["next"]

    async def _address(self, back: str, begun: dict[str, str]) -> str:
        """The provider's page on which a person signs in, and which leads to `back`."""
        url, _ = self._client(back).create_authorization_url(
            (await self._metadata())["authorization_endpoint"],
            state=begun["state"],
            nonce=begun["nonce"],
            code_verifier=begun["verifier"],
        )
        return url

    async def _claims(self, back: str, begun: dict[str, Any], code: str) -> dict[str, Any]:
        """What the provider vouches for; raises HTTPException 502 where it does not."""
        known = await self._metadata()
        try:
            token = await self._client(back).fetch_token(
                known["token_endpoint"], grant_type="authorization_code", code=code, code_verifier=begun["verifier"]
            )
            keys = jwt.PyJWKSet.from_dict(await self._fetched(known["jwks_uri"]))
            kid = jwt.get_unverified_header(token["id_token"]).get("kid")
            key = next(key for key in keys.keys if kid in (None, key.key_id))
            claims = jwt.decode(token["id_token"], key, _ALGORITHMS, audience=self.client, issuer=self.issuer)
        except HTTPException:
            raise
        except Exception as error:  # of two libraries that ask over HTTP, and of what they read
            raise _refused(f"{type(error).__name__}: {error}") from None
        if not compare_digest(str(claims.get("nonce", "")), begun["nonce"]):
            raise _refused("its answer is to another sign-in")
        return claims

    def _client(self, back: str) -> AsyncOAuth2Client:
        return AsyncOAuth2Client(
            self.client,
            self.secret,
            scope="openid email profile",
            redirect_uri=back,
            code_challenge_method="S256",
            timeout=_WAIT_S,
        )

    async def _fetched(self, url: str) -> dict[str, Any]:
        try:
            async with httpx.AsyncClient(timeout=_WAIT_S) as client:
                answer = (await client.get(url)).raise_for_status().json()
        except (httpx.HTTPError, ValueError) as error:
            raise _refused(f"{type(error).__name__}: {error}") from None
        if not isinstance(answer, dict):
            raise _refused(f"{url} is no object")
        return answer


def _account(people: Accounts, domains: Sequence[str], claims: dict[str, Any]) -> Account:
    address = str(claims.get("email", "")).strip().lower()
    if claims.get("email_verified") is not True or "@" not in address:
        raise HTTPException(403, "the identity provider vouches for no e-mail address of yours")
    try:
        account = people.find(address)
    except NotFound:
        if address.rpartition("@")[2] not in domains:
            raise HTTPException(403, f"there is no account {address}; ask an owner to add it") from None
        account = people.add(address, str(claims.get("name", "")), "annotator")
    if account.disabled:
        raise HTTPException(403, f"the account {address} is disabled; ask an owner")
    return account


def _back(request: Request) -> str:
    return f"{public_url(request)}/login/oidc/back"


def _refused(why: str) -> HTTPException:
    return HTTPException(502, f"the identity provider cannot be used: {why}"[:500])
