"""The loop of the direct family: what is measured on held-out data, and a warning that both sides fall."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from thumbs.config.direct import DirectConfig
from thumbs.engine.base import Handle
from thumbs.stages.context import Context
from thumbs.stages.loop import Loop, Metrics, State
from thumbs.stages.watch import Watch

FALL = 2.0
"""Nats per reply that the mean logprob of chosen and of rejected replies may both fall before it is said.

A loss of differences may lower both (Pal et al. 2024, arXiv:2402.13228). After 2 nats a chosen reply has e⁻² = 14 % of
the probability that it began with, and what it lost went to text that nobody judged; with 50 held-out pairs whose
logprobs move 5 nats apart, 2 nats are also three standard errors.
"""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Baseline:
    """The mean reward over all pairs so far (score units), and their number."""

    mean: float = 0.0
    pairs: int = 0

    def after(self, reward: float, n: int) -> Baseline:
        """The baseline with the mean reward of n more pairs."""
        pairs = self.pairs + n
        return Baseline(self.mean + (reward - self.mean) * n / pairs, pairs)


def train_policy(
    context: Context,
    config: DirectConfig,
    policy: Handle,
    steps: int,
    step: Callable[[int, State], Metrics],
    measure: Callable[[State], Mapping[str, float]],
    shown: Mapping[str, str],
    *,
    before_save: Callable[[State], None] | None = None,
    watch: Watch | None = None,
) -> dict[str, Any]:
    """Trains with the loop of this family, and closes the policy.

    `measure` gives the held-out numbers, none without held-out data; they are logged before the first step as well. In
    the state stand a `baseline`, the held-out logprobs of `chosen` and `rejected` replies before the first step, and
    the `warning` that was given. Online, what the policy learns is not in the held-out pairs, so its last weights stay.
    Returns the held-out loss of the weights kept, their step, and warnings in words.
    """

    def begin() -> State:
        state: State = {"baseline": vars(Baseline()), "warning": ""}
        heldout = measure(state)
        if heldout:
            context.folder.metrics.log(0, named(heldout))
        return state | {side: heldout.get(f"{side}_logprob") for side in ("chosen", "rejected")}

    def held_out(number: int, state: State, metrics: Metrics) -> float | None:
        heldout = measure(state)
        metrics |= named(heldout)
        judge_fall(config.method, number, state, heldout, metrics)
        return heldout.get("loss")

    loop = Loop(
        context,
        title=config.method,
        steps=steps,
        models={"policy": policy},
        keeps={context.best: policy},
        shown=shown,
        save_every=config.eval_every,
        held_out=held_out,
        keep_last=config.keep == "last" or config.online is not None,
        before_save=before_save,
        watch=watch,
    )
    at = loop.run(step, begin)
    context.engine.close(policy)
    warnings = [at.state["warning"]] if at.state["warning"] else []
    return {"heldout_loss": at.best.loss, "best_step": at.best.step, "warnings": warnings}


def judge_fall(method: str, number: int, state: State, heldout: Mapping[str, float], metrics: Metrics) -> None:
    """Puts into `metrics` whether the logprobs of both sides fell, and warns of it once per run."""
    fell = fallen(state, heldout, metrics)
    if fell is None:
        return
    chosen, rejected = fell
    both = max(chosen, rejected) < -FALL
    metrics["preference/both_fell"] = float(both)
    if both and not state["warning"]:
        state["warning"] = (
            f"step {number}: the logprobs of chosen and of rejected replies have both fallen below where they began, "
            f"by {-chosen:.1f} and {-rejected:.1f} nats per reply: the policy moves to text that nobody judged. "
            "Lower the learning rate or the epochs, raise direct.beta, or add direct.sft_coef"
        )
        _log.warning("%s: %s", method, state["warning"])


def fallen(
    state: Mapping[str, Any], heldout: Mapping[str, float], metrics: Mapping[str, float]
) -> tuple[float, float] | None:
    """How far (chosen, rejected) logprobs are above their beginning, nats per reply: on held-out pairs, or without them
    those of the batch above the reference; None if neither is known.
    """
    if "chosen_logprob" in heldout and state["chosen"] is not None and state["rejected"] is not None:
        return heldout["chosen_logprob"] - state["chosen"], heldout["rejected_logprob"] - state["rejected"]
    if "preference/chosen_ratio" in metrics:
        return metrics["preference/chosen_ratio"], metrics["preference/rejected_ratio"]
    return None


def named(heldout: Mapping[str, float]) -> dict[str, float]:
    """Held-out numbers under the names of the log."""
    return {f"preference/heldout_{name}": value for name, value in heldout.items()}
