"""How replies are sampled."""

from __future__ import annotations

from pydantic import Field, field_validator

from thumbs.config.base import Frozen


class SamplingConfig(Frozen):
    """One way of drawing replies from a model."""

    max_new_tokens: int = Field(default=64, ge=1)
    """A reply is cut here and marked as truncated, tokens."""
    temperature: float = Field(default=1.0, ge=0)
    """Logits are divided by it; 0 takes the most likely token."""
    top_k: int = Field(default=0, ge=0)
    """Sample among the k most likely tokens only; 0: off. Refused in rollouts, whose logprobs enter a ratio."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Sample within this probability mass only; 1: off. Refused in rollouts."""
    stop: tuple[str, ...] = ()
    """Strings that end a reply, as the model's own end token does. Its text ends with the first of them, whatever else
    its last token holds. The name of a special token is that token."""

    @field_validator("stop")
    @classmethod
    def _check_stop(cls, stop: tuple[str, ...]) -> tuple[str, ...]:
        if "" in stop:
            raise ValueError("stop has an empty string, which would end every reply at once; take it out")
        return stop
