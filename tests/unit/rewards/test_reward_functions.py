"""Reward functions that users bring: signatures, what comes back, what they cannot do, how long they may take."""

from __future__ import annotations

import decimal
import fractions
import re
import sys
import threading
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from thumbs.config.base import build_config
from thumbs.config.named import load_callable
from thumbs.config.reward_parts import RewardPart
from thumbs.data.prompts import read_prompt
from thumbs.errors import ConfigError, RewardError
from thumbs.records import Message, Rollout
from thumbs.rewards.base import CallableReward
from thumbs.rewards.mix import Mix, Part


def rollout(text: str = "yes", *, as_text: bool = True, answer: str | None = None, turns: int = 1) -> Rollout:
    """A reply of bytes to a prompt of two tokens; with turns, so many replies with a word of the user between them."""
    tokens, mask, messages = [257, 258], [0.0], [Message("system", "Be kind."), Message("user", "ask")]
    for turn in range(turns):
        if turn:
            tokens, mask = [*tokens, 300], [*mask, 0.0]
            messages.append(Message("user", "go on"))
        tokens, mask = [*tokens, *text.encode(), 259], [*mask, *[1.0] * (len(text) + 1)]
        messages.append(Message("assistant", text))
    weights = np.array(mask, np.float32)
    row = np.array(tokens)
    return Rollout("ask", row, 2, weights, -weights, "stop", 0, text, tuple(messages), answer, None, as_text)


def score(function: Any, *rollouts: Rollout, **settings: Any) -> list[float]:
    return [one.value for one in CallableReward(function, "mine", **settings).score(rollouts or [rollout()])]


class Half:
    def __float__(self) -> float:
        return 0.5


@pytest.mark.parametrize(
    ("given", "value"),
    [
        (0.5, 0.5),
        (3, 3.0),
        (True, 1.0),
        (np.float32(0.25), 0.25),
        (np.bool_(True), 1.0),
        (np.array(2), 2.0),
        (torch.tensor(0.5), 0.5),
        (torch.tensor(0.5, dtype=torch.bfloat16, requires_grad=True), 0.5),
        (decimal.Decimal("0.5"), 0.5),
        (fractions.Fraction(1, 2), 0.5),
        (Half(), 0.5),
        ([0.0, 1.0, 0.5, 0.0], 1.5),
        (torch.ones(4), 4.0),
    ],
)
def test_what_is_a_number_is_taken(given: Any, value: float):
    assert score(lambda rollout: given) == [value]
    if not isinstance(given, list) and np.ndim(torch.as_tensor(given) if torch.is_tensor(given) else given) == 0:
        assert score(lambda completions, **columns: [given] * len(completions)) == [value]


STRANGE = [
    (None, "got None"),
    ("0.5", r"got '0.5' \(str\)"),
    (b"1", r"got b'1' \(bytes\)"),
    ({"score": 1.0}, r"\(dict\)"),
    ({1.0}, r"\(set\)"),
    (1 + 2j, r"\(complex\)"),
    (object(), r"\(object\)"),
    (np.datetime64("2020-01-01"), "datetime64"),
    (10**400, "too large"),
    (1e300, "overflow"),
    (-1e38, "overflow"),
    (float("nan"), "got nan, which is not a finite number"),
    (float("inf"), "got inf, which is not a finite number"),
    (torch.tensor(float("nan")), "not a finite number"),
    ([], r"shape \(0,\)"),
    ([1.0, 2.0], r"shape \(2,\)"),
    (["a", "b"], r"\(list\)"),
    ([[1.0], [2.0, 3.0]], r"\(list\)"),
    ([0.0, 1e15, 1e15, 0.0, 0.0], "a sum of"),
    ((x for x in [1.0]), r"\(generator\)"),
]


@pytest.mark.parametrize(("given", "said"), STRANGE)
def test_what_is_none_is_named_with_function_reply_and_value(given: Any, said: str):
    replies = [rollout("good"), rollout("poor")]
    with pytest.raises(RewardError, match=said) as caught:
        score(lambda r: given if r.text == "poor" else 0.0, *replies)
    assert "reward mine: rollout 1 (prompt ask, reply 'poor')" in str(caught.value)
    if given is not None:
        with pytest.raises(RewardError, match=r"reward mine: rollout 1 .*reply 'poor'"):
            score(lambda completions, **rest: [0.0, given], *replies)


def leave() -> None:
    sys.exit(3)


async def later(rollout: Rollout) -> float:
    return 1.0


