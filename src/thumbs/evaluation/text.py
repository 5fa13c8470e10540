"""Variety of a set of texts."""

from __future__ import annotations

import re
from collections.abc import Sequence


def distinct_n(texts: Sequence[str], n: int) -> float:
    """Different word n-grams over all word n-grams of the whole set, fraction; 0 for none (arXiv:1510.03055)."""
    grams: list[tuple[str, ...]] = []
    for text in texts:
        words = re.findall(r"\w+", text.lower())
        grams += [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0
