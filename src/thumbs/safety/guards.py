"""Alarms while PPO runs: signs that the policy games the reward model or falls apart."""

from __future__ import annotations

from collections.abc import Mapping

KL_LIMIT = 25.0
"""Nats a sequence beyond which a reward model trained on SFT samples says little."""


def alarms(first: Mapping[str, float], now: Mapping[str, float]) -> list[str]:
    """What looks wrong in this step's metrics beside those of the first step; empty when nothing does."""
    found = []
    if now["ppo/kl"] > KL_LIMIT:
        found.append(f"KL {now['ppo/kl']:.1f} nats a sequence (limit {KL_LIMIT:.0f}): raise ppo.kl.coef")
    if now["ppo/kl"] < -1.0:
        found.append(f"KL {now['ppo/kl']:.1f} nats a sequence is negative: sampling and training distributions differ")
    if now["ppo/length"] > 1.5 * first["ppo/length"] or now["ppo/length"] < 0.5 * first["ppo/length"]:
        found.append(
            f"replies have {now['ppo/length']:.0f} tokens, {first['ppo/length']:.0f} at first: length is being gamed"
        )
    if now["ppo/repetition"] > first["ppo/repetition"] + 0.15:
        found.append(f"{now['ppo/repetition']:.0%} of the 3-grams repeat, {first['ppo/repetition']:.0%} at first")
    if now["ppo/truncated"] > first["ppo/truncated"] + 0.3:
        found.append(f"{now['ppo/truncated']:.0%} of the replies hit the length limit: set ppo.missing_eos_penalty")
    if abs(now["ppo/ratio_first"] - 1.0) > 0.01:
        found.append(
            f"the first ratio is {now['ppo/ratio_first']:.4f}, not 1: old and new logprobs differ by more than rounding"
        )
    return found
