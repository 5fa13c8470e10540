"""`thumbs eval reward-model` and `thumbs eval judge`: what scores replies, on pairs that it has not seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from thumbs.config.data import DataConfig
from thumbs.config.evaluation import GoldConfig
from thumbs.config.model import ModelConfig
from thumbs.config.reward_model import RewardModelConfig
from thumbs.data.load import load_pairs
from thumbs.data.preferences import preferred
from thumbs.data.tokenizers import Tokenizer, reply_tokens
from thumbs.engine import open_engine
from thumbs.errors import ConfigError, DataError
from thumbs.evaluation.gold import open_pair_judge
from thumbs.evaluation.judge_audit import audit_judge
from thumbs.evaluation.reward_probes import Answer, agreement, audit_scorer
from thumbs.models.trunk import open_tokenizer
from thumbs.pipeline.artifacts import open_run
from thumbs.pipeline.run import logging_to
from thumbs.pipeline.stages import Pipeline
from thumbs.records import Preference
from thumbs.rewards.build import open_reward_model
from thumbs.rewards.trained import scorer_of
from thumbs.stages.context import Resume
from thumbs.stages.reward_heldout import apart
from thumbs.stages.reward_items import Row, judged_pairs
from thumbs.stages.reward_model import run_reward_model
from thumbs.tracking.files import write_json
from thumbs.tracking.run_folder import RunFolder

AUDIT = "audit.json"
MOST_BYTES = 1_000_000
"""Longest pair that a judge is asked about, bytes: what it can read is known to its service alone."""


def audit_reward(run: Path, *, halves: bool = False) -> dict[str, Any]:
    """Audits the reward model of a run, that of its last iteration, on its held-out pairs; returns what it writes to
    `reward_model/audit.json`.

    Scores are raw, of an ensemble the mean of its members. halves: train two more models, each on one half of the
    prompts, and say how far they agree. Raises DataError if no held-out pair has a verdict.
    """
    opened = open_run(run)
    config = opened.config.reward_model
    if config is None:
        raise ConfigError(f"{run} has no reward model; give it the sections `labels` and `reward_model`")
    with RunFolder(run).lock() as folder, ExitStack() as ending:
        engine = open_engine(logging_to(run, opened.config.engine), opened.tokenizer.decode, opened.config.rollout)
        ending.callback(engine.stop)
        pipeline = Pipeline(opened.config, folder, opened.tokenizer, engine, opened.config.iterations)
        train, held = pipeline.reward_rows(config)
        pairs = clear_pairs(str(run), judged_pairs(apart(held)[1]))
        scores = scorer_of(pipeline.reward_source(), opened.tokenizer)
        found = audit_scorer(
            lambda answers: scores(answers).mean(axis=1), pairs, reply_length(opened.tokenizer), opened.config.seed
        )
        if halves:
            (one, of), (two, _) = (half_gaps(pipeline, config, i, rows, held) for i, rows in split(train))
            found["halves"] = agreement(one, two, of)
        write_json(folder.stage("reward_model").path / AUDIT, found)
    return found


def audit_model(name: str, pairs: str) -> dict[str, Any]:
    """Audits any reward model on all pairs of a file (or hub:NAME); returns the audit and writes nothing.

    name: the folder of a run's stage `reward_model`, or the folder or hub name of a sequence classifier with one label.
    Its own tokenizer counts lengths. Raises DataError if no pair has a verdict.
    """
    engine = open_engine()
    source = open_reward_model(engine, Path(name))
    assert source.tokenizer is not None  # noqa: S101 - one that is opened by its folder has its own
    rows = load_pairs(DataConfig(path=pairs), "pairs", source.tokenizer).rows
    scores = scorer_of(source, source.tokenizer)
    return audit_scorer(
        lambda answers: scores(answers).mean(axis=1), clear_pairs(pairs, rows), reply_length(source.tokenizer)
    )


def audit_pair_judge(settings: GoldConfig, pairs: str, kept: Path | None = None) -> dict[str, Any]:
    """Audits a judge, on this machine or at an endpoint, on all pairs of a file (or hub:NAME) that people judged.

    kept: the file of its answers, which are asked for once.
    """
    reader = open_tokenizer(ModelConfig(name="byte-tiny"))
    rows = load_pairs(DataConfig(path=pairs, max_tokens=MOST_BYTES), "pairs", reader).rows
    return audit_judge(open_pair_judge(settings, open_engine(), kept), rows, 0)


def reply_length(tokenizer: Tokenizer) -> Callable[[Answer], int]:
    """Length of a reply in that tokenizer's tokens, its end included."""

    def length(answer: Answer) -> int:
        prompt, reply = answer
        return len(reply_tokens(tokenizer, prompt, reply)) - len(tokenizer.render_prompt(prompt))

    return length


def clear_pairs(source: str, held: Sequence[Preference]) -> list[Preference]:
    """The pairs with a verdict; raises DataError if none is untied."""
    pairs = [pair for pair in held if preferred(pair) is not None]
    if all(preferred(pair) == 0.5 for pair in pairs):
        raise DataError(
            f"{source} has {len(pairs)} held-out pairs and none says which reply is better; there is nothing to audit. "
            "Give its data a larger `holdout`"
        )
    return pairs


def split(rows: Sequence[Row]) -> list[tuple[int, list[Row]]]:
    """The rows in two halves, (1, …) and (2, …), all rows of a prompt in the same one."""
    place = {prompt: i for i, prompt in enumerate(dict.fromkeys(row.prompt for row in rows))}
    return [(half + 1, [row for row in rows if place[row.prompt] % 2 == half]) for half in (0, 1)]


def half_gaps(
    pipeline: Pipeline, config: RewardModelConfig, half: int, rows: Sequence[Row], held: Sequence[Row]
) -> tuple[list[float], list[int] | None]:
    """Score gaps of the held-out pairs by a model trained on one half, and what prompt each is of; the model is kept in
    `reward/half-N`.
    """
    context = pipeline.context("reward_model")
    folder = pipeline.folder.stage(f"reward/half-{half}")
    context = replace(context, folder=folder)
    if not folder.is_done():
        results = run_reward_model(context, config, pipeline.sft_model(), rows, held)
        folder.mark_done(results)
        Resume(context, {}).close(keep=False)
    found = folder.results()["heldout"]
    return np.subtract(found["scores_a"], found["scores_b"]).tolist(), found.get("prompts")
