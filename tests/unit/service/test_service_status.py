"""Probes, measurements, the page, and the tokenizers for clients elsewhere."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from fake_backend import MODEL
from service_caller import Caller, Serve
from sqlalchemy.exc import OperationalError


def test_measurements_name_endpoints_and_not_paths(caller: Caller) -> None:
    model = caller.model()
    caller.request("GET", f"/api/v1/training_runs/{model}")
    caller.request("GET", "/api/v1/no/such/path")
    text = caller.request("GET", "/metrics").text
    assert 'thumbs_requests_total{endpoint="run",status="200"} 1.0' in text
    assert "thumbs_operations 0.0" in text
    assert "thumbs_sampled_tokens_total 5.0" in text
    assert model not in text
    assert "such" not in text


def test_the_page_shows_names_and_does_not_run_them(caller: Caller) -> None:
    body = {"session_id": caller.session(), "model_seq_id": 0, "base_model": MODEL}
    hostile = "<script>alert(1)</script>"
    caller.result(caller.post("create_model", {**body, "user_metadata": {"name": hostile}}))
    page = caller.http.get("/")
    assert hostile not in page.text
    assert "&lt;script&gt;" in page.text
    assert "script" not in page.headers["content-security-policy"].replace("default-src", "")


def test_a_request_is_a_line_of_json(caller: Caller, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "thumbs.service.requests")
    path = caller.checkpoint("external_weights")
    where = path.replace("tinker://", "/api/v1/training_runs/").replace("/external", "/checkpoints/external")
    url = next(iter(caller.request("GET", f"{where}/external_weights_urls").json()["urls"].values()))
    caller.http.get(url)
    lines = [json.loads(record.message) for record in caplog.records if record.name == "thumbs.service.requests"]
    assert {"endpoint": "create_session", "method": "POST", "owner": "local", "status": 200}.items() <= lines[0].items()
    assert lines[-1]["endpoint"] == "download"
    times = [datetime.fromisoformat(line["time"]) for line in lines]
    assert times == sorted(times)
    assert abs(datetime.now(UTC) - times[-1]) < timedelta(minutes=1)
    assert lines[-1]["path"] == ""  # who has the link may read the file


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    """A folder with a tokenizer, and with weights that are not for everybody."""
    folder = tmp_path / "toy"
    folder.mkdir()
    for name in ("tokenizer.json", "config.json", "model.safetensors"):
        (folder / name).write_text(f'{{"name": "{name}"}}')
    return folder


def test_small_files_of_a_served_model(serve: Serve, tokenizer: Path) -> None:
    http = serve(needs_token=True, tokenizer=tokenizer).http
    head = http.head(f"/{MODEL}/resolve/main/tokenizer.json")
    assert len(head.headers["x-repo-commit"]) == 40
    assert head.headers["etag"].startswith('"')
    assert int(head.headers["content-length"]) == len((tokenizer / "tokenizer.json").read_bytes())
    assert http.get(f"/{MODEL}/resolve/main/tokenizer.json").json() == {"name": "tokenizer.json"}
    listed = [entry["path"] for entry in http.get(f"/api/models/{MODEL}/tree/main").json()]
    assert listed == ["config.json", "tokenizer.json"]
    assert http.get(f"/api/models/{MODEL}").json()["sha"] == head.headers["x-repo-commit"]


@pytest.mark.parametrize(
    "file", ["model.safetensors", "merges.txt", "%2e%2e/toy/config.json", "..%2f..%2fstore%2fstore.db"]
)
def test_other_files_are_not_there(serve: Serve, tokenizer: Path, file: str) -> None:
    http = serve(tokenizer=tokenizer).http
    answer = http.get(f"/{MODEL}/resolve/main/{file}")
    assert answer.status_code == 404
    assert answer.headers["x-error-code"] in ("EntryNotFound", "RepoNotFound")


def test_other_models_are_not_there(serve: Serve, tokenizer: Path) -> None:
    http = serve(tokenizer=tokenizer).http
    for path in ("/no/such/resolve/main/config.json", "/api/models/no/such", "/api/models/no/such/tree/main"):
        assert http.get(path).headers["x-error-code"] == "RepoNotFound"
    assert http.get(f"/api/models/{MODEL}/tree/main/folder").headers["x-error-code"] == "EntryNotFound"


def test_a_bug_of_ours_is_not_repeated_and_a_sick_database_is(caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(error: Exception) -> None:
        raise error

    model = caller.model()
    monkeypatch.setattr("thumbs.service.refusals._PAUSE_S", 0.0)
    for error, status in ((RuntimeError("secret"), 422), (OperationalError("select", {}, OSError("locked")), 503)):
        monkeypatch.setattr(caller.backend.store, "run", lambda *_, error=error: fail(error))
        answer = caller.post("get_info", {"model_id": model})
        assert answer.status_code == status
        assert "secret" not in answer.text
