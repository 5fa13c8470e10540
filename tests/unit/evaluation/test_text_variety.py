"""distinct_n by hand."""

from __future__ import annotations

from thumbs.evaluation.text import distinct_n


def test_distinct_pairs_over_the_whole_set() -> None:
    # Pairs: (a, good), (good, day), (a, good), (good, night): 3 different of 4.
    assert distinct_n(["A good day.", "a GOOD night"], 2) == 0.75


def test_single_words_and_word_boundaries_between_texts() -> None:
    assert distinct_n(["b a", "a b"], 1) == 0.5
    assert distinct_n(["a", "b"], 2) == 0.0  # no pair spans two texts


def test_nothing_said() -> None:
    assert distinct_n([], 2) == 0.0
    assert distinct_n(["", "..."], 1) == 0.0
