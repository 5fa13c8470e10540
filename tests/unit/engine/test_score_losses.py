"""Losses of scores through the engine's path: against loops over values, whatever the micro-batches, for every head."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from thumbs.config.losses import HEAD_WEIGHTS, ScoreLoss
from thumbs.config.model import ModelConfig
from thumbs.engine.base import AdamStep, Handle, ModelSpec
from thumbs.engine.local import LocalEngine
from thumbs.engine.score_losses import loss_of_values
from thumbs.functional.reward_losses import COSTS, FORMULAS, LABELS, LISTS, PAIRS
from thumbs.records import Example

SEQUENCES = [[7, 3, 9, 4, 1], [7, 3, 8], [7, 3, 9, 5, 5, 2, 6], [4, 4, 2], [4, 1], [4, 4, 3, 3]]
RANKS = [2, math.inf, 1, 1, 1, 2]
UNITS = [0, 0, 0, 1, 1, 1]
UNIT_WEIGHTS = {0: 0.3, 1: 0.7}
SETTINGS = {"regression": {"huber_delta": 0.7}, "ordinal": {"thresholds": (-0.5, 0.5)}}
LOSSES = [ScoreLoss.of(name, **SETTINGS.get(name, {"center_coef": 0.2} if name in PAIRS else {})) for name in FORMULAS]
LOSSES += [ScoreLoss.of("bradley_terry", by_token=True, center_coef=0.2)]


def model(heads: int = 1) -> tuple[LocalEngine, Handle]:
    """A byte model whose head is not zero."""
    engine = LocalEngine()
    spec = ModelSpec("r", ModelConfig(name="byte-tiny", lora=None, dtype="float32"), ("scalar",), scores=heads)
    handle = engine.create(spec)
    head = engine.model(handle).scalar
    assert head is not None
    head.weight.data = 0.3 * torch.randn(head.weight.shape, generator=torch.Generator().manual_seed(0))
    return engine, handle


def data_for(loss: ScoreLoss, heads: np.ndarray | None = None) -> list[Example]:
    """Six sequences in two lists, in four pairs, or each alone; `heads` [6, H] weighs them for each head."""
    rng, data = np.random.default_rng(1), []
    for i, tokens in enumerate(SEQUENCES):
        end = np.eye(len(tokens))[-1]
        extra: dict[str, Any] = {} if heads is None else {HEAD_WEIGHTS: heads[i]}
        if loss.formula in LABELS:
            levels = rng.integers(0, 3, len(tokens))
            labels = levels / 2 if loss.formula == "binary" else levels  # ½ is on neither side
            data.append(Example.whole_sequence(tokens, weights=0.5 * end + 0.1, labels=labels, **extra))
        elif loss.formula in COSTS:
            of = {"unit": i // 2, "preferred": [1.0, 0.5, 0.0][i // 2], "unit_weight": 0.2 + i // 2}
            unsafe = np.full(len(tokens), [1.0, 0.0, 0.5, 1.0, 0.0, 0.0][i])
            data.append(Example.whole_sequence(tokens, weights=end, labels=unsafe, **of, **extra))
        elif loss.formula in LISTS:
            of = {"unit": UNITS[i], "rank": RANKS[i], "unit_weight": UNIT_WEIGHTS[UNITS[i]]}
            data.append(Example.whole_sequence(tokens, weights=end, **of, **extra))
        else:
            parts = (np.arange(len(tokens)) >= min(2, len(tokens) - 1)).astype(float)
            weights = parts if loss.by_token else end
            of = {"unit": i // 2, "preferred": [1.0, 0.5, 0.0][i // 2], "margin": 0.1, "unit_weight": 0.2 + i // 2}
            data.append(Example.whole_sequence(tokens, weights=weights, **of, **extra))
    return data


def values_of(engine: LocalEngine, handle: Handle, data: Sequence[Example]) -> list[np.ndarray]:
    return [output.values.astype(np.float64) for output in engine.forward(handle, data)]


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def test_token_bradley_terry_is_the_mean_over_places_of_the_longer():
    engine, handle = model()
    loss = ScoreLoss.of("bradley_terry", by_token=True, center_coef=0.2)
    data = data_for(loss)
    values, wanted = values_of(engine, handle, data), 0.0
    for pair, preferred in enumerate([1.0, 0.5, 0.0]):
        a, b = (values[i][min(2, len(values[i]) - 1) :] for i in (2 * pair, 2 * pair + 1))
        longest = max(len(a), len(b))
        for t in range(longest):
            x, y = a[min(t, len(a) - 1)], b[min(t, len(b) - 1)]
            nll = preferred * softplus(0.1 - (x - y)) + (1 - preferred) * softplus(0.1 + (x - y))
            wanted += (0.2 + pair) * (nll + 0.2 * (x + y) ** 2) / longest
    output = engine.forward_backward(handle, data, [loss])
    assert output.loss == pytest.approx(wanted, rel=1e-5)
    right = [values[0][-1] > values[1][-1], None, values[5][-1] > values[4][-1]]
    wanted_accuracy = (0.2 * right[0] + 2.2 * right[2]) / 2.4
    assert output.metrics["bradley_terry/accuracy"] == pytest.approx(wanted_accuracy)


def test_lists_are_read_by_their_unit_whatever_the_order_of_the_data():
    engine, handle = model()
    data = data_for(ScoreLoss.of("best_of_k"))
    scores = [values[-1] for values in values_of(engine, handle, data)]
    first = math.log(sum(math.exp(scores[i]) for i in (0, 1, 2))) - scores[2]
    second = math.log(sum(math.exp(scores[i]) for i in (3, 4, 5))) - (scores[3] + scores[4]) / 2
    shuffled = [data[i] for i in (4, 0, 5, 2, 1, 3)]
    for given in (data, shuffled):
        output = engine.forward_backward(handle, given, [ScoreLoss.of("best_of_k")])
        assert output.loss == pytest.approx(0.3 * first + 0.7 * second, rel=1e-5)
    assert output.metrics["best_of_k/ordered_sum"] == pytest.approx(1.0)


@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.formula + "-by-token" * loss.by_token)
def test_micro_batches_change_nothing(loss: ScoreLoss, heads: int, monkeypatch: pytest.MonkeyPatch):
    heads = 1 if loss.formula in COSTS else heads  # a cost model has one head
    weights = np.random.default_rng(0).random((6, heads)) if heads > 1 else None
    if weights is not None:
        weights = weights[UNITS if loss.formula in LISTS else [0, 0, 1, 1, 2, 2]]
    found = []
    for budget in (10_000, 1):
        engine, handle = model(heads)
        monkeypatch.setattr(LocalEngine, "token_budget", budget)
        output = engine.forward_backward(handle, data_for(loss, weights), [loss])
        gradients = {name: p.grad for name, p in engine.model(handle).trained().items()}
        found.append((output, gradients))
    (one, whole), (other, cut) = found
    assert other.loss == pytest.approx(one.loss, rel=1e-5)
    for name, metric in one.metrics.items():
        assert other.metrics[name] == pytest.approx(metric, rel=1e-4, abs=1e-6), name
    for name, gradient in whole.items():
        assert gradient is not None
        np.testing.assert_allclose(
            cut[name], gradient, rtol=1e-3, atol=1e-6 + 1e-5 * float(gradient.abs().max()), err_msg=name
        )


@pytest.mark.parametrize("name", ["binary", "cost"])
@pytest.mark.parametrize("budget", [1, 9, 10_000])
def test_labels_of_one_half_count_in_no_micro_batch(name: str, budget: int, monkeypatch: pytest.MonkeyPatch):
    engine, handle = model()
    data = data_for(ScoreLoss.of(name))
    right = counted = 0.0
    for i, (datum, values) in enumerate(zip(data, values_of(engine, handle, data), strict=True)):
        of_unit = 0.2 + i // 2 if name == "cost" else 1.0
        for value, label, weight in zip(values, datum.columns["labels"], datum.columns["weights"], strict=True):
            if label != 0.5:
                counted += of_unit * weight
                right += of_unit * weight * ((value > 0) == (label > 0.5))
    monkeypatch.setattr(LocalEngine, "token_budget", budget)
    output = engine.forward_backward(handle, data, [ScoreLoss.of(name)])
    assert output.metrics[f"{name}/accuracy"] == pytest.approx(right / counted, rel=1e-5)


@pytest.mark.parametrize(
    "loss",
    [loss for loss in LOSSES if loss.formula not in COSTS],  # a cost model has one head
    ids=lambda loss: loss.formula + "-by-token" * loss.by_token,
)
def test_a_head_learns_only_from_what_weighs_for_it(loss: ScoreLoss):
    """Several heads are as many losses; the head whose weights are all 0 gets no gradient."""
    engine, handle = model(2)
    data = data_for(loss, np.tile([0.5, 0.0], (6, 1)))
    values = values_of(engine, handle, data)
    output = engine.forward_backward(handle, data, [loss])
    alone = loss_of_values(loss, data_for(loss), [of[:, 0] for of in values])
    assert output.loss == pytest.approx(0.5 * alone["loss"], rel=1e-4)
    head = engine.model(handle).scalar
    assert head is not None
    assert head.weight.grad is not None
    assert head.weight.grad[0].abs().max() > 0
    assert head.weight.grad[1].abs().max() == 0


def test_several_heads_start_apart_and_are_saved(tmp_path: Any):
    spec = ModelSpec("r", ModelConfig(name="byte-tiny", lora=None, dtype="float32"), ("scalar",), scores=3)
    engine = LocalEngine()
    handle = engine.create(spec)
    data = [Example.whole_sequence(tokens) for tokens in SEQUENCES[:2]]
    before = values_of(engine, handle, data)
    assert before[0].shape == (5, 3)
    assert len(set(before[0][-1].tolist())) == 3
    engine.forward_backward(handle, data_for(LOSSES[0]), [LOSSES[0]])
    engine.optim_step(handle, AdamStep(1e-2, 1e-2))
    engine.save(handle, tmp_path / "r")
    other = engine.create(ModelSpec("r", spec.model, ("scalar",), tmp_path / "r", scores=3))
    for mine, theirs in zip(values_of(engine, handle, data), values_of(engine, other, data), strict=True):
        np.testing.assert_array_equal(mine, theirs)
        assert not np.allclose(mine, before[0][: len(mine)])
