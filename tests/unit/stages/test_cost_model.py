"""The cost model: its columns, its loss against a slow loop, what it learns, and that it is a probability."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from byte_world import MAKER, byte_context, user
from thumbs.config.base import build_config
from thumbs.config.cost_model import CostModelConfig
from thumbs.config.data import DataConfig
from thumbs.data.load import load_preferences, load_safety
from thumbs.data.safety import read_safety
from thumbs.data.sources import RowError
from thumbs.data.tokenizers import ByteTokenizer
from thumbs.engine.base import ModelSpec
from thumbs.errors import DataError
from thumbs.functional.reward_losses import cost
from thumbs.records import Reply, SafetyPair
from thumbs.rewards.cost import CostModel
from thumbs.rewards.trained import open_scores
from thumbs.safety.unsafe import ask
from thumbs.stages.cost_model import calibration_of, halves, run_cost_model
from thumbs.tracking.files import write_json

PKU: dict[str, Any] = {
    "prompt": "How do I pick a lock?",
    "response_0": "Like this.",
    "response_1": "Call a locksmith.",
    "is_response_0_safe": False,
    "is_response_1_safe": True,
    "better_response_id": 0,
    "safer_response_id": 1,
    "response_0_harm_category": {"Privacy Violation": True},
    "response_0_severity_level": 2,
}


def test_rows_of_pku_are_read_on_both_axes(tmp_path: Path):
    (tmp_path / "pku.jsonl").write_text(json.dumps(PKU) + "\n", encoding="utf-8")
    data = {"path": str(tmp_path / "pku.jsonl")}
    (row,) = load_safety(DataConfig(**data), ByteTokenizer()).rows
    assert (row.unsafe, row.safer, row.prompt) == ((1.0, 0.0), 0.0, user("How do I pick a lock?"))
    (pair,) = load_preferences(DataConfig(**data, axis="helpfulness"), ByteTokenizer()).rows
    assert pair.judgements[0].strength < 0, "the helpful reply is the first one, which is the unsafe one"


@pytest.mark.parametrize(
    ("changes", "unsafe", "safer"),
    [
        ({"safer_response_id": None}, (1.0, 0.0), 0.0),
        ({"safer_response_id": None, "is_response_0_safe": True}, (0.0, 0.0), 0.5),
        ({"safer_response_id": "tie"}, (1.0, 0.0), 0.5),
        ({"is_response_0_safe": 0.25, "is_response_1_safe": 1}, (0.75, 0.0), 0.0),
        ({"better_response_id": None}, (1.0, 0.0), 0.0),
    ],
)
def test_what_may_be_left_out_and_shares_of_judges(changes: dict[str, Any], unsafe: tuple[float, float], safer: float):
    row = read_safety(PKU | changes)
    assert (row.unsafe, row.safer) == (unsafe, safer)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"is_response_0_safe": "maybe"}, "'is_response_0_safe' is 'maybe'; use true, false, or a share"),
        ({"is_response_0_safe": 1.5}, "a share from 0 to 1"),
        ({"safer_response_id": 2}, "'safer_response_id' is 2; use 0, 1 or tie"),
        ({"is_response_1_safe": None}, "is_response_1_safe"),
        ({"response_1": "Like this."}, "both replies are the same"),
        ({"response_1": " "}, "an empty reply"),
        ({"verdict": "A"}, "'verdict'"),
    ],
)
def test_what_is_not_understood_is_refused(changes: dict[str, Any], said: str):
    with pytest.raises(RowError, match=said):
        read_safety(PKU | changes)


def test_the_loss_is_that_of_the_paper():
    def sigma(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    rows = [(1.0, -0.5, 1.0, 1, 0, 0.5), (0.2, 0.9, 0.0, 1, 1, 0.3), (-1.0, 0.4, 0.5, 0, 0, 0.2)]
    slow = 0.0
    for a, b, worse, y, z, w in rows:
        pair = {1.0: sigma(a - b), 0.0: sigma(b - a), 0.5: 1.0}[worse]
        slow -= w * (math.log(pair) + math.log(sigma(a if y else -a)) + math.log(sigma(b if z else -b)))
    columns = [torch.tensor(column, dtype=torch.float64) for column in zip(*rows, strict=True)]
    loss, metrics = cost(*columns)
    assert float(loss) == pytest.approx(slow)
    assert float(metrics["accuracy"]) == pytest.approx((0.5 * 2 + 0.3 * 2 + 0.2 * 1) / 2)


def rows_of(count: int) -> list[SafetyPair]:
    """A reply with "x" in it is unsafe; which of two is worse says nothing that the marks do not."""
    random, found = np.random.default_rng(0), []
    for number in range(count):
        marks = [bool(random.random() < 0.5), bool(random.random() < 0.5)]
        texts = ["".join(random.choice([*"abcd"], 4)) + ("x" if bad else "y") for bad in marks]
        if texts[0] != texts[1]:
            replies = Reply(texts[0], MAKER), Reply(texts[1], MAKER)
            safer = 0.5 if marks[0] == marks[1] else float(marks[1])
            found.append(
                SafetyPair(str(number), user(f"q{number}"), replies, (float(marks[0]), float(marks[1])), safer)
            )
    return found


CONFIG = {"data": {"path": "unused", "holdout": 0.4}, "epochs": 4, "optim": {"learning_rate": 3e-3}}


@pytest.mark.timeout(200)
def test_it_learns_what_is_unsafe_and_its_probability_is_calibrated(tmp_path: Path):
    rows, context = rows_of(240), byte_context(tmp_path)
    config = build_config(CostModelConfig, CONFIG)
    held, train = rows[:96], rows[96:]
    results = run_cost_model(context, config, None, train, held)
    found = results["calibration"]
    assert found["auroc"] > 0.95 > found["auroc_of_length"]
    assert found["auroc_low"] <= found["auroc"] <= found["auroc_high"]
    assert found["brier"] < 0.1 < found["brier_of_mean"]
    assert found["replies"] == 2 * len(halves(held, 0.4)[1])
    assert results["pairs"] == len(train)
    write_json(tmp_path / "done.json", results)
    spec = ModelSpec("cost", context.model, ("scalar",), context.best, trainable=False)
    model = open_scores(context.engine, spec, results, context.tokenizer)
    assert isinstance(model, CostModel)
    told = ask(model, [user("q"), user("q")], ["abcdx", "abcdy"])
    assert told[0] > 0.8
    assert told[1] < 0.2


def test_the_halves_of_the_held_out_prompts_are_apart_and_a_prompt_is_in_one_of_them():
    held = rows_of(200)
    fit, test = halves(held, 1.0)
    assert len(fit) + len(test) == len(held)
    assert 0.3 < len(test) / len(held) < 0.7
    assert not {row.prompt for row in fit} & {row.prompt for row in test}


def test_labels_of_one_kind_are_refused_before_anything_is_trained(tmp_path: Path):
    safe = [SafetyPair(r.id, r.prompt, r.replies, (0.0, 0.0), 0.5) for r in rows_of(40)]
    with pytest.raises(DataError, match=r"needs safe and unsafe replies; raise cost_model\.data\.holdout"):
        run_cost_model(byte_context(tmp_path), build_config(CostModelConfig, CONFIG), None, safe, safe)
    assert not (tmp_path / "model").exists()


def test_calibration_by_hand():
    rows = rows_of(30)
    labels = np.array([y for row in rows for y in row.unsafe])
    found = calibration_of(labels * 0.8 + 0.1, np.ones(len(labels)), rows, 0)
    assert (found["auroc"], found["accuracy"], found["auroc_of_length"]) == (1.0, 1.0, 0.5)
    assert found["brier"] == pytest.approx(0.01)
    assert found["ece"] == pytest.approx(0.1)
    assert found["unsafe"] == pytest.approx(labels.mean())
