"""Agreement against the krippendorff package, published tables and loops over pairs of people."""

from __future__ import annotations

from itertools import combinations

import krippendorff
import numpy as np
import pytest
from judged_world import fact, of_answers, of_table

from thumbs.collect.quality.agreement import SIDES, Sums, agreement, by_axis, counted, fleiss_kappa, pooled_coincidences
from thumbs.collect.quality.agreement import coincidences as coincidences_of
from thumbs.collect.quality.judged import Opinions
from thumbs.collect.records import Answer

NAN = float("nan")

KRIPPENDORFF = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, NAN, NAN, NAN],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NAN, 3],
        [NAN, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NAN],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NAN],
    ]
)
"""Four observers, twelve units, five values; Krippendorff 2011, section C: ordinal 0.815, nominal 0.743."""

FLEISS = [
    (0, 0, 0, 6, 0), (0, 3, 0, 0, 3), (0, 1, 4, 0, 1), (0, 0, 0, 0, 6), (0, 3, 0, 3, 0), (2, 0, 4, 0, 0),
    (0, 0, 4, 0, 2), (2, 0, 3, 1, 0), (2, 0, 0, 4, 0), (0, 0, 0, 0, 6), (1, 0, 0, 5, 0), (1, 1, 0, 4, 0),
    (0, 3, 3, 0, 0), (1, 0, 0, 5, 0), (0, 2, 0, 3, 1), (0, 0, 5, 0, 1), (3, 0, 0, 1, 2), (5, 1, 0, 0, 0),
    (0, 2, 0, 4, 0), (1, 0, 2, 0, 3), (0, 0, 0, 0, 6), (0, 1, 0, 5, 0), (0, 2, 0, 1, 3), (2, 0, 0, 4, 0),
    (1, 0, 0, 4, 1), (0, 5, 0, 1, 0), (4, 0, 0, 0, 2), (0, 2, 0, 4, 0), (1, 0, 5, 0, 0), (0, 0, 0, 0, 6),
]  # fmt: skip
"""Thirty patients, six psychiatrists, five diagnoses; Fleiss 1971, table 1."""


def _table(people: int, items: int, missing: float, seed: int) -> np.ndarray:
    """Strengths of people who see the same quality through their own noise."""
    rng = np.random.default_rng(seed)
    table = np.clip(np.round(rng.normal(0, 2, items) + rng.normal(0, 1.5, (people, items))), -4, 4)
    table[rng.random(table.shape) < missing] = NAN
    return table


def _ratings(table: np.ndarray) -> list[tuple[int, int, Answer]]:
    return [
        (int(item), int(account), Answer("rate", ratings=({"clear": int(table[account, item])},)))
        for account, item in zip(*np.nonzero(~np.isnan(table)), strict=True)
    ]


def _gwet_kappa(table: np.ndarray) -> float:
    """κ of signs by the definition, unit by unit, over units with two opinions or more."""
    units = [column[~np.isnan(column)] for column in np.sign(table).T]
    units = [list(unit) for unit in units if len(unit) > 1]
    agree = [np.mean([one == other for one, other in combinations(unit, 2)]) for unit in units]
    chance = sum(np.mean([unit.count(sign) / len(unit) for unit in units]) ** 2 for sign in (-1, 0, 1))
    return float((np.mean(agree) - chance) / (1 - chance))


def test_krippendorffs_own_example() -> None:
    facts = [fact(item, kind="rate", generators=(1,), lengths=(9,)) for item in range(12)]
    found = agreement(of_answers(_ratings(KRIPPENDORFF), facts), "clear")
    assert found.alpha.value == pytest.approx(0.815, abs=5e-4)
    assert (found.items, found.opinions) == (11, 40)
    assert found.alpha_sign.value is None
    assert found.kappa.value is None


@pytest.mark.parametrize("missing", [0.0, 0.3, 0.7])
def test_alpha_is_that_of_the_krippendorff_package(missing: float) -> None:
    table = _table(6, 80, missing, seed=1)
    found = agreement(of_table(table))
    assert found.alpha.value == pytest.approx(krippendorff.alpha(table, level_of_measurement="ordinal"), abs=1e-12)
    assert found.alpha_sign.value == pytest.approx(
        krippendorff.alpha(np.sign(table), level_of_measurement="nominal"), abs=1e-12
    )
    assert found.alpha.n == found.items == int(((~np.isnan(table)).sum(0) > 1).sum())


