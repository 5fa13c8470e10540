"""What is not there says so."""

from __future__ import annotations

import pytest
from service_caller import Caller


@pytest.mark.parametrize(
    ("method", "path", "words"),
    [
        ("POST", "create_custom_loss", "forward_backward_custom"),
        ("POST", "join_sampling_session", "not joined"),
        ("POST", "retrieve_futures", "retrieve_future"),
        ("GET", "audit", "audit log"),
        ("GET", "billing/usage/events", "bills nothing"),
        ("GET", "billing/usage/checkpoints/current", "bills nothing"),
        ("PUT", "sessions/a/project", "no projects"),
        ("GET", "sessions/a/trace_export", "no traces"),
    ],
)
def test_a_refusal_in_words_that_no_client_repeats(caller: Caller, method: str, path: str, words: str) -> None:
    refused = caller.request(method, f"/api/v1/{path}")
    assert refused.status_code == 404
    assert words in refused.json()["detail"]


@pytest.mark.parametrize(("method", "end"), [("DELETE", ""), ("GET", "/archive")])
def test_a_checkpoint_without_its_kind(caller: Caller, method: str, end: str) -> None:
    model = caller.checkpoint(name="mine").split("/")[2]
    refused = caller.request(method, f"/api/v1/training_runs/{model}/checkpoints/mine{end}")
    assert refused.status_code == 400
    assert "weights/mine" in refused.json()["detail"]
    assert len(caller.backend.store.checkpoints.of_run(model)) == 1
