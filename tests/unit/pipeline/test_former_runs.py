"""A run folder of an earlier version is one of this version afterwards; the oracle is the folder before it was aged."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from tiny_run_settings import tiny_settings

from thumbs.config.base import build_config
from thumbs.config.pipeline import PipelineConfig
from thumbs.errors import RunError
from thumbs.pipeline.artifacts import open_run
from thumbs.pipeline.former_runs import bring_up_to_date
from thumbs.pipeline.identity import read_identity
from thumbs.pipeline.run import run_pipeline
from thumbs.pipeline.trace import trace_run
from thumbs.report.record import read_run
from thumbs.tracking.files import read_json, write_json
from thumbs.tracking.run_folder import RunFolder

FORMER = {"labels": "preferences", "reward_model": "reward", "direct": "preference"}
STAGES = ("sft", "labels", "reward_model", "direct", "ppo", "evaluation")


def former_key(key: str) -> str:
    head, dot, rest = key.partition(".")
    if head == "ppo" and rest == "reward":
        return "ppo.rewards"
    return FORMER.get(head, head) + dot + rest


def aged(run: Path) -> None:
    """Gives a run folder the names that it would have had, and each stage the digests of the stages before it."""
    digests: dict[str, str] = {}
    for stage in STAGES:
        raw = read_json(run / stage / "identity.json")
        settings = {former_key(key): value for key, value in raw["settings"].items()}
        if stage == "ppo":
            settings["ppo.rewards"][0]["model"] = "reward"
        read = {former_key(key): files for key, files in raw["read"].items()}
        built_on = {FORMER.get(name, name): digests[name] for name in raw["built_on"]}
        write_json(run / stage / "identity.json", {"settings": settings, "read": read, "built_on": built_on})
        identity = read_identity(run / stage)
        assert identity is not None
        digests[stage] = identity.digest
        (run / stage).rename(run / FORMER.get(stage, stage))
    config = {FORMER.get(key, key): value for key, value in read_json(run / "config.json").items()}
    config["ppo"]["rewards"] = config["ppo"].pop("reward")
    write_json(run / "config.json", config)
    results = read_json(run / "evaluation" / "results.json")
    for table in ("systems", "win_rates"):
        results[table] = {FORMER.get(name, name): value for name, value in results[table].items()}
    write_json(run / "evaluation" / "results.json", results)
    summary = {}
    for name, value in read_json(run / "summary.json").items():
        subject, dot, number = name.rpartition(".")
        new = (
            f"time_s.{FORMER.get(number, number)}"
            if subject == "time_s"
            else FORMER.get(subject, subject) + dot + number
        )
        summary[new] = value
    write_json(run / "summary.json", summary)


def contents(run: Path) -> dict[str, Any]:
    """Every file but the lock: JSON as what it says, the rest as bytes."""
    files = [path for path in run.rglob("*") if path.is_file() and path.name != ".lock"]
    return {
        str(path.relative_to(run)): read_json(path) if path.suffix == ".json" else path.read_bytes() for path in files
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("former")
    settings = tiny_settings(folder) | {"direct": {"batch_size": 4}}
    settings["ppo"]["reward"] = [{"model": "reward_model", "weight": 2.0}]
    return run_pipeline(build_config(PipelineConfig, settings))


@pytest.fixture
def old(made: Path, tmp_path: Path) -> Path:
    run = tmp_path / "run"
    shutil.copytree(made, run)
    aged(run)
    assert {path.name for path in run.iterdir() if path.is_dir()} == {FORMER.get(name, name) for name in STAGES}
    return run


def test_an_old_folder_becomes_the_folder_of_today(made: Path, old: Path):
    bring_up_to_date(old)
    assert contents(old) == contents(made)
    bring_up_to_date(old)
    assert contents(old) == contents(made)


def test_what_was_interrupted_is_done_again(made: Path, old: Path):
    (old / "preferences").rename(old / "labels")
    bring_up_to_date(old)
    assert contents(old) == contents(made)


@pytest.mark.parametrize("reader", [open_run, trace_run, read_run])
def test_whoever_reads_a_run_reads_it_under_todays_names(reader: Any, made: Path, old: Path):
    reader(old)
    assert contents(old) == contents(made)


def test_an_old_run_is_done_already(old: Path, capfd: pytest.CaptureFixture[str]):
    config = build_config(PipelineConfig, read_json(old / "config.json") | {"run": str(old)})
    run_pipeline(config)
    said = capfd.readouterr().err
    assert all(f"{stage}: done already" in said for stage in STAGES)


def test_a_folder_in_use_is_left_as_it_is(old: Path):
    before = contents(old)
    with RunFolder(old).lock(), pytest.raises(RunError, match="in use"):
        bring_up_to_date(old)
    assert contents(old) == before