def test_fleiss_published_kappa() -> None:
    """κ = 0.430 for these diagnoses; Fleiss 1971, p. 381."""
    rows = [(unit, category) for unit, row in enumerate(FLEISS) for category, n in enumerate(row) for _ in range(n)]
    unit, value = np.array(rows).T
    counts, _ = counted(Opinions(unit, unit, unit, unit, value), value, np.arange(5))
    assert counts.tolist() == [list(row) for row in FLEISS]
    agreed = np.einsum("qcc->q", coincidences_of(counts)).sum() / 6
    sums = Sums(pooled_coincidences(counts), counts.sum(0) / 6, np.float64(agreed), np.float64(30))
    assert float(fleiss_kappa(sums)) == pytest.approx(0.430, abs=5e-4)


@pytest.mark.parametrize("missing", [0.0, 0.4])
def test_kappa_is_its_definition_with_unequal_numbers_of_people(missing: float) -> None:
    table = _table(5, 60, missing, seed=2)
    assert agreement(of_table(table)).kappa.value == pytest.approx(_gwet_kappa(table), abs=1e-12)


def test_same_side_counts_pairs_of_people_who_both_prefer_one() -> None:
    table = np.array([[1, 2, -3, 0, 4], [3, -1, -1, 2, 4], [NAN, NAN, NAN, NAN, 0]])
    found = agreement(of_table(table)).same
    # Items 0 to 2: two opinions, same, opposite, same; 3: one is a tie; 4: two of three prefer, and weigh 2 / (3 - 1).
    assert found.value == pytest.approx((2 + 0 + 2 + 1) / (2 + 2 + 2 + 1))


def test_both_bad_prefers_neither() -> None:
    answers = [
        (0, 0, Answer("both_bad")),
        (0, 1, Answer("tie")),
        (1, 0, Answer("prefer", 4)),
        (1, 1, Answer("prefer", 4)),
    ]
    assert agreement(of_answers(answers)).alpha.value == pytest.approx(1.0)


def test_pooled_coincidences_are_the_sum() -> None:
    counts = np.random.default_rng(0).integers(0, 4, (50, 3))
    assert pooled_coincidences(counts) == pytest.approx(coincidences_of(counts).sum(0))


@pytest.mark.parametrize(
    "answers",
    [
        [],
        [(0, 0, Answer("prefer", 1)), (1, 0, Answer("prefer", 2))],
        [(0, 0, Answer("prefer", 1)), (0, 1, Answer("skip", skip_reason="other"))],
        [(0, 0, Answer("write", text="x")), (0, 1, Answer("write", text="y"))],
    ],
)
def test_one_opinion_an_item_says_nothing(answers: list[tuple[int, int, Answer]]) -> None:
    found = agreement(of_answers(answers))
    assert (found.items, found.opinions) == (0, 0)
    assert {getattr(found, name).value for name in ("alpha", "alpha_sign", "kappa", "same")} == {None}


def test_without_variance_agreement_is_unknown_not_perfect() -> None:
    found = agreement(of_table(np.full((3, 10), 2.0)))
    assert (found.alpha.value, found.alpha_sign.value, found.kappa.value) == (None, None, None)
    assert (found.same.value, found.same.low) == (1.0, 1.0)


def test_a_single_item_has_no_interval() -> None:
    found = agreement(of_table(np.array([[1.0], [-2.0]]))).same
    assert (found.value, found.low, found.high, found.n) == (0.0, None, None, 1)


def test_golds_are_no_opinions() -> None:
    facts = [fact(0), fact(1, role="gold", gold=Answer("prefer", 1))]
    answers = [(item, account, Answer("prefer", 1 + account)) for item in (0, 1) for account in (0, 1)]
    assert agreement(of_answers(answers, facts)).items == 1


