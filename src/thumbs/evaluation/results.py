"""What an evaluation found, from its replies alone: each system's means, differences on the same prompts, verdicts.

Every interval is a bootstrap over prompts (`statistics.py`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from thumbs.evaluation import statistics
from thumbs.evaluation.intervals import best_of_n_kl
from thumbs.evaluation.replies import EvaluatedReply, column, judged_share, table
from thumbs.evaluation.statistics import Measured
from thumbs.evaluation.text import distinct_n

PROXY, SECOND, JUDGED = "proxy", "second_proxy", "judge"
"""The reward that methods are paid by, a reward model of the pairs that it has not seen, and verdicts on pairs."""
SAME_KL = 0.1
"""KLs that differ by at most this share of the larger are called the same."""
FEW = 8
"""Replies on which two scores may agree by chance."""
BEST_OF_N = "best_of_n"
TITLES = {
    "base": "the base model",
    "sft": "SFT",
    "ppo": "PPO",
    "direct": "the direct method",
    "group": "the group method",
}
"""What systems are called in a sentence."""
NO_GOLD = (
    "no gold was given: nothing here says what people would prefer. In its place stands a second opinion, a reward "
    "model of the held-out pairs, where there are any"
)


@dataclass(frozen=True)
class Findings:
    """The replies of an evaluation and what can be said of them.

    reference: the system that KL is measured from. n: of best-of-n, chosen from the reference's replies by the proxy.
    """

    rows: Sequence[EvaluatedReply]
    reference: str
    n: int
    seed: int

    @cached_property
    def names(self) -> list[str]:
        """The systems in the order of the file."""
        return list(dict.fromkeys(row.system for row in self.rows))

    @cached_property
    def methods(self) -> list[str]:
        """The systems that a method left at its end, which are what all is about."""
        return [name for name in self.names if name not in ("base", self.reference) and "@" not in name]

    @cached_property
    def tables(self) -> dict[str, list[list[EvaluatedReply]]]:
        """The replies of each system, [P][D]."""
        return {name: table(self.rows, name) for name in self.names}

    @cached_property
    def measure(self) -> str | None:
        """What policies are compared by: the gold score, or what a judge says of pairs; without a gold, the second
        proxy; None if there is neither.
        """
        if any(row.judged for row in self.rows):
            return JUDGED
        for name in ("gold", SECOND):
            if np.isfinite(self.column(self.reference, name)).all():
                return name
        return None

    @cached_property
    def has_proxy(self) -> bool:
        """Whether best-of-n has a score to choose by."""
        return bool(np.isfinite(self.column(self.reference, PROXY)).all())

    @property
    def chooses(self) -> bool:
        """Whether there is a best of several to compare methods with."""
        return self.has_proxy and self.pool > 1

    def nearest_n(self, name: str) -> int:
        """The n of best-of-n whose KL is nearest to that of a system."""
        kl = float(self.column(name, "log_ratio").mean())
        return min(range(2, self.pool + 1), key=lambda n: abs(best_of_n_kl(n) - kl))

    def winners(self, n: int) -> list[int]:
        """The draw that is the best of the reference's first n by the proxy, for each prompt."""
        return self.column(self.reference, PROXY)[:, :n].argmax(axis=1).tolist()

    def column(self, system: str, name: str) -> np.ndarray:
        """A number of each reply of a system, [P, D]."""
        return column(self.tables[system], name)

    def summary(self) -> dict[str, Any]:
        """All of it as plain data, the comparison that decides first."""
        systems = {name: self.system(name) for name in self.names}
        if self.has_proxy:
            systems[BEST_OF_N] = self.best_of_n_system(min(self.n, self.pool))
        frontier = [{"name": k, **{key: s[key] for key in ("kl", "gold", "proxy")}} for k, s in systems.items()]
        return {
            "measure": self.measure,
            "systems": systems,
            "win_rates": {name: self.win_rate(name) for name in self.methods} if self.measure else {},
            "comparisons": self.comparisons(systems),
            "best_of_n": self.curve() if self.has_proxy and self.measure in ("gold", SECOND) else [],
            "warnings": self.leaks(),
            "milestones": [{"name": name, **systems[name]} for name in self.names if "@" in name],
            "frontier": frontier,
        }

    def system(self, name: str) -> dict[str, Any]:
        """Means over draws and prompts, with intervals; distinct-2 falls as a text grows, so it is by draw."""
        replies = self.tables[name]
        tokens, ratios = self.column(name, "tokens"), self.column(name, "log_ratio")
        found: dict[str, Any] = {}
        for key in ("gold", PROXY, SECOND):
            if key != SECOND or np.isfinite(self.column(name, key)).any():
                found |= _with_interval(key, statistics.mean(self.column(name, key), self.seed))
        found |= _with_interval("kl", statistics.mean(ratios, self.seed))
        per_token = statistics.ratio(ratios.sum(axis=1), tokens.sum(axis=1), self.seed)
        return found | {
            **_with_interval("kl_per_token", per_token),
            "length": float(tokens.mean()),
            "distinct2": float(
                np.mean([distinct_n([draws[d].text for draws in replies], 2) for d in range(len(replies[0]))])
            ),
            "truncated": float(self.column(name, "cut").mean()),
            "n": len(replies),
            "draws": len(replies[0]),
        }

    @property
    def pool(self) -> int:
        """How many replies of the reference best-of-n can choose from."""
        return len(self.tables[self.reference][0])

    def best_of(self, n: int, name: str) -> np.ndarray:
        """Mean of a number of the best of n of the reference's replies, by the proxy [P]."""
        return statistics.best_of_n(self.column(self.reference, PROXY), self.column(self.reference, name), n)

    def best_of_n_system(self, n: int) -> dict[str, Any]:
        """What `system` gives, of best-of-n; its KL is a bound and has no interval. Its texts are of the first n."""
        found: dict[str, Any] = {}
        for key in ("gold", PROXY, SECOND):
            if key != SECOND or np.isfinite(self.column(self.reference, key)).any():
                found |= _with_interval(key, statistics.mean(self.best_of(n, key), self.seed))
        texts = [draws[w].text for draws, w in zip(self.tables[self.reference], self.winners(n), strict=True)]
        return found | {
            "kl": best_of_n_kl(n),
            "length": float(self.best_of(n, "tokens").mean()),
            "distinct2": distinct_n(texts, 2),
            "truncated": float(self.best_of(n, "cut").mean()),
            "n": len(texts),
            "draws": 1,
            "best_of": n,
        }

    def curve(self) -> list[dict[str, Any]]:
        """Best-of-n for 1, 2, 4 … and all of the pool, without bias, from one pool."""
        ns = [2**power for power in range(self.pool.bit_length()) if 2**power < self.pool]
        assert self.measure is not None  # noqa: S101
        return [
            {
                "n": n,
                "kl": best_of_n_kl(n),
                **_with_interval("gold", statistics.mean(self.best_of(n, self.measure), self.seed), plain=True),
                PROXY: float(self.best_of(n, PROXY).mean()),
            }
            for n in [*ns, self.pool]
        ]

    def win_rate(self, name: str) -> dict[str, Any]:
        """Of a method against the reference; also at equal length, and of a judge how consistent it is.

        By scores, over all pairs of their replies to a prompt; by a judge, over the pairs that it was shown.
        """
        replies, others = self.tables[name], self.tables[self.reference]
        if self.measure == JUDGED:
            won, pairs = judged_share(replies, self.reference), np.arange(len(replies[0])) % len(others[0])
            longer = self.column(name, "tokens") - self.column(self.reference, "tokens")[:, pairs]
        else:
            ours, theirs = self.column(name, str(self.measure)), self.column(self.reference, str(self.measure))
            gap = (ours[:, :, None] - theirs[:, None, :]).reshape(len(ours), -1)
            won = (gap > 0) + 0.5 * (gap == 0)
            tokens = self.column(name, "tokens")[:, :, None] - self.column(self.reference, "tokens")[:, None, :]
            longer = tokens.reshape(len(ours), -1)
        known = np.isfinite(won)
        prompts = np.broadcast_to(np.arange(len(won))[:, None], won.shape)[known]
        rate = statistics.clustered(won[known], prompts.tolist(), self.seed)
        place = np.unique(prompts, return_inverse=True)[1]
        even = statistics.length_controlled(won[known], longer[known], place, self.seed)
        found = {**_with_interval("rate", rate, plain=True), "n": len(np.unique(prompts))}
        found["length_controlled"] = even._asdict()
        if self.measure == JUDGED:
            found["consistency"] = self.consistency(name)
        return found

    def consistency(self, name: str) -> dict[str, float] | None:
        """Share of a method's pairs in which the judge prefers the same reply in both orders."""
        told = [(row.prompt_id, row.judged[self.reference]) for d in self.tables[name] for row in d if row.judged]
        both = [(prompt, first, second) for prompt, (first, second) in told if None not in (first, second)]
        if not both:
            return None
        prompts, first, second = zip(*both, strict=True)
        return statistics.agreement_of_orders(np.array(first), np.array(second), prompts, self.seed)._asdict()

    def comparisons(self, systems: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Differences on the same prompts: each method less best-of-n at the nearest KL, then less the reference.

        By a judge: the win rate over one half.
        """
        if self.measure is None:
            return []
        found = []
        for name in self.methods if self.chooses else ():
            n = self.nearest_n(name)
            gap = self.difference(name, BEST_OF_N, n)
            found.append(self.comparison(name, BEST_OF_N, gap, (systems[name]["kl"], best_of_n_kl(n)), n))
        for name in self.methods:
            gap = self.difference(name, self.reference)
            found.append(self.comparison(name, self.reference, gap, (systems[name]["kl"], 0.0)))
        return found

    def difference(self, name: str, other: str, n: int = 1) -> Measured:
        """A method less the reference or best-of-n, on the same prompts."""
        if self.measure == JUDGED:
            return statistics.mean(_known_mean(judged_share(self.tables[name], other)) - 0.5, self.seed)
        measure = str(self.measure)
        theirs = self.best_of(n, measure) if other == BEST_OF_N else self.column(other, measure)
        return statistics.difference(self.column(name, measure), theirs, self.seed)

    def leaks(self) -> list[str]:
        """Sentences on rewards that are the gold in other words: a straight line of it on every reply."""
        gold = np.array([np.nan if row.gold is None else row.gold for row in self.rows])
        if len(gold) < FEW or not np.isfinite(gold).all() or np.ptp(gold) == 0:
            return []
        found = []
        for name in dict.fromkeys(name for row in self.rows for name in row.proxies):
            values = np.array([np.nan if (p := row.proxies.get(name)) is None else p for row in self.rows])
            if np.isfinite(values).all() and np.ptp(values) > 0 and np.corrcoef(gold, values)[0, 1] > 1 - 1e-6:
                found.append(
                    f"the gold and the reward ({name}) say the same of all {len(gold)} replies: methods were paid by "
                    "the gold itself, so this evaluation cannot show that the reward was gamed"
                )
                break
        return found

    def comparison(
        self, left: str, right: str, gap: Measured, kl: tuple[float, float], best_of: int | None = None
    ) -> dict[str, Any]:
        """A difference with its verdict, as plain data."""
        return {
            "left": left,
            "right": right,
            "measure": self.measure,
            "difference": gap.value,
            "low": gap.low,
            "high": gap.high,
            "verdict": gap.verdict,
            "left_kl": kl[0],
            "right_kl": kl[1],
            **({} if best_of is None else {"n": best_of}),
        }


def sentence(comparison: Mapping[str, Any], titles: Mapping[str, str]) -> str:
    """A comparison in words: `PPO minus best of 4, 1.84 against 0.64 nats: +0.01 [−0.07, +0.09]: not better`."""
    left, right = (titles.get(comparison[side], comparison[side]) for side in ("left", "right"))
    where = ""
    if comparison["right"] == BEST_OF_N:
        right = f"best of {comparison['n']}"
        ours, theirs = comparison["left_kl"], comparison["right_kl"]
        same = abs(ours - theirs) <= SAME_KL * max(ours, theirs)
        where = " at the same KL" if same else f" ({ours:.2f} against {theirs:.2f} nats)"
    gap, low, high = (comparison[key] for key in ("difference", "low", "high"))
    if gap is None or not math.isfinite(gap):
        return f"{left} and {right}{where}: no prompt has numbers of both, so they cannot be compared"
    # JSON has no infinity: null is the bound of an interval that one prompt leaves open.
    low, high = (-math.inf if low is None else low), (math.inf if high is None else high)
    if comparison["measure"] == JUDGED:
        rate, low, high = (f"{100 * min(max(0.5 + x, 0), 1):.0f}" for x in (gap, low, high))
        return f"{left} wins against {right}{where} on {rate} % [{low}, {high}]: {comparison['verdict']}"
    numbers = [f"{x:+.2f}".replace("-", "−").replace("inf", "∞") for x in (gap, low, high)]
    return f"{left} minus {right}{where}: {numbers[0]} [{numbers[1]}, {numbers[2]}]: {comparison['verdict']}"


def verdicts(results: Mapping[str, Any], titles: Mapping[str, str] = TITLES) -> list[str]:
    """What an evaluation decides, in sentences, the deciding one first; without a gold, that there was none."""
    found = [] if results["judge"] else [NO_GOLD]
    return found + [sentence(comparison, titles) for comparison in results["comparisons"]]


def _known_mean(values: np.ndarray) -> np.ndarray:
    """Mean over draws of what is known, [P]; NaN for none."""
    known = np.isfinite(values)
    return np.where(
        known.any(axis=1), np.where(known, values, 0).sum(axis=1) / np.maximum(known.sum(axis=1), 1), np.nan
    )


def _with_interval(name: str, found: Measured, *, plain: bool = False) -> dict[str, float]:
    low, high = ("low", "high") if plain else (f"{name}_low", f"{name}_high")
    return {name: found.value, low: found.low, high: found.high}
