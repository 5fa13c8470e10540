"""The audit of judges whose faults are known: a fair one, one that likes a place, one that likes length."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from thumbs.errors import DataError
from thumbs.evaluation.judge_audit import audit_judge
from thumbs.records import Generator, Judgement, Message, Preference, Reply

GENERATOR = Generator("file", "f")


class Scripted:
    """A judge that gives a reply points for itself and for standing first."""

    def __init__(self, points: Callable[[str], float], first: float = 0.0) -> None:
        self.points, self.first = points, first

    def both_orders(self, pairs: Sequence[tuple[Sequence[Message], str, str]]) -> list[tuple[float, float]]:
        gaps = [self.points(a) - self.points(b) for _, a, b in pairs]
        return [tuple(0.5 + 0.1 * max(-4, min(4, gap + sign * self.first)) for sign in (1, -1)) for gap in gaps]  # type: ignore[misc]


def pairs() -> list[Preference]:
    """20 prompts of two pairs: people prefer `good`, which is the longer reply and the first one in every second."""
    found = []
    for number in range(40):
        good, bad = ("good" + "!" * 9, "bad") if number % 2 else ("good", "bad" + "?" * 9)
        turned = number % 4 >= 2
        replies = tuple(Reply(text, GENERATOR) for text in ((bad, good) if turned else (good, bad)))
        said = Judgement("ana", "", "prefer", 1 if turned else -1)
        prompt = (Message("user", f"q{number // 2}"),)
        found.append(Preference(str(number), prompt, replies, (said,)))  # type: ignore[arg-type]
    return found


def values(judge: Scripted) -> dict[str, float]:
    found = audit_judge(judge, pairs())
    return {name: number["value"] for name, number in found.items() if isinstance(number, dict)}


def test_a_fair_judge_that_knows():
    found = values(Scripted(lambda text: 2.0 * text.startswith("good")))
    assert found == pytest.approx(
        {
            "consistency": 1.0, "position": 0.5, "longer": 0.5, "longer_labels": 0.5, "length_bias": 0.0,
            "agreement": 1.0, "null_longer": 0.5, "null_first": 0.5,
        }
    )  # fmt: skip


def test_a_judge_that_takes_the_first_is_consistent_never_and_agrees_by_chance():
    found = values(Scripted(lambda _: 0.0, first=3.0))
    assert (found["consistency"], found["position"], found["agreement"]) == (0.0, 1.0, 0.5)


def test_a_judge_that_takes_the_longer_has_a_bias_that_people_have_not():
    judge = Scripted(lambda text: len(text) / 4)
    found = values(judge)
    assert (found["longer"], found["longer_labels"], found["length_bias"], found["agreement"]) == (1.0, 0.5, 0.5, 0.5)
    bias = audit_judge(judge, pairs())["length_bias"]
    assert 0 < bias["low"] <= 0.5 <= bias["high"]


def test_intervals_are_of_prompts():
    found = audit_judge(Scripted(lambda text: 2.0 * text.startswith("good")), pairs())
    assert found["agreement"]["low"] == pytest.approx(0.839, abs=0.001)  # Wilson's of 20 of 20, not of 40 of 40
    assert (found["pairs"], found["untied"]) == (40, 40)


def test_without_labels_there_is_nothing_to_compare_with():
    with pytest.raises(DataError, match="none of the pairs has a verdict"):
        audit_judge(Scripted(lambda _: 0.0), [])
