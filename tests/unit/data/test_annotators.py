"""Simulated annotators: what they say follows from the gold difference, the noise and nothing else."""

import math

import pytest

from thumbs.data.annotators import SimulatedAnnotator
from thumbs.errors import NonFiniteError
from thumbs.records import Judgement, Message

PROMPT = (Message("user", "Q"),)


def number(prompt, reply):
    assert prompt == PROMPT
    return float(reply)


def annotator(noise=0.0, tie_below=0.125, seed=0, name="sim"):
    return SimulatedAnnotator(name, number, noise, tie_below, seed)


@pytest.mark.parametrize(
    ("a", "b", "strength"),
    [
        (0, 0.125, 1),
        (0, 0.25, 2),
        (0, 0.4375, 2),
        (0, 0.5, 3),
        (-0.5, 0.5, 4),
        (-1, 1, 4),
        (0.75, 0.5, -2),
        (1, -1, -4),
    ],
)
def test_strength_and_side_follow_the_gold_difference(a, b, strength):
    expected = Judgement("sim", "2026-01-01T00:00:00Z", "prefer", strength)
    assert annotator().judge(PROMPT, str(a), str(b), 0, at="2026-01-01T00:00:00Z") == expected


def test_close_and_equal_pairs_are_ties_and_noise_leaves_them():
    for a, b, tie_below in ((0, 0.0625, 0.125), (0.5, 0.5, 0.0)):
        for item in range(20):
            verdict = annotator(1.0, tie_below).judge(PROMPT, str(a), str(b), item, at="t")
            assert verdict == Judgement("sim", "t", "tie", 0)


def test_noise_turns_its_share_of_verdicts_round():
    flips = [annotator(noise=0.2).judge(PROMPT, "0", "1", item, at="t").strength < 0 for item in range(3000)]
    assert abs(sum(flips) - 600) < 5 * math.sqrt(3000 * 0.2 * 0.8)
    assert all(annotator(noise=1.0).judge(PROMPT, "0", "1", item, at="t").strength == -4 for item in range(20))


def test_a_draw_depends_on_seed_name_and_item_only():
    def draws(order=range(64), **settings):
        judge = annotator(noise=0.5, **settings).judge
        return {item: judge(PROMPT, "0", "1", item, at="t").strength for item in order}

    assert draws() == draws(reversed(range(64)))
    assert draws() != draws(seed=1)
    assert draws() != draws(name="other")


def test_a_gold_score_that_is_no_number_stops():
    with pytest.raises(NonFiniteError, match="item 7"):
        annotator().judge(PROMPT, "nan", "1", 7, at="t")
