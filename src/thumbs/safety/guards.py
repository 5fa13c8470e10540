"""Alarms while PPO or a group method runs: signs that the policy games the reward model or falls apart."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

KL_LIMIT = 25.0
"""Nats per sequence beyond which a reward model trained on SFT samples says little."""

OFF_LIMIT = 0.1
"""Share of tokens on which trainer and sampler may disagree by a tenth; in bfloat16 it is a few percent."""

_WATCHED = ("length", "truncated", "repetition")

KNOBS = {
    "ppo": ("ppo.kl.coef", "ppo.missing_eos_penalty"),
    "group": ("group.kl_coef", "group.overlong_penalty"),
}
"""Settings of a stage that hold the policy near its reference and punish cut replies."""


def alarms(
    first: Mapping[str, float], now: Mapping[str, float], stage: str = "ppo", *, watched: bool = False
) -> dict[str, str]:
    """What looks wrong in this step's metrics of a stage compared with those of the first step, in words by the sign;
    empty when nothing does.

    A KL that the step did not measure is left out, and so is the first ratio of a step without an update. watched:
    whether a watch (`looks.py`) judges replies to the same prompts at every look; then only what it cannot see is
    judged here.
    """
    found = {} if watched else _signs(first, now, stage)
    ratio, off = now.get(f"{stage}/ratio_first", 1.0), now.get(f"{stage}/sampler_off", 0.0)
    if off > OFF_LIMIT and not now.get(f"{stage}/staleness"):
        found["mismatch"] = (
            f"{off:.0%} of the tokens have a ratio of trainer to sampler outside 0.9 to 1.1: compute in float32, or "
            f"lower {stage}.importance_cap, or mask them with {stage}.importance"
        )
    if abs(ratio - 1.0) > 0.01:
        found["ratio"] = f"the first ratio is {ratio:.4f}, not 1: old and new logprobs differ by more than rounding"
    return found


def _signs(first: Mapping[str, float], now: Mapping[str, float], stage: str) -> dict[str, str]:
    (kl_knob, length_knob), found = KNOBS[stage], {}
    kl = now.get(f"{stage}/kl", 0.0)
    length, truncated, repetition = (now[f"{stage}/{name}"] for name in _WATCHED)
    first_length, first_truncated, first_repetition = (first[f"{stage}/{name}"] for name in _WATCHED)
    if kl > KL_LIMIT:
        found["kl"] = f"KL {kl:.1f} nats per sequence (limit {KL_LIMIT:.0f}): raise {kl_knob}"
    if kl < -1.0:
        found["negative"] = f"KL {kl:.1f} nats per sequence is negative: sampling and training distributions differ"
    if length > 1.5 * first_length or length < 0.5 * first_length:
        found["length"] = f"replies have {length:.0f} tokens, {first_length:.0f} at first: length is being gamed"
    if repetition > first_repetition + 0.15:
        found["repetition"] = f"{repetition:.0%} of the 3-grams repeat, {first_repetition:.0%} at first"
    if truncated > first_truncated + 0.3:
        found["ended"] = f"{truncated:.0%} of the replies hit the length limit: set {length_knob}"
    return found


def repetition(text: str, n: int = 3) -> float:
    """Share of the word n-grams of `text` that occurred before in it, fraction; 0 for fewer than n words."""
    return repeated(text.lower().split(), n)


def repeated(items: Sequence[Hashable], n: int = 3) -> float:
    """Share of the n-grams of the items (words, tokens) that occurred before, fraction; 0 for fewer than n items."""
    grams = [tuple(items[i : i + n]) for i in range(len(items) - n + 1)]
    return 1.0 - len(set(grams)) / len(grams) if grams else 0.0
