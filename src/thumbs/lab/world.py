"""A small language in which every sentence has a gold score, so that a proxy can be checked against it.

A topic asks for a sentence. Gold likes kind words, each once, and dislikes rude ones, repetition, long sentences and
broken ones. A byte model learns the language from random sentences; noisy judges compare its replies by gold.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

import numpy as np

from thumbs.data.messages import Conversation
from thumbs.records import Generator, Judgement, Message, Preference, Prompt, Reply, Rollout
from thumbs.rollout.rounds import seed_of

KIND = ("calm", "kind", "warm", "glad", "fond", "true")
RUDE = ("grim", "vile", "rude", "sour", "mean", "dull")
PLAIN = ("lake", "tree", "road", "ship", "song", "door", "rain", "hill", "moon", "coat", "bell", "farm")
WORDS = frozenset((*KIND, *RUDE, *PLAIN))
FEWEST = 3
ENOUGH = 8
"""Words of a sentence, at least and at most."""

TOPICS = tuple(
    Prompt(first + last, (Message("user", first + last),))
    for first, last in itertools.product([a + b for a in "bdkm" for b in "aeio"], ["na", "ne", "ni", "no"])
)


def gold(text: str) -> float:
    """Distinct kind words, less rude ones, words said again, words missing from FEWEST, half of those beyond ENOUGH,
    and twice what is broken: words that do not exist, and a form other than lower-case words and a full stop.
    """
    words = re.findall(r"[a-z]+", text)
    formed = re.fullmatch(r"(?:[a-z]+ )*[a-z]+\.", text.strip()) is not None
    broken = (not formed) + sum(word not in WORDS for word in words)
    kind, rude = len({*words} & {*KIND}), sum(word in RUDE for word in words)
    length = 0.5 * max(0, len(words) - ENOUGH) + max(0, FEWEST - len(words))
    return kind - rude - (len(words) - len({*words})) - length - 2 * broken


def sentences(count: int, seed: int) -> list[Conversation]:
    """Topics with random sentences: half of the words are plain, a quarter each kind and rude."""
    random, found = np.random.default_rng(seed_of(seed, "lab", "sentences")), []
    pool = [*KIND, *RUDE, *PLAIN]
    shares = [0.25 / len(KIND)] * len(KIND) + [0.25 / len(RUDE)] * len(RUDE) + [0.5 / len(PLAIN)] * len(PLAIN)
    for _ in range(count):
        topic = TOPICS[random.integers(len(TOPICS))]
        words = random.choice(pool, random.integers(3, 9), replace=False, p=shares)
        found.append((*topic.messages, Message("assistant", " ".join(words) + ".")))
    return found


def judged_pairs(first: Sequence[Rollout], second: Sequence[Rollout], noise: float, seed: int) -> list[Preference]:
    """Pairs of replies to the same topics, judged by gold; a verdict is turned round with the probability `noise`.

    Equal replies are left out.
    """
    random, maker, found = np.random.default_rng(seed_of(seed, "lab", "noise")), Generator("model", "lab"), []
    for number, (a, b) in enumerate(zip(first, second, strict=True)):
        turned = random.random() < noise
        if a.text == b.text:
            continue
        gap = gold(a.text) - gold(b.text)
        side = (-1 if gap > 0 else 1) * (-1 if turned else 1)
        judgement = Judgement("lab", "", "tie") if gap == 0 else Judgement("lab", "", "prefer", side)
        replies = (Reply(a.text, maker, a.stop_reason), Reply(b.text, maker, b.stop_reason))
        found.append(Preference(f"{a.prompt_id}/{number}", a.messages[:-1], replies, (judgement,)))
    return found