def test_rankings_agree_through_the_pairs_they_imply() -> None:
    facts = [fact(item, kind="rank", generators=(1, 2, 3), lengths=(5, 5, 5)) for item in range(2)]
    ranks = {(0, 0): (1, 2, 3), (0, 1): (1, 3, 2), (1, 0): (3, 1, 1), (1, 1): (2, 1, 3)}
    judged = of_answers([(item, a, Answer("rank", ranks=r)) for (item, a), r in ranks.items()], facts)
    units = np.array([[-1, -1, -1, 1, 1, 0], [-1, -1, 1, 1, -1, -1]], dtype=float)  # pairs 01, 02, 12 of each item
    found = agreement(judged)
    assert found.alpha.value == pytest.approx(krippendorff.alpha(units, level_of_measurement="ordinal"))
    assert found.alpha_sign.value == pytest.approx(krippendorff.alpha(units, level_of_measurement="nominal"))
    assert found.same.value == pytest.approx(3 / 5)
    assert found.items == 2


def test_each_axis_has_its_own_agreement() -> None:
    honest, kind = _table(3, 40, 0.2, seed=3), -_table(3, 40, 0.2, seed=4)
    both = ~np.isnan(honest) & ~np.isnan(kind)
    answers = [
        (int(i), int(a), Answer("prefer", 1, axes={"honest": int(honest[a, i]), "kind": int(kind[a, i])}))
        for a, i in zip(*np.nonzero(both), strict=True)
    ]
    found = by_axis(of_answers(answers))
    assert list(found) == ["honest", "kind"]
    for name, table in (("honest", honest), ("kind", kind)):
        expected = krippendorff.alpha(np.where(both, table, NAN), level_of_measurement="ordinal")
        assert found[name].alpha.value == pytest.approx(expected)


def test_ratings_are_compared_on_their_scale_and_by_side() -> None:
    facts = [fact(item, kind="rate") for item in range(2)]
    given = {(0, 0): (5, 1), (0, 1): (4, 2), (1, 0): (3, 3), (1, 1): (1, 5)}
    answers = [
        (item, account, Answer("rate", ratings=tuple({"clear": value} for value in values)))
        for (item, account), values in given.items()
    ]
    found = by_axis(of_answers(answers, facts))["clear"]
    scale, side = np.array([[5, 1, 3, 3], [4, 2, 1, 5]]), np.array([[-1, 0], [-1, 1]])
    assert found.alpha.value == pytest.approx(krippendorff.alpha(scale.astype(float), level_of_measurement="ordinal"))
    assert found.alpha_sign.value == pytest.approx(
        krippendorff.alpha(side.astype(float), level_of_measurement="nominal")
    )


def test_intervals_resample_items_and_repeat() -> None:
    table = _table(3, 60, 0.2, seed=5)
    found = agreement(of_table(table), resamples=2000)
    rng = np.random.default_rng(0)
    usable = table[:, (~np.isnan(table)).sum(0) > 1]
    draws = [
        krippendorff.alpha(usable[:, rng.integers(0, usable.shape[1], usable.shape[1])], level_of_measurement="ordinal")
        for _ in range(1000)
    ]
    assert (found.alpha.low, found.alpha.high) == pytest.approx(np.quantile(draws, [0.025, 0.975]), abs=0.02)
    assert agreement(of_table(table), resamples=2000) == found
    assert agreement(of_table(table), resamples=2000, seed=1) != found


def test_items_of_many_kinds_and_several_units_are_all_counted() -> None:
    """Rankings of four by three people: nearly every item is unlike the others, and has six units."""
    rng = np.random.default_rng(6)
    facts = [fact(item, kind="rank", generators=(1, 2, 3, 4), lengths=(5,) * 4) for item in range(50)]
    orders = {(item, a): tuple(int(one) for one in rng.permutation(4) + 1) for item in range(50) for a in range(3)}
    judged = of_answers([(item, a, Answer("rank", ranks=r)) for (item, a), r in orders.items()], facts)
    units = np.array(
        [
            [
                np.sign(orders[item, a][i] - orders[item, a][j])
                for item in range(50)
                for i, j in combinations(range(4), 2)
            ]
            for a in range(3)
        ],
        dtype=float,
    )
    found = agreement(judged)
    assert found.alpha.value == pytest.approx(krippendorff.alpha(units, level_of_measurement="ordinal"))
    assert found.kappa.value == pytest.approx(_gwet_kappa(units))
    assert (found.items, found.opinions) == (50, 900)
    assert SIDES.tolist() == [-1, 0, 1]