@pytest.mark.parametrize(
    ("does", "said"),
    [
        (lambda: 1 / 0, "failed with ZeroDivisionError: division by zero"),
        (leave, "failed with SystemExit: 3"),
        (lambda: next(iter(())), "failed with StopIteration"),
        (lambda: {}["x"], "failed with KeyError: 'x'"),
        (lambda: later(rollout()), "got a coroutine, which nothing awaits"),
    ],
)
def test_what_a_function_does_instead_is_named(does: Any, said: str):
    with pytest.raises(RewardError, match=rf"reward mine: rollout 0 .*{said}"):
        score(lambda rollout: does())
    with pytest.raises(RewardError, match=rf"reward mine: the batch of 1 replies {said}"):
        score(lambda completions, **rest: does())


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_batch_of_another_length_is_refused(count: int):
    with pytest.raises(RewardError, match=f"got {count} rewards; give one for each of the 2 replies"):
        score(lambda completions, **rest: [1.0] * count, rollout(), rollout())


@pytest.mark.parametrize("given", [1.0, "ab", {0: 1.0, 1: 2.0}, torch.tensor(1.0)])
def test_a_batch_that_is_no_list_is_refused(given: Any):
    with pytest.raises(RewardError, match="give a list with a number"):
        score(lambda completions, **rest: given, rollout(), rollout())


def test_nothing_that_is_done_to_a_rollout_reaches_what_is_trained_on():
    def meddle(rollout: Rollout) -> float:
        rollout.tokens[:] = 0
        return 1.0

    def force(rollout: Rollout) -> float:
        for array in (rollout.tokens, rollout.mask, rollout.logprobs):
            array.setflags(write=True)
            array[:] = 0
        return 1.0

    def of_batch(completions: list[str], completion_ids: list[list[int]], **rest: Any) -> list[float]:
        completion_ids[0][:] = [0]
        completions[0] = "changed"
        return [1.0]

    one, whole = rollout(), rollout()
    with pytest.raises(RewardError, match="read-only"):
        score(meddle, one)
    assert score(force, one) == score(of_batch, one) == [1.0]
    for name in ("tokens", "mask", "logprobs"):
        assert np.array_equal(getattr(one, name), getattr(whole, name))
        assert getattr(one, name).flags.writeable
    assert (one.text, one.messages) == (whole.text, whole.messages)


@pytest.mark.parametrize("thread", [False, True])
def test_a_function_has_a_time_limit(thread: bool):
    said: list[str] = []

    def work() -> None:
        with pytest.raises(RewardError, match=r"reply 'yes'\) took longer than the 0.05 s") as caught:
            score(lambda rollout: time.sleep(30), time_limit_s=0.05)
        said.append(str(caught.value))
        with pytest.raises(RewardError, match="the batch of 1 replies took longer"):
            score(lambda completions, **rest: time.sleep(30), time_limit_s=0.05)

    if thread:
        runner = threading.Thread(target=work)
        runner.start()
        runner.join()
    else:
        work()
    assert "time_limit_s" in said[0]


def test_the_time_limit_is_a_setting_of_the_part():
    assert build_config(RewardPart, {"function": "a:b"}).time_limit_s == 600
    with pytest.raises(ConfigError, match="time_limit_s"):
        build_config(RewardPart, {"function": "a:b", "time_limit_s": 0})


def test_ctrl_c_is_not_the_functions_fault():
    def interrupted(rollout: Rollout) -> float:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score(interrupted)


def test_trls_signature_gets_text_for_prompts_of_text():
    def takes(prompts: list[str], completions: list[str], answer: list[str], **rest: Any) -> list[float]:
        assert prompts == ["ask", "ask"]
        assert completions == ["yes", "no"]
        assert answer == ["4", None]
        assert rest == {"completion_ids": [[121, 101, 115, 259], [110, 111, 259]]}
        return [1.0, 2.0]

    assert score(takes, rollout(answer="4"), rollout("no")) == [1.0, 2.0]


def test_trls_signature_gets_messages_for_prompts_of_messages():
    def takes(prompts: Any, completions: Any) -> list[float]:
        asked = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "ask"}]
        reply = {"role": "assistant", "content": "yes"}
        assert prompts == [asked, asked]
        assert completions == [[reply], [reply, {"role": "user", "content": "go on"}, reply]]
        return [1.0, 2.0]

    assert score(takes, rollout(as_text=False), rollout(as_text=False, turns=2)) == [1.0, 2.0]


