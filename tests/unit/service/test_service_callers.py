"""Keys, owners, and what comes from elsewhere."""

from __future__ import annotations

import base64
import io
import json
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest
from fake_backend import MODEL
from service_caller import Caller, Serve

from thumbs.web.signing import Signer, load_key


@pytest.fixture
def two(serve: Serve) -> tuple[Caller, Caller]:
    """Alice and Bob on one server."""
    alice = serve(needs_token=True)
    alice.key = alice.backend.store.add_token("alice")
    return alice, Caller(alice.http, alice.backend, alice.backend.store.add_token("bob"))


@pytest.mark.parametrize("key", ["", "tml-wrong", "sk-wrong", "eyJ.wrong.jwt", "eyJ"])
def test_a_wrong_key_is_a_401_on_every_route_of_the_api(two: tuple[Caller, Caller], key: str) -> None:
    http = two[0].http
    for method, path in (("POST", "client/config"), ("POST", "create_session"), ("GET", "training_runs")):
        refused = http.request(method, f"/api/v1/{path}", json={}, headers={"X-API-Key": key})
        assert refused.status_code == 401
        assert refused.json()["detail"]
    for path in ("/", "/metrics", "/v1/models", "/oai/api/v1/models"):
        assert http.get(path, headers={"X-API-Key": key}).status_code == 401
    assert http.get("/healthz").json() == {"status": "ok"}


def test_nothing_of_alice_is_there_for_bob(two: tuple[Caller, Caller]) -> None:
    alice, bob = two
    model, sampler, path = alice.model(), alice.sampler(), alice.checkpoint()
    session = model.partition(":")[0]
    run = path.split("/")[2]
    for operation, body in (
        ("optim_step", {"model_id": model, "seq_id": 1, "adam_params": {}}),
        ("get_info", {"model_id": model}),
        ("unload_model", {"model_id": model}),
        ("asample", {"sampling_session_id": sampler, "prompt": {"chunks": []}}),
        ("weights_info", {"tinker_path": path}),
        ("create_model", {"session_id": session, "model_seq_id": 1, "base_model": MODEL}),
        ("create_sampling_session", {"session_id": bob.session(), "sampling_session_seq_id": 0, "model_path": path}),
        ("session_heartbeat", {"session_id": session}),
        (f"sessions/{session}/finish", {}),
        (f"training_runs/{run}/checkpoints/weights/a/publish", {}),
    ):
        assert bob.post(operation, body).status_code == 404, operation
    for address in (f"sessions/{session}", f"samplers/{sampler}", f"training_runs/{run}"):
        assert bob.request("GET", f"/api/v1/{address}").status_code == 404, address
    for change in ("", "/publish"):
        assert bob.request("DELETE", f"/api/v1/training_runs/{run}/checkpoints/weights/a{change}").status_code == 404
    load = {"session_id": bob.session(), "model_seq_id": 0, "path": path}
    assert bob.result(bob.post("load_weights", load)).json()["category"] == "user"
    promise = alice.post("optim_step", {"model_id": model, "seq_id": 1, "adam_params": {}})
    assert "no such promise" in bob.result(promise).json()["error"]
    assert bob.request("GET", "/api/v1/checkpoints").json()["checkpoints"] == []


def test_a_published_checkpoint_can_be_read_and_not_changed(two: tuple[Caller, Caller]) -> None:
    alice, bob = two
    path = alice.checkpoint("sampler_weights")
    run = path.split("/")[2]
    alice.post(f"training_runs/{run}/checkpoints/sampler_weights/a/publish")
    assert bob.post("weights_info", {"tinker_path": path}).status_code == 200
    opened = bob.post(
        "create_sampling_session", {"session_id": bob.session(), "sampling_session_seq_id": 0, "model_path": path}
    )
    assert opened.status_code == 200
    assert bob.request("GET", f"/api/v1/training_runs/{run}").status_code == 200
    assert bob.request("DELETE", f"/api/v1/training_runs/{run}/checkpoints/sampler_weights/a").status_code == 404


def test_a_key_of_mint_and_what_it_is_exchanged_for(two: tuple[Caller, Caller]) -> None:
    alice, bob = two
    alice.key = "sk-" + alice.key.removeprefix("tml-")
    session = alice.session()
    jwt = alice.post("auth/token").json()["jwt"]
    payload = jwt.split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    assert claims["exp"] - claims["iat"] == 600
    alice.key = jwt
    assert alice.post("session_heartbeat", {"session_id": session}).status_code == 200
    assert bob.post("session_heartbeat", {"session_id": session}).status_code == 404
    head, body, signature = jwt.split(".")
    forged = base64.urlsafe_b64encode(json.dumps({**claims, "sub": "bob"}).encode()).decode().rstrip("=")
    for wrong in (f"{head}.{forged}.{signature}", f"{head}.{body}.", f"{head}..{signature}"):
        alice.key = wrong
        assert alice.post("create_session").status_code == 401


