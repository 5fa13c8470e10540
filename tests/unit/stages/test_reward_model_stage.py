"""The reward model learns what the pairs say, whichever reply stands first."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from byte_world import byte_context, pair
from thumbs.config.losses import ScoreLoss
from thumbs.config.model import AdapterConfig
from thumbs.config.optim import AdamConfig
from thumbs.config.reward_model import RewardModelConfig
from thumbs.data.preferences import preferred
from thumbs.engine.base import AdamStep, ModelSpec
from thumbs.errors import DataError
from thumbs.records import Example, Preference
from thumbs.rewards.model import member_scores
from thumbs.stages.context import Context
from thumbs.stages.reward_heldout import apart
from thumbs.stages.reward_items import Item, Scale, item_data, read_items
from thumbs.stages.reward_model import run_reward_model

GOOD, BAD = ("yes", "sure", "fine", "gladly"), ("no", "never", "bah", "go")
OPTIM = AdamConfig(learning_rate=1e-3, head_learning_rate=1e-2, warmup_fraction=0.1)
CONFIG = RewardModelConfig(epochs=4, batch_size=8, optim=OPTIM, eval_every=4)


def toy(questions: str, *, swapped: bool = False) -> list[Preference]:
    """Every good reply is better than every bad one; every other pair has the bad one in front."""
    pairs = []
    for number, question in enumerate(questions):
        good, bad = GOOD[number % 4], BAD[number // 4 % 4]
        if (number % 2 == 0) != swapped:
            pairs.append(pair(question, good, bad, "first"))
        else:
            pairs.append(pair(question, bad, good, "second"))
    return pairs


def base(context: Context) -> Path:
    """A checkpoint of the untrained model."""
    path = context.folder.path / "start"
    handle = context.engine.create(ModelSpec("sft", context.model))
    context.engine.save(handle, path)
    context.engine.close(handle)
    return path


def trained(folder: Path, config: RewardModelConfig, train: list[Preference], held: list[Preference]) -> Any:
    """Results, metric records, and a function from texts to scores."""
    context = byte_context(folder)
    results = run_reward_model(context, config, base(context), train, held)
    records = context.folder.metrics.read()
    model = context.engine.create(ModelSpec("r", context.model, ("scalar",), context.best, trainable=False))

    def scores(preferences: list[Preference]) -> np.ndarray:
        items = read_items(context.tokenizer, preferences, config, Scale())
        return member_scores(context.engine, [model], sequences(items)).reshape(-1, 2)

    return results, records, scores


def sequences(items: list[Item]) -> list[np.ndarray]:
    return [tokens for item in items for term in item.terms for tokens in term.sequences]


def test_it_separates_what_can_be_separated(tmp_path: Path):
    config = CONFIG.model_copy(update={"epochs": 6})
    results, records, scores = trained(tmp_path, config, toy("abcdefghijklmnop" * 2), toy("uvwxyz"))
    assert records[-1]["reward/accuracy"] == 1.0
    assert records[-1]["reward/heldout_accuracy"] == 1.0
    assert records[0]["reward/loss"] == pytest.approx(np.log(2), abs=1e-6)  # the head starts at zero
    assert records[-1]["reward/loss"] < 0.1
    seen = scores(toy("abcdefghijklmnop" * 2))
    assert results["score_mean"] == pytest.approx(seen.mean(), rel=1e-4, abs=1e-4)
    assert results["score_std"] == pytest.approx(seen.std(), rel=1e-4)
    choosing, reporting = apart(toy("uvwxyz"))
    assert (len(choosing), len(reporting)) == (2, 4)
    assert not {pair.prompt for pair in choosing} & {pair.prompt for pair in reporting}
    held = scores(reporting)
    np.testing.assert_allclose(results["heldout"]["scores_a"], held[:, 0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(results["heldout"]["scores_b"], held[:, 1], rtol=1e-4, atol=1e-5)
    assert results["heldout"]["preferred"] == [preferred(pair) for pair in reporting]
    saved = next(path for path in tmp_path.rglob("scalar_head.safetensors") if path.parent.name == "model")
    assert float(load_file(saved)["bias"]) == 0  # a classifier elsewhere has none


def test_the_order_of_a_pair_is_immaterial(tmp_path: Path):
    """Swapped replies with 1 - p train the same model, up to the order in which floats are added."""
    # Adam with its small eps steps by the full rate also where the gradient is nothing but rounding.
    config = CONFIG.model_copy(update={"epochs": 2, "optim": OPTIM.model_copy(update={"eps": 1e-4})})
    one = trained(tmp_path / "one", config, toy("abcdefghijklmnop"), toy("uvwxyz"))
    two = trained(tmp_path / "two", config, toy("abcdefghijklmnop", swapped=True), toy("uvwxyz", swapped=True))
    for name in ("reward/loss", "reward/accuracy", "reward/score_gap", "reward/grad_norm"):
        np.testing.assert_allclose([r[name] for r in one[1]], [r[name] for r in two[1]], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(one[0]["heldout"]["scores_a"], two[0]["heldout"]["scores_b"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(one[0]["heldout"]["scores_b"], two[0]["heldout"]["scores_a"], rtol=1e-5, atol=1e-6)


def first_scores(context: Context, texts: list[Preference], weight: float) -> Any:
    """A reward model whose head is not zero any more, and the pairs as it sees them."""
    model = context.engine.create(ModelSpec("r", context.model, ("scalar",)))
    head = context.engine.model(model).scalar  # type: ignore[attr-defined]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        head.weight.copy_(weight * torch.randn(head.weight.shape, generator=generator))
    return model, read_items(context.tokenizer, texts, CONFIG.model_copy(update={"use_margin": True}), Scale())


def test_a_tie_pulls_the_two_scores_together(tmp_path: Path):
    context = byte_context(tmp_path)
    model, pairs = first_scores(context, [pair("q", "yes", "no", "tie")], 1.0)
    gaps = []
    for _ in range(5):
        scores = member_scores(context.engine, [model], sequences(pairs))[:, 0]
        gaps.append(abs(scores[0] - scores[1]))
        context.engine.forward_backward(model, item_data(pairs), [ScoreLoss.of("bradley_terry", center_coef=0.0)])
        context.engine.optim_step(model, AdamStep(0.0, 1e-3))
    assert gaps[0] > 0.01
    assert all(later < before for before, later in itertools.pairwise(gaps)), gaps


def logistic(p: float, gap: float, margin: float) -> float:
    """-p log σ(d - m) - (1 - p) log σ(-d - m)."""
    return float(p * np.log1p(np.exp(margin - gap)) + (1 - p) * np.log1p(np.exp(margin + gap)))


def test_the_loss_is_the_mean_over_pairs_by_hand(tmp_path: Path):
    context = byte_context(tmp_path)
    texts = [
        pair("q", "yes", "no", "first", margin=0.7),
        pair("q", "never", "sure", "second"),
        pair("q", "a", "b", "tie", margin=3.0),  # a tie has no margin
    ]
    model, pairs = first_scores(context, texts, 0.3)
    sides = member_scores(context.engine, [model], sequences(pairs))[:, 0].reshape(-1, 2)
    by_hand = [logistic(p, a - b, m) for p, m, (a, b) in zip([1, 0, 0.5], [0.7, 0, 0], sides, strict=True)]
    centre = [0.2 * (a + b) ** 2 for a, b in sides]
    output = context.engine.forward_backward(model, item_data(pairs), [ScoreLoss.of("bradley_terry", center_coef=0.2)])
    assert output.loss == pytest.approx(np.mean(by_hand) + np.mean(centre), rel=1e-5)


def columns(context: Context, texts: list[Preference], config: RewardModelConfig, name: str) -> list[float]:
    """A column of all sequences in order."""
    items = read_items(context.tokenizer, texts, config, Scale())
    return [of[name] for item in items for term in item.terms for of in term.columns]


def test_margins_count_only_where_the_config_says_so(tmp_path: Path):
    context = byte_context(tmp_path)
    texts = [pair("q", "yes", "no", "first", margin=0.7)]
    with_margin = CONFIG.model_copy(update={"use_margin": True})
    assert columns(context, texts, with_margin, "margin") == [0.7, 0.7]
    assert columns(context, texts, CONFIG, "margin") == [0.0, 0.0]


def test_ties_can_be_dropped_and_skipped_pairs_always_are(tmp_path: Path):
    context = byte_context(tmp_path)
    texts = [pair("q", "a", "b", verdict) for verdict in ("first", "tie", "skip", "second")]
    assert columns(context, texts, CONFIG, "preferred")[::2] == [1.0, 0.5, 0.0]
    assert columns(context, texts, CONFIG.model_copy(update={"ties": "drop"}), "preferred")[::2] == [1.0, 0.0]


def test_each_side_is_read_at_its_last_token(tmp_path: Path):
    context = byte_context(tmp_path)
    texts = [pair("q", "yes", "no"), pair("r", "a", "b", "second")]
    data: list[Example] = item_data(read_items(context.tokenizer, texts, CONFIG, Scale()))
    assert [np.flatnonzero(datum.columns["weights"]).tolist() for datum in data] == [[len(d) - 1] for d in data]
    assert [datum.columns["weights"][-1] for datum in data] == [1.0] * 4
    assert [float(datum.columns["unit"]) for datum in data] == [0, 0, 1, 1]
    assert [float(datum.columns["unit_weight"]) for datum in data] == [0.5] * 4


@pytest.mark.parametrize("lora", [None, AdapterConfig(rank=4)])
def test_a_frozen_backbone_keeps_its_weights(tmp_path: Path, lora: AdapterConfig | None):
    context = byte_context(tmp_path, lora=lora)
    config = CONFIG.model_copy(update={"freeze_backbone": True, "epochs": 1})
    start = base(context)
    run_reward_model(context, config, start, toy("abcdefghijklmnop"), [])
    trunk = next(path.name for path in start.glob("*model.safetensors"))
    assert (context.best / trunk).read_bytes() == (start / trunk).read_bytes()
    model = context.engine.create(ModelSpec("r", context.model, ("scalar",), context.best, trainable=False))
    scored = member_scores(context.engine, [model], [np.array([1, 2]), np.array([3, 4, 5])])[:, 0]
    assert scored[0] != scored[1]


def test_it_stops_when_held_out_pairs_contradict_the_training(tmp_path: Path):
    contradicting = [replace(p, judgements=pair("q", "a", "b", "second").judgements) for p in toy("uwy" * 2)[::2]]
    config = CONFIG.model_copy(update={"epochs": 8, "eval_every": 1, "patience": 3})
    results, records, _ = trained(tmp_path, config, toy("abcdefghijklmnop"), contradicting)
    assert results["best_step"] + 3 == len(records) < 16


@pytest.mark.parametrize("verdict", ["skip", "tie"])
def test_without_a_verdict_there_is_nothing_to_learn(tmp_path: Path, verdict: str):
    context = byte_context(tmp_path)
    with pytest.raises(DataError, match="none of 2 preferences says which reply is better"):
        run_reward_model(
            context, CONFIG, base(context), [pair("q", "a", "b", verdict), pair("r", "a", "b", verdict)], []
        )


def test_held_out_ties_have_a_loss_and_no_accuracy(tmp_path: Path):
    config = CONFIG.model_copy(update={"epochs": 1})
    _, records, _ = trained(tmp_path, config, toy("abcdefgh"), [pair("u", "yes", "no", "tie")])
    assert records[-1]["reward/heldout_loss"] >= np.log(2)
    assert "reward/heldout_accuracy" not in records[-1]
