"""Losses by name: a spec says which formula of a family is meant, and with which settings.

An algorithm is data preparation plus one of these. The formulas are functions in `functional/`, and each family lists
its own by name there (FORMULAS). What a formula reads and which settings it has is its signature, of which
`functional/formulas.py` makes the one description that all others read; `engine/losses.py` gives each family what its
formulas read. The engine sums over targets; `weights` (and `unit_weight`) carry the normaliser.
"""

from __future__ import annotations

from typing import Any, Self

from pydantic import Field

from thumbs.config.base import Frozen

REFERENCE_STATES = "reference_states"
"""Column of the final hidden states [T, D] of a reference model."""

HEAD_WEIGHTS = "head_weights"
"""Sequence column of one weight for each number of a scalar head that gives several, [H]; absent: 1 each."""

Setting = float | str | tuple[float, ...] | None


class NamedLoss(Frozen):
    """A formula and its settings; those that are left out have the formula's defaults."""

    formula: str
    """Its name."""
    settings: dict[str, Setting] = Field(default_factory=dict)
    """Its keywords. The engine refuses those that the formula does not know."""

    @classmethod
    def of(cls, formula: str, **given: Any) -> Self:
        """The loss of this name. What is given and no field of the family is a setting of the formula."""
        return cls(formula=formula).having(**given)

    def having(self, **given: Any) -> Self:
        """The same loss with other settings or fields."""
        fields = {name: given.pop(name) for name in list(given) if name in type(self).model_fields}
        return type(self)(**{**dict(self), **fields, "settings": {**self.settings, **given}})


class TokenLoss(NamedLoss):
    """Sums over targets of what a pass says of each: cross entropy, policy losses, KL terms, the loss of values."""

    temperature: float = Field(default=1.0, gt=0)
    """Temperature at which logprobs and divergences are taken; that of the rollouts."""
    coef: float = Field(default=1.0, ge=0)
    """Weight of this loss next to the others of a pass."""


class PairLoss(NamedLoss):
    """Losses of pairs of replies through the policy's logprobs (DPO and its family).

    `weights` are 1 on the tokens of the reply, and nowhere else. `preferred` = P(the first of the unit is better), 0.5
    for a tie; `reference`: its logprob of the whole reply (nats), 0 for formulas without one; `baseline` (score units)
    is what rewards count from, for formulas that have that.
    """

    sft_coef: float = Field(default=0.0, ge=0)
    """Weight of the better reply's mean negative logprob per token (nats)."""


class ReplyLoss(NamedLoss):
    """Losses of single replies that are desirable or not (KTO).

    Columns are those of pairs, with `desirable`, 1 or 0, in place of `unit` and `preferred`.
    """


class ScoreLoss(NamedLoss):
    """Losses of reward models: of pairs of scores, of ranked lists of them, or of values that are fitted to labels.

    The sequences of a pair or list share `unit`. Of a pair `preferred` = P(first is better), 0.5 for a tie, and
    `margin` is asked of whichever is preferred; of a list `rank` 1 is best, equal ranks are ties, and infinity is worse
    than all ranked ones, in an order that nobody gave; `labels` are met wherever `weights` are not 0.
    """

    center_coef: float = Field(default=0.0, ge=0)
    """Pairs: weight of (score_a + score_b)², which keeps scores near zero (arXiv:2312.09244)."""
    by_token: bool = False
    """Pairs: the mean over the places of the longer reply from where `weights` begin, which is where the two part; the
    shorter one keeps the value of its end. Otherwise the scores at the end alone."""


LossSpec = TokenLoss | PairLoss | ReplyLoss | ScoreLoss

CROSS_ENTROPY = TokenLoss.of("cross_entropy")
"""Supervised fine-tuning, and the pretraining mix of PPO."""
