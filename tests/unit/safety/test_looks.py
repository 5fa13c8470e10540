"""What a look measures, by hand; each sign, for one look and for two; values by the second opinion and by gold."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from thumbs.safety.looks import KL_PER_TOKEN, Look, judge, signs

HEALTHY = {
    "watch/kl": 3.0,
    "watch/kl_per_token": 0.1,
    "watch/length": 20.0,
    "watch/repetition": 0.1,
    "watch/ended": 0.8,
    "watch/entropy": 1.0,
    "watch/sampler_off": 0.0,
}


def look(second: float, **changes: Any) -> Look:
    """Four replies whose second opinion differs a little, and is `second` on average."""
    near = np.array([-0.02, -0.01, 0.01, 0.02])
    plain: dict[str, Any] = {
        "proxy": near + 1.0,
        "second": near + second,
        "log_ratios": np.zeros(4),
        "logprobs": np.full(4, -3.0),
        "tokens": [[1, 2, 3], [4, 5, 6], [7, 8, 9], [1, 2, 3]],
        "ended": np.ones(4),
    }
    return Look(**plain | changes)


def looked(values: list[float], **settings: Any) -> list[list[str]]:
    """The signs of the alarms of each look; what is kept between looks goes through JSON, as in a checkpoint."""
    found, seen = [], {}
    for step, value in enumerate(values):
        found.append([*judge(look(value, **settings), step, seen, 0.1).alarms])
        seen = json.loads(json.dumps(seen))
    return found


def test_the_numbers_of_a_look_by_hand():
    one = look(
        2.0,
        log_ratios=np.array([1.0, 2.0, 3.0, 4.0]),
        tokens=[[1, 1, 1, 1], [1, 2, 3], [5], [6, 7]],
        ended=np.array([True, True, False, True]),
        off=0.25,
        gold=np.array([0.0, 1.0, 1.0, 4.0]),
    )
    numbers = judge(one, 0, {}, kl_price=0.2).numbers
    assert numbers == pytest.approx(
        {
            "watch/proxy": 1.0,
            "watch/second_proxy": 2.0,
            "watch/value": 2.0 - 0.2 * 2.5,
            "watch/gap": 0.0,
            "watch/kl": 2.5,
            "watch/kl_per_token": 10 / 10,
            "watch/length": 2.5,
            "watch/repetition": (1 / 2 + 0 + 0 + 0) / 4,
            "watch/entropy": 12 / 10,
            "watch/ended": 0.75,
            "watch/sampler_off": 0.25,
            "watch/gold": 1.5,
            "watch/best_step": 0.0,
        }
    )


def test_the_edges_of_all_signs_are_healthy():
    edges = {"watch/kl_per_token": KL_PER_TOKEN, "watch/length": 30.0, "watch/repetition": 0.25, "watch/entropy": 0.25}
    assert signs(HEALTHY, HEALTHY | edges | {"watch/ended": 0.5, "watch/sampler_off": 0.1}) == {}
    assert signs(HEALTHY, HEALTHY | {"watch/length": 10.0, "watch/entropy": 4.0, "watch/kl": -1.0}) == {}


@pytest.mark.parametrize(
    ("name", "value", "sign", "said"),
    [
        ("kl_per_token", 0.51, "kl", "raise the price of KL"),
        ("kl", -1.01, "negative", "is negative"),
        ("length", 30.1, "length", "30 tokens, 20 at first"),
        ("length", 9.9, "length", "10 tokens, 20 at first"),
        ("repetition", 0.26, "repetition", "26% of the 3-grams repeat, 10% at first"),
        ("ended", 0.49, "ended", "49% of the replies end by themselves, 80% at first"),
        ("entropy", 0.24, "entropy", "entropy 0.24 nats per token, 1.00 at first"),
        ("entropy", 4.1, "entropy", "entropy 4.10"),
        ("sampler_off", 0.11, "mismatch", "11% of the tokens"),
    ],
)
def test_each_sign_has_its_name(name: str, value: float, sign: str, said: str):
    found = signs(HEALTHY, HEALTHY | {f"watch/{name}": value})
    assert [*found] == [sign]
    assert said in found[sign]


def test_an_alarm_is_a_sign_at_two_looks_in_a_row_and_is_raised_once():
    assert looked([0.0, 1.0, -1.0, 1.0, -1.0, -1.0, -1.0, 1.0, -1.0, -1.0]) == [
        [], [], [], [], [], ["value"], [], [], [], ["value"],
    ]  # fmt: skip


def test_a_fall_to_above_the_start_is_no_alarm_by_the_second_opinion_and_is_one_by_gold():
    near, seen, by_gold = np.array([-0.02, -0.01, 0.01, 0.02]), {}, {}
    found = []
    for step, value in enumerate([0.0, 1.0, 0.45, 0.45, 0.45]):
        judge(look(value), step, seen, 0.0)
        told = judge(look(5.0, gold=near + value), step, by_gold, 0.0, by_gold=True)
        found.append([*told.alarms])
        assert told.numbers["watch/value"] == pytest.approx(value)
    assert found == [[], [], [], ["value"], []]
    assert seen["signs"] == {}
    assert (seen["best_step"], by_gold["best_step"]) == (1, 1)


def test_gold_that_is_only_measured_decides_nothing():
    seen: dict[str, Any] = {}
    for step, gold in enumerate([9.0, 0.0, 0.0]):
        told = judge(look(float(step), gold=np.full(4, gold)), step, seen, 0.0)
        assert (told.is_best, told.alarms) == (True, {})
        assert told.numbers["watch/gold"] == gold
