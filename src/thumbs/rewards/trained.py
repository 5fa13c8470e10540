"""What a stage `reward_model` left, as a source of scores: a model, an ensemble, or a process reward model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from thumbs.data.tokenizers import Tokenizer, reply_tokens
from thumbs.engine.base import Engine, ModelSpec
from thumbs.errors import ConfigError
from thumbs.records import Message, Reply
from thumbs.rewards.classifier import ClassifierReward
from thumbs.rewards.cost import CostModel
from thumbs.rewards.ensemble import RewardEnsemble, member_paths
from thumbs.rewards.model import RewardModel, member_scores
from thumbs.rewards.steps import StepReward

TrainedReward = CostModel | RewardModel | RewardEnsemble | StepReward | ClassifierReward
RawScorer = Callable[[Sequence[tuple[Sequence[Message], Reply]]], np.ndarray]
"""Raw scores [B, members] of replies to prompts (score units)."""


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
    reward model its loss, of a cost model its scaling. scaled: False leaves out the division by the deviation.
    tokenizer: the model's own; with `reread` it reads the text of a rollout anew, otherwise the policy's tokens are
    taken as they are.
    """
    reader = tokenizer if reread else None
    if "process" in measured:
        return StepReward(engine, engine.create(spec), tokenizer, measured["process"], reread=reread)
    if "cost" in measured:
        scale, shift = (measured["cost"][name] for name in ("scale", "shift"))
        return CostModel(engine, engine.create(spec), scale, shift, tokenizer, reader)
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


def scorer_of(source: TrainedReward, tokenizer: Tokenizer) -> RawScorer:
    """What gives the raw scores of a reward model, or of each member of an ensemble.

    tokenizer: of the policy, for a model that has none of its own. Raises ConfigError for a process reward model.
    """
    if isinstance(source, StepReward):
        raise ConfigError("a process reward model scores steps; what scores whole replies is needed here")
    if isinstance(source, ClassifierReward):
        return source.answer_scores
    engine, reader = source.engine, source.tokenizer or tokenizer
    handles = source.handles if isinstance(source, RewardEnsemble) else [source.handle]
    return lambda answers: member_scores(engine, handles, [reply_tokens(reader, *answer) for answer in answers])
