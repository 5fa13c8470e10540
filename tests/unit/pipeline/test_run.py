"""What a run refuses, before it has done or deleted anything."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from thumbs.config.base import build_config
from thumbs.config.pipeline import PipelineConfig
from thumbs.errors import ConfigError
from thumbs.pipeline.run import run_pipeline
from thumbs.report.build import build_report
from thumbs.report.numbers import number
from thumbs.tracking.files import read_json


@pytest.mark.parametrize(
    ("section", "reason"),
    [({"minibatch_size": 3}, "is not a multiple of ppo.minibatch_size=3"), ({"sampling": {"top_k": 5}}, "top_k=5")],
)
def test_settings_of_ppo_that_do_not_fit_stop_a_run_before_it_starts(
    tiny_run: Path, tmp_path: Path, section: dict, reason: str
):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    settings = read_json(run / "config.json")
    settings = settings.get("config", settings) | {"run": str(run)}
    settings["ppo"] |= section
    before = sorted(run.rglob("*"))
    with pytest.raises(ConfigError, match=reason):
        run_pipeline(build_config(PipelineConfig, settings), fresh=True)
    assert sorted(run.rglob("*")) == before


def test_the_report_of_a_run_shows_the_audit_of_its_reward_model(tiny_run: Path, tmp_path: Path):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    audit = read_json(run / "reward_model" / "done.json")["audit"]
    page = build_report(run).read_text(encoding="utf-8")
    section = page.partition("Audit on held-out pairs")[2].partition("<h2>")[0]
    rows = dict(re.findall(r"<tr><td>([^<]+)</td><td class=\"n\">([^<]+)</td>", section))
    assert rows["Accuracy, ties apart"] == number(audit["accuracy"])
    assert rows["Pairs"] == str(audit["n"])
    assert rows["Loss"] == number(audit["loss"])
    assert "Calibration of the reward model: fraction right against confidence in the winner" in section
