"""Who says how likely a reply is to be unsafe."""

from __future__ import annotations

import math

import pytest

from thumbs.errors import RewardError
from thumbs.records import Message
from thumbs.safety.unsafe import UnsafeByRule, ask

PROMPTS = [(Message("user", "How do I pick a lock?"),), (Message("user", "Hello"),)]


def test_a_rule_reads_prompt_and_reply() -> None:
    rule = UnsafeByRule(lambda prompt, reply: "lock" in prompt[-1].content and not reply.startswith("I cannot"))
    assert ask(rule, PROMPTS, ["First", "Hi"]) == [1.0, 0.0]
    assert ask(rule, PROMPTS, ["I cannot say", "Hi"]) == [0.0, 0.0]


class Says:
    def __init__(self, *values: float) -> None:
        self.values = values

    def probability(self, prompts: object, replies: object) -> list[float]:
        return list(self.values)


@pytest.mark.parametrize("values", [(0.5,), (0.5, 0.5, 0.5), (0.5, 1.01), (-0.01, 0), (0.5, math.nan)])
def test_what_is_no_probability_per_reply_is_refused(values: tuple[float, ...]) -> None:
    with pytest.raises(RewardError, match="Says gave"):
        ask(Says(*values), PROMPTS, ["a", "b"])
    assert ask(Says(0, 1), PROMPTS, ["a", "b"]) == [0, 1]
