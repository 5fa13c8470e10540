"""Listings, looking after checkpoints, and taking weights away."""

from __future__ import annotations

import io
import tarfile
import time
from datetime import datetime

import pytest
from fake_backend import MODEL
from service_caller import Caller


def _where(path: str) -> str:
    _, _, run, kind, name = path.split("/")
    return f"/api/v1/training_runs/{run}/checkpoints/{kind}/{name}"


def test_runs_and_checkpoints_are_listed(caller: Caller) -> None:
    session = caller.session()
    body = {"session_id": session, "model_seq_id": 0, "base_model": MODEL, "user_metadata": {"renderer_name": "qwen3"}}
    model = caller.result(caller.post("create_model", body)).json()["model_id"]
    for number, operation in enumerate(("save_weights", "save_weights_for_sampler"), start=1):
        caller.result(caller.post(operation, {"model_id": model, "seq_id": number, "path": "a", "ttl_seconds": 7200}))
    runs = caller.request("GET", "/api/v1/training_runs?limit=5").json()
    assert runs["cursor"] == {"offset": 0, "limit": 5, "total_count": 1}
    run = runs["training_runs"][0]
    assert run == caller.request("GET", f"/api/v1/training_runs/{model}?access_scope=owned").json()
    assert run["training_run_id"] == model
    assert run["user_metadata"] == {"renderer_name": "qwen3"}
    assert run["last_checkpoint"]["checkpoint_id"] == "weights/a"
    assert run["last_sampler_checkpoint"]["checkpoint_type"] == "sampler"
    datetime.fromisoformat(run["last_request_time"])
    listed = caller.request("GET", "/api/v1/checkpoints?limit=1").json()
    assert len(listed["checkpoints"]) == 1
    assert listed["cursor"]["total_count"] == 2
    expires = datetime.fromisoformat(listed["checkpoints"][0]["expires_at"]).timestamp()
    assert expires == pytest.approx(time.time() + 7200, abs=60)
    assert len(caller.request("GET", f"/api/v1/training_runs/{model}/checkpoints").json()["checkpoints"]) == 2
    assert caller.request("GET", "/api/v1/checkpoints?limit=many").status_code == 400


def test_old_sdks_are_not_told_of_types_they_do_not_know(caller: Caller) -> None:
    caller.checkpoint("external_weights")
    for version, count in (("0.22.0", 0), ("0.38.0", 1)):
        headers = {"X-API-Key": "tml-x", "x-stainless-package-version": version}
        assert len(caller.http.get("/api/v1/checkpoints", headers=headers).json()["checkpoints"]) == count


def test_publish_expire_delete(caller: Caller) -> None:
    path = caller.checkpoint()
    run = path.split("/")[2]

    def found() -> dict[str, object]:
        return caller.request("GET", f"/api/v1/training_runs/{run}/checkpoints").json()["checkpoints"][0]

    for method, public in (("POST", True), ("POST", True), ("DELETE", False), ("DELETE", False)):
        assert caller.request(method, f"{_where(path)}/publish").is_success
        assert found()["public"] is public
    assert caller.request("PUT", f"{_where(path)}/ttl", json={"ttl_seconds": 3600}).is_success
    assert "expires_at" in found()
    assert caller.request("PUT", f"{_where(path)}/ttl", json={"ttl_seconds": None}).is_success
    assert "expires_at" not in found()
    assert caller.request("PUT", f"{_where(path)}/ttl", json={"ttl_seconds": -1}).status_code == 400
    assert caller.request("DELETE", _where(path)).is_success
    assert caller.request("DELETE", _where(path)).status_code == 404
    assert caller.post("weights_info", {"tinker_path": path}).status_code == 404


def test_the_archive(caller: Caller) -> None:
    path = caller.checkpoint("sampler_weights")
    redirect = caller.request("GET", f"{_where(path)}/archive")
    assert redirect.status_code == 302
    datetime.strptime(redirect.headers["expires"], "%a, %d %b %Y %H:%M:%S GMT")  # as the SDK reads it
    answer = caller.http.get(redirect.headers["location"])
    assert int(answer.headers["content-length"]) == len(answer.content)
    with tarfile.open(fileobj=io.BytesIO(answer.content)) as archive:
        members = {member.name: member for member in archive}
        assert set(members) == {"adapter_config.json", "adapter_model.safetensors", "checkpoint_complete"}
        assert archive.extractfile("adapter_model.safetensors").read() == b"weights"  # type: ignore[union-attr]
        assert {member.uname for member in members.values()} == {""}


def test_files_one_by_one(caller: Caller) -> None:
    path = caller.checkpoint("external_weights")
    links = caller.request("GET", f"{_where(path)}/external_weights_urls").json()
    assert datetime.fromisoformat(links["expires"]).timestamp() > time.time() + 600
    assert set(links["urls"]) == {"adapter_config.json", "adapter_model.safetensors"}
    url = links["urls"]["adapter_model.safetensors"]
    assert caller.http.get(url).content == b"weights"
    assert caller.http.get(url.replace("adapter_model.safetensors", "adapter_config.json")).status_code == 403
    assert caller.http.get(url.replace("adapter_model.safetensors", "..%2f..%2fstore.db")).status_code == 403
    caller.request("DELETE", _where(path))
    assert caller.http.get(url).status_code == 404
