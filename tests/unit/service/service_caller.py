"""A client of the service in tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fake_backend import MODEL, FakeBackend
from starlette.testclient import TestClient


@dataclass
class Caller:
    """One user's requests."""

    http: TestClient
    backend: FakeBackend
    key: str = "tml-test"

    def post(self, path: str, body: Any = None, **headers: str) -> Any:
        """POST of JSON below /api/v1."""
        return self.http.post(f"/api/v1/{path}", json=body or {}, headers={"X-API-Key": self.key, **headers})

    def request(self, method: str, path: str, **options: Any) -> Any:
        """Any request, with this caller's key."""
        return self.http.request(method, path, headers={"X-API-Key": self.key}, follow_redirects=False, **options)

    def result(self, promise: Any, **headers: str) -> Any:
        """What became of a promise."""
        assert promise.status_code == 200, promise.text
        return self.post("retrieve_future", {"request_id": promise.json()["request_id"]}, **headers)

    def session(self) -> str:
        """A new session's id."""
        return self.post("create_session", {"sdk_version": "0.38.0"}).json()["session_id"]

    def model(self) -> str:
        """A new model's id."""
        promise = self.post("create_model", {"session_id": self.session(), "model_seq_id": 0, "base_model": MODEL})
        return self.result(promise).json()["model_id"]

    def checkpoint(self, kind: str = "weights", name: str = "a") -> str:
        """A new checkpoint's path."""
        operation = {"weights": "save_weights", "sampler_weights": "save_weights_for_sampler"}.get(
            kind, "save_weights_external"
        )
        return self.result(self.post(operation, {"model_id": self.model(), "seq_id": 1, "path": name})).json()["path"]

    def sampler(self) -> str:
        """A sampler of the base model."""
        body = {"session_id": self.session(), "sampling_session_seq_id": 0, "base_model": MODEL}
        return self.post("create_sampling_session", body).json()["sampling_session_id"]


Serve = Callable[..., Caller]
