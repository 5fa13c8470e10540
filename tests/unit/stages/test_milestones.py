"""Policies kept where their KL first passes a level."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from byte_world import byte_context
from thumbs.config.losses import CrossEntropy
from thumbs.engine.base import AdamStep, ModelSpec
from thumbs.records import Datum
from thumbs.stages.milestones import keep_milestones, milestones


def test_each_level_keeps_the_policy_that_passed_it_first(tmp_path: Path):
    context = replace(byte_context(tmp_path), frontier=(10.0, 2.0, 0.5, 30.0))
    policy = context.engine.create(ModelSpec("policy", context.model))
    data = [Datum.next_token(list(b"abcdefgh"), weights=np.ones(7))]
    seen = []
    for kl in (0.4, 0.6, 0.1, 2.5, 12.0):
        context.engine.forward_backward(policy, data, [CrossEntropy()])
        context.engine.optim_step(policy, AdamStep(1e-3, 1e-3))
        seen.append(context.engine.forward(policy, data)[0].logprobs)
        keep_milestones(context, policy, kl)
    found = milestones(context.folder.path)
    assert [level for level, _ in found] == ["0.5", "2", "10"]  # 30 nats were never reached
    for (_, path), expected in zip(found, (seen[1], seen[3], seen[4]), strict=True):
        kept = context.engine.create(ModelSpec("kept", context.model, start=path, trainable=False))
        np.testing.assert_array_equal(context.engine.forward(kept, data)[0].logprobs, expected)


def test_without_levels_nothing_is_kept(tmp_path: Path):
    context = byte_context(tmp_path)
    policy = context.engine.create(ModelSpec("policy", context.model))
    keep_milestones(context, policy, 100.0)
    assert milestones(context.folder.path) == []
    assert not list(context.folder.path.rglob("at-kl"))
