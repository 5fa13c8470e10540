"""Promises: waiting, repeating, losing and failing."""

from __future__ import annotations

import time

import pytest
from fake_backend import MODEL
from service_caller import Caller, Serve

ADAM = {"learning_rate": 0.1}


def test_a_pending_operation_is_held_open_and_then_408(caller: Caller) -> None:
    model, caller.backend.hold = caller.model(), True
    promise = caller.post("optim_step", {"model_id": model, "seq_id": 1, "adam_params": ADAM})
    start = time.monotonic()
    pending = caller.result(promise)
    assert time.monotonic() - start >= 0.2
    assert pending.status_code == 408
    assert pending.json()["type"] == "try_again"
    caller.backend.release()
    assert caller.result(promise).json() == {"metrics": {"step": 1.0}}
    assert caller.result(promise).json() == {"metrics": {"step": 1.0}}  # a lost reply is fetched again


def test_why_an_operation_waits(caller: Caller) -> None:
    model = caller.model()
    caller.backend.hold = True
    promise = caller.post("optim_step", {"model_id": model, "seq_id": 1, "adam_params": {}})
    waiting = caller.result(promise).json()
    assert waiting["queue_state"] == "paused_capacity"
    assert waiting["queue_state_reason"] == "1 operations of 1 models and 0 samples take turns"
    caller.backend.held[0][0].set_running_or_notify_cancel()
    begun = caller.result(promise).json()
    assert begun["queue_state"] == "active"
    assert "queue_state_reason" not in begun
    body = {"sampling_session_id": caller.sampler(), "seq_id": 0, "prompt": {"chunks": [{"tokens": [1]}]}}
    assert caller.result(caller.post("asample", body)).json()["queue_state"] == "active"


def test_a_wait_ends_with_the_operation(serve: Serve) -> None:
    import threading

    caller = serve(poll_s=30.0)
    model, caller.backend.hold = caller.model(), True
    promise = caller.post("optim_step", {"model_id": model, "seq_id": 1, "adam_params": ADAM})
    threading.Timer(0.3, caller.backend.release).start()
    start = time.monotonic()
    assert caller.result(promise).status_code == 200
    assert time.monotonic() - start < 5


def test_the_same_submission_is_the_same_promise(caller: Caller) -> None:
    model = caller.model()
    body = {"model_id": model, "seq_id": 1, "adam_params": ADAM}
    first, second = caller.post("optim_step", body), caller.post("optim_step", body)
    assert first.json() == second.json()
    assert caller.backend.calls.count(("optim_step", model, 1, 0.1)) == 1
    other = caller.post("optim_step", {**body, "adam_params": {"learning_rate": 0.2}})
    assert other.status_code == 400
    assert "already accepted" in other.json()["detail"]
    assert caller.result(first).json() == {"metrics": {"step": 1.0}}


def test_the_same_submission_while_the_first_is_pending(caller: Caller) -> None:
    model, caller.backend.hold = caller.model(), True
    body = {"model_id": model, "seq_id": 1, "adam_params": ADAM}
    first, second = caller.post("optim_step", body), caller.post("optim_step", body)
    assert first.json() == second.json()
    assert len(caller.backend.held) == 1


def test_creating_the_same_model_twice_makes_one(caller: Caller) -> None:
    body = {"session_id": caller.session(), "model_seq_id": 3, "base_model": MODEL}
    first, second = caller.post("create_model", body), caller.post("create_model", body)
    assert first.json() == second.json()
    assert caller.result(first).json() == {"model_id": f"{body['session_id']}:train:3", "type": "create_model"}


def test_a_failed_operation_is_a_200_with_its_category(caller: Caller) -> None:
    session = caller.session()
    body = {"session_id": session, "model_seq_id": 0, "base_model": "no/such"}
    failed = caller.result(caller.post("create_model", body))
    assert failed.status_code == 200
    assert failed.json()["category"] == "user"
    assert MODEL in failed.json()["error"]


def test_a_bug_of_ours_does_not_tell_its_text(caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    def bug(*_: object) -> None:
        raise RuntimeError("the secret of the house")

    model = caller.model()
    monkeypatch.setattr(caller.backend, "optim_step", bug)
    failed = caller.result(caller.post("optim_step", {"model_id": model, "seq_id": 1, "adam_params": ADAM}))
    assert failed.json()["category"] == "server"
    assert "secret" not in failed.text


def test_an_unknown_promise(caller: Caller) -> None:
    unknown = {"request_id": "0" * 32}
    sample = caller.post("retrieve_future", unknown, **{"X-Tinker-Request-Type": "Sample"})
    assert sample.status_code == 410  # the SDKs draw a sample again
    training = caller.post("retrieve_future", unknown, **{"X-Tinker-Request-Type": "OptimStep"})
    assert training.status_code == 200
    assert training.json()["category"] == "server"


def test_after_a_restart_results_survive_and_pending_operations_say_how_to_resume(serve: Serve) -> None:
    before = serve()
    model = before.model()
    finished = before.post("optim_step", {"model_id": model, "seq_id": 1, "adam_params": ADAM})
    before.result(finished)
    sampler = before.sampler()
    before.backend.hold = True
    training = before.post("optim_step", {"model_id": model, "seq_id": 2, "adam_params": ADAM})
    sample = before.post("asample", {"sampling_session_id": sampler, "prompt": {"chunks": [{"tokens": [5]}]}})
    after = serve()
    assert after.result(finished).json() == {"metrics": {"step": 1.0}}
    lost = after.result(training)
    assert lost.status_code == 200
    assert lost.json()["category"] == "server"
    assert "create_training_client_from_state_with_optimizer" in lost.json()["error"]
    assert sample.status_code == 200, sample.text
    assert after.result(sample).status_code == 410


def test_a_full_queue_is_429_and_the_repeat_is_taken(caller: Caller) -> None:
    sampler, caller.backend.full = caller.sampler(), True
    body = {"sampling_session_id": sampler, "prompt": {"chunks": [{"tokens": [5]}]}, "seq_id": 0}
    assert caller.post("asample", body).status_code == 429
    caller.backend.full = False
    taken = caller.post("asample", body)
    assert caller.result(taken).status_code == 200
    assert caller.post("asample", body).json() == taken.json()
    assert sum(call[0] == "sample" for call in caller.backend.calls) == 1


def test_a_cancelled_sample_ends(caller: Caller) -> None:
    sampler, caller.backend.hold = caller.sampler(), True
    promise = caller.post("asample", {"sampling_session_id": sampler, "prompt": {"chunks": [{"tokens": [5]}]}})
    assert caller.post("cancel_future", {"request_id": promise.json()["request_id"]}).status_code == 200
    assert caller.backend.held[0][0].cancelled()
    assert "cancelled" in caller.result(promise).json()["error"]
    assert caller.post("cancel_future", {"request_id": "unknown"}).status_code == 200
