"""What `thumbs init` writes is a run that can start, and nobody's file is overwritten."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from thumbs import api
from thumbs.cli.init import DEMOS, STARTERS
from thumbs.cli.main import app
from thumbs.config.pipeline import PipelineConfig
from thumbs.pipeline import run as pipeline_run


def typed(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(words))
    return result.exit_code, result.output


@pytest.mark.parametrize("kind", STARTERS)
def test_a_starter_runs_to_its_end_with_a_tiny_model(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert typed("init", kind, "--folder", str(tmp_path / "first"))[0] == 0
    monkeypatch.chdir(tmp_path / "first")
    small = ["model.name=byte-tiny", "model.lora=null"]
    settings = yaml.safe_load(Path("config.yaml").read_text("utf-8"))
    if "ppo" in settings:
        small += ["ppo.steps=1", "ppo.batch_size=16", "ppo.sampling.max_new_tokens=8"]
    for section in ("sft", "reward_model", "direct"):
        small += [f"{section}.epochs=1"] if section in settings else []
    code, shown = typed("run", "config.yaml", *small)
    assert code == 0, shown
    done = api.open_run(settings["run"])
    assert set(done.stages) == settings.keys() & {"sft", "labels", "reward_model", "ppo", "direct"}
    assert done.policy in ("ppo", "direct")


@pytest.mark.parametrize("kind", STARTERS)
def test_every_row_of_the_data_is_used_and_every_line_of_the_config_is_explained_or_plain(kind: str, tmp_path: Path):
    typed("init", kind, "--folder", str(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {"config.yaml", *STARTERS[kind]}
    config = api.load_config(tmp_path / "config.yaml")
    assert isinstance(config, PipelineConfig)
    shown = typed("lint", str(tmp_path / STARTERS[kind][0]))[1]
    assert "nothing is wrong" in shown


@pytest.mark.parametrize("there", ["config.yaml", "my_rewards.py"])
def test_nothing_is_overwritten_and_nothing_is_half_written(there: str, tmp_path: Path):
    (tmp_path / there).write_text("mine", encoding="utf-8")
    code, shown = typed("init", "chat", "--folder", str(tmp_path))
    assert code == 2
    assert there in shown
    assert [path.name for path in tmp_path.iterdir()] == [there]
    assert (tmp_path / there).read_text("utf-8") == "mine"


def test_an_unknown_kind_and_size_name_the_known_ones(tmp_path: Path):
    assert "chat, pairs, own-model" in typed("init", "rlhf", "--folder", str(tmp_path))[1]
    assert "full, tiny" in typed("demo", "--size", "huge")[1]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", DEMOS)
def test_the_demonstrations_are_in_the_package_and_are_those_of_the_repository(
    size: str, monkeypatch: pytest.MonkeyPatch
):
    given: list[PipelineConfig] = []

    def run_pipeline(config: PipelineConfig, **_: object) -> Path:
        given.append(config)
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline_run, "run_pipeline", run_pipeline)
    typed("demo", "--size", size, "seed=3")
    repository = Path(__file__).resolve().parents[3] / "configs" / f"{DEMOS[size]}.yaml"
    assert given == [api.load_config(repository, ["seed=3"])]
