"""One tiny run of the whole pipeline, made once: byte-tiny, two optimizer steps a stage."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_run_settings import tiny_settings

from thumbs.config.base import build_config
from thumbs.config.pipeline import PipelineConfig
from thumbs.pipeline.run import run_pipeline


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run."""
    settings = tiny_settings(tmp_path_factory.mktemp("pipeline"))
    return run_pipeline(build_config(PipelineConfig, settings))
