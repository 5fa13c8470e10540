"""The names of losses: a table per family, to which presets and the service refer; what is unknown is refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from thumbs.clients import translate
from thumbs.config.direct_methods import DIRECT_METHODS
from thumbs.config.group_methods import GROUP_METHODS
from thumbs.config.losses import CROSS_ENTROPY, LossSpec, PairLoss, ReplyLoss, ScoreLoss, TokenLoss
from thumbs.config.model import ModelConfig
from thumbs.config.reward_model import REWARD_METHODS, RewardModelConfig
from thumbs.engine import losses
from thumbs.engine.base import ModelSpec
from thumbs.engine.local import LocalEngine
from thumbs.engine.objectives import register_reward_objective
from thumbs.errors import ConfigError, DataError
from thumbs.functional.formulas import settings_of
from thumbs.records import Example
from thumbs.stages.reward_items import Scale, loss_of

DATA = [Example.next_token([1, 2, 3, 4], weights=[0, 0.5, 0.5], logprobs=[0, -1, -2], advantages=[0, 1, 1])]


def pass_with(*specs: LossSpec) -> Any:
    engine = LocalEngine()
    model = engine.create(ModelSpec("m", ModelConfig(name="byte-tiny", lora=None, dtype="float32")))
    return engine.forward_backward(model, DATA, specs)


@pytest.mark.parametrize("method", GROUP_METHODS.values(), ids=lambda method: method.name)
def test_presets_of_groups_name_a_loss_of_tokens(method: Any):
    losses.check(method.loss)


@pytest.mark.parametrize("method", DIRECT_METHODS.values(), ids=lambda method: method.name)
def test_direct_presets_name_a_loss_of_pairs_or_replies(method: Any):
    family = ReplyLoss if method.data == "replies" else PairLoss
    losses.check(family.of(method.formula, **method.reads))


@pytest.mark.parametrize("method", REWARD_METHODS.values(), ids=lambda method: method.name)
def test_presets_of_reward_models_name_a_loss_of_scores(method: Any):
    data = None if method.form == "pairs" else {"path": "unused"}
    config = RewardModelConfig.model_validate({"loss": method.name, "data": data, "huber_delta": 0.5})
    spec = loss_of(config, Scale(thresholds=(0.1, 0.4)))
    losses.check(spec)
    assert spec.settings.keys() == settings_of(losses.FAMILIES[ScoreLoss].formulas[spec.formula]).keys()
    assert spec.center_coef == (0.01 if method.form == "pairs" or method.name == "ranked_pairs" else 0.0)


def test_the_services_losses_are_the_engines():
    for name, formula in translate.LOSSES.items():
        spec = translate.loss_spec(name, {})
        assert losses.FAMILIES[TokenLoss].formulas[spec.formula] is formula
        losses.check(spec)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (TokenLoss.of("ppo"), "no TokenLoss is called 'ppo'; allowed are cross_entropy, ppo_clip, "),
        (PairLoss.of("kto"), "no PairLoss is called 'kto'; allowed are dpo, "),
        (ReplyLoss.of("dpo"), "no ReplyLoss is called 'dpo'; allowed are kto"),
        (ScoreLoss.of("dpo"), "no ScoreLoss is called 'dpo'; allowed are bradley_terry, "),
        (
            TokenLoss.of("cispo", low=0.5),
            r"TokenLoss 'cispo': unknown settings \['low'\]; the formula has clip_range, cl",
        ),
        (TokenLoss.of("cross_entropy", beta=1), r"unknown settings \['beta'\]; the formula has none"),
        (ScoreLoss.of("ordinal"), r"the settings \['thresholds'\] are missing; the formula has thresholds"),
        (
            ScoreLoss.of("binary", center_coef=0.1),
            "center_coef and by_token belong to losses of pairs, and 'binary' is",
        ),
        (ScoreLoss.of("best_of_k", by_token=True), "center_coef and by_token belong to losses of pairs"),
    ],
)
def test_what_is_unknown_is_refused_before_anything_is_computed(spec: LossSpec, said: str):
    with pytest.raises(ConfigError, match=said):
        pass_with(spec)


def test_an_objective_is_a_loss_of_scores_without_settings():
    def lead(chosen: Any, rejected: Any) -> Any:
        return (rejected - chosen).exp()

    register_reward_objective("test-lead", lead)
    losses.check(ScoreLoss.of("test-lead"))
    with pytest.raises(ConfigError, match=r"'test-lead' has no settings; got \['beta'\]"):
        losses.check(ScoreLoss.of("test-lead", beta=0.1))
    with pytest.raises(ConfigError, match="there already"):
        register_reward_objective("bradley_terry", lead)


@pytest.mark.parametrize(
    "specs",
    [
        [TokenLoss.of("ppo_clip", temperature=0.7), CROSS_ENTROPY],
        [TokenLoss.of("ppo_clip", temperature=0.7), TokenLoss.of("importance_sampling", temperature=0.5)],
    ],
)
def test_a_pass_has_one_temperature(specs: Sequence[LossSpec]):
    with pytest.raises(DataError, match=r"want the temperatures \[0\.\d, .*\]; it has only one"):
        pass_with(*specs)
    same = [spec.having(temperature=0.7) for spec in specs if isinstance(spec, TokenLoss)]
    assert pass_with(*same).loss != 0


def test_the_weight_of_a_loss_multiplies_it():
    one, two = (pass_with(TokenLoss.of("cross_entropy", coef=coef)) for coef in (1.0, 2.5))
    assert two.loss == pytest.approx(2.5 * one.loss)
    assert two.metrics["cross_entropy/nll"] == one.metrics["cross_entropy/nll"]


def test_a_spec_keeps_its_fields_and_settings_apart():
    spec = TokenLoss.of("cispo", clip_range=0.5, temperature=0.7)
    assert (spec.settings, spec.temperature, spec.coef) == ({"clip_range": 0.5}, 0.7, 1.0)
    assert spec.having(clip_range_high=2.0, coef=0.1) == TokenLoss.of(
        "cispo", clip_range=0.5, clip_range_high=2.0, temperature=0.7, coef=0.1
    )
