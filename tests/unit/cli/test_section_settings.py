"""`thumbs direct config.yaml method=simpo`: settings of a stage's command without the stage's name."""

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
        ("direct", "method=simpo", "direct.method=simpo"),
        ("direct", "optim.learning_rate=1e-6", "direct.optim.learning_rate=1e-6"),
        ("direct", "direct.beta=2", "direct.beta=2"),
        ("direct", "seed=3", "seed=3"),
        ("direct", "model.name=byte-tiny", "model.name=byte-tiny"),
        ("direct", "unknown=1", "unknown=1"),
        ("group", "group_size=16", "group.group_size=16"),
        ("ppo", "kl.coef=0.2", "ppo.kl.coef=0.2"),
        ("sft", "method=simpo", "method=simpo"),
        (None, "method=simpo", "method=simpo"),
    ],
)
def test_a_key_that_only_the_section_has_is_the_sections(stage: str | None, given: str, taken: str):
    assert in_section(stage, [given]) == [taken]


def test_it_makes_the_section_where_the_file_has_none():
    raw = apply_overrides({}, in_section("direct", ["method=simpo", "beta=2"]))
    config = build_config(PipelineConfig, raw)
    assert config.direct is not None
    assert config.direct.settings() == {"beta": 2, "gamma": 1.0, "sft_coef": 0.0}


def test_what_the_method_does_not_read_is_an_error(tmp_path: Path):
    path = tmp_path / "config.yaml"
    path.write_text("run: run\n", encoding="utf-8")
    result = CliRunner().invoke(app, ["direct", str(path), "method=simpo", "tau=2"])
    assert result.exit_code == 2
    assert "direct: method=simpo does not read tau; it reads beta, gamma, sft_coef" in result.output
