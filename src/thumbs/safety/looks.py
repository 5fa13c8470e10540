"""What a look at a policy measures, and what of it is an alarm.

The same prompts are answered at every look with the same random numbers. An alarm is a sign that was there at two looks
in a row, and is raised once, until the sign has gone and come again. A sign for one look is often a step of the
optimizer that the next one takes back.

| sign | when | what it may mean |
|---|---|---|
| value | all that was won in `second opinion - price · nats` is lost, by three standard errors | the reward is gamed |
| value, by gold | half of what gold had won is lost, by three standard errors | the reward is gamed |
| kl | more than KL_PER_TOKEN nats per token | the reward model judges texts unlike those it has seen |
| negative | less than -1 nat per sequence | samples are not draws from the policy, so KL means nothing |
| length | half as long again as at the first look, or half as long | length is being gamed |
| repetition | the share of repeated 3-grams of tokens is higher by 0.15 | the policy falls apart |
| ended | the share of replies that end by themselves is lower by 0.3 | replies hit the length limit |
| entropy | a quarter of that at the first look, or four times as much | variety is lost, or sense |
| mismatch | over a tenth of the tokens have a ratio of trainer to sampler outside 0.9 to 1.1 | other numbers |

The first one is about what replies are worth, and only it ends a stage. The others say that the policy has changed: in
the lab replies become shorter while gold rises (docs/guides/watching.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from thumbs.safety.guards import OFF_LIMIT, repeated
from thumbs.safety.second_opinion import is_over_optimised

KL_PER_TOKEN = 0.5
"""Nats a token at which a token drawn is e^0.5 = 1.6 times as probable as under the reference, on average."""

VALUE = "value"
"""The sign that ends a stage."""

_ROW = 2
"""Looks in a row that make an alarm."""


@dataclass(frozen=True, eq=False)
class Look:
    """What was measured on the replies to the watch set; arrays have one number a reply.

    proxy: what the policy is paid by. second: the second opinion, None with gold alone. log_ratios:
    log π(y) / π_reference(y), nats. logprobs: log π(y), nats. tokens: those drawn. ended: whether a reply ended by
    itself. off: the share of tokens with a ratio of trainer to sampler outside 0.9 to 1.1, None if it was not measured.
    gold: None if there is none.
    """

    proxy: np.ndarray
    second: np.ndarray | None
    log_ratios: np.ndarray
    logprobs: np.ndarray
    tokens: Sequence[Sequence[int]]
    ended: np.ndarray
    off: float | None = None
    gold: np.ndarray | None = None

    def numbers(self) -> dict[str, float]:
        """The means for the log, all but those that need earlier looks."""
        count = max(sum(map(len, self.tokens)), 1)
        found = {
            "watch/proxy": float(self.proxy.mean()),
            "watch/kl": float(self.log_ratios.mean()),
            "watch/kl_per_token": float(self.log_ratios.sum() / count),
            "watch/length": count / len(self.tokens),
            "watch/repetition": float(np.mean([repeated(reply) for reply in self.tokens])),
            "watch/entropy": -float(self.logprobs.sum()) / count,
            "watch/ended": float(np.mean(self.ended)),
        }
        found |= {} if self.second is None else {"watch/second_proxy": float(self.second.mean())}
        found |= {} if self.off is None else {"watch/sampler_off": self.off}
        return found | ({} if self.gold is None else {"watch/gold": float(self.gold.mean())})


@dataclass(frozen=True)
class Judged:
    """The numbers of a look, its alarms in words by their signs, and whether no policy before had a higher value."""

    numbers: dict[str, float]
    alarms: dict[str, str]
    is_best: bool


def judge(look: Look, step: int, seen: dict[str, Any], kl_price: float, *, by_gold: bool = False) -> Judged:
    """Compares a look after so many steps with those before, of which `seen` keeps what is needed, as plain data.

    kl_price: what a nat has to earn in the second opinion. by_gold: a policy is worth what gold says, and distance
    costs nothing.
    """
    numbers = look.numbers()
    values = look.gold if by_gold or look.second is None else look.second - kl_price * look.log_ratios
    assert values is not None  # noqa: S101 (whoever looks has a second opinion or gold)
    numbers["watch/value"] = float(values.mean())
    first = seen.setdefault("first", dict(numbers))
    start = np.array(seen.setdefault("start", values.tolist()))
    if look.second is not None:
        gained = {name: numbers[name] - first[name] for name in ("watch/proxy", "watch/second_proxy")}
        numbers["watch/gap"] = gained["watch/proxy"] - gained["watch/second_proxy"]
    is_best = "best" not in seen or numbers["watch/value"] > np.mean(seen["best"])
    if is_best:
        seen |= {"best": values.tolist(), "best_step": step}
    numbers["watch/best_step"] = float(seen["best_step"])
    said, best = signs(first, numbers), np.array(seen["best"])
    if is_over_optimised(start, best, values, left=0.5 if by_gold else 0.0):
        what = "gold" if by_gold else "the second opinion, less the price of KL,"
        said[VALUE] = (
            f"{what} has fallen from {best.mean():.2f} at step {seen['best_step']} to {values.mean():.2f}, from "
            f"{start.mean():.2f} at first: the reward is being gamed"
        )
    before = seen.get("signs", {})
    seen["signs"] = {sign: before.get(sign, 0) + 1 for sign in said}
    return Judged(numbers, {sign: text for sign, text in said.items() if seen["signs"][sign] == _ROW}, is_best)


def signs(first: Mapping[str, float], now: Mapping[str, float]) -> dict[str, str]:
    """How a look differs from the first one, in words by the sign."""
    was, new = ({name.removeprefix("watch/"): value for name, value in look.items()} for look in (first, now))
    found, off = {}, new.get("sampler_off", 0.0)
    if new["kl_per_token"] > KL_PER_TOKEN:
        found["kl"] = f"KL {new['kl_per_token']:.2f} nats per token (limit {KL_PER_TOKEN}): raise the price of KL"
    if new["kl"] < -1.0:
        found["negative"] = f"KL {new['kl']:.1f} nats per sequence is negative: sampler and reference differ"
    if not 0.5 * was["length"] <= new["length"] <= 1.5 * was["length"]:
        found["length"] = f"replies have {new['length']:.0f} tokens, {was['length']:.0f} at first"
    if new["repetition"] > was["repetition"] + 0.15:
        found["repetition"] = f"{new['repetition']:.0%} of the 3-grams repeat, {was['repetition']:.0%} at first"
    if new["ended"] < was["ended"] - 0.3:
        found["ended"] = f"{new['ended']:.0%} of the replies end by themselves, {was['ended']:.0%} at first"
    if not was["entropy"] / 4 <= new["entropy"] <= 4 * was["entropy"]:
        found["entropy"] = f"entropy {new['entropy']:.2f} nats per token, {was['entropy']:.2f} at first"
    if off > OFF_LIMIT:
        found["mismatch"] = f"{off:.0%} of the tokens have a ratio of trainer to sampler outside 0.9 to 1.1"
    return found
