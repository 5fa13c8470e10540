"""Signing in through an identity provider, played by an application of our own that speaks OpenID Connect."""

from __future__ import annotations

import base64
import hashlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import jwt
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from collect_visitor import Visitor, team_app
from collect_world import ON_SQLITE, person, project_of_pairs
from thumbs.cli.collect_serve import _provider
from thumbs.collect.store import CollectStore
from thumbs.errors import ConfigError

pytest.importorskip("authlib", reason="the extra sso is not installed")
pytest.importorskip("cryptography", reason="the extra sso is not installed")

from cryptography.hazmat.primitives.asymmetric import rsa

from thumbs.collect.web.oidc import Provider

KEY, OTHER = (rsa.generate_private_key(public_exponent=65537, key_size=2048) for _ in range(2))
pytestmark = ON_SQLITE


class FakeProvider:
    """`claims` change what it vouches for; `sign` how it signs."""

    def __init__(self, issuer: str = "") -> None:
        self.issuer = issuer
        self.claims: dict[str, Any] = {}
        self.sign: Callable[[dict[str, Any]], str] = lambda claims: jwt.encode(claims, KEY, "RS256", {"kid": "one"})
        self.challenges: dict[str, str] = {}
        self.nonces: dict[str, str] = {}
        self.app = Starlette(
            routes=[
                Route("/.well-known/openid-configuration", self.about),
                Route("/token", self.token, methods=["POST"]),
                Route("/keys", self.keys),
            ]
        )

    def about(self, _: Request) -> JSONResponse:
        places = {"authorization_endpoint": "authorize", "token_endpoint": "token", "jwks_uri": "keys"}
        return JSONResponse({"issuer": self.issuer} | {name: f"{self.issuer}/{path}" for name, path in places.items()})

    def keys(self, _: Request) -> JSONResponse:
        public = jwt.algorithms.RSAAlgorithm.to_jwk(KEY.public_key(), as_dict=True)
        return JSONResponse({"keys": [public | {"kid": "one", "use": "sig", "alg": "RS256"}]})

    def authorize(self, address: str) -> dict[str, str]:
        """A person signs in: what their browser brings back."""
        asked = {name: values[0] for name, values in parse_qs(urlsplit(address).query).items()}
        assert asked["code_challenge_method"] == "S256"
        assert asked["scope"].split() == ["openid", "email", "profile"]
        code = f"code-{len(self.nonces)}"
        self.challenges[code], self.nonces[code] = asked["code_challenge"], asked["nonce"]
        return {"code": code, "state": asked["state"]}

    async def token(self, request: Request) -> JSONResponse:
        form = await request.form()
        code = str(form["code"])
        digest = hashlib.sha256(str(form["code_verifier"]).encode()).digest()
        fits = base64.urlsafe_b64encode(digest).rstrip(b"=").decode() == self.challenges.pop(code, "")
        own = request.headers["authorization"] == "Basic " + base64.b64encode(b"thumbs:s3cret").decode()
        if not fits or not own:
            return JSONResponse({"error": "invalid_grant"}, 400)
        claims = {"iss": self.issuer, "aud": "thumbs", "sub": "1", "nonce": self.nonces[code], "exp": time.time() + 60}
        known = {"email": "Ann@Example.org", "email_verified": True, "name": "Ann Lee"}
        signed = self.sign(claims | known | self.claims)
        return JSONResponse({"access_token": "a", "token_type": "Bearer", "id_token": signed})


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    """One that listens on this machine."""
    fake = FakeProvider()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        fake.issuer = f"http://localhost:{listener.getsockname()[1]}"
        server = uvicorn.Server(uvicorn.Config(fake.app, log_level="error"))
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        yield fake
        server.should_exit = True
        thread.join()


@pytest.fixture
def site(store: CollectStore, provider: FakeProvider) -> Starlette:
    project_of_pairs(store, 1)
    return team_app(store, provider=Provider(provider.issuer, "thumbs", "s3cret", ("example.org",)))


def signed_in(visitor: Visitor, provider: FakeProvider, **changes: str) -> httpx.Response:
    there = visitor.get("/login/oidc?next=/p/work")
    assert there.status_code == 303
    back = provider.authorize(there.headers["location"]) | changes
    return visitor.get("/login/oidc/back", params=back)


def test_a_person_of_the_team_gets_an_account_and_a_session(store, site: Starlette, provider: FakeProvider):
    visitor = Visitor(site)
    assert "Log in through localhost" in visitor.get("/login").text
    answer = signed_in(visitor, provider)
    assert (answer.status_code, answer.headers["location"]) == (303, "/p/work")
    account = store.people.find("ann@example.org")
    assert (account.role, account.name) == ("annotator", "Ann Lee")
    assert visitor.json("/api/session", method="GET").json()["account"] == account.id
    again = Visitor(site)
    assert signed_in(again, provider).status_code == 303
    assert len(store.people.all()) == 1


