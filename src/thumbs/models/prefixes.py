"""Sequences that begin alike: a batch as a tree of segments, so that what they share is computed once.

Replies to one prompt, pairs with replies in common, conversations under one system prompt: in a causal model the
states of a shared beginning are the same for all of them. (Prefix caches of samplers do this for decoding; here the
gradient flows through the shared states too, and is the sum over the sequences that continue them.)
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np

WORTH = 8
"""Tokens that a segment of its own must save: about what its row costs in attention."""

NEVER = sys.maxsize
"""What no segment saves: only equal sequences become one."""


@dataclass
class PrefixTree:
    """Segments [S] of distinct tokens; segment i continues segment parents[i], which stands before it (-1: none).

    ends [B]: the segment in which each sequence ends, so that what this segment sees is the whole sequence.
    source [M]: for each distinct token, one of the N packed tokens that it stands for. places [N]: for each packed
    token, its index among the M.
    """

    lengths: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    source: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    places: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))


def prefix_tree(sequences: Sequence[np.ndarray], *, worth: int = WORTH) -> PrefixTree:
    """The tree of sequences laid end to end. A beginning is shared when that saves `worth` tokens or more."""
    tree = PrefixTree()
    starts = np.cumsum([0, *map(len, sequences)])
    sources: list[np.ndarray] = []
    places: dict[int, np.ndarray] = {}
    ends: dict[int, int] = {}

    def grow(members: list[int], start: int, parent: int, path: np.ndarray) -> None:
        """Adds `members`, in lexicographic order, whose first `start` tokens are the distinct tokens `path`."""
        first, last = sequences[members[0]], sequences[members[-1]]
        common = shared_length(first, last)  # of all members, as they are in order
        equal = common == len(first) == len(last)
        if common > start and (equal or (common - start) * (len(members) - 1) >= worth):
            held = sum(tree.lengths)
            path = np.append(path, np.arange(held, held + common - start))
            tree.lengths.append(common - start)
            tree.parents.append(parent)
            sources.append(starts[members[0]] + np.arange(start, common))
            start, parent = common, len(tree.lengths) - 1
        if equal:
            places.update(dict.fromkeys(members, path))
            ends.update(dict.fromkeys(members, parent))
            return
        for _, group in groupby(members, key=lambda i: sequences[i][common : common + 1].tolist()):
            grow(list(group), start, parent, path)

    grow(lexicographic(sequences), 0, -1, np.empty(0, dtype=np.int64))
    tree.ends = [ends[i] for i in range(len(sequences))]
    tree.source = np.concatenate(sources)
    tree.places = np.concatenate([places[i] for i in range(len(sequences))])
    return tree


def shared_length(a: np.ndarray, b: np.ndarray) -> int:
    """How many tokens two sequences have in common at their beginning."""
    size = min(len(a), len(b))
    differ = np.flatnonzero(a[:size] != b[:size])
    return int(differ[0]) if len(differ) else size


def lexicographic(sequences: Sequence[np.ndarray]) -> list[int]:
    """An order in which sequences that begin alike are neighbours (by bytes: any order of tokens serves)."""
    return sorted(range(len(sequences)), key=lambda i: sequences[i].tobytes())