def test_bearer_and_basic(two: tuple[Caller, Caller]) -> None:
    alice, _ = two
    basic = base64.b64encode(f"any:{alice.key}".encode()).decode()
    for value in (f"Bearer {alice.key}", f"Basic {basic}"):
        assert alice.http.get("/v1/models", headers={"Authorization": value}).status_code == 200
    assert alice.http.get("/v1/models", headers={"Authorization": "Basic !"}).status_code == 401


def test_a_revoked_key_soon_stops(two: tuple[Caller, Caller], monkeypatch: pytest.MonkeyPatch) -> None:
    alice, _ = two
    monkeypatch.setattr("thumbs.service.auth._REMEMBERED_S", 0.0)
    assert alice.post("create_session").status_code == 200
    alice.backend.store.revoke(alice.backend.store.tokens()[0].id)
    assert alice.post("create_session").status_code == 401


def test_pages_of_other_sites_are_refused(serve: Serve) -> None:
    caller = serve(hosts=("testserver",))
    for origin, status in (("http://testserver", 200), ("https://evil.example", 403), ("null", 403)):
        assert caller.post("create_session", {}, Origin=origin).status_code == status
    assert caller.post("create_session", {}, Host="evil.example").status_code == 400


def test_a_body_that_is_too_long(serve: Serve) -> None:
    caller = serve(body_bytes=1000, upload_bytes=5000)
    body: dict[str, Any] = {"tags": ["x" * 2000]}
    assert caller.post("create_session", body).status_code == 413
    stream = caller.http.post("/api/v1/create_session", content=(b"x" * 100 for _ in range(20)))
    assert stream.status_code == 413
    assert caller.post("create_session").status_code == 200


def test_the_servers_key_stays_and_is_private(tmp_path: Path) -> None:
    first = load_key(tmp_path / "new" / "key")
    assert len(first) == 32
    assert load_key(tmp_path / "new" / "key") == first
    assert ((tmp_path / "new" / "key").stat().st_mode & 0o777) == 0o600


def test_samplers_of_the_chat_api_are_their_owners(two: tuple[Caller, Caller]) -> None:
    """Each gets a session of their own, also for the same base model."""
    alice, bob = two
    body = {"model": MODEL, "prompt": "ab", "max_tokens": 1}
    for caller in (alice, bob, alice):
        assert caller.request("POST", "/v1/completions", json=body).status_code == 200
    opened = [call[1] for call in alice.backend.calls if call[0] == "open_sampler"]
    sampled = [call[1] for call in alice.backend.calls if call[0] == "sample"]
    assert len(set(opened)) == len(opened) == 2
    assert sampled == [opened[0], opened[1], opened[0]]
    store = alice.backend.store
    assert [store.sampler(name).owner for name in opened] == ["alice", "bob"]


def test_links_in_a_checkpoint_are_not_followed(caller: Caller, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("the secret of the house")
    path = caller.checkpoint("external_weights")
    record = caller.backend.store.checkpoints.get(path)
    assert record is not None
    (record.folder / "linked.json").symlink_to(secret)
    (record.folder / "linked").symlink_to(tmp_path)
    address = path.removeprefix("tinker://").replace("/", "/checkpoints/", 1)
    urls = caller.request("GET", f"/api/v1/training_runs/{address}/external_weights_urls").json()["urls"]
    assert sorted(urls) == ["adapter_config.json", "adapter_model.safetensors"]
    moved = caller.request("GET", f"/api/v1/training_runs/{address}/archive").headers["location"]
    with tarfile.open(fileobj=io.BytesIO(caller.http.get(moved).content)) as archive:
        assert not any("linked" in name for name in archive.getnames())


def test_what_is_signed_holds_for_one_purpose_until_its_second():
    signer, now = Signer(b"k" * 32), int(time.time())
    token = signer.sign("link", {"sub": "file", "exp": now + 60})
    assert signer.read("link", token) == {"sub": "file", "exp": now + 60, "aud": "link"}
    assert signer.read("credential", token) is None
    assert Signer(b"o" * 32).read("link", token) is None
    assert signer.read("link", signer.sign("link", {"sub": "file", "exp": now})) is None
    head, body, signature = token.split(".")
    unsigned = base64.urlsafe_b64encode(b'{"alg":"none"}').decode().rstrip("=")
    deep = base64.urlsafe_b64encode(b"[" * 2900).decode().rstrip("=")
    wrong = (
        "",
        "a.b.c",
        f"{head}.{body}.",
        f"{head}..{signature}",
        f"{unsigned}.{body}.",
        f"{deep}.{body}.{signature}",
    )
    for one in (*wrong, token + "x", "²" * 100, "\ud800", "a" * 10**6):
        assert signer.read("link", one) is None


def test_a_link_opens_its_file_alone(caller: Caller) -> None:
    path = caller.checkpoint("external_weights")
    address = path.removeprefix("tinker://").replace("/", "/checkpoints/", 1)
    urls = caller.request("GET", f"/api/v1/training_runs/{address}/external_weights_urls").json()["urls"]
    (first, url), (second, _) = sorted(urls.items())[:2]
    assert caller.http.get(url).status_code == 200
    assert caller.http.get(url.removesuffix(first) + second).status_code == 403
