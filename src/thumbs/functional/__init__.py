"""Losses, advantages and KL estimates: tensors in, tensors out, each with its paper."""

__all__ = [
    "advantages", "bootstrap", "calibration", "constraint", "formulas", "kl", "logprobs", "masked", "normalise",
    "policy_losses", "preference_losses", "reverse_kl", "reward_losses", "value_losses",
]  # fmt: skip
