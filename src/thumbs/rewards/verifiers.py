"""Rules that compare a reply with the answer that its prompt brings: 1 where it is right, else 0."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

from thumbs.errors import ConfigError, RewardError
from thumbs.records import Rollout
from thumbs.rewards.base import NoAnswerError

Verifier = Callable[[Rollout], float]

_NUMBER = re.compile(r"[-+]?(?:\d[\d,]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")


def verifier(name: str, pattern: str | None = None) -> Verifier:
    """The rule of that name; `pattern` is for regex. Raises ConfigError for an unknown name or a broken pattern."""
    if name == "regex":
        return _regex(pattern or "")
    rules: dict[str, Verifier] = {"exact": exact, "contains": contains, "numeric": numeric}
    if name not in rules:
        raise ConfigError(f"no verifier {name!r}; there are {', '.join(rules)}, regex")
    return rules[name]


def exact(rollout: Rollout) -> float:
    """Whether the reply is the answer, white space at both ends aside."""
    return float(rollout.text.strip() == answer_of(rollout).strip())


def contains(rollout: Rollout) -> float:
    """Whether the answer stands somewhere in the reply."""
    return float(answer_of(rollout) in rollout.text)


def numeric(rollout: Rollout) -> float:
    """Whether the last number of the reply is the last one of the answer, to 1 in 10⁶; commas between digits are left
    out. Raises RewardError for an answer without a number.
    """
    wanted = last_number(answer_of(rollout))
    if wanted is None:
        raise RewardError(f"prompt {rollout.prompt_id}: its answer {rollout.answer!r} has no number in it")
    found = last_number(rollout.text)
    return float(found is not None and math.isclose(found, wanted, rel_tol=1e-6, abs_tol=1e-9))


def last_number(text: str) -> float | None:
    """The last number in a text; None if there is none."""
    found = _NUMBER.findall(text)
    return float(found[-1].replace(",", "")) if found else None


def answer_of(rollout: Rollout) -> str:
    """The answer of the rollout's prompt; raises NoAnswerError if it has none."""
    if rollout.answer is None:
        raise NoAnswerError(
            f"prompt {rollout.prompt_id} has no answer to compare with; give its row the field `answer`, "
            'as in {"prompt": "2 + 2?", "answer": "4"}'
        )
    return rollout.answer


def _regex(pattern: str) -> Verifier:
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"pattern {pattern!r} is not a regular expression: {error}") from None

    def rule(rollout: Rollout) -> float:
        found = expression.search(rollout.text)
        if found is None or not expression.groups:
            return float(found is not None)
        return float((found[1] or "").strip() == answer_of(rollout).strip())

    return rule
