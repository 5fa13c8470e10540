"""Bounds and defaults of what clients send, each number on its edge and one step beyond."""

from __future__ import annotations

import math

import numpy as np
import pytest

from thumbs.clients import translate, types
from thumbs.config.losses import TokenLoss
from thumbs.errors import DataError

ADAM = {"learning_rate": 0.1, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.1, "grad_clip_norm": 1.0}


@pytest.mark.parametrize("name", ADAM)
def test_every_number_of_an_optimizer_step_has_its_edges(name: str) -> None:
    zero = translate.adam_step(types.AdamParams(**{**ADAM, name: 0.0}))
    got = (zero.learning_rate, zero.beta1, zero.beta2, zero.eps, zero.weight_decay, zero.max_grad_norm)
    wanted = {**ADAM, name: math.inf if name == "grad_clip_norm" else 0.0}  # a norm of 0 clips nothing
    assert got == tuple(wanted.values())
    outside = [-1e-9, -0.5, math.nan, math.inf] + [1.0, 1.5] * name.startswith("beta")
    for value in outside:
        with pytest.raises(DataError, match="rates are 0 or more, betas in"):
            translate.adam_step(types.AdamParams(**{**ADAM, name: value}))


@pytest.mark.parametrize(("name", "formula"), [("ppo", "ppo_clip"), ("gspo", "gspo")])
def test_thresholds_of_a_ratio_are_distances_from_1(name: str, formula: str) -> None:
    usual, uneven = (
        translate.loss_spec(name, settings)
        for settings in ({}, {"clip_low_threshold": 0.7, "clip_high_threshold": 1.5})
    )
    assert usual.formula == uneven.formula == formula
    assert usual.settings == pytest.approx({"clip_range": 0.2, "clip_range_high": 0.2})
    assert uneven.settings == pytest.approx({"clip_range": 0.3, "clip_range_high": 0.5})


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("ppo", {"clip_low_threshold": 1.0}),
        ("gspo", {"clip_high_threshold": 1.0}),
        ("cispo", {"clip_high_threshold": math.inf}),
        ("ppo", {"clip_low_threshold": math.nan}),
        ("dro", {"beta": -1e-9}),
    ],
)
def test_settings_of_a_loss_out_of_range_are_refused(name: str, settings: dict[str, float]) -> None:
    with pytest.raises(DataError, match="clip_low_threshold below 1, clip_high_threshold above 1 and beta of 0 or"):
        translate.loss_spec(name, settings)


def test_the_other_losses_have_the_documented_defaults() -> None:
    assert translate.loss_spec("cispo", {}) == TokenLoss.of("cispo", clip_range=1.0, clip_range_high=3.0)
    assert translate.loss_spec("dro", {}) == TokenLoss.of("dro", beta=0.05)


def datum(**inputs: list[float]) -> types.Datum:
    arrays = {key: np.array(value, np.int64 if key == "target_tokens" else np.float32) for key, value in inputs.items()}
    tensors = {key: types.TensorData.from_numpy(value) for key, value in arrays.items()}
    return types.Datum(types.ModelInput.from_ints([1, 2, 3]), tensors)


RATIO = {"target_tokens": [2, 3, 4], "logprobs": [-1.0, -2.0, -3.0], "advantages": [1.0, 0.0, -1.0]}


def test_where_the_advantage_is_0_nothing_is_computed() -> None:
    (ppo,) = translate.engine_data([datum(**RATIO)], "ppo", 10, 3)
    assert ppo.columns["weights"].tolist() == [1, 0, 1]
    assert {key: ppo.columns[key].tolist() for key in ("logprobs", "advantages")} == {
        key: RATIO[key] for key in ("logprobs", "advantages")
    }
    (dro,) = translate.engine_data([datum(**RATIO)], "dro", 10, 3)
    assert dro.columns["weights"].tolist() == [1, 1, 1]  # its penalty is there without an advantage
    (plain,) = translate.engine_data([datum(target_tokens=[2, 3, 4])], "cross_entropy", 10, 3)
    assert plain.columns["weights"].tolist() == [1, 1, 1]


def test_one_advantage_is_for_all_tokens_and_one_weight_is_not() -> None:
    (found,) = translate.engine_data([datum(**{**RATIO, "advantages": [0.5]})], "importance_sampling", 10, 3)
    assert found.columns["advantages"].tolist() == [0.5, 0.5, 0.5]
    with pytest.raises(DataError, match=r"weights of shape \[1\]; target_tokens have \[3\]"):
        translate.engine_data([datum(target_tokens=[2, 3, 4], weights=[1.0])], "cross_entropy", 10, 3)


@pytest.mark.parametrize("loss", ["cross_entropy", "ppo"])
@pytest.mark.parametrize(("ids", "said"), [([0, 3, 9], ""), ([0, 3, 10], "token 10;"), ([-1, 3, 10], "token -1;")])
def test_targets_are_ids_of_the_vocabulary(loss: str, ids: list[int], said: str) -> None:
    given = datum(**{**(RATIO if loss == "ppo" else {}), "target_tokens": ids})
    if not said:
        assert translate.engine_data([given], loss, 10, 3)[0].targets.tolist() == ids
        return
    with pytest.raises(DataError, match=f"datum 0: target_tokens holds {said} ids are 0 to 9"):
        translate.engine_data([given], loss, 10, 3)


def test_a_datum_that_fills_the_context_is_trained_on() -> None:
    good = datum(target_tokens=[2, 3, 4])
    assert len(translate.engine_data([good], "cross_entropy", 10, 3)) == 1
    with pytest.raises(DataError, match="datum 1: 3 tokens; the model's context is 2"):
        translate.engine_data(
            [types.Datum(types.ModelInput.from_ints([1]), datum(target_tokens=[2]).loss_fn_inputs), good],
            "cross_entropy",
            10,
            2,
        )


def test_the_training_output_counts_the_tokens_with_weight() -> None:
    data = translate.engine_data([datum(target_tokens=[2, 3, 4], weights=[0.0, 0.5, -1.0])], "cross_entropy", 10, 3)
    assert translate.cells(data) == 3
    pairs = translate.engine_data([datum(target_tokens=[[2, 3], [4, 5], [6, 7]])], "cross_entropy", 10, 3)
    assert translate.cells([*data, *pairs]) == 9


def test_inputs_that_a_loss_does_not_read_are_named(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "thumbs"):
        translate.engine_data([datum(target_tokens=[2, 3, 4], weights=[1.0] * 3)], "cross_entropy", 10, 3)
        assert caplog.messages == []
        translate.engine_data([datum(**RATIO, mask=[1.0] * 3, weights=[1.0] * 3)], "ppo", 10, 3)
    assert caplog.messages == ["ppo makes no use of the loss_fn_inputs ['mask', 'weights']"]
