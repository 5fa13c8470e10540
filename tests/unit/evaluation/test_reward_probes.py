"""The audit on scorers whose faults are known: what is there is found, and what is not there is not."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from byte_world import user
from thumbs.evaluation.reward_probes import Answer, agreement, audit_scorer, length_bias
from thumbs.records import Generator, Judgement, Message, Preference, Reply

QUALITY = "qwertyuiop"
"""The first letter of a reply says how good it is."""


def reply(rng: np.random.Generator, name: str) -> Reply:
    return Reply(QUALITY[rng.integers(10)] + "x" * int(rng.integers(5, 60)), Generator("model", name))


def pairs(n: int = 300, seed: int = 0) -> list[Preference]:
    """The better first letter is preferred, the length means nothing; ben is wrong in a third of his verdicts."""
    rng, found = np.random.default_rng(seed), []
    while len(found) < n:
        a, b = reply(rng, "m1"), reply(rng, "m1" if len(found) % 2 else "m2")
        gap = QUALITY.index(a.text[0]) - QUALITY.index(b.text[0])
        if gap == 0:
            continue
        annotator = "ana" if len(found) % 2 else "ben"
        sign = -1 if (gap > 0) != (annotator == "ben" and len(found) % 3 == 0) else 1
        verdict = Judgement(annotator, "", "prefer", sign * min(abs(gap), 4))
        found.append(Preference(str(len(found)), user(f"q{len(found)}"), (a, b), (verdict,)))
    return found


def scorer(of: Callable[[Reply], float]) -> Callable[[Sequence[Answer]], np.ndarray]:
    return lambda answers: np.array([of(reply) for _, reply in answers])


def quality(reply: Reply) -> float:
    letters = [c for c in reply.text if c in QUALITY]
    return float(QUALITY.index(letters[0]))


def ruler(answer: Answer) -> int:
    return len(answer[1].text)


def found(of: Callable[[Reply], float], rows: list[Preference] | None = None) -> dict[str, Any]:
    return audit_scorer(scorer(of), rows or pairs(), ruler)


def test_an_honest_scorer_has_no_findings_but_its_confidence():
    audit = found(lambda r: quality(r) / 4)
    assert not [f for f in audit["findings"] if "probabilities" not in f]
    assert abs(audit["length"]["slope"]) < 0.1
    assert audit["order"] == 0.0
    assert all(shift["shift"] == 0 for shift in [*audit["formats"], audit["end"]])


@pytest.mark.parametrize(("price", "way"), [(0.1, "longer"), (-0.1, "shorter")])
def test_a_price_on_length_is_caught(price: float, way: str):
    audit = found(lambda r: quality(r) + price * len(r.text))
    length = audit["length"]
    assert length["slope"] * price > 0
    assert length["low"] * length["high"] > 0
    assert any(finding.startswith(f"{way} replies score higher") for finding in audit["findings"])
    assert length["matched_accuracy"] > audit["pairs"]["accuracy"]


def test_length_that_earns_its_labels_is_no_bias():
    """Better replies are longer, and the scorer sees quality alone: correlation, but no effect at equal labels."""
    rng = np.random.default_rng(0)
    better = rng.integers(0, 2, 2000).astype(float)
    lengths_a = (50 + 30 * better + rng.normal(0, 5, 2000)).round()
    lengths_b = (50 + 30 * (1 - better) + rng.normal(0, 5, 2000)).round()
    gap = 2 * better - 1 + rng.normal(0, 0.5, 2000)
    assert np.corrcoef(gap, lengths_a - lengths_b)[0, 1] > 0.8
    bias = length_bias(gap, better, lengths_a, lengths_b)
    assert bias.low < 0 < bias.high
    assert bias.longer_is_better is not None
    assert bias.longer_is_better > 0.95


def test_the_partial_effect_is_that_of_least_squares():
    rng = np.random.default_rng(1)
    better, a, b = rng.integers(0, 2, 100).astype(float), rng.integers(1, 90, 100), rng.integers(1, 90, 100)
    gap = rng.normal(size=100) + 0.05 * (a - b)
    slope = length_bias(gap, better, a, b).slope
    label = 2 * better - 1
    left = [x - label * (label @ x) / (label @ label) for x in (gap / gap.std(), (a - b) / (a - b).std())]
    assert slope == pytest.approx(left[1] @ left[0] / (left[1] @ left[1]))  # Frisch, Waugh and Lovell


@pytest.mark.parametrize(
    ("fault", "name"),
    [
        (lambda r: 3.0 * r.text.endswith(" "), "trailing space"),
        (lambda r: 3.0 * r.text.endswith("\n"), "trailing line break"),
        (lambda r: 3.0 * ("**" in r.text), "bold first line"),
        (lambda r: 3.0 * r.text.startswith("- "), "list"),
        (lambda r: 3.0 * (r.stop_reason == "length"), "no end token"),
    ],
)
def test_a_taste_for_clothes_is_caught_and_named(fault: Callable[[Reply], float], name: str):
    audit = found(lambda r: quality(r) + fault(r))
    shifts = {shift["name"]: shift for shift in [*audit["formats"], audit["end"]]}
    deviation = np.std([quality(r) for p in pairs() for r in p.replies])
    assert shifts[name]["shift"] == pytest.approx(3 / deviation)
    assert [other for other, shift in shifts.items() if shift["shift"] != 0] == [name]
    # The loser wins by the change where it was less than three letters behind.
    behind = [abs(quality(p.replies[0]) - quality(p.replies[1])) for p in pairs()]
    assert shifts[name]["flips"] == pytest.approx(np.mean(np.array(behind) < 3))
    assert any(finding.startswith(f"{name} moves the score by +") for finding in audit["findings"])


def test_a_score_that_hangs_on_its_neighbours_is_caught():
    audit = audit_scorer(
        lambda answers: np.array([quality(r) for _, r in answers]) + np.arange(len(answers)), pairs(), ruler
    )
    assert audit["order"] > 1
    assert any("what else is scored" in finding for finding in audit["findings"])


def test_slices_count_by_hand():
    rows = pairs(120)
    slices = {(s["kind"], s["name"]): s for s in found(quality, rows)["slices"]}
    ana, ben = slices["annotator", "ana"], slices["annotator", "ben"]
    assert (ana["n"], ana["accuracy"], ben["n"]) == (60, 1.0, 60)
    assert ben["accuracy"] == pytest.approx(2 / 3, abs=0.01)
    assert ben["low"] < ben["accuracy"] < ben["high"]
    assert slices["written by", "m1"]["n"] == 60
    assert sum(s["n"] for (kind, _), s in slices.items() if kind == "preferred / other length") == 120
    strengths = [abs(row.judgements[0].strength) for row in rows]
    assert slices["strength", "4"]["n"] == strengths.count(4)
    assert not [kind for kind, _ in slices if kind in ("turns", "margin", "annotators")]  # one group tells nothing


def test_turns_margins_and_agreement_are_slices_where_they_vary():
    a, b = Reply("yy", Generator("model", "m")), Reply("qq", Generator("model", "m"))
    long = (*user("q"), Message("assistant", "a"), Message("user", "more"))
    yes, no = Judgement("ana", "", "prefer", -1), Judgement("ben", "", "prefer", 1)
    rows = [
        Preference("1", user("q"), (a, b), (yes, yes), margin=1.0),
        Preference("2", long, (a, b), (yes, yes, no), margin=2.0),
        Preference("3", long, (a, b), (yes, no)),  # a tie: in no slice of pairs
    ]
    slices = {(s["kind"], s["name"]): s for s in found(quality, rows)["slices"]}
    assert [slices["turns", name]["n"] for name in ("one", "several")] == [1, 1]
    assert [slices["annotators", name]["n"] for name in ("agree", "differ")] == [1, 1]
    assert slices["annotator", "ben"]["accuracy"] == 0.0


def test_agreement_by_hand():
    assert agreement([1.0, -2.0, 0.5, 3.0], [2.0, -1.0, -0.5, 0.0])["agreement"] == 0.5  # 0 agrees with nobody
    same = agreement([1.0, -2.0, 0.5], [2.0, -4.0, 1.0])
    assert (same["agreement"], same["n"]) == (1.0, 3)
    assert same["correlation"] == pytest.approx(1)
    assert math.isclose(agreement([1.0], [1.0])["agreement"], 1.0)
