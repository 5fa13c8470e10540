"""Copies of checkpoints."""

from __future__ import annotations

from dataclasses import replace

from service_caller import Caller, Serve


def test_a_copy_outlives_its_original(caller: Caller) -> None:
    source = caller.checkpoint("sampler_weights", "mine")
    body = {"source_path": source, "destination_project_id": "archive", "ttl_seconds": 7200}
    path = caller.post("copy_weights", body).json()["tinker_path"]
    assert path != source
    assert path.endswith("/sampler_weights/mine")
    store = caller.backend.store
    before, after = store.checkpoints.get(source), store.checkpoints.get(path)
    assert before is not None
    assert after is not None
    assert [x.name for x in after.folder.iterdir()] == [x.name for x in before.folder.iterdir()]
    for file in after.folder.iterdir():
        assert file.stat().st_ino == (before.folder / file.name).stat().st_ino  # no byte twice
    assert before.expires is None
    assert after.expires is not None
    session = store.session(path.split("/")[2].partition(":")[0])
    assert session is not None
    assert (session.project_id, session.reason) == ("archive", "success")
    store.checkpoints.delete(source)
    assert (after.folder / "adapter_config.json").read_text() == '{"r": 8}'
    known = caller.post("weights_info", {"tinker_path": path}).json()
    assert (known["base_model"], known["lora_rank"]) == ("org/toy", 32)


def test_a_repeated_request_makes_one_copy(caller: Caller) -> None:
    body = {"source_path": caller.checkpoint(), "destination_project_id": "p"}
    paths = [caller.post("copy_weights", body, **{"X-Idempotency-Key": key}).json() for key in ("a", "a", "b")]
    assert paths[0] == paths[1] != paths[2]


def test_a_copy_in_a_session_of_the_callers(caller: Caller) -> None:
    source, session = caller.checkpoint("weights", "s"), caller.session()
    body = {"source_path": source, "session_id": session, "model_seq_id": 3}
    assert caller.post("copy_weights", body).json() == {"tinker_path": f"tinker://{session}:train:3/weights/s"}
    taken = caller.post("copy_weights", body)
    assert taken.status_code == 400
    assert "there already" in taken.json()["detail"]


def test_who_may_copy(serve: Serve) -> None:
    ann = serve(needs_token=True)
    ann.key, key = (ann.backend.store.add_token(name) for name in ("ann", "bob"))
    bob, source = replace(ann, key=key), ann.checkpoint()
    body = {"source_path": source, "destination_project_id": "p"}
    assert bob.post("copy_weights", body).status_code == 404
    ann.post(f"training_runs/{source.removeprefix('tinker://').replace('/', '/checkpoints/', 1)}/publish")
    copied = bob.post("copy_weights", body).json()["tinker_path"]
    assert bob.post("weights_info", {"tinker_path": copied}).status_code == 200
    assert ann.post("weights_info", {"tinker_path": copied}).status_code == 404
    assert bob.post("copy_weights", {"source_path": source}).status_code == 400
    theirs = {"source_path": source, "session_id": ann.session(), "model_seq_id": 0}
    assert bob.post("copy_weights", theirs).status_code == 404


def test_an_idempotency_key_is_its_owners(serve: Serve) -> None:
    """The same key of somebody else is another copy."""
    ann = serve(needs_token=True)
    ann.key, key = (ann.backend.store.add_token(name) for name in ("ann", "bob"))
    bob, source = replace(ann, key=key), ann.checkpoint()
    ann.post(f"training_runs/{source.removeprefix('tinker://').replace('/', '/checkpoints/', 1)}/publish")
    body, same = {"source_path": source, "destination_project_id": "p"}, {"X-Idempotency-Key": "one"}
    mine = ann.post("copy_weights", body, **same).json()["tinker_path"]
    assert ann.post("copy_weights", body, **same).json()["tinker_path"] == mine
    theirs = bob.post("copy_weights", body, **same)
    assert theirs.status_code == 200
    assert theirs.json()["tinker_path"] != mine
    assert bob.post("weights_info", {"tinker_path": theirs.json()["tinker_path"]}).status_code == 200
