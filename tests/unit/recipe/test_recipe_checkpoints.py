"""Records of checkpoints, when they are saved, and which renderer they belong to."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from fake_service import FakeServiceClient

from thumbs.errors import ConfigError
from thumbs.recipe import checkpoints
from thumbs.recipe.checkpoints import CheckpointManager, CheckpointRecord, get_last_checkpoint


class Service(FakeServiceClient):
    """With a REST client that can delete; `deleted` are the paths."""

    def __init__(self, renderer: str | None = None) -> None:
        super().__init__()
        self.deleted: list[str] = []
        self.metadata = {"renderer_name": renderer} if renderer else None

    def create_rest_client(self):
        return self

    def delete_checkpoint_from_tinker_path(self, path):
        return self.submit("delete", lambda: self.deleted.append(path))

    def get_training_run_by_tinker_path(self, path):
        if path not in self.checkpoints and path != "tinker://x/weights/y":
            raise ValueError("no such run")
        return self.submit("run", lambda: SimpleNamespace(user_metadata=self.metadata))


def test_a_record_by_hand() -> None:
    line = {"name": "a", "batch": 3, "final": False, "state_path": "s", "step": 13, "note": "mine"}
    record = CheckpointRecord.from_dict(line)
    assert record.to_dict() == line
    assert (record.step, record.get("note"), record.get("batch"), record.get("none", 5)) == (13, "mine", 3, 5)
    assert (record.has("final"), record.has("epoch"), record.has("sampler_path"), record.has("note")) == (
        True,
        False,
        False,
        True,
    )
    assert CheckpointRecord("b", batch=4).step == 4
    assert CheckpointRecord("b").to_dict() == {"name": "b"}


def test_saving_writes_a_line_for_each_checkpoint(tmp_path: Path) -> None:
    client = Service().create_lora_training_client("byte-tiny")
    assert get_last_checkpoint(tmp_path) is None
    both = checkpoints.save_checkpoint(client, "one", tmp_path, {"batch": 1, "mine": 2}, "both")
    sampler = asyncio.run(checkpoints.save_checkpoint_async(client, "two", str(tmp_path), {"batch": 2}, "sampler"))
    assert both == {"state_path": "tinker://run-0/weights/one", "sampler_path": "tinker://run-0/sampler_weights/one"}
    assert sampler == {"sampler_path": "tinker://run-0/sampler_weights/two"}
    lines = [json.loads(line) for line in (tmp_path / "checkpoints.jsonl").read_text().splitlines()]
    assert lines == [
        {"step": 1, "name": "one", "batch": 1, "mine": 2, **both},
        {"step": 2, "name": "two", "batch": 2, **sampler},
    ]
    assert [record.name for record in checkpoints.load_checkpoints_file(tmp_path)] == ["one", "two"]
    assert get_last_checkpoint(tmp_path).name == "one"  # the newest that can be trained on
    assert get_last_checkpoint(tmp_path, "sampler_path").name == "two"


def test_periodic_rolling_and_final_checkpoints(tmp_path: Path) -> None:
    """Every third is kept, the others replace each other."""
    service = Service()
    manager = CheckpointManager(
        service.create_lora_training_client("byte-tiny"), service, tmp_path, save_every=3, rolling_save_every=1
    )
    saved = [manager.maybe_save(step, {"batch": step}) is not None for step in range(6)]
    assert saved == [False, False, False, True, False, False]
    manager.save_final({"batch": 6})
    lines = [
        (record.name, record.final, record.sampler_path is None)
        for record in checkpoints.load_checkpoints_file(tmp_path)
    ]
    assert lines == [
        ("rolling-000001", None, True),
        ("rolling-000002", None, True),
        ("000003", None, False),
        ("rolling-000004", None, True),
        ("rolling-000005", None, True),
        ("final-000006", True, False),
    ]
    assert service.deleted == [f"tinker://run-0/weights/rolling-00000{step}" for step in (1, 2, 4, 5)]


def test_checkpoints_by_tokens_and_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(checkpoints.time, "monotonic", lambda: clock[0])
    service = Service()
    client = service.create_lora_training_client("byte-tiny")
    by_tokens = CheckpointManager(client, service, tmp_path / "a", save_every_tokens=10)
    assert [by_tokens.maybe_save(step, {}, elapsed_tokens=9 * step) is not None for step in (1, 2, 3, 4)] == [
        False,
        True,  # 18 tokens
        False,  # 9 more
        True,
    ]
    by_seconds = CheckpointManager(client, service, tmp_path / "b", save_every_seconds=5)
    saved = []
    for step in (11, 12, 13, 14):
        clock[0] += 3
        saved.append(by_seconds.should_save(step))
        by_seconds.maybe_save(step, {})
    assert saved == [False, True, False, True]


def test_what_a_manager_cannot_do_is_named() -> None:
    for fields in ({"store": object()}, {"async_periodic_saves": True}):
        with pytest.raises(ConfigError, match="not supported"):
            CheckpointManager(None, None, "x", **fields)


def test_a_rolling_checkpoint_that_cannot_be_deleted_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    service = FakeServiceClient()  # has no REST client
    manager = CheckpointManager(
        service.create_lora_training_client("byte-tiny"), service, tmp_path, rolling_save_every=1
    )
    for step in (1, 2):
        manager.maybe_save(step, {"batch": step})
    assert "rolling-000001 was not deleted and stays until it expires" in caplog.text


def test_which_renderer_a_checkpoint_was_made_with(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = "tinker://x/weights/y"
    monkeypatch.setattr(checkpoints, "connect", lambda base_url: Service("llama3"))
    known = {"model_name": "Qwen/Qwen3-8B", "load_checkpoint_path": path}
    resolve = checkpoints.resolve_renderer_name_from_checkpoint_or_default
    assert resolve(**known, explicit_renderer_name="role_colon") == "role_colon"
    assert resolve(**known, explicit_renderer_name=None) == "llama3"
    assert resolve(model_name="Qwen/Qwen3-8B", load_checkpoint_path=None, explicit_renderer_name=None) == "qwen3"
    monkeypatch.setattr(checkpoints, "connect", lambda base_url: Service())
    assert resolve(**known, explicit_renderer_name=None) == "qwen3"
    assert checkpoints.get_renderer_name_from_checkpoint(Service("llama3"), "tinker://gone/weights/y") is None
    assert "unknown: no such run" in caplog.text
    caplog.clear()
    for expected in (None, "llama3", "qwen3"):
        checkpoints.check_renderer_name_for_checkpoint(Service("llama3"), path, expected)
    assert len(caplog.records) == 1
    assert "trained with the renderer llama3; this run uses qwen3" in caplog.text