def test_others_need_an_account_of_their_address(store, site: Starlette, provider: FakeProvider):
    provider.claims = {"email": "bob@elsewhere.com"}
    answer = signed_in(Visitor(site), provider)
    assert answer.status_code == 403
    assert "there is no account bob@elsewhere.com; ask an owner to add it" in answer.text
    number = person(store, "bob@elsewhere.com", "reviewer")
    assert signed_in(Visitor(site), provider).status_code == 303
    store.people.disable(number)
    assert "is disabled" in signed_in(Visitor(site), provider).text


FORGED: dict[str, tuple[dict[str, Any], Callable[[dict[str, Any]], str] | None, int]] = {
    "address not verified": ({"email_verified": False}, None, 403),
    "verified in words": ({"email_verified": "true"}, None, 403),
    "no address": ({"email": ""}, None, 403),
    "another audience": ({"aud": "other"}, None, 502),
    "another issuer": ({"iss": "https://evil.example"}, None, 502),
    "another sign-in's nonce": ({"nonce": "other"}, None, 502),
    "too old": ({"exp": 1}, None, 502),
    "another key": ({}, lambda claims: jwt.encode(claims, OTHER, "RS256", {"kid": "one"}), 502),
    "an unknown key": ({}, lambda claims: jwt.encode(claims, KEY, "RS256", {"kid": "two"}), 502),
    "no signature": ({}, lambda claims: jwt.encode(claims, None, "none", {"kid": "one"}), 502),
    "the public secret": ({}, lambda claims: jwt.encode(claims, "s3cret" * 8, "HS256", {"kid": "one"}), 502),
    "no token": ({}, lambda claims: "garbage", 502),
}


@pytest.mark.parametrize("case", FORGED)
def test_what_the_provider_does_not_vouch_for_opens_nothing(
    case: str, store: CollectStore, site: Starlette, provider: FakeProvider
):
    claims, sign, status = FORGED[case]
    provider.claims, provider.sign = claims, sign or provider.sign
    visitor = Visitor(site)
    assert signed_in(visitor, provider).status_code == status
    assert store.people.all() == []
    assert visitor.json("/api/session", method="GET").status_code == 401


def test_a_sign_in_ends_in_the_browser_that_began_it(store, site: Starlette, provider: FakeProvider):
    begun = Visitor(site).get("/login/oidc")
    back = provider.authorize(begun.headers["location"])
    assert Visitor(site).get("/login/oidc/back", params=back).status_code == 400
    visitor = Visitor(site)
    assert signed_in(visitor, provider, state="other").status_code == 400
    assert visitor.get("/login/oidc/back").status_code == 400
    for wrong in ({"code": "stolen"}, {"code": ""}):
        assert signed_in(Visitor(site), provider, **wrong).status_code == 502
    there = Visitor(site)
    state = provider.authorize(there.get("/login/oidc").headers["location"])["state"]
    refused = there.get("/login/oidc/back", params={"state": state, "error": "access_denied"})
    assert (refused.status_code, "access_denied" in refused.text) == (403, True)
    assert store.people.all() == []


def test_nobody_is_led_to_another_site(site: Starlette, provider: FakeProvider):
    visitor = Visitor(site)
    back = provider.authorize(visitor.get("/login/oidc?next=//evil.example/x").headers["location"])
    assert visitor.get("/login/oidc/back", params=back).headers["location"] == "/"


def test_without_a_provider_there_is_no_such_door(store: CollectStore):
    visitor = Visitor(team_app(store))
    assert visitor.get("/login/oidc").status_code == 404
    assert visitor.get("/login/oidc/back?code=a&state=b").status_code == 404


def test_a_provider_that_is_away_or_another_is_named(store: CollectStore, provider: FakeProvider):
    other = Provider(provider.issuer.replace("localhost", "127.0.0.1"), "thumbs", "s3cret")
    answer = Visitor(team_app(store, provider=other)).get("/login/oidc")
    assert (answer.status_code, "it calls itself" in answer.text) == (502, True)
    gone = Provider("http://localhost:9", "thumbs", "s3cret")
    assert Visitor(team_app(store, provider=gone)).get("/login/oidc").status_code == 502


@pytest.mark.parametrize(
    ("given", "secret", "told"),
    [
        ((None, "id", []), "x", "belong to --oidc URL"),
        (("https://id.example.org", "", []), "x", "needs --oidc-client ID"),
        (("https://id.example.org", "id", []), "", "THUMBS_OIDC_SECRET"),
        (("http://id.example.org", "id", []), "x", "begins with https://"),
    ],
)
def test_half_a_provider_is_refused(given: Any, secret: str, told: str, monkeypatch: pytest.MonkeyPatch, store):
    monkeypatch.setenv("THUMBS_OIDC_SECRET", secret)
    with pytest.raises(ConfigError, match=told):
        _provider(*given)
