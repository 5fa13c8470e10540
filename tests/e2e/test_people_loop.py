"""Collect, train, sample, collect: a run of two iterations whose labels a person gives, killed while they judge."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import time
import urllib.request
from collections.abc import Callable
from http.cookiejar import CookieJar
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import yaml

from forked_command import output, started
from thumbs.collect.errors import NotFound
from thumbs.collect.simulate import SimulatedPerson
from thumbs.collect.store import CollectStore
from thumbs.data.preferences import PreferenceStore, preferred
from thumbs.pipeline.trace import trace_run
from thumbs.tracking.files import read_json

pytestmark = pytest.mark.e2e

NAMES = ["Ana", "Ben", "Carl", "Dora", "Elif", "Finn", "Gus", "Hana"]
ADAM = {"learning_rate": 3e-3}
CLOCKS = re.compile(r"_s$|per_s$")
PAIRS = 10
LONGER = SimulatedPerson("ann", lambda _, reply: float(len(reply)))


def write_config(folder: Path) -> Path:
    """Two iterations of pairs, reward model and PPO, a few seconds."""
    folder.mkdir()
    talks = [{"prompt": name, "completion": f"{name}, {word} day."} for word in ("good", "sad") for name in NAMES]
    (folder / "talks.jsonl").write_text("".join(json.dumps(talk) + "\n" for talk in talks))
    (folder / "names.txt").write_text("\n".join(NAMES))
    prompts, sampling = {"path": str(folder / "names.txt"), "holdout": 0.25}, {"max_new_tokens": 16}
    config = {
        "run": str(folder / "run"),
        "iterations": 2,
        "model": {"name": "byte-tiny", "lora": None},
        "sft": {
            "data": {"path": str(folder / "talks.jsonl"), "holdout": 0.0},
            "epochs": 6,
            "batch_size": 8,
            "optim": ADAM,
        },
        "labels": {
            "prompts": prompts,
            "sampling": sampling,
            "people": {"pairs": PAIRS, "db": str(folder / "collect.db"), "port": 0, "project": "loop"},
        },
        "reward_model": {"epochs": 2, "batch_size": 4, "optim": ADAM, "eval_every": 2},
        "ppo": {"prompts": prompts, "steps": 2, "batch_size": 4, "minibatch_size": 4, "sampling": sampling},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder / "config.yaml"


class Person:
    """Judges at a desk of their own, in a thread, up to `most` tasks."""

    def __init__(self, database: Path, most: int = 1000) -> None:
        self.database, self.most, self.given = database, most, 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work)

    def __enter__(self) -> Person:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _work(self) -> None:
        while not self.database.exists():
            if self._stop.wait(0.05):
                return
        store = CollectStore(self.database)
        account = store.people.at_home("ann").id
        while self.given < self.most and not self._stop.wait(0.02):
            try:
                task = store.work.claim(store.projects.find("loop").id, account)
            except NotFound:
                continue
            if not isinstance(task, str):
                body, effort = LONGER.answer(task)
                store.work.submit(task.assignment, account, f"key-{task.assignment}", body, effort)
                self.given += 1
        store.close()


def wait_until(reached: Callable[[], bool], process: BaseProcess, config: Path) -> None:
    deadline = time.monotonic() + 240
    while not reached():
        assert process.is_alive(), output(config)
        assert time.monotonic() < deadline, output(config)
        time.sleep(0.02)


def results(run: Path) -> dict[str, Any]:
    """Labels without their times, numbers without clocks, bytes of the models."""
    found: dict[str, Any] = {str(path.relative_to(run)): path.read_bytes() for path in run.rglob("*.safetensors")}
    for path in run.rglob("preferences.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        for judgement in (judgement for row in rows for judgement in row["judgements"]):
            del judgement["at"]
        found[str(path.relative_to(run))] = rows
    return found | {str(path.relative_to(run)): without_clocks(read_json(path)) for path in run.rglob("done.json")}


def without_clocks(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_clocks(item) for key, item in value.items() if not CLOCKS.search(key)}
    return value


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The config of a run that nobody interrupted."""
    config = write_config(tmp_path_factory.mktemp("loop") / "whole")
    with Person(config.parent / "collect.db"), started(config) as process:
        process.join(timeout=240)
        assert process.exitcode == 0, output(config)
    return config


