"""Gold judges: the table of the tiny task, and the sign of a sentiment."""

from __future__ import annotations

import pytest

from thumbs.errors import ConfigError
from thumbs.evaluation.judges import gold_judge
from thumbs.records import Message

ANA = (Message("user", "Ana"),)


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ("Ana, good day.", 1.0),
        ("Ana, nice day.", 1.0),
        ("Ana, happy day.", 1.0),
        ("Ana, long day.", 0.0),
        ("Ana, bad day.", -1.0),
        ("Ana, sad day.", -1.0),
        ("Ana, grim day.", -1.0),
        ("Ben, good day.", -1.0),
        ("Ana, good day", -1.0),
        ("Ana, good good day.", -1.0),
        ("Ana, good day. good", -1.0),
        ("good", -1.0),
        ("", -1.0),
    ],
)
def test_tiny_mood(reply: str, score: float) -> None:
    assert gold_judge("tiny-mood")(ANA, reply) == score


def test_tiny_mood_takes_the_name_literally_and_from_the_last_message() -> None:
    judge = gold_judge("tiny-mood")
    assert judge((Message("user", ".*"),), "Ana, good day.") == -1.0
    assert judge((*ANA, Message("assistant", "Ana, bad day."), Message("user", "Ben")), "Ben, good day.") == 1.0


def test_vader_reads_the_reply_and_not_the_question() -> None:
    judge = gold_judge("vader")
    sad, glad = (Message("user", "I hate this terrible day"),), (Message("user", "I love you"),)
    assert judge(sad, "What a wonderful idea, thank you!") > 0.5
    assert judge(glad, "This is a horrible, disgusting failure.") < -0.5
    assert judge(sad, "The table is in the room.") == 0.0
    # The lexicon gives "good" 1.9, and the compound is s / √(s² + 15).
    assert judge(sad, "good") == pytest.approx(1.9 / (1.9**2 + 15) ** 0.5, abs=1e-4)


def test_unknown_judge_names_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"'oracle'.*vader.*tiny-mood"):
        gold_judge("oracle")
