"""How much a text repeats itself."""

from __future__ import annotations


def repetition(text: str, n: int = 3) -> float:
    """Share of the word n-grams of `text` that occurred before in it, fraction; 0 for fewer than n words."""
    words = text.lower().split()
    grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return 1.0 - len(set(grams)) / len(grams) if grams else 0.0
