"""The real programs, without a network: what they kept is what was sent, also after the run was opened again.

They are in the extra `trackers`, which `.ci/extras` installs.
"""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from thumbs.pipeline import tracker_kinds
from thumbs.pipeline.trackers import TrackedRun, Tracker

SETTINGS = {"seed": 3, "model": {"name": "byte-tiny"}}
HOSTILE = "<script>alert(1)</script>\n# not a title"
STEPS = {1: 0.5, 2: 0.25, 3: 0.125}


def about(folder: Path) -> TrackedRun:
    return TrackedRun("thumbs-test", "first", "0123456789ab", folder, SETTINGS)


def fill(opened: list[Tracker], folder: Path, kind: str) -> None:
    """Two processes of one run: the second goes on where the first ended."""
    for steps in ((1, 2), (3,)):
        tracker = getattr(tracker_kinds, kind)(about(folder))
        for step in steps:
            tracker.numbers("ppo", step, {"wall_s": 0.1 * step, "ppo/kl": STEPS[step]})
            tracker.numbers("iteration-2/ppo", step, {"ppo/kl": -STEPS[step]})
        tracker.samples("ppo", steps[-1], [{"step": steps[-1], "prompt": "Ana", "text": HOSTILE, "score": 1.5}])
        tracker.close()
        opened.append(tracker)


def test_tensorboard(tmp_path: Path):
    pytest.importorskip("tensorboard", reason="the extra `trackers` is not installed")
    from tensorboard.backend.event_processing.event_accumulator import (  # pyright: ignore[reportMissingImports]
        EventAccumulator,
    )

    fill([], tmp_path, "tensorboard")
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert {e.step: e.value for e in events.Scalars("ppo/kl")} == STEPS
    assert {e.step: -e.value for e in events.Scalars("iteration-2/ppo/kl")} == STEPS
    (text,) = [e for e in events.Tensors("ppo/samples/text_summary") if e.step == 3]
    shown = text.tensor_proto.string_val[0].decode()
    assert "<script>" not in shown
    assert all(line.startswith("    ") for line in shown.splitlines())


def test_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    mlflow = pytest.importorskip("mlflow", reason="the extra `trackers` is not installed")
    pytest.importorskip("alembic", reason="a local database of MLflow needs the whole of mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)
    fill([], tmp_path, "mlflow")
    client = mlflow.tracking.MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("thumbs-test").experiment_id])
    assert {m.step: m.value for m in client.get_metric_history(run.info.run_id, "ppo/kl")} == STEPS
    assert run.data.params["model.name"] == "byte-tiny"
    assert run.info.status == "FINISHED"
    table = json.loads(Path(client.download_artifacts(run.info.run_id, "samples/ppo/000003.json")).read_text("utf-8"))
    assert table["data"] == [[3, "Ana", HOSTILE, 1.5]]


def test_trackio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    pytest.importorskip("trackio", reason="the extra `trackers` is not installed")
    fill([], tmp_path, "trackio")
    with sqlite3.connect(next(tmp_path.glob("thumbs*test.db"))) as database:
        rows = database.execute("SELECT run_name, step, metrics FROM metrics").fetchall()
    assert {name for name, _, _ in rows} == {"first-0123456789ab"}
    kl = {step: json.loads(values)["ppo/kl"] for _, step, values in rows if "ppo/kl" in json.loads(values)}
    assert kl == STEPS
    assert any(HOSTILE in json.dumps(json.loads(values)).encode().decode("unicode_escape") for _, _, values in rows)


def test_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    pytest.importorskip("wandb", reason="the extra `trackers` is not installed")
    opened: list[Any] = []
    fill(opened, tmp_path, "wandb")
    assert {tracker._run.id for tracker in opened} == {"0123456789ab"}
    kept = sorted((tmp_path / "wandb").glob("offline-run-*/run-0123456789ab.wandb"))
    assert len(kept) == 2
    raw = b"".join(path.read_bytes() for path in kept)  # what `wandb sync` would send
    for value in STEPS.values():
        assert str(value).encode() in raw
        assert str(-value).encode() in raw
    assert [name for name in (b"ppo/kl", b"ppo/step", b"iteration-2/ppo/step", b"ppo/samples") if name not in raw] == []
