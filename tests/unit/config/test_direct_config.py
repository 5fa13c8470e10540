"""Settings of the preference family: each method's own values, and those it does not read."""

from __future__ import annotations

from typing import Any

import pytest

from thumbs.config.base import build_config
from thumbs.config.direct import DirectConfig
from thumbs.config.direct_methods import DIRECT_METHODS
from thumbs.config.losses import ReplyLoss
from thumbs.config.pipeline import PipelineConfig
from thumbs.errors import ConfigError

ONLINE = {"prompts": {"path": "prompts.jsonl"}}


def section(**settings: Any) -> DirectConfig:
    found = build_config(PipelineConfig, {"direct": settings}, "config.yaml").direct
    assert found is not None
    return found


@pytest.mark.parametrize("name", DIRECT_METHODS)
def test_null_is_the_methods_own_value(name: str):
    online = {"online": ONLINE} if name == "online_dpo" else {}
    assert section(method=name, **online).settings() == DIRECT_METHODS[name].reads
    assert section(method=name, beta=0.7, **online).settings() == {**DIRECT_METHODS[name].reads, "beta": 0.7}


def test_what_a_method_is():
    simpo = section(method="simpo", gamma=0.5, sft_coef=0.1).pair_loss()
    assert (simpo.formula, simpo.settings, simpo.sft_coef) == ("simpo", {"beta": 2.0, "gamma": 0.5}, 0.1)
    assert section(method="rpo").pair_loss().sft_coef == 1.0
    weights = {"desirable_weight": 1.0, "undesirable_weight": 2.0}
    assert section(method="kto", undesirable_weight=2).reply_loss() == ReplyLoss.of("kto", beta=0.1, **weights)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"method": "dop"},
            r"config.yaml: direct: no method 'dop'; did you mean 'dpo'\? the methods are dpo, cdpo",
        ),
        (
            {"method": "simpo", "tau": 1, "label_smoothing": 0.1},
            r"method=simpo does not read label_smoothing, tau; it reads beta, gamma, sft_coef$",
        ),
        ({"method": "dpo", "online": ONLINE}, "method=dpo does not read online"),
        ({"method": "ipo", "unpaired": ONLINE["prompts"]}, "method=ipo does not read unpaired"),
        ({"method": "online_dpo"}, "method=online_dpo needs `online`"),
        ({"method": "dpo", "alpha": 0.3}, "alpha belongs to divergence=alpha"),
        ({"method": "aot", "ties": "half"}, "a tie is neither: ties=drop"),
        ({"method": "dpo", "beta": 0}, r"direct.beta: Input should be greater than 0 \(got 0\)"),
        ({"method": "exo", "label_smoothing": 0.0}, "greater than 0"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(settings: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        section(**settings)
