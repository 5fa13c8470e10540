"""An evaluation is written into a new folder, which takes the place of the earlier one when it is whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from thumbs.config.data import DataConfig
from thumbs.config.evaluation import EvaluationConfig, GoldConfig
from thumbs.config.pipeline import METHODS, PipelineConfig
from thumbs.config.sampling import SamplingConfig
from thumbs.engine import open_engine
from thumbs.pipeline.artifacts import open_run
from thumbs.pipeline.names import check_names
from thumbs.pipeline.run import logging_to, measure
from thumbs.pipeline.stages import Pipeline
from thumbs.pipeline.summary import peak_rss_bytes, summarise
from thumbs.rollout.rounds import is_warped
from thumbs.stages.people import LabelSource
from thumbs.tracking.files import read_object, write_json
from thumbs.tracking.run_folder import RunFolder


def evaluate_run(
    run: Path, *, prompts: str | None = None, gold: GoldConfig | None = None, people: LabelSource | None = None
) -> dict[str, Any]:
    """Evaluates the models of a run, also of one whose config has no section `evaluation`; returns the new summary.

    prompts: a file of prompts in place of the config's; gold: what is trusted in place of the config's; people: who
    asks them if they are the gold. The earlier evaluation stays until the new one is whole.
    """
    opened = open_run(run)
    config = opened.config.model_copy(update={"run": str(run), "evaluation": settings_of(opened.config, prompts, gold)})
    asked = prompts is not None or gold is not None or opened.config.evaluation is None
    check_names(config, ("evaluation",))
    with RunFolder(run).lock() as folder:
        engine = open_engine(logging_to(run, config.engine), opened.tokenizer.decode, config.rollout)
        try:
            measure(Pipeline(config, folder, opened.tokenizer, engine, config.iterations, people), asked=asked)
        finally:
            engine.stop()
        write_json(run / "summary.json", summarise(run, peak_rss_bytes()))
    return read_object(run / "summary.json")


def settings_of(config: PipelineConfig, prompts: str | None, gold: GoldConfig | None) -> EvaluationConfig:
    """The config's section, or a default one that samples as the run's methods do, with what was asked in its place."""
    own = config.evaluation or EvaluationConfig(sampling=_sampling(config))
    changes = {} if prompts is None else {"prompts": DataConfig(path=prompts)}
    return own.model_copy(update=changes | ({} if gold is None else {"gold": gold}))


def _sampling(config: PipelineConfig) -> SamplingConfig:
    sections = [getattr(config, name) for name in METHODS] + [config.labels]
    found = [sampling for section in sections if (sampling := getattr(section, "sampling", None)) is not None]
    return next((sampling for sampling in found if not is_warped(sampling)), SamplingConfig())
