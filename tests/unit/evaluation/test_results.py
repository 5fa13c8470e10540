"""What an evaluation decides, in words, and a gold that is a reward."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from thumbs.evaluation.replies import EvaluatedReply
from thumbs.evaluation.results import Findings, sentence, verdicts


def rows(gain: float, prompts: int = 40, draws: int = 4) -> list[EvaluatedReply]:
    """SFT and a PPO that is better by `gain`; the proxy knows something of the gold."""
    rng = np.random.default_rng(0)
    found = []
    for system, lead, ratio in (("sft", 0.0, 0.0), ("ppo", gain, 0.65)):
        for p in range(prompts):
            for d in range(draws):
                gold = float(rng.normal(lead, 1))
                proxy = {"proxy": gold + float(rng.normal(0, 1))}
                found.append(EvaluatedReply(system, (), f"p{p}", d, "x", 5, False, gold, proxy, ratio))
    return found


@pytest.mark.parametrize(("gain", "verdict"), [(3.0, "better"), (-3.0, "worse"), (0.6, "not better")])
def test_the_comparison_that_decides_is_with_best_of_n_and_comes_first(gain: float, verdict: str):
    found = Findings(rows(gain), "sft", 4, 0).summary()
    first, second = found["comparisons"]
    assert (first["left"], first["right"], first["n"], first["verdict"]) == ("ppo", "best_of_n", 4, verdict)
    assert (second["left"], second["right"]) == ("ppo", "sft")
    text = sentence(first, {"ppo": "PPO"})
    assert text.startswith("PPO minus best of 4 at the same KL: ")  # 0.65 against 0.64 nats
    assert text.endswith(f"]: {verdict}")


@pytest.mark.parametrize("open_end", [None, np.inf])
def test_what_one_prompt_says_is_bounded_by_nothing(open_end: float | None):
    low = None if open_end is None else -open_end
    comparison: dict[str, Any] = {
        "left": "ppo", "right": "sft", "measure": "gold", "difference": 0.5, "low": low, "high": open_end,
        "verdict": "not better", "left_kl": 1.0, "right_kl": 0.0,
    }  # fmt: skip
    assert sentence(comparison, {}) == "ppo minus sft: +0.50 [−∞, +∞]: not better"
    judged = sentence({**comparison, "measure": "judge"}, {})
    assert judged == "ppo wins against sft on 100 % [0, 100]: not better"


@pytest.mark.parametrize("nothing", [None, np.nan])
def test_policies_without_a_common_prompt_are_not_compared(nothing: float | None):
    comparison: dict[str, Any] = {
        "left": "ppo", "right": "sft", "measure": "gold", "difference": nothing, "low": nothing, "high": nothing,
        "verdict": "not better", "left_kl": 1.0, "right_kl": 0.0,
    }  # fmt: skip
    assert sentence(comparison, {}) == "ppo and sft: no prompt has numbers of both, so they cannot be compared"


def test_a_farther_policy_is_not_called_equally_far():
    comparison: dict[str, Any] = {
        "left": "ppo", "right": "best_of_n", "n": 4, "measure": "gold", "difference": 0.011, "low": -0.07, "high": 0.09,
        "verdict": "not better", "left_kl": 1.84, "right_kl": 0.64,
    }  # fmt: skip
    assert sentence(comparison, {"ppo": "PPO"}) == (
        "PPO minus best of 4 (1.84 against 0.64 nats): +0.01 [−0.07, +0.09]: not better"
    )


def test_best_of_n_of_the_curve_rises_with_n_and_begins_at_the_mean():
    found = Findings(rows(0.0), "sft", 4, 0).summary()
    curve = found["best_of_n"]
    assert [point["n"] for point in curve] == [1, 2, 4]
    assert curve[0]["gold"] == pytest.approx(found["systems"]["sft"]["gold"])
    assert curve[0]["gold"] < curve[1]["gold"] < curve[2]["gold"]
    assert found["systems"]["best_of_n"]["gold"] == pytest.approx(curve[2]["gold"])


def test_only_what_was_measured_is_a_milestone():
    early = [EvaluatedReply("ppo@2", (), f"p{p}", 0, "x", 5, False, 0.5, {"proxy": 1.0}, 2.1) for p in range(40)]
    found = Findings([*rows(0.0), *early], "sft", 4, 0).summary()
    assert [(point["name"], point["kl"]) for point in found["milestones"]] == [("ppo@2", pytest.approx(2.1))]


def test_without_a_gold_the_words_come_first():
    bare = [EvaluatedReply("sft", (), f"p{p}", d, "x", 5, False, None, {}, 0.0) for p in range(3) for d in range(2)]
    found = Findings(bare, "sft", 2, 0).summary()
    assert (found["measure"], found["comparisons"], found["win_rates"]) == (None, [], {})
    assert verdicts({"judge": None, **found})[0].startswith("no gold was given")
