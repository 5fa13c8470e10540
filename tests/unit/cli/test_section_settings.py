"""`thumbs preference config.yaml method=simpo`: settings of a stage's command without the stage's name."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from thumbs.cli.main import app
from thumbs.cli.run import in_section
from thumbs.config.base import apply_overrides, build_config
from thumbs.config.pipeline import PipelineConfig


@pytest.mark.parametrize(
    ("stage", "given", "taken"),
    [
        ("preference", "method=simpo", "preference.method=simpo"),
        ("preference", "optim.learning_rate=1e-6", "preference.optim.learning_rate=1e-6"),
        ("preference", "preference.beta=2", "preference.beta=2"),
        ("preference", "seed=3", "seed=3"),
        ("preference", "model.name=byte-tiny", "model.name=byte-tiny"),
        ("preference", "unknown=1", "unknown=1"),
        ("group", "group_size=16", "group.group_size=16"),
        ("ppo", "kl.coef=0.2", "ppo.kl.coef=0.2"),
        ("sft", "method=simpo", "method=simpo"),
        (None, "method=simpo", "method=simpo"),
    ],
)
def test_a_key_that_only_the_section_has_is_the_sections(stage: str | None, given: str, taken: str):
    assert in_section(stage, [given]) == [taken]


def test_it_makes_the_section_where_the_file_has_none():
    raw = apply_overrides({}, in_section("preference", ["method=simpo", "beta=2"]))
    config = build_config(PipelineConfig, raw)
    assert config.preference is not None
    assert config.preference.settings() == {"beta": 2, "gamma": 1.0, "sft_coef": 0.0}


def test_what_the_method_does_not_read_is_an_error(tmp_path: Path):
    path = tmp_path / "config.yaml"
    path.write_text("run: run\n", encoding="utf-8")
    result = CliRunner().invoke(app, ["preference", str(path), "method=simpo", "tau=2"])
    assert result.exit_code == 2
    assert "preference: method=simpo does not read tau; it reads beta, gamma, sft_coef" in result.output
