"""`thumbs.compat.trl_ppo` with reproduce_trl=True against the recorded statistics of TRL 0.11.4, step by step.

Same models, replies, rewards and order of minibatches; record_trl_ppo.py says how the numbers were made.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from trl_case import CASES, STATISTICS, STEPS, batches, settings, value_head, write_model

from thumbs.compat import trl_ppo
from thumbs.data.tokenizers import ByteTokenizer

RECORDED = json.loads((Path(__file__).parent / "trl_ppo.json").read_text(encoding="utf-8"))
HEADLINES = (
    "ppo/loss/total", "ppo/loss/policy", "ppo/loss/value", "ppo/policy/approxkl", "ppo/policy/clipfrac",
    "objective/kl", "objective/kl_coef",
)  # fmt: skip
SMALL = 1e-4
"""Statistics below this (all are of order 1 where they mean something) are compared absolutely."""


def steps_of(case: str, folder: Path, **changed: object) -> list[dict[str, float]]:
    """Our scalar statistics of each step."""
    write_model(case, folder)
    model, reference = (
        trl_ppo.AutoModelForCausalLMWithValueHead.from_pretrained(folder, torch_dtype=torch.float32) for _ in range(2)
    )
    weight, bias = value_head()
    with torch.no_grad():
        model.v_head.weight.copy_(weight)
        model.v_head.bias.copy_(bias)
    config = trl_ppo.PPOConfig(**settings(case), **{"reproduce_trl": True, **changed})
    trainer = trl_ppo.PPOTrainer(config, model, reference, ByteTokenizer())
    seen = []
    for number, (queries, responses, scores, masks) in enumerate(batches(case)):
        np.random.seed(number)
        seen.append(trainer.step(queries, responses, scores, response_masks=masks))
    return seen


def apart(ours: float, theirs: float) -> float:
    """Relative difference, of numbers that are not tiny."""
    return abs(ours - theirs) / max(abs(theirs), SMALL)


def test_the_recording_is_of_the_version_that_it_names():
    assert RECORDED["versions"]["trl"] == "0.11.4"
    assert list(RECORDED["cases"]) == list(CASES)
    assert all(len(steps) == STEPS for steps in RECORDED["cases"].values())


@pytest.mark.parametrize("case", CASES)
def test_our_statistics_are_those_of_trl(case: str, tmp_path: Path):
    theirs, ours = RECORDED["cases"][case], steps_of(case, tmp_path / "model")
    first = {name: apart(ours[0][name], theirs[0][name]) for name in STATISTICS}
    assert {name: gap for name, gap in first.items() if gap > 1e-3} == {}
    tenth = {name: apart(ours[-1][name], theirs[-1][name]) for name in HEADLINES}
    assert {name: gap for name, gap in tenth.items() if gap > 5e-2} == {}


def test_the_recorded_steps_do_something():
    for steps in RECORDED["cases"].values():
        assert max(step["ppo/policy/clipfrac"] for step in steps) > 0.02
        assert max(step["ppo/policy/approxkl"] for step in steps) > 1e-3
        assert steps[0]["ppo/loss/total"] != pytest.approx(steps[-1]["ppo/loss/total"], rel=0.05)


def test_without_the_switch_gradients_are_clipped(tmp_path: Path):
    case = "llama"
    ours = steps_of(case, tmp_path / "ours", reproduce_trl=False)
    theirs = RECORDED["cases"][case]
    assert ours[0]["objective/kl"] == pytest.approx(theirs[0]["objective/kl"], abs=1e-5)
    assert ours[0]["ppo/val/var"] != pytest.approx(theirs[0]["ppo/val/var"], rel=1e-3)  # n instead of n - 1
    assert not math.isclose(ours[0]["ppo/policy/approxkl"], theirs[0]["ppo/policy/approxkl"], rel_tol=1e-3)
