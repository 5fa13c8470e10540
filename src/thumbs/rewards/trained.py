"""What a stage `reward_model` left, as a source of scores: a model, an ensemble, or a process reward model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from thumbs.data.tokenizers import Tokenizer
from thumbs.engine.base import Engine, ModelSpec
from thumbs.rewards.classifier import ClassifierReward
from thumbs.rewards.ensemble import RewardEnsemble, member_paths
from thumbs.rewards.model import RewardModel
from thumbs.rewards.steps import StepReward

TrainedReward = RewardModel | RewardEnsemble | StepReward | ClassifierReward


def open_scores(
    engine: Engine,
    spec: ModelSpec,
    measured: Mapping[str, Any],
    tokenizer: Tokenizer,
    *,
    scaled: bool = True,
    reread: bool = False,
) -> TrainedReward:
    """The reward model at `spec.start`, alone or as the ensemble that it is part of.

    measured: what its stage found (done.json): score_mean, score_std, of an ensemble its members' scales, of a process
    reward model its loss. scaled: False leaves out the division by the deviation. tokenizer: the model's own; with
    `reread` it reads the text of a rollout anew, otherwise the policy's tokens are taken as they are.
    """
    reader = tokenizer if reread else None
    if "process" in measured:
        return StepReward(engine, engine.create(spec), tokenizer, measured["process"], reread=reread)
    if "ensemble" not in measured:
        std = measured.get("score_std", 1.0) if scaled else 1.0
        return RewardModel(engine, engine.create(spec), measured.get("score_mean", 0.0), std, reader)
    found = measured["ensemble"]
    assert isinstance(spec.start, Path)  # noqa: S101
    paths = member_paths(spec.start, len(found["means"]) // found["heads"])
    handles = [engine.create(replace(spec, start=path, scores=found["heads"])) for path in paths]
    scale = 1.0 if scaled else measured["score_std"]
    return RewardEnsemble(
        engine,
        handles,
        found["means"],
        found["stds"],
        found["combine"],
        found["std_coef"],
        scale=scale,
        tokenizer=reader,
    )
