"""Names, prefixes and browsers: who reaches the server, and in which words others are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fake_backend import MODEL
from service_caller import Serve

from thumbs.cli.serve import _settings
from thumbs.errors import ConfigError

PAGE = "https://chat.example.org"
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}
PREFLIGHT = {
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type,x-stainless-os",
}


def _settings_of(**changes: Any) -> dict[str, Any]:
    """Those of the command line; the client in these tests calls the server by a name of its own."""
    given = {"host": "127.0.0.1", "names": [], "origins": [], "root_path": "", **changes}
    given["names"] = ["testserver", *given["names"]]
    made = _settings(given["host"], 600.0, given["names"], given["origins"], given["root_path"])
    return {"hosts": made.hosts, "origins": made.origins, "root_path": made.root_path, "local_paths": made.local_paths}


@pytest.mark.parametrize("asked", [PAGE, "HTTPS://Chat.Example.org:443", "*"])
def test_pages_of_an_allowed_site(serve: Serve, asked: str) -> None:
    http = serve(**_settings_of(origins=[asked])).http
    first = http.options("/v1/chat/completions", headers={"Origin": PAGE, **PREFLIGHT})
    assert first.status_code == 200
    assert first.headers["access-control-allow-origin"] in (PAGE, "*")
    assert "x-stainless-os" in first.headers["access-control-allow-headers"]
    for body, status in ((CHAT, 200), ({**CHAT, "n": 0}, 400)):  # a page may read refusals too
        answer = http.post("/v1/chat/completions", json=body, headers={"Origin": PAGE})
        assert answer.status_code == status
        assert answer.headers["access-control-allow-origin"] in (PAGE, "*")
    assert "access-control-allow-credentials" not in answer.headers


@pytest.mark.parametrize(
    "origin",
    [
        "https://other.example.org",
        "http://chat.example.org",
        f"{PAGE}:8443",
        f"{PAGE}.evil.org",
        "null",
        "http://localhost:1",
    ],
)
@pytest.mark.parametrize("allowed", [[], [PAGE]])
def test_pages_of_other_sites(serve: Serve, origin: str, allowed: list[str]) -> None:
    http = serve(**_settings_of(origins=allowed)).http
    for answer in (
        http.options("/v1/chat/completions", headers={"Origin": origin, **PREFLIGHT}),
        http.post("/v1/chat/completions", json=CHAT, headers={"Origin": origin}),
    ):
        assert answer.status_code == 403
        assert answer.json()["error"]["type"] == "invalid_request_error"
        assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    ("hosts", "host", "status"),
    [
        ([], "thumbs.example.org", 400),
        ([], "127.0.0.1:8000", 200),
        ([], "localhost", 200),
        ([], "[::1]:8000", 200),
        ([], "[::2]:8000", 400),
        ([], "", 400),
        (["thumbs.example.org"], "thumbs.example.org", 200),
        (["thumbs.example.org"], "THUMBS.example.org:443", 200),
        (["thumbs.example.org"], "thumbs.example.org.evil.org", 400),
        (["thumbs.example.org"], "localhost:8000", 200),
    ],
)
def test_names_of_the_server(serve: Serve, hosts: list[str], host: str, status: int) -> None:
    http = serve(**_settings_of(names=hosts)).http
    answer = http.get("/v1/models", headers={"Host": host})
    assert answer.status_code == status
    if status == 400:
        assert "--name" in answer.json()["error"]["message"]
        assert "--name" in http.get("/api/v1/sessions", headers={"Host": host}).json()["detail"]


def test_what_can_be_no_name_origin_or_prefix() -> None:
    for wrong in (
        {"names": ["https://a.org"]},
        {"names": ["a.org:80"]},
        {"origins": ["a.org"]},
        {"origins": [f"{PAGE}/"]},
        {"origins": ["null"]},
        {"root_path": "thumbs"},
        {"root_path": "/a b"},
        {"root_path": "/v1"},
        {"root_path": "/api/x"},
    ):
        with pytest.raises(ConfigError):
            _settings_of(**wrong)
    assert _settings_of(root_path="/a/b/")["root_path"] == "/a/b"
    assert _settings("0.0.0.0", 600.0, [], [], "").hosts == ("*",)  # noqa: S104
    assert "*" not in _settings_of(host="0.0.0.0", names=["a.org"])["hosts"]  # noqa: S104
    assert not _settings_of(names=["a.org"])["local_paths"]  # callers behind a proxy have other disks


@pytest.mark.parametrize("stripped", [False, True])
def test_a_prefix_before_every_path(serve: Serve, stripped: bool, tmp_path: Path) -> None:
    """Whether the proxy hands it on or takes it away; links lead back through it."""
    caller = serve(needs_token=False, tokenizer=tmp_path, **_settings_of(root_path="/thumbs", names=["a.org"]))
    before = "" if stripped else "/thumbs"
    http, headers = caller.http, {"Host": "a.org"}
    assert http.get(f"{before}/v1/models", headers=headers).json()["object"] == "list"
    assert http.get(f"{before}/healthz", headers=headers).json() == {"status": "ok"}
    assert http.get(f"{before}/", headers=headers).status_code == 200
    assert http.post(f"{before}/v1/chat/completions", json=CHAT, headers=headers).status_code == 200
    assert http.get(f"{before}/v1/nothing", headers=headers).json()["error"]["code"] is None
    path = caller.checkpoint("external")
    run, _, name = path.removeprefix("tinker://").split("/")
    place = f"{before}/api/v1/training_runs/{run}/checkpoints/{path.split('/')[-2]}/{name}"
    urls = http.get(f"{place}/external_weights_urls", headers=headers).json()["urls"]
    assert urls
    for url in urls.values():
        assert url.startswith("http://a.org/thumbs/download/")
        inner = url.removeprefix("http://a.org" + ("/thumbs" if stripped else ""))
        assert http.get(inner, headers=headers).status_code == 200
    archive = http.get(f"{place}/archive", headers=headers, follow_redirects=False)
    assert archive.headers["location"].startswith("http://a.org/thumbs/download/")


@pytest.mark.parametrize("prefix", ["/v1", "/oai/api/v1"])
def test_every_error_has_openais_shape(serve: Serve, prefix: str) -> None:
    caller = serve(needs_token=True, body_bytes=200, **_settings_of())
    key = {"Authorization": f"Bearer {caller.backend.store.add_token('alice')}"}
    post, get = caller.http.post, caller.http.get
    chat = f"{prefix}/chat/completions"
    answers = {
        "no key": (get(f"{prefix}/models"), 401, "invalid_api_key"),
        "host": (get(f"{prefix}/models", headers={**key, "Host": "evil.org"}), 400, None),
        "origin": (get(f"{prefix}/models", headers={**key, "Origin": "http://evil.org"}), 403, None),
        "path": (get(f"{prefix}/embeddings", headers=key), 404, None),
        "model": (get(f"{prefix}/models/none", headers=key), 404, "model_not_found"),
        "method": (get(chat, headers=key), 405, None),
        "other method": (post(f"{prefix}/models", headers=key), 405, None),
        "no json": (post(chat, content=b"{", headers=key), 400, "invalid_json"),
        "no utf-8": (post(chat, content=b"\xff\xfe", headers=key), 400, "invalid_json"),
        "nan": (post(chat, content=b'{"model": "m", "temperature": NaN}', headers=key), 400, "invalid_json"),
        "half a surrogate": (post(chat, content=b'{"model": "\\ud800"}', headers=key), 400, "invalid_json"),
        "a list": (post(chat, content=b"[]", headers=key), 400, None),
        "null": (post(chat, content=b"null", headers=key), 400, None),
        "nothing": (post(chat, content=b"", headers=key), 400, "missing_required_parameter"),
        "too long": (post(chat, content=b" " * 300, headers=key), 413, None),
    }
    for name, (answer, status, code) in answers.items():
        assert answer.status_code == status, name
        error = answer.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}, name
        assert error["message"], name
        assert error["code"] == code, name
        assert error["type"] == "invalid_request_error", name


def test_a_bug_of_ours_has_the_shape_too(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    caller = serve()
    monkeypatch.setattr(caller.backend, "sample", lambda *_, **__: 1 / 0)
    answer = caller.http.post("/v1/chat/completions", json=CHAT)
    assert answer.status_code == 422
    assert answer.json()["error"]["type"] == "server_error"
