"""Trackers get every number of a run once, whatever happens to the run, and never happen to it."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from tiny_run_settings import tiny_settings

from thumbs.config.base import build_config
from thumbs.config.pipeline import PipelineConfig
from thumbs.errors import ConfigError
from thumbs.pipeline import trackers
from thumbs.pipeline.run import run_pipeline
from thumbs.pipeline.trackers import TRACKERS, TrackedRun
from thumbs.tracking.files import read_json

Sent = tuple[str, int, dict[str, float]]


class Recorder:
    """Keeps what it is sent; fails from a given number of calls on."""

    def __init__(self) -> None:
        self.opened: list[TrackedRun] = []
        self.numbers_sent: list[Sent] = []
        self.samples_sent: list[tuple[str, int, list[dict[str, Any]]]] = []
        self.threads: list[str] = []
        self.closed = 0
        self.fails_after = 10**9

    def open(self, about: TrackedRun) -> Recorder:
        self.opened.append(about)
        return self

    def numbers(self, place: str, step: int, values: Mapping[str, float]) -> None:
        if len(self.numbers_sent) >= self.fails_after:
            raise ConnectionError("no network")
        self.threads.append(threading.current_thread().name)
        self.numbers_sent.append((place, step, dict(values)))

    def samples(self, place: str, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        self.samples_sent.append((place, step, [dict(row) for row in rows]))

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    found = Recorder()
    TRACKERS.register("recorder", found.open)
    yield found
    TRACKERS.forget("recorder")


def settings(tmp_path: Path, **changed: Any) -> PipelineConfig:
    given = {**tiny_settings(tmp_path), "evaluation": None, "tracking": ["recorder"], **changed}
    return build_config(PipelineConfig, given)


def logged(
    run: Path, places: Sequence[str] = ("sft", "reward_model", "ppo")
) -> list[tuple[str, int, dict[str, float]]]:
    """What the folder says, read without our reader."""
    found = []
    for place in places:
        for line in (run / place / "metrics.jsonl").read_text("utf-8").splitlines():
            record = json.loads(line)
            step = record.pop("step")
            found.append((place, step, {key: value for key, value in record.items() if value is not None}))
    return found


def test_every_number_and_sample_arrives_once(tmp_path: Path, recorder: Recorder):
    run = run_pipeline(settings(tmp_path, tracking=[{"kind": "recorder", "project": "p", "name": "n"}]))
    assert recorder.numbers_sent == logged(run)
    rows = [json.loads(line) for line in (run / "ppo" / "samples.jsonl").read_text("utf-8").splitlines()]
    assert [row for _, _, sent in recorder.samples_sent for row in sent] == rows
    assert [step for _, step, _ in recorder.samples_sent] == sorted({row["step"] for row in rows})
    (about,) = recorder.opened
    assert (about.project, about.name, about.settings["model"]["name"]) == ("p", "n", "byte-tiny")
    assert recorder.closed == 1


def test_a_run_that_goes_on_sends_the_rest_under_the_same_id(tmp_path: Path, recorder: Recorder):
    config = settings(tmp_path)
    run = run_pipeline(config, until="reward_model")
    before = list(recorder.numbers_sent)
    run_pipeline(config)
    run_pipeline(config)  # all is done: nothing is sent
    assert before == logged(run, ("sft", "reward_model"))
    assert recorder.numbers_sent == logged(run)
    assert len({about.id for about in recorder.opened}) == 1
    assert {about.name for about in recorder.opened} == {"run"}


def test_more_steps_are_more_points_of_the_same_curve(tmp_path: Path, recorder: Recorder):
    config = settings(tmp_path)
    run = run_pipeline(config)
    longer = {
        **config.model_dump(mode="json", exclude_unset=True),
        "ppo": {**tiny_settings(tmp_path)["ppo"], "steps": 3},
    }
    run_pipeline(build_config(PipelineConfig, longer))
    assert [step for place, step, _ in recorder.numbers_sent if place == "ppo"] == [1, 2, 3]
    assert recorder.numbers_sent == logged(run)


def test_a_run_that_starts_over_is_another_run_there(tmp_path: Path, recorder: Recorder):
    config = settings(tmp_path)
    run_pipeline(config, until="sft")
    run = run_pipeline(config, until="sft", fresh=True)
    assert len({about.id for about in recorder.opened}) == 2
    assert recorder.numbers_sent[-len(logged(run, ("sft",))) :] == logged(run, ("sft",))


def test_a_tracker_that_fails_does_not_end_the_run_and_gets_the_rest_later(
    tmp_path: Path, recorder: Recorder, caplog: pytest.LogCaptureFixture
):
    recorder.fails_after = 1
    config = settings(tmp_path)
    with caplog.at_level(logging.WARNING):
        run = run_pipeline(config)
    warned = [record.getMessage() for record in caplog.records if "recorder failed" in record.getMessage()]
    assert len(warned) == 1
    assert "no network" in warned[0]
    recorder.fails_after = 10**9
    run_pipeline(config)
    # What was sent in the batch that broke may come twice; nothing is missing.
    assert {(place, step) for place, step, _ in recorder.numbers_sent} == {(p, s) for p, s, _ in logged(run)}


def test_numbers_are_sent_while_a_stage_trains(tmp_path: Path, recorder: Recorder, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(trackers, "_EVERY_S", 0.001)
    run = run_pipeline(settings(tmp_path))
    assert "trackers" in recorder.threads
    assert recorder.numbers_sent == logged(run)  # once each, although the log was read many times


@pytest.mark.parametrize(
    ("tracking", "said"),
    [
        (["wanbd"], "allowed are mlflow, recorder, tensorboard, trackio, wandb"),
        (["json:no_such_tracker"], "no_such_tracker"),
        ([{"kind": "recorder", "entity": "x"}], "entity"),
        (["recorder", {"kind": "recorder", "project": "other"}], "recorder is there twice"),
    ],
)
def test_a_wrong_tracker_is_found_before_anything_is_trained(
    tmp_path: Path, recorder: Recorder, tracking: list[Any], said: str
):
    with pytest.raises(ConfigError, match=said):
        run_pipeline(settings(tmp_path, tracking=tracking))
    assert not (tmp_path / "run" / "sft").exists()


def test_one_that_does_not_open_says_what_to_do_and_closes_the_others(tmp_path: Path, recorder: Recorder):
    def refuse(about: TrackedRun) -> Recorder:
        raise PermissionError("api_key not configured")

    TRACKERS.register("locked", refuse)
    try:
        with pytest.raises(ConfigError, match=r"locked does not open \(PermissionError: api_key not configured\)"):
            run_pipeline(settings(tmp_path, tracking=["recorder", "locked"]))
    finally:
        TRACKERS.forget("locked")
    assert recorder.closed == 1
    assert read_json(tmp_path / "run" / "trackers.json").keys() == {"recorder", "locked"}


def test_without_trackers_no_thread_and_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(trackers.threading, "Thread", None)
    run = run_pipeline(settings(tmp_path, tracking=[]), until="sft")
    assert not (run / "trackers.json").exists()