def test_how_a_prompt_was_written_is_known():
    assert read_prompt("ask").as_text
    assert read_prompt({"prompt": "ask"}).as_text
    assert read_prompt({"instruction": "ask"}).as_text
    assert not read_prompt({"prompt": [{"role": "user", "content": "ask"}]}).as_text
    assert not read_prompt({"messages": [{"role": "user", "content": "ask"}]}).as_text


def test_none_of_trls_signature_is_no_say_and_adds_nothing():
    def sometimes(completions: list[str], **rest: Any) -> list[float | None]:
        return [None if text == "no" else 1.0 for text in completions]

    mix = Mix([Part("a", CallableReward(sometimes, "a"), 2.0), Part("b", CallableReward(lambda r: 0.25, "b"))])
    first, second = mix.score([rollout(), rollout("no")])
    assert (first.value, first.parts) == (2.25, {"a": 1.0, "b": 0.25})
    assert (second.value, second.parts) == (0.25, {"b": 0.25})
    with pytest.raises(RewardError, match=r"rollout 1 .* got None from every part"):
        Mix([Part("a", CallableReward(sometimes, "a"))]).score([rollout(), rollout("no")])


def test_a_weighted_sum_that_overflows_is_named():
    with pytest.raises(RewardError, match=r"reward mix: rollout 0 .* overflow"):
        Mix([Part("a", CallableReward(lambda r: 1e14, "a"), 1e14)]).score([rollout()])


def two(first: Any, second: Any) -> float:
    return 0.0


def keyword(rollout: Rollout, *, scale: float) -> float:
    return 0.0


def nothing() -> float:
    return 0.0


def column(prompts: Any, completions: Any, difficulty: Any) -> list[float]:
    return []


def trainer(completions: Any, trainer_state: Any, **columns: Any) -> list[float]:
    return []


@pytest.mark.parametrize("function", [two, keyword, nothing])
def test_a_wrong_signature_says_which_are_right(function: Any):
    right = re.escape("a reward function is f(rollout), or as TRL calls it f(prompts, completions, **columns)")
    with pytest.raises(ConfigError, match=rf"mine\(.*\) has no signature that is understood; {right}"):
        CallableReward(function, "mine")


@pytest.mark.parametrize(("function", "asked"), [(column, "difficulty"), (trainer, "trainer_state")])
def test_a_column_that_is_not_kept_is_named(function: Any, asked: str):
    with pytest.raises(ConfigError, match=f"asks for {asked}; of a row thumbs keeps .* answer"):
        CallableReward(function, "mine")


def test_coroutines_and_classes_are_refused_before_they_are_called():
    with pytest.raises(ConfigError, match="mine is a coroutine"):
        CallableReward(later, "mine")
    with pytest.raises(ConfigError, match="mine is a class"):
        CallableReward(Half, "mine")


@pytest.mark.parametrize(
    ("name", "right"),
    [
        ("my_rewards.py:polite", "write my_rewards:polite"),
        ("./my_rewards.py:polite", "write my_rewards:polite"),
        ("lib/my_rewards.py:polite", "write lib.my_rewards:polite"),
        ("my_rewards.polite", "write module:name"),
        ("my_rewards:", "write module:name"),
    ],
)
def test_a_file_in_place_of_a_module_gets_the_right_name(name: str, right: str):
    with pytest.raises(ConfigError, match=right):
        load_callable(name)


def test_calls_run_at_the_same_time_where_that_is_asked_and_stay_in_order():
    """Each call waits until all four have begun, which none would see one after the other."""
    together = threading.Barrier(4, timeout=30)

    def waiting(reply: Rollout) -> float:
        together.wait()
        return float(reply.prompt_id)

    rollouts = [replace(rollout(), prompt_id=str(i)) for i in range(8)]
    scores = CallableReward(waiting, concurrency=4).score(rollouts)
    assert [score.value for score in scores] == [float(i) for i in range(8)]


def test_an_error_of_one_of_many_calls_names_its_reply():
    def failing(reply: Rollout) -> float:
        return 1 / (int(reply.prompt_id) - 5)

    rollouts = [replace(rollout(), prompt_id=str(i)) for i in range(8)]
    with pytest.raises(RewardError, match=r"(?s)prompt.* 5.*ZeroDivisionError|5.*ZeroDivisionError"):
        CallableReward(failing, concurrency=3).score(rollouts)


def test_a_function_of_batches_is_called_once_whatever_the_concurrency():
    with pytest.raises(ConfigError, match="takes a whole batch in one call"):
        CallableReward(lambda prompts, completions, **rest: [0.0], concurrency=2)
    assert "`concurrency` belongs to a function" in (RewardPart(verifier="exact", concurrency=2).misfit() or "")
