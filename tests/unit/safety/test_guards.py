"""Each alarm is raised by its own sign, and none by a healthy step."""

from __future__ import annotations

import pytest

from thumbs.safety.guards import KL_LIMIT, alarms, repetition

HEALTHY = {
    "ppo/kl": 3.0,
    "ppo/length": 20.0,
    "ppo/repetition": 0.1,
    "ppo/truncated": 0.2,
    "ppo/ratio_first": 1.0,
}


def test_a_healthy_step_raises_no_alarm():
    edge = {
        "ppo/kl": KL_LIMIT,
        "ppo/length": 30.0,
        "ppo/repetition": 0.25,
        "ppo/truncated": 0.5,
        "ppo/ratio_first": 1.009,
    }
    assert alarms(HEALTHY, HEALTHY) == {}
    assert alarms(HEALTHY, edge) == {}
    assert alarms(HEALTHY, HEALTHY | {"ppo/length": 10.0, "ppo/kl": -1.0}) == {}


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("ppo/kl", KL_LIMIT + 0.1, "raise ppo.kl.coef"),
        ("ppo/kl", -1.1, "is negative"),
        ("ppo/length", 30.1, "length is being gamed"),
        ("ppo/length", 9.9, "length is being gamed"),
        ("ppo/repetition", 0.26, "26% of the 3-grams repeat, 10% at first"),
        ("ppo/truncated", 0.51, "set ppo.missing_eos_penalty"),
        ("ppo/ratio_first", 1.011, "the first ratio is 1.0110, not 1"),
        ("ppo/ratio_first", 0.989, "the first ratio is 0.9890, not 1"),
    ],
)
def test_each_sign_raises_its_alarm(name: str, value: float, said: str):
    found = alarms(HEALTHY, HEALTHY | {name: value})
    (text,) = found.values()
    assert said in text


@pytest.mark.parametrize(
    ("text", "share"),
    [("", 0.0), ("one two", 0.0), ("a b c d e", 0.0), ("a b c A B C", 0.25), ("na na na na na", 2 / 3)],
)
def test_repetition_is_the_share_of_grams_seen_before(text: str, share: float):
    assert repetition(text) == pytest.approx(share)


def test_a_sampler_that_is_another_model_is_an_alarm_unless_it_is_only_older():
    assert alarms(HEALTHY, HEALTHY | {"ppo/sampler_off": 0.1}) == {}
    (found,) = alarms(HEALTHY, HEALTHY | {"ppo/sampler_off": 0.11}).values()
    assert "11% of the tokens" in found
    assert alarms(HEALTHY, HEALTHY | {"ppo/sampler_off": 0.9, "ppo/staleness": 1.0}) == {}


def test_next_to_a_watch_only_what_it_cannot_see_is_judged_by_steps():
    wrong = {"ppo/kl": 99.0, "ppo/length": 1.0, "ppo/repetition": 0.9, "ppo/truncated": 0.9}
    assert [*alarms(HEALTHY, HEALTHY | wrong)] == ["kl", "length", "repetition", "ended"]
    assert alarms(HEALTHY, HEALTHY | wrong, watched=True) == {}
    faults = {"ppo/ratio_first": 1.1, "ppo/sampler_off": 0.2}
    assert [*alarms(HEALTHY, HEALTHY | wrong | faults, watched=True)] == ["mismatch", "ratio"]