def test_both_iterations_ask_about_the_replies_of_their_policy(whole: Path):
    run = whole.parent / "run"
    for folder, checkpoint in (("labels", "sft/model"), ("iteration-2/labels", "ppo/model")):
        pairs = PreferenceStore(run / folder / "preferences.jsonl").load()
        assert len(pairs) == PAIRS
        assert {reply.generator.checkpoint for pair in pairs for reply in pair.replies} == {checkpoint}
        for pair in pairs:
            a, b = (len(reply.text) for reply in pair.replies)
            assert preferred(pair) == (0.5 if a == b else float(a > b))
    store = CollectStore(whole.parent / "collect.db")
    (project,) = store.projects.all()
    items = store.items.page(project.id, limit=100)
    assert [item.chosen_by["iteration"] for item in items] == [1] * PAIRS + [2] * PAIRS
    assert len(list(store.votes.all(project.id))) == 2 * PAIRS
    store.close()


def test_the_second_reward_model_learns_from_the_labels_of_both(whole: Path):
    run = whole.parent / "run"
    first, second = (read_json(run / folder / "done.json") for folder in ("reward_model", "iteration-2/reward_model"))
    assert first["pairs"] + first["heldout_pairs"] == PAIRS
    assert second["pairs"] + second["heldout_pairs"] == 2 * PAIRS
    assert first["heldout_pairs"] > 0


def test_the_trace_leads_from_each_label_to_its_checkpoints_and_back(whole: Path):
    run = whole.parent / "run"
    trace = trace_run(run)
    assert list(trace.checkpoints) == ["sft", "reward_model", "ppo", "iteration-2/reward_model", "iteration-2/ppo"]
    for name in ("reward_model", "iteration-2/reward_model"):
        done = read_json(run / name / "done.json")
        one = trace.checkpoints[name]
        undrawn = [why for why in one.unused.values() if why.startswith("drawn")]
        assert len(one.trained) + len(undrawn) == done["pairs"]
        assert len(one.heldout) == done["heldout_pairs"]
    assert set(trace.labels_behind("iteration-2/ppo")) == {
        *trace.checkpoints["reward_model"].trained,
        *trace.checkpoints["iteration-2/reward_model"].trained,
    }
    told = [read_json(run / place / "people.json")["items"] for place in ("labels", "iteration-2/labels")]
    items = {**told[0], **{f"{key}@2": item for key, item in told[1].items()}}
    assert {key: label.item for key, label in trace.labels.items()} == items
    for label in trace.labels:
        behind = {name for name in trace.checkpoints if label in trace.labels_behind(name)}
        shaped = {name for name, how in trace.shaped_by(label).items() if how != "held out"}
        assert shaped == behind


def test_the_report_counts_the_labels_of_both(whole: Path):
    page = (whole.parent / "run" / "report.html").read_text(encoding="utf-8")
    assert f"{2 * PAIRS} labels by 1 person. The reward model orders" in page


def test_a_run_killed_while_people_judge_asks_nothing_twice_and_ends_the_same(whole: Path, tmp_path: Path):
    config = write_config(tmp_path / "killed")
    database, given = config.parent / "collect.db", 0
    for most in (4, PAIRS - 4 + 3):  # in the middle of the first iteration, then of the second
        with Person(database, most) as person, started(config) as process:
            wait_until(lambda person=person, most=most: person.given == most, process, config)
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)
            process.join(timeout=60)
        given += most
    with Person(database) as person, started(config) as process:
        process.join(timeout=240)
        assert process.exitcode == 0, output(config)
    assert given + person.given == 2 * PAIRS
    assert results(config.parent / "run") == results(whole.parent / "run")


def test_made_anew_a_run_finds_its_labels(whole: Path, tmp_path: Path):
    """The labels live outside of the run folder: the same seed needs nobody to judge again."""
    before = results(whole.parent / "run")
    settings = yaml.safe_load(whole.read_text())
    folder = tmp_path / "anew"
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump({**settings, "run": str(folder / "run")}))
    with started(folder / "config.yaml") as process:
        process.join(timeout=240)
        assert process.exitcode == 0, output(folder / "config.yaml")
    assert results(folder / "run") == before


def test_the_page_is_there_while_the_run_waits_and_closing_the_project_ends_it(tmp_path: Path):
    config = write_config(tmp_path / "closed")
    database = config.parent / "collect.db"
    with Person(database, 6) as person, started(config) as process:
        wait_until(lambda: "&token=" in output(config) and person.given == 6, process, config)
        found = re.search(r"http://127\.0\.0\.1:\d+/\?\S+token=\S+", output(config))
        assert found
        opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))
        with opener.open(found.group(), timeout=30) as page:
            assert page.geturl().endswith("/p/loop")
            text = page.read().decode()
        assert any(name in text for name in NAMES)
        store = CollectStore(database)
        store.projects.set_state(store.projects.find("loop").id, "closed")
        store.close()
        wait_until((config.parent / "run" / "labels" / "done.json").exists, process, config)
    assert read_json(config.parent / "run" / "labels" / "done.json")["labels"] == 6
