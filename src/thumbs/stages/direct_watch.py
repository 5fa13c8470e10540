"""What is kept of a run of the preference family, and what is said about it: the best weights, and a warning."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from thumbs.config.direct import DirectConfig
from thumbs.engine.base import Handle
from thumbs.stages.context import Context

FALL = 2.0
"""Nats a reply that the mean logprob of chosen and of rejected replies may both fall before it is said.

A loss of differences may lower both (Pal et al. 2024, arXiv:2402.13228). After 2 nats a chosen reply has e⁻² = 14 % of
the probability that it began with, and what it lost went to text that nobody judged; with 50 held-out pairs whose
logprobs move 5 nats apart, 2 nats are also three standard errors.
"""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class State:
    """What a checkpoint keeps beside the weights.

    heldout_loss, best_step: of the weights kept (None before any); chosen, rejected: held-out logprobs before the first
    step (nats a reply; None without held-out pairs); baseline: mean reward over `seen` pairs (score units);
    warning: what was said, or empty.
    """

    heldout_loss: float | None = None
    best_step: int = 0
    chosen: float | None = None
    rejected: float | None = None
    baseline: float = 0.0
    seen: int = 0
    warning: str = ""

    def counting(self, reward: float, n: int) -> State:
        """The baseline with the mean reward of n more pairs."""
        seen = self.seen + n
        return replace(self, seen=seen, baseline=self.baseline + (reward - self.baseline) * n / seen)


@dataclass(frozen=True)
class Watch:
    """Looks at a run now and then."""

    context: Context
    config: DirectConfig
    policy: Handle

    def begin(self, heldout: Mapping[str, float]) -> State:
        """The state before the first step; logs the held-out numbers as those of step 0."""
        if heldout:
            self.context.folder.metrics.log(0, named(heldout))
        return State(chosen=heldout.get("chosen_logprob"), rejected=heldout.get("rejected_logprob"))

    def look(self, step: int, state: State, heldout: Mapping[str, float], metrics: dict[str, float]) -> State:
        """Puts the held-out numbers and whether both logprobs fell into `metrics`; keeps the best weights."""
        metrics |= named(heldout)
        state = self._judge_fall(step, state, heldout, metrics)
        loss = heldout.get("loss")
        if self.config.keep == "last" or loss is None or state.heldout_loss is None or loss < state.heldout_loss:
            self.context.engine.save(self.policy, self.context.best)
            state = replace(state, heldout_loss=loss, best_step=step)
        return state

    def results(self, state: State) -> dict[str, Any]:
        """For done.json."""
        warnings = [state.warning] if state.warning else []
        return {"heldout_loss": state.heldout_loss, "best_step": state.best_step, "warnings": warnings}

    def _judge_fall(self, step: int, state: State, heldout: Mapping[str, float], metrics: dict[str, float]) -> State:
        fell = fallen(state, heldout, metrics)
        if fell is None:
            return state
        chosen, rejected = fell
        both = max(chosen, rejected) < -FALL
        metrics["preference/both_fell"] = float(both)
        if not both or state.warning:
            return state
        warning = (
            f"step {step}: the logprobs of chosen and of rejected replies have both fallen below where they began, by "
            f"{-chosen:.1f} and {-rejected:.1f} nats a reply: the policy moves to text that nobody judged. "
            "Lower the learning rate or the epochs, raise direct.beta, or add direct.sft_coef"
        )
        _log.warning("%s: %s", self.config.method, warning)
        return replace(state, warning=warning)


def fallen(state: State, heldout: Mapping[str, float], metrics: Mapping[str, float]) -> tuple[float, float] | None:
    """How far (chosen, rejected) logprobs are above their beginning, nats a reply: on held-out pairs, or without them
    those of the batch above the reference; None where neither is known.
    """
    if "chosen_logprob" in heldout and state.chosen is not None and state.rejected is not None:
        return heldout["chosen_logprob"] - state.chosen, heldout["rejected_logprob"] - state.rejected
    if "preference/chosen_ratio" in metrics:
        return metrics["preference/chosen_ratio"], metrics["preference/rejected_ratio"]
    return None


def named(heldout: Mapping[str, float]) -> dict[str, float]:
    """Held-out numbers under the names of the log."""
    return {f"preference/heldout_{name}": value for name, value in heldout.items()}
