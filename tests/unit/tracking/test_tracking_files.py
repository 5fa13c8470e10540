"""Atomic JSON and step logs: whole or not there, whatever interrupts them."""

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest

from thumbs.errors import CheckpointError, RunError
from thumbs.tracking import StepLog, read_json, write_json


def test_write_json_is_strict_json(tmp_path: Path) -> None:
    value = {
        "nan": float("nan"),
        "inf": np.float32("inf"),
        "n": np.int64(3),
        "row": np.arange(2),
        "pair": (1, 2),
    }
    write_json(tmp_path / "new" / "a.json", value)
    text = (tmp_path / "new" / "a.json").read_text()
    expected = {"nan": None, "inf": None, "n": 3, "row": [0, 1], "pair": [1, 2]}
    assert json.loads(text, parse_constant=pytest.fail) == expected


def test_write_json_survives_a_lone_surrogate(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"text": "\ud83d"})
    assert read_json(tmp_path / "a.json") == {"text": "?"}


def test_full_disk_keeps_the_old_file_and_leaves_no_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match=r"disk full while writing .*a\.json: \d+ MiB free"):
        write_json(path, {"new": 2})
    assert read_json(path) == {"old": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_folder_that_cannot_be_written_is_a_run_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot write"):
        write_json(tmp_path / "file" / "a.json", {})


@pytest.mark.parametrize("garbage", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
def test_read_json_of_garbage_names_the_file(tmp_path: Path, garbage: bytes) -> None:
    (tmp_path / "a.json").write_bytes(garbage)
    with pytest.raises(CheckpointError, match=r"a\.json cannot be read"):
        read_json(tmp_path / "a.json")
    with pytest.raises(CheckpointError, match="does not exist"):
        read_json(tmp_path / "b.json")


def test_step_log_ignores_and_repairs_a_torn_line(tmp_path: Path) -> None:
    log = StepLog(tmp_path / "samples.jsonl")
    log.append(1, {"text": "one\ntwo\u2028three"})
    log.append(2, {"text": "ß🙂"})
    whole = log.path.read_bytes()
    for cut in range(1, len(whole.splitlines()[1])):
        log.path.write_bytes(whole[:-1][:-cut])
        assert [r["step"] for r in log.read()] == [1]
        log.append(3, {"text": "next"})
        assert [r["step"] for r in log.read()] == [1, 3]
    log.path.write_bytes(whole)
    assert log.read() == [{"step": 1, "text": "one\ntwo\u2028three"}, {"step": 2, "text": "ß🙂"}]


def test_truncate_after_drops_later_steps(tmp_path: Path) -> None:
    log = StepLog(tmp_path / "samples.jsonl")
    log.truncate_after(3)
    assert log.read() == []
    for step in (1, 2, 2, 3):
        log.append(step, {})
    log.path.write_bytes(log.path.read_bytes() + b'{"step": 4')
    log.truncate_after(2)
    assert log.path.read_text() == '{"step": 1}\n{"step": 2}\n{"step": 2}\n'
